"""Run by another Python, with an older TensorFlow: loads an export and asks it.

    python old_tensorflow.py VERSION_DIRECTORY QUESTIONS.pickle ANSWERS.pickle
    python old_tensorflow.py --ops      prints its ops: tfcama/serving/ops_tensorflow_<version>.txt

Questions are [(signature, {input: array}), ...]. They are put twice: through a session, as
tensorflow_model_server does it, and through tf.saved_model.load.
"""

import os
import pickle
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf


def main(version, questions, answers):
    with open(questions, "rb") as file:
        asked = pickle.load(file)
    loaded = tf.saved_model.load(version)
    found = {"tensorflow": tf.__version__, "loaded": [], "session": []}
    for name, values in asked:
        answer = loaded.signatures[name](**{k: tf.constant(v) for k, v in values.items()})
        found["loaded"].append({k: v.numpy() for k, v in answer.items()})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], version)
        for name, values in asked:
            signature = graph.signature_def[name]
            feed = {signature.inputs[k].name: v for k, v in values.items()}
            fetch = {k: v.name for k, v in signature.outputs.items()}
            found["session"].append(session.run(fetch, feed))
    with open(answers, "wb") as file:
        pickle.dump(found, file)


def print_ops():
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    content = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    print("\n".join(sorted({op.name for op in op_def_pb2.OpList.FromString(content).op})))


if __name__ == "__main__":
    print_ops() if sys.argv[1] == "--ops" else main(*sys.argv[1:])
