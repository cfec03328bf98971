"""Records → batches of fixed shapes, in an order that (seed, epoch) decides.

Grain shuffles record *numbers* and batches them; each batch of numbers is then
turned into arrays at once, in NumPy. Every process plans the whole global
batch, which costs nothing but a few random numbers, and reads only its own
rows; so all agree on the padded lengths, and the position is the same small
state everywhere. `batch.py` lists the arrays.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from odqa_jax.data.corpus.packing import pack_questions
from odqa_jax.data.examples.batch import Batch, bucket_length, fill_up

if TYPE_CHECKING:
  import grain


@runtime_checkable
class Examples(Protocol):
  """What can be loaded: numbered examples that come in batches.

  Attributes:
    left_out: records that cannot be trained on, by reason.
  """

  left_out: dict[str, int]

  def __len__(self) -> int: ...

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The rows `rows` of the batch made of the examples `indices`."""
    ...


def chosen_examples(
  count: int, fraction: float, *, seed: int
) -> Int[np.ndarray, " n"]:
  """The numbers of a random share of the examples, at least one."""
  if fraction == 1:
    return np.arange(count)
  order = np.random.default_rng(seed).permutation(count)
  return np.sort(order[: max(round(fraction * count), 1)])


def train_batches(
  examples: Examples,
  batch_size: int,
  *,
  seed: int,
  rows: slice,
  fraction: float = 1.0,
) -> "grain.DatasetIterator":
  """Endless batches; `get_state`/`set_state` save and restore the position.

  Batches run across the border of epochs, so every example is used equally
  often and every batch is full.

  Args:
    examples: what to load.
    batch_size: size of the *global* batch.
    seed: with the epoch's number it decides the order; with the batch's
      number it decides what is drawn inside a batch.
    rows: this process's part of every batch; what is beyond `batch_size` is
      filled with masked examples.
    fraction: share of the examples that is used; see `chosen_examples`.
  """
  # Whoever answers one question should not wait for it.
  import grain

  chosen = chosen_examples(len(examples), fraction, seed=seed)
  real = range(batch_size)[rows]
  # A process beyond the last example still learns the shapes from one.
  held = slice(real.start, real.stop) if real else slice(0, 1)

  def load(indices: Any, rng: np.random.Generator) -> Batch:
    batch = examples.batch(chosen[np.asarray(indices)], rng, held)
    return fill_up(batch, len(real), rows.stop - rows.start)

  dataset = (
    grain.MapDataset.range(len(chosen))
    .seed(seed)
    .shuffle()
    .repeat()
    .batch(batch_size)
    .random_map(load)
  )
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
  return iter(dataset.to_iter_dataset(options))


def question_batches(
  token_lists: list[list[int]],
  tokenizer: Any,
  *,
  batch_size: int,
  longest: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
  """Questions in order, as `(ids, lengths, how many are real)`.

  The last batch is filled up with its own last question, never dropped.
  """
  for start in range(0, len(token_lists), batch_size):
    chunk = token_lists[start : start + batch_size]
    real = len(chunk)
    chunk = chunk + [chunk[-1]] * (batch_size - real)
    pad = bucket_length(np.array([len(t) + 2 for t in chunk]), longest)
    ids, lengths = pack_questions(chunk, pad, tokenizer)
    yield ids, lengths, real


def tell_left_out(examples: Examples) -> None:
  """Says on stderr what cannot be trained on."""
  reasons = {name: n for name, n in examples.left_out.items() if n}
  if reasons:
    listed = ", ".join(f"{n} {name}" for name, n in reasons.items())
    print(f"warning: examples left out: {listed}", file=sys.stderr)
