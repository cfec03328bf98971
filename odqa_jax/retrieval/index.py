"""The evidence index: a value that holds the embedding of every passage.

`build_index` makes one (resumably), `load_index` opens it on any mesh;
`storage` says how it lies on disk.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends.codes import quantize
from odqa_jax.retrieval.backends.exact import search_placed
from odqa_jax.retrieval.backends.memory import Free, check_fits, free_bytes
from odqa_jax.retrieval.backends.top_k import ROW_MULTIPLE
from odqa_jax.retrieval.division import batch_sizes
from odqa_jax.retrieval.embed import (
  Encode,
  Passages,
  Progress,
  embed,
  local_mesh,
  program_worth,
)
from odqa_jax.retrieval.searchable import (
  Queries,
  Ranked,
  checked_queries,
  no_rows,
)
from odqa_jax.retrieval.storage import DTYPES
from odqa_jax.runtime.artifact import MANIFEST, lock, refuse_foreign
from odqa_jax.runtime.files import read_json, replacing, write_json
from odqa_jax.runtime.mesh import is_primary, replicate, row_sharding, sync

_HUGE_PAGE = 2**21
# Digits of a sha256.
_HASH = 64
# Fills `out` with the rows that begin at a given one.
Fill = Callable[[int, np.ndarray], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
  """Embeddings of a corpus, spread over the devices of a mesh.

  Attributes:
    embeddings: [n_padded, e] float32 or bfloat16, rows in corpus order, split
      over all devices of `mesh`; rows from `count` on are zeros.
    count: passages, at most n_padded.
    manifest: what the index was made from.
    mesh: where it lies.
  """

  embeddings: Float[Array, "n_padded e"]
  count: int
  manifest: Mapping[str, Any]
  mesh: Mesh

  batch_size = 64

  @property
  def width(self) -> int:
    """The embedding width e."""
    return self.embeddings.shape[1]

  def search(self, queries: Queries, k: int) -> Ranked:
    """See `Searchable`; the result lies on every device."""
    host = checked_queries(self, queries, k)
    if not len(host):
      return no_rows(k)
    placed = replicate(self.mesh, host)
    return search_placed(self.mesh, self.embeddings, self.count, placed, k)

  def metrics(self) -> dict[str, Any]:
    """Nothing: what is found is the best."""
    return {}


def padded_rows(count: int, mesh: Mesh) -> int:
  """Rows that are placed for `count` passages."""
  unit = mesh.size * ROW_MULTIPLE
  return max(-(-count // unit), 1) * unit


def place(
  fill: Fill, shape: tuple[int, ...], dtype: np.dtype, mesh: Mesh
) -> Array:
  """Rows → a padded global array; the host holds one device's rows at a time.

  `make_array_from_callback` would hold those of all local devices at once.

  Args:
    fill: makes the rows.
    shape: [n] or [n, e], without padding.
    dtype: of the array.
    mesh: its devices share the rows.
  """
  count, *rest = shape
  padded = (padded_rows(count, mesh), *rest)
  sharding = row_sharding(mesh)
  pieces = []
  where = sharding.addressable_devices_indices_map(padded)
  for device, slices in where.items():
    assert slices is not None
    start, stop, _ = slices[0].indices(padded[0])
    piece = _empty((stop - start, *rest), dtype)
    real = max(min(count, stop) - start, 0)
    if real:
      fill(start, piece[:real])
    piece[real:] = 0
    pieces.append(jax.device_put(piece, device).block_until_ready())
  return jax.make_array_from_single_device_arrays(padded, sharding, pieces)


def _empty(
  shape: tuple[int, ...], dtype: np.dtype
) -> Shaped[np.ndarray, "..."]:
  """Memory that a CPU device takes over as it is.

  JAX copies what is not aligned, and its copy lies in small pages; NumPy asks
  the system for huge ones, where a scan reads a tenth faster.
  """
  size = math.prod(shape) * dtype.itemsize
  raw = np.empty(size + _HUGE_PAGE, np.uint8)
  start = -raw.ctypes.data % _HUGE_PAGE
  return raw[start : start + size].view(dtype).reshape(shape)


def build_index(
  encode: Encode,
  corpus: Passages,
  directory: str | Path,
  *,
  mesh: Mesh,
  max_length: int,
  identity: Mapping[str, str],
  dtype: str = "float32",
  batch_tokens: int = 16384,
  shard_rows: int = 65536,
  origin: Mapping[str, Any] | None = None,
  progress: Progress | None = None,
) -> None:
  """Encodes a corpus and saves the index; resumes a killed build.

  The processes take row shards in turn, on their own devices. Finished ones
  stay in `DIRECTORY.tmp`; the rest, made later, come out the same.

  Args:
    encode: jitted `(ids [b, l], lengths [b]) -> [b, e]`, int32 split by rows
      over `embed.local_mesh(mesh)`. The parameters, closed over, must be
      replicated on that mesh, not on `mesh`. It sees at most eight (b, l).
    corpus: the passages.
    directory: appears whole; if it is this index already, nothing is done.
    mesh: all devices of the build.
    max_length: tokens of the longest packed passage; longer ones are cut.
    identity: the fingerprints of `encoder` and `tokenizer`.
    dtype: of the stored rows, `float32`, `bfloat16` or `int8`.
    batch_tokens: padded tokens per call of `encode`, about.
    shard_rows: passages per file.
    origin: of the encoder, if it is the Hub's; it is noted, not compared.
    progress: called with this process's (done, total) passages.

  Raises:
    ValueError: if the folder or the tokenizer is not this corpus's and
      encoder's, or an embedding is not finite.
  """
  if batch_tokens < 1:
    raise ValueError(f"--batch-tokens {batch_tokens}: must be at least 1.")
  made_from = _made_from(corpus, identity, dtype, max_length)
  shards = _row_shards(len(corpus), shard_rows)
  directory = Path(directory)
  partial = directory.with_name(f"{directory.name}.tmp")
  refuse_foreign(directory, "index")
  if (directory / MANIFEST).exists():
    _require_same(made_from, storage.read_manifest(directory), directory)
    return
  with lock(directory) if is_primary() else nullcontext():
    _claim(partial, made_from | {"shard_rows": shard_rows})
    _encode_missing(
      encode,
      corpus,
      partial,
      shards,
      mesh=local_mesh(mesh),
      max_length=max_length,
      batch_tokens=batch_tokens,
      dtype=dtype,
      progress=progress or (lambda done, total: None),
    )
    sync("index: shards")
    if is_primary():
      noted = {"origin": origin} if origin else {}
      storage.finish(partial, directory, made_from | noted, len(shards))
  sync("index: finished")


def _row_shards(count: int, shard_rows: int) -> list[range]:
  """The rows of every shard."""
  if shard_rows < 1:
    raise ValueError(f"shard_rows is {shard_rows}; it must be 1 or more.")
  rows = range(count)
  return [rows[i : i + shard_rows] for i in rows[::shard_rows]]


def _made_from(
  corpus: Passages, identity: Mapping[str, str], dtype: str, max_length: int
) -> dict[str, Any]:
  """What makes two indexes the same, checked before any work."""
  if dtype not in DTYPES:
    raise ValueError(
      f"index dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}."
    )
  if not len(corpus):
    raise ValueError("the corpus is empty; an index needs a passage.")
  ours, theirs = identity["tokenizer"], corpus.manifest["tokenizer"]
  if ours != theirs:
    raise ValueError(
      f"the corpus was tokenised by {theirs}, but the encoder's tokenizer is "
      f"{ours}; prepare the corpus with the encoder's tokenizer."
    )
  return {
    "encoder": identity["encoder"],
    "corpus": corpus.fingerprint,
    "tokenizer": ours,
    "dtype": dtype,
    "max_length": max_length,
    "count": len(corpus),
  }


def _require_same(
  wanted: Mapping[str, Any], manifest: Mapping[str, Any], folder: Path
) -> None:
  """Raises a ValueError that names every difference and both sides."""
  differences = [
    f"{key} is {manifest.get(key)!r} there and {value!r} here"
    for key, value in wanted.items()
    if manifest.get(key) != value
  ]
  if differences:
    raise ValueError(
      f"{folder} was made from something else: {'; '.join(differences)}. "
      "Choose another folder, or delete this one."
    )


def _claim(partial: Path, identity: Mapping[str, Any]) -> None:
  """Makes the folder of a build, or checks that it is this build's."""
  path = partial / "identity.json"
  if path.exists():
    _require_same(identity, read_json(path), partial)
  sync("index: claimed")
  if is_primary():
    write_json(path, identity)
  sync("index: begun")


