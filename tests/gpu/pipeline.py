"""PubMed through the commands: models, kinds of batches, methods; soups of a GPU and a CPU of the same ingredients."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py

from tests.gpu.tools import attempt, gnnsoup, record

JOB = ["train.ingredients=3", "train.epochs=15", "soup.ls.epochs=20", "soup.pls.epochs=20", "soup.gis.granularity=5"]
SETS = [word for each in [*JOB, "machine.threads=2"] for word in ("--set", each)]


def accuracies(folder: Path) -> dict[str, float]:
    """Of each soup, on validation nodes."""
    found = {}
    for path in sorted((folder / "soups").glob("*.h5")):
        with h5py.File(path) as file:
            found[path.stem] = float(file["metrics/validation_accuracy"][()])
    return found


def check(kind: str, batch: str) -> None:
    """Train and soup on the GPU, then soup the same ingredients on the CPU."""
    name = f"{kind}-{batch}"
    words = [*SETS, "--set", f"name={name}", "--set", f"model.kind={kind}", "--set", f"train.batch={batch}"]
    words += ["--set", "model.heads=4"] if kind == "gat" else []
    said = gnnsoup("run", *words, "--set", "machine.device=cuda")
    record(f"{name}: says its device", "device cuda:0" in said, "", "device cuda:0" in said)
    here, there = Path("runs") / name, Path("cpu") / name
    there.parent.mkdir(exist_ok=True)
    shutil.copytree(here, there)
    gnnsoup("soup", *words, "--set", "runs=cpu", "--set", "machine.device=cpu", "--again")
    ours, theirs = accuracies(here), accuracies(there)
    for method, accuracy in ours.items():
        apart = abs(accuracy - theirs[method])
        limit = 0.002 if method in ("uniform", "ensemble") else 0.01
        record(
            f"{name}: {method}, GPU less CPU",
            accuracy - theirs[method],
            "",
            apart <= limit,
            f"{accuracy:.4f} on the GPU",
        )
    with h5py.File(here / "ingredients" / "0000.h5") as file:
        reached = file["history/validation_accuracy"][()].max()
    record(f"{name}: an ingredient's validation accuracy", float(reached), "", float(reached) > 0.6)


def check_bfloat16() -> None:
    """LS, PLS and the rest with states of bfloat16, beside float32, from the same ingredients."""
    for kind in ("sage", "gat"):
        words = [*SETS, "--set", f"name={kind}-full", "--set", f"model.kind={kind}"]
        words += ["--set", "model.heads=4"] if kind == "gat" else []
        wide = accuracies(Path("runs") / f"{kind}-full")
        shutil.copytree(Path("runs") / f"{kind}-full", Path("half") / f"{kind}-full")
        gnnsoup("soup", *words, "--again", "--set", "runs=half", "--set", "soup.precision=bfloat16")
        for method, accuracy in accuracies(Path("half") / f"{kind}-full").items():
            apart = accuracy - wide[method]
            record(f"{kind}: {method}, bfloat16 less float32", apart, "", abs(apart) <= 0.01)


def main() -> None:
    """All combinations at once."""
    with ThreadPoolExecutor(5) as pool:
        for kind in ("sage", "gcn", "gat"):
            for batch in ("full", "cluster", "neighbour"):
                pool.submit(attempt, f"{kind}, {batch} batches", lambda kind=kind, batch=batch: check(kind, batch))
    attempt("bfloat16", check_bfloat16)


if __name__ == "__main__":
    main()
