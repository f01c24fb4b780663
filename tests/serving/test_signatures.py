import io
import struct
import zlib

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from tests.serving.conftest import untrained
from tfcama import random
from tfcama.errors import InputError
from tfcama.evaluation.predict import prediction_noise
from tfcama.models.cama import Cama, CamaConfig
from tfcama.serving import png
from tfcama.serving.answers import in_blocks
from tfcama.serving.detector import Detector, rows_needed
from tfcama.serving.module import ServingModule
from tfcama.types import Bounds, InputSpec

SEED = tf.constant(prediction_noise(0))
SIZE = 7  # images


def ask(served, signature, **values):
    answer = served.signatures[signature](**{k: tf.constant(v) for k, v in values.items()})
    return {name: value.numpy() for name, value in answer.items()}


def requests(images, loaded):
    """One for every signature."""
    bytes_ = (255 * np.clip(np.nan_to_num(images), 0, 1)).round().astype(np.uint8)
    seeds = np.arange(SIZE, dtype=np.int32)
    return {
        "serving_default": {"image": images},
        "predict_seeded": {"image": images, "seed": seeds},
        "classify": {"inputs": np.array([example(image) for image in images], object)},
        "predict_png": {"image_bytes": np.array([encode(image) for image in bytes_], object)},
        "detect": {"image": images},
        "reconstruct": {"image": images},
        "counterfactual": {"image": images, "label": seeds % loaded.classifier.num_classes},
    }


def example(image, **features):
    values = {"image": image, **features}
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(value)))
                for name, value in values.items()
            }
        )
    ).SerializeToString()


def encode(pixels):
    return tf.io.encode_png(pixels).numpy()


def test_serving_default_answers_as_the_model_does(loaded, served, images):
    answer = ask(served, "serving_default", image=images)
    scores = tf.concat(
        [loaded.classifier.log_scores(tf.constant(x[None]), seed=SEED) for x in images], axis=0
    )
    p = tf.nn.softmax(scores).numpy()
    np.testing.assert_allclose(answer["probabilities"], p, atol=1e-5)
    np.testing.assert_array_equal(answer["label"], tf.argmax(scores, axis=-1))
    np.testing.assert_allclose(answer["log_px"], tf.reduce_logsumexp(scores, axis=-1), rtol=1e-5)
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-30)), axis=1)
    np.testing.assert_allclose(answer["entropy"], entropy, atol=1e-4)


@pytest.mark.parametrize(
    "signature",
    [
        *("serving_default", "predict_seeded", "classify", "predict_png"),
        *("detect", "reconstruct", "counterfactual"),
    ],
)
def test_a_row_gets_one_answer_alone_and_in_any_batch(loaded, served, images, signature):
    values = requests(images, loaded)[signature]
    # More rows than a block holds (30), the last block not full, and the row in another place.
    many = {name: np.concatenate([value] * 5)[::-1] for name, value in values.items()}
    together = ask(served, signature, **many)
    again = ask(served, signature, **many)
    for name, value in together.items():
        assert len(value) == 5 * SIZE
        np.testing.assert_array_equal(value, again[name])
    for row in range(SIZE):
        alone = ask(served, signature, **{name: v[row : row + 1] for name, v in values.items()})
        for name, value in alone.items():
            there = together[name][-1 - row]
            if value.dtype in (object, bool):
                np.testing.assert_array_equal(value[0], there)
            elif "reconstruct" in signature or "counterfactual" in signature:
                np.testing.assert_allclose(value[0], there, atol=1e-5)  # in blocks
            else:
                if name == "log_px":
                    assert value[0] == there  # row by row
                np.testing.assert_allclose(value[0], there, rtol=1e-6)


def test_a_seed_decides_its_own_row_and_nothing_else(loaded, served, images):
    same = np.repeat(images[:1], 4, axis=0)
    answer = ask(served, "predict_seeded", image=same, seed=np.int32([5, 6, 5, -5]))
    for value in answer.values():
        np.testing.assert_array_equal(value[0], value[2])
    assert len(set(answer["log_px"].tolist())) == 3
    scores = loaded.classifier.log_scores(tf.constant(same[:1]), seed=random.fold_in(SEED, 6))
    np.testing.assert_allclose(answer["log_px"][1], tf.reduce_logsumexp(scores[0]), rtol=1e-5)


def test_classify_has_the_labels_and_their_probabilities(served, images, loaded):
    answer = ask(served, "classify", **requests(images, loaded)["classify"])
    expected = ask(served, "serving_default", image=images)["probabilities"]
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    assert answer["classes"].tolist() == [[b"a", b"b", b"c"]] * SIZE


