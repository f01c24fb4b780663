"""Thin absl binaries that take trained runs to TF-Serving."""
