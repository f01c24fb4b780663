import errno
import os
import subprocess
import sys
import threading

import pytest

from tfcama import workdir as workdir_lib
from tfcama.errors import InputError
from tfcama.workdir import Workdir, atomic_directory, is_disk_full, write_text


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file.txt"
    write_text(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_file_that_cannot_be_written_says_so(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(InputError, match="cannot be written: File exists"):
        write_text(tmp_path / "file" / "below", "new")


def test_links_stay_links_and_what_is_no_file_stays_as_it_is(tmp_path):
    write_text(tmp_path / "file", "old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe cannot be written: it is no regular file"):
        write_text(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(InputError, match="cannot be written: it is a directory"):
        write_text(tmp_path, "new")


def test_a_directory_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "old")

    def made(target):
        with atomic_directory(target):
            pass

    with pytest.raises(InputError, match="below cannot be written: File exists"):
        made(tmp_path / "file" / "below")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is the current directory; name another one"):
        made(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_directory(tmp_path / "link") as temporary:
        write_text(temporary / "a", "1")
    assert (tmp_path / "link").is_symlink()
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["a"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "report"
    with atomic_directory(target) as temporary:
        write_text(temporary / "a", "1")

    def fails_half_way():
        with atomic_directory(target) as temporary:
            write_text(temporary / "b", "2")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fails_half_way()
    assert [p.name for p in target.iterdir()] == ["a"]
    with atomic_directory(target) as temporary:
        write_text(temporary / "c", "3")
    assert [p.name for p in target.iterdir()] == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_a_workdir_belongs_to_one_configuration(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.claim({"seed": 0, "part": {"sizes": (1, 2)}})
    workdir.claim({"seed": 0, "part": {"sizes": (1, 2)}})
    with pytest.raises(InputError, match="seed: 0 -> 1"):
        workdir.claim({"seed": 1, "part": {"sizes": (1, 2)}})


def test_a_directory_without_a_run_says_so(tmp_path):
    with pytest.raises(InputError, match=r"holds no run: config\.json is missing"):
        Workdir(tmp_path).read_config()
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="is no configuration: no JSON object is in it"):
        Workdir(tmp_path).read_config()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        Workdir(tmp_path).read_config()


def test_disk_full_is_recognised():
    assert is_disk_full(OSError(errno.ENOSPC, "x"))
    assert is_disk_full(RuntimeError("write failed: No space left on device"))
    assert not is_disk_full(OSError(errno.EACCES, "x"))


def test_a_workdir_is_the_same_by_any_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Workdir("run") == Workdir(tmp_path / "run") == Workdir(tmp_path / "x" / ".." / "run")
    assert len({Workdir("run"), Workdir(tmp_path / "run")}) == 1
    assert Workdir("run") != Workdir("other")


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "results", "report"])
def test_a_file_where_a_run_needs_a_directory_is_one_clear_sentence(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name} is no directory; delete it"):
        Workdir(tmp_path).claim({"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_another_wrote_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "1"

    def write():
        with atomic_directory(target, replace=False) as temporary:
            (temporary / "mine").touch()
            target.mkdir()
            (target / "theirs").touch()

    with pytest.raises(FileExistsError):
        write()
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "theirs"]


def test_checkpoints_of_nobody_are_not_taken_over(tmp_path):
    (tmp_path / "checkpoints" / "00003").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"holds checkpoints, and no config\.json that says of what"
    ):
        Workdir(tmp_path).claim({"seed": 0})
    assert not (tmp_path / "config.json").exists()


def test_one_process_writes_at_a_time(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.claim({"seed": 0})
    with workdir.exclusive(), pytest.raises(InputError, match="another process is writing to"):
        Workdir(tmp_path).exclusive().__enter__()
    with workdir.exclusive():
        pass


def test_a_machine_that_does_not_write_waits_for_the_one_that_does(tmp_path, monkeypatch):
    workdir = Workdir(tmp_path)
    first = threading.Timer(0.3, lambda: Workdir(tmp_path).claim({"seed": 0}))
    first.start()
    workdir.claim({"seed": 0}, writes=False)
    first.join()
    with pytest.raises(InputError, match=r"belongs to a run of another conf.*seed: 0 -> 1"):
        workdir.claim({"seed": 1}, writes=False)
    assert workdir.read_config() == {"seed": 0}
    monkeypatch.setattr(workdir_lib, "_PATIENCE", 0.1)
    alone = Workdir(tmp_path / "alone")
    with pytest.raises(InputError, match="on a file system that they share"):
        alone.claim({"seed": 0}, writes=False)
    assert not alone.config_file.exists()


def test_what_killed_processes_left_beside_a_target_goes_in_time(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    target, other = tmp_path / "report", tmp_path / "other.json"
    old, new, ours = (
        tmp_path / f".report-{ended.pid}",
        tmp_path / f".other.json-{ended.pid}",
        tmp_path / f".report-{os.getppid()}",
    )
    only_copy = tmp_path / f".report-{ended.pid}-replaced"
    for directory in (old, ours, only_copy):
        directory.mkdir()
        os.utime(directory, (0, 0))
    new.write_text("half")
    with atomic_directory(target) as temporary:
        write_text(temporary / "a", "x")
    write_text(other, "x")
    assert not old.exists()
    assert all(path.exists() for path in (new, ours, only_copy))  # young, alive, all there was
    os.utime(new, (0, 0))
    write_text(other, "y")
    with atomic_directory(target) as temporary:
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"report", "other.json", ours.name}
