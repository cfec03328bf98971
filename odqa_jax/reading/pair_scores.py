"""Scores of passages by a trained network, with their questions or alone.

    reranker = load_trained_scorer("work/reranker", "reranker")
    ranking = rerank(reranker, ranking, questions, corpus)
    scores = PassageScores(classifier, corpus)(range(0, 65536))

Pairs of many questions are computed together: pieces of the ranking are sorted
by length and cut into batches of a few fixed shapes, so that little is computed
on padding. Only two pieces are held as tokens at a time, however many passages
every question has.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float32, Int, Int32

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.views import PassageSample, UntitledPassages
from odqa_jax.data.examples.pair_inputs import PairInputs
from odqa_jax.data.examples.retokenised import RetokenisedPassages
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking, check_aligned
from odqa_jax.models.passage_scorer import (
  PassageFilter,
  PassageScorer,
  ScorerConfig,
)
from odqa_jax.reading.trained_scorer import TrainedScorer
from odqa_jax.retrieval.division import (
  divide,
  padded_lengths,
  size_for,
)
from odqa_jax.retrieval.embed import (
  Passages,
  Progress,
  bulk_tokens,
  embed,
  program_worth,
)
from odqa_jax.runtime.mesh import row_sharding
from odqa_jax.text.pairs import PairVocabulary

# Pairs that are sorted by length together.
PIECE = 8192
# Of these, as many are tokenised at once: a tokenizer's own records of a text
# take fifty times as much memory as its ids.
_TOKENISED = 1024


class _Piece(NamedTuple):
  """Inputs of some places of a ranking.

  Attributes:
    places: in the flat ranking, of those that hold a passage.
    ids: padded to the longest pair.
    lengths: their tokens.
    first_lengths: tokens of the question.
  """

  places: Int[np.ndarray, " p"]
  ids: Int32[np.ndarray, "p l"]
  lengths: Int32[np.ndarray, " p"]
  first_lengths: Int32[np.ndarray, " p"]


def compiled_scores(network: PassageScorer) -> Callable[..., jax.Array]:
  """`network.score`, kept, so that a second run compiles nothing."""
  kind: Any = type(network)
  return _compiled(kind, network.config)


@functools.lru_cache(maxsize=8)
def _compiled(kind: Any, config: ScorerConfig) -> Callable[..., jax.Array]:
  return jax.jit(kind(config).score)


def _compute(scorer: TrainedScorer, *inputs: Any) -> Array:
  """Starts a batch, whose rows are divided over the devices."""
  score = compiled_scores(scorer.network)
  placed = jax.device_put(inputs, row_sharding(scorer.mesh))
  return score(scorer.params, *placed)


def _platform(scorer: TrainedScorer) -> str:
  return scorer.mesh.devices.flat[0].platform


def _tokens_at_once(scorer: TrainedScorer) -> int:
  return bulk_tokens(_platform(scorer), scorer.mesh.size)


def rerank(
  scorer: TrainedScorer,
  ranking: Ranking,
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  sizes: Mapping[int, int] | None = None,
  progress: Progress | None = None,
) -> Ranking:
  """The same passages of every question by a reranker's scores, best first.

  Of equal scores, the passage that stood before comes first.

  Raises:
    ValueError: if the ranking is not of these questions; see `score_pairs`.
  """
  check_aligned(ranking, questions)
  texts = [question.question for question in questions]
  scores = score_pairs(
    scorer, texts, ranking.rows, corpus, sizes=sizes, progress=progress
  )
  order = np.argsort(-scores, axis=1, kind="stable")
  return Ranking(
    ranking.question_ids,
    np.take_along_axis(ranking.rows, order, axis=1),
    np.take_along_axis(scores, order, axis=1),
  )


def score_pairs(
  scorer: TrainedScorer,
  questions: Sequence[str],
  rows: Int[np.ndarray, "n k"],
  corpus: Corpus,
  *,
  piece: int = PIECE,
  batch_tokens: int | None = None,
  sizes: Mapping[int, int] | None = None,
  progress: Progress | None = None,
) -> Float32[np.ndarray, "n k"]:
  """Scores passages with their questions, packed as in training.

  The processes take pieces in turn; the result is the same on all of them.

  Args:
    scorer: a trained reranker.
    questions: n texts.
    rows: passages of each question; below 0: none.
    corpus: whose texts are read.
    piece: places of the ranking whose pairs are sorted together.
    batch_tokens: tokens (with padding) of a batch; by default what suits the
      devices.
    sizes: see `batch_sizes`; None: what suits these pairs.
    progress: called with this process's places done and in all.

  Returns:
    A score for every place, minus infinity where there is no passage.

  Raises:
    ValueError: if a score is not finite, naming question and passage.
  """
  flat = rows.reshape(-1)
  scores = np.zeros(flat.shape, np.float32)
  packer = _Packer(scorer, questions, rows, corpus)
  pieces = [range(rows.size)[i : i + piece] for i in range(0, rows.size, piece)]
  mine = pieces[jax.process_index() :: jax.process_count()]
  tokens = batch_tokens or _tokens_at_once(scorer)
  total, done = sum(map(len, mine)), 0

  def scored(pairs: int) -> None:
    if progress:
      progress(done + pairs, total)

  running = _run(
    scorer, map(packer.pack, mine), piece, tokens, packer.count, scored, sizes
  )
  for part, (places, values) in zip(mine, running, strict=True):
    finite = np.isfinite(values)
    if not finite.all():
      bad = int(places[np.argmin(finite)])
      raise ValueError(
        f"the score of passage {corpus.id(int(flat[bad]))!r} for the question "
        f"{questions[bad // rows.shape[1]]!r} is not finite; look at the "
        "reranker's weights."
      )
    scores[places] = values
    # With the places that hold no passage.
    done += len(part)
    scored(0)
  if jax.process_count() > 1:
    # Nobody but the process that computed a score has anything but 0 there.
    scores = multihost_utils.process_allgather(scores).sum(axis=0)
  scores[flat < 0] = -np.inf
  return scores.reshape(rows.shape)


class _Packer:
  """Makes the inputs of pieces of a ranking."""

  def __init__(
    self,
    scorer: TrainedScorer,
    questions: Sequence[str],
    rows: Int[np.ndarray, "n k"],
    corpus: Corpus,
  ) -> None:
    self.count = int(np.count_nonzero(rows >= 0))
    self._questions = questions
    self._question_length = scorer.question_length
    self._passages = rows.shape[1]
    self._rows = rows.reshape(-1)
    self._inputs = PairInputs(
      PairVocabulary(scorer.tokenizer),
      corpus,
      length=scorer.pair_length,
      title=scorer.title,
    )

  def pack(self, part: range) -> _Piece:
    """The inputs of consecutive places."""
    here = np.flatnonzero(self._rows[part.start : part.stop] >= 0)
    places = part.start + here
    first = part.start // self._passages
    last = -(-part.stop // self._passages)
    encoded = self._inputs.vocabulary.encode_batch(self._questions[first:last])
    tokens = [ids[: self._question_length] for ids in encoded]
    arrays = [self._empty()]
    for start in range(0, len(places), _TOKENISED):
      some = places[start : start + _TOKENISED]
      batch = self._inputs.pack(
        [tokens[i] for i in (some // self._passages - first).tolist()],
        [[row] for row in self._rows[some].tolist()],
        passages=1,
        passage_first=False,
      ).batch
      arrays.append([batch[n][:, 0] for n in _Piece._fields[1:]])
    return _Piece(places, *map(np.concatenate, zip(*arrays, strict=True)))

  def _empty(self) -> list[np.ndarray]:
    none = np.zeros(0, np.int32)
    return [np.zeros((0, self._inputs.length), np.int32), none, none]


def _run(
  scorer: TrainedScorer,
  pieces: Iterator[_Piece],
  most: int,
  batch_tokens: int,
  count: int,
  scored: Callable[[int], None],
  given: Mapping[int, int] | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(places, scores) of every piece, in their order.

  The next piece is tokenised and started before the last one's scores are
  fetched, so the devices do not wait for it. Unless the sizes are given, the
  first piece with passages chooses the lengths that are compiled for. `scored`
  is told of every batch how many pairs of its piece have been fetched.
  """
  sizes = dict(given or {})

  def started() -> Iterator[tuple[_Piece, Iterable[tuple[np.ndarray, Array]]]]:
    for piece in pieces:
      if len(piece.places) and not sizes:
        sizes.update(_sizes(scorer, piece, most, batch_tokens, count))
      batches = _start(scorer, piece, sizes)
      # A CPU takes a batch when the one before is done, and would be waited for
      # here, with nothing told of how far it is.
      yield piece, batches if _platform(scorer) == "cpu" else list(batches)

  for current, _ in pairwise(chain(started(), [None])):
    assert current is not None
    piece, results = current
    values = np.zeros(len(piece.places), np.float32)
    fetched = 0
    for rows, result in results:
      values[rows] = np.asarray(result)[: len(rows)]
      fetched += len(rows)
      scored(fetched)
    yield piece.places, values


