"""The training step of discriminative classifiers."""

from __future__ import annotations

import tensorflow as tf

from tfcama import random
from tfcama.models.discriminative import Discriminative
from tfcama.objectives.classification import cross_entropy
from tfcama.training.trainer import Trainer
from tfcama.types import Batch


class DiscriminativeTrainer(Trainer):
    """Cross-entropy, under dropout; manipulated rows count by their weight, as in Eq. 5."""

    classifier: Discriminative

    def terms(self, batch: Batch, *, draws: random.RowDraws | None) -> dict[str, tf.Tensor]:
        logits = self.classifier.logits(batch.x, draws=draws)
        hits = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), batch.y)
        return {
            "loss": cross_entropy(logits, batch.y),
            "accuracy": tf.cast(hits, tf.float32),
        }
