"""Vocabularies: sampled, trained once, and never of another corpus."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from odqa_jax.data.corpus.passages import MemoryPassages, Passage, PassageFile
from odqa_jax.data.preparation import vocabulary
from odqa_jax.data.preparation.vocabulary import (
  prepare_tokenizer,
  sample_passages,
)
from odqa_jax.text import wordpiece_training
from odqa_jax.text.tokenizer import SPECIAL_TOKENS
from odqa_jax.text.wordpiece_training import train_wordpiece

LETTERS = "aAbBzéßσΣ東京한.,!-'1½☃\u0301\u00a0\x07"


def write(path: Path, *texts: str) -> PassageFile:
  path.write_text(
    "".join(
      json.dumps({"id": str(i), "title": "t", "text": text}) + "\n"
      for i, text in enumerate(texts)
    )
  )
  return PassageFile(path)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17, 100, 1000])
def test_a_sample_is_every_nth_passage(count):
  passages = [Passage(str(i), "t", "x") for i in range(count)]
  rows = [int(p.id) for p in sample_passages(iter(passages), 8)]
  step = rows[1] if len(rows) > 1 else 1
  assert rows == list(range(0, count, step))
  assert len(rows) <= 8 and (count <= 8 or len(rows) >= 4)


def test_a_sample_holds_the_start_of_long_texts():
  long = Passage("1", "t" * 10**5, "x" * 10**6)
  (sample,) = sample_passages([long])
  assert (len(sample.title), len(sample.text)) == (10_000, 10_000)


def plain_alphabet(texts: list[str]) -> tuple[list[str], set[str]]:
  """The alphabet and its `##` forms, by the trainer itself."""
  counts: Counter[str] = Counter()
  rules = wordpiece_training.normalizers.BertNormalizer()
  for text in texts:
    counts.update("".join(rules.normalize_str(text).split()))
  frequent = sorted(counts, key=lambda c: (-counts[c], c))
  kept = sorted(frequent[: wordpiece_training._ALPHABET_LIMIT])
  base = wordpiece_training._train(texts, list(SPECIAL_TOKENS), kept, 0)
  return kept, {t for t in base if t.startswith("##") and len(t) == 3}


@pytest.mark.parametrize("seed", range(20))
def test_letters_are_those_that_the_trainer_finds(seed, monkeypatch):
  # Fewer than there are, at times.
  monkeypatch.setattr(wordpiece_training, "_ALPHABET_LIMIT", 4 + seed)
  rng = random.Random(seed)
  texts = [
    " ".join(
      "".join(rng.choices(LETTERS, k=rng.randint(1, 5)))
      for _ in range(rng.randint(1, 9))
    )
    for _ in range(5)
  ]
  letters, inner = plain_alphabet(texts)
  tokens = train_wordpiece(texts, 5 + len(letters) + len(inner))._tokens()
  assert tokens == [*SPECIAL_TOKENS, *letters, *sorted(inner)]


def test_the_trainer_runs_once_and_tells_how_far_it_is(monkeypatch):
  runs = []
  plain = wordpiece_training._train

  def noted(*arguments):
    runs.append(1)
    return plain(*arguments)

  monkeypatch.setattr(wordpiece_training, "_train", noted)
  calls: list[tuple[int, int]] = []
  texts = [f"passage {i}" for i in range(3000)]
  train_wordpiece(iter(texts), 100, lambda *pair: calls.append(pair))
  assert len(runs) == 1
  assert calls == [(n, 6000) for n in range(1000, 7000, 1000)]


def test_a_kept_vocabulary_is_of_this_corpus_and_size(tmp_path, monkeypatch):
  trained: list[int] = []
  plain = train_wordpiece

  def noted(texts, size, progress):
    trained.append(size)
    return plain(texts, size, progress)

  monkeypatch.setattr(vocabulary, "train_wordpiece", noted)
  one = write(tmp_path / "one.jsonl", "the red fox", "a red house")
  two = write(tmp_path / "two.jsonl", "Wien an der Donau")

  def prepared(source, size=None):
    before = len(trained)
    made = prepare_tokenizer("", [source], tmp_path / "d", size)
    return made.fingerprint, trained[before:]

  first, sizes = prepared(one, 60)
  assert sizes == [60]
  assert prepared(one, 60) == (first, [])
  # Under another name and time it is the same corpus.
  moved = tmp_path / "moved.jsonl"
  moved.write_bytes(one.path.read_bytes())
  assert prepared(PassageFile(moved), 60) == (first, [])
  assert prepared(one, 45)[1] == [45]
  assert prepared(two, 45)[1] == [45]
  # Of the same name, size and time it is another.
  stamp = one.path.stat().st_mtime_ns
  other = write(tmp_path / "one.jsonl", "the rod fix", "a rad hause")
  os.utime(one.path, ns=(stamp, stamp))
  assert other.size == one.size
  assert prepared(one, 60)[1] == [60]
  assert prepared(other, 60) == (prepared(one, 60)[0], [])
  assert prepared(other)[1] == [8192]


def test_a_vocabulary_of_unknown_origin_is_not_used(tmp_path, capsys):
  source = write(tmp_path / "p.jsonl", "the red fox", "a red house")
  out = tmp_path / "d"
  first = prepare_tokenizer("", [source], out, 60)
  given = train_wordpiece(["zebra"], 40)
  given.save(tmp_path / "given")
  # A tokenizer that was given is not one that was trained.
  kept = prepare_tokenizer(str(tmp_path / "given"), [source], out)
  assert kept.fingerprint == given.fingerprint
  assert not (out / "tokenizer" / "made_from.json").exists()
  capsys.readouterr()
  again = prepare_tokenizer("", [source], out, 60)
  assert again.fingerprint == first.fingerprint
  assert "d/tokenizer: not trained on this corpus with 60" in (
    capsys.readouterr().err
  )
  # Half of another one, after a kill.
  given.save(out / "tokenizer")
  assert prepare_tokenizer("", [source], out, 60).fingerprint == (
    first.fingerprint
  )


def test_packaged_passages_are_known_by_their_text(tmp_path):
  def named(name: str, text: str) -> MemoryPassages:
    return MemoryPassages([Passage("1", "t", text)], name)

  out = tmp_path / "d"
  first = prepare_tokenizer("", [named("a", "red fox")], out, 60)
  record = (out / "tokenizer" / "made_from.json").read_bytes()
  prepare_tokenizer("", [named("b", "red fox")], out, 60)
  assert (out / "tokenizer" / "made_from.json").read_bytes() == record
  other = prepare_tokenizer("", [named("a", "blue zebra")], out, 60)
  assert other.fingerprint != first.fingerprint


def test_progress_is_told_from_the_start(tmp_path, capsys):
  source = write(tmp_path / "p.jsonl", *(f"fox {i}" for i in range(2500)))
  prepare_tokenizer("", [source], tmp_path / "d", 60)
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith("no --tokenizer: 60 word pieces are trained on a")
  assert lines[1].startswith("sample: 2,500/2,500 passages (100%)")
  assert lines[2].startswith("vocabulary: 10,000/10,000 texts (100%)")
