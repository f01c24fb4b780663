"""What was served: the log of requests, and folders and files, as features to adapt to."""

import stat
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2

from tests.serving.rows import ROWS, sent, table_spec
from tfcama.data import tables
from tfcama.errors import InputError
from tfcama.serving import served
from tfcama.serving.inputs import inputs_of
from tfcama.serving.server.request_log import RequestLog, older


class Version(NamedTuple):
    """All that the log knows of a loaded version."""

    name: str = "cama"
    number: int = 3


def png(image):
    return tf.io.encode_png(tf.cast(255.0 * image, tf.uint8)).numpy()


def quiet(line):
    raise AssertionError(line)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "requests.tfrecord"


@pytest.fixture
def log(path):
    made = RequestLog(path)
    yield made
    made.close()


def test_inputs_come_back_whatever_was_asked_and_each_once(spec, images, path, log):
    log.predicted(Version(), "serving_default", {"image": images[:2]})
    seeds = np.zeros(2, np.int32)
    log.predicted(Version(), "predict_seeded", {"image": images[1:3], "seed": seeds})
    request = classification_pb2.ClassificationRequest()
    for serialized in inputs_of(spec).serialize((images[3:5],)):
        request.input.example_list.examples.add().ParseFromString(serialized)
    log.classified(Version(), "classify", request)
    log.predicted(Version(), "predict_png", {"image_bytes": np.array([png(images[5])], object)})
    # Clients may ask by Predict what is for Classify; Client.class_names does.
    log.predicted(Version(), "classify", {"inputs": inputs_of(spec).serialize((images[6:],))})
    found = served.of_log(path, spec, progress=quiet)  # while the server runs
    np.testing.assert_allclose(found[:5], images[:5], atol=1e-7)
    np.testing.assert_allclose(found[5:6], images[5:6], atol=1 / 255)
    np.testing.assert_allclose(found[6:], images[6:], atol=1e-7)


def test_rows_of_a_table_come_back_as_the_training_saw_them(path, log):
    log.predicted(Version(), "serving_default", sent())
    found = served.of_log(path, table_spec(), progress=quiet)
    expected = tables.encode(table_spec(), pd.DataFrame(ROWS))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_log_of_several_models_needs_a_name(spec, images, path, log):
    log.predicted(Version("other"), "serving_default", {"x": np.zeros([1, 3])})
    log.predicted(Version(), "serving_default", {"image": images[:1]})
    assert len(served.of_log(path, spec, model_name="cama", progress=quiet)) == 1
    with pytest.raises(InputError, match=r"record 0: its inputs are x, .* --model_name chooses"):
        served.of_log(path, spec, progress=quiet)
    with pytest.raises(InputError, match="has no requests for model 'third'"):
        served.of_log(path, spec, model_name="third", progress=quiet)


def test_a_request_that_the_model_would_refuse_is_named(spec, images, path, log):
    log.predicted(Version(), "serving_default", {"image": images + 1.0})
    with pytest.raises(InputError, match=r"record 0: image: every value must be in \[0, 1\]\.$"):
        served.of_log(path, spec, progress=quiet)


def test_a_request_with_nan_is_named_without_the_graphs_functions(spec, images, path, log):
    log.predicted(Version(), "serving_default", {"image": np.nan * images})
    with pytest.raises(InputError, match=r"record 0: image: every value must be finite[^;]*$"):
        served.of_log(path, spec, progress=quiet)


@pytest.mark.parametrize(
    ("image", "given"),
    [
        (np.zeros([1, 14, 28, 1], np.float32), r"float32 \[1, 14, 28, 1\]"),
        (np.zeros([1, 28, 28, 1], np.int32), r"int32 \[1, 28, 28, 1\]"),
    ],
)
def test_an_input_of_another_shape_or_type_may_be_another_models(spec, path, log, image, given):
    log.predicted(Version("other"), "serving_default", {"image": image})
    sentence = rf"image is {given}, the model's is float32 \[None, 28, 28, 1\]; .*--model_name"
    with pytest.raises(InputError, match=sentence):
        served.of_log(path, spec, progress=quiet)


def test_an_unfinished_record_ends_the_log_and_a_damaged_one_is_an_error(spec, images, path, log):
    for image in images:
        log.predicted(Version(), "serving_default", {"image": image[None]})
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    told = []
    found = served.of_log(path, spec, progress=told.append)
    np.testing.assert_array_equal(found, images[:-1])
    assert told == [f"{path}: the last record is unfinished; 6 are read"]
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    with pytest.raises(InputError, match=r"is damaged after \d records"):
        served.of_log(path, spec, progress=quiet)
    path.write_bytes(b"a text, and no log of requests")
    with pytest.raises(InputError, match="is damaged after 0 records"):
        served.of_log(path, spec, progress=quiet)
    path.unlink()
    with pytest.raises(InputError, match="is no file; name a log of requests"):
        served.of_log(path, spec, progress=quiet)


def test_a_log_whose_only_record_was_cut_off_makes_way_for_another(spec, images, path, log):
    log.predicted(Version(), "serving_default", {"image": images[:1]})
    path.write_bytes(path.read_bytes()[:100])
    again = RequestLog(path)
    again.predicted(Version(), "serving_default", {"image": images[1:2]})
    again.close()
    told = []
    np.testing.assert_array_equal(served.of_log(path, spec, progress=told.append), images[1:2])
    assert told == [f"{older(path)}: the last record is unfinished; 0 are read"]


