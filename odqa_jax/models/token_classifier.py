"""A BERT with a linear head on every token, which gives each its label."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from odqa_jax.models.bert import BertConfig, apply_bert, init_bert
from odqa_jax.models.layers import Params


def init_token_classifier(
  config: BertConfig, labels: int, rng: PRNGKeyArray
) -> Params:
  """Fresh parameters: those of `init_bert`, and `classifier`."""
  bert_rng, head_rng = jax.random.split(rng)
  head = {
    "kernel": 0.02 * jax.random.normal(head_rng, (config.width, labels)),
    "bias": jnp.zeros(labels),
  }
  return {**init_bert(config, bert_rng), "classifier": head}


def apply_token_classifier(
  config: BertConfig,
  params: Mapping[str, Any],
  ids: Int[Array, "b l"],
  lengths: Int[Array, " b"],
) -> Float[Array, "b l c"]:
  """The logits of every label for every token, in float32.

  Args:
    config: of the BERT.
    params: as `init_token_classifier` returns them.
    ids: token ids with the special tokens; the padding is a suffix.
    lengths: real tokens of each row.
  """
  states = apply_bert(config, params, ids, lengths).astype(jnp.float32)
  head = params["classifier"]
  logits = jnp.einsum("bld,dc->blc", states, jnp.asarray(head["kernel"]))
  return logits + jnp.asarray(head["bias"])[None, None]
