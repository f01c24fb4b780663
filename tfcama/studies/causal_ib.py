"""CausalIB's Table 1: its defences and ours on MNIST or Fashion-MNIST, paper's number beside ours.

Networks, optimiser and attacks are the authors' (mlp, Adam 1e-4, batches of 100, eps 50/255, PGD of
20 steps of 0.01), with the loss on logits. Beside them the radius if it was meant on the authors'
inputs, which are scaled to [-1, 1], the loss that they attack (softmax outputs taken for logits),
expectation over 1 and over 20 noise draws, and 100 steps over 10; and the combinations of
bottlenecks with adversarial training that a user would ask for.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tfcama.errors import InputError
from tfcama.evaluation import results, robustness
from tfcama.evaluation.results import Row, scored
from tfcama.evaluation.robustness import Check
from tfcama.evaluation.smoothed import smoothed
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.report import bottleneck, figures
from tfcama.report.build import training_pictures
from tfcama.report.pictures import Picture, load_all, save, slug, to_png
from tfcama.studies.study import Study
from tfcama.training.config import TrainingConfig
from tfcama.workdir import Workdir

EPS = 50 / 255
_BALL = f"eps={EPS:.6f}"
_STEP = "step_size=0.01"
_BATCH = 100


class Method(NamedTuple):
    """A row of the table.

    Attributes:
      label: for people.
      model: a key of MODELS.
      architecture: what differs from the model's defaults.
      defence: of training, see DEFENCES; "" for none.
      smoothed: answers are means over noisy copies.
      costly: training takes many times as long; profiles give it epochs of its own.
      many: an answer is itself a mean over some thirty; profiles attack fewer images.
    """

    label: str
    model: str
    architecture: Mapping[str, Any]
    defence: str = ""
    smoothed: bool = False
    costly: bool = False
    many: bool = False


_PLAIN = {"hidden": 256}
_VIB = {"alpha": 0.01, "unit": "bits"}
_CAUSAL = {"alpha": 0.05, "beta": 0.05, "unit": "bits"}
_FGSM_TRAINING = f"adversarial:attack=fgsm:{_BALL}"
_PGD_TRAINING = f"adversarial:attack=pgd:{_BALL}:steps=20:{_STEP}"
_RAMPED_TRAINING = f"{_PGD_TRAINING}:ramp=1000"  # a bottleneck does not start to learn without
_TRADES = f"trades:beta=6:{_BALL}:steps=10"

METHODS = {
    "baseline": Method("no defence", "classifier", _PLAIN),
    "mixup": Method("mixup", "classifier", _PLAIN, "mixup:alpha=1"),
    "randomized_smoothing": Method(
        "randomized smoothing", "classifier", _PLAIN, "noise:sigma=0.25", smoothed=True, many=True
    ),
    "vib": Method("VIB", "vib", _VIB),
    "causal_ib": Method("CausalIB", "causal_ib", _CAUSAL),
    "at_fgsm": Method("AT (FGSM)", "classifier", _PLAIN, _FGSM_TRAINING),
    "at_pgd20": Method("AT (PGD-20)", "classifier", _PLAIN, _PGD_TRAINING, costly=True),
    "trades": Method("TRADES", "classifier", _PLAIN, _TRADES, costly=True),
    "vib_at_pgd20": Method("VIB + AT (PGD-20)", "vib", _VIB, _RAMPED_TRAINING, costly=True),
    "causal_ib_at_pgd20": Method(
        "CausalIB + AT (PGD-20)", "causal_ib", _CAUSAL, _RAMPED_TRAINING, costly=True
    ),
    "ciiv": Method("CiiV", "ciiv", {}, costly=True, many=True),
}


def _column(attack: str, eps: float) -> str:
    """What stands for an attack of this radius: a key of ATTACKS; CLEAN for none."""
    if not attack:
        return CLEAN
    return attack if eps == EPS else f"{attack} eps {eps:g}"


class Attack(NamedTuple):
    """A column of the table.

    Attributes:
      spec: see `attacks.registry.parse`.
      label: for people.
      eps: the radius.
    """

    spec: str
    label: str
    eps: float = EPS


CLEAN = "clean"
_HALF = EPS / 2  # 50/255 where inputs are scaled to [-1, 1]; steps of 0.005 are 0.01 there
_FGSM, _PGD = "fgsm", f"pgd:steps=20:{_STEP}"
_PGD_SHORT = "pgd:steps=20:step_size=0.005"
_FGSM_HALF, _PGD_HALF = _column(_FGSM, _HALF), _column(_PGD_SHORT, _HALF)
_STRONGEST = "pgd_eot:steps=100:draws=10"
ATTACKS = {
    _column(attack.spec, attack.eps): attack
    for attack in (
        Attack(_FGSM, "FGSM"),
        Attack(_PGD, "PGD-20"),
        Attack(_FGSM, "FGSM, half eps", _HALF),
        Attack(_PGD_SHORT, "PGD-20, half eps", _HALF),
        Attack("fgsm:loss=double_softmax", "FGSM, double softmax"),
        Attack(f"{_PGD}:loss=double_softmax", "PGD-20, double softmax"),
        Attack("pgd_eot:steps=20:draws=1", "PGD-20, EOT 1"),
        Attack("pgd_eot:steps=20:draws=20", "PGD-20, EOT 20"),
        Attack(_STRONGEST, "PGD-100, EOT 10"),
    )
}
"""Column -> attack; the first two are the paper's as it prints them, the last is the headline."""