def _sizes(
  scorer: TrainedScorer, piece: _Piece, most: int, batch_tokens: int, count: int
) -> dict[int, int]:
  """Padded length → pairs of a batch, for all pieces, shortest first."""
  longest, share = scorer.pair_length, len(piece.places) / count
  # What a length must save over all pairs, of which this piece has a share.
  worth = int(program_worth(_platform(scorer), batch_tokens) * share)
  worth = max(worth, 1)
  chosen = padded_lengths(piece.lengths, longest, worth=worth)
  # Another piece may have longer pairs.
  return {
    length: size_for(
      length, batch_tokens, rows=min(most, count), devices=scorer.mesh.size
    )
    for length in sorted({*chosen, longest})
  }


def _start(
  scorer: TrainedScorer, piece: _Piece, sizes: dict[int, int]
) -> Iterator[tuple[np.ndarray, Array]]:
  """(rows of the piece, their scores to come) of every batch."""
  order = np.argsort(piece.lengths, kind="stable")
  for batch in divide(piece.lengths[order], sizes):
    rows = order[batch.first : batch.stop]
    # Filled up with copies of the last pair.
    spare = np.repeat(rows[-1:], batch.size - len(rows))
    full = np.concatenate([rows, spare])
    result = _compute(
      scorer,
      piece.ids[full, : batch.length],
      piece.lengths[full],
      piece.first_lengths[full],
    )
    yield rows, result


