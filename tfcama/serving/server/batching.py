"""Concurrent requests to one signature, answered as one batch."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

import numpy as np

from tfcama.serving.errors import Code, ServingError, invalid
from tfcama.serving.server.config import Batching

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass
class _Task:
    key: Hashable
    inputs: Arrays
    rows: int
    deadline: float | None
    arrived: float
    done: threading.Event = dataclasses.field(default_factory=threading.Event)
    given_up: bool = False
    answer: Arrays | None = None
    error: Exception | None = None


class Batcher:
    """A few threads that answer what has gathered while the last batches were running.

    A batch that fails is asked again request by request, so that a bad one is told what is wrong
    with it and the others get their answers.

    Args:
      run: (key, inputs, deadline) -> outputs, of a batch; raises ServingError.
      batching: sizes and times.
    """

    def __init__(self, run: Callable[[Hashable, Arrays, float | None], Arrays], batching: Batching):
        self._run = run
        self._batching = batching
        self._waiting: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name="batcher", daemon=True)
            for _ in range(batching.threads)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, key: Hashable, inputs: Arrays, *, deadline: float | None) -> Arrays:
        """The outputs for inputs [rows, ...], batched with others of the same key.

        Args:
          key: names what is run; equal keys can share a batch.
          inputs: rows that agree in everything but their number with others of this key.
          deadline: of time.monotonic, or None.

        Raises:
          ServingError: UNAVAILABLE if too much waits, DEADLINE_EXCEEDED, or what `run` raises.
        """
        now = time.monotonic()
        task = _Task(key, inputs, len(next(iter(inputs.values()))), deadline, now)
        most = self._batching.max_batch_size * self._batching.max_enqueued_batches
        with self._changed:
            if self._closed:
                raise ServingError(Code.UNAVAILABLE, "the server is shutting down.")
            if sum(t.rows for t in self._waiting if not t.given_up) + task.rows > most:
                raise ServingError(
                    Code.UNAVAILABLE, f"more than {most} rows wait to be answered; try again later."
                )
            self._waiting.append(task)
            self._changed.notify_all()
        if not task.done.wait(None if deadline is None else max(0.0, deadline - now)):
            task.given_up = True
            raise ServingError(Code.DEADLINE_EXCEEDED, "the deadline passed in the batch's queue.")
        if task.error is not None:
            raise task.error
        if task.answer is None:
            raise ServingError(Code.INTERNAL, "the batch ended without an answer.")
        return task.answer

    def close(self) -> None:
        """Answers what waits, then ends the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while tasks := self._next():
            self._answer(tasks)

    def _next(self) -> list[_Task]:
        """The next batch; empty: there will be none."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                first = self._waiting[0]
                full_at = first.arrived + self._batching.timeout
                while (
                    not self._closed and self._gathered(first.key) < self._batching.max_batch_size
                ):
                    left = full_at - time.monotonic()
                    if left <= 0.0:
                        break
                    self._changed.wait(left)
                tasks = self._take(first.key)
                if tasks:
                    return tasks

    def _gathered(self, key: Hashable) -> int:
        return sum(task.rows for task in self._waiting if task.key == key)

    def _take(self, key: Hashable) -> list[_Task]:
        taken: list[_Task] = []
        rest: deque[_Task] = deque()
        rows = 0
        for task in self._waiting:
            if task.given_up:
                continue
            if task.key == key and (not taken or rows + task.rows <= self._batching.max_batch_size):
                taken.append(task)
                rows += task.rows
            else:
                rest.append(task)
        self._waiting = rest
        return taken

    def _answer(self, tasks: list[_Task]) -> None:
        try:
            self._answer_together(tasks)
        except ServingError as error:
            if len(tasks) == 1:
                tasks[0].error = error
            else:
                for task in tasks:
                    self._answer([task])
        except Exception as error:  # a defect must not leave clients waiting
            for task in tasks:
                task.error = error
        for task in tasks:
            task.done.set()

    def _answer_together(self, tasks: list[_Task]) -> None:
        first = tasks[0]
        names = list(first.inputs)
        inputs = {name: np.concatenate([task.inputs[name] for task in tasks]) for name in names}
        deadlines = [task.deadline for task in tasks]
        latest = max((d for d in deadlines if d is not None), default=None)
        outputs = self._run(first.key, inputs, None if None in deadlines else latest)
        rows = sum(task.rows for task in tasks)
        if len(tasks) > 1 and any(len(value) != rows for value in outputs.values()):
            raise invalid("an output has not one value a row.")  # then each is asked alone
        start = 0
        for task in tasks:
            stop = start + task.rows
            if len(tasks) == 1:
                task.answer = outputs
            else:
                task.answer = {name: value[start:stop] for name, value in outputs.items()}
            start = stop
