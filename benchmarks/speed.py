r"""Prints how fast training, fine-tuning, prediction, attacks and the pipeline are here.

    python -m benchmarks.speed
    python -m benchmarks.speed --only=train,predict

Random inputs of MNIST's shape, so that no data is needed. A row is the median of several runs
after a warm-up; the last column compares with the first row of its block.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from rich.console import Console
from rich.table import Table

from tfcama import random
from tfcama.attacks.registry import parse as parse_attack
from tfcama.data import datasets, manipulations, pipeline
from tfcama.data.base import Split
from tfcama.models.cama import Cama, CamaConfig
from tfcama.models.cama_base import CamaBase
from tfcama.models.discriminative import DiscriminativeConfig, dnn, measurement_dnn
from tfcama.models.measurement_cama import MeasurementCama, MeasurementCamaConfig
from tfcama.models.registry import MODELS
from tfcama.networks.sum_dense import SumDense
from tfcama.training import defences
from tfcama.training.cama import CamaTrainer, FinetuneTrainer
from tfcama.training.config import TrainingConfig
from tfcama.training.discriminative import DiscriminativeTrainer
from tfcama.training.optimizer import Adam
from tfcama.training.registry import TRAINERS
from tfcama.types import Bounds, InputSpec

_ONLY = flags.DEFINE_list("only", [], "Blocks to run; all by default. Example: --only=train")
_SPEC = InputSpec((28, 28, 1), tuple("0123456789"), Bounds(0.0, 1.0))
_SEED = random.stream(0, "benchmark")
_REPEATS = 7
_PRECISIONS = ("float32", "mixed_bfloat16")


class Timing(NamedTuple):
    """One row: what was done, examples a call, milliseconds a call."""

    what: str
    examples: int
    milliseconds: float


def _time(work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    samples = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        samples.append(time.perf_counter() - started)
    return 1e3 * statistics.median(samples)


def _rows(count: int) -> Split:
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(count, *_SPEC.shape)).astype(np.float32)
    return Split(x, generator.integers(0, 10, count).astype(np.int32))


def _cama(precision: str = "float32", **config) -> Cama:
    keras.config.set_dtype_policy(precision)
    try:
        return Cama(_SPEC, CamaConfig(**config))
    finally:
        keras.config.set_dtype_policy("float32")


def _steps(trainer, stream, *, defence: str = "") -> Callable[[], object]:
    hardened = defences.parse(defence) if defence else None
    trainer.compile(Adam(1e-4), defence=hardened)
    step = tf.function(trainer.train_step, reduce_retracing=True)
    batch = next(iter(stream))
    return lambda: tf.nest.map_structure(np.asarray, step(batch))


def _finetuner(
    model: CamaBase, *, clean_do_m0: bool = True, dreams: float = 0.0
) -> FinetuneTrainer:
    return FinetuneTrainer(
        model,
        num_rows=64,
        seed=_SEED,
        groups=("p_m", "q_m"),
        alpha=0.5,
        clean_do_m0=clean_do_m0,
        num_samples=1,
        dreams=dreams,
    )


def train() -> Iterator[Timing]:
    """A training step at batch 128."""
    clean = pipeline.training_stream(_rows(512), batch_size=128, seed=_SEED)
    both = pipeline.training_stream(
        _rows(512), batch_size=64, seed=_SEED, augment=manipulations.parse("vertical_shift:0.5")
    )
    for precision in _PRECISIONS:
        trainer = CamaTrainer(_cama(precision), num_rows=128, seed=_SEED)
        yield Timing(f"CAMA, clean (Eq. 3), {precision}", 128, _time(_steps(trainer, clean)))
    for precision in _PRECISIONS:
        trainer = CamaTrainer(_cama(precision), num_rows=128, seed=_SEED, augmented=True)
        name = f"CAMA, 64 clean + 64 shifted (Eq. 5), {precision}"
        yield Timing(name, 128, _time(_steps(trainer, both)))
    baseline = DiscriminativeTrainer(dnn(_SPEC, DiscriminativeConfig()), num_rows=128, seed=_SEED)
    yield Timing("DNN", 128, _time(_steps(baseline, clean)))


def defend() -> Iterator[Timing]:
    """A training step at batch 100 on the mlp backbone, by model and by defence."""
    stream = pipeline.training_stream(_rows(400), batch_size=100, seed=_SEED)

    def timing(model: str, defence: str) -> Timing:
        entry = MODELS[model]
        trainer = TRAINERS[entry.family](
            entry.build(_SPEC, entry.config_class()), TrainingConfig(), 100, _SEED
        )
        name = f"{model}, {defence}" if defence else model
        return Timing(name, 100, _time(_steps(trainer, stream, defence=defence)))

    for model in ("classifier", "vib", "causal_ib", "ciiv"):
        yield timing(model, "")
    for defence in ("mixup", "noise", "adversarial:attack=fgsm:eps=0.2", "trades:eps=0.2"):
        yield timing("classifier", defence)
    for model in ("classifier", "causal_ib"):
        yield timing(model, "adversarial:eps=0.2:steps=20")


def finetune() -> Iterator[Timing]:
    """A fine-tuning step (Eq. 8) on 64 clean and 64 unlabelled rows, 10 classes enumerated."""
    rows = _rows(256)
    stream = pipeline.finetuning_stream(rows, rows.x, batch_size=64, seed=_SEED)
    for mechanism in ("additive", "translation", "affine+photometric"):
        for precision in _PRECISIONS:
            dreams = 0.0 if mechanism == "additive" else 1.0
            trainer = _finetuner(_cama(precision, mechanism=mechanism), dreams=dreams)
            name = f"CAMA, K = 1, {mechanism}, {precision}"
            yield Timing(name, 128, _time(_steps(trainer, stream)))


def predict() -> Iterator[Timing]:
    """Prediction by Eq. 6, 250 rows, all samples of all classes (see benchmarks.prediction)."""
    x = tf.constant(_rows(250).x)
    for samples in (1, 10):
        for precision in _PRECISIONS:
            model = _cama(precision, num_samples=samples, class_margin=0.0)
            score = tf.function(lambda x, m=model: m.log_scores(x, seed=tf.constant(_SEED)))
            name = f"CAMA, K = {samples}, {precision}"
            yield Timing(name, 250, _time(lambda f=score: f(x).numpy()))
    for share in (0.0, 0.5):
        model = _cama(num_samples=10, mechanism="translation", p_untouched=share, class_margin=0.0)
        score = tf.function(lambda x, m=model: m.log_scores(x, seed=tf.constant(_SEED)))
        name = f"CAMA, K = 10, float32, translation, p_untouched = {share:g}"
        yield Timing(name, 250, _time(lambda f=score: f(x).numpy()))
    model = _cama(num_samples=10, class_margin=0.0)

    @tf.function
    def one_class_and_sample(x, label, noise):
        labels = tf.fill([tf.shape(x)[0]], label)
        return model.log_weights(x, noise=noise, labels=labels).total()

    def loops():
        noise = model.shared_noise(_SEED, num_samples=10)
        for label in range(10):
            for sample in range(10):
                part = noise._replace(z=noise.z[sample : sample + 1, :, label : label + 1])
                one_class_and_sample(x, label, part).numpy()

    yield Timing(
        "CAMA, K = 10, a loop that encodes x for every class and sample", 250, _time(loops)
    )
    baseline = dnn(_SPEC, DiscriminativeConfig())
    score = tf.function(lambda x: baseline.log_scores(x, seed=tf.constant(_SEED)))
    yield Timing("DNN", 250, _time(lambda: score(x).numpy()))


def sum_dense() -> Iterator[Timing]:
    """The decoder's first layer for 25 rows, 10 classes, 10 samples: sum of parts or one Dense."""
    layer = SumDense(1024, sizes={"y": 500, "m": 500, "z": 500})
    h_y, h_m = random.normal([1, 10, 500], _SEED), random.normal([25, 1, 500], _SEED)
    h_z = random.normal([10, 25, 10, 500], _SEED)
    ours = tf.function(lambda: layer((h_y, h_m, h_z)))
    yield Timing("SumDense", 2500, _time(lambda: ours().numpy()))

    @tf.function
    def plain():
        wide = [tf.broadcast_to(h, [10, 25, 10, 500]) for h in (h_y, h_m, h_z)]
        return tf.tensordot(tf.concat(wide, axis=-1), layer.kernel.value, 1) + layer.bias.value

    yield Timing("Dense over the concatenation", 2500, _time(lambda: plain().numpy()))


