"""The training steps of deep CAMA: Eqs. 3 to 5, and fine-tuning by Eqs. 7 and 8."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfcama import random
from tfcama.data.base import Split
from tfcama.errors import InputError
from tfcama.models.cama_base import CamaBase, Explanation
from tfcama.models.cama_densities import Noise
from tfcama.models.mechanisms.base import Mechanism
from tfcama.objectives import bounds
from tfcama.training.config import MOVED
from tfcama.training.trainer import EVALUATION_SEED, Trainer
from tfcama.types import Batch, Generative, LogWeights, Sampler


def _logged(weights: LogWeights) -> dict[str, tf.Tensor]:
    """The parts of an ELBO, averaged over samples, [B] nats each."""
    return {
        "elbo": bounds.elbo(weights),
        "log_px": tf.reduce_mean(weights.log_px, axis=0),
        "kl_z": -tf.reduce_mean(weights.log_ratio_z, axis=0),
        "kl_m": -tf.reduce_mean(weights.log_ratio_m, axis=0),
    }


def active_units(loc: tf.Tensor) -> int:
    """How many latent dimensions carry information: Var_x(E_q[z_d]) > 0.01 (Burda et al., 2016).

    Args:
      loc: [N, Z], posterior means of N inputs.
    """
    return int(tf.reduce_sum(tf.cast(tf.math.reduce_variance(loc, axis=0) > 0.01, tf.int32)))


class _CamaTrainer(Trainer):
    """What training and fine-tuning of a CAMA share: its noise and its pictures."""

    classifier: CamaBase

    @functools.cached_property
    def _explained(self) -> Callable[[tf.Tensor], Explanation]:
        """What the model says of inputs, without ascent; compiled once, for all pictures."""
        model, seed = self.classifier, tf.constant(EVALUATION_SEED)
        return tf.function(lambda x: model.explanation(x, seed=seed, z_steps=0), autograph=False)

    def summary_scalars(self, rows: Split) -> dict[str, float]:
        """Active units of z and of m."""
        model = self.classifier
        x, y = tf.constant(rows.x), tf.one_hot(rows.y, model.num_classes)[:, None]
        q_m = model.posterior_m(x)
        q_z = model.posterior_z(x, y, tf.zeros([len(rows), model.dim_m]))
        return {
            "active_units/z": active_units(q_z.mean()[:, 0]),
            "active_units/m": active_units(q_m.mean()),
        }

    def summary_images(self, rows: Split) -> dict[str, tf.Tensor]:
        """Samples of every class, reconstructions, also under do(m = 0), and what m does.

        Of mechanisms of several parts, reconstructions under do(part = 0); of those whose
        parameters have names, inputs along each of them, a row an input, from -2 to 2 standard
        deviations of p(m).
        """
        model, seed = self.classifier, tf.constant(EVALUATION_SEED)
        if not isinstance(model, Generative) or not isinstance(model, Sampler):
            return {}
        x = tf.constant(rows.x[:_PICTURED])
        found = self._explained(x)
        labels = tf.tile(tf.range(model.num_classes), [max(1, _PICTURED // model.num_classes)])
        images = {
            "samples": _grid(model.sample(labels, seed=seed), model.num_classes),
            "inputs": _grid(x, _PICTURED // 4),
            "reconstructions": _grid(model.decoded(x, found, do_m0=False), _PICTURED // 4),
            "reconstructions_do_m0": _grid(model.decoded(x, found, do_m0=True), _PICTURED // 4),
        }
        parts = model.mechanism.parts
        for part in parts if len(parts) > 1 else ():
            intervened = model.decoded(x, found, do_m0=(part,))
            images[f"reconstructions_do_{part}_0"] = _grid(intervened, _PICTURED // 4)
        few = found.first(_INTERPOLATED)
        for name, along in model.interpolate(x[:_INTERPOLATED], few, _STEPS).items():
            by_input = tf.concat(tf.unstack(along, axis=1), axis=0)
            images[f"along_{name}"] = _grid(by_input, len(_STEPS))
        return images


class CamaTrainer(_CamaTrainer):
    """Maximises the intervention ELBO on clean rows and the ELBO on manipulated ones.

    One pass serves both: m = where(manipulated, m ~ q(m|x), m_do). The rows' weights make the sum
    Eq. 5; without manipulated rows it is Eq. 3.

    Args:
      augmented: whether batches hold manipulated rows.
      m_known: manipulated rows are trained under do(m = m0), m0 the manipulation's code in the
        first coordinates of m, in place of an inferred m.
    """

    term_names = ("elbo", "log_px", "kl_z", "kl_m")

    def __init__(
        self, classifier: CamaBase, *, augmented: bool = False, m_known: bool = False, **kwargs
    ):
        super().__init__(classifier, **kwargs)
        if m_known and classifier.mechanism.parameters:
            raise InputError(
                "augment_m=known sets the first coordinates of m to what was done, in units of its "
                f"own; mechanism '{classifier.config.mechanism}' has others. Take unknown."
            )
        self._infers_m = augmented and not m_known
        self._m_known = augmented and m_known

    def _noise(self, draws: random.RowDraws | None, classes: int = 1) -> Noise:
        if draws is None:
            return self.classifier.shared_noise(
                tf.constant(EVALUATION_SEED), num_samples=1, classes=classes
            )
        return self.classifier.row_noise(draws, num_samples=1, classes=classes)

    def terms(self, batch: Batch, *, draws: random.RowDraws | None) -> dict[str, tf.Tensor]:
        m_do = None
        if self._m_known:
            free = self.classifier.dim_m - batch.m_known.shape[-1]
            m_do = tf.pad(batch.m_known, [[0, 0], [0, free]])
        weights = self.classifier.log_weights(
            batch.x,
            noise=self._noise(draws),
            labels=batch.y,
            manipulated=batch.manipulated if self._infers_m else False,
            m_do=m_do,
            analytic=True,
        )
        logged = _logged(weights)
        return {"loss": -logged["elbo"], **logged}

    def scores(self, x: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Eq. 6 with K = 1: an epoch's choice need not cost as much as its training."""
        return self.classifier.log_scores(x, seed=seed, num_samples=1)

    def validation_terms(self, batch: Batch) -> dict[str, tf.Tensor]:
        weights = self.classifier.log_weights(
            batch.x, noise=self._noise(None), labels=batch.y, manipulated=False, analytic=True
        )
        logged = _logged(weights)
        return {"loss": -logged["elbo"], **logged}


