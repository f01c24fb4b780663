"""The client without a server that answers well: retries, endpoints, files, JSON."""

import io
import json
import random
import re
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from tests.binaries import call
from tests.serving.endpoints import free_port
from tfcama.errors import InputError
from tfcama.serving import client as client_lib
from tfcama.serving import client_files
from tfcama.serving.client import Client
from tfcama.serving.errors import Code, ServingError, of_http
from tfcama.serving.retry import Retry
from tfcama.serving.server import json_tensors
from tfcama.serving.transports import GrpcTransport, RestTransport, transport_of

# Retries


def failing(*codes):
    """Work that fails with each code, then answers; and the pauses before it did."""
    left, pauses = list(codes), []

    def work(seconds):
        assert seconds > 0
        if left:
            raise ServingError(left.pop(0), "no.")
        return "answer"

    return work, pauses


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
def test_errors_that_pass_are_tried_again_after_growing_pauses(code):
    work, pauses = failing(*[code] * 5)
    retry = Retry(first=0.1, longest=0.5, sleep=pauses.append, jitter=lambda low, high: high)
    assert retry.call(work, timeout=60.0) == "answer"
    np.testing.assert_allclose(pauses, [0.1, 0.2, 0.4, 0.5, 0.5])


def test_pauses_differ_but_not_by_more_than_half():
    work, pauses = failing(*[Code.UNAVAILABLE] * 5)
    generator = random.Random(0)
    retry = Retry(first=1.0, longest=1.0, sleep=pauses.append, jitter=generator.uniform)
    retry.call(work, timeout=60.0)
    assert len(set(pauses)) == 5
    assert all(0.5 <= pause <= 1.0 for pause in pauses)


@pytest.mark.parametrize(
    "code", [Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.INTERNAL, Code.DEADLINE_EXCEEDED]
)
def test_other_errors_are_final(code):
    work, pauses = failing(code)
    with pytest.raises(ServingError) as caught:
        Retry(sleep=pauses.append).call(work, timeout=60.0)
    assert caught.value.code == code
    assert pauses == []


def test_attempts_and_time_are_limited():
    work, pauses = failing(*[Code.UNAVAILABLE] * 9)
    with pytest.raises(ServingError) as caught:
        Retry(attempts=3, sleep=pauses.append).call(work, timeout=60.0)
    assert caught.value.code == Code.UNAVAILABLE
    assert len(pauses) == 2
    with pytest.raises(ServingError, match=r"no\."):
        Retry(first=10.0, sleep=pauses.append).call(work, timeout=1.0)  # no time for the pause
    assert len(pauses) == 2


def test_statuses_of_http_are_codes_and_too_large_is_final():
    assert of_http(503, "").code == Code.UNAVAILABLE
    assert of_http(429, "").passing
    assert of_http(400, "").code == Code.INVALID_ARGUMENT
    assert of_http(404, "").code == Code.NOT_FOUND
    assert not of_http(413, "").passing
    assert of_http(418, "").code == Code.UNKNOWN


# Endpoints


def test_endpoints_choose_the_transport():
    for endpoint, kind in (
        ("localhost:8500", GrpcTransport),
        ("http://localhost:8501", RestTransport),
        ("https://models.example/", RestTransport),
    ):
        transport = transport_of(endpoint)
        assert type(transport) is kind
        transport.close()


@pytest.mark.parametrize(
    "endpoint", ["", "localhost", "ftp://a:1", "http://", "localhost:x", "http://a:1/v1", "a:1/v1"]
)
def test_other_endpoints_are_refused(endpoint):
    with pytest.raises(InputError, match=r"HOST:PORT \(gRPC\) or http://HOST:PORT \(REST\)"):
        transport_of(endpoint)


@pytest.mark.parametrize("prefix", ["", "http://"])
def test_nobody_listens(prefix):
    endpoint = f"{prefix}127.0.0.1:{free_port()}"
    with Client(endpoint, retry=Retry(attempts=2, first=0.01)) as client:
        with pytest.raises(ServingError, match="cannot be reached") as caught:
            client.signatures()
        assert caught.value.code == Code.UNAVAILABLE
        assert not client.ready()


