"""Reader inputs, flags, answer places and question batches, by brute force."""

import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.answers import AnswerExamples
from odqa_jax.data.examples.reader_inputs import (
  NULL_ROW,
  ReaderInputs,
  answer_places,
)
from odqa_jax.data.questions.sets import Question
from odqa_jax.text.reader_vocabulary import WordPieceVocabulary
from odqa_jax.training.retrieval import choose_rows


@pytest.fixture
def corpus(toy_data):
  return Corpus(toy_data / "corpus")


@pytest.fixture
def vocabulary(corpus):
  return WordPieceVocabulary(corpus.tokenizer)


def asked(vocabulary, texts):
  tokens = vocabulary.encode_batch(texts)
  ids = np.zeros((len(texts), 40), np.int32)
  for row, t in zip(ids, tokens, strict=True):
    row[: len(t)] = t
  return ids, np.array([len(t) for t in tokens], np.int32)


QUESTIONS = ["what is known of the article 3", "the red king"]
ROWS = np.array([[10, 199, NULL_ROW], [0, 5, 9]], np.int32)


@pytest.mark.parametrize("title", [False, True])
@pytest.mark.parametrize("pad", [24, 96])
def test_inputs_are_put_together_piece_by_piece(corpus, vocabulary, title, pad):
  inputs = ReaderInputs(
    vocabulary, corpus, length=pad, title=title, overlap_features=False
  )
  ids, lengths = asked(vocabulary, QUESTIONS)
  out = inputs.pack(ids, lengths, ROWS, pad)
  cls, sep = corpus.tokenizer.cls_id, corpus.tokenizer.sep_id
  for i, question in enumerate(QUESTIONS):
    for j, row in enumerate(ROWS[i]):
      real = row != NULL_ROW
      parts = [cls, *vocabulary.encode_batch([question])[0], sep]
      if title:
        text = corpus.title(int(row)) if real else ""
        parts += [*vocabulary.encode_batch([text])[0], sep]
      text = corpus.text(int(row)) if real else ""
      parts += vocabulary.encode_batch([text])[0]
      parts = [*parts[: pad - 1], sep]
      expected = parts + [vocabulary.pad_id] * (pad - len(parts))
      assert out["reader_ids"][i, j].tolist() == expected
      assert out["reader_lengths"][i, j] == len(parts)
  assert (inputs.lengths(lengths, ROWS) == out["reader_lengths"]).all()


def test_flags_mark_shared_tokens_and_named_titles(corpus, vocabulary):
  inputs = ReaderInputs(
    vocabulary, corpus, length=96, title=True, overlap_features=True
  )
  ids, lengths = asked(vocabulary, QUESTIONS)
  out = inputs.pack(ids, lengths, ROWS, 96)
  special = {corpus.tokenizer.cls_id, corpus.tokenizer.sep_id}
  for i, question in enumerate(QUESTIONS):
    tokens = vocabulary.encode_batch([question])[0]
    for j, row in enumerate(ROWS[i]):
      named = row >= 0 and corpus.title(int(row)).lower() in question
      for at, token in enumerate(out["reader_ids"][i, j]):
        inside = len(tokens) < at < out["reader_lengths"][i, j]
        shared = inside and token in tokens and token not in special
        expected = (int(shared) + 2 * int(named)) if inside else 0
        assert out["overlap_features"][i, j, at] == expected
  # Rows 9 to 11 are "Article 3", which the first question names.
  assert (out["overlap_features"][0, 0] >= 2).any()
  assert (out["overlap_features"][1] < 2).all()


def test_answers_are_found_token_for_token(corpus, vocabulary):
  inputs = ReaderInputs(
    vocabulary, corpus, length=96, title=True, overlap_features=False
  )
  words = corpus.text(199).split()
  answers = [" ".join(words[2:4]), "nowhere"]
  ids, lengths = asked(vocabulary, QUESTIONS)
  out = inputs.pack(ids, lengths, ROWS, 96)
  targets = [[*t, vocabulary.eos_id] for t in vocabulary.encode_batch(answers)]
  answer_ids = np.full((2, 12), vocabulary.pad_id, np.int32)
  for row, t in zip(answer_ids, targets, strict=True):
    row[: len(t)] = t
  counts = np.array([len(t) for t in targets], np.int32)
  starts, ends = answer_places(
    out["reader_ids"], out["reader_lengths"], lengths, answer_ids, counts
  )
  flat = out["reader_ids"].reshape(2, -1)
  assert starts[0, 1] >= 0 and (starts[1] == -1).all()
  for i in range(2):
    for j in range(3):
      if starts[i, j] >= 0:
        found = flat[i, starts[i, j] : ends[i, j] + 1].tolist()
        assert found == targets[i][:-1]
        assert starts[i, j] // 96 == j
  assert starts[0, 2] == -1, "the null document holds nothing"


