import dataclasses
import json

import numpy as np
import pytest

from tests.doubles import ROW
from tfcama import provenance
from tfcama.errors import InputError
from tfcama.evaluation import results
from tfcama.workdir import Workdir, write_json


def test_wilson_is_the_formula():
    hits, n, z = 83, 100, 1.959963985
    p = hits / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(results.wilson(hits, n), [centre - half, centre + half], rtol=1e-6)


def test_wilson_stays_in_the_unit_interval_at_the_ends():
    assert results.wilson(0, 10)[0] == 0.0
    assert results.wilson(10, 10)[1] == 1.0


def test_several_draws_are_scored_by_their_mean():
    hits = np.array([[True, True, False, False], [True, False, False, False]])
    row = results.scored(hits, **ROW)
    assert row.n == 4
    assert row.accuracy == pytest.approx(3 / 8)
    assert (row.low, row.high) == results.wilson(3 / 8 * 4, 4)  # of inputs, not of draws
    assert row.low < row.accuracy < row.high
    assert row.draws == 2
    assert row.spread == pytest.approx(0.25 / np.sqrt(2))  # of 2/4 and 1/4
    one = results.scored(hits[0], **ROW)
    assert (one.draws, one.spread) == (1, None)
    assert results.accuracy_text(row) == "accuracy 0.3750 ± 0.1768 over 2 draws"
    assert results.accuracy_text(one) == "accuracy 0.5000"


def test_rows_survive_their_file(tmp_path):
    workdir = Workdir(tmp_path)
    rows = [results.scored(np.array([[True, False], [True, True]]), **ROW)]
    results.save_rows(workdir, "a", rows)
    results.save_rows(workdir, "b", rows)
    results.save_rows(workdir, "a", rows)  # replaces
    assert results.load_rows(workdir) == rows * 2


def test_what_was_asked_otherwise_is_not_done(tmp_path):
    workdir = Workdir(tmp_path)
    asked = {"levels": (0.0, 0.5), "limit": None}
    results.save_rows(workdir, "a", [], asked=asked)
    assert results.has_rows(workdir, "a", asked=asked)
    assert not results.has_rows(workdir, "a", asked={**asked, "limit": 5})
    assert not results.has_rows(workdir, "b", asked=asked)


def test_rows_from_before_it_was_kept_what_was_asked(tmp_path):
    row = results.scored(np.array([True, False]), **ROW)
    workdir = Workdir(tmp_path)
    workdir.results.mkdir()
    old = dataclasses.asdict(row)
    del old["draws"], old["spread"]  # as rows did not have them either
    (workdir.results / "a.rows.json").write_text(json.dumps([old]))
    assert results.load_rows(workdir) == [row]
    assert not results.has_rows(workdir, "a")


def test_no_inputs_have_no_accuracy():
    with pytest.raises(InputError, match="no inputs"):
        results.scored(np.zeros([1, 0], bool), **ROW)


def test_a_file_that_holds_no_rows_is_named(tmp_path):
    workdir = Workdir(tmp_path)
    results.save_rows(workdir, "a", [])
    (workdir.results / "a.rows.json").write_text('[{"accuracy": 1}]')
    with pytest.raises(InputError, match=r"a\.rows\.json holds no rows"):
        results.load_rows(workdir)


def test_rows_and_checkpoints_tell_which_commits_made_them(tmp_path, monkeypatch):
    workdir = Workdir(tmp_path)
    assert results.commits(workdir) == []
    for name, commit in (("a", "b" * 40), ("b", "a" * 40)):
        monkeypatch.setattr(provenance, "commit", lambda commit=commit: commit)
        results.save_rows(workdir, name, [])
    assert results.commits(workdir) == ["a" * 40, "b" * 40]
    write_json(tmp_path / "results" / "old.rows.json", {"asked": {}, "rows": []})
    meta = {"epoch": 1, "score": [0.0, 0.0], "logs": {}, "commit": "c" * 40}
    write_json(tmp_path / "checkpoints" / "00001" / "meta.json", meta)
    assert results.commits(workdir) == ["a" * 40, "b" * 40, "c" * 40]
