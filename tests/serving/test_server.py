"""What the local server promises beyond the protocol: versions, faults, limits, its end."""

import contextlib
import gzip
import http.client
import json
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from export import serve as serve_binary
from tests.serving.endpoints import (
    Endpoint,
    ServeProcess,
    ask,
    config,
    free_port,
    save_tiny,
    until,
)
from tfcama.errors import InputError
from tfcama.serving import description, operations
from tfcama.serving.client import Client
from tfcama.serving.errors import Code, ServingError
from tfcama.serving.retry import Retry
from tfcama.serving.server import messages
from tfcama.serving.server.batching import Batcher
from tfcama.serving.server.config import Batching, Limits, problem, read_batching, read_models
from tfcama.serving.server.origins import Origins
from tfcama.serving.server.request_log import RequestLog
from tfcama.serving.server.server import Server

X = {"instances": [[1.0, 0.5, 0.0]]}
PREDICT = "/v1/models/tiny:predict"


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Directories of versions 1 and 2, to be copied from."""
    base = tmp_path_factory.mktemp("versions")
    return {number: save_tiny(base / str(number), factor=number) for number in (1, 2)}


@pytest.fixture
def base(versions, tmp_path):
    """A base path with version 1."""
    shutil.copytree(versions[1], tmp_path / "tiny" / "1")
    return tmp_path / "tiny"


@pytest.fixture
def serve(base):
    """Starts a server of `base`, or of other models; it looks for versions all the time."""
    with contextlib.ExitStack() as stack:

        def start(models=None, **options):
            made = Server(models or config(("tiny", base, "")), poll=0.02, **options)
            stack.callback(made.stop)
            made.endpoint = Endpoint(
                f"127.0.0.1:{made.grpc_port}", f"http://127.0.0.1:{made.rest_port}"
            )
            return made

        yield start


@pytest.fixture
def stub():
    """Stubs of an endpoint's two services."""
    with contextlib.ExitStack() as stack:

        def open_(endpoint):
            channel = stack.enter_context(grpc.insecure_channel(endpoint.grpc))
            return (
                prediction_service_pb2_grpc.PredictionServiceStub(channel),
                model_service_pb2_grpc.ModelServiceStub(channel),
                channel,
            )

        yield open_


def publish(source, base, number):
    """As export does it: whole, or not there."""
    shutil.copytree(source, base / f"temp-{number}")
    (base / f"temp-{number}").rename(base / str(number))


def states(server, model="tiny"):
    status, answer = ask(server.endpoint, f"/v1/models/{model}")
    assert status == 200
    return {int(v["version"]): v["state"] for v in answer["model_version_status"]}


def first(server):
    """What it answers to X: the version's factor."""
    status, answer = ask(server.endpoint, PREDICT, X)
    assert status == 200, answer
    return answer["predictions"][0][0]


def request(value=1.0, signature="", *, rows=1):
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = "tiny", signature
    if signature == "slow":
        made.inputs["steps"].CopyFrom(tf.make_tensor_proto([int(value)], tf.int32))
    else:
        x = np.full([rows, 3], value, np.float32)
        made.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
    return made


def asked(path):
    """The signatures of a log's requests."""
    logs = map(prediction_log_pb2.PredictionLog.FromString, records(path))
    return [
        getattr(log, log.WhichOneof("log_type")).request.model_spec.signature_name for log in logs
    ]


def records(path):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def test_requests_that_were_answered_are_logged(serve, stub, tmp_path):
    path = tmp_path / "requests.tfrecord"
    server = serve(request_log=RequestLog(path))
    predict, _, _ = stub(server.endpoint)
    assert ask(server.endpoint, PREDICT, X)[0] == 200
    predict.Predict(request(0.5))
    examples = {"signature_name": "classify", "examples": [{"x": [0.1, 0.2, 0.3]}]}
    assert ask(server.endpoint, "/v1/models/tiny:classify", examples)[0] == 200
    assert ask(server.endpoint, PREDICT, {"instances": [[7.0, 0.0, 0.0]]})[0] == 400
    with pytest.raises(grpc.RpcError):
        predict.Predict(request(7.0))
    assert asked(path) == ["serving_default", "serving_default", "classify"]
    first, second, third = map(prediction_log_pb2.PredictionLog.FromString, records(path))
    for log, x in ((first, [[1.0, 0.5, 0.0]]), (second, [[0.5] * 3])):
        tensor = log.predict_log.request.inputs["x"]
        np.testing.assert_array_equal(tf.make_ndarray(tensor), x)
        assert not log.predict_log.HasField("response")
        assert log.log_metadata.model_spec.version.value == 1
        assert log.log_metadata.sampling_config.sampling_rate == 1.0
    assert third.classify_log.request.input.example_list.examples[0].features.feature["x"]


