"""Adam in one pass over the memory."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class Adam(keras.optimizers.Adam):
    """Keras' Adam with TensorFlow's fused kernel for the update; numbers and state are the same.

    Keras writes the update as ten element-wise ops, each of which walks through all of a variable;
    on a CPU that is half of a training step of the mlp backbone at batch 100. Sparse gradients and
    amsgrad take Keras' own way. Arguments are `keras.optimizers.Adam`'s.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves one variable and its two moments (Kingma and Ba, 2015, Algorithm 1)."""
        self._move(variable, gradient, self._powers(variable.dtype), learning_rate)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        """Keras' own where there are several replicas; one has nothing to sum.

        The sum has a custom gradient, which TensorFlow keeps, with the whole traced step, for as
        long as the process lives.
        """
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return list(grads_and_vars)
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def _distributed_tf_update_step(
        self, distribution: Any, grads_and_vars: Any, learning_rate: Any
    ) -> None:
        """Keras' own, but the betas' powers, which all variables share, are raised once."""
        powers = {dtype: self._powers(dtype) for dtype in {v.dtype for _, v in grads_and_vars}}
        for gradient, variable in grads_and_vars:
            distribution.extended.update(
                variable,
                self._move,
                args=(gradient, powers[variable.dtype], learning_rate),
                group=False,
            )

    def _powers(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """beta_1^t and beta_2^t at this step."""
        step = tf.cast(self.iterations + 1, dtype)
        return (
            tf.pow(tf.constant(self.beta_1, dtype), step),
            tf.pow(tf.constant(self.beta_2, dtype), step),
        )

    def _move(
        self, variable: Any, gradient: Any, powers: tuple[tf.Tensor, tf.Tensor], learning_rate: Any
    ) -> None:
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        place = self._get_variable_index(variable)
        dtype = variable.dtype
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].value.handle,
            v=self._velocities[place].value.handle,
            beta1_power=powers[0],
            beta2_power=powers[1],
            lr=tf.cast(learning_rate, dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, dtype),
        )
