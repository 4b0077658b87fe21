"""Pictures of docs/how_it_works.md and README, as SVG: `python docs/tools/draw.py` writes docs/images/*.svg anew.

They are schemes: no number in them is measured. Each has a background of its own, light or dark as the reader's system
is, so that it can be read on any page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

IMAGES = Path(__file__).resolve().parent.parent / "images"
STYLE = """\
svg { --paper: #ffffff; --ink: #24292f; --line: #6e7781; --faint: #e6ecf2; --main: #00796b; --other: #c4572b }
@media (prefers-color-scheme: dark) {
  svg { --paper: #1d2127; --ink: #e3e8ee; --line: #98a2ad; --faint: #333b45; --main: #4db6ac; --other: #f0986b }
}
text { font: 14px sans-serif; fill: var(--ink) }
.small { font-size: 12px }
.box { fill: var(--faint); stroke: var(--line) }
.main { fill: var(--main) }
.other { fill: var(--other) }
.line { stroke: var(--line); fill: none; stroke-width: 1.5 }
.curve { stroke: var(--main); fill: none; stroke-width: 2.5 }
.dashed { stroke: var(--other); fill: none; stroke-width: 2.5; stroke-dasharray: 6 4 }
"""


def frame(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """A whole picture; the title is what is read aloud."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    arrow = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" style="fill: var(--line)"/></marker></defs>'
    )
    paper = f'<rect width="{width}" height="{height}" rx="6" style="fill: var(--paper)"/>'
    return "\n".join([head, f"<title>{title}</title>", f"<style>\n{STYLE}</style>", arrow, paper, *parts, "</svg>", ""])


def write(x: float, y: float, words: str, small: bool = False, anchor: str = "middle") -> str:
    """Words around a point."""
    kind = ' class="small"' if small else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "box", opacity: float = 1.0) -> str:
    """A rectangle with its upper left corner at (x, y)."""
    shade = "" if opacity == 1.0 else f' fill-opacity="{opacity:.2f}"'
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3"{shade}/>'


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """An arrow between two points."""
    return f'<line class="line" x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" marker-end="url(#tip)"/>'


def draw_pipeline() -> str:
    """A graph, its parts, ingredients on ranks, one soup."""
    parts = [write(75, 28, "graph"), write(245, 28, "prepare"), write(445, 28, "train"), write(655, 28, "soup")]
    nodes = [(40, 70), (75, 55), (110, 75), (50, 115), (95, 120), (70, 155), (112, 150)]
    for one, two in [(0, 1), (1, 2), (0, 3), (3, 4), (2, 4), (3, 5), (4, 6), (5, 6), (1, 4)]:
        ends = [*nodes[one], *nodes[two]]
        parts.append('<line class="line" x1="{}" y1="{}" x2="{}" y2="{}"/>'.format(*ends))
    parts += [f'<circle class="main" cx="{x}" cy="{y}" r="6"/>' for x, y in nodes]
    parts += [box(205 + 42 * column, 58 + 34 * row, 36, 28) for column in range(2) for row in range(3)]
    parts += [arrow(135, 105, 195, 105), arrow(298, 105, 345, 105)]
    for row in range(4):
        y = 48 + 32 * row
        parts += [write(375, y + 17, f"rank {row}", small=True), box(400, y, 90, 24), arrow(498, y + 12, 585, 105)]
        parts += [box(406 + 16 * step, y + 6, 12, 12, "main", 0.35 + 0.15 * ((row + step) % 4)) for step in range(5)]
    parts += [box(595, 82, 120, 46), *(box(605 + 20 * step, 95, 16, 20, "main") for step in range(5))]
    parts += [
        write(75, 195, "nodes, features, labels", small=True),
        write(245, 195, "METIS parts, graph.h5", small=True),
        write(445, 195, "N ingredients, no communication", small=True),
        write(655, 195, "one model, at the cost of one", small=True),
    ]
    return frame(740, 215, "A graph is cut into parts, ranks train ingredients, one job mixes them", parts)


