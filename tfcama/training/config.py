"""What a run is: the dataclasses behind config.json."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from tfcama import config as config_lib
from tfcama.data import manipulations, streams, transforms
from tfcama.data.base import DataConfig
from tfcama.data.datasets import DATASETS
from tfcama.errors import InputError, unknown_name
from tfcama.models.cama_config import LEARNED, PRIORS, STANDARD
from tfcama.models.mechanisms.registry import (
    check_mechanism,
    has_parameters,
    is_versatile,
    only_moves,
)
from tfcama.models.registry import MODELS
from tfcama.training import checkpoints, defences, methods
from tfcama.types import InputSpec
from tfcama.workdir import Workdir

SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "mixed_bfloat16")
CODES = ("unknown", "known")
_NOT_SETTABLE = {"settable": False}  # filled in by the program, not by --set


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
      epochs: how often the model is validated and saved.
      steps_per_epoch: 0 makes an epoch one pass over the training rows.
      batch_size: clean rows a step, over all replicas; with `augment` as many manipulated ones.
      learning_rate: of Adam, at its height.
      weight_decay: decoupled, per step and unit of learning rate; 0 for none.
      warmup_steps: over which the learning rate rises from zero, at most a quarter of the run.
        Without it the first hundred steps kill three quarters of NNpZ's ReLUs and most of z.
      schedule: after the warm-up, "cosine" to zero at the end of the run, or "constant".
      precision: "float32" or "mixed_bfloat16" (twice as fast where the processor has it;
        distribution parameters and densities stay float32).
      transform: what clean training images go through, `name[:key=value…]` of TRANSFORMS joined by
        "+", e.g. "crop:pixels=4+flip"; "" for nothing.
      augment: a manipulation that is also trained on (Eq. 5), "" for none.
      augment_weight: 1 - lambda of Eq. 5.
      augment_m: "unknown" infers m of manipulated rows, "known" sets do(m = m0) to what was done.
      validation_fraction: of the training rows.
      defence: what hardens the step, `name[:key=value…]` of DEFENCES; "" for none.
      keep: the epoch whose weights are used, "best" by accuracy on validation rows (under attack
        where training attacks) or "last".
    """

    epochs: int = 15
    steps_per_epoch: int = 0
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_steps: int = 500
    schedule: str = "cosine"
    precision: str = "float32"
    transform: str = ""
    augment: str = ""
    augment_weight: float = 0.5
    augment_m: str = "unknown"
    validation_fraction: float = 0.05
    defence: str = ""
    keep: str = checkpoints.BEST

    def __post_init__(self):
        config_lib.check_at_least(
            self, epochs=1, steps_per_epoch=0, batch_size=1, warmup_steps=0, weight_decay=0
        )
        config_lib.check_positive(self, "learning_rate")
        config_lib.check_fraction(self, "augment_weight")
        for name, allowed in (
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("augment_m", CODES),
            ("keep", checkpoints.KEPT),
        ):
            if getattr(self, name) not in allowed:
                raise unknown_name(name, getattr(self, name), allowed)
        if self.transform:
            transforms.parse(self.transform)
        if self.augment:
            manipulations.parse(self.augment)
        if self.augment_m == "known" and not self.augment:
            raise InputError("augment_m=known was given, but no augment whose m would be known.")
        if self.defence and defences.parse(self.defence).mixes_rows and self.augment:
            raise InputError(
                f"defence={self.defence} and augment={self.augment} were given; a defence that "
                "mixes rows cannot tell manipulated ones from clean ones. Give one of them."
            )


