"""What a client may rely on, of the local server and of tensorflow_model_server.

The latter is asked where it is on PATH, or named by the environment variable TFCAMA_MODEL_SERVER.
"""

import base64
import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.binaries import call
from tests.serving.endpoints import (
    LABELS,
    MODEL_SERVER,
    Endpoint,
    ask,
    config,
    model_server,
    save_tiny,
)
from tfcama.errors import InputError
from tfcama.serving.client import Client
from tfcama.serving.errors import ServingError
from tfcama.serving.server.server import Server

TOLERANCE = 1e-5
PREDICT = "/v1/models/cama:predict"
TINY = "/v1/models/tiny:predict"
needs_model_server = pytest.mark.skipif(
    MODEL_SERVER is None,
    reason="tensorflow_model_server is neither on PATH nor named by TFCAMA_MODEL_SERVER",
)


@pytest.fixture(scope="session")
def models(export, tmp_path_factory):
    """The exported model, and a small one of two versions with labels."""
    tiny = tmp_path_factory.mktemp("tiny")
    for version in LABELS.values():
        save_tiny(tiny / str(version), factor=version)
    labels = " ".join(f'version_labels {{ key: "{k}" value: {v} }}' for k, v in LABELS.items())
    both = f"model_version_policy {{ specific {{ versions: 1 versions: 2 }} }} {labels}"
    return config(("cama", export, ""), ("tiny", tiny, both))


@pytest.fixture(
    scope="session",
    params=["local", pytest.param("tensorflow_model_server", marks=needs_model_server)],
)
def endpoint(request, models, tmp_path_factory):
    if request.param == "local":
        with Server(models) as server:
            yield Endpoint(f"127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}")
        return
    file = tmp_path_factory.mktemp("config") / "models.config"
    file.write_text(text_format.MessageToString(models))
    with model_server(file) as found:
        yield found


@pytest.fixture(scope="session")
def channel(endpoint):
    with grpc.insecure_channel(endpoint.grpc) as opened:
        yield opened


@pytest.fixture(scope="session")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="session")
def clients(endpoint):
    """One client a transport."""
    with (
        Client(endpoint.grpc, model="cama") as by_grpc,
        Client(endpoint.rest, model="cama") as by_rest,
    ):
        yield {"gRPC": by_grpc, "REST": by_rest}


@pytest.fixture(scope="session")
def inputs(images):
    """Seven rows for every signature that a client of images asks."""
    pixels = np.round(255.0 * images).astype(np.uint8)
    files = [tf.io.encode_png(image).numpy() for image in pixels]
    seeds, labels = np.arange(7, dtype=np.int32), np.array([0, 1, 2, 0, 1, 2, 0], np.int32)
    return {
        "serving_default": {"image": images},
        "predict_seeded": {"image": images, "seed": seeds},
        "predict_png": {"image_bytes": np.array(files, object)},
        "detect": {"image": images},
        "reconstruct": {"image": images},
        "counterfactual": {"image": images, "label": labels},
    }


def predict_request(inputs, *, model="cama", signature="", **fields):
    request = predict_pb2.PredictRequest(**fields)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def close(here, there):
    assert set(here) == set(there)
    for name, value in here.items():
        np.testing.assert_allclose(value, there[name], rtol=TOLERANCE, atol=TOLERANCE)


def same(here, there):
    assert set(here) == set(there)
    for name, value in here.items():
        np.testing.assert_array_equal(value, there[name])


@pytest.mark.parametrize(
    "signature",
    ["serving_default", "predict_seeded", "predict_png", "detect", "reconstruct", "counterfactual"],
)
def test_rest_grpc_and_offline_answer_alike(clients, served, inputs, signature):
    given = inputs[signature]
    offline = served.signatures[signature](**{k: tf.constant(v) for k, v in given.items()})
    for client in clients.values():
        answer = client.predict(given, signature=signature)
        close(answer, {name: value.numpy() for name, value in offline.items()})
        for name, value in answer.items():
            assert value.dtype == offline[name].numpy().dtype


