"""What a reader reads and writes; word pieces put back into answers."""

import ast
import csv
import gzip
import json
import unicodedata
from pathlib import Path

import pytest
from toy_pieces import make_tokenizer

from odqa_jax.text.answers import exact_match
from odqa_jax.text.reader_vocabulary import (
  ReaderVocabulary,
  SentencePieceVocabulary,
  WordPieceVocabulary,
  reader_vocabulary,
)
from odqa_jax.text.sentencepiece import load_sentencepiece
from odqa_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer
from odqa_jax.text.word_joining import join_words

WORDS = [*SPECIAL_TOKENS, "un", "##aff", "##able", "the", "10", ",", "000", "."]


@pytest.fixture
def word_pieces() -> WordPieceVocabulary:
  return WordPieceVocabulary(Tokenizer({w: i for i, w in enumerate(WORDS)}))


def test_word_pieces_get_begin_end_and_sentinels(word_pieces):
  count = len(WORDS)
  assert isinstance(word_pieces, ReaderVocabulary)
  assert (word_pieces.start_id, word_pieces.eos_id) == (count, count + 1)
  assert word_pieces.sentinel_ids == tuple(range(count + 2, count + 102))
  assert word_pieces.size == count + 102
  assert word_pieces.pad_id == 0
  assert word_pieces.question_prefix == (2,)
  assert word_pieces.title_prefix == word_pieces.passage_prefix == (3,)
  assert word_pieces.suffix == (3,)
  assert word_pieces.encode_batch(["unaffable", ""]) == [[5, 6, 7], []]


def test_what_is_no_text_is_left_out(word_pieces):
  v = word_pieces
  ids = [v.start_id, 2, 8, v.sentinel_ids[0], 5, 6, 7, 0, v.sentinel_ids[99]]
  assert v.decode([*ids, v.eos_id, 8]) == "the unaffable"
  assert v.decode([*ids, 8]) == "the unaffable the"
  assert v.decode([6, 7, 8]) == "affable the"
  # A reader's embedding may have more rows than there are ids.
  assert v.decode([8, v.size + 20]) == "the"
  assert v.decode([]) == v.decode([v.eos_id]) == ""
  with pytest.raises(IndexError, match=r"id -1 is negative"):
    v.decode([8, -1])


def test_sentence_pieces_are_t5s():
  tokenizer = make_tokenizer()
  v = reader_vocabulary(tokenizer)
  assert isinstance(v, SentencePieceVocabulary)
  assert isinstance(v, ReaderVocabulary)
  assert (v.pad_id, v.start_id, v.eos_id) == (0, 0, 1)
  assert v.sentinel_ids == tokenizer.sentinel_ids
  assert v.size == tokenizer.vocab_size
  prefixes = v.question_prefix, v.title_prefix, v.passage_prefix
  words = ["question:", "title:", "context:"]
  assert [tokenizer.decode(p) for p in prefixes] == words
  assert v.suffix == (1,)
  ids = v.encode_batch(["the river"])[0]
  written = [0, v.sentinel_ids[3], *ids, v.size + 5, 1, *ids]
  assert v.decode(written) == "the river"


def test_too_few_sentinels_are_refused():
  with pytest.raises(ValueError, match=r"has 99 of the 100 tokens"):
    SentencePieceVocabulary(make_tokenizer(99))


def test_fingerprints_tell_vocabularies_apart(word_pieces):
  vocab = {w: i for i, w in enumerate(WORDS)}
  other = Tokenizer(vocab, normaliser={"lowercase": False})
  found = [
    word_pieces.fingerprint,
    WordPieceVocabulary(other).fingerprint,
    reader_vocabulary(make_tokenizer()).fingerprint,
  ]
  assert len({*found, Tokenizer(vocab).fingerprint}) == 4
  assert reader_vocabulary(Tokenizer(vocab)).fingerprint == found[0]


