"""From a trained run to a SavedModel that TF-Serving loads."""
