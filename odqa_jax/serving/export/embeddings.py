"""The embeddings of an index for other tools: NumPy, Parquet, faiss.

figures = export_embeddings("work/index", "npy", "out", Stated())
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.retrieval import storage
from odqa_jax.retrieval.index import export_npy
from odqa_jax.serving.export.card import Stated, write_card
from odqa_jax.serving.export.models import exported, files_of, refuse_filled

# Rows of a piece of a Parquet file, which a reader holds at once.
_GROUP = 16384
_IDS = "ids.txt"

Rows = Float32[np.ndarray, "n e"]


def _shards(index: Path) -> Iterator[tuple[int, Rows]]:
  """The first row of every shard, and its rows."""
  manifest = storage.read_manifest(index)
  for shard in manifest["shards"]:
    yield shard["start"], storage.float_rows(index, manifest, shard)


def _write_npy(index: Path, folder: Path, corpus: Corpus | None) -> None:
  export_npy(index, folder / "embeddings.npy")
  _write_ids(folder, corpus)


def _write_ids(folder: Path, corpus: Corpus | None) -> None:
  """A line for every row."""
  if corpus is None:
    return
  with (folder / _IDS).open("w", encoding="utf-8") as file:
    for row in range(len(corpus)):
      file.write(" ".join(corpus.id(row).split()) + "\n")


def _write_parquet(index: Path, folder: Path, corpus: Corpus | None) -> None:
  width = storage.read_manifest(index)["width"]
  fields = [pa.field("row", pa.int64())]
  fields += [pa.field("id", pa.string())] if corpus else []
  fields += [pa.field("embedding", pa.list_(pa.float32(), width))]
  schema = pa.schema(fields)
  with pq.ParquetWriter(folder / "embeddings.parquet", schema) as writer:
    for start, rows in _shards(index):
      for i in range(0, len(rows), _GROUP):
        some = rows[i : i + _GROUP]
        numbers = range(start + i, start + i + len(some))
        columns = [pa.array(numbers, pa.int64())]
        if corpus is not None:
          columns.append(pa.array(map(corpus.id, numbers), pa.string()))
        flat = pa.array(some.reshape(-1))
        columns.append(pa.FixedSizeListArray.from_arrays(flat, width))
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _import_faiss() -> Any:
  """The library.

  Raises:
    ImportError: without it, naming the extra.
  """
  try:
    import faiss
  except ModuleNotFoundError as error:
    raise ImportError(
      "--to faiss needs the package faiss-cpu; install the extra: pip install "
      "'odqa_jax[faiss]'."
    ) from error
  return faiss


def _write_faiss(index: Path, folder: Path, corpus: Corpus | None) -> None:
  """A flat index of inner products, by which passages are ranked here."""
  faiss = _import_faiss()
  flat = faiss.IndexFlatIP(storage.read_manifest(index)["width"])
  for _, rows in _shards(index):
    flat.add(np.ascontiguousarray(rows))
  faiss.write_index(flat, str(folder / "index.faiss"))
  _write_ids(folder, corpus)


Write = Callable[[Path, Path, Corpus | None], None]
EMBEDDINGS: dict[str, Write] = {
  "npy": _write_npy,
  "parquet": _write_parquet,
  "faiss": _write_faiss,
}
_USAGE = {
  "npy": """import numpy as np

embeddings = np.load("{name}/embeddings.npy", mmap_mode="r")
scores = embeddings @ question_embedding""",
  "parquet": """import pyarrow.parquet as pq

table = pq.read_table("{name}/embeddings.parquet")
embeddings = table["embedding"].combine_chunks().flatten().to_numpy()
embeddings = embeddings.reshape(len(table), -1)""",
  "faiss": """import faiss

index = faiss.read_index("{name}/index.faiss")
scores, rows = index.search(question_embeddings, 100)""",
}


def export_embeddings(
  index: str | Path,
  to: str,
  out: str | Path,
  stated: Stated,
  corpus: Corpus | None = None,
) -> dict[str, Any]:
  """Writes all rows of an index as float32, in corpus order, and a card.

  Args:
    index: of any type.
    to: of `EMBEDDINGS`.
    out: the folder, which must not be there, or be empty.
    stated: what the card says besides.
    corpus: of the index; its passages' ids are written too.

  Returns:
    `export`, `files`, `bytes`, `to`, `count` and `width`.

  Raises:
    ImportError: if the format needs a package that is not installed.
    ValueError: if the index is damaged, the corpus is another, or the folder
      is not empty.
  """
  index, out = Path(index), Path(out)
  refuse_filled(out)
  if to == "faiss":
    _import_faiss()
  manifest = storage.read_manifest(index)
  if corpus is not None and corpus.fingerprint != manifest["corpus"]:
    raise ValueError(
      f"{index}: was made of another corpus ({manifest['corpus'][:12]}) than "
      f"{corpus.directory} ({corpus.fingerprint[:12]}); name that, or leave "
      "--corpus out."
    )
  with exported(out) as folder:
    EMBEDDINGS[to](index, folder, corpus)
    _write_card(folder, out.absolute().name, to, manifest, stated)
  told_of = {name: manifest[name] for name in ("count", "width")}
  return files_of(out) | {"to": to} | told_of


def _write_card(
  folder: Path, name: str, to: str, manifest: dict[str, Any], stated: Stated
) -> None:
  found = manifest.get("origin")
  encoder = f"checkpoint of fingerprint {manifest['encoder']}"
  if found:
    encoder = f"{found['name']} of revision {found['revision']}"
  rows = [
    ("Passages", f"{manifest['count']:,}"),
    ("Dimensions", manifest["width"]),
    ("Kept in the index as", manifest["dtype"]),
    ("Encoder", encoder),
    ("Corpus, sha256 of its texts", manifest["corpus"]),
    ("Tokenizer, sha256", manifest["tokenizer"]),
    ("Tokens of a passage at most", manifest["max_length"]),
  ]
  limits = [
    "Rows stand in the order of the corpus; `ids.txt` or the column `id`, "
    "where it is there, has the passages' own ids.",
    "Questions must be embedded by the same checkpoint; a row's product with "
    "that embedding is the score.",
    "Rows kept as bfloat16 or int8 are written as the float32 that they stand "
    "for, and are as inexact as before.",
  ]
  usage = _USAGE[to].format(name=name)
  write_card(
    folder,
    name,
    stated,
    head={
      "task_categories": ["text-retrieval"],
      "tags": ["odqa_jax", "embeddings"],
    },
    about="The embeddings of a corpus of passages, one row a passage.",
    facts=rows,
    sections=[
      f"## How to load\n\n```python\n{usage}\n```",
      "\n".join(["## Limits", "", *(f"- {line}" for line in limits)]),
    ],
  )
