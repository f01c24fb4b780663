"""Every picture of a report, as matplotlib figures of arrays and rows."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfcama.evaluation.results import Row, one_a_seed
from tfcama.report import labels

# Blue, orange and green as in the papers' figures (DNN, CAMA, CAMA fine-tuned), then others;
# distinguishable with the common colour-vision deficiencies, and by marker.
COLOURS = (
    *("#0072b2", "#e08214", "#1b7f4d", "#cc3311", "#7b4ea3"),
    *("#8c6d31", "#d0559c", "#555555", "#17a2b8", "#9aa300"),
)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">")
GREY = "#666666"
_LEGEND_LETTERS = 48  # more hide the curves: such a legend stands beside them


class Point(NamedTuple):
    """One point of a curve: mean over seeds, with the interval that the band shows."""

    x: float
    mean: float
    low: float
    high: float


def curve_points(rows: Sequence[Row], axis: str) -> dict[labels.Line, list[Point]]:
    """Rows to curves: one a line, points sorted.

    With one seed the band is the Wilson interval, with several the mean +- standard deviation, cut
    at 0 and 1.

    Args:
      rows: of one manipulation or one attack.
      axis: "level" or "eps".
    """
    grouped: dict[labels.Line, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[labels.line_of(row)][getattr(row, axis)].append(row)
    curves = {}
    for line, by_x in grouped.items():
        curves[line] = [_point(x, same) for x, same in sorted(by_x.items())]
    return curves


def _point(x: float, rows: Sequence[Row]) -> Point:
    """Of one line at x."""
    rows = one_a_seed(rows)
    values = np.array([row.accuracy for row in rows])
    mean = float(values.mean())
    if len(rows) == 1:
        return Point(x, mean, rows[0].low, rows[0].high)
    spread = float(values.std(ddof=1))
    return Point(x, mean, max(0.0, mean - spread), min(1.0, mean + spread))


def band_caption(rows: Sequence[Row]) -> str:
    """What the bands of `curve_points` are, for readers."""
    seeds = defaultdict(set)
    for row in rows:
        seeds[labels.line_of(row)].add(row.seed)
    counts = {len(found) for found in seeds.values()}
    if counts == {1}:
        return "Bands: Wilson 95 % intervals."
    alone = ", Wilson 95 % intervals where there is one seed" if 1 in counts else ""
    return f"Lines: means over {max(counts)} seeds; bands: one standard deviation{alone}."


def accuracy_curves(
    rows: Sequence[Row], *, axis: str, xlabel: str, title: str, chance: float
) -> Figure:
    """Accuracy against a level or an eps, in the form of the papers' Figures 1, 7, 10 and 11."""
    curves = curve_points(rows, axis)
    beside = any(len(line.label) > _LEGEND_LETTERS for line in curves)
    figure = Figure(figsize=(9.0 if beside else 6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    styles = _styles(curves)
    for line, points in curves.items():
        colour, marker = styles[line]
        x, mean, low, high = np.array(points).T
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            x,
            mean,
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.6,
            linestyle=":" if line.held_out else "-",
            label=textwrap.fill(line.label, _LEGEND_LETTERS),
        )
    axes.axhline(chance, color=GREY, linewidth=0.8, linestyle="--")
    axes.annotate(
        "chance", (0.995, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom",
        fontsize=7, color=GREY,
    )  # fmt: skip
    axes.set(xlabel=xlabel, ylabel="accuracy", ylim=(0.0, 1.02), title=title)
    tidy(axes)
    legend = axes.legend(fontsize=7.5, frameon=False, loc="upper left" if beside else "best")
    if beside:
        legend.set_bbox_to_anchor((1.0, 1.0))
    return figure


def _styles(lines: Iterable[labels.Line]) -> dict[labels.Line, tuple[str, str]]:
    """Colour and marker of each line: the papers' for the clean-trained DNN and CAMA, then others.

    Unseen images share the style of what was fine-tuned on the rest.
    """
    papers = {
        (model, "clean", "", ""): place
        for place, models in enumerate((("dnn", "measurement_dnn"), ("cama", "measurement_cama")))
        for model in models
    }
    kept = len(set(papers.values()))
    free = itertools.count(kept)
    places: dict[labels.Line, int] = {}
    for line in lines:
        curve = line._replace(held_out=False)
        if curve not in places:
            known = papers.get((line.model, line.trained_on, line.finetuned_on, line.variant))
            places[curve] = next(free) if known is None else known
        places[line] = places[curve]

    def style(place: int) -> tuple[str, str]:
        """Once all colours are taken the same ones come with other markers."""
        lap, turn = divmod(place - kept, len(COLOURS) - kept)
        colour = place if place < kept else kept + turn
        return COLOURS[colour], _MARKERS[(colour + max(0, lap)) % len(_MARKERS)]

    return {line: style(place) for line, place in places.items()}


def image_rows(
    rows: Sequence[tuple[str, np.ndarray]], *, title: str, captions: Sequence[str] = ()
) -> Figure:
    """Rows of images, one label a row: do(m = 0) grids, adversarial examples, samples.

    Args:
      rows: (label, [N, H, W, 1 or 3] in [0, 1]) with the same N.
      title: above all.
      captions: under the columns, one each.
    """
    columns = len(rows[0][1])
    below = 0.1 + 0.15 * max(len(text.splitlines()) for text in captions) if captions else 0.0
    figure = Figure(
        figsize=(1.6 + 0.62 * columns, 0.55 + 0.66 * len(rows) + below),
        dpi=150,
        layout="constrained",
    )
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, images) in enumerate(rows):
        for column in range(columns):
            _show(grid[row, column], images[column])
        grid[row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
    for column, caption in enumerate(captions):
        grid[-1, column].set_xlabel(caption, fontsize=7)
    return figure


def _show(axes: Axes, image: np.ndarray) -> None:
    grey = image.shape[-1] == 1
    axes.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0.0, vmax=1.0)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def accuracy_by_fraction(rows: Mapping[float, Sequence[Row]], *, title: str) -> Figure:
    """Accuracy against the share of test inputs that fine-tuning saw (the papers' Figure 8).

    Args:
      rows: share in [0, 1] -> rows, one a seed; 0 is the model as trained. Bands as curve_points.
      title: above.
    """
    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    shares = sorted(rows)
    _, means, lows, highs = np.array([_point(share, rows[share]) for share in shares]).T
    axes.fill_between(range(len(shares)), lows, highs, color=COLOURS[2], alpha=0.15, linewidth=0)
    axes.plot(range(len(shares)), means, color=COLOURS[2], marker=_MARKERS[2], linewidth=1.6)
    axes.set_xticks(range(len(shares)), [f"{100 * share:g} %" for share in shares])
    axes.set(xlabel="share of the test inputs", ylabel="accuracy", title=title)
    tidy(axes)
    return figure


def accuracy_matrix(
    accuracies: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    published: np.ndarray | None = None,
    spread: np.ndarray | None = None,
) -> Figure:
    """Accuracy of every model (rows) under every manipulation (columns), as numbers and colours.

    Args:
      accuracies: [rows, columns] in [0, 1]; NaN where nothing was measured.
      rows: their names.
      columns: their names.
      title: above.
      published: a paper's accuracies, shown in brackets below; NaN where it has none.
      spread: standard deviations over seeds, shown after a plus-minus; NaN for one seed.
    """
    # Inches of a letter of 7.5 points; the names of columns are turned by 35 degrees.
    letter = 0.062
    cells = 0.72 * len(columns), (0.27 if published is None else 0.4) * len(rows)
    names = letter * max(map(len, rows)), 0.6 * letter * max(map(len, columns))
    figure = Figure(
        figsize=(max(0.5 + names[0] + cells[0], 0.085 * len(title)), 0.8 + names[1] + cells[1]),
        dpi=150,
        layout="constrained",
    )
    axes = figure.add_subplot()
    image = axes.imshow(accuracies, cmap="RdYlBu", vmin=0.2, vmax=1.0, aspect="auto")
    brightness = image.to_rgba(accuracies)[..., :3] @ (0.299, 0.587, 0.114)
    for row, column in np.ndindex(accuracies.shape):
        values = [
            np.nan if table is None else 100 * table[row, column]
            for table in (accuracies, spread, published)
        ]
        own, std, paper = (
            form.format(value) if np.isfinite(value) else ""
            for form, value in zip(("{:.1f}", " ± {:.1f}", "({:.1f})"), values, strict=True)
        )
        lines = [line for line in (own + std, paper) if line]
        ink = "black" if brightness[row, column] > 0.5 else "white"
        axes.text(column, row, "\n".join(lines), ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", fontsize=7.5)
    axes.set_yticks(range(len(rows)), rows, fontsize=7.5)
    figure.suptitle(title, fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def robustness_against_accuracy(
    points: Sequence[tuple[str, float, float, float]], *, ylabel: str, title: str, chance: float
) -> Figure:
    """Accuracy under attack against clean accuracy, a point a model.

    Args:
      points: (name, clean accuracy, attacked accuracy, seconds of training).
      ylabel: which attack.
      title: above.
      chance: accuracy of guessing.
    """
    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, (name, clean, attacked, seconds) in enumerate(points):
        axes.plot(
            clean,
            attacked,
            color=COLOURS[place % len(COLOURS)],
            marker=_MARKERS[(place + place // len(COLOURS)) % len(_MARKERS)],  # no pair twice
            markersize=7,
            linestyle="",
            label=f"{name} ({seconds / 60:.0f})",
        )
    axes.axhline(chance, color=GREY, linewidth=0.8, linestyle="--")
    axes.set(xlabel="clean accuracy", ylabel=ylabel, ylim=(-0.02, 1.02), title=title)
    tidy(axes)
    axes.legend(
        title="minutes of training in brackets",
        title_fontsize=7.5,
        fontsize=7.5,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    return figure


def recovered_parameters(
    found: Sequence[tuple[str, np.ndarray, np.ndarray]], *, title: str
) -> Figure:
    """What a model infers of each input's manipulation against what was done.

    Args:
      found: (name and unit, true [N], inferred [N]), one a panel.
      title: above all.
    """
    columns = min(5, len(found))
    lines = math.ceil(len(found) / columns)
    shown = textwrap.wrap(title, 38 * columns)  # what a panel's width holds
    height = 3.0 * lines + 0.15 + 0.15 * len(shown)
    figure = Figure(figsize=(3.1 * columns, height), dpi=150, layout="constrained")
    figure.suptitle("\n".join(shown), fontsize=10)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    for axes, (name, true, inferred) in zip(panels, found, strict=False):
        ends = [min(true.min(), inferred.min()), max(true.max(), inferred.max())]
        axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle="--")
        axes.scatter(true, inferred, s=4, color=COLOURS[1], alpha=0.5, linewidths=0)
        axes.set(xlabel=textwrap.fill(f"true {name}", 32), ylabel="inferred")
        tidy(axes)
    return figure


def intervals(
    found: np.ndarray, *, true: np.ndarray, xlabel: str, ylabel: str, title: str
) -> Figure:
    """An interval a class beside the truth.

    Args:
      found: [classes, 3], low, middle and high.
      true: [classes].
      xlabel: what the classes are.
      ylabel: what is told of them.
      title: above.
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(found))
    low, middle, high = found.T
    bars = [np.abs(middle - low), np.abs(high - middle)]
    axes.errorbar(places, middle, yerr=bars, fmt="o", color=COLOURS[1], capsize=3, label="learned")
    axes.plot(places, true, "x", color=COLOURS[0], label="true")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xticks=places)
    tidy(axes)
    axes.legend(fontsize=7.5, frameon=False)
    return figure


def ranking(
    values: Sequence[float],
    *,
    errors: Sequence[float],
    names: Sequence[str],
    xlabel: str,
    title: str,
) -> Figure:
    """One value a line, the best on top.

    Args:
      values: the best first.
      errors: half lengths of their bars.
      names: of the lines.
      xlabel: what the values are.
      title: above.
    """
    figure = Figure(figsize=(6.8, 1.2 + 0.34 * len(values)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(values))
    axes.errorbar(values, places, xerr=errors, fmt="o", color=COLOURS[0], capsize=3)
    axes.set(xlabel=xlabel, yticks=places, yticklabels=names)
    axes.set_title(title, fontsize=10)
    axes.invert_yaxis()
    axes.margins(y=0.12)
    tidy(axes)
    return figure


def stream_course(
    *,
    log_px: Mapping[str, np.ndarray],
    hits: Mapping[str, np.ndarray],
    segments: Sequence[tuple[int, str]],
    changes: Sequence[int],
    alarms: Sequence[int],
    window: int,
    title: str,
) -> Figure:
    """Log p(x) and accuracy along a stream, with the changes that were and that were found.

    Args:
      log_px: model -> [N] nats.
      hits: model -> [N] bool.
      segments: first input and name of each; lines are means within one.
      changes: the inputs at which something changed.
      alarms: the inputs at which a detector said so.
      window: inputs over which lines are means.
      title: above both panels.
    """
    figure = Figure(figsize=(8.4, 5.2), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=10)
    upper, lower = figure.subplots(2, 1, sharex=True)
    starts = [start for start, _ in segments]
    size = len(next(iter(log_px.values())))
    for axes, series in ((upper, log_px), (lower, hits)):
        for place, (name, values) in enumerate(series.items()):
            colour = COLOURS[(2, 0, 1)[place]]
            for start, end in itertools.pairwise([*starts, size]):
                axes.plot(
                    np.arange(start, end),
                    _trailing_mean(values[start:end], window),
                    color=colour,
                    linewidth=1.6,
                    label=name if start == starts[0] else None,
                )
        for change in changes:
            axes.axvline(change, color=GREY, linewidth=0.8, linestyle="--")
        tidy(axes)
    low, high = upper.get_ylim()
    upper.set_ylim(low, high + 0.18 * (high - low))
    upper.plot(
        alarms, [low] * len(alarms), "^", color=COLOURS[3], clip_on=False, label="alarm", zorder=5
    )
    for start, name in segments:
        upper.annotate(
            name, (start, 1.0), xycoords=("data", "axes fraction"), fontsize=7.5, color=GREY,
            xytext=(4, -2), textcoords="offset points", va="top",
        )  # fmt: skip
    upper.set(ylabel="log p(x), nats")
    upper.legend(fontsize=7.5, frameon=False, loc="best")
    lower.legend(fontsize=7.5, frameon=False, loc="lower right")
    lower.set(xlabel="inputs", ylabel="accuracy", ylim=(0.0, 1.02))
    lower.set_xlim(0, size)
    return figure


def _trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means over the last `window` values, [N]; NaN before there is a tenth of them."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    return np.where(ends >= window // 10, means, np.nan)


def tidy(axes: Axes) -> None:
    """A faint grid, and no frame at the top and on the right."""
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def training_curves(histories: dict[str, list[dict[str, float]]], *, title: str) -> Figure:
    """Validation accuracy and objective against the epoch, one line a run.

    Dashed is the accuracy under attack of runs whose training attacks.

    Args:
      histories: name -> the lines of metrics.jsonl.
      title: above both panels.
    """
    figure = Figure(figsize=(9.6, 3.4), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2)
    for place, (name, history) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in history]
        again, colour = divmod(place, len(COLOURS))
        style: dict[str, Any] = {
            "color": COLOURS[colour],
            "linewidth": 1.5,
            "marker": ("", "o", "s")[again % 3],
            "markersize": 3.5,
        }
        for axes, key in ((left, "val_accuracy"), (right, "val_loss")):
            axes.plot(epochs, [row.get(key, np.nan) for row in history], label=name, **style)
        robust = [row.get("val_robust_accuracy", np.nan) for row in history]
        left.plot(epochs, robust, linestyle="--", **style)
    left.set(xlabel="epoch", ylabel="validation accuracy")
    right.set(xlabel="epoch", ylabel="validation loss (own unit)")
    for axes in (left, right):
        tidy(axes)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=7.5, frameon=False)
    return figure
