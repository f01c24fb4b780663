"""`name[:number][:key=value…]`: how flags name a manipulation or an attack with its options."""

from __future__ import annotations

import dataclasses
import math
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from tfcama.errors import InputError, unknown_name

T = TypeVar("T")

_MEANING = "%+:=,"  # of a specification, of several, and of a list of them


class Spec(NamedTuple):
    """A parsed name.

    Attributes:
      text: as given.
      name: before the first colon.
      number: the part without `=` after it, if there is one.
      options: the `key=value` parts.
    """

    text: str
    name: str
    number: float | None
    options: dict[str, str]


def parse(text: str) -> Spec:
    """Splits a specification; meaning is for the caller to check.

    Raises:
      InputError: a number that is none, or an option without a value.

    Example:
      >>> parse("vertical_shift:0.5:fill=wrap").options
      {'fill': 'wrap'}
    """
    name, *rest = text.strip().split(":")
    number = None
    if rest and "=" not in rest[0]:
        number = to_number(rest.pop(0), f"the part after '{name}:'")
    options = {}
    for option in rest:
        key, sign, value = option.partition("=")
        if not sign or not value:
            raise InputError(f"'{option}' of '{text}' must be key=value.")
        if key in options:
            raise InputError(f"'{text}' gives {key} twice; give it once.")
        options[key] = value
    return Spec(text, name, number, options)


def escaped(name: str) -> str:
    """A name as the value of an option: what has a meaning in a specification as in an URL.

    Example:
      >>> escaped("Na+ in mmol")
      'Na%2B in mmol'
    """
    return "".join(urllib.parse.quote(c, safe="") if c in _MEANING else c for c in name)


def unescaped(text: str) -> str:
    """What `escaped` made it from."""
    return urllib.parse.unquote(text)


def with_number(text: str, number: float) -> str:
    """The specification with this number, whatever it had before; every part of `a+b`.

    Example:
      >>> with_number("children_shift:direction=down", 2.0)
      'children_shift:2:direction=down'
    """
    return "+".join(_put_number(part, f":{number:g}") for part in text.split("+"))


def without_number(text: str) -> str:
    """The specification without its number; every part of `a+b`.

    Example:
      >>> without_number("children_shift:2:direction=down")
      'children_shift:direction=down'
    """
    return "+".join(_put_number(part, "") for part in text.split("+"))


def _put_number(text: str, number: str) -> str:
    spec = parse(text)
    return spec.name + number + "".join(f":{key}={value}" for key, value in spec.options.items())


def typed_options(spec: Spec, family: type, *, reserved: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options as the fields of the dataclass `family` want them.

    Args:
      spec: see `parse`.
      family: a dataclass whose fields have defaults.
      reserved: fields that are not options.

    Raises:
      InputError: an unknown option, or a value that is no number where one is needed.
    """
    fields = {f.name: f for f in dataclasses.fields(family) if f.name not in reserved}
    options: dict[str, Any] = {}
    for key, value in spec.options.items():
        if key not in fields:
            raise unknown_name(f"option of {spec.name}", key, fields or ["(it has none)"])
        default = fields[key].default
        if isinstance(default, bool) or not isinstance(default, (int, float)):
            options[key] = unescaped(value)
        else:
            number = to_number(value, f"'{key}' of '{spec.text}'")
            if isinstance(default, int) and number != int(number):
                raise InputError(f"'{key}' of '{spec.text}' must be a whole number.")
            options[key] = type(default)(number)
    return options


def make(
    text: str, families: Mapping[str, type[T]], *given: Any, reserved: tuple[str, ...] = ()
) -> T:
    """The dataclass of `families` that `name[:key=value…]` names, with these options.

    Args:
      text: the specification; a number has no meaning in it.
      families: dataclasses by name.
      *given: positional arguments of the dataclass, before the options.
      reserved: fields that are not options, such as those that are given.

    Raises:
      InputError: an unknown name or option, a number, or a value out of range.
    """
    spec = parse(text)
    family = families[spec.name]
    if spec.number is not None:
        raise InputError(f"'{text}' was given; {spec.name} takes options alone, as key=value.")
    return family(*given, **typed_options(spec, family, reserved=reserved))


def has_number(text: str) -> bool:
    """Whether a specification has its number, or, of several joined by `+`, one of them."""
    return any(parse(part).number is not None for part in text.split("+"))


def to_number(text: str, what: str) -> float:
    """A finite float, or InputError with a sentence."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{what} must be a number; '{text}' was given.")
    return value


def parse_range(text: str, *, flag: str) -> list[float]:
    """`start:stop:step`, stop included, or numbers with commas between.

    Example:
      >>> parse_range("0:0.3:0.1", flag="--levels")
      [0.0, 0.1, 0.2, 0.3]
    """
    if ":" not in text:
        return [to_number(part, f"every value of {flag}") for part in text.split(",")]
    parts = [to_number(part, f"every value of {flag}") for part in text.split(":")]
    if len(parts) != 3 or parts[2] <= 0 or parts[1] < parts[0]:
        raise InputError(f"{flag}={text} was given; start:stop:step with step > 0 is needed.")
    start, stop, step = parts
    count = int((stop - start) / step + 1e-9) + 1
    return [round(start + place * step, 10) for place in range(count)]
