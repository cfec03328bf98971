"""The optax chain, described by the config.

    tx = make_optimizer(config.optimizer, steps=config.steps)

Paths are those of `mesh.path_name`: `question/encoder/layer/…/kernel`.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from odqa_jax.runtime.mesh import path_name

# BERT's own recipe: no decay on biases and normalisation parameters.
NO_DECAY = r".*(bias|bias/lambda|LayerNorm/scale|layer_norm/scale)"


def learning_rate(config: ConfigDict, steps: int) -> optax.Schedule:
  """Linear warm-up over `warmup` (a share of `steps`), then linear decay to 0.

  "End-to-End Training of Neural Retrievers", A.2. The rate at step n is the
  one that update n+1 uses; the last update's rate is above zero.
  """
  warmup = round(config.warmup * steps)
  return optax.schedules.join_schedules(
    [
      optax.schedules.linear_schedule(
        config.learning_rate / (warmup + 1), config.learning_rate, warmup
      ),
      optax.schedules.linear_schedule(
        config.learning_rate, 0.0, max(steps - warmup, 1)
      ),
    ],
    [warmup],
  )


def _first_match(rules: Sequence[tuple[str, float]], name: str) -> float:
  for pattern, factor in rules:
    if re.fullmatch(pattern, name):
      return float(factor)
  return 1.0


def multipliers(params: Any, rules: Sequence[tuple[str, float]]) -> Any:
  """A tree of learning-rate factors: the first `(regex, factor)` that matches.

  Raises:
    ValueError: if a rule matches no parameter at all.
  """
  names = [
    path_name(p) for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]
  ]
  for pattern, _ in rules:
    if not any(re.fullmatch(pattern, n) for n in names):
      raise ValueError(
        f"config.optimizer.multipliers: {pattern!r} matches no parameter; "
        f"paths look like {names[0]!r}."
      )
  return jax.tree_util.tree_map_with_path(
    lambda p, _: _first_match(rules, path_name(p)), params
  )


def frozen(params: Any, rules: Sequence[tuple[str, float]]) -> Any:
  """A tree of booleans: whose factor is exactly zero."""
  return jax.tree.map(lambda f: f == 0.0, multipliers(params, rules))


def make_optimizer(
  config: ConfigDict, *, steps: int, frozen_paths: Sequence[str] = ()
) -> optax.GradientTransformation:
  """AdamW with clipping, a decay mask, and factors per path.

  A factor of 0 freezes: no update, no decay, no moments kept, and the
  gradient does not count in the clipped norm. Clipping is over the global
  norm of what is trained.
  """
  rules = [(pattern, 0.0) for pattern in frozen_paths]
  rules += [tuple(rule) for rule in config.multipliers]

  def decay_mask(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda p, _: re.fullmatch(NO_DECAY, path_name(p)) is None, params
    )

  def label(params: Any) -> Any:
    return jax.tree.map(
      lambda is_frozen: "frozen" if is_frozen else "trained",
      frozen(params, rules),
    )

  trained = optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
    optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
    _scale_by_path(rules),
    optax.scale_by_learning_rate(learning_rate(config, steps)),
  )
  return optax.partition(
    {"trained": trained, "frozen": optax.set_to_zero()}, label
  )


def _scale_by_path(
  rules: Sequence[tuple[str, float]],
) -> optax.GradientTransformation:
  """Multiplies every update by its path's factor."""

  def scale(updates: Any, params: Any = None) -> Any:
    del params
    return jax.tree_util.tree_map_with_path(
      lambda p, u: u * _first_match(rules, path_name(p)), updates
    )

  return optax.stateless(scale)
