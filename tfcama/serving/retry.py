"""Trying again after errors that pass, with pauses that grow and are never the same."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from typing import TypeVar

from tfcama.serving.errors import Code, ServingError

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Retry:
    """Exponential back-off with jitter.

    Attributes:
      attempts: in all, at least 1.
      first: longest pause after the first attempt, in seconds; it doubles each time.
      longest: pause.
      sleep: waits so many seconds.
      jitter: a share of the pause to take, between the two numbers that it is given.
    """

    attempts: int = 6
    first: float = 0.1
    longest: float = 2.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[float, float], float] = random.uniform

    def call(self, work: Callable[[float], _T], *, timeout: float) -> _T:
        """What `work` returns, tried again while its error is `passing` and there is time.

        Args:
          work: takes the seconds that are left; asking twice must do no harm.
          timeout: seconds for all attempts and pauses together.

        Raises:
          ServingError: the last attempt's, or DEADLINE_EXCEEDED.
        """
        deadline = time.monotonic() + timeout
        for attempt in range(self.attempts):
            left = deadline - time.monotonic()
            if left <= 0.0:
                break
            try:
                return work(left)
            except ServingError as error:
                pause = min(self.longest, self.first * 2**attempt) * self.jitter(0.5, 1.0)
                time_left = deadline - time.monotonic()
                if not error.passing or attempt + 1 == self.attempts or pause >= time_left:
                    raise
            self.sleep(pause)
        raise ServingError(Code.DEADLINE_EXCEEDED, f"no answer within {timeout:g} seconds.")
