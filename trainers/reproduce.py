r"""Repeats the papers' experiments, resumable, and writes their report.

--finished writes it of what is there, at any time, and computes nothing.

    python -m trainers.reproduce --study=shift --dataset=mnist --data_dir=../shared/tfds \
        --workdir=runs/mnist_shift --report=results/mnist_shift --seeds=0,1,2
    python -m trainers.reproduce --study=shift --dataset=digits --workdir=runs/quick \
        --report=runs/quick/report --profile=quick

    python -m trainers.reproduce --study=mechanisms --dataset=mnist --data_dir=../shared/tfds \
        --workdir=runs/mechanisms --report=results/mnist_mechanisms --profile=core
    python -m trainers.reproduce --study=measurement --workdir=runs/measurement \
        --report=results/measurement --seeds=0,1,2,3,4
    python -m trainers.reproduce --table=1 --dataset=mnist --data_dir=../shared/tfds \
        --workdir=runs/causal_ib --report=results/mnist_causal_ib --profile=core \
        --seeds=0,1,2 --jobs=2
    python -m trainers.reproduce --table=2 --data_dir=../shared/tfds --workdir=runs/cifar10 \
        --report=results/cifar10_causal_ib --profile=hour --precision=mixed_bfloat16

shift: deep CAMA's Figures 1, 7, 8 and 10. A seed on two cores takes about six hours with
--profile=full, two with --profile=core (fewer ranges are fine-tuned), minutes with quick; networks
has ICLR's Figures 16 to 18, larger networks and ZCA whitening.
mechanisms: translation, rotation, zoom, photometric and their composition against augmentation with
labels, test-time augmentation, Tent, batch statistics and a spatial transformer; with core the
first seed is attacked, too; with --dataset=measurement --profile=tables, location-scale against the
additive mechanism.
class_rotation: digits whose rotation depends on the class: p(m|y) against p(m), sixes and nines.
causal_ib (or --table=1): CausalIB's Table 1 and combinations of its defences, the paper's numbers
beside ours; the first seed takes two to three hours on two cores with core, each further one, which
leaves out CiiV and what attacks while it trains, one hour; with quick minutes. --table=2 is the
same for CIFAR-10 and AlexNet; --profile=hour makes its three headline rows in about an hour.
protocols: the plain network, VIB, CausalIB, adversarial training and a CAMA under the papers'
attacks, the strong protocol and C&W, with sanity checks; with core two hours a seed on two cores.
adversarial: FGSM and PGD on a DNN and a CAMA, before and after fine-tuning on what was attacked:
Figure 11, and with --dataset=cifar_binary ICLR's Figure 12; with hour an hour a seed, core two.
measurement: the tables' Figures 13 to 15 (ICLR) and 12 to 14 (NeurIPS), half an hour a seed.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama import specs
from tfcama.data.datasets import DATASETS
from tfcama.errors import InputError
from tfcama.registry import Registry
from tfcama.report.build import check_target
from tfcama.studies.adversarial import AdversarialStudy
from tfcama.studies.causal_ib import CausalIbStudy
from tfcama.studies.class_rotation import ClassRotationStudy
from tfcama.studies.measurement import MeasurementStudy
from tfcama.studies.mechanisms import MechanismStudy
from tfcama.studies.protocols import ProtocolStudy
from tfcama.studies.shift import ShiftStudy
from tfcama.studies.study import Study
from tfcama.training.config import TrainingConfig
from trainers.jobs_flag import JOBS
from trainers.shared_flags import DATA_DIR, WORKDIR

_STUDIES: Registry[type[Study]] = Registry(
    "study",
    {
        "shift": ShiftStudy,
        "measurement": MeasurementStudy,
        "mechanisms": MechanismStudy,
        "class_rotation": ClassRotationStudy,
        "causal_ib": CausalIbStudy,
        "protocols": ProtocolStudy,
        "adversarial": AdversarialStudy,
    },
)
_TABLES = Registry("table", {"1": ("mnist", "fashion_mnist"), "2": ("cifar10",)})
_STUDY = flags.DEFINE_string(
    "study", None, f"One of {', '.join(_STUDIES)}; shift. Example: --study=mechanisms"
)
_TABLE = flags.DEFINE_string(
    "table", None, "Of the CausalIB paper, 1 or 2, in place of --study. Example: --table=1"
)
_DATASET = flags.DEFINE_string(
    "dataset", None, "The study's own unless given. Example: --dataset=fashion_mnist"
)
_REPORT = flags.DEFINE_string(
    "report", None, "Where the report goes. Example: --report=results/mnist_shift", required=True
)
_SEEDS = flags.DEFINE_string("seeds", "0", "A whole study each. Example: --seeds=0,1,2")
_PROFILE = flags.DEFINE_string(
    "profile",
    "full",
    "How much: "
    + "; ".join(f"{name}: {', '.join(study.PROFILES)}" for name, study in _STUDIES.items())
    + ". Example: --profile=quick",
)
_PRECISION = flags.DEFINE_string(
    "precision", "float32", "Of the CAMAs' training. Example: --precision=mixed_bfloat16"
)
_FINISHED = flags.DEFINE_bool(
    "finished", False, "Report what is finished, compute nothing. Example: --finished"
)


def main() -> None:
    if _STUDY.value and _TABLE.value:
        raise InputError("either --study or --table is needed; both were given.")
    kind = _STUDIES["causal_ib" if _TABLE.value else _STUDY.value or "shift"]
    dataset = _DATASET.value or kind.default_dataset
    if _TABLE.value:
        held = _TABLES[_TABLE.value]
        dataset = _DATASET.value or held[0]
        if dataset not in held:
            raise InputError(
                f"--table={_TABLE.value} --dataset={dataset} was given; table {_TABLE.value} is of "
                f"{' and '.join(held)}."
            )
    if DATASETS[dataset].kind not in kind.kinds:
        raise InputError(
            f"{dataset} holds {DATASETS[dataset].kind}s; this study is of {kind.kinds[0]}s."
        )
    TrainingConfig(precision=_PRECISION.value)  # a bad one costs no work
    study = kind(
        root=Path(WORKDIR.value).expanduser(),
        dataset=dataset,
        data_dir=DATA_DIR.value,
        profile=Registry("profile", kind.PROFILES)[_PROFILE.value],
        precision=_PRECISION.value,
        progress=print,
    )
    seeds = _whole(specs.parse_range(_SEEDS.value, flag="--seeds"))
    target = Path(_REPORT.value).expanduser()
    check_target(target)
    if _FINISHED.value:
        page = study.report_finished(seeds, target)
    else:
        page = study.run(seeds, target, jobs=JOBS.value)
    print(f"report: {page}")


def _whole(seeds: list[float]) -> list[int]:
    found = [int(seed) for seed in seeds]
    if found != seeds or len(set(found)) < len(found):
        raise InputError(f"--seeds={_SEEDS.value} was given; different whole numbers are needed.")
    return found


if __name__ == "__main__":
    app.run(main)
