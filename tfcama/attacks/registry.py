"""ATTACKS: every attack by name."""

from __future__ import annotations

from tfcama import specs
from tfcama.attacks.base import Attack
from tfcama.attacks.cleverhans_attacks import FastGradientSign, ProjectedGradientDescent
from tfcama.attacks.expectation_pgd import ExpectationPgd
from tfcama.attacks.random_noise import RandomNoise
from tfcama.attacks.square import Square
from tfcama.registry import Registry

ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    {
        "fgsm": FastGradientSign,
        "pgd": ProjectedGradientDescent,
        "pgd_eot": ExpectationPgd,
        "square": Square,
        "noise": RandomNoise,
    },
)


def parse(text: str, *, eps: float) -> Attack:
    """The attack that a flag names: `name[:key=value…]`, at radius eps.

    Raises:
      InputError: an unknown name or option, or a value out of range.

    Example:
      >>> parse("pgd:steps=20", eps=0.1).steps
      20
    """
    return specs.make(text, ATTACKS, eps, reserved=("eps",))
