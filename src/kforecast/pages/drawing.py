"""How figures look (fonts, axes, lines, legends), and how they are saved as PNG or inlined as SVG."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kforecast.pages.colours import COLOURS

INK, MUTED, GRID, SHADE, MODEL, ON_MODEL, BAND, WIDE_BAND, SECOND, BASELINE, OTHER, BAD = (
    light for light, _ in COLOURS.values()
)

# Widths of figures, in inches. A page shows every inch with the same number of pixels, so that all figures
# have the same text size.
FULL, HALF, WIDE = 11.0, 5.4, 7.2
_RIGHT = 0.26
# Height of one line of a legend, in inches.
LINE = 0.19
_DPI = 110
# Names may be in any script. The installed fallback fonts draw the glyphs that the first font lacks.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei")
_COLOUR = re.compile("(?<=: )(" + "|".join(light for light, _ in COLOURS.values()) + ')(?=[;"])')
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g} %".replace("-", "−"))
_FONT = re.compile(r"'DejaVu Sans'(, '[^']*')*")


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage, with a typographic minus and a no-break space; a dash if it is not finite."""
    if not np.isfinite(value):
        return "–"
    return f"{100 * value:,.{digits}f}\N{NO-BREAK SPACE}%".replace("-", "−")


def duration(seconds: int) -> str:
    """A duration in words: ``1 h 30 min``."""
    parts = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count:,} {unit}")
    return " ".join(parts) or "0 s"


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure on a light background."""
    with style():
        figure.savefig(path, format="png", dpi=_DPI)


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """A figure as an ``<svg>`` element for a page.

    The page must define the CSS variables ``--sans`` and ``--<name>`` for each name in :data:`COLOURS`.

    Parameters
    ----------
    name:
        Unique within the page; it makes the ids in the SVG unique.
    label:
        Description of the figure for screen readers.
    """
    text = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with style(salt=name):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Group ids repeat between figures, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    names = {light: colour for colour, (light, _) in COLOURS.items()}
    svg = _COLOUR.sub(lambda found: f"var(--{names[found[1]]})", svg)
    svg = _FONT.sub("var(--sans)", svg)
    width, height = figure.get_size_inches() * 72
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{escape(label)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="min-width: {width * 0.85:g}px; max-width: {width * 1.5:g}px">'
    )
    return opening + svg[svg.index(">") + 1 :].strip()


@contextmanager
def style(salt: str = "kforecast") -> Iterator[None]:
    """Draw in the package's style within this context, whatever style the user has set."""
    known = set(get_font_names())
    settings: dict[Any, Any] = {
        "font.family": [_FONTS[0], *(name for name in _FONTS[1:] if name in known)],
        "font.size": 8,
        "timezone": "UTC",
        # Names may contain dollar signs.
        "text.parse_math": False,
        "text.color": INK,
        "figure.facecolor": "white",
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.labelsize": 8,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.titlepad": 6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        # Clear of the lowest label of the y axis.
        "xtick.major.pad": 5.5,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "legend.labelcolor": INK,
        "lines.solid_capstyle": "butt",
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Reset the user's own style: it may have a dark background, other margins or another time zone.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        # A glyph that no font has becomes a box in the PNG; on a page the browser finds a font for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@dataclass(frozen=True)
class Margins:
    """Space around the axes of a figure, in inches.

    Attributes
    ----------
    left:
        Left of each column of axes.
    top, bottom:
        Above the first row and below the last one.
    between:
        Between rows.
    """

    left: float = 0.58
    top: float = 0.3
    bottom: float = 0.12
    between: float = 0.3


@dataclass(frozen=True)
class Stroke:
    """How a line looks.

    Attributes
    ----------
    colour:
        One of the light :data:`COLOURS`.
    width:
        In points.
    dashes:
        Lengths of dashes and gaps, in line widths; none for a solid line.
    marker:
        Whether each point has a dot.
    """

    colour: str
    width: float = 1.2
    dashes: tuple[float, ...] = ()
    marker: bool = False


def canvas(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    margins: Margins = Margins(),
    widths: Sequence[float] | None = None,
) -> tuple[Figure, np.ndarray]:
    """An empty figure and its axes.

    Margins are fixed because constrained layout would draw everything twice to find them.

    Parameters
    ----------
    width, height:
        In inches.
    widths:
        Relative widths of the columns; equal by default.

    Returns
    -------
    The figure, and its axes as an array ``[rows, columns]``.
    """
    # Not pyplot's figure: no global state, no window, no leak.
    figure = Figure(figsize=(width, height))
    left, top, bottom, between = margins.left, margins.top, margins.bottom, margins.between
    each = (height - top - bottom - (rows - 1) * between) / rows
    across = (width - left - _RIGHT - (columns - 1) * left) / columns
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        width_ratios=widths if columns > 1 else None,
        gridspec_kw={
            "left": left / width,
            "right": 1 - _RIGHT / width,
            "top": 1 - top / height,
            "bottom": bottom / height,
            "hspace": between / each,
            "wspace": left / across,
        },
    )
    return figure, axes


