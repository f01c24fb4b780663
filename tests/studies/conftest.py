"""Studies in miniature call every function once or twice: to compile them takes longer."""

import pytest

from tests.conftest import TF_DATA_IS_COMPILED, eagerly
from tfcama.training import config


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if "tests/studies/" in item.nodeid:
            item.add_marker(TF_DATA_IS_COMPILED)


@pytest.fixture(scope="package", autouse=True)
def in_miniature():
    with pytest.MonkeyPatch.context() as patched, eagerly():
        patched.setattr(config, "_Z_STEPS", 1)
        yield
