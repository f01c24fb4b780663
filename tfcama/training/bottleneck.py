"""The training steps of VIB (Eq. 4 of CausalIB) and of CausalIB (Eq. 11)."""

from __future__ import annotations

import tensorflow as tf

from tfcama import random
from tfcama.models.causal_ib import CausalIb
from tfcama.models.vib import POOLINGS, Vib, codes
from tfcama.objectives import bottleneck, instruments
from tfcama.training.trainer import EVALUATION_SEED, Trainer
from tfcama.types import Batch


class VibTrainer(Trainer):
    """Minimises E[-log q(y|z)] + alpha KL(q(z|x) || N(0, I)), K samples of z a row.

    `distortion` and `rate` are its terms in nats: H(Y) - distortion <= I(Z; Y) and
    rate >= I(X; Z) are the coordinates of the information plane.
    """

    classifier: Vib
    term_names: tuple[str, ...] = ("distortion", "rate")

    def __init__(self, classifier: Vib, **kwargs):
        super().__init__(classifier, **kwargs)
        self._unit = bottleneck.UNITS[classifier.config.unit]

    def terms(self, batch: Batch, *, draws: random.RowDraws | None) -> dict[str, tf.Tensor]:
        model = self.classifier
        q_z = model.q_z(batch.x, learning=draws is not None)
        if draws is None:
            noise = model.shared_noise(tf.constant(EVALUATION_SEED))
        else:
            noise = model.row_noise(draws)
        z = codes(q_z, noise)
        logits = model.q_y(z)
        distortion = bottleneck.expected_cross_entropy(logits, batch.y)
        rate = bottleneck.rate(q_z)
        bound = self._unit * (distortion + model.config.alpha * rate)
        answer = POOLINGS[model.config.pooling](logits)
        guess = tf.argmax(answer, axis=-1, output_type=tf.int32)
        further = self._further(z, q_z.mean(), noise)
        return {
            "loss": tf.add_n([bound, *further.values()]),
            "distortion": distortion,
            "rate": rate,
            "accuracy": tf.cast(tf.equal(guess, batch.y), tf.float32),
            **further,
        }

    def _further(self, z: tf.Tensor, mean: tf.Tensor, noise: tf.Tensor) -> dict[str, tf.Tensor]:
        """Weighted terms of the loss besides the bounds, [B] each."""
        del z, mean, noise
        return {}


class CausalIbTrainer(VibTrainer):
    """VIB's loss + beta times the causal loss of Eq. 10; `causal` is that product."""

    classifier: CausalIb
    term_names = (*VibTrainer.term_names, "causal")

    def __init__(self, classifier: CausalIb, **kwargs):
        super().__init__(classifier, **kwargs)
        self._causal_loss = instruments.FORMS[classifier.config.form]
        self._norm = instruments.NORMS[classifier.config.norm]

    def _further(self, z: tf.Tensor, mean: tf.Tensor, noise: tf.Tensor) -> dict[str, tf.Tensor]:
        strength = instruments.instrument_strength(noise)
        loss = self._causal_loss(z, mean, strength, norm=self._norm)
        return {"causal": self.classifier.config.beta * loss}
