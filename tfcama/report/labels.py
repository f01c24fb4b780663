"""What models, manipulations and attacks are called in pictures and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from tfcama import specs
from tfcama.attacks.registry import ATTACKS
from tfcama.ball import L2, LINF
from tfcama.evaluation.results import Row
from tfcama.training.config import DREAMS, THEN
from tfcama.types import InputSpec

_MODELS = {
    "cama": "CAMA",
    "measurement_cama": "CAMA",
    "measurement_dnn": "DNN",
    "bayes": "Bayes classifier (knows the world)",
    "dnn": "DNN",
    "dnn_large": "large DNN",
    "cnn": "CNN",
    "cnn_bn": "CNN with batch norm",
    "stn_cnn": "spatial-transformer CNN",
    "cnn_binary": "CNN",
    "classifier": "plain net",
    "vib": "VIB",
    "causal_ib": "CausalIB",
    "ciiv": "CiiV",
}
_ATTACK_NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "cw": "C&W",
    "pgd_eot": "PGD with EOT",
    "square": "Square attack",
    "spsa": "SPSA",
    "noise": "random noise",
}
WORST = "worst of "  # several attacks, input by input
STATIC_CLEAN = "attack_static_clean"  # clean inputs, after fine-tuning on attacked ones
ADAPTIVE_CLEAN = "attack_adaptive_clean"  # the same, of an attacker who re-runs the adaptation
MATCHED_CLEAN = "matched_clean"  # clean inputs, after fine-tuning on manipulated ones
CLEAN = (STATIC_CLEAN, ADAPTIVE_CLEAN, MATCHED_CLEAN)
# Every point was fine-tuned at its own level or eps:
_MATCHED = {
    "matched": "range",
    "matched_held_out": "range",
    MATCHED_CLEAN: "range",
    "attack_static": "eps",
    STATIC_CLEAN: "eps",
}
_EPS = " eps "
# What an attack made, in the words of studies/attacked_adaptation.py.
_ATTACKED = re.compile(
    rf"(?P<share>[\d.]+ of )?(?P<attack>({'|'.join(_ATTACK_NAMES)})\b.*?){_EPS}(?P<rest>.*)"
)
_HELD_OUT = "_held_out"
_FRACTION = "fraction_"
_HOW = {"attack_adaptive": "what it adapted to", "stream_as_it_came": "as it came"}
_NORMS = {LINF: "max norm", L2: "Euclidean norm"}
_RADII = {"image": "full scale = 1", "table": "training standard deviations"}
_VARIANTS = {"coparent_features=quadratic": "quadratic NNpC"}


class Line(NamedTuple):
    """Which curve a row belongs to.

    Attributes:
      model, trained_on, finetuned_on, variant: as in Row; without its level where `matched`.
      matched: what every point was fine-tuned at its own value of, "range" or "eps"; else "".
      held_out: scored on the images that fine-tuning did not see.
      clean: of an attack, scored on the clean images.
      how: what else tells rows of one model apart, a share of the inputs for example; "" for none.
    """

    model: str
    trained_on: str
    finetuned_on: str
    matched: str
    held_out: bool
    clean: bool
    variant: str = ""
    how: str = ""

    @property
    def label(self) -> str:
        text = model_name(self.model)
        if self.variant:
            text += f" ({variant_name(self.variant)})"
        if self.trained_on != "clean":
            text += f" trained on {manipulation_name(self.trained_on.removeprefix('clean+'))}"
        if self.finetuned_on:
            text += f", {adaptation_name(self.finetuned_on)}"
        if self.matched:
            text += f" of each {self.matched}"
        if self.how:
            text += f", {self.how}"
        if self.clean:
            text += " (clean inputs)"
        return text + (" (unseen inputs)" if self.held_out else "")


def line_of(row: Row) -> Line:
    """The curve of a row."""
    matched = _MATCHED.get(row.experiment, "")
    finetuned_on = row.finetuned_on
    if matched == "range":
        finetuned_on = specs.without_number(finetuned_on)
    elif matched == "eps":
        finetuned_on = finetuned_on.split(_EPS)[0] + _EPS  # every point has its own
    return Line(
        model=row.model,
        trained_on=row.trained_on,
        finetuned_on=finetuned_on,
        matched=matched,
        held_out=row.experiment.endswith(_HELD_OUT),
        clean=row.experiment in CLEAN,
        variant=row.variant,
        how=_how(row.experiment.removesuffix(_HELD_OUT)),
    )


def share_of(experiment: str) -> float | None:
    """Of the inputs, that fine-tuning saw; None where it was the usual one, or there was none."""
    if not experiment.startswith(_FRACTION):
        return None
    return float(experiment.removeprefix(_FRACTION).removesuffix(_HELD_OUT))


def _how(experiment: str) -> str:
    share = share_of(experiment)
    return _HOW.get(experiment, "") if share is None else f"{100 * share:g} % of inputs"


def model_name(name: str) -> str:
    """For example CAMA, of "cama"."""
    return _MODELS.get(name, name)


def attack_name(text: str) -> str:
    """For example PGD (steps=20) from DNN, of "pgd:steps=20 from dnn"; or worst of FGSM, PGD."""
    attack, _, source = text.partition(" from ")
    model, bracket, rest = source.partition(" (")
    source = model_name(model) + bracket + rest
    if attack.startswith(WORST):
        names = attack.removeprefix(WORST).split("+")
        shown = WORST + ", ".join(_ATTACK_NAMES.get(name, name) for name in names)
        return shown + (f", from {source}" if source else "")
    name, _, options = attack.partition(":")
    shown = _ATTACK_NAMES.get(name, name) + (f" ({options.replace(':', ', ')})" if options else "")
    return shown + (f" from {source}" if source else "")


def worst_of(attacks: Iterable[str]) -> str:
    """What rows call the worst of several attacks, each of which is named once."""
    return WORST + "+".join(dict.fromkeys(attack.partition(":")[0] for attack in attacks))


def norm_name(attack: str) -> str:
    """In which norm a row's attack has its radius: "max norm", "Euclidean norm"."""
    name = re.split("[: ]", attack)[0]
    return _NORMS[ATTACKS[name].norm if name in ATTACKS else LINF]


