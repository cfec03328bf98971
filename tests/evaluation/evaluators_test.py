"""What is measured while training, against the parts it is made of."""

import math
import re

import jax
import numpy as np
import pytest
from small_reader import (
  ANSWER_LENGTH,
  one_device,
  reader_settings,
  small_system,
  use_one_device,
)

from odqa_jax.data.corpus.views import sample_passages
from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions
from odqa_jax.evaluation import dev_index
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
  encode_request,
  find_passages,
  read_batches,
)
from odqa_jax.retrieval.retriever import (
  index_corpus,
  search_questions,
  write_index,
)
from odqa_jax.retrieval.rows import load_placed


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


def evaluator_of(system, tmp_path, run):
  return make_evaluator(
    run,
    system.config,
    system.components,
    system.corpus,
    system.gatherer,
    one_device(),
    tmp_path,
  )


def settings(dev, **more):
  return {
    "evaluate.questions": str(dev),
    "evaluate.best": "em",
    "evaluate.index": "corpus",
  } | more


def parts(task, toy_data, options, seed=0):
  """A system, and the settings that it was made with."""
  system = small_system(task, toy_data, seed, **options)
  return system, reader_settings(task, toy_data, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
  "task, null", [("individual", False), ("joint", True), ("fid", False)]
)
def test_a_reader_is_measured_by_its_parts(toy_data, dev, tmp_path, task, null):
  options = settings(dev, **{"evaluate.k": 3, "retrieval.null_document": null})
  system, run = parts(task, toy_data, options)
  figures = evaluator_of(system, tmp_path, run)(system.params, None)
  assert figures["dev_passages"] == 200
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
    request = encode_request(system, [question.question])
    found = find_passages(system, index, request, k=3)
    both = [
      float(part.log_probs([target], ANSWER_LENGTH)[0])
      for read in (found, found[:, :0])
      for part in read_batches(system, request, read, batch_size=1)
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


@pytest.mark.slow
def test_the_live_index_is_not_made_again(toy_data, dev, tmp_path, monkeypatch):
  system, run = parts("fid", toy_data, settings(dev))
  index = index_corpus(
    system.retriever, system.corpus, tmp_path / "i", mesh=one_device()
  )
  anew = evaluator_of(system, tmp_path / "w", run)(system.params, None)
  monkeypatch.setattr(
    dev_index, "index_corpus", lambda *_, **__: pytest.fail("made again")
  )
  for kind in ("live", ""):
    _, run = parts("fid", toy_data, settings(dev, **{"evaluate.index": kind}))
    evaluate = evaluator_of(system, tmp_path / "w", run)
    with jax.transfer_guard("disallow"):
      assert evaluate(system.params, index) == anew


@pytest.mark.slow
def test_a_live_index_of_codes_finds_about_the_same(toy_data, dev, tmp_path):
  """Int8 rows without residuals, as training searches them."""
  system, run = parts("fid", toy_data, settings(dev))
  figures = []
  for dtype in ("float32", "int8"):
    folder = tmp_path / dtype
    write_index(
      system.retriever, system.corpus, folder, mesh=one_device(), dtype=dtype
    )
    index = load_placed(folder, one_device())
    evaluate = evaluator_of(system, tmp_path / "w", run)
    with jax.transfer_guard("disallow"):
      figures.append(evaluate(system.params, index))
  exact, coded = figures
  assert exact.keys() == coded.keys()
  for name in ("recall@100", "gold@100", "answer_in_top_k"):
    assert coded[name] == pytest.approx(exact[name], abs=0.15)
  assert coded["dev_passages"] == exact["dev_passages"]


def test_every_checkpoint_is_measured_with_its_own_weights(
  toy_data, dev, tmp_path
):
  first, run = parts("individual", toy_data, settings(dev))
  second, _ = parts("individual", toy_data, settings(dev), seed=1)
  evaluate = evaluator_of(first, tmp_path, run)
  one = evaluate(first.params, None)
  two = evaluate(second.params, None)
  assert one != two
  assert two == evaluator_of(second, tmp_path, run)(second.params, None)
  assert evaluate(first.params, None) == one


def test_a_closed_book_is_measured_without_search(toy_data, dev, tmp_path):
  options = settings(dev, **{"retrieval.k": 0})
  system, run = parts("fid", toy_data, options)
  figures = evaluator_of(system, tmp_path, run)(system.params, None)
  assert set(figures) == {"em", "f1"}


def test_questions_are_evenly_spaced(toy_data, dev):
  def ids(limit: int) -> list[str]:
    options = settings(dev, **{"evaluate.max_questions": limit})
    run = reader_settings("fid", toy_data, **options)
    return [q.id for q in dev_questions(run.evaluate)]

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
    ({"evaluate.k": 201}, r"config.evaluate.k=201, but 200 passages"),
  ],
)
def test_what_cannot_be_measured_is_named_before_training(
  toy_data, dev, tmp_path, options, message
):
  system, run = parts("individual", toy_data, settings(dev, **options))
  with pytest.raises(ValueError, match=message):
    evaluator_of(system, tmp_path, run)


