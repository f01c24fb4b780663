"""What every study shares: seeds, workdirs that are not done twice, and a report at the end."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tfcama.data.base import DataConfig
from tfcama.data.datasets import DATASETS
from tfcama.evaluation import results
from tfcama.evaluation.results import Row
from tfcama.evaluation.robustness import Check
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.models.registry import MODELS
from tfcama.report.build import write_report
from tfcama.report.pictures import Picture
from tfcama.studies.steps import Progress
from tfcama.training import run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.workdir import Workdir


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
    progress: Progress
    data: DataConfig | None = None

    PROFILES: ClassVar[Mapping[str, Any]]
    default_dataset: ClassVar[str]

    def run(self, seeds: Sequence[int], target: Path) -> Path:
        """Trains, fine-tunes and scores everything, then writes the report.

        Args:
          seeds: a whole study each.
          target: where the report goes.

        Returns:
          The report's index.html.
        """
        workdirs = [workdir for seed in seeds for workdir in self.one_seed(seed)]
        rows = [row for workdir in workdirs for row in results.load_rows(workdir)]
        spec = load_subject(workdirs[0], data_dir=self.data_dir).dataset.spec
        write_report(
            workdirs,
            target,
            rows=rows,
            pictures=self.pictures(rows, workdirs, chance=1.0 / spec.num_classes),
            checks=self.checks(rows),
            title=self.title,
        )
        return target / "index.html"

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """Of the report."""

    @abc.abstractmethod
    def one_seed(self, seed: int) -> list[Workdir]:
        """Everything for one seed; returns the runs that have results."""

    @abc.abstractmethod
    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        """The report's pictures."""

    @abc.abstractmethod
    def checks(self, rows: Sequence[Row]) -> dict[str, list[Check]]:
        """What was claimed and whether it holds, by heading."""

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
        run.train(config, workdir, data_dir=self.data_dir)
        return workdir

    def once(
        self,
        workdir: Workdir,
        name: str,
        score: Callable[[Subject], list[Row]],
        *,
        limit: int | None = None,
    ) -> None:
        """Saves the rows of `score` under this name, unless that was done before.

        Args:
          workdir: of the run that is scored.
          name: of the experiment.
          score: gives its rows.
          limit: test rows that are scored; None for all.
        """
        if not (workdir.results / f"{name}.rows.json").exists():
            self.progress(f"{workdir.root}: {name}")
            subject = load_subject(workdir, data_dir=self.data_dir, limit=limit)
            results.save_rows(workdir, name, score(subject))


def by_fraction(
    rows: Sequence[Row], *, manipulation: str, subject: str, default: float
) -> dict[float, list[Row]]:
    """Share of test inputs that fine-tuning saw -> rows on those that it did not see.

    Args:
      rows: of a study.
      manipulation: that was scored, at the level of `subject`.
      subject: what was adapted to.
      default: share that the experiment "matched" used.

    Returns:
      Share 0 is the model as trained; empty where nothing but 0 and the default was tried.
    """
    level = subject.split(":")[1]
    found: dict[float, list[Row]] = {}
    for row in rows:
        at = row.manipulation == manipulation and f"{row.level:g}" == level
        if not at or row.trained_on != "clean" or "cama" not in row.model or row.variant:
            continue
        if row.experiment == "manipulation":
            found.setdefault(0.0, []).append(row)
        elif row.finetuned_on != subject:
            continue
        elif row.experiment == "matched_held_out":
            found.setdefault(default, []).append(row)
        elif row.experiment.startswith("fraction_") and row.experiment.endswith("_held_out"):
            fraction = float(row.experiment.removeprefix("fraction_").removesuffix("_held_out"))
            found.setdefault(fraction, []).append(row)
    return found if len(found) > 2 else {}
