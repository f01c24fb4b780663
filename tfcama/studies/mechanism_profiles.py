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
_EVERYTHING = "rotation:60+zoom:0.4+shift:0.5+contrast:0.9+inversion:0.5"
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
_TRANSLATIONS = tuple(case for case in _CASES if case.mechanism == "translation")
_TABLE_CASES = (
    Case("children_shift", 1.0, "location_scale"),
    Case("children_shift", 3.0, "location_scale"),
    Case("children_shift:direction=down", 3.0, "location_scale"),
)


class Profile(NamedTuple):
    """How much of the study is run.

    Attributes:
      kind: of inputs, see InputSpec.
      cama_epochs, dnn_epochs, cnn_epochs: of training; with cnn_epochs=0 there are no CNNs.
      warm_up: steps of dreams before any fine-tuning by a mechanism with parameters.
      sleep, steps: of each such fine-tuning, see FinetuneConfig.
      additive_steps: of Eq. 8 by the papers' mechanism, which does not dream.
      cases: what every model is scored on.
      adapted: so many of the cases are adapted to, each by the mechanism that is meant for it.
      foresighted: for so many of the cases a DNN is trained on the manipulation, with labels.
      augmentation: a DNN and a CNN are trained on all of this, with labels; "" for none.
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
    sleep: int
    steps: int
    additive_steps: int
    cases: tuple[Case, ...]
    adapted: int
    foresighted: int
    augmentation: str
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


_CORE = Profile(
    kind="image",
    cama_epochs=15,
    dnn_epochs=10,
    cnn_epochs=2,
    warm_up=4000,
    sleep=2000,
    steps=0,
    additive_steps=900,
    cases=_CASES,
    adapted=9,
    foresighted=1,
    augmentation=_EVERYTHING,
    additive=1,
    general=8,
    fractions=(0.01,),
    limit=1500,
    cross_limit=300,
    attacked=25,
    attacked_again=0,
)
PROFILES = {
    "full": _CORE._replace(
        dnn_epochs=20,
        cnn_epochs=10,
        sleep=4000,
        foresighted=9,
        limit=None,
        cross_limit=None,
        attacked=500,
        attacked_again=500,
    ),
    "core": _CORE,
    "short": _CORE._replace(adapted=3, general=2, additive_steps=400, fractions=(), attacked=0),
    "translation": _CORE._replace(
        cnn_epochs=0,
        cases=_TRANSLATIONS,
        adapted=len(_TRANSLATIONS),
        foresighted=0,
        augmentation="",
        additive=0,
        general=0,
        fractions=(),
        limit=None,
        attacked=0,
    ),
    "quick": _CORE._replace(
        cama_epochs=1,
        dnn_epochs=1,
        cnn_epochs=1,
        warm_up=50,
        sleep=50,
        additive_steps=50,
        cases=_CASES[:2],
        adapted=2,
        foresighted=2,
        augmentation="",
        general=0,
        fractions=(),
        limit=100,
        cross_limit=100,
        attacked=10,
    ),
    "tables": _CORE._replace(
        kind="table",
        cama_epochs=20,
        dnn_epochs=60,
        cnn_epochs=0,
        steps=400,
        additive_steps=800,
        cases=_TABLE_CASES,
        adapted=3,
        foresighted=3,
        augmentation="",
        additive=3,
        general=0,
        limit=None,
        cross_limit=None,
        attacked=200,
        attacked_again=200,
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
