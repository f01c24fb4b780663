"""The papers' attacks and the strong protocol on the same models, and whether to believe them.

CausalIB's networks and deep CAMA under its FGSM and PGD-20, under the strong protocol (the worst,
input by input, of `registry.STRONG` and of what was made for the plain network), under Carlini and
Wagner's attack in the Euclidean norm, with the sanity checks of every model. Adversarial training
is among them as a control: a defence that is known to hold, of which an honest evaluation leaves
some.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from tfcama.attacks import registry
from tfcama.evaluation import curves, results, robustness
from tfcama.evaluation.checks import Check, load_checks, together
from tfcama.evaluation.over_seeds import OverSeeds, above
from tfcama.evaluation.results import Row, one_a_seed
from tfcama.evaluation.subject import Subject, load_spec, load_subject
from tfcama.report import labels
from tfcama.report.build import training_pictures
from tfcama.report.matrix import to_csv, to_figure
from tfcama.report.pictures import Picture, curve_pictures, slug, to_png
from tfcama.studies import steps
from tfcama.studies.causal_ib_methods import (
    CLEAN,
    FGSM,
    METHODS,
    PGD,
    Setting,
    run_of,
    setting,
)
from tfcama.studies.side_by_side import Piece
from tfcama.studies.study import Study, of_first_seed
from tfcama.training.config import TrainingConfig
from tfcama.workdir import Workdir

PLAIN, CAMA, CONTROL = "baseline", "cama", "at_pgd20"
_TRANSFERRED = "pgd:steps=40"
_NOISE_ROWS = 25  # of the sanity checks of a model that answers by draws


class Depth(NamedTuple):
    """How thoroughly a model is attacked.

    Attributes:
      strong: the attacks of the strong protocol, beside what is transferred.
      shares: of the paper's eps, their radii.
      images: the first so many test images meet these, C&W and the sanity checks.
    """

    strong: tuple[str, ...]
    shares: tuple[float, ...]
    images: int


class Profile(NamedTuple):
    """How much of the study is run.

    Attributes:
      epochs: of training; CausalIB's are 50.
      costly_epochs: of the method that attacks at every step.
      cama_epochs: of the CAMA.
      steps_per_epoch: 0 for all training rows.
      limit: test images under the paper's attacks.
      shares: of the paper's eps, their radii.
      plain: of models whose answers are not drawn.
      bottleneck: of VIB and CausalIB, twenty draws of which are a gradient.
      cama: of the CAMA, whose gradients cost thirty times as much again.
      nearest: Carlini and Wagner's attack.
      distances: its radii, Euclidean.
    """

    epochs: int
    costly_epochs: int
    cama_epochs: int
    steps_per_epoch: int
    limit: int
    shares: tuple[float, ...]
    plain: Depth
    bottleneck: Depth
    cama: Depth
    nearest: str
    distances: tuple[float, ...]


_SHARES = (0.25, 0.5, 1.0)
_CORE = Profile(
    epochs=50,
    costly_epochs=3,
    cama_epochs=15,
    steps_per_epoch=0,
    limit=500,
    shares=_SHARES,
    plain=Depth(registry.STRONG, _SHARES, 100),
    bottleneck=Depth(registry.STRONG, _SHARES, 25),
    cama=Depth(
        (  # without the loss of samples, a gradient of which costs it ten
            "pgd_eot:steps=100:draws=20",
            "pgd_eot:steps=100:draws=20:loss=margin",
            "square:queries=1000",
            "spsa",
        ),
        _SHARES[:1],
        25,
    ),
    nearest="cw:steps=200:learning_rate=0.05",
    distances=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
)
_FEW = ("pgd_eot:steps=10:draws=2", "square:queries=10")
PROFILES = {
    "full": _CORE._replace(
        costly_epochs=20,
        limit=1000,
        plain=Depth(registry.STRONG, _SHARES, 500),
        bottleneck=Depth(registry.STRONG, _SHARES, 500),
        cama=Depth(registry.STRONG, _SHARES, 100),
        nearest="cw",
    ),
    "core": _CORE,
    "quick": Profile(
        epochs=1,
        costly_epochs=1,
        cama_epochs=1,
        steps_per_epoch=60,
        limit=50,
        shares=(0.5, 1.0),
        plain=Depth(_FEW, (0.5, 1.0), 20),
        bottleneck=Depth(_FEW, (0.5, 1.0), 10),
        cama=Depth(_FEW, (0.5,), 10),
        nearest="cw:steps=10:searches=3:learning_rate=0.1:const=1:checks=2",
        distances=(0.0, 1.0, 3.0),
    ),
}


@dataclasses.dataclass(frozen=True)
class ProtocolStudy(Study):
    """Both protocols, side by side."""

    PROFILES: ClassVar[Mapping[str, Profile]] = PROFILES
    default_dataset: ClassVar[str] = "mnist"
    methods: ClassVar[tuple[str, ...]] = (PLAIN, "vib", "causal_ib", CONTROL, CAMA)

    @property
    def title(self) -> str:
        return f"The papers' attacks and the strong protocol on {self.dataset}"

    @property
    def setting(self) -> Setting:
        return setting(self.dataset)

    def pieces(self, seed: int) -> dict[str, Piece]:
        """A model and its paper protocol; then, each by itself, what costs more."""
        found, partial = {}, functools.partial
        for name in self.methods:
            found[name] = Piece(partial(self._by_the_paper, name, seed))
        for name in self.methods:
            after = tuple(dict.fromkeys((name, PLAIN)))
            found[f"{name}_nearest"] = Piece(partial(self._nearest, name, seed), after)
            found[f"{name}_sanity"] = Piece(partial(self._sanity, name, seed), after)
            for share in self._depth(name).shares:
                strong = partial(self._strong, name, share, seed)
                found[f"{name}_strong_{share:g}"] = Piece(strong, after)
        return found

    def _model(self, name: str, seed: int) -> Workdir:
        """Trained; the plain network and what CausalIB has by its setting, the CAMA by its own."""
        profile = self.profile
        if name == CAMA:
            training = TrainingConfig(
                epochs=profile.cama_epochs,
                steps_per_epoch=profile.steps_per_epoch,
                precision=self.precision,
            )
            return self.trained(name, seed, model=name, training=training)
        how = run_of(
            name,
            self.dataset,
            epochs=profile.epochs,
            costly_epochs=profile.costly_epochs,
            steps_per_epoch=profile.steps_per_epoch,
        )
        return self.trained(name, seed, **how)

    @property
    def _papers(self) -> tuple[str, str]:
        """The paper's attacks."""
        attacks = self.setting.attacks
        return attacks[FGSM].spec, attacks[PGD].spec

    def _eps(self, share: float) -> float:
        return self.setting.eps * share

    def _depth(self, name: str) -> Depth:
        if name == CAMA:
            return self.profile.cama
        drawn = METHODS[name].bottleneck is not None
        return self.profile.bottleneck if drawn else self.profile.plain

    def _source(self, seed: int, limit: int) -> Subject:
        """The plain network, from which attacks are transferred."""
        return load_subject(self._model(PLAIN, seed), data_dir=self.data_dir, limit=limit)

    def _by_the_paper(self, name: str, seed: int) -> Workdir:
        profile, workdir = self.profile, self._model(name, seed)
        radii = [self._eps(share) for share in profile.shares]

        def attacked(attack: str, subject: Subject) -> list[Row]:
            return robustness.attack_curve(subject, attack, radii, progress=self.progress)[0]

        self.once(workdir, CLEAN, lambda subject: [curves.clean(subject, CLEAN)])
        for attack in self._papers:
            self.once(
                workdir,
                f"paper_{slug(attack)}",
                functools.partial(attacked, attack),
                limit=profile.limit,
                radii=radii,
            )
        return workdir

    def _strong(self, name: str, share: float, seed: int) -> Workdir:
        """The whole of the strong protocol at one radius, and the worst of it, input by input."""
        workdir, eps = self._model(name, seed), self._eps(share)
        attacks, _, images = self._depth(name)

        def attacked(subject: Subject) -> list[Row]:
            sources = dict.fromkeys(attacks)
            sources[_TRANSFERRED] = None if name == PLAIN else self._source(seed, images)
            rows, found = [], []
            for attack, source in sources.items():
                row, made = robustness.attack_curve(
                    subject, attack, [eps], source=source, progress=self.progress
                )
                rows += row
                found.append(made)
            worst = robustness.worst_case(subject, found, attack=_worst(attacks))
            self.progress(f"{worst[0].attack} eps {eps:g}: {results.accuracy_text(worst[0])}")
            return rows + worst

        asked = {"attacks": attacks, "transferred": _TRANSFERRED}
        self.once(workdir, f"strong_{share:g}", attacked, limit=images, eps=eps, **asked)
        return workdir

    def _nearest(self, name: str, seed: int) -> Workdir:
        """Carlini and Wagner's attack at every distance."""
        workdir, profile = self._model(name, seed), self.profile

        def attacked(subject: Subject) -> list[Row]:
            return robustness.attack_curve(
                subject, profile.nearest, profile.distances, progress=self.progress
            )[0]

        asked = {"attack": profile.nearest, "radii": profile.distances}
        self.once(workdir, "nearest", attacked, limit=self._depth(name).images, **asked)
        return workdir

    def _sanity(self, name: str, seed: int) -> Workdir:
        """The sanity checks, at half of the paper's eps."""
        workdir, images = self._model(name, seed), self._depth(name).images
        transferred = name != PLAIN
        how = {"eps": self._eps(0.5), "noise_rows": _NOISE_ROWS}
        if not steps.is_checked(workdir, limit=images, transferred=transferred, **how):
            steps.check_sanity(
                self.subject(workdir).first(images),
                transfer_from=self._source(seed, images) if transferred else None,
                progress=self.progress,
                **how,
            )
        return workdir

    # --- report --------------------------------------------------------------------------------

    def _columns(self) -> list[Column]:
        """Of the table: the paper's attacks and the worst at every radius, then the distances."""
        found = [Column("clean", "", 0.0)]
        named = {"FGSM": self._papers[0], "PGD-20": self._papers[1], "strong": self._worst}
        for share in self.profile.shares:
            eps = self._eps(share)
            found += [Column(f"{name}, {eps:.3g}", spec, eps) for name, spec in named.items()]
        for distance in filter(None, self.profile.distances):
            found.append(Column(f"C&W, L2 {distance:g}", self.profile.nearest, distance))
        return found

    @property
    def _worst(self) -> str:
        return _worst(self.profile.plain.strong)

    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        spec, columns = load_spec(workdirs[0]), self._columns()
        title = f"Accuracy on {self.dataset}, % (max norm; C&W Euclidean)"
        matrix = to_figure(*_named(table(workdirs, columns), columns), title=title)
        profile = self.profile
        caption = (
            f"Clean: all test images; FGSM and PGD-20, as CausalIB has them: the first "
            f"{profile.limit}; the others: the first {profile.plain.images}, of VIB and CausalIB "
            f"{profile.bottleneck.images}, of the CAMA {profile.cama.images}. Strong: every image "
            f"meets the worst for it of {_listed(profile.plain)}, and PGD made for the plain "
            "network, scored by ten draws where answers are drawn; of the CAMA "
            f"{_listed(profile.cama)}. The network that was trained against PGD is the control."
        )
        pictures = [Picture("table", "attack", "Both protocols", caption, to_png(matrix))]
        for name, attack, title in (
            ("strong", self._worst, "The strong protocol"),
            ("nearest", profile.nearest, "Carlini and Wagner's attack"),
        ):
            group = [row for row in rows if row.attack == attack]
            xlabel = labels.eps_label(spec, attack)
            pictures += curve_pictures(
                name, group, axis="eps", xlabel=xlabel, title=title, chance=chance
            )
        return pictures + training_pictures(of_first_seed(workdirs))

    def files(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, str]:
        del rows
        columns = self._columns()
        return {"table.csv": to_csv(*_named(table(workdirs, columns), columns))}

    def checks(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, list[Check]]:
        del rows
        found: dict[str, list[Check]] = {}
        for workdir in of_first_seed(workdirs):
            found |= load_checks(workdir, of=_label(workdir.root.name))
        own = claims(table(workdirs, self._columns()), worst=self._worst, columns=self._columns())
        return {"What the strong protocol says": own, **found}


