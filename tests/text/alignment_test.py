"""Spans of answers against the rule of has_answer, and by hand."""

import gzip
import json
import random
import unicodedata

import pytest

from odqa_jax.text.alignment import answer_spans, token_span
from odqa_jax.text.answers import has_answer, normalise_answer
from odqa_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer


def found(text, answers, kind="string"):
  return [text[a:b] for a, b in answer_spans(text, answers, kind)]


@pytest.mark.parametrize(
  "text, answers, expected",
  [
    ("Born in Ulm. Ulm is old.", ["ulm"], ["Ulm", "Ulm"]),
    ("New York Ai", ["new york", "new york ai"], ["New York", "New York Ai"]),
    ("the Ulmer Ulm", ["ulm"], ["Ulm"]),
    ("a b a b a", ["a b a"], ["a b a", "a b a"]),
    ("U. S. Army, U.S. Army", ["U.S."], ["U. S.", "U.S."]),
    ("He was born.", ["?"], []),
    ("nothing", [" \u200b "], []),
    ("", ["x"], []),
    # Composed and decomposed, either side; case; a final sigma.
    ("Édith Piaf", ["edith piaf"], []),
    ("E\u0301dith Piaf", ["Édith piaf"], ["E\u0301dith Piaf"]),
    ("Édith Piaf", ["E\u0301DITH PIAF"], ["Édith Piaf"]),
    ("ΟΔΟΣ ΟΔΟΣ", ["οδος"], ["ΟΔΟΣ", "ΟΔΟΣ"]),
    ("in 서울 today", [unicodedata.normalize("NFD", "서울")], ["서울"]),
    ("İstanbul!", ["İSTANBUL"], ["İstanbul"]),
    ("𝔘lm and a 😀", ["😀"], ["😀"]),
  ],
)  # fmt: skip
def test_occurrences_by_hand(text, answers, expected):
  assert found(text, answers) == expected
  assert has_answer(text, answers) == bool(expected)


def test_marks_that_are_put_in_order_stay_with_their_letter():
  """A dot below is put before an acute, whichever was written first."""
  text = "x a\u0301\u0323b y"
  assert found(text, ["a\u0323\u0301b"]) == ["a\u0301\u0323b"]
  assert found(text, ["y"]) == ["y"]


@pytest.mark.parametrize(
  "text, patterns, expected",
  [
    ("in 1879 and 1905", [r"18\d\d|19\d\d"], ["1879", "1905"]),
    ("Gödel, GÖDEL", ["gödel"], ["Gödel", "GÖDEL"]),
    ("abc", ["x*"], []),
    ("été 12", [r"\d+"], ["12"]),
  ],
)
def test_regex_answers(text, patterns, expected):
  assert found(text, patterns, "regex") == expected


def test_another_kind_of_answer_is_refused():
  with pytest.raises(ValueError, match="answer_type 'words' is unknown"):
    answer_spans("x", ["x"], "words")


def test_there_is_a_span_exactly_where_the_answer_counts_as_there():
  r = random.Random(0)
  letters = "aAbB éÉe\u0301\u0323 .,-'’Σσς İi\u200b\u0300ß½漢가\n🙂"
  hits = 0
  for _ in range(3000):
    text = "".join(r.choice(letters) for _ in range(r.randint(0, 25)))
    answer = "".join(r.choice(letters) for _ in range(r.randint(1, 3)))
    if r.random() < 0.5:
      start = r.randint(0, len(text))
      answer = text[start : start + r.randint(1, 6)].swapcase()
    spans = answer_spans(text, [answer])
    assert bool(spans) == has_answer(text, [answer]), (text, answer)
    hits += bool(spans)
    for start, end in spans:
      # What is found is the answer, by the same rule.
      assert has_answer(text[start:end], [answer]), (text, answer)
  assert 300 < hits < 2700


def tokenizer(*pieces):
  words = [*SPECIAL_TOKENS, *pieces]
  return Tokenizer({word: i for i, word in enumerate(words)})


def test_tokens_of_spans_under_an_uncased_tokenizer():
  vocabulary = tokenizer("edith", "pia", "##f", "sang", ",", "e", "##d", "10")
  text = "Sang, ÉDITH  Piaf, E\u0301dith Piaf 10"
  encoding = vocabulary.encodings([text])[0]
  starts, ends = zip(*encoding.offsets, strict=True)
  spans = [
    token_span(span, starts, ends)
    for span in answer_spans(text, ["Édith Piaf", "10"])
  ]
  assert [encoding.tokens[a : b + 1] for a, b in spans] == [
    ["edith", "pia", "##f"],
    ["edith", "pia", "##f"],
    ["10"],
  ]


def test_a_token_over_the_border_belongs_to_the_span():
  starts, ends = [0, 3, 3, 6], [3, 6, 6, 9]
  assert token_span((4, 5), starts, ends) == (1, 2)
  assert token_span((2, 7), starts, ends) == (0, 3)
  assert token_span((3, 6), starts, ends) == (1, 2)
  assert token_span((9, 12), starts, ends) is None
  assert token_span((1, 2), [0, 4], [1, 5]) is None


def test_spans_of_real_answers_decode_to_them(shared_data):
  """SQuAD's answers in its paragraphs, through BERT's own word pieces."""
  vocabulary = load_tokenizer(shared_data / "tokenizers" / "bert-uncased")
  with gzip.open(shared_data / "squad_dev" / "paragraphs.jsonl.gz") as file:
    passages = [json.loads(line) for line in file]
  texts = {(p["title"], p["paragraph"]): p["context"] for p in passages}
  with gzip.open(shared_data / "squad_dev" / "questions.jsonl.gz") as file:
    questions = [json.loads(line) for line in file][::20]
  asked = [texts[q["title"], q["paragraph"]] for q in questions]
  encodings = vocabulary.encodings(asked)
  found = same = count = 0
  for question, text, encoding in zip(questions, asked, encodings, strict=True):
    answers = question["answers"]
    starts, ends = zip(*encoding.offsets, strict=True)
    spans = answer_spans(text, answers)
    assert bool(spans) == has_answer(text, answers)
    found += bool(spans)
    wanted = {normalise_answer(answer) for answer in answers}
    for span in spans:
      assert normalise_answer(text[slice(*span)]) in wanted
      first, last = token_span(span, starts, ends)
      assert starts[first] <= span[0] < ends[first]
      assert starts[last] < span[1] <= ends[last]
      # Word pieces are cut at punctuation, but not at every symbol.
      same += (starts[first], ends[last]) == span
      count += 1
  assert found > 0.98 * len(questions)
  assert same > 0.99 * count
