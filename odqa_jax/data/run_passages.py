"""The passages that a run file holds the texts of, in place of a corpus.

    passages = RunPassages("run.json")
    evaluate_run("run.json", questions, passages)

So a run of DPR's JSON is measured where its corpus is not at hand. What the
run did not find is not known here.
"""

from pathlib import Path

from odqa_jax.data.corpus.corpus import DPR_PREFIX
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.runs import ID_KEYS


class RunPassages:
  """What `measures` asks of a corpus, of the passages in a run file.

  Attributes:
    path: the file.
  """

  def __init__(self, path: str | Path) -> None:
    """Reads all of it, and keeps each passage once.

    Raises:
      ValueError: if it is a TREC run, or lacks a text.
    """
    self.path = Path(path)
    self._rows: dict[str, int] = {}
    self._passages: list[tuple[str, str, str]] = []
    source = RawFile(path)
    if source.first_byte() not in (b"[", b"{"):
      raise ValueError(
        f"{path}: a TREC run has no texts of passages to look for answers in; "
        "give --corpus."
      )
    for place, record in source.json_records():
      contexts = record.get("ctxs")
      for passage in contexts if isinstance(contexts, list) else ():
        self._add(f"{place}", passage)
    if not self._passages:
      raise ValueError(f"{path}: the run has no passages; give another one.")

  def _add(self, place: str, passage: object) -> None:
    found = passage if isinstance(passage, dict) else {}
    name = next((str(found[key]) for key in ID_KEYS if key in found), "")
    title, text = found.get("title") or "", found.get("text")
    if not name or not isinstance(title, str) or not isinstance(text, str):
      raise ValueError(
        f"{place}: the passage {name!r} has no text in the run; give --corpus."
      )
    row = self._rows.setdefault(name, len(self._passages))
    if row == len(self._passages):
      self._passages.append((name, title, text))
    elif self._passages[row] != (name, title, text):
      raise ValueError(
        f"{place}: the passage {name!r} has another text here than before; "
        "give --corpus."
      )

  def __len__(self) -> int:
    return len(self._passages)

  def id(self, row: int) -> str:
    """Id of a passage."""
    return self._passages[row][0]

  def title(self, row: int) -> str:
    """Its title."""
    return self._passages[row][1]

  def text(self, row: int) -> str:
    """Its text."""
    return self._passages[row][2]

  def find(self, passage_id: str) -> int | None:
    """Row of a passage, with or without DPR's prefix; None if not found."""
    bare = passage_id.removeprefix(DPR_PREFIX)
    names = (passage_id, bare, f"{DPR_PREFIX}{bare}")
    return next((self._rows[n] for n in names if n in self._rows), None)
