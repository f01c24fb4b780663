"""Pictures of what a trained model believes, kept under `workdir/results/` until a report."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.text import Text

from tfcama import random
from tfcama.attacks.base import Attacked
from tfcama.data import manipulations
from tfcama.errors import InputError
from tfcama.evaluation.recovered import Recovered
from tfcama.evaluation.results import Row
from tfcama.evaluation.subject import Subject
from tfcama.models.cama_base import CamaBase, Explanation
from tfcama.report import figures, labels
from tfcama.types import Sampler
from tfcama.workdir import Workdir, write_bytes, write_json

_COLUMNS = 12
_MOST_PARTS = 6  # rows that a grid of single parameters may have
_STEPS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)  # standard deviations of p(m)


class Picture(NamedTuple):
    """A picture with its words.

    Attributes:
      name: file name without suffix.
      section: of the report: "shift", "attack" or "model".
      title: a short heading.
      caption: what one sees.
      png: the picture.
    """

    name: str
    section: str
    title: str
    caption: str
    png: bytes


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes; a dollar in a name is a dollar, and begins no formula."""
    for text in figure.findobj(Text):
        if "$" in text.get_text():
            text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def curve_pictures(
    name: str,
    rows: Sequence[Row],
    *,
    axis: str,
    xlabel: str,
    title: str,
    chance: float,
    heading: str = "",
    caption: str = "",
) -> list[Picture]:
    """Accuracy along a manipulation or an attack; none where the rows are of one place on it.

    Args:
      name: of the picture.
      rows: of any number of seeds.
      axis: "level" or "eps".
      xlabel: what that is, and its unit.
      title: of the figure.
      chance: accuracy of guessing.
      heading: in the report; "" for the title.
      caption: what is to be said before what the bands are.
    """
    if len({getattr(row, axis) for row in rows}) < 2:
        return []
    figure = figures.accuracy_curves(rows, axis=axis, xlabel=xlabel, title=title, chance=chance)
    section = "attack" if axis == "eps" else "shift"
    caption = f"{caption} {figures.band_caption(rows)}".lstrip()
    return [Picture(name, section, heading or title, caption, to_png(figure))]


def save(workdir: Workdir, picture: Picture) -> None:
    """Writes results/<name>.png and its words beside it."""
    words = {"section": picture.section, "title": picture.title, "caption": picture.caption}
    write_bytes(workdir.results / f"{picture.name}.png", picture.png)
    write_json(workdir.results / f"{picture.name}.picture.json", words)


