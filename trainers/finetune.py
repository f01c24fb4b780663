r"""Adapts a trained model to unlabelled manipulated inputs without a label; see --method.

A CAMA by Eq. 8, or, where the mechanism has parameters, by wake and sleep: p(m) is fitted to the
inputs, and q(m|x) dreams of it; on tables Eq. 8 follows.

    python -m trainers.finetune --workdir=runs/mnist --manipulation=vertical_shift:0.5
    python -m trainers.finetune --workdir=runs/mnist --manipulation=vertical_shift:0.2 \
        --fraction=0.01 --alpha=0.5 --clean=elbo --steps=600
    python -m trainers.finetune --workdir=runs/cnn_bn --manipulation=rotation:60 --method=tent
    python -m trainers.finetune --workdir=runs/mnist --mechanism=affine+photometric --steps=0
    python -m trainers.finetune --workdir=runs/table --csv=new.csv --target=runs/table_adapted

The adapted model becomes a run of its own, under <workdir>/finetuned/ unless --target says
otherwise; the trained one stays as it is. A killed fine-tuning continues: run it again.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

import hashlib
from pathlib import Path

from absl import flags

from tfcama.data import tables
from tfcama.errors import InputError, unreadable
from tfcama.models.mechanisms.registry import MECHANISMS
from tfcama.studies import steps
from tfcama.training import run
from tfcama.training.config import DREAMS, RunConfig, asked_finetuning
from tfcama.training.finetune import dream, finetune_on_manipulation, finetune_on_table
from tfcama.training.methods import EQ8, METHODS
from tfcama.workdir import Workdir
from trainers.shared_flags import DATA_DIR, STRATEGY, WORKDIR

_MANIPULATION = flags.DEFINE_string(
    "manipulation",
    None,
    "What happened to the run's own test inputs: name:level[:key=value...], several joined by +. "
    "Example: --manipulation=vertical_shift:0.5",
)
_CSV = flags.DEFINE_string(
    "csv", None, "Adapt to these rows of a table, all of them, instead. Example: --csv=new.csv"
)
_FRACTION = flags.DEFINE_float(
    "fraction", 0.5, "Share of the test inputs to adapt on. Example: --fraction=0.01"
)
_ALPHA = flags.DEFINE_float(
    "alpha", 0.5, "Weight of the clean training data in Eq. 8. Example: --alpha=0.5"
)
_CLEAN = flags.DEFINE_string(
    "clean",
    None,
    "Clean data under do(m = 0) with do_m0, the default for images and the additive mechanism, or, "
    "with elbo, the default elsewhere, m inferred. Example: --clean=elbo",
)
_MECHANISM = flags.DEFINE_string(
    "mechanism",
    "",
    f"How m acts from now on: one or several of {', '.join(MECHANISMS)}, joined by + in the "
    "order in which they act; the trained model's unless given. Example: rotation+translation",
)
_DREAMS = flags.DEFINE_float(
    "dreams",
    None,
    "Weight of dreamt manipulations of clean images beside Eq. 8; 1 where the mechanism has "
    "parameters, else 0. Example: --dreams=0",
)
_METHOD = flags.DEFINE_string(
    "method",
    EQ8,
    f"One of {', '.join(METHODS)}, with its options; all but {EQ8} are for models with batch "
    "normalisation. Example: --method=tent:epochs=5",
)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Of Eq. 8; by default 600, or, of images where p(m) is fitted and dreamt of, 0. With 0 and "
    "neither --manipulation nor --csv the warm-up alone. Example: --steps=300",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of rows, order and noise. Example: --seed=0")
_TARGET = flags.DEFINE_string(
    "target", None, "Where the adapted model goes. Example: --target=runs/mnist_shifted"
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Any other key of the fine-tuning. Example: --set warm_up=8000"
)
_REPORTED = {
    "elbo_x": "ELBO(x)",
    "surprise": "-log q(m|x) of dreams",
    "entropy_before": "entropy of the answers before",
    "entropy": "after",
}


def main() -> None:
    given = [_MANIPULATION.value, _CSV.value]
    alone = _STEPS.value == 0 and given.count(None) == 2
    if given.count(None) != 1 and not alone:
        raise InputError(
            "either --manipulation or --csv is needed, what is to be adapted to; neither with "
            "--steps=0 is dreams alone."
        )
    if _CSV.value is not None and flags.FLAGS["fraction"].present:
        raise InputError("--fraction was given; of --csv all rows are adapted to.")
    base = Workdir(WORKDIR.value)
    config = asked_finetuning(
        RunConfig.from_json(base.read_config()),
        _SET.value,
        mechanism=_MECHANISM.value,
        subject=_MANIPULATION.value or (_name_of(_CSV.value) if _CSV.value else DREAMS),
        fraction=0.0 if alone else _FRACTION.value if _CSV.value is None else 1.0,
        alpha=_ALPHA.value,
        clean=_CLEAN.value or None,
        dreams=_DREAMS.value,
        steps=_STEPS.value,
        sleep=0 if alone else None,
        seed=_SEED.value,
        method=_METHOD.value,
    )
    target = Workdir(_TARGET.value) if _TARGET.value else steps.finetuned_workdir(base, config)
    devices = run.Devices(strategy=STRATEGY.value)
    if alone:
        finished = dream(base, target, config, data_dir=DATA_DIR.value, devices=devices)
    elif _CSV.value is not None:
        finished = finetune_on_table(base, target, _CSV.value, config, devices=devices)
    else:
        finished = finetune_on_manipulation(
            base,
            target,
            _MANIPULATION.value,
            config,
            data_dir=DATA_DIR.value,
            devices=devices,
        )
    shown = [
        f"{text} {finished.checkpoint.logs[name]:.2f} nats"
        for name, text in _REPORTED.items()
        if name in finished.checkpoint.logs
    ]
    print(f"{target.root}: {', '.join(shown)}")


def _name_of(path: str) -> str:
    """Of a file and what is in it: another file of that name is another run."""
    tables.check_stays(path)
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    return f"{Path(path).name} {hashlib.sha256(content).hexdigest()[:8]}"


if __name__ == "__main__":
    app.run(main)