def retriever_evaluator(system, tmp_path, run):
  """That of a task without a reader."""
  return make_evaluator(
    run, None, system.components, system.corpus, None, one_device(), tmp_path
  )


def test_a_retriever_is_measured_by_what_it_finds(toy_data, dev, tmp_path):
  options = settings(dev, **{"evaluate.best": "ndcg@10"})
  system, run = parts("individual", toy_data, options)
  evaluate = retriever_evaluator(system, tmp_path, run)
  figures = evaluate(system.params, None)
  assert list(figures) == [
    *(f"{m}@{c}" for m in ("recall", "gold") for c in (1, 5, 20, 100)),
    "ndcg@10",
    "mrr@10",
    "map",
    "dev_passages",
  ]
  _, bad = parts("individual", toy_data, settings(dev))
  with pytest.raises(ValueError, match="best='em' is not measured"):
    retriever_evaluator(system, tmp_path, bad)
  live = options | {"evaluate.index": "live"}
  _, bad = parts("individual", toy_data, live)
  with pytest.raises(ValueError, match="index='live': this task searches no"):
    retriever_evaluator(system, tmp_path, bad)
  off, run = parts("individual", toy_data, {})
  assert evaluator_of(off, tmp_path, run) is None


def test_a_sample_is_searched_in_place_of_the_corpus(
  toy_data, dev, tmp_path, monkeypatch
):
  """The default without a live index; only the sample is encoded."""
  options = settings(
    dev,
    **{
      "evaluate.best": "gold@5",
      "evaluate.index": "",
      "evaluate.passages": 40,
    },
  )
  system, run = parts("individual", toy_data, options)
  sizes = []
  make = dev_index.index_corpus

  def counted(retriever, passages, *args, **kwargs):
    sizes.append(len(passages))
    return make(retriever, passages, *args, **kwargs)

  monkeypatch.setattr(dev_index, "index_corpus", counted)
  figures = retriever_evaluator(system, tmp_path, run)(system.params, None)
  assert sizes == [40] and figures["dev_passages"] == 40

  # The same ranking among these rows of the whole corpus.
  questions = list(QuestionSet(dev))
  gold = [name for q in questions for name in q.positive_ids]
  rows = sample_passages(system.corpus, gold, 40, seed=run.seed).rows
  assert {system.corpus.row_of(name) for name in gold} <= set(rows.tolist())
  index = index_corpus(
    system.retriever, system.corpus, tmp_path / "i", mesh=one_device()
  )
  texts = [q.question for q in questions]
  _, ranked = search_questions(
    system.retriever, index, system.corpus, texts, k=200
  )
  kept = [[r for r in row if r in set(rows)] for row in ranked.tolist()]
  chosen = np.array(kept, np.int32)[:, :40]
  ranking = Ranking(
    tuple(q.id for q in questions), chosen, np.zeros(chosen.shape, np.float32)
  )
  wanted = evaluate_ranking(ranking, questions, system.corpus)
  for measure in ("recall", "gold"):
    for cutoff in ("1", "5", "20"):
      assert figures[f"{measure}@{cutoff}"] == wanted[measure][cutoff]


def test_a_sample_is_decided_by_its_seed(toy_data):
  corpus = small_system("fid", toy_data).corpus
  first, again, other = (
    sample_passages(corpus, ["p3", "nowhere"], 20, seed=seed)
    for seed in (1, 1, 2)
  )
  assert first.fingerprint == again.fingerprint != other.fingerprint
  assert len(first) == len(set(first.rows.tolist())) == 20
  assert 3 in first.rows and 3 in other.rows
  assert [first.id(i) for i in range(20)] == [
    corpus.id(r) for r in first.rows.tolist()
  ]
  everything = sample_passages(corpus, [], 1000, seed=1)
  assert everything.rows.tolist() == list(range(200))
