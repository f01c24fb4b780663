"""A stream from beginning to end, killed on the way, and its model used afterwards."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tfcama.data.measurement import MeasurementConfig
from tfcama.errors import InputError
from tfcama.evaluation.results import load_rows
from tfcama.evaluation.subject import load_subject
from tfcama.models.measurement_cama import MeasurementCamaConfig
from tfcama.studies import steps
from tfcama.studies.stream import AFTERWARDS, AS_IT_CAME, DREAMS, follow, stream_workdir
from tfcama.training import run
from tfcama.training.config import FinetuneConfig, RunConfig, StreamConfig, TrainingConfig
from tfcama.workdir import Workdir

STREAM = StreamConfig(
    "children_shift:3@8,clean@6", by="rws", arriving=4, steps_per_arrival=1, reservoir=5
)
CONFIG = FinetuneConfig(
    batch_size=4, mechanism="location_scale", clean="elbo", dreams=1.0, warm_up=1
)
ROWS = 20  # of the test split


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A CAMA of tables, trained a little: the same stages as images, in a tenth of the time."""
    workdir = Workdir(tmp_path_factory.mktemp("stream") / "cama")
    config = RunConfig(
        model="measurement_cama",
        dataset="measurement",
        seed=0,
        architecture=MeasurementCamaConfig(hidden=16, dim_z=4, num_samples=1),
        training=TrainingConfig(epochs=1, steps_per_epoch=3, batch_size=16),
        data=MeasurementConfig(train_rows=40, validation_rows=25, test_rows=ROWS),
    )
    run.train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def followed(base):
    """The run at the end of the stream, and a copy of how a kill in the second segment left it."""
    target = stream_workdir(base, CONFIG, STREAM)
    killed = Workdir(target.root.with_name("killed"))

    def progress(line):
        if line.startswith("clean@6"):
            shutil.copytree(target.root, killed.root)

    follow(base, target, STREAM, CONFIG, data_dir=None, progress=progress)
    return target, killed


def test_a_stream_leaves_rows_pictures_and_change_points(followed):
    target, _ = followed
    rows = load_rows(target)
    so_far = ["children_shift:3@8", "children_shift:3@8,clean@6"]
    came = {(r.finetuned_on, r.manipulation): r.n for r in rows if r.experiment == AS_IT_CAME}
    assert came == {
        (so_far[0], "children_shift"): 8,
        (so_far[1], ""): 6,
        ("", "children_shift"): 8,
        ("", ""): 6,
    }
    matrix = {(r.finetuned_on, r.level): r.n for r in rows if r.experiment == AFTERWARDS}
    assert matrix == {
        (line, level): ROWS - 14 for line in ("", DREAMS, *so_far) for level in (0.0, 3.0)
    }
    report = json.loads((target.report / "report.json").read_text())
    assert len(report["results"]) == len(rows)
    assert {path.name for path in target.report.glob("*.png")} == {"stream.png", "forgetting.png"}
    page = (target.report / "index.html").read_text()
    assert "the change to children shift 3 is found" in page
    assert "fine-tuned on children shift 3@8, as it came" in page
    assert "as it came, as it came" not in page
    assert run.load(target).config.stream == STREAM


def test_a_killed_stream_continues_to_the_same_numbers(base, followed):
    target, killed = followed
    follow(base, killed, STREAM, CONFIG, data_dir=None)
    of_stream = [
        [row for row in load_rows(workdir) if row.experiment in (AS_IT_CAME, AFTERWARDS)]
        for workdir in (killed, target)
    ]
    assert of_stream[0] == of_stream[1] != []
    for name in ("stream_00.npz", "stream_01.npz"):
        with np.load(killed.results / name) as ours, np.load(target.results / name) as theirs:
            for key in theirs:
                # Kernels may round otherwise in the process that continues.
                np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6)


def test_single_inputs_are_adapted_to_by_a_search_for_their_m(followed):
    target, _ = followed
    chosen = ("m_starts=2", "m_steps=1")
    plain = load_subject(target, data_dir=None, limit=5)
    searched = load_subject(target, data_dir=None, limit=5, at_test=chosen)
    for ours, theirs in zip(
        searched.loaded.classifier.variables, plain.loaded.classifier.variables, strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    scores = searched.predictor.log_scores(plain.test.x)
    assert not np.allclose(scores, plain.predictor.log_scores(plain.test.x))
    alone = searched.predictor.log_scores(plain.test.x[2:3])
    np.testing.assert_allclose(scores[2:3], alone, rtol=1e-4)
    (row, _) = steps.evaluate(searched, "children_shift", [3.0], progress=lambda line: None)
    assert "m_starts=2, m_steps=1" in row.variant
    assert (target.results / "manipulation_children_shift_m_starts-2-m_steps-1.rows.json").exists()


def test_how_inputs_are_answered_is_the_same_before_and_after(base, tmp_path):
    """What fine-tuning sets by default gives way to what is asked for."""
    config = dataclasses.replace(CONFIG, m_samples=8, p_untouched=0.5, warm_up=0)
    target = Workdir(tmp_path / "asked")
    stream = dataclasses.replace(STREAM, segments="clean@4")
    chosen = ("m_samples=2", "p_untouched=0")
    follow(base, target, stream, config, at_test=chosen, data_dir=None)
    found = run.load(target).config.architecture
    assert (found.m_samples, found.p_untouched) == (2, 0.0)


def test_a_finished_stream_is_not_scored_on_other_inputs(base, followed):
    target, _ = followed
    before = load_rows(target)
    with pytest.raises(InputError, match=r"was scored on 6 inputs .* now 5 are asked for"):
        follow(base, target, STREAM, CONFIG, data_dir=None, limit=5)
    assert load_rows(target) == before


def test_what_decides_variables_is_fixed_once_trained(base):
    with pytest.raises(
        InputError, match="'dim_m' was given; once a 'measurement_cama' is trained, m_samples"
    ):
        run.load(base, at_test=("dim_m=3",))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"stream": StreamConfig("clean@30")},
            "the stream brings 30 inputs; measurement has 20 test",
        ),
        ({"limit": 0}, "limit=0 was given"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate=0 was given"),
        ({"config": FinetuneConfig(method="tent")}, "a stream is followed by rws or eq8"),
        (
            {"config": FinetuneConfig()},
            "mechanism 'additive' has no parameters to dream of; .* by=eq8",
        ),
        (
            {"stream": dataclasses.replace(STREAM, by="eq8"), "config": FinetuneConfig(warm_up=5)},
            "mechanism 'additive' has no parameters to dream of; give dreams=0, warm_up=0",
        ),
        (
            {"at_test": ("m_at_test=mean",)},
            "m_at_test='mean' was given; reweighted wake-sleep",
        ),
    ],
)
def test_bad_streams_are_refused_before_anything_is_written(base, tmp_path, change, sentence):
    arguments = {"stream": STREAM, "config": CONFIG, **change}
    with pytest.raises(InputError, match=sentence):
        follow(base, Workdir(tmp_path / "new"), data_dir=None, **arguments)
    assert not (tmp_path / "new").exists()
