"""Studies in miniature: every function is called once or twice, few samples and steps answer."""

import pytest

from tfcama.training import config


@pytest.fixture(scope="package", autouse=True)
def in_miniature(eagerly):
    with pytest.MonkeyPatch.context() as patched, eagerly():
        patched.setattr(config, "_M_SAMPLES", 2)
        patched.setattr(config, "_VERSATILE_M_SAMPLES", 4)
        patched.setattr(config, "_Z_STEPS", 1)
        yield
