"""Configuration of TensorFlow's model server, made by `python -m export.config`."""
