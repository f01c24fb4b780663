"""Pictures of bottlenecks: their codes, the information plane, and what fools two of them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from tfcama.attacks import registry
from tfcama.evaluation.subject import Subject
from tfcama.models.vib import Vib
from tfcama.registry import Registry
from tfcama.report import figures, labels
from tfcama.report.pictures import Picture, slug, to_png

PROJECTIONS: Registry[type] = Registry("projection", {"pca": PCA, "tsne": TSNE})
_NAMES = {"pca": "PCA", "tsne": "t-SNE"}
_COLUMNS = 12
_FEWEST = 10  # test inputs, below which there is no cloud to see


def of_model(subject: Subject) -> list[Picture]:
    """What a bottleneck keeps: its codes in every projection, and the information plane.

    [] for models without one; no codes of fewer than two dimensions or of very few inputs, and no
    plane of runs whose training did not measure it, such as adapted ones.
    """
    model = subject.loaded.classifier
    if not isinstance(model, Vib):
        return []
    shown = []
    if model.config.dim_z > 1 and len(subject.test) >= _FEWEST:
        shown = [latent_scatter(subject, projection=name) for name in PROJECTIONS]
    if _history(subject):
        shown.append(information_plane([subject]))
    return shown


def latent_scatter(subject: Subject, *, projection: str = "pca", limit: int = 1000) -> Picture:
    """The means of q(z|x) of test inputs in two dimensions, a colour a class.

    Args:
      subject: a finished run of a Vib or CausalIb.
      projection: a key of PROJECTIONS.
      limit: how many inputs.
    """
    model = subject.loaded.classifier
    if not isinstance(model, Vib):
        raise TypeError(f"{type(model).__name__} has no code.")
    x, y = subject.test.x[:limit], subject.test.y[:limit]
    seed = {"random_state": subject.loaded.config.seed}
    made = PROJECTIONS[projection](2, **seed)
    if isinstance(made, TSNE):  # a third of the inputs may be a neighbourhood, no more
        made.set_params(perplexity=min(made.perplexity, len(x) / 3))
    codes = made.fit_transform(model.q_z(x).mean().numpy())
    figure = Figure(figsize=(5.6, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for label, name in enumerate(subject.dataset.spec.class_names):
        colour = figures.COLOURS[label % len(figures.COLOURS)]
        across, up = codes[y == label].T
        axes.scatter(across, up, s=6, color=colour, label=name, linewidths=0)
    who = labels.model_name(subject.loaded.config.model)
    how = _NAMES.get(projection, projection)
    axes.set(xticks=[], yticks=[], title=f"{who}: codes of {len(x)} test inputs ({how})")
    axes.legend(fontsize=7, frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return Picture(
        name=f"latent_{projection}",
        section="model",
        title=f"The bottleneck of {who} ({how})",
        caption="Means of q(z|x) of test inputs, a colour a class.",
        png=to_png(figure),
    )


def information_plane(subjects: Sequence[Subject]) -> Picture:
    """Bounds on I(Z; Y) against bounds on I(X; Z) over training, on held-out rows, in nats.

    Args:
      subjects: finished runs of Vib or CausalIb.
    """
    figure = Figure(figsize=(5.6, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, subject in enumerate(subjects):
        history = _history(subject)
        shares = np.bincount(subject.dataset.validation.y) / len(subject.dataset.validation)
        entropy = -np.sum(shares[shares > 0] * np.log(shares[shares > 0]))
        rate = [epoch["val_rate"] for epoch in history]
        relevant = [entropy - epoch["val_distortion"] for epoch in history]
        who = labels.model_name(subject.loaded.config.model)
        colour = figures.COLOURS[place % len(figures.COLOURS)]
        axes.plot(rate, relevant, color=colour, linewidth=1.2, label=who)
        axes.scatter(rate, relevant, color=colour, s=8 + 4 * np.arange(len(rate)))
    axes.set(
        xlabel="upper bound on I(X; Z), nats",
        ylabel="lower bound on I(Z; Y), nats",
        title="Information plane",
    )
    figures.tidy(axes)
    axes.legend(fontsize=7.5, frameon=False)
    return Picture(
        name="information_plane",
        section="model",
        title="Information plane",
        caption="A point an epoch, growing, on held-out rows. Across: the rate, the mean of "
        "KL(q(z|x) || N(0, I)). Up: H(Y) minus the distortion.",
        png=to_png(figure),
    )


def _history(subject: Subject) -> list[dict[str, float]]:
    """What training measured of rate and distortion on held-out rows, an entry an epoch."""
    file = subject.workdir.metrics_file
    lines = file.read_text().splitlines() if file.is_file() else []
    history = [json.loads(line) for line in lines]
    return [epoch for epoch in history if {"val_rate", "val_distortion"} <= set(epoch)]


def adversarial_side_by_side(subjects: Sequence[Subject], attack: str, eps: float) -> Picture:
    """The same inputs attacked on each of several runs (CausalIB's Figures 6 and 7).

    Args:
      subjects: finished runs on the same images.
      attack: see `attacks.registry.parse`.
      eps: radius.
    """
    first = subjects[0]
    few = first.test.take(slice(_COLUMNS))
    rows = [("clean", few.x)]
    for subject in subjects:
        made = registry.parse(attack, eps=eps)
        seed = subject.loaded.config.seed
        found = made(subject.classifier, few.x, few.y, seed=seed).x
        hits = subject.predictor.hits(found, few.y).mean()
        who = labels.model_name(subject.loaded.config.model)
        rows.append((f"{who}, {round(len(few) * (1 - hits))} of {len(few)} fooled", found))
    about = f"{labels.attack_name(attack)}, eps {eps:.3g}"
    return Picture(
        name=f"side_by_side_{slug(attack)}",
        section="attack",
        title="What fools each of them",
        caption=f"Below the clean images: {about}, crafted on each model.",
        png=to_png(figures.image_rows(rows, title=about)),
    )
