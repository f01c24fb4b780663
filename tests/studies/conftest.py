"""Studies in miniature call every function once or twice: to compile them takes longer."""

import pytest
import tensorflow as tf


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if "tests/studies/" in item.nodeid:  # tf.data's own functions stay compiled, and say so
            item.add_marker(pytest.mark.filterwarnings("ignore:Even though the `tf.config"))


@pytest.fixture(scope="package", autouse=True)
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