class PassageScores:
  """How irrelevant the passages of a corpus are.

  That is what a passage classifier says; what a filter says, negated.

  Attributes:
    fingerprint: of all that a score depends on, besides the corpus.
  """

  def __init__(
    self,
    scorer: TrainedScorer,
    corpus: Corpus,
    *,
    rows: Int[np.ndarray, " m"] | None = None,
    batch_tokens: int | None = None,
  ) -> None:
    """Opens a corpus for a trained network.

    Where the network has the corpus's word pieces, it reads the corpus's ids;
    otherwise the texts are encoded again, those of each call.

    Args:
      scorer: a classifier or filter of passages.
      corpus: whose passages are scored.
      rows: ascending, of those that are; row i is then `rows[i]`. None: all.
      batch_tokens: see `score_pairs`.
    """
    self.fingerprint = scorer.fingerprint
    self._scorer = scorer
    self._sign = -1 if isinstance(scorer.network, PassageFilter) else 1
    self._corpus = corpus
    self._rows = np.arange(len(corpus)) if rows is None else rows
    self._own: Passages | None = None
    mine, theirs = scorer.tokenizer, corpus.any_tokenizer
    if mine.fingerprint == theirs.fingerprint:
      some = corpus if rows is None else PassageSample(corpus, rows)
      self._own = some if scorer.title else UntitledPassages(some)
      lengths = self._own.packed_lengths(scorer.passage_length)
      self._lengths = lengths
    else:
      # Evenly spaced ones have the lengths of all.
      count = min(len(self._rows), PIECE)
      spaced = np.linspace(0, len(self._rows) - 1, count, dtype=np.int64)
      lengths = self._encoded(spaced).packed_lengths(scorer.passage_length)
    tokens = batch_tokens or _tokens_at_once(scorer)
    share = len(lengths) / max(len(self._rows), 1)
    worth = int(program_worth(_platform(scorer), tokens) * share)
    chosen = padded_lengths(lengths, scorer.passage_length, worth=max(worth, 1))
    self._sizes = {
      length: size_for(
        length, tokens, rows=len(self._rows), devices=scorer.mesh.size
      )
      for length in sorted({*chosen, scorer.passage_length})
    }

  def _encoded(self, places: Int[np.ndarray, " m"]) -> RetokenisedPassages:
    """Passages in the network's own ids."""
    scorer = self._scorer
    return RetokenisedPassages(
      self._corpus,
      self._rows[places],
      scorer.tokenizer,
      length=scorer.passage_length,
      title=scorer.title,
    )

  def __call__(
    self, rows: range, progress: Callable[[int], Any] = lambda done: None
  ) -> Float32[np.ndarray, " n"]:
    """The scores of consecutive rows, on this process's own devices."""

    def score(ids: Array, lengths: Array) -> Array:
      # As in training, all tokens are of the first segment.
      return _compute(self._scorer, ids, lengths, lengths)[:, None]

    passages, first = self._own, rows.start
    if passages is None:
      passages, first = self._encoded(np.asarray(rows)), 0
      lengths = passages.packed_lengths(self._scorer.passage_length)
    else:
      lengths = self._lengths[rows.start : rows.stop]
    return (
      self._sign
      * embed(
        score,
        passages,
        first,
        lengths,
        sizes=self._sizes,
        mesh=self._scorer.mesh,
        dtype=np.dtype(np.float32),
        progress=progress,
      )[:, 0]
    )
