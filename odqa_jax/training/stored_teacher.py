"""What a teacher says of all candidates, computed once and read by row.

    store_scores("scores", settings, mesh)            # `odqa teach`
    teacher = StoredTeacher("scores", settings)       # in place of a live one

A pair's scores are the logits of the tokens of the passage's text, one after
the other, and its rank: no other token has a part in the loss. Starts and ends
are in float16 unless float32 is asked for, ranks always in float32.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from odqa_jax.data.corpus.corpus import Corpus, corpus_folder
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.data.examples.unified import UnifiedExamples
from odqa_jax.data.parts.growing import GrowingArray
from odqa_jax.runtime.artifact import (
  MANIFEST,
  open_artifact,
  publish,
  read_manifest,
)
from odqa_jax.runtime.files import read_json
from odqa_jax.runtime.mesh import to_host
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.contents import contents
from odqa_jax.training.teacher import Batch, Teacher, load_teacher

KIND = "teacher"
DTYPES = ("float16", "float32")
# What the stored scores depend on, and which questions have any.
_DATA = (
  "candidates",
  "passages",
  "span_length",
  "question_length",
  "pair_length",
  "title",
  "passage_first",
)
_CONTENTS = ("data.corpus", "data.questions", "data.run")

Progress = Callable[[int, int], None]


class _Piece(NamedTuple):
  """Pairs that are read at once.

  Attributes:
    batch: their inputs, [1, m, …], filled up with the last one.
    starts: first token of each one's text.
    ends: the token after its last.
  """

  batch: Batch
  starts: list[int]
  ends: list[int]


def holds_scores(path: str | Path) -> bool:
  """Whether a folder is what `odqa teach` has made."""
  manifest = Path(path) / MANIFEST
  return manifest.is_file() and read_json(manifest).get("kind") == KIND


def _made_from(settings: Settings) -> dict[str, Any]:
  """What scores depend on, besides the teacher."""
  held = contents(settings)
  data = dataclasses.asdict(settings.data)
  return {name: held[name] for name in _CONTENTS} | {
    f"data.{name}": data[name] for name in _DATA
  }


def store_scores(
  out: str | Path,
  settings: Settings,
  mesh: Mesh,
  *,
  dtype: str = "float16",
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Reads the candidates of every question that is trained on.

  Args:
    out: the folder; it appears when it is complete.
    settings: of the run that will follow, with a live teacher.
    mesh: the devices.
    dtype: of starts and ends, one of `DTYPES`.
    progress: called with questions done and in all.

  Returns:
    Counts of questions, pairs and tokens.

  Raises:
    ValueError: see `load_teacher` and `UnifiedExamples`.
  """
  corpus = Corpus(corpus_folder(settings.data.corpus))
  teach = load_teacher(settings.unified.teacher, settings, corpus, mesh)
  examples = load_examples(settings.data, corpus)
  assert isinstance(examples, UnifiedExamples)
  made_from = _made_from(settings) | {
    "teacher": contents(settings)["unified.teacher"],
    "dtype": dtype,
  }
  with publish(out, KIND, made_from) as draft:
    firsts, ends = np.zeros((2, len(examples.found)), np.int64)
    with (
      GrowingArray(draft.folder / "rows.npy", np.int32) as rows,
      GrowingArray(draft.folder / "offsets.npy", np.int64) as offsets,
      GrowingArray(draft.folder / "start.npy", dtype) as start,
      GrowingArray(draft.folder / "end.npy", dtype) as end,
      GrowingArray(draft.folder / "passage.npy", np.float32) as passage,
    ):
      offsets.append(np.zeros(1, np.int64))
      for done, number in enumerate(examples.numbers):
        some = examples.found.candidates(number)[: settings.data.candidates]
        firsts[number] = len(rows)
        rows.append(some)
        ends[number] = len(rows)
        for piece in _pieces(examples, number, some, mesh.size):
          said = to_host(teach(piece.batch))
          for j, span in enumerate(zip(piece.starts, piece.ends, strict=True)):
            at = divmod(j, settings.data.passages)
            start.append(said["teacher_start"][at][slice(*span)])
            end.append(said["teacher_end"][at][slice(*span)])
            passage.append(said["teacher_passage"][at].reshape(1))
            offsets.append(np.array([len(start)]))
        if progress:
          progress(done + 1, len(examples))
      counts = {"questions": len(examples), "pairs": len(rows)}
      counts["tokens"] = len(start)
    np.save(draft.folder / "questions.npy", np.stack([firsts, ends], axis=1))
    draft.counts |= counts
  return counts


