"""House style of the figures: readable in grey, by the colour-blind, on a phone and in print.

Nothing here touches pyplot or the global settings of Matplotlib: every helper applies the style for
its own duration. A typical figure:

    figure, (left, right) = plots.subplots(columns=2)
    plots.line(left, steps, ratio, label="sign descent", index=0)
    plots.theory_line(left, steps, bound, label="theory")
    plots.describe(left, title="Matched", x="training steps", y="margin / optimum")
    plots.direct_labels(left)
    return plots.finish(figure)
"""

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D, Affine2DBase, ScaledTranslation

RESOLUTION = 150  # dots per inch: sharp on a phone, and still some tens of kB
WIDTH = 7.0  # inches
SAMPLE = (5, 33)  # begin and end of the line before a direct label, points right of the axes

# Okabe and Ito's colours without yellow (invisible on white) and black (theory), ordered so that
# neighbours differ in brightness too; marker and dash pattern carry the same information again.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (6, 2)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 2, 2)), (0, (4, 1)))

STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "savefig.bbox": None,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9.5,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#777777",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLORS, marker=MARKERS, linestyle=DASHES),
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.titlesize": 11.5,
    "figure.titleweight": "bold",
}


P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def style():
    """The house style for a `with` block: for plotting calls that have no helper here."""
    with mpl.rc_context(STYLE):
        yield


def _styled(function: Callable[P, R]) -> Callable[P, R]:
    """The function with the house style in force while it runs."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with style():
            return function(*args, **kwargs)

    return wrapper


@_styled
def subplots(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float | None = None, **options
) -> tuple[Figure, Any]:
    """A figure and its axes, as `pyplot.subplots` returns them, but without pyplot.

    Args:
      rows: number of rows of axes.
      columns: number of columns of axes.
      width: in inches.
      height: in inches; by default 0.55 of the width of one panel, at least 3, for each row.
      **options: for `Figure.subplots`, such as `sharey=True`.
    """
    height = rows * max(3.0, 0.55 * width / columns) if height is None else height
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


@_styled
def line(ax: Axes, x: Any, y: Any, *, label: str, index: int, band: Any = None, **options):
    """A measured curve; `index` picks colour, marker and dashes together.

    Args:
      ax: where to draw.
      x: (n,) positions.
      y: (n,) measurements.
      label: name of the curve.
      index: the same number is the same look in every panel.
      band: optional pair of (n,) arrays, the lower and upper edge of a shaded band (say, seeds).
      **options: for `Axes.plot`.
    """
    look = looks(index)
    # At most about eight markers: more of them hide the line.
    look["markevery"] = max(1, len(np.asarray(x)) // 8)
    if band is not None:
        ax.fill_between(x, band[0], band[1], color=look["color"], alpha=0.15, linewidth=0)
    return ax.plot(x, y, label=label, **{**look, **options})[0]


def looks(index: int) -> dict[str, Any]:
    """Colour, marker and dashes number `index`, for `Axes.plot`; they repeat after six."""
    i = index % len(COLORS)
    return {"color": COLORS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}


@_styled
def theory_line(ax: Axes, x: Any, y: Any, *, label: str = "theory", **options):
    """What theory predicts: dashed, black, above the measurements."""
    look = {"color": "black", "linestyle": (0, (5, 3)), "linewidth": 1.4, "marker": "", "zorder": 5}
    return ax.plot(x, y, label=label, **{**look, **options})[0]


@_styled
def describe(ax: Axes, *, title: str, x: str, y: str) -> None:
    """Title and axis labels; a label names the unit in parentheses: "time (s)"."""
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)


@_styled
def doubling(ax: Axes, numbers: Sequence[int]) -> None:
    """A horizontal axis on which doubling is a step, with ticks at these numbers alone.

    Limits are set for what is drawn at that moment: the heights of direct labels follow from them.
    """
    ax.set_xscale("log", base=2)
    ax.set_xticks(numbers, [str(number) for number in numbers])
    ax.minorticks_off()
    ax.autoscale_view()


@_styled
def legend(ax: Axes, **options):
    """A legend without a frame, where it hides least; options as for `Axes.legend`."""
    return ax.legend(**{"loc": "best", "handlelength": 3.2, **options})


@_styled
def direct_labels(ax: Axes) -> None:
    """Writes each curve's label at its right end, moved apart where they would overlap.

    A sample of the line stands before the label: curves that end close together could not be told
    apart by colour alone, nor in grey. Call it last: positions follow from the limits the axes have
    at that moment.
    """
    lines = [ln for ln in ax.get_lines() if not str(ln.get_label()).startswith("_")]
    ends = [(height, ln) for ln in lines if (height := _end_height(ax, ln)) is not None]
    ends.sort(key=lambda pair: pair[0])
    line_height = 1.25 * mpl.rcParams["legend.fontsize"] * ax.figure.dpi / 72  # in pixels
    gap = line_height / ax.bbox.height
    for height, (_, ln) in zip(_spread([e[0] for e in ends], gap), ends, strict=True):
        _draw_sample(ax, ln, height)
        ax.annotate(
            str(ln.get_label()),
            xy=(1.0, height),
            xytext=(SAMPLE[1] + 4, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=mpl.rcParams["legend.fontsize"],
            color=_darker(ln.get_color()),
            annotation_clip=False,
        )


def _draw_sample(ax: Axes, ln: Any, height: float) -> None:
    """A short piece of a curve, with one marker, to the right of the axes at a height in them."""
    begin, end = SAMPLE
    points = Affine2D().scale(1 / 72) + ax.figure.dpi_scale_trans
    sample = Line2D([begin, (begin + end) / 2, end], [0, 0, 0])
    sample.update_from(ln)
    sample.set(
        markevery=[1],
        clip_on=False,
        transform=points + ScaledTranslation(1.0, height, cast(Affine2DBase, ax.transAxes)),
    )
    # To the figure: in the axes it would count as one of the curves.
    ax.figure.add_artist(sample)


def _end_height(ax: Axes, ln: Any) -> float | None:
    """Height of a curve's last finite point, as a fraction of the axes; None if it has none."""
    points = ax.transData.transform(np.asarray(ln.get_xydata(), dtype=float))
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return None
    return float(np.clip(ax.transAxes.inverted().transform(points[-1])[1], 0.0, 1.0))


