"""MECHANISMS: every manipulation mechanism by name; several are joined, first one first, by `+`."""

from __future__ import annotations

import functools

from tfcama import specs
from tfcama.errors import InputError, unknown_name
from tfcama.models.mechanisms.additive import AdditiveMechanism
from tfcama.models.mechanisms.affine import (
    AffineMechanism,
    RotationMechanism,
    TranslationMechanism,
    WarpMechanism,
    ZoomMechanism,
)
from tfcama.models.mechanisms.base import Context, Mechanism
from tfcama.models.mechanisms.blur_noise import BlurNoiseMechanism
from tfcama.models.mechanisms.composite import CompositeMechanism
from tfcama.models.mechanisms.elastic import ElasticMechanism
from tfcama.models.mechanisms.location_scale import LocationScaleMechanism
from tfcama.models.mechanisms.parametric import ParametricMechanism
from tfcama.models.mechanisms.photometric import PhotometricMechanism
from tfcama.registry import Registry

MECHANISMS: Registry[type[Mechanism]] = Registry(
    "mechanism",
    {
        "additive": AdditiveMechanism,
        "translation": TranslationMechanism,
        "rotation": RotationMechanism,
        "zoom": ZoomMechanism,
        "affine": AffineMechanism,
        "photometric": PhotometricMechanism,
        "blur_noise": BlurNoiseMechanism,
        "elastic": ElasticMechanism,
        "location_scale": LocationScaleMechanism,
    },
)


def make_mechanism(text: str, context: Context) -> Mechanism:
    """The mechanism that a configuration names.

    Args:
      text: `name[:scale=factor]`, several joined by `+`: "zoom+rotation:scale=2+translation". The
        factor multiplies the initial standard deviations of the parameters' priors.
      context: what it is built for.

    Raises:
      InputError: an unknown name or option, a part that is named twice, a scale that is not
        positive, parts that do not fit the inputs or have no inverse together.
    """
    parsed = _parse(text)
    makers = [functools.partial(MECHANISMS[name], part=name, scale=scale) for name, scale in parsed]
    if len(makers) == 1:
        return makers[0](context)
    return CompositeMechanism(context, part="+".join(name for name, _ in parsed), makers=makers)


def check_mechanism(text: str) -> None:
    """Raises InputError where `make_mechanism` would for any inputs."""
    _parse(text)


def has_parameters(text: str) -> bool:
    """Whether any part of a mechanism has numbers that people know."""
    return any(issubclass(MECHANISMS[name], ParametricMechanism) for name, _ in _parse(text))


def only_moves(text: str) -> bool:
    """Whether every part of a mechanism is a warp, which moves intensities and changes none."""
    return all(issubclass(MECHANISMS[name], WarpMechanism) for name, _ in _parse(text))


def is_versatile(text: str) -> bool:
    """Whether a mechanism can do many things: several parts with parameters, or one that can."""
    parts = [MECHANISMS[name] for name, _ in _parse(text)]
    known = [part for part in parts if issubclass(part, ParametricMechanism)]
    return len(known) > 1 or any(part.versatile for part in known)


def _parse(text: str) -> list[tuple[str, float]]:
    parsed = []
    for part in text.split("+"):
        spec = specs.parse(part)
        MECHANISMS[spec.name]  # an unknown name is an error
        if spec.number is not None:
            raise InputError(f"'{part}': a mechanism takes no number; 'scale=...' may follow it.")
        for key in spec.options:
            if key != "scale":
                raise unknown_name(f"option of mechanism {spec.name}", key, ["scale"])
        scale = specs.to_number(spec.options.get("scale", "1"), f"scale of '{part}'")
        if not scale > 0:
            raise InputError(f"'{part}' was given; the scale of a prior must be positive.")
        parsed.append((spec.name, scale))
    names = [name for name, _ in parsed]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"'{text}' names '{name}' twice; every part is named once.")
    return parsed
