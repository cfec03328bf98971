"""The compiled functions that answers are made with.

    programs = ReaderPrograms(config, models)
    reading = programs.read(params, batch)  # the encoders, once a batch
    ids = programs.generate(params, reading, max_tokens=32, beams=1)
    log_probs = programs.score(params, reading, ids[:, 0], lengths)

`score` is the likelihood that the task trains: that of `reader_tasks.py`,
without dropout.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from odqa_jax.models import decoding
from odqa_jax.models.components import Batch, Models, Params
from odqa_jax.objectives import reader as objectives
from odqa_jax.reading.likelihoods import (
  READER_TASKS,
  answer_mask,
  fused_log_likelihoods,
  read_passages,
  retrieval_scores,
  single_log_likelihoods,
  the_reader,
)

# What `read` takes out of a batch of `lookup.py`, where it is there.
READ_KEYS = (
  "question_ids",
  "question_lengths",
  "passage_ids",
  "passage_lengths",
  "reader_ids",
  "reader_lengths",
  "reader_flags",
)


class Reading(NamedTuple):
  """Questions whose passages have been encoded.

  Attributes:
    memory: [b, k, l, d], encoder states of every question with each passage.
    lengths: [b, k], their real tokens.
    scores: [b, k] f32, relevance scores divided by τ.
    bias: [y, b, h, k] f32, what Joint Top-k adds to the cross-attention.
  """

  memory: Any
  lengths: Any
  scores: Any
  bias: Any


class ReaderPrograms:
  """Reads, writes and scores answers as `config.task` says.

  Compiled once for every shape; make one and keep it.

  Args:
    config: the training config.
    models: retriever and reader.

  Raises:
    ValueError: if the task has no reader.
  """

  def __init__(self, config: ConfigDict, models: Models) -> None:
    if config.task not in READER_TASKS or models.reader is None:
      raise ValueError(
        f"config.task={config.task!r} has no reader to answer with; train one "
        f"of {', '.join(READER_TASKS)}."
      )
    self._config, self._models = config, models
    self._reader = the_reader(models)
    self._single = config.task == "individual"
    self._biased = config.task == "joint" and config.objective.bias != "none"
    self.read = jax.jit(self._read)
    self.generate = jax.jit(
      self._generate, static_argnames=("max_tokens", "beams")
    )
    self.score = jax.jit(self._score)

  def _read(self, params: Params, batch: Batch) -> Reading:
    """Encodes; scores the passages by the weights, not by the index.

    An index may hold rounded rows, or those of an earlier step.
    """
    scores = retrieval_scores(self._config, self._models, params, batch, None)
    bias = None
    if self._biased:
      bias = objectives.attention_bias(
        scores, params["bias"]["lambda"], self._config.objective.bias
      )
    memory = read_passages(self._reader, params, batch, None)
    return Reading(memory, batch["reader_lengths"], scores, bias)

  def _generate(
    self, params: Params, reading: Reading, *, max_tokens: int, beams: int
  ) -> Int[Array, "b c t"]:
    """Token ids of the answers: one a passage, or one for all of them."""
    memory, lengths = reading.memory, reading.lengths
    b, k, l, d = memory.shape
    if self._single:
      memory = memory.reshape(b * k, 1, l, d)
      lengths = lengths.reshape(b * k, 1)
    options: dict[str, Any] = {"bias": reading.bias, "max_tokens": max_tokens}
    weights = params["reader"]
    if beams == 1:
      ids, _ = decoding.greedy(
        self._reader, weights, memory, lengths, **options
      )
    else:
      ids, _ = decoding.beam_search(
        self._reader, weights, memory, lengths, beams=beams, **options
      )
    return ids.reshape(b, -1, max_tokens)

  def _score(
    self,
    params: Params,
    reading: Reading,
    answer_ids: Int[Array, "b t"],
    answer_lengths: Int[Array, " b"],
  ) -> Float[Array, " b"]:
    """Gives log p(a | q) of one answer a question: Eq. 5, or Eq. 7."""
    batch = {
      "reader_lengths": reading.lengths,
      "answer_ids": answer_ids,
      "answer_lengths": answer_lengths,
    }
    mask = answer_mask(batch)
    if self._single:
      tokens = single_log_likelihoods(
        self._reader, params, reading.memory, batch, None
      )
      return objectives.individual_log_likelihood(
        tokens,
        mask,
        jax.nn.log_softmax(reading.scores, axis=1),
        self._config.objective.marginal,
      )
    tokens = fused_log_likelihoods(
      self._reader, params, reading.memory, batch, reading.bias, None
    )
    return objectives.sequence_log_likelihood(tokens, mask)


def token_counts(
  ids: Int[np.ndarray, "*n t"], eos_id: int
) -> Int[np.ndarray, "*n"]:
  """Tokens of every answer up to its end; all of them where none ends it."""
  ended = ids == eos_id
  counts = np.where(
    ended.any(axis=-1), ended.argmax(axis=-1) + 1, ids.shape[-1]
  )
  return counts.astype(np.int32)


def distinct_answers(
  ids: Int[np.ndarray, "b c t"],
) -> tuple[Int[np.ndarray, "b c t"], Int[np.ndarray, " b"]]:
  """Every question's different answers, in the order of their first passage.

  Returns:
    The answers, filled up with the first one; and how many are different.
  """
  out = np.empty_like(ids)
  counts = np.zeros(len(ids), np.int32)
  for i, answers in enumerate(ids):
    _, first = np.unique(answers, axis=0, return_index=True)
    first = np.sort(first)
    counts[i] = len(first)
    out[i] = answers[0]
    out[i, : len(first)] = answers[first]
  return out, counts
