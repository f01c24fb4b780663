"""Adversarial attacks: one family a file, one line in ATTACKS."""
