"""Frozen dataclasses to JSON and back, and `--set key=value`.

A configuration is a dataclass of numbers, strings, flags and further dataclasses (sections).
Nothing is converted silently: a value of the wrong type or an unknown key is an InputError.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from tfcama.errors import InputError, unknown_name

T = TypeVar("T")

_LONGEST = 200  # characters of a value in a sentence


def to_json(config: Any) -> dict[str, Any]:
    """A nested dict of JSON values."""
    return dataclasses.asdict(config)


def from_json(cls: type[T], value: dict[str, Any], *, where: str = "config") -> T:
    """The dataclass that `to_json` wrote.

    Raises:
      InputError: an unknown key, or a value of the wrong type.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a mapping; {_short(value)} was given.")
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments = {}
    for key, item in value.items():
        if key not in known:
            raise unknown_name(f"key of {where}", key, known)
        if dataclasses.is_dataclass(hints[key]):
            arguments[key] = from_json(hints[key], item, where=key)
        else:
            arguments[key] = _checked(item, hints[key], f"{where}.{key}")
    return cls(**arguments)


def override(config: T, assignments: Iterable[str], **changes: Any) -> T:
    """The configuration with `key=value` assignments made, all at once.

    A key is a field of any section, with its section in front where two sections share the name:
    `dim_z=32`, `training.batch_size=64`. Fields with metadata {"settable": False} are no keys.

    Args:
      config: a dataclass.
      assignments: the last of several to one key counts.
      **changes: fields of `config` itself, unless an assignment is to the same.

    Raises:
      InputError: no `=`, an unknown or ambiguous key, a value that cannot be its type, or values
        that do not go together.
    """
    paths, given = _paths(config), dict[str, str]()
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign:
            raise InputError(f"--set takes key=value; '{text}' was given.")
        matches = [path for path in paths if path == key or path.split(".")[-1] == key]
        if key in matches:
            matches = [key]
        if not matches:
            raise unknown_name("configuration key", key, paths)
        if len(matches) > 1:
            raise InputError(f"key '{key}' is ambiguous; it may be {' or '.join(matches)}.")
        given[matches[0]] = value
    return _assign(config, given, changes)


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two JSON configurations, as `key: before -> after` lines."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {_short(old)} -> {_short(new)}")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _paths(config: Any, prefix: str = "") -> list[str]:
    paths = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not field.metadata.get("settable", True):
            continue
        if dataclasses.is_dataclass(value):
            paths += _paths(value, f"{prefix}{field.name}.")
        else:
            paths.append(prefix + field.name)
    return paths


def _assign(config: T, given: Mapping[str, str], changes: Mapping[str, Any]) -> T:
    """With the fields at these paths parsed from text, and others as they are in `changes`."""
    hints = typing.get_type_hints(type(config))
    own = dict(changes)
    for path, text in given.items():
        name, _, rest = path.partition(".")
        if not rest:
            own[name] = _parsed(text, hints[name], name)
    for name in dict.fromkeys(path.partition(".")[0] for path in given if "." in path):
        prefix = f"{name}."
        inner = {p.removeprefix(prefix): t for p, t in given.items() if p.startswith(prefix)}
        own[name] = _assign(own.get(name, getattr(config, name)), inner, {})
    return dataclasses.replace(config, **own)  # type: ignore[type-var]


def _plain_type(hint: Any) -> tuple[type, bool]:
    """The type without `| None`, and whether None is allowed."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(hint) if m is not type(None)]
        return members[0], True
    return hint, False


def _checked(value: Any, hint: Any, where: str) -> Any:
    plain, optional = _plain_type(hint)
    if plain is Any or (value is None and optional):
        return value
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(plain) is tuple and isinstance(value, (list, tuple)):
        return tuple(value)
    if plain is float and isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} must be a finite number; {value!r} was given.")
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise InputError(f"{where} must be {plain.__name__}; {value!r} was given.")
    return value


def _parsed(text: str, hint: Any, name: str) -> Any:
    plain, optional = _plain_type(hint)
    if optional and text.lower() in ("none", ""):
        return None
    if plain is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name} must be true or false; '{text}' was given.")
        return text.lower() == "true"
    if typing.get_origin(plain) is tuple:
        return tuple(text.split(","))
    try:
        value = plain(text)
    except ValueError:
        raise InputError(f"{name} must be {plain.__name__}; '{text}' was given.") from None
    return _checked(value, hint, name)


def check_at_least(config: Any, **minima: float) -> None:
    """Refuses fields below their minima with a sentence."""
    for name, minimum in minima.items():
        value = getattr(config, name)
        if not value >= minimum:
            raise InputError(f"{name}={value:g} was given; it must be at least {minimum:g}.")


def check_fraction(config: Any, *names: str) -> None:
    """Refuses fields outside [0, 1] with a sentence."""
    for name in names:
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise InputError(f"{name}={getattr(config, name):g} was given; it must be in [0, 1].")


def check_positive(config: Any, *names: str) -> None:
    """Refuses fields that are not above zero with a sentence."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{name}={getattr(config, name):g} was given; it must be positive.")
