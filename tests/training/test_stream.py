"""What a stream's adapter keeps and what it moves."""

import dataclasses

import numpy as np

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


def test_following_a_stream_moves_the_m_networks_and_nothing_else():
    """From an additive model, so that no checkpoint is needed."""
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
    trained = run.LoadedRun(additive, run.build(additive), None)
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
