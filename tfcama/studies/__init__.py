"""Whole experiments: all stages, one after another, each step skipped where it is done."""
