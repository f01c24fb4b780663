r"""Certifies a run that was trained with Gaussian noise: randomized smoothing.

    python -m trainers.train --model=classifier --dataset=mnist --workdir=runs/rs \
        --defence=noise:sigma=0.25
    python -m trainers.certify --workdir=runs/rs --limit=500 --votes=1000

Within its radius, in the Euclidean norm, no perturbation changes a certified answer; a certificate
is wrong with probability --failure. The table is printed and kept in <workdir>/results/.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

from absl import flags

from tfcama import random, specs
from tfcama.errors import InputError
from tfcama.evaluation.smoothed import ABSTAIN, Smoothed, certify, largest_radius, smoothed
from tfcama.evaluation.subject import load_subject
from tfcama.workdir import Workdir, write_json
from trainers.shared_flags import DATA_DIR, WORKDIR

_RADII = flags.DEFINE_string(
    "radii", "0:1:0.25", "start:stop:step, or values with commas. Example: --radii=0,0.25,0.5"
)
_VOTES = flags.DEFINE_integer(
    "votes", 1000, "Noisy copies that bound the top class's share. Example: --votes=10000"
)
_FAILURE = flags.DEFINE_float(
    "failure", 0.001, "Probability that a certificate is wrong. Example: --failure=0.001"
)
_LIMIT = flags.DEFINE_integer(
    "limit", 500, "Certify the first so many test images only. Example: --limit=500"
)


def main() -> None:
    workdir = Workdir(WORKDIR.value)
    radii = specs.parse_range(_RADII.value, flag="--radii")
    if min(radii) < 0:
        raise InputError(f"--radii={_RADII.value} was given; a radius is at least 0.")
    subject = smoothed(load_subject(workdir, data_dir=DATA_DIR.value, limit=_LIMIT.value))
    scorer = subject.scorer
    assert isinstance(scorer, Smoothed)  # noqa: S101  (for the reader; `smoothed` made it)
    found = certify(
        scorer,
        subject.test.x,
        seed=random.stream(subject.loaded.config.seed, "certify"),
        estimation=_VOTES.value,
        failure=_FAILURE.value,
    )
    rows = [{"radius": r, "accuracy": found.accuracy(subject.test.y, r)} for r in radii]
    for row in rows:
        print(f"radius {row['radius']:g}: certified accuracy {row['accuracy']:.4f}")
    abstained = float((found.labels == ABSTAIN).mean())
    print(f"abstained: {abstained:.4f}")
    largest = largest_radius(scorer.sigma, estimation=_VOTES.value, failure=_FAILURE.value)
    print(f"no radius above {largest:.4f} can be certified by {_VOTES.value} votes")
    write_json(
        workdir.results / "certified.json",
        {
            "norm": "l2",
            "sigma": scorer.sigma,
            "votes": _VOTES.value,
            "failure": _FAILURE.value,
            "n": len(subject.test),
            "abstained": abstained,
            "largest_radius": largest,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    app.run(main)
