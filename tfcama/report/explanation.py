"""A row's explanation as a picture, and both as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import blended_transform_factory

from tfcama.errors import InputError
from tfcama.evaluation.explain import MOVED_SD, CategoricalChild, Explanation, NumericChild
from tfcama.report.figures import COLOURS, GREY, tidy
from tfcama.report.pictures import to_png
from tfcama.workdir import atomic_directory, entries, write_bytes, write_json

_FILES = ("explanation.json", "explanation.png")
_CHILDREN, _CATEGORICAL, _CLASSES = 20, 6, 10  # shown at most; more categorical where there is room
_BLUE, _ORANGE, _GREEN = COLOURS[:3]
_USUAL_SD = 2.0  # half a grey bar, in sd of p(x|.)
_LISTED = 6  # moved children named at most
_VISIBLE = 0.02  # of the axis; shorter arrows are only a head
_INCH, _LINE = 0.27, 0.165  # inches: a child or class, a line of text


def save(directory: Path, explanation: Explanation) -> None:
    """Writes explanation.json and explanation.png, both or neither; earlier ones are replaced.

    Raises:
      InputError: `directory` is a file or holds other files.
    """
    check_target(directory)
    png = to_png(explanation_figure(explanation))
    with atomic_directory(directory) as temporary:
        write_json(temporary / _FILES[0], explanation.to_json())
        write_bytes(temporary / _FILES[1], png)


def check_target(directory: Path) -> None:
    """Refuses a directory that `save` would take something else away with.

    Raises:
      InputError: it is a file, holds other files or cannot be read.
    """
    others = {path.name for path in entries(directory, what="explanation")} - {*_FILES}
    if others:
        raise InputError(
            f"{directory} holds other files ({min(others)}); name a new directory for the "
            "explanation, or one that holds an earlier one."
        )


def explanation_figure(explanation: Explanation) -> Figure:
    """The posterior, and the children, the least usual first.

    Numeric children are in standard deviations of their column, around its mean; a grey bar is
    where p(x | y, c, z, 0) expects them, and an arrow what M did. Categorical ones are shown by the
    probability of the observed category, or of the likeliest where it is missing.
    """
    numeric, categorical = _shown(explanation)
    heights = [_INCH * len(part) + 0.75 for part in (numeric, categorical) if part] or [1.5]
    bars = _INCH * min(len(explanation.posterior), _CLASSES) + 0.85
    words = _words(explanation)
    height = max(2.6, sum(heights), bars + _LINE * len(words) + 0.4)
    figure = Figure(figsize=(9.6, height + 0.8), dpi=150, layout="constrained")
    probability = explanation.posterior[explanation.predicted]
    figure.suptitle(
        f"{explanation.target or 'class'}: {explanation.predicted}, "
        f"probability {_percent(probability)}",
        fontsize=11,
    )
    halves = figure.add_gridspec(1, 2, width_ratios=(1, 2.6))
    column = halves[0, 0].subgridspec(2, 1, height_ratios=(bars, height - bars))
    _posterior(figure.add_subplot(column[0, 0]), explanation)
    axes = figure.add_subplot(column[1, 0])
    axes.set_axis_off()
    # From the figure's edge, or long names would run into the other panel's.
    place = blended_transform_factory(figure.transFigure, axes.transAxes)
    axes.text(
        0.01, 0.95, "\n".join(words), transform=place, ha="left", va="top", fontsize=8,
        color="#333333", in_layout=False,
    )  # fmt: skip
    panels = halves[0, 1].subgridspec(len(heights), 1, height_ratios=heights)
    if numeric:
        axes = figure.add_subplot(panels[0, 0])
        _numeric(axes, numeric)
        axes.set_title(_heading("numeric", len(numeric), len(explanation.numeric)), fontsize=9)
    if categorical:
        axes = figure.add_subplot(panels[len(heights) - 1, 0])
        _categorical(axes, categorical)
        heading = _heading("categorical", len(categorical), len(explanation.categorical))
        axes.set_title(heading, fontsize=9)
    if not explanation.children:
        axes = figure.add_subplot(panels[0, 0])
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no children: the parents alone decide", ha="center", color=GREY)
        return figure
    figure.legend(
        handles=_keys(numeric=bool(numeric), m_acts=explanation.m_acts),
        loc="outside lower right", ncols=4, fontsize=7.5, frameon=False,
    )  # fmt: skip
    return figure


def _keys(*, numeric: bool, m_acts: bool) -> list[Artist]:
    """What the legend explains."""
    keys: list[Artist] = [_marker("s", _GREEN, "under do(m = 0)")]
    if m_acts:
        keys.append(_marker("D", _ORANGE, "as explained, with M"))
    if numeric:
        usual = f"usual: do(m = 0) ± {_USUAL_SD:g} sd"
        keys.append(Patch(color=GREY, alpha=0.25, linewidth=0, label=usual))
        keys.insert(0, _marker("o", _BLUE, "observed"))
    return keys


def _heading(kind: str, shown: int, of: int) -> str:
    children = "child" if of == 1 else "children"
    return f"{kind} {children}" if shown == of else f"{shown} of {of} {kind} children"


def _words(explanation: Explanation) -> list[str]:
    """What M did, in lines of text."""
    if not explanation.children:
        return []
    if not explanation.m_acts:
        return ["M has no effect on this row,", "as before any fine-tuning"]
    doubt = ["The row is likelier without M:", "perhaps nothing was moved", ""]
    lines = doubt if explanation.note else []
    if not explanation.moved:
        return [*lines, "M moved no child", f"by more than {MOVED_SD:g} sd"]
    shifts = {c.name: f" {c.movement_sd:+.1f} sd" for c in explanation.numeric}
    listed = [f"  {_cut(name, 20)}{shifts.get(name, '')}" for name in explanation.moved]
    more = [f"  and {len(listed) - _LISTED} more"] if len(listed) > _LISTED else []
    return [*lines, "M moved", *listed[:_LISTED], *more]


def _shown(explanation: Explanation) -> tuple[list[NumericChild], list[CategoricalChild]]:
    """The children that fit, the most unusual first."""
    numeric = sorted(explanation.numeric, key=lambda child: -_unusual(child))
    categorical = sorted(
        explanation.categorical,
        key=lambda child: (child.observed is None, child.probabilities_do_m0[child.shown]),
    )
    room = max(_CATEGORICAL, _CHILDREN - len(numeric))
    categorical = categorical[:room]
    return numeric[: _CHILDREN - len(categorical)], categorical


def _unusual(child: NumericChild) -> float:
    """How far a child is, or was moved, from where do(m = 0) has it, in sd of p(x|.)."""
    return max(abs(child.surprise or 0.0), abs(child.movement_sd))


def _posterior(axes: Axes, explanation: Explanation) -> None:
    """Bars of p(y | a, x, c), the most probable class on top."""
    shown = sorted(explanation.posterior.items(), key=lambda item: -item[1])[:_CLASSES]
    names, values = zip(*shown, strict=True)
    colours = [_BLUE if name == explanation.predicted else "#b8c4ce" for name in names]
    bars = axes.barh(range(len(names)), values, color=colours, height=0.6)
    axes.bar_label(bars, [_percent(value) for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), [_cut(name, 16) for name in names], fontsize=8)
    axes.set(xlim=(0.0, 1.45), ylim=(len(names) - 0.4, -0.6), xticks=(0.0, 0.5, 1.0))
    axes.set_xlabel("p(y | a, x, c)", fontsize=8)
    hidden = len(explanation.posterior) - len(shown)
    axes.set_title(f"class ({hidden} more not shown)" if hidden else "class", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    tidy(axes)


def _numeric(axes: Axes, children: Sequence[NumericChild]) -> None:
    axes.use_sticky_edges = False  # bars keep a margin
    moves = []
    for place, child in enumerate(children):
        without, with_m = (
            (value - child.loc) / child.scale for value in (child.expected_do_m0, child.expected)
        )
        half = _USUAL_SD * child.sd / child.scale
        axes.barh(
            place, 2 * half, left=without - half, height=0.55, color=GREY, alpha=0.25, linewidth=0
        )
        moves.append((without, with_m))
        if child.observed is not None:
            seen = (child.observed - child.loc) / child.scale
            axes.plot(seen, place, "o", color=_BLUE, markersize=5, zorder=4)
    _moves(axes, moves)
    names = [_cut(c.name) + (" (missing)" if c.observed is None else "") for c in children]
    _rows(axes, names)
    axes.set_xlabel("standard deviations from the training mean of the column", fontsize=8)


def _categorical(axes: Axes, children: Sequence[CategoricalChild]) -> None:
    axes.set_xlim(-0.03, 1.03)
    shown = [(child.probabilities_do_m0, child.probabilities, child.shown) for child in children]
    _moves(axes, [(without[name], with_m[name]) for without, with_m, name in shown])
    names = []
    for child in children:
        missing = " (missing)" if child.observed is None else ""
        names.append(f"{_cut(child.name, 18)} = {_cut(child.shown, 14)}{missing}")
    _rows(axes, names)
    axes.set_xlabel("probability of this category", fontsize=8)


def _moves(axes: Axes, moves: Sequence[tuple[float, float]]) -> None:
    """Markers without and with M, the first on top, and arrows between those that differ."""
    for place, (without, with_m) in enumerate(moves):
        if with_m != without:
            axes.plot(with_m, place, "D", color=_ORANGE, markersize=4.5)
        axes.plot(without, place, "s", color=_GREEN, markersize=4.5)
    low, high = axes.get_xlim()
    for place, (without, with_m) in enumerate(moves):
        if abs(with_m - without) > _VISIBLE * (high - low):
            axes.annotate(
                "",
                xy=(with_m, place),
                xytext=(without, place),
                arrowprops={
                    "arrowstyle": "-|>", "color": _ORANGE, "linewidth": 1.2, "shrinkA": 0,
                    "shrinkB": 2,
                },
            )  # fmt: skip


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """A child a line, the first on top."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    tidy(axes)


def _marker(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], marker=marker, color=colour, linestyle="", markersize=5, label=label)


def _percent(probability: float) -> str:
    """Never 100 % or 0 %: a posterior is not certain."""
    if probability >= 0.9995:
        return "> 99.9 %"
    return "< 0.1 %" if probability < 0.0005 else f"{100 * probability:.1f} %"


def _cut(name: str, length: int = 28) -> str:
    """A long name without its middle: columns often differ by their ends alone."""
    head = (length - 1) // 2
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"
