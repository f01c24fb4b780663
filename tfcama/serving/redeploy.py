"""Adapts a deployed model to what it was asked, and deploys the result only where it is better.

A model that learns from unlabelled requests can be taught nonsense by them. So a part of them is
held out: the adapted model must explain it better than the version that is stable now does, and
must not pay for that with its answers to clean data. Only then a version appears, as canary.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.config import check_fraction
from tfcama.data.base import Split
from tfcama.errors import InputError
from tfcama.evaluation.predict import Predictor, gain, hits_of, mean_log_px, scores_by_group
from tfcama.models.base import ClassifierModel
from tfcama.serving import description, operations
from tfcama.serving.module import variables_of
from tfcama.serving.operations import Deployment
from tfcama.serving.publish import fingerprint, held_out, publish, version_of
from tfcama.training import run
from tfcama.training.config import FinetuneConfig, RunConfig, comparable, set_at_test
from tfcama.training.finetune import finetune, is_finished
from tfcama.types import Generative
from tfcama.workdir import Workdir

MIN_HELD_OUT = 20  # rows; with fewer the standard error is a guess
_SURE = 2.0  # standard errors that log p(x) must have gained


@dataclasses.dataclass(frozen=True)
class Conditions:
    """When an adapted model is published.

    Attributes:
      held_out: share of the served inputs that are not adapted on, in (0, 1).
      max_clean_drop: share of the clean validation rows by which accuracy may fall, in [0, 1].
    """

    held_out: float = 0.25
    max_clean_drop: float = 0.01

    def __post_init__(self):
        if not 0.0 < self.held_out < 1.0:
            raise InputError(f"held_out={self.held_out:g} was given; it must be inside (0, 1).")
        check_fraction(self, "max_clean_drop")


class Model(NamedTuple):
    """A trained model.

    Attributes:
      config: of its run.
      classifier: with its weights.
    """

    config: RunConfig
    classifier: ClassifierModel


class Measured(NamedTuple):
    """One model's numbers.

    Attributes:
      accuracy: on clean rows.
      clean_log_px: mean log p(x) of clean rows, nats, as the model answers.
      served_log_px: the same of the held-out served inputs, by as much search as the other model,
        see training.config.comparable.
    """

    accuracy: float
    clean_log_px: float
    served_log_px: float


class Comparison(NamedTuple):
    """What adaptation changed.

    Attributes:
      clean_rows, served_rows: how many were scored.
      before, after: the stable version, and the adapted model.
      gain: mean difference of the held-out served inputs' log p(x), nats.
      standard_error: of the gain; inputs and their noise are paired, see evaluation.predict.gain.
    """

    clean_rows: int
    served_rows: int
    before: Measured
    after: Measured
    gain: float
    standard_error: float

    def refusal(self, conditions: Conditions) -> str | None:
        """Why the adapted model may not be published, or None."""
        drop = self.before.accuracy - self.after.accuracy
        if not drop <= conditions.max_clean_drop:
            return (
                f"accuracy on clean validation data fell by {100 * drop:.2f} points, "
                f"{100 * conditions.max_clean_drop:g} are allowed"
            )
        if not self.gain > _SURE * self.standard_error:
            return (
                f"log p(x) of held-out inputs changed by {self.gain:.2f} ± "
                f"{self.standard_error:.2f} nats, which is no sure gain"
            )
        return None


class Outcome(NamedTuple):
    """What `redeploy` did.

    Attributes:
      comparison: of the stable version and the adapted model.
      refusal: why nothing was published; None where it was.
      deployment: with the canary; as before where nothing was published.
    """

    comparison: Comparison
    refusal: str | None
    deployment: Deployment


def subject_of(source: str, served: np.ndarray) -> str:
    """A name of served inputs: where they come from, and a digest of their values.

    It becomes a part of the adapted run's configuration, so that a run never continues on others.
    """
    return f"{source} {hashlib.sha256(np.ascontiguousarray(served).tobytes()).hexdigest()[:8]}"


def split_served(served: np.ndarray, *, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs to adapt on, and the share that is held out; a function of the seed.

    Raises:
      InputError: either would be too few.
    """
    held = round(share * len(served))
    if held < MIN_HELD_OUT or held == len(served):
        raise InputError(
            f"{len(served)} different inputs were given, of which {held} would be held out; at "
            f"least {math.ceil(MIN_HELD_OUT / share)} are needed to tell whether the adapted model "
            "is better."
        )
    order = random.shuffled(len(served), random.stream(seed, "redeploy", "held out")).numpy()
    return served[np.sort(order[held:])], served[np.sort(order[:held])]


