"""Adapting to what was served: only a better model appears, and only as canary."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests.binaries import call
from tests.serving.conftest import untrained
from tests.training.test_runs import KillAt, KilledError
from tests.training.test_table_runs import configuration
from tfcama.data import manipulations, tables
from tfcama.data.measurement import MeasurementConfig
from tfcama.errors import InputError
from tfcama.evaluation.predict import Predictor, mean_log_px, scores_by_group
from tfcama.serving import description, operations, redeploy, served
from tfcama.serving import publish as publishing
from tfcama.serving.publish import fingerprint, publish, version_of
from tfcama.serving.redeploy import Comparison, Conditions, Measured
from tfcama.studies import steps
from tfcama.training import run
from tfcama.training.config import default_finetuning, set_at_test
from tfcama.types import CHILD
from tfcama.workdir import Workdir

STEPS = 150
DATA = MeasurementConfig(validation_rows=300)  # the gate allows a point: not one row of fifty


@pytest.fixture(scope="module", autouse=True)
def unchecked():
    """Whether an export answers as its model does is tested where it is published."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publishing, "_compare", lambda *a: None)
        yield


@pytest.fixture(scope="module")
def dataset():
    return run.load_data(configuration("measurement", DATA), data_dir=None)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The run directory of a small CAMA that answers clean rows well."""
    workdir = Workdir(tmp_path_factory.mktemp("base"))
    config = configuration(
        "measurement", DATA, steps_per_epoch=2000, batch_size=64, warmup_steps=50
    )
    run.train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def published(base, dataset, tmp_path_factory):
    """That run as version 1."""
    path = tmp_path_factory.mktemp("exports") / "cama"
    return publish(run.load(base), path, clean=dataset.validation)


@pytest.fixture
def stable(published, tmp_path):
    """A base path with that version."""
    shutil.copytree(published, tmp_path / "exports" / "cama" / "1")
    return tmp_path / "exports" / "cama"


@pytest.fixture(scope="module")
def shifted(dataset):
    """Rows of recalibrated instruments, as they come back from a file."""
    moved = manipulations.parse("children_shift:3").fit(dataset)
    return served.distinct(manipulations.manipulate(dataset.test, moved, seed=0).x)


def finetuning(base, x, **changed):
    config = default_finetuning(run.load(base).config)
    subject = redeploy.subject_of("rows.csv", x)
    return dataclasses.replace(config, subject=subject, steps=STEPS, **changed)


def adapt(base, x, export_dir, config_dir, **options):
    config = finetuning(base, x, **options.pop("changed", {}))
    return redeploy.redeploy(
        base,
        options.pop("target", steps.finetuned_workdir(base, config)),
        config,
        served=x,
        export_dir=export_dir,
        config_dir=config_dir,
        **{"progress": lambda line: None, **options},
    )


def files(path):
    return {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.long
def test_a_better_model_is_published_as_canary_and_the_stable_one_stays(
    base, stable, shifted, tmp_path
):
    """Interrupted twice: in the fine-tuning, and between its end and the publication."""
    before = files(stable)
    target, deploy = Workdir(tmp_path / "adapted"), tmp_path / "deploy"

    def killed(*arguments, **options):
        return real(*arguments, **options, extra_callbacks=(KillAt(120),))

    def full(*arguments, **options):
        raise InputError("the disk is full")

    with pytest.MonkeyPatch.context() as patch:
        real = redeploy.finetune
        patch.setattr(redeploy, "finetune", killed)
        with pytest.raises(KilledError):
            adapt(base, shifted, stable, deploy, target=target)
        patch.setattr(redeploy, "finetune", real)
        patch.setattr(redeploy, "publish", full)
        with pytest.raises(InputError, match="the disk is full"):
            adapt(base, shifted, stable, deploy, target=target)
    assert files(stable) == before
    assert operations.read(deploy).labels == {"stable": 1}  # whatever is published from now on
    epochs = [json.loads(line)["epoch"] for line in target.metrics_file.read_text().splitlines()]
    assert epochs == [1, 2, 3]  # the killed one continued
    told = []
    outcome = adapt(base, shifted, stable, deploy, target=target, progress=told.append)
    assert outcome.refusal is None
    found = outcome.comparison
    assert found.gain > 10 * found.standard_error > 0
    assert found.after.served_log_px - found.before.served_log_px == pytest.approx(
        found.gain, rel=1e-3
    )
    assert f"published {stable / '2'}" in told
    assert {path: content for path, content in files(stable).items() if path in before} == before
    assert operations.read(deploy) == outcome.deployment
    assert outcome.deployment.labels == {"stable": 1, "canary": 2}
    assert outcome.deployment.models == str(stable.parent)
    adapted = run.load(target).classifier
    again = redeploy.published_model(stable / "2").classifier
    assert fingerprint(again.variables) == fingerprint(adapted.variables)
    assert description.read(stable / "2")["config"]["finetuned"]["subject"].startswith("rows.csv ")
    # Of the same variables, what predicts in another way is another version.
    same = run.load(target)
    assert version_of(same, stable) == 2
    other = dataclasses.replace(same.config.architecture, m_samples=32)
    other = dataclasses.replace(same.config, architecture=other)
    assert version_of(same._replace(config=other), stable) is None
    # The same again changes nothing, and what is stable by now is no gain over itself.
    after = files(stable)
    assert adapt(base, shifted, stable, deploy, target=target).deployment == outcome.deployment
    operations.write(outcome.deployment.promoted(), deploy)
    assert "no sure gain" in adapt(base, shifted, stable, deploy, target=target).refusal
    assert files(stable) == after


def test_labels_that_moved_meanwhile_stay(base, stable, shifted, tmp_path, monkeypatch):
    shutil.copytree(stable / "1", stable / "2")
    deploy = tmp_path / "deploy"
    operations.write(operations.Deployment("cama", stable=2, previous=1), deploy)

    def trained(*arguments, **options):
        operations.write(operations.read(deploy).rolled_back(), deploy)
        return run.load(base)

    better = Comparison(100, 50, measured(0.97), measured(0.97), 9.0, 1.0)
    monkeypatch.setattr(redeploy, "finetune", trained)
    monkeypatch.setattr(redeploy, "compare", lambda *arguments, **options: better)
    with pytest.raises(InputError, match="version 1 became stable meanwhile; run it again"):
        adapt(base, shifted, stable, deploy)
    assert operations.read(deploy).labels == {"stable": 1}
    # A second canary is refused before anything is trained.
    monkeypatch.setattr(redeploy, "finetune", None)
    operations.write(operations.Deployment("cama", stable=1, canary=2), deploy)
    with pytest.raises(InputError, match=r"version 2 is canary; --rollback it .* then take 3"):
        adapt(base, shifted, stable, deploy)


def test_a_poisoned_batch_is_refused_with_a_sentence_and_a_table(base, stable, dataset, tmp_path):
    """Noise in place of children, and nothing that holds the model to its clean data."""
    noise = dataset.test.x.copy()
    children = dataset.spec.features(CHILD)
    noise[:, children] = np.random.default_rng(0).uniform(-10, 10, noise[:, children].shape)
    tables.decode(dataset.spec, noise).to_csv(tmp_path / "noise.csv", index=False)
    before = files(stable)
    flags = [f"--workdir={base.root}", f"--export_dir={stable}", f"--target={tmp_path / 'adapted'}"]
    flags += [f"--csv={tmp_path / 'noise.csv'}", f"--config={tmp_path / 'deploy'}"]
    flags += [f"--steps={STEPS}", "--set", "alpha=0", "--set", "learning_rate=0.01"]
    done = call("export.adapt", *flags)
    assert done.returncode == 2, done.stderr
    assert "error: refused: accuracy on clean validation data fell by" in done.stderr
    assert "Nothing was published; version 1 stays stable." in done.stderr
    for told in ("accuracy on clean validation data", "log p(x) of held-out served inputs"):
        assert told in done.stdout
    assert files(stable) == before
    assert not (tmp_path / "deploy").exists()


def measured(accuracy):
    return Measured(accuracy, -1.0, -2.0)


@pytest.mark.parametrize(
    ("after", "gain", "error", "refusal"),
    [
        (0.96, 9.0, 1.0, None),
        (0.949, 9.0, 1.0, "accuracy on clean validation data fell by 2.10 points, 2 are allowed"),
        (float("nan"), 9.0, 1.0, "accuracy on clean validation data fell by"),
        (0.97, 1.9, 1.0, r"changed by 1.90 ± 1.00 nats, which is no sure gain"),
        (0.97, -9.0, 1.0, r"changed by -9.00 ± 1.00 nats"),
        (0.97, float("nan"), 1.0, "which is no sure gain"),
        (0.97, 9.0, float("nan"), "which is no sure gain"),
    ],
)
def test_what_is_refused(after, gain, error, refusal):
    found = Comparison(100, 50, measured(0.97), measured(after), gain, error)
    sentence = found.refusal(Conditions(max_clean_drop=0.02))
    assert sentence is None if refusal is None else refusal in sentence


def test_inputs_are_held_out_by_the_seed_and_too_few_are_refused():
    x = np.arange(80, dtype=np.float32)[:, None]
    adapted_on, held = redeploy.split_served(x, share=0.25, seed=1)
    assert len(held) == 20
    assert sorted(np.concatenate([adapted_on, held]).ravel()) == x.ravel().tolist()
    np.testing.assert_array_equal(held, redeploy.split_served(x, share=0.25, seed=1)[1])
    assert not np.array_equal(held, redeploy.split_served(x, share=0.25, seed=2)[1])
    with pytest.raises(InputError, match=r"76 different inputs.* at least 80 are needed"):
        redeploy.split_served(x[:76], share=0.25, seed=1)
    for options in ({"held_out": 1.0}, {"max_clean_drop": -0.1}):
        with pytest.raises(InputError, match="was given; it must be in"):
            Conditions(**options)


@pytest.mark.long
def test_who_looks_longer_is_no_better_model(base, dataset, shifted):
    """Eq. 6 rises with its samples: the same variables gain nothing by more of them."""
    loaded = run.load(base)
    before = redeploy.Model(loaded.config, loaded.classifier)
    at_test = ["m_samples=8", "num_samples=40", "z_steps=2", "m_starts=2"]
    after = redeploy.Model(
        set_at_test(loaded.config, at_test),
        run.answering_by(at_test, loaded.config, loaded.classifier),
    )
    asked = {"clean": dataset.validation, "seed": 0}
    raw = [
        mean_log_px(scores_by_group(Predictor(m.classifier, seed=0), shifted))
        for m in (before, after)
    ]
    assert raw[1] > raw[0] + 0.1
    found = redeploy.compare(before, after, served=shifted, **asked)
    assert found.gain == 0.0
    assert "no sure gain" in found.refusal(Conditions(max_clean_drop=1.0))


def test_what_cannot_be_adapted_is_refused_before_anything_is_trained(
    base, stable, shifted, spec, bars, tmp_path
):
    deploy = tmp_path / "deploy"
    with pytest.raises(InputError, match="has no version that could be stable"):
        adapt(base, shifted, tmp_path / "nothing", deploy)
    operations.write(operations.Deployment("other", stable=1), deploy)
    with pytest.raises(InputError, match="deploys 'other', not 'cama'"):
        adapt(base, shifted, stable, deploy)
    operations.write(operations.Deployment("cama", stable=7), deploy)
    with pytest.raises(InputError, match="lacks version 7"):
        adapt(base, shifted, stable, deploy)
    other = untrained("dnn", spec, tmp_path / "run")
    publish(other, tmp_path / "cama")
    with pytest.raises(InputError, match="takes other inputs than"):
        adapt(base, shifted, tmp_path / "cama", tmp_path / "config")
    model = redeploy.Model(other.config, other.classifier)
    with pytest.raises(InputError, match="a model without log p"):
        redeploy.compare(model, model, clean=bars.test, served=bars.test.x, seed=0)
    (tmp_path / "cama" / "1" / "tfcama.json").unlink()
    with pytest.raises(InputError, match=r"has no tfcama\.json"):
        redeploy.published_model(tmp_path / "cama" / "1")
