r"""Attacks a trained classifier and writes a report.

    python -m trainers.attack --workdir=runs/mnist --attack=fgsm,pgd --eps=0:0.5:0.1 --limit=500
    python -m trainers.attack --workdir=runs/mnist --attack=strong --eps=0.1 --limit=25 --sanity
    python -m trainers.attack --workdir=runs/mnist --attack=cw --eps=0:3:0.5 --limit=100
    python -m trainers.attack --workdir=runs/mnist --attack=pgd --eps=0.1 --finetune --sanity
    python -m trainers.attack --workdir=runs/mnist --attack=pgd --eps=0.1,0.2 --adaptive_rounds=2 \
        --mechanism=photometric

fgsm and pgd are CleverHans' (the papers' protocol), cw is Carlini and Wagner's in the Euclidean
norm, pgd_eot, square and spsa belong to the strong protocol, noise is a control; strong names the
whole of that protocol (pgd_eot by 20 draws, ten starts and three losses, square, spsa), which takes
about 60,000 gradients an input. Where one of several attacks in the max norm is strong the worst of
them, input by input, is told as well. Rows, pictures and the page go to <workdir>/report/.
"""

from trainers import app  # isort: skip  (quiets TensorFlow before anything imports it)

import dataclasses
import itertools

from absl import flags

from tfcama import specs
from tfcama.attacks import registry
from tfcama.attacks.registry import ATTACKS
from tfcama.ball import LINF
from tfcama.errors import InputError
from tfcama.evaluation.subject import load_subject
from tfcama.models.mechanisms.registry import MECHANISMS
from tfcama.report.build import build, check_target
from tfcama.studies import steps
from tfcama.studies.attacked_adaptation import AttackedAdaptation, adapted_runs, malicious_rows
from tfcama.training.config import asked_finetuning
from tfcama.training.finetune import check_has_m
from tfcama.workdir import Workdir
from trainers.shared_flags import DATA_DIR, WORKDIR

_ATTACK = flags.DEFINE_list(
    "attack",
    ["fgsm", "pgd"],
    f"One or several of {', '.join(ATTACKS)}, with options, or strong. "
    "Example: --attack=fgsm,pgd:steps=20",
)
_EPS = flags.DEFINE_string(
    "eps",
    "0:0.5:0.1",
    "Radii, start:stop:step or values with commas; in the max norm, full scale is 1, but of cw, "
    "whose are Euclidean: of MNIST, 1 to 3. Example: --eps=0.1,0.3",
)
_LIMIT = flags.DEFINE_integer(
    "limit", 500, "Attack the first so many test images only. Example: --limit=500"
)
_TRANSFER = flags.DEFINE_string(
    "transfer_from",
    None,
    "Craft on this run's model instead (black box). Example: --transfer_from=runs/dnn",
)
_FINETUNE = flags.DEFINE_bool(
    "finetune",
    False,
    "Also adapt on the attacked images as the papers do, and score again. Example: --finetune",
)
_ADAPTIVE = flags.DEFINE_integer(
    "adaptive_rounds",
    0,
    "Let the attacker know of that adaptation and re-run it so many times. Example: "
    "--adaptive_rounds=3",
    lower_bound=0,
)
_MALICIOUS = flags.DEFINE_float(
    "malicious",
    0.0,
    "Also adapt on clean images of which this share is attacked, and score both kinds. Example: "
    "--malicious=0.05",
    lower_bound=0.0,
    upper_bound=1.0,
)
_MECHANISM = flags.DEFINE_string(
    "mechanism",
    "",
    f"How m acts in that adaptation: one or several of {', '.join(MECHANISMS)}, joined by +; the "
    "run's own unless given. Example: --mechanism=photometric",
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Any other key of that adaptation. Example: --set steps=200"
)
_SANITY = flags.DEFINE_bool(
    "sanity", False, "Also run the sanity checks at the largest eps. Example: --sanity"
)


def main() -> None:
    workdir = Workdir(WORKDIR.value)
    radii = specs.parse_range(_EPS.value, flag="--eps")
    attacks = registry.chosen(_ATTACK.value)
    if not attacks:
        raise InputError(f"--attack= was given; name one or several of {', '.join(ATTACKS)}.")
    parsed = {text: registry.parse(text, eps=max(radii)) for text in attacks}  # bad ones first
    adapts = bool(_FINETUNE.value or _ADAPTIVE.value or _MALICIOUS.value)
    for flag, value in (("mechanism", _MECHANISM.value), ("set", _SET.value)):
        if value and not adapts:
            raise InputError(
                f"--{flag} was given, but nothing is adapted; add --finetune, --adaptive_rounds or "
                "--malicious."
            )
    check_target(workdir.report)
    limits = {"data_dir": DATA_DIR.value, "limit": _LIMIT.value}
    subject = load_subject(workdir, **limits)
    source = load_subject(Workdir(_TRANSFER.value), **limits) if _TRANSFER.value else None
    studies = {}
    if adapts:
        if _MALICIOUS.value:
            malicious_rows(_MALICIOUS.value, len(subject.test))
        adaptation = asked_finetuning(subject.loaded.config, _SET.value, mechanism=_MECHANISM.value)
        for key in ("fraction", "subject"):
            if any(text.partition("=")[0].strip() == key for text in _SET.value):
                raise InputError(
                    f"'{key}' was set; what is adapted to is all that is attacked, and its name."
                )
        check_has_m(subject.loaded, workdir)
        made_for = source.named_to(subject) if source else ""
        for attack, eps in itertools.product(attacks, radii):
            x = subject.test.x  # until it is attacked
            study = AttackedAdaptation(subject, attack, eps, adaptation, x, print, made_for)
            if _ADAPTIVE.value or _FINETUNE.value:
                study.check()
            if _MALICIOUS.value:
                study.check(share=_MALICIOUS.value)
            studies[attack, eps] = study
    found = {}
    with steps.kept_attacks(subject, source=source) as keep:
        for attack in attacks:
            found[attack] = steps.attack(
                subject, attack, radii, source=source, progress=print, keep=keep
            )
            for eps in radii if adapts else ():
                x = found[attack][eps].x
                _adapt(dataclasses.replace(studies[attack, eps], adversarial=x, keep=keep))
        in_max_norm = {attack: found[attack] for attack in attacks if parsed[attack].norm == LINF}
        if len(in_max_norm) > 1 and any(parsed[each].protocol == "strong" for each in in_max_norm):
            steps.worst_case(subject, in_max_norm, source=source, progress=print)
        if _SANITY.value:
            steps.check_sanity(subject, eps=max(radii), transfer_from=source, progress=print)
    reported = [workdir]
    if adapts:
        reported += adapted_runs(workdir)
    build(reported, workdir.report, title=f"tfcama: {workdir.root.name} under attack")
    print(f"report: {workdir.report / 'index.html'}")


def _adapt(study: AttackedAdaptation) -> None:
    """What was asked about adapting on attacked images."""
    if _ADAPTIVE.value:
        study.adaptive(_ADAPTIVE.value)
    elif _FINETUNE.value:
        study.static()
    if _MALICIOUS.value:
        study.malicious(_MALICIOUS.value)


if __name__ == "__main__":
    app.run(main)
