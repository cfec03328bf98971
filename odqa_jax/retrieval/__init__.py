"""Search backends: name → `search(index, queries, k) -> (scores, rows)`."""

from collections.abc import Callable

from odqa_jax.retrieval import exact

BACKENDS: dict[str, Callable] = {"exact": exact.search}
