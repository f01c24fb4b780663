"""tfcama: classifiers that survive manipulations which nobody trained them for."""

__version__ = "0.1.0"