@pytest.fixture
def flaky():
    """An HTTP server that says each (status, text) once, or closes the connection for None."""
    answers = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.pop(0)
            if answer is None:
                return
            status, text = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield SimpleNamespace(answers=answers, url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def test_lost_connections_and_busy_servers_are_asked_again(flaky):
    metadata = {"metadata": {"signature_def": {"signature_def": {"a": {}}}}}
    busy = json.dumps({"error": "busy"})
    flaky.answers += [None, (503, busy), (429, busy), None, (200, json.dumps(metadata))]
    with Client(flaky.url, retry=Retry(first=0.001)) as client:
        assert list(client.signatures()) == ["a"]
    assert flaky.answers == []


def test_what_is_no_model_server_is_an_error_with_its_words(flaky):
    flaky.answers += [(200, "<html>hello</html>"), (404, json.dumps({"error": "no such model"}))]
    with Client(flaky.url) as client:
        with pytest.raises(ServingError, match="answered 200 and no JSON: <html>hello"):
            client.signatures()
        with pytest.raises(ServingError, match="no such model"):
            client.signatures()


# Files


def definition(**inputs):
    """A SignatureDef: input -> (shape, type)."""
    made = meta_graph_pb2.SignatureDef()
    for name, (shape, dtype) in inputs.items():
        made.inputs[name].dtype = dtype.as_datatype_enum
        made.inputs[name].tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return made


IMAGES = definition(image=([None, 4, 6, 1], tf.float32))
COLUMNS = definition(
    age=([None], tf.float32), blood_pressure=([None], tf.float32), sex=([None], tf.string)
)


def png(path, height, width, channels=1):
    pixels = np.arange(height * width * channels, dtype=np.uint8).reshape(height, width, channels)
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    return pixels


def test_images_are_read_in_order(tmp_path):
    a, b = png(tmp_path / "a.png", 4, 6), png(tmp_path / "b.png", 4, 6)[::-1]
    (tmp_path / "b.png").write_bytes(tf.io.encode_png(b).numpy())
    images = client_files.read_images([tmp_path / "b.png", tmp_path / "a.png"], IMAGES)["image"]
    np.testing.assert_allclose(images, np.stack([b, a]) / 255.0, rtol=1e-6)
    assert images.dtype == np.float32


RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)
COLOURS = np.array([[RED, GREEN, BLUE]] * 3 + [[GREY] * 3], np.uint8).repeat(2, axis=1)


def encoded(kind, pixels, *, palette=None, **options):
    """The file of [H, W, channels] pixels, or of [H, W] indices into a palette, as PIL has it."""
    image = PIL.Image.fromarray(np.asarray(pixels, np.uint8))
    if palette is not None:
        image.putpalette(palette)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


INDICES = np.array([[0, 1, 2]] * 3 + [[3] * 3]).repeat(2, axis=1)  # COLOURS by the palette
PALETTE = (*RED, *GREEN, *BLUE, *GREY)


@pytest.mark.parametrize(
    "content",
    [
        encoded("BMP", COLOURS),
        encoded("BMP", INDICES, palette=PALETTE),
        encoded("GIF", INDICES, palette=PALETTE),
    ],
    ids=["bmp", "bmp with a palette", "gif"],
)
def test_bmp_and_gif_files_are_read_in_colour_and_as_luminance(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    colour = client_files.read_image(tmp_path / "x", (4, 6, 3))
    np.testing.assert_array_equal(np.round(255.0 * colour), COLOURS)
    grey = client_files.read_image(tmp_path / "x", (4, 6, 1))
    (tmp_path / "x").write_bytes(tf.io.encode_png(COLOURS).numpy())
    as_png = client_files.read_image(tmp_path / "x", (4, 6, 1))
    np.testing.assert_allclose(grey, as_png, atol=1.01 / 255)  # which rounds down
    np.testing.assert_array_equal(np.round(255.0 * grey[3]), 9)


def with_alpha(alpha):
    return np.concatenate([COLOURS, np.full([4, 6, 1], 255, np.uint8)], -1) & np.uint8(
        [255, 255, 255, alpha]
    )


def with_key(content):
    """A grey PNG whose pixels of value 0 are transparent, by a chunk tRNS."""
    chunk = b"tRNS\0\0"
    made = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:33] + made + content[33:]


