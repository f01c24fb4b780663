"""Reads what runs left behind and writes report.json, PNGs and index.html."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from tfcama import provenance, specs
from tfcama.data.manipulations import MANIPULATIONS
from tfcama.errors import InputError
from tfcama.evaluation.checks import Check, load_checks
from tfcama.evaluation.over_seeds import OverSeeds
from tfcama.evaluation.results import Row, commits, load_rows, one_a_seed
from tfcama.evaluation.subject import load_spec
from tfcama.report import figures, labels
from tfcama.report.pictures import Picture, curve_pictures, load_all, slug, to_png
from tfcama.report.schema import Report
from tfcama.training.config import RunConfig
from tfcama.types import InputSpec
from tfcama.workdir import (
    Workdir,
    atomic_directory,
    entries,
    write_bytes,
    write_json,
    write_text,
)

_TEMPLATE = "index.html.j2"
_REPORT = "report.json"
_SUFFIXES = (".json", ".png", ".html", ".csv")
_DRAWN = {
    "image": "Each test image is manipulated by a draw of its own, how far says the level.",
    "table": "Every row is shifted by the same amount.",
}


def build(workdirs: Sequence[Workdir], target: Path, *, title: str) -> Report:
    """The report of one or several runs.

    Args:
      workdirs: finished and evaluated runs.
      target: directory that will hold report.json, *.png and index.html; replaced as a whole.
      title: of the page.

    Raises:
      InputError: a workdir holds no run, or none of them was evaluated.
    """
    spec, *_ = [load_spec(workdir) for workdir in workdirs]
    rows = [row for workdir in workdirs for row in load_rows(workdir)]
    if not rows:
        raise InputError(
            f"no results under {', '.join(str(w.root) for w in workdirs)}; "
            "run trainers.evaluate or trainers.attack first."
        )
    kept = [picture for workdir in workdirs for picture in _renamed(workdir, workdirs)]
    checks: dict[str, list[Check]] = {}
    for workdir in workdirs:
        checks |= load_checks(workdir, of=_name(workdir, workdirs))
    return write_report(
        workdirs,
        target,
        rows=rows,
        pictures=_curves(rows, spec) + training_pictures(workdirs) + kept,
        checks=checks,
        title=title,
    )


def write_report(
    workdirs: Sequence[Workdir],
    target: Path,
    *,
    rows: Sequence[Row],
    pictures: Sequence[Picture],
    checks: dict[str, list[Check]],
    title: str,
    files: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Writes report.json, the pictures, index.html and further files, all or nothing.

    Args:
      workdirs: the runs behind the rows.
      target: replaced as a whole.
      rows: the results.
      pictures: with names that differ.
      checks: by what they are about.
      title: of the page.
      files: name -> text.

    Raises:
      InputError: see check_target.
    """
    check_target(target)
    configs = [RunConfig.from_json(workdir.read_config()) for workdir in workdirs]
    report = Report(
        config={_name(w, workdirs): c.to_json() for w, c in zip(workdirs, configs, strict=True)},
        commit=provenance.commit(),
        versions=provenance.versions(),
        seed=configs[0].seed,
        seconds=round(sum(_seconds(workdir) for workdir in workdirs), 1),
        rows=tuple(rows),
        made_by={_name(w, workdirs): commits(w) for w in workdirs},
    )
    with atomic_directory(target) as temporary:
        write_json(temporary / _REPORT, report.to_json())
        for picture in pictures:
            write_bytes(temporary / f"{picture.name}.png", picture.png)
        write_text(temporary / "index.html", _html(report, pictures, checks, title=title))
        for name, text in files.items():
            write_text(temporary / name, text)
    return report


def check_target(target: Path) -> None:
    """Refuses a directory that a report would take something else away with.

    Raises:
      InputError: it is a file, holds anything but an earlier report, or cannot be read.
    """
    found = [
        path
        for path in entries(target, what="report")
        if path.is_dir() or not path.name.startswith(".")
    ]
    others = [path for path in found if path.is_dir() or path.suffix not in _SUFFIXES]
    if found and (others or target / _REPORT not in found):
        raise InputError(
            f"{target} holds what is no report ({(others or found)[0].name}); a report goes "
            "where nothing is, or where an earlier one is, which it replaces. Move what is there."
        )


def _name(workdir: Workdir, workdirs: Sequence[Workdir]) -> str:
    """The workdir's path, as far as it differs from the others'; of one alone its last part."""
    if len(workdirs) == 1:
        return workdir.root.resolve().name
    parts = [w.root.resolve().parts for w in workdirs]
    shared = 0
    while len({p[shared : shared + 1] for p in parts}) == 1 and parts[0][shared:]:
        shared += 1
    return "/".join(workdir.root.resolve().parts[shared:]) or workdir.root.name


def _renamed(workdir: Workdir, workdirs: Sequence[Workdir]) -> list[Picture]:
    """The workdir's pictures, under names that do not clash with another's."""
    found = load_all(workdir)
    if len(workdirs) == 1:
        return found
    prefix = _name(workdir, workdirs).replace("/", "_")
    return [picture._replace(name=f"{prefix}_{picture.name}") for picture in found]


def _seconds(workdir: Workdir) -> float:
    return sum(row.get("seconds", 0.0) for row in _history(workdir))


