"""A trained CAMA follows a stream: it learns from what arrives, and from before.

Each gradient step takes labelled clean rows, unlabelled inputs that have just arrived, and
unlabelled inputs of before, of which a reservoir keeps a uniform sample: experience replay
(Rolnick et al., NeurIPS 2019) by reservoir sampling (Vitter, 1985). It is one of reweighted
wake-sleep or of Eq. 8. Only the M-networks move, so what is known of Y and Z cannot be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.data import pipeline
from tfcama.data.base import GeneratedSplit, Split
from tfcama.progress import tracked
from tfcama.training import checkpoints, run
from tfcama.training.cama import Guesses
from tfcama.training.config import RWS, RunConfig
from tfcama.training.empirical_bayes import Proposer, shares
from tfcama.training.phases import dreams_stream, make_dreamer, make_trainer
from tfcama.types import Batch


class Reservoir:
    """A uniform sample, without replacement, of everything that was ever added.

    Args:
      capacity: of the sample; all that is held in memory.
      seed: int32 [2]; it and the order of additions decide what is kept.
    """

    def __init__(self, capacity: int, *, seed: np.ndarray):
        self._capacity, self._seed = capacity, seed
        self._kept: list[np.ndarray] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, x: np.ndarray) -> None:
        """Inputs [N, *shape], one after another (Vitter's algorithm R)."""
        shares = random.uniform([len(x)], random.fold_in(self._seed, self._added)).numpy()
        for row, share in zip(x, shares, strict=True):
            self._added += 1
            if len(self._kept) < self._capacity:
                self._kept.append(row.copy())
                continue
            place = int(share * self._added)
            if place < self._capacity:
                self._kept[place] = row.copy()

    def draw(self, size: int, *, seed: random.Seed) -> np.ndarray:
        """[size, *shape], with replacement."""
        return np.stack([self._kept[place] for place in _places(size, len(self), seed)])


def _places(size: int, number: int, seed: random.Seed) -> np.ndarray:
    """`size` draws of 0 … number-1."""
    return (random.uniform([size], seed).numpy() * number).astype(np.int64)


class StreamAdapter:
    """Reweighted wake-sleep or Eq. 8 on inputs as they arrive.

    Args:
      trained: a finished run of a CAMA, see finetune.load_base.
      config: of the adapted run, see finetune.adapted_config; with a stream.
      clean: labelled clean rows, the training split.
      devices: where it runs.

    Attributes:
      trainer: holds the classifier and its optimiser.

    Raises:
      InputError: see WakeTrainer.
    """

    def __init__(
        self,
        trained: run.LoadedRun,
        config: RunConfig,
        clean: Split | GeneratedSplit,
        *,
        devices: run.Devices = run.Devices(),
    ):
        if config.finetuned is None or config.stream is None:
            raise TypeError("the configuration of a run on a stream is needed.")
        self._finetuned, self._stream, self._devices = config.finetuned, config.stream, devices
        self.trainer = make_trainer(trained, config, devices=devices)
        self._propose = Proposer(self.classifier)
        self._step = tf.function(
            self.trainer.train_step, autograph=False, jit_compile=devices.jit_compile
        )
        self._reservoir = Reservoir(
            config.stream.reservoir, seed=random.stream(config.finetuned.seed, "stream", "kept")
        )
        self._clean = clean
        self._dreamer = None
        if self._finetuned.warm_up:
            self._dreamer = make_dreamer(
                self.classifier, self._finetuned, steps=self._finetuned.warm_up, devices=devices
            )
        self._rows = self._clean_rows(start_step=0)

    @property
    def classifier(self):
        """The model, whose M-networks move."""
        return self.trainer.classifier

    def warm_up(self, progress: Callable[[str], None] = lambda text: None) -> bool:
        """The `warm_up` steps before anything arrived; False where there are none to do."""
        if self._dreamer is None:
            return False
        step = tf.function(
            self._dreamer.train_step, autograph=False, jit_compile=self._devices.jit_compile
        )
        rows = iter(dreams_stream(self._clean, self._finetuned))
        progress(f"{self._finetuned.warm_up} steps of dreams before the stream")
        for _ in tracked(range(self._finetuned.warm_up), "dreams"):
            step(next(rows))
        return True

    def learn(self, x: np.ndarray) -> dict[str, float]:
        """The steps after inputs [N, *shape] arrived, N > 0; they may be replayed from then on.

        Returns:
          The trainer's terms, their means since its metrics were reset.
        """
        replayed = round(self._stream.replay * self._finetuned.batch_size)
        if not len(self._reservoir):
            replayed = 0
        rows_of = (self._guessed if self._stream.by == RWS else self._drawn)(x, replayed)
        for _ in range(self._stream.steps_per_arrival):
            rows = rows_of(*random.split(self._at_step("unlabelled")))
            logs = self._step({"clean": next(self._rows), "unlabelled": rows})
        self._reservoir.add(x)
        return {name: float(value) for name, value in logs.items()}

    def _drawn(self, x: np.ndarray, replayed: int) -> Callable[[random.Seed, random.Seed], Batch]:
        """What makes a step's unlabelled rows from two seeds: so many of before, the others new."""

        def rows_of(of_new: random.Seed, of_old: random.Seed) -> Batch:
            rows = x[_places(self._finetuned.batch_size - replayed, len(x), of_new)]
            if replayed:
                rows = np.concatenate([rows, self._reservoir.draw(replayed, seed=of_old)])
            return pipeline.unlabelled_batch(rows)

        return rows_of

    def _guessed(
        self, x: np.ndarray, replayed: int
    ) -> Callable[[random.Seed, random.Seed], Guesses]:
        """The same with what may have been done to them: as many rows of before are looked at."""
        of_rows, of_proposals = random.split(self._at_step("guesses"))
        size, pool = len(x), x
        if replayed:
            pool = np.concatenate([x, self._reservoir.draw(size, seed=of_rows)])
        found = self._propose(pool, seed=of_proposals)
        guesses = Guesses(pool, found.m.swapaxes(0, 1), shares(self.classifier, found).T)

        def rows_of(of_new: random.Seed, of_old: random.Seed) -> Guesses:
            new = _places(self._finetuned.batch_size - replayed, size, of_new)
            rows = np.concatenate([new, size + _places(replayed, size, of_old)])
            return Guesses(*(tf.constant(each[rows], tf.float32) for each in guesses))

        return rows_of

    def _at_step(self, name: str) -> random.Seed:
        root = random.stream(self._finetuned.seed, "stream", name)
        return random.fold_in(root, self.trainer.optimizer.iterations)

    def resume(self, checkpoint: checkpoints.Checkpoint, arrived: Iterable[np.ndarray]) -> None:
        """Continues as if everything in `arrived`, in this order, had just been learned from."""
        optimizer = self.trainer.optimizer
        checkpoints.restore(checkpoint, classifier=self.classifier, optimizer=optimizer)
        for x in arrived:
            self._reservoir.add(x)
        self._rows = self._clean_rows(start_step=int(optimizer.iterations))

    def _clean_rows(self, *, start_step: int):
        return iter(
            pipeline.training_stream(
                self._clean,
                batch_size=self._finetuned.batch_size,
                seed=random.stream(self._finetuned.seed, "stream", "clean"),
                start_step=start_step,
            )
        )