def test_what_is_no_log_of_requests_stays_where_it_is(tmp_path):
    thesis, note, empty = (tmp_path / name for name in ("thesis.txt", "note", "empty"))
    thesis.write_text("years of work")
    note.write_text("mine")
    examples = tmp_path / "examples.tfrecord"
    with tf.io.TFRecordWriter(str(examples)) as writer:
        writer.write(tf.train.Example().SerializeToString())
    for path in (tmp_path, thesis, note, examples):
        with pytest.raises(InputError, match=f"{path} is there and is no log of requests"):
            RequestLog(path)
    empty.touch()
    RequestLog(empty).close()


# Versions


def test_a_version_published_while_requests_run_takes_over_without_an_error(serve, base, versions):
    server = serve()
    answers, errors = [], []
    end = threading.Event()

    def hammer():
        with Client(server.endpoint.grpc, model="tiny") as client:
            while not end.is_set():
                try:
                    answers.append(float(client.predict({"x": [[1.0, 0, 0]]})["y"][0, 0]))
                except ServingError as error:
                    errors.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) > 20)
    publish(versions[2], base, 2)
    until(lambda: states(server) == {2: "AVAILABLE", 1: "END"})
    asked = len(answers)
    until(lambda: len(answers) > asked + 20)
    end.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert answers == sorted(answers), "an old answer after a new one"
    assert set(answers) == {1.0, 2.0}


def without_variables(path):
    shutil.rmtree(path / "variables")


def without_graph(path):
    (path / "saved_model.pb").unlink()


def cut(path, name):
    file = path / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(path, name):
    file = path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def rewrite(path):
    """Another graph, which parses, than the one that tfcama.json tells of."""
    (path / description.FILE).write_text(
        json.dumps({description.CHECKSUM: description.checksum(path)})
    )
    file = path / "saved_model.pb"
    content = file.read_bytes()
    assert b"must be in [-1, 1]" in content
    file.write_bytes(content.replace(b"must be in [-1, 1]", b"must be in [-9, 9]"))


VARIABLES = "variables/variables.data-00000-of-00001"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: without_variables(path), id="variables not copied yet"),
        pytest.param(lambda path: without_graph(path), id="graph not copied yet"),
        pytest.param(lambda path: cut(path, VARIABLES), id="variables half-copied"),
        pytest.param(lambda path: cut(path, "saved_model.pb"), id="graph half-copied"),
        pytest.param(lambda path: flip(path, VARIABLES), id="variables corrupt"),
        pytest.param(lambda path: flip(path, "variables/variables.index"), id="index corrupt"),
        pytest.param(
            lambda path: (path / "saved_model.pb").write_bytes(b"no graph"), id="graph corrupt"
        ),
        pytest.param(rewrite, id="another graph than was published"),
    ],
)
def test_a_damaged_version_is_reported_and_the_old_one_goes_on(serve, base, versions, damage):
    server = serve()
    broken = base.parent / "broken"
    shutil.copytree(versions[2], broken)
    damage(broken)
    publish(broken, base, 2)
    until(lambda: states(server).get(2) == "END")
    assert first(server) == 1.0
    assert states(server)[1] == "AVAILABLE"
    _, answer = ask(server.endpoint, "/v1/models/tiny/versions/2")
    (status,) = answer["model_version_status"]
    assert status["status"]["error_code"] != "OK"
    assert str(base / "2") in status["status"]["error_message"]
    assert ask(server.endpoint, "/v1/models/tiny/versions/2:predict", X)[0] == 404
    # What was half-copied is loaded once the copy is whole.
    shutil.copytree(versions[2], base / "2", dirs_exist_ok=True)
    until(lambda: first(server) == 2.0)


