import dataclasses

import pytest

from tfcama import specs
from tfcama.errors import InputError


@dataclasses.dataclass(frozen=True)
class Family:
    level: float = 0.0
    count: int = 3
    rate: float = 0.5
    mode: str = "a"


def test_parse_splits_name_number_and_options():
    spec = specs.parse("shift:0.5:mode=b:count=4")
    assert (spec.name, spec.number) == ("shift", 0.5)
    assert specs.typed_options(spec, Family, reserved=("level",)) == {"mode": "b", "count": 4}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("shift:fast", "must be a number; 'fast' was given"),
        ("shift:0.5:mode", "must be key=value"),
        ("shift:0.5:mode=a:mode=b", "gives mode twice; give it once"),
    ],
)
def test_malformed_specs_are_one_clear_sentence(text, sentence):
    with pytest.raises(InputError, match=sentence):
        specs.parse(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("shift:0.5:mod=b", "did you mean 'mode'"),
        ("shift:0.5:count=1.5", "must be a whole number"),
        ("shift:0.5:rate=x", "must be a number"),
        ("shift:0.5:level=1", "unknown option of shift 'level'"),
    ],
)
def test_bad_options_are_one_clear_sentence(text, sentence):
    with pytest.raises(InputError, match=sentence):
        specs.typed_options(specs.parse(text), Family, reserved=("level",))


def test_names_with_signs_survive_a_specification():
    for name in ("Na+", "a:b", "50%", "x=1,2", "%2B", "plain name"):
        spec = specs.parse(f"shift:0.5:mode={specs.escaped(name)}")
        assert specs.typed_options(spec, Family, reserved=("level",)) == {"mode": name}
        assert specs.parse(specs.with_number(spec.text, 2.0)).options == spec.options


def test_ranges_include_their_end_without_rounding_errors():
    assert specs.parse_range("0:0.9:0.1", flag="--levels") == [round(0.1 * i, 1) for i in range(10)]
    assert specs.parse_range("0,0.25", flag="--levels") == [0.0, 0.25]
    for text in ("0:1", "1:0:0.1", "0:1:0", "0:1:-1", "0,x"):
        with pytest.raises(InputError, match="--levels"):
            specs.parse_range(text, flag="--levels")
