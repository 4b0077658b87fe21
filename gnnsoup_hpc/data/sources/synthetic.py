"""`synthetic:PRESET`: a seeded degree-corrected stochastic block model of a real set's size (arXiv 1008.3926).

Classes are made of communities; an edge stays in its community, or in its class, or goes anywhere. Each node gets as
many half-edges as its heavy-tailed propensity says, and half-edges of one level are paired at random. So classes show
in the edges (homophily) and there is locality, which METIS finds, as in the real sets. Some labels are noise. Node ids
are shuffled. In memory are a few numbers a node and both ends of each edge (8 bytes); features are written to a file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext, SourceSplit, cut_split
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.types import FloatArray, IntArray, Role
from gnnsoup_hpc.utils.hashing import fingerprint
from gnnsoup_hpc.utils.out_of_core import FileRows, Rows
from gnnsoup_hpc.utils.rng import numpy_generator

VERSION = 1  # of the generator: another one makes another graph of the same name
_BLOCK = 1 << 16  # nodes whose features are drawn together; part of what the version means
_LAYOUT, _EDGES, _GLOBAL, _FEATURES, _MEANS = range(5)  # purposes of random streams

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Preset:
    """Sizes of a real set, and how its like is drawn. `edges` are undirected."""

    nodes: int
    edges: int
    features: int
    classes: int
    train: int
    validation: int
    homophily: float  # share of edges between nodes of equal labels
    community: int = 2000  # mean nodes of a community
    local: float = 0.75  # share of the edges within a class that stay in the community
    spread: float = 1.0  # of log propensities
    label_noise: float = 0.1
    signal: float = 0.15  # class means of features, in units of the noise
    surplus: float = 1.02  # half-edges drawn, for some pairs are loops or duplicates


# Sizes and splits are those of OGB's documentation (arXiv 2005.00687). Homophily: of ogbn-arxiv, measured on its labels
# and edges; of ogbn-products, assumed.
PRESETS = {
    "arxiv": Preset(169_343, 1_166_243, 128, 40, 90_941, 29_799, 0.655, label_noise=0.15),
    "products": Preset(2_449_029, 61_859_140, 100, 47, 196_615, 39_323, 0.81, label_noise=0.07, surplus=1.05),
}


@dataclass(frozen=True)
class _BlockLayout:
    """Nodes in the order of classes and communities. Shapes: block, community, degree (V,), starts (C + 1,)."""

    block: Int32Array
    community: Int32Array
    degree: Int32Array
    starts: IntArray
    new_id: Int32Array


def read(name: str, job: GraphJob, context: SourceContext) -> RawGraph:
    """The graph that a preset, the seed and the scale give, the same on every machine.

    Raises: GraphError for an unknown preset.
    """
    if name not in PRESETS:
        raise GraphError(f"graph.source = 'synthetic:{name}': no such preset; there are: {', '.join(PRESETS)}")
    preset, seed, scale = PRESETS[name], job.synthetic.seed, job.synthetic.scale
    preset = replace(preset, homophily=job.synthetic.homophily or preset.homophily)
    nodes = max(preset.classes * 4, round(preset.nodes * scale))
    edges = round(preset.edges * nodes / preset.nodes)
    context.say(f"prepare: generating {nodes} nodes and about {edges} edges like {name}, seed {seed}")
    layout = _lay_out(preset, nodes, edges, seed)
    y = _draw_labels(preset, layout, seed)
    source, destination = _draw_edges(preset, layout, edges, seed)
    x = _draw_features(preset, layout, seed, context)
    same = float((y[source] == y[destination]).mean())
    context.say(f"prepare: {len(source)} edges, {same:.3f} of them between nodes of equal labels")
    return RawGraph(
        where=f"synthetic:{name}",
        sha256=fingerprint([VERSION, asdict(preset), seed, scale]),
        x=x,
        y=y.astype(np.int64),
        source=source,
        destination=destination,
        classes=preset.classes,
        splits={"public": SourceSplit(_draw_split(preset, nodes, seed))},
    )


def _lay_out(preset: Preset, nodes: int, edges: int, seed: int) -> _BlockLayout:
    generator = numpy_generator(seed, _LAYOUT)
    weight = 1.0 / (np.arange(preset.classes) + 2.0)  # a few large classes and many small ones
    starts = np.round(np.concatenate([[0.0], np.cumsum(weight)]) / weight.sum() * nodes).astype(np.int64)
    sizes = np.diff(starts)
    block = np.repeat(np.arange(preset.classes, dtype=np.int32), sizes)
    many = np.maximum(1, np.round(sizes / preset.community)).astype(np.int64)
    within = np.arange(nodes) - np.repeat(starts[:-1], sizes)
    first = np.concatenate([[0], np.cumsum(many)[:-1]])
    community = np.repeat(first, sizes) + within * np.repeat(many, sizes) // np.repeat(sizes, sizes)
    propensity = np.exp(preset.spread * np.clip(generator.standard_normal(nodes), -3.5, 3.5))
    expected = propensity * (2.0 * edges * preset.surplus / propensity.sum())
    degree = np.floor(expected + generator.random(nodes)).astype(np.int32)
    return _BlockLayout(
        block=block,
        community=community.astype(np.int32),
        degree=np.maximum(1, degree),
        starts=starts,
        new_id=generator.permutation(nodes).astype(np.int32),
    )


def _draw_labels(preset: Preset, layout: _BlockLayout, seed: int) -> Int32Array:
    """Each node's class, or with the noise's probability another node's; by new ids."""
    generator = numpy_generator(seed, _LAYOUT, 1)
    nodes = len(layout.block)
    noisy = generator.random(nodes) < preset.label_noise
    y = np.empty(nodes, dtype=np.int32)
    y[layout.new_id] = np.where(noisy, layout.block[generator.integers(0, nodes, nodes)], layout.block)
    return y


