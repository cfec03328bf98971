"""What a trained reader predicts with: read, generate, score.

    predictor = make_predictor(config, components)
    reading = predictor.read(params, batch)  # the encoders, once a batch
    ids = predictor.generate(params, reading, max_tokens=32, beams=1)
    log_probs = predictor.score(params, reading, ids[:, 0], lengths)

`score` is the likelihood that training maximises, without dropout. The
functions are pure; `ReadingSystem` compiles them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from odqa_jax.models import decoding
from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.models.families import Components
from odqa_jax.models.t5 import T5
from odqa_jax.objectives.reader import passage_scores
from odqa_jax.reading.likelihoods import (
  Batch,
  Params,
  ReadingConfig,
  answer_log_likelihood,
  answer_mask,
  decoder_bias,
  passage_embeddings,
  read_passages,
  token_log_likelihoods,
)


class Reading(NamedTuple):
  """Questions whose passages have been encoded.

  Attributes:
    encoder_states: [b, k, l, d], of every question with each passage.
    lengths: [b, k], their real tokens.
    scores: [b, k] f32, relevance scores divided by τ.
    bias: [y, b, h, k] f32, what Joint Top-k adds to the cross-attention.
  """

  encoder_states: Any
  lengths: Any
  scores: Any
  bias: Any


@dataclasses.dataclass(frozen=True)
class Predictor:
  """Pure functions of parameters; one way of reading.

  Attributes:
    read: (params, batch) → `Reading`. The batch has `batch.PASSAGES`,
      `batch.READER_INPUT`, and `question_embeddings` [b, e].
    generate: (params, reading, *, max_tokens, beams) → token ids [b, c, t]:
      one answer a passage, or one for all of them.
    score: (params, reading, answer_ids [b, t], answer_lengths [b]) →
      log p(a | q) [b] of one answer a question.
  """

  read: Callable[[Params, Batch], Reading]
  generate: Callable[..., Int[Array, "b c t"]]
  score: Callable[..., Float[Array, " b"]]

  def compiled(self) -> "Predictor":
    """The same functions, jitted; keep them: jit keeps what it compiled."""
    return Predictor(
      jax.jit(self.read),
      jax.jit(self.generate, static_argnames=("max_tokens", "beams")),
      jax.jit(self.score),
    )


def make_predictor(config: ReadingConfig, components: Components) -> Predictor:
  """The functions of one way of reading.

  Args:
    config: how is read.
    components: with a `retriever` and a `reader`.
  """
  retriever: DualEncoder = components["retriever"]
  reader: T5 = components["reader"]

  def read(params: Params, batch: Batch) -> Reading:
    # Scored by the weights, not by the index, which may hold rounded rows or
    # those of an earlier step.
    passages = passage_embeddings(retriever, params["retriever"], batch, None)
    scores = passage_scores(
      batch["question_embeddings"], passages, config.temperature
    )
    states = read_passages(reader, params, batch, None)
    bias = decoder_bias(config, params, scores)
    return Reading(states, batch["reader_lengths"], scores, bias)

  def generate(
    params: Params, reading: Reading, *, max_tokens: int, beams: int
  ) -> Int[Array, "b c t"]:
    states, lengths = reading.encoder_states, reading.lengths
    b, k, l, d = states.shape
    if config.fusion == "answers":
      states, lengths = states.reshape(b * k, 1, l, d), lengths.reshape(-1, 1)
    weights = params["reader"]
    options: dict[str, Any] = {"bias": reading.bias, "max_tokens": max_tokens}
    if beams == 1:
      ids, _ = decoding.greedy(reader, weights, states, lengths, **options)
    else:
      ids, _ = decoding.beam_search(
        reader, weights, states, lengths, beams=beams, **options
      )
    return ids.reshape(b, -1, max_tokens)

  def score(
    params: Params,
    reading: Reading,
    answer_ids: Int[Array, "b t"],
    answer_lengths: Int[Array, " b"],
  ) -> Float[Array, " b"]:
    batch = {
      "reader_lengths": reading.lengths,
      "answer_ids": answer_ids,
      "answer_lengths": answer_lengths,
    }
    log_likelihoods = token_log_likelihoods(
      config, reader, params, reading.encoder_states, batch, reading.bias, None
    )
    return answer_log_likelihood(
      config, log_likelihoods, answer_mask(batch), reading.scores
    )

  return Predictor(read, generate, score)


def ended_answers(
  ids: Int[np.ndarray, "b c t"], eos_id: int
) -> tuple[Int[np.ndarray, "b c t_1"], Int[np.ndarray, "b c"]]:
  """Answers that all have their end, and their tokens with it.

  One that the decoder did not finish gets an end as well: scored without it,
  it would be compared by fewer factors than the others.
  """
  ids = np.concatenate([ids, np.full_like(ids[..., :1], eos_id)], axis=-1)
  return ids, ((ids == eos_id).argmax(axis=-1) + 1).astype(np.int32)


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
