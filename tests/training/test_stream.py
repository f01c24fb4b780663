"""What a stream's adapter keeps and what it moves."""

import dataclasses

import numpy as np
import pytest

from tests.training.test_steps import moved_groups
from tfcama import random
from tfcama.data.measurement import MeasurementConfig
from tfcama.models.measurement_cama import MeasurementCamaConfig
from tfcama.training import run
from tfcama.training.config import FinetuneConfig, RunConfig, StreamConfig, TrainingConfig
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


def test_following_a_stream_moves_the_m_networks_and_nothing_else(followed):
    trained, config, data = followed
    adapter = StreamAdapter(trained, config, data.train)
    moved = moved_groups(adapter.classifier, adapter.warm_up)
    for name, flags in moved.items():
        assert all(flags) if name == "q_m" else not any(flags), name

    def learn():
        for start in (0, 4):
            logs = adapter.learn(data.test.x[start : start + 4])
            assert np.isfinite(logs["elbo_x"])

    moved = moved_groups(adapter.classifier, learn)
    for name, flags in moved.items():
        assert all(flags) if name in ("p_m", "q_m") else not any(flags), name
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
