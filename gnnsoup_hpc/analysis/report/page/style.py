"""Colours and settings of figures. On a page a colour is a variable of its style sheet, so it suits light and dark."""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

from gnnsoup_hpc.config.methods import METHOD_NAMES
from gnnsoup_hpc.errors import JobError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2328", "#6e7781", "#d8dee4"
SERIES = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#7d4e00", "#057a85", "#cf222e")
BLUE, GREEN, RED = SERIES[0], SERIES[2], SERIES[7]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {colour: f"c{i}" for i, colour in enumerate(SERIES, 1)}
SHORT: dict[str, str] = {"mae": "MAE"}  # metrics whose names are long
WIDTH = 5.4  # inches: text of 9 points is as large as the page's

SETTINGS: dict[Any, Any] = {
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.0,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # names come from outside
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "gnnsoup_hpc",
    "figure.constrained_layout.use": True,
}
_NOTHING = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # of a picture's metadata


def check_packages() -> None:
    """Raises: JobError where what draws pages is not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise JobError(
            f"--html and --figures need the package {error.name}, which is not here: pip install 'gnnsoup_hpc[report]'"
        ) from None


def find_colour(method: str) -> str:
    """A method's own colour, in all figures."""
    return SERIES[METHOD_NAMES.index(method) % len(SERIES)]


def find_marker(method: str) -> str:
    """A method's own marker."""
    return MARKERS[METHOD_NAMES.index(method) % len(MARKERS)]


def render_svg(figure: Figure) -> str:
    """A figure as a file of SVG."""
    return _save(figure, format="svg", transparent=True, metadata=_NOTHING).decode()


def render_png(figure: Figure) -> bytes:
    """A figure as a file of PNG, on white."""
    return _save(figure, format="png", dpi=200, facecolor="white")


def _save(figure: Figure, **options: Any) -> bytes:
    from matplotlib import rc_context

    content = BytesIO()
    with rc_context(SETTINGS), catch_warnings():
        filterwarnings("ignore", message="Glyph .* missing from font")  # which the browser's fonts have
        figure.savefig(content, **options)
    return content.getvalue()


def embed_svg(svg: str, name: str) -> str:
    """SVG as an element of a page: names of its own, colours by the page's variables, its size by the page."""
    element = svg[svg.index("<svg") :]
    head, rest = element.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f"{head}>{re.sub('<[^>]*>', lambda found: _embed_tag(found.group(), name), rest)}"


def _embed_tag(tag: str, name: str) -> str:
    tag = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _name_colour(found.group()), tag)


def _name_colour(colour: str) -> str:
    return f"var(--{VARIABLES[colour]})" if colour in VARIABLES else colour
