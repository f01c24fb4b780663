r"""Adapts a served model to the unlabelled inputs that it was sent, and publishes it as canary.

    python -m export.adapt --workdir=runs/mnist --log=requests.tfrecord --export_dir=/models/cama \
        --mechanism=translation
    python -m export.adapt --workdir=runs/mnist --inputs=images/ --export_dir=/models/cama
    python -m export.adapt --workdir=runs/mine --csv=rows.csv --export_dir=/models/mine

A part of the inputs is held out. The adapted model is published, as the next version under the
label `canary`, only if it gives them a higher log p(x) than the stable version does and its
accuracy on the run's clean validation split has not fallen by more than --max_clean_drop. The
stable version stays. Then

    python -m export.rollout --config=/models/cama/config --promote      # or --rollback

The log is what `export.serve --request_log` writes, or TF-Serving's own. What was interrupted
continues when the same command is given for the same inputs.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from tfcama.errors import InputError
from tfcama.models.mechanisms.registry import MECHANISMS
from tfcama.serving import redeploy, served
from tfcama.serving.redeploy import MIN_HELD_OUT, Comparison, Conditions
from tfcama.studies import steps
from tfcama.training import run, strategy
from tfcama.training.config import RunConfig, asked_finetuning
from tfcama.types import InputSpec
from tfcama.workdir import Workdir
from trainers.shared_flags import DATA_DIR, STRATEGY, WORKDIR

_INPUTS = flags.DEFINE_string(
    "inputs", None, "A folder of images of the model's size. Example: --inputs=images/"
)
_CSV = flags.DEFINE_string("csv", None, "Rows of a table. Example: --csv=rows.csv")
_LOG = flags.DEFINE_string(
    "log",
    None,
    "A log of requests, as a TFRecord file of PredictionLogs; its older half, FILE.1, is read with "
    "it. Example: --log=requests.tfrecord",
)
_MODEL_NAME = flags.DEFINE_string(
    "model_name",
    None,
    "Requests of this model alone, where the log is of several. Example: --model_name=cama",
)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir",
    None,
    "The model's base path, which holds the stable version. Example: --export_dir=/models/cama",
    required=True,
)
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "The --out of export.config, whose labels are changed; default: config/ in --export_dir. "
    "Example: --config=deploy",
)
_MECHANISM = flags.DEFINE_string(
    "mechanism",
    "",
    f"How m acts from now on: one or several of {', '.join(MECHANISMS)}, joined by +; the trained "
    "model's unless given. Example: --mechanism=translation",
)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Of Eq. 8; by default 600, or, of images where p(m) is fitted and dreamt of, 0. "
    "Example: --steps=600",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of rows, order and noise. Example: --seed=0")
_HELD_OUT = flags.DEFINE_float(
    "held_out",
    Conditions.held_out,
    "Share of the inputs that only the comparison sees, of different ones at least "
    f"{MIN_HELD_OUT}. Example: --held_out=0.25",
)
_MAX_CLEAN_DROP = flags.DEFINE_float(
    "max_clean_drop",
    Conditions.max_clean_drop,
    "Share by which accuracy on clean validation data may fall. Example: --max_clean_drop=0.005",
)
_TARGET = flags.DEFINE_string(
    "target",
    None,
    "Where the adapted run goes; default: <workdir>/finetuned/... Example: --target=runs/adapted",
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Any other key of the fine-tuning. Example: --set learning_rate=3e-4"
)


def main() -> None:
    strategy.make(STRATEGY.value)  # before TensorFlow computes anything
    conditions = Conditions(_HELD_OUT.value, _MAX_CLEAN_DROP.value)
    base = Workdir(WORKDIR.value)
    run_config = RunConfig.from_json(base.read_config())
    if run_config.input_spec is None:
        raise InputError(f"{base.root} holds no finished run.")
    source, x = _served(run_config.input_spec)
    config = asked_finetuning(
        run_config,
        _SET.value,
        mechanism=_MECHANISM.value,
        subject=redeploy.subject_of(source, x),
        fraction=1.0 - conditions.held_out,
        steps=_STEPS.value,
        seed=_SEED.value,
    )
    export_dir = Path(_EXPORT_DIR.value).expanduser()
    config_dir = Path(_CONFIG.value).expanduser() if _CONFIG.value else export_dir / "config"
    outcome = redeploy.redeploy(
        base,
        Workdir(_TARGET.value) if _TARGET.value else steps.finetuned_workdir(base, config),
        config,
        served=x,
        export_dir=export_dir,
        config_dir=config_dir,
        conditions=conditions,
        data_dir=DATA_DIR.value,
        devices=run.Devices(strategy=STRATEGY.value),
        progress=print,
    )
    stable = outcome.deployment.stable
    Console(width=100).print(_table(outcome.comparison, stable))
    if outcome.refusal is not None:
        raise InputError(
            f"refused: {outcome.refusal}. Nothing was published; version {stable} stays stable."
        )
    print(f"version {outcome.deployment.canary} is canary, version {stable} stays stable.")
    print(f"promote: python -m export.rollout --config={config_dir} --promote")
    print(f"undo:    python -m export.rollout --config={config_dir} --rollback")


def _served(spec: InputSpec) -> tuple[str, np.ndarray]:
    """Where the inputs come from, and their features."""
    given = [flag for flag in (_INPUTS, _CSV, _LOG) if flag.value]
    if len(given) != 1:
        raise InputError("one of --inputs, --csv and --log is needed.")
    path = Path(given[0].value).expanduser()
    if given[0] is _INPUTS:
        return path.name, served.of_folder(path, spec)
    if given[0] is _CSV:
        return path.name, served.of_csv(path, spec)
    return path.name, served.of_log(path, spec, model_name=_MODEL_NAME.value, progress=print)


def _table(found: Comparison, stable: int) -> Table:
    table = Table()
    table.add_column("")
    for heading in ("rows", f"version {stable}, stable", "adapted", "change"):
        table.add_column(heading, justify="right")
    before, after = found.before, found.after
    table.add_row(
        "accuracy on clean validation data",
        str(found.clean_rows),
        f"{100 * before.accuracy:.2f} %",
        f"{100 * after.accuracy:.2f} %",
        f"{100 * (after.accuracy - before.accuracy):+.2f}",
    )
    table.add_row(
        "log p(x) of them, nats",
        str(found.clean_rows),
        f"{before.clean_log_px:.2f}",
        f"{after.clean_log_px:.2f}",
        f"{after.clean_log_px - before.clean_log_px:+.2f}",
    )
    table.add_row(
        "log p(x) of held-out served inputs, nats",
        str(found.served_rows),
        f"{before.served_log_px:.2f}",
        f"{after.served_log_px:.2f}",
        f"{found.gain:+.2f} ± {found.standard_error:.2f}",
    )
    return table


if __name__ == "__main__":
    app.run(main)
