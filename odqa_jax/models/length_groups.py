"""Passages of a step in a few groups by length, each padded on its own.

One long passage pads all of a batch. Sorted by length they fall into groups of
fixed sizes and lengths, chosen once for a corpus (`LengthProfile`), so that
nothing is compiled but these. A batch that does not fit, because it has more
long passages than all but a few have, must be computed as one (`fits`).

    profile = LengthProfile.of(lengths, groups=4, step=32)
    profile.divide(256, 512)  # (Group(rows=98, length=128), …)

Results lie as those of one group do. Padding beyond a group has zeros in place
of what a network makes of it, and dropout draws other masks, which depend on
the division over devices: it knows an entry by its place in its group.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.t5 import T5, T5Config

# Long passages that a batch may have beyond those of an average one, in
# standard deviations of independent draws. Those of one question are alike:
# with 5, of real batches of 8 · 32 retrieved passages 98 % and more fit.
_DEVIATIONS = 5.0


class Group(NamedTuple):
  """Rows that are encoded together.

  Attributes:
    rows: how many there are.
    length: tokens that each is padded to.
  """

  rows: int
  length: int


@dataclasses.dataclass(frozen=True)
class LengthProfile:
  """The lengths of the inputs that a network may get.

  Attributes:
    counts: how many inputs have 0, 1, 2, … tokens.
    groups: so many at most.
    step: lengths are multiples of it, but for the longest.
  """

  counts: tuple[int, ...]
  groups: int
  step: int

  @classmethod
  def of(
    cls, lengths: Int[np.ndarray, " n"], *, groups: int, step: int
  ) -> "LengthProfile":
    """The profile of inputs with these lengths."""
    return cls(tuple(np.bincount(lengths).tolist()), groups, step)

  def divide(self, rows: int, longest: int) -> tuple[Group, ...]:
    """The groups that cost the least padding, shortest first.

    Args:
      rows: of all groups together.
      longest: the length of the last one.
    """
    lengths = [0, *range(self.step, longest, self.step), longest]
    above = [rows, *(self._above(rows, n) for n in lengths[1:-1]), 0]
    # Rows above a length are no more than those above a shorter one.
    above = np.minimum.accumulate(above).tolist()
    # best[j]: of the rows up to lengths[j], the least padded tokens and how.
    best: dict[int, tuple[int, tuple[Group, ...]]] = {0: (0, ())}
    for _ in range(self.groups):
      best = {
        j: min(
          (cost + (above[i] - above[j]) * length,
           (*groups, Group(above[i] - above[j], length)))
          for i, (cost, groups) in best.items()
          if i <= j
        )
        for j, length in enumerate(lengths)
      }  # fmt: skip
    return tuple(group for group in best[len(lengths) - 1][1] if group.rows)

  def _above(self, rows: int, length: int) -> int:
    """So many of some rows are longer than a length, hardly ever more."""
    share = sum(self.counts[length + 1 :]) / sum(self.counts)
    spread = np.sqrt(rows * share * (1 - share))
    return min(int(np.ceil(rows * share + _DEVIATIONS * spread)), rows)


def fits(
  lengths: Int[Array, " n"], groups: tuple[Group, ...]
) -> Bool[Array, ""]:
  """Whether no row is longer than the group that it would fall into."""
  ordered, stop, fit = jnp.sort(lengths), 0, jnp.asarray(True)
  for group in groups:
    stop += group.rows
    fit &= ordered[stop - 1] <= group.length
  return fit


def in_groups(
  encode: Callable[..., Float[Array, "m ..."]],
  groups: tuple[Group, ...],
  rng: PRNGKeyArray | None,
  lengths: Int[Array, " n"],
  *inputs: Int[Array, "n l"] | None,
) -> Float[Array, "n ..."]:
  """What a network makes of rows, group by group.

  Args:
    encode: `(rng, lengths, *inputs)` → results, of one shape for every row.
    groups: of all rows; see `fits`.
    rng: for dropout; None means no dropout.
    lengths: of the rows.
    inputs: token ids and the like; None stays None.

  Returns:
    The results in the order of the rows.
  """
  order = jnp.argsort(lengths)
  made, first = [], 0
  for i, group in enumerate(groups):
    rows = order[first : first + group.rows]
    cut = (x if x is None else x[rows, : group.length] for x in inputs)
    key = None if rng is None else jax.random.fold_in(rng, i)
    made.append(encode(key, lengths[rows], *cut))
    first += group.rows
  return _permuted(jnp.concatenate(made), jnp.argsort(order), order)


@jax.custom_vjp
def _permuted(
  x: Float[Array, "n ..."], places: Int[Array, " n"], back: Int[Array, " n"]
) -> Float[Array, "n ..."]:
  """Rows in another order; its gradient is no scatter, but a gather as well."""
  del back
  return x[places]


_permuted.defvjp(
  lambda x, places, back: (x[places], back),
  lambda back, gradient: (gradient[back], None, None),
)


class GroupedEncoder(DualEncoder):
  """A dual encoder that encodes passages in groups."""

  def __init__(self, config: EncoderConfig, profile: LengthProfile) -> None:
    super().__init__(config)
    self.profile = profile

  def encode_passage(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "n l"],
    lengths: Int[Array, " n"],
    *,
    rng: PRNGKeyArray | None = None,
  ) -> Float[Array, "n e"]:
    """See `DualEncoder`."""
    encode = super().encode_passage
    return in_groups(
      lambda rng, lengths, ids: encode(params, ids, lengths, rng=rng),
      self.profile.divide(*ids.shape),
      rng,
      lengths,
      ids,
    )

  def passage_flops(self, rows: int, length: int) -> float:
    """See `DualEncoder`."""
    groups = self.profile.divide(rows, length)
    return sum(super(GroupedEncoder, self).passage_flops(*g) for g in groups)


class GroupedT5(T5):
  """A reader that encodes its inputs in groups."""

  def __init__(self, config: T5Config, profile: LengthProfile) -> None:
    super().__init__(config)
    self.profile = profile

  def encode_rows(
    self,
    params: Mapping[str, Any],
    ids: Int[Array, "n l"],
    lengths: Int[Array, " n"],
    features: Int[Array, "n l"] | None,
    rng: PRNGKeyArray | None,
  ) -> Float[Array, "n l d"]:
    """See `T5`."""
    longest, encode_rows = ids.shape[1], super().encode_rows

    def encode(
      rng: PRNGKeyArray | None,
      lengths: Int[Array, " m"],
      ids: Int[Array, "m s"],
      features: Int[Array, "m s"] | None,
    ) -> Float[Array, "m l d"]:
      states = encode_rows(params, ids, lengths, features, rng)
      more = longest - ids.shape[1]
      return lax.pad(
        states,
        jnp.zeros((), states.dtype),
        ((0, 0, 0), (0, more, 0), (0, 0, 0)),
      )

    groups = self.profile.divide(*ids.shape)
    return in_groups(encode, groups, rng, lengths, ids, features)

  def encoder_flops(self, rows: int, length: int) -> float:
    """See `T5`."""
    groups = self.profile.divide(rows, length)
    return sum(super(GroupedT5, self).encoder_flops(*g) for g in groups)
