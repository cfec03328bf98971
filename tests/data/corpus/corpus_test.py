"""The corpus against a plain reading of its sources; interruption; damage."""

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from odqa_jax.data.corpus import build as corpus_build
from odqa_jax.data.corpus import corpus as corpus_module
from odqa_jax.data.corpus import packing, tokenise
from odqa_jax.data.corpus.corpus import (
  Corpus,
  Passage,
  build_corpus,
  read_passages,
)
from odqa_jax.data.corpus.packing import pack_questions
from odqa_jax.data.corpus.store import sorted_hashes
from odqa_jax.data.corpus.tokenise import TokenisePassages
from odqa_jax.data.parts.files import unpack_texts
from odqa_jax.data.parts.run import Runner
from odqa_jax.runtime import blocks
from odqa_jax.runtime.artifact import write_manifest
from odqa_jax.text.sentences import ends_sentence, split_sentences
from odqa_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.!?,'\"()-"
PIECES = [*SPECIAL_TOKENS, *LETTERS, *(f"##{c}" for c in LETTERS)]


class CountingTokenizer(Tokenizer):
  """Knows how many texts it was given."""

  texts = 0

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    self.texts += len(texts)
    return super().encode_batch(texts)


def make_tokenizer(**options) -> CountingTokenizer:
  return CountingTokenizer({t: i for i, t in enumerate(PIECES)}, **options)


@pytest.fixture
def tokenizer() -> CountingTokenizer:
  return make_tokenizer()


def make_passages(count: int, seed: int = 0) -> list[Passage]:
  """Articles of one to five passages; sentences run over their borders."""
  rng = random.Random(seed)
  passages: list[Passage] = []
  while len(passages) < count:
    title = rng.choice(["", "A b", "Title", f"T {len(passages)}"])
    for _ in range(rng.randint(1, 5)):
      words = [rng.choice(["Mr. Fox", "ran", "Ünder.", "to", "X!", "(so.)"])]
      words += rng.choices(["the", "end.", "Was", "it?", "Dr.", "no,"], k=11)
      text = " ".join(words[: rng.randint(1, 12)])
      passages.append(Passage(f"id-{len(passages)}", title, text))
  return passages[:count]


def write_jsonl(path: Path, passages: Sequence[Passage]) -> Path:
  path.write_text(
    "".join(
      json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n"
      for p in passages
    )
  )
  return path


def contents(directory: Path) -> dict[str, bytes]:
  files = (p for p in directory.rglob("*") if p.is_file())
  return {str(p.relative_to(directory)): p.read_bytes() for p in files}


