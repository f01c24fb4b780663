"""One version of a model, loaded as the model server loads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfcama.errors import InputError
from tfcama.serving import description
from tfcama.serving.errors import Code, ServingError, invalid, of_tensorflow
from tfcama.serving.server.batching import Arrays, Batcher
from tfcama.serving.server.config import BATCHING_FILE, Batching, read_batching

_TAGS = ["serve"]
_INTERNAL = "__saved_model_init_op"  # loading runs it; no client may


class LoadedVersion:
    """A SavedModel in a session, which is what tensorflow_model_server runs, too.

    A session of its own, not tf.saved_model.load: only the wanted outputs are computed, a deadline
    ends a call inside TensorFlow, and `close` gives the memory back at once.

    Args:
      name: of the model.
      number: of the version.
      path: its directory.
      runs: bounds the calls of TensorFlow at once, over all versions.
      batching: how requests are batched, unless the directory says so itself; None: never.

    Attributes:
      signatures: the SignatureDefs by name, as the file has them.

    Raises:
      ServingError: the directory holds no whole SavedModel, or another one than its tfcama.json
        says.
    """

    def __init__(
        self,
        name: str,
        number: int,
        path: Path,
        *,
        runs: threading.Semaphore,
        batching: Batching | None,
    ):
        self.name = name
        self.number = number
        self.path = path
        self._runs = runs
        if not (path / description.SAVED_MODEL).is_file():
            raise ServingError(Code.NOT_FOUND, f"{path} holds no {description.SAVED_MODEL}.")
        try:
            description.check(path)
        except InputError as error:
            raise ServingError(Code.DATA_LOSS, str(error)) from None
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(self._session, _TAGS, str(path))
            self.signatures: dict[str, Any] = dict(meta_graph.signature_def)
            if batching is not None and (path / BATCHING_FILE).exists():
                batching = read_batching(path / BATCHING_FILE)
        except tf.errors.OpError as error:
            self._session.close()
            found = of_tensorflow(error)
            sentence = f"{path} holds no whole SavedModel ({found.sentence})."
            raise ServingError(found.code, sentence) from None
        except InputError as error:
            self._session.close()
            raise invalid(str(error)) from None
        except Exception as error:  # a damaged graph fails in many ways
            self._session.close()
            sentence = f"{path} holds no whole SavedModel ({error})."
            raise ServingError(Code.INTERNAL, sentence) from error
        self._batching = batching
        self._batcher = None if batching is None else Batcher(self._run_key, batching)

    def signature(self, name: str) -> Any | None:
        """The SignatureDef of that name that clients may ask, or None."""
        return None if name == _INTERNAL else self.signatures.get(name)

    def run(
        self, signature: str, inputs: Arrays, outputs: tuple[str, ...], *, deadline: float | None
    ) -> Arrays:
        """The outputs of one signature.

        Args:
          signature: a name in `signatures`.
          inputs: all of the signature's, of its types.
          outputs: names of those that are wanted.
          deadline: of time.monotonic, or None.

        Raises:
          ServingError: what the graph refused, or DEADLINE_EXCEEDED.
        """
        if self._batcher is None or not self._can_batch(signature, inputs):
            return self._run(signature, inputs, outputs, deadline=deadline)
        shapes = tuple((name, value.shape[1:]) for name, value in sorted(inputs.items()))
        return self._batcher.ask((signature, outputs, shapes), inputs, deadline=deadline)

    def close(self) -> None:
        """Answers what waits and frees the variables; `run` must not be called any more."""
        if self._batcher is not None:
            self._batcher.close()
        self._session.close()

    def _can_batch(self, signature: str, inputs: Arrays) -> bool:
        definition = self.signatures[signature]
        if self._batching is None:
            return False
        for info in (*definition.inputs.values(), *definition.outputs.values()):
            if info.tensor_shape.unknown_rank or not info.tensor_shape.dim:
                return False
            if info.tensor_shape.dim[0].size != -1:
                return False
        sizes = {len(value) if value.ndim else -1 for value in inputs.values()}
        return len(sizes) == 1 and 0 < min(sizes) <= self._batching.max_batch_size

    def _run_key(self, key: Hashable, inputs: Arrays, deadline: float | None) -> Arrays:
        asked: tuple[str, tuple[str, ...], Any] = key  # type: ignore[assignment]
        return self._run(asked[0], inputs, asked[1], deadline=deadline)

    def _run(
        self, signature: str, inputs: Arrays, outputs: tuple[str, ...], *, deadline: float | None
    ) -> Arrays:
        definition = self.signatures[signature]
        fetches = {name: definition.outputs[name].name for name in outputs}
        feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
        if not self._runs.acquire(timeout=_left(deadline)):
            raise ServingError(Code.DEADLINE_EXCEEDED, "the deadline passed in the queue.")
        try:
            options = None
            if deadline is not None:
                milliseconds = max(1, int(1e3 * (deadline - time.monotonic())))
                options = tf.compat.v1.RunOptions(timeout_in_ms=milliseconds)
            found = self._session.run(fetches, feeds, options=options)
        except tf.errors.DeadlineExceededError:
            raise ServingError(
                Code.DEADLINE_EXCEEDED, "the deadline passed while the model was running."
            ) from None
        except tf.errors.OpError as error:
            raise of_tensorflow(error) from None
        except (ValueError, TypeError) as error:  # of feeds; shapes were compared, so a rare type
            raise invalid(str(error)) from None
        finally:
            self._runs.release()
        return {name: np.asarray(value) for name, value in found.items()}


def _left(deadline: float | None) -> float | None:
    """Seconds to a deadline, for a wait."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