def eps_label(spec: InputSpec, attack: str = "") -> str:
    """What the radius of a row's attack is measured in."""
    return f"eps ({norm_name(attack)}, {_RADII[spec.kind]})"


def manipulation_name(text: str) -> str:
    """For example vertical shift 0.5 and rotation 30, of "vertical_shift:0.5+rotation:30"."""
    parts = [part.replace("direction=", "").replace("column=", "of ") for part in text.split("+")]
    shown = " and ".join(part.replace("_", " ").replace(":", " ") for part in parts)
    return specs.unescaped(shown)


def adaptation_name(finetuned_on: str) -> str:
    """For example "fine-tuned on rotation 60", of "rotation:60".

    Of several one after the other. What an attack made keeps the attack's name: "fine-tuned on
    FGSM eps 0.1", of "fgsm eps 0.1".
    """
    if finetuned_on == DREAMS:
        return "dreams alone"
    return f"fine-tuned on {THEN.join(map(_subject_name, finetuned_on.split(THEN)))}"


def _subject_name(text: str) -> str:
    """Of a manipulation, or of what an attack made, with its radius or without."""
    attacked = _ATTACKED.fullmatch(text)
    if attacked is None:
        return manipulation_name(text)
    rest = attacked["rest"]
    radius = f"{_EPS}{rest}" if rest else ""
    return f"{attacked['share'] or ''}{attack_name(attacked['attack'])}{radius}"


def variant_name(text: str) -> str:
    """For example quadratic NNpC, of "coparent_features=quadratic"."""
    plain = str.maketrans("_:", "  ")
    parts = [_VARIANTS.get(part, part.translate(plain)) for part in text.split(", ")]
    children = [part for part in parts if part.endswith("declared coparent")]
    if len(children) > 3:
        parts = [part for part in parts if part not in children]
        parts.append(f"{len(children)} children declared co-parents")
    return ", ".join(parts)
