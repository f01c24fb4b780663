"""Studies in miniature call every function once or twice: to compile them takes longer."""

import pytest

from tests.conftest import TF_DATA_IS_COMPILED, eagerly
from tfcama.studies.study import Study
from tfcama.training import config, run


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if "tests/studies/" in item.nodeid:
            item.add_marker(TF_DATA_IS_COMPILED)


@pytest.fixture(scope="package", autouse=True)
def in_miniature():
    with pytest.MonkeyPatch.context() as patched, eagerly():
        patched.setattr(config, "_Z_STEPS", 1)
        yield


def untouched(root):
    """When every file of rows below a directory was last written."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.rows.json")}


@pytest.fixture
def no_training(monkeypatch):
    """Called, it lets nothing be trained from then on."""

    def forbid():
        monkeypatch.setattr(run.Trainer, "fit", lambda *a, **k: pytest.fail("trained again"))

    return forbid


@pytest.fixture
def asked_to_train(monkeypatch):
    """Of a study, what its pieces ask `Study.trained` for, by the name of the run; none is made."""

    class AskedError(Exception):
        pass

    def ask(study):
        asked = {}

        def trained(self, name, seed, **how):
            asked[name] = how
            raise AskedError

        monkeypatch.setattr(Study, "trained", trained)
        for piece in study.pieces(0).values():
            with pytest.raises(AskedError):
                piece.call()
        return asked

    return ask
