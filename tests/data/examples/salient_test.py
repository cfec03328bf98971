"""Masked sentences: examples made of a corpus and its salient spans."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_names import (
  NAMES,
  TEXTS,
  Names,
  make_corpus,
  make_long,
  make_small,
  read,
)

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.loader import Examples, train_batches
from odqa_jax.data.examples.salient import SalientExamples
from odqa_jax.data.mining.spans import Spans
from odqa_jax.data.mining.spans_build import build_spans
from odqa_jax.text.reader_vocabulary import (
  ReaderVocabulary,
  WordPieceVocabulary,
  reader_vocabulary,
)
from odqa_jax.text.sentencepiece import load_sentencepiece
from odqa_jax.text.wordpiece_training import train_wordpiece


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Spans]:
  return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def corpus(small: tuple[Corpus, Spans]) -> Corpus:
  return small[0]


@pytest.fixture(scope="module")
def spans(small: tuple[Corpus, Spans]) -> Spans:
  return small[1]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Spans]:
  return make_long(tmp_path_factory.mktemp("long"))


LIMITS = ("question_length", "reader_question_length", "answer_length")


def make_examples(
  corpus: Corpus, spans: Spans, **options: Any
) -> SalientExamples:
  settings: dict[str, Any] = {
    "question_length": 512,
    "reader_question_length": 512,
    "answer_length": 64,
  }
  vocabulary = options.pop("vocabulary", WordPieceVocabulary(corpus.tokenizer))
  return SalientExamples(corpus, spans, vocabulary, **settings | options)


def whole_batch(
  examples: SalientExamples, seed: int = 0, indices: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
  chosen = np.arange(len(examples)) if indices is None else np.array(indices)
  rng = np.random.default_rng(seed)
  return examples.batch(chosen, rng, slice(0, len(chosen)))


def unpad(batch: dict[str, np.ndarray], name: str, i: int) -> list[int]:
  ids, length = batch[f"{name}_ids"][i].tolist(), batch[f"{name}_lengths"][i]
  assert not any(ids[length:])  # The padding's id is 0 in both.
  return ids[:length]


def split_target(
  target: list[int], vocabulary: ReaderVocabulary
) -> list[list[int]]:
  """The spans of a target, which sentinels in order introduce."""
  assert target[-1] == vocabulary.eos_id
  spans: list[list[int]] = []
  for token in target[:-1]:
    if token in vocabulary.sentinel_ids:
      assert token == vocabulary.sentinel_ids[len(spans)]
      spans.append([])
    else:
      spans[-1].append(token)
  return spans


def fill(tokens: list[int], marks: Sequence[int], spans: list[list[int]]):
  """`tokens` with the next span in the place of every mark."""
  rest = iter(spans)
  filled = [t for i in tokens for t in (next(rest) if i in marks else [i])]
  assert next(rest, None) is None
  return filled


@pytest.mark.parametrize("many", [1, 3, 100])
def test_putting_the_spans_back_gives_the_sentence(
  long: tuple[Corpus, Spans], many: int
) -> None:
  corpus, spans = long
  examples = make_examples(corpus, spans, spans_per_example=many)
  vocabulary, special = examples.vocabulary, corpus.tokenizer
  batch = whole_batch(examples)
  assert len(examples) == len(spans) == len(batch["question_ids"])
  wanted = np.minimum(np.diff(spans.entity_offsets), many).tolist()
  for i, (row, text, entities) in enumerate(read(corpus, spans)):
    sentence = special.encode(text)
    chosen = split_target(unpad(batch, "answer", i), vocabulary)
    question = unpad(batch, "question", i)
    assert (question[0], question[-1]) == (special.cls_id, special.sep_id)
    assert fill(question[1:-1], [special.mask_id], chosen) == sentence
    reader = unpad(batch, "reader_question", i)
    assert fill(reader, vocabulary.sentinel_ids, chosen) == sentence
    assert [t for t in reader if t >= vocabulary.start_id] == list(
      vocabulary.sentinel_ids[: len(chosen)]
    )
    if many == 100:
      assert chosen == [special.encode(name) for name in entities]
    names = Counter(tuple(special.encode(name)) for name in entities)
    assert not Counter(map(tuple, chosen)) - names
    # The target's 64 tokens hold up to about ten names.
    assert len(chosen) == wanted[i] or many == 100
    assert batch["excluded_rows"][i, 0] == row
  assert (batch["gold_rows"] == -1).all() and batch["example_mask"].all()
  for name, values in batch.items():
    assert values.dtype == (bool if name == "example_mask" else np.int32)


def test_every_span_of_a_sentence_is_drawn_equally_often(
  corpus: Corpus, spans: Spans
) -> None:
  examples = make_examples(corpus, spans)
  batch = whole_batch(examples, indices=[0] * 3000)
  drawn = Counter(tuple(unpad(batch, "answer", i)) for i in range(3000))
  assert len(drawn) == 3
  # Five standard deviations of a binomial count.
  assert all(abs(n - 1000) < 5 * (3000 * 2 / 9) ** 0.5 for n in drawn.values())


def test_order_decides_and_hosts_agree(long: tuple[Corpus, Spans]) -> None:
  examples = make_examples(*long, spans_per_example=2)
  indices = np.array([5, 200, 5, 31, 77, 12, 290, 6])
  whole = whole_batch(examples, 7, indices.tolist())
  again = whole_batch(examples, 7, indices.tolist())
  other = whole_batch(examples, 8, indices.tolist())
  for name, values in whole.items():
    np.testing.assert_array_equal(values, again[name])
    parts = [
      examples.batch(indices, np.random.default_rng(7), rows)[name]
      for rows in (slice(0, 3), slice(3, 4), slice(4, 8))
    ]
    np.testing.assert_array_equal(values, np.concatenate(parts))
  assert any(
    (whole[n] != other[n]).any() for n in ("answer_ids", "excluded_rows")
  )


def test_limits_are_met_exactly(long: tuple[Corpus, Spans]) -> None:
  corpus, spans = long
  encode = corpus.tokenizer.encode
  sizes = np.array(
    [
      (len(encode(text)) - len(encode(name)) + 1, len(encode(name)))
      for _, text, names in read(corpus, spans)
      for name in names
    ]
  )
  question, span = sizes.T
  for name, needed in zip(
    LIMITS, (question + 2, question, span + 2), strict=True
  ):
    for limit in np.unique(needed)[1:-1].tolist():
      some = make_examples(corpus, spans, **{name: limit})
      assert some.left_out[name] == (needed > limit).sum()
      assert sum(some.left_out.values()) == some.left_out[name]


def test_nothing_is_cut_at_the_limits(long: tuple[Corpus, Spans]) -> None:
  corpus, spans = long
  examples = make_examples(
    corpus,
    spans,
    question_length=24,
    reader_question_length=20,
    answer_length=6,
    spans_per_example=2,
  )
  assert all(examples.left_out[name] for name in LIMITS)
  special, vocabulary = corpus.tokenizer, examples.vocabulary
  sentences = {
    (row, tuple(special.encode(text))) for row, text, _ in read(corpus, spans)
  }
  batch = whole_batch(examples)
  for i, (row, *_) in enumerate(batch["excluded_rows"].tolist()):
    chosen = split_target(unpad(batch, "answer", i), vocabulary)
    question = unpad(batch, "question", i)[1:-1]
    reader = unpad(batch, "reader_question", i)
    for tokens, marks in (
      (question, [special.mask_id]),
      (reader, vocabulary.sentinel_ids),
    ):
      assert (row, tuple(fill(tokens, marks, chosen))) in sentences
  widths = [batch[name.replace("length", "ids")].shape[1] for name in LIMITS]
  assert widths == [24, 20, 6]


def test_several_spans_stop_at_the_length_of_the_target(
  long: tuple[Corpus, Spans],
) -> None:
  corpus, spans = long
  examples = make_examples(
    corpus, spans, spans_per_example=100, answer_length=14
  )
  vocabulary = examples.vocabulary
  batch = whole_batch(examples)
  counts = set()
  for i in range(len(examples)):
    target = unpad(batch, "answer", i)
    assert len(target) <= 14 and target[-1] == vocabulary.eos_id
    counts.add(len(split_target(target, vocabulary)))
  assert 1 in counts and max(counts) > 1


def test_copies_of_the_passage_are_excluded_rows(
  corpus: Corpus, spans: Spans, long: tuple[Corpus, Spans]
) -> None:
  batch = whole_batch(make_examples(corpus, spans))
  assert batch["excluded_rows"].tolist() == [
    [0, -1], [1, 4], [2, -1], [4, 1], [4, 1],
  ]  # fmt: skip
  corpus, spans = long
  texts = [corpus.text(row) for row in range(len(corpus))]
  for own in whole_batch(make_examples(corpus, spans))[
    "excluded_rows"
  ].tolist():
    same = [r for r, text in enumerate(texts) if text == texts[own[0]]]
    assert sorted(r for r in own if r >= 0) == same


def test_passages_with_many_copies_are_left_out(tmp_path: Path) -> None:
  text = "He saw Zürich before the rest of them."
  texts = [(f"t{i}", text) for i in range(9)]
  texts.append(("other", "Later he moved to London for good."))
  texts += [(f"u{i}", texts[-1][1]) for i in range(7)]
  corpus = make_corpus(tmp_path / "c", texts)
  build_spans(corpus, tmp_path / "s", Names(NAMES))
  examples = make_examples(corpus, Spans.open(tmp_path / "s"))
  assert examples.left_out["many_copies"] == 9
  own = whole_batch(examples)["excluded_rows"]
  assert own.shape == (8, 8)
  assert np.sort(own, axis=1).tolist() == [list(range(9, 17))] * 8


def test_the_loader_takes_them(corpus: Corpus, spans: Spans) -> None:
  examples = make_examples(corpus, spans)
  assert isinstance(examples, Examples)
  batches = train_batches(examples, 4, seed=3, rows=slice(1, 3))
  seen = [next(batches) for _ in range(5)]
  assert all(batch["question_ids"].shape[0] == 2 for batch in seen)


def test_spans_of_something_else_are_refused(
  corpus: Corpus, spans: Spans, tmp_path: Path
) -> None:
  other = make_corpus(tmp_path / "a", TEXTS[:2], corpus.tokenizer)
  ours, theirs = spans.manifest["corpus"][:12], other.fingerprint[:12]
  with pytest.raises(ValueError, match=f"the corpus {ours}…, but .* {theirs}…"):
    make_examples(other, spans)
  words = train_wordpiece([text for _, text in TEXTS], 150)
  other = make_corpus(tmp_path / "b", TEXTS, words)
  ours, theirs = spans.manifest["tokenizer"][:12], words.fingerprint[:12]
  with pytest.raises(ValueError, match=f"the tokenizer {ours}…, .* {theirs}…"):
    make_examples(other, spans)


@pytest.mark.parametrize("many", [0, 101])
def test_as_many_spans_as_sentinels(
  corpus: Corpus, spans: Spans, many: int
) -> None:
  with pytest.raises(
    ValueError, match=rf"spans_per_example={many}: .* 100 sen"
  ):
    make_examples(corpus, spans, spans_per_example=many)


def test_nothing_that_fits_is_refused(corpus: Corpus, spans: Spans) -> None:
  with pytest.raises(ValueError, match=r"none of the 7 .*'answer_length': 7"):
    make_examples(corpus, spans, answer_length=2)


class Characters:
  """A reader on characters, in which a text's halves are longer than it."""

  size, pad_id, start_id, eos_id = 2**17, 0, 1, 2
  sentinel_ids = tuple(range(2**17 - 100, 2**17))
  fingerprint = "characters"
  question_prefix = title_prefix = passage_prefix = suffix = ()

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [[5, 5, 5, 5, *map(ord, text)] for text in texts]

  def decode(self, ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))

  def save(self, directory):
    raise NotImplementedError


