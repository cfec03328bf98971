"""MobileBERT against torch and NumPy, and its invariances."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.models.bert import apply_bert, init_bert
from odqa_jax.models.hf.encoder import load_encoder
from odqa_jax.models.mobilebert import MobileBertConfig

TINY = MobileBertConfig(
  vocab_size=40,
  width=16,
  layers=2,
  heads=2,
  mlp_dim=12,
  max_positions=12,
  word_width=6,
  inner_width=8,
  feed_forwards=3,
)
# Every way that a layer may be built, as fields of ours and as keys of a
# published config.json.
BUILDS = {
  "published": ({}, {}),
  "one feed-forward": (
    {"feed_forwards": 1},
    {"num_feedforward_networks": 1},
  ),
  "layer norms, gelu": (
    {"norm": "layer_norm", "activation": "gelu"},
    {"normalization_type": "layer_norm", "hidden_act": "gelu"},
  ),
  "attention in the bottleneck": (
    {"bottleneck_attention": True},
    {"use_bottleneck_attention": True},
  ),
  "bottleneck of the whole width": (
    {"shared_bottleneck": False, "inner_width": 16},
    {"key_query_shared_bottleneck": False, "intra_bottleneck_size": 16},
  ),
  "no bottleneck, no trigrams": (
    {"bottleneck": False, "trigrams": False},
    {"use_bottleneck": False, "trigram_input": False},
  ),
  "words of the whole width": (
    {"trigrams": False, "word_width": 16},
    {"trigram_input": False, "embedding_size": 16},
  ),
}
IDS = jnp.asarray(np.random.default_rng(0).integers(5, 40, (4, 10), np.int32))
LENGTHS = jnp.array([10, 3, 7, 1], jnp.int32)
FIRST = jnp.array([4, 2, 7, 1], jnp.int32)
REAL = np.arange(10)[None] < np.asarray(LENGTHS)[:, None]


def build(name: str, **other) -> MobileBertConfig:
  return dataclasses.replace(TINY, **BUILDS[name][0] | other)


@functools.cache
def noisy_params(config: MobileBertConfig):
  rng = np.random.default_rng(0)

  def leaf(path, x):
    centre = float(path[-1].key == "scale")
    return jnp.asarray(rng.normal(centre, 0.2, x.shape), jnp.float32)

  shapes = jax.eval_shape(lambda: init_bert(config, jax.random.key(0)))
  return jax.tree_util.tree_map_with_path(leaf, shapes)


def hidden(config, params, ids=IDS, lengths=LENGTHS, **kw):
  return jax.jit(lambda p: apply_bert(config, p, ids, lengths, **kw))(params)


# --- Against torch -----------------------------------------------------------


def torch_model(name: str):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  config = transformers.MobileBertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=12,
    **{
      "embedding_size": 6,
      "intra_bottleneck_size": 8,
      "num_feedforward_networks": 3,
      **BUILDS[name][1],
    },
  )
  model = transformers.MobileBertModel(config)
  for parameter in model.parameters():
    parameter.data += 0.2 * torch.randn_like(parameter)
  return model.eval()


def torch_states(model, *, row: int | None = None):
  """Last states; of one row alone without padding."""
  import torch

  some, length = slice(None), 10
  if row is not None:
    some, length = slice(row, row + 1), int(LENGTHS[row])
  mask = REAL[some, :length]
  inputs = {
    "input_ids": np.where(mask, IDS[some, :length], 0),
    "attention_mask": mask,
    "token_type_ids": np.arange(length)[None] >= np.asarray(FIRST)[some, None],
  }
  return model(
    **{k: torch.tensor(v, dtype=torch.long) for k, v in inputs.items()}
  ).last_hidden_state


@pytest.mark.torch
@pytest.mark.parametrize("name", BUILDS)
def test_a_torch_model_gives_the_same_states_and_gradients(tmp_path, name):
  model = torch_model(name)
  # In torch the last token sees the padding, whose embedding is zeros only
  # before it is trained.
  model.embeddings.word_embeddings.weight.data[0] = 0
  model.save_pretrained(tmp_path)
  config, params, facts = load_encoder(tmp_path)
  assert config.bert == build(name, attention_dropout=0.1)
  assert not [n for n in facts["ignored"] if "ffn" in n or "output" in n]
  want = torch_states(model.double())
  weights = np.random.default_rng(1).normal(size=(4, 10, 16)) * REAL[..., None]

  def loss(params):
    states = apply_bert(config.bert, params, IDS, LENGTHS, first_lengths=FIRST)
    return jnp.sum(states * weights), states

  gradients, got = jax.jit(jax.grad(loss, has_aux=True))(params["shared"])
  difference = np.abs(got - want.detach().numpy())
  assert difference[REAL].max() <= 1e-5
  import torch

  (want * torch.tensor(weights)).sum().backward()
  theirs = {n: p.grad for n, p in model.named_parameters()}
  first = theirs["encoder.layer.0.attention.self.value.weight"].numpy().T
  value = gradients["encoder"]["layer"]["attention"]["self"]["value"]["kernel"]
  np.testing.assert_allclose(value[0], first, atol=1e-4, rtol=1e-4)
  words = gradients["embeddings"]["word_embeddings"]["embedding"]
  wanted = theirs["embeddings.word_embeddings.weight"].numpy()
  # The row of the padding gets no gradient here.
  np.testing.assert_allclose(words[1:], wanted[1:], atol=1e-4, rtol=1e-4)
