"""A version directory that appears whole, after its answers were checked, or not at all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfcama import provenance
from tfcama.data.base import Split
from tfcama.errors import InputError
from tfcama.evaluation.predict import hits_of, prediction_noise
from tfcama.evaluation.results import commits, load_rows
from tfcama.serving import batching, description, operations, ops, png, warmup
from tfcama.serving.detector import FALSE_ALARMS, rows_needed
from tfcama.serving.inputs import inputs_of
from tfcama.serving.module import ServingModule, variables_of
from tfcama.training import run
from tfcama.training.run import LoadedRun
from tfcama.types import Generative
from tfcama.workdir import (
    Workdir,
    atomic_directory,
    clear_unfinished,
    is_disk_full,
    plain,
    write_json,
    write_text,
)

MAX_CLEAN = 1000  # rows that `detect` compares with; more cost time and say little more
_TOLERANCE = 1e-5


def publish(
    loaded: LoadedRun,
    base: Path,
    *,
    version: int | None = None,
    clean: Split | None = None,
    false_alarms: float = FALSE_ALARMS,
) -> Path:
    """Writes base/<version>/, a SavedModel with the signatures that `module` lists.

    The module is saved beside its place and reloaded; its answers to random inputs, and to the
    requests that a server will warm up with, are compared with those of the classifier in this
    process. Only then is it renamed. TF-Serving ignores the unfinished one, whose name is no
    number; one that a killed process left goes, of whatever version.

    Args:
      loaded: a finished run.
      base: the model's base path, whose children are versions; its last part is the model's name.
      version: positive; None takes one more than the highest there.
      clean: held-out rows that nobody manipulated, such as the validation split; at most MAX_CLEAN
        of them are scored. None publishes without `detect`.
      false_alarms: share of clean inputs that `detect` may take for manipulated ones.

    Returns:
      The version's directory.

    Raises:
      InputError: the base path cannot be written or is no directory, the version exists or is not
        positive, the columns of a table cannot be inputs, there are too few clean rows for the
        share of false alarms, the disk is full, an op is one that servers lack, or the reloaded
        module answers something else or no finite numbers.
    """
    if base.exists() and not base.is_dir():
        raise InputError(f"{base} is no directory, so no version can be published there.")
    version = _next_version(base) if version is None else version
    target = base / str(version)
    if not 1 <= version < 2**63:
        raise InputError(f"--version={version} was given; it must be at least 1 and below 2^63.")
    if target.exists():
        raise _taken(target)
    if clean is not None:
        clean = clean.take(np.arange(0, len(clean), -(-len(clean) // MAX_CLEAN)))
    module = ServingModule(
        loaded.classifier,
        seed=prediction_noise(loaded.config.seed),
        clean=clean,
        false_alarms=false_alarms,
    )
    name = base.resolve().name
    clear_unfinished(base, of=lambda other: description.number(other) is not None)
    try:
        with atomic_directory(target, replace=False) as temporary:
            tf.saved_model.save(module, str(temporary), signatures=module.functions)
            graph = _finished(temporary, module)
            logs = warmup.records(
                module.offered, model_name=name, generator=np.random.default_rng(1)
            )
            warmup.write(temporary / warmup.FILE, logs)
            write_text(
                temporary / batching.FILE,
                batching.parameters(batching.rows_together(module.answers)),
            )
            write_json(
                temporary / description.FILE,
                {
                    "name": name,
                    "version": version,
                    **_of_run(loaded),
                    **_of_export(loaded, module, graph, clean),
                    description.CHECKSUM: description.checksum(temporary),
                    "warmup_records": len(logs),
                },
            )
            _compare(module, temporary, loaded)
    except FileExistsError:
        raise _taken(target) from None
    except (OSError, tf.errors.OpError) as error:
        if is_disk_full(error):
            raise InputError(f"the disk is full; {target} was not written.") from error
        if isinstance(error, OSError):
            raise InputError(f"{target} cannot be written: {error.strerror}.") from error
        raise
    return target


def held_out(
    loaded: LoadedRun,
    *,
    data_dir: str | None,
    false_alarms: float = FALSE_ALARMS,
    progress: Callable[[str], object],
) -> Split | None:
    """The run's validation split as `publish` takes it; None where it is too small for a detector.

    Args:
      loaded: a finished run.
      data_dir: of tensorflow-datasets.
      false_alarms: of the detector.
      progress: told so, if there can be no detector.

    Raises:
      InputError: the data cannot be read, or the share of false alarms is not inside (0, 1).
    """
    needed = rows_needed(false_alarms)
    dataset = run.load_data(loaded.config, data_dir=data_dir)
    clean = dataset.validation
    if isinstance(loaded.classifier, Generative) and len(clean) < needed:
        share = math.ceil(100 * needed / (len(dataset.train) + len(clean))) / 100
        remedy = f"; train with --set validation_fraction={share:g}" if share < 1.0 else ""
        progress(
            f"the export has no `detect`: {len(clean)} rows are held out for validation, "
            f"{needed} are needed for {false_alarms:g} false alarms{remedy}"
        )
        return None
    return clean


def _next_version(base: Path) -> int:
    found = [description.number(path.name) for path in base.glob("[0-9]*")]
    return max((number for number in found if number is not None), default=0) + 1


def _taken(target: Path) -> InputError:
    return InputError(f"{target} exists; versions are never overwritten. Take a higher one.")


def _finished(path: Path, module: ServingModule) -> meta_graph_pb2.MetaGraphDef:
    """Writes what tf.saved_model.save cannot: the methods' names; returns the graph.

    Raises:
      InputError: it has an op that a server may lack.
    """
    file = path / description.SAVED_MODEL
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    ops.check(ops.ops_of(model))
    (graph,) = model.meta_graphs
    for signature in module.offered.values():
        graph.signature_def[signature.name].method_name = signature.method
    file.write_bytes(model.SerializeToString(deterministic=True))
    (path / "fingerprint.pb").unlink(missing_ok=True)  # of the file as it was
    return graph


def _compare(module: ServingModule, path: Path, loaded: LoadedRun) -> None:
    """Holds the reloaded module's answers against this process's."""
    description.check(path)
    reloaded = tf.saved_model.load(str(path))  # held: its variables go when it goes
    inputs = inputs_of(loaded.classifier.spec)
    generator = np.random.default_rng(0)
    for size in inputs.batches:
        examples = inputs.examples(generator, size)
        values = tuple(tf.constant(value) for value in examples.values)
        if not np.allclose(
            inputs.features(values), examples.features, rtol=_TOLERANCE, equal_nan=True
        ):
            raise InputError(
                "the export makes other features of a row than the data set does; nothing was "
                "published."
            )
        named = dict(zip(inputs.names, values, strict=True))
        _compare_one(module, reloaded.signatures, "serving_default", named)
    for name, values_by_name in warmup.read(path / warmup.FILE):
        _compare_one(module, reloaded.signatures, name, values_by_name)


def _compare_one(
    module: ServingModule,
    reloaded: Mapping[str, Any],
    signature: str,
    values: dict[str, tf.Tensor],
) -> None:
    """One question to both; there may be no other, and no infinite, answer."""
    asked = module.offered[signature]
    here = asked.function(*(values[name] for name in asked.names))
    there = reloaded[signature](**values)
    for name, value in here.items():
        if value.dtype == tf.string:
            same = np.array_equal(value, there[name])
        else:
            if not np.all(np.isfinite(np.asarray(value, np.float64))):
                raise InputError(
                    f"{signature} answers with a '{name}' that is not finite; nothing was "
                    "published. The model was trained badly, or its checkpoint is damaged."
                )
            same = np.allclose(value, there[name], rtol=_TOLERANCE, atol=_TOLERANCE)
        if not same:
            raise InputError(
                f"the reloaded export answers another '{name}' to {signature} than the model it "
                "was made from; nothing was published."
            )


def _of_run(loaded: LoadedRun) -> dict[str, Any]:
    """What the run says of the model."""
    config = loaded.config
    workdir = Workdir(loaded.checkpoint.path.parent.parent)
    return {
        "model": config.model,
        "dataset": config.dataset,
        "class_names": list(loaded.classifier.spec.class_names),
        "input": inputs_of(loaded.classifier.spec).metadata(),
        "epoch": loaded.checkpoint.epoch,
        "metrics": loaded.checkpoint.logs,
        "results": [row.__dict__ for row in load_rows(workdir)],
        "config": config.to_json(),
        "commit": provenance.commit(),
        "made_by": commits(workdir),
        "versions": provenance.versions(),
        "seed": config.seed,
    }


def _of_export(
    loaded: LoadedRun,
    module: ServingModule,
    graph: meta_graph_pb2.MetaGraphDef,
    clean: Split | None,
) -> dict[str, Any]:
    """What only the export knows."""
    classifier = loaded.classifier
    architecture = loaded.config.architecture
    model = saved_model_pb2.SavedModel(meta_graphs=[graph])
    return {
        "stochastic": classifier.stochastic,
        "num_samples": getattr(architecture, "num_samples", None),
        "noise_seed": [int(part) for part in prediction_noise(loaded.config.seed)],
        "signatures": {name: _described(graph.signature_def[name]) for name in module.offered},
        "limits": {
            "rows_at_once": 1 if module.answers.row_by_row else module.answers.rows_at_once,
            "rows_together": batching.rows_together(module.answers),
            "max_decoder_rows": getattr(architecture, "max_decoder_rows", None),
            "png_bytes": png.MAX_BYTES if png.decodable(classifier.spec) else None,
        },
        "clean": None if clean is None else _clean(module, clean),
        "detector": None if module.detector is None else module.detector.metadata(),
        "manipulation": [{"name": p.name, "unit": p.unit} for p in module.answers.parameters],
        "oldest_tensorflow": ops.OLDEST,
        "ops": sorted(ops.ops_of(model)),
        "fingerprint": fingerprint(module.model_variables),
    }


def _clean(module: ServingModule, clean: Split) -> dict[str, Any]:
    """How the export does on clean rows."""
    scores = module.clean_scores
    if scores is None:
        raise ValueError("the module was made without clean rows.")
    log_px = None if module.detector is None else float(module.detector.log_px.mean())
    accuracy = float(hits_of(scores, clean.y).mean())
    return {"rows": len(clean), "accuracy": accuracy, "log_px": log_px}


def _described(signature: meta_graph_pb2.SignatureDef) -> dict[str, Any]:
    """A signature's method and the types and shapes of what goes in and comes out."""

    def tensors(infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, Any]:
        return {
            key: {
                "dtype": tf.as_dtype(info.dtype).name,
                "shape": [None if d.size < 0 else d.size for d in info.tensor_shape.dim],
            }
            for key, info in sorted(infos.items())
        }

    return {
        "method": signature.method_name,
        "inputs": tensors(signature.inputs),
        "outputs": tensors(signature.outputs),
    }


def version_of(loaded: LoadedRun, base: Path) -> int | None:
    """The version that is this run: its variables, and all that decides how it predicts.

    Args:
      loaded: a finished run.
      base: the model's base path.

    Returns:
      None if it was not published there.
    """
    wanted = (fingerprint(variables_of(loaded.classifier)), plain(loaded.config.to_json()))
    for version in operations.versions(base):
        described = description.read(base / str(version)) or {}
        if (described.get("fingerprint"), described.get("config")) == wanted:
            return version
    return None


def fingerprint(variables: list[tf.Variable]) -> str:
    """sha256 of the variables' shapes, types and values, in their order."""
    digest = hashlib.sha256()
    for variable in variables:
        value = np.ascontiguousarray(variable.numpy())
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