_PICTURED = 40
_INTERPOLATED = 4  # inputs
_STEPS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


def _grid(images: tf.Tensor, columns: int) -> tf.Tensor:
    """[N, H, W, channels] to one image [1, rows * H, columns * W, channels].

    A last row that would not be full is left out; columns shrink to N.
    """
    height, width, channels = images.shape[1:]
    columns = min(columns, images.shape[0])
    rows = images.shape[0] // columns
    images = tf.reshape(images[: rows * columns], [rows, columns, height, width, channels])
    images = tf.transpose(images, [0, 2, 1, 3, 4])
    return tf.reshape(images, [1, rows * height, columns * width, channels])


_FAR, _NEAR = 5.0, 0.5  # standard deviations of dreamt coordinates, in those of the prior
_FAR_AT_ONCE = 2.0  # in the mean
_ALL = 2.0  # the same of mechanisms whose parameters move together
_FITTED = 0.8  # of the dreams once p(m) was fitted to unlabelled inputs: so many go by it
_BELIEVED = 5.0  # nats a parameter; at q(m|x) = p(m) dreams cost 2 (elastic) to 14 (translation)
_FIRST_SHARE = 0.25  # of the unlabelled rows, where a curriculum starts


class _AdaptingTrainer(_CamaTrainer):
    """What fine-tuning and dreams share: a look at m in the mechanism's own units."""

    def summary_scalars(self, rows: Split) -> dict[str, float]:
        """Active units of m, and how far the mechanism moves these rows, in its own units.

        Where p(m) is learned for all, its standard deviations besides.
        """
        model = self.classifier
        q_m = model.posterior_m(tf.constant(rows.x))
        spread = tf.math.reduce_std(model.mechanism.values(q_m.mean()), axis=0)
        found = {"active_units/m": float(active_units(q_m.mean()))}
        for parameter, value in zip(model.mechanism.parameters, spread, strict=True):
            found[f"spread/{parameter.name}"] = float(value)
        if model.prior_m.is_learned and not model.prior_m.by_class:
            p_m = model.prior_m(tf.eye(model.num_classes)[None])
            ends = p_m.mean()[0, 0] + p_m.stddev()[0, 0] * [[-1.0], [1.0]]
            low, high = model.mechanism.values(ends)
            for parameter, value in zip(model.mechanism.parameters, (high - low) / 2, strict=True):
                found[f"p_m/{parameter.name}"] = float(value)
        return found


