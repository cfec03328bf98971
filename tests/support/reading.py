"""What the command line reads of a file: format from content, or forced."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from odqa_jax.data.corpus.passages import Passage, PassageFile
from odqa_jax.data.formats.files import choose_format, read_questions
from odqa_jax.data.questions.sets import Question


def questions_of(path: Path, format: str | None = None) -> list[Question]:
  """All questions of a file."""
  return list(read_questions(path, format))


def passages_of(path: Path, format: str | None = None) -> list[Passage]:
  """All passages of a file."""
  file = PassageFile(path, choose_format(path, "passages", format)[0])
  return [passage for passage, _ in file.records()]


def written(path: Path, content: bytes | str) -> Path:
  """The path, after writing the content there."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def parquet(path: Path, *records: dict[str, Any]) -> Path:
  """The path, after writing records there as Parquet."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(pa.Table.from_pylist(list(records)), path)
  return path
