"""The model families, each a file that reads like its paper, and MODELS, which names them."""
