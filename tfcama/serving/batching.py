"""How TF-Serving is to batch concurrent requests: its BatchingParameters, as text."""

from __future__ import annotations

from tfcama.models.base import ClassifierModel
from tfcama.models.cama_base import CamaBase
from tfcama.serving.inputs import inputs_of

FILE = "batching_params.pbtxt"  # in a version, for --enable_per_model_batching_parameters
_LARGEST_REQUEST = 4096  # rows
_TIMEOUT = 1000  # microseconds; an image of a CAMA computes for several times as long
_QUEUE = 100  # batches, then UNAVAILABLE


def rows_together(classifier: ClassifierModel) -> int:
    """How many rows of several requests are worth computing together.

    Of a classifier that decodes every class and sample, as many as it decodes at once: more rows
    would follow one another all the same, and every client wait for all of them.
    """
    rows = inputs_of(classifier.spec).rows_at_once
    if not isinstance(classifier, CamaBase):
        return rows
    decoded = classifier.num_classes * classifier.config.num_samples
    return max(1, min(rows, classifier.config.max_decoder_rows // decoded))


def parameters(rows: int, *, threads: int | None = None) -> str:
    """BatchingParameters in protobuf's text format.

    Larger requests are split; without that TF-Serving would refuse them. There are no
    `allowed_batch_sizes`: they would pad, and any size is served without being compiled.

    Args:
      rows: executed together.
      threads: that execute batches; None: as the server's own parameters say.
    """
    lines = [
        f"max_batch_size {{ value: {max(rows, _LARGEST_REQUEST)} }}",
        f"max_execution_batch_size {{ value: {rows} }}",
        "enable_large_batch_splitting { value: true }",
        f"batch_timeout_micros {{ value: {_TIMEOUT} }}",
        f"max_enqueued_batches {{ value: {_QUEUE} }}",
    ]
    if threads is not None:
        lines.append(f"num_batch_threads {{ value: {threads} }}")
    return "".join(f"{line}\n" for line in lines)