def test_another_readers_questions_are_made_of_the_text(
  long: tuple[Corpus, Spans],
) -> None:
  corpus, spans = long
  examples = make_examples(
    corpus, spans, vocabulary=Characters(), spans_per_example=2
  )
  batch = whole_batch(examples)
  for i, (_, text, _) in enumerate(read(corpus, spans)):
    chosen = split_target(unpad(batch, "answer", i), examples.vocabulary)
    reader = unpad(batch, "reader_question", i)
    filled = fill(reader, Characters.sentinel_ids, chosen)
    letters = "".join(chr(t) for t in filled if t != 5)
    assert letters.replace(" ", "") == text.replace(" ", "")
    # As many masks for the retriever as sentinels for the reader.
    question = unpad(batch, "question", i)
    assert question.count(corpus.tokenizer.mask_id) == len(chosen)


def test_another_readers_questions_are_cut_around_their_span(
  long: tuple[Corpus, Spans],
) -> None:
  corpus, spans = long
  limit, first = 70, Characters.sentinel_ids[0]
  examples = make_examples(
    corpus,
    spans,
    vocabulary=Characters(),
    spans_per_example=2,
    reader_question_length=limit,
  )
  encode = examples.vocabulary.encode_batch
  questions: dict[int, list[list[int]]] = {}
  for row, text, names in read(corpus, spans):
    for name in names:
      for match in re.finditer(re.escape(name), text):
        ends = [text[: match.start()].strip(), text[match.end() :].strip()]
        before, after = encode(ends)
        questions.setdefault(row, []).append([*before, first, *after])
  batch = whole_batch(examples)
  cut = 0
  for i in range(len(examples)):
    chosen = split_target(unpad(batch, "answer", i), examples.vocabulary)
    reader = unpad(batch, "reader_question", i)
    assert len(reader) <= limit
    question = unpad(batch, "question", i)
    assert question.count(corpus.tokenizer.mask_id) == len(chosen)
    assert len(chosen) == sum(t in Characters.sentinel_ids for t in reader)
    if len(chosen) == 1:
      known = questions[int(batch["excluded_rows"][i, 0])]
      assert any(is_window(reader, k) for k in known)
      cut += reader not in known
      # Whole, or as long as may be with as much on both sides as there is.
      assert reader in known or len(reader) == limit
  assert 50 < cut < len(examples)


def is_window(part: list[int], whole: list[int]) -> bool:
  starts = range(len(whole) - len(part) + 1)
  return any(whole[i : i + len(part)] == part for i in starts)


def test_a_published_t5_reads_the_sentence(
  long: tuple[Corpus, Spans], shared_data: Path
) -> None:
  corpus, spans = long
  vocabulary = reader_vocabulary(
    load_sentencepiece(shared_data / "tokenizers" / "t5-base")
  )
  examples = make_examples(
    corpus, spans, vocabulary=vocabulary, spans_per_example=3
  )
  sentences = [text for _, text, _ in read(corpus, spans)]

  def letters(tokens: list[int]) -> str:
    return vocabulary.decode(tokens).replace(" ", "")

  batch = whole_batch(examples)
  for i, whole in enumerate(vocabulary.encode_batch(sentences)):
    chosen = split_target(unpad(batch, "answer", i), vocabulary)
    reader = unpad(batch, "reader_question", i)
    assert letters(fill(reader, vocabulary.sentinel_ids, chosen)) == letters(
      whole
    )
