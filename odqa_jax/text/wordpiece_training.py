"""Trains WordPiece vocabularies: the same texts give the same one."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from odqa_jax.text.tokenizer import NORMALISER, SPECIAL_TOKENS, Tokenizer

# Rarer characters become [UNK]: they would crowd out whole words.
_ALPHABET_LIMIT = 1000


def train_wordpiece(
  texts: Iterable[str],
  vocab_size: int = 8192,
  progress: Callable[[int, int], None] | None = None,
) -> Tokenizer:
  """Trains an uncased WordPiece vocabulary; the same texts give the same one.

  Ids are: the special tokens, the alphabet, its `##` forms, then merged
  pieces from frequent to rare. The texts are held in memory.

  Args:
    texts: a sample of the corpus; some 10,000 passages are enough.
    vocab_size: number of tokens at most (short texts give fewer).
    progress: called as `progress(texts done, of all)`, for each of two rounds.

  Raises:
    ValueError: if there is no text, or `vocab_size` is less than the special
      tokens and the alphabet need.
  """
  texts = list(texts)
  rounds = _Rounds(texts, progress)
  words = _count_words(rounds)
  letters = Counter[str]()
  for word, count in words.items():
    for letter in word:
      letters[letter] += count
  if not letters:
    raise ValueError(
      f"{len(texts)} texts hold no character to train a vocabulary on; give "
      "at least one text with words."
    )
  kept = sorted(letters, key=lambda c: (-letters[c], c))
  alphabet = sorted(kept[:_ALPHABET_LIMIT])
  # The trainer numbers the `##` forms, and breaks ties, in the order of a
  # seeded hash map; given sorted as special tokens, which come first, their
  # order is fixed.
  known = set(alphabet)
  inner = {c for word in words for c in word[1:] if c in known}
  reserved = [*SPECIAL_TOKENS, *alphabet, *sorted(f"##{c}" for c in inner)]
  if vocab_size < len(reserved):
    raise ValueError(
      f"vocab_size {vocab_size} is too small: the special tokens and the "
      f"alphabet of these texts need {len(reserved)}; raise it."
    )
  vocab = _train(rounds, reserved, alphabet, vocab_size)
  return Tokenizer(vocab, source="the trained vocabulary")


class _Rounds:
  """Texts that tell how often they were read."""

  def __init__(
    self,
    texts: Sequence[str],
    progress: Callable[[int, int], None] | None,
  ) -> None:
    self._texts, self._progress = texts, progress
    self._done = 0

  def __iter__(self) -> Iterator[str]:
    for text in self._texts:
      yield text
      self._done += 1
      if self._progress and self._done % 1000 == 0:
        self._progress(self._done, 2 * len(self._texts))


def _count_words(texts: Iterable[str]) -> Counter[str]:
  """How often every word occurs that the trainer will see."""
  # The rules cut at a space, so each word between two is taken apart once.
  raw: Counter[str] = Counter()
  for text in texts:
    raw.update(text.split(" "))
  normaliser = normalizers.BertNormalizer(**NORMALISER)
  cutter = pre_tokenizers.BertPreTokenizer()
  words: Counter[str] = Counter()
  for word, count in raw.items():
    for piece, _ in cutter.pre_tokenize_str(normaliser.normalize_str(word)):
      words[piece] += count
  return words


def _train(
  texts: Iterable[str],
  reserved: list[str],
  alphabet: list[str],
  vocab_size: int,
) -> dict[str, int]:
  """Runs the library's trainer; `reserved` tokens get the first ids."""
  backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
  backend.normalizer = normalizers.BertNormalizer(**NORMALISER)
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  trainer = trainers.WordPieceTrainer(
    vocab_size=vocab_size,
    show_progress=False,
    special_tokens=reserved,
    initial_alphabet=alphabet,
    limit_alphabet=len(alphabet),
    continuing_subword_prefix="##",
  )
  backend.train_from_iterator(texts, trainer)
  return backend.get_vocab()
