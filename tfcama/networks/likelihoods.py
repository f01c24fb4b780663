"""LIKELIHOODS: decoder output to p(x | y, z, m)."""

from __future__ import annotations

import abc
import math

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfcama.errors import InputError
from tfcama.registry import Registry


class Likelihood(abc.ABC):
    """Turns the decoder's last, linear layer into a distribution over images.

    Args:
      scale: standard deviation, for the likelihoods that have one; full scale of a pixel = 1.
    """

    def __init__(self, *, scale: float):
        if scale <= 0:
            raise InputError(f"likelihood_scale={scale:g} was given; it must be positive.")
        self._scale = scale

    @abc.abstractmethod
    def __call__(self, logits: tf.Tensor) -> tfd.Distribution:
        """[..., H, W, channels] -> batch shape [...], event shape [H, W, channels]."""


class _BernoulliPixels(tfd.Bernoulli):
    """tfd.Bernoulli(logits) with half the work in log_prob, for events anywhere in [0, 1]."""

    def _log_prob(self, event):
        # x log s(l) + (1 - x) log s(-l) = x l - softplus(l)
        return event * self.logits - tf.nn.softplus(self.logits)


class BernoulliLikelihood(Likelihood):
    """log p(x|.) = sum_d x_d log s(l_d) + (1 - x_d) log s(-l_d), s the logistic function.

    For grey values between 0 and 1 this is the usual pseudo-likelihood of VAEs on MNIST.
    """

    def __call__(self, logits):
        return tfd.Independent(
            _BernoulliPixels(logits=tf.cast(logits, tf.float32), dtype=tf.float32), 3
        )


class GaussianLikelihood(Likelihood):
    """log p(x|.) = sum_d log N(x_d; s(l_d), scale^2), the scale fixed."""

    def __call__(self, logits):
        loc = tf.sigmoid(tf.cast(logits, tf.float32))
        return tfd.Independent(tfd.Normal(loc, self._scale), 3)


class L2Likelihood(GaussianLikelihood):
    """DeepBayes' l2 (Li et al., 2019): log p(x|.) = -sum_d (x_d - s(l_d))^2 - D/2 log(pi).

    The constant, which Bayes' rule cancels, makes it a density: a Gaussian of variance 1/2.
    """

    def __init__(self, *, scale: float):
        super().__init__(scale=scale)
        self._scale = math.sqrt(0.5)


LIKELIHOODS: Registry[type[Likelihood]] = Registry(
    "likelihood",
    {"bernoulli": BernoulliLikelihood, "gaussian": GaussianLikelihood, "l2": L2Likelihood},
)
