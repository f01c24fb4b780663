import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.binaries import call
from tfcama.errors import InputError
from tfcama.serving import batching, operations
from tfcama.serving.answers import Answers
from tfcama.serving.operations import Deployment
from tfcama.serving.server import messages
from tfcama.serving.server.manager import version_directories

COMMITTED = Path(__file__).parents[2] / "export" / "config"
DEMO = Deployment("cama", stable=1, rows=8)


def parsed(text):
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def base(tmp_path, *versions):
    for version in versions:
        directory = tmp_path / "cama" / str(version)
        directory.mkdir(parents=True)
        (directory / "tfcama.json").write_text(json.dumps({"limits": {"rows_together": 5}}))
    return tmp_path / "cama"


def test_the_committed_files_are_those_of_the_demo():
    made = operations.files(DEMO)
    for name, text in made.items():
        assert (COMMITTED / name).read_text() == text
    assert operations.read(COMMITTED) == DEMO
    others = {path.name for path in COMMITTED.iterdir() if path.suffix != ".py"} - set(made)
    assert others <= {"__pycache__", operations.STATE}


def test_models_config_loads_both_versions_and_labels_them():
    config = parsed(operations.files(Deployment("cama", stable=3, canary=4))["models.config"])
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("cama", "/models/cama")
    assert model.model_platform == "tensorflow"
    assert list(model.model_version_policy.specific.versions) == [3, 4]
    assert dict(model.version_labels) == {"stable": 3, "canary": 4}


def test_without_a_canary_one_version_is_loaded():
    (model,) = parsed(operations.files(DEMO)["models.config"]).model_config_list.config
    assert list(model.model_version_policy.specific.versions) == [1]
    assert dict(model.version_labels) == {"stable": 1}


def test_batching_parameters_are_read_and_split_large_requests():
    text = operations.files(Deployment("cama", stable=1, rows=8, cores=3))[
        "batching_parameters.txt"
    ]
    parameters = text_format.Parse(text, messages.BatchingParameters())
    assert parameters.max_execution_batch_size.value == 8
    assert parameters.enable_large_batch_splitting.value
    assert parameters.num_batch_threads.value == 3
    # The largest request that is taken fits the queue, in parts.
    parts = parameters.max_batch_size.value / parameters.max_execution_batch_size.value
    assert parts < parameters.max_enqueued_batches.value


def test_a_version_brings_its_own_parameters(export, loaded):
    text = (export / "1" / batching.FILE).read_text()
    parameters = text_format.Parse(text, messages.BatchingParameters())
    rows = batching.rows_together(Answers(loaded.classifier, seed=[0, 0]))
    assert parameters.max_execution_batch_size.value == rows
    assert not parameters.HasField("num_batch_threads")  # the server's


def test_docker_compose_runs_the_server_with_these_files():
    made = operations.files(DEMO)
    compose = yaml.safe_load(made["docker-compose.yaml"])
    service = compose["services"]["cama"]
    assert service["image"].startswith("tensorflow/serving:")
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    for argument in service["command"]:
        flag, _, value = argument.partition("=")
        assert flag.startswith("--")
        if value.startswith("/config/"):
            assert value.removeprefix("/config/") in made
    assert service["deploy"]["resources"]["limits"] == {"cpus": "2", "memory": "2G"}
    scrape = yaml.safe_load(made["prometheus.yaml"])["scrape_configs"][0]
    assert scrape["metrics_path"] in made["monitoring.config"]
    assert scrape["static_configs"][0]["targets"] == ["cama:8501"]


