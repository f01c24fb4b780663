"""Names of kernel initializers."""

from __future__ import annotations

from tfcama.errors import unknown_name

_INITIALIZERS = (
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variance_scaling",
    "zeros",
)


def check_initializer(name: str) -> None:
    """Refuses what is no initializer of Keras for kernels; asking Keras would draw a seed."""
    if name not in _INITIALIZERS:
        raise unknown_name("kernel_initializer", name, _INITIALIZERS)
