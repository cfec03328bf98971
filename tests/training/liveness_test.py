"""Memory told from a trace: by hand, and against XLA's own figure."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.training.liveness import peak_bytes

N = 256
SIZE = N * N * 4
X = jax.ShapeDtypeStruct((N, N), jnp.float32)


@pytest.mark.parametrize(
  ("run", "arrays"),
  [
    (lambda x: x @ x, 1),
    # The first product is over when the third begins.
    (lambda x: x @ x @ x @ x, 2),
    # Element-wise results live where a product reads them, else nowhere.
    (lambda x: jnp.tanh(x * 2 + 1).sum(), 0),
    (lambda x: (x @ x * 2 + 1).sum(), 1),
    (lambda x: jnp.tanh(x) @ x, 2),
    # A product reads the whole of it in another shape as well.
    (lambda x: jnp.tanh(x).reshape(-1, 8).T @ x.reshape(-1, 8), 1),
    # A fused result is made where it is read: its source must live till then.
    (lambda x: ((y := x @ x) @ x @ x + jnp.exp(y)).sum(), 3),
    # The result takes the place of what nothing else reads.
    (lambda x: jnp.tanh(x @ x), 1),
    # The same bytes in another shape are no second array.
    (lambda x: (x @ x).reshape(-1, 8).T @ x.reshape(-1, 8), 1),
    # An argument is none of it, even if it is returned.
    (lambda x: x, 0),
  ],
)
def test_what_lives_at_once_is_counted_by_hand(run, arrays):
  assert peak_bytes(run, X) // SIZE == arrays
  assert peak_bytes(run, X) % SIZE < 512


def test_functions_that_are_called_count_in_their_place():
  """Neither jit nor checkpoint is an operation of its own."""
  inner = jax.jit(lambda x: x @ x)
  alone = peak_bytes(lambda x: x @ x @ x, X)
  assert peak_bytes(lambda x: inner(x) @ x, X) == alone
  assert peak_bytes(lambda x: jax.checkpoint(inner)(x) @ x, X) == alone


def test_a_loop_needs_what_one_round_needs_beside_what_it_stacks():
  def run(x):
    return lax.scan(lambda c, _: (c @ x @ x, c), x, None, length=5)

  # The carry, five copies of it, and within a round two products.
  assert peak_bytes(run, X) == (1 + 5 + 2) * SIZE


def test_a_device_within_a_shard_map_counts_alone():
  spec = PartitionSpec("data")
  run = jax.shard_map(
    lambda x: x @ x.T, mesh=make_mesh(), in_specs=spec, out_specs=spec
  )
  assert peak_bytes(run, X) == (N // 8) ** 2 * 4


def chain(remat):
  """A loss over eight dense layers, and its arguments."""

  def layer(x, w):
    y = jax.nn.gelu(x @ w)
    return y @ w.T + x, None

  if remat:
    layer = jax.checkpoint(layer)

  def loss(ws, x):
    return jnp.sum(lax.scan(layer, x, ws)[0] ** 2)

  ws = jax.ShapeDtypeStruct((8, 64, 256), jnp.float32)
  return jax.grad(loss), ws, jax.ShapeDtypeStruct((4096, 64), jnp.float32)


@pytest.mark.parametrize("remat", [False, True])
def test_a_gradient_needs_about_what_xla_says(remat):
  """Within a third: XLA orders, fuses and reuses as it likes."""
  gradient, *args = chain(remat)
  said = jax.jit(gradient).lower(*args).compile().memory_analysis()
  real = said.temp_size_in_bytes + said.output_size_in_bytes
  assert peak_bytes(gradient, *args) == pytest.approx(real, rel=1 / 3)


def test_what_is_computed_again_is_not_kept():
  (gradient, *args), (again, *_) = chain(False), chain(True)
  assert peak_bytes(again, *args) < 0.5 * peak_bytes(gradient, *args)
