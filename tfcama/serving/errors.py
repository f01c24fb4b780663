"""What goes wrong with a request, as TF-Serving says it: a gRPC code and a sentence."""

from __future__ import annotations

import re

import tensorflow as tf
from grpc import StatusCode as Code

_LONGEST = 2000  # characters: gRPC sends the sentence in a header, which is limited to 8 KiB
_FUNCTIONS = re.compile(r"^(\{\{function_node .*?\}\}\s*)+")  # that an error came through
_BY_NUMBER = {code.value[0]: code for code in Code}
_HTTP = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


class ServingError(Exception):
    """A request that cannot be answered.

    Attributes:
      code: of gRPC.
      sentence: for the client.
    """

    def __init__(self, code: Code, sentence: str):
        sentence = sentence if len(sentence) <= _LONGEST else f"{sentence[:_LONGEST]}..."
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence

    @property
    def http_status(self) -> int:
        """What TF-Serving's REST API answers for the code."""
        return _HTTP.get(self.code, 500)

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)


def invalid(sentence: str) -> ServingError:
    """An INVALID_ARGUMENT."""
    return ServingError(Code.INVALID_ARGUMENT, sentence)


def of_http(status: int, sentence: str) -> ServingError:
    """The error that a REST API answered, with the most common code for its status."""
    codes = {number: code for code, number in reversed(_HTTP.items())}
    # A body that is too large today is too large tomorrow, unlike a 429.
    codes[413] = Code.OUT_OF_RANGE
    return ServingError(codes.get(status, Code.UNKNOWN), sentence)


def of_tensorflow(error: tf.errors.OpError) -> ServingError:
    r"""The code of a TensorFlow error, and what it says without the graph's nodes.

    Example:
      >>> text = "Graph execution error:\n\nassertion failed: [x: too large.]\n\t [[{{node A}}]]"
      >>> of_tensorflow(tf.errors.InvalidArgumentError(None, None, text))
      ServingError('x: too large.')
      >>> text = "{{function_node __inference_<lambda>_7}} x: too large."
      >>> of_tensorflow(tf.errors.InvalidArgumentError(None, None, text))
      ServingError('x: too large.')
    """
    text = error.message.removeprefix("Graph execution error:").strip()
    text = _FUNCTIONS.sub("", text)
    # What a function says of where the node was made comes first.
    text = text[max(0, text.find("assertion failed: [")) :].partition("\n")[0]
    if text.startswith("assertion failed: [") and text.endswith("]"):
        text = text.removeprefix("assertion failed: [").removesuffix("]")
    return ServingError(_BY_NUMBER.get(error.error_code, Code.UNKNOWN), text)