GREYS = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)


@pytest.mark.parametrize(
    "content",
    [
        tf.io.encode_png(np.concatenate([0 * GREYS, 10 * GREYS], -1)).numpy(),  # black ink
        tf.io.encode_png(with_alpha(254)).numpy(),
        with_key(tf.io.encode_png(GREYS).numpy()),
        encoded("GIF", INDICES, palette=PALETTE, transparency=3),
    ],
    ids=["grey png", "png", "png with a transparent colour", "gif"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_images_are_refused(tmp_path, content, channels):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=r"x has transparent pixels, .*; save it without"):
        client_files.read_image(tmp_path / "x", (4, 6, channels))


@pytest.mark.parametrize(
    "content",
    [tf.io.encode_png(with_alpha(255)).numpy(), encoded("GIF", INDICES, palette=PALETTE)],
    ids=["png", "gif"],
)
def test_an_alpha_channel_that_hides_nothing_is_fine(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    image = client_files.read_image(tmp_path / "x", (4, 6, 3))
    np.testing.assert_array_equal(np.round(255.0 * image), COLOURS)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: png(path, 6, 4), "has 4 x 6 pixels; the model takes 6 x 4"),
        (lambda path: path.write_bytes(b"text"), "is no PNG, JPEG, BMP or GIF"),
        (lambda path: None, "cannot be read"),
        (lambda path: path.mkdir(), "cannot be read"),
    ],
)
def test_files_that_are_no_image_of_the_model(tmp_path, make, sentence):
    make(tmp_path / "x.png")
    with pytest.raises(InputError, match=f"x.png {sentence}"):
        client_files.read_images([tmp_path / "x.png"], IMAGES)


def test_rows_go_by_their_columns_names(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("sex , blood pressure,ill!,ill?,age\nf,120.5,yes,1,\n,NaN,no,2,33\n")
    inputs = client_files.read_rows(file, COLUMNS)
    assert set(inputs) == {"age", "blood_pressure", "sex"}
    np.testing.assert_array_equal(inputs["age"], np.array([np.nan, 33], np.float32))
    np.testing.assert_array_equal(inputs["blood_pressure"], np.array([120.5, np.nan], np.float32))
    assert inputs["sex"].tolist() == ["f", ""]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sex,age\nf,1\n", "lacks the columns blood_pressure."),
        ("sex,age,blood_pressure\n", "has a header and no rows"),
        ("", "is empty"),
        ("age,sex,blood_pressure\n1,f,2,\n", "row 1: 4 values were found"),
        ("age,sex,age,blood_pressure\n1,f,2,3\n", "names column 'age' twice"),
        (
            "age,sex,blood pressure,blood_pressure\n1,f,2,3\n",
            "has 'blood pressure' and 'blood_pressure', both of which",
        ),
        (
            "sex,age,blood pressure\nf,1,2\nf,old,3\n",
            "row 2: column age is 'old'; a number is needed.",
        ),
    ],
)
def test_files_that_are_no_rows_of_the_model(tmp_path, text, sentence):
    file = tmp_path / "rows.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(sentence)):
        client_files.read_rows(file, COLUMNS)


def test_images_and_rows_are_not_mixed_up(tmp_path):
    with pytest.raises(InputError, match="the model takes columns"):
        client_files.read_images([], COLUMNS)
    with pytest.raises(InputError, match="the model takes images"):
        client_files.read_rows(tmp_path, IMAGES)


def test_the_picture_has_images_above_and_reconstructions_below():
    page = tf.io.decode_png(
        client_files.picture(np.zeros([3, 4, 6, 1]), np.full([3, 4, 6, 1], 0.5))
    ).numpy()
    assert page.shape == (2 * (4 * 4 + 4), 3 * (6 * 4 + 4), 1)
    assert (page[2:18, 2:26] == 0).all()
    assert (page[22:38, 2:26] == 128).all()
    assert (page[:2] == 255).all()


