"""The wake phase: p(m) as unlabelled inputs show it.

Eq. 8 moves p(m) and q(m|x) together, by the gradient of an ELBO. Where a model has dreamt, q(m|x)
already proposes what may have happened to an input, and p(m) = N(mu, s^2) has a closed form given
the proposals' importance weights: empirical Bayes by EM (Dempster, Laird & Rubin, 1977), with
self-normalised importance sampling for the E-step (Wei & Tanner, 1990). The sleep phase follows:
q(m|x) dreams of that p(m) (Hinton et al., 1995), see training.cama.DreamTrainer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special, stats
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.models.cama_base import CamaBase
from tfcama.models.cama_prediction import Proposing, sampled
from tfcama.models.mechanisms.registry import is_versatile
from tfcama.progress import tracked
from tfcama.training.cama import share_at_once

_ROWS = 500  # unlabelled inputs that p(m) is fitted to: two numbers a coordinate need no more
_PROPOSALS = 8  # of m, a row, by q(m|x)
_SPARSE_PROPOSALS = 16  # more where a mechanism can do many things: a few of them, the rest silent
_SILENT = 0.1  # standard deviation of what is silent, in those of N(0, I)
_PRIOR_ROWS = 10.0  # of N(0, I), what s^2 is worth before anything was seen
_BATCH = 20  # rows that share a sample of z
_MAX_ITERATIONS = 200
_TOLERANCE = 1e-4


class Proposals(NamedTuple):
    """What may have been done to inputs, weighted by all but p(m).

    Attributes:
      m: [S, N, M].
      log_weights: log p(x, y = c | m) / (S q(m | x)), [S, N, C], with the prior probabilities of
        untouched or not.
      log_untouched: the same of m = 0, [N]; -inf where an input cannot be untouched.
    """

    m: np.ndarray
    log_weights: np.ndarray
    log_untouched: np.ndarray


def fit_prior(model: CamaBase, x: np.ndarray, *, seed: random.Seed, title: str) -> None:
    """Sets the model's p(m), or p(m|y), to its maximum a posteriori given unlabelled inputs.

    Args:
      model: with a learned prior.
      x: [N, *shape], N > 0; a seeded sample of them is looked at.
      seed: int32 [2].
      title: of the progress bar.
    """
    of_rows, of_noise = random.split(seed)
    chosen = np.sort(random.shuffled(len(x), of_rows).numpy()[:_ROWS])
    proposals = Proposer(model)(x[chosen], seed=of_noise, title=title)
    model.prior_m.set_moments(
        *fit_moments(proposals, by_class=model.prior_m.by_class, p_unseen=model.config.p_unseen)
    )


class Proposer:
    """Says what may have been done to inputs, weighted by Eq. 6 with one sample of z each.

    Most of it are samples of q(m|x); but see SparselyToo. Unlike a prediction's, every row has its
    own: what is fitted to all rows would be fitted to a few draws, were they the same for all, and
    p(m) of a parameter that inputs say little about would become a point at one of them.

    Args:
      model: a CAMA that predicts by samples of q(m|x); of its weights when it is asked.
    """

    def __init__(self, model: CamaBase):
        y = tf.eye(model.num_classes)[None]
        rows = tf.TensorSpec([None, *model.spec.shape], tf.float32)

        @tf.function(input_signature=[rows, tf.TensorSpec([2], tf.int32)], autograph=False)
        def weigh(x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
            propose, number = _proposing(model, seed=seed)
            m, parts = model.scores_by_m(
                x, seed=seed, num_samples=1, m_samples=number, z_steps=0, propose=propose
            )
            log_untouched = tf.fill([tf.shape(x)[0]], -math.inf)
            if model.may_be_untouched:
                log_untouched = tf.reduce_logsumexp(parts[-1], axis=-1)
                m, parts = m[:-1], parts[:-1]
            return m, parts - model.log_prior_at_test(m, y), log_untouched

        self._weigh = weigh

    def __call__(self, x: np.ndarray, *, seed: random.Seed, title: str = "") -> Proposals:
        """Of inputs [N, *shape], N > 0.

        Args:
          x: the inputs.
          seed: int32 [2], of proposals and z.
          title: of the progress bar; "" for none.
        """
        starts = range(0, len(x), _BATCH)
        found = [
            [
                each.numpy()
                for each in self._weigh(
                    tf.constant(x[start : start + _BATCH]), random.fold_in(seed, start)
                )
            ]
            for start in (tracked(starts, title) if title else starts)
        ]
        m, log_weights, log_untouched = zip(*found, strict=True)
        return Proposals(
            m=np.concatenate(m, axis=1),
            log_weights=np.concatenate(log_weights, axis=1),
            log_untouched=np.concatenate(log_untouched),
        )


def shares(model: CamaBase, proposals: Proposals) -> np.ndarray:
    """How probable each m is given its input, by the model's p(m), [S, N].

    They sum to 1 over S with the probability that nothing was done to the input.
    """
    y = tf.eye(model.num_classes)[None]
    log_prior = model.log_prior_at_test(tf.constant(proposals.m), y).numpy()
    log_joint = special.logsumexp(proposals.log_weights + log_prior, axis=2)
    log_px = np.logaddexp(special.logsumexp(log_joint, axis=0), proposals.log_untouched)
    return np.exp(log_joint - log_px)


class SparselyToo:
    """Proposes by q(m|x), and by it for some parameters at random while the others do next to none.

    q(m|x) reads a shift of 7 pixels off an image and, with an error, a rotation, a shear, a gamma
    as well. p(m) fitted to such proposals alone is as wide in what never happened as q(m|x) errs;
    it takes proposals in which little happened for the weights to tell that this explains the image
    as well. The density is of the mixture (the balance heuristic: Veach & Guibas, 1995), so that
    weights remain those of importance sampling.

    Args:
      active: [S', B|1, M] bool, of each sample after the first S - S', which are of q(m|x), the
        parameters that are as q(m|x) says. Drawn independently.
      share: the probability that one is, in (0, 1).
      always: [M] bool, coordinates which always are.
    """

    def __init__(self, active: tf.Tensor, *, share: float, always: np.ndarray):
        self._active = tf.logical_or(active, always)
        self._share = tf.constant(np.where(always, 1.0, share), tf.float32)

    def __call__(self, q_m: tfd.Distribution, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See Proposing."""
        few, number = self._active.shape[0], noise.shape[0]
        own, silent = tfd.Normal(q_m.mean(), q_m.stddev()), tfd.Normal(0.0, _SILENT)
        any_m, _ = sampled(q_m, noise)
        few_m = tf.where(self._active, any_m[-few:], _SILENT * noise[-few:])
        m = tf.concat([any_m[:-few], few_m], axis=0)
        log_own = own.log_prob(m)
        log_few = tf.math.log(self._share) + log_own
        log_few = tfp.math.log_add_exp(log_few, tf.math.log1p(-self._share) + silent.log_prob(m))
        part = few / number
        return m, tfp.math.log_add_exp(
            math.log1p(-part) + tf.reduce_sum(log_own, axis=-1),
            math.log(part) + tf.reduce_sum(log_few, axis=-1),
        )


def _proposing(model: CamaBase, *, seed: random.Seed) -> tuple[Proposing, int]:
    """Where proposals come from, each row's by noise of its own, and how many a row."""
    mechanism, share = model.mechanism, share_at_once(model.mechanism)
    of_noise, of_active = random.split(random.fold_in(seed, 1))
    few_at_once = is_versatile(model.config.mechanism) and not mechanism.moves_together
    few_at_once &= share < 1.0
    known = list(mechanism.coordinates_of_parameters().values())
    always = ~np.isin(np.arange(mechanism.size), known)

    def propose(q_m: tfd.Distribution, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.shape(q_m.mean())
        own = random.normal(tf.concat([noise.shape[:1], rows], axis=0), of_noise)
        if not few_at_once:
            return sampled(q_m, own)
        active = random.uniform(tf.concat([[_SPARSE_PROPOSALS], rows], axis=0), of_active) < share
        return SparselyToo(active, share=share, always=always)(q_m, own)

    return propose, _PROPOSALS + _SPARSE_PROPOSALS * few_at_once


def fit_moments(
    proposals: Proposals, *, by_class: bool, p_unseen: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fits mu and s of p(m) = (1 - p_unseen) N(mu, s^2) + p_unseen N(0, I), by EM.

    s^2 has an inverse-gamma prior that is worth ten rows of N(0, I), so that few inputs, or
    proposals that happen to agree, do not make p(m) a point; mu has none, but of what less than one
    row is explained by it stays near 0.

    Args:
      proposals: of N inputs.
      by_class: whether every class has its own.
      p_unseen: see CamaBaseConfig.

    Returns:
      mu and s, [M] or, by class, [C, M].
    """
    m = proposals.m[:, :, None]  # [S, N, 1, M]
    log_weights = proposals.log_weights
    if not by_class:
        log_weights = special.logsumexp(log_weights, axis=2, keepdims=True)  # [S, N, G]
    loc = np.zeros([log_weights.shape[2], m.shape[3]])
    scale = np.ones_like(loc)
    log_any = math.log(p_unseen) + _log_density(m, 0.0, 1.0) if p_unseen else -math.inf
    for _ in range(_MAX_ITERATIONS):
        log_fitted = math.log1p(-p_unseen) + _log_density(m, loc, scale)  # [S, N, G]
        log_prior = np.logaddexp(log_fitted, log_any)
        log_joint = log_weights + log_prior
        log_px = np.logaddexp(special.logsumexp(log_joint, axis=(0, 2)), proposals.log_untouched)
        share = np.exp(log_joint - log_px[None, :, None] + log_fitted - log_prior)[..., None]
        rows = share.sum(axis=(0, 1))  # [G, 1]
        before = loc, scale
        loc = (share * m).sum(axis=(0, 1)) / np.maximum(rows, 1.0)
        deviation = (share * (m - loc) ** 2).sum(axis=(0, 1))
        scale = np.sqrt((deviation + _PRIOR_ROWS) / (rows + _PRIOR_ROWS))
        moved = max(np.abs(loc - before[0]).max(), np.abs(np.log(scale / before[1])).max())
        if moved < _TOLERANCE:
            break
    return (loc, scale) if by_class else (loc[0], scale[0])


def _log_density(m: np.ndarray, loc: np.ndarray | float, scale: np.ndarray | float) -> np.ndarray:
    return stats.norm.logpdf(m, loc, scale).sum(axis=-1)
