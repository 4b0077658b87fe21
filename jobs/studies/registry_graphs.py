"""Two real graphs made of what Debian's archive holds, which no rule was shaped on (docs/when_soups_pay.md).

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    python jobs/studies/registry_graphs.py wordnet wordnet/usr/share/wordnet wordnet.npz
    apt-cache dumpavail > available.txt
    python jobs/studies/registry_graphs.py debian available.txt debian.npz

wordnet: WordNet 3.0 (Fellbaum, 1998), synsets of nouns and verbs. An edge: any relation between two; a class: the
lexicographer's file (noun.animal, verb.motion, 41 of them); features: which of the words that are frequent in glosses
its gloss has.
debian: packages; an edge: a dependency or recommendation; a class: the section; features: words of the descriptions'
first lines. The archive changes from release to release, and the graph with it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WORDS = 1000  # the most frequent ones are features
FEWEST = 20  # nodes of a class


def read_wordnet(folder: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Name, class, text and neighbours' names of each synset of nouns and verbs."""
    for kind in ("noun", "verb"):
        for line in (folder / f"data.{kind}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            head, _, gloss = line.partition("|")
            parts = head.split()
            after = 4 + 2 * int(parts[3], 16)  # words of the synset, each with a number
            pointers = parts[after + 1 : after + 1 + 4 * int(parts[after])]
            others = [f"{pointers[at + 2]}{pointers[at + 1]}" for at in range(0, len(pointers), 4)]
            yield f"{kind[0]}{parts[0]}", parts[1], gloss, others


def read_debian(file: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """The same of each package; its section without the archive's area, as contrib/games."""
    for stanza in file.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", stanza, re.MULTILINE))
        if {"Package", "Section", "Description"} <= fields.keys():
            needs = ", ".join(fields.get(name, "") for name in ("Depends", "Pre-Depends", "Recommends"))
            others = re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]+)", needs)
            yield fields["Package"], fields["Section"].rpartition("/")[2], fields["Description"], others


def make_graph(rows: Sequence[tuple[str, str, str, list[str]]]) -> dict[str, Any]:
    """The arrays of an archive that `npz:` reads. Classes of few nodes are left out, and so are their nodes."""
    rows = list({row[0]: row for row in rows}.values())
    sizes = Counter(row[1] for row in rows)
    rows = [row for row in rows if sizes[row[1]] >= FEWEST]
    place = {row[0]: at for at, row in enumerate(rows)}
    classes = {name: at for at, name in enumerate(sorted({row[1] for row in rows}))}
    texts = [set(re.findall(r"[a-z]{2,}", row[2].lower())) for row in rows]
    count = Counter(word for text in texts for word in sorted(text))
    columns = {word: at for at, (word, _) in enumerate(count.most_common(WORDS))}
    own = [sorted(columns[word] for word in text if word in columns) for text in texts]
    edges = [(place[row[0]], place[other]) for row in rows for other in row[3] if other in place]
    return {
        "x_indptr": np.cumsum([0, *map(len, own)]),
        "x_indices": np.concatenate([np.array(each, dtype=np.int64) for each in own]),
        "x_data": np.ones(sum(map(len, own)), dtype=np.float32),
        "num_features": WORDS,
        "y": np.array([classes[row[1]] for row in rows]),
        "edge_index": np.array([edge for edge in edges if edge[0] != edge[1]]).T,
    }


def main(kind: str, source: str, target: str) -> None:
    """Write the archive."""
    graph = make_graph(list({"wordnet": read_wordnet, "debian": read_debian}[kind](Path(source))))
    y, edges = graph["y"], graph["edge_index"]
    alike = (y[edges[0]] == y[edges[1]]).mean()
    print(f"{len(y)} nodes, {edges.shape[1]} edges, {y.max() + 1} classes, {alike:.3f} of edges between equal ones")
    np.savez(target, **graph)


if __name__ == "__main__":
    main(*sys.argv[1:])