def _encode_missing(
  encode: Encode,
  corpus: Passages,
  partial: Path,
  shards: Sequence[range],
  *,
  mesh: Mesh,
  max_length: int,
  batch_tokens: int,
  dtype: str,
  progress: Progress,
) -> None:
  """Encodes and saves this process's unfinished row shards."""
  mine = range(jax.process_index(), len(shards), jax.process_count())
  missing = [i for i in mine if not storage.is_finished(partial, i)]
  total = sum(len(shards[i]) for i in mine)
  done = total - sum(len(shards[i]) for i in missing)
  progress(done, total)
  if not missing:
    return
  lengths = corpus.packed_lengths(max_length)
  sizes = batch_sizes(
    lengths,
    max_length,
    batch_tokens,
    rows=len(shards[0]),
    devices=mesh.size,
    worth=program_worth(mesh.devices.flat[0].platform, batch_tokens),
  )
  for i in missing:

    def tell(n: int, before: int = done) -> None:
      progress(before + n, total)

    rows = embed(
      encode,
      corpus,
      shards[i].start,
      lengths[shards[i].start : shards[i].stop],
      sizes=sizes,
      mesh=mesh,
      dtype=DTYPES["float32" if dtype == "int8" else dtype],
      progress=tell,
    )
    sides = {}
    if dtype == "int8":
      rows, sides["scales"], sides["residuals"] = quantize(rows)
    storage.save_shard(partial, i, shards[i].start, rows, **sides)
    done += len(rows)


