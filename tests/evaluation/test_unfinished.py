import numpy as np
import pytest

from tfcama import provenance
from tfcama.evaluation import unfinished
from tfcama.workdir import Workdir


def make_and_die(workdir, *, asked, keys):
    with unfinished.kept(workdir, "scores", asked=asked) as keep:
        for number, key in enumerate(keys):
            keep(key, lambda number=number: np.full([3], number))
        raise KeyboardInterrupt


def interrupted(workdir, **what):
    """What is made, by key, until the process is killed."""
    with pytest.raises(KeyboardInterrupt):
        make_and_die(workdir, **what)


def test_what_was_made_before_a_kill_is_not_made_again(tmp_path):
    workdir = Workdir(tmp_path)
    interrupted(workdir, asked={"limit": 3}, keys=["a", "b"])
    with unfinished.kept(workdir, "scores", asked={"limit": 3}) as keep:
        found = keep("b", lambda: pytest.fail("made again"))
        np.testing.assert_array_equal(found, [1, 1, 1])
        np.testing.assert_array_equal(keep("c", lambda: np.zeros([2], bool)), [False, False])
    with unfinished.kept(workdir, "scores", asked={"limit": 3}) as keep:
        assert keep("b", lambda: np.array(7)) == 7  # it was done
        assert keep("a", lambda: pytest.fail("made again"))[0] == 0  # nobody had asked for it
    assert not list(workdir.results.iterdir())


def test_a_key_may_be_any_text(tmp_path):
    keys = ["pgd:steps=20 from ../dnn", "pgd:steps=2"]
    interrupted(Workdir(tmp_path), asked={}, keys=keys)
    with unfinished.kept(Workdir(tmp_path), "scores", asked={}) as keep:
        assert [keep(key, lambda: np.array([7]))[0] for key in keys] == [0, 1]


@pytest.mark.parametrize("other", ["question", "sources", "file"])
def test_what_was_made_otherwise_is_dropped(tmp_path, monkeypatch, other):
    workdir = Workdir(tmp_path)
    interrupted(workdir, asked={"limit": 3}, keys=["a"])
    if other == "sources":
        monkeypatch.setattr(provenance, "commit", lambda: "another")
    elif other == "file":
        (workdir.results / "scores.unfinished" / "asked.json").write_text("{")
    limit = 4 if other == "question" else 3
    with unfinished.kept(workdir, "scores", asked={"limit": limit}) as keep:
        assert keep("a", lambda: np.array(7)) == 7
