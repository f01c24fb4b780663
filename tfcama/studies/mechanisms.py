"""Mechanisms with structure against what a user would do instead, on images and on tables.

A clean-trained CAMA dreams of what a mechanism can do; then it is adapted to half of the
manipulated test images, without labels, by the mechanism of that manipulation. Its rivals: DNNs and
CNNs that were trained on that very manipulation with labels, test-time augmentation, recomputed
batch statistics, Tent, a spatial transformer, and the papers' additive mechanism. All are scored on
all manipulations. On tables, instruments shift: location-scale against the additive mechanism and
against training on the shift.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar

from tfcama.data.datasets import DATASETS
from tfcama.errors import InputError
from tfcama.evaluation import curves, robustness
from tfcama.evaluation.augmented import augmented
from tfcama.evaluation.checks import Check
from tfcama.evaluation.results import Row
from tfcama.evaluation.subject import Subject, load_spec
from tfcama.report import labels
from tfcama.report.matrix import to_csv, to_figure
from tfcama.report.pictures import Picture, curve_pictures, load_all, slug, to_png
from tfcama.studies import steps
from tfcama.studies.mechanism_claims import claims
from tfcama.studies.mechanism_profiles import ASKED, GENERAL, PROFILES, Case, Profile
from tfcama.studies.mechanism_table import matrix
from tfcama.studies.side_by_side import Piece
from tfcama.studies.study import FRACTION, Study, finetuned_experiment, of_first_seed
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.workdir import Workdir, write_json

_ATTACKS = ("fgsm", "pgd:steps=20")
_RADII = (0.0, 0.1, 0.2, 0.3)


@dataclasses.dataclass(frozen=True)
class MechanismStudy(Study):
    """Mechanisms with structure and their rivals."""

    PROFILES: ClassVar[Mapping[str, Profile]] = PROFILES
    default_dataset: ClassVar[str] = "mnist"
    kinds: ClassVar[tuple[str, ...]] = ("image", "table")

    @property
    def title(self) -> str:
        return f"Mechanisms with structure on {self.dataset}"

    @property
    def repeated(self) -> MechanismStudy:
        profile = self.profile
        return dataclasses.replace(self, profile=profile._replace(attacked=profile.attacked_again))

    def pieces(self, seed: int) -> dict[str, Piece]:
        """A CAMA and what becomes of it; its rivals."""
        profile, kind = self.profile, DATASETS[self.dataset].kind
        if kind != profile.kind:
            raise InputError(
                f"{self.dataset} holds {kind}s, the profile is for {profile.kind}s; take one of "
                f"{', '.join(n for n, p in self.PROFILES.items() if p.kind == kind)}."
            )
        families = (self._causal, self._discriminative, self._convolutional)
        return {name: piece for family in families for name, piece in family(seed).items()}

    def _causal(self, seed: int) -> dict[str, Piece]:
        """A CAMA; what it dreams by every mechanism; these, adapted; attacks."""
        profile, partial = self.profile, functools.partial
        found = {"cama": Piece(partial(self._cama, seed))}
        planned = self._planned
        for mechanism in dict.fromkeys(case.mechanism for case, _ in planned if case.mechanism):
            found[_dreams(mechanism)] = Piece(partial(self._dreamt, mechanism, seed), ("cama",))
        for case, fraction in planned:
            found[_adapted(case, fraction)] = Piece(
                partial(self._adapt, case, fraction, seed), (_dreams(case.mechanism),)
            )
        if profile.attacked:
            own = {case.mechanism: case for case in profile.adapted_cases[::-1]}
            found["attack_cama"] = Piece(partial(self._attacked, None, seed), ("cama",))
            for case in own.values():
                adapted = _adapted(case, FRACTION)
                found[f"attack_{adapted}"] = Piece(partial(self._attacked, case, seed), (adapted,))
        return found

    @property
    def _planned(self) -> list[tuple[Case, float]]:
        """What a CAMA is adapted to, by which mechanism, and the share of the test inputs."""
        profile = self.profile
        first = profile.cases[0]
        planned = [(case, FRACTION) for case in profile.adapted_cases]
        for fraction in profile.fractions:
            planned += [(first._replace(mechanism=m), fraction) for m in (first.mechanism, "")]
        for mechanism, count in (("", profile.additive), (GENERAL, profile.general)):
            cases = [case._replace(mechanism=mechanism) for case in profile.cases[:count]]
            planned += [(case, FRACTION) for case in cases]
        return planned

    def _discriminative(self, seed: int) -> dict[str, Piece]:
        """A DNN, also with test-time augmentation, and those with foresight."""
        profile, partial = self.profile, functools.partial
        found = {"dnn": Piece(partial(self._dnn, seed))}
        for case in profile.cases[: profile.foresighted] + self._augmentation:
            found[f"dnn_{slug(case.text)}"] = Piece(
                partial(self._train, "dnn", seed, epochs=profile.dnn_epochs, case=case)
            )
        return found

    def _convolutional(self, seed: int) -> dict[str, Piece]:
        """A spatial transformer, what is adapted by its batch statistics, and foresight."""
        profile, partial = self.profile, functools.partial
        epochs = profile.cnn_epochs
        if not epochs:
            return {}
        found = {
            model: Piece(partial(self._train, model, seed, epochs=epochs))
            for model in ("stn_cnn", "cnn_bn")
        }
        for case, method in itertools.product(profile.adapted_cases, ("batch_norm", "tent")):
            found[f"cnn_bn_{method}_{slug(case.text)}"] = Piece(
                partial(self._adapt_normalised, case, method, seed), ("cnn_bn",)
            )
        for case in profile.cases[:2] + self._augmentation:
            found[f"cnn_{slug(case.text)}"] = Piece(
                partial(self._train, "cnn", seed, epochs=epochs, case=case)
            )
        return found

    def _cama(self, seed: int) -> Workdir:
        epochs = self.profile.cama_epochs
        return self._train("cama", seed, epochs=epochs, precision=self.precision)

    def _dnn(self, seed: int) -> Workdir:
        profile = self.profile
        workdir = self._train("dnn", seed, epochs=profile.dnn_epochs)
        if profile.kind == "image":
            for case in profile.cases:
                self._score(workdir, case, augmentation=case.text)
        if profile.attacked:
            self._attack(workdir)
        return workdir

    def _adapt_normalised(self, case: Case, method: str, seed: int) -> Workdir:
        """What has batch statistics, adapted to a case; scored."""
        normalised = self._train("cnn_bn", seed, epochs=self.profile.cnn_epochs)
        config = steps.adaptation(
            normalised, method=method, subject=case.text, fraction=FRACTION, seed=seed
        )
        workdir = steps.finetuned(normalised, config, data_dir=self.data_dir)
        self._score(workdir, case)
        return workdir

    @property
    def _augmentation(self) -> tuple[Case, ...]:
        """What networks with labels are trained on that know of everything that may come."""
        text = self.profile.augmentation
        return (Case(text, None, ""),) if text else ()

    def _train(
        self,
        model: str,
        seed: int,
        *,
        epochs: int,
        case: Case | None = None,
        precision: str = "float32",
    ) -> Workdir:
        """A model that was trained, clean or with the manipulation of a case, and its scores.

        Of tables, the model of that name for tables.
        """
        workdir = self.trained(
            model if case is None else f"{model}_{slug(case.text)}",
            seed,
            model=f"measurement_{model}" if self.profile.kind == "table" else model,
            training=TrainingConfig(
                epochs=epochs,
                steps_per_epoch=DATASETS[self.dataset].steps_per_epoch,
                augment="" if case is None else case.text,
                precision=precision,
            ),
        )
        self._score(workdir, case)
        return workdir

    def _dreamt(self, mechanism: str, seed: int) -> Workdir:
        """The CAMA after dreams of what a mechanism does; the CAMA itself where that has no dreams.

        The general mechanism and the first case's are scored as they then are.
        """
        cama = self._cama(seed)
        config = steps.adaptation(cama, mechanism=mechanism, seed=seed)
        if not config.warm_up:
            return cama
        config = dataclasses.replace(config, warm_up=self.profile.warm_up)
        workdir = steps.prepared(cama, config, data_dir=self.data_dir)
        if mechanism in (self.profile.cases[0].mechanism, GENERAL):
            self._score(workdir, None)
        return workdir

    def _adapt(self, case: Case, fraction: float, seed: int) -> Workdir:
        """Fine-tunes a CAMA, which has dreamt, to a case; scores it and what it found."""
        profile = self.profile
        base = self._dreamt(case.mechanism, seed)
        how = {"steps": profile.additive_steps}
        if case.mechanism:
            how = {"sleep": profile.sleep, "steps": profile.steps}
        config = steps.adaptation(
            base,
            mechanism=case.mechanism,
            subject=case.text,
            fraction=fraction,
            seed=seed,
            **how,
        )
        workdir = steps.finetuned(base, config, data_dir=self.data_dir)
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

        own_text = None if case is None else case.text
        others = [each for each in self.profile.cases if each.text != own_text]
        about = f"_{slug(augmentation)}" if augmentation else ""
        self.once(workdir, f"own{about}", own, limit=self.profile.limit)
        self.once(
            workdir,
            f"others{about}",
            functools.partial(on, cases=others),
            limit=self.profile.cross_limit,
            cases=[each.text for each in others],
        )

    def _attacked(self, case: Case | None, seed: int) -> Workdir:
        """The CAMA, or adapted to a case, under attack."""
        cama = self._cama(seed)
        if case is None:
            self._attack(cama)
            return cama
        workdir = self._adapt(case, FRACTION, seed)
        self._attack(workdir, source=cama)
        return workdir

    def _attack(self, workdir: Workdir, *, source: Workdir | None = None) -> None:
        """Attacks a run itself, which knows of its adaptation, and by what fools `source`."""
        sources = {"attacks": None} | ({"static_attacks": source} if source else {})
        few = self.profile.attacked

        def score(subject: Subject, crafted_on: Workdir | None) -> list[Row]:
            other = None if crafted_on is None else self.subject(crafted_on).first(few)
            return [
                row
                for attack in _ATTACKS
                for row in robustness.attack_curve(
                    subject, attack, _RADII, source=other, progress=self.progress
                )[0]
            ]

        for name, crafted_on in sources.items():
            self.once(
                workdir,
                name,
                functools.partial(score, crafted_on=crafted_on),
                attacks=_ATTACKS,
                **steps.curve_asked(_RADII, few),
            )

    def _picture(self, subject: Subject, case: Case) -> None:
        """Saves what the model found, beside its rows."""
        if case.level is None:
            return
        found = steps.explain(subject, case.manipulation, case.level)
        if found:
            errors = {each.parameter.name: each.median_error for each in found}
            write_json(subject.workdir.results / _RECOVERED, errors)

    # --- report --------------------------------------------------------------------------------

    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        title = f"Accuracy of every model under every manipulation, {self.dataset} (%)"
        names, columns, cells = matrix(rows, self.profile.cases)
        figure = to_figure(names, columns, cells, title=title)
        caption = (
            "Mean ± standard deviation over seeds. Adapted models are scored on images that they "
            "did not see. A CAMA's mechanism is named in brackets; models 'trained on' a "
            "manipulation saw it with labels."
        )
        shown = [Picture("accuracy_matrix", "shift", title, caption, to_png(figure))]
        return (
            shown
            + self._attack_pictures(rows, workdirs, chance=chance)
            + [
                picture
                for workdir in of_first_seed(workdirs)
                if (workdir.results / _RECOVERED).exists()
                for picture in _pictures_of(workdir)
            ]
        )

    def _attack_pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        pictures = []
        for attack in _ATTACKS:
            for source in ("", " from cama"):
                group = [
                    row for row in rows if row.attack.replace("measurement_", "") == attack + source
                ]
                about = labels.attack_name(attack) + (
                    ", made for CAMA before it was adapted" if source else ""
                )
                pictures += curve_pictures(
                    f"attack_{slug(attack + source)}",
                    group,
                    axis="eps",
                    xlabel=labels.eps_label(load_spec(workdirs[0])),
                    title=about,
                    heading=f"Accuracy under {about}",
                    caption="No mechanism here is a model of adversarial noise: adapted to "
                    "manipulations, not to attacks.",
                    chance=chance,
                )
        return pictures

    def files(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, str]:
        del workdirs
        return {"table.csv": to_csv(*matrix(rows, self.profile.cases))}

    def checks(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, list[Check]]:
        own = {case.text: case.mechanism for case in self.profile.cases}
        found = claims(rows, _errors(workdirs), own, asked=ASKED.get(self.dataset, {}))
        return {"Does it do what was asked of it?": found}


_RECOVERED = "recovered.json"


def _dreams(mechanism: str) -> str:
    """The piece that an adaptation goes on from."""
    return f"dreams_{slug(mechanism)}" if mechanism else "cama"


def _adapted(case: Case, fraction: float) -> str:
    """The piece that is an adaptation."""
    return f"{slug(case.mechanism or 'additive')}_to_{slug(case.text)}_{fraction:g}"


def _errors(workdirs: Sequence[Workdir]) -> dict[str, list[float]]:
    """Median error of the recovered parameters by "mechanism on manipulation: parameter".

    Of runs that were adapted to the usual share of the inputs.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for workdir in workdirs:
        path = workdir.results / _RECOVERED
        adapted = RunConfig.from_json(workdir.read_config()).finetuned if path.exists() else None
        if adapted is not None and adapted.fraction == FRACTION:
            for name, error in json.loads(path.read_text()).items():
                found[f"{adapted.mechanism} on {adapted.subject}: {name}"].append(error)
    return dict(found)


def _pictures_of(workdir: Workdir) -> list[Picture]:
    adapted = RunConfig.from_json(workdir.read_config()).finetuned
    if adapted is None:
        return []
    about = "_".join(slug(part) for part in (adapted.subject, adapted.mechanism))
    return [picture._replace(name=f"{picture.name}_of_{about}") for picture in load_all(workdir)]