_IF_ANY = ("earlier", "stream", "rows_sha256")  # keys that config.json may lack
KEPT_AT_ZERO = ("p_untouched", "m_samples", "z_steps")  # the trained model's, see FinetuneConfig
RWS = "rws"
MOVED = ("p_m", "q_m")  # what adaptation moves
FOLLOWED_BY = (RWS, methods.EQ8)
THEN = ", then "  # between what a run was adapted to, one after the other
DREAMS = "dreams"  # what a run was adapted to that has seen nothing else


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """How a trained model is adapted to unlabelled manipulated inputs; a CAMA by Eq. 8.

    Steps come in epochs of one length, which a checkpoint ends: up to fifty of Eq. 8 each, up
    to five hundred of dreams. A number that does not divide so is rounded up, 601 to 13 x 47.

    Attributes:
      subject: what the inputs are, for people: "vertical_shift:0.5", "pgd eps 0.2".
      fraction: of the test images that are adapted on, from the front of a seeded permutation; 0
        where neither sleep nor steps of Eq. 8 would look at them.
      alpha: weight of the clean, labelled data.
      clean: "do_m0" trains clean data under do(m = 0), "elbo" under ELBO(x, y), m inferred.
      steps: of Eq. 8.
      batch_size: rows a step of each, clean and manipulated.
      learning_rate: of Adam.
      num_samples: K, samples of z in each ELBO.
      groups: the variable groups that move.
      mechanism: how m acts from now on, see make_mechanism; "" keeps the trained model's. What
        was trained on clean data alone serves under any.
      prior_m: what p(m) is from now on, see CamaBaseConfig; "" keeps the trained model's.
      p_untouched: how likely an input is from now on that nothing manipulated, see CamaBaseConfig;
        0 keeps the trained model's.
      m_samples: samples of m at prediction from now on, see CamaBaseConfig; 0 keeps the trained
        model's.
      z_steps: of ascent in z at prediction from now on, see CamaBaseConfig; 0 keeps the trained
        model's.
      dreams: weight of -log q(m|T_m x) beside Eq. 8, for clean x and dreamt m, see DreamTrainer:
        the sleep phase of wake-sleep, which teaches q(m|x) what the mechanism can do, whatever it
        did do. Beside Eq. 8 it moves T_m's scales, too, where "p_m" is among the groups: towards
        manipulations that are easier to read. 0 for none; only mechanisms with parameters dream.
      warm_up: steps in which q(m|x) learns from dreams alone, at a twentieth of the time of one
        of Eq. 8, before anything unlabelled is seen.
      sleep: after it a learned p(m) is fitted to the unlabelled inputs, see
        empirical_bayes.fit_prior, and for so many steps dreams go by it; Eq. 8 comes last.
      curriculum: steps over which the share of a step's unlabelled rows that count grows from a
        quarter to all of them, the likeliest first; 0 for all from the start.
      seed: of the draws, the permutation and the order of rows.
      method: "eq8", or what a user would do to a model with batch normalisation, see METHODS:
        "tent:epochs=5", "batch_norm"; these take no more than subject, fraction and seed.
    """

    subject: str = ""
    fraction: float = 0.5
    alpha: float = 0.5
    clean: str = "do_m0"
    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 1e-3
    num_samples: int = 1
    groups: tuple[str, ...] = MOVED
    mechanism: str = ""
    prior_m: str = ""
    p_untouched: float = 0.0
    m_samples: int = 0
    z_steps: int = 0
    dreams: float = 0.0
    warm_up: int = 0
    sleep: int = 0
    curriculum: int = 0
    seed: int = 0
    method: str = methods.EQ8

    def __post_init__(self):
        config_lib.check_at_least(self, batch_size=1, num_samples=1)
        config_lib.check_at_least(
            self, steps=0, m_samples=0, z_steps=0, dreams=0, warm_up=0, sleep=0, curriculum=0
        )
        config_lib.check_positive(self, "learning_rate")
        config_lib.check_fraction(self, "alpha", "fraction")
        if bool(self.steps or self.sleep) != bool(self.fraction):
            raise InputError(
                f"steps={self.steps}, sleep={self.sleep} and fraction={self.fraction:g} were "
                "given; without steps of Eq. 8 and without sleep no test inputs are seen, and with "
                "either some must be: all are 0, or fraction is not."
            )
        if not self.steps and not self.warm_up and not self.sleep:
            raise InputError("none of steps, warm_up and sleep was given; there is nothing to do.")
        if self.curriculum and not self.steps:
            raise InputError(
                f"curriculum={self.curriculum} was given; it paces Eq. 8, and steps=0. Give steps."
            )
        if self.clean not in ("do_m0", "elbo"):
            raise unknown_name("clean", self.clean, ("do_m0", "elbo"))
        if self.mechanism:
            check_mechanism(self.mechanism)
        if self.prior_m not in ("", *PRIORS):
            raise unknown_name("prior_m", self.prior_m, PRIORS)
        methods.parse(self.method)


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """How a trained CAMA follows a stream of unlabelled inputs.

    Attributes:
      segments: what comes, `manipulation@inputs`, commas between, see data.streams.
      by: what each step is one of: "rws", reweighted wake-sleep, which moves q(m|x) alone, see
        WakeTrainer; it takes a mechanism with parameters. "eq8".
      arriving: inputs that arrive, are answered and are then learned from together.
      steps_per_arrival: of the optimiser, after what arrived was answered.
      reservoir: how many earlier inputs are kept for replay, a uniform sample of all of them.
      replay: share of a step's unlabelled rows that comes from the reservoir.
    """

    segments: str
    by: str = methods.EQ8
    arriving: int = 50
    steps_per_arrival: int = 8
    reservoir: int = 1000
    replay: float = 0.5

    def __post_init__(self):
        config_lib.check_at_least(self, arriving=1, steps_per_arrival=1, reservoir=1)
        config_lib.check_fraction(self, "replay")
        if self.by not in FOLLOWED_BY:
            raise unknown_name("by", self.by, FOLLOWED_BY)
        streams.parse(self.segments)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's numbers. What does not (paths, devices) is not here.

    Attributes:
      model: a key of MODELS.
      dataset: a key of DATASETS.
      seed: root of every stream.
      architecture: the model's own configuration, an instance of its config_class.
      training: how it is trained.
      data: the data set's own configuration, an instance of its config_class.
      input_spec: of the data set, so that a run can be served without its data.
      rows_sha256: of the user's file of the data set, see Dataset; config.json has it then alone.
      finetuned: how it was adapted afterwards; None for a run of `trainers.train`.
      earlier: how it was adapted before that, oldest first; config.json has it if there is any.
      stream: what it followed, where that was a stream; config.json has it then alone.
    """

    model: str = dataclasses.field(metadata=_NOT_SETTABLE)
    dataset: str = dataclasses.field(metadata=_NOT_SETTABLE)
    seed: int
    architecture: Any
    training: TrainingConfig
    data: Any = dataclasses.field(default_factory=DataConfig)
    input_spec: InputSpec | None = dataclasses.field(default=None, metadata=_NOT_SETTABLE)
    rows_sha256: str = dataclasses.field(default="", metadata=_NOT_SETTABLE)
    finetuned: FinetuneConfig | None = dataclasses.field(default=None, metadata=_NOT_SETTABLE)
    earlier: tuple[FinetuneConfig, ...] = dataclasses.field(default=(), metadata=_NOT_SETTABLE)
    stream: StreamConfig | None = dataclasses.field(default=None, metadata=_NOT_SETTABLE)

    @property
    def adaptations(self) -> tuple[FinetuneConfig, ...]:
        """All that it was adapted by, oldest first."""
        return self.earlier if self.finetuned is None else (*self.earlier, self.finetuned)

    @property
    def adapted_to(self) -> str:
        """What it was adapted to, the first first; DREAMS where it has only dreamt; "" for none."""
        seen = [one.subject for one in self.adaptations if one.fraction]
        return THEN.join(seen or [one.subject for one in self.adaptations[-1:]])

    def adapted(self, config: FinetuneConfig) -> RunConfig:
        """The run that this one becomes by one adaptation more."""
        return dataclasses.replace(self, finetuned=config, earlier=self.adaptations, stream=None)

    @property
    def variant(self) -> str:
        """How model, data, defence and method differ from the defaults, for legends, or "".

        Left out is what names a data set's rows rather than changing what a model is told of them.
        """
        default = type(self.architecture)()
        if self.finetuned is not None:  # what fine-tuning sets by default goes without saying
            for key in KEPT_AT_ZERO:
                if getattr(self.finetuned, key):
                    default = dataclasses.replace(default, **{key: getattr(self.finetuned, key)})
            if getattr(self.architecture, "prior_m", "") == LEARNED:
                default = dataclasses.replace(default, prior_m=LEARNED)
        own = [
            f"{field.name}={getattr(self.architecture, field.name)}"
            for field in dataclasses.fields(default)
            if getattr(self.architecture, field.name) != getattr(default, field.name)
        ]
        method = self.finetuned.method if self.finetuned is not None else methods.EQ8
        rival = method if method != methods.EQ8 else ""
        again = ""  # adapted twice to the same, by other rows and noise
        if self.finetuned is not None and self.finetuned.seed != self.seed:
            again = f"adaptation seed={self.finetuned.seed}"
        others = (self.training.defence, self.data.variant, rival, again)
        return ", ".join([*own, *filter(None, others)])

    def to_json(self) -> dict[str, Any]:
        value = config_lib.to_json(self)
        value["input_spec"] = self.input_spec.to_json() if self.input_spec is not None else None
        for key in _IF_ANY:
            if not value[key]:
                del value[key]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunConfig:
        """The run that `to_json` wrote.

        Raises:
          InputError: an unknown key or name, or a value of the wrong type.
        """
        try:
            return cls._from_json(value)
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"config.json is damaged ({type(error).__name__}: {error}).") from None

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> RunConfig:
        fields = {field.name for field in dataclasses.fields(cls)}
        for key in value:
            if key not in fields:
                raise unknown_name("key of config.json", key, fields)
        missing = sorted(fields - value.keys() - {*_IF_ANY})
        if missing:
            raise InputError(f"config.json lacks {', '.join(missing)}.")
        for key, kind in (("model", str), ("dataset", str), ("seed", int)):
            if not isinstance(value[key], kind):
                raise InputError(f"{key} must be {kind.__name__}; {value[key]!r} was given.")
        spec, finetuned, stream = value["input_spec"], value["finetuned"], value.get("stream")
        return cls(
            model=value["model"],
            dataset=value["dataset"],
            seed=value["seed"],
            architecture=config_lib.from_json(
                MODELS[value["model"]].config_class, value["architecture"], where="architecture"
            ),
            training=config_lib.from_json(TrainingConfig, value["training"], where="training"),
            data=config_lib.from_json(
                DATASETS[value["dataset"]].config_class, value["data"], where="data"
            ),
            input_spec=None if spec is None else InputSpec.from_json(spec),
            rows_sha256=value.get("rows_sha256", ""),
            finetuned=None
            if finetuned is None
            else config_lib.from_json(FinetuneConfig, finetuned, where="finetuned"),
            earlier=tuple(
                config_lib.from_json(FinetuneConfig, one, where="earlier")
                for one in value.get("earlier", ())
            ),
            stream=None
            if stream is None
            else config_lib.from_json(StreamConfig, stream, where="stream"),
        )


@contextlib.contextmanager
def claimed(workdir: Workdir, config: RunConfig, *, writes: bool = True) -> Iterator[None]:
    """Makes the directory this run's own, or continues it; see Workdir.claim.

    Keys that the run's version did not know yet have their defaults.

    Args:
      workdir: the directory.
      config: of the run.
      writes: whether this process does, of several machines; no other one may while the block runs.

    Raises:
      InputError: it is another run's, another process is writing to it, or, of a process that does
        not write, nobody made it this run's.
    """
    with workdir.exclusive() if writes else contextlib.nullcontext():
        workdir.claim(config.to_json(), writes=writes, **_claiming(config))
        yield


def check_free(workdir: Workdir, config: RunConfig) -> None:
    """Raises InputError where the directory is another run's; writes nothing."""
    workdir.check_free(config.to_json(), **_claiming(config))