def test_a_png_is_its_pixels_over_255(served, images, loaded):
    answer = ask(served, "predict_png", **requests(images, loaded)["predict_png"])
    rounded = ((255 * images).round() / 255).astype(np.float32)
    expected = ask(served, "serving_default", image=rounded)
    np.testing.assert_allclose(answer["log_px"], expected["log_px"], rtol=1e-5)


def test_detect_places_log_px_among_clean_inputs(loaded, served, bars, images):
    reference = loaded.classifier.log_px(tf.constant(bars.train.x), seed=SEED).numpy()
    asked = np.concatenate([bars.train.x[:20], images])  # noise is no bar
    answer = ask(served, "detect", image=asked)
    log_px = ask(served, "serving_default", image=asked)["log_px"]
    np.testing.assert_array_equal(answer["log_px"], log_px)
    below = (reference[None] <= log_px[:, None] + 1e-4).mean(axis=1)
    np.testing.assert_allclose(answer["percentile"], 100 * below, atol=200 / len(reference))
    assert answer["manipulated"][20:].all()
    np.testing.assert_allclose(answer["p_value"][20:], 2 / (len(reference) + 1), rtol=1e-5)


def test_reconstruct_is_the_models_own(loaded, served, images):
    answer = ask(served, "reconstruct", image=images)
    model, x = loaded.classifier, tf.constant(images)
    for name, do_m0 in (("reconstruction", False), ("reconstruction_do_m0", True)):
        expected = model.reconstruct(x, seed=SEED, do_m0=do_m0)
        np.testing.assert_allclose(answer[name], expected, atol=1e-5)
    np.testing.assert_allclose(answer["m"], model.posterior_m(x).mean(), atol=1e-5)
    assert np.abs(answer["reconstruction"] - answer["reconstruction_do_m0"]).max() > 1e-3


def test_counterfactual_keeps_z_and_m_and_changes_the_class(loaded, served, images):
    model, x = loaded.classifier, tf.constant(images)
    predicted = ask(served, "serving_default", image=images)["label"]
    as_it_is = ask(served, "counterfactual", image=images, label=predicted)
    reconstructed = ask(served, "reconstruct", image=images)
    for end in ("", "_do_m0"):
        np.testing.assert_allclose(
            as_it_is[f"counterfactual{end}"], reconstructed[f"reconstruction{end}"], atol=1e-6
        )
    other = ((predicted + 1) % 3).astype(np.int32)
    answer = ask(served, "counterfactual", image=images, label=other)
    m = model.log_scores_and_m(x, seed=SEED)[1]
    _, z = model.latents_of(x, predicted, m)
    y = tf.one_hot(other, 3)[:, None]
    np.testing.assert_allclose(
        answer["counterfactual"], model.p(y, z, m).mean()[0, :, 0], atol=1e-5
    )
    np.testing.assert_allclose(
        answer["counterfactual_do_m0"],
        model.p(y, z, tf.zeros_like(m)).mean()[0, :, 0],
        atol=1e-5,
    )
    assert np.abs(answer["counterfactual"] - as_it_is["counterfactual"]).max() > 1e-3


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (2.0, r"image: every value must be in \[0, 1\]"),
        (-0.1, r"image: every value must be in \[0, 1\]"),
        (np.nan, "image: every value must be finite"),
        (np.inf, "image: every value must be finite"),
    ],
)
@pytest.mark.parametrize("signature", ["serving_default", "classify", "counterfactual"])
def test_invalid_inputs_reach_the_client_as_a_sentence(
    loaded, served, images, signature, value, sentence
):
    bad = images.copy()
    bad[1, 3, 3, 0] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        ask(served, signature, **requests(bad, loaded)[signature])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_that_there_is_not_is_refused(served, images, label):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"label: .* must be from 0 to 2"):
        ask(served, "counterfactual", image=images[:2], label=np.int32([0, label]))


def test_one_seed_for_several_rows_is_refused(served, images):
    with pytest.raises(tf.errors.InvalidArgumentError, match="seed: one value a row is needed"):
        ask(served, "predict_seeded", image=images, seed=np.int32([1]))


@pytest.mark.parametrize(
    ("serialized", "sentence"),
    [
        (b"no example", "Could not parse example"),
        (b"", "Feature: image .* is required but could not be found"),
        (example(np.zeros(783)), "Key: image.*Number of float values != expected"),
    ],
)
def test_an_example_that_is_none_is_refused(served, serialized, sentence):
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        ask(served, "classify", inputs=np.array([serialized], object))


@pytest.fixture(scope="module")
def as_the_server_feeds(export):
    """serving_default through a session without Python's checks, as the model server runs it."""
    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session(graph=graph)
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(export / "1"))
    signature = loaded.signature_def["serving_default"]
    options = config_pb2.CallableOptions(
        feed=[signature.inputs["image"].name], fetch=[signature.outputs["log_px"].name]
    )
    yield session._make_callable_from_options(options)
    session.close()