def warm_up(path, *requests):
    (path / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for made in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(made)
            writer.write(log.SerializeToString())


def test_a_version_whose_warm_up_fails_is_not_served(serve, base, versions):
    server = serve()
    for number, value, state in ((2, 7.0, "END"), (3, 1.0, "AVAILABLE")):
        path = base.parent / f"warm-{number}"
        shutil.copytree(versions[2], path)
        warm_up(path, request(1.0), request(value))
        publish(path, base, number)
        until(lambda number=number, state=state: states(server).get(number) == state)
    _, answer = ask(server.endpoint, "/v1/models/tiny/versions/2")
    message = answer["model_version_status"][0]["status"]["error_message"]
    assert "warm-up record 1" in message
    assert "must be in [-1, 1]" in message


def test_too_many_warm_up_records_and_a_damaged_file_fail_the_load(serve, base, versions):
    path = base.parent / "warm"
    shutil.copytree(versions[2], path)
    warm_up(path, *[request()] * 1001)
    publish(path, base, 2)
    flip(path, "assets.extra/tf_serving_warmup_requests")
    publish(path, base, 3)
    server = serve(config(("tiny", base, "model_version_policy { all {} }")))
    assert states(server) == {3: "END", 2: "END", 1: "AVAILABLE"}
    _, answer = ask(server.endpoint, "/v1/models/tiny/versions/2")
    assert "1001 records; at most 1000" in str(answer)


def test_only_directories_whose_name_is_a_number_are_versions(serve, base, versions):
    for name in ("temp-5", "v6", ".7-123", "8.bak", "-9"):
        shutil.copytree(versions[2], base / name)
    (base / "10").write_text("no directory")
    (base / str(2**63)).mkdir()  # no message holds its number
    server = serve(config(("tiny", base, "model_version_policy { all {} }")))
    assert states(server) == {1: "AVAILABLE"}


def test_policies_choose_versions(serve, base, versions):
    for number in (2, 3):
        publish(versions[2], base, number)
    policies = {
        "": {3: "AVAILABLE"},
        "latest { num_versions: 2 }": {3: "AVAILABLE", 2: "AVAILABLE"},
        "all {}": {3: "AVAILABLE", 2: "AVAILABLE", 1: "AVAILABLE"},
        "specific { versions: 1 versions: 7 }": {1: "AVAILABLE"},
    }
    models = [
        (f"m{place}", base, f"model_version_policy {{ {policy} }}")
        for place, policy in enumerate(policies)
    ]
    server = serve(config(*models))
    for place, wanted in enumerate(policies.values()):
        assert states(server, f"m{place}") == wanted


def test_a_model_without_versions_waits_for_one(serve, base, versions):
    empty = base.parent / "empty"
    empty.mkdir()
    server = serve(config(("tiny", empty, "")))
    assert ask(server.endpoint, PREDICT, X)[0] == 404
    publish(versions[2], empty, 5)
    until(lambda: ask(server.endpoint, PREDICT, X)[0] == 200)


def test_a_base_path_that_vanishes_takes_nothing_away(serve, base):
    lines = []
    server = serve(log=lines.append)
    base.rename(base.with_name("elsewhere"))
    until(lambda: any("cannot be listed" in line for line in lines))
    assert first(server) == 1.0


# Reloading


def reload(stub, server, models):
    made = model_management_pb2.ReloadConfigRequest()
    made.config.CopyFrom(models)
    return stub(server.endpoint)[1].HandleReloadConfigRequest(made)


def test_canary_promotion_and_rollback_by_reloading_labels(serve, stub, base, versions):
    publish(versions[2], base, 2)

    def labelled(stable, canary):
        labels = f'version_labels {{ key: "stable" value: {stable} }}'
        labels += f' version_labels {{ key: "canary" value: {canary} }}'
        return config(("tiny", base, f"model_version_policy {{ all {{}} }} {labels}"))

    def answers(server):
        asked = (ask(server.endpoint, f"/v1/models/tiny/labels/{n}:predict", X) for n in labels)
        return [answer["predictions"][0][0] for _, answer in asked]

    labels = ("stable", "canary")
    server = serve(labelled(1, 2))
    assert answers(server) == [1.0, 2.0]
    assert reload(stub, server, labelled(2, 2)).status.error_code == 0
    assert answers(server) == [2.0, 2.0]
    reload(stub, server, labelled(1, 2))
    assert answers(server) == [1.0, 2.0]
    with pytest.raises(grpc.RpcError, match="FAILED_PRECONDITION") as caught:
        reload(stub, server, labelled(1, 9))
    assert "'canary' to version 9" in caught.value.details()
    assert answers(server) == [1.0, 2.0]


def test_labels_move_before_versions_go_and_to_no_version_that_is_yet_to_come(
    serve, stub, base, versions, monkeypatch
):
    """As tensorflow_model_server does it."""
    publish(versions[2], base, 2)

    def labelled(**labels):
        found = operations.Deployment("tiny", models=str(base.parent), **labels)
        return operations.models_config([found])

    server = serve(labelled(stable=1, canary=2))
    publish(versions[2], base, 3)
    with pytest.raises(grpc.RpcError, match="FAILED_PRECONDITION") as caught:
        reload(stub, server, labelled(stable=1, canary=3))
    assert "'canary' to version 3" in caught.value.details()
    assert server.manager.labels("tiny") == {"stable": 1, "canary": 2}
    assert states(server) == {2: "AVAILABLE", 1: "AVAILABLE"}
    reload(stub, server, labelled(stable=2, previous=1))
    when_unloaded = []
    unload = server.manager._unload

    def watched(entry):
        when_unloaded.append(server.manager.labels("tiny"))
        unload(entry)

    monkeypatch.setattr(server.manager, "_unload", watched)
    reload(stub, server, labelled(stable=1))
    assert when_unloaded == [{"stable": 1}]
    reload(stub, server, labelled(stable=1, canary=9))  # a new label; its version may come later
    assert ask(server.endpoint, "/v1/models/tiny/labels/canary:predict", X)[0] == 404


def test_models_come_and_go_and_move(serve, stub, base, versions, tmp_path):
    server = serve()
    other = tmp_path / "other"
    shutil.copytree(versions[2], other / "1")
    reload(stub, server, config(("tiny", base, ""), ("second", other, "")))
    assert states(server, "second") == {1: "AVAILABLE"}
    reload(stub, server, config(("tiny", other, "")))  # the same number, another version
    assert first(server) == 2.0
    assert states(server, "second") == {1: "END"}
    assert ask(server.endpoint, "/v1/models/second:predict", X)[0] == 404


@pytest.mark.parametrize(
    ("models", "code", "word"),
    [
        (config(("", "/tmp", "")), "INVALID_ARGUMENT", "no model's name"),
        (config(("a", "/tmp", ""), ("a", "/tmp", "")), "INVALID_ARGUMENT", "more than once"),
        (config(("a", "/nowhere", "")), "INVALID_ARGUMENT", "is no directory"),
        (config(("a", "", "")), "INVALID_ARGUMENT", "no base_path"),
        (config(("a", os.path.dirname(__file__), "")), "UNKNOWN", "did not become available: a"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(serve, stub, models, code, word):
    server = serve()
    with pytest.raises(grpc.RpcError) as caught:
        reload(stub, server, models)
    assert caught.value.code().name == code
    assert word in caught.value.details()
    if code == "INVALID_ARGUMENT":
        assert first(server) == 1.0  # nothing was changed


def test_files_of_configuration(tmp_path, base):
    file = tmp_path / "models.config"
    file.write_text("model_config_list { config { nam: 'x' } }")
    with pytest.raises(InputError, match="is not a ModelServerConfig in protobuf's text format"):
        read_models(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_models(tmp_path / "absent")
    file.write_text("")
    with pytest.raises(InputError, match="a model_config_list is needed"):
        read_models(file)
    file.write_text(str(config(("tiny", base, ""))))
    assert problem(read_models(file)) is None
    file.write_text("max_batch_size { value: 0 }")
    with pytest.raises(InputError, match="max_batch_size is 0; it must be at least 1"):
        read_batching(file)
    file.write_text("max_batch_size { value: 99 } batch_timeout_micros { value: 1500 }")
    assert read_batching(file) == Batching(99, 0.0015)
    file.write_text("max_batch_size { value: 99 } max_execution_batch_size { value: 8 }")
    assert read_batching(file).max_batch_size == 8


# Batching


def test_what_waits_becomes_one_batch_and_a_bad_request_fails_alone():
    batches, started, go_on = [], threading.Event(), threading.Event()

    def run(key, inputs, deadline):
        batches.append((key, inputs["x"].tolist()))
        started.set()
        assert go_on.wait(20.0)
        if (inputs["x"] < 0).any():
            raise ServingError(Code.INVALID_ARGUMENT, "x: negative.")
        return {"y": 2 * inputs["x"]}

    batcher = Batcher(run, Batching(max_batch_size=4, threads=1))
    found = {}

    def ask_(value, key="a"):
        try:
            found[value] = batcher.ask(key, {"x": np.array([value])}, deadline=None)["y"].tolist()
        except ServingError as error:
            found[value] = error.sentence

    threads = [threading.Thread(target=ask_, args=(1,))]
    threads[0].start()
    assert started.wait(20.0)
    for args in ((2,), (-3,), (4,), (50, "b"), (5,), (6,)):
        threads.append(threading.Thread(target=ask_, args=args))
        threads[-1].start()
        until(lambda count=len(threads): len(batcher._waiting) == count - 1)
    go_on.set()
    for thread in threads:
        thread.join()
    batcher.close()
    assert batches[:2] == [("a", [1]), ("a", [2, -3, 4, 5])]
    assert [b for b in batches[2:] if len(b[1]) == 1][:4] == [("a", [v]) for v in (2, -3, 4, 5)]
    assert ("b", [50]) in batches
    assert found == {1: [2], 2: [4], -3: "x: negative.", 4: [8], 5: [10], 6: [12], 50: [100]}
    with pytest.raises(ServingError, match="shutting down"):
        batcher.ask("a", {"x": np.array([1])}, deadline=None)


def test_a_full_queue_and_a_passed_deadline():
    go_on = threading.Event()

    def run(key, inputs, deadline):
        go_on.wait(20.0)
        return inputs

    batcher = Batcher(run, Batching(max_batch_size=2, max_enqueued_batches=1, threads=1))
    x = {"x": np.zeros(1)}
    with pytest.raises(ServingError, match="deadline passed") as caught:
        batcher.ask("a", x, deadline=time.monotonic() + 0.05)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    with pytest.raises(ServingError, match="more than 2 rows wait") as caught:
        batcher.ask("a", {"x": np.zeros(3)}, deadline=None)
    assert caught.value.code == Code.UNAVAILABLE
    for _ in range(3):  # who gave up waits no more
        with pytest.raises(ServingError, match="deadline passed"):
            batcher.ask("a", x, deadline=time.monotonic() + 0.01)
    go_on.set()
    assert batcher.ask("a", x, deadline=None)["x"].tolist() == [0.0]
    batcher.close()


def test_batched_clients_get_their_own_answers(serve):
    server = serve(batching=Batching(max_batch_size=8, timeout=0.005))
    wrong = []

    def work(seed):
        generator = np.random.default_rng(seed)
        with Client(server.endpoint.grpc, model="tiny") as client:
            for _ in range(25):
                x = generator.uniform(-1, 1, (generator.integers(1, 12), 3)).astype(np.float32)
                answer = client.predict({"x": x})["y"]
                if not np.array_equal(answer, x):
                    wrong.append((x, answer))
                with pytest.raises(ServingError, match="must be in"):
                    client.predict({"x": x + 5.0})

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Limits


def test_oversized_requests_and_bombs_are_refused(serve, stub):
    server = serve(limits=Limits(request_bytes=1 << 16))
    for headers, body in (
        ({}, b" " * (1 << 17)),
        ({}, b" " * (1 << 24)),
        ({"Content-Encoding": "gzip"}, gzip.compress(b" " * (1 << 24))),
    ):
        status, answer = ask(server.endpoint, PREDICT, body, headers)
        assert status == 413
        assert "at most 65536" in answer["error"]
    with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
        stub(server.endpoint)[0].Predict(request(rows=1 << 14))
    bomb = request()
    bomb.inputs["x"].Clear()
    bomb.inputs["x"].dtype = 1
    bomb.inputs["x"].float_val.append(0.5)  # stands for all values of the shape
    bomb.inputs["x"].tensor_shape.dim.add(size=1 << 40)
    bomb.inputs["x"].tensor_shape.dim.add(size=3)
    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT") as caught:
        stub(server.endpoint)[0].Predict(bomb)
    assert "at most 65536" in caught.value.details()
    assert ask(server.endpoint, PREDICT, b"[" * 60_000)[0] == 400
    assert first(server) == 1.0


def test_what_gzip_holds_is_answered(serve):
    server = serve()
    packed = {"Content-Encoding": "gzip"}
    good = gzip.compress(b'{"instances": [[1, 0, 0]]}')
    assert ask(server.endpoint, PREDICT, good, packed)[0] == 200
    assert ask(server.endpoint, PREDICT, good[:-9], packed)[0] == 400
    assert ask(server.endpoint, PREDICT, b"no gzip", packed)[0] == 400
    assert ask(server.endpoint, PREDICT, good, {"Content-Encoding": "br"})[0] == 415


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /v1/models/tiny:predict HTTP/1.1\r\n\r\n", 411),
        (b"POST /v1/models/tiny:predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /v1/models/tiny:predict HTTP/1.1\r\nContent-Length: 1e9\r\n\r\n", 411),
        (b"nonsense\r\n\r\n", 400),
        (b"PUT /v1/models/tiny HTTP/1.1\r\n\r\n", 501),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /v1/models/tiny/versions/99999999999999999999 HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_requests_that_are_no_http_or_not_offered(serve, sent, status):
    server = serve()
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert f" {status} ".encode() in answer.split(b"\r\n")[0]
    assert b'{"error": "' in answer
    assert first(server) == 1.0


def test_awkward_json_is_the_clients_mistake(serve):
    server = serve()
    bodies = [
        ("classify", rb'{"signature_name": "\ud800", "examples": [{"x": [1.0]}]}'),
        ("classify", rb'{"examples": [{"\ud800": [1.0]}]}'),
    ]
    for deep in range(900, 1000, 9):  # what can still be read cannot always be written
        nested = b'{"a":' * deep + b"1" + b"}" * deep
        bodies.append(("predict", b'{"instances": [[' + nested + b"]]}"))
    for api, body in bodies:
        status, answer = ask(server.endpoint, f"/v1/models/tiny:{api}", body)
        assert status == 400, answer


def test_pages_of_other_sites_may_not_ask(serve):
    server = serve()
    for origin, status in (
        ("https://evil.example", 403),
        ("null", 403),
        (server.endpoint.rest, 200),
    ):
        answer = ask(server.endpoint, PREDICT, X, {"Origin": origin})
        assert answer[0] == status, answer


def test_a_page_is_the_server_s_own_by_names_that_nobody_else_can_claim():
    origins = Origins(["https://Models.example.com"])
    here = socket.gethostname()
    for origin, host, may_ask in (
        (None, "anything.example", True),  # no page sent it
        ("http://127.0.0.1:8501", "127.0.0.1:8501", True),
        ("http://[::1]:8501", "[::1]:8501", True),
        ("http://LOCALHOST:8501", "localhost:8501", True),
        (f"http://{here}:8501", f"{here}:8501", True),
        ("http://127.0.0.1:8502", "127.0.0.1:8501", False),  # another server of this machine
        ("http://rebound.example:8501", "rebound.example:8501", False),  # points here now
        ("https://models.example.com", "localhost:8501", True),  # allowed, behind a proxy
        ("http://models.example.com", "localhost:8501", False),
        ("file://localhost", "localhost", False),
        ("http://[", "[", False),
        ("null", "null", False),
        ("", "", False),
    ):
        assert origins.may_ask(origin, host) == may_ask, (origin, host)
    for wrong in ("models.example.com", "https://a.example/path", "ftp://a.example", "http://a:b"):
        with pytest.raises(InputError, match=f"origin '{wrong}' was given; http://HOST"):
            Server(config(("tiny", Path("/nowhere"), "")), allowed_origins=[wrong])


def test_a_client_that_leaves_in_mid_request_harms_nobody(serve):
    server = serve()
    head = b"POST /v1/models/tiny:predict HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
            connection.sendall(head)
    assert first(server) == 1.0


def test_memory_and_connections_are_shared_out(serve):
    server = serve(limits=Limits(http_bytes=1000, http_timeout=0.3, http_connections=2))
    inside = server._rest._server
    with (
        inside.memory(990, deadline=time.monotonic()),
        socket.create_connection(("127.0.0.1", server.rest_port)),
    ):
        status, answer = ask(server.endpoint, PREDICT, X)
        assert status == 503
        assert "too many large requests" in answer["error"]
        until(lambda: inside._connections._value == 1)
        with (
            socket.create_connection(("127.0.0.1", server.rest_port)),
            pytest.raises((ConnectionError, http.client.HTTPException)),
        ):
            ask(server.endpoint, PREDICT, X)  # the third connection
    until(lambda: inside._connections._value == 2)
    assert first(server) == 1.0


def test_a_body_must_arrive_by_the_deadline(serve):
    server = serve(limits=Limits(http_timeout=0.3))
    head = b"POST /v1/models/tiny:predict HTTP/1.1\r\nContent-Length: 990\r\n\r\n"
    for dripping in (False, True):
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=0.05) as slow:
            slow.sendall(head)
            answer, end = b"", time.monotonic() + 5.0
            while not answer and time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    answer = slow.recv(4096)
                if dripping and not answer:
                    slow.sendall(b" ")
        assert b" 504 " in answer.split(b"\r\n")[0]
        assert b"did not arrive in time" in answer
    assert first(server) == 1.0


def test_a_deadline_ends_the_computation(serve, stub):
    server = serve(limits=Limits(http_timeout=0.2, concurrent_runs=1))
    started = time.monotonic()
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        stub(server.endpoint)[0].Predict(request(1e8, "slow"), timeout=0.2)
    body = {"signature_name": "slow", "instances": [100_000_000]}
    status, answer = ask(server.endpoint, PREDICT, body)
    assert status == 504
    assert "deadline" in answer["error"]
    # The one place to compute is free again, however long a busy machine takes to end the others.
    until(lambda: ask(server.endpoint, PREDICT, X)[0] == 200)
    assert time.monotonic() - started < 10.0


def test_it_listens_on_loopback_only_and_says_when_a_port_is_taken(serve):
    server = serve()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells this machine's own address
        address = probe.getsockname()[0]
    if not address.startswith("127."):
        for port in (server.grpc_port, server.rest_port):
            with (
                pytest.raises(ConnectionRefusedError),
                socket.create_connection((address, port), 5),
            ):
                pass
    with pytest.raises(InputError, match=f"--port={server.grpc_port} cannot be listened at"):
        serve(port=server.grpc_port)
    with pytest.raises(InputError, match=f"--rest_api_port={server.rest_port} cannot be"):
        serve(rest_api_port=server.rest_port)


# The other services


def test_health(serve, stub):
    server = serve()
    channel = stub(server.endpoint)[2]
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=messages.HealthCheckResponse.FromString,
    )
    serving = 1  # grpc.health.v1's own number
    assert check(messages.HealthCheckRequest()).status == serving
    service = "tensorflow.serving.PredictionService"
    assert check(messages.HealthCheckRequest(service=service)).status == serving
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        check(messages.HealthCheckRequest(service="else"))


def test_what_is_not_offered_says_so(serve, stub):
    server = serve()
    prediction = stub(server.endpoint)[0]
    for method, made in (
        (prediction.Regress, regression_pb2.RegressionRequest()),
        (prediction.MultiInference, inference_pb2.MultiInferenceRequest()),
    ):
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED") as caught:
            method(made)
        assert "use Predict or Classify" in caught.value.details()
    assert ask(server.endpoint, "/v1/models/tiny:regress", {})[0] == 501
    made = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["size"])
    made.model_spec.name = "tiny"
    with pytest.raises(grpc.RpcError, match="size is not supported"):
        prediction.GetModelMetadata(made)


def test_metrics_count_by_model_api_and_status(serve, monkeypatch):
    server = serve()
    metrics = server._rest._server.metrics
    record = metrics.record

    def slowly(**labels):  # who has an answer finds it counted, even so
        time.sleep(0.1)
        record(**labels)

    monkeypatch.setattr(metrics, "record", slowly)
    first(server)
    first(server)
    ask(server.endpoint, PREDICT, {})
    ask(server.endpoint, "/v1/models/invented:predict", X)
    status, page = ask(server.endpoint, "/monitoring/prometheus/metrics")
    assert status == 200
    lines = page.splitlines()
    count = ":tensorflow:serving:request_count"
    assert f'{count}{{model_name="tiny",status="OK"}} 2' in lines
    assert f'{count}{{model_name="tiny",status="INVALID_ARGUMENT"}} 1' in lines
    assert "invented" not in page  # a client cannot grow the page
    labels = 'model_name="tiny",API="Predict",entrypoint="REST",status="OK"'
    assert f":tensorflow:serving:request_latency_count{{{labels}}} 2" in lines
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="+Inf"}} 2' in lines