def _claiming(config: RunConfig) -> dict[str, Any]:
    if config.finetuned is None:
        instead = "take another --workdir"
    else:
        instead = "name another place, or delete it if it is an adaptation that nobody needs"

    def read(found: dict[str, Any]) -> dict[str, Any]:
        kept = RunConfig.from_json(found)
        if not kept.rows_sha256:  # it is newer than the run
            kept = dataclasses.replace(kept, rows_sha256=config.rows_sha256)
        return kept.to_json()

    return {"read": read, "instead": instead}


def set_at_test(config: RunConfig, assignments: Sequence[str]) -> RunConfig:
    """The run with `key=value` assignments to what decides its predictions and no variable.

    Raises:
      InputError: another key, or a value that cannot be its type.
    """
    architecture = config.architecture
    allowed = _field_names(architecture, at_test=True)
    for text in assignments:
        key = text.partition("=")[0]
        if key not in allowed:
            raise InputError(
                f"'{key}' was given; once a '{config.model}' is trained, "
                f"{', '.join(allowed) or 'nothing'} can be set."
            )
    return dataclasses.replace(config, architecture=config_lib.override(architecture, assignments))


def comparable(*configs: RunConfig) -> tuple[str, ...]:
    """Assignments by which log p(x) of these runs' models can be compared, see set_at_test.

    Eq. 6 is a lower bound of log p(x) in expectation, closer the more samples it has and the better
    they are sought. So all have as many of z and of m as the one that has most, and none searches.
    """
    most = (
        f"{name}={max(getattr(config.architecture, name) for config in configs)}"
        for name in ("num_samples", "m_samples")
    )
    return (*most, "z_steps=0", "m_starts=0", "m_steps=0")


