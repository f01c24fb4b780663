"""The papers' experiments on tables: ICLR's Figures 13 to 15, NeurIPS' Figures 12 to 14.

Models are trained clean. Co-parents and children are shifted, up and down, by the same amount in
every row; CAMAs are fine-tuned on half of the rows with shifted children, without labels; children
and co-parents are attacked; and CAMA is told a wrong graph. Works on any table; what needs the true
structural equations (effects of a shifted co-parent, wrong graphs) on `measurement` alone.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from tfcama.data import manipulations
from tfcama.data.datasets import DATASETS
from tfcama.data.measurement import MeasurementConfig, MeasurementScm
from tfcama.evaluation import curves
from tfcama.evaluation.checks import Check
from tfcama.evaluation.results import Row, scored
from tfcama.evaluation.subject import Subject, load_spec
from tfcama.report import labels
from tfcama.report.build import training_pictures
from tfcama.report.pictures import Picture, curve_pictures, slug
from tfcama.specs import with_number
from tfcama.studies import steps
from tfcama.studies.attacked_adaptation import static_once
from tfcama.studies.measurement_claims import claims
from tfcama.studies.side_by_side import Piece
from tfcama.studies.study import (
    FRACTION,
    Study,
    finetuned_experiment,
    fraction_pictures,
    of_first_seed,
)
from tfcama.training.config import FinetuneConfig, TrainingConfig
from tfcama.types import COPARENT
from tfcama.workdir import Workdir

COPARENTS_UP, COPARENTS_DOWN = "coparents_shift", "coparents_shift:direction=down"
CHILDREN_UP, CHILDREN_DOWN = "children_shift", "children_shift:direction=down"
_ATTACKS = ("fgsm", "pgd:steps=20")
_STRONG = ("pgd_eot:draws=5:steps=20:restarts=2", "square:queries=500")
_STRONG_ROWS = 200


class Profile(NamedTuple):
    """How much of the study is run.

    Attributes:
      dnn_epochs, cama_epochs: of training, in the data set's steps_per_epoch.
      coparents, children: levels of the shifts.
      finetuned: manipulation of the children -> levels at which CAMA is fine-tuned.
      fraction_level: of the children's shift, at which the number of rows is varied.
      fractions: of the test rows.
      finetune_steps: of each fine-tuning.
      radii: of the attacks.
      adapted_radii: at which CAMA is fine-tuned on the attacked rows.
      strong_radii: of stronger attacks than the papers', on fewer rows.
      strong_seeds: that are attacked so.
      misdeclared: how many children are declared co-parents, of `measurement`.
      graphs: other wrong graphs, name -> MeasurementConfig.declared.
      quadratic: whether the CAMA with a quadratic NNpC is trained too.
    """

    dnn_epochs: int
    cama_epochs: int
    coparents: tuple[float, ...]
    children: tuple[float, ...]
    finetuned: dict[str, tuple[float, ...]]
    fraction_level: float
    fractions: tuple[float, ...]
    finetune_steps: int
    radii: tuple[float, ...]
    adapted_radii: tuple[float, ...]
    strong_radii: tuple[float, ...]
    strong_seeds: tuple[int, ...]
    misdeclared: tuple[int, ...]
    graphs: dict[str, tuple[str, ...]]
    quadratic: bool


_COPARENT_LEVELS = (0.0, 1.0, 2.0, 2.5, 3.0, 4.0, 5.0)
_CHILDREN_LEVELS = (0.0, 0.5, 1.0, 2.0, 3.0)
_RADII = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)

PROFILES = {
    "full": Profile(
        dnn_epochs=60,
        cama_epochs=20,
        coparents=_COPARENT_LEVELS,
        children=_CHILDREN_LEVELS,
        finetuned={CHILDREN_UP: _CHILDREN_LEVELS[1:], CHILDREN_DOWN: (1.0, 3.0)},
        fraction_level=2.0,
        fractions=(0.01, 0.05),
        finetune_steps=800,
        radii=_RADII,
        adapted_radii=(0.1, 0.3),
        strong_radii=(0.0, 0.1, 0.3),
        strong_seeds=(0,),
        misdeclared=(1, 2, 4, 6, 8),
        graphs={"missing_parent": ("a1:ignored",), "reversed_edge": ("x1:parent",)},
        quadratic=True,
    ),
    "demo": Profile(
        dnn_epochs=60,
        cama_epochs=20,
        coparents=_COPARENT_LEVELS,
        children=_CHILDREN_LEVELS,
        finetuned={CHILDREN_UP: (1.0, 3.0)},
        fraction_level=3.0,
        fractions=(),
        finetune_steps=400,
        radii=(0.0, 0.1, 0.3),
        adapted_radii=(),
        strong_radii=(),
        strong_seeds=(),
        misdeclared=(),
        graphs={},
        quadratic=False,
    ),
    "quick": Profile(
        dnn_epochs=2,
        cama_epochs=1,
        coparents=(0.0, 2.0),
        children=(0.0, 1.0),
        finetuned={CHILDREN_UP: (1.0,)},
        fraction_level=1.0,
        fractions=(0.05,),
        finetune_steps=20,
        radii=(0.0, 0.3),
        adapted_radii=(0.3,),
        strong_radii=(0.0, 0.3),
        strong_seeds=(0,),
        misdeclared=(2,),
        graphs={"missing_parent": ("a1:ignored",)},
        quadratic=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class MeasurementStudy(Study):
    """The experiments on tables."""

    PROFILES: ClassVar[Mapping[str, Profile]] = PROFILES
    default_dataset: ClassVar[str] = "measurement"
    kinds: ClassVar[tuple[str, ...]] = ("table",)

    @property
    def title(self) -> str:
        return f"Classifiers of tables under manipulation: {self.dataset}"

    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        return table_figures(
            rows,
            chance=chance,
            eps=labels.eps_label(load_spec(workdirs[0])),
            fraction_level=self.profile.fraction_level,
        ) + training_pictures(
            [w for w in of_first_seed(workdirs) if w.root.name in ("dnn", "cama")]
        )

    def checks(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, list[Check]]:
        del workdirs
        return {"Do the papers' claims hold?": claims(rows)}

    def pieces(self, seed: int) -> dict[str, Piece]:
        """Models as trained; the fine-tunings of the CAMA."""
        partial = functools.partial
        found = {name: Piece(partial(self._usual, name, seed)) for name in ("dnn", "cama")}
        for manipulation, level, fraction in self._finetunings:
            found[f"cama_to_{slug(with_number(manipulation, level))}_{fraction:g}"] = Piece(
                partial(self._finetune, manipulation, level, fraction, seed), ("cama",)
            )
        for attack, eps in itertools.product(_ATTACKS, self.profile.adapted_radii):
            found[f"cama_to_{slug(attack)}_{eps:g}"] = Piece(
                partial(self._finetune_on_attack, attack, eps, seed), ("cama",)
            )
        if self.profile.quadratic:
            found["cama_quadratic"] = Piece(partial(self._quadratic, seed), ("cama",))
        for name, declared in self._wrong_graphs().items():
            found[f"cama_{name}"] = Piece(partial(self._wrong, name, declared, seed))
        return found

    @property
    def _finetunings(self) -> list[tuple[str, float, float]]:
        """Manipulation, level and share of the test rows."""
        profile = self.profile
        matched = [
            (m, level, FRACTION) for m, levels in profile.finetuned.items() for level in levels
        ]
        return matched + [(CHILDREN_UP, profile.fraction_level, f) for f in profile.fractions]

    def _usual(self, name: str, seed: int) -> Workdir:
        workdir = self._model(name, seed, f"measurement_{name}")
        self._curves(workdir)
        self._attacks(workdir, seed)
        if name == "dnn":
            self.once(workdir, "bayes", self._bayes, levels=self.profile.coparents)
        return workdir

    def _quadratic(self, seed: int) -> Workdir | None:
        """A CAMA with a quadratic NNpC; None where there are no co-parents."""
        if not _has_coparents(self._cama(seed)):
            return None
        quadratic = {"coparent_features": "quadratic"}
        workdir = self._model("cama_quadratic", seed, "measurement_cama", quadratic)
        self._curves(workdir)
        return workdir

    def _wrong(self, name: str, declared: tuple[str, ...], seed: int) -> Workdir:
        """A CAMA that was told a wrong graph."""
        usual = self.data if isinstance(self.data, MeasurementConfig) else MeasurementConfig()
        data = dataclasses.replace(usual, declared=declared)
        workdir = self._model(f"cama_{name}", seed, "measurement_cama", data=data)
        self._curves(workdir)
        return workdir

    def _cama(self, seed: int) -> Workdir:
        return Workdir(self.root / f"seed{seed}" / "cama")

    def adapted(self, seed: int) -> Workdir:
        """CAMA, fine-tuned on the first of the shifts."""
        manipulation, levels = next(iter(self.profile.finetuned.items()))
        cama = self._cama(seed)
        subject = with_number(manipulation, levels[0])
        return steps.finetuned_workdir(cama, self._finetuning(cama, subject, FRACTION, seed))

    def _finetuning(
        self, cama: Workdir, subject: str, fraction: float, seed: int
    ) -> FinetuneConfig:
        return steps.adaptation(
            cama,
            subject=subject,
            fraction=fraction,
            steps=self.profile.finetune_steps,
            seed=seed,
        )

    def _wrong_graphs(self) -> dict[str, tuple[str, ...]]:
        if DATASETS[self.dataset].config_class is not MeasurementConfig:
            return {}
        declared = {
            f"{count}_misdeclared": tuple(f"x{place + 1}:coparent" for place in range(count))
            for count in self.profile.misdeclared
        }
        return {**declared, **self.profile.graphs}

    def _model(
        self,
        name: str,
        seed: int,
        model: str,
        architecture: Mapping[str, Any] | None = None,
        data: MeasurementConfig | None = None,
    ) -> Workdir:
        cama = model == "measurement_cama"
        training = TrainingConfig(
            epochs=self.profile.cama_epochs if cama else self.profile.dnn_epochs,
            steps_per_epoch=DATASETS[self.dataset].steps_per_epoch,
            precision=self.precision if cama else "float32",
        )
        return self.trained(
            name, seed, model=model, training=training, architecture=architecture, data=data
        )

    def _curves(self, workdir: Workdir) -> None:
        for manipulation in (CHILDREN_UP, CHILDREN_DOWN):
            self.curve_once(workdir, manipulation, self.profile.children)
        if _has_coparents(workdir):
            for manipulation in (COPARENTS_UP, COPARENTS_DOWN):
                self.curve_once(workdir, manipulation, self.profile.coparents)

    def _bayes(self, subject: Subject) -> list[Row]:
        """The classifier that knows p(y|a) and p(x|y,c), under shifts of the co-parents."""
        world, rows = subject.dataset.world, []
        if not isinstance(world, MeasurementScm):
            return []
        for manipulation in (COPARENTS_UP, COPARENTS_DOWN):
            for level in self.profile.coparents:
                move = manipulations.parse(manipulation, level=level).fit(subject.dataset)
                split = manipulations.manipulate(subject.test, move, seed=0)
                guess = world.log_posterior(tf.constant(split.x)).numpy().argmax(axis=1)
                identity = subject.identity("manipulation", manipulation=manipulation, level=level)
                rows.append(scored(guess == split.y, **{**identity, "model": "bayes"}))
        return rows

    def _attacks(self, workdir: Workdir, seed: int) -> None:
        strong = self.profile.strong_radii if seed in self.profile.strong_seeds else ()
        everything: dict[str, tuple[Sequence[float], int | None]] = {}
        everything |= dict.fromkeys(_ATTACKS, (self.profile.radii, None))
        everything |= dict.fromkeys(_STRONG if strong else (), (strong, _STRONG_ROWS))
        for attack, (radii, limit) in everything.items():
            self.attack_once(workdir, attack, radii, limit=limit)

    def _finetune(self, manipulation: str, level: float, fraction: float, seed: int) -> Workdir:
        """Fine-tunes on one shift; scores that shift and, with the papers' share, clean rows."""
        cama = self._cama(seed)
        config = self._finetuning(cama, with_number(manipulation, level), fraction, seed)
        workdir = steps.finetuned(cama, config, data_dir=self.data_dir)
        experiment = finetuned_experiment(fraction)

        def score(adapted: Subject) -> list[Row]:
            rows = curves.manipulation_curve(
                adapted, manipulation, [level], experiment=experiment, progress=self.progress
            )
            if fraction == FRACTION:
                clean, *_ = curves.manipulation_curve(
                    adapted, manipulation, [0.0], experiment=labels.MATCHED_CLEAN
                )
                rows.append(dataclasses.replace(clean, level=level))  # stands at what it adapted to
            return rows

        self.once(workdir, experiment, score)
        return workdir

    def _finetune_on_attack(self, attack: str, eps: float, seed: int) -> Workdir:
        cama = self._cama(seed)
        config = self._finetuning(cama, "", 1.0, seed)
        return static_once(self.subject(cama), attack, eps, config, progress=self.progress)


