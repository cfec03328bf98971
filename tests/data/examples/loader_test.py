"""Batches: the same order for the same seed, resumed, split over hosts."""

import numpy as np
import pytest

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.batch import BUCKETS, bucket_length
from odqa_jax.data.examples.ict import IctExamples, make_blocks
from odqa_jax.data.examples.loader import question_batches, train_batches
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.runtime.settings import read_settings


@pytest.fixture
def corpus(toy_data):
  return Corpus(toy_data / "corpus")


def ict(corpus, keep_query=0.1, passage_length=64, title=True):
  return IctExamples(
    corpus,
    question_length=32,
    passage_length=passage_length,
    keep_query=keep_query,
    title=title,
  )


def pairs(toy_config, **settings):
  config = toy_config(**settings)
  return load_examples(read_settings(config).data, Corpus(config.data.corpus))


def take(batches, n):
  return [next(batches) for _ in range(n)]


def assert_same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("source", ["ict", "pairs"])
def test_same_seed_same_batches_and_another_seed_others(
  toy_config, corpus, source
):
  examples = ict(corpus) if source == "ict" else pairs(toy_config)

  def batches(seed):
    return train_batches(examples, 16, seed=seed, rows=slice(0, 16))

  one, same, other = (take(batches(seed), 3) for seed in (1, 1, 2))
  for a, b in zip(one, same, strict=True):
    assert_same(a, b)
  assert not np.array_equal(one[0]["passage_rows"], other[0]["passage_rows"])


def test_resumed_loader_goes_on_with_the_next_batch(toy_config):
  examples = pairs(toy_config)
  whole = train_batches(examples, 16, seed=1, rows=slice(0, 16))
  take(whole, 9)  # Beyond the first epoch of 100 examples.
  state = whole.get_state()
  resumed = train_batches(examples, 16, seed=1, rows=slice(0, 16))
  resumed.set_state(state)
  for a, b in zip(take(whole, 3), take(resumed, 3), strict=True):
    assert_same(a, b)


@pytest.mark.parametrize("source", ["ict", "pairs"])
def test_hosts_hold_the_parts_of_one_global_batch(toy_config, corpus, source):
  examples = ict(corpus) if source == "ict" else pairs(toy_config)
  parts = [
    next(train_batches(examples, 16, seed=4, rows=rows))
    for rows in (slice(0, 16), slice(0, 8), slice(8, 16))
  ]
  whole, first, second = parts
  joined = {k: np.concatenate([first[k], second[k]]) for k in whole}
  assert_same(whole, joined)


@pytest.mark.parametrize("source", ["ict", "pairs"])
def test_rows_beyond_the_batch_are_filled_and_masked(
  toy_config, corpus, source
):
  """Of 5 examples over 4 hosts of 2 rows each, the last host has none."""
  examples = ict(corpus) if source == "ict" else pairs(toy_config)

  def batches(rows):
    return take(train_batches(examples, 5, seed=0, rows=rows), 3)

  whole = batches(slice(0, 5))
  parts = [batches(slice(i, i + 2)) for i in range(0, 8, 2)]
  for number, batch in enumerate(whole):
    joined = {
      name: np.concatenate([part[number][name] for part in parts])
      for name in batch
    }
    assert_same({name: x[:5] for name, x in joined.items()}, batch)
    assert all(x.shape[0] == 8 for x in joined.values())
    assert not joined["example_mask"][5:].any()


def test_every_example_is_used_once_per_epoch(toy_config):
  examples = pairs(toy_config)
  batches = train_batches(examples, 25, seed=0, rows=slice(0, 25))
  positives = [b["passage_rows"][:, 0] for b in take(batches, 8)]
  first, second = np.concatenate(positives[:4]), np.concatenate(positives[4:])
  assert sorted(first) == sorted(second) == list(range(0, 200, 2))
  assert not np.array_equal(first, second)


def test_negatives_are_mined_ones_without_the_positive(toy_config):
  examples = pairs(toy_config, **{"data.hard_negatives": 3})
  batch = next(train_batches(examples, 16, seed=0, rows=slice(0, 16)))
  rows = batch["passage_rows"]
  assert rows.shape == (16, 4)
  mined = examples.sets[0]
  for positive, *negatives in rows.tolist():
    index = positive // 2
    assert positive not in negatives
    known = set(mined.negatives(index).tolist())
    if len(known) >= 3:
      assert set(negatives) <= known


def test_pair_text_is_what_the_corpus_holds(toy_config, corpus):
  examples = pairs(toy_config)
  batch = next(train_batches(examples, 8, seed=0, rows=slice(0, 8)))
  decode = corpus.tokenizer.decode
  for i in range(8):
    row = batch["passage_rows"][i, 0]
    length = batch["passage_lengths"][i, 0]
    text = decode(batch["passage_ids"][i, 0, :length].tolist())
    topic = corpus.text(int(row)).split(" has ")[0].removeprefix("The ").lower()
    assert topic in text
    question = batch["question_ids"][i, : batch["question_lengths"][i]]
    assert topic in decode(question.tolist())


@pytest.mark.parametrize("need, expected", [(1, 32), (33, 64), (65, 100)])
def test_buckets(need, expected):
  assert bucket_length(np.array([1, need]), 100) == expected
  assert all(bucket_length(np.array([b]), 512) == b for b in BUCKETS)