def same_variables(one: Any, other: Any) -> bool:
    """Whether two architectures differ at most in what decides predictions and no variable."""
    if type(one) is not type(other):
        return False
    return all(getattr(one, n) == getattr(other, n) for n in _field_names(one, at_test=False))


def _field_names(architecture: Any, *, at_test: bool) -> list[str]:
    """The fields that decide predictions and no variable, or all others, see AT_TEST."""
    fields = dataclasses.fields(architecture)
    return [f.name for f in fields if f.metadata.get("at_test", False) == at_test]


def check_kept(base: RunConfig, assignments: Sequence[str]) -> None:
    """Refuses `key=0` of what 0 keeps, see FinetuneConfig, where the trained model has more.

    Raises:
      InputError: one of the assignments would go unheeded.
    """
    usual = type(base.architecture)()
    for key in KEPT_AT_ZERO:
        if getattr(usual, key, 1):
            continue  # nobody means 0 by 0
        kept = getattr(base.architecture, key)
        set_to = [t.partition("=")[2] for t in assignments if t.partition("=")[0] == key]
        if kept and set_to and set_to[-1].strip() in ("0", "0.0"):
            raise InputError(
                f"{key}={set_to[-1]} was given; 0 keeps what the model has, {kept:g}. Adapt a "
                f"model that has {key}=0, or give another value."
            )


