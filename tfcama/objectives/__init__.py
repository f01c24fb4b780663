"""Pure functions of log-densities and scores: per-example results, no variables, no batch mean."""
