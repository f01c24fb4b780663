r"""Finds out, without labels, which mechanism manipulated the inputs.

    python -m trainers.choose_mechanism --workdir=runs/mnist --manipulation=rotation:60 \
        --mechanisms=additive,translation,rotation,photometric

Every candidate is fine-tuned on the same unlabelled inputs; log p(x) of inputs that none of them
saw ranks them. The table is printed; its report goes to <workdir>/mechanisms/<manipulation> unless
--report says otherwise. A killed run continues.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table

from tfcama import config as config_lib
from tfcama.errors import InputError
from tfcama.report.build import check_target
from tfcama.report.pictures import slug
from tfcama.studies.mechanism_choice import rank_mechanisms, write_ranking
from tfcama.training.config import FinetuneConfig
from tfcama.workdir import Workdir
from trainers.shared_flags import DATA_DIR, WORKDIR

_MANIPULATION = flags.DEFINE_string(
    "manipulation",
    None,
    "What happened to the run's own test inputs. Example: --manipulation=rotation:60",
    required=True,
)
_MECHANISMS = flags.DEFINE_list(
    "mechanisms",
    ["additive", "translation", "rotation", "zoom", "photometric"],
    "The candidates. Example: --mechanisms=translation,rotation,rotation+translation",
)
_FRACTION = flags.DEFINE_float(
    "fraction", 0.5, "Share of the test inputs to adapt on. Example: --fraction=0.01"
)
_STEPS = flags.DEFINE_integer(
    "steps",
    FinetuneConfig.steps,
    "Of Eq. 8, where a mechanism needs it. Example: --steps=300",
)
_LIMIT = flags.DEFINE_integer(
    "limit", 1000, "Compare on held-out ones of the first so many test inputs. Example: 2000"
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Any other key of the fine-tuning. Example: --set learning_rate=3e-4"
)
_REPORT = flags.DEFINE_string(
    "report", None, "Where the report goes. Example: --report=results/mnist_mechanism_choice"
)


def main() -> None:
    base = Workdir(WORKDIR.value)
    target = base.root / "mechanisms" / slug(_MANIPULATION.value)
    if _REPORT.value:
        target = Path(_REPORT.value).expanduser()
    check_target(target)
    config = config_lib.override(
        FinetuneConfig(), _SET.value, fraction=_FRACTION.value, steps=_STEPS.value
    )
    for key in ("warm_up", "sleep"):
        if any(t.partition("=")[0] == key for t in _SET.value) and not getattr(config, key):
            raise InputError(
                f"{key}=0 was given; every mechanism has as much of it as it needs unless another "
                "number is given. trainers.finetune adapts without."
            )
    ranking = rank_mechanisms(
        base,
        _MANIPULATION.value,
        _MECHANISMS.value,
        config=config,
        data_dir=DATA_DIR.value,
        limit=_LIMIT.value,
        progress=print,
    )
    table = Table(title=f"Mechanisms for {_MANIPULATION.value}, likeliest first")
    for column in ("mechanism", "log p(x), nats", "below the best", "accuracy", "workdir"):
        table.add_column(column)
    for found in ranking:
        below = ranking[0].log_px - found.log_px
        table.add_row(
            found.name,
            f"{found.log_px:.2f}",
            f"{below:.2f} ± {found.standard_error:.2f}",
            f"{100 * found.row.accuracy:.1f} %",
            str(found.workdir.root),
        )
    Console().print(table)
    print(f"report: {write_ranking(ranking, _MANIPULATION.value, target)}")


if __name__ == "__main__":
    app.run(main)
