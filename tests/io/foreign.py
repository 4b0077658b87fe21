"""Another program's writer: it knows docs/format.md and no line of this package."""

import hashlib
import json

import h5py
import numpy as np

SEAL = b"gnnsoup_hpc sha256 of the bytes from 512 on: "
OPTIONAL = ("created", "about", "creator", "creator_version", "recipe", "content_sha256", "index", "sha256", "stopped")


def state_sha256(state):
    """The hash of a state: names in order, type, shape as Python writes it, bytes as little-endian float32."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name], "<f4")
        digest.update(f"{name}\0<f4\0{array.shape}\0".encode() + array.tobytes())
    return digest.hexdigest()


def recipe(origin):
    """The hash of an origin: JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(origin, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(path, tail=b""):
    """Put the hash of what follows the user block into it."""
    data = path.read_bytes()
    digest = hashlib.sha256(data[512:]).hexdigest().encode()
    path.write_bytes((SEAL + digest + tail).ljust(512, b"\0") + data[512:])


def write(path, kind, state, fill, dtype="<f4", tail=b"", dataset=None, text=str, one=int, **how):
    """A file with a state; `fill` writes what its kind has besides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512, **how) as file:
        file.attrs["format"], file.attrs["format_version"] = text(f"gnnsoup_hpc/{kind}"), one(1)
        for name, array in state.items():
            file.create_dataset(f"state/{name}", data=np.asarray(array, dtype), **(dataset or {}))
        fill(file)
        file.attrs["complete"] = one(1)
    seal(path, tail)


def write_initial(path, state, architecture, seed, **how):
    """initial.h5."""

    def fill(file):
        file.attrs["seed"] = how.get("one", int)(seed)
        file.attrs["architecture"] = how.get("text", str)(json.dumps(architecture))

    write(path, "initial-state", state, fill, **how)


def write_ingredient(path, state, origin, accuracies, also=lambda file: None, **how):
    """ingredients/NNNN.h5 with what MUST be there."""

    def fill(file):
        file.create_group("provenance").attrs["origin"] = how.get("text", str)(json.dumps(origin))
        file["metrics/validation_accuracy"], file["metrics/test_accuracy"] = accuracies
        also(file)

    write(path, "ingredient", state, fill, **how)


def shapes(features, hidden, classes):
    """Parameters of a GraphSAGE of two layers, as PyG names them."""
    return {
        "convs.0.lin_l.weight": (hidden, features),
        "convs.0.lin_l.bias": (hidden,),
        "convs.0.lin_r.weight": (hidden, features),
        "convs.1.lin_l.weight": (classes, hidden),
        "convs.1.lin_l.bias": (classes,),
        "convs.1.lin_r.weight": (classes, hidden),
    }


def accuracies(graph, state):
    """Accuracies on validation and test nodes of a graph.h5 that is open."""
    x, y, split = (graph[f"nodes/{name}"][:] for name in ("x", "y", "split"))
    indptr, indices = graph["edges/indptr"][:], graph["edges/indices"][:]
    mean = np.zeros((len(y), len(y)), np.float32)
    mean[np.repeat(np.arange(len(y)), np.diff(indptr)), indices] = 1.0
    mean /= np.maximum(mean.sum(1, keepdims=True), 1.0)
    for layer in range(2):
        left, bias, right = (state[f"convs.{layer}.{name}"] for name in ("lin_l.weight", "lin_l.bias", "lin_r.weight"))
        x = mean @ x @ left.T + bias + x @ right.T
        x = np.maximum(x, 0.0) if layer == 0 else x
    right = x.argmax(1) == y
    return float(right[split == 2].mean()), float(right[split == 3].mean())


def write_run(run, count, write_initial=write_initial, write_ingredient=write_ingredient, **how):
    """initial.h5 and `count` ingredients beside a graph.h5, for tests/tiny.py's job."""
    rng = np.random.default_rng(0)
    with h5py.File(run / "graph.h5") as graph:
        features, classes = graph["nodes/x"].shape[1], int(graph.attrs["classes"])
        architecture = {
            "kind": "sage",
            "layers": 2,
            "features": features,
            "hidden": 16,
            "classes": classes,
            "heads": 1,
            "norm": "none",
        }
        start = {
            name: (0.3 * rng.normal(size=shape)).astype("f4") for name, shape in shapes(features, 16, classes).items()
        }
        write_initial(run / "initial.h5", start, architecture, 0, **how)
        for index in range(count):
            state = {name: (array + 0.01 * rng.normal(size=array.shape)).astype("f4") for name, array in start.items()}
            if "dtype" in how:
                state = {name: array.astype(how["dtype"]).astype("f4") for name, array in state.items()}
            origin = {
                "graph_sha256": str(graph.attrs["graph_sha256"]),
                "initial_sha256": state_sha256({n: a.astype(how.get("dtype", "f4")) for n, a in start.items()}),
                **{f"model.{key}": value for key, value in architecture.items()},
                "train.batch": "full",
                "train.seed": 0,
                "index": index,
                "train.epochs": 12,
                "train.learning_rate": 0.02,
                "train.weight_decay": 0,
                "train.dropout": 0.5,
            }
            path = run / "ingredients" / f"{index:04d}.h5"
            write_ingredient(path, state, origin, accuracies(graph, state), **how)
