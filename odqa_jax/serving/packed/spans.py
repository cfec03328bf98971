"""The best spans of a passage, in NumPy; see `reading/extract.py`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from odqa_jax.serving.packed.layers import Weights, dense
from odqa_jax.serving.packed.network import encode


class Spans(NamedTuple):
  """Of one passage, the best first.

  Attributes:
    starts: tokens of the text, from its first on; −1: there are no more.
    ends: the last token of each.
    log_scores: component → log-probability within the passage.
    log_sums: component → logarithm of what it is normalised by.
  """

  starts: Int64[np.ndarray, " t"]
  ends: Int64[np.ndarray, " t"]
  log_scores: dict[str, Float64[np.ndarray, " t"]]
  log_sums: dict[str, float]


def read_passage(
  config: Mapping[str, Any],
  weights: Weights,
  ids: list[int],
  first_length: int,
  context: tuple[int, int],
  *,
  most: int,
  longest: int,
) -> Spans:
  """Reads one pair of question and passage.

  Args:
    config: the fields of `SpanConfig`, `bert` among them.
    weights: of the reader.
    ids: of the pair.
    first_length: tokens of its first segment.
    context: the first token of the text, and the one after its last.
    most: spans that are kept.
    longest: tokens of the longest.
  """
  states = encode(config["bert"], weights, ids, first_length=first_length)
  inside = states[slice(*context)]
  ends = dense(inside, weights, "qa_outputs").astype(np.float64)
  parts, log_sums = {}, {}
  w = np.arange(min(longest, max(len(inside), 1)))
  places = np.arange(len(inside))[:, None] + w[None]
  allowed = places < len(inside)
  last = np.minimum(places, max(len(inside) - 1, 0))
  for name, scores in (("start", ends[:, 0]), ("end", ends[:, 1])):
    log_sums[name] = _log_sum(scores)
    normed = scores - log_sums[name]
    whole = normed[:, None] if name == "start" else normed[last]
    parts[name] = np.broadcast_to(whole, places.shape)
  if config["span"]:
    first = dense(inside, weights, "qa_span")
    band = np.take_along_axis((first @ inside.T).astype(np.float64), last, 1)
    log_sums["span"] = _log_sum(band[allowed])
    parts["span"] = band - log_sums["span"]
  if config["passage"]:
    scores = dense(states[:1], weights, "qa_classifier")
    log_sums["passage"] = float(scores[0, 0])
    parts["passage"] = np.zeros(places.shape)
  return _best(parts, log_sums, allowed, most)


def _best(
  parts: Mapping[str, np.ndarray],
  log_sums: dict[str, float],
  allowed: np.ndarray,
  most: int,
) -> Spans:
  """The `most` with the highest sums; of equal ones the first, the shorter."""
  total = np.where(allowed, sum(parts.values()), -np.inf).ravel()
  some = np.arange(total.size)
  if most < total.size:
    least = np.partition(total, total.size - most)[total.size - most]
    some = np.flatnonzero(total >= least)
  order = some[np.argsort(-total[some], kind="stable")][:most]
  order = order[total[order] > -np.inf]
  starts = np.full(most, -1, np.int64)
  ends = np.full(most, -1, np.int64)
  starts[: len(order)] = order // allowed.shape[1]
  ends[: len(order)] = order // allowed.shape[1] + order % allowed.shape[1]
  log_scores = {}
  for name, values in parts.items():
    log_scores[name] = np.full(most, -np.inf)
    log_scores[name][: len(order)] = values.ravel()[order]
  return Spans(starts, ends, log_scores, log_sums)


def _log_sum(scores: np.ndarray) -> float:
  """The logarithm of the sum of exponentials; −∞ of none."""
  return float(np.logaddexp.reduce(scores)) if len(scores) else -np.inf
