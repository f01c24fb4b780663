"""The local server's page in a real browser, over a model whose answers are known."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.browser import BROWSER, Browser
from tests.serving.endpoints import Endpoint, ask, config, save_tiny
from tests.serving.rows import NAMES, table_spec
from tfcama.serving.inputs import inputs_of
from tfcama.serving.server.server import Server

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or google-chrome is on PATH (apt-get install chromium)"
)
IMAGE = tf.TensorSpec([None, 28, 28, 1], tf.float32, name="image")


class Thirds(tf.Module):
    """Three classes: which third of the image is brightest, sharper by a factor.

    What it calls a manipulation is how many rows the image's middle lies below the frame's.
    """

    def __init__(self, factor):
        super().__init__()
        self.factor = tf.Variable(float(factor))

    @tf.function(input_signature=[IMAGE])
    def predict(self, image):
        thirds = tf.stack([tf.reduce_sum(p, [1, 2, 3]) for p in tf.split(image[:, :27], 3, 1)], 1)
        probabilities = tf.nn.softmax(self.factor * thirds / 100.0)
        return {
            "probabilities": probabilities,
            "label": tf.argmax(probabilities, 1, output_type=tf.int32),
        }

    def middle(self, image):
        rows = tf.reshape(tf.range(28.0), [1, 28, 1, 1])
        mass = tf.reduce_sum(image, [1, 2, 3])
        return tf.math.divide_no_nan(tf.reduce_sum(rows * image, [1, 2, 3]), mass) - 13.5

    @tf.function(input_signature=[IMAGE])
    def detect(self, image):
        p_value = tf.exp(-tf.abs(self.middle(image)))
        return {"log_px": -self.middle(image), "p_value": p_value, "manipulated": p_value < 0.05}

    @tf.function(input_signature=[IMAGE])
    def reconstruct(self, image):
        return {
            "reconstruction": image,
            "reconstruction_do_m0": 1.0 - image,
            "manipulation": self.middle(image)[:, None],
        }


class Redness(tf.Module):
    """Whether an image of 4 x 6 pixels is red."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 6, 3], tf.float32, name="image")])
    def predict(self, image):
        red = tf.reduce_mean(image[..., 0], [1, 2])
        return {
            "probabilities": tf.stack([1.0 - red, red], 1),
            "label": tf.cast(red > 0.5, tf.int32),
        }


