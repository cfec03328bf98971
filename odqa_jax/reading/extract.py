"""An extractive reader at work: spans of passages that answer a question.

    reader = load_span_reader("work/extractive", corpus)  # or a published one
    for found in read_spans(reader, questions, rows, most=10):
      answers = best_answers(found, corpus, k=20, most=10)

Log-probabilities are normalised over all passages of a question (R2-D2, Fajcik
et al. 2021), or, of a reader with DPR's objective, over each passage alone. In
both cases no passage needs another one to be read: of each the device gives its
best spans, normalised over itself, and the logarithms of its sums, from which
those over any of the passages follow. So passages of several questions share
batches of equal lengths, memory does not grow with their number, and what was
read once is decoded for every k.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.examples.batch import Batch
from odqa_jax.data.examples.pair_inputs import Packed, PairInputs
from odqa_jax.models.extractive_reader import ExtractiveReader
from odqa_jax.models.families import network_from
from odqa_jax.models.hf.heads import holds_spans
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.models.roles import roles
from odqa_jax.objectives.best_spans import BestSpans, best_spans
from odqa_jax.objectives.normalisers import log_sum
from odqa_jax.objectives.spans import (
  Contexts,
  SpanScores,
  context_mask,
  span_band,
  span_mask,
)
from odqa_jax.reading.answer_scoring import check_rank_weight
from odqa_jax.reading.passage_spans import PassageSpans
from odqa_jax.reading.trained_component import load_component
from odqa_jax.retrieval.division import batch_sizes, divide, size_for
from odqa_jax.retrieval.embed import bulk_tokens, program_worth
from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.checkpoint import find_step, read_extra
from odqa_jax.runtime.mesh import (
  make_mesh,
  replicated,
  row_sharding,
  to_host,
)
from odqa_jax.text.byte_pairs import BytePairTokenizer
from odqa_jax.text.pairs import PairVocabulary
from odqa_jax.text.tokenizer import Tokenizer

ROLE = "extractive_reader"
# Pairs that are packed, and sorted by length, at once.
_PAIRS = 1024
_INPUTS = ("ids", "lengths", "first_lengths", "context_starts", "context_ends")


@dataclasses.dataclass(frozen=True)
class SpanReader:
  """A trained extractive reader, and how its inputs are packed.

  Attributes:
    network: it.
    params: its parameters, replicated on this process's own devices.
    inputs: packs passages with their questions.
    question_length: longest question in tokens.
    span_length: longest answer in tokens.
    passage_first: the order of the pairs that it was trained on.
    objective: likewise, of `settings.EXTRACTIVE`; answers are found by it.
    score: compiled; see `score_passages`.
    rank_weight: see `with_rank_weight`.
  """

  network: ExtractiveReader
  params: Any
  inputs: PairInputs
  question_length: int
  span_length: int
  passage_first: bool
  objective: str
  score: Callable[..., "PassageReading"]
  rank_weight: float | None = None


class PassageReading(NamedTuple):
  """What is fetched of b passages.

  Attributes:
    best: [b, t] the best spans of each, normalised over itself.
    log_sums: component → [b] logarithm of what it is normalised by.
  """

  best: BestSpans
  log_sums: dict[str, Float[Array, " b"]]


def holds_span_reader(path: str | Path) -> bool:
  """Whether a checkpoint has one: a workdir, a step, or a published folder.

  Raises:
    ValueError: if it is no checkpoint at all.
  """
  path = resolve_folder(path)
  if is_pretrained_folder(path):
    return holds_spans(path)
  folder, step = find_step(path)
  return ROLE in roles(read_extra(folder, step)["components"])


def load_span_reader(path: str | Path, corpus: PassageTexts) -> SpanReader:
  """Loads an extractive reader, for any corpus: it is read as text.

  Args:
    path: a training workdir, one step of it, or a published folder.
    corpus: the evidence.

  Raises:
    ValueError: see `load_component`.
  """
  return span_reader(*load_component(path, ROLE), corpus)


def span_reader(
  described: Mapping[str, Any],
  params: Any,
  tokenizer: Tokenizer | BytePairTokenizer,
  corpus: PassageTexts,
) -> SpanReader:
  """A reader of a corpus, by its description in a checkpoint.

  Args:
    described: of the component.
    params: of it alone, with any sharding.
    tokenizer: of the network.
    corpus: the evidence.
  """
  inputs = PairInputs(
    PairVocabulary(tokenizer),
    corpus,
    length=described["pair_length"],
    title=described["title"],
  )
  return make_span_reader(
    network_from(described),
    params,
    inputs,
    question_length=described["question_length"],
    span_length=described["span_length"],
    passage_first=described.get("passage_first", True),
    objective=described.get("objective", "independent"),
  )


def make_span_reader(
  network: ExtractiveReader,
  params: Any,
  inputs: PairInputs,
  *,
  question_length: int,
  span_length: int,
  passage_first: bool = True,
  objective: str = "independent",
) -> SpanReader:
  """Puts a reader together from parts in memory (any sharding).

  Raises:
    ValueError: if it has DPR's objective and no head of passages.
  """
  if objective == "dpr" and not network.config.passage:
    raise ValueError(
      "DPR's reader answers from the passage that it ranks first, and this one "
      "has no head of passages; load it with the objective 'independent'."
    )
  return SpanReader(
    network=network,
    params=_placed(params),
    inputs=inputs,
    question_length=question_length,
    span_length=span_length,
    passage_first=passage_first,
    objective=objective,
    score=compiled_reading(network, span_length),
  )


def compiled_reading(
  network: ExtractiveReader, span_length: int
) -> Callable[..., "PassageReading"]:
  """`score_passages` of a network, for spans of at most so many tokens."""
  score = functools.partial(score_passages, network, longest=span_length)
  return jax.jit(score, static_argnames="most")


def with_rank_weight(
  reader: SpanReader, rank_weight: float | None
) -> SpanReader:
  """The reader whose spans compete by λ of A.3; see `answer_scoring.py`.

  Raises:
    ValueError: if it was trained by another objective than DPR's, or λ is no
      share.
  """
  check_rank_weight(rank_weight)
  if rank_weight is not None and reader.objective != "dpr":
    raise ValueError(
      f"--rank-weight {rank_weight}: the extractive reader was trained by the "
      f"objective {reader.objective!r}, whose answers have no such weight; "
      "leave it out, or read with one of loss=dpr or a unified one."
    )
  return dataclasses.replace(reader, rank_weight=rank_weight)


def with_params(reader: SpanReader, params: Any) -> SpanReader:
  """The same reader, compiled as it is, with other parameters."""
  return dataclasses.replace(reader, params=_placed(params))


def without_params(reader: SpanReader) -> SpanReader:
  """What `with_params` takes, and what takes no memory of the devices."""
  return dataclasses.replace(reader, params=None)


def _placed(params: Any) -> Any:
  local = replicated(make_mesh(devices=jax.local_devices()))
  return jax.device_put(to_host(params), local)


def score_passages(
  network: ExtractiveReader,
  params: Any,
  ids: Int[Array, "b l"],
  lengths: Int[Array, " b"],
  first_lengths: Int[Array, " b"],
  context_starts: Int[Array, " b"],
  context_ends: Int[Array, " b"],
  *,
  most: int,
  longest: int,
) -> PassageReading:
  """The best spans of each passage, as if it were the only one.

  Args:
    network: the reader.
    params: its parameters.
    ids: pairs, as in training.
    lengths: real tokens of each.
    first_lengths: tokens of the passage, with special ones.
    context_starts: first token of the passage's text.
    context_ends: the token after its last.
    most: how many spans, at least 1.
    longest: tokens of the longest.
  """
  found = network.read(params, ids, lengths, first_lengths)
  scores = SpanScores(*jax.tree.map(lambda x: x[:, None], found))
  contexts = Contexts(
    lengths[:, None] > 0, context_starts[:, None], context_ends[:, None]
  )
  inside = context_mask(contexts, ids.shape[1])
  log_sums = {
    "start": log_sum(scores.start, inside, axes=(1, 2)),
    "end": log_sum(scores.end, inside, axes=(1, 2)),
  }
  if scores.span_start is not None and scores.span_end is not None:
    band = span_band(scores.span_start, scores.span_end, longest)
    allowed = span_mask(contexts, ids.shape[1], longest)
    log_sums["span"] = log_sum(band, allowed, axes=(1, 2, 3))
  if found.passage is not None:
    log_sums["passage"] = found.passage
  best = best_spans(scores, contexts, most=most, longest=longest)
  return PassageReading(best, log_sums)


def read_spans(
  reader: SpanReader,
  questions: Sequence[str],
  rows: Int[np.ndarray, "n k"],
  *,
  most: int,
  batch_tokens: int | None = None,
  sizes: Mapping[int, int] | None = None,
) -> Iterator[PassageSpans]:
  """Reads the passages of every question; one result for each, in order.

  Args:
    reader: what reads.
    questions: their texts.
    rows: of the corpus, for each question; −1: no passage, left out.
    most: spans that are kept of a passage.
    batch_tokens: padded tokens at once; by default what suits the devices.
    sizes: see `batch_sizes`; None: what suits these passages.

  Raises:
    ValueError: for scores that are not finite.
  """
  if batch_tokens is None:
    batch_tokens = bulk_tokens(jax.default_backend(), jax.local_device_count())
  chosen = [row[row >= 0].tolist() for row in rows]
  sizes = dict(sizes or {})
  for start, stop in _groups(chosen):
    some = chosen[start:stop]
    texts = [
      ids[: reader.question_length]
      for ids in reader.inputs.vocabulary.encode_batch(questions[start:stop])
    ]
    packed = reader.inputs.pack(
      texts,
      some,
      passages=max(map(len, some)),
      passage_first=reader.passage_first,
    )
    inputs = _flat_inputs(packed)
    if not sizes and len(inputs["ids"]):
      # The same for all groups, so that no more programs are compiled.
      share = len(inputs["ids"]) / sum(map(len, chosen))
      sizes = _sizes(
        inputs["lengths"], reader.inputs.length, batch_tokens, share
      )
    found = _scored(reader, inputs, sizes, most)
    for spans in _by_question(packed, some, found, most, reader.objective):
      yield dataclasses.replace(spans, rank_weight=reader.rank_weight)


def _sizes(
  lengths: Int[np.ndarray, " n"], longest: int, batch_tokens: int, share: float
) -> dict[int, int]:
  """Batches that suit these lengths, and have room for any other.

  Args:
    lengths: of the first pairs.
    longest: of any pair.
    batch_tokens: padded tokens at once.
    share: how many of all pairs the first ones are.
  """
  limits = {"rows": len(lengths), "devices": jax.local_device_count()}
  worth = int(program_worth(jax.default_backend(), batch_tokens) * share)
  sizes = batch_sizes(lengths, longest, batch_tokens, worth=worth, **limits)
  return sizes | {longest: size_for(longest, batch_tokens, **limits)}


def _groups(rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
  """Ranges of questions with about `_PAIRS` passages together."""
  start = pairs = 0
  for i, some in enumerate(rows):
    pairs += len(some)
    if pairs >= _PAIRS or i + 1 == len(rows):
      yield start, i + 1
      start, pairs = i + 1, 0


def _flat_inputs(packed: Packed) -> Batch:
  """The inputs of all passages that there are, on one axis."""
  real = packed.batch["passage_mask"]
  pairs = list(chain.from_iterable(packed.pairs))
  names = ("ids", "lengths", "first_lengths")
  return {name: packed.batch[name][real] for name in names} | {
    "context_starts": np.array([p.context_start for p in pairs], np.int32),
    "context_ends": np.array([p.context_end for p in pairs], np.int32),
  }


def _scored(
  reader: SpanReader, inputs: Batch, sizes: Mapping[int, int], most: int
) -> dict[str, np.ndarray]:
  """What the reader gives of all passages, in their order.

  The next batch is dispatched before the last one's result is fetched.
  """
  lengths = inputs["lengths"]
  order = np.argsort(lengths, kind="stable")
  sharding = row_sharding(make_mesh(devices=jax.local_devices()))

  def started() -> Iterator[Any]:
    for piece in divide(lengths[order], sizes):
      some = order[piece.first : piece.stop]
      full = np.concatenate(
        [some, np.repeat(some[-1:], piece.size - len(some))]
      )
      arrays = [inputs[name][full] for name in _INPUTS]
      arrays[0] = arrays[0][:, : piece.length]
      placed = jax.device_put(arrays, sharding)
      yield some, reader.score(reader.params, *placed, most=most)

  out: dict[str, np.ndarray] = {}
  for (some, result), _ in pairwise(chain(started(), [None])):
    for name, x in _named(result).items():
      values = np.asarray(x)[: len(some)]
      if name not in out:
        out[name] = np.empty((len(lengths), *values.shape[1:]), values.dtype)
      out[name][some] = values
  for name, values in out.items():
    if name.startswith("sum/") and not np.isfinite(values).all():
      raise ValueError(
        f"the {name[4:]} scores of a passage are not finite; look at the "
        "weights of the extractive reader."
      )
  return out


def _named(found: PassageReading) -> dict[str, Array]:
  named: dict[str, Array] = {
    "starts": found.best.starts,
    "ends": found.best.ends,
  }
  named |= {f"score/{n}": x for n, x in found.best.log_scores.items()}
  return named | {f"sum/{n}": x for n, x in found.log_sums.items()}


def _by_question(
  packed: Packed,
  rows: Sequence[Sequence[int]],
  found: Mapping[str, np.ndarray],
  most: int,
  objective: str,
) -> Iterator[PassageSpans]:
  """Cuts what was found into questions, and tokens into characters."""
  first = 0
  for i, some in enumerate(rows):
    mine = {name: x[first : first + len(some)] for name, x in found.items()}
    first += len(some)
    places = np.full((2, len(some), most), -1, np.int64)
    for j, (pair, text) in enumerate(
      zip(packed.pairs[i], packed.texts[i], strict=True)
    ):
      real = mine["starts"][j] >= 0
      offsets = np.array(text.offsets, np.int64).reshape(-1, 2)
      tokens = (mine["starts"][j], mine["ends"][j])
      for side in (0, 1):
        within = tokens[side][real] - pair.context_start
        places[side, j, real] = offsets[within, side]
    yield PassageSpans(
      rows=np.array(some, np.int64),
      starts=places[0],
      ends=places[1],
      log_scores=_components("score/", mine),
      log_sums=_components("sum/", mine),
      objective=objective,
    )


def _components(
  kind: str, found: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  return {
    name.removeprefix(kind): values.astype(np.float64)
    for name, values in found.items()
    if name.startswith(kind)
  }
