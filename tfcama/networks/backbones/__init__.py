"""Backbones: inputs in, features out; any model that ends in a head takes any of them."""