# Its end


@pytest.mark.parametrize("transport", ["gRPC", "REST"])
def test_running_requests_end_and_new_ones_are_refused(serve, transport):
    server = serve()
    found, known = [], threading.Event()
    endpoint = server.endpoint.grpc if transport == "gRPC" else server.endpoint.rest

    def work():
        with Client(endpoint, model="tiny") as client:
            client.signatures()
            known.set()
            found.append(client.predict({"steps": [300_000]}, signature="slow"))

    with contextlib.closing(
        http.client.HTTPConnection(server.endpoint.rest.removeprefix("http://"))
    ) as kept:
        kept.request("GET", "/v1/models/tiny")
        kept.getresponse().read()
        thread = threading.Thread(target=work)
        thread.start()
        assert known.wait(20.0)
        entries = server.manager._models["tiny"].entries
        until(lambda: entries[1].requests == 1)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        until(lambda: server._rest._server.stopping)
        with contextlib.suppress(ConnectionError):
            kept.request("GET", "/v1/models/tiny")
            assert kept.getresponse().status == 503
    thread.join()
    stopper.join()
    assert found[0]["total"].shape == (1,)
    with pytest.raises(OSError, match="refused"):
        ask(server.endpoint, PREDICT, X)


def test_a_configuration_that_is_half_written_is_neither_taken_nor_told(monkeypatch, capsys):
    whole, next_one = config(("a", Path("/a"), "")), config(("b", Path("/b"), ""))
    mistake = InputError("half of it")
    found = iter([mistake, next_one, next_one, next_one, next_one, *[mistake] * 4, whole])

    def read():
        value = next(found, next_one)
        if isinstance(value, InputError):
            raise value
        return value

    reloaded = []
    server = SimpleNamespace(manager=SimpleNamespace(reload=reloaded.append))
    monkeypatch.setattr(serve_binary, "_models", read)
    monkeypatch.setattr(serve_binary, "_SETTLED", 0.0)
    watched = serve_binary._Watched(server, whole, name="models.config")
    # It changes while it is read, is what it became, stays, has a mistake, still, and changes.
    for told in ("", "took the changes", "", "was not taken: half of it", "", ""):
        watched.look()
        lines = capsys.readouterr().err
        assert told in lines
        assert bool(told) == bool(lines)
    assert reloaded == [next_one]


