r"""Asks a served model about images or rows, and prints what it answers.

    python -m export.predict --endpoint=localhost:8500 --model_name=cama --image=7.png
    python -m export.predict --endpoint=http://localhost:8501 --image=7.png --out=m0.png
    python -m export.predict --endpoint=localhost:8500 --model_name=health --csv=rows.csv

HOST:PORT is gRPC, http://HOST:PORT is REST; tensorflow_model_server and export.serve both answer.
--out writes a picture: the images, and under each what the model believes it to be without the
manipulation, do(m = 0).
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from tfcama.errors import InputError
from tfcama.serving import client_files
from tfcama.serving.client import Client
from tfcama.serving.errors import ServingError
from tfcama.serving.inputs import IMAGE
from tfcama.workdir import write_bytes

_ENDPOINT = flags.DEFINE_string(
    "endpoint",
    None,
    "HOST:PORT of gRPC, or http://HOST:PORT of REST. Example: --endpoint=localhost:8500",
    required=True,
)
_MODEL_NAME = flags.DEFINE_string(
    "model_name", "default", "As the server calls it. Example: --model_name=cama"
)
_VERSION = flags.DEFINE_integer(
    "version", None, "Ask this one, not the latest. Example: --version=2"
)
_LABEL = flags.DEFINE_string(
    "label", None, "Ask the version with this label. Example: --label=canary"
)
_IMAGE = flags.DEFINE_multi_string(
    "image", [], "A file of the model's image size; may be repeated. Example: --image=7.png"
)
_CSV = flags.DEFINE_string("csv", None, "Rows, with a header. Example: --csv=rows.csv")
_OUT = flags.DEFINE_string(
    "out", None, "The picture of images and reconstructions to write. Example: --out=m0.png"
)
_TIMEOUT = flags.DEFINE_float(
    "timeout",
    30.0,
    "Seconds for a request with its retries. Example: --timeout=5",
    lower_bound=0.001,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Rows of one request. Example: --batch_size=16", lower_bound=1
)
_NO_RECONSTRUCTION = "--out was given, but the model does not reconstruct images."


def main() -> None:
    if bool(_IMAGE.value) == bool(_CSV.value):
        raise InputError("one of --image and --csv is needed.")
    if _VERSION.value is not None and _LABEL.value is not None:
        raise InputError("--version and --label were given; one of them says it all.")
    try:
        with Client(
            _ENDPOINT.value,
            model=_MODEL_NAME.value,
            version=_VERSION.value,
            label=_LABEL.value,
            timeout=_TIMEOUT.value,
        ) as client:
            _predict(client)
    except ServingError as error:
        raise InputError(f"{error.code.name}: {error.sentence}") from None


def _predict(client: Client) -> None:
    definition = client.signature("serving_default")
    if _IMAGE.value:
        paths = [Path(name) for name in _IMAGE.value]
        inputs, names = client_files.read_images(paths, definition), _IMAGE.value
    else:
        inputs = client_files.read_rows(Path(_CSV.value), definition)
        names = [str(row + 1) for row in range(len(next(iter(inputs.values()))))]
    if _OUT.value and (IMAGE not in inputs or "reconstruct" not in client.signatures()):
        raise InputError(_NO_RECONSTRUCTION)
    _print(client, inputs, names)
    if _OUT.value:
        found = client.predict(inputs, signature="reconstruct", batch_size=_BATCH_SIZE.value)
        content = client_files.picture(inputs[IMAGE], found["reconstruction_do_m0"])
        write_bytes(Path(_OUT.value).expanduser(), content)
        print(f"wrote {_OUT.value}")


def _print(client: Client, inputs: dict[str, np.ndarray], names: list[str]) -> None:
    answer = client.predict(inputs, batch_size=_BATCH_SIZE.value)
    classes = client.class_names(inputs)
    detected = None
    if "detect" in client.signatures():
        detected = client.predict(inputs, signature="detect", batch_size=_BATCH_SIZE.value)
    table = Table()
    table.add_column("file" if _IMAGE.value else "row", overflow="fold")
    for heading in ("label", "probability"):
        table.add_column(heading, justify="right")
    if "log_px" in answer:
        table.add_column("log p(x)", justify="right")
    if detected is not None:
        table.add_column("percentile", justify="right")
        table.add_column("manipulated", justify="right")
    for row, name in enumerate(names):
        label = int(answer["label"][row])
        cells = [
            name,
            str(label) if classes is None else classes[label],
            f"{answer['probabilities'][row, label]:.1%}",
        ]
        if "log_px" in answer:
            cells.append(f"{answer['log_px'][row]:.1f}")
        if detected is not None:
            cells.append(f"{detected['percentile'][row]:.1f}")
            cells.append("yes" if detected["manipulated"][row] else "no")
        table.add_row(*cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    app.run(main)