def _has_coparents(workdir: Workdir) -> bool:
    return any(column.numeric for column in load_spec(workdir).with_role(COPARENT))


def table_figures(
    rows: Sequence[Row], *, chance: float, eps: str, fraction_level: float
) -> list[Picture]:
    """The papers' figures from the rows of a study.

    Args:
      rows: of any number of seeds.
      chance: accuracy of guessing.
      eps: what an attack's radius is measured in.
      fraction_level: of the children's shift at which the number of rows was varied.
    """
    pictures = []
    usual = [row for row in rows if not row.variant or "=" in row.variant]
    wrong = [row for row in rows if "declared" in row.variant or row.model == "measurement_dnn"]
    wrong += [row for row in usual if row.model == "measurement_cama" and not row.variant]
    for name, manipulation, papers in (
        ("coparents_up", COPARENTS_UP, "ICLR Figure 14 (a), NeurIPS Figure 12 (a)"),
        ("coparents_down", COPARENTS_DOWN, "ICLR Figure 14 (b)"),
        ("children_up", CHILDREN_UP, "ICLR Figure 15 (a), NeurIPS Figure 12 (b)"),
        ("children_down", CHILDREN_DOWN, "ICLR Figure 15 (b)"),
    ):
        group = [
            row
            for row in usual
            if row.manipulation == manipulation
            and row.experiment in ("manipulation", "matched", labels.MATCHED_CLEAN)
        ]
        pictures += _accuracy(name, group, manipulation, chance=chance, papers=papers)
        group = [
            row
            for row in wrong
            if row.manipulation == manipulation and row.experiment == "manipulation"
        ]
        if any("declared" in row.variant for row in group):
            pictures += _accuracy(
                f"wrong_graph_{name}",
                group,
                manipulation,
                chance=chance,
                papers="NeurIPS Figure 14",
            )
    for attack in (*_ATTACKS, *_STRONG):
        group = [row for row in usual if row.attack == attack]
        about = labels.attack_name(attack)
        caption = "Children and co-parents move, parents never. " + (
            "In the form of ICLR's and NeurIPS' Figure 13."
            if attack in _ATTACKS
            else "Stronger attacks than the papers', if few draws and starts for the strong "
            "protocol; scored by ten noise draws that they did not see."
        )
        pictures += curve_pictures(
            f"attack_{slug(attack)}",
            group,
            axis="eps",
            xlabel=eps,
            title=f"{about} on X and C",
            heading=f"Accuracy under {about}",
            caption=caption,
            chance=chance,
        )
    pictures += fraction_pictures(
        "fraction",
        rows,
        manipulation=CHILDREN_UP,
        level=fraction_level,
        title=f"How many test rows fine-tuning needs (children shifted up by {fraction_level:g})",
        caption="Scored on the rows that fine-tuning did not see.",
    )
    return pictures


def _accuracy(
    name: str, rows: Sequence[Row], manipulation: str, *, chance: float, papers: str
) -> list[Picture]:
    about = labels.manipulation_name(manipulation)
    return curve_pictures(
        name,
        rows,
        axis="level",
        xlabel=f"{about} (training standard deviations)",
        title=about,
        heading=f"Accuracy against {about}",
        caption=f"In the form of {papers}. Every row is shifted by the same amount.",
        chance=chance,
    )
