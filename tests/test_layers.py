"""Imports go the way of the data, see BUILD.md, Layout."""

import ast
from pathlib import Path

import pytest

import tfcama

ROOT = Path(tfcama.__file__).parent
# What a folder may import besides what lies directly in tfcama/: itself and those before it.
LAYERS = (
    {"data"},
    {"networks"},
    {"models"},
    {"objectives"},
    {"training"},
    {"attacks", "evaluation"},
    {"report"},
    {"serving", "studies"},
)


def imported(path):
    """The folders of tfcama that a file imports from, those of type checkers included."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            folder = rest.partition(".")[0]
            if first == "tfcama" and (ROOT / folder).is_dir():
                yield folder


def test_every_folder_is_a_layer():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set().union(*LAYERS)


@pytest.mark.parametrize(
    ("place", "folder"), [(i, name) for i, layer in enumerate(LAYERS) for name in sorted(layer)]
)
def test_a_folder_imports_itself_and_those_before_it(place, folder):
    allowed = set().union(*LAYERS[: place + 1])
    for path in sorted((ROOT / folder).rglob("*.py")):
        assert set(imported(path)) <= allowed, path


def test_what_lies_at_the_root_imports_no_folder():
    for path in sorted(ROOT.glob("*.py")):
        assert not set(imported(path)), path
