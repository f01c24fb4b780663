"""What every deep CAMA lets its user choose."""

from __future__ import annotations

import dataclasses

from tfcama.config import check_at_least
from tfcama.errors import InputError, unknown_name
from tfcama.models.mechanisms.registry import check_mechanism
from tfcama.networks.initializers import check_initializer

AT_TEST = {"at_test": True}  # decides predictions and no variable: may be set after training


@dataclasses.dataclass(frozen=True)
class CamaBaseConfig:
    """What every deep CAMA chooses.

    Attributes:
      dim_z: size of the style z; 0 takes the papers'.
      dim_m: size of the manipulation m; 0 takes the papers'.
      mechanism: how m acts on x, see make_mechanism: "additive", the papers', "affine", or
        several, "rotation+translation".
      prior_m: "shared" is p(m) = N(0, I); "learned" is N(mu, diag(s^2)) with mu and s fitted by
        fine-tuning to what happened to the unlabelled inputs: do(m = 0) is the identity as before,
        and clean rows keep N(0, I); "class" is p(m|y) with a learned mean and scale a class,
        for manipulations that depend on what they meet. It shares the papers' limits: where clean
        data lack a manipulated class, Y and M cannot be told apart.
      gated: m has no effect, and q(m|x) is p(m), until the M-networks learn otherwise; False is
        the papers' literal form.
      m_samples: samples of m a row at prediction, each with K of z; all are weighted by Eq. 6.
      m_starts: draws from twice the prior that compete with q(m|x)'s mean to be the centre of the
        proposal for m at prediction; 0 keeps q(m|x).
      m_steps: of gradient ascent from the best of them, on log p(x, m) at the mean of z.
      z_steps: of gradient ascent on log p(x, z | y, m), from the mean of q(z|x,y,m), of the
        proposal for z: where m carries a part of x away, q(z|.) is far from the posterior. It is
        for inputs of which more than one class is within three class_margin, each at its best m.
      p_untouched: how likely an input is that nothing manipulated. Prediction then goes by
        p_untouched delta(m) + (1 - p_untouched) p(m), a spike and a slab (Mitchell & Beauchamp,
        1988), so that no q(m|x), however it was adapted, takes what is known of clean inputs away.
        0 is the papers' p(m).
      p_unseen: with a learned or a class's p(m), how likely a manipulation is none of those that
        it was fitted to: prediction goes by (1 - p_unseen) p(m) + p_unseen N(0, I).
      m_at_test: what prediction does with m: "posterior" samples q(m|x) as Eq. 6, "mean" takes
        its mean, "do_m0" intervenes with m = 0.
      num_samples: K of Eq. 6 at prediction.
      class_margin: in nats. Prediction takes one sample of z for every class and m; what that puts
        behind the best by more than this keeps that estimate (of a probability below e^-margin),
        the rest gets its K samples. 0 gives K samples to all.
      kernel_initializer: of every kernel.
      max_decoder_rows: prediction decodes at most so many of its B * C * K rows at once.
    """

    dim_z: int = 0
    dim_m: int = 0
    mechanism: str = "additive"
    prior_m: str = "shared"
    gated: bool = True
    m_samples: int = dataclasses.field(default=1, metadata=AT_TEST)
    m_starts: int = dataclasses.field(default=0, metadata=AT_TEST)
    m_steps: int = dataclasses.field(default=0, metadata=AT_TEST)
    z_steps: int = dataclasses.field(default=0, metadata=AT_TEST)
    p_untouched: float = dataclasses.field(default=0.0, metadata=AT_TEST)
    p_unseen: float = dataclasses.field(default=0.01, metadata=AT_TEST)
    m_at_test: str = dataclasses.field(default="posterior", metadata=AT_TEST)
    num_samples: int = dataclasses.field(default=10, metadata=AT_TEST)
    class_margin: float = dataclasses.field(default=30.0, metadata=AT_TEST)
    kernel_initializer: str = "he_normal"
    max_decoder_rows: int = dataclasses.field(default=2048, metadata=AT_TEST)

    def __post_init__(self):
        check_at_least(self, dim_z=0, dim_m=0, m_starts=0, m_steps=0, z_steps=0, class_margin=0)
        check_at_least(self, num_samples=1, m_samples=1, max_decoder_rows=1)
        for name in ("p_untouched", "p_unseen"):
            given = getattr(self, name)
            if not 0.0 <= given < 1.0:
                raise InputError(f"{name}={given:g} was given; it must be in [0, 1).")
        for name, allowed in (("m_at_test", _M_AT_TEST), ("prior_m", PRIORS)):
            if getattr(self, name) not in allowed:
                raise unknown_name(name, getattr(self, name), allowed)
        check_mechanism(self.mechanism)
        check_initializer(self.kernel_initializer)


_M_AT_TEST = ("posterior", "mean", "do_m0")
STANDARD, LEARNED, BY_CLASS = "shared", "learned", "class"
PRIORS = (STANDARD, LEARNED, BY_CLASS)