def test_an_answer_in_the_question_does_not_count(vocabulary, corpus):
  inputs = ReaderInputs(
    vocabulary, corpus, length=40, title=False, overlap_features=False
  )
  ids, lengths = asked(vocabulary, ["the red king"])
  rows = np.array([[NULL_ROW]], np.int32)
  out = inputs.pack(ids, lengths, rows, 40)
  answer = [*vocabulary.encode_batch(["king"])[0], vocabulary.eos_id]
  padded = np.array([answer + [0] * (8 - len(answer))], np.int32)
  starts, _ = answer_places(
    out["reader_ids"],
    out["reader_lengths"],
    lengths,
    padded,
    np.array([len(answer)], np.int32),
  )
  assert (starts == -1).all()


QUESTIONS_WITH_ANSWERS = (
  Question("a", "what is red", ("a king", "the king", "king")),
  Question("b", "who is old", ("a doctor",), positive_ids=("p7",)),
)


def make_examples(
  corpus,
  vocabulary,
  answer_length=16,
  questions=QUESTIONS_WITH_ANSWERS,
  strict=False,
):
  return AnswerExamples(
    questions,
    corpus,
    vocabulary,
    question_length=32,
    answer_length=answer_length,
    strict=strict,
  )


def test_one_answer_is_drawn_uniformly(corpus, vocabulary):
  examples = make_examples(corpus, vocabulary)
  batch = examples.batch(
    np.zeros(3000, np.int64), np.random.default_rng(0), slice(0, 3000)
  )
  texts = [vocabulary.decode(ids.tolist()) for ids in batch["answer_ids"]]
  for answer in ("a king", "the king", "king"):
    assert abs(texts.count(answer) - 1000) < 5 * (3000 * 2 / 9) ** 0.5
  last = batch["answer_ids"][np.arange(3000), batch["answer_lengths"] - 1]
  assert (last == vocabulary.eos_id).all()


def test_hosts_draw_the_same_batch(corpus, vocabulary):
  examples = make_examples(corpus, vocabulary)
  indices = np.array([0, 1, 0, 0])
  whole = examples.batch(indices, np.random.default_rng(1), slice(0, 4))
  parts = [
    examples.batch(indices, np.random.default_rng(1), rows)
    for rows in (slice(0, 2), slice(2, 4))
  ]
  for name in whole:
    joined = np.concatenate([p[name] for p in parts])
    np.testing.assert_array_equal(whole[name], joined)
  assert whole["gold_rows"].tolist() == [-1, 7, -1, -1]


def test_answers_too_long_are_never_drawn(corpus, vocabulary):
  longest = max(len(t) for t in vocabulary.encode_batch(["a king", "a doctor"]))
  examples = make_examples(corpus, vocabulary, answer_length=longest + 1)
  assert all(len(t) <= longest + 1 for a in examples.answers for t in a)
  with pytest.raises(ValueError, match=r"none of 1 questions can be trained"):
    make_examples(corpus, vocabulary, 2, QUESTIONS_WITH_ANSWERS[1:])


def test_questions_that_cannot_be_trained_on_are_left_out_and_counted(
  corpus, vocabulary
):
  long = Question("c", "who came", ("a king, a queen and a very old doctor",))
  regex = Question("d", "who went", (r"king\w*",), answer_type="regex")
  none = Question("e", "who knows", ())
  mixed = (long, *QUESTIONS_WITH_ANSWERS, regex, none, none)
  examples = make_examples(corpus, vocabulary, 8, mixed)
  assert examples.left_out == {
    "without an answer": 2,
    "with regular expressions for answers": 1,
    "with answers above 8 tokens": 1,
  }
  # What remains is what it was without them, gold rows included.
  plain = make_examples(corpus, vocabulary, 8)
  assert examples.answers == plain.answers
  assert examples.reader_tokens == plain.reader_tokens
  assert examples.gold == plain.gold == [-1, 7]
  for question, reason in (
    (long, "question c is with answers above 8"),
    (regex, "question d is with regular expressions"),
    (none, "question e is without an answer"),
  ):
    with pytest.raises(ValueError, match=reason):
      make_examples(corpus, vocabulary, 8, (question, *mixed), strict=True)


@pytest.mark.parametrize("force", [False, True])
def test_rows_are_chosen_without_their_own(force):
  r = np.random.default_rng(0)
  candidates = np.stack([r.permutation(12)[:7] for _ in range(20)])
  own = r.integers(-1, 12, (20, 3))
  gold = r.integers(-1, 12, 20)
  ours = choose_rows(
    jnp.asarray(candidates),
    jnp.asarray(own),
    jnp.asarray(gold),
    4,
    force_gold=force,
  )
  for i in range(20):
    kept = [c for c in candidates[i] if c not in set(own[i]) - {-1}][:4]
    if force and gold[i] >= 0 and gold[i] not in kept:
      kept[-1] = gold[i]
    assert ours[i].tolist() == kept