def test_a_full_log_keeps_the_newest_requests_in_two_files(spec, images, path):
    one = 28 * 28 * 4 + 300
    log = RequestLog(path, max_bytes=2 * one)
    for image in images:
        log.predicted(Version(), "serving_default", {"image": image[None]})
    log.close()
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, older(path).name]
    assert max(path.stat().st_size, older(path).stat().st_size) < 3 * one
    assert stat.S_IMODE(path.stat().st_mode) == 0o600  # clients' inputs
    np.testing.assert_array_equal(served.of_log(path, spec, progress=quiet), images[4:])
    again = RequestLog(path, max_bytes=2 * one)  # a server that starts again appends to nothing
    again.predicted(Version(), "serving_default", {"image": images[:1]})
    again.predicted(Version(), "serving_default", {"image": images})  # larger than a file may be
    again.close()
    again.predicted(Version(), "serving_default", {"image": images[1:2]})  # too late
    found = served.of_log(path, spec, progress=quiet)
    np.testing.assert_array_equal(found, np.concatenate([images[6:], images[:1]]))


@pytest.mark.parametrize("then", ["nothing", "an empty file", "another log"])
def test_a_log_that_is_taken_away_is_begun_again(spec, images, path, log, then):
    log.predicted(Version(), "serving_default", {"image": images[:1]})
    path.rename(older(path))  # as logrotate does
    if then == "an empty file":
        path.touch()
    elif then == "another log":
        path.write_bytes(older(path).read_bytes())
    for image in images[1:3]:
        log.predicted(Version(), "serving_default", {"image": image[None]})
    np.testing.assert_array_equal(served.of_log(path, spec, progress=quiet), images[:3])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    log.predicted(Version(), "serving_default", {"image": images[3:4]})
    np.testing.assert_array_equal(served.of_log(path, spec, progress=quiet), images[[0, 3]])


def test_a_share_of_the_requests_is_kept(spec, images, path):
    log = RequestLog(path, sampling_rate=0.0)
    log.predicted(Version(), "serving_default", {"image": images})
    log.close()
    assert not path.exists()
    log = RequestLog(path, sampling_rate=0.5)
    for _ in range(200):
        log.predicted(Version(), "serving_default", {"image": images[:1]})
    log.close()
    assert 60 < sum(1 for _ in tf.data.TFRecordDataset(str(path))) < 140


def test_a_disk_that_takes_no_more_ends_the_log_and_not_the_server(images, tmp_path):
    told = []
    (tmp_path / "logs").mkdir()
    log = RequestLog(tmp_path / "logs" / "requests", log=told.append)
    (tmp_path / "logs").rmdir()
    for _ in range(2):
        log.predicted(Version(), "serving_default", {"image": images[:1]})
    log.close()
    (line,) = told
    assert "requests are logged no more" in line


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampling_rate": 1.5}, r"a sampling rate of 1.5 was given; it must be in \[0, 1\]"),
        ({"max_bytes": 0}, "a request log of 0 bytes"),
        ({"path": "nowhere/requests"}, "directory .*nowhere does not exist"),
    ],
)
def test_what_no_log_could_be_is_refused(tmp_path, options, sentence):
    path = tmp_path / options.pop("path", "requests")
    with pytest.raises(InputError, match=sentence):
        RequestLog(path, **options)


def test_a_folder_of_images(spec, images, tmp_path):
    for name, image in (("b.png", images[1]), ("a.png", images[0]), ("c.PNG", images[0])):
        (tmp_path / name).write_bytes(png(image))
    (tmp_path / "notes.txt").write_text("no image")
    found = served.of_folder(tmp_path, spec)
    np.testing.assert_allclose(found, images[:2], atol=1 / 255)
    (tmp_path / "d.png").write_bytes(png(images[0][:14]))
    with pytest.raises(InputError, match=r"d.png has 28 x 14 pixels; the model takes 28 x 28"):
        served.of_folder(tmp_path, spec)


def test_what_is_no_folder_of_images_is_refused(spec, tmp_path):
    with pytest.raises(InputError, match="has no images"):
        served.of_folder(tmp_path, spec)
    with pytest.raises(InputError, match="cannot be listed"):
        served.of_folder(tmp_path / "nowhere", spec)
    with pytest.raises(InputError, match="the model takes a table; give --csv or --log"):
        served.of_folder(tmp_path, table_spec())


def test_rows_of_a_file(spec, tmp_path):
    frame = pd.DataFrame(ROWS)
    pd.concat([frame, frame]).to_csv(tmp_path / "rows.csv", index=False)
    found = served.of_csv(tmp_path / "rows.csv", table_spec())
    np.testing.assert_array_equal(found, tables.encode(table_spec(), frame))
    frame.assign(Sex="F").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match=r"other.csv: no row has a category of Sex that training"):
        served.of_csv(tmp_path / "other.csv", table_spec())
    with pytest.raises(InputError, match="the model takes images; give --inputs or --log"):
        served.of_csv(tmp_path / "rows.csv", spec)
