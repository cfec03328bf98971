"""Pages of this project's artifacts: what `odqa prepare` and `index` make.

To add a kind: a function that fills a page from an opened artifact, and a row
in `KINDS`.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.inspection.learned_from import (
  pairs_page,
  spans_page,
  teacher_page,
)
from odqa_jax.inspection.page import Page, Parent, size_of
from odqa_jax.inspection.provenance import (
  counts_of,
  find_parent,
  found,
  manifest_of,
)
from odqa_jax.retrieval.storage import float_rows
from odqa_jax.runtime import artifact
from odqa_jax.runtime.artifact import Artifact
from odqa_jax.runtime.files import file_hash
from odqa_jax.text.tokenizer import Tokenizer, load_tokenizer

# Above this, files of several blocks are compared only on demand.
_COMPARED_BYTES = 2 << 30
_LENGTHS = 100_000


def artifact_page(path: Path, n: int, *, verify: bool = False) -> Page:
  """The page of a folder with a manifest.

  Args:
    path: the folder.
    n: records to decode.
    verify: compare all bytes with their checksums, however many.
  """
  raw = manifest_of(path)
  kind = str(raw.get("kind", "artifact"))
  about, fill = KINDS.get(kind, (f"an artifact of the kind {kind!r}", _bm25))
  page = Page(str(path), kind, about)
  try:
    if kind not in KINDS:
      raise ValueError(
        f"{path}: this version of odqa_jax knows no artifact of the kind "
        f"{kind!r}; use the version that wrote it."
      )
    files = Artifact(path, artifact.read_manifest(path, kind))
    page.facts["files"] = _compare(files, verify)
    fill(page, files, n)
    if files.manifest["made_from"].get("leaky"):
      page.facts["leaky"] = "filtered by questions that are measured on"
  except (ValueError, OSError) as error:
    page.problems.append(" ".join(str(error).split()))
    facts = {k: v for k, v in raw.items() if isinstance(v, int | float | str)}
    page.facts = facts | page.facts
  return page


def _compare(files: Artifact, verify: bool) -> str:
  """Compares files with their checksums; says which.

  Raises:
    Damage: naming the first that differs.
  """
  entries = files.manifest["files"]
  total = sum(entry["bytes"] for entry in entries.values())
  size = f"{len(entries)}, {size_of(total)}"
  if verify or total <= _COMPARED_BYTES:
    files.check()
    return f"{size}; every byte is as written"
  files.check_small()
  return f"{size}; sizes are right, --verify compares the bytes"


# ---- Corpus ----


def _corpus(page: Page, files: Artifact, n: int) -> None:
  manifest, corpus = files.manifest, Corpus(files.directory)
  page.facts = {
    "count": len(corpus),
    "articles": manifest["articles"],
    "sentences": manifest["sentences"],
    "tokens": manifest["tokens"],
    "vocabulary": _vocabulary(corpus.any_tokenizer),
    "fingerprint": corpus.fingerprint,
  } | page.facts
  tokenizer = manifest["made_from"]["tokenizer"]
  same = corpus.any_tokenizer.fingerprint == tokenizer
  where = str(files.directory / "tokenizer")
  state = "same" if same else "other"
  page.parents.append(Parent("tokenizer", tokenizer, state, where))
  for source in manifest["made_from"].get("sources", []):
    page.parents.append(_source(files.directory, source))
  lengths = np.diff(np.asarray(corpus.text_offsets))
  lengths = lengths + np.diff(np.asarray(corpus.title_offsets))
  page.add_histogram("tokens of title and text, without special ones", lengths)
  for row in np.linspace(0, len(corpus) - 1, n, dtype=int).tolist()[:n]:
    _record(page, f"row {row:,}", passage_of(corpus, row))


def _vocabulary(tokenizer: Any) -> str:
  kind = "word pieces" if isinstance(tokenizer, Tokenizer) else "SentencePieces"
  return f"{tokenizer.vocab_size:,} {kind}"


def _source(folder: Path, source: dict[str, Any]) -> Parent:
  """A raw file, if one of its name and content lies beside the dataset."""
  name, digest = str(source.get("name")), str(source.get("sha256"))
  for above in list(folder.absolute().parents)[:2]:
    path = above / name
    if path.is_file():
      same = file_hash(path) == digest
      state = "same" if same else "other"
      return Parent(name, digest, state, str(path))
  return Parent(name, digest, "not found")


def passage_of(corpus: Corpus, row: int) -> dict[str, Any]:
  """One passage, for a page."""
  return {
    "id": corpus.id(row),
    "title": corpus.title(row),
    "text": corpus.text(row),
  }


def _record(page: Page, name: str, fields: dict[str, Any]) -> None:
  """Adds a record unless it is there, as of a corpus of one passage."""
  if all(name != known for known, _ in page.records):
    page.records.append((name, fields))


# ---- Questions ----


def _questions(page: Page, files: Artifact, n: int) -> None:
  questions = QuestionSet(files.directory)
  page.facts = {
    "count": len(questions),
    "name": files.manifest["name"],
    "fingerprint": questions.fingerprint,
  } | page.facts
  folder = files.directory.absolute().parent.parent / "tokenizer"
  sample = list(itertools.islice(questions, _LENGTHS))
  fill_questions(page, sample, n, folder if folder.is_dir() else None)


def fill_questions(
  page: Page, questions: Sequence[Question], n: int, tokenizer: Path | None
) -> None:
  """What questions have and how long they are.

  Args:
    page: to fill.
    questions: the first of the set, or all.
    n: records to show.
    tokenizer: counts tokens; None counts words.
  """
  page.facts |= {
    "with answers": sum(bool(q.answers) for q in questions),
    "answers": sum(len(q.answers) for q in questions),
    "patterns": sum(q.answer_type == "regex" for q in questions),
    "positives": sum(len(q.positive_ids) for q in questions),
    "negatives": sum(len(q.negative_ids) for q in questions),
    "excluded": sum(len(q.excluded_ids) for q in questions),
  }
  texts = [q.question for q in questions]
  if tokenizer is not None:
    pieces = load_tokenizer(tokenizer).encode_batch(texts)
    lengths, unit = list(map(len, pieces)), "tokens"
  else:
    lengths, unit = [len(text.split()) for text in texts], "words"
  page.add_histogram(f"{unit} of a question", np.array(lengths, int))
  for question in questions[:n]:
    page.records.append((f"question {question.id}", question_fields(question)))


def question_fields(question: Question) -> dict[str, Any]:
  """One question, for a page."""
  return {
    "question": question.question,
    "answers": list(question.answers),
    "answer_type": question.answer_type,
    "positive_ids": list(question.positive_ids),
    "negative_ids": list(question.negative_ids),
    "excluded_ids": list(question.excluded_ids),
  }


# ---- Index ----


def _index(page: Page, files: Artifact, n: int) -> None:
  manifest, folder = files.manifest, files.directory
  made_from = manifest["made_from"]
  page.facts = {
    "count": manifest["count"],
    "width": manifest["width"],
    "dtype": manifest["dtype"],
    "shards": len(manifest["shards"]),
    "passage length": made_from.get("max_length"),
    "encoder": made_from["encoder"],
  } | page.facts
  page.parents = [find_parent(folder, "corpus", made_from["corpus"])]
  for build in sorted(folder.iterdir()):
    if (build / artifact.MANIFEST).is_file():
      page.parts[build.name] = artifact_page(build, 0)
  rows = float_rows(folder, manifest, manifest["shards"][0])
  sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), 1000), dtype=int)]
  norms = np.linalg.norm(sample, axis=1)
  page.facts["lengths of embeddings"] = (
    f"{norms.min():.4g} to {norms.max():.4g} of {len(sample)} rows"
  )
  if not np.isfinite(norms).all():
    page.problems.append(f"{folder}: holds embeddings that are not finite.")
  where = found(page.parents, "corpus")
  for row in range(min(n, len(rows))):
    fields = passage_of(Corpus(where), row) if where else {}
    values = " ".join(f"{x:.3f}" for x in rows[row][:8])
    page.records.append((f"row {row}", fields | {"embedding": f"{values} …"}))


def _scann(page: Page, files: Artifact, n: int) -> None:
  del n
  made_from = files.manifest["made_from"]
  index = files.directory.absolute().parent
  same = manifest_of(index).get("sha256") == made_from["index"]
  state = "same" if same else "other"
  page.parents = [Parent("index", made_from["index"], state, str(index))]
  page.facts = {
    "recall of the exact result": files.manifest["recall"],
    "config": made_from["config"],
    "scann": made_from["scann"],
  } | page.facts


def _converted(page: Page, files: Artifact, n: int) -> None:
  del n
  made_from = files.manifest["made_from"]
  page.facts = {"format": made_from["to"]} | page.facts
  page.facts |= files.manifest["records"]


def _pruned(page: Page, files: Artifact, n: int) -> None:
  manifest = files.manifest
  page.facts = {
    "kept": manifest["kept"],
    "of": manifest["passages"],
    "rule": manifest["rule"],
  } | page.facts
  for name, parent in manifest["parents"].items():
    found_here = Parent(f"whole {name}", parent["manifest"], "not found")
    page.parents.append(found_here)
  for name in manifest["parts"]:
    page.parts[name] = artifact_page(files.directory / name, n)


def _bm25(page: Page, files: Artifact, n: int) -> None:
  del n
  page.facts = counts_of(files, ()) | page.facts
  corpus = files.manifest["made_from"].get("corpus")
  if isinstance(corpus, str):
    page.parents = [find_parent(files.directory, "corpus", corpus)]


Fill = Callable[[Page, Artifact, int], None]
KINDS: dict[str, tuple[str, Fill]] = {
  "corpus": ("the evidence: token ids and text of every passage", _corpus),
  "questions": ("a question set: a TFDS dataset of ArrayRecords", _questions),
  "pairs": ("positives and hard negatives of a question set", pairs_page),
  "spans": ("entities in the sentences of a corpus, to be masked", spans_page),
  "teacher": ("what a teacher says of the passages of questions", teacher_page),
  "index": ("the embeddings of all passages of a corpus", _index),
  "pruned": ("what pruning has kept of a corpus and its index", _pruned),
  "bm25": ("the terms of all passages of a corpus, weighted by BM25", _bm25),
  "scann": ("a ScaNN build of an index", _scann),
  "converted": ("files for other tools, by `odqa convert`", _converted),
}