def legend(figure: Figure, axis: Axes, *, below: int = 0, columns: int = 2, reverse: bool = False) -> None:
    """Add the legend of an axis outside the data: in one line at the top, or in lines at the bottom.

    Parameters
    ----------
    below:
        Lines at the bottom; 0 puts the legend at the top.
    columns:
        Of a legend at the bottom.
    reverse:
        List the last drawn first.
    """
    handles, labels = axis.get_legend_handles_labels()
    if reverse:
        handles, labels = handles[::-1], labels[::-1]
    height = figure.get_size_inches()[1]
    top = (0.04 + LINE * below) / height if below else 1 - 0.06 / height
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(axis.get_position().x0, top),
        ncols=columns if below else len(labels),
        borderaxespad=0,
        borderpad=0,
        handlelength=2.4,
        columnspacing=1.6,
        labelspacing=0.35,
    )


def line(axis: Axes, x: np.ndarray, y: np.ndarray, label: str, stroke: Stroke) -> None:
    """Draw a line that breaks at NaN; a single point between two NaN becomes a dot.

    Parameters
    ----------
    label:
        Its entry in the legend; empty for none.
    """
    colour = stroke.colour
    (made,) = axis.plot(
        x,
        y,
        color=colour,
        lw=stroke.width,
        label=label or "_",
        marker="o" if stroke.marker else "",
        ms=3.5,
        zorder=3 if colour == MODEL else 2,  # the model in front of all others
    )
    if stroke.dashes:
        made.set_dashes(stroke.dashes)
    known = np.isfinite(y)
    padded = np.pad(known, 1)
    alone = known & ~padded[:-2] & ~padded[2:]
    if alone.any() and not stroke.marker:
        axis.plot(x[alone], y[alone], "o", color=colour, ms=2.2)


def from_zero(axis: Axes, most: float, wide: float = 0.0, *, cut: float = 1.0, form: str = "") -> None:
    """Set the y axis from zero, or from the lowest negative value, to a little above the highest value.

    Parameters
    ----------
    most:
        Highest value that must be visible.
    wide:
        Highest value that should be visible, as far as it is at most ``cut`` times ``most``.
    form:
        Of tick labels: ``percent``, ``whole`` for integers, or empty for numbers.
    """
    if not most > 0:
        most = 1.0 if form != "percent" else 0.01
    top = max(most, min(wide, cut * most)) * 1.06
    lowest = axis.dataLim.y0
    bottom = min(0.0, lowest * 1.06) if np.isfinite(lowest) else 0.0
    axis.set_ylim(bottom, top)
    axis.margins(x=0.01)
    if form == "percent":
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_formatter(PERCENT)
    else:
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=form == "whole"))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_number(value, top)))


def date_axis(axis: Axes, low: Any, high: Any) -> None:
    """Make the x axis a time axis in UTC from ``low`` to before ``high``, both datetime64."""
    # Exclude the midnight that ends a span: its label would cross the edge.
    axis.set_xlim(low, high - np.timedelta64(1, "s"))
    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    # The text at the lower right adds what the labels omit. A label at midnight names the day, if any.
    of_hours = "%Y, UTC" if high - low > np.timedelta64(1, "D") else "%d %b %Y, UTC"
    formatter = ConciseDateFormatter(  # type: ignore[no-untyped-call]
        locator,
        formats=["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%S.%f"],
        zero_formats=["", "%Y", "%b", "%d %b", "%H:%M", "%H:%M"],
        offset_formats=["", "", "%Y", of_hours, "%d %b %Y, UTC", "%d %b %Y %H:%M, UTC"],
    )
    axis.xaxis.set_major_formatter(formatter)
    axis.xaxis.get_offset_text().set(size=8, color=MUTED)


def largest(*values: np.ndarray) -> float:
    """The largest finite number in the arrays; 0 if there is none."""
    known = np.concatenate([np.ravel(array) for array in values]) if values else np.zeros(0)
    known = known[np.isfinite(known)]
    return float(known.max()) if len(known) else 0.0


def _short_number(value: float, top: float) -> str:
    """The short label of a tick on an axis that ends at ``top``."""
    scale, sign = next(
        ((scale, sign) for scale, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if top >= 10 * scale),
        (1.0, ""),
    )
    return f"{value / scale:,.10g}{sign if value else ''}".replace("-", "−")
