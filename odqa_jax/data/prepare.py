"""`odqa prepare`: raw files → a dataset folder.

    OUT/tokenizer   the word pieces, given or trained on the corpus
    OUT/corpus      token ids and text, memory-mapped
    OUT/questions/  one folder per question set
    OUT/pairs/      positives and hard negatives, for the sets asked for
    OUT/spans       entities of the corpus's sentences, if asked for
    OUT/reader_corpus  the passages in a reader's own vocabulary, if asked for

Every part is complete or absent; a second run on unchanged input does nothing.
"""

import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import MemoryPassages, PassageFile, Source
from odqa_jax.data.embedded.sets import CORPORA
from odqa_jax.data.formats.files import (
  Content,
  choose_format,
  is_packaged,
  read_questions,
)
from odqa_jax.data.mining.bm25 import Bm25
from odqa_jax.data.mining.entities import SpacyFinder
from odqa_jax.data.mining.mine import mine_pairs
from odqa_jax.data.mining.spans_build import build_spans
from odqa_jax.data.parts.run import parse_runner
from odqa_jax.data.questions.sets import QuestionSet, write_questions
from odqa_jax.data.raw.formats import Format
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.text.sentencepiece import AnyTokenizer, load_any_tokenizer
from odqa_jax.text.tokenizer import Tokenizer, load_tokenizer, train_wordpiece

# A vocabulary is trained on at most this many titles and texts.
VOCABULARY_TEXTS = 1_000_000


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
  return name.removesuffix(".gz").rsplit(".", 1)[0]


def prepare_spans(
  out: Path, finder: SpacyFinder, types: Sequence[str]
) -> dict[str, Any]:
  """OUT/spans, made of OUT/corpus by one process for every core.

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
      runner=parse_runner("local"),
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


def tell_format(path: str, content: Content, name: str | None) -> Format:
  """How a file is read; says on stderr what was chosen, and why."""
  format, reason = choose_format(path, content, name)
  print(
    f"{path}: {content} in the format {format.name} ({reason}): {format.about}",
    file=sys.stderr,
  )
  return format


def open_sources(names: Sequence[str], format: str | None) -> Sequence[Source]:
  """Packaged corpora by name, and passage files."""
  return [
    MemoryPassages(CORPORA[name], name)
    if name in CORPORA
    else PassageFile(name, tell_format(name, "passages", format))
    for name in names
  ]


def prepare_questions(source: str, format: str | None, out: Path) -> int:
  """Writes one question set; returns how many questions it has."""
  with progress_bar(f"questions {out.name}", 0, "questions") as update:
    written = write_questions(
      read_questions(source, format), out, out.name, progress=update
    )
  return int(written["count"])


def prepare_pairs(
  out: Path, names: Sequence[str], negatives: int
) -> dict[str, int]:
  """Mines the sets of a dataset folder; returns the pairs in each.

  What has no positive is left out, and said on stderr.
  """
  corpus = Corpus(out / "corpus")
  bm25 = functools.cache(lambda: Bm25.build(corpus))
  counts = {}
  for name in names:
    questions = QuestionSet(out / "questions" / name)
    with progress_bar(f"mine {name}", len(questions), "questions") as update:
      mined = mine_pairs(
        questions, corpus, bm25, negatives=negatives, progress=update
      )
    mined.save(out / "pairs" / name)
    counts[name] = len(mined)
    missing = mined.manifest["without_positive"]
    if missing:
      examples = mined.manifest["examples_without_positive"]
      print(
        f"{name}: {missing} questions without a positive are left out, for "
        f"example {examples[:3]}",
        file=sys.stderr,
      )
  return counts


def _check_pairs(
  pairs: Sequence[str], names: Sequence[str], negatives: int
) -> None:
  unknown = sorted(set(pairs) - set(names))
  if unknown:
    raise ValueError(f"--pairs {unknown[0]!r}: not among the sets {names}.")
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
  reader_tokenizer: str = "",
  format: str | None = None,
  corpus_format: str | None = None,
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
    reader_tokenizer: a T5 folder or its tokenizer.json, for a second token
      store; "" where the reader shares the retriever's word pieces.
    format: of the question files, a key of `FORMATS`; None to detect it.
    corpus_format: of the passage files, likewise.

  Returns:
    Figures: passages, tokens, questions and pairs per set, salient spans.

  Raises:
    ValueError: for bad input, with file and line.
    ImportError: if `spans` is given without the extra of that name.
  """
  out = Path(out)
  names = [question_set_name(q) for q in questions]
  _check_pairs(pairs, names, negatives)
  # Before the hours that a large corpus takes.
  finder = SpacyFinder() if spans else None
  pieces = load_any_tokenizer(reader_tokenizer) if reader_tokenizer else None
  sources = open_sources(corpus, corpus_format)
  formats = [
    None if is_packaged(q) else tell_format(q, "questions", format).name
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
  figures["questions"] = {
    name: prepare_questions(source, kind, out / "questions" / name)
    for source, kind, name in zip(questions, formats, names, strict=True)
  }
  figures["pairs"] = prepare_pairs(out, pairs, negatives) if pairs else {}
  if finder:
    figures["spans"] = prepare_spans(out, finder, spans)
  return figures
