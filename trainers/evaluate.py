r"""Measures a trained classifier on manipulated test images and writes a report.

    python -m trainers.evaluate --workdir=runs/mnist --manipulation=vertical_shift \
        --levels=0:0.9:0.1
    python -m trainers.evaluate --workdir=runs/mnist --manipulation=rotation --levels=0,15,30,60
    python -m trainers.evaluate --workdir=runs/cnn --manipulation=rotation --levels=0,30,60 \
        --test_time_augmentation=rotation:60
    python -m trainers.evaluate --workdir=runs/adapted --manipulation=rotation --levels=0,30,60 \
        --set m_starts=8 --set m_steps=10 --draws=10

Rows, pictures and the page go to <workdir>/report/.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from absl import flags

from tfcama import specs
from tfcama.data import manipulations
from tfcama.errors import InputError
from tfcama.evaluation.augmented import COPIES, augmented
from tfcama.evaluation.subject import load_subject
from tfcama.report.build import build, check_target
from tfcama.studies import steps
from tfcama.workdir import Workdir
from trainers.shared_flags import DATA_DIR, WORKDIR

_MANIPULATION = flags.DEFINE_list(
    "manipulation",
    ["vertical_shift"],
    "One or several, without their levels. Example: --manipulation=vertical_shift,rotation",
)
_LEVELS = flags.DEFINE_string(
    "levels", "0:0.9:0.1", "start:stop:step, or values with commas. Example: --levels=0,0.2,0.5"
)
_LIMIT = flags.DEFINE_integer(
    "limit", None, "Score the first so many test images only. Example: --limit=1000"
)
_DRAWS = flags.DEFINE_integer(
    "draws",
    1,
    "Score a stochastic model by so many independent draws of its noise: the mean, and the "
    "standard deviation over them. Example: --draws=10",
    lower_bound=1,
)
_AUGMENTATION = flags.DEFINE_string(
    "test_time_augmentation",
    None,
    "Answer with the mean of the probabilities over the input and randomly manipulated copies of "
    "it. Example: --test_time_augmentation=rotation:60",
)
_COPIES = flags.DEFINE_integer(
    "copies", COPIES, "Of each input in that mean, the input included. Example: --copies=16"
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "How a trained CAMA answers: z_steps (ascent to the z of each class), m_samples, m_starts and "
    "m_steps (a search for the m of each single input), m_at_test, p_untouched, p_unseen, "
    "num_samples, class_margin, completions, max_decoder_rows. Example: --set z_steps=0",
)


def main() -> None:
    workdir = Workdir(WORKDIR.value)
    levels = specs.parse_range(_LEVELS.value, flag="--levels")
    if not _MANIPULATION.value:
        raise InputError("--manipulation= was given; name one or several.")
    for manipulation in _MANIPULATION.value:
        if specs.has_number(manipulation):
            raise InputError(
                f"--manipulation={manipulation} has a level; --levels says which ones to score."
            )
        for level in levels:
            manipulations.parse(manipulation, level=level)  # a bad one costs no work
    if _AUGMENTATION.value:
        manipulations.parse(_AUGMENTATION.value)
    check_target(workdir.report)
    subject = load_subject(workdir, data_dir=DATA_DIR.value, limit=_LIMIT.value, at_test=_SET.value)
    if _AUGMENTATION.value:
        subject = augmented(subject, _AUGMENTATION.value, copies=_COPIES.value)
    with steps.kept_levels(subject, draws=_DRAWS.value) as keep:
        for manipulation in _MANIPULATION.value:
            steps.evaluate(
                subject, manipulation, levels, draws=_DRAWS.value, progress=print, keep=keep
            )
    steps.picture_model(subject)
    build([workdir], workdir.report, title=f"tfcama: {workdir.root.name}")
    print(f"report: {workdir.report / 'index.html'}")


if __name__ == "__main__":
    app.run(main)
