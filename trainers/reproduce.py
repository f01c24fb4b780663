r"""Repeats the papers' experiments, resumable, and writes their report.

    python -m trainers.reproduce --study=shift --dataset=mnist --data_dir=../shared/tfds \
        --workdir=runs/mnist_shift --report=results/mnist_shift --seeds=0,1,2
    python -m trainers.reproduce --study=shift --dataset=digits --workdir=runs/quick \
        --report=runs/quick/report --profile=quick

shift: deep CAMA's Figures 1, 7, 8 and 10. A seed on two cores takes about six hours with
--profile=full, two with --profile=core (fewer ranges are fine-tuned), minutes with quick.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama import specs
from tfcama.registry import Registry
from tfcama.studies.shift import PROFILES, ShiftStudy
from trainers.shared_flags import DATA_DIR, WORKDIR

_STUDIES = Registry("study", {"shift": ShiftStudy})
_STUDY = flags.DEFINE_string("study", "shift", "What to repeat. Example: --study=shift")
_DATASET = flags.DEFINE_string("dataset", "mnist", "An image data set. Example: --dataset=mnist")
_REPORT = flags.DEFINE_string(
    "report", None, "Where the report goes. Example: --report=results/mnist_shift", required=True
)
_SEEDS = flags.DEFINE_string("seeds", "0", "A whole study each. Example: --seeds=0,1,2")
_PROFILE = flags.DEFINE_string(
    "profile", "full", f"One of {', '.join(PROFILES)}. Example: --profile=quick"
)
_PRECISION = flags.DEFINE_string(
    "precision", "float32", "Of the CAMAs' training. Example: --precision=mixed_bfloat16"
)


def main() -> None:
    study = _STUDIES[_STUDY.value](
        root=Path(WORKDIR.value).expanduser(),
        dataset=_DATASET.value,
        data_dir=DATA_DIR.value,
        profile=Registry("profile", PROFILES)[_PROFILE.value],
        precision=_PRECISION.value,
        progress=print,
    )
    seeds = [int(seed) for seed in specs.parse_range(_SEEDS.value, flag="--seeds")]
    print(f"report: {study.run(seeds, Path(_REPORT.value).expanduser())}")


if __name__ == "__main__":
    app.run(main)
