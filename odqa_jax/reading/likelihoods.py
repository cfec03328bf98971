"""How a reader reads retrieved passages, in training and at inference alike.

Every function is pure; a batch is that of `lookup.py`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from ml_collections import ConfigDict

from odqa_jax.models.components import Batch, Models, Params
from odqa_jax.models.t5 import T5
from odqa_jax.objectives import contrastive
from odqa_jax.objectives import reader as objectives

# The tasks with a reader by their name in `config.task`.
READER_TASKS = ("individual", "joint", "fid")


def score_temperature(config: ConfigDict, models: Models) -> float:
  """τ of the config: given, or m·sqrt(e)."""
  return config.objective.temperature or contrastive.score_temperature(
    config.objective.scale_multiple, models.encoder.embedding_dim
  )


def the_reader(models: Models) -> T5:
  """The reader of a task that has one."""
  assert models.reader is not None, "this task needs a reader"
  return models.reader


def fold(rng: PRNGKeyArray | None, number: int) -> PRNGKeyArray | None:
  """A key of its own for each network; None stays None."""
  return None if rng is None else jax.random.fold_in(rng, number)


def retrieval_scores(
  config: ConfigDict,
  models: Models,
  params: Params,
  batch: Batch,
  rng: PRNGKeyArray | None,
) -> Float[Array, "b k"]:
  """Scores of the k passages from the live weights; stale ones are not used.

  With `config.objective.context_encoder` off, the context encoder is a
  constant without dropout: it gives what the index holds.
  """
  b, k, l = batch["passage_ids"].shape
  retriever = params["retriever"]
  questions = models.encoder.encode_question(
    retriever,
    batch["question_ids"],
    batch["question_lengths"],
    rng=fold(rng, 0),
  )
  trained = config.objective.context_encoder
  passages = models.encoder.encode_passage(
    retriever if trained else jax.lax.stop_gradient(retriever),
    batch["passage_ids"].reshape(b * k, l),
    batch["passage_lengths"].reshape(b * k),
    rng=fold(rng, 1) if trained else None,
  )
  return objectives.passage_scores(
    questions, passages.reshape(b, k, -1), score_temperature(config, models)
  )


def read_passages(
  reader: T5, params: Params, batch: Batch, rng: PRNGKeyArray | None
) -> Float[Array, "b k l d"]:
  """The encoder states of every question with each of its passages."""
  return reader.encode(
    params["reader"],
    batch["reader_ids"],
    batch["reader_lengths"],
    overlap_features=batch.get("reader_flags"),
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
    overlap_features=batch.get("reader_flags"),
    rng=fold(rng, 2),
  )
  b, k, l = batch["reader_ids"].shape
  return states, logits.reshape(b, k * l, 2)


def answer_mask(batch: Batch) -> Bool[Array, "b t"]:
  """True for the tokens of the answer and its end."""
  places = jnp.arange(batch["answer_ids"].shape[1])
  return places[None, :] < batch["answer_lengths"][:, None]


def fused_log_likelihoods(
  reader: T5,
  params: Params,
  memory: Float[Array, "b k l d"],
  batch: Batch,
  bias: Float[Array, "y b h k"] | None,
  rng: PRNGKeyArray | None,
) -> Float[Array, "b t"]:
  """Log-likelihood of the answer's tokens, all passages read at once."""
  logits = reader.decode(
    params["reader"],
    reader.shift_right(batch["answer_ids"]),
    memory,
    batch["reader_lengths"],
    bias=bias,
    rng=fold(rng, 3),
  )
  return objectives.token_log_likelihoods(logits, batch["answer_ids"])


def single_log_likelihoods(
  reader: T5,
  params: Params,
  memory: Float[Array, "b k l d"],
  batch: Batch,
  rng: PRNGKeyArray | None,
) -> Float[Array, "b k t"]:
  """Log-likelihood of the answer's tokens given each passage alone."""
  b, k, l, d = memory.shape
  answers = jnp.repeat(batch["answer_ids"], k, axis=0)
  logits = reader.decode(
    params["reader"],
    reader.shift_right(answers),
    memory.reshape(b * k, 1, l, d),
    batch["reader_lengths"].reshape(b * k, 1),
    rng=fold(rng, 3),
  )
  tokens = objectives.token_log_likelihoods(logits, answers)
  return tokens.reshape(b, k, -1)
