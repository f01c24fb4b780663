"""Towers (features in, features out), heads (features in, distribution out), and SumDense."""