# Answers of public question sets, in lower case, and made ones.
ANSWERS = """
10,000 km|1,800,000|july 4, 1776|$1.5 million|us$11,770|€9.88 per hour|3.14|.500
u.s.|u.s. president john f. kennedy|washington, d.c., united states|n.w.a|r.e.m.
p. t. rajan|e. l. james|george h. w. bush|louis c.k.|8:10 p.m.|11 p.m. to 3 a.m.
o'neill|states' rights|mother's day|'twas the night|summer '95|rock'n'roll
35.97333°n|utc+8|utc−07:00|50%|40 %-ish|catch-22|1939–1945|st. mary's, john
and/or|at&t|simon & garfunkel|m*a*s*h|(what's so funny) love|say "yes" to it
star trek: voyager|9:30|amazon.com|who? me!|the first; the second|a_b|c++
article 3 (b)|"weird al" yankovic|¿qué?|countries — in asia|1982 -- 83
"""
GUESSED = {"40 %-ish": "40%-ish", "¿qué?": "¿que?"}


@pytest.fixture(scope="session")
def bert(shared_data) -> WordPieceVocabulary:
  folder = shared_data / "tokenizers" / "bert-uncased"
  return WordPieceVocabulary(load_tokenizer(folder))


@pytest.mark.parametrize(
  "answer", ANSWERS.strip().replace("\n", "|").split("|")
)
def test_answers_come_back(bert, answer):
  assert bert.decode(bert.encode_batch([answer])[0]) == GUESSED.get(
    answer, answer
  )


def test_words_by_hand():
  assert join_words([]) == ""
  assert join_words(["u", ".", "s", "."]) == "u.s."
  assert join_words(["j", ".", "r", ".", "tolkien"]) == "j. r. tolkien"
  assert join_words(["a", ".", "k", ".", "a", ".", "me"]) == "a.k.a. me"
  assert join_words(["a"]) == "a"
  assert join_words(["no", ".", "5"]) == "no. 5"
  assert join_words([".", ".", "."]) == "..."


def without_accents(text: str) -> str:
  text = unicodedata.normalize("NFD", text)
  return "".join(c for c in text if unicodedata.category(c) != "Mn")


def published_answers(data: Path) -> dict[str, list[str]]:
  with gzip.open(data / "nq_open" / "NQ-open.dev.jsonl.gz") as file:
    nq = [json.loads(line)["answer"] for line in file]
  with gzip.open(data / "squad_dev" / "questions.jsonl.gz") as file:
    squad = [json.loads(line)["answers"] for line in file]
  with gzip.open(data / "entity_questions" / "dev.jsonl.gz") as file:
    entities = [json.loads(line)["answers"] for line in file]
  path = data / "triviaqa_open" / "topics.dpr.trivia.dev.txt.gz"
  with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
    rows = csv.reader(file, delimiter="\t")
    trivia = [ast.literal_eval(row[1]) for row in rows]
  sets = {"nq": nq, "squad": squad, "entities": entities, "trivia": trivia}
  return {
    name: sorted({a for answers in lists for a in answers})[:8000]
    for name, lists in sets.items()
  }


def test_published_answers_match_after_the_way_through(bert, shared_data):
  """Accents aside, which uncased word pieces do not keep."""
  least = {"nq": 0.995, "squad": 0.995, "entities": 0.998, "trivia": 0.975}
  for name, answers in published_answers(shared_data).items():
    ids = bert.encode_batch(answers)
    same = [
      exact_match(bert.decode(i), [without_accents(a)])
      for i, a in zip(ids, answers, strict=True)
      if 100 not in i  # [UNK]
    ]
    assert sum(same) / len(same) > least[name], name


def test_t5_answers_match_after_the_way_through(shared_data):
  v = SentencePieceVocabulary(
    load_sentencepiece(shared_data / "tokenizers" / "t5-base")
  )
  assert v.question_prefix == (822, 10)
  for name, answers in published_answers(shared_data).items():
    ids = v.encode_batch(answers)
    same = [
      exact_match(v.decode(i), [a])
      for i, a in zip(ids, answers, strict=True)
      if 2 not in i  # <unk>
    ]
    assert sum(same) / len(same) > 0.995, name
