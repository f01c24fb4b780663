"""Which TensorFlow ops an export may consist of.

Allowed is what the oldest TensorFlow that we claim for serving knows, but for what needs Python,
XLA, several devices or a file: tensorflow_model_server has none of these. That TensorFlow's ops are
listed in `ops_tensorflow_<version>.txt`; `tests/serving/old_tensorflow.py` made the list.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2

from tfcama.errors import InputError

OLDEST = "2.16"  # TensorFlow that serves our exports
_KNOWN = Path(__file__).with_name(f"ops_tensorflow_{OLDEST.replace('.', '_')}.txt")
_FORBIDDEN = re.compile(
    "PyFunc|Xla|XLA|TPU|Tpu|Collective|Nccl|Infeed|Outfeed|Rpc|Rendezvous|ReadFile|WriteFile|Summary"
)
_COMPILED = "_XlaMustCompile"


@functools.cache
def known() -> frozenset[str]:
    """Every op of the oldest TensorFlow."""
    return frozenset(_KNOWN.read_text().split())


def ops_of(model: saved_model_pb2.SavedModel) -> set[str]:
    """Names of the ops in a SavedModel, its functions included; calls of these are no ops."""
    found = set()
    for graph in model.meta_graphs:
        library = graph.graph_def.library.function
        own = {function.signature.name for function in library}
        nodes = [*graph.graph_def.node, *(node for f in library for node in f.node_def)]
        found |= {node.op for node in nodes} - own
        # Asked for with `in`: reading an attribute that is not there would add it.
        if any(_COMPILED in node.attr and node.attr[_COMPILED].b for node in nodes):
            found.add(_COMPILED)
    return found


def check(ops: set[str]) -> None:
    """Refuses ops that a server could not run.

    Raises:
      InputError: there is one; it is named.
    """
    for op in sorted(ops):
        if _FORBIDDEN.search(op):
            raise InputError(f"the export uses '{op}', which tensorflow_model_server cannot run.")
        if op not in known():
            raise InputError(
                f"the export uses '{op}', which TensorFlow {OLDEST} does not know; exports are "
                "served by that version, too."
            )
