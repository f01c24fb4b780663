"""Pictures of bottlenecks."""

import dataclasses
import json

import pytest

from tests.conftest import TF_DATA_IS_COMPILED, eagerly
from tfcama.evaluation.subject import load_subject
from tfcama.models.registry import MODELS
from tfcama.report import bottleneck
from tfcama.report.pictures import load_all
from tfcama.studies import steps
from tfcama.training import run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.workdir import Workdir

pytestmark = TF_DATA_IS_COMPILED
SMALL = {"backbone": "mlp:units=8", "num_samples": 2}


@pytest.fixture
def trained(tmp_path, bars_everywhere):
    """A function of a model and its architecture: a finished run of two epochs."""

    def of(model, **architecture):
        workdir = Workdir(tmp_path / model)
        config = RunConfig(
            model=model,
            dataset="digits",
            seed=0,
            architecture=MODELS[model].config_class(**architecture),
            training=TrainingConfig(epochs=2, batch_size=32),
        )
        with eagerly():
            run.train(config, workdir)
        return load_subject(workdir, data_dir=None)

    return of


def test_a_bottleneck_shows_what_it_keeps(trained):
    subject = trained("vib", dim_z=3, **SMALL)
    steps.picture_model(subject)
    found = {picture.name: picture for picture in load_all(subject.workdir)}
    assert set(found) == {"latent_pca", "latent_tsne", "information_plane"}
    assert found["latent_pca"].png != found["latent_tsne"].png
    assert {picture.section for picture in found.values()} == {"model"}


def test_there_is_no_cloud_of_one_dimension_or_of_few_inputs(trained):
    subject = trained("vib", dim_z=1, **SMALL)
    assert [p.name for p in bottleneck.of_model(subject)] == ["information_plane"]
    subject = trained("causal_ib", dim_z=2, **SMALL)
    few = dataclasses.replace(subject, test=subject.test.take(slice(9)))
    assert [p.name for p in bottleneck.of_model(few)] == ["information_plane"]
    ten = dataclasses.replace(subject, test=subject.test.take(slice(10)))
    assert len(bottleneck.of_model(ten)) == 3


def test_there_is_no_plane_of_a_run_that_did_not_measure_it(trained):
    subject = trained("vib", dim_z=1, **SMALL)
    file = subject.workdir.metrics_file
    epochs = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(epochs) == 2
    for epoch in epochs:
        del epoch["val_rate"]
    file.write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    assert bottleneck.of_model(subject) == []
    file.unlink()
    assert bottleneck.of_model(subject) == []


def test_a_model_without_a_bottleneck_has_no_such_pictures(trained):
    assert bottleneck.of_model(trained("dnn")) == []