def test_the_binaries_say_what_they_need():
    asked = {
        "one of --image and --csv is needed.": ("export.predict", "--endpoint=localhost:1"),
        "one of --model_base_path and --model_config_file is needed.": ("export.serve",),
    }
    for sentence, flags in asked.items():
        done = call(*flags)
        assert (done.returncode, done.stderr) == (2, f"error: {sentence}\n")


# JSON


@pytest.mark.parametrize(
    ("values", "dtype", "wanted"),
    [
        ([1, 2.5, -1e-3], tf.float32, np.array([1, 2.5, -1e-3], np.float32)),
        ([[1], [2]], tf.int64, np.array([[1], [2]])),
        ([True, False], tf.bool, np.array([True, False])),
        ([255, 0], tf.uint8, np.array([255, 0], np.uint8)),
        (3, tf.int32, np.array(3, np.int32)),
        ([[], []], tf.float32, np.zeros([2, 0], np.float32)),
    ],
)
def test_json_becomes_arrays(values, dtype, wanted):
    asked = definition(x=(wanted.shape, dtype))
    arrays, rows = json_tensors.inputs_of({"inputs": {"x": values}}, asked)
    np.testing.assert_array_equal(arrays["x"], wanted)
    assert (arrays["x"].dtype, rows) == (wanted.dtype, False)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([256], tf.uint8),
        ([-1], tf.uint8),
        ([2**31], tf.int32),
        ([2**63], tf.int64),
        ([1.0], tf.int64),
        ([True], tf.int32),
        ([1], tf.bool),
        ([2**24], tf.float32),
        ([2**53], tf.float64),
        (["1"], tf.float32),
        ([[1], 2], tf.float32),
        ([1, [2]], tf.float32),
        ([{"b64": "AA=="}], tf.float32),
        ([{"b64": 3}], tf.string),
        ([{"b64": "AA==", "more": 1}], tf.string),
        ([None], tf.string),
    ],
)
def test_json_that_would_lose_something_is_refused(values, dtype):
    asked = definition(x=([None], dtype))
    with pytest.raises(ServingError) as caught:
        json_tensors.inputs_of({"inputs": {"x": values}}, asked)
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1, 2], tf.string),
        ([None], tf.string),
        ([1.7], tf.int32),
        (np.array([2**32 + 1]), tf.int32),
        ([2**40], tf.int32),
        (["1.0x"], tf.float32),
        ([[1.0], [2.0, 3.0]], tf.float32),
    ],
)
def test_values_that_would_become_others_are_not_sent(value, dtype):
    info = definition(x=([None], dtype)).inputs["x"]
    with pytest.raises(ServingError, match="'x' takes") as caught:
        client_lib._array("x", value, info)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_values_that_stay_are_sent():
    def sent(value, dtype):
        return client_lib._array("x", value, definition(x=([None], dtype)).inputs["x"])

    assert sent(["a", b"b"], tf.string).tolist() == [b"a", b"b"]
    assert sent([1.0, 2], tf.int32).tolist() == [1, 2]
    np.testing.assert_array_equal(sent([None, 1.5], tf.float32), np.float32([np.nan, 1.5]))


def test_rows_need_outputs_of_one_length():
    same = {"a": np.zeros([2, 3]), "b": np.ones([2], bool)}
    rows = json.loads(json_tensors.answer(same, rows=True))["predictions"]
    assert rows == [{"a": [0.0, 0.0, 0.0], "b": True}] * 2
    with pytest.raises(ServingError, match="inconsistent batch sizes"):
        json_tensors.answer({"a": np.zeros(2), "b": np.zeros(3)}, rows=True)
    with pytest.raises(ServingError, match="no shape"):
        json_tensors.answer({"a": np.zeros([]), "b": np.zeros(3)}, rows=True)
    assert json.loads(json_tensors.answer({"a": np.array(np.nan)}, rows=False))["outputs"] != 0