def draw_line() -> str:
    """The loss between two ingredients, of one basin and of two."""
    parts = []
    for left, heading, note in (
        (40, "one start: one basin", "halfway, the loss is no higher"),
        (400, "starts of their own", "units matched: the barrier is low"),
    ):
        parts += [write(left + 140, 28, heading), arrow(left, 180, left, 45), arrow(left, 180, left + 290, 180)]
        parts += [write(left + 35, 200, "ingredient A", small=True), write(left + 245, 200, "ingredient B", small=True)]
        parts += [write(left + 140, 222, note, small=True), write(left + 8, 58, "loss", small=True, anchor="start")]
        parts += [f'<circle class="main" cx="{left + end}" cy="140" r="5"/>' for end in (35, 245)]
        parts.append(f'<path class="curve" d="M{left + 35} 140 Q{left + 140} 165 {left + 245} 140"/>')
    parts.append('<path class="dashed" d="M435 140 C485 40 595 40 645 140"/>')
    parts.append(write(540, 58, "as trained: a barrier", small=True))
    return frame(740, 240, "Loss along the line between two ingredients", parts)


def draw_alpha() -> str:
    """Alpha: a row a group, a column an ingredient, and the soup that it makes."""
    alpha = [[0.1, 0.5, 0.1, 0.2, 0.1], [0.3, 0.1, 0.4, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2]]
    parts = [write(305, 28, "alpha"), write(620, 28, "soup")]
    for column in range(5):
        parts.append(write(205 + 50 * column, 52, f"W{column}", small=True))
    for row, shares in enumerate(alpha):
        y = 62 + 44 * row
        parts.append(write(165, y + 24, f"layer {row + 1}", anchor="end"))
        for column, share in enumerate(shares):
            x = 182 + 50 * column
            parts += [
                box(x, y, 46, 38),
                box(x, y, 46, 38, "main", share * 1.4),
                write(x + 23, y + 24, f"{share:g}", True),
            ]
        parts += [arrow(440, y + 19, 545, y + 19), box(550, y, 140, 38), box(550, y, 140, 38, "main", 0.45)]
        parts.append(write(620, y + 24, f"sum of alpha W, layer {row + 1}", small=True))
    parts.append(write(305, 215, "each row sums to 1; a soup is this table and the ingredients", small=True))
    return frame(740, 235, "Alpha has a row for each group of parameters and a column for each ingredient", parts)


def draw_unions() -> str:
    """Four of sixteen parts a step, others in the next."""
    parts = []
    for step, chosen in enumerate([(1, 6, 8, 15), (0, 3, 10, 13), (2, 5, 11, 12)]):
        left = 40 + 170 * step
        parts.append(write(left + 60, 28, f"step {step + 1}"))
        for part in range(16):
            x, y = left + 30 * (part % 4), 42 + 30 * (part // 4)
            parts += [box(x, y, 26, 26), *([box(x, y, 26, 26, "main")] if part in chosen else [])]
        parts += [arrow(left + 126, 100, left + 162, 100)] if step < 2 else []
    parts += [write(640, 28, "in memory"), box(565, 60, 150, 22), write(640, 50, "the whole graph", small=True)]
    parts += [box(565, 110, 38, 22, "main"), box(603, 110, 38, 22, "main", 0.4)]
    parts += [write(640, 100, "a union, and the next one", small=True)]
    parts.append(
        write(
            370, 190, "R = 4 of K = 16 parts: a step on alpha needs their features, edges and states alone", small=True
        )
    )
    return frame(740, 210, "Each step of PLS computes on a union of a few parts", parts)


PICTURES: dict[str, Callable[[], str]] = {
    "pipeline.svg": draw_pipeline,
    "line.svg": draw_line,
    "alpha.svg": draw_alpha,
    "unions.svg": draw_unions,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
