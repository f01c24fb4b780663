"""What every layer made of other layers is."""

from __future__ import annotations

import keras


class SelfBuilding(keras.layers.Layer):
    """A layer whose parts build themselves when they are first called.

    Keras would trace `call` symbolically first, once a level of nesting, which takes seconds for
    the deep ones.
    """

    def build(self, input_shape) -> None:
        """Nothing."""
