"""Accuracy under shifts and attacks, with intervals, and checks that an evaluation is sane."""
