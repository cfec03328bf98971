"""What the default demo prints: passages found, figures, answers, what next."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.demo.presets import SystemPreset
from odqa_jax.runtime.mesh import is_primary
from odqa_jax.runtime.report import text_table

_WIDTH = 96


def tell(text: str) -> None:
  """Prints on stdout, on one process, at once."""
  if is_primary():
    print(text, flush=True)


def _cut(text: str, room: int) -> str:
  return text if len(text) <= room else f"{text[: room - 1]}…"


def show_found(
  questions: Sequence[str],
  rows: Int[np.ndarray, "n k"],
  scores: Float[np.ndarray, "n k"],
  corpus: PassageTexts,
) -> str:
  """Questions, each with the passages that were found for it."""
  lines = []
  for question, mine, given in zip(questions, rows, scores, strict=True):
    lines.append(f"\n? {question}")
    for row, score in zip(mine.tolist(), given.tolist(), strict=True):
      lines.append(f"  {score:.2f}  {corpus.title(row)}")
      lines.append(f"        {_cut(corpus.text(row), _WIDTH - 8)}")
  return "\n".join([*lines, ""])


def show_records(records: Sequence[Mapping[str, Any]]) -> str:
  """Answers of a system, each with the passage that it stands in.

  Args:
    records: see `serving/views.py`.
  """
  lines = []
  for record in records:
    sure = record["confidence"]
    surely = "" if sure is None else f"   (confidence {sure:.0%})"
    lines.append(f"\n? {record['question']}")
    lines.append(f"= {record['answer'] or 'no answer was found'}{surely}")
    marked = [p for p in record["passages"] if p["n"] in record["marks"]]
    for passage in (marked or record["passages"])[:1]:
      lines.append(f"  {passage['title']}: {_around(passage)}")
  return "\n".join([*lines, ""])


def _around(passage: Mapping[str, Any]) -> str:
  """The text about the answer."""
  text, room = passage["text"], _WIDTH - len(passage["title"]) - 5
  places = [h["start"] for h in passage["highlights"] if h["answer"]]
  start = min(places, default=0)
  begin = max(min(start - room // 3, len(text) - room), 0)
  return ("…" if begin else "") + _cut(text[begin:], room)


def show_rows(rows: Sequence[Mapping[str, Any]]) -> str:
  """A table of systems, in percent, ± half a 95 % interval."""
  cutoffs = list(rows[0]["recall"])
  head = ["", *(f"recall@{cutoff}" for cutoff in cutoffs), "EM", "F1"]
  cells = [
    [
      row["name"],
      *(_share(row["recall"][c], row["recall_95"][c]) for c in cutoffs),
      *(_share(row.get(m), row.get(f"{m}_95")) for m in ("em", "f1")),
    ]
    for row in rows
  ]
  return text_table([head, *cells], right=range(1, len(head)))


def _share(value: float | None, interval: Sequence[float] | None) -> str:
  if value is None or interval is None:
    return "-"
  return f"{100 * value:.1f} ±{50 * (interval[1] - interval[0]):.0f}"


def next_steps(system: Path, root: Path, preset: SystemPreset) -> str:
  """What to do with what was made."""
  sizes = f"--k {preset.k} --read-k {preset.read_k}"
  odqa = "odqa" if shutil.which("odqa") else sys.argv[0]
  return f"""\
The system is {system}. Ask it:
  {odqa} answer --system {system} {sizes}
  {odqa} serve --system {system} {sizes}
Your own passages and questions ({root / "questions"} shows how they look):
  {odqa} prepare --corpus passages.jsonl --questions train.jsonl \\
    --pairs train --tokenizer minilm --out data
  {odqa} train --config minilm --workdir work/minilm \\
    --config.data.corpus=data/corpus \\
    --config.data.questions=data/questions/train \\
    --config.data.pairs=data/pairs/train
Training from random weights, to the end: \
{odqa} demo --preset scratch --workdir {root}_scratch
"""
