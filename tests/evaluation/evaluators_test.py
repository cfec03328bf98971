"""What is measured while training, against the parts it is made of."""

import math
import re

import jax
import numpy as np
import pytest
from small_reader import (
  ANSWER_LENGTH,
  one_device,
  small_system,
  use_one_device,
)

from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions
from odqa_jax.evaluation import evaluators
from odqa_jax.evaluation.evaluators import dev_questions, make_evaluator
from odqa_jax.evaluation.measures import (
  Ranking,
  answer_measures,
  evaluate_ranking,
  recall_table,
)
from odqa_jax.reading.answer import (
  Answer,
  answer_questions,
  find_passages,
  read_batches,
)
from odqa_jax.retrieval.retriever import index_corpus, search_questions


@pytest.fixture(autouse=True)
def only_one_device(monkeypatch):
  use_one_device(monkeypatch)


def answer(text: str) -> Answer:
  return Answer(text, -1.0, ((text, -1.0),), ())


def test_measures_equal_their_definitions():
  questions = [
    Question("a", "Who?", ("The Beatles", "Beatles, the")),
    Question("b", "Where?", ("New York City",)),
    Question("c", "When?", (r"19\d\d",), "regex"),
    Question("d", "Why?", (r"be.?cause",), "regex"),
    Question("e", "No answers?", ()),
  ]
  texts = ["beatles!", "york", "1989 or so", "not because", "anything"]
  figures = answer_measures([answer(t) for t in texts], questions)
  # a and c are right, b shares one word of three, d is not at the start.
  assert figures["questions"] == 4
  assert figures["em"] == 2 / 4
  assert figures["f1"] == pytest.approx((1 + 2 * (1 / 3) / (1 + 1 / 3)) / 2)
  low, high = figures["em_95"]
  # Wilson's interval of 2 in 4, from its closed form.
  z2 = 1.959964**2
  half = math.sqrt(0.25 * z2 / 4 + z2 * z2 / 64) / (1 + z2 / 4)
  assert (low, high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
  assert figures["normaliser"] == "nq"
  with pytest.raises(ValueError, match="4 answers do not belong to 5"):
    answer_measures([answer("x")] * 4, questions)
  nothing = answer_measures([answer("x")], questions[-1:])
  assert nothing == {"questions": 0, "normaliser": "nq"}
  regex = answer_measures([answer("x")], questions[2:3])
  assert regex["em"] == 0 and "f1" not in regex


def test_the_table_shows_answers():
  rows = [
    {"name": "retriever", "recall": {"1": 0.5}},
    {"name": "reader", "recall": {"1": 0.5}, "em": 0.301, "f1": 0.4},
  ]
  assert recall_table(rows).splitlines() == [
    "           recall@1    EM    F1",
    "─────────  ────────  ────  ────",
    "retriever      50.0     -     -",
    "reader         50.0  30.1  40.0",
  ]


@pytest.fixture(scope="module")
def dev(tmp_path_factory, toy_data):
  """Nine questions; one without answers, one with an answer too long."""
  questions = list(QuestionSet(toy_data / "questions" / "toy"))[:9]
  changed = [
    Question(
      q.id, q.question, (q.question.split()[-2],), positive_ids=q.positive_ids
    )
    for q in questions
  ]
  changed[3] = Question("none", "what is this", ())
  changed[5] = Question("long", "what is that", ("a very " * 20,))
  folder = tmp_path_factory.mktemp("dev") / "dev"
  write_questions(changed, folder, "dev")
  return folder


def evaluator_of(system, tmp_path):
  return make_evaluator(
    system.config,
    system.models,
    system.corpus,
    system.inputs,
    one_device(),
    tmp_path,
  )


def settings(dev, **more):
  return {"evaluate.questions": str(dev), "evaluate.best": "em"} | more


@pytest.mark.parametrize(
  "task, null", [("individual", False), ("joint", True), ("fid", False)]
)
def test_a_reader_is_measured_by_its_parts(toy_data, dev, tmp_path, task, null):
  options = settings(dev, **{"evaluate.k": 3, "retrieval.null_document": null})
  system = small_system(task, toy_data, **options)
  figures = evaluator_of(system, tmp_path)(system.params, None)
  assert not list(tmp_path.iterdir()), "the temporary index is gone"

  questions = list(QuestionSet(dev))
  texts = [q.question for q in questions]
  index = index_corpus(
    system.retriever, system.corpus, tmp_path / "i", mesh=one_device()
  )
  scores, rows = search_questions(
    system.retriever, index, system.corpus, texts, k=100
  )
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  wanted = evaluate_ranking(ranking, questions, system.corpus)
  for measure in ("recall", "gold"):
    for cutoff in ("1", "5", "20", "100"):
      assert figures[f"{measure}@{cutoff}"] == wanted[measure][cutoff]

  answers = answer_questions(
    system, index, texts, k=3, batch_size=8, max_tokens=ANSWER_LENGTH
  )
  measured = answer_measures(answers, questions)
  assert (figures["em"], figures["f1"]) == (measured["em"], measured["f1"])
  probs = np.array([[p.prob for p in a.passages] for a in answers])
  entropy = -(probs * np.log(probs)).sum(axis=1).mean()
  assert figures["passage_entropy"] == pytest.approx(entropy, rel=1e-4)

  # The references, one by one, with and without passages.
  gains = []
  for question in (q for q in questions if q.answers and q.id != "long"):
    ids = system.vocabulary.encode_batch([question.answers[0]])[0]
    target = [*ids, system.vocabulary.eos_id]
    found = find_passages(system, index, [question.question], k=3)
    both = [
      float(part.log_probs([target], ANSWER_LENGTH)[0])
      for read in (found, found[:, :0])
      for part in read_batches(system, [question.question], read, batch_size=1)
    ]
    gains.append(both[0] - both[1])
  assert len(gains) == 7
  assert figures["retrieval_utility"] == pytest.approx(np.mean(gains), abs=1e-4)
  assert abs(np.mean(gains)) > 1e-2
  hits = [
    any(
      re.search(rf"\b{q.answers[0]}\b", system.corpus.text(row))
      for row in rows[i, :3].tolist()
    )
    for i, q in enumerate(questions)
    if q.answers
  ]
  assert figures["answer_in_top_k"] == pytest.approx(np.mean(hits))


def test_the_live_index_is_not_made_again(toy_data, dev, tmp_path, monkeypatch):
  system = small_system("fid", toy_data, **settings(dev))
  index = index_corpus(
    system.retriever, system.corpus, tmp_path / "i", mesh=one_device()
  )
  evaluate = evaluator_of(system, tmp_path / "w")
  made = evaluate(system.params, None)
  monkeypatch.setattr(
    evaluators, "index_corpus", lambda *_, **__: pytest.fail("made again")
  )
  with jax.transfer_guard("disallow"):
    assert evaluate(system.params, index) == made


def test_every_checkpoint_is_measured_with_its_own_weights(
  toy_data, dev, tmp_path
):
  first = small_system("individual", toy_data, **settings(dev))
  second = small_system("individual", toy_data, seed=1, **settings(dev))
  evaluate = evaluator_of(first, tmp_path)
  one = evaluate(first.params, None)
  two = evaluate(second.params, None)
  assert one != two
  assert two == evaluator_of(second, tmp_path)(second.params, None)
  assert evaluate(first.params, None) == one


def test_a_closed_book_is_measured_without_search(toy_data, dev, tmp_path):
  options = settings(dev, **{"retrieval.k": 0})
  system = small_system("fid", toy_data, **options)
  figures = evaluator_of(system, tmp_path)(system.params, None)
  assert set(figures) == {"em", "f1"}


def test_questions_are_evenly_spaced(toy_data, dev):
  def ids(limit: int) -> list[str]:
    options = settings(dev, **{"evaluate.max_questions": limit})
    config = small_system("fid", toy_data, **options).config
    return [q.id for q in dev_questions(config)]

  everything = [q.id for q in QuestionSet(dev)]
  assert ids(0) == ids(9) == ids(50) == everything
  assert ids(3) == everything[::3]
  assert ids(4) == [everything[i] for i in (0, 2, 4, 6)]


@pytest.mark.parametrize(
  "options, message",
  [
    (
      {"evaluate.best": "recall@7"},
      r"'recall@7' .* choose one of recall@1, .*",
    ),
    ({"evaluate.best": "EM"}, r"choose one of .*em, f1, answer_in_top_k"),
    (
      {"evaluate.best": "recall@20", "retrieval.k": 0},
      r"choose one of em, f1\.",
    ),
    ({"evaluate.k": 201}, r"config.evaluate.k=201, .* has 200 passages"),
  ],
)
def test_what_cannot_be_measured_is_named_before_training(
  toy_data, dev, tmp_path, options, message
):
  system = small_system("individual", toy_data, **settings(dev, **options))
  with pytest.raises(ValueError, match=message):
    evaluator_of(system, tmp_path)


def test_a_retriever_is_measured_by_recall_alone(toy_data, dev, tmp_path):
  options = settings(dev, **{"evaluate.best": "gold@5"})
  system = small_system("individual", toy_data, **options)
  evaluate = make_evaluator(
    system.config, system.models, system.corpus, None, one_device(), tmp_path
  )
  figures = evaluate(system.retriever.params, None)
  assert list(figures) == [
    f"{m}@{c}" for m in ("recall", "gold") for c in (1, 5, 20, 100)
  ]
  bad = small_system("individual", toy_data, **settings(dev))
  with pytest.raises(ValueError, match="best='em' is not measured"):
    make_evaluator(
      bad.config, bad.models, bad.corpus, None, one_device(), tmp_path
    )
  off = small_system("individual", toy_data)
  assert evaluator_of(off, tmp_path) is None
