"""Curves and checks on classifiers whose answers are known."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles import Linear, Masked, subject_of
from tfcama import random
from tfcama.attacks.base import Attacked
from tfcama.data.base import Dataset, Split
from tfcama.data.manipulations import manipulate, parse
from tfcama.errors import InputError
from tfcama.evaluation import curves, robustness
from tfcama.evaluation.checks import Check, has_checks, load_checks, save_checks, together
from tfcama.evaluation.predict import Predictor, gain, scores_by_group
from tfcama.evaluation.subject import load_subject
from tfcama.models.registry import MODELS
from tfcama.training import run
from tfcama.training.config import FinetuneConfig, RunConfig, TrainingConfig
from tfcama.training.finetune import adapted_rows
from tfcama.types import Bounds, InputSpec
from tfcama.workdir import Workdir

ROWS = 40


@pytest.fixture(scope="module")
def halves():
    """Class 1 where the lower half of an 8x8 image is brighter, by a clear margin."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, ROWS).astype(np.int32)
    x = generator.uniform(0.3, 0.5, (ROWS, 8, 8, 1)).astype(np.float32)
    for row, label in enumerate(y):
        x[row, 4 * label : 4 + 4 * label] += 0.1
    split = Split(x, y)
    spec = InputSpec((8, 8, 1), ("up", "down"), Bounds(0.0, 1.0))
    return Dataset("halves", spec, split, split, split)


def half_classifier(cls=Linear, **kwargs):
    w = np.zeros([8, 8])
    w[4:], w[:4] = 1.0, -1.0
    return cls(np.stack([np.zeros(64), w.ravel()], axis=1), shape=(8, 8, 1), **kwargs)


def test_the_first_rows_are_scored_by_what_was_compiled_for_all(halves):
    subject = subject_of(half_classifier(), halves)
    few = subject.first(3)
    np.testing.assert_array_equal(few.test.y, subject.test.y[:3])
    assert few.predictor is subject.predictor
    assert len(few.first(None).test) == ROWS
    with pytest.raises(InputError, match="0 test rows were asked for"):
        subject.first(0)


def test_predictions_do_not_depend_on_the_batch(halves):
    classifier = half_classifier(noise=0.5)
    whole = Predictor(classifier, seed=0).log_scores(halves.test.x)
    parts = Predictor(classifier, seed=0, batch_size=7).log_scores(halves.test.x)
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    assert Predictor(classifier, seed=0).log_scores(halves.test.x[:0]).shape == (0, 2)


def test_draws_differ_for_a_stochastic_model_and_are_one_for_a_deterministic_one(halves):
    noisy = Predictor(half_classifier(noise=0.5), seed=0)
    assert not np.allclose(
        noisy.log_scores(halves.test.x, draw=0), noisy.log_scores(halves.test.x, draw=1)
    )
    assert noisy.hits(halves.test.x, halves.test.y, draws=3).shape == (3, ROWS)
    still = Predictor(half_classifier(), seed=0)
    assert still.hits(halves.test.x, halves.test.y, draws=3).shape == (1, ROWS)


def test_a_curve_is_right_where_the_truth_is_known(halves):
    subject = subject_of(half_classifier(), halves)
    rows = curves.manipulation_curve(subject, "vertical_shift:mode=fixed:fill=wrap", [0.0, 0.5])
    assert [row.accuracy for row in rows] == [1.0, 0.0]  # half a turn swaps the halves
    assert rows[0].n == ROWS
    assert (rows[1].manipulation, rows[1].level) == ("vertical_shift:mode=fixed:fill=wrap", 0.5)
    assert {row.experiment for row in rows} == {"manipulation"}


def test_several_draws_are_each_of_all_rows(halves):
    subject = subject_of(half_classifier(noise=0.05), halves)
    (one,) = curves.manipulation_curve(subject, "vertical_shift", [0.2])
    (row,) = curves.manipulation_curve(subject, "vertical_shift", [0.2], draws=4)
    x = manipulate(subject.test, parse("vertical_shift", level=0.2).fit(halves), seed=0).x
    by_draw = [(subject.predictor.labels(x, draw=d) == halves.test.y).mean() for d in range(4)]
    assert one.accuracy == by_draw[0] != by_draw[1]
    assert (row.n, row.draws) == (ROWS, 4)
    assert row.accuracy == pytest.approx(np.mean(by_draw))
    assert row.spread == pytest.approx(np.std(by_draw, ddof=1))
    (still,) = curves.manipulation_curve(
        subject_of(half_classifier(), halves), "vertical_shift", [0.2], draws=4
    )
    assert (still.draws, still.spread) == (1, None)


