r"""Thin absl binaries: flags to a configuration to one library call. See `--help` of each."""
