"""`odqa prepare`: raw files → a dataset folder.

    OUT/tokenizer   the word pieces, given or trained on the corpus
    OUT/corpus      token ids and text, memory-mapped
    OUT/questions/  one folder per question set
    OUT/pairs/      positives and hard negatives, for the sets asked for
    OUT/bm25        the index that they are mined with, if one is needed
    OUT/leaks       passages that stand in the corpus twice
    OUT/spans       entities of the corpus's sentences, if asked for
    OUT/reader_corpus  the passages in a reader's own vocabulary, if asked for

Every part is complete or absent; a second run on unchanged input does nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus, corpus_folder
from odqa_jax.data.corpus.passages import Source
from odqa_jax.data.formats.files import (
  is_packaged,
  tell_format,
)
from odqa_jax.data.formats.judgements import read_judgements
from odqa_jax.data.mining.bm25_build import bm25_search
from odqa_jax.data.mining.entities import EntityFinder, SpacyFinder, check_types
from odqa_jax.data.mining.leaks import (
  gold_leaks,
  passage_leaks,
  question_leaks,
  span_leaks,
)
from odqa_jax.data.mining.sets import mine_sets, open_sets
from odqa_jax.data.mining.spans_build import build_spans
from odqa_jax.data.parts.run import Runner, parse_runner
from odqa_jax.data.preparation.passages import (
  check_same_corpus,
  leaving_nothing_new,
  open_sources,
  tokenise,
)
from odqa_jax.data.preparation.question_sets import (
  prepare_questions,
  question_set_names,
  tell_unjudged,
)
from odqa_jax.data.preparation.stages import Stages
from odqa_jax.data.preparation.vocabulary import prepare_tokenizer
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.raw.rejections import Rejections
from odqa_jax.runtime.artifact import refuse_foreign
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.settings import nearest
from odqa_jax.text.sentencepiece import AnyTokenizer, load_any_tokenizer


def open_corpus(path: str | Path) -> Corpus:
  """A corpus folder, or the dataset folder that holds one."""
  return Corpus(corpus_folder(path))


def prepare_spans(
  out: Path, finder: EntityFinder, types: Sequence[str], runner: Runner
) -> dict[str, Any]:
  """OUT/spans, made of OUT/corpus.

  A finder that keeps them all busy by itself works in this process.

  Returns:
    Figures: sentences, entities, and how many were left out for which reason.
  """
  corpus = Corpus(out / "corpus")
  with progress_bar("entities", len(corpus), "passages") as update:
    manifest = build_spans(
      corpus,
      out / "spans",
      finder,
      types=types,
      runner=Runner() if finder.alone else runner,
      progress=update,
    )
  return {k: manifest[k] for k in ("sentences", "entities", "left_out")}


def _check_pairs(
  pairs: Sequence[str], names: Sequence[str], negatives: int
) -> None:
  for name in pairs:
    if name not in names:
      raise ValueError(
        f"--pairs {name!r} is none of the sets of --questions; "
        f"{nearest(name, names)}"
      )
  if negatives < 0:
    raise ValueError(f"--negatives {negatives}: 0 or more are mined.")


def _check_targets(out: Path, names: Sequence[str]) -> None:
  """Raises a ValueError for what lies where a part is to be written."""
  kinds = {"corpus": "corpus", "reader_corpus": "corpus", "spans": "spans"}
  for name in names:
    kinds |= {f"questions/{name}": "questions", f"pairs/{name}": "pairs"}
  for folder, kind in kinds.items():
    refuse_foreign(out / folder, kind)


def prepare(
  *,
  corpus: Sequence[str],
  questions: Sequence[str] = (),
  out: str | Path,
  tokenizer: str = "",
  vocabulary_size: int | None = None,
  pairs: Sequence[str] = (),
  negatives: int = 8,
  spans: Sequence[str] = (),
  finder: EntityFinder | None = None,
  reader_tokenizer: str = "",
  format: str | None = None,
  corpus_format: str | None = None,
  columns: str = "",
  corpus_columns: str = "",
  max_bad: int = 0,
  allow_leak: bool = False,
  runner: str = "local",
  qrels: Sequence[str] = (),
) -> dict[str, Any]:
  """Makes a dataset folder from raw files.

  >>> figures = prepare(
  ...   corpus=["passages.jsonl"], questions=["dev.jsonl"], out="data"
  ... )
  >>> figures["passages"], figures["questions"]
  (200, {'dev': 100})

  Args:
    corpus: files, names of embedded corpora (`CORPORA`), or of TFDS's.
    questions: files, or embedded sets or TFDS's as NAME:SPLIT.
    out: the dataset folder.
    tokenizer: see `prepare_tokenizer`.
    vocabulary_size: word pieces to train where no tokenizer is given; None:
      a few thousand.
    pairs: names of question sets to mine positives and negatives for.
    negatives: hard negatives mined for a question that names none; those that
      a file names are all kept.
    spans: types of entities to find in the corpus.
    finder: finds them; None: the small English model of spaCy.
    reader_tokenizer: a T5 folder or its tokenizer.json, for a second token
      store; "" where the reader shares the retriever's word pieces.
    format: of the question files, a key of `FORMATS`; None to detect it.
    corpus_format: of the passage files, likewise.
    columns: of question files that are tables, FIELD=COLUMN[,…].
    corpus_columns: of passage files, likewise.
    max_bad: records that may be left out, of all files together; each is
      written to OUT/rejected.txt with its place and the reason.
    allow_leak: whether held-out questions may be train questions.
    runner: who makes the parts of corpus and spans; see `parse_runner`.
    qrels: files of judgements; a grade above 0 makes a passage a positive.

  Returns:
    Figures: passages, tokens, questions and pairs per set, what mining kept
    and dropped, what the leak checks found, salient spans; records rejected
    per file, and questions left out or without answers per set; and by stage
    the seconds that it took, and how much it made in one.

  Raises:
    ValueError: for bad input, with file and line; for a leak.
    ImportError: if `spans` or a runner is given without the extra for it.
  """
  out = Path(out)
  workers = parse_runner(runner)
  names = question_set_names(questions)
  _check_pairs(pairs, names, negatives)
  if tokenizer and vocabulary_size:
    raise ValueError(
      f"--vocabulary-size {vocabulary_size}: --tokenizer {tokenizer} has a "
      "vocabulary, so none is trained; leave one of them out."
    )
  # Before the hours that a large corpus takes.
  _check_targets(out, names)
  if spans:
    finder = finder or SpacyFinder()
    check_types(finder, spans)
  pieces = load_any_tokenizer(reader_tokenizer) if reader_tokenizer else None
  rejections = Rejections(max_bad, out / "rejected.txt")
  sources = open_sources(corpus, corpus_format, corpus_columns, rejections)
  check_same_corpus(out, sources)
  judged = read_judgements(map(RawFile, qrels))
  formats = [
    None if is_packaged(q) else tell_format(q, "questions", format, columns)
    for q in questions
  ]
  stages = Stages()
  with leaving_nothing_new(out, [f"questions/{name}" for name in names]):
    # A leak is found before the hours that a large corpus takes.
    with stages.measure("questions", out / "questions"):
      sets = {
        name: prepare_questions(
          source, kind, out / "questions" / name, rejections, judged
        )
        for source, kind, name in zip(questions, formats, names, strict=True)
      }
    tell_unjudged(judged, sets)
    figures: dict[str, Any] = {
      "questions": {name: s.pop("count") for name, s in sets.items()},
      "sets": sets,
      "leaks": question_leaks(out, allow=allow_leak),
    }
    figures |= _tokenise_all(
      out, sources, tokenizer, vocabulary_size, pieces, workers, stages
    )
  figures["rejected"] = rejections.by_file()
  figures |= _mine(out, pairs, negatives, workers, stages)
  figures["leaks"] |= gold_leaks(out, pairs) | passage_leaks(out)
  if spans and finder:
    with stages.measure("spans", out / "spans") as counts:
      counts["passages"] = figures["passages"]
      figures["spans"] = prepare_spans(out, finder, spans, workers)
    repeated = figures["leaks"]["repeated_passages"]["count"]
    figures["leaks"] |= span_leaks(out, repeated)
  return figures | {"stages": stages.figures}


def _tokenise_all(
  out: Path,
  sources: Sequence[Source],
  tokenizer: str,
  vocabulary_size: int | None,
  reader_pieces: AnyTokenizer | None,
  runner: Runner,
  stages: Stages,
) -> dict[str, Any]:
  """OUT/tokenizer, OUT/corpus and, for a reader, its store; their counts."""
  with stages.measure("tokenizer", out / "tokenizer"):
    pieces = prepare_tokenizer(tokenizer, sources, out, vocabulary_size)
  manifest = tokenise(sources, out / "corpus", pieces, runner, stages)
  figures = {
    "vocabulary": pieces.vocab_size,
    "passages": manifest["count"],
    "tokens": manifest["tokens"],
  }
  if reader_pieces is not None:
    folder = out / "reader_corpus"
    manifest = tokenise(sources, folder, reader_pieces, runner, stages)
    figures["reader_tokens"] = manifest["tokens"]
  left_out = {s.name: s.left_out for s in sources if s.left_out}
  for name, counts in left_out.items():
    for what, count in counts.items():
      print(f"{name}: {count} {what} are left out.", file=sys.stderr)
  return figures | ({"left_out": left_out} if left_out else {})


def _mine(
  out: Path,
  names: Sequence[str],
  negatives: int,
  runner: Runner,
  stages: Stages,
) -> dict[str, Any]:
  """OUT/pairs of the sets that are named; counts, and what was dropped."""
  if not names:
    return {"pairs": {}, "mining": {}}
  searches = {"bm25": bm25_search(out, runner)}
  with stages.measure("pairs", out / "pairs"):
    mined = mine_sets(
      out, open_sets(out, names, add=False), searches, negatives=negatives
    )
  counts = {name: report["kept"] for name, report in mined.items()}
  return {"pairs": counts, "mining": mined}
