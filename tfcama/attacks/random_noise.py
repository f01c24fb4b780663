"""`noise`: uniform noise of the same size, which every real attack must beat."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tfcama import random
from tfcama.attacks.base import Attack


@dataclasses.dataclass(frozen=True)
class RandomNoise(Attack):
    """A corner of the eps-ball at random: the largest perturbation that knows nothing."""

    protocol: ClassVar[str] = "check"

    def _perturb(self, prepared, x, y, *, seed):
        return x + self.eps * tf.sign(random.uniform(tf.shape(x), seed, -1.0, 1.0))
