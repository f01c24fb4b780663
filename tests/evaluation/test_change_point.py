"""The detector where its run lengths are known."""

import numpy as np
import pytest

from tfcama.errors import InputError
from tfcama.evaluation.change_point import (
    Alarm,
    RankCusum,
    alarms,
    match,
    mean_run_length,
    threshold,
)


@pytest.mark.parametrize("transform", [lambda z: z, np.exp], ids=["normal", "lognormal"])
def test_false_alarms_come_as_rarely_as_declared_whatever_the_distribution(transform):
    rate, streams, length = 1e-2, 40, 2000
    draws = transform(np.random.default_rng(0).normal(size=(streams, length)))
    found = sum(len(alarms(row, RankCusum(false_alarm_rate=rate))) for row in draws)
    expected = rate * draws.size
    assert 0.6 * expected < found < 1.2 * expected


def test_a_shift_of_one_standard_deviation_is_found_as_soon_as_siegmund_says():
    generator = np.random.default_rng(1)
    for direction in (1, -1):
        delays = []
        for _ in range(100):
            detector = RankCusum(false_alarm_rate=1e-3)
            detector.prime(generator.normal(size=500))
            (alarm, *_) = alarms(generator.normal(direction, 1.0, size=200), detector)
            assert alarm.direction == direction
            delays.append(alarm.place + 1)
        expected = mean_run_length(detector.threshold, drift=0.5)
        assert expected * 0.8 < np.mean(delays) < expected * 1.3


def test_the_reference_is_bounded_and_begins_anew_after_an_alarm():
    generator = np.random.default_rng(2)
    kinds = [generator.normal(loc, 1.0, size=400) for loc in (0.0, 3.0, 0.0)]
    detector = RankCusum(false_alarm_rate=1e-4, reference=100)
    found = alarms(np.concatenate(kinds), detector)
    assert [alarm.direction for alarm in found] == [1, -1]
    for alarm, change in zip(found, (400, 800), strict=True):
        assert change <= alarm.place < change + 15
        assert abs(alarm.start - change) <= 10
    assert len(detector._sorted) == 100


def test_equal_numbers_raise_no_alarm():
    assert alarms(np.zeros(1000), RankCusum(false_alarm_rate=0.1)) == []


def test_alarms_are_matched_with_true_changes():
    found = [Alarm(5, 0, 1), Alarm(12, 10, 1), Alarm(17, 15, -1), Alarm(35, 30, 1)]
    detections, false = match(found, [10, 20, 30])
    assert [detection.delay for detection in detections] == [3, None, 6]
    assert false == 2  # one before anything changed, one a second time
    assert match(found, []) == ([], 4)


def test_every_allowed_detector_can_be_made():
    for rate in (1e-12, 0.1):
        for shift in (1e-3, 10.0):
            found = RankCusum(false_alarm_rate=rate, shift=shift).threshold
            assert found >= 0.0
    assert RankCusum(false_alarm_rate=0.1, shift=10.0).threshold == 0.0


def test_the_threshold_undoes_the_run_length():
    h = threshold(1e-4, allowance=0.5)
    assert mean_run_length(h, drift=-0.5) == pytest.approx(2e4)
    assert mean_run_length(2.0, drift=1e-7) == pytest.approx(mean_run_length(2.0, drift=1e-4), 1e-3)


@pytest.mark.parametrize(
    "arguments",
    [{"false_alarm_rate": 0.0}, {"shift": 0.0}, {"shift": 11.0}, {"reference": 5}],
)
def test_bad_arguments_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(InputError, match=f"{name}="):
        RankCusum(**arguments)


def test_nan_has_no_rank():
    with pytest.raises(InputError, match="number 0 of the stream is NaN"):
        RankCusum().update(float("nan"))
