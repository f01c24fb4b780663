"""The web page of the local server, for people, and what it has to know of the models."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from tfcama.errors import InputError
from tfcama.serving import description
from tfcama.serving.errors import ServingError
from tfcama.serving.server.manager import ModelManager, VersionStatus
from tfcama.serving.server.page import Page

_State = get_model_status_pb2.ModelVersionStatus.State
_TOLD = ("input", "class_names", "dataset", "clean", "manipulation")  # of tfcama.json


def pages(manager: ModelManager) -> Mapping[str, Callable[[], Page]]:
    """The pages by path: `/`, and `/models.json`, which it reads again and again."""
    return {
        "/": _page,
        "/models.json": lambda: Page(
            "application/json", json.dumps({"models": models(manager)}).encode()
        ),
    }


def models(manager: ModelManager) -> list[dict[str, Any]]:
    """Every model with its labels and versions, highest first.

    A version has its number, state, error (a sentence or null) and `description`: what its
    tfcama.json says, if it can be asked and has one.
    """
    return [
        {
            "name": name,
            "labels": manager.labels(name),
            "versions": [_version(manager, name, status) for status in _statuses(manager, name)],
        }
        for name in sorted(manager.names())
    ]


@functools.cache
def _page() -> Page:
    content = resources.files(__package__).joinpath("page.html").read_bytes()
    return Page("text/html; charset=utf-8", content)


def _statuses(manager: ModelManager, name: str) -> list[VersionStatus]:
    try:
        return manager.status(model_pb2.ModelSpec(name=name))
    except ServingError:  # it has no versions yet, or is gone since
        return []


def _version(manager: ModelManager, name: str, status: VersionStatus) -> dict[str, Any]:
    return {
        "version": status.number,
        "state": _State.Name(status.state),
        "error": None if status.error is None else status.error.sentence,
        "description": _described(manager, name, status.number),
    }


def _described(manager: ModelManager, name: str, number: int) -> dict[str, Any] | None:
    spec = model_pb2.ModelSpec(name=name)
    spec.version.value = number
    try:
        with manager.version(spec) as version:
            found = description.read(version.path)
    except (ServingError, InputError):  # it cannot be asked, or not read
        return None
    if found is None or not {"input", "class_names"} <= found.keys():
        return None
    adapted = (found.get("config") or {}).get("finetuned")
    return {
        **{key: found.get(key) for key in _TOLD},
        "signatures": sorted(found.get("signatures") or ()),
        "adapted": adapted and {key: adapted[key] for key in ("subject", "mechanism")},
    }
