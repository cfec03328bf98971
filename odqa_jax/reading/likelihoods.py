"""How a reader reads retrieved passages, in training and at inference alike.

Every function is pure; `data/examples/batch.py` lists what a batch holds.
Parameters are `{"retriever": …, "reader": …}` and, where the reader's
cross-attention is biased, `"bias"`: the λ of Eq. 8 of "End-to-End Training of
Neural Retrievers".
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.models.t5 import T5
from odqa_jax.objectives import reader as objectives

Params = Any
Batch = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
  """How an answer comes from a question and its k passages.

  A checkpoint holds it, so that inference need not know which task trained it.

  Attributes:
    fusion: "decoder" reads all passages at once; "answers" reads each alone
      and weighs the answers by p(z | q).
    temperature: τ, which divides relevance scores.
    bias: what λ weighs in the cross-attention, of `settings.BIASES`.
    marginal: how "answers" are weighed, of `settings.MARGINALS`.
    k: passages that are read unless something else is asked for.
    null_document: one more candidate without text.
    input_length: tokens of the longest input, question and passage.
    answer_length: tokens of the longest answer, with its end.
    title: inputs have the passage's title.
    overlap_features: inputs have them; for small readers.
    buckets: inputs are padded to the longest of a batch.
  """

  fusion: str
  temperature: float
  k: int
  input_length: int
  answer_length: int
  bias: str = "none"
  marginal: str = "sequence"
  null_document: bool = False
  title: bool = False
  overlap_features: bool = False
  buckets: bool = True


def fold(rng: PRNGKeyArray | None, number: int) -> PRNGKeyArray | None:
  """A key of its own for each network; None stays None."""
  return None if rng is None else jax.random.fold_in(rng, number)


def passage_embeddings(
  retriever: DualEncoder,
  params: Params,
  batch: Batch,
  rng: PRNGKeyArray | None,
) -> Float[Array, "b k e"]:
  """The k passages of every question by the weights given."""
  b, k, l = batch["passage_ids"].shape
  flat = retriever.encode_passage(
    params,
    batch["passage_ids"].reshape(b * k, l),
    batch["passage_lengths"].reshape(b * k),
    rng=rng,
  )
  return flat.reshape(b, k, -1)


def live_scores(
  config: ReadingConfig,
  retriever: DualEncoder,
  params: Params,
  batch: Batch,
  rng: PRNGKeyArray | None,
  *,
  train_passages: bool,
) -> Float[Array, "b k"]:
  """Scores of the k passages from the live weights; stale ones are not used.

  Without `train_passages` the passage encoder is a constant without dropout:
  it gives what the index holds.
  """
  weights = params["retriever"]
  questions = retriever.encode_question(
    weights,
    batch["question_ids"],
    batch["question_lengths"],
    rng=fold(rng, 0),
  )
  passages = passage_embeddings(
    retriever,
    weights if train_passages else jax.lax.stop_gradient(weights),
    batch,
    fold(rng, 1) if train_passages else None,
  )
  return objectives.passage_scores(questions, passages, config.temperature)


def read_passages(
  reader: T5, params: Params, batch: Batch, rng: PRNGKeyArray | None
) -> Float[Array, "b k l d"]:
  """The encoder states of every question with each of its passages."""
  return reader.encode(
    params["reader"],
    batch["reader_ids"],
    batch["reader_lengths"],
    overlap_features=batch.get("overlap_features"),
    rng=fold(rng, 2),
  )


def read_with_spans(
  reader: T5, params: Params, batch: Batch, rng: PRNGKeyArray | None
) -> tuple[Float[Array, "b k l d"], Float[Array, "b m 2"]]:
  """As `read_passages`, and span scores of the m = k·l tokens of a question."""
  states, logits = reader.encode_with_spans(
    params["reader"],
    batch["reader_ids"],
    batch["reader_lengths"],
    overlap_features=batch.get("overlap_features"),
    rng=fold(rng, 2),
  )
  b, k, l = batch["reader_ids"].shape
  return states, logits.reshape(b, k * l, 2)


def answer_mask(batch: Batch) -> Bool[Array, "b t"]:
  """True for the tokens of the answer and its end."""
  places = jnp.arange(batch["answer_ids"].shape[1])
  return places[None, :] < batch["answer_lengths"][:, None]


def decoder_bias(
  config: ReadingConfig, params: Params, scores: Float[Array, "b k"]
) -> Float[Array, "y b h k"] | None:
  """What is added to the cross-attention (Eq. 8); None without a bias."""
  if config.bias == "none":
    return None
  return objectives.attention_bias(
    scores, params["bias"]["lambda"], config.bias
  )


def token_log_likelihoods(
  config: ReadingConfig,
  reader: T5,
  params: Params,
  encoder_states: Float[Array, "b k l d"],
  batch: Batch,
  bias: Float[Array, "y b h k"] | None,
  rng: PRNGKeyArray | None,
) -> Float[Array, "b z t"]:
  """Log-likelihood of the answer's tokens, given each passage or all of them.

  z is k where `config.fusion` is "answers", else 1.
  """
  answers, lengths = batch["answer_ids"], batch["reader_lengths"]
  if config.fusion == "answers":
    b, k, l, d = encoder_states.shape
    answers = jnp.repeat(answers, k, axis=0)
    encoder_states = encoder_states.reshape(b * k, 1, l, d)
    lengths = lengths.reshape(b * k, 1)
  logits = reader.decode(
    params["reader"],
    reader.shift_right(answers),
    encoder_states,
    lengths,
    bias=bias,
    rng=fold(rng, 3),
  )
  tokens = objectives.token_log_likelihoods(logits, answers)
  return tokens.reshape(len(batch["answer_ids"]), -1, tokens.shape[1])


def answer_log_likelihood(
  config: ReadingConfig,
  log_likelihoods: Float[Array, "b z t"],
  mask: Bool[Array, "b t"],
  scores: Float[Array, "b k"] | None,
) -> Float[Array, " b"]:
  """Gives log p(a | q): Eq. 5 for "answers", Eq. 7 for all passages at once.

  Args:
    config: how it is read.
    log_likelihoods: from `token_log_likelihoods`.
    mask: False for the padding of an answer.
    scores: of the passages; None where the decoder fuses them.
  """
  if config.fusion == "decoder":
    return objectives.sequence_log_likelihood(log_likelihoods[:, 0], mask)
  assert scores is not None
  return objectives.individual_log_likelihood(
    log_likelihoods, mask, jax.nn.log_softmax(scores, axis=1), config.marginal
  )
