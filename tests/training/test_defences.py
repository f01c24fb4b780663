"""Defences against what they should do on classifiers whose worst input is known."""

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles import binary
from tfcama import random
from tfcama.data import pipeline
from tfcama.errors import InputError
from tfcama.models.backbone_classifier import BackboneClassifier, ClassifierConfig
from tfcama.models.batch_norm_classifier import cnn_bn
from tfcama.models.cama import Cama, CamaConfig
from tfcama.models.discriminative import DiscriminativeConfig
from tfcama.models.vib import Vib, VibConfig
from tfcama.objectives.classification import cross_entropy, divergence, log_odds
from tfcama.training import checkpoints, defences
from tfcama.training.adversary import ADVERSARIES
from tfcama.training.bottleneck import VibTrainer
from tfcama.training.callbacks import Checkpoints
from tfcama.training.cama import CamaTrainer
from tfcama.training.config import TrainingConfig
from tfcama.training.discriminative import DiscriminativeTrainer
from tfcama.training.optimizer import Adam
from tfcama.types import Batch
from tfcama.workdir import Workdir

ROWS = 6
SEED = random.stream(0, "test")
DRAWS = random.RowDraws(tf.constant(SEED), tf.range(ROWS), ROWS)
EPS = 0.1
EVERY = {
    "adversarial": f"adversarial:eps={EPS}:steps=3",
    "trades": f"trades:eps={EPS}:steps=2",
    "mixup": "mixup:alpha=0.5",
    "noise": "noise:sigma=0.2",
}


@pytest.fixture(scope="module")
def batch(bars):
    return next(iter(pipeline.evaluation_stream(bars.test, batch_size=ROWS)))


@pytest.fixture(scope="module")
def trainer(spec):
    random.seed_everything(0)
    model = BackboneClassifier(spec, ClassifierConfig(backbone="mlp:units=8:layers=1"))
    return DiscriminativeTrainer(model, num_rows=ROWS, seed=SEED)


def hardened(trainer, batch, text, draws=DRAWS):
    return defences.parse(text).terms(trainer, batch, draws=draws)


class Recording:
    """A trainer that keeps what it was asked for; its loss is the number of the call."""

    def __init__(self, classifier):
        self.classifier, self.seen = classifier, []

    def scores(self, x, *, seed):
        return self.classifier.log_scores(x, seed=seed)

    def terms(self, batch, *, draws):
        del draws
        self.seen.append(batch)
        return {"loss": tf.fill([len(batch.y)], float(len(self.seen)))}


