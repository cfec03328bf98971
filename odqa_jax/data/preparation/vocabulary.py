"""The word pieces of a dataset folder: given, or trained on its corpus.

OUT/tokenizer holds them and, in `made_from.json`, what they were trained on,
so that a kept vocabulary is used again for the same corpus and size alone; or
which model of the Hugging Face Hub they are from.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.passages import Passage, Source
from odqa_jax.data.parts.run import Progress
from odqa_jax.runtime.files import read_json, write_json
from odqa_jax.runtime.hub import origin
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.text.tokenizer import Tokenizer, load_tokenizer
from odqa_jax.text.wordpiece_training import train_wordpiece

# What is trained where nothing else is asked for.
VOCABULARY_SIZE = 8192
_RECORD = "made_from.json"
# A sample has half so many passages at least, if the corpus has; a few
# thousand would do, and these take some seconds.
_SAMPLE = 40_000
# Of a text; most passages have fewer by far.
_CHARACTERS = 10_000


def sample_passages(
  passages: Iterable[Passage], most: int = _SAMPLE
) -> list[Passage]:
  """Every n-th passage, n being the least power of 2 that gives few enough.

  Args:
    passages: read once; only the sample is held.
    most: how many there may be; even.
  """
  sample: list[Passage] = []
  step = 1
  for number, passage in enumerate(passages):
    if number % step:
      continue
    if len(sample) == most:
      sample, step = sample[::2], step * 2
    title, text = passage.title[:_CHARACTERS], passage.text[:_CHARACTERS]
    sample.append(Passage(passage.id, title, text))
  return sample


def prepare_tokenizer(
  name: str,
  sources: Sequence[Source],
  out: Path,
  vocabulary_size: int | None = None,
) -> Tokenizer:
  """The word pieces that `name` stands for; kept in OUT/tokenizer.

  Args:
    name: a folder, `vocab.txt` or `tokenizer.json`; a training workdir;
      or "" for a vocabulary trained on the corpus.
    sources: the corpus, for training.
    out: the dataset folder; a vocabulary that was trained there on the same
      corpus, of the same size, is used again.
    vocabulary_size: word pieces to train.
  """
  kept = out / "tokenizer"
  if name:
    path = Path(name)
    nested = path / "tokenizer"
    tokenizer = load_tokenizer(nested if nested.is_dir() else path)
    (kept / _RECORD).unlink(missing_ok=True)
    tokenizer.save(kept)
    if found := origin(path):
      write_json(kept / _RECORD, {"origin": found})
    return tokenizer
  size = vocabulary_size or VOCABULARY_SIZE
  if (kept / _RECORD).is_file():
    made_from = read_json(kept / _RECORD)
    if "origin" not in made_from and _agrees(made_from, sources, size):
      tokenizer = load_tokenizer(kept)
      if tokenizer.fingerprint == made_from["fingerprint"]:
        return tokenizer
  if kept.is_dir():
    print(
      f"{kept}: not trained on this corpus with {size} word pieces; it is made "
      "anew.",
      file=sys.stderr,
    )
  tokenizer = _train(sources, size)
  made_from = {
    "vocabulary_size": size,
    "sources": [source.describe() for source in sources],
    "fingerprint": tokenizer.fingerprint,
  }
  # The record is last, and names the vocabulary: half of one is not used.
  tokenizer.save(kept)
  write_json(kept / _RECORD, made_from)
  return tokenizer


def _agrees(
  made_from: dict[str, Any], sources: Sequence[Source], size: int
) -> bool:
  entries = made_from["sources"]
  return (
    made_from["vocabulary_size"] == size
    and len(entries) == len(sources)
    and all(s.matches(e) for s, e in zip(sources, entries, strict=True))
  )


def _train(sources: Sequence[Source], size: int) -> Tokenizer:
  print(
    f"no --tokenizer: {size} word pieces are trained on a sample of the corpus",
    file=sys.stderr,
  )
  with progress_bar("sample", 0, "passages") as update:
    sample = sample_passages(_passages(sources, update))
  if not sample:
    names = ", ".join(str(source.name) for source in sources)
    raise ValueError(
      f"{names}: no passage with a text; a corpus needs one; check the files."
    )
  texts = [text for p in sample for text in (p.title, p.text)]
  with progress_bar("vocabulary", 0, "texts") as update:
    return train_wordpiece(texts, size, update)


def _passages(
  sources: Sequence[Source], progress: Progress
) -> Iterable[Passage]:
  number = 0
  for source in sources:
    for passage, _ in source.records():
      number += 1
      if number % 1000 == 0:
        progress(number, 0)
      yield passage
  progress(number, number)