def test_kubernetes_mounts_the_same_configuration():
    made = operations.files(Deployment("cama", stable=3, canary=4, replicas=3, memory="512Mi"))
    config, deployment, service = yaml.safe_load_all(made["kubernetes.yaml"])
    assert set(config["data"]) == {"models.config", "batching_parameters.txt", "monitoring.config"}
    assert parsed(config["data"]["models.config"]) == parsed(made["models.config"])
    text_format.Parse(config["data"]["batching_parameters.txt"], messages.BatchingParameters())
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    compose = yaml.safe_load(made["docker-compose.yaml"])
    assert container["args"] == compose["services"]["cama"]["command"]
    ready = container["readinessProbe"]["httpGet"]["path"]
    assert ready == "/v1/models/cama/labels/stable/metadata"  # the state alone is always answered
    assert container["resources"]["limits"]["memory"] == "512Mi"
    assert deployment["spec"]["replicas"] == 3
    assert service["spec"]["selector"] == pod["metadata"]["labels"] == {"app": "cama"}
    model = operations.files(Deployment("measurement_cama", stable=1))["kubernetes.yaml"]
    for resource in yaml.safe_load_all(model):
        assert resource["metadata"]["name"] == "measurement-cama"
    for name in ("on", "null"):  # words of YAML's own
        made = operations.files(Deployment(name, stable=1))
        assert set(yaml.safe_load(made["docker-compose.yaml"])["services"]) == {name, "prometheus"}
        assert yaml.safe_load(made["prometheus.yaml"])["scrape_configs"][0]["job_name"] == name
        for resource in yaml.safe_load_all(made["kubernetes.yaml"]):
            assert resource["metadata"]["name"] == name
        assert resource["spec"]["selector"] == {"app": name}
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_versions_are_those_of_the_base_path(tmp_path):
    found = base(tmp_path, 1, 2, 10)
    (found / ".11-77").mkdir()  # half published
    newest = operations.deployment(found, stable=None, canary=None)
    assert (newest.name, newest.stable, newest.canary, newest.rows) == ("cama", 10, None, 5)
    assert operations.deployment(found, stable=None, canary=10).labels == {
        "stable": 2,
        "canary": 10,
    }
    for wrong in ({"stable": 3, "canary": None}, {"stable": 1, "canary": 11}):
        with pytest.raises(InputError, match=r"has no version .* it has 1, 2, 10"):
            operations.deployment(found, **wrong)
    with pytest.raises(InputError, match="no version that could be stable"):
        operations.deployment(tmp_path / "nothing", stable=None, canary=None)
    (found / "3²").mkdir()
    (found / "3²" / "tfcama.json").touch()
    for name in ("0011", "١٢"):  # int() reads both
        (found / name).mkdir()
        (found / name / "tfcama.json").write_text('{"limits": {"rows_together": 5}}')
    assert operations.versions(found) == sorted(version_directories(found)) == [1, 2, 10]
    (tmp_path / "prod").symlink_to(found)
    assert operations.deployment(tmp_path / "prod", stable=None, canary=None).name == "prod"
    (found / "10" / "tfcama.json").write_text("{}")
    with pytest.raises(InputError, match=r"tfcama.json lacks 'limits'; export the run again"):
        operations.deployment(found, stable=None, canary=None)


def test_other_resources_leave_the_labels_where_they_are(tmp_path):
    found, out = base(tmp_path, 1, 2, 3, 4), tmp_path / "deploy"
    operations.write(Deployment("cama", stable=2, canary=3, previous=1), out)
    flags = ("export.config", f"--model_base_path={found}", f"--out={out}")
    assert call(*flags, "--cores=7").returncode == 0
    after = operations.read(out)
    assert (after.labels, after.cores) == ({"stable": 2, "canary": 3, "previous": 1}, 7)


@pytest.mark.parametrize(
    ("named", "labels"),
    [
        (["--canary=4"], {"stable": 2, "canary": 4, "previous": 1}),
        (["--stable=2"], {"stable": 2, "canary": 3, "previous": 1}),
        (["--stable=4"], {"stable": 4, "canary": 3, "previous": 2}),
        (["--stable=3"], {"stable": 3, "previous": 2}),  # the canary has become stable
        (["--stable=1", "--canary=4"], {"stable": 1, "canary": 4, "previous": 2}),
    ],
)
def test_a_version_that_is_named_moves_no_other_label(tmp_path, named, labels):
    found, out = base(tmp_path, 1, 2, 3, 4), tmp_path / "deploy"
    operations.write(Deployment("cama", stable=2, canary=3, previous=1), out)
    done = call("export.config", f"--model_base_path={found}", f"--out={out}", *named)
    assert done.returncode == 0, done.stderr
    assert operations.read(out).labels == labels


def test_what_is_gone_does_not_become_previous(tmp_path):
    found, out = base(tmp_path, 3, 4), tmp_path / "deploy"
    operations.write(Deployment("cama", stable=2, previous=1), out)
    done = call("export.config", f"--model_base_path={found}", f"--out={out}", "--stable=4")
    assert done.returncode == 0, done.stderr
    assert operations.read(out).labels == {"stable": 4}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "My model"}, "small letters, digits, '-' and '_' are allowed"),
        ({"name": "3d_digits"}, "the first a letter"),
        ({"name": "a" * 64}, "at most 63"),
        ({"canary": 0}, "version 0 cannot be canary; it must be at least 1"),
        ({"stable": 2**63}, "cannot be stable; it must be at least 1 and below"),
        (
            {"models": "/"},
            "models=/ was given; an absolute path is needed, but neither / nor /config",
        ),
        ({"models": "exports"}, "an absolute path is needed"),
        ({"models": "/config/"}, "neither / nor /config"),
        (
            {"image": 'bad image: "x"'},
            'image=bad image: "x" was given; one like tensorflow/serving',
        ),
        ({"canary": 1}, "version 1 cannot be stable and canary at once"),
        ({"previous": 1}, "version 1 cannot be stable and previous at once"),
        ({"memory": "2 GB"}, "a number of Mi or Gi is needed"),
        ({"cores": 0}, "cores=0 was given"),
    ],
)
def test_what_no_server_could_be_told_is_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Deployment(**{"name": "cama", "stable": 1, **options})


