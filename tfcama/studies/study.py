"""What every study shares: seeds, workdirs that are not done twice, and a report at the end."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tfcama.data.base import DataConfig
from tfcama.data.datasets import DATASETS
from tfcama.errors import InputError
from tfcama.evaluation import curves, results
from tfcama.evaluation.checks import Check
from tfcama.evaluation.results import Row
from tfcama.evaluation.subject import Subject, load_spec, load_subject
from tfcama.models.registry import MODELS
from tfcama.report import figures, labels
from tfcama.report.build import write_report
from tfcama.report.pictures import Picture, slug, to_png
from tfcama.specs import with_number
from tfcama.studies import steps
from tfcama.studies.side_by_side import Piece, run_side_by_side
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.workdir import Workdir

FRACTION = 0.5  # of the test inputs that fine-tuning sees; both papers


@dataclasses.dataclass(frozen=True)
class Study(abc.ABC):
    """An experiment of many runs; `run` continues where an earlier, interrupted one stopped.

    Attributes:
      root: where the runs go.
      dataset: a key of DATASETS.
      data_dir: of tensorflow-datasets.
      profile: how much, one of the study's own PROFILES.
      precision: of the CAMAs' training, see TrainingConfig.
      progress: called with lines of text.
      data: the data set's configuration; None for its defaults.
    """

    root: Path
    dataset: str
    data_dir: str | None
    profile: Any
    precision: str
    progress: steps.Progress
    data: DataConfig | None = None
    _last: dict[str, Subject] = dataclasses.field(default_factory=dict, init=False, repr=False)

    PROFILES: ClassVar[Mapping[str, Any]]
    default_dataset: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("image",)  # of inputs that it can be made of

    def run(self, seeds: Sequence[int], target: Path, *, jobs: int = 1) -> Path:
        """Trains, fine-tunes and scores everything, then writes the report.

        Args:
          seeds: a whole study each.
          target: where the report goes.
          jobs: pieces of seeds that are computed at once, see run_side_by_side.

        Returns:
          The report's index.html.

        Raises:
          InputError: see run_side_by_side; or of a run.
        """
        if jobs > 1:
            run_side_by_side(self.all_pieces(seeds), jobs=jobs, logs=self.root / "logs")
        return self._report(self.all_seeds(seeds), target)

    def report_finished(self, seeds: Sequence[int], target: Path) -> Path:
        """Writes the report of what is there, while the rest is still being computed, or never.

        Args:
          seeds: a whole study each.
          target: where the report goes.

        Returns:
          The report's index.html.

        Raises:
          InputError: nothing of these seeds has been scored.
        """
        begun = (
            Workdir(path.parent)
            for seed in seeds
            for path in sorted((self.root / f"seed{seed}").rglob("config.json"))
        )
        scored = [workdir for workdir in begun if results.is_scored(workdir)]
        if not scored:
            raise InputError(
                f"{self.root} holds no scored run of seed {', '.join(map(str, seeds))}; without "
                "--finished the study makes them."
            )
        return self._report(scored, target)

    def _report(self, workdirs: Sequence[Workdir], target: Path) -> Path:
        rows = [row for workdir in workdirs for row in results.load_rows(workdir)]
        chance = 1.0 / load_spec(workdirs[0]).num_classes
        write_report(
            workdirs,
            target,
            rows=rows,
            pictures=self.pictures(rows, workdirs, chance=chance),
            checks=self.checks(rows, workdirs),
            title=self.title,
            files=self.files(rows, workdirs),
        )
        return target / "index.html"

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """Of the report."""

    @abc.abstractmethod
    def pieces(self, seed: int) -> dict[str, Piece]:
        """Everything for one seed, by name, in an order in which it can be done.

        A piece returns the run that it scored, or None; what was done before is not done again.
        """

    @property
    def repeated(self) -> Study:
        """The study of seeds after the first, which may leave out what costs most."""
        return self

    def one_seed(self, seed: int) -> list[Workdir]:
        """Everything for one seed, piece by piece; returns the runs that have results."""
        scored = [piece.call() for piece in self.pieces(seed).values()]
        return list(dict.fromkeys(filter(None, scored)))

    def all_seeds(self, seeds: Sequence[int]) -> list[Workdir]:
        """`one_seed` of the first, and `repeated`'s of the others."""
        again = self.repeated
        workdirs = self.one_seed(seeds[0])
        return workdirs + [workdir for seed in seeds[1:] for workdir in again.one_seed(seed)]

    def all_pieces(self, seeds: Sequence[int]) -> dict[str, Piece]:
        """The pieces that `all_seeds` does, by name."""
        return {
            f"seed{seed}_{name}": piece._replace(
                after=tuple(f"seed{seed}_{other}" for other in piece.after)
            )
            for place, seed in enumerate(seeds)
            for name, piece in (self.repeated if place else self).pieces(seed).items()
        }

    @abc.abstractmethod
    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        """The report's pictures."""

    @abc.abstractmethod
    def checks(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, list[Check]]:
        """What was claimed and whether it holds, by heading."""

    def files(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, str]:
        """What stands in the report's directory besides, name -> text."""
        del rows, workdirs
        return {}

    # --- steps ---------------------------------------------------------------------------------

    def trained(
        self,
        name: str,
        seed: int,
        *,
        model: str,
        training: TrainingConfig,
        architecture: Mapping[str, Any] | None = None,
        data: DataConfig | None = None,
    ) -> Workdir:
        """A model that has been trained.

        Args:
          name: of its workdir.
          seed: of the run.
          model: a key of MODELS.
          training: how.
          architecture: what differs from the model's defaults.
          data: in place of the study's.
        """
        config = RunConfig(
            model=model,
            dataset=self.dataset,
            seed=seed,
            architecture=MODELS[model].config_class(**(architecture or {})),
            training=training,
            data=data or self.data or DATASETS[self.dataset].config_class(),
        )
        workdir = Workdir(self.root / f"seed{seed}" / name)
        steps.trained(config, workdir, data_dir=self.data_dir)
        return workdir

    def once(
        self,
        workdir: Workdir,
        name: str,
        score: Callable[[Subject], list[Row]],
        *,
        limit: int | None = None,
        **asked: Any,
    ) -> None:
        """Saves the rows of `score` under this name, unless that was done before, asked the same.

        Args:
          workdir: of the run that is scored.
          name: of the experiment.
          score: gives its rows.
          limit: test rows that are scored; None for all.
          **asked: what else `score` depends on and a profile may change.
        """
        asked["limit"] = limit
        if not results.has_rows(workdir, name, asked=asked):
            self.progress(f"{workdir.root}: {name}")
            rows = score(self.subject(workdir).first(limit))
            results.save_rows(workdir, name, rows, asked=asked)

    def subject(self, workdir: Workdir) -> Subject:
        """A finished run; the last one stays loaded, as several experiments follow each other."""
        last = self._last.get("subject")
        if last is None or last.workdir != workdir:
            last = self._last["subject"] = load_subject(workdir, data_dir=self.data_dir)
        return last

    def curve_once(
        self,
        workdir: Workdir,
        manipulation: str,
        levels: Sequence[float],
        *,
        limit: int | None = None,
    ) -> None:
        """`once` for accuracy along a manipulation."""

        def score(subject: Subject) -> list[Row]:
            return curves.manipulation_curve(subject, manipulation, levels, progress=self.progress)

        self.once(
            workdir,
            f"manipulation_{slug(manipulation)}",
            score,
            **steps.curve_asked(levels, limit),
        )

    def attack_once(
        self,
        workdir: Workdir,
        attack: str,
        radii: Sequence[float],
        *,
        limit: int | None = None,
    ) -> None:
        """`steps.attack`, unless that was done before."""
        if not steps.is_attacked(workdir, attack, radii, limit=limit):
            subject = self.subject(workdir).first(limit)
            steps.attack(subject, attack, radii, progress=self.progress)


