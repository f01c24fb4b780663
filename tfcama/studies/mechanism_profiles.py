"""What the study of mechanisms runs: manipulations, the mechanism meant for each, and how long."""

from __future__ import annotations

from typing import NamedTuple

from tfcama.specs import with_number


class Case(NamedTuple):
    """A manipulation and the mechanism that is meant for it.

    Attributes:
      manipulation: without its level, or, where level is None, with the levels of its parts.
      level: of it.
      mechanism: see make_mechanism.
    """

    manipulation: str
    level: float | None
    mechanism: str

    @property
    def text(self) -> str:
        """The manipulation with its level."""
        if self.level is None:
            return self.manipulation
        return with_number(self.manipulation, self.level)


GENERAL = "affine+photometric"
_CASES = (
    Case("vertical_shift", 0.5, "translation"),
    Case("rotation", 60.0, "rotation"),
    Case("contrast", 0.9, "photometric"),
    Case("horizontal_shift", 0.5, "translation"),
    Case("shift", 0.5, "translation"),
    Case("vertical_shift", 0.3, "translation"),
    Case("zoom", 0.4, "zoom"),
    Case("inversion", 0.5, "photometric"),
    Case("rotation:30+zoom:0.3+shift:0.15+contrast:0.5", None, GENERAL),
)
_TABLE_CASES = (
    Case("children_shift", 1.0, "location_scale"),
    Case("children_shift", 3.0, "location_scale"),
    Case("children_shift:direction=down", 3.0, "location_scale"),
)


class Profile(NamedTuple):
    """How much of the study is run.

    Attributes:
      kind: of inputs, see InputSpec.
      cama_epochs, dnn_epochs, cnn_epochs: of training; of what has none, there are no models.
      warm_up: steps of dreams before any fine-tuning by a mechanism with parameters.
      steps: of each fine-tuning.
      additive_steps: the same by the papers' mechanism, which does not dream.
      cases: what every model is scored on.
      adapted: so many of the cases are adapted to, each by the mechanism that is meant for it.
      foresighted: for so many of the cases a DNN is trained on the manipulation, with labels.
      additive: so many of the cases are adapted to by the papers' mechanism, too.
      general: so many of them by a mechanism that can do all of it, too, as who does not know
        what happened would.
      fractions: of the test inputs that fine-tuning sees, besides the usual half, for the first
        case, by its own mechanism and by the papers'.
      limit: test images of which the scored ones are taken, on the model's own manipulation and on
        clean images; None for all.
      cross_limit: the same on the other manipulations.
      attacked: test images that are attacked, on models adapted to the first case of every
        mechanism; 0 for no attacks.
      attacked_again: the same of seeds after the first.
    """

    kind: str
    cama_epochs: int
    dnn_epochs: int
    cnn_epochs: int
    warm_up: int
    steps: int
    additive_steps: int
    cases: tuple[Case, ...]
    adapted: int
    foresighted: int
    additive: int
    general: int
    fractions: tuple[float, ...]
    limit: int | None
    cross_limit: int | None
    attacked: int
    attacked_again: int

    @property
    def adapted_cases(self) -> tuple[Case, ...]:
        """What is adapted to."""
        return self.cases[: self.adapted]

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """By which anything is adapted; "" is the trained model's."""
        extra = [""] * bool(self.additive or self.fractions) + [GENERAL] * bool(self.general)
        return tuple(dict.fromkeys([case.mechanism for case in self.adapted_cases] + extra))


PROFILES = {
    "full": Profile(
        "image", 15, 20, 10, 4000, 900, 900, _CASES, 9, 9, 1, 1, (0.01,), None, None, 500, 500
    ),
    "core": Profile(
        "image", 15, 10, 2, 4000, 200, 900, _CASES, 9, 1, 1, 2, (0.01,), 1500, 300, 50, 0
    ),
    "short": Profile("image", 15, 10, 2, 4000, 200, 400, _CASES, 3, 1, 1, 2, (), 1500, 300, 0, 0),
    "quick": Profile("image", 1, 1, 1, 50, 50, 50, _CASES[:2], 2, 2, 1, 0, (), 100, 100, 10, 0),
    "tables": Profile(
        "table", 20, 60, 0, 4000, 800, 800, _TABLE_CASES, 3, 3, 3, 0, (0.01,), None, None, 200, 200
    ),
}

ASKED = {
    "mnist": {
        "vertical_shift:0.5": 0.87,
        "horizontal_shift:0.5": 0.85,
        "shift:0.5": 0.70,
        "vertical_shift:0.3": 0.97,
    }
}
"""By data set: at least this accuracy is asked of a CAMA that was adapted to the manipulation."""