def test_what_failed_to_be_taken_can_be_taken_back(monkeypatch, capsys):
    before, wrong = config(("a", Path("/a"), "")), config(("b", Path("/b"), ""))
    reloaded = []

    def reload(models):
        reloaded.append(models)
        if models == wrong:
            raise ServingError(Code.UNKNOWN, "b did not become available.")

    found = [wrong]
    server = SimpleNamespace(manager=SimpleNamespace(reload=reload))
    monkeypatch.setattr(serve_binary, "_models", lambda: found[0])
    monkeypatch.setattr(serve_binary, "_SETTLED", 0.0)
    watched = serve_binary._Watched(server, before, name="models.config")
    watched.look()
    watched.look()  # b may have come
    found[0] = before
    watched.look()
    watched.look()
    assert reloaded == [wrong, wrong, before]
    assert len(capsys.readouterr().err.splitlines()) == 2  # each is told once


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("batching_parameters_file", "a.txt", "enable_batching"),
        ("model_config_file_poll_wait_seconds", "5", "model_config_file"),
        ("model_name", "a", "model_base_path"),
        ("request_log_sampling_rate", "0.5", "request_log"),
    ],
)
def test_a_flag_that_needs_another_is_refused_without_it(name, value, needed):
    known = {"enable_batching": "true"}.get(needed, "a")
    serve_flags = flags.FLAGS
    if not serve_flags.is_parsed():
        serve_flags(["serve"])
    with flagsaver.as_parsed(**{name: value}):
        with pytest.raises(InputError, match=f"--{name} was given without --{needed}."):
            serve_binary._check_flags()
        with flagsaver.as_parsed(**{needed: known}):
            serve_binary._check_flags()


