"""What is evaluated: a finished run, its data, and how its results are labelled."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from tfcama.data.base import Dataset, Split
from tfcama.errors import InputError
from tfcama.evaluation.predict import Predictor
from tfcama.training import run
from tfcama.training.config import RunConfig
from tfcama.training.finetune import seen_rows
from tfcama.training.phases import load_finished
from tfcama.types import Classifier, InputSpec
from tfcama.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Subject:
    """A finished run and the data it is scored on.

    Attributes:
      workdir: of the run.
      loaded: its configuration and classifier.
      dataset: of its configuration, split by its seed.
      test: the rows that are scored: the test split or the first `limit` of it.
      limit: so many; None for all.
      augmentation: what its answers are means over, see `augmented`; "" for none.
      scorer: what answers in place of the loaded classifier, such means.
      at_test: how its answers differ from the run's own, see run.load; "" for not at all.
    """

    workdir: Workdir
    loaded: run.LoadedRun
    dataset: Dataset
    test: Split
    limit: int | None = None
    augmentation: str = ""
    scorer: Classifier | None = None
    at_test: str = ""

    @property
    def classifier(self) -> Classifier:
        """What answers, and what is attacked."""
        return self.scorer or self.loaded.classifier

    @functools.cached_property
    def predictor(self) -> Predictor:
        """Compiled once, however often it is asked for."""
        return Predictor(self.classifier, seed=self.loaded.config.seed)

    def named_to(self, other: Subject) -> str:
        """Its model, and what tells it from others of that model, as attacks made for it say.

        Its seed only if that is not the other's: of pairs of one seed each, rows are of one line.
        """
        ours, theirs = self.identity(""), other.identity("")
        trained = ours["trained_on"].removeprefix("clean").removeprefix("+")
        seed = "" if ours["seed"] == theirs["seed"] else f"seed {ours['seed']}"
        root, theirs_root = self.workdir.root.resolve(), other.workdir.root.resolve()
        where = os.path.relpath(root, theirs_root.parent)
        if ours["model"].endswith(where) or root in theirs_root.parents:
            where = ""  # it says nothing more than the model does, or is what they came from
        told = [ours["variant"], trained, ours["finetuned_on"], where, seed]
        rest = "; ".join(filter(None, told))
        return f"{ours['model']} ({rest})" if rest else ours["model"]

    @functools.cached_property
    def compiled(self) -> dict[Hashable, Any]:
        """What attacks on its classifier compiled, for the next ones."""
        return {}

    @property
    def held_out(self) -> np.ndarray | None:
        """Rows that fine-tuning on test images did not see; None where there was no such thing."""
        adaptations = self.loaded.config.adaptations
        if not adaptations or any(adaptation.fraction >= 1.0 for adaptation in adaptations):
            return None
        seen = seen_rows(len(self.dataset.test), self.loaded.config)
        return np.setdiff1d(np.arange(len(self.test)), seen)

    def first(self, limit: int | None) -> Subject:
        """The same run, scored on the first `limit` test rows only; None for all.

        Raises:
          InputError: that is less than one row.
        """
        if limit is not None and limit < 1:
            raise InputError(f"{limit} test rows were asked for; at least 1 is needed.")
        limited = dataclasses.replace(self, test=self.dataset.test.take(slice(limit)), limit=limit)
        # What was compiled serves both.
        vars(limited).update(predictor=self.predictor, compiled=self.compiled)
        return limited

    def identity(self, experiment: str, **fields: Any) -> dict[str, Any]:
        """The fields of a Row that say whose number it is; others are empty unless given."""
        config = self.loaded.config
        return {
            "experiment": experiment,
            "model": config.model,
            "dataset": config.dataset,
            "trained_on": f"clean+{config.training.augment}"
            if config.training.augment
            else "clean",
            "finetuned_on": config.adapted_to,
            "manipulation": "",
            "level": 0.0,
            "attack": "",
            "eps": 0.0,
            "seed": config.seed,
            "variant": ", ".join(filter(None, [config.variant, self.augmentation])),
            **fields,
        }


def load_spec(workdir: Workdir) -> InputSpec:
    """What a run was told of its inputs; builds no model and reads no data.

    Raises:
      InputError: there is no run.
    """
    spec = RunConfig.from_json(workdir.read_config()).input_spec
    if spec is None:
        raise InputError(f"{workdir.config_file} has no input_spec; train again.")
    return spec


def load_subject(
    workdir: Workdir,
    *,
    data_dir: str | None,
    limit: int | None = None,
    at_test: Sequence[str] = (),
) -> Subject:
    """A finished run with its data.

    Args:
      workdir: of the run.
      data_dir: of tensorflow-datasets.
      limit: score the first so many test rows only.
      at_test: `key=value` assignments to how it predicts, see run.load.

    Raises:
      InputError: there is no run, it has not ended, or there is no data.
    """
    loaded = load_finished(workdir, before="scored", at_test=at_test)
    dataset = run.load_data(loaded.config, data_dir=data_dir)
    subject = Subject(workdir, loaded, dataset, dataset.test, at_test=",".join(at_test))
    return subject.first(limit)
