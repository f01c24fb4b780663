"""The binaries as a shell sees them: a sentence for bad input, and a kill that loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.binaries import ROOT, call, command
from tests.conftest import TFDS, needs_tfds
from tfcama.data import breast_cancer
from trainers import app

TRAIN = ("trainers.train", "--model=dnn", "--dataset=digits", "--epochs=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("dnn")
    assert call(*TRAIN, f"--workdir={workdir}").returncode == 0
    return workdir


@pytest.fixture(scope="module")
def half(trained, tmp_path_factory):
    """A run that was killed, as it is found: more epochs were asked for than are there."""
    workdir = tmp_path_factory.mktemp("half") / "run"
    shutil.copytree(trained, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["training"]["epochs"] += 3
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    directory = tmp_path_factory.mktemp("table")
    breast_cancer.table().to_csv(directory / "cells.csv", index=False)
    cycle = "diagnosis mean_radius\nmean_radius mean_area\nmean_area diagnosis\n"
    (directory / "cycle.txt").write_text(cycle)
    return directory / "cells.csv"


def bad_calls(trained, half, table, tmp):
    finetune, export = "trainers.finetune", "export.export_saved_model"
    return {
        "did you mean 'cama'": ("trainers.train", "--model=camma", f"--workdir={tmp}/a"),
        "unknown dataset 'mnits'": ("trainers.train", "--dataset=mnits", f"--workdir={tmp}/b"),
        "did you mean 'architecture.dim_z'": (
            *("trainers.train", f"--workdir={tmp}/c"),
            *("--set", "dimz=3"),
        ),
        "is not a directory; it should hold 'mnist/<version>/'": (
            *("trainers.train", "--dataset=mnist"),
            *(f"--data_dir={tmp}/nowhere", f"--workdir={tmp}/d"),
        ),
        "belongs to a run of another configuration (seed: 0 -> 1)": (
            *TRAIN,
            *("--seed=1", f"--workdir={trained}"),
        ),
        "Unknown command line flag 'epoch'": ("trainers.train", "--epoch=3"),
        "--workdir must have a value other than None": ("trainers.train",),
        "did you mean 'vertical_shift'": (
            *("trainers.evaluate", f"--workdir={trained}"),
            "--manipulation=vertical_shft",
        ),
        "takes 0 to 1 (fraction of the height)": (
            *("trainers.evaluate", f"--workdir={trained}"),
            "--levels=0,3",
        ),
        "holds no run: config.json is missing": ("trainers.evaluate", f"--workdir={tmp}/none"),
        "did you mean 'fgsm'": ("trainers.attack", f"--workdir={trained}", "--attack=fgms"),
        "--mechanism was given, but nothing is adapted": (
            *("trainers.attack", f"--workdir={trained}"),
            "--mechanism=rotation",
        ),
        "which has no M-networks to fine-tune; name the workdir": (
            *("trainers.attack", f"--workdir={trained}"),
            "--adaptive_rounds=1",
        ),
        "sleep=0 was given; every mechanism has as much of it as it needs": (
            *("trainers.choose_mechanism", f"--workdir={trained}", "--manipulation=rotation:30"),
            *("--set", "sleep=0"),
        ),
        "'alpha' was set; it is of Eq. 8 (--set by=eq8), not of rws": (
            *("trainers.adapt_stream", f"--workdir={trained}", "--stream=clean@9"),
            *("--mechanism=rotation", "--set", "by=rws", "--set", "alpha=0.3"),
        ),
        "'fraction' was set; what is adapted to is all that is attacked": (
            *("trainers.attack", f"--workdir={trained}"),
            *("--finetune", "--set", "fraction=0.2"),
        ),
        "a malicious share of 1 of": (
            *("trainers.attack", f"--workdir={trained}", "--malicious=1"),
        ),
        "which has no M-networks to fine-tune": (
            *(finetune, f"--workdir={trained}"),
            "--manipulation=vertical_shift:0.5",
        ),
        "has no batch normalisation for 'tent' to adapt": (
            *(finetune, f"--workdir={trained}"),
            *("--manipulation=rotation:60", "--method=tent"),
        ),
        "did you mean 'rotation'": (
            *("trainers.evaluate", f"--workdir={trained}"),
            "--test_time_augmentation=rotate:60",
        ),
        "once a 'dnn' is trained, nothing can be set": (
            *("trainers.evaluate", f"--workdir={trained}"),
            *("--set", "m_steps=10"),
        ),
        "--manipulation=rotation:30 has a level; --levels says": (
            *("trainers.evaluate", f"--workdir={trained}", "--manipulation=rotation:30"),
        ),
        "--manipulation= was given; name one or several": (
            *("trainers.evaluate", f"--workdir={trained}", "--manipulation="),
        ),
        "'vertical_shift' has no level": (
            *(finetune, f"--workdir={trained}"),
            "--manipulation=vertical_shift",
        ),
        "--version=0 was given": (
            *(export, f"--workdir={trained}"),
            *(f"--export_dir={tmp}/e", "--version=0"),
        ),
        "epochs; give its command again before it is published": (
            *(export, f"--workdir={half}", f"--export_dir={tmp}/e"),
        ),
        "epochs; give its command again before it is asked": (
            *("trainers.predict", f"--workdir={half}", f"--csv={table}", f"--out={tmp}/p.csv"),
        ),
        "--false_alarms was given with --detect=false": (
            *(export, f"--workdir={trained}", f"--export_dir={tmp}/e"),
            *("--detect=false", "--false_alarms=0.1"),
        ),
        "did you mean 'mean_radius'": (
            *("trainers.train", "--model=measurement_dnn", f"--csv={table}", f"--workdir={tmp}/g"),
            *("--target=diagnosis", "--children=mean_radios"),
        ),
        "is a cycle": (
            *("trainers.train", "--model=measurement_dnn", f"--csv={table}", f"--workdir={tmp}/h"),
            *("--target=diagnosis", f"--dag={table.with_name('cycle.txt')}"),
        ),
        "--target belongs to --dataset=csv": (
            *("trainers.train", "--dataset=measurement", "--target=y", f"--workdir={tmp}/i"),
        ),
        "cama takes images": (
            *("trainers.train", "--model=cama", "--dataset=measurement", f"--workdir={tmp}/j"),
        ),
        "ChildrenShift manipulates tables; digits holds images": (
            *("trainers.evaluate", f"--workdir={trained}", "--manipulation=children_shift"),
        ),
        "was trained without noise; a certified radius is": (
            *("trainers.certify", f"--workdir={trained}"),
        ),
        "--table=2 --dataset=mnist was given; table 2 is of cifar10": (
            *("trainers.reproduce", "--table=2", "--dataset=mnist", f"--workdir={tmp}/l"),
            f"--report={tmp}/m",
        ),
        "transform=flip is for images": (
            *("trainers.train", "--dataset=measurement", "--transform=flip"),
            f"--workdir={tmp}/n",
        ),
        "--grid takes key=value": (
            *("trainers.sweep", "--model=vib", "--dataset=digits", f"--workdir={tmp}/k"),
            "--grid=alpha",
        ),
        "either --manipulation or --csv is needed": (finetune, f"--workdir={trained}"),
        "none of steps, warm_up and sleep was given": (
            finetune,
            f"--workdir={trained}",
            "--steps=0",
        ),
        "predictions of a table need a run that was trained on one": (
            *("trainers.predict", f"--workdir={trained}", f"--csv={table}"),
            f"--out={tmp}/p.csv",
        ),
        "--seeds=0,0.5 was given; different whole numbers are needed": (
            *("trainers.reproduce", "--study=shift", "--dataset=digits", "--seeds=0,0.5"),
            *(f"--workdir={tmp}/q", f"--report={tmp}/r"),
        ),
        "measurement holds tables; this study is of images": (
            *("trainers.reproduce", "--study=shift", "--dataset=measurement"),
            *(f"--workdir={tmp}/q", f"--report={tmp}/r"),
        ),
        "--attack= was given; name one or several": (
            *("trainers.attack", f"--workdir={trained}", "--attack="),
        ),
        "--fraction was given; of --csv all rows are adapted to": (
            *(finetune, f"--workdir={trained}", f"--csv={table}", "--fraction=0.1"),
        ),
        "VerticalShift manipulates images; measurement holds tables": (
            *("trainers.train", "--dataset=measurement", "--augment=vertical_shift:0.5"),
            *("--model=measurement_dnn", f"--workdir={tmp}/s"),
        ),
        "unknown configuration key 'model'": (
            *("trainers.train", "--dataset=digits", "--set", "model=dnn", f"--workdir={tmp}/t"),
        ),
        "flags are needed, 'mnist' was given": ("trainers.demo", "mnist", f"--workdir={tmp}/f"),
    }


def test_a_process_from_scratch_says_one_sentence_and_nothing_of_tensorflow():
    quiet = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        command("trainers.train", "--model=camma", "--workdir=unused"),
        cwd=ROOT,
        env=quiet,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: unknown model 'camma'")


def test_a_pipe_is_told_at_once():
    """What is printed to a log is there while the job goes on, and if it is killed."""
    code = """