def test_files_are_written_together(tmp_path):
    written = operations.write(DEMO, tmp_path / "deploy")
    assert {path.name for path in written} == {*operations.files(DEMO), operations.STATE}
    assert sorted(path.name for path in (tmp_path / "deploy").iterdir()) == sorted(
        path.name for path in written
    )


def test_a_version_comes_as_canary_is_promoted_and_is_rolled_back():
    first = Deployment("cama", stable=3, cores=7)
    trial = first.with_canary(4)
    assert trial == trial.with_canary(4) == dataclasses.replace(first, canary=4)
    with pytest.raises(InputError, match=r"version 4 is canary; --rollback it .* then take 5\."):
        trial.with_canary(5)
    promoted = trial.promoted()
    assert promoted.labels == {"stable": 4, "previous": 3}
    (model,) = operations.models_config([promoted]).model_config_list.config
    assert list(model.model_version_policy.specific.versions) == [3, 4]  # 3 is there to go back to
    assert trial.rolled_back() == first
    assert promoted.rolled_back() == first  # cores and all
    second = dataclasses.replace(promoted, canary=5)
    assert second.labels == {"stable": 4, "canary": 5, "previous": 3}
    assert second.rolled_back() == promoted  # one step
    with pytest.raises(InputError, match="no canary to promote; version 3 is stable"):
        first.promoted()
    with pytest.raises(InputError, match=r"neither a canary nor .* version 3 stays stable"):
        first.rolled_back()


def test_what_was_written_is_read_and_other_directories_are_refused(tmp_path):
    made = Deployment("cama", stable=3, canary=4, previous=2, memory="1Gi", models="/m")
    operations.write(made, tmp_path)
    assert operations.read(tmp_path) == made
    with pytest.raises(InputError, match=r"holds no deployment.json"):
        operations.read(tmp_path / "nowhere")
    (tmp_path / operations.STATE).write_text('{"name": "cama"}')
    with pytest.raises(InputError, match=r"deployment.json cannot be read"):
        operations.read(tmp_path)


@pytest.mark.parametrize(
    "flag", ["port=65536", "rest_api_port=65536", "shutdown_grace_seconds=inf"]
)
def test_flags_that_no_server_can_have_are_refused(tmp_path, flag):
    done = call("export.serve", f"--model_base_path={tmp_path}", f"--{flag}", timeout=20.0)
    assert done.returncode != 0
    assert "flag --" + flag in done.stderr


def test_a_canary_that_no_server_would_take_is_refused(tmp_path):
    """A server moves no label to a version that it has not loaded yet."""
    found = base(tmp_path, 3, 4)
    before = Deployment("cama", stable=3, models=str(found.parent))
    operations.write(before, tmp_path / "deploy")
    for version, sentence in ((7, "has no version 7; it has 3, 4."), (0, "cannot be canary")):
        done = call("export.rollout", f"--config={tmp_path / 'deploy'}", f"--canary={version}")
        assert done.returncode == 2
        assert sentence in done.stderr
        assert operations.read(tmp_path / "deploy") == before
    for version, status in ((4, 0), (5, 2)):
        done = call("export.rollout", f"--config={tmp_path / 'deploy'}", f"--canary={version}")
        assert done.returncode == status, done.stderr
        assert operations.read(tmp_path / "deploy").canary == 4
    assert "version 4 is canary; --rollback it and wait" in done.stderr
    (found / "4" / "tfcama.json").unlink()
    done = call("export.rollout", f"--config={tmp_path / 'deploy'}", "--promote")
    assert "version 4 has no tfcama.json; export.export_saved_model makes it." in done.stderr
    assert operations.read(tmp_path / "deploy").stable == 3


def test_a_rollout_looks_where_the_configuration_was_written(tmp_path):
    """Servers of another machine see another path, here /models."""
    found = base(tmp_path, 3, 4)
    deploy = tmp_path / "deploy"
    done = call("export.config", f"--model_base_path={found}", "--stable=3", f"--out={deploy}")
    assert done.returncode == 0, done.stderr
    assert operations.read(deploy).models == "/models"
    assert f"mount {tmp_path} as /models, or, for a server on this machine, add --models=" in (
        done.stdout
    )
    done = call("export.rollout", f"--config={deploy}", "--canary=7")
    assert done.returncode == 2
    assert f"{found} has no version 7; it has 3, 4." in done.stderr
    found.rename(tmp_path / "elsewhere")
    done = call("export.rollout", f"--config={deploy}", "--canary=7")
    assert done.returncode == 0
    assert f"{found} is not on this machine; nobody looked for version 7." in done.stdout


def test_rolling_back_is_one_command(tmp_path):
    operations.write(Deployment("cama", stable=4, previous=3), tmp_path)
    done = call("export.rollout", f"--config={tmp_path}", "--rollback")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "cama: stable 4, previous 3  ->  stable 3\n"
    (model,) = parsed((tmp_path / "models.config").read_text()).model_config_list.config
    assert dict(model.version_labels) == {"stable": 3}
    assert operations.read(tmp_path) == Deployment("cama", stable=3)