def of_first_seed(workdirs: Sequence[Workdir]) -> list[Workdir]:
    """A study's runs under the directory of the seed of the first of them, seed<n>."""
    first = workdirs[0].root
    seed = next((p for p in first.parents if re.fullmatch(r"seed\d+", p.name)), first.parent)
    return [w for w in workdirs if w.root.is_relative_to(seed)]


def finetuned_experiment(fraction: float) -> str:
    """What the rows of a CAMA that was fine-tuned on this share of the test inputs are called."""
    return "matched" if fraction == FRACTION else f"fraction_{fraction:g}"


def by_fraction(rows: Sequence[Row], *, manipulation: str, level: float) -> dict[float, list[Row]]:
    """Share of test inputs that fine-tuning saw -> rows on those that it did not see.

    Args:
      rows: of a study, their experiments named by `finetuned_experiment`.
      manipulation: that was adapted to and scored.
      level: of both.

    Returns:
      Share 0 is the model as trained; empty where nothing but 0 and the usual share was tried.
    """
    subject = with_number(manipulation, level)
    found: dict[float, list[Row]] = {}
    for row in rows:
        at = row.manipulation == manipulation and row.level == level
        if not at or row.trained_on != "clean" or "cama" not in row.model or row.variant:
            continue
        if row.experiment == "manipulation":
            found.setdefault(0.0, []).append(row)
        elif row.finetuned_on != subject:
            continue
        elif row.experiment == "matched_held_out":
            found.setdefault(FRACTION, []).append(row)
        elif row.experiment.endswith("_held_out"):
            share = labels.share_of(row.experiment)
            if share is not None:
                found.setdefault(share, []).append(row)
    return found if len(found) > 2 else {}


def fraction_pictures(
    name: str, rows: Sequence[Row], *, manipulation: str, level: float, title: str, caption: str
) -> list[Picture]:
    """How many inputs fine-tuning needs, see `by_fraction`; none where that was not tried."""
    shares = by_fraction(rows, manipulation=manipulation, level=level)
    if not shares:
        return []
    figure = figures.accuracy_by_fraction(shares, title=title)
    return [Picture(name, "shift", title, caption, to_png(figure))]
