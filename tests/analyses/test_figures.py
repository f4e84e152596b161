"""Figures draw what the tables say, into the axes they are given."""

import importlib
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analyses import (
    accuracy_vs_removed,
    block_effects,
    loop_anatomy,
    parallel_scaling,
    sequential_scaling,
    step_errors,
)
from analyses.plumbing import catalogue, style
from analyses.plumbing.command import main, make
from analyses.plumbing.frames import StudyData
from interp.errors import UserError

ALWAYS = [a.name for a in catalogue.analyses().values() if a.in_store is None]


def drawn(ax: Axes) -> set[tuple[float, float]]:
    """Every point of every line, rounded."""
    return {
        (round(float(x), 3), round(float(y), 3))
        for line in ax.get_lines()
        for x, y in zip(
            np.atleast_1d(line.get_xdata()), np.atleast_1d(line.get_ydata()), strict=True
        )
    }


def new_axes() -> Axes:
    return Figure().subplots()


@pytest.mark.parametrize("name", ALWAYS)
def test_every_analysis_makes_a_table_and_files(
    name: str, study: StudyData, tmp_path: Path
) -> None:
    found, written = make(name, study, tmp_path)
    assert len(found) > 0
    figures = set() if name == "extraction" else {".png", ".svg"}  # the two readings never differ
    assert {path.suffix for path in written} == {".csv"} | figures
    assert all(path.stat().st_size > 500 for path in written)


HOSTILE = "$\\frac$ \x1b[31m\n{x} \\"


