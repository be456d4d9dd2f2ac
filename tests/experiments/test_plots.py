"""The house style: nothing global changes, and every figure can be read."""

import itertools
import struct
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from experiments import plots

STEPS = np.arange(1, 101)


def curves() -> Figure:
    figure, ax = plots.subplots()
    plots.line(ax, STEPS, 1 / STEPS, label="measured", index=0, band=(0.9 / STEPS, 1.1 / STEPS))
    plots.line(ax, STEPS, 1.001 / STEPS, label="measured too", index=1)
    plots.theory_line(ax, STEPS, 0.999 / STEPS)
    ax.set(xscale="log", yscale="log")
    plots.describe(ax, title="Decay", x="steps", y="distance (m)")
    plots.direct_labels(ax)
    return plots.finish(figure)


def table(values, **options) -> Figure:
    figure, ax = plots.subplots()
    names = [str(i) for i in range(len(values))]
    plots.heat_table(ax, values, rows=names, columns=names, limits=(0, 1), **options)
    plots.describe(ax, title="Shares", x="attack", y="method")
    return plots.finish(figure)


def contrast(one, other) -> float:
    low, high = sorted(plots.relative_luminance(to_rgb(c)) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_no_global_setting_changes():
    before = dict(mpl.rcParams)
    plots.png(curves())
    assert dict(mpl.rcParams) == before


def test_pyplot_is_never_loaded():
    code = (
        "import sys; from experiments import plots; f, a = plots.subplots(); a.plot([0, 1]);"
        "a.set_title('t'); plots.legend(a); plots.png(plots.finish(f));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def chunks(png: bytes) -> dict[bytes, bytes]:
    """The parts of a PNG file by their type; of the same type, the last."""
    found, position = {}, 8
    while position < len(png):
        (length,) = struct.unpack(">I", png[position : position + 4])
        kind = png[position + 4 : position + 8]
        found[kind] = png[position + 8 : position + 8 + length]
        position += 12 + length
    return found


def test_png_has_150_dpi_and_no_metadata():
    parts = chunks(plots.png(curves()))
    assert set(parts) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
    per_metre = struct.unpack(">II", parts[b"pHYs"][:8])
    assert per_metre == (round(150 / 0.0254), round(150 / 0.0254))


def test_the_same_figure_gives_the_same_bytes():
    assert plots.png(curves()) == plots.png(curves())


def test_looks_differ_without_colour():
    looks = [plots.looks(i) for i in range(6)]
    assert len({look["marker"] for look in looks}) == 6
    assert len({str(look["linestyle"]) for look in looks}) == 6
    # Neighbours differ in grey as well, as far as six colours for the colour-blind allow it.
    for one, other in itertools.pairwise(looks):
        assert contrast(one["color"], other["color"]) > 1.2
    assert plots.looks(6) == plots.looks(0)


def test_theory_is_dashed_black_above_the_measurement():
    figure = curves()
    measured, _, theory = figure.axes[0].get_lines()
    assert to_rgb(theory.get_color()) == (0, 0, 0)
    assert theory.is_dashed()
    assert theory.get_zorder() > measured.get_zorder()


def test_direct_labels_stand_at_the_ends_and_do_not_overlap():
    figure = curves()
    texts = figure.axes[0].texts
    assert {t.get_text() for t in texts} == {"measured", "measured too", "theory"}
    boxes = [t.get_window_extent() for t in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    # All three curves end at the bottom right.
    assert all(box.x0 > figure.axes[0].bbox.x1 for box in boxes)
    assert min(box.y0 for box in boxes) < figure.axes[0].bbox.y0 + 30


def test_a_sample_of_its_line_stands_before_each_label():
    figure = curves()
    (ax,) = figure.axes
    for text, sample in zip(ax.texts, figure.artists, strict=True):
        (curve,) = (ln for ln in ax.get_lines() if ln.get_label() == text.get_text())
        for look in ("color", "marker", "linestyle", "linewidth"):
            assert getattr(sample, f"get_{look}")() == getattr(curve, f"get_{look}")()
        line_box, text_box = sample.get_window_extent(), text.get_window_extent()
        assert ax.bbox.x1 < line_box.x0 < line_box.x1 < text_box.x0
        assert text_box.y0 < (line_box.y0 + line_box.y1) / 2 < text_box.y1


def test_direct_labels_of_curves_that_end_in_nan():
    figure, ax = plots.subplots()
    plots.line(ax, [0, 1, 2], [0.0, 1.0, np.nan], label="stops", index=0)
    plots.line(ax, [0, 1, 2], [np.nan] * 3, label="never there", index=1)
    plots.direct_labels(ax)
    assert [t.get_text() for t in ax.texts] == ["stops"]


def test_direct_labels_are_legible():
    figure, ax = plots.subplots()
    for index in range(6):
        plots.line(ax, [0, 1], [0, index], label=str(index), index=index)
    plots.direct_labels(ax)
    assert all(contrast(t.get_color(), "white") >= 4.49 for t in ax.texts)  # WCAG AA


def test_labels_are_moved_as_little_as_needed():
    np.testing.assert_allclose(plots._spread([0.1, 0.5, 0.9], 0.1), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(plots._spread([0.5, 0.5, 0.5], 0.1), [0.4, 0.5, 0.6])
    np.testing.assert_allclose(plots._spread([0.0, 0.5, 0.52], 0.1), [0.0, 0.46, 0.56])
    assert plots._spread([], 0.1).shape == (0,)


@pytest.mark.parametrize("colormap", ["Blues", "viridis"])
def test_numbers_in_cells_contrast_with_their_cell(colormap: str):
    values = np.linspace(0, 1, 36).reshape(6, 6)
    figure = table(values, colormap=colormap)
    shades = mpl.colormaps[colormap](values.ravel())
    for text, shade in zip(figure.axes[0].texts, shades, strict=True):
        assert contrast(text.get_color(), shade[:3]) >= 4.5  # WCAG AA


def test_cells_say_their_number_spread_or_nothing():
    values = [[0.123, np.nan], [1.0, 0.5]]
    figure = table(values, spread=[[0.01, 0.01], [0.0, 0.25]], outlined=[(1, 0)])
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts == ["0.12\n±0.01", "—", "1.00\n±0.00", "0.50\n±0.25"]
    (frame,) = figure.axes[0].patches
    assert frame.get_xy() == (0, 1)  # type: ignore[attr-defined]


def test_a_table_of_the_wrong_shape_is_refused():
    _, ax = plots.subplots()
    with pytest.raises(ValueError, match=r"values must be \(1, 2\), got \(2, 1\)"):
        plots.heat_table(ax, [[1.0], [2.0]], rows=["a"], columns=["b", "c"], limits=(0, 1))


def test_finish_wants_a_title():
    figure, (left, _) = plots.subplots(columns=2)
    plots.describe(left, title="Left", x="x", y="y")
    with pytest.raises(ValueError, match="panel 1 of the figure has no title"):
        plots.finish(figure)
    figure.suptitle("Both")
    assert plots.finish(figure) is figure