import os
from trainers import app
def main():
    print("told")
    os._exit(0)
app.run(main)
"""
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, cwd=ROOT, env=buffered, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "told\n")


def test_bad_input_is_one_clear_sentence_and_leaves_nothing(trained, half, table, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    calls = bad_calls(trained, half, table, tmp_path)
    for sentence, flags in calls.items():
        result = call(*flags)
        assert result.returncode == 2, (sentence, result.stderr)
        assert result.stdout == ""
        (line,) = result.stderr.strip().splitlines()  # no traceback, no noise
        assert line.startswith("error: ")
        assert sentence in line
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module",
    [
        *("trainers.train", "trainers.finetune", "trainers.evaluate", "trainers.attack"),
        *(
            "trainers.demo",
            "trainers.adapt_stream",
            "trainers.reproduce",
            "trainers.predict",
            "trainers.explain",
            "trainers.certify",
            "trainers.choose_mechanism",
            "trainers.sweep",
            "export.export_saved_model",
            "export.adapt",
            "benchmarks.speed",
            "benchmarks.stream",
        ),
    ],
)
def test_help_explains_every_flag_with_an_example(module):
    result = call(module, "--help")
    assert "python -m " + module in result.stdout
    own = result.stdout.split("flags:")[1]
    flags = [line for line in own.splitlines() if line.startswith("  --")]
    assert any(line.startswith("  --workdir") for line in flags) or "benchmarks" in module
    for block in own.split("\n  --")[1:]:
        assert "Example" in block, block


def test_a_killed_training_continues_to_the_same_numbers(tmp_path):
    """A real SIGKILL in the middle of an epoch."""
    flags = ("trainers.train", "--model=dnn", "--dataset=digits", "--epochs=30")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert call(*flags, f"--workdir={unbroken}").returncode == 0
    victim = subprocess.Popen(
        command(*flags, f"--workdir={broken}"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = broken / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.05)
    time.sleep(0.2)  # into a later epoch
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert 1 <= metrics.read_text().count("\n") < 30, "the kill came too late to test anything"
    assert call(*flags, f"--workdir={broken}").returncode == 0
    rows = []
    for workdir in (unbroken, broken):
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        rows.append(
            [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
        )
    assert rows[0] == rows[1]


@needs_tfds
@pytest.mark.long
def test_a_dnn_learns_mnist_in_an_epoch(tmp_path):
    result = call(
        *("trainers.train", "--model=dnn", "--dataset=mnist", "--epochs=1"),
        *(f"--data_dir={TFDS}", f"--workdir={tmp_path}"),
    )
    assert result.returncode == 0, result.stderr
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["val_accuracy"] > 0.93
    assert np.isfinite(row["loss"])


def test_a_users_table_from_csv_to_predictions(table, tmp_path):
    """The analyst's way: train, shift a column, adapt without labels, export, predict, explain."""
    run, adapted, shifted = tmp_path / "run", tmp_path / "adapted", tmp_path / "shifted.csv"
    frame = breast_cancer.table()
    frame["mean_texture"] += 3 * frame["mean_texture"].std()
    frame.drop(columns="diagnosis").to_csv(shifted, index=False)
    steps = (
        (
            *("trainers.train", "--model=measurement_cama", f"--workdir={run}", f"--csv={table}"),
            *("--target=diagnosis", f"--dag={breast_cancer.DAG}", "--epochs=2"),
            *("--set", "hidden=64", "--set", "num_samples=2"),
        ),
        (
            *("trainers.evaluate", f"--workdir={run}", "--levels=0,3"),
            "--manipulation=children_shift:column=mean_texture",
        ),
        (
            *("trainers.finetune", f"--workdir={run}", f"--csv={shifted}"),
            *(f"--target={adapted}", "--steps=60", "--strategy=mirrored_cpu:2"),
        ),
        ("export.export_saved_model", f"--workdir={adapted}", f"--export_dir={tmp_path}/export"),
        (
            *("trainers.predict", f"--workdir={adapted}", f"--csv={shifted}"),
            f"--out={tmp_path}/predictions.csv",
        ),
        ("trainers.explain", f"--workdir={adapted}", f"--csv={shifted}", "--row=1"),
    )
    for step in steps:
        result = call(*step)
        assert result.returncode == 0, (step, result.stderr)
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert list(predictions) == ["row", "label", "p(benign)", "p(malignant)", "log_px"]
    assert (predictions.label == frame.diagnosis).mean() > 0.8
    metadata = json.loads((tmp_path / "export" / "1" / "tfcama.json").read_text())
    assert metadata["input"]["target"] == "diagnosis"
    assert {column["name"] for column in metadata["input"]["columns"]} >= {
        "mean_radius",
        "mean_texture",
    }
    explained = json.loads((adapted / "explain" / "explanation.json").read_text())
    assert explained
    assert (run / "report" / "index.html").exists()


def test_a_machine_that_is_gone_is_one_sentence(monkeypatch, capsys):
    def main():
        raise tf.errors.UnavailableError(None, None, "Socket closed")

    with pytest.raises(tf.errors.UnavailableError):
        app._guarded(main, ["binary"])
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(SystemExit) as ended:
        app._guarded(main, ["binary"])
    assert ended.value.code == app.INPUT_ERROR_STATUS
    assert "another machine of TF_CONFIG has ended" in capsys.readouterr().err
