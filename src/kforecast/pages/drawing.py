"""How figures look: colours, texts and axes, and how they become a PNG or a part of a page."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

# By name the colour on a light and on a dark page. Figures are drawn in the light ones, which stand for the
# name: within a page it is looked up there.
COLOURS = {
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#59636e", "#9aa4af"),
    "grid": ("#e1e5e9", "#2b323b"),
    "shade": ("#d8dde3", "#39424d"),
    "model": ("#1d6fd1", "#5aa2f7"),
    "on-model": ("#ffffff", "#0d1117"),
    "model-band": ("#a9cbf5", "#24508a"),
    "model-band-wide": ("#d6e7fb", "#1a3253"),
    "second": ("#0f8f84", "#3fbfb2"),
    "baseline": ("#c8620c", "#f0954a"),
    "other": ("#8a5cc7", "#b48df0"),
    "bad": ("#cf222e", "#ff7b72"),
}
INK, MUTED, GRID, SHADE, MODEL, ON_MODEL, BAND, WIDE_BAND, SECOND, BASELINE, OTHER, BAD = (
    light for light, _ in COLOURS.values()
)

# Inches. A page gives each inch as many pixels, so that texts of all figures are of one size.
FULL, HALF, WIDE = 11.0, 5.4, 7.2
_LEFT, _RIGHT = 0.58, 0.26
LINE = 0.19
_DPI = 110
# Names may be of any script. Those of these that are installed draw what the first cannot.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei")
_COLOUR = re.compile("(?<=: )(" + "|".join(light for light, _ in COLOURS.values()) + ')(?=[;"])')
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g} %".replace("-", "−"))
_FONT = re.compile(r"'DejaVu Sans'(, '[^']*')*")


def percent(value: float, digits: int = 1) -> str:
    """A share as people write it."""
    if not np.isfinite(value):
        return "–"
    return f"{100 * value:,.{digits}f}\N{NO-BREAK SPACE}%".replace("-", "−")


def duration(seconds: int) -> str:
    """A length of time as people write it: ``1 h 30 min``."""
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
    """A figure as an element for a page that sets ``--<name>`` for all of :data:`COLOURS`, and ``--sans``.

    Parameters
    ----------
    name:
        Different for each figure of a page.
    label:
        What it shows, for those who do not see it.
    """
    text = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with style(salt=name):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Its groups' ids are the same in every figure; nothing refers to them.
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
    """Everything within is drawn in our style, whatever the user's own is."""
    known = set(get_font_names())
    settings: dict[Any, Any] = {
        "font.family": [_FONTS[0], *(name for name in _FONTS[1:] if name in known)],
        "font.size": 8,
        "timezone": "UTC",
        # Names may hold dollar signs.
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
        # Clear of the lowest label of the other axis.
        "xtick.major.pad": 5.5,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "legend.labelcolor": INK,
        "lines.solid_capstyle": "butt",
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Not the user's own style, which may have dark backgrounds, other margins or another time zone.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        # A sign that no font has: a box in the PNG; in a page the browser finds one.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def canvas(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    left: float = _LEFT,
    top: float = 0.3,
    bottom: float = 0.12,
    between: float = 0.3,
    widths: Sequence[float] | None = None,
) -> tuple[Figure, np.ndarray]:
    """A figure with margins in inches: constrained layout would draw everything twice to find them."""
    # A Figure of its own, not pyplot's: no global state, no window, no leak.
    figure = Figure(figsize=(width, height))
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
    """The legend of an axis: in a line above all, or in so many lines at the bottom, never on the data."""
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


def line(
    axis: Axes,
    x: np.ndarray,
    y: np.ndarray,
    colour: str,
    label: str,
    width: float = 1.2,
    dashes: tuple[float, ...] = (),
    marker: bool = False,
) -> None:
    """A line that NaN break; points between two of them are dots, because no line passes through them."""
    sign = "o" if marker else ""
    # The model before all others.
    above = 3 if colour == MODEL else 2
    (made,) = axis.plot(x, y, color=colour, lw=width, label=label or "_", marker=sign, ms=3.5, zorder=above)
    if dashes:
        made.set_dashes(dashes)
    known = np.isfinite(y)
    beside = np.pad(known, 1)
    alone = known & ~beside[:-2] & ~beside[2:]
    if alone.any() and not marker:
        axis.plot(x[alone], y[alone], "o", color=colour, ms=2.2)


def from_zero(axis: Axes, most: float, wide: float = 0.0, *, cut: float = 1.0, form: str = "") -> None:
    """From zero (or the least that is drawn) to a little more than ``most``, or up to ``cut`` times that."""
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
    """An axis of time in UTC from ``low`` to before ``high``, both datetime64."""
    # Without the midnight that ends a span, whose label would stand over the edge.
    axis.set_xlim(low, high - np.timedelta64(1, "s"))
    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    # At the right below the axis: what the labels leave out. Midnights name the day, if there are any.
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
    """The largest finite number; 0 when there is none."""
    known = np.concatenate([np.ravel(array) for array in values]) if values else np.zeros(0)
    known = known[np.isfinite(known)]
    return float(known.max()) if len(known) else 0.0


def _short_number(value: float, top: float) -> str:
    """A tick's label, a few signs wide, on an axis up to ``top``."""
    scale, sign = next(
        ((scale, sign) for scale, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if top >= 10 * scale),
        (1.0, ""),
    )
    return f"{value / scale:,.10g}{sign if value else ''}".replace("-", "−")
