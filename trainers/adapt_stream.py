r"""Lets a trained CAMA follow a stream of manipulations, one after another, without labels.

    python -m trainers.adapt_stream --workdir=runs/mnist --mechanism=affine+photometric \
        --stream="vertical_shift:0.4@2000,rotation:60@2000,contrast:0.9@2000,clean@1000"

Every input is answered before the model learns from it, by reweighted wake-sleep or (--set by=eq8,
and where m has no parameters) Eq. 8; a reservoir of earlier inputs keeps it from forgetting;
log p(x) says when the stream changed. The model at the end of the stream becomes a run
of its own, under <workdir>/streams/ unless --target says otherwise, with its report. A killed run
continues at the segment that was cut off: run it again.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

import dataclasses

from absl import flags

from tfcama import config as config_lib
from tfcama.errors import InputError
from tfcama.models.mechanisms.registry import MECHANISMS
from tfcama.studies.stream import follow, stream_workdir
from tfcama.training.config import (
    RWS,
    FinetuneConfig,
    RunConfig,
    StreamConfig,
    check_kept,
    default_streaming,
)
from tfcama.workdir import Workdir
from trainers.shared_flags import DATA_DIR, WORKDIR

_STREAM = flags.DEFINE_string(
    "stream",
    None,
    "What comes: manipulation@inputs, commas between; of the run's own test inputs, each once. "
    "Example: --stream=vertical_shift:0.4@2000,rotation:60@2000,clean@1000",
    required=True,
)
_MECHANISM = flags.DEFINE_string(
    "mechanism",
    "",
    f"How m acts from now on: one or several of {', '.join(MECHANISMS)}, joined by + in the "
    "order in which they act; the trained model's unless given. Example: affine+photometric",
)
_FALSE_ALARMS = flags.DEFINE_float(
    "false_alarm_rate",
    1e-4,
    "Alarms an input where nothing changes; fewer take longer to find a change. Example: 1e-3",
)
_LIMIT = flags.DEFINE_integer(
    "limit",
    None,
    "Score what is forgotten on so many of the test inputs that the stream does not bring; all "
    "unless given. Example: --limit=500",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of rows, order and noise. Example: --seed=0")
_TARGET = flags.DEFINE_string(
    "target", None, "Where the adapted model goes. Example: --target=runs/mnist_stream"
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "Any other key of the stream (arriving, by, steps_per_arrival, reservoir, replay) or of the "
    "fine-tuning (warm_up). Example: --set steps_per_arrival=4 --set learning_rate=3e-4",
)
_AT_TEST = flags.DEFINE_multi_string(
    "at_test",
    [],
    "A key of how inputs are answered, as trainers.evaluate's --set takes it. "
    "Example: --at_test=num_samples=2",
)


@dataclasses.dataclass(frozen=True)
class _Settable:
    """What --set may change."""

    stream: StreamConfig
    finetuned: FinetuneConfig


def main() -> None:
    base = Workdir(WORKDIR.value)
    trained = RunConfig.from_json(base.read_config())
    check_kept(trained, [text.removeprefix("finetuned.") for text in _SET.value])
    stream, config = default_streaming(trained, _STREAM.value, mechanism=_MECHANISM.value)
    chosen = config_lib.override(
        _Settable(stream, dataclasses.replace(config, seed=_SEED.value)), _SET.value
    )
    for name in ("subject", "fraction", "steps", "sleep"):
        if getattr(chosen.finetuned, name) != getattr(config, name):
            raise InputError(f"'{name}' was set; it follows from the stream.")
    for name in ("alpha", "clean", "num_samples", "groups", "curriculum", "prior_m"):
        if chosen.stream.by == RWS and getattr(chosen.finetuned, name) != getattr(config, name):
            raise InputError(f"'{name}' was set; it is of Eq. 8 (--set by=eq8), not of {RWS}.")
    target = stream_workdir(base, chosen.finetuned, chosen.stream)
    if _TARGET.value:
        target = Workdir(_TARGET.value)
    follow(
        base,
        target,
        chosen.stream,
        chosen.finetuned,
        false_alarm_rate=_FALSE_ALARMS.value,
        at_test=_AT_TEST.value,
        data_dir=DATA_DIR.value,
        limit=_LIMIT.value,
        progress=print,
    )
    print(f"report: {target.report / 'index.html'}")


if __name__ == "__main__":
    app.run(main)
