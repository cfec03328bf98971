"""The tokens of all passages on the devices, so that no host gathers them.

    store = place_tokens(corpus, mesh, margin=600)

Every device holds the tokens of its rows one after the other, title and text:
21 million passages of 100 words take 6 GB on all devices together. A slice of
them that begins anywhere is aligned to the place where its passage stands in
an input, so that inputs are put together without moving single tokens.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax, vmap
from jax.sharding import Mesh
from jaxtyping import Array, Int, Shaped

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.retrieval.backends.top_k import ROW_MULTIPLE
from odqa_jax.retrieval.index import padded_rows, place

# Rows that the host interleaves at a time.
_BLOCK = 16384
# What a store holds of a passage beside its tokens.
ROW_BYTES = 3 * 4


class TokenStore(NamedTuple):
  """Passages on the devices; split by rows over all of them.

  Attributes:
    tokens: [devices · t], on every device its rows' titles and texts in turn,
      with a margin before and after them.
    starts: [n] int32, where a row begins among the tokens of its device.
    titles: [n] int32, how many of its tokens are its title's.
    counts: [n] int32, tokens of title and text.
  """

  tokens: Shaped[Array, " t"]
  starts: Int[Array, " n"]
  titles: Int[Array, " n"]
  counts: Int[Array, " n"]


class Aligned(NamedTuple):
  """Tokens of some rows, at their places in an input.

  Attributes:
    tokens: [b, k, l] int32; what is not the passage's is anything.
    titles: [b, k] int32, tokens of the title.
    counts: [b, k] int32, tokens of title and text; 0 of a null document.
  """

  tokens: Int[Array, "b k l"]
  titles: Int[Array, "b k"]
  counts: Int[Array, "b k"]


def _before(
  corpus: Corpus, rows: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
  """Tokens of titles and texts before each of these rows."""
  rows = np.minimum(rows, len(corpus))
  return corpus.text_offsets[rows] + corpus.title_offsets[rows]


def _device_tokens(corpus: Corpus, mesh: Mesh, margin: int) -> int:
  """Places for tokens on a device; see `store_bytes`."""
  local = padded_rows(len(corpus), mesh) // mesh.size
  edges = _before(corpus, np.arange(mesh.size + 1) * local)
  most = int(np.diff(edges).max()) + 2 * margin
  # As `place` pads, so that no device's part is moved.
  tokens = -(-most // ROW_MULTIPLE) * ROW_MULTIPLE
  if tokens >= 2**31:
    raise ValueError(
      f"{tokens:,} tokens of {corpus.directory} would lie on each of "
      f"{mesh.size} devices, which count up to 2^31"
    )
  return tokens


def store_bytes(corpus: Corpus, mesh: Mesh, *, margin: int) -> int:
  """Bytes of a store on every device.

  Raises:
    ValueError: if a device would hold more tokens than an int32 can count.
  """
  tokens = _device_tokens(corpus, mesh, margin)
  rows = padded_rows(len(corpus), mesh) // mesh.size
  return tokens * corpus.text_tokens.dtype.itemsize + rows * ROW_BYTES


def place_tokens(corpus: Corpus, mesh: Mesh, *, margin: int) -> TokenStore:
  """Places the tokens of a corpus; each host reads its devices' rows alone.

  Args:
    corpus: the passages.
    mesh: its devices share the rows as they share those of an index.
    margin: how far a slice may reach beyond the tokens of a passage.

  Raises:
    ValueError: see `store_bytes`.
  """
  count, local = len(corpus), padded_rows(len(corpus), mesh) // mesh.size
  each = _device_tokens(corpus, mesh, margin)

  def fill_tokens(start: int, out: np.ndarray) -> None:
    first = min(start // each * local, count)
    out[:] = 0
    rows = range(first, min(first + local, count))
    _interleave(corpus, rows, out[margin:])

  def fill_starts(start: int, out: np.ndarray) -> None:
    rows = np.arange(start, start + len(out))
    out[:] = _before(corpus, rows) - _before(corpus, rows[:1]) + margin

  def fill_titles(start: int, out: np.ndarray) -> None:
    out[:] = np.diff(corpus.title_offsets[start : start + len(out) + 1])

  def fill_counts(start: int, out: np.ndarray) -> None:
    out[:] = np.diff(_before(corpus, np.arange(start, start + len(out) + 1)))

  number = np.dtype(np.int32)
  tokens = (mesh.size * each,)
  return TokenStore(
    place(fill_tokens, tokens, corpus.text_tokens.dtype, mesh),
    place(fill_starts, (count,), number, mesh),
    place(fill_titles, (count,), number, mesh),
    place(fill_counts, (count,), number, mesh),
  )


def _interleave(
  corpus: Corpus, rows: range, out: Shaped[np.ndarray, " t"]
) -> None:
  """Writes title and text of every row, row after row."""
  filled = 0
  for i in range(rows.start, rows.stop, _BLOCK):
    stop = min(i + _BLOCK, rows.stop)
    titles = np.asarray(corpus.title_offsets[i : stop + 1])
    texts = np.asarray(corpus.text_offsets[i : stop + 1])
    title_lengths, text_lengths = np.diff(titles), np.diff(texts)
    size = int(title_lengths.sum() + text_lengths.sum())
    block = out[filled : filled + size]
    # A title is moved by the texts before it, a text by the titles up to it.
    moved = np.repeat(texts[:-1] - texts[0], title_lengths)
    here = corpus.title_tokens[titles[0] : titles[-1]]
    block[np.arange(len(moved)) + moved] = here
    moved = np.repeat(titles[1:] - titles[0], text_lengths)
    here = corpus.text_tokens[texts[0] : texts[-1]]
    block[np.arange(len(moved)) + moved] = here
    filled += size


def aligned_tokens(
  store: TokenStore,
  rows: Int[Array, "b k"],
  first: Int[Array, " b"],
  width: int,
  *,
  title: bool,
  axes: tuple[str, ...],
) -> Aligned:
  """Tokens of rows, each passage beginning at its place in an input.

  Called within `shard_map` on all devices. They exchange nothing but these
  tokens; each gets those of its part of the questions.

  Args:
    store: this device's part.
    rows: of all questions; below 0: no passage.
    first: where the passages of each question begin, at most the margin.
    width: of the input, at most the margin.
    title: whether a passage begins with its title, or with its text.
    axes: of the mesh.

  Returns:
    [b / devices, k, …] for this device's questions.
  """
  n = len(store.starts)
  at = rows - lax.axis_index(axes).astype(jnp.int32) * n
  here = (at >= 0) & (at < n)
  at = jnp.clip(at, 0, n - 1)
  starts = store.starts[at] - first[:, None]
  if not title:
    starts += store.titles[at]

  def cut(start: Int[Array, ""]) -> Array:
    return lax.dynamic_slice(store.tokens, (start,), (width,))

  tokens = vmap(vmap(cut))(starts).astype(jnp.int32)
  numbers = jnp.stack([store.titles[at], store.counts[at]], axis=2)
  mine = jnp.concatenate([tokens, numbers], axis=2)
  mine = jnp.where(here[:, :, None], mine, 0)
  mine = lax.psum_scatter(mine, axes, scatter_dimension=0, tiled=True)
  return Aligned(mine[:, :, :width], mine[:, :, width], mine[:, :, width + 1])