def redeploy(
    base: Workdir,
    target: Workdir,
    config: FinetuneConfig,
    *,
    served: np.ndarray,
    export_dir: Path,
    config_dir: Path,
    conditions: Conditions = Conditions(),
    data_dir: str | None = None,
    devices: run.Devices = run.Devices(),
    progress: Callable[[str], object],
) -> Outcome:
    """Fine-tunes a run on served inputs and, where that is better, publishes it as the canary.

    Whatever goes wrong, the stable version stays. What was interrupted goes on when it is called
    again with the same inputs: the fine-tuning continues, and a version that was published already
    is only labelled.

    Args:
      base: the run to adapt.
      target: where the adapted run goes.
      config: how to adapt.
      served: [N, *shape] unlabelled inputs.
      export_dir: the model's base path.
      config_dir: of the deployment's files; without a deployment.json it becomes one of
        `export_dir`'s highest version, for servers on this machine.
      conditions: see there.
      data_dir: of tensorflow-datasets.
      devices: where it runs.
      progress: told what happens.

    Raises:
      InputError: there is no stable version, it or the run has no log p(x), their inputs differ,
        the inputs are too few, another version is canary, or another one became stable meanwhile;
        or see `finetune` and `publish`.
    """
    deployment = _deployment(export_dir, config_dir)
    if not is_finished(target, config):  # it becomes the next version
        deployment.with_canary(max(operations.versions(export_dir)) + 1)
    stable = export_dir / str(deployment.stable)
    before = published_model(stable)
    run_config = RunConfig.from_json(base.read_config())
    if run_config.input_spec != before.classifier.spec:
        raise InputError(f"{stable} takes other inputs than {base.root} was trained on.")
    adapted_on, held = split_served(served, share=conditions.held_out, seed=config.seed)
    dataset = run.load_data(run_config, data_dir=data_dir)
    loaded = finetune(
        base, target, config, clean=dataset.train, unlabelled=adapted_on, devices=devices
    )
    progress(f"adapted to {len(adapted_on)} inputs: {target.root}")
    after = Model(loaded.config, loaded.classifier)
    comparison = compare(before, after, clean=dataset.validation, served=held, seed=run_config.seed)
    refusal = comparison.refusal(conditions)
    if refusal is not None:
        return Outcome(comparison, refusal, deployment)
    if not (config_dir / operations.STATE).exists():
        operations.write(deployment, config_dir)  # else the version to come would count as stable
    version = version_of(loaded, export_dir)
    if version is None:
        clean = held_out(loaded, data_dir=data_dir, progress=progress)
        version = int(publish(loaded, export_dir, clean=clean).name)
        progress(f"published {export_dir / str(version)}")
    now = operations.read(config_dir)
    if now.stable != deployment.stable:
        raise InputError(f"version {now.stable} became stable meanwhile; run it again.")
    deployment = now.with_canary(version)
    operations.write(deployment, config_dir)
    return Outcome(comparison, None, deployment)


def compare(
    before: Model,
    after: Model,
    *,
    clean: Split,
    served: np.ndarray,
    seed: int,
) -> Comparison:
    """Both models on the same inputs, under the same noise.

    Clean rows are answered as each model answers. log p(x) of served inputs, which decides, is
    compared by as many samples and without a search, see training.config.comparable: who looks
    longer is no better model.

    Args:
      before: a generative classifier.
      after: another of the same inputs.
      clean: labelled rows that nobody manipulated.
      served: unlabelled inputs, [N, *shape], N > 1.
      seed: of the noise.

    Raises:
      InputError: a model has no log p(x).
    """
    for model in (before, after):
        if not isinstance(model.classifier, Generative):
            raise InputError(
                "a model without log p(x) was given, and so nobody can tell whether adapting made "
                "it better; take a 'cama' or 'measurement_cama'."
            )
    at_test = comparable(before.config, after.config)
    (old, old_scores), (new, new_scores) = (
        _measured(model, at_test, clean, served, seed) for model in (before, after)
    )
    return Comparison(len(clean), len(served), old, new, *gain(new_scores, old_scores))


def published_model(version: Path) -> Model:
    """The model inside a version directory that `publish` made.

    Raises:
      InputError: it was not made by `publish`, or is damaged.
    """
    described, published = description.require(version, "config", "fingerprint")
    description.check(version)
    config = RunConfig.from_json(described)
    classifier = run.build(config, precision="float32")
    variables = variables_of(classifier)
    try:
        reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
        for place, variable in enumerate(variables):
            name = f"model_variables/{place}/.ATTRIBUTES/VARIABLE_VALUE"
            variable.assign(reader.get_tensor(name))
    except (tf.errors.OpError, ValueError) as error:
        raise InputError(f"{version} holds other variables than its model has ({error}).") from None
    if fingerprint(variables) != published:
        raise InputError(f"{version} holds other variables than its {description.FILE} says.")
    return Model(config, classifier)


def _deployment(export_dir: Path, config_dir: Path) -> Deployment:
    if not (config_dir / operations.STATE).exists():
        models = str(operations.absolute(export_dir).parent)
        return operations.deployment(export_dir, stable=None, canary=None, models=models)
    found = operations.read(config_dir)
    name = operations.absolute(export_dir).name
    if found.name != name:
        raise InputError(f"{config_dir} deploys '{found.name}', not '{name}'.")
    if found.stable not in operations.versions(export_dir):
        raise InputError(f"{export_dir} lacks version {found.stable}, which {config_dir} deploys.")
    return found


def _measured(
    model: Model, at_test: Sequence[str], clean: Split, served: np.ndarray, seed: int
) -> tuple[Measured, list[np.ndarray]]:
    """A model's numbers, and log p(x, y = c) of the served inputs, see scores_by_group."""
    predictor = Predictor(model.classifier, seed=seed)
    scores = predictor.log_scores(clean.x)
    if set_at_test(model.config, at_test) != model.config:
        other = run.answering_by(at_test, model.config, model.classifier)
        predictor = Predictor(other, seed=seed)
    of_served = scores_by_group(predictor, served)
    measured = Measured(
        float(hits_of(scores, clean.y).mean()), mean_log_px([scores]), mean_log_px(of_served)
    )
    return measured, of_served
