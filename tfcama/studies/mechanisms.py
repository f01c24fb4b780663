"""Mechanisms with structure against what a user would do instead, on any image data set.

A clean-trained CAMA is adapted to half of the manipulated test images, without labels, by the
mechanism of that manipulation. Its rivals: DNNs and CNNs that were trained on that very
manipulation with labels, test-time augmentation, recomputed batch statistics, Tent, a spatial
transformer, and the papers' additive mechanism. All are scored on all manipulations.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from tfcama.evaluation import curves
from tfcama.evaluation.augmented import augmented
from tfcama.evaluation.recovered import recover
from tfcama.evaluation.results import Row
from tfcama.evaluation.robustness import Check
from tfcama.evaluation.subject import Subject
from tfcama.report import figures, labels
from tfcama.report.pictures import Picture, do_m0_grid, do_parts_grid, load_all, save, slug, to_png
from tfcama.specs import with_number
from tfcama.studies import steps
from tfcama.studies.mechanism_claims import claims
from tfcama.studies.study import FRACTION, Study, finetuned_experiment
from tfcama.training.config import RunConfig, TrainingConfig, default_finetuning
from tfcama.workdir import Workdir, write_json

_PICTURED = 300  # test images whose parameters are compared with the truth


class Case(NamedTuple):
    """A manipulation and the mechanism that is meant for it.

    Attributes:
      manipulation: without its level, or, where level is None, with the levels of its parts.
      level: of it.
      mechanism: see make_mechanism.
    """

    manipulation: str
    level: float | None
    mechanism: str

    @property
    def text(self) -> str:
        """The manipulation with its level."""
        if self.level is None:
            return self.manipulation
        return with_number(self.manipulation, self.level)


_VERTICAL = Case("vertical_shift", 0.5, "translation")
_CASES = (
    _VERTICAL,
    Case("rotation", 60.0, "rotation"),
    Case("horizontal_shift", 0.5, "translation"),
    Case("shift", 0.5, "translation"),
    Case("vertical_shift", 0.3, "translation"),
    Case("zoom", 0.4, "zoom"),
    Case("contrast", 0.9, "photometric"),
    Case("inversion", 0.5, "photometric"),
    Case("rotation:30+zoom:0.3+shift:0.15+contrast:0.5", None, "affine+photometric"),
)


class Profile(NamedTuple):
    """How much of the study is run.

    Attributes:
      cama_epochs, dnn_epochs, cnn_epochs: of training; without CNN epochs there are no CNNs.
      steps: of each fine-tuning.
      cases: what is adapted to, and scored.
      fractions: of the test images that fine-tuning sees, besides the usual half, for the first
        case.
      limit: test images of which the scored ones are taken, on the model's own manipulation and on
        clean images; None for all.
      cross_limit: the same on the other manipulations.
    """

    cama_epochs: int
    dnn_epochs: int
    cnn_epochs: int
    steps: int
    cases: tuple[Case, ...]
    fractions: tuple[float, ...]
    limit: int | None
    cross_limit: int | None


PROFILES = {
    "full": Profile(15, 20, 10, 900, _CASES, (0.01,), None, None),
    "core": Profile(15, 10, 2, 400, _CASES, (0.01,), 1500, 300),
    "quick": Profile(1, 1, 1, 50, _CASES[:2], (), 100, 100),
}


@dataclasses.dataclass(frozen=True)
class MechanismStudy(Study):
    """Mechanisms with structure and their rivals."""

    PROFILES: ClassVar[Mapping[str, Profile]] = PROFILES
    default_dataset: ClassVar[str] = "mnist"

    @property
    def title(self) -> str:
        return f"Mechanisms with structure on {self.dataset}"

    def one_seed(self, seed: int) -> list[Workdir]:
        profile = self.profile
        cama = self._train("cama", seed, epochs=profile.cama_epochs, precision=self.precision)
        dnn = self._train("dnn", seed, epochs=profile.dnn_epochs)
        workdirs = [cama, dnn]
        for case in profile.cases:
            workdirs.append(self._adapt(cama, case, FRACTION, seed))
        for case in profile.cases:
            workdirs.append(self._train("dnn", seed, epochs=profile.dnn_epochs, case=case))
            self._score(dnn, case, augmentation=case.text)
        for fraction in profile.fractions:
            workdirs.append(self._adapt(cama, profile.cases[0], fraction, seed))
        workdirs.append(self._adapt(cama, profile.cases[0]._replace(mechanism=""), FRACTION, seed))
        if profile.cnn_epochs:
            workdirs += self._convolutional(seed)
        return workdirs

    def _convolutional(self, seed: int) -> list[Workdir]:
        epochs = self.profile.cnn_epochs
        stn = self._train("stn_cnn", seed, epochs=epochs)
        normalised = self._train("cnn_bn", seed, epochs=epochs)
        workdirs = [stn, normalised]
        for case in self.profile.cases:
            for method in ("batch_norm", "tent"):
                config = dataclasses.replace(
                    default_finetuning(RunConfig.from_json(normalised.read_config())),
                    method=method,
                    subject=case.text,
                    fraction=FRACTION,
                    seed=seed,
                )
                adapted = steps.finetuned(normalised, config, data_dir=self.data_dir)
                self._score(adapted, case)
                workdirs.append(adapted)
        for case in self.profile.cases[:2]:
            workdirs.append(self._train("cnn", seed, epochs=epochs, case=case))
        return workdirs

    def _train(
        self,
        model: str,
        seed: int,
        *,
        epochs: int,
        case: Case | None = None,
        precision: str = "float32",
    ) -> Workdir:
        """A model that was trained, clean or with the manipulation of a case, and its scores."""
        workdir = self.trained(
            model if case is None else f"{model}_{slug(case.text)}",
            seed,
            model=model,
            training=TrainingConfig(
                epochs=epochs, augment="" if case is None else case.text, precision=precision
            ),
        )
        self._score(workdir, case)
        return workdir

    def _adapt(self, cama: Workdir, case: Case, fraction: float, seed: int) -> Workdir:
        """Fine-tunes a CAMA to a case; scores it and what it found."""
        config = dataclasses.replace(
            default_finetuning(RunConfig.from_json(cama.read_config()), mechanism=case.mechanism),
            subject=case.text,
            fraction=fraction,
            steps=self.profile.steps,
            seed=seed,
        )
        workdir = steps.finetuned(cama, config, data_dir=self.data_dir)
        usual = fraction == FRACTION
        experiment = "manipulation" if usual else finetuned_experiment(fraction)
        self._score(workdir, case, experiment=experiment)
        return workdir

    def _score(
        self,
        workdir: Workdir,
        case: Case | None,
        *,
        augmentation: str = "",
        experiment: str = "manipulation",
    ) -> None:
        """Accuracy on clean images, on the model's own manipulation, and on all others.

        Args:
          workdir: of the run.
          case: what it was made for; None for a model that was trained clean.
          augmentation: of test-time augmentation.
          experiment: what the rows are called.
        """

        def on(subject: Subject, cases: Sequence[Case]) -> list[Row]:
            if augmentation:
                subject = augmented(subject, augmentation)
            return [
                row
                for each in cases
                for row in curves.manipulation_curve(
                    subject,
                    each.manipulation,
                    [each.level],
                    experiment=experiment,
                    progress=self.progress,
                )
            ]

        def own(subject: Subject) -> list[Row]:
            if case is not None and not augmentation:
                self._picture(subject, case)
            return on(subject, [self.profile.cases[0]._replace(level=0.0), *filter(None, [case])])

        def others(subject: Subject) -> list[Row]:
            return on(subject, [each for each in self.profile.cases if each != case])

        about = f"_{slug(augmentation)}" if augmentation else ""
        self.once(workdir, f"own{about}", own, limit=self.profile.limit)
        self.once(workdir, f"others{about}", others, limit=self.profile.cross_limit)

    def _picture(self, subject: Subject, case: Case) -> None:
        """Saves what the model found, beside its rows."""
        if case.level is None:
            return
        found = recover(subject, case.manipulation, case.level, limit=_PICTURED)
        if not found:
            return
        write_json(
            subject.workdir.results / _RECOVERED,
            {each.parameter.name: each.median_error for each in found},
        )
        mechanism = labels.variant_name(case.mechanism)
        title = f"What '{mechanism}' finds of {labels.manipulation_name(case.text)}"
        figure = figures.recovered_parameters(
            [(f"{p.name} ({p.unit})", true, inferred) for p, true, inferred in found], title=title
        )
        caption = (
            "Each point is a test image that fine-tuning did not see: what was done to it and what "
            "the model, which was told neither that nor any label, infers. Parameters that nobody "
            "moved should stay at 0."
        )
        save(
            subject.workdir, Picture(_recovered_name(case), "shift", title, caption, to_png(figure))
        )
        for grid in (
            do_m0_grid(subject, case.manipulation, case.level),
            do_parts_grid(subject, case.manipulation, case.level),
        ):
            if grid is not None:
                save(subject.workdir, grid)

    # --- report --------------------------------------------------------------------------------

    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        del chance
        title = f"Accuracy of every model under every manipulation, {self.dataset} (%)"
        names, columns, accuracies = matrix(rows, self.profile.cases)
        figure = figures.accuracy_matrix(accuracies, rows=names, columns=columns, title=title)
        caption = (
            "Adapted models are scored on images that they did not see. A CAMA's mechanism is "
            "named in brackets; models 'trained on' a manipulation saw it with labels."
        )
        shown = [Picture("accuracy_matrix", "shift", title, caption, to_png(figure))]
        return shown + [
            picture
            for workdir in workdirs
            if (workdir.results / _RECOVERED).exists() and "seed0" in workdir.root.parts
            for picture in _pictures_of(workdir)
        ]

    def checks(self, rows: Sequence[Row]) -> dict[str, list[Check]]:
        return {"Does it do what was asked of it?": claims(rows, self._errors(rows))}

    def _errors(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        """Median error of the recovered parameters by "mechanism on manipulation: parameter"."""
        found: dict[str, list[float]] = defaultdict(list)
        for seed in sorted({row.seed for row in rows}):
            cama = self.root / f"seed{seed}" / "cama"
            for case in self.profile.cases:
                config = dataclasses.replace(
                    default_finetuning(
                        RunConfig.from_json(Workdir(cama).read_config()), mechanism=case.mechanism
                    ),
                    subject=case.text,
                    fraction=FRACTION,
                    seed=seed,
                )
                path = steps.finetuned_workdir(Workdir(cama), config).results / _RECOVERED
                if path.exists():
                    for name, error in json.loads(path.read_text()).items():
                        found[f"{case.mechanism} on {case.text}: {name}"].append(error)
        return dict(found)


_RECOVERED = "recovered.json"


def _recovered_name(case: Case) -> str:
    return f"recovered_{slug(case.text)}"


def _pictures_of(workdir: Workdir) -> list[Picture]:
    subject = RunConfig.from_json(workdir.read_config()).finetuned
    about = slug(subject.subject) if subject is not None else workdir.root.name
    return [
        picture
        if picture.name.startswith("recovered")
        else picture._replace(name=f"{picture.name}_of_{about}")
        for picture in load_all(workdir)
    ]


def matrix(rows: Sequence[Row], cases: Sequence[Case]) -> tuple[list[str], list[str], np.ndarray]:
    """Mean accuracy over seeds of every model under clean images and every case.

    Args:
      rows: of the study; of adapted models those on images that they did not see are taken.
      cases: the columns after "clean".

    Returns:
      Names of the models, names of the columns, and accuracies [models, columns], NaN where there
      is none.
    """
    columns = [("clean", 0.0), *((case.manipulation, case.level or 1.0) for case in cases)]
    places = {column: place for place, column in enumerate(columns)}
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        adapted = row.finetuned_on != ""
        if adapted != row.experiment.endswith("_held_out"):
            continue
        place = places.get(("clean" if row.level == 0 else row.manipulation, row.level))
        if place is not None:
            name = labels.line_of(row)._replace(held_out=False).label
            if row.experiment.startswith("fraction_"):
                share = float(row.experiment.removeprefix("fraction_").removesuffix("_held_out"))
                name += f", {100 * share:g} % of images"
            found.setdefault(name, [[] for _ in columns])[place].append(row.accuracy)
    accuracies = np.array(
        [[np.mean(cell) if cell else np.nan for cell in line] for line in found.values()]
    )
    named = [
        "clean"
        if level == 0
        else labels.manipulation_name(f"{name}:{level:g}")
        if case is None or case.level is not None
        else "all at once"
        for (name, level), case in zip(columns, (None, *cases), strict=True)
    ]
    return list(found), named, accuracies
