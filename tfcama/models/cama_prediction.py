"""Bayes' rule over the posterior samples of a deep CAMA: how it predicts.

    log p(x, y = c) = log 1/K sum_k p(x, y = c, z_k, m_k) / q(z_k, m_k | x, y = c)               (6)

Equation of "A Causal View on Robustness of Neural Networks" (Zhang, Zhang, Li; ICLR 2020 submission
and NeurIPS 2020). K samples of C classes are what everything costs here, so they go to the classes
that may matter: see class_margin.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfcama import random
from tfcama.models.cama_densities import CamaDensities, Noise
from tfcama.networks.heads import moments, normal

_START_SPREAD = 2.0  # standard deviations of p(m)
_STARTS_SEED = (0, 1)  # the same starts for every prediction
_STEP = 0.3  # of the ascent, in standard deviations of p(m); falls to a tenth
_Z_STEP, _Z_MEMORY = 0.2, (0.8, 0.95)  # of the ascent in z, by Adam; the step falls to zero
_ASCENT_MARGINS = 3.0  # a class that is so far behind may still win by it
_ENCODED = 10  # rows that may be decoded in the memory that it takes to encode one

_Improve = Callable[[tfd.Distribution, tf.Tensor, tf.Tensor, tf.Tensor], tfd.Distribution]
Proposing = Callable[[tfd.Distribution, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Of q(m|x), batch shape [B], and noise [S, B|1, M]: m [S, B, M] and its log-density [S, B]."""


