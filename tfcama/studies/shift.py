"""The papers' shift experiments: Figures 1, 7, 8 and 10 of deep CAMA, on any image data set.

Models are trained clean, with vertical and with horizontal shifts; CAMAs are fine-tuned at every
range on half of the shifted test images, without labels; everything is tested on both directions.
The profile "networks" has no CAMA but larger networks and another manipulation, ICLR's Figures 16
to 18: does training on what one expects harm elsewhere, whatever the network?
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from tfcama.evaluation import curves
from tfcama.evaluation.checks import Check
from tfcama.evaluation.results import Row
from tfcama.evaluation.subject import Subject
from tfcama.report import labels
from tfcama.report.pictures import Picture, curve_pictures
from tfcama.specs import with_number
from tfcama.studies import steps
from tfcama.studies.orderings import orderings
from tfcama.studies.side_by_side import Piece
from tfcama.studies.study import FRACTION, Study, finetuned_experiment, fraction_pictures
from tfcama.training.config import FinetuneConfig, TrainingConfig
from tfcama.workdir import Workdir

VERTICAL, HORIZONTAL, BOTH = "vertical_shift", "horizontal_shift", "shift"
DIRECTIONS = (VERTICAL, HORIZONTAL)
CAMA = "cama"
_DISCRIMINATIVE = {"dnn": "1", "cnn": "16", "dnn_large": "17"}  # by their figures
_ZCA = "zca_whitening"
_AUGMENTED_RANGE = 0.5  # both papers
_WHITENED = 1.0  # wholly; the paper does not say
_FRACTION_RANGE = 0.2  # where the number of images is varied
_TENTHS = tuple(round(0.1 * step, 1) for step in range(10))


class Profile(NamedTuple):
    """How much of the study is run.

    Attributes:
      epochs: of training, of every model that is trained, a key of MODELS.
      ranges: of the curves of models as trained.
      augmented: model -> what more of it are trained on, one each.
      augmented_ranges: of the curves of CAMAs that were trained on shifts.
      finetuned: what the clean-trained CAMA is fine-tuned on -> at which ranges.
      finetuned_augmented: ranges at which CAMAs that were trained on shifts are fine-tuned.
      fractions: of the test images, to see how many are needed.
      limit: test rows that are scored; None for all.
    """

    epochs: dict[str, int]
    ranges: tuple[float, ...]
    augmented: dict[str, tuple[str, ...]]
    augmented_ranges: tuple[float, ...]
    finetuned: dict[str, tuple[float, ...]]
    finetuned_augmented: tuple[float, ...]
    fractions: tuple[float, ...]
    limit: int | None


PROFILES = {
    "full": Profile(
        epochs={"dnn": 20, "cama": 15},
        ranges=_TENTHS,
        augmented={"dnn": DIRECTIONS, "cama": DIRECTIONS},
        augmented_ranges=_TENTHS,
        finetuned={
            VERTICAL: _TENTHS[1:],
            HORIZONTAL: (0.1, 0.2, 0.3, 0.5, 0.9),
            BOTH: (0.1, 0.2, 0.3, 0.5, 0.9),
        },
        finetuned_augmented=(0.2, 0.5, 0.9),
        fractions=(0.01, 0.05, 0.25),
        limit=None,
    ),
    "core": Profile(
        epochs={"dnn": 20, "cama": 15},
        ranges=_TENTHS,
        augmented={"dnn": DIRECTIONS, "cama": (VERTICAL,)},
        augmented_ranges=(0.0, 0.2, 0.5, 0.9),
        finetuned={VERTICAL: (0.1, 0.2, 0.3, 0.5, 0.9), HORIZONTAL: (0.2,), BOTH: (0.2,)},
        finetuned_augmented=(0.5,),
        fractions=(0.01,),
        limit=None,
    ),
    "quick": Profile(
        epochs={"dnn": 1, "cama": 1},
        ranges=(0.0, 0.2, 0.5),
        augmented={"dnn": DIRECTIONS, "cama": (VERTICAL,)},
        augmented_ranges=(0.0, 0.2, 0.5),
        finetuned={VERTICAL: (0.2,)},
        finetuned_augmented=(),
        fractions=(0.01,),
        limit=300,
    ),
    "networks": Profile(
        epochs={"dnn": 20, "dnn_large": 20, "cnn": 5},
        ranges=_TENTHS,
        augmented={"dnn": DIRECTIONS, "dnn_large": DIRECTIONS, "cnn": (*DIRECTIONS, _ZCA)},
        augmented_ranges=(),
        finetuned={},
        finetuned_augmented=(),
        fractions=(),
        limit=None,
    ),
}


@dataclasses.dataclass(frozen=True)
class ShiftStudy(Study):
    """The shift experiments on images."""

    PROFILES: ClassVar[Mapping[str, Profile]] = PROFILES
    default_dataset: ClassVar[str] = "mnist"

    @property
    def title(self) -> str:
        shown = "1, 7, 8 and 10" if CAMA in self.profile.epochs else "1 and 16 to 18 (ICLR)"
        return f"Shifts on {self.dataset}: deep CAMA's Figures {shown}"

    def pictures(
        self, rows: Sequence[Row], workdirs: Sequence[Workdir], *, chance: float
    ) -> list[Picture]:
        del workdirs
        return shift_figures(rows, chance=chance)

    def checks(self, rows: Sequence[Row], workdirs: Sequence[Workdir]) -> dict[str, list[Check]]:
        del workdirs
        return {"Do the papers' orderings hold?": orderings(rows)}

    def pieces(self, seed: int) -> dict[str, Piece]:
        """Models as trained; each CAMA's fine-tunings."""
        pieces = {}
        for model in self.profile.epochs:
            for augmented in ("", *self.profile.augmented.get(model, ())):
                name = _name(model, augmented)
                pieces[name] = Piece(functools.partial(self._train, model, augmented, seed))
                for finetuning in self._finetunings(augmented) if model == CAMA else ():
                    manipulation, level, fraction = finetuning
                    pieces[f"{name}_to_{manipulation}_{level:g}_{fraction:g}"] = Piece(
                        functools.partial(self._finetune, augmented, *finetuning, seed), (name,)
                    )
        return pieces

    def _finetunings(self, augmented: str) -> list[tuple[str, float, float]]:
        """Manipulation, level and share of the test inputs, of a CAMA that was trained so."""
        profile = self.profile
        if augmented:
            return [
                (direction, level, FRACTION)
                for direction in profile.augmented[CAMA]
                for level in profile.finetuned_augmented
            ]
        matched = [
            (manipulation, level, FRACTION)
            for manipulation, levels in profile.finetuned.items()
            for level in levels
        ]
        return matched + [(VERTICAL, _FRACTION_RANGE, fraction) for fraction in profile.fractions]

    def _train(self, model: str, augmented: str, seed: int) -> Workdir:
        level = _WHITENED if augmented == _ZCA else _AUGMENTED_RANGE
        augment = with_number(augmented, level) if augmented else ""
        workdir = self.trained(
            _name(model, augmented),
            seed,
            model=model,
            training=TrainingConfig(
                epochs=self.profile.epochs[model],
                augment=augment,
                precision=self.precision if model == CAMA else "float32",
            ),
        )
        few = model == CAMA and augmented
        ranges = self.profile.augmented_ranges if few else self.profile.ranges
        for direction in DIRECTIONS:
            self.curve_once(workdir, direction, ranges, limit=self.profile.limit)
        return workdir

    def _finetune(
        self, augmented: str, manipulation: str, level: float, fraction: float, seed: int
    ) -> Workdir:
        """Fine-tunes at one range; scores that range in both directions, and clean images."""
        trained = self._train(CAMA, augmented, seed)
        config = FinetuneConfig(
            subject=with_number(manipulation, level), fraction=fraction, seed=seed
        )
        workdir = steps.finetuned(trained, config, data_dir=self.data_dir)
        experiment = finetuned_experiment(fraction)

        def score(subject: Subject) -> list[Row]:
            return [
                row
                for direction, levels in ((VERTICAL, [0.0, level]), (HORIZONTAL, [level]))
                for row in curves.manipulation_curve(
                    subject, direction, levels, experiment=experiment, progress=self.progress
                )
            ]

        self.once(workdir, experiment, score, limit=self.profile.limit)
        return workdir