def load_index(
  directory: str | Path,
  mesh: Mesh,
  *,
  free: Free = free_bytes,
) -> Index:
  """Opens an index on any number of devices and processes.

  Args:
    directory: what `build_index` made.
    mesh: where to place it.
    free: says what a device has free.

  Raises:
    ValueError: if a file is missing, damaged or of another format, naming it;
      if it holds int8 codes; or if the rows do not fit on the devices.
  """
  directory = Path(directory)
  manifest = storage.read_manifest(directory)
  if manifest["dtype"] == "int8":
    raise ValueError(
      f"{directory} holds int8 codes, which `open_index` searches; where rows "
      "are needed on the devices, rebuild it with --dtype f32 or bf16."
    )
  stored = DTYPES[manifest["dtype"]]
  shape = (manifest["count"], manifest["width"])
  rows = padded_rows(shape[0], mesh) // mesh.size
  check_fits(f"{directory}", rows * shape[1] * stored.itemsize, mesh, free=free)
  fill = storage.row_reader(directory, manifest)
  return Index(place(fill, shape, stored, mesh), shape[0], manifest, mesh)


def check_index(
  manifest: Mapping[str, Any],
  *,
  encoder: str,
  corpus: str,
  tokenizer: str,
) -> None:
  """Refuses an index that belongs to something else.

  Args:
    manifest: the index's.
    encoder: the fingerprint that the index must have been made from.
    corpus: likewise.
    tokenizer: likewise.

  Raises:
    ValueError: naming each one that differs, and both fingerprints.
  """
  given = {"encoder": encoder, "corpus": corpus, "tokenizer": tokenizer}
  wrong = [
    f"its {name} is {_short(str(manifest.get(name)))}, the {name} given is "
    f"{_short(value)}"
    for name, value in given.items()
    if manifest.get(name) != value
  ]
  if wrong:
    raise ValueError(
      f"this index does not belong here: {'; '.join(wrong)}. Open the one "
      "that was built from these, or rebuild it with `odqa index`."
    )


def _short(fingerprint: str) -> str:
  """The head of a hash; words stay whole."""
  return fingerprint[:12] if len(fingerprint) == _HASH else fingerprint


def export_npy(directory: str | Path, path: str | Path) -> None:
  """Writes float32 [count, e], rows in corpus order, for other tools.

  Args:
    directory: an index of any type, which all processes see.
    path: the file; appears whole.

  Raises:
    ValueError: if a file of the index is missing or damaged, naming it.
  """
  directory, path = Path(directory), Path(path)
  if is_primary():
    manifest = storage.read_manifest(directory)
    shape = (manifest["count"], manifest["width"])
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    # Written, not mapped: where the disk is full, a map ends the process.
    with replacing(path) as temporary, temporary.open("wb") as file:
      np.lib.format.write_array_header_1_0(file, header)
      for shard in manifest["shards"]:
        rows = storage.float_rows(directory, manifest, shard)
        file.write(rows.astype("<f4", copy=False).tobytes())
  sync("index: export finished")
