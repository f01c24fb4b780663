"""What the REST port offers beside the API."""

from __future__ import annotations

from typing import NamedTuple


class Page(NamedTuple):
    """A body and its type."""

    content_type: str
    content: bytes
