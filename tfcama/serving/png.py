"""PNG files to images, in the graph; what a file claims to be is read before it is decoded."""

from __future__ import annotations

import tensorflow as tf

from tfcama.types import InputSpec

IMAGE_BYTES = "image_bytes"
MAX_BYTES = 1 << 20  # of one file
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = 33  # bytes: the signature and the chunk IHDR, which comes first
_CHANNELS = {1: ((0,), "grey"), 3: ((2, 3), "RGB")}  # -> PNG's colour types


def decodable(spec: InputSpec) -> bool:
    """Whether PNG files can say what inputs are: grey or RGB images in known bounds."""
    return spec.kind == "image" and spec.bounds is not None and spec.shape[-1] in _CHANNELS


def decode(contents: tf.Tensor, spec: InputSpec) -> tf.Tensor:
    """Images [B, H, W, channels] in the spec's bounds, from PNG files [B].

    Eight bits a value; files of sixteen lose the lower eight. Size and channels are compared with
    the header's before anything is decompressed, so a file cannot ask for more memory than an input
    takes.

    Raises:
      InvalidArgumentError: in the graph; a file is too large, no PNG, of another size or other
        channels, or damaged.
    """
    height, width, channels = spec.shape
    if spec.bounds is None:
        raise ValueError("a PNG's values have no meaning without bounds.")
    low, high = spec.bounds
    with tf.control_dependencies(_checks(contents, spec)):
        contents = tf.identity(contents)
    pixels = tf.map_fn(
        lambda file: tf.ensure_shape(
            tf.io.decode_png(file, channels=channels), [height, width, channels]
        ),
        contents,
        fn_output_signature=tf.TensorSpec(spec.shape, tf.uint8),
        parallel_iterations=1,
    )
    return low + (high - low) * (tf.cast(pixels, tf.float32) / 255.0)


def _checks(contents: tf.Tensor, spec: InputSpec) -> list[tf.Operation]:
    """Assertions about every file's length and header, one after the other."""
    height, width, channels = spec.shape
    types, named = _CHANNELS[channels]
    length = tf.strings.length(contents)

    def must(condition: tf.Tensor, sentence: str) -> tf.Operation:
        return tf.debugging.Assert(tf.reduce_all(condition), [f"{IMAGE_BYTES}: {sentence}"])

    some = must(tf.size(contents) > 0, "empty; at least one file is needed.")
    small = must(length <= MAX_BYTES, f"a file has at most {MAX_BYTES} bytes.")
    whole = must(length >= _HEADER, "a file is no PNG: it is too short.")
    with tf.control_dependencies([some, small, whole]):
        header = tf.strings.substr(contents, 0, _HEADER)
    start = must(
        (tf.strings.substr(header, 0, 8) == _SIGNATURE)
        & (tf.strings.substr(header, 12, 4) == b"IHDR"),
        "a file is no PNG.",
    )
    fields = tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int64)[:, 16:26]  # [B, 10]
    places = tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64)
    given_width = tf.reduce_sum(fields[:, :4] * places, axis=1)
    given_height = tf.reduce_sum(fields[:, 4:8] * places, axis=1)
    size = must(
        (given_width == width) & (given_height == height),
        f"an image of {width} x {height} pixels is needed; a file has another size.",
    )
    colour = must(
        tf.reduce_any(fields[:, 9:10] == tf.constant(types, tf.int64), axis=1),
        f"a {named} PNG without alpha channel is needed; a file has other channels.",
    )
    return [some, small, whole, start, size, colour]
