"""How TF-Serving is to batch concurrent requests: its BatchingParameters, as text."""

from __future__ import annotations

from tfcama.serving.answers import Answers

FILE = "batching_params.pbtxt"  # in a version, for --enable_per_model_batching_parameters
_LARGEST_REQUEST = 4096  # rows
_TIMEOUT = 1000  # microseconds; an image of a CAMA computes for several times as long
_QUEUE = 100  # batches beside those of the largest request, then UNAVAILABLE
_ROW_BY_ROW = 8


def rows_together(answers: Answers) -> int:
    """How many rows of several requests are worth computing together.

    Few where they are scored row by row: every client waits for all of them and none gains.
    """
    return _ROW_BY_ROW if answers.row_by_row else answers.rows_at_once


def parameters(rows: int, *, threads: int | None = None) -> str:
    """BatchingParameters in protobuf's text format.

    Larger requests are split; without that TF-Serving would refuse them. There are no
    `allowed_batch_sizes`: they would pad, and any size is served without being compiled.

    Args:
      rows: executed together.
      threads: that execute batches; None: as the server's own parameters say.
    """
    lines = [
        f"max_batch_size {{ value: {_LARGEST_REQUEST} }}",
        f"max_execution_batch_size {{ value: {rows} }}",
        "enable_large_batch_splitting { value: true }",
        f"batch_timeout_micros {{ value: {_TIMEOUT} }}",
        f"max_enqueued_batches {{ value: {_QUEUE + -(-_LARGEST_REQUEST // rows)} }}",
    ]
    if threads is not None:
        lines.append(f"num_batch_threads {{ value: {threads} }}")
    return "".join(f"{line}\n" for line in lines)
