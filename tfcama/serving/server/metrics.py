"""Counts and latencies of requests, under the names that TF-Serving gives them."""

from __future__ import annotations

import bisect
import threading

_BUCKETS = [10.0 * 1.8**i for i in range(33)]  # microseconds
_COUNT = ":tensorflow:serving:request_count"
_LATENCY = ":tensorflow:serving:request_latency"


class Metrics:
    """Requests by model, API, entry point and status, as a page for Prometheus."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._latencies: dict[tuple[str, str, str, str], list[float]] = {}

    def record(self, *, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Counts one request.

        Args:
          model: one that is served, or "" (a client must not invent labels without end).
          api: Predict, Classify, ...
          entrypoint: GRPC or REST.
          status: name of the code.
          seconds: that it took.
        """
        micros = 1e6 * seconds
        with self._lock:
            self._counts[model, status] = self._counts.get((model, status), 0) + 1
            # One count a bucket, one beyond all of them, and the sum.
            cells = self._latencies.setdefault(
                (model, api, entrypoint, status), [0.0] * (len(_BUCKETS) + 2)
            )
            cells[bisect.bisect_left(_BUCKETS, micros)] += 1
            cells[-1] += micros

    def page(self) -> str:
        """The text that Prometheus scrapes."""
        with self._lock:
            lines = [f"# TYPE {_COUNT} counter"]
            for (model, status), count in sorted(self._counts.items()):
                lines.append(f'{_COUNT}{{model_name="{_quoted(model)}",status="{status}"}} {count}')
            lines.append(f"# TYPE {_LATENCY} histogram")
            for (model, api, entrypoint, status), cells in sorted(self._latencies.items()):
                labels = (
                    f'model_name="{_quoted(model)}",API="{api}",entrypoint="{entrypoint}",'
                    f'status="{status}"'
                )
                total = 0
                for limit, cell in zip([*_BUCKETS, None], cells[:-1], strict=True):
                    total += int(cell)
                    shown = "+Inf" if limit is None else f"{limit:g}"
                    lines.append(f'{_LATENCY}_bucket{{{labels},le="{shown}"}} {total}')
                lines.append(f"{_LATENCY}_sum{{{labels}}} {cells[-1]:g}")
                lines.append(f"{_LATENCY}_count{{{labels}}} {total}")
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