def ragged(values: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
  return [values[a:b].tolist() for a, b in pairwise(offsets)]


def test_every_column_equals_the_source(tmp_path, tokenizer):
  passages = make_passages(300)
  done: list[int] = []
  manifest = build_corpus(
    write_jsonl(tmp_path / "p.jsonl", passages),
    tmp_path / "c",
    tokenizer,
    part_rows=64,
    progress=lambda n, total: done.append(n),
  )
  corpus = Corpus(tmp_path / "c")
  assert len(corpus) == manifest["count"] == 300
  assert done == [64, 128, 192, 256, 300]
  assert ragged(corpus.text_tokens, corpus.text_offsets) == [
    tokenizer.encode(p.text) for p in passages
  ]
  assert ragged(corpus.title_tokens, corpus.title_offsets) == [
    tokenizer.encode(p.title) for p in passages
  ]
  for row, passage in enumerate(passages):
    assert corpus.id(row) == passage.id
    assert corpus.title(row) == passage.title
    assert corpus.text(row) == passage.text
    assert corpus.row_of(passage.id) == row
  assert corpus.text_tokens.dtype == np.uint16
  assert not np.asarray(corpus.text_tokens).flags.writeable
  assert manifest["tokens"] == len(corpus.text_tokens) + len(
    corpus.title_tokens
  )
  assert not (tmp_path / "c.tmp").exists()
  corpus.verify()


def plain_sentence_starts(passages: list[Passage], tokenizer) -> list[int]:
  starts, position, previous = [], 0, None
  for p in passages:
    parts = split_sentences(p.text)
    for i, part in enumerate(parts):
      inner = i > 0 or previous is None or previous.title != p.title
      if inner or ends_sentence(previous.text):
        starts.append(position)
      position += len(tokenizer.encode(part))
    previous = p
  return starts


@pytest.mark.parametrize("part_rows", [30, 1000])
def test_sentences_and_articles(tmp_path, tokenizer, part_rows):
  passages = make_passages(120)
  build_corpus(passages, tmp_path / "c", tokenizer, part_rows=part_rows)
  corpus = Corpus(tmp_path / "c")
  assert np.asarray(corpus.sentence_starts).tolist() == plain_sentence_starts(
    passages, tokenizer
  )
  titles = [p.title for p in passages]
  assert np.asarray(corpus.article_starts).tolist() == [
    i for i in range(120) if i == 0 or titles[i] != titles[i - 1]
  ]
  firsts = corpus.text_offsets[np.asarray(corpus.article_starts)]
  assert set(firsts.tolist()) <= set(
    np.asarray(corpus.sentence_starts).tolist()
  )


def test_a_sentence_runs_over_the_border_of_rows(tmp_path, tokenizer):
  passages = [
    Passage("0", "a", "He ran. It was"),
    Passage("1", "a", "so late. She sat.)"),
    Passage("2", "a", "We go"),
    Passage("3", "b", "on."),
  ]
  build_corpus(passages, tmp_path / "c", tokenizer)
  corpus = Corpus(tmp_path / "c")
  bounds = [
    *np.asarray(corpus.sentence_starts).tolist(),
    len(corpus.text_tokens),
  ]
  sentences = [
    tokenizer.decode(corpus.text_tokens[a:b].tolist())
    for a, b in pairwise(bounds)
  ]
  assert [s.replace(" ", "") for s in sentences] == [
    "heran.",
    "itwassolate.",
    "shesat.)",
    "wego",
    "on.",
  ]


def test_sentence_parts_tokenise_like_the_whole(shared_data):
  bert = load_tokenizer(shared_data / "tokenizers" / "bert-uncased")
  paragraphs = read_passages(shared_data / "squad_dev" / "paragraphs.jsonl.gz")
  texts = [p.text for p in paragraphs][::3]
  rng = random.Random(0)
  alphabet = [
    *" .!?\"'()[]\n\t\r\u00a0\u200b\u2026\u201c\u201d\u3002\u4e2d\u0301\u2028",
    *("J. ", "Mr. ", "e.g. ", "[1]", "Word", "É", "\x1c", "Ünd", "X.\u00a0"),
  ]
  texts += ["".join(rng.choices(alphabet, k=30)) for _ in range(3000)]
  parts = [split_sentences(text) for text in texts]
  assert ["".join(p) for p in parts] == texts
  wholes = bert.encode_batch(texts)
  pieces = iter(bert.encode_batch([x for p in parts for x in p]))
  for text, p, whole in zip(texts, parts, wholes, strict=True):
    assert [i for _ in p for i in next(pieces)] == whole, text
  assert sum(map(len, parts[:500])) > 1500


@pytest.mark.parametrize(
  "parts",
  [
    ["He ran. ", "She sat."],
    ["She sat.) ", "No."],
    ['He said "go." ', "Then left.\u201d ", "So."],
    ["Mr. Fox and J. S. Bach ate at 3.5 p.m. there."],
    ["By J\u00a0. S. Bach. ", "It is."],
    ["One.\u00a0Two."],
    ["..."],
    [" "],
  ],
)
def test_where_sentences_start(parts):
  assert split_sentences("".join(parts)) == parts


@pytest.mark.parametrize(
  "text, ends",
  [
    ("Yes.", True),
    ("Yes!” ", True),
    ('Yes?")', True),
    ("etc…", True),
    ("Yes", False),
    ("Yes,", False),
    ("3.5", False),
    ("", False),
  ],
)
def test_final_punctuation(text, ends):
  assert ends_sentence(text) == ends


def plain_inputs(tokenizer, title, text, length) -> list[int]:
  ids = [tokenizer.cls_id]
  if title is not None:
    ids += [*tokenizer.encode(title), tokenizer.sep_id]
  ids += [*tokenizer.encode(text), tokenizer.sep_id]
  if len(ids) > length:
    ids = [*ids[: length - 1], tokenizer.sep_id]
  return ids


@pytest.mark.parametrize("title", [True, False])
def test_inputs_equal_plain_packing(tmp_path, tokenizer, monkeypatch, title):
  monkeypatch.setattr(packing, "_BLOCK_ROWS", 16)
  passages = make_passages(60)
  passages.append(Passage("long", "t" * 40, "x" * 40))
  build_corpus(passages, tmp_path / "c", tokenizer)
  corpus = Corpus(tmp_path / "c")
  rows = np.random.default_rng(0).integers(0, 61, 100)
  rows[:2] = 60
  for length in (2, 3, 4, 9, 20, 41, 42, 43, 44, 82, 83, 84, 200):
    ids, lengths = corpus.passage_inputs(rows, length, title=title)
    assert ids.shape == (100, length)
    assert ids.dtype == lengths.dtype == np.int32
    for i, row in enumerate(rows):
      p = passages[row]
      head = p.title if title else None
      expected = plain_inputs(tokenizer, head, p.text, length)
      padding = [tokenizer.pad_id] * (length - len(expected))
      assert ids[i].tolist() == expected + padding
      assert lengths[i] == len(expected)
    packed = corpus.packed_lengths(length, title=title)
    assert packed.dtype == np.int32
    assert np.array_equal(packed[rows], lengths)


def test_inputs_of_no_rows_and_wrong_rows(tmp_path, tokenizer):
  build_corpus(make_passages(5), tmp_path / "c", tokenizer)
  corpus = Corpus(tmp_path / "c")
  ids, lengths = corpus.passage_inputs(np.zeros(0, np.int64), 8)
  assert ids.shape == (0, 8)
  assert lengths.shape == (0,)
  for row in (-1, 5):
    with pytest.raises(IndexError, match="corpus of 5 passages"):
      corpus.passage_inputs(np.array([0, row]), 8)
    with pytest.raises(IndexError, match=f"row {row} of a corpus of 5"):
      corpus.text(row)
  with pytest.raises(ValueError, match="length 1 leaves no room"):
    corpus.passage_inputs(np.array([0]), 1)
  with pytest.raises(KeyError, match="no passage 'id-5' in"):
    corpus.row_of("id-5")


def test_an_id_of_dpr_is_found_without_its_prefix(tmp_path, tokenizer):
  names = ["7", "wiki:8", "8", "wiki:9"]
  passages = [Passage(name, "t", "words") for name in names]
  build_corpus(passages, tmp_path / "c", tokenizer)
  corpus = Corpus(tmp_path / "c")
  assert [corpus.row_of(name) for name in names] == [0, 1, 2, 3]
  assert corpus.row_of("wiki:7") == 0
  for name in ("9", "wiki:wiki:7", "WIKI:7", "wiki:"):
    with pytest.raises(KeyError, match=f"no passage '{name}' in"):
      corpus.row_of(name)


def test_pack_questions(tokenizer):
  lists = [[10, 11, 12], [], [20], list(range(5, 30))]
  ids, lengths = pack_questions(lists, 5, tokenizer)
  assert ids.tolist() == [
    [2, 10, 11, 12, 3],
    [2, 3, 0, 0, 0],
    [2, 20, 3, 0, 0],
    [2, 5, 6, 7, 3],
  ]
  assert lengths.tolist() == [5, 2, 3, 5]
  assert ids.dtype == lengths.dtype == np.int32
  ids, lengths = pack_questions([], 5, tokenizer)
  assert ids.shape == (0, 5)


def test_large_vocabulary_needs_32_bits(tmp_path):
  rare = [f"w{i}" for i in range(2**16 + 10 - len(PIECES))]
  big = Tokenizer({t: i for i, t in enumerate([*PIECES, *rare])})
  build_corpus([Passage("1", "a", f"to {rare[-1]}")], tmp_path / "c", big)
  corpus = Corpus(tmp_path / "c")
  assert corpus.text_tokens.dtype == np.uint32
  assert corpus.text_tokens[-1] == 2**16 + 9


def test_fingerprint_is_of_the_content_alone(tmp_path, tokenizer):
  passages = make_passages(40)
  file = write_jsonl(tmp_path / "p.jsonl", passages)
  other = make_tokenizer(max_word=3)
  moved = [*passages[:-1], Passage("id-39", passages[-1].title + "x", "y")]
  prints = [
    build_corpus(file, tmp_path / "a", tokenizer)["fingerprint"],
    build_corpus(passages, tmp_path / "b", tokenizer)["fingerprint"],
    build_corpus(iter(passages), tmp_path / "d", other)["fingerprint"],
    build_corpus(moved, tmp_path / "e", tokenizer)["fingerprint"],
  ]
  assert prints[0] == prints[1] == prints[2] != prints[3]


def test_several_files_in_order(tmp_path, tokenizer):
  passages = make_passages(30)
  first = write_jsonl(tmp_path / "a.jsonl", passages[:10])
  second = tmp_path / "b.gz"
  write_jsonl(tmp_path / "b", passages[10:])
  second.write_bytes(gzip.compress((tmp_path / "b").read_bytes()))
  manifest = build_corpus([first, str(second)], tmp_path / "c", tokenizer)
  corpus = Corpus(tmp_path / "c")
  assert [corpus.id(i) for i in range(30)] == [p.id for p in passages]
  assert [s["name"] for s in manifest["sources"]] == ["a.jsonl", "b.gz"]
  assert manifest["sources"][1]["size"] == second.stat().st_size


class Interrupted(Exception):
  """Stands for whatever ends a process."""


def interrupt_at(rows: int):
  def progress(done: int, total: int) -> None:
    if done >= rows:
      raise Interrupted

  return progress


@pytest.fixture
def tokenised(monkeypatch) -> list[str]:
  """Texts that were tokenised."""
  texts: list[str] = []
  plain = TokenisePassages.__call__

  def noted(self, arrays):
    texts.extend(unpack_texts(arrays["texts"], arrays["texts_lengths"]))
    return plain(self, arrays)

  monkeypatch.setattr(TokenisePassages, "__call__", noted)
  return texts


@pytest.mark.parametrize("stop", [32, 150, 290, 300])
def test_interrupted_build_goes_on_to_the_same_bytes(
  tmp_path, tokenizer, stop, tokenised
):
  passages = make_passages(300)
  file = write_jsonl(tmp_path / "p.jsonl", passages)
  build_corpus(file, tmp_path / "whole", tokenizer, part_rows=500)
  out = tmp_path / "c"
  with pytest.raises(Interrupted):
    build_corpus(
      file, out, tokenizer, part_rows=32, progress=interrupt_at(stop)
    )
  assert not out.exists()
  tokenised.clear()
  build_corpus(file, out, tokenizer, part_rows=32)
  kept = min(-(-stop // 32) * 32, 300)
  assert tokenised == [p.text for p in passages[kept:]]
  assert contents(out) == contents(tmp_path / "whole")
  assert not (tmp_path / "c.tmp").exists()


# Builds argv[1] as argv[2] with the tokenizer argv[3].
BUILD = """
import sys
from odqa_jax.data.corpus.corpus import build_corpus
from odqa_jax.data.parts.run import Runner
from odqa_jax.text.tokenizer import load_tokenizer
if __name__ == "__main__":
  tokenizer = load_tokenizer(sys.argv[3])
  print("ready", flush=True)
  build_corpus(
    sys.argv[1], sys.argv[2], tokenizer, part_rows=32, runner=Runner(2)
  )
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_instant_it_goes_on_to_the_same_bytes(
  tmp_path, tokenizer, seed
):
  """A few times in a row, wherever that is; then undisturbed."""
  rng = random.Random(seed)
  file = write_jsonl(tmp_path / "p.jsonl", make_passages(3000))
  tokenizer.save(tmp_path / "t")
  (tmp_path / "build.py").write_text(BUILD)
  arguments = [str(file), str(tmp_path / "c"), str(tmp_path / "t")]
  build_corpus(file, tmp_path / "whole", tokenizer, part_rows=500)
  root = str(Path(__file__).parents[3])
  for _ in range(3):
    with subprocess.Popen(
      [sys.executable, str(tmp_path / "build.py"), *arguments],
      env=os.environ | {"PYTHONPATH": root},
      stdout=subprocess.PIPE,
    ) as process:
      process.stdout.readline()
      parts = rng.randint(0, 95)
      while process.poll() is None:
        if len([*tmp_path.glob("c.tmp/part-*.npz")]) >= parts:
          process.kill()
        time.sleep(0.001)
  build_corpus(file, tmp_path / "c", tokenizer, part_rows=32)
  assert contents(tmp_path / "c") == contents(tmp_path / "whole")
  names = {"p.jsonl", "t", "build.py", "c", "whole"}
  # The lock of a dead process is free.
  assert {p.name for p in tmp_path.iterdir()} - {"c.lock"} == names


def test_what_a_build_killed_at_its_end_left_is_removed(tmp_path, tokenizer):
  passages = make_passages(50)
  build_corpus(passages, tmp_path / "c", tokenizer)
  whole = contents(tmp_path / "c")
  for name in ("part-00000.npz", "lines.scratch", "identity.json", "x.tmp"):
    (tmp_path / "c" / name).write_bytes(b"")
  build_corpus(passages, tmp_path / "c", tokenizer)
  assert contents(tmp_path / "c") == whole


@pytest.mark.parametrize("runner", [Runner(2), Runner(beam=())], ids=str)
def test_every_runner_and_part_size_gives_the_same_bytes(
  tmp_path, tokenizer, runner
):
  if runner.beam is not None:
    pytest.importorskip("apache_beam")
  file = write_jsonl(tmp_path / "p.jsonl", make_passages(300))
  build_corpus(file, tmp_path / "whole", tokenizer)
  build_corpus(file, tmp_path / "c", tokenizer, part_rows=70, runner=runner)
  assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_parts_before_a_bad_line_are_used_once_it_is_mended(
  tmp_path, tokenizer, tokenised
):
  passages = make_passages(100)
  file, out = write_jsonl(tmp_path / "p.jsonl", passages), tmp_path / "c"
  whole = file.read_text()
  file.write_text(whole[:-10])
  with pytest.raises(ValueError, match="jsonl:100: broken JSON"):
    build_corpus(file, out, tokenizer, part_rows=30)
  file.write_text(whole)
  tokenised.clear()
  build_corpus(file, out, tokenizer, part_rows=30)
  assert tokenised == [p.text for p in passages[90:]]
  build_corpus(file, tmp_path / "whole", tokenizer)
  assert contents(out) == contents(tmp_path / "whole")


def test_long_texts_end_a_part(tmp_path, tokenizer, monkeypatch):
  monkeypatch.setattr(corpus_build, "_PART_CHARACTERS", 100)
  passages = make_passages(100)
  done: list[int] = []
  build_corpus(
    passages, tmp_path / "c", tokenizer, progress=lambda n, _: done.append(n)
  )
  assert len(done) > 20 and done[-1] == 100
  monkeypatch.undo()
  build_corpus(passages, tmp_path / "whole", tokenizer)
  assert contents(tmp_path / "c") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["text", "tokenizer", "files"])
def test_interrupted_build_of_something_else_starts_anew(
  tmp_path, tokenizer, change
):
  passages = make_passages(100)
  file = write_jsonl(tmp_path / "p.jsonl", passages)
  out = tmp_path / "c"
  with pytest.raises(Interrupted):
    build_corpus(file, out, tokenizer, part_rows=20, progress=interrupt_at(80))
  if change == "text":
    passages[3] = Passage("id-3", passages[3].title, "Something else.")
    write_jsonl(file, passages)
  if change == "tokenizer":
    tokenizer = make_tokenizer(max_word=3)
  if change == "files":
    (tmp_path / "c.tmp" / "part-00001.npz").write_bytes(b"")
  build_corpus(file, out, tokenizer, part_rows=20)
  build_corpus(file, tmp_path / "whole", tokenizer)
  assert contents(out) == contents(tmp_path / "whole")


def test_second_build_does_nothing(tmp_path, tokenizer):
  passages = make_passages(50)
  file, out = write_jsonl(tmp_path / "p.jsonl", passages), tmp_path / "c"
  for source in (file, passages):
    first = build_corpus(source, out, tokenizer)
    stamps = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    tokenizer.texts = 0
    assert build_corpus(source, out, tokenizer) == first
    os.utime(file)
    assert build_corpus(source, out, tokenizer) == first
    assert tokenizer.texts == 0
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == stamps


@pytest.mark.parametrize("change", ["text", "tokenizer", "damage", "memory"])
def test_changed_input_is_built_anew(tmp_path, tokenizer, change):
  passages = make_passages(50)
  file, out = write_jsonl(tmp_path / "p.jsonl", passages), tmp_path / "c"
  source = passages if change == "memory" else file
  old = build_corpus(source, out, tokenizer)
  if change in ("text", "memory"):
    passages[7] = Passage("id-7", passages[7].title, passages[7].text[::-1])
    stamp = file.stat().st_mtime_ns
    write_jsonl(file, passages)
    os.utime(file, ns=(stamp, stamp))
  if change == "tokenizer":
    tokenizer = make_tokenizer(max_word=3)
  if change == "damage":
    (out / "titles.bin").write_bytes(b"")
  new = build_corpus(source, out, tokenizer)
  assert (new == old) == (change == "damage")
  Corpus(out).verify()
  assert Corpus(out).text(7) == passages[7].text
  assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "p.jsonl"]


def test_a_foreign_directory_is_left_alone(tmp_path, tokenizer):
  (tmp_path / "c").mkdir()
  build_corpus(make_passages(3), tmp_path / "c", tokenizer)
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("text")
  for manifest in (None, "{", '{"kind": "index"}'):
    if manifest:
      (tmp_path / "mine" / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match="mine: exists and is no corpus"):
      build_corpus(make_passages(3), tmp_path / "mine", tokenizer)
  assert (tmp_path / "mine" / "thesis.txt").read_text() == "text"


LINE = '{"id": "%s", "title": "t", "text": "%s"}\n'
TSV = "id\ttext\ttitle\n"


@pytest.mark.parametrize(
  "files, message",
  [
    ([LINE % ("a", "x") * 2], r"0:2: the id 'a' stands already at .*0:1;"),
    (
      [LINE % ("a", "x"), TSV + 'b\t"x\ny"\tt\na\tx\tt\n'],
      r"1:4: the id 'a' stands already at .*0:1;",
    ),
    ([LINE % ("a", "x") + "{\n"], "0:2: broken JSON"),
    ([LINE % ("a", "x"), TSV + "b\tx\n"], "1:2: 2 columns"),
    ([LINE % ("a", "x") + LINE % ("b", "\x7f")], "0:2: no character"),
    ([TSV], "0: no passage"),
    ([""], "0: the file is empty"),
  ],
)
@pytest.mark.parametrize("rebuild", [False, True])
def test_bad_input_leaves_nothing(tmp_path, tokenizer, files, message, rebuild):
  paths = [tmp_path / f"{i}" for i in range(len(files))]
  for path, content in zip(paths, files, strict=True):
    path.write_text(content)
  out = tmp_path / "c"
  if rebuild:
    build_corpus(make_passages(5), out, tokenizer)
  before = contents(out) if rebuild else None
  with pytest.raises(ValueError, match=message):
    build_corpus(paths, out, tokenizer)
  assert not (tmp_path / "c.tmp").exists()
  assert (contents(out) if out.exists() else None) == before


def test_missing_and_empty_sources(tmp_path, tokenizer):
  for sources, message in (
    ([tmp_path / "none"], "none: no such file"),
    ([], "passages: no passage"),
    ([Passage("a", "t", "x"), Passage("a", "t", "y")], "passages:2: the id"),
    ([Passage("a", "t", "x\ud800")], "passages:1: .*lone surrogate"),
  ):
    with pytest.raises(ValueError, match=message):
      build_corpus(sources, tmp_path / "c", tokenizer)
  assert list(tmp_path.iterdir()) == []


def test_equal_hashes_of_different_ids(tmp_path, tokenizer, monkeypatch):
  def two_bits(passage_id: str) -> int:
    return len(passage_id) % 2

  for module in (tokenise, corpus_module):
    monkeypatch.setattr(module, "hash_id", two_bits)
  passages = make_passages(50)
  build_corpus(passages, tmp_path / "c", tokenizer)
  corpus = Corpus(tmp_path / "c")
  assert [corpus.row_of(p.id) for p in passages] == list(range(50))
  with pytest.raises(KeyError):
    corpus.row_of("id-50")
  passages[41] = passages[23]
  with pytest.raises(ValueError, match=r"passages:42: .*'id-23'.*passages:24;"):
    build_corpus(passages, tmp_path / "d", tokenizer)


def test_titles_may_all_be_empty(tmp_path, tokenizer):
  build_corpus([Passage("1", "", "so")], tmp_path / "c", tokenizer)
  corpus = Corpus(tmp_path / "c")
  assert corpus.title(0) == ""
  ids, lengths = corpus.passage_inputs(np.array([0]), 6)
  assert ids[0, :2].tolist() == [tokenizer.cls_id, tokenizer.sep_id]
  assert lengths.tolist() == [5]


@pytest.mark.parametrize(
  "name, damage, message",
  [
    ("texts.bin", "cut", r"texts.bin: \d+ bytes, and the manifest says"),
    ("text_tokens.npy", "cut", r"text_tokens.npy: \d+ bytes"),
    ("sentence_starts.npy", "remove", "sentence_starts.npy: missing"),
    ("id_rows.npy", "zero", "id_rows.npy: bytes 0 to"),
    ("manifest.json", "cut", "manifest.json: not JSON"),
    (
      "manifest.json",
      "remove",
      r"c holds no corpus \(manifest.json\); ",
    ),
  ],
)
def test_damage_is_named_on_opening(tmp_path, tokenizer, name, damage, message):
  build_corpus(make_passages(20), tmp_path / "c", tokenizer)
  path = tmp_path / "c" / name
  content = path.read_bytes()
  path.unlink()
  if damage == "cut":
    path.write_bytes(content[:-3])
  if damage == "zero":
    path.write_bytes(bytes(len(content)))
  with pytest.raises(ValueError, match=message):
    Corpus(tmp_path / "c")


def test_another_kind_or_format_is_refused(tmp_path, tokenizer):
  build_corpus(make_passages(20), tmp_path / "c", tokenizer)
  manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
  for change in ({"format": 1}, {"kind": "index"}):
    write_manifest(tmp_path / "c", manifest | change)
    with pytest.raises(ValueError, match=r"manifest.json: kind .* of format"):
      Corpus(tmp_path / "c")


def flip(path: Path, at: int) -> None:
  content = bytearray(path.read_bytes())
  content[at] ^= 1
  path.write_bytes(content)


def test_a_flipped_bit_is_found_when_its_block_is_used(
  tmp_path, tokenizer, monkeypatch
):
  monkeypatch.setattr(blocks, "BLOCK_BYTES", 256)
  monkeypatch.setattr(blocks, "AT_ONCE", 1)
  passages = make_passages(100)
  build_corpus(passages, tmp_path / "c", tokenizer)
  sound = Corpus(tmp_path / "c").passage_inputs(np.arange(100), 90)
  flip(tmp_path / "c" / "text_tokens.npy", -2)
  flip(tmp_path / "c" / "texts.bin", -1)
  corpus = Corpus(tmp_path / "c")
  ids, _ = corpus.passage_inputs(np.arange(60), 90)
  np.testing.assert_array_equal(ids, sound[0][:60])
  assert corpus.text(0) == passages[0].text
  with pytest.raises(ValueError, match=r"text_tokens.npy: bytes \d+ to"):
    corpus.passage_inputs(np.arange(100), 90)
  with pytest.raises(ValueError, match=r"texts.bin: bytes \d+ to"):
    corpus.text(99)
  with pytest.raises(ValueError, match=r"npy: bytes|bin: bytes"):
    corpus.verify()


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 1000])
def test_hashes_are_sorted_in_parts(count):
  rng = np.random.default_rng(count)
  hashes = rng.integers(0, 2**64, count, np.uint64)
  hashes[:2] = 2**64 - 1
  hashes[2:4] = 0
  hashes = np.concatenate([hashes, hashes[: count // 3]])
  found = list(sorted_hashes(hashes, 100))
  order = np.argsort(hashes, kind="stable")
  values = [v for pair in found for v in pair[0].tolist()]
  assert values == hashes[order].tolist()
  assert [r for pair in found for r in pair[1].tolist()] == order.tolist()
  for (a, _), (b, _) in pairwise(found):
    assert not set(a.tolist()) & set(b.tolist())