@pytest.mark.parametrize("transport", ["gRPC", "REST"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(clients, inputs, transport):
    given = inputs["predict_seeded"]
    first, again = (clients[transport].predict(given, signature="predict_seeded") for _ in range(2))
    same(first, again)
    other = {**given, "seed": given["seed"] + 100}
    moved = clients[transport].predict(other, signature="predict_seeded")
    assert not np.array_equal(first["log_px"], moved["log_px"])


def test_the_same_request_gives_the_same_bytes(prediction, endpoint, images):
    request = predict_request({"image": images})
    answers = {prediction.Predict(request).SerializeToString(deterministic=True) for _ in range(3)}
    assert len(answers) == 1
    body = {"instances": images[:2].tolist()}
    assert ask(endpoint, PREDICT, body) == ask(endpoint, PREDICT, body)


def test_a_batch_of_64_equals_64_singles(prediction, images):
    many = np.concatenate([images] * 10)[:64]
    request = predict_request({"image": many})
    together = arrays(prediction.Predict(request))
    for row in range(64):
        alone = arrays(prediction.Predict(predict_request({"image": many[row : row + 1]})))
        close(
            {name: value[0] for name, value in alone.items()},
            {n: v[row] for n, v in together.items()},
        )


def arrays(response):
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def test_row_and_column_form_say_the_same(endpoint, images):
    status, rows = ask(endpoint, PREDICT, {"instances": images.tolist()})
    assert status == 200
    _, named = ask(endpoint, PREDICT, {"instances": [{"image": x} for x in images.tolist()]})
    assert named == rows
    _, columns = ask(endpoint, PREDICT, {"inputs": {"image": images.tolist()}})
    _, bare = ask(endpoint, PREDICT, {"inputs": images.tolist()})
    assert bare == columns
    assert len(rows["predictions"]) == 7
    for name, values in columns["outputs"].items():
        assert [row[name] for row in rows["predictions"]] == values


def test_a_single_output_is_written_without_its_name(endpoint):
    x = [[0.0, 0.5, 1.0], [0.25, -1.0, 0.0]]
    doubled = (2.0 * np.array(x)).tolist()
    assert ask(endpoint, TINY, {"instances": x}) == (200, {"predictions": doubled})
    assert ask(endpoint, TINY, {"inputs": x}) == (200, {"outputs": doubled})


def test_base64_carries_bytes_both_ways(endpoint):
    raw = [b"\x00\xff\x89PNG", b""]
    coded = [{"b64": base64.b64encode(item).decode()} for item in raw]
    body = {"signature_name": "echo", "instances": [*coded, "plain"]}
    status, answer = ask(endpoint, TINY, body)
    assert status == 200
    plain = {"b64": base64.b64encode(b"plain").decode()}
    assert [row["same_bytes"] for row in answer["predictions"]] == [*coded, plain]
    assert [row["length"] for row in answer["predictions"]] == [6, 0, 5]
    assert answer["predictions"][2]["upper"] == "PLAIN"
    status, answer = ask(endpoint, TINY, {"signature_name": "echo", "inputs": {"text": coded}})
    assert (status, answer["outputs"]["same_bytes"]) == (200, coded)


def test_classify_over_grpc_and_rest(endpoint, prediction, clients, images):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "cama", "classify"
    for image in images:
        example = request.input.example_list.examples.add()
        example.features.feature["image"].float_list.value.extend(image.ravel())
    by_grpc = prediction.Classify(request)
    assert by_grpc.model_spec.version.value == 1
    wanted = clients["gRPC"].predict({"image": images})["probabilities"]
    rows = by_grpc.result.classifications
    assert [[c.label for c in row.classes] for row in rows] == [["a", "b", "c"]] * 7
    close({"p": [[c.score for c in row.classes] for row in rows]}, {"p": wanted})
    examples = [{"image": image.ravel().tolist()} for image in images]
    status, by_rest = ask(
        endpoint,
        "/v1/models/cama:classify",
        {"signature_name": "classify", "examples": examples},
    )
    assert status == 200
    assert [[label for label, _ in row] for row in by_rest["results"]] == [["a", "b", "c"]] * 7
    close({"p": [[score for _, score in row] for row in by_rest["results"]]}, {"p": wanted})
    assert clients["REST"].class_names({"image": images}) == ["a", "b", "c"]


def test_features_of_a_context_hold_for_every_example(prediction):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "tiny", "classify"
    given = request.input.example_list_with_context
    given.context.features.feature["x"].float_list.value.extend([0.25, 0.5, 1.0])
    given.examples.add()
    given.examples.add().features.feature["y"].float_list.value.append(1.0)
    rows = prediction.Classify(request).result.classifications
    assert [[c.score for c in row.classes] for row in rows] == [[0.5, 1.0, 2.0]] * 2


def test_examples_in_json_hold_every_kind_of_feature(endpoint):
    body = {
        "signature_name": "classify",
        "context": {"x": [0.25, 0.5, 1.0]},
        "examples": [{"n": 3, "t": True, "s": ["a", {"b64": "AA=="}]}, {"x": [1.0, 0.5, 0.25]}],
    }
    status, answer = ask(endpoint, "/v1/models/tiny:classify", body)
    assert status == 200
    scores = [[score for _, score in row] for row in answer["results"]]
    assert scores == [[0.5, 1.0, 2.0], [2.0, 1.0, 0.5]]
    body["examples"] = [{"x": [1.0, 2]}]
    assert ask(endpoint, "/v1/models/tiny:classify", body)[0] == 400


def test_metadata_over_grpc_and_rest(endpoint, prediction, clients):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "cama"
    response = prediction.GetModelMetadata(request)
    assert (response.model_spec.name, response.model_spec.version.value) == ("cama", 1)
    found = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(found)
    assert {"serving_default", "predict_seeded", "classify", "detect"} <= set(found.signature_def)
    status, answer = ask(endpoint, "/v1/models/cama/versions/1/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "cama", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    image = signature["inputs"]["image"]
    assert image["dtype"] == "DT_FLOAT"
    assert [d["size"] for d in image["tensor_shape"]["dim"]] == ["-1", "28", "28", "1"]
    assert clients["REST"].signatures() == clients["gRPC"].signatures()


def test_status_over_grpc_and_rest(endpoint, channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    found = stub.GetModelStatus(request).model_version_status
    assert [(v.version, v.state) for v in found] == [(2, 30), (1, 30)]
    ok = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    both = [{"version": "2", **ok}, {"version": "1", **ok}]
    assert ask(endpoint, "/v1/models/tiny") == (200, {"model_version_status": both})
    one = {"model_version_status": both[1:]}
    assert ask(endpoint, "/v1/models/tiny/versions/1") == (200, one)


def test_versions_and_labels_choose(endpoint, prediction):
    x = {"instances": [[1.0, 0.0, 0.0]]}
    for version in (1, 2):
        wanted = (200, {"predictions": [[float(version), 0.0, 0.0]]})
        assert ask(endpoint, f"/v1/models/tiny/versions/{version}:predict", x) == wanted
    for label, version in LABELS.items():
        wanted = (200, {"predictions": [[float(version), 0.0, 0.0]]})
        assert ask(endpoint, f"/v1/models/tiny/labels/{label}:predict", x) == wanted
        request = predict_request({"x": np.ones([1, 3], np.float32)}, model="tiny")
        request.model_spec.version_label = label
        response = prediction.Predict(request)
        assert response.model_spec.version.value == version
        assert tf.make_ndarray(response.outputs["y"])[0, 0] == version
    assert ask(endpoint, TINY, x)[1] == {"predictions": [[2.0, 0.0, 0.0]]}  # the latest


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_client_chooses_too_and_sends_text(endpoint, transport):
    where = getattr(endpoint, transport)
    for choice, factor in (({"label": "stable"}, 1.0), ({"version": 2}, 2.0), ({}, 2.0)):
        with Client(where, model="tiny", **choice) as client:
            assert client.ready()
            y = client.predict({"x": np.ones([5, 3])}, batch_size=2)["y"]
            np.testing.assert_array_equal(y, np.full([5, 3], factor, np.float32))
            answer = client.predict({"text": ["a", b"\xff"]}, signature="echo")
            assert answer["same_bytes"].tolist() == [b"a", b"\xff"]
            assert answer["length"].tolist() == [1, 1]
    with Client(where, model="tiny") as client:
        for given, word in (
            ({"y": [[0.0]]}, "inputs y were given; signature 'serving_default' takes x"),
            ({"x": 0.0}, "the same number of rows"),
        ):
            with pytest.raises(ServingError, match=word):
                client.predict(given)
        with pytest.raises(InputError, match="did you mean 'echo'"):
            client.predict({"text": ["a"]}, signature="ecko")
    with Client(where, model="absent") as client:
        assert not client.ready()


def test_an_answer_names_what_was_asked_and_holds_what_was_wanted(prediction, images):
    response = prediction.Predict(
        predict_request({"image": images[:1]}, output_filter=["label", "log_px"])
    )
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("cama", 1, "serving_default")
    assert set(response.outputs) == {"label", "log_px"}
    assert len(response.outputs["log_px"].float_val) == 1  # where clients look for it


IMAGE = np.full([1, 28, 28, 1], 0.5, np.float32)
NAN = {"image": np.full([1, 28, 28, 1], np.nan, np.float32)}


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        (predict_request({"image": IMAGE}, model="cma"), "NOT_FOUND", "cma"),
        (predict_request({"image": IMAGE}, model=""), "INVALID_ARGUMENT", "name"),
        (
            predict_request({"image": IMAGE}, signature="no"),
            "FAILED_PRECONDITION",
            '"no" not found',
        ),
        (predict_request({}), "INVALID_ARGUMENT", "Missing but required: {image}"),
        (predict_request({"image": IMAGE, "z": [1]}), "INVALID_ARGUMENT", "Sent extra: {z}"),
        (predict_request({"image": IMAGE[..., 0]}), "INVALID_ARGUMENT", ""),
        (predict_request({"image": IMAGE[:, :5]}), "INVALID_ARGUMENT", ""),
        (predict_request({"image": IMAGE.astype(np.float64)}), "INVALID_ARGUMENT", ""),
        (predict_request({"image": 2.0 * IMAGE + 1.0}), "INVALID_ARGUMENT", "must be in [0, 1]"),
        (predict_request(NAN), "INVALID_ARGUMENT", "finite"),
        (
            predict_request({"image": IMAGE}, output_filter=["labl"]),
            "INVALID_ARGUMENT",
            "labl",
        ),
        (
            predict_request({"image_bytes": [b"no PNG"]}, signature="predict_png"),
            "INVALID_ARGUMENT",
            "no PNG",
        ),
        (
            predict_request({"image_bytes": np.zeros([0], "S1")}, signature="predict_png"),
            "INVALID_ARGUMENT",
            "image_bytes: empty; at least one file is needed",
        ),
        (
            predict_request({"image": IMAGE, "label": [3]}, signature="counterfactual"),
            "INVALID_ARGUMENT",
            "from 0 to 2",
        ),
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    ],
)
def test_grpc_errors_have_a_code_and_a_sentence(prediction, request_, code, word):
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(request_)
    assert caught.value.code().name == code
    assert word in caught.value.details()


def test_a_version_or_label_that_is_not_there(prediction, endpoint, channel):
    request = predict_request({"image": IMAGE})
    request.model_spec.version.value = 7
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        prediction.Predict(request)
    request.model_spec.version_label = "stbl"
    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT") as caught:
        prediction.Predict(request)
    assert "stbl" in caught.value.details()
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "cma"
    with pytest.raises(grpc.RpcError, match="Could not find any versions of model cma"):
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request)
    image = {"instances": IMAGE.tolist()}
    assert ask(endpoint, "/v1/models/cama/versions/7:predict", image)[0] == 404
    assert ask(endpoint, "/v1/models/cama/labels/stbl:predict", image)[0] == 400
    assert ask(endpoint, "/v1/models/cama/versions/7")[0] == 404
    assert ask(endpoint, "/v1/models/cma")[0] == 404
    assert ask(endpoint, "/v1/models/cma/metadata")[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/v1/models/cma:predict", {"instances": [1]}, 404, "cma"),
        ("/v1/models/cama:explain", {"instances": [1]}, 400, "Malformed request"),
        (PREDICT, b"", 400, "JSON"),
        (PREDICT, b"{", 400, "JSON"),
        (PREDICT, b"\xff\xfe\x00", 400, ""),
        (PREDICT, [1], 400, "object"),
        (PREDICT, {}, 400, "'inputs' or 'instances'"),
        (PREDICT, {"instances": [1], "inputs": [1]}, 400, "only one of"),
        (PREDICT, {"instances": []}, 400, "instances"),
        (PREDICT, {"instances": 3}, 400, "instances"),
        (PREDICT, {"signature_name": 3, "instances": [1]}, 400, "signature_name"),
        (PREDICT, {"signature_name": "no", "instances": [1]}, 400, "no"),
        (TINY, {"instances": [[1, 2], [3]]}, 400, ""),
        (TINY, {"instances": [["a", 0, 0]]}, 400, "not of expected type: float"),
        (TINY, {"instances": [[True, 0, 0]]}, 400, "not of expected type: float"),
        (TINY, {"instances": [[None, 0, 0]]}, 400, "not of expected type: float"),
        (TINY, {"instances": [[1e39, 0, 0]]}, 400, "without loss of precision"),
        (TINY, {"instances": [[7, 0, 0]]}, 400, "must be in [-1, 1]"),
        (TINY, b'{"instances": [[NaN, 0, 0]]}', 400, "must be in [-1, 1]"),
        (TINY, {"instances": [{"y": [0, 0, 0]}]}, 400, ""),
        (TINY, {"instances": [{"x": [0, 0, 0]}, [0, 0, 0]]}, 400, "object"),
        (TINY, {"inputs": {"y": [0, 0, 0]}}, 400, "Missing named input: x"),
        (TINY, {"signature_name": "echo", "instances": [{"b64": "%"}]}, 400, "base64"),
        (TINY, {"signature_name": "echo", "instances": [3]}, 400, "not of expected type: string"),
        (TINY, {"signature_name": "slow", "instances": [1.5]}, 400, "not of expected type: int32"),
        (
            PREDICT,
            {"signature_name": "counterfactual", "instances": [1]},
            400,
            "instances is a plain list",
        ),
        ("/v1/models/tiny:classify", {"signature_name": "classify"}, 400, "examples"),
        (
            "/v1/models/tiny:classify",
            {"signature_name": "classify", "examples": [3]},
            400,
            "must be JSON object",
        ),
    ],
)
def test_rest_errors_have_a_status_and_a_sentence(endpoint, path, body, status, word):
    found, answer = ask(endpoint, path, body)
    assert (found, set(answer)) == (status, {"error"})
    assert word in answer["error"]
    assert ask(endpoint, TINY, {"instances": [[0, 0, 0]]})[0] == 200  # it is still there


