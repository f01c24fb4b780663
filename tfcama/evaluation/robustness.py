"""Accuracy under attack, and the sanity checks that tell whether to believe it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfcama import random
from tfcama.attacks import losses, registry
from tfcama.attacks.base import Attack, Attacked
from tfcama.errors import InputError
from tfcama.evaluation.checks import Check
from tfcama.evaluation.results import Row, accuracy_text, scored
from tfcama.evaluation.subject import Subject
from tfcama.evaluation.unfinished import Keep, made_anew
from tfcama.types import Classifier

_BATCH = 50
SCORING_DRAWS = 10  # independent draws that score a stochastic model
_CHECKED_DRAWS = 5  # of a gradient's noise, and twice as many
_MANY = 5  # times PGD's steps, from so many starts


def attack_curve(
    subject: Subject,
    attack: str,
    radii: Sequence[float],
    *,
    source: Subject | None = None,
    progress: Callable[[str], None] = lambda text: None,
    keep: Keep = made_anew,
) -> tuple[list[Row], dict[float, Attacked]]:
    """Accuracy on attacked test rows at every radius.

    Paper-protocol attacks are scored by one draw of a stochastic model's noise, as deployed;
    others, and what is transferred, by the mean over `SCORING_DRAWS` draws that it did not see.
    An attack that looks for the nearest example is made once, in the largest radius; in a smaller
    one an example that is further away goes that far towards it.

    Args:
      subject: a finished run, attacked as it is, its weights frozen.
      attack: `name[:key=value…]`, see `attacks.registry.parse`.
      radii: eps of each point.
      source: craft on this run instead (a transfer attack), of the subject's own test rows.
      progress: called with a line of text after each radius.
      keep: what was crafted, where the call before this one was interrupted.

    Returns:
      A row a radius, and the attacked inputs by radius.

    Raises:
      InputError: of the attack; or the source takes other inputs.
    """
    rows, found = [], {}
    attacks = {eps: registry.parse(attack, eps=eps) for eps in radii}  # bad input before any work
    widest = attacks[max(radii)]
    name = named(attack, subject, source)

    def crafted(key: str, made: Attack) -> Attacked:
        x = keep(f"{name} {key}", lambda: craft(subject, made, on=source).x)
        return Attacked.of(x, subject.test.x)

    nearest = crafted(f"inside {max(radii)}", widest) if widest.nearest else None
    if nearest is not None:
        progress(f"{name}: {_distances(nearest, widest)}")
    for eps, made in attacks.items():
        if nearest is None:
            found[eps] = crafted(f"eps {eps}", made)
        else:
            found[eps] = made.within(nearest, subject.classifier, subject.test.x)
        draws = scoring_draws(made) if source is None else SCORING_DRAWS
        hits = attacked_hits(subject, found[eps].x, draws=draws)
        rows.append(scored(hits, **subject.identity("attack", attack=name, eps=eps)))
        progress(f"{name} eps {eps:g}: {accuracy_text(rows[-1])}")
    return rows, found


def _distances(found: Attacked, attack: Attack) -> str:
    """How far away the nearest examples are, in words."""
    moved = found.l2[found.l2 > 0]
    inside = moved[moved < attack.eps * (1.0 - 1e-6)]
    middle = f", median distance {np.median(inside):.4g}" if len(inside) else ""
    return f"{len(inside)} of {len(found.x)} inputs have an example inside {attack.eps:g}{middle}"


def named(attack: str, subject: Subject, source: Subject | None) -> str:
    """What rows call an attack that was made for another run, or, without one, for their own."""
    return attack if source is None else f"{attack} from {source.named_to(subject)}"


def worst_case(
    subject: Subject, found: Sequence[Mapping[float, Attacked]], *, attack: str
) -> list[Row]:
    """Accuracy where every input meets whichever of several attacks is the worst for it.

    Of a stochastic model `SCORING_DRAWS` draws choose that attack and as many others score it, so
    that an attack is not the worst by luck.

    Args:
      subject: a finished run.
      found: its test rows, attacked, by radius; one an attack, the radii the same.
      attack: what the rows are to call it.

    Returns:
      A row a radius.
    """
    rows = []
    for eps in found[0]:
        hits = np.stack(
            [attacked_hits(subject, each[eps].x, draws=2 * SCORING_DRAWS) for each in found]
        )  # [attacks, draws, N]
        # By the draws that score each attack by itself: the worst is not above the least of these
        # for want of luck.
        scoring, choosing = (hits, hits) if hits.shape[1] == 1 else np.split(hits, 2, axis=1)
        worst = choosing.mean(axis=1).argmin(axis=0)  # [N]
        left = np.take_along_axis(scoring, worst[None, None], axis=0)[0]
        rows.append(scored(left, **subject.identity("attack", attack=attack, eps=eps)))
    return rows


def craft(subject: Subject, attack: Attack, *, on: Subject | None = None) -> Attacked:
    """The subject's test rows, attacked on what answers for it, or for another run.

    Raises:
      InputError: the other run takes other inputs.
    """
    if on is not None and on.dataset.spec != subject.dataset.spec:
        raise InputError(
            f"{on.workdir.root} takes other inputs than {subject.workdir.root}; an attack is "
            "transferred between runs on the same data set."
        )
    attacked = on or subject
    return attack(
        attacked.classifier,
        subject.test.x,
        subject.test.y,
        seed=subject.loaded.config.seed,
        compiled=attacked.compiled,
    )


def attacked_hits(subject: Subject, x: np.ndarray, *, draws: int) -> np.ndarray:
    """[draws, N] bool, which attacked test rows were still classified right."""
    return subject.predictor.hits(x, subject.test.y, draws=draws)


def scoring_draws(attack: Attack) -> int:
    """How many noise draws score what an attack made."""
    return 1 if attack.protocol == "paper" else SCORING_DRAWS


def sanity_checks(
    subject: Subject,
    *,
    eps: float,
    transfer_from: Subject | None = None,
    steps: int = 20,
    noise_rows: int | None = None,
) -> list[Check]:
    """Whether gradient attacks on this model can be believed.

    Run it on few rows: it attacks them by PGD about 35 times, and 15 times more where answers are
    drawn.

    Args:
      subject: a finished run.
      eps: the radius of interest.
      transfer_from: another run, for the black-box check; None leaves that check out.
      steps: of PGD.
      noise_rows: the checks of a stochastic model's noise, a third of all gradients, are made of
        the first so many rows; None for all.
    """

    def accuracy(attack: str, radius: float, source: Subject | None = None) -> float:
        return float(_hits_under(subject, attack, radius, source).mean())

    pgd = f"pgd:steps={steps}"
    slack = _one_input(subject)
    clean = accuracy("noise", 0.0)
    by_pgd = _hits_under(subject, pgd, eps)
    single, iterated = accuracy("fgsm", eps), float(by_pgd.mean())
    noise = accuracy("noise", eps)
    half, doubled = accuracy(pgd, eps / 2), accuracy(f"pgd:steps={2 * steps}", eps)
    bounds = subject.classifier.bounds
    whole = bounds.high - bounds.low if bounds is not None else 100.0
    unbounded = accuracy(pgd, whole)
    other_loss = accuracy(f"pgd_eot:loss=margin:draws=1:steps={steps}", eps)
    many = accuracy(f"pgd_eot:draws=1:steps={_MANY * steps}:restarts={_MANY}", eps)
    chance = 1.0 / subject.classifier.num_classes
    zero = zero_gradient_share(subject)
    on_softmax = _looks_like_softmax(subject)
    checks = [
        Check(
            "iterative attacks beat single-step ones",
            iterated <= single + slack,
            f"PGD {iterated:.3f}, FGSM {single:.3f}",
        ),
        Check(
            "accuracy falls as eps grows",
            clean + slack >= half and half + slack >= iterated,
            f"{clean:.3f} at 0, {half:.3f} at {eps / 2:g}, {iterated:.3f} at {eps:g}, of "
            f"{len(subject.test)} inputs",
        ),
        Check(
            "an unbounded attack reaches chance",
            unbounded <= chance + slack,
            f"{unbounded:.3f} at eps {whole:g}, chance {chance:.3f}",
        ),
        Check(
            "random noise of the same size is weaker",
            noise + slack >= iterated,
            f"noise {noise:.3f}, PGD {iterated:.3f}",
        ),
        Check(
            "twice the steps change little",
            _takes_little(iterated, doubled, slack),
            f"{steps} steps {iterated:.3f}, {2 * steps} steps {doubled:.3f}",
        ),
        Check(
            "many steps and starts change little",
            _takes_little(iterated, many, slack),
            f"{steps} steps {iterated:.3f}, {_MANY * steps} from each of {_MANY} starts {many:.3f}",
        ),
        Check(
            "another loss is not much stronger",
            _takes_little(iterated, other_loss, slack),
            f"PGD {iterated:.3f}, PGD on the margin {other_loss:.3f}",
        ),
        Check("gradients are not zero", zero <= 0.01, f"{100 * zero:.1f} % of inputs have none"),
        Check(
            "the loss is on logits, not on softmax outputs",
            not on_softmax,
            f"the scores {'sum' if on_softmax else 'do not sum'} to one",
        ),
    ]
    if subject.classifier.stochastic:
        noisy = subject.first(min(noise_rows, len(subject.test))) if noise_rows else subject
        fresh = float(by_pgd[:, : len(noisy.test)].mean())
        checks += _noise_checks(noisy, eps=eps, steps=steps, fresh=fresh)
    if transfer_from is not None:
        black = accuracy(pgd, eps, transfer_from)
        checks.append(
            Check(
                "black-box is not stronger than white-box",
                black + slack >= iterated,
                f"transferred PGD {black:.3f}, own PGD {iterated:.3f}",
            )
        )
    return checks


def _hits_under(
    subject: Subject, attack: str, eps: float, source: Subject | None = None
) -> np.ndarray:
    """[draws, N] bool, of `SCORING_DRAWS` draws whatever the attack's protocol."""
    x = craft(subject, registry.parse(attack, eps=eps), on=source).x
    draws = SCORING_DRAWS if subject.classifier.stochastic else 1
    return attacked_hits(subject, x, draws=draws)


