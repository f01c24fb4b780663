import dataclasses
import functools
import io
import multiprocessing
import os
import pickle
import signal
import time

import pytest
from rich.console import Console

from tfcama.errors import InputError
from tfcama.models.causal_ib import CausalIbConfig
from tfcama.studies import causal_ib, sweep
from tfcama.studies.causal_ib import CausalIbStudy
from tfcama.studies.side_by_side import Piece, run_side_by_side
from tfcama.studies.study import Study
from tfcama.studies.sweep import Sweep
from tfcama.training.config import RunConfig, TrainingConfig


class NotingStudy(Study):
    """Its profile names its pieces, "b<a" is b after a; a piece notes who did it."""

    title = "notes"

    def pieces(self, seed):
        split = [name.partition("<")[::2] for name in self.profile]
        return {
            name: Piece(functools.partial(self.note, name, after, seed), (after,) if after else ())
            for name, after in split
        }

    def note(self, name, after, seed):
        print(f"{name} of seed {seed}")
        if name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "orphan":
            while True:
                with (self.root / "alive").open("a") as file:
                    file.write(".")
                time.sleep(0.05)
        if name == "bad":
            raise InputError("a bad piece was given.")
        assert not after or (self.root / f"{after}_{seed}").exists()
        threads = os.environ["TF_NUM_INTRAOP_THREADS"]
        (self.root / f"{name}_{seed}").write_text(f"{os.getpid()} {threads}")

    @property
    def repeated(self):
        return dataclasses.replace(self, profile=self.profile[:1])

    def pictures(self, rows, workdirs, *, chance):
        return []

    def checks(self, rows, workdirs):
        return {}


def noting(root, *names):
    return NotingStudy(root, "digits", None, names, "float32", print)


def run(study, seeds, *, jobs):
    """Returns what was said meanwhile."""
    said = io.StringIO()
    console = Console(file=said, width=1000)
    run_side_by_side(study.all_pieces(seeds), jobs=jobs, logs=study.root / "logs", console=console)
    return said.getvalue()


@pytest.mark.long
def test_every_piece_of_every_seed_is_done_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    said = run(noting(tmp_path, "a", "b"), [3, 5], jobs=2)
    notes = {path.name: path.read_text().split() for path in tmp_path.iterdir() if path.is_file()}
    assert set(notes) == {"a_3", "b_3", "a_5"}
    threads = str(max(1, os.cpu_count() // 2))
    assert {threads} == {note[1] for note in notes.values()}
    assert str(os.getpid()) not in {note[0] for note in notes.values()}
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "7"
    assert "done, 3 of 3" in said
    assert (tmp_path / "logs" / "seed3_b.log").read_text() == "b of seed 3\n"


def test_a_piece_waits_for_what_it_goes_on_from(tmp_path):
    said = run(noting(tmp_path, "c<b", "b<a", "d<a", "a"), [0], jobs=2)
    done = [line.split(":")[0] for line in said.splitlines()[1:]]
    assert set(done) == {"seed0_a", "seed0_b", "seed0_c", "seed0_d"}
    assert done[0] == "seed0_a"
    assert done.index("seed0_b") < done.index("seed0_c")


def test_a_piece_that_was_killed_is_named(tmp_path):
    with pytest.raises(InputError, match="a process of seed0_killed was killed, for want of mem"):
        run(noting(tmp_path, "killed"), [0], jobs=1)


def test_pieces_end_with_who_began_them(tmp_path):
    context = multiprocessing.get_context("spawn")
    parent = context.Process(target=run, args=(noting(tmp_path, "orphan"), [0]), kwargs={"jobs": 1})
    parent.start()
    alive = tmp_path / "alive"
    until(lambda: alive.exists())
    parent.kill()
    parent.join()
    until(lambda: not grows(alive))


def until(happened, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def grows(path):
    before = path.stat().st_size
    time.sleep(1.0)
    return path.stat().st_size > before


def test_a_piece_that_fails_says_why_and_loses_nothing(tmp_path):
    with pytest.raises(InputError, match=r"a bad piece was given\."):
        run(noting(tmp_path, "a", "bad", "late<bad"), [0], jobs=1)
    assert (tmp_path / "a_0").exists()
    assert not (tmp_path / "late_0").exists()
    with pytest.raises(InputError, match="0 jobs were given; at least 1 is needed"):
        run(noting(tmp_path, "a"), [0], jobs=0)


def test_a_sweep_hands_out_its_cells(tmp_path, monkeypatch):
    handed, computed, told = {}, [], []

    def side_by_side(pieces, **how):
        handed.update(pieces)
        return {name: piece.call() for name, piece in pieces.items()}

    def line(self, cell):
        computed.append(cell.values["alpha"])
        return {**cell.values, "error": "not today"}

    monkeypatch.setattr(sweep, "run_side_by_side", side_by_side)
    monkeypatch.setattr(Sweep, "_line", line)
    base = RunConfig("causal_ib", "mnist", 0, CausalIbConfig(), TrainingConfig())
    made = Sweep(
        root=tmp_path,
        base=base,
        grid={"alpha": ("0", "0.1"), "seed": ("1",)},
        attacks=(),
        eps=(),
        limit=None,
        data_dir=None,
        progress=told.append,
    )
    with pytest.raises(InputError, match=r"no cell of the sweep could be trained: not today"):
        made.run(tmp_path / "report", jobs=2)
    assert computed == ["0", "0.1"]  # once each, failed or not
    assert told == [f"alpha={alpha}, seed=1: not today" for alpha in ("0", "0.1")]
    assert set(handed) == {cell.workdir.root.name for cell in made.cells()}
    sent = dataclasses.replace(made, progress=print)
    sent = pickle.loads(pickle.dumps(sent))  # as to another process
    assert [cell.config for cell in sent.cells()] == [cell.config for cell in made.cells()]


def test_the_pieces_of_a_table_are_its_rows(tmp_path):
    profile = causal_ib.PROFILES["core"]
    study = CausalIbStudy(tmp_path, "mnist", None, profile, "float32", print)
    assert tuple(study.pieces(0)) == profile.methods
    assert tuple(study.repeated.pieces(0)) == profile.repeated
    assert not any(piece.after for piece in study.pieces(0).values())
