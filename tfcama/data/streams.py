"""Streams of inputs while the world changes: `rotation:60@2000,contrast:0.9@2000,clean@500`."""

from __future__ import annotations

from typing import NamedTuple

from tfcama import specs
from tfcama.data import manipulations
from tfcama.data.base import Dataset, Split
from tfcama.errors import InputError

CLEAN = "clean"


class Segment(NamedTuple):
    """A stretch of a stream in which the world stays as it is.

    Attributes:
      manipulation: `name:level[:key=value…]`, several joined by `+`; "clean" for none.
      size: inputs.
    """

    manipulation: str
    size: int

    @property
    def text(self) -> str:
        """As a flag names it."""
        return f"{self.manipulation}@{self.size}"


def parse(text: str) -> tuple[Segment, ...]:
    """The segments that a flag names: `manipulation@inputs`, one after another, commas between.

    Raises:
      InputError: a segment without its number of inputs, or a manipulation that is none.

    Example:
      >>> parse("vertical_shift:0.4@2000,clean@500")[1]
      Segment(manipulation='clean', size=500)
    """
    return tuple(_parse_one(part.strip()) for part in text.split(","))


def _parse_one(text: str) -> Segment:
    manipulation, sign, number = text.rpartition("@")
    if not sign or not number.isdecimal() or not int(number):
        raise InputError(
            f"'{text}' of the stream was given; manipulation@inputs is needed, as in "
            "'rotation:60@2000' or 'clean@500'."
        )
    if manipulation != CLEAN:
        manipulations.parse(manipulation)
    return Segment(manipulation, int(number))


def manipulated(split: Split, manipulation: str, dataset: Dataset, *, seed: int) -> Split:
    """Rows under a segment's manipulation; as they are where it is "clean"."""
    if manipulation == CLEAN:
        return split
    return manipulations.manipulate(
        split, manipulations.parse(manipulation).fit(dataset), seed=seed
    )


def changes(segments: tuple[Segment, ...]) -> list[int]:
    """The first input of every segment that is not of the kind before it; clean ones come first."""
    found, start, before = [], 0, CLEAN
    for segment in segments:
        if segment.manipulation != before:
            found.append(start)
        start, before = start + segment.size, segment.manipulation
    return found


def name_and_level(manipulation: str) -> tuple[str, float]:
    """A manipulation and its level, as rows of results keep them; several at once are level 1.

    Example:
      >>> name_and_level("rotation:60:mode=fixed")
      ('rotation:mode=fixed', 60.0)
    """
    if manipulation == CLEAN:
        return "", 0.0
    number = specs.parse(manipulation).number if "+" not in manipulation else None
    if number is None:
        return manipulation, 1.0
    return specs.without_number(manipulation), number
