"""An export is loaded, and answers the same, with the oldest TensorFlow that we claim for serving.

    python3.11 -m venv /tmp/old && /tmp/old/bin/pip install tensorflow==2.16.2
    TFCAMA_OLD_PYTHON=/tmp/old/bin/python \\
      .venv/bin/python -m pytest tests/serving/test_old_tensorflow.py
"""

import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.rows import sent
from tfcama.serving import ops, warmup

PYTHON = os.environ.get("TFCAMA_OLD_PYTHON")
SCRIPT = Path(__file__).with_name("old_tensorflow.py")
needs_old = pytest.mark.skipif(
    not PYTHON, reason="TFCAMA_OLD_PYTHON names no Python with an older TensorFlow"
)


def ask_old(version, questions, where):
    """What the older TensorFlow answers, by either way of loading."""
    (where / "questions").write_bytes(pickle.dumps(questions))
    arguments = [str(version), str(where / "questions"), str(where / "answers")]
    subprocess.run([str(PYTHON), str(SCRIPT), *arguments], check=True, timeout=300)
    found = pickle.loads((where / "answers").read_bytes())
    assert found["tensorflow"].startswith(f"{ops.OLDEST}.")
    return found


def compare(version, questions, where):
    served = tf.saved_model.load(str(version))
    found = ask_old(version, questions, where)
    for (name, values), *theirs in zip(questions, found["loaded"], found["session"], strict=True):
        ours = served.signatures[name](**{k: tf.constant(v) for k, v in values.items()})
        for answers in theirs:
            assert set(answers) == set(ours)
            for key, value in ours.items():
                if value.dtype in (tf.string, tf.bool):
                    np.testing.assert_array_equal(answers[key], value)
                else:
                    np.testing.assert_allclose(answers[key], value, rtol=1e-4, atol=1e-4)


@needs_old
def test_every_signature_of_images_answers_the_same(export, tmp_path):
    requests = warmup.read(export / "1" / warmup.FILE)
    questions = [(name, {k: v.numpy() for k, v in values.items()}) for name, values in requests]
    compare(export / "1", questions, tmp_path)


@needs_old
def test_every_signature_of_a_table_answers_the_same(table_export, tmp_path):
    requests = warmup.read(table_export / "1" / warmup.FILE)
    questions = [(name, {k: v.numpy() for k, v in values.items()}) for name, values in requests]
    compare(table_export / "1", [*questions, ("serving_default", sent())], tmp_path)


@needs_old
def test_the_committed_list_of_ops_is_that_tensorflows():
    listed = subprocess.run(
        [str(PYTHON), str(SCRIPT), "--ops"], check=True, capture_output=True, text=True
    )
    assert set(listed.stdout.split()) == ops.known()