def load_all(workdir: Workdir) -> list[Picture]:
    """All pictures that were left in a workdir.

    Raises:
      InputError: words without a picture, or not in JSON.
    """
    found = []
    for path in sorted(workdir.results.glob("*.picture.json")):
        name = path.name.removesuffix(".picture.json")
        try:
            words = json.loads(path.read_text())
            found.append(Picture(name, **words, png=path.with_name(f"{name}.png").read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} and its PNG do not make a picture ({error}).") from None
    return found


def explanations(
    subject: Subject, manipulation: str, level: float, *, found: Sequence[Recovered]
) -> list[Picture]:
    """What a model says about a manipulation; [] for models that do not generate.

    Args:
      subject: a finished run.
      manipulation: without its level.
      level: of it.
      found: by evaluation.recovered.recover, for the same manipulation.
    """
    shown = [_recovered(found, subject, f"{manipulation} {level:g}")] if found else []
    model = subject.loaded.classifier
    if not isinstance(model, CamaBase) or not _pictured(subject):
        return shown  # of tables see evaluation.explain
    x, draw = _manipulated(subject, manipulation, level)
    explain = tf.function(lambda x: model.explanation(x, seed=draw), autograph=False)
    scene = _Scene(subject, model, manipulation, level, x, explain(x))
    grids = (_do_m0_grid(scene), _do_parts_grid(scene), _interpolation_grid(scene))
    return shown + [picture for picture in grids if picture is not None]


class _Scene(NamedTuple):
    """Manipulated images and what a model says of them.

    Attributes:
      subject, manipulation, level: see `explanations`.
      model: of the subject.
      x: the images, [B, *shape].
      found: their explanation.
    """

    subject: Subject
    model: CamaBase
    manipulation: str
    level: float
    x: tf.Tensor
    found: Explanation

    @property
    def about(self) -> str:
        """The manipulation, for people."""
        return f"{labels.manipulation_name(self.manipulation)} {self.level:g}"

    @property
    def who(self) -> str:
        """The model, for people."""
        return _who(self.subject)


def _recovered(found: Sequence[Recovered], subject: Subject, about: str) -> Picture:
    title = f"What {_who(subject)} finds of {labels.manipulation_name(about)}"
    unseen = "" if subject.held_out is None else " that fine-tuning did not see"
    figure = figures.recovered_parameters(
        [(f"{p.name} ({p.unit})" if p.unit else p.name, true, ours) for p, true, ours in found],
        title=title,
    )
    return Picture(
        name=slugs("recovered", about, subject.at_test),
        section="shift",
        title=title,
        caption=f"Each point is a test input{unseen}: what was done to it and what the model, "
        "which was told neither that nor any label, infers. Parameters that nobody moved should "
        "stay at 0.",
        png=to_png(figure),
    )


def _do_m0_grid(scene: _Scene) -> Picture:
    """Manipulated images and what they would be under do(m = 0): the papers' Figure 9."""
    subject, x, found = scene.subject, scene.x, scene.found
    names = subject.dataset.spec.class_names
    figure = figures.image_rows(
        [
            ("before", subject.test.x[:_COLUMNS]),
            ("input", x.numpy()),
            ("explained", scene.model.decoded(x, found, do_m0=False).numpy()),
            ("do(m = 0)", scene.model.decoded(x, found, do_m0=True).numpy()),
        ],
        title=f"{scene.who}: {scene.about}",
        captions=[names[label] for label in found.scores.numpy().argmax(axis=1)],
    )
    return Picture(
        name=slugs("do_m0", scene.manipulation, subject.at_test),
        section="shift",
        title=f"What {scene.who} makes of {scene.about}",
        caption=(
            "First row: the test images as they were, which the model does not see. Second: its "
            "input. Third: its explanation of the input, the mean of p(x|y,z,m). Fourth: the same "
            "y and z under do(m = 0), what the input would be had nobody manipulated it. Below: "
            "the class it answers."
        ),
        png=to_png(figure),
    )


def _do_parts_grid(scene: _Scene) -> Picture | None:
    """Reconstructions under do(m_i = 0), one part of the mechanism after another.

    None for mechanisms of one parameter or of none.
    """
    model, x = scene.model, scene.x
    names = [parameter.name for parameter in model.mechanism.parameters]
    parts = list(model.mechanism.parts) if len(names) > _MOST_PARTS else names
    if len(parts) < 2:
        return None
    rows = [("input", x.numpy())]
    interventions: dict[str, bool | tuple[str, ...]] = {"explained": False}
    interventions |= {f"do({part} = 0)": (part,) for part in parts}
    interventions["do(m = 0)"] = True
    for name, at_zero in interventions.items():
        rows.append((name, model.decoded(x, scene.found, do_m0=at_zero).numpy()))
    return Picture(
        name=slugs("do_parts", scene.manipulation, scene.subject.at_test),
        section="shift",
        title=f"One part of M at a time: {scene.who}, {scene.about}",
        caption="Second row: the model's explanation of its input. Then the same y, z and m with "
        "one part of m set to 0, and at last with all of it.",
        png=to_png(figures.image_rows(rows, title=f"{scene.who}: {scene.about}")),
    )


def _interpolation_grid(scene: _Scene) -> Picture | None:
    """One manipulated image along each parameter of its mechanism; None where there is none."""
    model = scene.model
    parameters = {each.name: each for each in model.mechanism.parameters}
    along = model.interpolate(scene.x[:1], scene.found.first(1), _STEPS)
    if not along:
        return None
    reached = model.mechanism.values(model.m_along(_STEPS)).numpy()  # [steps, P]
    rows = []
    for name, values in zip(parameters, reached.T, strict=True):
        if name in along:
            ends = f"{values[0]:.2g} to {values[-1]:.2g}"
            label = f"{name}, {ends} {parameters[name].unit}".rstrip()
            rows.append((label, along[name][:, 0].numpy()))
    captions = [f"{step:+g} sd" for step in _STEPS]
    title = f"{scene.who}: {scene.about}"
    return Picture(
        name=slugs("interpolation", scene.manipulation, scene.subject.at_test),
        section="shift",
        title=f"Along each parameter of M: {scene.who}, {scene.about}",
        caption="The model's explanation of one image, with one coordinate of m at a time set to "
        "so many standard deviations of p(m), and the rest held. On the left, from where to where: "
        "a parameter that fine-tuning had no use for does next to nothing.",
        png=to_png(figures.image_rows(rows, title=title, captions=captions)),
    )


def samples_by_class(subject: Subject) -> Picture | None:
    """Samples of p(x | y, z, do(m = 0)), a row a draw and a column a class; None as above."""
    classifier = subject.loaded.classifier
    if not isinstance(classifier, Sampler):
        return None
    names = subject.dataset.spec.class_names
    seed = random.stream(subject.loaded.config.seed, "samples")
    draws, classes = 4, len(names)
    images = classifier.sample(tf.tile(tf.range(classes), [draws]), seed=tf.constant(seed)).numpy()
    rows = [("", images[draw * classes : (draw + 1) * classes]) for draw in range(draws)]
    figure = figures.image_rows(rows, title=f"{_who(subject)}: samples by class", captions=names)
    return Picture(
        name="samples",
        section="model",
        title=f"What {_who(subject)} has learned",
        caption="Means of p(x|y, z, do(m = 0)) for every class y, four draws of the style z.",
        png=to_png(figure),
    )


def adversarial_examples(
    subject: Subject, attack: str, attacked: dict[float, Attacked], *, source: str = ""
) -> Picture | None:
    """Attacked images, a row a radius; below each column the answers from clean to attacked.

    None for tables.
    """
    if not _pictured(subject):
        return None
    names, x = subject.dataset.spec.class_names, subject.test.x[:_COLUMNS]
    columns = len(x)
    answers = [subject.predictor.labels(x)]
    rows = [("clean", x)]
    for eps, found in attacked.items():
        if eps > 0:
            rows.append((f"eps {eps:g}", found.x[:_COLUMNS]))
            answers.append(subject.predictor.labels(found.x[:_COLUMNS]))
    captions = [" → ".join(names[a[column]] for a in answers) for column in range(columns)]
    if max(map(len, captions)) > 12:
        captions = [f"{names[answers[0][c]]}\n→ {names[answers[-1][c]]}" for c in range(columns)]
    about = labels.attack_name(f"{attack} from {source}" if source else attack)
    return Picture(
        name=f"adversarial_{slug(f'{attack}_from_{source}' if source else attack)}",
        section="attack",
        title=f"{_who(subject)} under {about}",
        caption="Rows: the same images, attacked within a growing radius, "
        f"{labels.norm_name(attack)}. Below: the answers, from clean to the largest radius.",
        png=to_png(figures.image_rows(rows, title=f"{_who(subject)}, {about}", captions=captions)),
    )


def _manipulated(subject: Subject, manipulation: str, level: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The first test images after a manipulation, and the seed of what is drawn for them."""
    seed = subject.loaded.config.seed
    moved = manipulations.parse(manipulation, level=level).fit(subject.dataset)
    few = subject.test.take(slice(_COLUMNS))  # draws are a row's own: as if all were manipulated
    split = manipulations.manipulate(few, moved, seed=seed)
    return tf.constant(split.x), tf.constant(random.stream(seed, "pictures"))


def _pictured(subject: Subject) -> bool:
    return subject.dataset.spec.kind == "image"


def _who(subject: Subject) -> str:
    config = subject.loaded.config
    parts = [
        labels.model_name(config.model),
        labels.adaptation_name(config.adapted_to) if config.adapted_to else "",
        subject.at_test,
    ]
    return ", ".join(filter(None, parts))


def slug(text: str) -> str:
    """A file name for a specification."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text)


def slugs(*parts: str) -> str:
    """A file name for several, without those that are empty."""
    return "_".join(slug(part) for part in parts if part)