def _history(workdir: Workdir) -> list[dict[str, float]]:
    if not workdir.metrics_file.exists():
        return []
    return [json.loads(line) for line in workdir.metrics_file.read_text().splitlines()]


def _curves(rows: Sequence[Row], spec: InputSpec) -> list[Picture]:
    chance = 1.0 / spec.num_classes
    by_manipulation, by_attack = defaultdict(list), defaultdict(list)
    for row in rows:
        if row.attack:
            by_attack[row.attack].append(row)
        elif row.manipulation:
            by_manipulation[row.manipulation].append(row)
    drawn: list[Picture] = []
    for manipulation, group in by_manipulation.items():
        about = labels.manipulation_name(manipulation)
        unit = MANIPULATIONS[manipulation.split(":")[0].split("+")[0]].unit
        drawn += curve_pictures(
            f"accuracy_{slug(manipulation)}",
            group,
            axis="level",
            xlabel=f"{about} ({unit})",
            title=about,
            heading=f"Accuracy against {about}",
            caption=_DRAWN[spec.kind],
            chance=chance,
        )
    for attack, group in by_attack.items():
        about = labels.attack_name(attack)
        drawn += curve_pictures(
            f"attack_{slug(attack)}",
            group,
            axis="eps",
            xlabel=labels.eps_label(spec, attack),
            title=about,
            heading=f"Accuracy under {about}",
            chance=chance,
        )
    return drawn


def training_pictures(workdirs: Sequence[Workdir]) -> list[Picture]:
    """Validation accuracy and objective of the runs that were trained, in one picture."""
    histories = {_name(w, workdirs): _history(w) for w in workdirs}
    shown = {name: h for name, h in histories.items() if h and "val_accuracy" in h[0]}
    if not shown:
        return []
    return [
        Picture(
            name="training",
            section="model",
            title="Training",
            caption="On held-out training rows, after every epoch; dashed: under PGD, where "
            "training attacks. The losses of different families are not comparable: a generative "
            "model's is the negative ELBO.",
            png=to_png(figures.training_curves(shown, title="training")),
        )
    ]


def _html(
    report: Report, shown: Sequence[Picture], checks: dict[str, list[Check]], *, title: str
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfcama.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for picture in shown:
        encoded = base64.b64encode(picture.png).decode()
        sections[picture.section].append({**picture._asdict(), "source": encoded})
    return environment.get_template(_TEMPLATE).render(
        title=title,
        report=report,
        table=_summary(report.rows),
        sections=sections,
        checks=checks,
        labels=labels,
        configs={name: json.dumps(c, indent=1) for name, c in report.config.items()},
    )


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    """One line a model; columns: clean, and the least, the middle and the largest strength.

    A cell is the mean over seeds, with their standard deviation; of one seed with its interval. Of
    rows that were scored on different numbers of inputs only those of the most count; of several
    adaptations, one for each strength, which clean images meet one and all, the worst.
    """
    chosen = [row for row in rows if not row.experiment.endswith("_held_out")]
    strengths: dict[str, set[float]] = defaultdict(set)
    lines: dict[str, dict[tuple[str, float], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in chosen:
        about, strength = _condition(row)
        strengths[about].add(strength)
        line = labels.line_of(row)._replace(clean=False)
        lines[line.label][about, strength].append(row)
    columns = []
    for about in sorted(strengths, key=lambda about: (about != _CLEAN, "eps" in about)):
        values = sorted(strengths[about])
        picked = {values[0], values[len(values) // 2], values[-1]}
        columns += [(about, value) for value in sorted(picked)]
    cells = {
        line: {column: _lowest_cell(group) for column, group in conditions.items()}
        for line, conditions in lines.items()
    }
    return {"columns": columns, "lines": cells}


def _lowest_cell(rows: Sequence[Row]) -> dict[str, Any]:
    by_adaptation: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_adaptation[row.finetuned_on].append(row)
    cells = [_cell(_of_most_inputs(group)) for group in by_adaptation.values()]
    lowest = min(cells, key=lambda cell: cell["accuracy"])
    if len(cells) > 1:
        lowest["small"] = f"lowest of {len(cells)}, {lowest['small']}"
    return lowest


def _cell(rows: Sequence[Row]) -> dict[str, Any]:
    rows = one_a_seed(rows)
    found = OverSeeds.of(rows)
    first = rows[0]
    if len(found.by_seed) > 1:
        small = f"± {100 * found.spread:.1f}, {len(found.by_seed)} seeds"
    else:
        small = f"{100 * first.low:.1f}–{100 * first.high:.1f}"
        if first.spread is not None:
            small += f", ± {100 * first.spread:.1f} by draw"
    return {"accuracy": found.mean, "small": f"{small}, n = {first.n}"}


def _of_most_inputs(rows: Sequence[Row]) -> list[Row]:
    most = max(row.n for row in rows)
    return [row for row in rows if row.n == most]


_CLEAN = "clean"


def _condition(row: Row) -> tuple[str, float]:
    """What was done to the inputs, and how strongly; 0 where that is said already."""
    if row.experiment in labels.CLEAN:
        return _CLEAN, 0.0
    if row.attack and row.eps > 0:
        return f"{labels.attack_name(row.attack)} eps", row.eps
    if row.manipulation and row.level > 0:
        whole = specs.has_number(row.manipulation)  # its name tells its levels
        return labels.manipulation_name(row.manipulation), 0.0 if whole else row.level
    return _CLEAN, 0.0
