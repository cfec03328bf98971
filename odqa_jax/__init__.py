"""Open-domain question answering in JAX: train, index, evaluate, serve."""

__version__ = "0.4.0"