def test_rows_that_were_adapted_on_are_reported_apart(halves):
    finetuned = FinetuneConfig(subject="vertical_shift:0.2", fraction=0.25)
    subject = subject_of(half_classifier(), halves, finetuned=finetuned)
    rows = curves.manipulation_curve(subject, "vertical_shift", [0.0])
    assert [(row.experiment, row.n) for row in rows] == [
        ("manipulation", ROWS),
        ("manipulation_held_out", ROWS - 10),
    ]
    assert not set(subject.held_out) & set(adapted_rows(ROWS, finetuned))
    assert {row.finetuned_on for row in rows} == {"vertical_shift:0.2"}


def test_attack_accuracy_is_the_share_of_margins_beyond_reach(halves):
    subject = subject_of(half_classifier(), halves)
    eps = 0.055
    signed = np.where(halves.test.y == 1, 1.0, -1.0)
    w = half_classifier().kernel.numpy()[:, 1]
    margin = signed * (halves.test.x.reshape(ROWS, -1) @ w)
    expected = np.mean(margin > eps * 64)
    assert 0 < expected < 1
    for attack in ("fgsm", "pgd:steps=20", "pgd_eot:steps=20"):
        rows, found = robustness.attack_curve(subject, attack, [0.0, eps])
        assert rows[0].accuracy == 1.0
        assert rows[1].accuracy == pytest.approx(expected)
        assert found[eps].linf.max() <= eps + 1e-6


def test_the_nearest_examples_are_looked_for_once_and_cut_at_every_radius(halves, monkeypatch):
    subject = subject_of(half_classifier(), halves)
    signed = np.where(halves.test.y == 1, 1.0, -1.0)
    w = half_classifier().kernel.numpy()[:, 1]
    distance = signed * (halves.test.x.reshape(ROWS, -1) @ w) / np.linalg.norm(w)
    radii = [0.0, *np.quantile(distance, [0.25, 0.5]), 2 * distance.max()]
    crafted, said, craft = [], [], robustness.craft
    monkeypatch.setattr(robustness, "craft", lambda *a, **k: crafted.append(a) or craft(*a, **k))
    rows, found = robustness.attack_curve(
        subject, "cw:learning_rate=0.05:steps=100:searches=8", radii, progress=said.append
    )
    assert len(crafted) == 1
    for row, eps in zip(rows, radii, strict=True):
        assert row.accuracy == pytest.approx(np.mean(distance > eps), abs=1.5 / ROWS)
        assert found[eps].l2.max() <= eps * (1 + 1e-5)
    far = distance > radii[1] * 1.05
    np.testing.assert_allclose(found[radii[1]].l2[far], radii[1], rtol=1e-4)
    assert said[0].startswith(
        f"cw:learning_rate=0.05:steps=100:searches=8: {ROWS} of {ROWS} inputs"
    )
    assert float(said[0].split()[-1]) == pytest.approx(np.median(distance), rel=0.02)


def test_a_transfer_attack_is_named_after_its_source(halves):
    subject = subject_of(half_classifier(), halves)
    rows, _ = robustness.attack_curve(subject, "fgsm", [0.1], source=subject)
    assert rows[0].attack == "fgsm from dnn (unused)"  # its directory
    for root, name in (("dnn", "dnn"), ("a/dnn", "dnn (a/dnn)"), ("b/dnn", "dnn (b/dnn)")):
        source = dataclasses.replace(subject, workdir=Workdir(root))
        assert source.named_to(subject) == name
    adapted = dataclasses.replace(subject, workdir=Workdir("b/dnn/finetuned/one"))
    assert source.named_to(adapted) == "dnn"  # its own base
    tuned = FinetuneConfig(subject="shift:0.5", seed=3)
    source = subject_of(half_classifier(), halves, seed=3, finetuned=tuned)
    rows, _ = robustness.attack_curve(subject, "fgsm", [0.1], source=source)
    assert rows[0].attack == "fgsm from dnn (shift:0.5; unused; seed 3)"


def test_a_transfer_attack_moves_the_subject_s_own_rows(halves):
    subject = subject_of(half_classifier(), halves)
    order = np.argsort(halves.test.y, kind="stable")[::-1]
    source = dataclasses.replace(subject, test=halves.test.take(order))
    (row,), found = robustness.attack_curve(subject, "fgsm", [0.0], source=source)
    assert row.accuracy == 1.0
    np.testing.assert_array_equal(found[0.0].x, halves.test.x)
    spec = halves.spec._replace(class_names=("left", "right"))
    other = dataclasses.replace(subject, dataset=halves._replace(spec=spec))
    with pytest.raises(InputError, match="transferred between runs on the same data set"):
        robustness.attack_curve(subject, "fgsm", [0.1], source=other)


