r"""Flags that several binaries have."""

from absl import flags

DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Where tensorflow-datasets keeps prepared data; it downloads there what is missing. "
    "digits needs none. Example: --data_dir=~/tensorflow_datasets",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's directory. Example: --workdir=runs/mnist", required=True
)
STRATEGY = flags.DEFINE_string(
    "strategy",
    "none",
    "none; mirrored: every GPU; mirrored_cpu:2: two logical CPUs; multi_worker: the machines that "
    "TF_CONFIG lists. Example: --strategy=mirrored",
)
