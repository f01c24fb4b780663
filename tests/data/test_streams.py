"""What a flag says of a stream, and where it changes."""

import numpy as np
import pytest

from tfcama.data import streams
from tfcama.errors import InputError


def test_changes_are_where_the_kind_changes_and_a_stream_begins_after_clean_inputs():
    segments = streams.parse("rotation:60@30,rotation:60@10, clean@5,contrast:0.5@7")
    assert streams.changes(segments) == [0, 40, 45]
    assert streams.changes(streams.parse("clean@5,rotation:10@5")) == [5]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rotation:60", r"'rotation:60' of the stream was given; manipulation@inputs is needed"),
        ("clean@0", "'clean@0' of the stream"),
        ("clean@2.5", "'clean@2.5' of the stream"),
        ("clean@5,rotatoin:60@5", "did you mean 'rotation'"),
        ("rotation@5", "'rotation' has no level"),
    ],
)
def test_what_is_no_stream_is_refused(text, sentence):
    with pytest.raises(InputError, match=sentence):
        streams.parse(text)


def test_a_segment_is_manipulated_as_rows_of_results_say(bars):
    moved = streams.manipulated(bars.test, "vertical_shift:1:mode=fixed", bars, seed=0)
    assert not moved.x.any()  # a whole frame away
    np.testing.assert_array_equal(moved.y, bars.test.y)
    assert streams.manipulated(bars.test, streams.CLEAN, bars, seed=0) is bars.test
    assert streams.name_and_level(streams.CLEAN) == ("", 0.0)
    assert streams.name_and_level("rotation:60+contrast:0.5") == ("rotation:60+contrast:0.5", 1.0)