def test_strong_attacks_on_stochastic_models_are_scored_by_several_draws(halves, monkeypatch):
    seen = []
    original = Predictor.hits

    def counted(self, x, y, *, draws=1):
        seen.append(draws)
        return original(self, x, y, draws=draws)

    monkeypatch.setattr(Predictor, "hits", counted)
    subject = subject_of(half_classifier(noise=0.1), halves)
    robustness.attack_curve(subject, "fgsm", [0.1])
    robustness.attack_curve(subject, "pgd_eot:steps=2:draws=2", [0.1])
    robustness.attack_curve(subject, "fgsm", [0.1], source=subject)
    assert seen == [1, robustness.SCORING_DRAWS, robustness.SCORING_DRAWS]


def test_the_worst_case_takes_every_input_s_worst_attack(halves):
    """One attack mirrors the even rows, one the odd ones: each leaves a half, both leave none."""
    subject = subject_of(half_classifier(), halves)
    mirrored = halves.test.x[:, ::-1]
    even = np.arange(ROWS)[:, None, None, None] % 2 == 0
    found = [
        {0.3: Attacked.of(np.where(chosen, mirrored, halves.test.x), halves.test.x)}
        for chosen in (even, ~even)
    ]
    for some, expected in ((found[:1], 0.5), (found[1:], 0.5), (found, 0.0)):
        (row,) = robustness.worst_case(subject, some, attack="worst")
        assert (row.attack, row.eps, row.accuracy, row.n) == ("worst", 0.3, expected, ROWS)


def test_no_attack_is_the_worst_by_luck(halves, monkeypatch):
    """Ten attacks that do nothing to coin tosses leave what one of them leaves."""
    subject = subject_of(half_classifier(noise=0.1), halves)
    generator = np.random.default_rng(0)

    def tossed(self, x, y, *, draws=1):
        return generator.random((draws, len(y))) < 0.5

    monkeypatch.setattr(Predictor, "hits", tossed)
    nothing = {0.3: Attacked.of(halves.test.x, halves.test.x)}
    (row,) = robustness.worst_case(subject, [nothing] * 10, attack="worst")
    assert row.accuracy == pytest.approx(0.5, abs=0.1)


def test_an_honest_linear_model_passes_every_check(halves):
    checks = robustness.sanity_checks(
        subject_of(half_classifier(), halves),
        eps=0.06,
        transfer_from=subject_of(half_classifier(), halves),
    )
    assert [check.name for check in checks if not check.passed] == []
    assert len(checks) == 10


def test_hidden_gradients_are_noticed(halves):
    checks = robustness.sanity_checks(
        subject_of(half_classifier(Masked), halves),
        eps=0.06,
        transfer_from=subject_of(half_classifier(), halves),
    )
    failed = {check.name for check in checks if not check.passed}
    assert "gradients are not zero" in failed
    assert "an unbounded attack reaches chance" in failed
    assert "black-box is not stronger than white-box" in failed


def test_what_only_many_starts_find_is_noticed(halves):
    """Where a pixel exceeds its neighbour by more than eps answers turn round: few starts do."""
    eps = 0.03

    class Trapdoor(Linear):
        def log_scores(self, x, *, seed):
            opened = tf.nn.relu(x[:, 0, 0] - x[:, 0, 1] - eps) * 1.1 / eps  # [N, 1], to 1.1
            return super().log_scores(x, seed=seed) * (1.0 - opened)

    x = halves.test.x.copy()
    x[:, 0, :2] = 0.4
    shut = halves._replace(test=Split(x, halves.test.y))
    checks = robustness.sanity_checks(subject_of(half_classifier(Trapdoor), shut), eps=eps)
    failed = {check.name for check in checks if not check.passed}
    assert failed == {
        "many steps and starts change little",
        "random noise of the same size is weaker",  # one corner in four opens it
    }


def test_steps_that_end_on_a_hillock_are_noticed(halves):
    """One pixel leads up a hillock and down again; answers turn round at the ball's far end."""
    eps = 0.03

    class Hillock(Linear):
        def log_scores(self, x, *, seed):
            away = (x[:, 0, 0] - 0.4) / eps  # [N, 1]
            turned = 0.5 - 2.0 * tf.abs(away - 0.25) + 3.0 * tf.sigmoid(60.0 * (away - 0.8))
            return super().log_scores(x, seed=seed) * (1.0 - turned)

    x = halves.test.x.copy()
    x[:, 0, 0] = 0.4
    flat = halves._replace(test=Split(x, halves.test.y))
    checks = robustness.sanity_checks(subject_of(half_classifier(Hillock), flat), eps=eps)
    failed = {check.name for check in checks if not check.passed}
    assert "iterative attacks beat single-step ones" in failed


