"""ATTACKS: every attack by name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tfcama import specs
from tfcama.attacks.base import Attack
from tfcama.attacks.carlini_wagner import CarliniWagner
from tfcama.attacks.cleverhans_attacks import FastGradientSign, ProjectedGradientDescent
from tfcama.attacks.expectation_pgd import ExpectationPgd
from tfcama.attacks.random_noise import RandomNoise
from tfcama.attacks.spsa import Spsa
from tfcama.attacks.square import Square
from tfcama.registry import Registry

ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    {
        "fgsm": FastGradientSign,
        "pgd": ProjectedGradientDescent,
        "cw": CarliniWagner,
        "pgd_eot": ExpectationPgd,
        "square": Square,
        "spsa": Spsa,
        "noise": RandomNoise,
    },
)

# What the strong protocol attacks with; the worst of them, input by input, is its number.
STRONG = (
    "pgd_eot:steps=100:draws=20:restarts=10",
    "pgd_eot:steps=100:draws=20:restarts=10:loss=margin",
    "pgd_eot:steps=100:draws=20:restarts=10:loss=cross_entropy:of=samples",
    "square:queries=1000",
    "spsa",
)


def chosen(texts: Sequence[str]) -> list[str]:
    """The attacks that a flag lists, each once; `strong` is all of STRONG.

    Example:
      >>> chosen(["fgsm", "pgd", "fgsm"])
      ['fgsm', 'pgd']
    """
    asked = [STRONG if text == "strong" else (text,) for text in texts]
    return list(dict.fromkeys(itertools.chain.from_iterable(asked)))


def parse(text: str, *, eps: float) -> Attack:
    """The attack that a flag names: `name[:key=value…]`, at radius eps.

    Raises:
      InputError: an unknown name or option, or a value out of range.

    Example:
      >>> parse("pgd:steps=20", eps=0.1).steps
      20
    """
    return specs.make(text, ATTACKS, eps, reserved=("eps",))