class FinetuneTrainer(_AdaptingTrainer):
    """Maximises Eq. 8, alpha ELBO(x, y) on clean rows + (1 - alpha) ELBO(x) on unlabelled ones.

    ELBO(x) = log sum_c exp ELBO(x, y_c), Eq. 7, one m ~ q(m|x) a row. A p(m|y) is that of the
    unlabelled rows; clean ones keep N(0, I). Only NNpM and NNqM move unless other groups are named.

    Args:
      alpha: weight of the clean rows.
      clean_do_m0: clean rows under do(m = 0) (the papers' footnote 1); otherwise m is inferred.
      num_samples: K, samples of z in each ELBO.
      dreams, curriculum: see FinetuneConfig.
      fitted: whether p(m) was fitted to unlabelled inputs; four of five dreams are then of it.
    """

    term_names = ("elbo_x", "kl_m", "elbo_clean")

    def __init__(
        self,
        classifier: CamaBase,
        *,
        alpha: float,
        clean_do_m0: bool,
        num_samples: int,
        dreams: float = 0.0,
        fitted: bool = False,
        curriculum: int = 0,
        groups: Sequence[str] = MOVED,
        **kwargs,
    ):
        super().__init__(classifier, groups=groups, **kwargs)
        if dreams:
            _check_dreams(classifier)
        self._dreams = dreams
        self._fitted = fitted
        self._curriculum = curriculum
        self._alpha = alpha
        self._clean_do_m0 = clean_do_m0
        self._num_samples = num_samples

    def rows_of(self, batch: dict[str, Batch]) -> Batch:
        return batch["clean"]

    def terms(
        self, batch: dict[str, Batch], *, draws: random.RowDraws | None
    ) -> dict[str, tf.Tensor]:
        if draws is None:
            raise TypeError("fine-tuning has no validation step: draws are needed.")
        clean, unlabelled = batch["clean"], batch["unlabelled"]
        model, samples = self.classifier, self._num_samples
        of_clean = model.log_weights(
            clean.x,
            noise=model.row_noise(draws.fold(0), num_samples=samples, classes=1),
            labels=clean.y,
            manipulated=not self._clean_do_m0,
            analytic=True,
            untouched=True,
        )
        of_unlabelled = model.log_weights(
            unlabelled.x,
            noise=model.row_noise(draws.fold(1), num_samples=samples),
            analytic=True,
            improved=True,
        )
        elbo_clean = bounds.elbo(of_clean)
        elbo_x = bounds.marginal_over_classes(bounds.elbo(of_unlabelled))
        loss = -(self._alpha * elbo_clean + (1.0 - self._alpha) * self._paced(elbo_x))
        if self._dreams:
            loss += self._dreams * _surprise(model, clean, draws.fold(2), fitted=self._fitted)
        return {
            "loss": loss,
            "elbo_x": elbo_x,
            "kl_m": -tf.reduce_mean(of_unlabelled.log_ratio_m, axis=[0, 2]),
            "elbo_clean": elbo_clean,
        }

    def _paced(self, elbo_x: tf.Tensor) -> tf.Tensor:
        """ELBO(x) of the rows whose turn has come, weighted up for the others, [B] nats.

        Self-paced learning (Kumar et al., 2010): inputs that hardly moved are the likeliest, and
        teach the mechanism what to look for in those that moved far.
        """
        if not self._curriculum:
            return elbo_x
        replica = tf.distribute.get_replica_context()
        of_all = tf.stop_gradient(elbo_x)
        if replica is not None and replica.num_replicas_in_sync > 1:
            of_all = replica.all_gather(of_all, axis=0)  # replicas must agree on whose turn it is
        size = tf.shape(of_all)[0]
        done = tf.cast(self.optimizer.iterations, tf.float32) / self._curriculum
        share = _FIRST_SHARE + (1.0 - _FIRST_SHARE) * tf.minimum(1.0, done)
        counted = tf.cast(tf.math.ceil(share * tf.cast(size, tf.float32)), tf.int32)
        least = tf.sort(of_all, direction="DESCENDING")[counted - 1]
        return tf.where(elbo_x >= least, elbo_x * tf.cast(size / counted, tf.float32), 0.0)


