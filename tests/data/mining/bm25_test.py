"""BM25 in shards against its formula, and against bm25s on the whole."""

import json
import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from six_passages import TEXTS, make_corpus

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.formats.files import read_questions
from odqa_jax.data.mining import bm25_build
from odqa_jax.data.mining.bm25 import Bm25
from odqa_jax.data.mining.bm25_build import CountWords, bm25_of, build_bm25
from odqa_jax.data.parts.run import Runner, parse_runner
from odqa_jax.main import main
from odqa_jax.runtime import blocks
from odqa_jax.text.wordpiece_training import train_wordpiece


def make_bm25(corpus: Corpus, folder: Path, shard_rows: int = 4) -> Bm25:
  # One process: to start others takes longer than this.
  build_bm25(corpus, folder, shard_rows=shard_rows, runner=Runner())
  return Bm25.open(folder, corpus)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
  return make_corpus(tmp_path_factory.mktemp("six") / "corpus")


@pytest.fixture(scope="module")
def bm25(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Bm25:
  return make_bm25(corpus, tmp_path_factory.mktemp("six") / "bm25")


def test_scores_are_the_bm25_formula_on_title_and_text(bm25: Bm25) -> None:
  rows, scores = bm25.search(["Which river? The Danube."], 6)
  # "Rivers" stems to the question's "river", and stands in the title only.
  assert rows[0, 0] == 3
  # Lengths of title and text in words, stop words left out.
  length, mean = 6, (5 + 6 + 8 + 6 + 5 + 5) / 6
  idf = math.log(1 + (6 - 1 + 0.5) / (1 + 0.5))
  weight = 1 / (1 + 0.9 * (1 - 0.4 + 0.4 * length / mean))
  assert scores[0, 0] == pytest.approx(2 * idf * weight, rel=1e-5)


def test_equal_scores_come_in_row_order_and_what_shares_no_word_is_left_out(
  bm25: Bm25,
) -> None:
  rows, scores = bm25.search(["soft potatoes", "potatoes to boil"], 4)
  assert rows.tolist() == [[4, 5, -1, -1], [4, 5, -1, -1]]
  assert (scores[:, 0] == scores[:, 1]).all()
  assert (scores[:, 2:] == 0).all()


@pytest.mark.parametrize("question", ["the of and", "xylophone", "?", "a", ""])
def test_a_question_without_known_words_finds_nothing(
  bm25: Bm25, question: str
) -> None:
  rows, scores = bm25.search([question, "Danube"], 2)
  assert rows[0].tolist() == [-1, -1]
  assert scores[0].tolist() == [0.0, 0.0]
  assert rows[1].tolist() == [3, -1]


def test_k_beyond_the_corpus_is_refused(bm25: Bm25) -> None:
  with pytest.raises(ValueError, match="k=7: the corpus has 6 passages; ask"):
    bm25.search(["Ulm"], 7)


def test_a_missing_library_is_named_with_its_extra(
  corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setitem(sys.modules, "bm25s", None)
  with pytest.raises(ImportError, match=r"odqa_jax\[bm25\]"):
    build_bm25(corpus, tmp_path / "bm25")


def random_texts(n: int) -> list[tuple[str, str]]:
  """Texts of few words, so that many scores are equal; some have none."""
  rng = random.Random(3)
  words = [f"w{i} word{i} Größe{i}" for i in range(12)]
  return [
    (rng.choice(words), " ".join(rng.choices(words, k=rng.randrange(6))) or "?")
    if i % 17
    else ("", "a ?")
    for i in range(n)
  ]


@pytest.mark.parametrize("shard_rows", [1, 7, 60, 1000])
def test_shards_give_the_rows_and_scores_of_one_bm25s_index(
  tmp_path: Path, shard_rows: int
) -> None:
  import bm25s
  import Stemmer

  corpus = make_corpus(tmp_path / "corpus", random_texts(120))
  ours = make_bm25(corpus, tmp_path / "bm25", shard_rows)
  stemmer = Stemmer.Stemmer("english")
  whole = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
  texts = [f"{corpus.title(i)} {corpus.text(i)}" for i in range(len(corpus))]
  whole.index(
    bm25s.tokenize(texts, stemmer=stemmer, show_progress=False),
    show_progress=False,
  )
  rng = random.Random(4)
  questions = [" ".join(rng.choices(texts, k=2))[:40] for _ in range(30)]
  questions += ["w1 w1 w2", "größe3", "the", "w11 unknown"]
  rows, scores = ours.search(questions, 20)
  asked = bm25s.tokenize(
    questions, stemmer=stemmer, return_ids=False, show_progress=False
  )
  for i, words in enumerate(asked):
    # Not its get_scores, which refuses a question without words.
    expected = whole.get_scores_from_ids(whole.get_tokens_ids(words))
    order = np.argsort(-expected, kind="stable")[:20]
    order = order[expected[order] > 0]
    assert rows[i, : len(order)].tolist() == order.tolist()
    assert (scores[i, : len(order)] == expected[order]).all()
    assert (rows[i, len(order) :] == -1).all()


def test_the_index_is_kept_and_made_anew_for_another_corpus(
  corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  folder = tmp_path / "bm25"
  first = build_bm25(corpus, folder)
  with monkeypatch.context() as patch:
    patch.setattr(bm25_build, "make_parts", lambda *a: pytest.fail("again"))
    assert build_bm25(corpus, folder) == first
  other = make_corpus(tmp_path / "corpus", [("t", "one text"), ("u", "two")])
  with pytest.raises(ValueError, match="the BM25 index of another corpus"):
    Bm25.open(folder, other)
  # One beside the corpus that does not fit is left alone.
  with bm25_of(other) as made:
    assert made.search(["text"], 1)[0].tolist() == [[0]]
  assert Bm25.open(folder, corpus)
  assert build_bm25(other, folder)["count"] == 2
  with pytest.raises(ValueError, match="another corpus"):
    Bm25.open(folder, corpus)


def test_the_index_beside_the_corpus_is_searched(
  corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  beside = corpus.directory.with_name("bm25")
  build_bm25(corpus, beside)
  monkeypatch.setattr(bm25_build, "build_bm25", lambda *a: pytest.fail("built"))
  with bm25_of(corpus) as stored:
    assert stored.search(["Danube"], 1)[0].tolist() == [[3]]
  with pytest.raises(ValueError, match="k=9"), bm25_of(corpus) as stored:
    stored.search(["Danube"], 9)


def read_files(folder: Path) -> dict[str, bytes]:
  return {
    p.relative_to(folder).as_posix(): p.read_bytes()
    for p in sorted(folder.rglob("*"))
    if p.is_file()
  }


def test_beam_makes_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
  pytest.importorskip("apache_beam", reason="needs the extra beam")
  build_bm25(corpus, tmp_path / "here", shard_rows=4, runner=Runner())
  build_bm25(
    corpus, tmp_path / "beam", shard_rows=4, runner=parse_runner("beam")
  )
  assert read_files(tmp_path / "beam") == read_files(tmp_path / "here")


def test_an_interrupted_build_goes_on_and_ends_with_the_same_bytes(
  corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  build_bm25(corpus, tmp_path / "whole", shard_rows=2, runner=Runner())
  counted: list[list[int]] = []
  count = CountWords.__call__

  def stop(self: CountWords, arrays: dict[str, np.ndarray]) -> object:
    if len(counted) == 2:
      raise KeyboardInterrupt
    counted.append(arrays["rows"].tolist())
    return count(self, arrays)

  again = {"out": tmp_path / "again", "shard_rows": 2, "runner": Runner()}
  with monkeypatch.context() as patch:
    patch.setattr(CountWords, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
      build_bm25(corpus, **again)
    assert counted == [[0, 2], [2, 4]]
    assert not (tmp_path / "again").exists()
    counted.clear()
    build_bm25(corpus, **again)
  assert counted == [[4, 6]]
  assert read_files(tmp_path / "again") == read_files(tmp_path / "whole")


def test_a_flipped_byte_is_found_when_its_block_is_searched(
  corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  # Files of one block are compared when they are opened.
  monkeypatch.setattr(blocks, "BLOCK_BYTES", 128)
  build_bm25(corpus, tmp_path / "bm25", shard_rows=4, runner=Runner())
  path = tmp_path / "bm25" / "shard-00000" / "data.npy"
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  bm25 = Bm25.open(tmp_path / "bm25", corpus)
  with pytest.raises(ValueError, match=r"shard-00000/data\.npy: bytes 128 to"):
    bm25.search([" ".join(text for _, text in TEXTS)], 1)


def test_a_corpus_without_a_word_is_told_so(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  passages = tmp_path / "p.jsonl"
  passages.write_text('{"id": "1", "title": "", "text": "a ? b the"}\n')
  asked = tmp_path / "q.jsonl"
  asked.write_text('{"question": "a", "answer": ["b"]}\n')
  folder = str(tmp_path / "data")
  args = ["prepare", "--corpus", str(passages), "--out", folder]
  assert main([*args, "--vocabulary-size", "60"]) == 0
  args = ["evaluate", "--bm25", "--questions", str(asked), "--corpus", folder]
  assert main([*args, "--k", "1"]) == 2
  assert "no passage of 1 has a word of two letters" in capsys.readouterr().err


def test_a_question_that_matches_nothing_is_a_miss(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  passages = tmp_path / "p.jsonl"
  passages.write_text(
    '{"id": "1", "title": "", "text": "an instrument of wood"}\n'
    '{"id": "2", "title": "", "text": "The Danube is a river"}\n'
  )
  asked = tmp_path / "q.jsonl"
  asked.write_text(
    '{"question": "xylophone", "answer": ["wood"]}\n'
    '{"question": "danube", "answer": ["river"]}\n'
  )
  folder = str(tmp_path / "data")
  args = ["prepare", "--corpus", str(passages), "--out", folder]
  assert main([*args, "--vocabulary-size", "60"]) == 0
  args = ["evaluate", "--bm25", "--questions", str(asked), "--corpus", folder]
  assert main([*args, "--k", "2"]) == 0
  figures = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert figures["bm25"]["recall"] == {"1": 0.5}


@pytest.mark.slow
def test_bm25_finds_squad_paragraphs_as_often_as_published(
  shared_data: Path, tmp_path: Path
) -> None:
  folder = shared_data / "squad_dev"
  tokenizer = train_wordpiece(["a small vocabulary will do here"], 100)
  build_corpus([folder / "paragraphs.jsonl.gz"], tmp_path / "c", tokenizer)
  corpus = Corpus(tmp_path / "c")
  questions = list(read_questions(folder / "questions.jsonl.gz"))
  assert (len(corpus), len(questions)) == (1507, 7876)
  bm25 = make_bm25(corpus, tmp_path / "bm25", 400)
  rows, _ = bm25.search([q.question for q in questions], 20)
  gold = np.array([corpus.row_of(q.positive_ids[0]) for q in questions])
  hits = rows == gold[:, None]
  for k, share in {1: 0.759, 5: 0.913, 20: 0.967}.items():
    assert hits[:, :k].any(axis=1).mean() == pytest.approx(share, abs=0.03)