def test_last_question_batch_is_filled_never_dropped(corpus):
  tokens = [[7], [8], [9, 9]]
  found = list(
    question_batches(tokens, corpus.tokenizer, batch_size=2, longest=32)
  )
  assert [(ids.shape, real) for ids, _, real in found] == [
    ((2, 32), 2),
    ((2, 32), 1),
  ]
  np.testing.assert_array_equal(found[1][0][0], found[1][0][1])


def block_tokens(batch, i):
  return batch["passage_ids"][i, 0, : batch["passage_lengths"][i, 0]].tolist()


def query_tokens(batch, i):
  return batch["question_ids"][i, 1 : batch["question_lengths"][i] - 1].tolist()


def contains(haystack, needle):
  n = len(needle)
  return any(
    haystack[i : i + n] == needle for i in range(len(haystack) - n + 1)
  )


@pytest.mark.parametrize("keep, expected", [(0.0, 0), (1.0, 64)])
def test_query_is_removed_or_kept(corpus, keep, expected):
  """512 tokens, so that nothing is cut; toy sentences are all distinct."""
  examples = ict(corpus, keep_query=keep, passage_length=512)
  batch = next(train_batches(examples, 64, seed=0, rows=slice(0, 64)))
  kept = sum(
    contains(block_tokens(batch, i), query_tokens(batch, i)) for i in range(64)
  )
  assert kept == expected


def test_query_stays_at_the_configured_rate(corpus):
  examples = ict(corpus, keep_query=0.1, passage_length=512)
  batch = next(train_batches(examples, 2000, seed=0, rows=slice(0, 2000)))
  kept = np.mean(
    [
      contains(block_tokens(batch, i), query_tokens(batch, i))
      for i in range(2000)
    ]
  )
  assert 0.08 < kept < 0.12


def test_title_is_on_the_block_only(corpus):
  examples = ict(corpus, passage_length=512)
  batch = next(train_batches(examples, 32, seed=0, rows=slice(0, 32)))
  sep = corpus.tokenizer.sep_id
  for i in range(32):
    block = block_tokens(batch, i)
    title = corpus.tokenizer.decode(block[1 : block.index(sep)])
    assert title.startswith("article ")
    assert sep not in query_tokens(batch, i)
    assert block[-1] == sep


def test_blocks_tile_articles_and_hold_two_sentences(corpus):
  starts = np.append(corpus.sentence_starts, corpus.text_offsets[-1])
  blocks, single = make_blocks(corpus, starts, 64, title=True)
  assert single == 0
  assert blocks[0, 1] == 0 and blocks[-1, 2] == len(starts) - 1
  np.testing.assert_array_equal(blocks[1:, 1], blocks[:-1, 2])
  assert (blocks[:, 2] - blocks[:, 1] >= 2).all()
  # A block goes on over the border of passages: 12 sentences an article.
  assert set(blocks[:, 0]) <= set(np.asarray(corpus.article_starts))


def test_blocks_stop_at_the_length_that_fits(corpus):
  starts = np.append(corpus.sentence_starts, corpus.text_offsets[-1])
  short = make_blocks(corpus, starts, 64, title=True)[0]
  long = make_blocks(corpus, starts, 256, title=True)[0]
  assert len(long) < len(short)
  tokens = starts[short[:, 2]] - starts[short[:, 1]]
  # A block closes with the sentence that reaches the limit; a short tail of
  # fewer than two sentences joins it.
  longest = np.diff(starts).max()
  assert tokens.max() < 64 + 2 * longest


def test_over_long_sentence_keeps_a_second_one_in_its_block(corpus):
  """With room for less than a sentence, blocks still hold two."""
  starts = np.append(corpus.sentence_starts, corpus.text_offsets[-1])
  blocks = make_blocks(corpus, starts, 8, title=True)[0]
  assert (blocks[:, 2] - blocks[:, 1]).min() == 2


def build(tmp_path, toy_data, passages):
  from odqa_jax.data.corpus.corpus import Passage, build_corpus
  from odqa_jax.text.tokenizer import load_tokenizer

  tokenizer = load_tokenizer(toy_data / "tokenizer")
  build_corpus(
    [Passage(str(i), t, x) for i, (t, x) in enumerate(passages)],
    tmp_path / "corpus",
    tokenizer,
  )
  return Corpus(tmp_path / "corpus")


def test_articles_of_one_sentence_are_left_out_and_counted(tmp_path, toy_data):
  made = build(
    tmp_path,
    toy_data,
    [("A", "One sentence."), ("B", "First here. Second there. Third too.")],
  )
  examples = ict(made)
  assert len(examples) == 1
  assert examples.left_out == {"articles of one sentence": 1}


def test_corpus_without_two_sentences_is_refused(tmp_path, toy_data):
  made = build(tmp_path, toy_data, [("A", "One sentence.")])
  with pytest.raises(ValueError, match="no article with two sentences"):
    ict(made)


def test_pairs_of_another_corpus_are_refused(toy_config, tmp_path, toy_data):
  build(tmp_path, toy_data, [("A", "One sentence.")])
  with pytest.raises(ValueError, match="mined from other corpus"):
    pairs(toy_config, **{"data.corpus": str(tmp_path / "corpus")})
