"""The demo: train, adapt, attack, explain, export, on one data set, with one report at the end."""

from __future__ import annotations

from pathlib import Path

from tfcama.data.base import DataConfig
from tfcama.data.datasets import DATASETS
from tfcama.evaluation.subject import load_subject
from tfcama.models.registry import MODELS
from tfcama.report.build import build
from tfcama.serving.publish import held_out, publish, version_of
from tfcama.studies import steps
from tfcama.studies.measurement import PROFILES, MeasurementStudy
from tfcama.studies.steps import Progress
from tfcama.training import run
from tfcama.training.config import RunConfig, TrainingConfig
from tfcama.workdir import Workdir

_MOVED = ("vertical_shift", "horizontal_shift")
_SHIFTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_ADAPTED_TO, _MECHANISM = "vertical_shift:0.2", "translation"
_WARM_UP, _SLEEP = 2000, 1000
_M_SAMPLES = 4  # half of the default: attacks take half the time
_Z_STEPS = 0  # the default gains a point on shifts of 0.5 and takes five minutes
_RADII = (0.0, 0.05, 0.1)
_ATTACKED_ROWS = 100
_CHECKED_ROWS, _NOISE_ROWS = 30, 10
_PGD = "pgd:steps=20"


def demo(
    root: Path,
    *,
    dataset: str,
    data_dir: str | None,
    seed: int,
    epochs: int | None,
    progress: Progress,
    data: DataConfig | None = None,
) -> Path:
    """Runs all of it; what an earlier, interrupted call finished is not done again.

    Args:
      root: one workdir a model, the report and the export go here.
      dataset: a key of DATASETS.
      data_dir: of tensorflow-datasets.
      seed: of everything.
      epochs: of the CAMA; the DNN of images trains for as many. None takes the data set's own.
      progress: called with lines of text.
      data: the data set's configuration; None for its defaults.

    Returns:
      The report's index.html.
    """
    entry = DATASETS[dataset]
    epochs = entry.epochs if epochs is None else epochs
    if entry.kind == "table":
        return _table_demo(
            root, dataset=dataset, data=data, seed=seed, epochs=epochs, progress=progress
        )
    return _image_demo(
        root, dataset=dataset, data_dir=data_dir, seed=seed, epochs=epochs, progress=progress
    )


def _table_demo(
    root: Path,
    *,
    dataset: str,
    data: DataConfig | None,
    seed: int,
    epochs: int,
    progress: Progress,
) -> Path:
    study = MeasurementStudy(
        root=root,
        dataset=dataset,
        data_dir=None,
        profile=PROFILES["demo"]._replace(cama_epochs=epochs),
        precision="float32",
        progress=progress,
        data=data,
    )
    page = study.run([seed], root / "report")
    adapted = study.adapted(seed)
    _export(adapted, root / "export" / "measurement_cama", None, progress)
    return page


def _image_demo(
    root: Path, *, dataset: str, data_dir: str | None, seed: int, epochs: int, progress: Progress
) -> Path:
    trained = {}
    for name in ("dnn", "cama"):
        config = RunConfig(
            model=name,
            dataset=dataset,
            seed=seed,
            architecture=MODELS[name].config_class(),
            training=TrainingConfig(epochs=epochs),
        )
        trained[name] = Workdir(root / name)
        steps.trained(config, trained[name], data_dir=data_dir)
    adaptation = steps.adaptation(
        trained["cama"],
        mechanism=_MECHANISM,
        subject=_ADAPTED_TO,
        warm_up=_WARM_UP,
        sleep=_SLEEP,
        m_samples=_M_SAMPLES,
        z_steps=_Z_STEPS,
        seed=seed,
    )
    adapted = steps.finetuned(trained["cama"], adaptation, data_dir=data_dir)
    workdirs = [trained["dnn"], trained["cama"], adapted]
    subjects = [load_subject(workdir, data_dir=data_dir) for workdir in workdirs]
    for workdir, subject in zip(workdirs, subjects, strict=True):
        left = [name for name in _MOVED if not steps.is_evaluated(workdir, name, _SHIFTS)]
        for manipulation in left:
            steps.evaluate(subject, manipulation, _SHIFTS, progress=progress, pictured_level=0.2)
        if left:
            steps.picture_model(subject)
        attacked = subject.first(_ATTACKED_ROWS)
        for attack in ("fgsm", _PGD):
            if not steps.is_attacked(workdir, attack, _RADII, limit=_ATTACKED_ROWS):
                steps.attack(attacked, attack, _RADII, progress=progress)
    how = {"eps": 0.1, "steps": 10, "noise_rows": _NOISE_ROWS}
    if not steps.is_checked(trained["cama"], limit=_CHECKED_ROWS, transferred=True, **how):
        dnn, cama = (subject.first(_CHECKED_ROWS) for subject in subjects[:2])
        steps.check_sanity(cama, transfer_from=dnn, progress=progress, **how)
    build(workdirs, root / "report", title=f"Classifiers under manipulation: {dataset}")
    _export(adapted, root / "export" / "cama", data_dir, progress)
    return root / "report" / "index.html"


def _export(workdir: Workdir, base: Path, data_dir: str | None, progress: Progress) -> None:
    loaded = run.load(workdir)
    if version_of(loaded, base) is not None:
        return
    clean = held_out(loaded, data_dir=data_dir, progress=progress)
    progress(f"published {publish(loaded, base, clean=clean)}")
