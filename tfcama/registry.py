"""Name -> thing tables. One registry line makes a model, data set, manipulation or attack known."""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from tfcama.errors import unknown_name

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping whose KeyError is a sentence with the nearest valid name.

    Example:
      >>> colours = Registry("colour", {"red": 1, "green": 2})
      >>> colours["red"]
      1
      >>> colours["gren"]
      Traceback (most recent call last):
      ...
      tfcama.errors.InputError: unknown colour 'gren'; did you mean 'green'? Valid names: green, red
    """

    def __init__(self, kind: str, entries: Mapping[str, T]):
        self._kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise unknown_name(self._kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
