"""What a stream's adapter keeps and what it moves."""

import dataclasses

import numpy as np

from tests.training.test_steps import moved_groups
from tfcama import random
from tfcama.models.cama import CamaConfig
from tfcama.training import run
from tfcama.training.config import FinetuneConfig, RunConfig, StreamConfig, TrainingConfig
from tfcama.training.stream import Reservoir, StreamAdapter


def test_a_reservoir_is_a_uniform_sample_of_all_that_came():
    capacity, size, repeats = 8, 32, 300
    kept = np.zeros(size)
    for repeat in range(repeats):
        reservoir = Reservoir(capacity, seed=random.stream(repeat, "reservoir"))
        for start in (0, 5, 20):
            end = {0: 5, 5: 20, 20: size}[start]
            reservoir.add(np.arange(start, end, dtype=np.float32)[:, None])
        assert len(reservoir) == capacity
        rows = np.unique(reservoir.draw(200, seed=random.stream(repeat, "draw")).astype(int))
        assert len(rows) == capacity  # without replacement; all are drawn sooner or later
        kept[rows] += 1
    share = capacity / size
    deviation = np.abs(kept / repeats - share).max()
    assert deviation < 4 * np.sqrt(share * (1 - share) / repeats)


def test_following_a_stream_moves_the_m_networks_and_nothing_else(spec, bars):
    """From an additive model, so that no checkpoint is needed."""
    architecture = CamaConfig(mechanism="translation", num_samples=1, completions=0)
    config = RunConfig(
        model="cama",
        dataset="digits",
        seed=0,
        architecture=architecture,
        training=TrainingConfig(),
        input_spec=spec,
        finetuned=FinetuneConfig(batch_size=4, clean="elbo", dreams=1.0),
        stream=StreamConfig("clean@8", arriving=4, steps_per_arrival=2, reservoir=3, warm_up=1),
    )
    additive = dataclasses.replace(
        config, architecture=dataclasses.replace(architecture, mechanism="additive")
    )
    trained = run.LoadedRun(additive, run.build(additive), None)
    adapter = StreamAdapter(trained, config, bars.train)
    moved = moved_groups(adapter.classifier, adapter.warm_up)
    for name, flags in moved.items():
        assert all(flags) if name == "q_m" else not any(flags), name

    def learn():
        for start in (0, 4):
            logs = adapter.learn(bars.test.x[start : start + 4])
            assert np.isfinite(logs["elbo_x"])

    moved = moved_groups(adapter.classifier, learn)
    for name, flags in moved.items():
        assert all(flags) if name in ("p_m", "q_m") else not any(flags), name
    assert int(adapter.trainer.optimizer.iterations) == 4
    assert len(adapter._reservoir) == 3