def _one_input(subject: Subject) -> float:
    """The share of the test rows that one of them is: one either way is no finding."""
    return 1.0 / len(subject.test)


def _takes_little(accuracy: float, by_more: float, slack: float) -> bool:
    """Whether more of an attack leaves at most five points less, or one input where that is more.

    Shares are floats: 0.2 - 0.15 is a little more than 0.05.
    """
    return accuracy - by_more <= max(0.05, slack) + 1e-6


def _noise_checks(subject: Subject, *, eps: float, steps: int, fresh: float) -> list[Check]:
    """Whether a stochastic model's noise, and not the model, is what stops PGD.

    Args:
      subject: answers by draws.
      eps: the radius of interest.
      steps: of PGD.
      fresh: accuracy under PGD with a fresh draw at every step.
    """
    seed = subject.loaded.config.seed
    known = dataclasses.replace(subject, scorer=_KnownNoise(subject.classifier, seed=seed))
    slack = _one_input(subject)
    fixed = float(_hits_under(known, f"pgd:steps={steps}", eps).mean())
    few, many = (
        float(_hits_under(subject, f"pgd_eot:draws={draws}:steps={steps}", eps).mean())
        for draws in (_CHECKED_DRAWS, 2 * _CHECKED_DRAWS)
    )
    return [
        Check(
            "noise that is known is no shelter",
            fixed <= fresh + slack,
            f"PGD {fixed:.3f} where the noise is fixed and known, {fresh:.3f} where it is fresh, "
            f"of {len(subject.test)} inputs",
        ),
        Check(
            "gradients in the mean over draws are not much stronger",
            _takes_little(fresh, few, slack),
            f"PGD {fresh:.3f}, in the mean over {_CHECKED_DRAWS} draws {few:.3f}",
        ),
        Check(
            "twice the draws change little",
            _takes_little(few, many, slack),
            f"{_CHECKED_DRAWS} draws {few:.3f}, {2 * _CHECKED_DRAWS} draws {many:.3f}",
        ),
    ]


