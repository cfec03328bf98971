"""The optax chain, described by the settings.

    tx = make_optimizer(settings.optimizer, steps=12_370)

Paths are those of `mesh.path_name`: `retriever/question/encoder/…/kernel`.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import optax

from odqa_jax.runtime.mesh import path_name
from odqa_jax.runtime.settings import OptimizerSettings

# BERT's own recipe: no decay on biases and normalisation parameters.
NO_DECAY = r".*(bias|bias/lambda|LayerNorm/scale|layer_norm/scale)"


def learning_rate(settings: OptimizerSettings, steps: int) -> optax.Schedule:
  """Linear warm-up, then linear decay to 0.

  The warm-up takes `warmup_steps`, or the share `warmup` of `steps`.

  "End-to-End Training of Neural Retrievers", A.2. The rate at step n is the
  one that update n+1 uses; the last update's rate is above zero.
  """
  warmup = settings.warmup_steps or round(settings.warmup * steps)
  return optax.schedules.join_schedules(
    [
      optax.schedules.linear_schedule(
        settings.learning_rate / (warmup + 1), settings.learning_rate, warmup
      ),
      optax.schedules.linear_schedule(
        settings.learning_rate, 0.0, max(steps - warmup, 1)
      ),
    ],
    [warmup],
  )


# (path regex, factor of the learning rate); the first match decides.
Rules = Sequence[tuple[str, float]]


def _first_match(rules: Rules, name: str) -> float:
  for pattern, factor in rules:
    if re.fullmatch(pattern, name):
      return float(factor)
  return 1.0


def multipliers(params: Any, rules: Rules) -> Any:
  """A tree of learning-rate factors, by the rules.

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


def frozen(params: Any, rules: Rules) -> Any:
  """A tree of booleans: whose factor is exactly zero."""
  return jax.tree.map(lambda factor: factor == 0.0, multipliers(params, rules))


def freezing_rules(
  settings: OptimizerSettings, frozen_paths: Sequence[str]
) -> Rules:
  """What the objective does not train, then `config.optimizer.multipliers`."""
  return [(path, 0.0) for path in frozen_paths] + [
    (pattern, factor) for pattern, factor in settings.multipliers
  ]


def make_optimizer(
  settings: OptimizerSettings,
  *,
  steps: int,
  frozen_paths: Sequence[str] = (),
  rates: Rules = (),
) -> optax.GradientTransformation:
  """AdamW with clipping, a decay mask, and factors per path.

  A factor of 0 freezes: no update, no decay, no moments kept, and the
  gradient does not count in the clipped norm. Clipping is over the global
  norm of what is trained.

  Args:
    settings: the block `config.optimizer`.
    steps: of the schedule.
    frozen_paths: path regexes that are not trained.
    rates: (path regex, rate) of what has another highest rate than
      `settings.learning_rate`; schedule and factors are the same.
  """
  rules = freezing_rules(settings, frozen_paths)
  highest = settings.learning_rate
  own_rates = [(p, rate / highest if highest else 0.0) for p, rate in rates]

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
    optax.clip_by_global_norm(settings.clip_norm),
    optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps),
    optax.add_decayed_weights(settings.weight_decay, mask=decay_mask),
    _scale_by_path(rules, own_rates),
    optax.scale_by_learning_rate(learning_rate(settings, steps)),
  )
  return optax.partition(
    {"trained": trained, "frozen": optax.set_to_zero()}, label
  )


def _scale_by_path(*tables: Rules) -> optax.GradientTransformation:
  """Multiplies every update by its path's factor of every table."""

  def scale(updates: Any, params: Any = None) -> Any:
    del params
    return jax.tree_util.tree_map_with_path(
      lambda p, u: (
        u * math.prod(_first_match(rules, path_name(p)) for rules in tables)
      ),
      updates,
    )

  return optax.stateless(scale)