class DreamTrainer(_AdaptingTrainer):
    """The sleep phase alone: q(m|x) learns to tell which m made of a clean input what it sees.

    It maximises E log q(m | T_m x) over clean x and dreamt m, see dreamt; or most of them from a
    p(m), or p(m|y) of x's class, that was fitted to unlabelled inputs.

    Args:
      fitted: see FinetuneTrainer.

    Raises:
      InputError: the mechanism has no parameters to dream of.
    """

    term_names = ("surprise",)

    def __init__(self, classifier: CamaBase, *, fitted: bool = False, **kwargs):
        super().__init__(classifier, groups=("q_m",), **kwargs)
        _check_dreams(classifier)
        self._fitted = fitted

    def terms(self, batch: Batch, *, draws: random.RowDraws | None) -> dict[str, tf.Tensor]:
        if draws is None:
            raise TypeError("dreams have no validation step: draws are needed.")
        surprise = _surprise(self.classifier, batch, draws, fitted=self._fitted)
        return {"loss": surprise, "surprise": surprise}


class Guesses(NamedTuple):
    """What may have been done to inputs, and how probable each guess is.

    Attributes:
      x: [B, *shape].
      m: [B, S, M].
      share: of p(m|x), [B, S]; what is missing to 1 says that nothing was done.
    """

    x: tf.Tensor
    m: tf.Tensor
    share: tf.Tensor