class _KnownNoise:
    """A stochastic classifier whose noise is fixed and known: what it would be without chance."""

    stochastic = False

    def __init__(self, classifier: Classifier, *, seed: int):
        self._classifier = classifier
        self._noise = random.stream(seed, "sanity")

    def __getattr__(self, name: str):
        return getattr(self._classifier, name)

    def log_scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        del seed
        return self._classifier.log_scores(x, seed=tf.constant(self._noise))


def zero_gradient_share(subject: Subject) -> float:
    """Share of test rows on which the loss that attacks ascend has no gradient at all in x.

    In what an attack may move of it. What is not a number shows an attack no direction.
    """
    classifier = subject.classifier
    seed = tf.constant(random.stream(subject.loaded.config.seed, "sanity"))

    @tf.function(reduce_retracing=True, autograph=False)
    def size(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            scores = classifier.log_scores(x, seed=seed)
            loss = losses.log_odds(scores, y)
        gradient = tf.abs(tape.gradient(loss, x))
        gradient = tf.where(tf.math.is_nan(gradient), tf.zeros_like(gradient), gradient)
        if classifier.attack_mask is not None:
            gradient *= classifier.attack_mask
        return tf.reduce_max(tf.reshape(gradient, [tf.shape(x)[0], -1]), axis=1)

    sizes = [
        size(
            tf.constant(subject.test.x[start : start + _BATCH]),
            tf.constant(subject.test.y[start : start + _BATCH]),
        ).numpy()
        for start in range(0, len(subject.test), _BATCH)
    ]
    return float((np.concatenate(sizes) == 0).mean())


def _looks_like_softmax(subject: Subject) -> bool:
    scores = subject.predictor.log_scores(subject.test.x[:50])
    return bool((scores >= 0).all() and np.allclose(scores.sum(axis=1), 1.0, atol=1e-3))
