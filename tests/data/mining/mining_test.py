"""What is mined: positives, hard negatives, and the report."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from six_passages import make_corpus

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining import bm25_build
from odqa_jax.data.mining.bm25 import Bm25
from odqa_jax.data.mining.bm25_build import build_bm25
from odqa_jax.data.mining.mine import Search, dropped_line, mine_pairs
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.parts.run import Runner
from odqa_jax.data.prepare import prepare
from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
  return make_corpus(tmp_path_factory.mktemp("mining") / "corpus")


class Counting:
  """A search that counts how often it is called, and for how many texts."""

  def __init__(self, bm25: Bm25) -> None:
    self._bm25, self.calls, self.searched = bm25, 0, 0

  def __call__(self, questions: Sequence[str], k: int) -> np.ndarray:
    self.calls += 1
    self.searched += len(questions)
    return self._bm25.search(questions, k)[0]


@pytest.fixture(scope="module")
def bm25(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Bm25:
  folder = tmp_path_factory.mktemp("bm25") / "bm25"
  build_bm25(corpus, folder, shard_rows=4, runner=Runner())
  return Bm25.open(folder, corpus)


@pytest.fixture
def counting(bm25: Bm25) -> Counting:
  return Counting(bm25)


@pytest.fixture
def searches(counting: Counting) -> dict[str, Search]:
  return {"bm25": counting}


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


def test_distant_supervision_takes_the_best_passage_with_an_answer(
  corpus: Corpus,
  searches: dict[str, Search],
  stored: Callable[..., QuestionSet],
) -> None:
  asked = stored(Question("a", "In which city was Einstein born?", ("Ulm",)))
  pairs = mine_pairs(asked, corpus, searches, negatives=8)
  # Of the passages with a word of the question, row 3 has none and rows 1 and
  # 2 no answer; rows 4 and 5 have neither words nor answer: not hard.
  ((number, positives, negatives),) = _mined(pairs)
  assert (number, positives) == (0, [0])
  assert sorted(negatives) == [1, 2]
  assert pairs.manifest["report"]["positives_mined"] == 1


def test_gold_passages_come_before_distant_supervision(
  corpus: Corpus,
  searches: dict[str, Search],
  stored: Callable[..., QuestionSet],
) -> None:
  asked = stored(
    Question(
      "a", "Where was Einstein born?", ("Ulm",), positive_ids=("p3", "p1")
    )
  )
  pairs = mine_pairs(asked, corpus, searches)
  # Row 0 holds the answer, so it is no negative although it is not gold.
  assert _mined(pairs) == [(0, [3, 1], [2])]
  assert pairs.manifest["report"]["positives_mined"] == 0


def test_named_negatives_are_all_kept_and_never_positives(
  corpus: Corpus,
  searches: dict[str, Search],
  stored: Callable[..., QuestionSet],
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
    pairs = mine_pairs(asked, corpus, searches, negatives=negatives)
    assert _mined(pairs) == [(0, [0], [5, 2])]


def test_only_what_a_file_does_not_name_is_searched_for(
  corpus: Corpus, counting: Counting, stored: Callable[..., QuestionSet]
) -> None:
  searches = {"bm25": counting}
  whole = [
    Question(
      f"w{i}", "Einstein", ("Ulm",), positive_ids=("p0",), negative_ids=("p1",)
    )
    for i in range(3)
  ]
  pairs = mine_pairs(stored(*whole), corpus, searches)
  assert counting.calls == 0
  assert _mined(pairs) == [(i, [0], [1]) for i in range(3)]
  unpaired = Question("n", "Einstein", ("Ulm",), positive_ids=("p0",))
  unmined = mine_pairs(stored(*whole, unpaired), corpus, searches, negatives=0)
  assert counting.calls == 0
  assert _mined(unmined)[3] == (3, [0], [])
  mined = mine_pairs(stored(*whole, unpaired), corpus, searches)
  assert (counting.calls, counting.searched) == (1, 1), "that question alone"
  assert sorted(_mined(mined)[3][2]) == [1, 2]
  lost = Question("l", "Danube", ("Vienna",), negative_ids=("p4", "p3"))
  found = mine_pairs(stored(*whole, lost), corpus, searches, negatives=0)
  assert counting.calls == 2
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
  monkeypatch.setattr(
    bm25_build, "build_bm25", lambda *a, **k: pytest.fail("BM25 built")
  )
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
  corpus: Corpus,
  searches: dict[str, Search],
  stored: Callable[..., QuestionSet],
) -> None:
  asked = stored(Question("a", "Einstein in Ulm", (), positive_ids=("p0",)))
  ((_, positives, negatives),) = _mined(mine_pairs(asked, corpus, searches))
  assert positives == [0]
  assert sorted(negatives) == [1, 2, 3]


def test_only_depth_passages_are_looked_at(
  corpus: Corpus,
  searches: dict[str, Search],
  stored: Callable[..., QuestionSet],
) -> None:
  asked = stored(
    Question("a", "Einstein Ulm Danube Vienna", ("patent office",)),
    Question("b", "Danube", ("Vienna",)),
  )
  assert len(mine_pairs(asked, corpus, searches, depth=6)) == 2
  assert _mined(mine_pairs(asked, corpus, searches, depth=1)) == [(1, [3], [])]


def test_questions_without_a_positive_are_counted_and_named(
  corpus: Corpus,
  searches: dict[str, Search],
  stored: Callable[..., QuestionSet],
) -> None:
  lost = [Question(f"lost{i}", f"Danube {i}", ("Rome",)) for i in range(7)]
  pattern = Question("r", "potatoes", (r"until\s+THEY",), "regex")
  asked = stored(*lost[:4], pattern, *lost[4:])
  calls: list[tuple[int, int]] = []
  pairs = mine_pairs(
    asked,
    corpus,
    searches,
    progress=lambda done, of: calls.append((done, of)),
  )
  assert _mined(pairs) == [(4, [4], [])]
  assert pairs.manifest["report"]["positives_mined"] == 1
  report = pairs.manifest["report"]
  assert report["dropped"] == {"no_positive_found": 7}
  assert report["examples"]["no_positive_found"] == [
    f"lost{i}" for i in range(5)
  ]
  assert (report["questions"], report["kept"]) == (8, 1)
  assert calls == [(8, 8)]
  with pytest.raises(ValueError, match=r"no question of 2 has .*'lost0'"):
    mine_pairs(stored(*lost[:2]), corpus, searches)


def test_passages_that_the_corpus_lacks_are_left_out_and_counted(
  corpus: Corpus,
  searches: dict[str, Search],
  stored: Callable[..., QuestionSet],
) -> None:
  asked = stored(
    Question("some", "Ulm", ("Ulm",), positive_ids=("p0", "wiki:9")),
    Question("none", "Ulm", ("Ulm",), positive_ids=("wiki:9",)),
    Question(
      "hard", "Ulm", ("Ulm",), positive_ids=("p0",), negative_ids=("wiki:8",)
    ),
  )
  pairs = mine_pairs(asked, corpus, searches, negatives=0)
  # "none" names its passage; another one would be somebody else's guess.
  assert _mined(pairs) == [(0, [0], []), (2, [0], [])]
  report = pairs.manifest["report"]
  assert report["dropped"] == {"gold_not_in_corpus": 1}
  assert report["examples"] == {"gold_not_in_corpus": ["none"]}
  assert report["not_in_corpus"] == {"positives": 2, "negatives": 1}


def test_a_file_of_another_corpus_is_told_so_with_an_example(
  corpus: Corpus,
  searches: dict[str, Search],
  stored: Callable[..., QuestionSet],
) -> None:
  asked = stored(Question("q7", "Ulm", ("Ulm",), positive_ids=("wiki:9",)))
  with pytest.raises(ValueError, match=r"1 gold not in corpus.*'q7' names 'wi"):
    mine_pairs(asked, corpus, searches)


def test_why_questions_are_dropped(
  corpus: Corpus,
  searches: dict[str, Search],
  stored: Callable[..., QuestionSet],
) -> None:
  asked = stored(
    Question("a", "Danube", ()),
    Question("b", "potatoes", ("Cooking",)),
    Question("c", "potatoes", ("Rome",)),
    Question("d", "potatoes", ("soft",)),
  )
  pairs = mine_pairs(asked, corpus, searches)
  assert _mined(pairs) == [(3, [4], [])]
  assert pairs.manifest["report"] == {
    "questions": 4,
    "kept": 1,
    "positives_named": 0,
    "positives_mined": 1,
    "negatives_named": 0,
    "negatives_mined": 0,
    "without_negatives": 1,
    "not_in_corpus": {},
    "dropped": {
      "answer_only_in_title": 1,
      "no_answer": 1,
      "no_positive_found": 1,
    },
    "examples": {
      "no_answer": ["a"],
      "answer_only_in_title": ["b"],
      "no_positive_found": ["c"],
    },
  }
  assert dropped_line("set", pairs.manifest["report"]) == (
    "set: 3 questions are left out: 1 answer only in title (such as b); "
    "1 no answer (such as a); 1 no positive found (such as c)\n"
  )


def fixed(*rows: int) -> Search:
  """A search that gives everybody these rows, and after them none."""

  def search(texts: Sequence[str], depth: int) -> np.ndarray:
    padded = (*rows, *[-1] * depth)[:depth]
    return np.tile(np.array(padded, np.int64), (len(texts), 1))

  return search


def test_several_searches_take_turns_and_excluded_passages_are_skipped(
  corpus: Corpus, stored: Callable[..., QuestionSet]
) -> None:
  searches = {"one": fixed(1, 5, 0, 3), "two": fixed(1, 4, 2)}
  asked = stored(
    Question("a", "?", ("Ulm",), excluded_ids=("p4", "wiki:1")),
    Question("b", "?", ("Ulm",), positive_ids=("p2",)),
  )
  pairs = mine_pairs(asked, corpus, searches, negatives=3)
  # By turns 1 1 5 4 0 2 3: 0 and 3 hold the answer.
  assert _mined(pairs) == [(0, [0], [1, 5, 2]), (1, [2], [1, 5, 4])]
  assert pairs.manifest["searches"] == ["one", "two"]
  turned = dict(reversed(searches.items()))
  few = mine_pairs(asked, corpus, turned, negatives=2)
  assert _mined(few) == [(0, [0], [1, 5]), (1, [2], [1, 4])]
  shallow = mine_pairs(asked, corpus, searches, depth=1)
  assert _mined(shallow) == [(1, [2], [1])]


def test_negatives_are_added_to_pairs_that_there_are(
  corpus: Corpus, stored: Callable[..., QuestionSet]
) -> None:
  asked = stored(
    Question("a", "?", ("Ulm",)),
    Question("b", "?", ("Rome",), positive_ids=("p2",), negative_ids=("p1",)),
    Question("c", "?", ("Vienna",)),
  )
  first = mine_pairs(asked, corpus, {"one": fixed(0, 1, 2)}, negatives=1)
  assert _mined(first) == [(0, [0], [1]), (1, [2], [1])]
  more = mine_pairs(
    asked, corpus, {"two": fixed(3, 4, 1, 5)}, negatives=2, known=first
  )
  assert _mined(more) == [
    (0, [0], [1, 4, 5]),
    (1, [2], [1, 3, 4]),
    (2, [3], [4, 1]),
  ]
  assert more.manifest["searches"] == ["one", "two"]
  other = dataclasses.replace(
    first, manifest=first.manifest | {"corpus": "0" * 64}
  )
  with pytest.raises(ValueError, match="mined from other corpus"):
    mine_pairs(asked, corpus, {"one": fixed(0)}, known=other)


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
