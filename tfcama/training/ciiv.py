"""The training step of CiiV."""

from __future__ import annotations

import tensorflow as tf

from tfcama import random
from tfcama.models.ciiv import Ciiv
from tfcama.objectives import bottleneck, instruments
from tfcama.training.trainer import EVALUATION_SEED, Trainer
from tfcama.types import Batch


class CiivTrainer(Trainer):
    """Mean cross-entropy of the nine gazes + weight times the causal regulariser, `causal`.

    The regulariser is CausalIB's cross-multiplied causal loss of the gazes' features, smooth L1,
    a mean over features (the authors' code sums over them); a gaze's strength is the share of
    pixels that it kept.
    """

    classifier: Ciiv
    term_names = ("distortion", "causal")

    def terms(self, batch: Batch, *, draws: random.RowDraws | None) -> dict[str, tf.Tensor]:
        model = self.classifier
        if draws is None:
            noise = model.shared_noise(tf.constant(EVALUATION_SEED))
        else:
            noise = model.row_noise(draws)
        views = model.views(batch.x, noise, learning=draws is not None)
        distortion = bottleneck.expected_cross_entropy(views.logits, batch.y)
        features = views.features
        size = tf.cast(features.shape[-1], tf.float32)
        causal = (model.config.weight / size) * instruments.cross_multiplied(
            features, tf.zeros_like(features[0]), views.strength, norm=instruments.smooth_l1
        )
        scores = tf.reduce_mean(views.logits / views.strength[..., None], axis=0)
        guess = tf.argmax(scores, axis=-1, output_type=tf.int32)
        return {
            "loss": distortion + causal,
            "distortion": distortion,
            "causal": causal,
            "accuracy": tf.cast(tf.equal(guess, batch.y), tf.float32),
        }