def test_a_png_that_claims_to_be_huge_is_refused_before_it_is_decoded(endpoint, inputs):
    file = bytearray(inputs["predict_png"]["image_bytes"][0])
    file[16:24] = (30_000).to_bytes(4, "big") * 2  # width and height
    coded = {"b64": base64.b64encode(file).decode()}
    status, answer = ask(endpoint, PREDICT, {"signature_name": "predict_png", "instances": [coded]})
    assert status == 400
    assert "28 x 28 pixels is needed" in answer["error"]


def test_numbers_survive_json(endpoint):
    x = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    status, answer = ask(endpoint, TINY, json.dumps({"instances": x.tolist()}).encode())
    assert status == 200
    np.testing.assert_array_equal(np.array(answer["predictions"], np.float32), 2.0 * x)


def test_the_binary_prints_a_table_and_writes_a_picture(endpoint, inputs, clients, tmp_path):
    files = inputs["predict_png"]["image_bytes"][:2]
    for place, content in enumerate(files):
        (tmp_path / f"{place}.png").write_bytes(content)
    images = [f"--image={tmp_path}/{place}.png" for place in range(2)]
    out = tmp_path / "m0.png"
    done = call(
        "export.predict",
        f"--endpoint={endpoint.grpc}",
        "--model_name=cama",
        f"--out={out}",
        *images,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer = clients["gRPC"].predict({"image_bytes": files}, signature="predict_png")
    for label, log_px in zip(answer["label"], answer["log_px"], strict=True):
        assert f"│ {'abc'[label]:>5} │" in done.stdout
        assert f"{log_px:.1f} │" in done.stdout
    assert "manipulated" in done.stdout
    assert tf.io.decode_png(out.read_bytes()).shape == (2 * (28 * 4 + 4), 2 * (28 * 4 + 4), 1)
    url = f"--endpoint={endpoint.rest}"
    done = call("export.predict", url, "--model_name=cama", "--version=7", *images)
    assert done.returncode == 2
    assert done.stderr.startswith("error: NOT_FOUND: Servable not found for request: Specific(cama")
