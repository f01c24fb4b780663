"""Is this input manipulated? Its log p(x) against that of clean held-out inputs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfcama.errors import InputError

FALSE_ALARMS = 0.05
_TOLD = (0, 1, 5, 25, 50, 75, 95, 99, 100)  # percentiles in the metadata


@dataclasses.dataclass(frozen=True)
class Detector:
    """A two-sided conformal test: clean inputs are called manipulated at most so often.

    Both sides, since a blank image, which no digit is, has a *higher* log p(x) than any digit. The
    p-value of clean inputs is at most u with probability at most u, whatever their density (they
    and the reference being exchangeable).

    Attributes:
      log_px: of clean held-out inputs, ascending, [N] float32 nats.
      false_alarms: level of the test, in (0, 1).
    """

    log_px: np.ndarray
    false_alarms: float

    @classmethod
    def fit(cls, log_px: np.ndarray, *, false_alarms: float) -> Detector:
        """The detector of a model's answers to clean inputs.

        Args:
          log_px: [N] nats, in any order.
          false_alarms: level of the test.

        Raises:
          InputError: the level is not inside (0, 1), a value is not finite, or there are fewer
            values than could ever reach the level.
        """
        needed = rows_needed(false_alarms)
        if len(log_px) < needed:
            raise InputError(
                f"{len(log_px)} clean inputs were given; detect needs {needed} at "
                f"false_alarms={false_alarms:g}."
            )
        if not np.isfinite(log_px).all():
            raise InputError("log p(x) of a clean input is not finite; nothing can be detected.")
        return cls(np.sort(log_px).astype(np.float32), false_alarms)

    def answer(self, log_px: tf.Tensor) -> dict[str, tf.Tensor]:
        """Percentile, p_value and manipulated, each [B], for log_px [B]; in the graph."""
        size = float(len(self.log_px))
        at_most = _counted(self.log_px, log_px, side="right")
        at_least = size - _counted(self.log_px, log_px, side="left")
        p_value = tf.minimum(1.0, 2.0 * (1.0 + tf.minimum(at_most, at_least)) / (size + 1.0))
        return {
            "percentile": 100.0 * at_most / size,
            "p_value": p_value,
            "manipulated": p_value <= self.false_alarms,
        }

    def metadata(self) -> dict[str, Any]:
        """For tfcama.json."""
        quantiles = np.percentile(self.log_px, _TOLD)
        return {
            "rows": len(self.log_px),
            "false_alarms": self.false_alarms,
            "log_px": {str(q): float(v) for q, v in zip(_TOLD, quantiles, strict=True)},
        }


def rows_needed(false_alarms: float) -> int:
    """How many clean inputs it takes for a p-value to reach the level at all.

    Raises:
      InputError: the level is not inside (0, 1).

    Example:
      >>> rows_needed(0.05)
      39
    """
    if not 0.0 < false_alarms < 1.0:
        raise InputError(f"false_alarms={false_alarms:g} was given; it must be inside (0, 1).")
    return max(1, math.ceil(2.0 / false_alarms - 1e-9) - 1)


def _counted(reference: np.ndarray, values: tf.Tensor, *, side: str) -> tf.Tensor:
    """How many of the reference are below each value, or at most as high; [B] float32."""
    return tf.cast(tf.searchsorted(tf.constant(reference), values, side=side), tf.float32)
