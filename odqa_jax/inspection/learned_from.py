"""Pages of what networks learn from: pairs, spans, stored teachers."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.mining.spans import Spans
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.inspection.page import Page
from odqa_jax.inspection.provenance import counts_of, find_parent, found
from odqa_jax.runtime.artifact import Artifact


def pairs_page(page: Page, files: Artifact, n: int) -> None:
  """Fills the page of positives and hard negatives."""
  pairs, folder = Pairs.open(files.directory), files.directory.absolute()
  dataset = folder.parent.parent
  negatives = np.diff(pairs.negative_offsets)
  page.facts = {
    "count": len(pairs),
    "positives": len(pairs.positive_rows),
    "negatives": len(pairs.negative_rows),
    "without negatives": int((negatives == 0).sum()),
    **counts_of(files, ("corpus", "questions")),
  } | page.facts
  made_from = files.manifest["made_from"]
  page.parents = [
    find_parent(folder, "corpus", made_from["corpus"], dataset / "corpus"),
    find_parent(
      folder,
      "questions",
      made_from["questions"],
      dataset / "questions" / folder.name,
    ),
  ]
  page.add_histogram("hard negatives of a pair", negatives)
  corpus, asked = (
    found(page.parents, "corpus"),
    found(page.parents, "questions"),
  )
  for i in range(min(n, len(pairs))):
    fields: dict[str, Any] = {"question": int(pairs.question[i])}
    if asked is not None:
      fields["question"] = QuestionSet(asked)[int(pairs.question[i])].question
    for name, rows in (
      ("positives", pairs.positive(i)),
      ("negatives", pairs.negatives(i)),
    ):
      fields[name] = _titles(corpus, rows.tolist())
    page.records.append((f"pair {i}", fields))


def _titles(folder: Path | None, rows: list[int]) -> list[str]:
  """Rows, with the title and first words of each where the corpus is found."""
  if folder is None:
    return [f"row {row}" for row in rows[:8]]
  corpus = Corpus(folder)
  return [
    f"row {row} {corpus.title(row)!r}: {corpus.text(row)[:60]}"
    for row in rows[:3]
  ]


def spans_page(page: Page, files: Artifact, n: int) -> None:
  """Fills the page of entities."""
  spans, folder = Spans.open(files.directory), files.directory.absolute()
  made_from = files.manifest["made_from"]
  types = made_from.get("types", [])
  kinds = Counter(np.asarray(spans.entities[:, 4]).tolist())
  page.facts = {
    "count": len(spans),
    "entities": len(spans.entities),
    "by type": {str(types[k]): v for k, v in kinds.most_common()},
    "model": made_from.get("model"),
    **counts_of(files, ("corpus",)),
  } | page.facts
  beside = folder.parent / "corpus"
  page.parents = [find_parent(folder, "corpus", made_from["corpus"], beside)]
  page.add_histogram("entities of a sentence", np.diff(spans.entity_offsets))
  where = found(page.parents, "corpus")
  if where is None:
    return
  corpus = Corpus(where)
  for i in range(min(n, len(spans))):
    row, _, _, start, end = spans.sentences[i].tolist()
    first, last = spans.entity_offsets[i : i + 2]
    text = corpus.text(row)
    marked, at = "", start
    for _, _, begin, stop, kind in spans.entities[first:last].tolist():
      marked += f"{text[at:begin]}[{text[begin:stop]}|{types[kind]}]"
      at = stop
    fields = {"id": corpus.id(row), "text": marked + text[at:end]}
    page.records.append((f"sentence {i}, row {row:,}", fields))


def teacher_page(page: Page, files: Artifact, n: int) -> None:
  """Fills the page of what `odqa teach` stores."""
  made_from = files.manifest["made_from"]
  questions = np.asarray(files.array("questions.npy"))
  rows, passage = (
    np.asarray(files.array(f"{name}.npy")) for name in ("rows", "passage")
  )
  page.facts = (
    counts_of(files, ())
    | {
      name: made_from[name] for name in ("teacher", "dtype", "data.pair_length")
    }
    | page.facts
  )
  page.parents = [
    find_parent(files.directory, name, made_from[f"data.{name}"])
    for name in ("corpus", "questions")
  ]
  taught = np.flatnonzero(questions[:, 1] > questions[:, 0])
  page.add_histogram(
    "passages of a question", np.diff(questions[taught]).ravel()
  )
  tokens = np.diff(np.asarray(files.array("offsets.npy")))
  page.add_histogram("tokens of a passage's text", tokens)
  corpus = found(page.parents, "corpus")
  for number in taught[:n].tolist():
    first, end = questions[number].tolist()
    best = first + np.argsort(-passage[first:end], kind="stable")[:3]
    fields = {
      "ranked first": _titles(corpus, rows[best].tolist()),
      "ranks": " ".join(f"{rank:.2f}" for rank in passage[best]),
    }
    page.records.append((f"question {number}", fields))
