"""Manipulations that depend on the class: p(m|y) against p(m), and where nothing can help.

Every class of test images turns by an angle of its own (`class_rotation`); a clean-trained CAMA is
adapted to half of them, without labels, by a rotation with p(m) = N(0, I) or with p(m|y). A limit
of both is in it: at level 180 a nine lies as a six does, and then its label is not a function of
its image, whatever M may be.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfcama.data import manipulations
from tfcama.evaluation import curves
from tfcama.evaluation.checks import Check
from tfcama.evaluation.over_seeds import OverSeeds, above, standard_error
from tfcama.evaluation.results import Row, wilson
from tfcama.evaluation.subject import Subject
from tfcama.models.cama_base import CamaBase
from tfcama.models.cama_config import BY_CLASS, LEARNED
from tfcama.report import figures
from tfcama.report.pictures import Picture, to_png
from tfcama.studies import steps
from tfcama.studies.side_by_side import Piece
from tfcama.studies.study import FRACTION, Study
from tfcama.training.config import TrainingConfig
from tfcama.workdir import Workdir, write_json

_MANIPULATION = "class_rotation"
_MECHANISM = "rotation"
_EXPERIMENT = f"manipulation_{_MANIPULATION}"
_SIX, _NINE = 6, 9
_CONFUSABLE = 180.0  # the level at which a nine lies as a six does
_FOUND = "class_rotation.json"
_PRIORS = (LEARNED, BY_CLASS)


class Profile(NamedTuple):
    """How much of the study is run.

    Attributes:
      epochs: of training.
      warm_up: steps of dreams, once.
      sleep: steps of dreams that go by p(m) or p(m|y), for each level and either.
      levels: of the manipulation, degrees.
      limit: test images of which the scored ones are taken; None for all.
    """

    epochs: int
    warm_up: int
    sleep: int
    levels: tuple[float, ...]
    limit: int | None


PROFILES = {
    "full": Profile(15, 4000, 4000, (30.0, 60.0, 90.0, _CONFUSABLE), None),
    "core": Profile(15, 4000, 2000, (60.0, _CONFUSABLE), 1500),
    "quick": Profile(1, 50, 50, (60.0,), 100),
}


@dataclasses.dataclass(frozen=True)
class ClassRotationStudy(Study):
    """Does p(m|y) pay where M depends on Y?"""

    PROFILES: ClassVar[Mapping[str, Profile]] = PROFILES
    default_dataset: ClassVar[str] = "mnist"

    @property
    def title(self) -> str:
        return f"Digits whose rotation depends on the class: {self.dataset}"

    def pieces(self, seed: int) -> dict[str, Piece]:
        """A CAMA and its dreams of rotations; these adapted to each level, by each p(m)."""
        first = {"cama": Piece(functools.partial(self._cama, seed))}
        return first | {
            f"cama_{level:g}_{prior}": Piece(
                functools.partial(self._adapted, level, prior, seed), ("cama",)
            )
            for level in self.profile.levels
            for prior in _PRIORS
        }

    def _cama(self, seed: int) -> Workdir:
        workdir, _ = self._dreamt(seed)
        self.once(
            workdir,
            _EXPERIMENT,
            self._accuracies,
            limit=self.profile.limit,
            levels=self.profile.levels,
        )
        return workdir

    def _dreamt(self, seed: int) -> tuple[Workdir, Workdir]:
        """A CAMA as trained, and after its dreams."""
        training = TrainingConfig(epochs=self.profile.epochs, precision=self.precision)
        cama = self.trained("cama", seed, model="cama", training=training)
        dreams = steps.adaptation(
            cama, mechanism=_MECHANISM, warm_up=self.profile.warm_up, seed=seed
        )
        return cama, steps.prepared(cama, dreams, data_dir=self.data_dir)

    def _adapted(self, level: float, prior: str, seed: int) -> Workdir:
        _, dreamt = self._dreamt(seed)
        config = steps.adaptation(
            dreamt,
            mechanism=_MECHANISM,
            subject=f"{_MANIPULATION}:{level:g}",
            prior_m=prior,
            fraction=FRACTION,
            sleep=self.profile.sleep,
            seed=seed,
        )
        workdir = steps.finetuned(dreamt, config, data_dir=self.data_dir)

        def score(subject: Subject) -> list[Row]:
            self._look(subject, level)
            return curves.manipulation_curve(
                subject, _MANIPULATION, (0.0, level), progress=self.progress
            )

        self.once(workdir, _EXPERIMENT, score, limit=self.profile.limit)
        return workdir

    def _accuracies(self, subject: Subject) -> list[Row]:
        levels = (0.0, *self.profile.levels)
        return curves.manipulation_curve(subject, _MANIPULATION, levels, progress=self.progress)

    def _look(self, subject: Subject, level: float) -> None:
        """Saves p(m|y)'s angles, log p(x) and the confusions on inputs that nobody saw."""
        model, spec = subject.loaded.classifier, subject.dataset.spec
        if not isinstance(model, CamaBase):
            raise TypeError(f"{model.name} has no M.")
        move = manipulations.parse(_MANIPULATION, level=level).fit(subject.dataset)
        split = manipulations.manipulate(subject.test, move, seed=subject.loaded.config.seed)
        split = split if subject.held_out is None else split.take(subject.held_out)
        log_scores = subject.predictor.log_scores(split.x)
        confusions = np.zeros([spec.num_classes, spec.num_classes], int)
        np.add.at(confusions, (split.y, log_scores.argmax(axis=1)), 1)
        prior = model.prior_m(tf.eye(spec.num_classes)[None])
        mean = tf.broadcast_to(prior.mean()[0], [spec.num_classes, model.dim_m])
        spread = tf.broadcast_to(prior.stddev()[0], [spec.num_classes, model.dim_m])
        angles = {
            "mean": mean,
            "low": mean - spread,
            "high": mean + spread,
        }
        write_json(
            subject.workdir.results / _FOUND,
            {
                "level": level,
                "prior_m": model.config.prior_m,
                "accuracy": float(np.trace(confusions) / confusions.sum()),
                "log_px": float(np.logaddexp.reduce(log_scores, axis=1).mean()),
                "confusions": confusions.tolist(),
                **{
                    name: model.mechanism.values(m).numpy()[:, 0].round(2).tolist()
                    for name, m in angles.items()
                },
            },
        )

    def _every_seed(self, workdirs: Sequence[Workdir], level: float, prior: str) -> list[dict]:
        """What `_look` saved, a seed each."""
        paths = [workdir.results / _FOUND for workdir in workdirs]
        found = [json.loads(path.read_text()) for path in paths if path.exists()]
        return [each for each in found if (each["level"], each["prior_m"]) == (level, prior)]

    # --- report --------------------------------------------------------------------------------

    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        del rows, chance
        pictures = []
        for level in self.profile.levels:
            of_seeds = self._every_seed(workdirs, level, BY_CLASS)
            if not of_seeds:
                continue
            found = of_seeds[0]
            classes = len(found["mean"])
            true = level * (2.0 * np.arange(classes) / (classes - 1) - 1.0)
            title = f"What p(m|y) learned when classes turn by {-level:g} to {level:g} degrees"
            figure = figures.intervals(
                np.array([found["low"], found["mean"], found["high"]]).T,
                true=true,
                xlabel="class",
                ylabel="rotation (degrees)",
                title=title,
            )
            caption = (
                "The first seed. Points and bars: mean and standard deviation of p(m|y). Crosses: "
                "the truth."
            )
            name = f"prior_{level:g}"
            pictures.append(Picture(name, "shift", title, caption, to_png(figure)))
        return pictures

    def checks(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, list[Check]]:
        del rows
        checks, limits = [], []
        for level in self.profile.levels:
            found = {prior: self._every_seed(workdirs, level, prior) for prior in _PRIORS}
            if not all(found.values()):
                continue
            accuracy = {prior: _over_seeds(of) for prior, of in found.items()}
            log_px = {
                prior: np.mean([each["log_px"] for each in of]) for prior, of in found.items()
            }
            checks.append(
                Check(
                    f"classes turned by up to {level:g} degrees: p(m|y) above p(m)",
                    above(accuracy[BY_CLASS], accuracy[LEARNED]),
                    f"{accuracy[BY_CLASS]} against {accuracy[LEARNED]} %; log "
                    f"p(x) {log_px[BY_CLASS]:.1f} against {log_px[LEARNED]:.1f} nats",
                )
            )
            for prior, of_prior in found.items() if level == _CONFUSABLE else ():
                nines = np.sum([each["confusions"] for each in of_prior], axis=0)[_NINE]
                limits.append(
                    Check(
                        f"most nines that lie as sixes are called sixes (prior_m={prior})",
                        bool(nines[_SIX] > 0.5 * nines.sum()),
                        f"{nines[_SIX]} of {nines.sum()} unseen nines",
                    )
                )
        headings = {"Does p(m|y) pay?": checks, "What nobody can tell without labels": limits}
        return {heading: listed for heading, listed in headings.items() if listed}


def _over_seeds(found: Sequence[Mapping[str, Any]]) -> OverSeeds:
    """Accuracy, of what `_look` saved, a seed each."""
    errors = {}
    for place, each in enumerate(found):
        confusions = np.array(each["confusions"])
        interval = wilson(np.trace(confusions), int(confusions.sum()))
        errors[place] = standard_error(*interval)
    return OverSeeds({place: each["accuracy"] for place, each in enumerate(found)}, errors)
