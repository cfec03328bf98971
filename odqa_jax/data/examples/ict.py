"""Inverse cloze task: (sentence, its block) pairs from the corpus alone.

Blocks are runs of whole sentences of one article, up to `passage_length`
tokens; they are not the corpus's passages: an article's consecutive rows are
read as one text. Nothing is stored: blocks are ranges of sentence numbers.

"End-to-End Training of Neural Retrievers", Sec. 2.2.2 and A.2. Deviation: an
over-long sentence is cut when the block is packed, and its article is kept;
articles of one sentence are left out (their block would be empty) and counted.
"""

import numpy as np
from jaxtyping import Int

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.packing import pack_questions
from odqa_jax.data.examples.batch import Batch, bucket_length

# [CLS], [SEP] after the title, [SEP] at the end.
SPECIAL_TOKENS = 3


class IctExamples:
  """Inverse-cloze examples; example i is block i, its query drawn anew.

  Args:
    corpus: the evidence.
    question_length: longest query in tokens, with [CLS] and [SEP].
    passage_length: longest block in tokens, with title and special tokens.
    keep_query: the probability that the query stays in its block.
    title: whether the article's title goes before the block.

  Raises:
    ValueError: if no article has two sentences.
  """

  def __init__(
    self,
    corpus: Corpus,
    *,
    question_length: int,
    passage_length: int,
    keep_query: float,
    title: bool,
  ) -> None:
    self.corpus = corpus
    self.question_length = question_length
    self.passage_length = passage_length
    self.keep_query = keep_query
    self.title = title
    total = int(corpus.text_offsets[-1])
    # One more entry, so that sentence s spans starts[s]:starts[s + 1].
    self.starts = np.append(np.asarray(corpus.sentence_starts), total)
    self.blocks, single = make_blocks(
      corpus, self.starts, passage_length, title=title
    )
    self.left_out = {"articles of one sentence": single}
    if not len(self.blocks):
      raise ValueError(
        f"the corpus has no article with two sentences ({len(corpus)} rows "
        "read), so there is nothing for the inverse cloze task to learn from."
      )

  def __len__(self) -> int:
    return len(self.blocks)

  def batch(
    self,
    indices: Int[np.ndarray, " b"],
    rng: np.random.Generator,
    rows: slice,
  ) -> Batch:
    """The examples `indices`, of which this process holds `rows`.

    Every process draws the same queries for the whole batch, so that all
    agree on the padded lengths; only `rows` is read from the corpus.
    """
    row, first, end = self.blocks[indices].T
    query = first + (rng.random(len(indices)) * (end - first)).astype(np.int64)
    keep = rng.random(len(indices)) < self.keep_query
    query_tokens = self.starts[query + 1] - self.starts[query]
    block_tokens = self.starts[end] - self.starts[first]
    block_tokens = np.where(keep, block_tokens, block_tokens - query_tokens)
    if self.title:
      block_tokens = block_tokens + self._title_tokens(row)

    question_pad = bucket_length(query_tokens + 2, self.question_length)
    passage_pad = bucket_length(
      block_tokens + SPECIAL_TOKENS, self.passage_length
    )
    local = range(len(indices))[rows]
    tokens = self.corpus.text_tokens
    queries = [
      tokens[self.starts[query[i]] : self.starts[query[i] + 1]] for i in local
    ]
    question_ids, question_lengths = pack_questions(
      queries, question_pad, self.corpus.tokenizer
    )
    passage_ids = np.full(
      (len(local), passage_pad), self.corpus.tokenizer.pad_id, np.int32
    )
    passage_lengths = np.zeros(len(local), np.int32)
    chosen = zip(row, first, end, query, keep, strict=True)
    for j, block in enumerate(list(chosen)[rows]):
      packed = self._pack_block(*(x.item() for x in block))
      packed = packed[:passage_pad]
      packed[-1] = self.corpus.tokenizer.sep_id
      passage_ids[j, : len(packed)] = packed
      passage_lengths[j] = len(packed)
    return {
      "question_ids": question_ids,
      "question_lengths": question_lengths,
      "passage_ids": passage_ids[:, None],
      "passage_lengths": passage_lengths[:, None],
      "passage_rows": indices[rows].astype(np.int32)[:, None],
      "example_mask": np.ones(len(local), bool),
    }

  def _title_tokens(self, rows: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
    offsets = self.corpus.title_offsets
    return offsets[rows + 1] - offsets[rows]

  def _pack_block(
    self, row: int, first: int, end: int, query: int, keep: bool
  ) -> Int[np.ndarray, " l"]:
    """[CLS] title [SEP] block [SEP], uncut."""
    tokens, starts = self.corpus.text_tokens, self.starts
    special = self.corpus.tokenizer
    if keep:
      body = [tokens[starts[first] : starts[end]]]
    else:
      body = [
        tokens[starts[first] : starts[query]],
        tokens[starts[query + 1] : starts[end]],
      ]
    title = []
    if self.title:
      offsets = self.corpus.title_offsets
      title = [
        self.corpus.title_tokens[offsets[row] : offsets[row + 1]],
        [special.sep_id],
      ]
    return np.concatenate(
      [[special.cls_id], *title, *body, [special.sep_id]]
    ).astype(np.int32)


def make_blocks(
  corpus: Corpus,
  starts: Int[np.ndarray, " s"],
  passage_length: int,
  *,
  title: bool,
) -> tuple[Int[np.ndarray, "n 3"], int]:
  """Cuts every article into blocks of sentences.

  A block closes once it has the tokens that fit, given at least two sentences
  in it and two left over; a shorter tail joins the last block.

  Args:
    corpus: the evidence.
    starts: the sentences' first tokens, and the end of the last.
    passage_length: tokens of a packed block.
    title: whether the title takes part of that length.

  Returns:
    `(first row of the article, first sentence, end sentence)` per block, and
    the number of articles left out because they have one sentence.
  """
  rows = np.append(np.asarray(corpus.article_starts), len(corpus))
  sentence_of = np.searchsorted(starts, corpus.text_offsets[rows])
  titles = corpus.title_offsets[rows[:-1] + 1] - corpus.title_offsets[rows[:-1]]
  room = passage_length - SPECIAL_TOKENS - (titles if title else 0 * titles)
  blocks: list[tuple[int, int, int]] = []
  single = 0
  for article, row in enumerate(rows[:-1]):
    first, last = sentence_of[article], sentence_of[article + 1]
    if last - first < 2:
      single += 1
      continue
    while first < last:
      target = starts[first] + max(room[article], 1)
      end = int(np.searchsorted(starts, target))
      end = max(end, first + 2)
      if last - end < 2:
        end = last
      blocks.append((row, first, end))
      first = end
  return np.array(blocks, np.int64).reshape(-1, 3), single
