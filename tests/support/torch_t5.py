"""Tiny T5 models of transformers with random weights, and their parameters.

The conversion here is the tests' own: by name, one tensor at a time.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.models.t5 import T5Config


def configs(*, gated: bool, vocab_size: int = 50) -> tuple[T5Config, Any]:
  """One small shape, ours and theirs; no two of its sizes are equal."""
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  ours = T5Config(
    vocab_size=vocab_size,
    width=16,
    layers=3,
    decoder_layers=2,
    heads=3,
    head_dim=6,
    mlp_dim=24,
    gated=gated,
    tied=not gated,
  )
  theirs = transformers.T5Config(
    vocab_size=vocab_size,
    d_model=16,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=3,
    d_kv=6,
    d_ff=24,
    feed_forward_proj="gated-gelu" if gated else "relu",
    tie_word_embeddings=not gated,
    decoder_start_token_id=0,
  )
  return ours, theirs


def model_and_params(
  *, gated: bool, vocab_size: int = 50, seed: int = 0
) -> tuple[T5Config, Any, dict[str, Any]]:
  """Our config, their model and its weights as our parameters."""
  config, theirs = configs(gated=gated, vocab_size=vocab_size)
  import torch
  import transformers

  torch.manual_seed(seed)
  model = transformers.T5ForConditionalGeneration(theirs).eval()
  if gated:
    # From transformers 5 on, a new model is tied whatever its config says.
    head = torch.nn.Linear(16, vocab_size, bias=False)
    model.lm_head = head
    assert model.lm_head.weight is not model.shared.weight
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.2 * torch.randn_like(parameter)
  tensors = {k: v.detach().numpy() for k, v in model.state_dict().items()}
  return config, model, to_params(config, tensors)


def to_params(config: T5Config, tensors: dict[str, np.ndarray]) -> Any:
  params: dict[str, Any] = {}

  def put(path: str, x: np.ndarray) -> None:
    *parents, leaf = path.split("/")
    place = params
    for parent in parents:
      place = place.setdefault(parent, {})
    place[leaf] = jnp.asarray(np.ascontiguousarray(x))

  put("shared/embedding", tensors["shared.weight"])
  if not config.tied:
    put("lm_head/kernel", tensors["lm_head.weight"].T)
  depths = {"encoder": config.layers, "decoder": config.decoder_layers}
  for stack, depth in depths.items():
    put(
      f"{stack}/final_layer_norm/scale",
      tensors[f"{stack}.final_layer_norm.weight"],
    )
    table = "layer.0.SelfAttention.relative_attention_bias"
    put(
      f"{stack}/relative_attention_bias/embedding",
      tensors[f"{stack}.block.0.{table}.weight"],
    )
    first = f"{stack}.block.0.layer."
    for name in tensors:
      if not name.startswith(first) or table in name:
        continue
      parts = name.removeprefix(first).split(".")
      stacked = np.stack(
        [
          tensors[name.replace(".block.0.", f".block.{i}.")]
          for i in range(depth)
        ]
      )
      path = "/".join(parts[1:-1])
      if parts[-2] == "layer_norm":
        put(f"{stack}/block/layer_{parts[0]}/{path}/scale", stacked)
      else:
        kernel = stacked.swapaxes(1, 2)
        put(f"{stack}/block/layer_{parts[0]}/{path}/kernel", kernel)
  return params


def noise(shapes: Any, seed: int = 0) -> Any:
  """Parameters like trained ones: no two tables alike, no scale is 1.

  With NumPy, because compiling the random initialisation takes seconds.
  """
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    centre = float(path[-1].key == "scale")
    return jnp.asarray(rng.normal(centre, 0.3, x.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, shapes)