class Column(NamedTuple):
    """Of the table.

    Attributes:
      name: for people.
      attack: of its rows; "" for none.
      eps: likewise.
    """

    name: str
    attack: str
    eps: float


def table(workdirs: Sequence[Workdir], columns: Sequence[Column]) -> dict[str, list[OverSeeds]]:
    """Accuracies over seeds by method and column; of no seed where there is none.

    Args:
      workdirs: <root>/seed<n>/<method>.
      columns: which.
    """
    found = {}
    for name in dict.fromkeys(workdir.root.name for workdir in workdirs):
        rows = [row for w in workdirs if w.root.name == name for row in results.load_rows(w)]
        by_column = [
            one_a_seed(r for r in rows if (r.attack, r.eps) == (column.attack, column.eps))
            for column in columns
        ]
        found[name] = [OverSeeds.of(cell) for cell in by_column]
    return found


def claims(
    found: Mapping[str, Sequence[OverSeeds]], *, worst: str, columns: Sequence[Column]
) -> list[Check]:
    """Whether the control holds, and nothing else as much.

    Args:
      found: see `table`.
      worst: what the rows of the strong protocol call their attack.
      columns: of `found`.
    """
    checks = []
    for place, column in enumerate(columns):
        left = {name: line[place] for name, line in found.items() if line[place].by_seed}
        if column.attack != worst or CONTROL not in left:
            continue
        control = left.pop(CONTROL)
        shown = ", ".join(f"{_label(name)} {value.mean:.3f}" for name, value in left.items())
        checks.append(
            Check(
                f"adversarial training keeps more than any other, {column.name}",
                together(above(control, value) for value in left.values()),
                f"{control.mean:.3f} against {shown}",
            )
        )
    return checks


def _named(
    found: Mapping[str, list[OverSeeds]], columns: Sequence[Column]
) -> tuple[list[str], list[str], list[list[OverSeeds]]]:
    """The table's names of models, its names of columns, and its cells."""
    return [_label(name) for name in found], [c.name for c in columns], list(found.values())


def _label(name: str) -> str:
    return METHODS[name].label if name in METHODS else labels.model_name(name)


def _listed(depth: Depth) -> str:
    return ", ".join(labels.attack_name(attack) for attack in depth.strong)


def _worst(attacks: Sequence[str]) -> str:
    """What rows call the worst of these attacks and of what was made for the plain network."""
    return labels.worst_of([*attacks, "transfer"])
