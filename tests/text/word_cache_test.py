"""The cache of words against the tokenizers themselves."""

import random
from pathlib import Path

import numpy as np
import pytest

from odqa_jax.text import word_cache
from odqa_jax.text.sentencepiece import load_any_tokenizer
from odqa_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from odqa_jax.text.word_cache import WordCache
from odqa_jax.text.wordpiece_training import train_wordpiece

# Spaces of all kinds, what is removed, combining and joined characters, and
# tokens that are spelt out.
PIECES = [
  *" \t\n\r\x0b\x1c\x85\u00a0\u2003\u3000\u200b\ufeff\x00\x07\u0301\u0308",
  *"aAbΣςİßé東京한ﬁ½.,!?'\"()-_$[]<>/0123456789😀🇩🇪",
  *("the", "The", "end.", "[SEP]", "[MASK]", "</s>", "<extra_id_0>"),
  *("  ", " .", ". ", "don't", "e\u0301", " \u0308", "x" * 120),
]


def random_texts(seed: int, count: int) -> list[str]:
  rng = random.Random(seed)
  return [
    "".join(rng.choices(PIECES, k=rng.randint(0, 30))) for _ in range(count)
  ]


def check(tokenizer, texts: list[str], cache: WordCache) -> None:
  tokens, lengths = cache.encode(texts)
  expected = tokenizer.encode_batch(texts)
  assert lengths.tolist() == [len(ids) for ids in expected]
  assert tokens.tolist() == [i for ids in expected for i in ids]


def tokenizers(shared_data: Path):
  for name in ("bert-uncased", "t5-base"):
    yield load_any_tokenizer(shared_data / "tokenizers" / name)


@pytest.fixture(scope="module")
def small() -> Tokenizer:
  return train_wordpiece(["the end. The fox ran to the 東京 tower, aAb é."], 60)


def test_any_text_has_the_ids_of_the_tokenizer(small):
  cache = WordCache(small)
  for seed in range(20):
    check(small, random_texts(seed, 50), cache)


def test_published_tokenizers(shared_data):
  for tokenizer in tokenizers(shared_data):
    cache = WordCache(tokenizer)
    assert tokenizer.cuts_at_spaces
    for seed in range(30):
      check(tokenizer, random_texts(seed, 50), cache)


@pytest.mark.slow
def test_ten_thousand_random_texts(shared_data):
  for tokenizer in tokenizers(shared_data):
    cache = WordCache(tokenizer)
    for seed in range(100, 200):
      check(tokenizer, random_texts(seed, 100), cache)


def test_a_word_is_tokenised_once(small, monkeypatch):
  asked: list[str] = []
  plain = Tokenizer.encode_batch

  def noted(self, texts):
    asked.extend(texts)
    return plain(self, texts)

  monkeypatch.setattr(Tokenizer, "encode_batch", noted)
  cache = WordCache(small)
  cache.encode(["the fox  ran", "the end. the"])
  assert sorted(asked) == ["", "end.", "fox", "ran", "the"]
  cache.encode(["ran the fox", "tower"])
  assert sorted(asked) == ["", "end.", "fox", "ran", "the", "tower"]


@pytest.mark.parametrize("words", [1, 3, 10])
def test_few_words_are_remembered(small, words):
  cache = WordCache(small, words)
  for seed in range(10):
    check(small, random_texts(seed, 20), cache)
    assert len(cache._index) <= words
    assert len(cache._ends) == len(cache._index) + 1
    assert len(cache._ids) == cache._ends[-1]
    assert max(map(len, cache._index)) <= 64


@pytest.mark.parametrize("block", [1, 7, 100])
def test_long_texts_are_taken_in_pieces(small, block, monkeypatch):
  monkeypatch.setattr(word_cache, "_BLOCK", block)
  for seed in range(10):
    check(small, random_texts(seed, 20), WordCache(small))
  check(small, ["", "x" * 500, " " * 50, "a b", ""], WordCache(small))
  check(small, [], WordCache(small))


@pytest.mark.parametrize(
  "flags",
  [{"content": "new york"}, {"content": "york", "lstrip": True}],
  ids=str,
)
def test_a_token_over_a_space_is_not_cut(flags):
  pieces = [*SPECIAL_TOKENS, "new", "york", "to", "y"]
  vocab = {token: i for i, token in enumerate(pieces)}
  added = {"normalized": True, "special": False, "id": len(pieces), **flags}
  if flags["content"] == "york":
    added["id"] = vocab["york"]
  tokenizer = Tokenizer(vocab, added_tokens=[added])
  assert not tokenizer.cuts_at_spaces
  check(tokenizer, ["to new york", "york new york"], WordCache(tokenizer))


def test_ids_of_large_vocabularies_fit():
  vocab = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
  vocab |= {f"w{i}": 5 + i for i in range(70_000)}
  cache = WordCache(Tokenizer(vocab))
  tokens, _ = cache.encode(["w69999 w0"])
  assert tokens.tolist() == [70_004, 5] and tokens.dtype == np.uint32


def test_bad_unicode_is_named(small):
  with pytest.raises(ValueError, match="lone surrogate"):
    WordCache(small).encode(["a", "b \ud800"])