_WARM_UP = 4000  # steps; of a translation they do alone what 900 of Eq. 8 did (BUILD.md)
_SLEEP = 2000  # steps

_M_SAMPLES = 8  # where q(m|x) is unsure, Eq. 6 finds among so many which one explains x
_VERSATILE_M_SAMPLES = 16  # the same of many parameters, one of which q(m|x) likely misses
_Z_STEPS = 20  # q(z|x,y,m) has learned whole images and misreads what is left of one


def default_finetuning(base: RunConfig, *, mechanism: str = "") -> FinetuneConfig:
    """How a run is adapted unless told otherwise.

    Under do(m = 0) q(m|x) never sees a clean row. With the additive mechanism it answers clean
    images well all the same; on tables, whose few children a shift moves far, it takes them for
    moved ones (BUILD.md), and with other mechanisms the term has no gradient at all. Those dream,
    before Eq. 8 and beside it, and take every other input for one that may be untouched, as Eq. 8
    does at alpha = 0.5: without, the most flexible of them paid with 1.6 points of clean accuracy.
    What was fine-tuned before has had its warm-up. A fitted p(m) and dreams that go by it then do
    more than Eq. 8, which adds nothing after them on images, and something on tables (BUILD.md).
    Of images that were only moved prediction then ascends in z, see CamaBaseConfig; at a low
    contrast p(x|y,z,m) is so flat that classes which explain an image badly gain more (BUILD.md).

    Args:
      base: the trained run, with its input_spec.
      mechanism: see FinetuneConfig.
    """
    acting = mechanism or getattr(base.architecture, "mechanism", "additive")
    parameters = has_parameters(acting)
    table = _is_table(base)
    prior = getattr(base.architecture, "prior_m", STANDARD)
    changes_prior = parameters and prior == STANDARD and base.finetuned is None
    sleep = _SLEEP if parameters and (changes_prior or prior != STANDARD) else 0
    return FinetuneConfig(
        steps=0 if sleep and not table else FinetuneConfig.steps,
        mechanism=mechanism,
        prior_m=LEARNED if changes_prior else "",
        clean="elbo" if table or parameters else "do_m0",
        dreams=float(parameters),
        warm_up=_WARM_UP if parameters and base.finetuned is None else 0,
        sleep=sleep,
        p_untouched=0.5 * parameters,
        m_samples=(_VERSATILE_M_SAMPLES if is_versatile(acting) else _M_SAMPLES) * parameters,
        z_steps=_Z_STEPS * only_moves(acting),
    )


def _is_table(base: RunConfig) -> bool:
    return base.input_spec is not None and base.input_spec.kind == "table"


def asked_finetuning(
    base: RunConfig, assignments: Sequence[str], *, mechanism: str = "", **changes: Any
) -> FinetuneConfig:
    """How a run is adapted when flags ask for something.

    Args:
      base: see default_finetuning.
      assignments: `key=value`, see config.override; they win.
      mechanism: see FinetuneConfig.
      **changes: to default_finetuning; None for none.

    Raises:
      InputError: see config.override and check_kept.
    """
    check_kept(base, assignments)
    asked = {key: value for key, value in changes.items() if value is not None}
    default = default_finetuning(base, mechanism=mechanism)
    return config_lib.override(default, assignments, **asked)


def default_streaming(
    base: RunConfig, segments: str, *, mechanism: str = ""
) -> tuple[StreamConfig, FinetuneConfig]:
    """How a run follows a stream unless told otherwise: p(m) stays, for what comes is not known.

    Of images by reweighted wake-sleep, where m has parameters: Eq. 8 unlearns what it does not see.
    A table's columns all move at once; too few of q(m|x)'s samples then explain a row (BUILD.md).

    Args:
      base: see default_finetuning.
      segments: see StreamConfig.
      mechanism: see FinetuneConfig.
    """
    config = dataclasses.replace(
        default_finetuning(base, mechanism=mechanism),
        prior_m="",
        sleep=0,
        steps=FinetuneConfig.steps,
    )
    proposes_well = config.dreams and not _is_table(base)
    return StreamConfig(segments, by=RWS if proposes_well else methods.EQ8), config
