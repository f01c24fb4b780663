"""tf.distribute strategies by the name that --strategy takes."""

from __future__ import annotations

import functools
import os
from typing import Any

import tensorflow as tf

from tfcama.errors import InputError, unknown_name

_NAMES = ("none", "mirrored", "mirrored_cpu:N", "multi_worker")


@functools.cache  # the collectives of two strategies in one process clash
def make(name: str) -> tf.distribute.Strategy:
    """The strategy for a name; the same object whenever it is asked for.

    Args:
      name: "none"; "mirrored", all GPUs of this machine; "mirrored_cpu:N", N logical devices of
        this CPU; "multi_worker", the machines that TF_CONFIG lists.

    Raises:
      InputError: an unknown name, or TensorFlow was used before N logical devices could be made.
    """
    family, _, count = name.partition(":")
    if family == "none" and not count:
        return tf.distribute.get_strategy()
    if family == "mirrored" and not count:
        return tf.distribute.MirroredStrategy()
    if family == "multi_worker" and not count:
        return _multi_worker()
    if family == "mirrored_cpu" and count.isdigit() and int(count) > 0:
        return tf.distribute.MirroredStrategy(_logical_cpus(int(count)))
    raise unknown_name("strategy", name, _NAMES)


def _multi_worker() -> tf.distribute.Strategy:
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"TF_CONFIG={os.environ.get('TF_CONFIG', '')!r} was given; that is no list of machines "
            f"with one of them as this one ({error}). BUILD.md shows one."
        ) from error


def _logical_cpus(count: int) -> list[str]:
    (cpu,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    try:
        tf.config.set_logical_device_configuration(cpu, devices)
    except RuntimeError:
        if len(tf.config.list_logical_devices("CPU")) < count:
            raise InputError(
                f"--strategy=mirrored_cpu:{count} was asked for after TensorFlow had started; "
                "the logical devices must be made first, in a process of its own."
            ) from None
    return [device.name for device in tf.config.list_logical_devices("CPU")[:count]]


def check_rows(strategy: tf.distribute.Strategy, *, batch_size: int) -> None:
    """Refuses batches of which some replica would get no row: TensorFlow's convolutions fail there.

    A batch is cut by ceiling: 5 rows on 4 replicas are 2, 2, 1 and 0.

    Raises:
      InputError: there are too few rows.
    """
    replicas = strategy.num_replicas_in_sync
    each = -(-batch_size // replicas)
    if each * (replicas - 1) >= batch_size:
        raise InputError(
            f"batch_size={batch_size} leaves one of {replicas} replicas without a row; take "
            f"{each * replicas}, or fewer replicas."
        )


def is_chief() -> bool:
    """Whether this process writes checkpoints and logs: the chief, or the first or only worker."""
    resolver: Any = getattr(tf.distribute.get_strategy(), "cluster_resolver", None)
    if getattr(resolver, "task_id", None) is None:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_id == 0