def _pieces(
  examples: UnifiedExamples, number: int, rows: np.ndarray, devices: int
) -> Iterator[_Piece]:
  """The candidates of a question, as many at once as a step has for each."""
  m = examples.passages
  size = m * devices
  for first in range(0, len(rows), size):
    some = rows[first : first + size].tolist()
    full = some + some[-1:] * (size - len(some))
    packed = examples.packed([number] * size, [[row] for row in full])
    made = packed.batch
    batch = {
      name: made[name].reshape(devices, m, *made[name].shape[2:])
      for name in ("ids", "lengths", "first_lengths")
    }
    pairs = [pair for (pair,) in packed.pairs[: len(some)]]
    yield _Piece(
      batch,
      [pair.context_start for pair in pairs],
      [pair.context_end for pair in pairs],
    )


class StoredTeacher:
  """A `Teacher` that has read everything before.

  Args:
    path: what `store_scores` has made.
    settings: of the run.

  Raises:
    ValueError: if it was made for other data or lengths, naming them.
  """

  def __init__(self, path: str | Path, settings: Settings) -> None:
    made_from = read_manifest(path, KIND)["made_from"]
    wanted = _made_from(settings)
    different = [
      f"config.{name} ({str(there)[:12]} there, {str(x)[:12]} here)"
      for name, x in wanted.items()
      if (there := made_from.get(name)) != x
    ]
    if different:
      raise ValueError(
        f"config.unified.teacher={path}: was stored for another "
        f"{', '.join(different)}; store it for these with odqa teach."
      )
    files = open_artifact(path, KIND, lazy=True)
    self._questions = np.asarray(files.array("questions.npy"))
    self._rows = np.asarray(files.array("rows.npy"))
    self._offsets = np.asarray(files.array("offsets.npy"))
    self._passage = np.asarray(files.array("passage.npy"))
    self._tokens = {
      name: files.array(f"{name}.npy") for name in ("start", "end")
    }

  def __call__(self, batch: Batch) -> dict[str, np.ndarray | Array]:
    """The arrays `batch.TEACHER` of a batch, zeros outside of the texts."""
    ids = batch["ids"]
    said = {
      f"teacher_{name}": np.zeros(ids.shape, np.float32)
      for name in self._tokens
    }
    ranks = np.zeros(ids.shape[:2], np.float32)
    for i in np.flatnonzero(batch["example_mask"]).tolist():
      first, end = self._questions[int(batch["question_numbers"][i])].tolist()
      places = {row: p for p, row in enumerate(self._rows[first:end].tolist())}
      for j, row in enumerate(np.asarray(batch["passage_rows"][i]).tolist()):
        pair = first + places[row]
        ranks[i, j] = self._passage[pair]
        span = slice(*self._offsets[pair : pair + 2].tolist())
        text = slice(
          int(batch["context_starts"][i, j]), int(batch["context_ends"][i, j])
        )
        for name, values in self._tokens.items():
          said[f"teacher_{name}"][i, j, text] = values[span]
    return {**said, "teacher_passage": ranks}


def open_teacher(settings: Settings, corpus: Corpus, mesh: Mesh) -> Teacher:
  """What `config.unified.teacher` names: stored scores, or a reader.

  Raises:
    ValueError: see `StoredTeacher` and `load_teacher`.
  """
  path = settings.unified.teacher
  if holds_scores(path):
    return StoredTeacher(path, settings)
  return load_teacher(path, settings, corpus, mesh)