@pytest.mark.parametrize("shape", [(2, 14, 56, 1), (2, 28, 28), (2, 784), (1, 32, 32, 1)])
def test_another_shape_is_refused_though_it_has_as_many_values(as_the_server_feeds, shape):
    (answer,) = as_the_server_feeds(np.zeros([2, 28, 28, 1], np.float32))
    assert answer.shape == (2,)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected shape \[\?,28,28,1\]"):
        as_the_server_feeds(np.zeros(shape, np.float32))


def test_an_empty_batch_is_refused(as_the_server_feeds):
    with pytest.raises(tf.errors.InvalidArgumentError, match="image: empty; at least one image"):
        as_the_server_feeds(np.zeros([0, 28, 28, 1], np.float32))


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def bomb(width, height, colour=0):
    """A small file that says, and would, inflate to width x height bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def rgba():
    file = io.BytesIO()
    matplotlib.image.imsave(file, np.zeros([28, 28, 4]), format="png")
    return file.getvalue()


GOOD = encode(np.zeros([28, 28, 1], np.uint8))


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (b"", "image_bytes: a file is no PNG: it is too short"),
        (b"\x89PNG\r\n\x1a\n", "image_bytes: a file is no PNG: it is too short"),
        (b"GIF89a" + bytes(100), "image_bytes: a file is no PNG"),
        (tf.io.encode_jpeg(np.zeros([28, 28, 1], np.uint8)).numpy(), "a file is no PNG"),
        (encode(np.zeros([32, 28, 1], np.uint8)), "an image of 28 x 28 pixels is needed"),
        (bomb(100_000, 100_000), "an image of 28 x 28 pixels is needed"),
        (bomb(0xFFFFFFFF, 0xFFFFFFFF), "an image of 28 x 28 pixels is needed"),
        (encode(np.zeros([28, 28, 3], np.uint8)), "a grey PNG without alpha channel is needed"),
        (rgba(), "a grey PNG without alpha channel is needed"),
        (GOOD + bytes(png.MAX_BYTES), "a file has at most 1048576 bytes"),
        (GOOD[:60], "(?i)png"),
        (GOOD[:45] + bytes(10) + GOOD[55:], "(?i)png"),
    ],
)
def test_a_png_that_is_not_one_is_refused(served, file, sentence):
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        ask(served, "predict_png", image_bytes=np.array([GOOD, file], object))


def test_of_a_file_that_inflates_to_more_than_its_header_says_the_rest_is_not_read(served):
    # One megabyte of zeros behind a header of 28 x 28.
    answer = ask(served, "predict_png", image_bytes=np.array([bomb(28, 28), GOOD], object))
    assert answer["log_px"][0] == answer["log_px"][1]


def test_colour_files_become_colours():
    spec = InputSpec((4, 4, 3), ("a", "b"), Bounds(-1.0, 1.0))
    pixels = np.random.default_rng(0).integers(256, size=(2, 4, 4, 3)).astype(np.uint8)
    decoded = png.decode(tf.constant([encode(image) for image in pixels]), spec)
    np.testing.assert_allclose(decoded, pixels / 127.5 - 1.0, atol=1e-6)
    assert not png.decodable(spec._replace(bounds=None))
    assert not png.decodable(spec._replace(shape=(4, 4, 2)))


# --- what bounds memory -----------------------------------------------------------------------


def test_no_batch_decodes_or_encodes_more_rows_at_once_than_allowed(spec, monkeypatch, bars):
    """The assertions are in the graph, so they see what it does with a batch of any size."""
    limit = 12
    decode, encode_m, encode_z = Cama.p, Cama.posterior_m, Cama.posterior_z

    def must(rows):
        return tf.debugging.Assert(rows <= limit, ["rows", rows])

    def p(self, y, z, m, c=None):
        shape = tf.shape(z)
        rows = shape[0] * shape[1] * tf.maximum(shape[2], tf.shape(y)[1])
        with tf.control_dependencies([must(rows)]):
            return decode(self, y, tf.identity(z), m, c)

    def posterior_m(self, x):
        with tf.control_dependencies([must(tf.shape(x)[0])]):
            return encode_m(self, tf.identity(x))

    def posterior_z(self, x, y, m):
        with tf.control_dependencies([must(tf.shape(x)[0])]):
            return encode_z(self, tf.identity(x), y, m)

    model = Cama(spec, CamaConfig(num_samples=2, max_decoder_rows=limit))
    for name, function in (("p", p), ("posterior_m", posterior_m), ("posterior_z", posterior_z)):
        monkeypatch.setattr(Cama, name, function)
    with pytest.raises(tf.errors.InvalidArgumentError, match="rows"):
        model.reconstruct(tf.zeros([limit + 1, *spec.shape]), seed=SEED, do_m0=False)
    module = ServingModule(model, seed=prediction_noise(0), clean=bars.train)
    generator = np.random.default_rng(0)
    for signature in module.offered.values():
        values = signature.examples(generator, 5 * limit + 1)
        answer = signature.function(*(tf.constant(value) for value in values))
        assert {len(value) for value in answer.values()} == {5 * limit + 1}


@pytest.mark.parametrize(("size", "rows"), [(1, 4), (4, 4), (5, 4), (11, 4), (3, 1)])
def test_blocks_put_together_are_the_function_of_all(size, rows):
    x = tf.random.stateless_normal([size, 3], [0, 1])
    i = tf.range(size)
    seen = []

    def function(x, i):
        seen.append(len(x))
        return {"sum": tf.reduce_sum(x, axis=1), "both": x * tf.cast(i, tf.float32)[:, None]}

    answer = in_blocks(
        function,
        (x, i),
        rows=rows,
        signature={"sum": tf.TensorSpec([None]), "both": tf.TensorSpec([None, 3])},
    )
    for name, value in function(x, i).items():
        np.testing.assert_array_equal(answer[name], value)
    assert max(seen[:-1]) <= rows


# --- the detector -----------------------------------------------------------------------------


def test_p_values_of_clean_inputs_are_at_most_u_as_often_as_u():
    generator = np.random.default_rng(0)
    false_alarms = []
    for _ in range(200):
        clean = generator.standard_t(2, size=400).astype(np.float32)
        detector = Detector.fit(clean[:200], false_alarms=0.1)
        answer = detector.answer(tf.constant(clean[200:]))
        false_alarms.append(np.mean(answer["manipulated"]))
        np.testing.assert_array_equal(answer["manipulated"], answer["p_value"] <= 0.1)
    assert 0.08 < np.mean(false_alarms) < 0.105  # 0.1 less what 200 values cannot resolve


def test_both_ends_are_suspicious():
    detector = Detector.fit(np.arange(100.0), false_alarms=0.05)
    answer = detector.answer(tf.constant([-1e9, 49.5, 1e9]))
    assert answer["manipulated"].numpy().tolist() == [True, False, True]
    assert answer["percentile"].numpy().tolist() == [0.0, 50.0, 100.0]
    np.testing.assert_allclose(answer["p_value"], [2 / 101, 1.0, 2 / 101], rtol=1e-6)


@pytest.mark.parametrize("false_alarms", [0.0, 1.0, -0.1, float("nan")])
def test_a_level_is_inside_0_and_1(false_alarms):
    with pytest.raises(InputError, match="it must be inside"):
        rows_needed(false_alarms)


@pytest.mark.parametrize("false_alarms", [0.05, 0.01, 0.5])
def test_rows_needed_are_the_fewest_that_can_raise_an_alarm(false_alarms):
    needed = rows_needed(false_alarms)
    fitted = Detector.fit(np.zeros(needed), false_alarms=false_alarms)
    assert fitted.answer(tf.constant([1.0]))["manipulated"].numpy().all()
    with pytest.raises(InputError, match="clean inputs were given; detect needs"):
        Detector.fit(np.zeros(needed - 1), false_alarms=false_alarms)
    with pytest.raises(InputError, match="is not finite"):
        Detector.fit(np.full(needed, np.nan), false_alarms=false_alarms)


@pytest.mark.long
def test_a_mechanism_with_its_search_and_completion_is_served(spec, images, tmp_path):
    settings = {"mechanism": "translation", "m_starts": 2, "m_steps": 2, "z_steps": 2}
    model = untrained("cama", spec, tmp_path, num_samples=1, **settings).classifier
    head = model.q_m.variables[-1]
    head.assign(0.5 * tf.ones_like(head))  # m is not 0: parts of the images leave the frame
    answer = ServingModule(model, seed=prediction_noise(0)).serve(tf.constant(images[:1]))
    np.testing.assert_allclose(
        answer["log_px"], model.log_px(tf.constant(images[:1]), seed=SEED), rtol=1e-5
    )


def test_reconstruct_tells_what_was_done_in_units_of_the_mechanism(spec, images, tmp_path):
    settings = {"mechanism": "translation", "m_samples": 1}
    model = untrained("cama", spec, tmp_path, num_samples=1, **settings).classifier
    head = model.q_m.variables[-1]
    head.assign(0.5 * tf.ones_like(head))
    x = tf.constant(images[:1])
    module = ServingModule(model, seed=prediction_noise(0))
    answer = module.offered["reconstruct"].answer(x)
    assert [p.name for p in module.answers.parameters] == ["shift_x", "shift_y"]
    expected = model.manipulation(x, seed=SEED)
    np.testing.assert_allclose(answer["manipulation"], expected, rtol=1e-4, atol=1e-4)
    assert np.all(np.abs(expected) > 0.1)  # pixels
