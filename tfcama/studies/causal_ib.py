"""CausalIB's Tables 1 and 2: its defences and ours, the paper's number beside ours.

Beside the paper's attacks half of its radius, the loss that its authors attack (softmax outputs
taken for logits), expectation over 1 and over 20 noise draws, 100 steps over 10, and the strong
protocol's 100 steps over 20 from ten starts; and the combinations of bottlenecks with adversarial
training that a user would ask for.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from tfcama.errors import InputError
from tfcama.evaluation import curves, results, robustness
from tfcama.evaluation.checks import Check
from tfcama.evaluation.results import Row
from tfcama.evaluation.smoothed import smoothed
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.report import bottleneck, figures
from tfcama.report.build import training_pictures
from tfcama.report.pictures import Picture, load_all, save, to_png
from tfcama.studies.causal_ib_methods import (
    ATTACKS,
    CLEAN,
    FGSM,
    METHODS,
    PGD,
    STRONGEST,
    Attack,
    Setting,
    label,
    published,
    run_of,
    setting,
)
from tfcama.studies.side_by_side import Piece
from tfcama.studies.study import Study, of_first_seed
from tfcama.workdir import Workdir

_PICTURED = ("vib", "causal_ib")


class Profile(NamedTuple):
    """How much of the table is made.

    Attributes:
      epochs: of training; the paper's are 50.
      costly_epochs: of methods that attack at every step, and of nine gazes.
      steps_per_epoch: 0 for all training rows.
      methods: keys of METHODS.
      attacks: columns of ATTACKS.
      limit: test images that are attacked; None for all.
      few: the same of methods whose answers cost much, and of attacks that do.
      repeated: methods of all seeds; the others are of the first alone.
    """

    epochs: int
    costly_epochs: int
    steps_per_epoch: int
    methods: tuple[str, ...]
    attacks: tuple[str, ...]
    limit: int | None
    few: int
    repeated: tuple[str, ...] = tuple(METHODS)


_CHEAP = tuple(name for name, m in METHODS.items() if not m.costly and not m.attacks)

PROFILES = {
    "full": Profile(50, 50, 0, tuple(METHODS), ATTACKS, 1000, 200),
    "core": Profile(50, 3, 0, tuple(METHODS), ATTACKS, 500, 50, repeated=_CHEAP),
    "hour": Profile(25, 1, 0, ("baseline", "vib", "causal_ib"), ATTACKS, 500, 50),
    "quick": Profile(1, 1, 60, tuple(METHODS), (FGSM, PGD, STRONGEST), 50, 10),
}


@dataclasses.dataclass(frozen=True)
class CausalIbStudy(Study):
    """Table 1 or, on CIFAR-10, Table 2, and what a user asks after them."""

    PROFILES: ClassVar[Mapping[str, Profile]] = PROFILES
    default_dataset: ClassVar[str] = "mnist"

    @property
    def title(self) -> str:
        number = self.setting.table.removeprefix("table") or "1"
        return f"Bottlenecks and defences on {self.dataset} (CausalIB, Table {number})"

    @property
    def setting(self) -> Setting:
        return setting(self.dataset)

    def pieces(self, seed: int) -> dict[str, Piece]:
        """Its rows."""
        return {
            name: Piece(functools.partial(self._method, name, seed))
            for name in self.profile.methods
        }

    @property
    def repeated(self) -> CausalIbStudy:
        profile = self.profile
        again = tuple(name for name in profile.methods if name in profile.repeated)
        return dataclasses.replace(self, profile=profile._replace(methods=again))

    def _picture_bottlenecks(self, workdirs: Sequence[Workdir]) -> None:
        """Codes, information plane and adversarial examples of VIB and CausalIB, once."""
        if not workdirs or load_all(workdirs[0]):
            return
        subjects = [load_subject(workdir, data_dir=self.data_dir) for workdir in workdirs]
        attack = self.setting.attacks[PGD]
        together = [
            bottleneck.adversarial_side_by_side(subjects, attack.spec, attack.eps),
            bottleneck.information_plane(subjects),
        ]
        for subject in reversed(subjects):  # what the first has tells that all is there
            save(subject.workdir, bottleneck.latent_scatter(subject))
        for picture in together:
            save(subjects[0].workdir, picture)

    def _method(self, name: str, seed: int) -> Workdir:
        method, profile = METHODS[name], self.profile
        how = run_of(
            name,
            self.dataset,
            epochs=profile.epochs,
            costly_epochs=profile.costly_epochs,
            steps_per_epoch=profile.steps_per_epoch,
            precision=self.precision,
        )
        workdir = self.trained(name, seed, **how)

        def clean(subject: Subject) -> list[Row]:
            return [curves.clean(smoothed(subject) if method.smoothed else subject, CLEAN)]

        def attacked(attack: Attack, subject: Subject) -> list[Row]:
            subject = smoothed(subject) if method.smoothed else subject
            return robustness.attack_curve(
                subject, attack.spec, [attack.eps], progress=self.progress
            )[0]

        self.once(workdir, CLEAN, clean)
        for column in profile.attacks:
            attack = self.setting.attacks[column]
            self.once(
                workdir,
                _experiment(column),
                functools.partial(attacked, attack),
                limit=profile.few if method.many or attack.few else profile.limit,
                attack=attack.spec,
                eps=attack.eps,
            )
        return workdir

    # --- report --------------------------------------------------------------------------------

    def _table(self, workdirs: Sequence[Workdir]) -> list[TableRow]:
        return table(workdirs, dataset=self.dataset)

    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        del rows
        found = self._table(workdirs)
        columns = [CLEAN, *self.profile.attacks]
        ours, spread, papers = (
            np.array([[values.get(c, np.nan) for c in columns] for values in lines])
            for lines in zip(*((line.mean, line.spread, line.paper) for line in found), strict=True)
        )
        matrix = figures.accuracy_matrix(
            ours,
            rows=[line.name_in_full for line in found],
            columns=[label(column) for column in columns],
            title=f"Accuracy on {self.dataset}, %: ours (the paper's)",
            published=papers,
            spread=spread,
        )
        caption = (
            f"eps {self.setting.fraction}, max norm; mean ± standard deviation over seeds; attacks "
            f"on the first {self.profile.limit or 'all'} test images ({self.profile.few} where an "
            "answer is a mean over many, randomized smoothing and CiiV, and from ten starts), "
            "clean on all. Losses are on logits but for double softmax, which is what the paper's "
            "authors attack."
        )
        shown = [Picture("table", "attack", "The paper's table", caption, to_png(matrix))]
        attacked = [line for line in found if {CLEAN, STRONGEST} <= line.mean.keys()]
        if attacked:
            figure = figures.robustness_against_accuracy(
                [
                    (line.label, line.mean[CLEAN], line.mean[STRONGEST], line.seconds)
                    for line in attacked
                ],
                ylabel=f"accuracy under {label(STRONGEST)}",
                title=f"What robustness costs, {self.dataset}, eps {self.setting.fraction}",
                chance=chance,
            )
            caption = "Further up is more robust, further right is better on clean images. In "
            caption += "brackets: minutes of training."
            shown.append(
                Picture("trade_off", "attack", "Which defence to take", caption, to_png(figure))
            )
        first = of_first_seed(workdirs)
        self._picture_bottlenecks([w for w in first if w.root.name in _PICTURED])
        kept = [
            picture._replace(name=f"{picture.name}_{workdir.root.name}")
            for workdir in first
            for picture in load_all(workdir)
        ]
        return shown + kept + training_pictures(first)

    def files(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, str]:
        del rows
        return {"table.csv": to_csv(self._table(workdirs))}

    def checks(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, list[Check]]:
        del rows
        found = {line.name: line for line in self._table(workdirs)}
        return {"Do the paper's claims hold?": claims(found, dataset=self.dataset)}


def _experiment(column: str) -> str:
    """Under which name the rows of a column are saved."""
    return column if column == CLEAN else f"attack_{column}"


class TableRow(NamedTuple):
    """A method's accuracies, in [0, 1], by column: CLEAN or an attack.

    Attributes:
      name, label: of the method.
      mean: over seeds.
      spread: standard deviation over seeds; empty for one.
      paper: the paper's, where it has the method and the data set.
      seeds: how many every column has, at least.
      epochs: of training.
      seconds: of training, mean over seeds.
    """

    name: str
    label: str
    mean: dict[str, float]
    spread: dict[str, float]
    paper: dict[str, float]
    seeds: int
    epochs: int
    seconds: float

    @property
    def name_in_full(self) -> str:
        """Label, epochs and seeds, for a figure."""
        seeds = f"{self.seeds} seeds" if self.seeds > 1 else "1 seed"
        return f"{self.label}, {self.epochs} epochs, {seeds}"

    def shown(self, column: str) -> str:
        """Accuracy in a column with its spread, where there is one."""
        spread = f" ± {self.spread[column]:.3f}" if column in self.spread else ""
        return f"{self.mean[column]:.3f}{spread}"


def table(workdirs: Sequence[Workdir], *, dataset: str) -> list[TableRow]:
    """Means over seeds of what the runs of a study left, a row a method.

    Args:
      workdirs: <root>/seed<n>/<method>.
      dataset: a key of DATASETS.

    Raises:
      InputError: a run has no results.
    """
    where, lines = setting(dataset), []
    for name in dict.fromkeys(workdir.root.name for workdir in workdirs):
        own = [workdir for workdir in workdirs if workdir.root.name == name]
        values: dict[str, list[float]] = {}
        for column in (CLEAN, *where.attacks):
            # Of this experiment alone: somebody may have scored the run by hand.
            rows = [row for w in own for row in results.load_rows(w, _experiment(column))]
            hits = [row.accuracy for row in rows if where.column(row.attack, row.eps) == column]
            if hits:
                values[column] = hits
        if not values:
            raise InputError(f"{own[0].root} has no results; run the study again.")
        history = [[json.loads(s) for s in w.metrics_file.read_text().splitlines()] for w in own]
        lines.append(
            TableRow(
                name,
                METHODS[name].label,
                {column: float(np.mean(v)) for column, v in values.items()},
                {c: float(np.std(v, ddof=1)) for c, v in values.items() if len(v) > 1},
                published(name, dataset),
                min(len(v) for v in values.values()),
                max(len(h) for h in history),
                float(np.mean([sum(line.get("seconds", 0.0) for line in h) for h in history])),
            )
        )
    return lines


def to_csv(lines: Sequence[TableRow]) -> str:
    """The table for programs: percent, ours with spread beside the paper's."""
    columns = [c for c in (CLEAN, *ATTACKS) if any(c in line.mean for line in lines)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("", " std", " paper")
    writer.writerow(
        ["method", "seeds", "epochs", "training seconds"]
        + [label(column) + part for column in columns for part in parts]
    )
    for line in lines:
        numbers = [
            f"{100 * values[column]:.2f}" if column in values else ""
            for column in columns
            for values in (line.mean, line.spread, line.paper)
        ]
        writer.writerow([line.label, line.seeds, line.epochs, f"{line.seconds:.0f}", *numbers])
    return text.getvalue()


_CLEAN_AT_LEAST = 0.985
_KEPT = 0.01
_CLOSE = 0.05


def claims(found: Mapping[str, TableRow], *, dataset: str) -> list[Check]:
    """What the paper says of its table, and what an honest evaluation asks of ours.

    Args:
      found: the table by method.
      dataset: a key of DATASETS.
    """
    checks = []
    causal, plain = found.get("causal_ib"), found.get("baseline")
    if causal is not None and dataset == "mnist":
        checks.append(
            Check(
                "CausalIB keeps clean accuracy (98.5 % on MNIST)",
                causal.mean[CLEAN] >= _CLEAN_AT_LEAST,
                f"{causal.mean[CLEAN]:.4f}",
            )
        )
    elif causal is not None and plain is not None:
        checks.append(
            Check(
                "CausalIB keeps clean accuracy (within 1 point of no defence)",
                causal.mean[CLEAN] >= plain.mean[CLEAN] - _KEPT,
                f"{causal.mean[CLEAN]:.4f} against {plain.mean[CLEAN]:.4f}",
            )
        )
    for vib in (found.get(name) for name in ("vib", "vib_same_alpha")):
        if causal is None or vib is None:
            continue
        for attack in (FGSM, PGD, STRONGEST):
            if attack in causal.mean and attack in vib.mean:
                checks.append(
                    Check(
                        f"CausalIB is more robust than {vib.label}: {label(attack)}",
                        causal.mean[attack] > vib.mean[attack],
                        f"{causal.shown(attack)} against {vib.shown(attack)}",
                    )
                )
    for line in found.values():
        for column, paper in line.paper.items():
            if column in line.mean:
                checks.append(
                    Check(
                        f"{line.label}, {label(column)}: within 5 points of the paper",
                        abs(line.mean[column] - paper) <= _CLOSE,
                        f"{line.shown(column)}, paper {paper:.3f}",
                    )
                )
    return checks
