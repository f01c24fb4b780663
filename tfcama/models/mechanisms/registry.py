"""MECHANISMS: every manipulation mechanism by name."""

from tfcama.models.mechanisms.additive import AdditiveMechanism
from tfcama.models.mechanisms.base import Mechanism
from tfcama.registry import Registry

MECHANISMS: Registry[type[Mechanism]] = Registry("mechanism", {"additive": AdditiveMechanism})