def linear_case(**kwargs):
    """A linear classifier, whose worst input moves every pixel by eps against the true class."""
    classifier, w = binary((4, 4, 1), bounds=None, **kwargs)
    x = np.random.default_rng(1).uniform(size=(ROWS, 4, 4, 1)).astype(np.float32)
    y = np.array([0, 1] * (ROWS // 2), np.int32)
    toward = np.where(y == 1, -1.0, 1.0).reshape(-1, 1, 1, 1) * np.sign(w).reshape(1, 4, 4, 1)
    spare = tf.zeros([ROWS])
    rows = Batch(
        tf.constant(x), tf.constant(y), spare > 0, tf.zeros([ROWS, 0]), spare + 1, tf.range(ROWS)
    )
    return classifier, rows, x + EPS * toward


@pytest.mark.parametrize("attack", ADVERSARIES)
def test_the_adversary_finds_the_worst_input_of_a_linear_classifier(attack):
    classifier, rows, worst = linear_case()
    trainer = Recording(classifier)
    hardened(trainer, rows, f"adversarial:attack={attack}:eps={EPS}:steps=8")
    (seen,) = trainer.seen
    np.testing.assert_allclose(seen.x, worst, atol=1e-6)
    np.testing.assert_array_equal(seen.y, rows.y)


def test_the_adversary_respects_mask_and_bounds():
    mask = np.zeros([4, 4, 1], np.float32)
    mask[:2] = 1.0
    classifier, rows, worst = linear_case(mask=tf.constant(mask))
    trainer = Recording(classifier)
    hardened(trainer, rows, f"adversarial:eps={EPS}:steps=8")
    np.testing.assert_allclose(trainer.seen[0].x, np.where(mask > 0, worst, rows.x), atol=1e-6)
    bounded, _ = binary((4, 4, 1))
    trainer = Recording(bounded)
    hardened(trainer, rows, f"adversarial:eps={EPS}:steps=8")
    np.testing.assert_allclose(trainer.seen[0].x, np.clip(worst, 0, 1), atol=1e-6)


def test_the_worst_of_a_single_step_is_fgsms(trainer, batch):
    """On a net that is not linear: x + eps sign(gradient of cross-entropy)."""
    with tf.GradientTape() as tape:
        tape.watch(batch.x)
        loss = cross_entropy(trainer.classifier.logits(batch.x), batch.y)
    moved = batch.x + EPS * tf.sign(tape.gradient(loss, batch.x))
    worst = trainer.terms(batch._replace(x=tf.clip_by_value(moved, 0.0, 1.0)), draws=DRAWS)
    found = hardened(trainer, batch, f"adversarial:attack=fgsm:eps={EPS}")
    np.testing.assert_allclose(found["loss"], worst["loss"], rtol=1e-4)
    clean = trainer.terms(batch, draws=DRAWS)["loss"]
    assert (found["loss"] > clean).numpy().all()
    half = hardened(trainer, batch, f"adversarial:attack=fgsm:eps={EPS}:clean=0.5")
    np.testing.assert_allclose(half["loss"], (clean + worst["loss"]) / 2, rtol=1e-4)


def test_trades_adds_the_divergence_to_the_clean_loss(trainer, batch):
    clean = trainer.terms(batch, draws=DRAWS)["loss"]
    found = {
        beta: hardened(trainer, batch, f"trades:beta={beta}:eps={EPS}")["loss"] - clean
        for beta in (0, 1, 6)
    }
    np.testing.assert_allclose(found[0], 0.0, atol=1e-6)
    assert (found[1] > 0).numpy().all()
    np.testing.assert_allclose(found[6], 6 * found[1], rtol=1e-3)


def test_trades_compares_under_the_same_statistics(spec, batch):
    """x' = x but for a float's last digits: nothing to pay for, whatever the batch's moments."""
    random.seed_everything(0)
    model = cnn_bn(spec, DiscriminativeConfig())
    trainer = DiscriminativeTrainer(model, num_rows=ROWS, seed=SEED)
    saved = [v.numpy() for v in model.variables]
    plain = trainer.terms(batch, draws=DRAWS)["loss"]
    for variable, value in zip(model.variables, saved, strict=True):
        variable.assign(value)
    found = hardened(trainer, batch, "trades:beta=6:eps=1e-7:steps=1")["loss"]
    np.testing.assert_allclose(found, plain, atol=1e-4)


def test_trades_is_its_eq_5(trainer, batch):
    """KL(p(y|x) || p(y|x')) in this direction, and p(y|x) is learned as well."""
    trades = defences.parse(f"trades:beta=2:eps={EPS}")
    own = DRAWS.fold(-1)
    fixed = tf.constant(trainer.scores(batch.x, seed=own.seed))
    attacked = trades.adversary(
        lambda x: divergence(fixed, trainer.scores(x, seed=own.seed)),
        batch.x,
        classifier=trainer.classifier,
        draws=own.fold(0),
    )
    variables = [v.value for v in trainer.classifier.trainable_variables]
    losses, gradients = [], []
    for found in (True, False):
        with tf.GradientTape() as tape:
            if found:
                loss = trades.terms(trainer, batch, draws=DRAWS)["loss"]
            else:
                clean, moved = (trainer.scores(x, seed=own.seed) for x in (batch.x, attacked))
                loss = trainer.terms(batch, draws=DRAWS)["loss"] + 2 * divergence(clean, moved)
        losses.append(loss)
        gradients.append(tape.gradient(loss, variables))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_an_adversary_starts_anywhere_in_the_ball():
    classifier, rows, _ = linear_case()
    adversary = ADVERSARIES["pgd"](EPS, steps=1, step_size=1e-9)
    found = adversary(
        lambda x: tf.reduce_sum(x, [1, 2, 3]), rows.x, classifier=classifier, draws=DRAWS
    )
    start = (found - rows.x).numpy() / EPS
    assert abs(start.mean()) < 0.2
    assert start.min() < -0.8
    assert start.max() > 0.8


def test_steps_of_pgd_in_training_are_2_5_radii_together():
    assert ADVERSARIES["pgd"](0.2, steps=10, step_size=0.0).step_size == pytest.approx(0.05)
    assert ADVERSARIES["pgd"](0.2, steps=10, step_size=0.03).step_size == 0.03


def test_divergence_is_the_kl_of_the_answers():
    p, q = np.array([[0.7, 0.2, 0.1]]), np.array([[0.3, 0.3, 0.4]])
    found = divergence(tf.constant(np.log(p) + 3.0), tf.constant(np.log(q) - 1.0))
    np.testing.assert_allclose(found, (p * np.log(p / q)).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("name", ["adversarial", "trades"])
def test_the_radius_grows_along_the_ramp(name):
    """Of a linear classifier the attacked inputs lie on the sphere that the step has reached."""
    classifier, rows, worst = linear_case()
    trainer = Recording(classifier)
    trainer.optimizer = Adam(1e-3)
    defence = defences.parse(f"{name}:eps={EPS}:steps=8:ramp=4")
    for done, share in ((0, 0.25), (2, 0.75), (3, 1.0), (100, 1.0)):
        trainer.optimizer.iterations.assign(done)
        assert float(defence.grown(trainer)) == pytest.approx(share)
        found = defence.adversary(
            lambda x: log_odds(trainer.scores(x, seed=None), rows.y),
            rows.x,
            classifier=classifier,
            draws=DRAWS,
            share=defence.grown(trainer),
        )
        np.testing.assert_allclose(found - rows.x, share * (worst - rows.x), atol=1e-6)
    trainer.optimizer.iterations.assign(0)
    if name == "adversarial":  # and the defence asks for that share
        defence.terms(trainer, rows, draws=DRAWS)
        np.testing.assert_allclose(trainer.seen[0].x - rows.x, 0.25 * (worst - rows.x), atol=1e-6)


@pytest.mark.parametrize("name", ["adversarial", "trades"])
def test_validation_under_attack_is_that_of_the_worst_inputs(name):
    classifier, rows, worst = linear_case()
    trainer = Recording(classifier)
    defence = defences.parse(f"{name}:eps={EPS}:steps=8:ramp=1000")  # the whole radius all the same
    found = defence.robust_hits(trainer, rows, seed=tf.constant(SEED))
    scores = classifier.log_scores(tf.constant(worst, tf.float32), seed=tf.constant(SEED))
    np.testing.assert_array_equal(found, np.argmax(scores, axis=1) == rows.y)
    assert len(set(found.numpy())) == 2  # or nothing is shown


class _FoolsSingleSteps:
    """Wrong halfway to the rim of the ball around 0.3 and right on it, as after FGSM training."""

    bounds = attack_mask = None

    def scores(self, x, *, seed):
        del seed
        along = (tf.reduce_mean(x, axis=[1, 2, 3]) - 0.3) / EPS
        return tf.stack([tf.zeros_like(along), tf.sin(np.pi * along) - 0.5], axis=1)

    log_scores = scores


@pytest.mark.parametrize("attack", ADVERSARIES)
def test_validation_is_not_fooled_by_a_model_that_fools_its_own_fgsm(attack):
    model = _FoolsSingleSteps()
    trainer = Recording(model)
    _, rows, _ = linear_case()
    rows = rows._replace(x=tf.fill([ROWS, 4, 4, 1], 0.3), y=tf.zeros([ROWS], tf.int32))
    defence = defences.parse(f"adversarial:attack={attack}:eps={EPS}")
    if attack == "fgsm":
        defence.terms(trainer, rows, draws=DRAWS)
        assert (np.argmax(model.scores(trainer.seen[0].x, seed=None), axis=1) == 0).all()
    assert not defence.robust_hits(trainer, rows, seed=tf.constant(SEED)).numpy().any()


def test_robust_accuracy_is_a_metric_of_defences_that_attack(spec, bars):
    for text, expected in ((EVERY["adversarial"], True), (EVERY["mixup"], False)):
        random.seed_everything(0)
        model = BackboneClassifier(spec, ClassifierConfig(backbone="mlp:units=8"))
        trainer = DiscriminativeTrainer(model, num_rows=8, seed=SEED)
        trainer.compile(Adam(1e-3), defence=defences.parse(text))
        rows = pipeline.evaluation_stream(bars.test, batch_size=ROWS)
        logs = trainer.evaluate(rows, return_dict=True, verbose=0)
        assert ("robust_accuracy" in logs) is expected
        if expected:
            assert logs["robust_accuracy"] <= logs["accuracy"]


def validated(trainer, root, *epochs, **how):
    """Checkpoints after epochs that were validated so, and the epoch to use, from 1."""
    trainer.compile(Adam(1e-3))
    keeper = Checkpoints(Workdir(root), **how)
    keeper.set_model(trainer)
    for epoch, logs in enumerate(epochs):
        keeper.on_epoch_end(epoch, {"val_loss": 1.0, **logs})
    kept = checkpoints.listed(Workdir(root).checkpoints)
    return kept, checkpoints.best(Workdir(root).checkpoints).epoch


@pytest.mark.parametrize("robust", [True, False])
def test_the_best_epoch_is_the_most_robust_one_where_training_attacks(trainer, tmp_path, robust):
    epochs = [
        {"val_accuracy": clean} | ({"val_robust_accuracy": attacked} if robust else {})
        for clean, attacked in [(0.90, 0.5), (0.92, 0.4), (0.91, 0.3)]
    ]
    assert validated(trainer, tmp_path, *epochs)[1] == (1 if robust else 2)


def test_the_earliest_of_equal_epochs_is_used(trainer, tmp_path):
    assert validated(trainer, tmp_path, *[{"val_accuracy": 0.9}] * 3)[1] == 1


def test_the_last_epoch_is_kept_where_that_is_asked(trainer, tmp_path):
    epochs = [{"val_accuracy": accuracy} for accuracy in (0.9, 0.8, 0.7)]
    (kept,), best = validated(trainer, tmp_path, *epochs, keep="last")
    assert kept.epoch == best == 3


def test_mixup_is_the_cross_entropy_of_mixed_labels(trainer, batch):
    share = DRAWS.fold(-1).beta(0.5).numpy()
    wide = share.reshape(-1, 1, 1, 1)
    x = wide * batch.x + (1 - wide) * batch.x[::-1]
    one_hot = np.eye(3, dtype=np.float32)[batch.y.numpy()]
    labels = share[:, None] * one_hot + (1 - share[:, None]) * one_hot[::-1]
    expected = tf.nn.softmax_cross_entropy_with_logits(labels, trainer.classifier.logits(x))
    np.testing.assert_allclose(
        hardened(trainer, batch, "mixup:alpha=0.5")["loss"], expected, rtol=1e-4
    )


def test_mixup_makes_no_value_missing(trainer, batch):
    """What the other row lacks stays the row's own."""
    recording = Recording(trainer.classifier)
    x = batch.x.numpy()
    x[0, 0, 0, 0] = np.nan
    hardened(recording, batch._replace(x=tf.constant(x)), "mixup:alpha=0.5")
    mixed = recording.seen[0].x.numpy()
    np.testing.assert_array_equal(np.isnan(mixed), np.isnan(x))
    assert mixed[-1, 0, 0, 0] == x[-1, 0, 0, 0]


@pytest.mark.parametrize("alpha", [0.05, 0.1, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha):
    drawn = random.RowDraws(tf.constant(SEED), tf.range(20_000), 20_000).beta(alpha).numpy()
    assert np.isfinite(drawn).all()
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_noise_has_its_size_and_stays_where_an_attack_may_act():
    mask = np.zeros([4, 4, 1], np.float32)
    mask[1:] = 1.0
    classifier, rows, _ = linear_case(mask=tf.constant(mask))
    trainer = Recording(classifier)
    hardened(trainer, rows, "noise:sigma=0.25")
    moved = (trainer.seen[0].x - rows.x).numpy()
    assert (moved[:, 0] == 0).all()
    assert moved[:, 1:].std() == pytest.approx(0.25, rel=0.2)


@pytest.mark.parametrize("name", defences.DEFENCES)
def test_a_row_is_hardened_by_its_place_in_the_global_batch(trainer, batch, name):
    """What two replicas compute is what one does; mixup's pairs are the exception."""
    if defences.DEFENCES[name].mixes_rows:
        return
    rows = [4, 1, 2]
    part = type(batch)(*(tf.gather(value, rows) for value in batch))
    draws = random.RowDraws(tf.constant(SEED), tf.constant(rows), ROWS)
    whole = hardened(trainer, batch, EVERY[name])["loss"]
    np.testing.assert_allclose(
        tf.gather(whole, rows), hardened(trainer, part, EVERY[name], draws)["loss"], rtol=1e-4
    )


@pytest.mark.parametrize("name", defences.DEFENCES)
@pytest.mark.parametrize("family", ["classifier", "vib"])
def test_every_defence_trains_every_family(spec, bars, family, name):
    random.seed_everything(0)
    kind, model = {
        "classifier": lambda: (
            DiscriminativeTrainer,
            BackboneClassifier(spec, ClassifierConfig(backbone="mlp:units=8")),
        ),
        "vib": lambda: (VibTrainer, Vib(spec, VibConfig(backbone="mlp:units=8", dim_z=4))),
    }[family]()
    trains(kind(model, num_rows=8, seed=SEED), bars, EVERY[name])


def test_noise_is_no_defence_of_a_likelihood_of_pixels_in_their_bounds(spec):
    """x l - softplus(l) grows without end with l where x is above 1."""

    def compiled(**config):
        model = Cama(spec, CamaConfig(num_samples=1, **config))
        trainer = CamaTrainer(model, num_rows=4, seed=SEED)
        trainer.compile(Adam(1e-3), defence=defences.parse("noise:sigma=0.1"))

    with pytest.raises(InputError, match="likelihood is one of pixels in"):
        compiled()
    compiled(likelihood="gaussian")


def test_adversarial_training_wraps_a_cama(spec, bars):
    random.seed_everything(0)
    model = Cama(spec, CamaConfig(num_samples=1))
    trains(CamaTrainer(model, num_rows=8, seed=SEED), bars, f"adversarial:eps={EPS}:steps=2")


def trains(trainer, bars, text):
    before = [v.numpy() for v in trainer._moving]
    trainer.compile(Adam(1e-3), defence=defences.parse(text))
    stream = pipeline.training_stream(bars.train, batch_size=8, seed=SEED)
    trainer.fit(stream, epochs=1, steps_per_epoch=1, shuffle=False, verbose=0)
    assert np.isfinite(float(trainer.metrics[0].result()))
    moved = [
        not np.array_equal(old, v.numpy()) for old, v in zip(before, trainer._moving, strict=True)
    ]
    assert np.mean(moved) > 0.4  # a clean CAMA's M-networks stay


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("adversarial", "eps=0 was given; it must be positive"),
        ("adversarial:eps=0.1:attack=pdg", "did you mean 'pgd'"),
        ("adversarial:eps=0.1:steps=0", "steps=0 was given; it must be at least 1"),
        ("adversarial:eps=0.1:clean=2", r"clean=2 was given; it must be in \[0, 1\]"),
        ("trades:eps=0.1:beta=-1", "beta=-1 was given; it must be at least 0"),
        ("mixup:alpha=0.04", "alpha=0.04 was given; it must be at least 0.05"),
        ("noise:sigma=-0.1", "sigma=-0.1 was given; it must be positive"),
        ("noise:0.25", "noise takes options alone"),
        ("mixpu", "did you mean 'mixup'"),
    ],
)
def test_bad_defences_are_refused_before_any_work(text, sentence):
    with pytest.raises(InputError, match=sentence):
        TrainingConfig(defence=text)


def test_mixup_and_manipulated_rows_are_refused():
    with pytest.raises(InputError, match="cannot tell manipulated ones from clean ones"):
        TrainingConfig(defence="mixup", augment="vertical_shift:0.5")
