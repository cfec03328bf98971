"""Inputs of pairs: order, special tokens, what is cut, and transformers."""

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from odqa_jax.text.alignment import answer_spans, token_span
from odqa_jax.text.byte_pairs import SPECIAL_TOKENS as BYTE_SPECIALS
from odqa_jax.text.byte_pairs import BytePairTokenizer
from odqa_jax.text.pairs import TEXT_MARKER, TITLE_MARKER, PairVocabulary
from odqa_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer

WORDS = "who wrote faust goethe german drama by".split()
VOCAB = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *WORDS])}
CLS, SEP = VOCAB["[CLS]"], VOCAB["[SEP]"]


@pytest.fixture
def vocabulary():
  return PairVocabulary(Tokenizer(VOCAB))


class WithMarkers:
  """A vocabulary with RoBERTa's pair of separators and unused entries."""

  vocab_size, pad_id, cls_id, sep_id = 50, 1, 0, 2
  pair_separator = (2, 2)
  fingerprint = "roberta"

  def encode_batch(self, texts):
    return [[10] for _ in texts]

  def encodings(self, texts):
    raise NotImplementedError

  def decode(self, ids):
    return {44: TEXT_MARKER, 45: TITLE_MARKER}.get(ids[0], "x")


def words(ids):
  names = {i: word for word, i in VOCAB.items()}
  return " ".join(names[i] for i in ids)


def encode(vocabulary, *texts):
  return vocabulary.encode_batch(texts)


def test_question_first(vocabulary):
  parts = encode(vocabulary, "who wrote faust", "faust", "german drama")
  pair = vocabulary.question_first(*parts, 20)
  assert words(pair.ids) == (
    "[CLS] who wrote faust [SEP] faust [SEP] german drama [SEP]"
  )
  assert words(pair.ids[: pair.first_length]) == "[CLS] who wrote faust [SEP]"
  text = pair.ids[pair.context_start : pair.context_end]
  assert words(text) == "german drama"
  bare = vocabulary.question_first(parts[0], None, parts[2], 20)
  assert words(bare.ids) == "[CLS] who wrote faust [SEP] german drama [SEP]"


def test_passage_first(vocabulary):
  parts = encode(vocabulary, "who wrote faust", "faust", "german drama")
  pair = vocabulary.passage_first(*parts, 20)
  assert words(pair.ids) == (
    "[CLS] german drama [SEP] who wrote faust [SEP] faust [SEP]"
  )
  assert words(pair.ids[: pair.first_length]) == "[CLS] german drama [SEP]"
  text = pair.ids[pair.context_start : pair.context_end]
  assert words(text) == "german drama"
  bare = vocabulary.passage_first(parts[0], None, parts[2], 20)
  assert words(bare.ids) == "[CLS] german drama [SEP] who wrote faust [SEP]"


def test_a_rerankers_input_with_markers():
  vocabulary = PairVocabulary(WithMarkers())
  pair = vocabulary.question_first([10, 11], [12], [13, 14], 30)
  assert pair.ids == [0, 10, 11, 2, 2, 45, 12, 44, 13, 14, 2]
  assert pair.first_length == 5
  assert (pair.context_start, pair.context_end) == (8, 10)
  read = vocabulary.passage_first([10, 11], [12], [13, 14], 30)
  assert read.ids == [0, 13, 14, 2, 2, 10, 11, 2, 12, 2]
  assert read.first_length == 5


@pytest.mark.parametrize("length", range(7, 13))
def test_a_reranker_loses_the_end_of_the_passage(vocabulary, length):
  parts = encode(vocabulary, "who wrote faust", "faust", "german drama by")
  whole = vocabulary.question_first(*parts, 50)
  pair = vocabulary.question_first(*parts, length)
  kept = min(length, len(whole.ids))
  assert pair.ids == [*whole.ids[: kept - 1], SEP]
  assert pair.context_end == len(pair.ids) - 1
  text = pair.ids[pair.context_start : pair.context_end]
  assert text == parts[2][: len(text)]


def test_a_title_may_leave_no_room_for_the_text(vocabulary):
  pair = vocabulary.question_first([6], [7] * 8, [8], 7)
  assert pair.ids == [CLS, 6, SEP, 7, 7, 7, SEP]
  assert (pair.context_start, pair.context_end) == (6, 6)


def test_parts_are_cut_to_their_share_and_the_title_first(vocabulary):
  question, title, text = [6] * 8, [7] * 8, [8] * 8

  def counts(length):
    ids = vocabulary.passage_first(question, title, text, length).ids
    assert len(ids) == min(length, 28)
    return [ids.count(i) for i in (6, 7, 8)]

  assert counts(28) == [8, 8, 8]
  assert counts(27) == [8, 7, 8]
  assert counts(26) == [8, 7, 7]
  assert counts(20) == [6, 5, 5]
  # A short title leaves room to the others.
  ids = vocabulary.passage_first(question, [7], text, 16).ids
  assert [ids.count(i) for i in (6, 7, 8)] == [7, 1, 4]


def test_no_room_is_refused(vocabulary):
  with pytest.raises(ValueError, match="question of 8 tokens leaves no room"):
    vocabulary.question_first([6] * 8, None, [7], 11)
  assert vocabulary.question_first([6] * 8, None, [7], 12).context_end == 11
  with pytest.raises(ValueError, match="pair_length=6 leaves no room"):
    vocabulary.passage_first([6], [7], [8], 6)


@pytest.fixture
def byte_pairs():
  """Every byte a piece, and RoBERTa's unused entries near the end."""
  pieces = [*BYTE_SPECIALS, *sorted(ByteLevel.alphabet())]
  pieces += [TEXT_MARKER, TITLE_MARKER]
  return BytePairTokenizer({piece: i for i, piece in enumerate(pieces)}, [])


def test_markers_of_a_byte_level_vocabulary_are_found(byte_pairs):
  vocabulary = PairVocabulary(byte_pairs)
  assert (vocabulary.text_marker, vocabulary.title_marker) == ((261,), (262,))
  pair = vocabulary.question_first(*encode(vocabulary, "a", "b", "c"), 20)
  sep = byte_pairs.sep_id
  a, b, c = (byte_pairs.encode(letter)[0] for letter in "abc")
  assert pair.ids == [0, a, sep, sep, 262, b, 261, c, sep]


def test_answers_in_bytes(byte_pairs):
  """A letter of two bytes has two tokens, and the space before is not its."""
  text = "nach Ürümqi, \u0308 und Ürümqi."
  encoding = byte_pairs.encodings([text])[0]
  starts, ends = zip(*encoding.offsets, strict=True)
  spans = answer_spans(text, ["ürümqi"])
  assert len(spans) == 2
  for span in spans:
    first, last = token_span(span, starts, ends)
    assert byte_pairs.decode(encoding.ids[first : last + 1]) == "Ürümqi"


@pytest.mark.torch
def test_pairs_are_those_of_transformers(vocabulary, tmp_path):
  transformers = pytest.importorskip("transformers")
  vocabulary.tokenizer.save(tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  both = ["who wrote faust", "goethe wrote german drama by goethe"]
  pair = vocabulary.question_first(
    encode(vocabulary, both[0])[0], None, encode(vocabulary, both[1])[0], 9
  )
  expected = theirs(*both, truncation="only_second", max_length=9)
  assert pair.ids == expected["input_ids"]
  types = [int(i >= pair.first_length) for i in range(len(pair.ids))]
  assert types == expected["token_type_ids"]