def _name(model: str, augmented: str) -> str:
    return f"{model}_{augmented}" if augmented else model


def shift_figures(rows: Sequence[Row], *, chance: float) -> list[Picture]:
    """Figures 1, 7, 8, 10 and 16 to 18 from the rows of a study.

    Args:
      rows: of any number of seeds.
      chance: accuracy of guessing.
    """
    pictures = []
    for direction in DIRECTIONS:
        short = direction.split("_")[0]
        tested = [row for row in rows if row.manipulation == direction]
        trained = [row for row in tested if row.experiment == "manipulation"]
        matched = [row for row in tested if row.experiment == "matched" and row.level > 0]
        of_figure7 = [row for row in trained if row.model in ("dnn", CAMA)]
        groups = {
            **{
                f"figure{number}": (
                    [row for row in trained if row.model == model and _ZCA not in row.trained_on],
                    f"{labels.model_name(model)}s on {short} shifts",
                    f"The papers' Figure {number}: does training on one direction harm the other?",
                )
                for model, number in _DISCRIMINATIVE.items()
            },
            "figure18": (
                [
                    row
                    for row in trained
                    if row.model == "cnn" and (row.trained_on == "clean" or _ZCA in row.trained_on)
                ],
                f"CNNs that were trained on whitened images, on {short} shifts",
                "ICLR's Figure 18: does training on ZCA-whitened images harm?",
            ),
            "figure7": (
                [row for row in of_figure7 + matched if row.trained_on == "clean"],
                f"CAMA trained clean, on {short} shifts",
                "The papers' Figure 7: fine-tuned without labels, at every range anew, on half of "
                "the test images shifted vertically, horizontally or both ways.",
            ),
            "figure10": (
                [row for row in trained + matched if row.model == CAMA and _figure10(row)],
                f"CAMA trained on shifts of range {_AUGMENTED_RANGE}, on {short} shifts",
                "The papers' Figure 10: as trained, and fine-tuned on the direction of the test.",
            ),
        }
        for name, (group, title, caption) in groups.items():
            if len({labels.line_of(row) for row in group}) > 1:
                pictures += curve_pictures(
                    f"{name}_{short}",
                    group,
                    axis="level",
                    xlabel=f"{short} shift range (fraction of the side)",
                    title=title,
                    caption=caption,
                    chance=chance,
                )
    pictures += fraction_pictures(
        "figure8",
        rows,
        manipulation=VERTICAL,
        level=_FRACTION_RANGE,
        title=f"How many test images fine-tuning needs (vertical range {_FRACTION_RANGE})",
        caption="The papers' Figure 8, scored on the images that fine-tuning did not see.",
    )
    return pictures


def _figure10(row: Row) -> bool:
    """As trained, or fine-tuned on what it is tested on."""
    return not row.finetuned_on or row.finetuned_on.split(":")[0] == row.manipulation
