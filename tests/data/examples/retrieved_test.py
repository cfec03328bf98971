"""What a retriever found, as examples: gold, negatives, marked answers."""

import dataclasses
import json

import numpy as np
import pytest

from odqa_jax.data.corpus.corpus import Corpus, build_corpus
from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.examples.batch import RANKED, READ, check_batch
from odqa_jax.data.examples.loader import train_batches
from odqa_jax.data.examples.reranking import RerankingExamples
from odqa_jax.data.examples.retrieved import RetrievedQuestions
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.data.examples.spans import SpanExamples
from odqa_jax.data.questions.sets import Question, write_questions
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.runtime.settings import DataSettings
from odqa_jax.text.answers import has_answer
from odqa_jax.text.pairs import PairVocabulary
from odqa_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer

WORDS = "who wrote goethe faust was born in ulm and lived".split()
FILLER = [f"word{i}" for i in range(40)]
TEXTS = {
  "gold": "goethe wrote faust and goethe lived",
  "hit": "Faust was by GÖTHE and Goethe born",
  "late": " ".join([*FILLER, "goethe"]),
  "long": "in ulm " + "and " * 6 + "lived goethe",
  **{f"n{i}": f"word{i} word{i + 1} was born in ulm" for i in range(12)},
}
QUESTIONS = [
  # The gold passage is not in the run.
  Question("q0", "who wrote faust", ("Goethe",), positive_ids=("gold",)),
  # No gold passage: the first hit is the positive.
  Question("q1", "who lived", ("goethe",)),
  # Neither.
  Question("q2", "who was born", ("einstein",)),
  # The gold passage is in the run, a second one too; a regex.
  Question(
    "q3", "in", (r"goeth\w",), "regex", positive_ids=("no", "hit", "n3")
  ),
  # Its only answer is cut off.
  Question("q4", "who", ("goethe",)),
]
RUN = {
  "q0": ["n0", "hit", "n1", "n2", "n4", "late"],
  "q1": ["n5", "hit", "gold", "n6", "n7"],
  "q2": ["n0", "n1", "n2"],
  "q3": ["n3", "n4", "hit", "n5", "gold"],
  "q4": ["n1", "late", "n8"],
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("retrieved") / "corpus"
  names = [*SPECIAL_TOKENS, *WORDS, *FILLER, "by", "got", "##he", "title"]
  names += ["word40"]
  tokenizer = Tokenizer({name: i for i, name in enumerate(names)})
  passages = [Passage(name, "Title", text) for name, text in TEXTS.items()]
  build_corpus(passages, folder, tokenizer)
  return Corpus(folder)


def ranking(corpus, questions=QUESTIONS):
  width = max(map(len, RUN.values()))
  rows = np.full((len(questions), width), -1, np.int64)
  for i, question in enumerate(questions):
    found = [corpus.row_of(name) for name in RUN[question.id]]
    rows[i, : len(found)] = found
  scores = np.where(rows >= 0, -np.arange(width, dtype=np.float64), -np.inf)
  ids = tuple(q.id for q in questions)
  return Ranking(ids, rows, scores.astype(np.float32))


@pytest.fixture
def found(corpus):
  return RetrievedQuestions([(QUESTIONS, ranking(corpus))], corpus)


def names(corpus, rows):
  return [corpus.id(row) for row in np.asarray(rows).tolist() if row >= 0]


SMALL = {"question_length": 16, "length": 32, "title": True}


def reranking(found, passages=4, **settings):
  vocabulary = PairVocabulary(found.corpus.tokenizer)
  return RerankingExamples(
    found, vocabulary, passages=passages, **{**SMALL, **settings}
  )


def reading(found, passages=4, **settings):
  vocabulary = PairVocabulary(found.corpus.tokenizer)
  settings = {"span_length": 5, "occurrences": 3, **SMALL, **settings}
  return SpanExamples(found, vocabulary, passages=passages, **settings)


def whole(examples, seed=0):
  indices = np.arange(len(examples))
  rng = np.random.default_rng(seed)
  return examples.batch(indices, rng, slice(0, len(indices)))


# ---- The join ----


def test_gold_passages_and_first_hits(corpus, found):
  golds = [found.gold(i) for i in range(5)]
  assert [g if g < 0 else corpus.id(g) for g in golds] == [
    "gold", -1, -1, "hit", -1,
  ]  # fmt: skip
  assert [found.hit_rank(i) for i in range(5)] == [1, 1, -1, 2, 1]
  positives = [found.positive(i) for i in range(5)]
  assert [p if p < 0 else corpus.id(p) for p in positives] == [
    "gold", "hit", -1, "hit", "late",
  ]  # fmt: skip
  assert names(corpus, found.golds(3)) == ["hit", "n3"]
  assert names(corpus, found.candidates(1)) == RUN["q1"]


# ---- To rerank ----


def test_the_gold_comes_first_and_no_negative_holds_an_answer(corpus, found):
  examples = reranking(found, passages=9)
  assert [QUESTIONS[i].id for i in examples.numbers] == ["q0", "q1", "q3", "q4"]
  assert examples.left_out["without a gold passage or one with an answer"] == 1
  batch = whole(examples)
  check_batch(batch, RANKED)
  rows = [names(corpus, r) for r in batch["passage_rows"]]
  assert [r[0] for r in rows] == ["gold", "hit", "hit", "late"]
  assert [sorted(r[1:]) for r in rows] == [
    ["n0", "n1", "n2", "n4"],
    ["n5", "n6", "n7"],
    ["n4", "n5"],
    ["n1", "n8"],
  ]
  assert batch["passage_mask"].sum(axis=1).tolist() == [5, 4, 3, 3]
  assert np.array_equal(batch["lengths"] > 0, batch["passage_mask"])


def test_negatives_are_drawn_anew_from_the_whole_run(corpus, found):
  examples = reranking(found, passages=2)
  drawn = {
    names(corpus, whole(examples, seed)["passage_rows"][0])[1]
    for seed in range(40)
  }
  assert drawn == {"n0", "n1", "n2", "n4"}


def test_inputs_of_a_reranker_are_question_title_text(corpus, found):
  examples = reranking(found)
  batch = whole(examples)
  decode = corpus.tokenizer.decode
  for i, number in enumerate(examples.numbers):
    for j, row in enumerate(batch["passage_rows"][i].tolist()):
      if row < 0:
        assert np.all(batch["ids"][i, j] == corpus.tokenizer.pad_id)
        continue
      length, first = batch["lengths"][i, j], batch["first_lengths"][i, j]
      ids = batch["ids"][i, j, :length].tolist()
      assert decode(ids[:first]) == QUESTIONS[number].question
      whole_text = f"title {corpus.text(row).lower()}"
      assert ids[-1] == corpus.tokenizer.sep_id
      if corpus.id(row) == "gold":
        assert decode(ids[first:]) == whole_text
      if corpus.id(row) == "late":
        assert length == 32


def test_evaluation_sees_the_run_alone(corpus, found):
  examples = reranking(found, training=False)
  batch = whole(examples)
  assert len(examples) == 5
  rows = [names(corpus, r) for r in batch["passage_rows"]]
  assert rows == [RUN[q.id][:4] for q in QUESTIONS]


# ---- To read ----


def test_passages_to_read_and_their_answers(corpus, found):
  examples = reading(found, passages=5)
  batch = whole(examples)
  check_batch(batch, READ)
  assert [QUESTIONS[i].id for i in examples.numbers] == ["q0", "q1", "q3"]
  rows = [names(corpus, r) for r in batch["passage_rows"]]
  assert rows == [
    ["gold", "n0", "hit", "n1", "n2"],
    ["hit", "n5", "gold", "n6", "n7"],
    ["hit", "n3", "n4", "n5", "gold"],
  ]
  decode = corpus.tokenizer.decode
  for i, number in enumerate(examples.numbers):
    question = QUESTIONS[number]
    for j, row in enumerate(batch["passage_rows"][i].tolist()):
      ids = batch["ids"][i, j].tolist()
      start, end = batch["context_starts"][i, j], batch["context_ends"][i, j]
      first, length = batch["first_lengths"][i, j], batch["lengths"][i, j]
      assert (start, end) == (1, first - 1)
      assert decode(ids[first:length]) == f"{question.question} title"
      places = zip(
        batch["answer_starts"][i, j].tolist(),
        batch["answer_ends"][i, j].tolist(),
        strict=True,
      )
      spans = [ids[a : b + 1] for a, b in places if a >= 0]
      answered = has_answer(
        corpus.text(row), question.answers, question.answer_type
      )
      assert bool(spans) == answered
      # By a regular expression, also a part of the name.
      assert {decode(span) for span in spans} <= {"goethe"}
  assert (batch["answer_starts"][0, 0] >= 0).sum() == 2
  assert examples.left_out == {
    "without a passage": 0,
    "without an answer": 0,
    "without an answer in any passage": 1,
    "with answers that are cut off or too long alone": 1,
  }
  assert examples.dropped == {"cut off": 1}


@pytest.mark.parametrize(
  "settings, reason",
  [
    ({"span_length": 1}, "above 1 tokens"),
    ({"occurrences": 1}, "beyond 1 in a passage"),
    ({"length": 8}, "cut off"),
    # The first token that is cut off is an answer's.
    ({"length": 10}, "cut off"),
  ],
)
def test_every_occurrence_that_is_no_span_is_counted(
  corpus, settings, reason, capsys
):
  questions = [
    Question("q0", "who", ("goethe wrote", "goethe"), positive_ids=("gold",))
  ]
  found = RetrievedQuestions([(questions, ranking(corpus, questions))], corpus)
  examples = reading(found, **settings)
  assert examples.dropped[reason] >= 1
  assert f"{examples.dropped[reason]} {reason}" in capsys.readouterr().err
  batch = whole(examples)
  starts, ends = batch["answer_starts"], batch["answer_ends"]
  real = starts >= 0
  assert real.any()
  assert np.all((ends - starts)[real] < settings.get("span_length", 5))
  assert np.all((ends < batch["context_ends"][..., None])[real])


def test_letters_with_marks_are_found_under_an_uncased_vocabulary(corpus):
  questions = [Question("q1", "who", ("Göthe",))]
  found = RetrievedQuestions([(questions, ranking(corpus, questions))], corpus)
  batch = whole(reading(found))
  start, end = batch["answer_starts"][0, 0, 0], batch["answer_ends"][0, 0, 0]
  pieces = batch["ids"][0, 0, start : end + 1].tolist()
  assert corpus.tokenizer.decode(pieces) == "gothe"


def test_evaluation_reads_the_run_alone_and_every_question(corpus, found):
  examples = reading(found, training=False)
  batch = whole(examples)
  rows = [names(corpus, r) for r in batch["passage_rows"]]
  assert rows == [RUN[q.id][:4] for q in QUESTIONS]
  assert not any(examples.left_out.values())


def test_an_answer_is_in_the_first_passage_that_is_read(corpus):
  questions = [
    # None is gold: the first with an answer, which is the run's second.
    Question("q1", "who lived", ("goethe",)),
    # The gold one is read without its answer.
    Question("q0", "who wrote", ("goethe",), positive_ids=("late",)),
  ]
  found = RetrievedQuestions([(questions, ranking(corpus, questions))], corpus)
  batch = whole(reading(found, training=True))
  assert (batch["answer_starts"][:, 0] >= 0).any(axis=1).all()
  assert [names(corpus, r) for r in batch["passage_rows"]] == [
    ["hit", "n5", "gold", "n6"],
    ["hit", "late", "n0", "n1"],
  ]


def test_a_reranker_has_something_to_rank(corpus):
  questions = [
    Question("q1", "who lived", ("goethe",)),
    Question("q4", "who", ("goethe",), positive_ids=("gold", "n8", "n1")),
  ]
  found = RetrievedQuestions([(questions, ranking(corpus, questions))], corpus)
  examples = reranking(found)
  assert [questions[i].id for i in examples.numbers] == ["q1"]
  assert [*examples.left_out.values()] == [0, 1]
  assert whole(examples)["passage_mask"].sum(axis=1).min() > 1
  with pytest.raises(ValueError, match="q4 is without another passage in the"):
    reranking(found, strict=True)


# ---- The loader ----


@pytest.mark.parametrize("make", [reranking, reading])
def test_batches_are_resumed_and_shared_by_hosts(found, make):
  examples = make(found)

  def batches(rows):
    return train_batches(examples, 4, seed=3, rows=rows)

  one = batches(slice(0, 4))
  for _ in range(3):
    next(one)
  state, expected = one.get_state(), next(one)
  resumed = batches(slice(0, 4))
  resumed.set_state(state)
  again = next(resumed)
  parts = [batches(slice(0, 2)), batches(slice(2, 4))]
  halves = [[next(part) for _ in range(4)][3] for part in parts]
  for name, value in expected.items():
    np.testing.assert_array_equal(again[name], value)
    joined = np.concatenate([half[name] for half in halves])
    np.testing.assert_array_equal(joined, value)


@pytest.fixture
def data(tmp_path, corpus):
  """Settings of files, as `odqa search` and `prepare` leave them."""
  write_questions(QUESTIONS, tmp_path / "questions", "asked")
  write_run(tmp_path / "run.json", ranking(corpus), QUESTIONS, corpus)
  return DataSettings(
    source="retrieved",
    corpus=str(corpus.directory),
    questions=str(tmp_path / "questions"),
    run=str(tmp_path / "run.json"),
    passages=4,
    pair_length=32,
    question_length=16,
  )


@pytest.mark.parametrize("source", ["retrieved", "retrieved_spans"])
def test_sources_read_runs_of_odqa_search(data, corpus, source, capsys):
  examples = load_examples(dataclasses.replace(data, source=source), corpus)
  assert len(examples) == {"retrieved": 4, "retrieved_spans": 3}[source]
  assert "examples left out: 1 with" in capsys.readouterr().err
  twice = dataclasses.replace(
    data,
    source=source,
    questions=f"{data.questions},{data.questions}",
    run=f"{data.run},{data.run}",
  )
  assert len(load_examples(twice, corpus)) == 2 * len(examples)


# ---- Bad input ----


def test_a_run_of_another_corpus_is_refused(data, corpus, tmp_path):
  records = json.loads((tmp_path / "run.json").read_text())
  records[0]["ctxs"][0]["text"] = '"Word0 word1" was  born in Ulm.'
  (tmp_path / "run.json").write_text(json.dumps(records))
  assert len(load_examples(data, corpus)) == 4
  records[2]["ctxs"][1]["text"] = "something else"
  (tmp_path / "run.json").write_text(json.dumps(records))
  with pytest.raises(ValueError) as error:
    load_examples(data, corpus)
  text = str(error.value)
  assert "run.json" in text and "'n1' has another text" in text
  assert "another corpus; give the one that was searched" in text
  records[2]["ctxs"][1]["id"] = "elsewhere"
  (tmp_path / "run.json").write_text(json.dumps(records))
  with pytest.raises(ValueError, match="'elsewhere' is not in the corpus"):
    load_examples(data, corpus)


def test_runs_and_question_sets_go_together(data, corpus):
  for run in ("", f"{data.run},{data.run}"):
    with pytest.raises(ValueError, match="give one for one"):
      load_examples(dataclasses.replace(data, run=run), corpus)


@pytest.mark.parametrize(
  "source, message",
  [
    ("retrieved", "question q2 is without a gold passage or one with"),
    ("retrieved_spans", "question q2 is without an answer in any passage"),
  ],
)
def test_strictly_a_question_that_teaches_nothing_is_refused(
  data, corpus, source, message
):
  strict = dataclasses.replace(data, source=source, strict=True)
  with pytest.raises(ValueError, match=message):
    load_examples(strict, corpus)


@pytest.mark.parametrize("make", [reranking, reading])
def test_nothing_to_learn_from_is_refused(corpus, make):
  questions = [QUESTIONS[2]]
  found = RetrievedQuestions([(questions, ranking(corpus, questions))], corpus)
  with pytest.raises(ValueError, match=r"none of 1 questions can be r.* for"):
    make(found)


def test_a_run_without_passages_is_refused(corpus):
  nothing = Ranking(
    ("q0",), np.full((1, 2), -1, np.int64), np.full((1, 2), -np.inf, np.float32)
  )
  with pytest.raises(ValueError, match="no passage is left for any of 1"):
    RetrievedQuestions([(QUESTIONS[:1], nothing)], corpus)


def test_a_question_without_passages_is_counted(corpus):
  questions = QUESTIONS[:2]
  both = ranking(corpus, questions)
  rows = both.rows.copy()
  rows[1] = -1
  found = RetrievedQuestions(
    [(questions, dataclasses.replace(both, rows=rows))], corpus
  )
  assert reading(found).left_out["without a passage"] == 1
  for training in (True, False):
    examples = reranking(found, training=training)
    assert len(examples) == 1 == sum(examples.left_out.values())


def test_a_question_too_long_for_the_pair_is_refused(found):
  with pytest.raises(ValueError, match="leaves no room for a passage"):
    whole(reranking(found, length=5))
