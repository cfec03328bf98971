"""BM25 against its formula, and what is mined with it."""

import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.data.formats.files import read_questions
from odqa_jax.data.mining.bm25 import Bm25
from odqa_jax.data.mining.mine import mine_pairs
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.prepare import prepare
from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions
from odqa_jax.text.tokenizer import train_wordpiece

TEXTS = [
  ("Ulm", "Einstein was born in the city of Ulm."),
  ("Bern", "Einstein worked at a patent office in Bern."),
  ("Princeton", "Einstein died in Princeton, far from the place of birth."),
  ("Rivers", "The Danube flows through Ulm and Vienna."),
  ("Cooking", "Boil the potatoes until they are soft."),
  ("Cooking", "Boil the potatoes until they are soft."),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
  folder = tmp_path_factory.mktemp("mining") / "corpus"
  tokenizer = train_wordpiece([text for _, text in TEXTS], 200)
  passages = [Passage(f"p{i}", *pair) for i, pair in enumerate(TEXTS)]
  build_corpus(passages, folder, tokenizer)
  return Corpus(folder)


@pytest.fixture(scope="module")
def bm25(corpus: Corpus) -> Bm25:
  return Bm25.build(corpus)


class Fake:
  """Gives BM25 out, and counts how often it is asked for it and searched."""

  def __init__(self, bm25: Bm25) -> None:
    self._bm25, self.built, self.searched = bm25, 0, 0

  def __call__(self) -> "Fake":
    self.built += 1
    return self

  def search(self, questions: Sequence[str], k: int) -> tuple[Any, Any]:
    self.searched += len(questions)
    return self._bm25.search(questions, k)


@pytest.fixture
def counting(bm25: Bm25) -> Fake:
  return Fake(bm25)


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., QuestionSet]:
  def store(*questions: Question) -> QuestionSet:
    write_questions(questions, tmp_path / "set", "asked")
    return QuestionSet(tmp_path / "set")

  return store


def _mined(pairs: Pairs) -> list[tuple[int, list[int], list[int]]]:
  return [
    (int(n), pairs.positive(i).tolist(), pairs.negatives(i).tolist())
    for i, n in enumerate(pairs.question)
  ]


def test_scores_are_the_bm25_formula_on_title_and_text(bm25: Bm25) -> None:
  rows, scores = bm25.search(["Which river? The Danube."], 6)
  # "Rivers" stems to the question's "river", and stands in the title only.
  assert rows[0, 0] == 3
  assert scores[0, 1] == 0.0
  # Lengths of title and text in words, stop words left out.
  length, mean = 6, (5 + 6 + 8 + 6 + 5 + 5) / 6
  idf = math.log(1 + (6 - 1 + 0.5) / (1 + 0.5))
  weight = 1 / (1 + 0.9 * (1 - 0.4 + 0.4 * length / mean))
  assert scores[0, 0] == pytest.approx(2 * idf * weight, rel=1e-5)


def test_equal_scores_come_in_row_order(bm25: Bm25) -> None:
  rows, scores = bm25.search(["soft potatoes", "potatoes to boil"], 4)
  assert rows.tolist() == [[4, 5, 0, 1], [4, 5, 0, 1]]
  assert (scores[:, 0] == scores[:, 1]).all()


@pytest.mark.parametrize("question", ["the of and", "xylophone", "?", "a"])
def test_a_question_without_known_words_finds_nothing(
  bm25: Bm25, question: str
) -> None:
  rows, scores = bm25.search([question, "Danube"], 2)
  assert rows[0].tolist() == [0, 1]
  assert scores[0].tolist() == [0.0, 0.0]
  assert rows[1, 0] == 3


def test_k_beyond_the_corpus_is_refused(bm25: Bm25) -> None:
  with pytest.raises(ValueError, match="k=7: the corpus has 6 passages; ask"):
    bm25.search(["Ulm"], 7)