def described(**changed):
    return {
        "input": {"kind": "image", "shape": [28, 28, 1], "bounds": [0.0, 1.0]},
        "class_names": ["up", "middle", "down"],
        "dataset": "thirds",
        "clean": {"accuracy": 0.987},
        "manipulation": [{"name": "shift_y", "unit": "pixels"}],
        "signatures": {"serving_default": {}, "detect": {}, "reconstruct": {}},
        "config": {"finetuned": None},
        **changed,
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Base paths: `thirds` with versions 1 and 2, `table`, `colour`; `plain` has no tfcama.json."""
    root = tmp_path_factory.mktemp("pages")
    adapted = {"finetuned": {"subject": "requests 12ab", "mechanism": "translation", "steps": 3}}
    for number in (1, 2):
        made, path = Thirds(factor=number), root / "thirds" / str(number)
        signatures = {"serving_default": made.predict}
        if number == 1:
            signatures |= {"detect": made.detect, "reconstruct": made.reconstruct}
        tf.saved_model.save(made, str(path), signatures=signatures)
        told = described() if number == 1 else described(signatures=["serving_default"])
        told["config"] = {"finetuned": None} if number == 1 else adapted
        (path / "tfcama.json").write_text(json.dumps(told))
    redness, path = Redness(), root / "colour" / "1"
    tf.saved_model.save(redness, str(path), signatures={"serving_default": redness.predict})
    shown = {"kind": "image", "shape": [4, 6, 3], "bounds": [0.0, 1.0]}
    told = described(input=shown, class_names=["other", "red"], signatures=["serving_default"])
    (path / "tfcama.json").write_text(json.dumps(told))
    for name in ("plain", "table"):
        (root / name).mkdir()
        save_tiny(root / name / "1", factor=1)
    told = described(input=inputs_of(table_spec()).metadata(), signatures={})
    told["input"]["columns"][1]["categories"] = ["don't know", "m"]
    (root / "table" / "1" / "tfcama.json").write_text(json.dumps(told))
    shutil.copytree(root / "plain" / "1", root / "plain" / "2")
    (root / "plain" / "2" / "saved_model.pb").write_bytes(b"no graph")
    shutil.copytree(root / "plain" / "1", root / "plain" / "3")
    (root / "plain" / "3" / "tfcama.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def endpoint(models):
    both = "model_version_policy { all {} }"
    label = 'version_labels { key: "%s" value: %d }'
    labels = " ".join(label % named for named in (("stable", 1), ("canary", 2)))
    served = config(
        ("thirds", models / "thirds", f"{both} {labels}"),
        ("table", models / "table", ""),
        ("plain", models / "plain", both),
        ("colour", models / "colour", ""),
    )
    with Server(served) as server:
        yield Endpoint("", f"http://127.0.0.1:{server.rest_port}")


@pytest.fixture(scope="module")
def browser():
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(Browser())


def test_the_page_learns_of_models_versions_and_labels(endpoint):
    status, page = ask(endpoint, "/")
    assert status == 200
    assert "<title>tfcama" in page
    for outside in ("http://", "https://", "//cdn"):
        assert outside not in page  # nothing is loaded from elsewhere
    _, answer = ask(endpoint, "/models.json")
    _, plain, table, thirds = answer["models"]
    assert [m["name"] for m in answer["models"]] == ["colour", "plain", "table", "thirds"]
    assert thirds["labels"] == {"stable": 1, "canary": 2}
    assert [v["version"] for v in thirds["versions"]] == [2, 1]
    newest = thirds["versions"][0]["description"]
    assert newest["adapted"] == {"subject": "requests 12ab", "mechanism": "translation"}
    assert newest["signatures"] == ["serving_default"]
    assert thirds["versions"][1]["description"]["adapted"] is None
    assert table["versions"][0]["description"]["input"]["columns"][0]["input"] == NAMES[0]
    odd, broken, whole = plain["versions"]
    assert (odd["state"], odd["description"]) == ("AVAILABLE", None)
    assert (broken["state"], broken["description"]) == ("END", None)
    assert "holds no whole SavedModel" in broken["error"]
    assert (whole["state"], whole["error"], whole["description"]) == ("AVAILABLE", None, None)


def sent(browser, height=28, width=28):
    """The image that the page says it sends, [H, W] in [0, 1]; of colours the red."""
    script = f"""(() => {{ const c = document.getElementById('sent');
      return Array.from(c.getContext('2d').getImageData(0, 0, {width}, {height}).data); }})()"""
    return np.array(browser.run(script), float).reshape(height, width, 4)[:, :, 0] / 255.0


def centres(browser):
    return browser.run("document.getElementById('centre').checked")


def asked(endpoint, version, image, signature="serving_default"):
    body = {"signature_name": signature, "instances": [{"image": image[..., None].tolist()}]}
    status, answer = ask(endpoint, f"/v1/models/thirds/versions/{version}:predict", body)
    assert status == 200
    return answer["predictions"][0]


def shares(browser, side):
    script = f"""Array.from(document.querySelectorAll('#side-{side} .bars .number'))
      .map(e => parseFloat(e.innerText))"""
    return browser.run(script)


def choose(browser, selector, value):
    browser.run(f"document.querySelector('{selector}').value = {json.dumps(value)}")
    for event in ("input", "change"):
        browser.run(f"document.querySelector('{selector}').dispatchEvent(new Event('{event}'))")


@needs_browser
def test_two_versions_answer_side_by_side(endpoint, browser):
    browser.open(f"{endpoint.rest}/#model=thirds&example=7&dx=2&dy=9")
    image = sent(browser)
    rows, columns = (image.sum(axis=axis) for axis in (1, 0))
    middle = (np.average(np.arange(28), weights=rows), np.average(np.arange(28), weights=columns))
    assert abs(middle[1] - 13.5 - 2) < 1.0  # centred, then shifted; what left the frame is gone
    assert not rows[:8].any()
    for side, version in ((0, 1), (1, 2)):  # stable and canary
        answer = asked(endpoint, version, image)
        np.testing.assert_allclose(
            shares(browser, side), 100 * np.array(answer["probabilities"]), atol=0.2
        )
        best = ["up", "middle", "down"][answer["label"]]
        assert f"It is “{best}”" in browser.text(f"#side-{side} .answer")
    left, right = (browser.text(f"#side-{side}") for side in (0, 1))
    assert "trained on thirds, not adapted; 98.7 % right on clean held-out data" in left
    assert "adapted without labels to: requests 12ab (m is a translation)" in right
    detected = asked(endpoint, 1, image, "detect")
    assert detected["manipulated"]
    assert "manipulated (p = 0." in left
    assert "Detector: this version has none" in right
    assert "This version cannot reconstruct its inputs." in right
    done = asked(endpoint, 1, image, "reconstruct")["manipulation"][0]
    told = browser.text("#side-0 .manipulation")
    assert told.startswith("What was done to it: shift_y ")
    assert float(told.split()[-2]) == pytest.approx(done, abs=0.15)
    shot = browser.screenshot()
    assert tf.io.decode_png(shot).numpy().std() > 10.0  # it shows something


@needs_browser
def test_a_digit_is_drawn_shifted_and_put_back(endpoint, browser):
    browser.open(f"{endpoint.rest}/#model=thirds")
    browser.run("document.getElementById('clear').click()")
    browser.answered()
    assert not sent(browser).any()
    box = browser.run(
        "(b => [b.left, b.top])(document.getElementById('pad').getBoundingClientRect())"
    )
    browser.drag([(box[0] + 50 + step, box[1] + 60) for step in range(0, 150, 10)])
    browser.wait("document.body.dataset.state === 'answered'")
    bar = sent(browser)
    assert abs(np.average(np.arange(28), weights=bar.sum(axis=1)) - 13.5) <= 0.6  # centred
    choose(browser, "#dy", "-9")
    browser.answered()
    moved = sent(browser)
    np.testing.assert_allclose(moved[:19], bar[9:], atol=1e-6)
    assert "It is “up”" in browser.text("#side-0 .answer")
    browser.run("document.getElementById('reset').click()")
    browser.answered()
    np.testing.assert_allclose(sent(browser), bar, atol=1e-6)
    choose(browser, "#side-1 select", "1")
    browser.answered()
    assert shares(browser, 0) == shares(browser, 1)


@needs_browser
def test_a_file_is_uploaded_and_ink_on_paper_is_inverted(endpoint, browser, tmp_path):
    browser.open(f"{endpoint.rest}/#model=thirds")
    paper = np.full([28, 28, 1], 255, np.uint8)
    paper[12:16, 8:20] = 0
    (tmp_path / "ink.png").write_bytes(tf.io.encode_png(paper).numpy())
    browser.choose_file("#file", tmp_path / "ink.png")
    browser.wait("document.getElementById('invert').checked")
    browser.answered()
    np.testing.assert_allclose(sent(browser), 1.0 - paper[..., 0] / 255.0, atol=0.01)
    (tmp_path / "no.png").write_bytes(b"no image")
    browser.choose_file("#file", tmp_path / "no.png")
    browser.wait("!document.getElementById('problem').hidden")
    assert "no image that the browser can read" in browser.text("#problem")


@needs_browser
def test_only_drawings_and_examples_are_centred(endpoint, browser, tmp_path):
    browser.open(f"{endpoint.rest}/#model=thirds&example=1")
    assert centres(browser)
    corner = np.zeros([28, 28, 1], np.uint8)
    corner[20:26, 1:5] = 255
    (tmp_path / "corner.png").write_bytes(tf.io.encode_png(corner).numpy())
    browser.choose_file("#file", tmp_path / "corner.png")
    browser.wait("!document.getElementById('centre').checked")
    browser.answered()
    np.testing.assert_array_equal(sent(browser), corner[..., 0] / 255.0)
    choose(browser, "#example", "1")
    assert centres(browser)
    browser.run("document.getElementById('centre').click()")  # as somebody wants it
    choose(browser, "#example", "7")
    assert not centres(browser)
    choose(browser, "#model", "colour")
    browser.answered()
    pixels = np.zeros([4, 6, 3], np.uint8)
    pixels[0, :2, 0] = 255
    (tmp_path / "red.png").write_bytes(tf.io.encode_png(pixels).numpy())
    browser.choose_file("#file", tmp_path / "red.png")
    browser.wait("document.getElementById('problem').hidden && state.source.some(v => v > 0)")
    browser.answered()
    assert not centres(browser)
    np.testing.assert_array_equal(sent(browser, 4, 6), pixels[..., 0] / 255.0)


@needs_browser
def test_what_is_transparent_in_a_file_is_paper(endpoint, browser, tmp_path):
    browser.open(f"{endpoint.rest}/#model=thirds")
    ink = np.zeros([28, 28, 4], np.uint8)
    ink[12:16, 8:20, 3] = 255
    (tmp_path / "ink.png").write_bytes(tf.io.encode_png(ink).numpy())
    browser.choose_file("#file", tmp_path / "ink.png")
    browser.wait("document.getElementById('invert').checked")
    browser.answered()
    np.testing.assert_allclose(sent(browser), ink[..., 3] / 255.0, atol=0.01)


@needs_browser
def test_the_drawing_is_there_again_after_another_model(endpoint, browser):
    browser.open(f"{endpoint.rest}/#model=thirds&example=7")
    before = sent(browser)
    choose(browser, "#model", "colour")
    browser.answered()
    assert not centres(browser)
    assert not sent(browser, 4, 6).any()
    choose(browser, "#model", "thirds")
    browser.answered()
    assert before.any()
    np.testing.assert_array_equal(sent(browser), before)
    assert centres(browser)


@needs_browser
def test_examples_of_no_digit_are_none(endpoint, browser):
    browser.open(f"{endpoint.rest}/#model=thirds&example=__proto__")
    assert not sent(browser).any()


@needs_browser
def test_models_that_cannot_be_drawn_for_say_so(endpoint, browser):
    browser.open(f"{endpoint.rest}/#model=thirds")
    choose(browser, "#model", "table")
    browser.wait("!document.getElementById('table-model').hidden")
    assert browser.run("document.getElementById('image-model').hidden")
    told = browser.text("#table-model")
    assert "takes rows of a table" in told
    assert "/v1/models/table:predict" in told
    assert all(name in told for name in NAMES)
    assert r"don'\''t know" in told  # as a shell needs it
    choose(browser, "#model", "plain")
    browser.wait("!document.getElementById('problem').hidden")
    assert "no version with a tfcama.json" in browser.text("#problem")
    assert "version 2 is not served" in browser.text("#about")


@needs_browser
def test_a_server_that_was_away_is_no_problem_any_more(endpoint, browser):
    browser.open(f"{endpoint.rest}/#model=thirds")
    browser.run("window.real = window.fetch; window.fetch = () => Promise.reject(Error('away'))")
    browser.run("void refresh()")
    browser.wait(
        "document.getElementById('problem').textContent.includes('does not answer (away)')"
    )
    browser.run("window.fetch = window.real; void refresh()")
    browser.wait("document.getElementById('problem').hidden")