def attack() -> Iterator[Timing]:
    """40 steps of PGD on a DNN, 100 rows."""
    rows, model = _rows(100), dnn(_SPEC, DiscriminativeConfig())
    x, y = tf.constant(rows.x), tf.constant(rows.y)
    for name, text in (("ours, one graph", "pgd_eot:checks=1"), ("CleverHans", "pgd")):
        made = parse_attack(f"{text}:steps=40:batch_size=100", eps=0.1)
        prepared = made._prepare(model)
        work = functools.partial(made._perturb, prepared, x, y, seed=_SEED)
        yield Timing(name, 100, _time(lambda work=work: np.asarray(work())))


def tables() -> Iterator[Timing]:
    """Tables: the papers' measurement nets, batches of 64, 5 classes; prediction of 500 rows."""
    source = datasets.load("measurement")
    spec, x = source.spec, tf.constant(source.test.x)
    clean = pipeline.training_stream(source.train, batch_size=64, seed=_SEED)
    model = MeasurementCama(spec, MeasurementCamaConfig())
    trainer = CamaTrainer(model, num_rows=64, seed=_SEED)
    yield Timing("training step, CAMA", 64, _time(_steps(trainer, clean)))
    baseline = measurement_dnn(spec, DiscriminativeConfig())
    trainer = DiscriminativeTrainer(baseline, num_rows=64, seed=_SEED)
    yield Timing("training step, DNN", 64, _time(_steps(trainer, clean)))
    trainer = _finetuner(MeasurementCama(spec, MeasurementCamaConfig()), clean_do_m0=False)
    pairs = pipeline.finetuning_stream(source.train, source.test.x, batch_size=64, seed=_SEED)
    yield Timing("fine-tuning step (Eq. 8), CAMA", 128, _time(_steps(trainer, pairs)))
    for name, made in (("CAMA, K = 10", model), ("DNN", baseline)):
        score = tf.function(lambda x, m=made: m.log_scores(x, seed=tf.constant(_SEED)))
        yield Timing(f"prediction, {name}", 500, _time(lambda f=score: f(x).numpy()))
    many = datasets.load(
        "measurement", config=datasets.measurement.MeasurementConfig(train_rows=1_000_000)
    )
    batches = iter(pipeline.training_stream(many.train, batch_size=64, seed=_SEED))
    yield Timing("stream of generated rows alone", 6_400, _time(lambda: _drain(batches)))


