r"""The flag of binaries that compute many runs."""

from absl import flags

JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Runs that are computed at once (trainings, adaptations, cells of a sweep), each by a process "
    "that prints to <workdir>/logs/. They share the cores, on which one thread each gets more done "
    "than all threads on one run after the other. Example: --jobs=2",
    lower_bound=1,
)