def test_gradients_that_lead_the_wrong_way_are_noticed(halves):
    """An attack mends what was wrong, the more the larger its ball."""

    class Reversed(Linear):
        def log_scores(self, x, *, seed):
            return super().log_scores(2.0 * tf.stop_gradient(x) - x, seed=seed)

    subject = subject_of(half_classifier(Reversed, bias=[0.0, 4.0]), halves)
    checks = robustness.sanity_checks(subject, eps=0.06)
    failed = {check.name for check in checks if not check.passed}
    assert "accuracy falls as eps grows" in failed


@pytest.mark.parametrize(("astray", "draws_are_enough"), [(0.7, True), (2.0, False)])
def test_noise_that_hides_the_gradient_is_noticed(halves, astray, draws_are_enough):
    """One draw's gradient points astray; the mean over draws shows the way, if of enough."""

    class NoisyGradient(Linear):
        def log_scores(self, x, *, seed):
            away = x - tf.stop_gradient(x)  # zero, but for its gradient
            noise = astray * random.normal(tf.shape(x), seed)
            turned = tf.reduce_sum(tf.reshape(away * noise, [tf.shape(x)[0], -1]), axis=1)
            return super().log_scores(x, seed=seed) + tf.stack([turned, -turned], axis=1)

    checks = robustness.sanity_checks(
        subject_of(half_classifier(NoisyGradient, noise=1e-3), halves), eps=0.06, noise_rows=20
    )
    assert len(checks) == 12
    assert any(check.detail.endswith("of 20 inputs") for check in checks)
    failed = {check.name for check in checks if not check.passed}
    assert "gradients in the mean over draws are not much stronger" in failed
    assert ("twice the draws change little" not in failed) == draws_are_enough
    of_little_noise = {
        "noise that is known is no shelter",
        "twice the steps change little",
        "another loss is not much stronger",
    }
    assert not draws_are_enough or failed >= of_little_noise


def test_softmax_outputs_are_noticed(halves):
    class Softmaxed(Linear):
        def log_scores(self, x, *, seed):
            return tf.nn.softmax(super().log_scores(x, seed=seed))

    checks = robustness.sanity_checks(subject_of(half_classifier(Softmaxed), halves), eps=0.06)
    failed = {check.name for check in checks if not check.passed}
    assert "the loss is on logits, not on softmax outputs" in failed


def test_checks_survive_their_file_and_know_what_they_were_asked(tmp_path):
    workdir, asked = Workdir(tmp_path), {"limit": 25, "eps": 0.1}
    assert load_checks(workdir, of="CAMA") == {}
    assert not has_checks(workdir, asked=asked)
    checks = [Check("a", True, "1"), Check("b", False, "2"), Check("c", None, "3")]
    save_checks(workdir, checks, inputs=25, asked=asked)
    heading = "Sanity of the attacks: CAMA, 25 inputs, eps 0.1"
    assert load_checks(workdir, of="CAMA") == {heading: checks}
    assert [check.verdict for check in checks] == ["pass", "FAIL", "open"]
    assert has_checks(workdir, asked=asked)
    assert not has_checks(workdir, asked={**asked, "limit": 500})


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [([], True), ([True, True], True), ([True, None], None), ([None, False, True], False)],
)
def test_several_claims_hold_together_only_if_all_do(verdicts, expected):
    assert together(verdicts) is expected


def test_a_subject_is_a_run_with_its_data(tmp_path, bars_everywhere):
    config = RunConfig(
        model="dnn",
        dataset="digits",
        seed=0,
        architecture=MODELS["dnn"].config_class(),
        training=TrainingConfig(epochs=1, batch_size=32, augment="vertical_shift:0.5"),
    )
    run.train(config, Workdir(tmp_path))
    subject = load_subject(Workdir(tmp_path), data_dir=None, limit=12)
    assert len(subject.test) == 12
    assert subject.held_out is None
    assert subject.identity("x")["trained_on"] == "clean+vertical_shift:0.5"
    with pytest.raises(InputError, match="0 test rows were asked for"):
        load_subject(Workdir(tmp_path), data_dir=None, limit=0)
    whole = dataclasses.replace(subject, test=bars_everywhere.test)
    assert whole.predictor.labels(whole.test.x).shape == (30,)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_gain_s_standard_error_holds_the_noise_that_rows_share(seed):
    """Both models are the same but for noise, one number a draw for all rows."""
    x = np.random.default_rng(seed).uniform(size=(2000, 1, 1, 1)).astype(np.float32)
    noisy, plain = (Linear(np.ones([1, 2]), shape=(1, 1, 1), noise=noise) for noise in (1.0, 0.0))
    scores = [scores_by_group(Predictor(each, seed=seed), x) for each in (noisy, plain)]
    found, error = gain(*scores)
    assert 0.1 < error < 0.4  # 1 / sqrt(20)
    assert abs(found) < 3 * error
    assert gain(scores[1], scores[1]) == (0.0, 0.0)
    assert gain(*(each[::-1] for each in scores))[0] == pytest.approx(found, abs=1e-5)
