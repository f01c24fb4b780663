"""The train step under Model.fit, for every family and every tf.distribute strategy."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.data.base import Split
from tfcama.errors import InputError, unknown_name
from tfcama.models.base import ClassifierModel
from tfcama.training.defences import AttackingDefence, Defence
from tfcama.types import Batch

ROBUST_ACCURACY = "robust_accuracy"
EVALUATION_SEED = (0, 0)  # validation always uses the same noise


class Trainer(keras.Model, abc.ABC):
    """Trains a classifier by Model.fit; a family writes `terms` and nothing else.

    Losses are per example; the step weighs them, sums over the replica's rows and divides by the
    global batch, so that summing gradients over replicas is right. Only the chosen variable groups
    are differentiated and handed to the optimiser: that, not a `trainable` flag, is what freezes
    the others (a flag set after a step was traced freezes nothing).

    Args:
      classifier: what is trained.
      num_rows: rows of the global batch.
      seed: int32 [2]; with the optimiser's step count it decides every draw.
      groups: variable groups that move, each once; None for all.

    Raises:
      InputError: a group is unknown, or none was named.

    Attributes:
      term_names: what `terms` returns besides "loss"; each becomes a metric, its batch mean.
    """

    term_names: tuple[str, ...] = ()

    def __init__(
        self,
        classifier: ClassifierModel,
        *,
        num_rows: int,
        seed: np.ndarray,
        groups: Sequence[str] | None = None,
    ):
        super().__init__(name="trainer")
        self.classifier = classifier
        self._num_rows = num_rows
        self._seed = tf.constant(seed)
        known = classifier.variable_groups()
        groups = list(known if groups is None else dict.fromkeys(groups))
        if not groups:
            raise InputError(f"no variable group was named that moves; name of {', '.join(known)}.")
        for name in groups:
            if name not in known:
                raise unknown_name("variable group", name, known)
        self._defence: Defence | None = None
        self._moving = [v for name in groups for v in known[name]]
        self._means = {
            name: keras.metrics.Mean(name=name) for name in ("loss", *self.term_names, "accuracy")
        }
        self.built = True

    @abc.abstractmethod
    def terms(self, batch: Any, *, draws: random.RowDraws | None) -> dict[str, tf.Tensor]:
        """Per-example "loss" (minimised) and everything in `term_names`, each [B], in nats.

        Args:
          batch: what the stream yields.
          draws: of the batch's rows; None in validation, where one fixed table serves.
        """

    def rows_of(self, batch: Any) -> Batch:
        """The part of a streamed element that carries rows and weights."""
        return batch

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        *,
        jit_compile: bool = False,
        defence: Defence | None = None,
    ) -> None:
        """Sets the optimiser and creates its variables (before fit: several machines need that).

        Args:
          optimizer: of the moving variables.
          jit_compile: XLA for the step.
          defence: what hardens training steps. Validation stays clean; of a defence that attacks
            it also has `robust_accuracy`.

        Raises:
          InputError: XLA cannot compile this model, or its loss is not made for the defence.
        """
        model = self.classifier
        if jit_compile and not model.fits_xla:
            raise InputError(
                f"jit_compile was given; {model.name} fills in what its mechanism moved out of the "
                "frame, of as many inputs as need it, which XLA cannot compile. Leave it out."
            )
        if defence is not None and defence.leaves_bounds and model.keeps_to_bounds:
            raise InputError(
                f"a defence that moves inputs out of their bounds was given; {model.name}'s "
                "likelihood is one of pixels in [0, 1], and grows without end outside. Take "
                "likelihood=gaussian."
            )
        self._defence = defence
        if isinstance(defence, AttackingDefence):
            self._means[ROBUST_ACCURACY] = keras.metrics.Mean(name=ROBUST_ACCURACY)
        super().compile(optimizer=optimizer, jit_compile=jit_compile)
        optimizer.build(self._moving)

    def train_step(self, batch: Any) -> dict[str, tf.Tensor]:
        rows = self.rows_of(batch)
        seed = random.fold_in(self._seed, self.optimizer.iterations)
        draws = random.RowDraws(seed, rows.row, self._num_rows)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([_tf_variable(v) for v in self._moving])
            if self._defence is None:
                terms = self.terms(batch, draws=draws)
            else:
                terms = self._defence.terms(self, batch, draws=draws)
            loss = tf.reduce_sum(rows.weight * terms["loss"]) / self._num_rows
        gradients = tape.gradient(loss, [_tf_variable(v) for v in self._moving])
        # Clean data under do(m = 0) reaches neither NNpM nor NNqM: they have no gradient then.
        pairs = [(g, v) for g, v in zip(gradients, self._moving, strict=True) if g is not None]
        self.optimizer.apply_gradients(pairs)
        return self._update(terms, rows.weight)

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        terms, seed = self.validation_terms(batch), tf.constant(EVALUATION_SEED)
        scores = self.scores(batch.x, seed=seed)
        hits = tf.equal(tf.argmax(scores, axis=-1, output_type=tf.int32), batch.y)
        terms["accuracy"] = tf.cast(hits, tf.float32)
        if isinstance(self._defence, AttackingDefence):
            robust = self._defence.robust_hits(self, batch, seed=seed)
            terms[ROBUST_ACCURACY] = tf.cast(robust, tf.float32)
        return self._update(terms, batch.weight)

    def validation_terms(self, batch: Batch) -> dict[str, tf.Tensor]:
        """`terms` on held-out clean rows."""
        return self.terms(batch, draws=None)

    def scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """What validation and defences go by, [B, C]: the classifier's scores."""
        return self.classifier.log_scores(x, seed=seed)

    def summary_scalars(self, rows: Split) -> dict[str, float]:
        """Further numbers for TensorBoard, once an epoch, from held-out rows."""
        del rows
        return {}

    def summary_images(self, rows: Split) -> dict[str, tf.Tensor]:
        """Pictures for TensorBoard, once an epoch, [1, H, W, channels] in [0, 1] each."""
        del rows
        return {}

    def _update(self, terms: dict[str, tf.Tensor], weight: tf.Tensor) -> dict[str, tf.Tensor]:
        for name, values in terms.items():
            self._means[name].update_state(values, sample_weight=weight)
        return {name: self._means[name].result() for name in terms}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._means.values())

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.classifier(x)

    # --- what Keras 3 breaks under tf.distribute ---------------------------------------------

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        """Nothing: all variables exist. Keras would convert a PerReplica to a tensor here."""

    def _get_metrics_result_or_logs(self, logs):
        """The epoch's metrics, weighted over all replicas.

        Keras would take the mean of the replicas' means where a step does not update every metric.
        """
        return {name: self._means[name].result() for name in logs}

    def _make_function(self, step_function):
        """Keras' own, but for several machines, where its metric reduction fails.

        There, a step's numbers are those of the first local replica; the epoch's are the metrics
        themselves, which sum over all replicas (keras issues 20329 and 20585).
        """
        strategy = self.distribute_strategy
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return super()._make_function(step_function)

        @tf.function(autograph=False)
        def step(iterator):
            logs = strategy.run(step_function, args=(next(iterator),))
            return tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], logs
            )

        return step


def _tf_variable(variable: Any) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable
