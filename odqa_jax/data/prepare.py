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

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import MemoryPassages, PassageFile, Source
from odqa_jax.data.embedded.sets import CORPORA
from odqa_jax.data.formats.files import (
  is_packaged,
  read_questions,
  tell_counts,
  tell_format,
)
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
from odqa_jax.data.questions.sets import Question, write_questions
from odqa_jax.data.raw.formats import Format
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.raw.rejections import Rejections
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.settings import nearest
from odqa_jax.text.sentencepiece import AnyTokenizer, load_any_tokenizer
from odqa_jax.text.tokenizer import Tokenizer, load_tokenizer, train_wordpiece

# A vocabulary is trained on at most this many titles and texts.
VOCABULARY_TEXTS = 1_000_000
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def open_corpus(path: str | Path) -> Corpus:
  """A corpus folder, or the dataset folder that holds one."""
  nested = Path(path) / "corpus"
  return Corpus(nested if nested.is_dir() else path)


def corpus_texts(sources: Sequence[Source]) -> Iterator[str]:
  """Titles and texts of all passages, streamed."""
  for source in sources:
    for passage, _ in source.records():
      yield passage.title
      yield passage.text


def prepare_tokenizer(
  name: str, sources: Sequence[Source], out: Path, vocabulary_size: int
) -> Tokenizer:
  """The tokenizer that `name` stands for; kept in OUT/tokenizer.

  Args:
    name: a folder, `vocab.txt` or `tokenizer.json`; a training workdir;
      or "" for a vocabulary trained on the corpus.
    sources: the corpus, for training.
    out: the dataset folder; a vocabulary trained before is used again.
    vocabulary_size: word pieces to train.
  """
  kept = out / "tokenizer"
  if name:
    path = Path(name)
    nested = path / "tokenizer"
    tokenizer = load_tokenizer(nested if nested.is_dir() else path)
  elif kept.is_dir():
    return load_tokenizer(kept)
  else:
    texts = itertools.islice(corpus_texts(sources), VOCABULARY_TEXTS)
    tokenizer = train_wordpiece(texts, vocabulary_size)
  tokenizer.save(kept)
  return tokenizer


def question_set_name(source: str) -> str:
  """The folder name of a question set: the file's stem, or NAME-SPLIT."""
  name = Path(source).name.replace(":", "-")
  for ending in _COMPRESSED:
    name = name.removesuffix(ending)
  return name.rsplit(".", 1)[0]


def question_set_names(sources: Sequence[str]) -> list[str]:
  """The folder name of every set.

  Raises:
    ValueError: two sets would have one folder, or one has no name.
  """
  names = [question_set_name(source) for source in sources]
  first: dict[str, str] = {}
  for source, name in zip(sources, names, strict=True):
    if not name:
      raise ValueError(
        f"--questions {source}: the name of the file gives the set no name; "
        "rename it."
      )
    if name in first:
      raise ValueError(
        f"--questions {first[name]} and {source} would both be the set "
        f"{name!r}, and the second would replace the first; give one of them "
        "another name (a link will do), or prepare it into another --out."
      )
    first[name] = source
  return names