def compute_within_share(preset: Preset, share_of_class: npt.NDArray[np.float64]) -> float:
    """How many edges must stay in their class, so that the labels have the preset's homophily.

    share_of_class (C,): shares of half-edges. Equal labels by chance have probability sum of squares; an edge within
    a class has equal labels if both are no noise, or by chance.
    """
    chance = float((share_of_class**2).sum())
    both = (1.0 - preset.label_noise) ** 2
    inside = both + (1.0 - both) * chance
    return min(1.0, max(0.0, (preset.homophily - chance) / (inside - chance)))


def _draw_edges(preset: Preset, layout: _BlockLayout, edges: int, seed: int) -> tuple[Int32Array, Int32Array]:
    """(sources, destinations) by new ids, each undirected edge once."""
    halves = np.add.reduceat(layout.degree.astype(np.int64), layout.starts[:-1])
    inside = compute_within_share(preset, halves / halves.sum())
    ends = np.empty((2, edges + edges // 10), dtype=np.int32)
    count, pool = 0, []
    for number in range(preset.classes):
        mine = slice(int(layout.starts[number]), int(layout.starts[number + 1]))
        generator = numpy_generator(seed, _EDGES, number)
        stubs = np.repeat(np.arange(mine.start, mine.stop, dtype=np.int32), layout.degree[mine])
        level = generator.random(len(stubs), dtype=np.float32)
        pool.append(stubs[level >= inside])
        local = stubs[level < inside * preset.local]
        wide = stubs[(level >= inside * preset.local) & (level < inside)]
        paired = [_pair(local, layout.community, generator), _pair(wide, None, generator)]
        count = _add(ends, count, np.concatenate(paired, axis=1), layout)
    everywhere = np.concatenate(pool)
    pool.clear()
    count = _add(ends, count, _pair(everywhere, None, numpy_generator(seed, _GLOBAL)), layout)
    return ends[0, :count], ends[1, :count]


def _pair(stubs: Int32Array, community: Int32Array | None, generator: np.random.Generator) -> Int32Array:
    """Half-edges paired at random, within communities where given, (2, n)."""
    key = generator.integers(0, 2**31, len(stubs), dtype=np.int64)
    if community is not None:
        key |= community[stubs].astype(np.int64) << 31
    shuffled = stubs[np.argsort(key, kind="stable")]
    return shuffled[: len(shuffled) // 2 * 2].reshape(-1, 2).T


def _add(ends: Int32Array, count: int, pairs: Int32Array, layout: _BlockLayout) -> int:
    """Put pairs without loops and duplicates at the end of `ends`, by new ids; how many are there then."""
    low, high = pairs.min(0).astype(np.int64), pairs.max(0).astype(np.int64)
    key = (low << 32 | high)[low != high]
    key.sort()
    key = key[np.diff(key, prepend=-1) != 0][: ends.shape[1] - count]
    stop = count + len(key)
    ends[0, count:stop] = layout.new_id[key >> 32]
    ends[1, count:stop] = layout.new_id[key & 0xFFFFFFFF]
    return stop


def _draw_features(preset: Preset, layout: _BlockLayout, seed: int, context: SourceContext) -> Rows:
    """Class mean, community's own shift, and noise; drawn and written block by block."""
    means = numpy_generator(seed, _MEANS).standard_normal((preset.classes, preset.features), dtype=np.float32)
    shifts = int(layout.community[-1]) + 1
    shift = numpy_generator(seed, _MEANS, 1).standard_normal((shifts, preset.features), dtype=np.float32)
    old_id = np.empty_like(layout.new_id)
    old_id[layout.new_id] = np.arange(len(old_id), dtype=np.int32)
    rows = FileRows.create(context.scratch / "features", (len(old_id), preset.features))
    for number, start in enumerate(range(0, len(old_id), _BLOCK)):
        old = old_id[start : start + _BLOCK]
        x: FloatArray = numpy_generator(seed, _FEATURES, number).standard_normal(
            (len(old), preset.features), dtype=np.float32
        )
        x += np.float32(preset.signal) * (means[layout.block[old]] + shift[layout.community[old]])
        rows[start : start + len(x)] = x
    return rows


def _draw_split(preset: Preset, nodes: int, seed: int) -> dict[Role, list[IntArray]]:
    """Random nodes, in the preset's shares."""
    order = numpy_generator(seed, _LAYOUT, 2).permutation(nodes)
    train = max(1, round(preset.train / preset.nodes * nodes))
    validation = max(1, round(preset.validation / preset.nodes * nodes))
    return cut_split(order, train, validation)
