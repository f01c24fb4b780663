"""Whole runs: resume, checkpoints, fine-tuning, metrics, refusals."""

import dataclasses
import errno
import gc
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tfcama.data.base import Split
from tfcama.errors import InputError
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.models.registry import MODELS
from tfcama.report import labels
from tfcama.training import callbacks, checkpoints, run
from tfcama.training.config import DREAMS, FinetuneConfig, RunConfig, TrainingConfig, claimed
from tfcama.training.finetune import (
    adapted_config,
    adapted_rows,
    finetune,
    finetune_on_manipulation,
    is_finished,
)
from tfcama.workdir import Workdir

pytestmark = pytest.mark.usefixtures("bars_everywhere")


def configuration(model="dnn", **training):
    defaults = {"epochs": 3, "batch_size": 32}
    return RunConfig(
        model=model,
        dataset="digits",
        seed=0,
        architecture=MODELS[model].config_class(),
        training=TrainingConfig(**{**defaults, **training}),
    )


def metrics(workdir):
    rows = [json.loads(line) for line in workdir.metrics_file.read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return rows


def weights(loaded):
    return [v.numpy() for v in loaded.classifier.variables]


class KilledError(Exception):
    """Stands in for a SIGKILL between two steps (the real one is in tests/trainers)."""


class KillAt(run.keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KilledError


@pytest.mark.usefixtures("no_rewriting")
@pytest.mark.parametrize("model", ["dnn", "cama"])
def test_a_killed_run_continues_to_the_same_numbers(tmp_path, model):
    config = configuration(model, augment="vertical_shift:0.3" if model == "cama" else "")
    unbroken = run.train(config, Workdir(tmp_path / "unbroken"))
    broken = Workdir(tmp_path / "broken")
    with pytest.raises(KilledError):
        run.train(config, broken, extra_callbacks=(KillAt(4),))  # in the second epoch
    assert checkpoints.newest(broken.checkpoints).epoch == 1
    assert not run.is_finished(broken, config)
    resumed = run.train(config, broken)
    assert metrics(broken) == metrics(Workdir(tmp_path / "unbroken"))
    for ours, theirs in zip(weights(resumed), weights(unbroken), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_training_leaves_no_graph_behind(tmp_path):
    """A study trains in one process what would fill the memory, were every traced step kept."""
    found = []
    for place in ("a", "b"):  # the first one makes TensorFlow's default graph
        run.train(configuration(epochs=1), Workdir(tmp_path / place))
        gc.collect()
        found.append(sum(isinstance(thing, tf.Graph) for thing in gc.get_objects()))
    assert found[0] == found[1]


def test_a_finished_run_is_not_trained_again(tmp_path):
    workdir = Workdir(tmp_path)
    run.train(configuration(), workdir)
    before = metrics(workdir)
    run.train(configuration(), workdir, extra_callbacks=(KillAt(0),))
    assert metrics(workdir) == before
    assert run.is_finished(workdir, configuration())
    assert not run.is_finished(workdir, configuration(epochs=1))
    assert not run.is_finished(Workdir(tmp_path / "none"), configuration())


@pytest.mark.usefixtures("no_rewriting")
def test_the_seed_decides_the_numbers(tmp_path):
    seeds = [0, 0, 1]
    found = []
    for place, seed in enumerate(seeds):
        workdir = Workdir(tmp_path / str(place))
        run.train(dataclasses.replace(configuration(epochs=1), seed=seed), workdir)
        found.append(metrics(workdir)[0]["loss"])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_the_best_checkpoint_is_loaded_and_the_newest_kept(tmp_path):
    workdir = Workdir(tmp_path)
    loaded = run.train(configuration(epochs=4), workdir)
    rows = metrics(workdir)
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"], -row["epoch"]))
    assert loaded.checkpoint.epoch == best["epoch"]
    kept = {checkpoint.epoch for checkpoint in checkpoints.listed(workdir.checkpoints)}
    assert kept == {best["epoch"], 4}


def test_a_restored_model_is_the_saved_one_whatever_it_was_before(tmp_path):
    """A checkpoint that forgets layers restores without complaint; only values tell."""
    workdir = Workdir(tmp_path)
    loaded = run.train(configuration("cama", epochs=1), workdir)
    stranger = run.build(dataclasses.replace(loaded.config, seed=99))
    checkpoints.restore(loaded.checkpoint, classifier=stranger)
    for ours, theirs in zip(stranger.variables, loaded.classifier.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_configuration_is_refused(tmp_path):
    run.train(configuration(epochs=1), Workdir(tmp_path))
    with pytest.raises(InputError, match=r"another configuration \(training.epochs: 1 -> 2\)"):
        run.train(configuration(epochs=2), Workdir(tmp_path))


def test_a_run_of_before_a_key_was_known_continues(tmp_path):
    workdir = Workdir(tmp_path)
    run.train(configuration(epochs=1), workdir)
    written = json.loads(workdir.config_file.read_text())
    del written["training"]["defence"]
    workdir.config_file.write_text(json.dumps(written))
    run.train(configuration(epochs=1), workdir)
    other = configuration(epochs=1, defence="mixup")
    with pytest.raises(InputError, match=r"training.defence:  -> mixup"):
        run.train(other, workdir)


@pytest.mark.parametrize("damage", ["truncate", "no_meta", "garbage"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(tmp_path, damage):
    workdir = Workdir(tmp_path)
    config = configuration(epochs=3)
    with pytest.raises(KilledError):
        run.train(config, workdir, extra_callbacks=(KillAt(7),))
    kept = checkpoints.listed(workdir.checkpoints)
    if len(kept) == 1:  # the best was the newest: make an earlier one
        earlier = workdir.checkpoints / "00001"
        shutil.copytree(kept[0].path, earlier)
        meta = json.loads((earlier / "meta.json").read_text())
        (earlier / "meta.json").write_text(json.dumps({**meta, "epoch": 1}))
    newest = checkpoints.newest(workdir.checkpoints).path
    data = newest / "state.data-00000-of-00001"
    if damage == "truncate":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif damage == "garbage":
        (newest / "state.index").write_bytes(b"garbage")
    else:
        (newest / "meta.json").unlink()
    with pytest.raises(InputError, match=f"checkpoint {newest} is damaged"):
        run.train(config, workdir)
    shutil.rmtree(newest)
    run.train(config, workdir)


def test_a_checkpoint_that_its_run_drops_meanwhile_is_none(tmp_path, monkeypatch):
    for name in ("00001", "00002"):
        (tmp_path / name).mkdir()
    meta = {"epoch": 2, "score": [0.5, 0.0], "logs": {}}
    (tmp_path / "00002" / "meta.json").write_text(json.dumps(meta))
    read = Path.read_text

    def meanwhile(path, *args, **kwargs):
        if path.parent.name == "00001":
            shutil.rmtree(path.parent)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", meanwhile)
    assert checkpoints.epochs_done(tmp_path) == 2


def test_a_kill_while_an_old_checkpoint_goes_damages_none(tmp_path, monkeypatch):
    workdir, config = Workdir(tmp_path), configuration(epochs=4)
    real = shutil.rmtree

    def killed(path, **kwargs):
        if str(path).endswith("-gone"):
            (path / "meta.json").unlink()
            raise KilledError
        real(path, **kwargs)

    monkeypatch.setattr(checkpoints.shutil, "rmtree", killed)
    with pytest.raises(KilledError):
        run.train(config, workdir)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", real)
    assert 0 < checkpoints.epochs_done(workdir.checkpoints) < 4
    (workdir.checkpoints / ".00002-12345").mkdir()  # of a process that was killed as it wrote
    run.train(config, workdir)
    assert checkpoints.epochs_done(workdir.checkpoints) == 4
    assert not list(workdir.checkpoints.glob(".*"))


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    workdir = Workdir(tmp_path)
    config = configuration(epochs=3)
    real, calls = checkpoints.write_json, []

    def full(path, value):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, value)

    monkeypatch.setattr(checkpoints, "write_json", full)
    with pytest.raises(InputError, match="is full; epoch 2 was not saved"):
        run.train(config, workdir)
    assert [c.epoch for c in checkpoints.listed(workdir.checkpoints)] == [1]
    assert {p.name for p in workdir.checkpoints.iterdir()} == {"00001"}
    run.train(config, workdir)
    assert len(metrics(workdir)) == 3


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_kept(tmp_path):
    config = configuration(epochs=2, learning_rate=1e30)
    with pytest.raises((FloatingPointError, InputError)):
        run.train(config, Workdir(tmp_path))
    assert checkpoints.listed(Workdir(tmp_path).checkpoints) == []


def test_a_half_line_of_metrics_is_dropped(tmp_path):
    workdir = Workdir(tmp_path)
    config = configuration(epochs=2)
    with pytest.raises(KilledError):
        run.train(config, workdir, extra_callbacks=(KillAt(4),))
    with workdir.metrics_file.open("a") as file:
        file.write('{"epoch": 2, "los')
    run.train(config, workdir)
    assert [row["epoch"] for row in metrics(workdir)] == [1, 2]


def tags_of(workdir):
    (path,) = workdir.tensorboard.glob("events*")
    records = tf.data.TFRecordDataset(str(path))
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in records]
    return {value.tag for event in events for value in event.summary.value}


def test_tensorboard_has_scalars_pictures_and_histograms_on_demand(tmp_path, pictures):
    workdir = Workdir(tmp_path)
    run.train(configuration("cama", epochs=1), workdir, devices=run.Devices(histograms=True))
    tags = tags_of(workdir)
    wanted = {"elbo/train", "elbo/validation", "kl_z/train", "kl_m/train", "accuracy/validation"}
    wanted |= {"active_units/z", "active_units/m", "samples", "reconstructions_do_m0"}
    assert wanted <= tags
    assert any(tag.startswith("q_z/") for tag in tags)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bars):
    workdir = Workdir(tmp_path_factory.mktemp("trained"))
    patch = pytest.MonkeyPatch()
    patch.setattr(run, "load_data", lambda config, *, data_dir: bars)
    run.train(configuration("cama", epochs=2), workdir)
    patch.undo()
    return workdir


def test_fine_tuning_makes_a_run_of_its_own_and_leaves_the_base(tmp_path, trained, bars):
    before = weights(run.load(trained))
    config = FinetuneConfig(steps=60, batch_size=4, fraction=0.5)
    target = Workdir(tmp_path)
    adapted = finetune_on_manipulation(trained, target, "vertical_shift:0.3", config, data_dir=None)
    for ours, theirs in zip(weights(run.load(trained)), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert adapted.config.finetuned.subject == "vertical_shift:0.3"
    base = run.load(trained).classifier.variable_groups()
    for name, variables in adapted.classifier.variable_groups().items():
        same = [np.array_equal(a, b) for a, b in zip(variables, base[name], strict=True)]
        assert not any(same) if name in ("p_m", "q_m") else all(same), name
    rows = metrics(target)
    assert rows[-1]["elbo_x"] > rows[0]["elbo_x"]
    named = dataclasses.replace(config, subject="vertical_shift:0.3")
    assert is_finished(target, named)
    assert not is_finished(target, dataclasses.replace(named, seed=1))
    assert not is_finished(Workdir(tmp_path / "none"), named)
    shutil.rmtree(max(target.checkpoints.iterdir()))
    assert not is_finished(target, named)


@pytest.mark.long
def test_a_clean_model_takes_another_mechanism(tmp_path, trained, bars, quick_pictures):
    config = FinetuneConfig(
        steps=4,
        batch_size=4,
        mechanism="rotation",
        prior_m="class",
        p_untouched=0.5,
        clean="elbo",
        dreams=1.0,
    )
    target = Workdir(tmp_path / "turned")
    adapted = finetune_on_manipulation(trained, target, "rotation:30", config, data_dir=None)
    assert adapted.config.architecture.mechanism == "rotation"
    assert adapted.config.variant == "mechanism=rotation, prior_m=class"
    again = dataclasses.replace(adapted.config, finetuned=dataclasses.replace(config, seed=1))
    assert again.variant == "mechanism=rotation, prior_m=class, adaptation seed=1"
    assert adapted.classifier.dim_m == 1
    assert {"spread/rotation", "along_rotation", "reconstructions_do_m0"} <= tags_of(target)
    base = run.load(trained).classifier
    for name in ("p_y", "p_z", "q_z"):
        groups = (model.variable_groups()[name] for model in (adapted.classifier, base))
        pairs = [pair for pair in zip(*groups, strict=True) if pair[0].shape == pair[1].shape]
        # The first layer of q(z|.) no longer reads m.
        assert len(base.variable_groups()[name]) - len(pairs) == int(name == "q_z")
        for ours, theirs in pairs:
            np.testing.assert_array_equal(ours, theirs)
    # Once adapted, it keeps its mechanism; naming it again is no change.
    assert adapted.config.architecture.prior_m == "class"
    assert adapted.classifier.prior_m(tf.eye(3)[None]).batch_shape == (1, 3)
    again = dataclasses.replace(config, mechanism="zoom")
    with pytest.raises(InputError, match="the model was fine-tuned with 'rotation'"):
        finetune_on_manipulation(target, Workdir(tmp_path / "no"), "zoom:0.3", again, data_dir=None)
    assert not (tmp_path / "no").exists()
    # What only prediction reads may change, and nothing that was learned is lost by it.
    assert adapted.config.architecture.p_untouched == 0.5
    surer = dataclasses.replace(config, p_untouched=0.1, learning_rate=1e-9)
    kept = finetune_on_manipulation(
        target, Workdir(tmp_path / "yes"), "zoom:0.3", surer, data_dir=None
    )
    assert kept.config.architecture.p_untouched == 0.1
    for ours, theirs in zip(kept.classifier.variables, adapted.classifier.variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.usefixtures("no_rewriting")
def test_a_killed_fine_tuning_continues_to_the_same_numbers(tmp_path, trained, bars):
    config = FinetuneConfig(steps=100, batch_size=4, subject="given")
    arguments = {"clean": bars.train, "unlabelled": bars.test.x}
    finetune(trained, Workdir(tmp_path / "unbroken"), config, **arguments)
    broken = Workdir(tmp_path / "broken")
    with pytest.raises(KilledError):
        finetune(trained, broken, config, **arguments, extra_callbacks=(KillAt(60),))
    finetune(trained, broken, config, **arguments)
    assert metrics(broken) == metrics(Workdir(tmp_path / "unbroken"))


def test_labels_of_the_adapted_rows_never_matter(tmp_path, trained, bars, monkeypatch):
    found = []
    for place, given in enumerate((bars.test.y, bars.test.y[::-1])):
        relabelled = bars._replace(test=Split(bars.test.x, given))
        monkeypatch.setattr(run, "load_data", lambda config, *, data_dir, d=relabelled: d)
        target = Workdir(tmp_path / str(place))
        config = FinetuneConfig(steps=2, batch_size=4)
        found.append(
            finetune_on_manipulation(trained, target, "vertical_shift:0.3", config, data_dir=None)
        )
    for ours, theirs in zip(weights(found[0]), weights(found[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_adapted_rows_are_a_seeded_share():
    rows = adapted_rows(1000, FinetuneConfig(fraction=0.01))
    assert len(rows) == 10
    np.testing.assert_array_equal(rows, adapted_rows(1000, FinetuneConfig(fraction=0.01)))
    assert not np.array_equal(rows, adapted_rows(1000, FinetuneConfig(fraction=0.01, seed=1)))
    more = adapted_rows(1000, FinetuneConfig(fraction=0.5))
    assert set(rows) <= set(more)  # a smaller share is a part of a larger one
    assert len(adapted_rows(5, FinetuneConfig(fraction=0.01))) == 1


def test_a_run_that_has_not_ended_is_not_adapted(tmp_path):
    base, config = Workdir(tmp_path / "base"), configuration("cama", epochs=3)
    with pytest.raises(KilledError):
        run.train(config, base, extra_callbacks=(KillAt(4),))
    target = Workdir(tmp_path / "adapted")
    with pytest.raises(InputError, match=r"has finished \d of 3 epochs; give its command again"):
        finetune_on_manipulation(
            base, target, "vertical_shift:0.3", FinetuneConfig(steps=2), data_dir=None
        )
    assert not target.root.exists()
    with pytest.raises(InputError, match=r"has finished \d of 3 epochs; .* before it is scored"):
        load_subject(base, data_dir=None)


def test_a_fine_tuning_that_has_not_ended_is_not_adapted_further(trained, bars, tmp_path):
    target, config = Workdir(tmp_path / "half"), FinetuneConfig(steps=120, batch_size=8)
    arguments = {"clean": bars.train, "unlabelled": bars.test.x}
    with pytest.raises(KilledError):
        finetune(trained, target, config, **arguments, extra_callbacks=(KillAt(70),))
    assert checkpoints.epochs_done(target.checkpoints) == 1
    with pytest.raises(
        InputError, match=r"half has finished 1 of 3 epochs; give its command again"
    ):
        finetune(target, Workdir(tmp_path / "no"), config, **arguments)
    assert not (tmp_path / "no").exists()


def test_what_any_adaptation_saw_is_not_unseen(trained, bars):
    loaded = run.load(trained)

    def held_out(*adaptations: FinetuneConfig) -> np.ndarray | None:
        found = loaded
        for adaptation in adaptations:
            found = found._replace(config=adapted_config(found, adaptation))
        again = RunConfig.from_json(json.loads(json.dumps(found.config.to_json())))
        assert again == found.config
        return Subject(trained, found, bars, bars.test).held_out

    half, dreams = FinetuneConfig(), FinetuneConfig(fraction=0.0, steps=0, warm_up=2)
    other, all_rows = FinetuneConfig(seed=1), FinetuneConfig(fraction=1.0)
    rows = np.arange(len(bars.test))
    halves = [np.setdiff1d(rows, adapted_rows(len(rows), each)) for each in (half, other)]
    np.testing.assert_array_equal(held_out(half), halves[0])
    np.testing.assert_array_equal(held_out(half, dreams), halves[0])
    np.testing.assert_array_equal(held_out(half, dreams, other), np.intersect1d(*halves))
    np.testing.assert_array_equal(held_out(dreams), rows)
    assert held_out() is held_out(all_rows) is held_out(all_rows, dreams, half) is None
    assert "earlier" not in loaded.config.adapted(half).to_json()


def test_all_that_a_run_was_adapted_to_names_it():
    def named(*subjects):
        config = configuration("cama")
        for subject in subjects:
            dreams = {"fraction": 0.0, "steps": 0, "warm_up": 2} if subject == DREAMS else {}
            config = config.adapted(FinetuneConfig(subject=subject, **dreams))
        return config.adapted_to

    assert named() == ""
    assert named(DREAMS) == DREAMS
    assert named(DREAMS, "rotation:30") == named("rotation:30", DREAMS) == "rotation:30"
    found = named(DREAMS, "rotation:30", "fgsm eps 0.1")
    assert found == "rotation:30, then fgsm eps 0.1"
    assert labels.adaptation_name(found) == "fine-tuned on rotation 30, then FGSM eps 0.1"


def test_a_run_that_fails_leaves_the_terminal_as_it_was(tmp_path, bars, monkeypatch):
    """Keras ends its callbacks only where fitting ends well; a sweep goes on to its next cell."""
    made, init = [], callbacks.Progress.__init__

    def on_a_terminal(self, *arguments, **options):
        console = Console(file=io.StringIO(), force_terminal=True)
        init(self, *arguments, **options, console=console)
        made.append(self)

    monkeypatch.setattr(callbacks.Progress, "__init__", on_a_terminal)
    stdout = sys.stdout
    with pytest.raises(KilledError):
        run.train(configuration("dnn"), Workdir(tmp_path), extra_callbacks=(KillAt(1),))
    assert made
    assert not made[0]._bar.live.is_started
    assert sys.stdout is stdout


def test_who_comes_while_a_run_is_claimed_does_not_claim_it_too(tmp_path, monkeypatch):
    config = configuration("dnn")
    workdir, check_free, refused = Workdir(tmp_path / "run"), Workdir.check_free, []

    def meanwhile(self, *arguments, **options):
        check_free(self, *arguments, **options)  # nobody has it
        with pytest.raises(InputError, match="another process is writing to"):
            claimed(Workdir(workdir.root), config).__enter__()
        refused.append(True)

    monkeypatch.setattr(Workdir, "check_free", meanwhile)
    with claimed(workdir, config):
        pass
    assert refused == [True]


def test_a_model_without_m_networks_is_not_fine_tuned(tmp_path, bars):
    run.train(configuration("dnn", epochs=1), Workdir(tmp_path / "dnn"))
    with pytest.raises(InputError, match="holds a 'dnn', which has no M-networks"):
        finetune(
            Workdir(tmp_path / "dnn"),
            Workdir(tmp_path / "adapted"),
            FinetuneConfig(),
            clean=bars.train,
            unlabelled=bars.test.x,
        )
    assert not (tmp_path / "adapted").exists()


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.zeros([0, 28, 28, 1]), "at least one manipulated input"),
        (np.zeros([2, 28, 28]), "inputs to fine-tune on: shape"),
        (np.full([2, 28, 28, 1], 2.0), r"\[0, 1\] is allowed"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path, trained, bars, x, sentence):
    with pytest.raises(InputError, match=sentence):
        finetune(trained, Workdir(tmp_path / "a"), FinetuneConfig(), clean=bars.train, unlabelled=x)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TrainingConfig(epochs=0), "epochs=0 was given; it must be at least 1"),
        (lambda: TrainingConfig(learning_rate=0.0), "learning_rate=0 was given"),
        (lambda: TrainingConfig(augment_weight=1.5), r"must be in \[0, 1\]"),
        (lambda: TrainingConfig(schedule="cosinus"), "did you mean 'cosine'"),
        (lambda: TrainingConfig(keep="newest"), "unknown keep 'newest'"),
        (lambda: TrainingConfig(precision="bfloat16"), "did you mean 'mixed_bfloat16'"),
        (lambda: TrainingConfig(augment="vertical_shft:1"), "did you mean 'vertical_shift'"),
        (lambda: FinetuneConfig(fraction=0.0), "steps=600, sleep=0 and fraction=0 were given"),
        (lambda: FinetuneConfig(steps=0, warm_up=9), "sleep=0 and fraction=0.5 were given"),
        (lambda: FinetuneConfig(steps=0, fraction=0.0), "none of steps, warm_up and sleep was"),
        (lambda: FinetuneConfig(fraction=1.1), r"fraction=1.1 was given; it must be in \[0, 1\]"),
        (lambda: FinetuneConfig(warm_up=-1), "warm_up=-1 was given; it must be at least 0"),
        (
            lambda: FinetuneConfig(steps=0, sleep=9, curriculum=9),
            "curriculum=9 was given; it paces",
        ),
        (lambda: FinetuneConfig(dreams=-1.0), "dreams=-1 was given; it must be at least 0"),
        (lambda: FinetuneConfig(prior_m="clas"), "did you mean 'class'"),
        (lambda: FinetuneConfig(mechanism="rotatoin"), "did you mean 'rotation'"),
        (lambda: FinetuneConfig(clean="do_m"), "did you mean 'do_m0'"),
        (lambda: FinetuneConfig(alpha=-0.1), r"alpha=-0.1 was given; it must be in \[0, 1\]"),
    ],
)
def test_bad_choices_are_one_clear_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_configurations_survive_their_json():
    config = dataclasses.replace(configuration("cama"), finetuned=FinetuneConfig(subject="x"))
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    broken = config.to_json()
    del broken["seed"]
    with pytest.raises(InputError, match="lacks seed"):
        RunConfig.from_json(broken)
    with pytest.raises(InputError, match=r"unknown key of config\.json 'sed'"):
        RunConfig.from_json({**broken, "sed": 0})


@pytest.mark.parametrize(
    "change",
    [{"model": 5}, {"seed": "x"}, {"earlier": 5}, {"finetuned": []}, {"input_spec": {"shape": 3}}],
)
def test_a_damaged_configuration_is_one_clear_sentence(change):
    value = configuration().to_json()
    with pytest.raises(InputError, match=r"must be|damaged|lacks"):
        RunConfig.from_json(value | change)


def test_metrics_that_were_torn_are_redone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n{"epoch": null}\n\xff\xfe\n{"epoch": 2}\n')
    callbacks.MetricsLog(path, initial_epoch=1)
    assert path.read_text() == '{"epoch": 1}\n'