@pytest.mark.parametrize("name", ALWAYS)
def test_names_of_any_kind_are_drawn_as_they_are(
    name: str, study: StudyData, tmp_path: Path
) -> None:
    """A benchmark or variant may be named by a stranger: nothing in it is a formula."""

    def renamed(frame: Any) -> Any:
        frame = frame.copy()
        for column in {"benchmark", "method"} & set(frame.columns):
            own = frame[column].isin(["arithmetic", "countdown-4", "shortgpt"])
            frame.loc[own, column] = frame.loc[own, column] + HOSTILE
        return frame

    tables = {key: renamed(frame) for key, frame in study.purposes.items()}
    odd = replace(
        study, purposes=tables, scores=renamed(study.scores), diversity=renamed(study.diversity)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # no font draws a control character
        _, written = make(name, odd, tmp_path)
    undrawn = name in ("diversity", "extraction")
    assert {path.suffix for path in written} >= ({".csv"} if undrawn else {".svg"})


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    with style.style():
        ax = new_axes()
        ax.plot([0.003, 200.0], [0.5, 3.0])
        style.log_axis(ax.xaxis)
        ax.figure.canvas.draw()
        said = [label.get_text() for label in ax.get_xticklabels()]
    assert ax.get_xscale() == "log" and {"0.01", "1", "100"} <= set(said)
    assert not any("$" in text for text in said)


@pytest.mark.parametrize("name", ALWAYS)
def test_a_study_without_rows_gives_an_empty_table_and_no_figure(
    name: str, study: StudyData
) -> None:
    empty = StudyData({}, study.scores.iloc[:0], study.diversity.iloc[:0])
    assert len(catalogue.load(name).table(empty)) == 0


def test_the_axes_given_are_the_axes_returned(study: StudyData) -> None:
    ax = new_axes()
    found = accuracy_vs_removed.table(study)
    assert accuracy_vs_removed.plot(found, "recall", ax) is ax


def test_accuracy_against_removed_draws_every_value_of_the_table(study: StudyData) -> None:
    found = accuracy_vs_removed.table(study)
    ax = accuracy_vs_removed.plot(found, "countdown-4")
    heights = {y for _, y in drawn(ax)}
    for value in found.loc[found["benchmark"] == "countdown-4", "value"]:
        assert round(value, 3) in heights


def test_sequential_scaling_draws_every_budget_of_every_variant(study: StudyData) -> None:
    found = sequential_scaling.table(study)
    points = drawn(sequential_scaling.plot(found, "countdown-4", study))
    for row in found[found["benchmark"] == "countdown-4"].itertuples():
        assert (row.thinking_budget, round(row.value, 3)) in points


def test_parallel_scaling_draws_pass_at_k(study: StudyData) -> None:
    found = parallel_scaling.table(study)
    points = drawn(parallel_scaling.plot(found, "countdown-4", study))
    part = found[found["measure"] == "pass"]
    assert {1, 2, 4, 8} == set(part["k"])
    for row in part.itertuples():
        assert (row.k, round(row.value, 3)) in points


def test_block_effects_fill_exactly_the_clear_differences(study: StudyData) -> None:
    found = block_effects.table(study)
    ax = block_effects.plot(found, "correct", "countdown-4")
    filled = [
        x
        for line in ax.get_lines()
        if line.get_marker() == "o" and to_hex(line.get_markerfacecolor()) != "#ffffff"
        for x in np.atleast_1d(line.get_xdata())
    ]
    assert sorted(filled) == [0, 2, 5]


def test_bars_of_first_wrong_steps_have_the_widths_of_the_table(study: StudyData) -> None:
    found = step_errors.table(study)
    ax = step_errors.plot(found, "countdown-4", study)
    widths = sorted(round(bar.get_width(), 6) for bar in ax.patches if isinstance(bar, Rectangle))
    table = sorted(found.loc[found["benchmark"] == "countdown-4", "value"].round(6))
    assert widths == pytest.approx(table)


def test_dense_is_black_and_a_variant_keeps_its_colour_in_every_figure(study: StudyData) -> None:
    looks = style.looks(study.variants)
    assert looks["dense"].colour == style.INK
    assert len({look.colour for look in looks.values()}) == len(looks)
    found = sequential_scaling.table(study)
    ax = sequential_scaling.plot(found, "countdown-4", study)
    by_name = {line.get_label(): to_hex(line.get_color()) for line in ax.get_lines()}
    loops = loop_anatomy.table(study)
    dots = loop_anatomy.plot(loops, "countdown-4", "looped", study)
    used = {to_hex(line.get_markeredgecolor()) for line in dots.get_lines() if line.get_marker()}
    for name, look in looks.items():
        assert by_name[name] == look.colour
        assert look.colour in used


def test_drawing_leaves_the_callers_matplotlib_settings_alone(study: StudyData) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before, open_before = mpl.rcParams["font.size"], plt.get_fignums()
    accuracy_vs_removed.figure(accuracy_vs_removed.table(study), study)
    assert mpl.rcParams["font.size"] == before
    assert plt.get_fignums() == open_before


def test_the_same_figure_is_the_same_svg(study: StudyData, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        make("step_errors", study, tmp_path / folder)
    a, b = ((tmp_path / f / "figures/step_errors.svg").read_bytes() for f in "ab")
    assert a == b


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_labels_moved_apart_keep_their_order_and_their_distance(
    values: list[float], gap: float
) -> None:
    placed = style.spread(values, gap, 0.0, 1.0)
    order = np.argsort(values, kind="stable")
    steps = np.diff(np.asarray(placed)[order])
    fits = gap * (len(values) - 1) <= 1.0
    assert (steps >= min(gap, 1 / max(len(values) - 1, 1)) - 1e-6).all()
    if fits:
        assert min(placed) >= -1e-6
        assert max(placed) <= 1 + 1e-6


def test_an_analysis_runs_from_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("analyses.step_errors")
    with pytest.raises(SystemExit) as left:
        main(str(module.__file__), ["--study", str(folder), "--out", str(tmp_path)])
    assert left.value.code == 0
    assert (tmp_path / "figures" / "step_errors.png").exists()
    assert "step_errors.csv" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(str(module.__file__), ["--study", str(tmp_path / "none")])
    assert left.value.code == 2


def test_an_unknown_analysis_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="block_effects"):
        catalogue.load("block_effect")


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_names_at_ends_stand_clear_of_marks_beyond_the_lines(scale: str) -> None:
    ax = new_axes()
    ax.set_xscale(scale)
    ax.axhline(0.5)  # in shares of the panel, not in data
    ax.plot([1, 4], [0, 1])
    ax.plot([9], [1], "o")
    style.label_ends(ax, [("a", 4, 1.0, "k"), ("b", 4, 0.99, "k")])
    names = {text.get_text().strip(): text.get_position() for text in ax.texts}
    assert set(names) == {"a", "b"}
    assert all(9 < x < ax.get_xlim()[1] for x, _ in names.values())
    assert names["a"][1] > names["b"][1]


@pytest.mark.parametrize("room", [False, True])
@pytest.mark.parametrize("gone", [(), (10, 12, 23)])  # a plan's blocks are not drawn
@pytest.mark.parametrize("n_blocks", [5, 16, 24, 36, 61, 80])
@pytest.mark.parametrize(("columns", "width"), [(1, 5.6), (2, 5.6), (1, 9.0), (3, 4.0)])
def test_numbers_of_blocks_never_lie_on_each_other(
    n_blocks: int, columns: int, width: float, gone: tuple[int, ...], room: bool
) -> None:
    there = [block for block in range(-1, n_blocks) if block not in gone]
    with style.style():
        figure, grid = style.panels(columns, columns=columns, width=width)
        for ax in grid:
            ax.plot(range(-1, n_blocks), range(-1, n_blocks))
            style.block_axis(ax, there, "embeddings")
            if room:
                style.label_ends(ax, [("a name", n_blocks - 1, 1.0, "#000000")], room=0.2)
        FigureCanvasAgg(figure).draw()
    for ax in grid:
        boxes = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
        assert len(boxes) >= min(n_blocks, 5)
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_numbers_of_blocks_in_half_a_figure_have_half_the_room() -> None:
    with style.style():
        whole = Figure(figsize=(11.2, 3), layout="constrained")
        halves: Any = whole.subfigures(1, 2)
        axes = [half.subplots() for half in halves]
        for ax in axes:
            style.block_axis(ax, range(24))
        axes[1].set_yticks([0], ["a long name of a row"])
        FigureCanvasAgg(whole).draw()
    for ax in axes:
        boxes = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
        assert len(boxes) >= 12
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
