"""What is no result of a question, against brute force."""

from pathlib import Path

import numpy as np
import pytest

from odqa_jax.data.corpus.corpus import Corpus, build_corpus
from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.exclusions import Exclusions, find_exclusions
from odqa_jax.data.questions.sets import Question
from odqa_jax.text.wordpiece_training import train_wordpiece

COUNT = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
  folder: Path = tmp_path_factory.mktemp("exclusions") / "corpus"
  # Every fifth passage is one of four questions, spelled otherwise.
  texts = [
    f"  who IS it, {i % 4}?" if i % 5 == 0 else f"passage {i}"
    for i in range(COUNT)
  ]
  passages = [Passage(f"p{i}", "Who", t) for i, t in enumerate(texts)]
  passages[7] = Passage("p7", "Who is", "it 1")
  build_corpus(passages, folder, train_wordpiece(texts, 80))
  return Corpus(folder)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("k", [1, 6, 25, COUNT])
def test_the_best_of_what_is_left(corpus: Corpus, k: int, own: bool) -> None:
  rng = np.random.default_rng(k)
  questions = [
    Question(
      f"q{i}",
      f"Who is it {i}?",
      (),
      excluded_ids=tuple(f"p{j}" for j in rng.permutation(COUNT)[: 3 * i]),
    )
    for i in range(4)
  ]
  similarity = rng.integers(0, 9, (4, COUNT)).astype(np.float32)
  # What is excluded would come first.
  for i, question in enumerate(questions):
    similarity[i, [int(name[1:]) for name in question.excluded_ids]] += 9
    similarity[i, [j for j in range(0, COUNT, 5) if j % 4 == i]] += 9

  def search(depth: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(similarity, rows, 1), rows

  exclusions = find_exclusions(questions, corpus, own=own)
  assert exclusions is not None
  scores, rows = exclusions.search(search, k, COUNT)
  for i, question in enumerate(questions):
    barred = {int(name[1:]) for name in question.excluded_ids}
    if own:
      barred |= {j for j in range(0, COUNT, 5) if j % 4 == i}
      barred |= {7} if i == 1 else set()
    wanted = sorted(
      (row for row in range(COUNT) if row not in barred),
      key=lambda row, i=i: (-similarity[i, row], row),
    )[:k]
    found = rows[i, rows[i] >= 0].tolist()
    assert found == wanted
    assert (rows[i, len(found) :] == -1).all()
    assert np.isneginf(scores[i, len(found) :]).all()
    np.testing.assert_array_equal(
      scores[i, : len(found)], similarity[i, wanted]
    )


def test_nothing_to_exclude_costs_no_depth(corpus: Corpus) -> None:
  questions = [Question("q", "Who?", ())]
  assert find_exclusions(questions, corpus) is None
  depths = []

  def search(depth: int) -> tuple[np.ndarray, np.ndarray]:
    depths.append(depth)
    return np.zeros((1, depth)), np.arange(1, 1 + depth)[None]

  Exclusions(questions, corpus).search(search, 3, COUNT)
  assert depths == [3]