def _spread(heights: Sequence[float], gap: float) -> np.ndarray:
    """Ascending heights moved apart to at least `gap`: least squares, by pooling neighbours."""
    blocks: list[list[float]] = []  # [mean of (height - gap * position), number of labels]
    for position, height in enumerate(heights):
        blocks.append([height - gap * position, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, size = blocks.pop()
            below = blocks[-1]
            below[0] = (below[0] * below[1] + mean * size) / (below[1] + size)
            below[1] += size
    bases = np.concatenate([np.full(int(size), mean) for mean, size in blocks] or [np.zeros(0)])
    return bases + gap * np.arange(len(heights))


@_styled
def heat_table(
    ax: Axes,
    values: Any,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float],
    spread: Any = None,
    outlined: Sequence[tuple[int, int]] = (),
    digits: int = 2,
    colormap: str = "Blues",
) -> None:
    """A table of numbers on a shade that grows with the number.

    Args:
      ax: where to draw; its grid and frame are removed.
      values: (rows, columns) numbers; NaN leaves a cell grey.
      rows: names of the rows.
      columns: names of the columns.
      limits: the numbers at the light and at the dark end; the same in all tables to be compared.
      spread: optional (rows, columns) half-widths, written as ± below the number.
      outlined: (row, column) of cells to frame, for instance where theory predicts the optimum.
      digits: digits after the point.
      colormap: a Matplotlib colormap whose brightness changes one way only.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values must be {(len(rows), len(columns))}, got {values.shape}")
    shades = mpl.colormaps[colormap].with_extremes(bad="#eeeeee")
    cells = np.ma.masked_invalid(values)
    mesh = ax.pcolormesh(cells, cmap=shades, norm=Normalize(*limits), edgecolors="white", lw=1.5)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.invert_yaxis()
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        text = _cell_text(value, None if spread is None else spread[row][column], digits)
        ink = ink_on(mesh.to_rgba(cells)[row, column])
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink)
    for row, column in outlined:
        ax.add_patch(Rectangle((column, row), 1, 1, fill=False, lw=2, ec="black", zorder=4))


def _cell_text(value: float, spread: float | None, digits: int) -> str:
    """What a cell of a heat table says."""
    if not np.isfinite(value):
        return "—"
    return f"{value:.{digits}f}" + ("" if spread is None else f"\n±{spread:.{digits}f}")


def ink_on(shade: Any) -> str:
    """Black or white, whichever has the higher WCAG contrast on a shade."""
    luminance = relative_luminance(shade)
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"


def relative_luminance(shade: Any) -> float:
    """The brightness of an sRGB colour, in [0, 1], as WCAG 2 defines it."""
    rgb = np.asarray(to_rgb(shade))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def _darker(color: Any) -> tuple[float, ...]:
    """The colour, dark enough to be read as text on white (contrast of at least 4.5)."""
    rgb = np.asarray(to_rgb(color))
    while relative_luminance(rgb) > 1.05 / 4.5 - 0.05:
        rgb = rgb * 0.95
    return tuple(rgb)


@_styled
def finish(figure: Figure) -> Figure:
    """The figure, laid out once, so that a mistake in it shows where it was made.

    Raises:
      ValueError: if a panel has no title and the figure has none either.
    """
    for number, ax in enumerate(figure.axes):
        titled = ax.get_title("left") or ax.get_title("center") or figure.get_suptitle()
        if not titled and ax.get_visible() and ax.get_label() != "<colorbar>":
            raise ValueError(f"panel {number} of the figure has no title: use plots.describe")
    figure.draw_without_rendering()
    return figure


def png(figure: Figure) -> bytes:
    """A figure as PNG, without metadata: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=RESOLUTION, metadata={"Software": None})
    return buffer.getvalue()
