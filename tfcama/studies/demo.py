"""The demo: train, adapt, attack, explain, export, on one data set, with one report at the end."""

from __future__ import annotations

from pathlib import Path

from tfcama.data.datasets import DATASETS
from tfcama.evaluation import robustness
from tfcama.evaluation.subject import Subject, load_subject
from tfcama.models.registry import MODELS
from tfcama.report.build import build
from tfcama.report.pictures import slug
from tfcama.serving.publish import publish
from tfcama.studies import steps
from tfcama.studies.steps import Progress
from tfcama.training import run
from tfcama.training.config import FinetuneConfig, RunConfig, TrainingConfig
from tfcama.training.finetune import finetune_on_manipulation
from tfcama.workdir import Workdir

_SHIFTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_ADAPTED_TO = "vertical_shift:0.2"
_RADII = (0.0, 0.05, 0.1)
_ATTACKED_ROWS = 100
_CHECKED_ROWS = 30
_PGD = "pgd:steps=20"


def demo(
    root: Path, *, dataset: str, data_dir: str | None, seed: int, epochs: int, progress: Progress
) -> Path:
    """Runs all of it; what an earlier, interrupted call finished is not done again.

    Args:
      root: one workdir a model, the report and the export go here.
      dataset: an image data set of DATASETS.
      data_dir: of tensorflow-datasets.
      seed: of everything.
      epochs: of the CAMA; the DNN trains for as many.
      progress: called with lines of text.

    Returns:
      The report's index.html.
    """
    DATASETS[dataset]
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
        run.train(config, trained[name], data_dir=data_dir)
    adaptation = FinetuneConfig(subject=_ADAPTED_TO, seed=seed)
    adapted = steps.finetuned_workdir(trained["cama"], adaptation)
    finetune_on_manipulation(trained["cama"], adapted, _ADAPTED_TO, adaptation, data_dir=data_dir)
    workdirs = [trained["dnn"], trained["cama"], adapted]
    for workdir in workdirs:
        subject = load_subject(workdir, data_dir=data_dir)
        for manipulation in ("vertical_shift", "horizontal_shift"):
            if not _done(subject, f"manipulation_{manipulation}"):
                steps.evaluate(
                    subject, manipulation, _SHIFTS, progress=progress, pictured_level=0.2
                )
        attacked = load_subject(workdir, data_dir=data_dir, limit=_ATTACKED_ROWS)
        for attack in ("fgsm", _PGD):
            if not _done(attacked, f"attack_{slug(attack)}"):
                steps.attack(attacked, attack, _RADII, progress=progress)
    _checks(trained["cama"], transfer_from=trained["dnn"], data_dir=data_dir, progress=progress)
    build(workdirs, root / "report", title=f"Classifiers under manipulation: {dataset}")
    base = root / "export" / "cama"
    if not (base / "1").exists():
        progress(f"published {publish(run.load(adapted), base)}")
    return root / "report" / "index.html"


def _done(subject: Subject, name: str) -> bool:
    return (subject.workdir.results / f"{name}.rows.json").exists()


def _checks(
    workdir: Workdir, *, transfer_from: Workdir, data_dir: str | None, progress: Progress
) -> None:
    if robustness.load_checks(workdir):
        return
    subject, source = (
        load_subject(w, data_dir=data_dir, limit=_CHECKED_ROWS) for w in (workdir, transfer_from)
    )
    checks = robustness.sanity_checks(subject, eps=0.1, transfer_from=source, steps=10)
    robustness.save_checks(workdir, checks)
    for check in checks:
        progress(f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}")