_PICTURED = ("vib", "causal_ib")
_PAPER_COLUMNS = {
    CLEAN: "clean",
    _FGSM: "fgsm",
    _PGD: "pgd20",
    _FGSM_HALF: "fgsm",  # the paper does not say on which scale its radius is
    _PGD_HALF: "pgd20",
}
_PAPER_DATASETS = {"mnist": "mnist", "fashion_mnist": "fashion"}


class Profile(NamedTuple):
    """How much of the table is made.

    Attributes:
      epochs: of training; the paper's are 50.
      costly_epochs: of methods that attack at every step, and of nine gazes.
      steps_per_epoch: 0 for all training rows.
      methods: keys of METHODS.
      attacks: keys of ATTACKS.
      limit: test images that are attacked; None for all.
      few: the same of methods whose answers cost much.
    """

    epochs: int
    costly_epochs: int
    steps_per_epoch: int
    methods: tuple[str, ...]
    attacks: tuple[str, ...]
    limit: int | None
    few: int


PROFILES = {
    "full": Profile(50, 50, 0, tuple(METHODS), tuple(ATTACKS), 1000, 200),
    "core": Profile(50, 3, 0, tuple(METHODS), tuple(ATTACKS), 500, 50),
    "quick": Profile(1, 1, 60, tuple(METHODS), (_FGSM, _PGD, _STRONGEST), 50, 10),
}


