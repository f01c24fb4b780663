"""Training and fine-tuning: train steps under Model.fit, strategies, checkpoints, callbacks."""