def test_a_missing_library_is_named_with_its_extra(
  corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setitem(sys.modules, "bm25s", None)
  with pytest.raises(ImportError, match=r"odqa_jax\[bm25\]"):
    Bm25.build(corpus)


def test_distant_supervision_takes_the_best_passage_with_an_answer(
  corpus: Corpus, bm25: Bm25, stored: Callable[..., QuestionSet]
) -> None:
  asked = stored(Question("a", "In which city was Einstein born?", ("Ulm",)))
  pairs = mine_pairs(asked, corpus, lambda: bm25, negatives=8)
  # Of the passages with a word of the question, row 3 has none and rows 1 and
  # 2 no answer; rows 4 and 5 have neither words nor answer: not hard.
  ((number, positives, negatives),) = _mined(pairs)
  assert (number, positives) == (0, [0])
  assert sorted(negatives) == [1, 2]
  assert pairs.manifest["distant_positives"] == 1


def test_gold_passages_come_before_distant_supervision(
  corpus: Corpus, bm25: Bm25, stored: Callable[..., QuestionSet]
) -> None:
  asked = stored(
    Question(
      "a", "Where was Einstein born?", ("Ulm",), positive_ids=("p3", "p1")
    )
  )
  pairs = mine_pairs(asked, corpus, lambda: bm25)
  # Row 0 holds the answer, so it is no negative although it is not gold.
  assert _mined(pairs) == [(0, [3, 1], [2])]
  assert pairs.manifest["distant_positives"] == 0


def test_named_negatives_are_all_kept_and_never_positives(
  corpus: Corpus, bm25: Bm25, stored: Callable[..., QuestionSet]
) -> None:
  asked = stored(
    Question(
      "a",
      "Where was Einstein born?",
      ("Ulm",),
      positive_ids=("p0",),
      negative_ids=("p5", "p0", "p2", "p5"),
    )
  )
  # All that are named, however few are to be mined, and no others.
  for negatives in (8, 1, 0):
    pairs = mine_pairs(asked, corpus, lambda: bm25, negatives=negatives)
    assert _mined(pairs) == [(0, [0], [5, 2])]


def test_bm25_is_built_only_for_what_a_file_does_not_name(
  corpus: Corpus, counting: Fake, stored: Callable[..., QuestionSet]
) -> None:
  whole = [
    Question(
      f"w{i}", "Einstein", ("Ulm",), positive_ids=("p0",), negative_ids=("p1",)
    )
    for i in range(3)
  ]
  pairs = mine_pairs(stored(*whole), corpus, counting)
  assert counting.built == 0
  assert _mined(pairs) == [(i, [0], [1]) for i in range(3)]
  unpaired = Question("n", "Einstein", ("Ulm",), positive_ids=("p0",))
  unmined = mine_pairs(stored(*whole, unpaired), corpus, counting, negatives=0)
  assert counting.built == 0
  assert _mined(unmined)[3] == (3, [0], [])
  mined = mine_pairs(stored(*whole, unpaired), corpus, counting)
  assert (counting.built, counting.searched) == (1, 1), "that question alone"
  assert sorted(_mined(mined)[3][2]) == [1, 2]
  lost = Question("l", "Danube", ("Vienna",), negative_ids=("p4", "p3"))
  found = mine_pairs(stored(*whole, lost), corpus, counting, negatives=0)
  assert counting.built == 2
  assert _mined(found)[3] == (3, [3], [4]), "a positive is no negative"


def test_a_dpr_file_needs_no_bm25_and_keeps_all_its_negatives(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  contexts = [
    {"passage_id": str(i), "title": "t", "text": f"words {i}"}
    for i in range(13)
  ]
  record = {
    "question": "who?",
    "answers": ["she"],
    "positive_ctxs": contexts[:1],
    "hard_negative_ctxs": contexts[1:],
  }
  path = tmp_path / "dpr.json"
  path.write_text(json.dumps([record]))
  monkeypatch.setattr(Bm25, "build", lambda corpus: pytest.fail("BM25 built"))
  figures = prepare(
    corpus=[str(path)],
    questions=[str(path)],
    out=tmp_path / "data",
    vocabulary_size=60,
    pairs=["dpr"],
  )
  assert (figures["passages"], figures["pairs"]) == (13, {"dpr": 1})
  pairs = Pairs.open(tmp_path / "data" / "pairs" / "dpr")
  assert _mined(pairs) == [(0, [0], list(range(1, 13)))]


def test_without_answers_every_other_passage_found_is_a_negative(
  corpus: Corpus, bm25: Bm25, stored: Callable[..., QuestionSet]
) -> None:
  asked = stored(Question("a", "Einstein in Ulm", (), positive_ids=("p0",)))
  ((_, positives, negatives),) = _mined(mine_pairs(asked, corpus, lambda: bm25))
  assert positives == [0]
  assert sorted(negatives) == [1, 2, 3]


def test_only_depth_passages_are_looked_at(
  corpus: Corpus, bm25: Bm25, stored: Callable[..., QuestionSet]
) -> None:
  asked = stored(
    Question("a", "Einstein Ulm Danube Vienna", ("patent office",)),
    Question("b", "Danube", ("Vienna",)),
  )
  assert len(mine_pairs(asked, corpus, lambda: bm25, depth=6)) == 2
  assert _mined(mine_pairs(asked, corpus, lambda: bm25, depth=1)) == [
    (1, [3], [])
  ]


def test_questions_without_a_positive_are_counted_and_named(
  corpus: Corpus, bm25: Bm25, stored: Callable[..., QuestionSet]
) -> None:
  lost = [Question(f"lost{i}", f"Danube {i}", ("Rome",)) for i in range(7)]
  pattern = Question("r", "potatoes", (r"until\s+THEY",), "regex")
  asked = stored(*lost[:4], pattern, *lost[4:])
  calls: list[tuple[int, int]] = []
  pairs = mine_pairs(
    asked,
    corpus,
    lambda: bm25,
    progress=lambda done, of: calls.append((done, of)),
  )
  assert _mined(pairs) == [(4, [4], [])]
  assert pairs.manifest["distant_positives"] == 1
  assert pairs.manifest["without_positive"] == 7
  assert pairs.manifest["examples_without_positive"] == [
    f"lost{i}" for i in range(5)
  ]
  assert calls == [(8, 8)]
  with pytest.raises(ValueError, match=r"no question of 2 has .*'lost0'"):
    mine_pairs(stored(*lost[:2]), corpus, lambda: bm25)


@pytest.mark.parametrize("field", ["positive_ids", "negative_ids"])
def test_an_unknown_passage_is_named_with_its_question(
  corpus: Corpus,
  bm25: Bm25,
  stored: Callable[..., QuestionSet],
  field: str,
) -> None:
  asked = stored(Question("q7", "Ulm", ("Ulm",), **{field: ("p0", "wiki:9")}))
  with pytest.raises(ValueError, match=r"'q7' names .* 'wiki:9'"):
    mine_pairs(asked, corpus, lambda: bm25)


def _pairs(rows: Sequence[int] = (5, 3, 1)) -> Pairs:
  return Pairs(
    np.array([0, 4]),
    np.array(rows),
    np.array([0, 2, 3]),
    np.array([], np.int64),
    np.array([0, 0, 0]),
    {"corpus": "c", "questions": "q", "count": 2},
  )


def test_pairs_come_back_memory_mapped(tmp_path: Path) -> None:
  _pairs([1, 2, 3]).save(tmp_path / "pairs")
  (tmp_path / "pairs" / "old").write_text("of an earlier run")
  _pairs().save(tmp_path / "pairs")
  pairs = Pairs.open(tmp_path / "pairs")
  assert not pairs.positive_rows.flags.writeable
  assert _mined(pairs) == [(0, [5, 3], []), (4, [1], [])]
  assert pairs.manifest["corpus"] == "c"
  assert [p.name for p in tmp_path.iterdir()] == ["pairs"]
  assert not (tmp_path / "pairs" / "old").exists()


def test_damaged_pairs_are_refused_by_name(tmp_path: Path) -> None:
  with pytest.raises(ValueError, match="holds no pairs"):
    Pairs.open(tmp_path)
  _pairs().save(tmp_path / "pairs")

  def damaged(name: str) -> Path:
    folder = tmp_path / name
    shutil.copytree(tmp_path / "pairs", folder)
    return folder

  file = damaged("cut") / "positive_rows.npy"
  file.write_bytes(file.read_bytes()[:-8])
  with pytest.raises(ValueError, match=r"positive_rows\.npy: \d+ bytes, and"):
    Pairs.open(tmp_path / "cut")
  (damaged("gone") / "question.npy").unlink()
  with pytest.raises(ValueError, match=r"question\.npy: missing"):
    Pairs.open(tmp_path / "gone")
  np.save(damaged("other") / "positive_rows.npy", np.array([1, 2, 3]))
  with pytest.raises(ValueError, match=r"positive_rows\.npy: bytes 0 to"):
    Pairs.open(tmp_path / "other")
  manifest = damaged("format") / "manifest.json"
  manifest.write_text(json.dumps({"format": 1, "kind": "pairs"}))
  with pytest.raises(ValueError, match="kind 'pairs' of format 1, and"):
    Pairs.open(tmp_path / "format")


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
  rows, _ = Bm25.build(corpus).search([q.question for q in questions], 20)
  gold = np.array([corpus.row_of(q.positive_ids[0]) for q in questions])
  hits = rows == gold[:, None]
  for k, share in {1: 0.759, 5: 0.913, 20: 0.967}.items():
    assert hits[:, :k].any(axis=1).mean() == pytest.approx(share, abs=0.03)