def sampled(q_m: tfd.Distribution, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Proposes samples of q(m|x), see Proposing."""
    m = q_m.mean() + q_m.stddev() * noise
    return m, q_m.log_prob(m)


def importance_bound(weights: tf.Tensor) -> tf.Tensor:
    """The log of the mean of K importance weights: the summand of Eq. 6 (Burda et al., 2016).

    It is at least the ELBO, grows with K in expectation, and tends to log p(x, y).

    Args:
      weights: logarithms of those of K posterior samples, [K, B] or [K, B, C], in all
        (`LogWeights.total`); their ratios sampled, not analytic.

    Returns:
      [B] or [B, C] nats.
    """
    return tfp.math.reduce_logmeanexp(weights, axis=0)


class CamaPrediction(CamaDensities):
    """A deep CAMA that classifies."""

    stochastic = True

    def log_scores(
        self, x: tf.Tensor, *, seed: random.Seed, num_samples: int | None = None
    ) -> tf.Tensor:
        """Log p(x, y = c) by Eq. 6: the log of the mean of the importance weights, [B, C] nats.

        K samples of z for a class, a row and a sample of m, of which there is one, as in the
        papers, unless the configuration says otherwise; the noise is one table for all rows.
        Decoding runs in chunks of at most `max_decoder_rows`.

        Args:
          x: [B, *shape].
          seed: int32 [2].
          num_samples: K, in place of the configuration's.
        """
        return tf.reduce_logsumexp(self.scores_by_m(x, seed=seed, num_samples=num_samples)[1], 0)

    def log_scores_by_sample(self, x: tf.Tensor, *, seed: random.Seed) -> tf.Tensor:
        """What K predictions by one sample of z each would say, [K, B, C] nats.

        Each has noise of its own, of m too.
        """
        return tf.map_fn(
            lambda draw: self.log_scores(x, seed=draw, num_samples=1),
            tf.stack(random.split(seed, self.config.num_samples)),
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )

    def log_scores_and_m(
        self, x: tf.Tensor, *, seed: random.Seed, z_steps: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What `log_scores` gives, [B, C] nats, and the m that stands for it, [B, M].

        That m is the prediction's first sample; where an input may be untouched, 0 if that is
        likelier than not by these scores, or else the sample that explains it best. Ascent in z is
        of the best m of every class alone, so that an input on the verge may be another one to
        `log_p_untouched`, which compares without it.
        z_steps is as in `scores_by_m`.
        """
        m, parts = self.scores_by_m(x, seed=seed, z_steps=z_steps)
        scores = tf.reduce_logsumexp(parts, axis=0)
        if not self.may_be_untouched:
            return scores, m[0]
        by_m = tf.reduce_logsumexp(parts, axis=-1)  # [S + 1, B]
        touched = tf.reduce_logsumexp(by_m[:-1], axis=0) > by_m[-1]
        zero = tf.cast(m.shape[0] - 1, tf.int64)
        best = tf.where(touched, tf.argmax(by_m[:-1], axis=0), zero)  # [B]
        return scores, tf.gather(tf.transpose(m, [1, 0, 2]), best, batch_dims=1)

    @property
    def may_be_untouched(self) -> bool:
        """Whether m = 0 is one more m of a prediction, beside those that q(m|x) proposes."""
        return bool(self.config.p_untouched) and self.config.m_at_test != "do_m0"

    def scores_by_m(
        self,
        x: tf.Tensor,
        *,
        seed: random.Seed,
        num_samples: int | None = None,
        m_samples: int | None = None,
        z_steps: int | None = None,
        propose: Proposing = sampled,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What every m of a prediction adds to it.

        Args:
          x: [B, *shape].
          seed: int32 [2].
          num_samples: K, in place of the configuration's.
          m_samples: the same of m.
          z_steps: in place of the configuration's; 0 where one m is compared with another, since
            only the best of them ascend.
          propose: where those m come from, unless the configuration says do_m0.

        Returns:
          m [S, B, M], the last one zero where an input may be untouched, and the logarithms
          [S, B, C] of the parts whose sum over S is p(x, y = c).
        """
        noise = self._noise_at_test(seed, num_samples, m_samples)
        y = self._one_hots(None)
        m, log_ratio_m = self._m_at_test(x, noise.m, y, propose)  # [S, B, M], [S, B, C|1]
        log_weight_m = log_ratio_m - math.log(m.shape[0])
        if self.may_be_untouched:
            p_untouched = self.config.p_untouched
            zero = tf.zeros_like(m[:1])
            of_zero = tf.fill(tf.shape(log_weight_m[:1]), math.log(p_untouched))
            m = tf.concat([m, zero], axis=0)
            log_weight_m = tf.concat([log_weight_m + math.log1p(-p_untouched), of_zero], axis=0)
        steps = self.config.z_steps if z_steps is None else z_steps
        return m, self._scores_at(x, m, log_weight_m, noise.z, z_steps=steps)

    def _scores_at(
        self,
        x: tf.Tensor,
        m: tf.Tensor,
        log_weight_m: tf.Tensor,
        noise_z: tf.Tensor,
        *,
        z_steps: int,
    ) -> tf.Tensor:
        """log_weight_m + log p(x, y = c | m), the mean over samples of z, [S, B, C].

        Every (m, input, class) is a case: a row and a class. All get one sample of z; rounds of a
        better proposal for z, where the family has one, and K samples are for those that are then
        close enough to the best to matter, see class_margin: most of several m are not. Ascent in z
        is for the best m of every class that it may bring that close.

        Args:
          x: [B, *shape].
          m: [S, B, M].
          log_weight_m: [S, B, C|1].
          noise_z: [K, 1, C, Z].
          z_steps: of that ascent.
        """
        samples, classes = m.shape[0], self.num_classes
        margin = self.config.class_margin or math.inf
        x = tf.tile(x, [samples, *([1] * len(self.spec.shape))])
        m = tf.reshape(m, [-1, self.dim_m])
        proposal = self._moments(x, m)  # [S * B, C, 2, Z]
        weight = tf.ones([1, 1, classes]) * log_weight_m

        def of(proposal: tf.Tensor, cases: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows, labels = cases[:, 0], cases[:, 1]
            moments_z = tf.gather_nd(proposal, cases)[:, None]  # [N, 1, 2, Z]
            return tf.gather(x, rows), tf.gather(m, rows), moments_z, labels

        def rescored(
            proposal: tf.Tensor, scores: tf.Tensor, cases: tf.Tensor, noise_z: tf.Tensor
        ) -> tf.Tensor:
            found = self._estimates(noise_z, *of(proposal, cases))[:, 0]
            found += tf.gather_nd(tf.reshape(weight, [-1, classes]), cases)
            flat = tf.tensor_scatter_nd_update(tf.reshape(scores, [-1, classes]), cases, found)
            return tf.reshape(flat, tf.shape(scores))

        def improved(
            improve: _Improve, proposal: tf.Tensor, scores: tf.Tensor, cases: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            better = self._improved_moments(improve, *of(proposal, cases))[:, 0]
            proposal = tf.tensor_scatter_nd_update(proposal, cases, better)
            return proposal, rescored(proposal, scores, cases, noise_z[:1])

        scores = self._estimates(noise_z[:1], x, m, proposal)  # [S * B, C]
        scores = tf.reshape(scores, [samples, -1, classes]) + weight
        for left in range(self._rounds, 0, -1):
            cases = _within(scores, left * margin)  # each round that is left may bring one
            proposal, scores = improved(self._improved, proposal, scores, cases)
        if z_steps:
            cases = _rivals(scores, _ASCENT_MARGINS * margin)
            ascend = functools.partial(self._ascended, steps=z_steps)
            proposal, scores = improved(ascend, proposal, scores, cases)
        if noise_z.shape[0] > 1:
            scores = rescored(proposal, scores, _within(scores, margin), noise_z)
        return scores

    def _estimates(
        self,
        noise_z: tf.Tensor,
        x: tf.Tensor,
        m: tf.Tensor,
        proposal: tf.Tensor,
        labels: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Log p(x, y | m) by samples of z, decoded in chunks of at most max_decoder_rows.

        Args:
          noise_z: [K, 1, C, Z].
          x: [R, *shape].
          m: [R, M].
          proposal: moments of q(z|.), [R, C|1, 2, Z].
          labels: [R]; None enumerates all classes.

        Returns:
          [R, 1] with labels, [R, C] without.
        """
        num_samples, width = noise_z.shape[0], 1 if labels is not None else self.num_classes
        affordable = max(1, self.config.max_decoder_rows // width)
        at_once = max(k for k in range(1, min(num_samples, affordable) + 1) if num_samples % k == 0)

        def log_weights(
            noise_z: tf.Tensor,
            x: tf.Tensor,
            m: tf.Tensor,
            proposal: tf.Tensor,
            labels: tf.Tensor | None = None,
        ) -> tf.Tensor:
            if labels is not None:
                noise_z = tf.gather(noise_z[:, 0], labels, axis=1)[:, :, None]  # [k, r, 1, Z]
            y, q_z = self._one_hots(labels), normal(proposal)
            return self._weigh(x, y=y, m=m, q_z=q_z, noise_z=noise_z, analytic=False).total()

        def estimate(*rows: tf.Tensor) -> tf.Tensor:
            if at_once == num_samples:
                weights = log_weights(noise_z, *rows)  # [K, r, C|1]
            else:
                parts = tf.reshape(noise_z, [-1, at_once, *noise_z.shape[1:]])
                weights = tf.map_fn(
                    lambda part: log_weights(part, *rows), parts, parallel_iterations=1
                )
                weights = tf.reshape(weights, [num_samples, -1, width])
            return importance_bound(weights)

        rows = (x, m, proposal, labels)
        return _in_chunks(estimate, rows, length=affordable // at_once, shape=(width,))

    def _moments(self, x: tf.Tensor, m: tf.Tensor) -> tf.Tensor:
        """The moments of q(z | x, y, m) of all classes, [R, C, 2, Z], in chunks."""
        y = self._one_hots(None)
        return _in_chunks(
            lambda x, m: moments(self.posterior_z(x, y, m)),
            (x, m),
            length=max(1, self.config.max_decoder_rows // _ENCODED),
            shape=(self.num_classes, 2, self.dim_z),
        )

    def _improved_moments(
        self, improve: _Improve, x: tf.Tensor, m: tf.Tensor, proposal: tf.Tensor, labels: tf.Tensor
    ) -> tf.Tensor:
        """The moments, [R, 1, 2, Z], that `improve` gives, in chunks; the rest as `_estimates`."""

        def of_chunk(
            x: tf.Tensor, m: tf.Tensor, proposal: tf.Tensor, labels: tf.Tensor
        ) -> tf.Tensor:
            return moments(improve(normal(proposal), x, self._one_hots(labels), m))

        return _in_chunks(
            of_chunk,
            (x, m, proposal, labels),
            length=max(1, self.config.max_decoder_rows // _ENCODED),
            shape=(1, 2, self.dim_z),
        )

    def _ascended(
        self, q_z: tfd.Distribution, x: tf.Tensor, y: tf.Tensor, m: tf.Tensor, *, steps: int
    ) -> tfd.Distribution:
        """A proposal for z around a mode of p(z | x, y, m), some steps of Adam from q(z|.)'s mean.

        What one network says of all inputs is a start for each of them: semi-amortized inference
        (Kim, Wiseman, Miller, Sontag and Rush, 2018). Held fixed under differentiation.
        """
        x, start, scale = (tf.stop_gradient(each) for each in (x, q_z.mean(), q_z.stddev()))
        m, noise = tf.stop_gradient(m), tf.zeros([1, 1, 1, self.dim_z])
        decay_slope, decay_square = _Z_MEMORY

        def ascend(step, z, slope, square):
            at_z = tfd.Independent(tfd.Normal(z, scale), 1)
            with tf.GradientTape() as tape:
                tape.watch(z)
                bound = self._weigh(x, y=y, m=m, q_z=at_z, noise_z=noise, analytic=True).total()
            gradient = tape.gradient(bound, z)
            turn = tf.cast(step, tf.float32)
            slope = decay_slope * slope + (1.0 - decay_slope) * gradient
            square = decay_square * square + (1.0 - decay_square) * tf.square(gradient)
            direction = slope / (1.0 - decay_slope ** (turn + 1.0))
            size = tf.sqrt(square / (1.0 - decay_square ** (turn + 1.0))) + 1e-6
            z += _Z_STEP * (1.0 - turn / steps) * direction / size
            return step + 1, z, slope, square

        zeros = tf.zeros_like(start)
        _, z, *_ = _repeat(ascend, steps, start, zeros, zeros)
        return tfd.Independent(tfd.Normal(tf.stop_gradient(z), scale), 1)

    def moments_of_m(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation of p(m), [M]; of N(0, I) where p(m|y) is by class."""
        p_m = self.prior_m(None if self.prior_m.by_class else self._one_hots(None))
        return p_m.mean()[0, 0], p_m.stddev()[0, 0]

    def log_prior_at_test(self, m: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Log p(m | y) of what was manipulated, as prediction takes it, [S, B, C|1] nats.

        Args:
          m: [S, B, M].
          y: one-hots of all classes, [1, C, C].
        """
        log_fitted = self.prior_m(y).log_prob(m[:, :, None])
        p_unseen = self.config.p_unseen
        if not self.prior_m.is_learned or not p_unseen:
            return log_fitted
        log_any = self.prior_m(None).log_prob(m[:, :, None])
        return tfp.math.log_add_exp(
            math.log1p(-p_unseen) + log_fitted, math.log(p_unseen) + log_any
        )

    def _noise_at_test(
        self, seed: random.Seed, num_samples: int | None = None, m_samples: int | None = None
    ) -> Noise:
        posterior = self.config.m_at_test == "posterior"
        return self.shared_noise(
            seed,
            num_samples=num_samples or self.config.num_samples,
            m_samples=(m_samples or self.config.m_samples) if posterior else 1,
        )

    def _m_at_test(
        self, x: tf.Tensor, noise: tf.Tensor, y: tf.Tensor, propose: Proposing = sampled
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Samples of m as the configuration's m_at_test says, and their log-ratios.

        Args:
          x: [B, *shape].
          noise: [S, M].
          y: one-hots of all classes.
          propose: see scores_by_m.

        Returns:
          m [S, B, M] and [S, B, C|1], S = 1 but for "posterior".
        """
        at_test = self.config.m_at_test
        if at_test == "do_m0":
            size = tf.shape(x)[0]
            return tf.zeros([1, size, self.dim_m]), tf.zeros([1, size, 1])
        q_m = self.posterior_m(x)
        if self.config.m_starts or self.config.m_steps:
            q_m = self._sharpened(x, q_m)
        if at_test == "mean":
            noise = tf.zeros_like(noise)
        m, log_proposed = propose(q_m, noise[:, None])
        return m, self.log_prior_at_test(m, y) - log_proposed[..., None]

    def _sharpened(self, x: tf.Tensor, q_m: tfd.Distribution) -> tfd.Distribution:
        """A proposal for m around a mode of p(m | x) that was searched for, row by row.

        Any proposal makes Eq. 6 a valid estimate; this one costs about m_starts + 3 m_steps
        predictions with one sample. It is held fixed under differentiation: an attack on the
        scores sees its m as a constant.
        """
        mode = _in_chunks(
            self._mode,
            (tf.stop_gradient(x), tf.stop_gradient(q_m.mean())),
            length=max(1, self.config.max_decoder_rows // self.num_classes),
            shape=(self.dim_m,),
        )
        return tfd.Independent(tfd.Normal(tf.stop_gradient(mode), q_m.stddev()), 1)

    def _mode(self, x: tf.Tensor, best: tf.Tensor) -> tf.Tensor:
        """The likeliest m that the search from `best` [B, M] finds for every row of x, [B, M]."""
        y = self._one_hots(None)

        def log_joint(m: tf.Tensor) -> tf.Tensor:  # log p(x, m) from below, at z's mean, [B]
            q_z = self.posterior_z(x, y, m)
            noise = tf.zeros([1, 1, self.num_classes, self.dim_z])
            bound = self._weigh(x, y=y, m=m, q_z=q_z, noise_z=noise, analytic=True).total()[0]
            return tf.reduce_logsumexp(bound + self.log_prior_at_test(m[None], y)[0], axis=-1)

        best_value = log_joint(best)
        loc, scale = self.moments_of_m()
        starts = loc + _START_SPREAD * scale * random.normal(
            [self.config.m_starts, self.dim_m], tf.constant(_STARTS_SEED)
        )

        def start(place, best, best_value):
            other = tf.broadcast_to(starts[place], tf.shape(best))
            return place + 1, *_better(best, best_value, other, log_joint)

        def ascend(step, m, speed, best, best_value):
            with tf.GradientTape() as tape:
                tape.watch(m)
                value = log_joint(m)
            gradient = scale * tape.gradient(value, m)  # by m in standard deviations
            # The direction alone: far from a mode gradients are hundreds of nats steep.
            norm = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=1, keepdims=True) + 1e-12)
            speed = 0.5 * speed + gradient / norm
            share = tf.cast(step, tf.float32) / max(1, self.config.m_steps - 1)
            m = m + _STEP * (1.0 - 0.9 * share) * scale * speed
            return step + 1, m, speed, *_better(best, best_value, m, log_joint)

        _, best, best_value = _repeat(start, self.config.m_starts, best, best_value)
        *_, best, _ = _repeat(
            ascend, self.config.m_steps, best, tf.zeros_like(best), best, best_value
        )
        return best


def _repeat(
    body: Callable[..., tuple[tf.Tensor, ...]], number: int, *state: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """What `body`, of its turn and the state, makes of both in so many turns; one graph for all."""
    return tf.while_loop(
        lambda turn, *rest: turn < number, body, (tf.constant(0), *state), parallel_iterations=1
    )


def _better(
    best: tf.Tensor,
    best_value: tf.Tensor,
    other: tf.Tensor,
    function: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Row by row, whichever of two points has the larger value."""
    value = function(other)
    improved = value > best_value
    return tf.where(improved[:, None], other, best), tf.where(improved, value, best_value)


def _within(scores: tf.Tensor, margin: float) -> tf.Tensor:
    """Rows (s, b) and classes [N, 2] of scores [S, B, C] that are so close to the best of b."""
    best = tf.reduce_max(scores, axis=[0, 2])[:, None]  # [B, 1]
    far = scores < best - margin  # NaN is not
    return tf.where(tf.reshape(~far, [-1, scores.shape[-1]]))


def _rivals(scores: tf.Tensor, margin: float) -> tf.Tensor:
    """Like `_within`, of every b and c the best s, of b with more than one such c, [N, 2]."""
    by_class = tf.reduce_max(scores, axis=0)  # [B, C]
    near = ~(by_class < tf.reduce_max(by_class, axis=1, keepdims=True) - margin)
    near &= tf.reduce_sum(tf.cast(near, tf.int32), axis=1, keepdims=True) > 1
    return tf.where(tf.reshape(near & (scores == by_class), [-1, scores.shape[-1]]))


def _in_chunks(
    function: Callable[..., tf.Tensor],
    tensors: tuple[tf.Tensor | None, ...],
    *,
    length: int,
    shape: tuple[int, ...],
) -> tf.Tensor:
    """Function over chunks of rows, so that not all of them live at once.

    Args:
      function: chunks [r, ...] -> float32 [r, *shape].
      tensors: [R, ...]; None is left out.
      length: r is at most this.
      shape: see function.

    Returns:
      [R, *shape].
    """
    given = [tensor for tensor in tensors if tensor is not None]
    static_size = given[0].shape[0]
    if static_size and static_size <= length:  # the gradient of convolutions of no images fails
        return function(*given)
    size = tf.shape(given[0])[0]
    number = tf.maximum(1, -(-size // length))
    even = tf.maximum(1, -(-size // number))  # even chunks: little to fill up

    def cut(tensor: tf.Tensor) -> tf.Tensor:
        fill = tf.concat(
            [[[0, number * even - size]], tf.zeros([tensor.shape.rank - 1, 2], tf.int32)], 0
        )
        filled = tf.pad(tensor, fill, constant_values=1)  # a standard deviation may not be 0
        return tf.reshape(filled, tf.concat([[number, even], tf.shape(tensor)[1:]], axis=0))

    results = tf.map_fn(
        lambda chunk: function(*chunk),
        tuple(tf.ensure_shape(cut(t), [None, None, *t.shape[1:]]) for t in given),
        fn_output_signature=tf.TensorSpec([None, *shape], tf.float32),
        parallel_iterations=1,
    )  # [number, even, *shape]
    return tf.reshape(results, [-1, *shape])[:size]