def prepare_spans(
  out: Path, finder: EntityFinder, types: Sequence[str]
) -> dict[str, Any]:
  """OUT/spans, made of OUT/corpus by one process for every core.

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
      runner=Runner() if finder.alone else parse_runner("local"),
      progress=update,
    )
  return {k: manifest[k] for k in ("sentences", "entities", "left_out")}


def tokenise(
  sources: Sequence[Source], out: Path, pieces: AnyTokenizer
) -> dict[str, Any]:
  """Writes all passages as a token store; returns its manifest."""
  name = "tokenise for the reader" if out.name != "corpus" else "tokenise"
  with progress_bar(name, 0, "passages") as update:
    return build_corpus(sources, out, pieces, progress=update)


def open_sources(
  names: Sequence[str],
  format: str | None,
  columns: str = "",
  rejections: Rejections | None = None,
) -> Sequence[Source]:
  """Packaged corpora by name, and passage files."""
  return [
    MemoryPassages(CORPORA[name], name)
    if name in CORPORA
    else PassageFile(
      name, tell_format(name, "passages", format, columns), rejections
    )
    for name in names
  ]


def prepare_questions(
  source: str, format: Format | None, out: Path, rejections: Rejections
) -> dict[str, Any]:
  """Writes one question set; returns how many questions it has, of which kind.

  Args:
    source: a file, or the name of a packaged set.
    format: of the file; None for a packaged set.
    out: the folder.
    rejections: takes bad records.
  """
  file = RawFile(source, rejections) if format else None
  questions = read_questions(file or source, format)
  unanswered = 0

  def counted() -> Iterator[Question]:
    nonlocal unanswered
    for question in questions:
      unanswered += not question.answers
      yield question

  with progress_bar(f"questions {out.name}", 0, "questions") as update:
    written = write_questions(counted(), out, out.name, progress=update)
  figures: dict[str, Any] = {"count": int(written["count"])}
  figures["without_answers"] = unanswered
  if file is not None:
    tell_counts(file, unanswered)
    figures["left_out"] = dict(file.left_out)
  return figures


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


def prepare(
  *,
  corpus: Sequence[str],
  questions: Sequence[str],
  out: str | Path,
  tokenizer: str = "",
  vocabulary_size: int = 8192,
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
) -> dict[str, Any]:
  """Makes a dataset folder from raw files.

  Args:
    corpus: files, or names of embedded corpora (`CORPORA`).
    questions: files, or embedded sets as NAME:SPLIT.
    out: the dataset folder.
    tokenizer: see `prepare_tokenizer`.
    vocabulary_size: word pieces to train where no tokenizer is given.
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

  Returns:
    Figures: passages, tokens, questions and pairs per set, what mining kept
    and dropped, what the leak checks found, salient spans; records rejected
    per file, and questions left out or without answers per set.

  Raises:
    ValueError: for bad input, with file and line; for a leak.
    ImportError: if `spans` is given without the extra of that name.
  """
  out = Path(out)
  names = question_set_names(questions)
  _check_pairs(pairs, names, negatives)
  # Before the hours that a large corpus takes.
  if spans:
    finder = finder or SpacyFinder()
    check_types(finder, spans)
  pieces = load_any_tokenizer(reader_tokenizer) if reader_tokenizer else None
  rejections = Rejections(max_bad, out / "rejected.txt")
  sources = open_sources(corpus, corpus_format, corpus_columns, rejections)
  formats = [
    None if is_packaged(q) else tell_format(q, "questions", format, columns)
    for q in questions
  ]
  word_pieces = prepare_tokenizer(tokenizer, sources, out, vocabulary_size)
  manifest = tokenise(sources, out / "corpus", word_pieces)
  figures: dict[str, Any] = {
    "passages": manifest["count"],
    "tokens": manifest["tokens"],
    "vocabulary": word_pieces.vocab_size,
  }
  left_out = {s.name: s.left_out for s in sources if s.left_out}
  if left_out:
    figures["left_out"] = left_out
  if pieces is not None:
    manifest = tokenise(sources, out / "reader_corpus", pieces)
    figures["reader_tokens"] = manifest["tokens"]
  sets = {
    name: prepare_questions(source, kind, out / "questions" / name, rejections)
    for source, kind, name in zip(questions, formats, names, strict=True)
  }
  figures["questions"] = {name: s.pop("count") for name, s in sets.items()}
  figures["sets"] = sets
  figures["rejected"] = rejections.by_file()
  figures["leaks"] = question_leaks(out, allow=allow_leak)
  searches = {"bm25": bm25_search(out)}
  mined = mine_sets(
    out, open_sets(out, pairs, add=False), searches, negatives=negatives
  )
  figures["pairs"] = {name: report["kept"] for name, report in mined.items()}
  figures["mining"] = mined
  figures["leaks"] |= gold_leaks(out, pairs) | passage_leaks(out)
  if spans and finder:
    figures["spans"] = prepare_spans(out, finder, spans)
    repeated = figures["leaks"]["repeated_passages"]["count"]
    figures["leaks"] |= span_leaks(out, repeated)
  return figures
