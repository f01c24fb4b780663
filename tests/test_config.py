import dataclasses

import pytest

from tfcama import config as config_lib
from tfcama.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 3
    rate: float = 0.5
    names: tuple[str, ...] = ("a",)
    flag: bool = False
    shared: int = 1


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    shared: int = 2
    text: str = "t"
    maybe: float | None = None
    hidden: int = dataclasses.field(default=0, metadata={"settable": False})


def test_json_round_trip():
    config = Outer(inner=Inner(size=5, names=("x", "y")), maybe=1.5)
    value = config_lib.to_json(config)
    value["inner"]["names"] = list(value["inner"]["names"])  # as JSON has it
    assert config_lib.from_json(Outer, value) == config


def test_override_reaches_every_section_and_type():
    changed = config_lib.override(
        Outer(), ["size=7", "rate=2", "flag=true", "names=p,q", "maybe=0.1", "inner.shared=9"]
    )
    assert changed.inner == Inner(size=7, rate=2.0, flag=True, names=("p", "q"), shared=9)
    assert changed.maybe == 0.1
    assert config_lib.override(changed, ["maybe=none"]).maybe is None


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("siz=7", "did you mean 'inner.size'"),
        ("size", "takes key=value"),
        ("size=seven", "size must be int; 'seven' was given"),
        ("flag=1", "true or false"),
        ("hidden=1", "unknown configuration key 'hidden'"),
    ],
)
def test_bad_assignments_are_one_clear_sentence(assignment, sentence):
    with pytest.raises(InputError, match=sentence):
        config_lib.override(Outer(), [assignment])


@dataclasses.dataclass(frozen=True)
class Twice:
    first: Inner = Inner()
    second: Inner = Inner()


def test_a_bare_key_means_the_outermost_field():
    assert config_lib.override(Outer(), ["shared=5"]) == Outer(shared=5)


def test_a_key_of_two_sections_needs_its_section():
    with pytest.raises(InputError, match=r"ambiguous; it may be first\.size or second\.size"):
        config_lib.override(Twice(), ["size=5"])
    assert config_lib.override(Twice(), ["second.size=5"]).second.size == 5


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"txt": "t"}, "unknown key of config 'txt'; did you mean 'text'"),
        ({"inner": {"size": "3"}}, "inner.size must be int"),
        ({"inner": {"size": True}}, "inner.size must be int"),
    ],
)
def test_json_of_another_shape_is_refused(value, sentence):
    with pytest.raises(InputError, match=sentence):
        config_lib.from_json(Outer, value)


def test_differences_name_every_changed_key():
    before, after = config_lib.to_json(Outer()), config_lib.to_json(Outer(inner=Inner(size=4)))
    assert config_lib.differences(before, after) == ["inner.size: 3 -> 4"]
    assert config_lib.differences(before, before) == []


@dataclasses.dataclass(frozen=True)
class Paired:
    low: int = 0
    high: int = 1

    def __post_init__(self):
        if self.low >= self.high:
            raise InputError(f"low={self.low} and high={self.high} were given")


def test_assignments_are_checked_together_and_win_over_changes():
    assert config_lib.override(Paired(), ["low=5", "high=7"]) == Paired(5, 7)
    assert config_lib.override(Paired(), ["high=7"], low=5) == Paired(5, 7)
    assert config_lib.override(Paired(), ["low=5", "low=4"], low=9, high=7) == Paired(4, 7)
    with pytest.raises(InputError, match="low=5 and high=1"):
        config_lib.override(Paired(), ["low=5"])


def test_a_long_value_is_cut_in_differences():
    (line,) = config_lib.differences({"spec": "a" * 9_000}, {"spec": "b" * 9_000})
    assert len(line) < 500
