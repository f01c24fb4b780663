r"""Flags that say which table to learn from and who causes whom in it."""

from typing import Any

from absl import flags

from tfcama.data.base import DataConfig
from tfcama.data.csv_table import CsvConfig
from tfcama.data.datasets import DATASETS
from tfcama.errors import InputError

_FLAGS = {
    "csv": flags.DEFINE_string("csv", "", "A table with a header. Example: --csv=data.csv"),
    "target": flags.DEFINE_string("target", "", "The column to predict. Example: --target=y"),
    "parents": flags.DEFINE_list("parents", [], "What causes it. Example: --parents=a1,a2"),
    "coparents": flags.DEFINE_list(
        "coparents", [], "What also causes its effects. Example: --coparents=c1"
    ),
    "children": flags.DEFINE_list("children", [], "Its effects. Example: --children=x1,x2"),
    "categorical": flags.DEFINE_list(
        "categorical",
        [],
        "Columns that are categories, as numbers that are codes. Example: --categorical=ward",
    ),
    "roles": flags.DEFINE_string(
        "roles",
        "",
        "A YAML file with target, parents, coparents, children, categorical in place of these "
        "flags. Example: --roles=roles.yaml",
    ),
    "dag": flags.DEFINE_string(
        "dag",
        "",
        "A causal graph, DOT or a line `cause effect` an edge; the target's Markov blanket is "
        "taken. Example: --dag=graph.dot",
    ),
}


def _given() -> dict[str, Any]:
    values = {name: flag.value for name, flag in _FLAGS.items() if flag.value}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def dataset_name(named: str | None) -> str:
    """The data set that the flags ask for."""
    return named or ("csv" if _given() else "digits")


def data_config(dataset: str) -> DataConfig:
    """The data set's configuration.

    Raises:
      InputError: flags of a table were given with another data set.
    """
    config_class, given = DATASETS[dataset].config_class, _given()
    if config_class is CsvConfig:
        return CsvConfig(**given)
    if given:
        raise InputError(
            f"--{next(iter(given))} belongs to --dataset=csv; --dataset={dataset} was given."
        )
    return config_class()
