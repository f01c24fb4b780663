"""`causal_ib`: VIB whose samples are also instruments (CausalIB, section 3.3)."""

from __future__ import annotations

import dataclasses

from tfcama.config import check_at_least
from tfcama.models.vib import Vib, VibConfig


@dataclasses.dataclass(frozen=True)
class CausalIbConfig(VibConfig):
    """CausalIB's choices; see VibConfig for the others.

    Attributes:
      alpha: weight of I(Z; X) in Eq. 11.
      beta: weight of the causal loss in Eq. 11.
      norm: of Eq. 10, a key of NORMS. "smooth_l1" is the authors' code, "l1" their text.
      form: of Eqs. 9 and 10, a key of FORMS. "cross_multiplied" is the authors' code, "ratio"
        their text.
    """

    alpha: float = 0.05
    beta: float = 0.05
    norm: str = "smooth_l1"
    form: str = "cross_multiplied"

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, beta=0, num_samples=2)  # the effects of samples are compared


class CausalIb(Vib):
    """The networks are VIB's; what differs is the training objective, Eq. 11."""

    config: CausalIbConfig
