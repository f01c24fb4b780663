"""A stream followed by a CAMA: answers before it learns, forgetting, and change points."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy import special, stats

from tfcama import random
from tfcama.data import streams
from tfcama.data.base import Dataset, Split
from tfcama.errors import InputError
from tfcama.evaluation import change_point, results
from tfcama.evaluation.checks import Check
from tfcama.evaluation.predict import Predictor, hits_of
from tfcama.evaluation.results import Row, scored
from tfcama.evaluation.subject import Subject
from tfcama.report import figures, labels, pictures
from tfcama.report.build import write_report
from tfcama.report.pictures import Picture, slug
from tfcama.studies.steps import Progress
from tfcama.training import callbacks as callbacks_lib
from tfcama.training import checkpoints, run
from tfcama.training.config import (
    DREAMS,
    FOLLOWED_BY,
    KEPT_AT_ZERO,
    FinetuneConfig,
    RunConfig,
    StreamConfig,
    claimed,
)
from tfcama.training.finetune import adapted_config, load_base, row_order, seen_rows
from tfcama.training.methods import EQ8
from tfcama.training.stream import StreamAdapter
from tfcama.workdir import Workdir, write_bytes

AS_IT_CAME = "stream_as_it_came"  # experiment: each input answered before it was learned from
AFTERWARDS = "stream_held_out_inputs"  # experiment: inputs that the stream did not bring
_LONGEST_NAME = 120  # of a directory; the seed is at the end
_WINDOW = 200  # inputs over which the picture's lines are means


class Course(NamedTuple):
    """What was seen of every input as it came, [N] each.

    Attributes:
      hits: whether the adapted model's answer was right, before it learned from the input.
      log_px: its log p(x), nats, at the same moment.
      frozen_hits, frozen_log_px: of the model as it was trained.
    """

    hits: np.ndarray
    log_px: np.ndarray
    frozen_hits: np.ndarray
    frozen_log_px: np.ndarray


def stream_workdir(base: Workdir, config: FinetuneConfig, stream: StreamConfig) -> Workdir:
    """Where a stream of `base` goes unless told otherwise."""
    parts = [stream.segments, config.mechanism, f"seed{config.seed}"]
    return Workdir(base.root / "streams" / slug("_".join(filter(None, parts)))[-_LONGEST_NAME:])


def follow(
    base: Workdir,
    target: Workdir,
    stream: StreamConfig,
    config: FinetuneConfig,
    *,
    false_alarm_rate: float = 1e-4,
    at_test: Sequence[str] = (),
    data_dir: str | None,
    limit: int | None = None,
    devices: run.Devices = run.Devices(),
    progress: Progress = lambda text: None,
) -> None:
    """Lets a trained CAMA follow a stream of its own test inputs, and reports how it went.

    Every input is answered before it is learned from. After each segment all manipulations of the
    stream are scored on test inputs that the stream does not bring, and a checkpoint is kept; a
    killed run continues at the segment that was cut off.

    Args:
      base: a finished run of a CAMA.
      target: becomes a run of its own: the model at the end of the stream, results and report.
      stream: what comes and how it is learned from.
      config: of the steps; subject, fraction and their number follow from the stream.
      false_alarm_rate: of the detector, see RankCusum; it watches log p(x) of the model as it was
        trained, which moves only when the inputs do.
      at_test: see run.load; for both models.
      data_dir: of tensorflow-datasets.
      limit: how many inputs the stream does not bring are scored; None for all.
      devices: where it runs.
      progress: called with a line a segment and a line a change.

    Raises:
      InputError: the model has no M-networks, or its m no parameters where rws needs them; the
        stream is longer than the test split; or an argument is out of range.
    """
    detector = change_point.RankCusum(false_alarm_rate=false_alarm_rate)
    if config.method != EQ8:
        allowed = " or ".join(FOLLOWED_BY)
        raise InputError(f"method '{config.method}' was given; a stream is followed by {allowed}.")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} was given; it must be at least 1.")
    trained = load_base(base, at_test=at_test)
    dataset = run.load_data(trained.config, data_dir=data_dir)
    segments = streams.parse(stream.segments)
    length, available = sum(segment.size for segment in segments), len(dataset.test)
    if length >= available:
        raise InputError(
            f"the stream brings {length} inputs; {dataset.name} has {available} test inputs, and "
            "one or more must be left over to score on."
        )
    asked = {text.partition("=")[0] for text in at_test}
    kept: dict[str, Any] = dict.fromkeys(asked & {*KEPT_AT_ZERO}, 0)
    config = dataclasses.replace(config, **kept)  # both models answer as at_test says
    arrivals = sum(-(-segment.size // stream.arriving) for segment in segments)
    config = dataclasses.replace(
        config,
        subject=stream.segments,
        fraction=length / available,
        steps=arrivals * stream.steps_per_arrival,
    )
    run_config = dataclasses.replace(adapted_config(trained, config), stream=stream)
    order = row_order(available, config)
    unseen = np.setdiff1d(order[length:], seen_rows(available, trained.config))
    if not len(unseen):
        raise InputError(
            f"{base.root} was adapted to test inputs before, and the stream leaves none that it "
            "did not see to score on; take the model as trained, or a shorter stream."
        )
    held_out = dataset.test.take(unseen[slice(limit)])
    _check_scored_so_far(target, len(held_out))
    arriving = _arriving(dataset, segments, order, seed=config.seed)
    adapter = StreamAdapter(trained, run_config, dataset.train, devices=devices)
    with claimed(target, run_config):
        experiment = _Experiment(
            target=target,
            trained=trained,
            config=run_config,
            dataset=dataset,
            segments=segments,
            arriving=arriving,
            held_out=held_out,
            detector=detector,
            progress=progress,
        )
        experiment.run(adapter)
        experiment.report()


def _check_scored_so_far(target: Workdir, size: int) -> None:
    """What a segment left to be scored on is scored once: its model is gone when the next began.

    Raises:
      InputError: earlier segments were scored on another number of inputs.
    """
    for row in results.load_rows(target):
        if row.experiment == AFTERWARDS and row.n != size:
            raise InputError(
                f"{target.root} was scored on {row.n} inputs that the stream does not bring, now "
                f"{size} are asked for; take the same limit, or another --target."
            )


def _arriving(
    dataset: Dataset, segments: Sequence[streams.Segment], order: np.ndarray, *, seed: int
) -> list[Split]:
    """The inputs of every segment; a test input comes once at most."""
    found, start = [], 0
    for place, segment in enumerate(segments):
        rows = dataset.test.take(order[start : start + segment.size])
        draws = int(random.stream(seed, "stream", "segment", place)[0])
        found.append(streams.manipulated(rows, segment.manipulation, dataset, seed=draws))
        start += segment.size
    return found


@dataclasses.dataclass(frozen=True)
class _Experiment:
    """One stream and where its results go; arguments as in `follow`.

    Attributes:
      arriving: the inputs of every segment.
      held_out: test inputs that the stream does not bring.
    """

    target: Workdir
    trained: run.LoadedRun
    config: RunConfig
    dataset: Dataset
    segments: tuple[streams.Segment, ...]
    arriving: list[Split]
    held_out: Split
    detector: change_point.RankCusum
    progress: Progress

    # --- the stream ----------------------------------------------------------------------------

    def run(self, adapter: StreamAdapter) -> None:
        """Follows the stream from where a killed run left it."""
        done = 0
        if checkpoints.listed(self.target.checkpoints):
            newest = checkpoints.newest(self.target.checkpoints)
            done = newest.epoch
            adapter.resume(
                newest, (x for split in self.arriving[:done] for x, _ in self._parts(split))
            )
        if done == len(self.segments):
            return
        frozen = Predictor(self.trained.classifier, seed=self.config.seed)
        adapted = Predictor(adapter.classifier, seed=self.config.seed)
        if not done:
            self._score(frozen, "as_trained", self.trained.config, finetuned_on="")
            log_scores = frozen.log_scores(self._reference.x)
            self._write("reference", log_px=special.logsumexp(log_scores, axis=1))
            if adapter.warm_up(self.progress):
                self._score(adapted, "dreams", self.config, finetuned_on=DREAMS)
        trainer = adapter.trainer
        sizes = [len(self._parts(split)) for split in self.arriving]
        each = [
            callbacks_lib.Progress(
                "stream", epochs=len(sizes), steps=sum(sizes), done=sum(sizes[:done])
            ),
            callbacks_lib.StopOnNonFinite(),
            callbacks_lib.MetricsLog(self.target.metrics_file, initial_epoch=done),
            callbacks_lib.Checkpoints(self.target),
        ]
        callbacks = keras.callbacks.CallbackList(each, model=trainer)
        writer = tf.summary.create_file_writer(str(self.target.tensorboard))
        with callbacks_lib.ended(each), contextlib.closing(writer):
            callbacks.on_train_begin()
            for place in range(done, len(self.segments)):
                callbacks.on_epoch_begin(place)
                trainer.reset_metrics()
                parts, start = [], sum(len(split) for split in self.arriving[:place])
                for number, (x, y) in enumerate(self._parts(self.arriving[place])):
                    parts.append(_course(adapted.log_scores(x), frozen.log_scores(x), y))
                    logs = adapter.learn(x)
                    start += len(x)
                    _write_scalars(writer, parts[-1], logs, step=start)
                    callbacks.on_train_batch_end(number)
                course = Course(*(np.concatenate(column) for column in zip(*parts, strict=True)))
                self._finish_segment(place, course, adapted)
                callbacks.on_epoch_end(place, {**logs, "accuracy": float(course.hits.mean())})
            callbacks.on_train_end()

    def _finish_segment(self, place: int, course: Course, adapted: Predictor) -> None:
        """Keeps what was seen and what is known now."""
        segment = self.segments[place]
        self._write(f"{place:02d}", **course._asdict())
        so_far = ",".join(earlier.text for earlier in self.segments[: place + 1])
        rows = [
            scored(
                hits,
                **self._identity(
                    config, AS_IT_CAME, segment.manipulation, finetuned_on=finetuned_on
                ),
            )
            for hits, config, finetuned_on in (
                (course.frozen_hits, self.trained.config, ""),
                (course.hits, self.config, so_far),
            )
        ]
        results.save_rows(self.target, f"stream_{place:02d}", rows)
        self._score(adapted, f"{place:02d}", self.config, finetuned_on=so_far)
        self.progress(
            f"{segment.text}: accuracy as it came {rows[1].accuracy:.4f}, "
            f"without adaptation {rows[0].accuracy:.4f}"
        )

    def _score(
        self, predictor: Predictor, name: str, config: RunConfig, *, finetuned_on: str
    ) -> None:
        """Accuracy on every manipulation of the stream, one line of the matrix of forgetting."""
        rows = []
        for manipulation in self._manipulations:
            split = streams.manipulated(
                self.held_out, manipulation, self.dataset, seed=self.config.seed
            )
            identity = self._identity(config, AFTERWARDS, manipulation, finetuned_on=finetuned_on)
            rows.append(scored(predictor.hits(split.x, split.y), **identity))
        results.save_rows(self.target, f"held_out_{name}", rows)

    def _identity(self, config: RunConfig, experiment: str, manipulation: str, **fields):
        name, level = streams.name_and_level(manipulation)
        loaded = self.trained._replace(config=config)
        subject = Subject(self.target, loaded, self.dataset, self.held_out)
        return subject.identity(experiment, manipulation=name, level=level, **fields)

    @property
    def _stream(self) -> StreamConfig:
        if self.config.stream is None:
            raise TypeError("the configuration of a run on a stream is needed.")
        return self.config.stream

    @property
    def _manipulations(self) -> list[str]:
        """All that the stream brings, once each, in its order."""
        return list(dict.fromkeys(segment.manipulation for segment in self.segments))

    @property
    def _reference(self) -> Split:
        """Clean inputs that the detector knows before the stream."""
        return self.dataset.validation.take(slice(self.detector.reference))

    def _parts(self, split: Split) -> list[tuple[np.ndarray, np.ndarray]]:
        """The inputs of a segment as they arrive, and their labels, which only scoring reads."""
        size = self._stream.arriving
        return [
            (split.x[start : start + size], split.y[start : start + size])
            for start in range(0, len(split), size)
        ]

    def _write(self, name: str, **arrays: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes(self.target.results / f"stream_{name}.npz", buffer.getvalue())

    def _read(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.target.results / f"stream_{name}.npz") as arrays:
            return dict(arrays)

    # --- what came of it -----------------------------------------------------------------------

    def report(self) -> None:
        """Rows, pictures, change points and the page, from what `run` kept."""
        segments = [Course(**self._read(f"{p:02d}")) for p in range(len(self.segments))]
        course = Course(*(np.concatenate(column) for column in zip(*segments, strict=True)))
        self.detector.prime(self._read("reference")["log_px"])
        alarms = change_point.alarms(course.frozen_log_px, self.detector)
        changes = streams.changes(self.segments)
        detections, false = change_point.match(alarms, changes)
        checks = [self._check(detection) for detection in detections]
        expected = self.detector.false_alarm_rate * len(course.hits)
        checks.append(
            Check(
                "no more false alarms than declared",
                false <= stats.poisson.ppf(0.975, expected),
                f"{false} among {len(course.hits)} inputs, {expected:.1f} expected",
            )
        )
        for check in checks:
            self.progress(f"{check.name}: {check.detail}")
        rows = results.load_rows(self.target)
        drawn = [self._course_picture(course, alarms, changes), self._matrix_picture(rows)]
        for picture in drawn:
            pictures.save(self.target, picture)
        write_report(
            [self.target],
            self.target.report,
            rows=rows,
            pictures=drawn,
            checks={"Changes of the stream, found from log p(x)": checks},
            title=f"tfcama: a stream ({self.config.dataset})",
        )

    def _check(self, detection: change_point.Detection) -> Check:
        ends = np.cumsum([segment.size for segment in self.segments])
        place = int(np.searchsorted(ends, detection.change, side="right"))
        segment = self.segments[place]
        name = f"the change to {labels.manipulation_name(segment.manipulation)} is found"
        if detection.alarm is None:
            return Check(name, False, f"no alarm among {segment.size} inputs")
        alarm = detection.alarm
        fell = "fell" if alarm.direction < 0 else "rose"
        return Check(
            name,
            True,
            f"alarm after {detection.delay} inputs: log p(x) {fell}, from input {alarm.start} on "
            f"(true: {detection.change})",
        )

    def _course_picture(
        self, course: Course, alarms: Sequence[change_point.Alarm], changes: Sequence[int]
    ) -> Picture:
        starts = np.cumsum([0, *(segment.size for segment in self.segments)])[:-1]
        figure = figures.stream_course(
            log_px={"adapted": course.log_px, "as trained": course.frozen_log_px},
            hits={"adapted": course.hits, "as trained": course.frozen_hits},
            segments=[
                (int(start), labels.manipulation_name(segment.manipulation))
                for start, segment in zip(starts, self.segments, strict=True)
            ],
            changes=changes,
            alarms=[alarm.place for alarm in alarms],
            window=_WINDOW,
            title=f"A stream of {self.config.dataset}: {labels.model_name(self.config.model)} "
            f"with {self.config.architecture.mechanism}, without labels",
        )
        return Picture(
            name="stream",
            section="shift",
            title="A stream of manipulations, one after another",
            caption=f"Means over the last {_WINDOW} inputs of the same segment. Every input is "
            "answered before the model learns from it. Triangles: alarms of a CUSUM on the ranks "
            "of log p(x) of the model as it was trained; dashed lines: where the inputs changed.",
            png=pictures.to_png(figure),
        )

    def _matrix_picture(self, rows: Sequence[Row]) -> Picture:
        """Which lines know what: before the stream, and after each segment."""
        found: dict[str, dict[tuple[str, float], float]] = {}
        for row in rows:
            if row.experiment == AFTERWARDS:
                found.setdefault(row.finetuned_on, {})[row.manipulation, row.level] = row.accuracy
        lines = {"": "as trained"}
        if DREAMS in found:
            lines[DREAMS] = "after dreams alone"
        for place, segment in enumerate(self.segments):
            so_far = ",".join(earlier.text for earlier in self.segments[: place + 1])
            lines[so_far] = f"after {labels.manipulation_name(segment.manipulation)}"
        columns = {streams.name_and_level(m): m for m in self._manipulations}
        figure = figures.accuracy_matrix(
            np.array([[found[line][column] for column in columns] for line in lines]),
            rows=list(lines.values()),
            columns=[labels.manipulation_name(name) for name in columns.values()],
            title="What the model knows as the stream goes on",
        )
        return Picture(
            name="forgetting",
            section="shift",
            title="What is learned and what is forgotten",
            caption=f"Accuracy, %, on {len(self.held_out)} test inputs that the stream does not "
            "bring, under every manipulation (columns), before the stream and after each of its "
            "segments (lines).",
            png=pictures.to_png(figure),
        )


def _course(log_scores: np.ndarray, frozen: np.ndarray, y: np.ndarray) -> Course:
    return Course(
        hits=hits_of(log_scores, y),
        log_px=special.logsumexp(log_scores, axis=1),
        frozen_hits=hits_of(frozen, y),
        frozen_log_px=special.logsumexp(frozen, axis=1),
    )


def _write_scalars(
    writer: tf.summary.SummaryWriter, course: Course, logs: dict[str, float], *, step: int
) -> None:
    """One arrival's numbers for TensorBoard; a step is an input."""
    with writer.as_default(step=step):
        for name, values in course._asdict().items():
            tf.summary.scalar(f"stream/{name}", float(values.mean()))
        for name, value in logs.items():
            tf.summary.scalar(f"{name}/train", value)
