r"""Trains and attacks a grid of configurations, and writes one table and its heat maps.

    python -m trainers.sweep --model=causal_ib --dataset=mnist --data_dir=../shared/tfds \
        --workdir=runs/ablation --grid=alpha=0,0.01,0.05 --grid=beta=0,0.05,0.2,1 --epochs=10 \
        --attack=fgsm,pgd:steps=20 --eps=0.196 --limit=1000
    python -m trainers.sweep --model=causal_ib --dataset=mnist --workdir=runs/norms \
        --grid=norm=smooth_l1,l1,l2 --grid=seed=0,1,2 --jobs=2

Every cell is a run under <workdir>/runs/; a killed sweep continues when the same command is given
again, and a larger grid takes over what is there. The report, with results.csv, report.json and a
heatmap_*.png a score, goes to <workdir>/report unless --report says otherwise.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from pathlib import Path

from absl import flags

from tfcama import specs
from tfcama.attacks import registry
from tfcama.errors import InputError
from tfcama.report.build import check_target
from tfcama.studies.sweep import Sweep
from trainers import run_flags
from trainers.jobs_flag import JOBS
from trainers.shared_flags import DATA_DIR, WORKDIR

_GRID = flags.DEFINE_multi_string(
    "grid", [], "A key of config.json and its values; repeat it. Example: --grid=alpha=0.01,0.05"
)
_ATTACK = flags.DEFINE_list(
    "attack", [], "Attacks on every run, see trainers.attack. Example: --attack=fgsm,pgd:steps=20"
)
_EPS = flags.DEFINE_string("eps", "0.1", "Their radii, max norm. Example: --eps=0.098,0.196")
_LIMIT = flags.DEFINE_integer(
    "limit", None, "Score the first so many test images only. Example: --limit=1000"
)
_REPORT = flags.DEFINE_string(
    "report", None, "Where the report goes. Example: --report=results/mnist_ablation"
)


def main() -> None:
    sweep = Sweep(
        root=Path(WORKDIR.value).expanduser(),
        base=run_flags.run_config(),
        grid=_grid(_GRID.value),
        attacks=registry.chosen(_ATTACK.value),
        eps=[*dict.fromkeys(specs.parse_range(_EPS.value, flag="--eps"))],
        limit=_LIMIT.value,
        data_dir=DATA_DIR.value,
        progress=print,
    )
    target = Path(_REPORT.value).expanduser() if _REPORT.value else sweep.root / "report"
    check_target(target)
    print(f"report: {sweep.run(target, jobs=JOBS.value)}")


def _grid(texts: list[str]) -> dict[str, tuple[str, ...]]:
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, sign, values = text.partition("=")
        if not sign or not values or key in grid:
            raise InputError(f"--grid takes key=value,value..., a key once; '{text}' was given.")
        grid[key] = tuple(value.strip() for value in values.split(","))
    return grid


if __name__ == "__main__":
    app.run(main)