class WakeTrainer(_AdaptingTrainer):
    """The wake phase of q(m|x), and dreams beside it: reweighted wake-sleep.

    It maximises E_{p(m|x)} log q(m|x) over unlabelled x, of which importance sampling knows p(m|x),
    and E log q(m | T_m x) over dreams (Bornschein & Bengio, ICLR 2015; their wake phase of q, and
    sleep). ELBO(x) draws q(m|x) to one m that explains x; this draws it over all of them, as dreams
    do and as Eq. 6, whose proposal it is, needs it. p(x|.) stays.

    Args:
      dreams: weight of the dreams.

    Raises:
      InputError: the mechanism has no parameters to dream of, or q(m|x) is not what proposes m.
    """

    term_names = ("wake", "surprise")

    def __init__(self, classifier: CamaBase, *, dreams: float, **kwargs):
        super().__init__(classifier, groups=("q_m",), **kwargs)
        _check_dreams(classifier, instead="by=eq8, dreams=0 and warm_up=0")
        if classifier.config.m_at_test != "posterior":
            raise InputError(
                f"m_at_test='{classifier.config.m_at_test}' was given; reweighted wake-sleep "
                "learns from samples of q(m|x). Take posterior, or by=eq8."
            )
        self._dreams = dreams

    def rows_of(self, batch: dict[str, Any]) -> Batch:
        return batch["clean"]

    def terms(
        self, batch: dict[str, Any], *, draws: random.RowDraws | None
    ) -> dict[str, tf.Tensor]:
        if draws is None:
            raise TypeError("a wake phase has no validation step: draws are needed.")
        x, m, share = batch["unlabelled"]
        log_q = self.classifier.posterior_m(x).log_prob(tf.transpose(m, [1, 0, 2]))  # [S, B]
        wake = -tf.reduce_sum(share * tf.transpose(log_q), axis=1)
        wake = bounded(wake, limit=_BELIEVED * self.classifier.dim_m)
        surprise = _surprise(self.classifier, batch["clean"], draws, fitted=False)
        return {"loss": wake + self._dreams * surprise, "wake": wake, "surprise": surprise}


def _check_dreams(
    classifier: CamaBase, *, instead: str = "dreams=0, warm_up=0 and sleep=0"
) -> None:
    if not classifier.mechanism.parameters:
        raise InputError(
            f"mechanism '{classifier.config.mechanism}' has no parameters to dream of; "
            f"give {instead}."
        )


def _surprise(model: CamaBase, clean: Batch, draws: random.RowDraws, *, fitted: bool) -> tf.Tensor:
    """-log q(m | T_m x) of dreamt manipulations m of clean inputs, [B] nats, see bounded."""
    m = dreamt(model.mechanism, draws)
    if fitted:
        p_m = model.prior_m(tf.one_hot(clean.y, model.num_classes)[:, None])
        shown = p_m.mean()[:, 0] + p_m.stddev()[:, 0] * draws.fold(2).normal(model.dim_m)
        m = tf.where(draws.fold(3).uniform(1) < _FITTED, tf.stop_gradient(shown), m)
    known = list(model.mechanism.coordinates_of_parameters().values())
    q_m = model.posterior_m(model.simulate(m, clean.x)).distribution
    surprise = -tf.reduce_sum(tf.gather(q_m.log_prob(m), known, axis=1), axis=1)
    return bounded(surprise, limit=_BELIEVED * len(known))


def dreamt(mechanism: Mechanism, draws: random.RowDraws) -> tf.Tensor:
    """Manipulations to dream of, [B, M].

    About two parameters, drawn anew for every row, are N(0, 5^2), the others N(0, 0.5^2). What
    happens to inputs is often one or two things that go far; p(m) = N(0, I), all of them a little,
    hardly ever goes there. Where all parameters move together they are N(0, 2^2).
    """
    size = mechanism.size
    if mechanism.moves_together:
        return _ALL * draws.normal(size)
    far = draws.fold(1).uniform(size) < share_at_once(mechanism)
    return tf.where(far, _FAR, _NEAR) * draws.fold(0).normal(size)


def share_at_once(mechanism: Mechanism) -> float:
    """The share of a mechanism's parameters that do something to one input, in (0, 1]; a guess."""
    return min(1.0, _FAR_AT_ONCE / len(mechanism.coordinates_of_parameters()))


def bounded(loss: tf.Tensor, *, limit: float) -> tf.Tensor:
    """The loss up to `limit`, its logarithm beyond, with a continuous derivative.

    So no row pulls harder than one at the limit does. Dreams go far, where an image may show
    nothing of its m; a q(m|x) that has become sure then loses thousands of nats on one
    row, and Adam's moments carry such a step on for many more.

    Args:
      loss: any shape, nats.
      limit: positive, nats.
    """
    beyond = limit * (1.0 + tf.math.log(tf.maximum(loss, limit) / limit))
    return tf.where(loss > limit, beyond, loss)
