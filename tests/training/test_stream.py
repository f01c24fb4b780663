"""What a stream's adapter keeps and what it moves."""

import dataclasses

import numpy as np
import pytest

from tests.training.test_steps import moved_groups
from tfcama import random
from tfcama.data.measurement import MeasurementConfig
from tfcama.models.measurement_cama import MeasurementCamaConfig
from tfcama.training import run
from tfcama.training import stream as stream_lib
from tfcama.training.config import FinetuneConfig, RunConfig, StreamConfig, TrainingConfig
from tfcama.training.empirical_bayes import Proposals
from tfcama.training.stream import Reservoir, StreamAdapter


def test_a_reservoir_is_a_uniform_sample_of_all_that_came():
    capacity, size, repeats = 8, 32, 150
    kept = np.zeros(size)
    for repeat in range(repeats):
        reservoir = Reservoir(capacity, seed=random.stream(repeat, "reservoir"))
        reservoir.add(np.arange(5, dtype=np.float32)[:, None])
        reservoir.add(np.arange(5, size, dtype=np.float32)[:, None])
        rows = [int(row[0]) for row in reservoir._kept]
        assert len(set(rows)) == len(reservoir) == capacity  # without replacement
        kept[rows] += 1
    drawn = reservoir.draw(200, seed=random.stream(0, "draw"))
    assert set(drawn[:, 0].astype(int)) == set(rows)
    share = capacity / size
    deviation = np.abs(kept / repeats - share).max()
    assert deviation < 4 * np.sqrt(share * (1 - share) / repeats)


@pytest.fixture(scope="module")
def followed():
    """A trained model, how it follows a stream, and its data; from an additive one, so that no
    checkpoint is needed."""
    architecture = MeasurementCamaConfig(hidden=16, dim_z=4, dim_m=3, num_samples=1)
    additive = RunConfig(
        model="measurement_cama",
        dataset="measurement",
        seed=0,
        architecture=architecture,
        training=TrainingConfig(),
        data=MeasurementConfig(train_rows=40, validation_rows=8, test_rows=20),
    )
    data = run.load_data(additive, data_dir=None)
    additive = dataclasses.replace(additive, input_spec=data.spec)
    config = dataclasses.replace(
        additive,
        architecture=dataclasses.replace(architecture, mechanism="location_scale", dim_m=0),
        finetuned=FinetuneConfig(batch_size=4, clean="elbo", dreams=1.0, warm_up=3),
        stream=StreamConfig("clean@8", arriving=4, steps_per_arrival=2, reservoir=3),
    )
    return run.LoadedRun(additive, run.build(additive), None), config, data


@pytest.mark.parametrize(
    ("by", "moving", "logged"), [("eq8", {"p_m", "q_m"}, "elbo_x"), ("rws", {"q_m"}, "wake")]
)
def test_following_a_stream_moves_the_m_networks_and_nothing_else(followed, by, moving, logged):
    trained, config, data = followed
    config = dataclasses.replace(config, stream=dataclasses.replace(config.stream, by=by))
    adapter = StreamAdapter(trained, config, data.train)
    moved = moved_groups(adapter.classifier, adapter.warm_up)
    for name, flags in moved.items():
        assert all(flags) if name == "q_m" else not any(flags), name

    def learn():
        for start in (0, 4):
            logs = adapter.learn(data.test.x[start : start + 4])
            assert np.isfinite(logs[logged])

    moved = moved_groups(adapter.classifier, learn)
    for name, flags in moved.items():
        assert all(flags) if name in moving else not any(flags), name
    assert int(adapter.trainer.optimizer.iterations) == 4
    assert len(adapter._reservoir) == 3
    awake = dataclasses.replace(config, finetuned=FinetuneConfig(batch_size=4, dreams=0.0))
    assert not StreamAdapter(trained, awake, data.train).warm_up()


def test_a_share_of_every_step_is_of_before_and_steps_draw_anew(followed, monkeypatch):
    trained, config, data = followed
    finetuned = dataclasses.replace(config.finetuned, batch_size=8)
    stream = dataclasses.replace(config.stream, replay=0.25, reservoir=100, steps_per_arrival=3)
    config = dataclasses.replace(config, finetuned=finetuned, stream=stream)
    adapter = StreamAdapter(trained, config, data.train)
    steps = []

    def step(batch):
        steps.append(batch["unlabelled"].x.numpy())
        adapter.trainer.optimizer.iterations.assign_add(1)
        return {}

    monkeypatch.setattr(adapter, "_step", step)
    old, new = (np.arange(40.0 * i, 40.0 * (i + 1), dtype=np.float32) for i in range(2))
    shape = (40, *data.spec.shape)
    for values in (old, new):
        adapter.learn(np.broadcast_to(values[:, None], shape))
    shares = [(rows[:, 0] < 40).mean() for rows in steps]
    assert shares == [1.0] * 3 + [0.25] * 3
    assert len({tuple(rows[:, 0]) for rows in steps}) == 6


def test_guesses_stay_with_their_inputs_and_a_share_of_them_is_of_before(followed, monkeypatch):
    trained, config, data = followed
    finetuned = dataclasses.replace(config.finetuned, batch_size=8)
    stream = StreamConfig("clean@8", by="rws", replay=0.25, reservoir=100, steps_per_arrival=3)
    adapter = StreamAdapter(
        trained, dataclasses.replace(config, finetuned=finetuned, stream=stream), data.train
    )
    steps, looked_at, seeds = [], [], set()

    def propose(x, *, seed):
        seeds.add(tuple(seed.numpy()))
        looked_at.append(x[:, 0])
        m = np.stack([x[:, :2] + s for s in range(3)])
        return Proposals(m, np.log([[[1.0]], [[2.0]], [[5.0]]]) + 0.0 * m[..., :1], x[:, 0] - 1e9)

    def step(batch):
        steps.append([each.numpy() for each in batch["unlabelled"]])
        adapter.trainer.optimizer.iterations.assign_add(1)
        return {}

    monkeypatch.setattr(adapter, "_step", step)
    monkeypatch.setattr(adapter, "_propose", propose)
    monkeypatch.setattr(
        stream_lib, "shares", lambda model, found: np.exp(found.log_weights[..., 0])
    )
    old, new = (np.arange(40.0 * i, 40.0 * (i + 1), dtype=np.float32) for i in range(2))
    for values in (old, new):
        adapter.learn(np.broadcast_to(values[:, None], (40, *data.spec.shape)))
    assert [(first < 40).tolist() for first in looked_at] == [
        [True] * 40,
        [False] * 40 + [True] * 40,
    ]
    assert [(x[:, 0] < 40).mean() for x, _, _ in steps] == [1.0] * 3 + [0.25] * 3
    assert len({tuple(x[:, 0]) for x, _, _ in steps}) == 6
    assert len(seeds) == 2
    for x, m, share in steps:
        np.testing.assert_array_equal(m, x[:, None, :2] + np.arange(3.0)[:, None])
        np.testing.assert_allclose(share, np.tile([[1.0, 2.0, 5.0]], [8, 1]), rtol=1e-6)