def _drain(batches: Iterator) -> None:
    for _ in range(100):
        next(batches)


def data() -> Iterator[Timing]:
    """The training stream alone, batches of 128."""
    for name, augment in (("clean", None), ("with shifted copies", "vertical_shift:0.5")):
        made = manipulations.parse(augment) if augment else None
        stream = pipeline.training_stream(_rows(20_000), batch_size=128, seed=_SEED, augment=made)
        batches = iter(stream)
        yield Timing(name, 12_800, _time(lambda b=batches: [next(b) for _ in range(100)]))


def start() -> Iterator[Timing]:
    """What comes before the first number: a model built, a function traced and run once."""
    model, rows = _cama(), _rows(256)
    clean = pipeline.training_stream(rows, batch_size=128, seed=_SEED)
    pairs = pipeline.finetuning_stream(rows, rows.x, batch_size=64, seed=_SEED)

    def trained():
        _steps(CamaTrainer(model, num_rows=128, seed=_SEED), clean)()

    def finetuned():
        _steps(_finetuner(model), pairs)()

    def predicted():
        score = tf.function(lambda x: model.log_scores(x, seed=tf.constant(_SEED)))
        score(tf.constant(rows.x[:1])).numpy()

    yield Timing("CAMA built", 1, _time(_cama))
    yield Timing("first training step (Eq. 3)", 1, _time(trained))
    yield Timing("first fine-tuning step (Eq. 8)", 1, _time(finetuned))
    yield Timing("first prediction (Eq. 6)", 1, _time(predicted))


_BLOCKS = {
    "start": start,
    "train": train,
    "defend": defend,
    "finetune": finetune,
    "predict": predict,
    "sum_dense": sum_dense,
    "attack": attack,
    "data": data,
    "tables": tables,
}


def main() -> None:
    console = Console(width=110)
    for name, block in _BLOCKS.items():
        if _ONLY.value and name not in _ONLY.value:
            continue
        table = Table(title=block.__doc__, title_justify="left", title_style="bold")
        table.add_column("what", ratio=1)
        for heading in ("ms", "examples/s", "speed"):
            table.add_column(heading, justify="right")
        first = None
        for timing in block():
            rate = timing.examples / timing.milliseconds * 1e3
            first = first or rate
            table.add_row(
                timing.what, f"{timing.milliseconds:.1f}", f"{rate:,.0f}", f"{rate / first:.2f}x"
            )
        console.print(table)


if __name__ == "__main__":
    app.run(main)