def test_a_server_killed_in_mid_request_is_an_error_then_a_retry_finds_the_next_one(base, tmp_path):
    file, log = tmp_path / "models.config", tmp_path / "requests.tfrecord"
    file.write_text(text_format.MessageToString(config(("tiny", base, ""))))
    flags = (
        f"--model_config_file={file}",
        "--model_config_file_poll_wait_seconds=0.1",
        f"--request_log={log}",
        f"--port={free_port()}",
        f"--rest_api_port={free_port()}",
    )
    found = {}

    def work(name, endpoint, timeout):
        try:
            with Client(endpoint, model="tiny", timeout=timeout) as client:
                client.signatures()
                known.release()
                found[name] = client.predict({"steps": [400_000]}, signature="slow")
        except ServingError as error:
            found[name] = error

    known = threading.Semaphore(0)
    with ServeProcess(*flags) as server:
        endpoint = server.wait_ready()
        assert any("for development" in line for line in server.lines)
        threads = [
            threading.Thread(target=work, args=args)
            for args in (
                ("impatient gRPC", endpoint.grpc, 2.0),
                ("impatient REST", endpoint.rest, 2.0),
            )
        ]
        patient = {"gRPC": endpoint.grpc, "REST": endpoint.rest}
        answers = {}

        def wait_for_the_next(name):
            retry = Retry(attempts=100, longest=0.3)
            with Client(patient[name], model="tiny", timeout=60.0, retry=retry) as client:
                client.signatures()
                known.release()
                answers[name] = client.predict({"steps": [400_000]}, signature="slow")["total"]

        threads += [threading.Thread(target=wait_for_the_next, args=(n,)) for n in patient]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert known.acquire(timeout=20.0)
        time.sleep(0.2)  # until the requests compute, which takes them longer
        server.process.kill()
    with ServeProcess(*flags) as server:
        server.wait_ready()
        for thread in threads:
            thread.join()
        # A label in the file is taken while the server runs; a mistake in it is not.
        file.write_text("no configuration")
        until(lambda: any("was not taken" in line for line in server.lines))
        time.sleep(0.5)  # several more looks
        label = 'version_labels { key: "stable" value: 1 }'
        file.write_text(text_format.MessageToString(config(("tiny", base, label))))
        labelled = "/v1/models/tiny/labels/stable:predict"
        until(lambda: ask(endpoint, labelled, X)[0] == 200)
        server.process.terminate()
        assert server.wait() == 0
        assert "stopping; running requests end." in server.lines
        assert sum("was not taken" in line for line in server.lines) == 1  # told once
    assert asked(log)[-3:] == ["slow", "slow", "serving_default"]
    for name in ("impatient gRPC", "impatient REST"):
        assert isinstance(found[name], ServingError)
        assert found[name].code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
    np.testing.assert_array_equal(answers["gRPC"], answers["REST"])