@dataclasses.dataclass(frozen=True)
class CausalIbStudy(Study):
    """Table 1 and what a user asks after it."""

    PROFILES: ClassVar[Mapping[str, Profile]] = PROFILES
    default_dataset: ClassVar[str] = "mnist"

    @property
    def title(self) -> str:
        return f"Bottlenecks and defences on {self.dataset} (CausalIB, Table 1)"

    def one_seed(self, seed: int) -> list[Workdir]:
        workdirs = [self._method(name, seed) for name in self.profile.methods]
        self._picture_bottlenecks(seed)
        return workdirs

    def _picture_bottlenecks(self, seed: int) -> None:
        """Codes, information plane and adversarial examples of VIB and CausalIB, once."""
        names = [name for name in _PICTURED if name in self.profile.methods]
        if not names or load_all(self._workdir(names[0], seed)):
            return
        subjects = [
            load_subject(self._workdir(name, seed), data_dir=self.data_dir) for name in names
        ]
        for subject in subjects[1:]:
            save(subject.workdir, bottleneck.latent_scatter(subject))
        save(subjects[0].workdir, bottleneck.latent_scatter(subjects[0]))
        save(subjects[0].workdir, bottleneck.adversarial_side_by_side(subjects, _PGD, EPS))
        save(subjects[0].workdir, bottleneck.information_plane(subjects))

    def _workdir(self, name: str, seed: int) -> Workdir:
        return Workdir(self.root / f"seed{seed}" / name)

    def _all_workdirs(self, seeds: Sequence[int]) -> list[Workdir]:
        return [self._workdir(name, seed) for seed in seeds for name in self.profile.methods]

    def _method(self, name: str, seed: int) -> Workdir:
        method, profile = METHODS[name], self.profile
        workdir = self.trained(
            name,
            seed,
            model=method.model,
            architecture=method.architecture,
            training=TrainingConfig(
                epochs=profile.costly_epochs if method.costly else profile.epochs,
                steps_per_epoch=profile.steps_per_epoch,
                batch_size=_BATCH,
                learning_rate=1e-4,
                schedule="constant",
                precision=self.precision,
                defence=method.defence,
            ),
        )

        def clean(subject: Subject) -> list[Row]:
            subject = smoothed(subject) if method.smoothed else subject
            hits = subject.predictor.hits(subject.test.x, subject.test.y)
            return [scored(hits, **subject.identity(CLEAN))]

        def attacked(attack: Attack, subject: Subject) -> list[Row]:
            subject = smoothed(subject) if method.smoothed else subject
            return robustness.attack_curve(
                subject, attack.spec, [attack.eps], progress=self.progress
            )[0]

        self.once(workdir, CLEAN, clean)
        for attack in profile.attacks:
            self.once(
                workdir,
                f"attack_{slug(attack)}",
                functools.partial(attacked, ATTACKS[attack]),
                limit=profile.few if method.many else profile.limit,
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
        ours, papers = (
            np.array([[numbers(line).get(c, np.nan) for c in columns] for line in found])
            for numbers in (lambda line: line.mean, lambda line: line.paper)
        )
        matrix = figures.accuracy_matrix(
            ours,
            rows=[f"{line.label}, {line.epochs} epochs" for line in found],
            columns=[_label(column) for column in columns],
            title=f"Accuracy on {self.dataset}, %: ours (the paper's)",
            published=papers,
        )
        caption = (
            f"eps 50/255, max norm; {found[0].seeds} seed(s); attacks on the first "
            f"{self.profile.limit or 'all'} test images ({self.profile.few} where an answer is a "
            "mean over many: randomized smoothing, CiiV), clean on all. Losses are on logits but "
            "for double softmax, which is what the paper's authors attack; half eps is 50/255 on "
            "inputs scaled to [-1, 1], which theirs are."
        )
        shown = [Picture("table1", "attack", "Table 1", caption, to_png(matrix))]
        if _STRONGEST in self.profile.attacks:
            figure = figures.robustness_against_accuracy(
                [
                    (line.label, line.mean[CLEAN], line.mean[_STRONGEST], line.seconds)
                    for line in found
                ],
                ylabel=f"accuracy under {_label(_STRONGEST)}",
                title=f"What robustness costs, {self.dataset}, eps 50/255",
                chance=chance,
            )
            caption = "Further up is more robust, further right is better on clean images. In "
            caption += "brackets: minutes of training."
            shown.append(
                Picture("trade_off", "attack", "Which defence to take", caption, to_png(figure))
            )
        kept = [
            picture._replace(name=f"{picture.name}_{workdir.root.name}")
            for workdir in workdirs
            if workdir.root.parent == workdirs[0].root.parent  # of the first seed
            for picture in load_all(workdir)
        ]
        return shown + kept + training_pictures(workdirs)

    def files(self, workdirs: Sequence[Workdir]) -> dict[str, str]:
        return {"table1.csv": to_csv(self._table(workdirs))}

    def checks(self, rows: Sequence[Row]) -> dict[str, list[Check]]:
        seeds = sorted({row.seed for row in rows})
        found = {line.name: line for line in self._table(self._all_workdirs(seeds))}
        return {"Do the paper's claims hold?": claims(found, dataset=self.dataset)}


class TableRow(NamedTuple):
    """A method's accuracies, in [0, 1], by column: CLEAN or an attack.

    Attributes:
      name, label: of the method.
      mean: over seeds.
      spread: standard deviation over seeds; 0 for one.
      paper: the paper's, where it has the method and the data set.
      seeds: how many.
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


def published(name: str, dataset: str) -> dict[str, float]:
    """The paper's Table 1 for a method, by column, in [0, 1]; empty where it has none."""
    text = resources.files("tfcama.studies").joinpath("causalib.json").read_text()
    row = json.loads(text)["table1"]["rows"].get(name, {})
    prefix = _PAPER_DATASETS.get(dataset)
    found = {ours: row.get(f"{prefix}_{theirs}") for ours, theirs in _PAPER_COLUMNS.items()}
    return {column: cell["mean"] / 100 for column, cell in found.items() if cell is not None}


def table(workdirs: Sequence[Workdir], *, dataset: str) -> list[TableRow]:
    """Means over seeds of what the runs of a study left, a row a method.

    Args:
      workdirs: <root>/seed<n>/<method>.
      dataset: a key of DATASETS.

    Raises:
      InputError: a run has no results.
    """
    lines = []
    for name in dict.fromkeys(workdir.root.name for workdir in workdirs):
        own = [workdir for workdir in workdirs if workdir.root.name == name]
        values: dict[str, list[float]] = {}
        for row in (row for workdir in own for row in results.load_rows(workdir)):
            values.setdefault(_column(row.attack, row.eps), []).append(row.accuracy)
        if not values:
            raise InputError(f"{own[0].root} has no results; run the study again.")
        history = [[json.loads(s) for s in w.metrics_file.read_text().splitlines()] for w in own]
        lines.append(
            TableRow(
                name,
                METHODS[name].label,
                {column: float(np.mean(v)) for column, v in values.items()},
                {c: float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for c, v in values.items()},
                published(name, dataset),
                len(own),
                max(len(h) for h in history),
                float(np.mean([sum(line.get("seconds", 0.0) for line in h) for h in history])),
            )
        )
    return lines


def _label(column: str) -> str:
    return ATTACKS[column].label if column in ATTACKS else column


def to_csv(lines: Sequence[TableRow]) -> str:
    """The table for programs: percent, ours with spread beside the paper's."""
    columns = list(dict.fromkeys(column for line in lines for column in line.mean))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("", " std", " paper")
    writer.writerow(
        ["method", "seeds", "epochs", "training seconds"]
        + [_label(column) + part for column in columns for part in parts]
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
    causal, vib, plain = (found.get(name) for name in ("causal_ib", "vib", "baseline"))
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
    if causal is not None and vib is not None:
        for attack in (_FGSM, _PGD, _STRONGEST):
            if attack in causal.mean and attack in vib.mean:
                checks.append(
                    Check(
                        f"CausalIB is more robust than VIB: {_label(attack)}",
                        causal.mean[attack] > vib.mean[attack],
                        f"{causal.mean[attack]:.3f} against {vib.mean[attack]:.3f}",
                    )
                )
    for line in found.values():
        for column, paper in line.paper.items():
            if column in line.mean:
                checks.append(
                    Check(
                        f"{line.label}, {_label(column)}: within 5 points of the paper",
                        abs(line.mean[column] - paper) <= _CLOSE,
                        f"{line.mean[column]:.3f}, paper {paper:.3f}",
                    )
                )
    return checks
