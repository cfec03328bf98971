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
import sys
from collections.abc import Sequence
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
from odqa_jax.data.mining.spans_build import build_spans, check_types
from odqa_jax.data.parts.run import Runner, parse_runner
from odqa_jax.data.questions.sets import QuestionSet, write_questions
from odqa_jax.data.raw.formats import Format
from odqa_jax.data.stages import Stages
from odqa_jax.data.vocabulary import prepare_tokenizer
from odqa_jax.runtime.artifact import refuse_foreign
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.settings import nearest
from odqa_jax.text.sentencepiece import AnyTokenizer, load_any_tokenizer

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def open_corpus(path: str | Path) -> Corpus:
  """A corpus folder, or the dataset folder that holds one."""
  nested = Path(path) / "corpus"
  return Corpus(nested if nested.is_dir() else path)


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
  out: Path, finder: SpacyFinder, types: Sequence[str], runner: Runner
) -> dict[str, Any]:
  """OUT/spans, made of OUT/corpus.

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
      runner=runner,
      progress=update,
    )
  return {k: manifest[k] for k in ("sentences", "entities", "left_out")}


def tokenise(
  sources: Sequence[Source],
  out: Path,
  pieces: AnyTokenizer,
  runner: Runner,
  stages: Stages,
) -> dict[str, Any]:
  """Writes all passages as a token store; returns its manifest."""
  name = "tokenise for the reader" if out.name != "corpus" else "tokenise"
  with stages.measure(out.name, out) as counts:
    with progress_bar(name, 0, "passages") as update:
      manifest = build_corpus(
        sources, out, pieces, runner=runner, progress=update
      )
    counts["passages"] = manifest["count"]
    counts["tokens"] = manifest["tokens"]
  return manifest


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
  questions: Sequence[str],
  out: str | Path,
  tokenizer: str = "",
  vocabulary_size: int | None = None,
  pairs: Sequence[str] = (),
  negatives: int = 8,
  spans: Sequence[str] = (),
  reader_tokenizer: str = "",
  format: str | None = None,
  corpus_format: str | None = None,
  runner: str = "local",
) -> dict[str, Any]:
  """Makes a dataset folder from raw files.

  Args:
    corpus: files, or names of embedded corpora (`CORPORA`).
    questions: files, or embedded sets as NAME:SPLIT.
    out: the dataset folder.
    tokenizer: see `prepare_tokenizer`.
    vocabulary_size: word pieces to train where no tokenizer is given; None:
      a few thousand.
    pairs: names of question sets to mine positives and negatives for.
    negatives: hard negatives mined for a question that names none; those that
      a file names are all kept.
    spans: types of entities to find in the corpus.
    reader_tokenizer: a T5 folder or its tokenizer.json, for a second token
      store; "" where the reader shares the retriever's word pieces.
    format: of the question files, a key of `FORMATS`; None to detect it.
    corpus_format: of the passage files, likewise.
    runner: who makes the parts of corpus and spans; see `parse_runner`.

  Returns:
    Figures: passages, tokens, questions and pairs per set, salient spans; and
    by stage the seconds that it took, and how much it made in one.

  Raises:
    ValueError: for bad input, with file and line.
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
  finder = SpacyFinder() if spans else None
  if finder:
    check_types(finder, spans)
  pieces = load_any_tokenizer(reader_tokenizer) if reader_tokenizer else None
  sources = open_sources(corpus, corpus_format)
  formats = [
    None if is_packaged(q) else tell_format(q, "questions", format).name
    for q in questions
  ]
  stages = Stages()
  with stages.measure("tokenizer", out / "tokenizer"):
    word_pieces = prepare_tokenizer(tokenizer, sources, out, vocabulary_size)
  manifest = tokenise(sources, out / "corpus", word_pieces, workers, stages)
  figures: dict[str, Any] = {
    "passages": manifest["count"],
    "tokens": manifest["tokens"],
    "vocabulary": word_pieces.vocab_size,
  }
  if pieces is not None:
    folder = out / "reader_corpus"
    manifest = tokenise(sources, folder, pieces, workers, stages)
    figures["reader_tokens"] = manifest["tokens"]
  with stages.measure("questions", out / "questions"):
    figures["questions"] = {
      name: prepare_questions(source, kind, out / "questions" / name)
      for source, kind, name in zip(questions, formats, names, strict=True)
    }
  if pairs:
    with stages.measure("pairs", out / "pairs"):
      figures["pairs"] = prepare_pairs(out, pairs, negatives)
  if finder:
    with stages.measure("spans", out / "spans") as counts:
      counts["passages"] = figures["passages"]
      figures["spans"] = prepare_spans(out, finder, spans, workers)
  return {"pairs": {}, **figures, "stages": stages.figures}
