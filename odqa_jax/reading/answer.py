"""From a question to an answer: encode, search, read, decode, score.

    system = load_reading_system("work/individual", corpus)
    index = index_corpus(system.retriever, corpus, "work/index", mesh=mesh)
    answers = answer_questions(
      system, index, ["who wrote emma"], k=8, batch_size=8, max_tokens=32
    )

Joint Top-k and Fusion-in-Decoder write one answer from all passages.
Individual Top-k follows "End-to-End Training of Neural Retrievers", A.4: an
answer for every passage, each of which is then scored by Eq. 5 over all of
them; the likeliest is given.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Int

from odqa_jax.data.examples.batch import (
  OVERLAP,
  PASSAGES,
  READER_INPUT,
  bucket_count,
  bucket_length,
  pad_tokens,
)
from odqa_jax.data.exclusions import Exclusions
from odqa_jax.reading.predict import Reading, distinct_answers, ended_answers
from odqa_jax.reading.system import ReadingSystem
from odqa_jax.retrieval.encoding import encode_questions
from odqa_jax.retrieval.retriever import fit_to_index
from odqa_jax.retrieval.searchable import Searchable, search_embeddings
from odqa_jax.runtime.mesh import host_slice, make_mesh, row_sharding

Progress = Callable[[int, int], None]

# Tokens of reader inputs that a device encodes at once, about.
_CPU_TOKENS = 8192
_TOKENS = 65536
# What `Predictor.read` takes of a gathered batch.
_READ = (*PASSAGES, *READER_INPUT, *OVERLAP)


@dataclasses.dataclass(frozen=True)
class Request:
  """Questions, tokenised and encoded once for all that is done with them.

  Attributes:
    texts: as they were asked.
    reader_tokens: in the reader's vocabulary.
    embeddings: of the retriever, on every process.
  """

  texts: tuple[str, ...]
  reader_tokens: list[list[int]]
  embeddings: Float[np.ndarray, "n e"]

  def __len__(self) -> int:
    return len(self.texts)


class ReadPassage(NamedTuple):
  """A passage that an answer was read from.

  Attributes:
    row: of the corpus; −1 is the null document, which has no id and title.
    id: its name.
    title: its title.
    score: the plain dot product with the question, by the present weights.
    prob: p(z | q) among the passages read.
  """

  row: int
  id: str
  title: str
  score: float
  prob: float


@dataclasses.dataclass(frozen=True)
class Answer:
  """What was answered, and from what.

  Attributes:
    text: the answer.
    log_prob: log p(a | q) of its tokens, as the task trains it.
    candidates: all answers that were compared, best first.
    passages: what was read, the most relevant first.
  """

  text: str
  log_prob: float
  candidates: tuple[tuple[str, float], ...]
  passages: tuple[ReadPassage, ...]


def default_batch_size(system: ReadingSystem, k: int) -> int:
  """How many questions with k passages suit the devices at once."""
  tokens = _CPU_TOKENS if jax.default_backend() == "cpu" else _TOKENS
  inputs = (k + 1) * system.config.input_length
  return max(tokens * jax.device_count() // inputs, 1)


def encode_request(system: ReadingSystem, questions: Sequence[str]) -> Request:
  """Tokenises and encodes questions.

  Raises:
    ValueError: for an empty question.
  """
  for i, question in enumerate(questions):
    if not question.strip():
      raise ValueError(
        f"question {i + 1} of {len(questions)} is empty; ask it."
      )
  texts = tuple(questions)
  if not texts:
    width = system.retriever.encoder.config.output_dim
    return Request((), [], np.zeros((0, width), np.float32))
  return Request(
    texts,
    system.vocabulary.encode_batch(list(texts)),
    encode_questions(system.retriever, texts),
  )


def find_passages(
  system: ReadingSystem,
  index: Searchable | None,
  request: Request,
  *,
  k: int,
  exclusions: Exclusions | None = None,
) -> Int[np.ndarray, "n k"]:
  """Corpus rows of the k best passages of every question, best first.

  Args:
    system: what searches.
    index: see `search_request`; None with k = 0.
    request: the questions.
    k: passages of a question; 0 for none (closed book).
    exclusions: see `search_request`.

  Raises:
    ValueError: for an index of something else, or a k that the corpus does not
      have once a question's exclusions are left out.
  """
  if not 0 <= k <= len(system.corpus):
    raise ValueError(
      f"k={k} passages cannot be read from a corpus of {len(system.corpus)}; "
      "choose k from 0 (closed book) to that number."
    )
  if not k or not len(request):
    return np.zeros((len(request), k), np.int32)
  if index is None:
    raise ValueError(f"k={k} passages need an index to find them in; give one.")
  return check_found(
    search_request(system, index, request, k=k, exclusions=exclusions)[1]
  )


def check_found(rows: Int[np.ndarray, "n k"]) -> Int[np.ndarray, "n k"]:
  """The rows, or a ValueError where a question has too few to be read."""
  few = (rows < 0).any(axis=1)
  if few.any():
    raise ValueError(
      f"question {int(np.argmax(few)) + 1} has fewer than k={rows.shape[1]} "
      "passages once what it excludes is left out; choose a smaller k."
    )
  return rows


def search_request(
  system: ReadingSystem,
  index: Searchable,
  request: Request,
  *,
  k: int,
  exclusions: Exclusions | None = None,
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
  """Scores and corpus rows of the k best passages, best first.

  Args:
    system: what searches.
    index: made by its retriever from its corpus.
    request: the questions.
    k: passages of a question.
    exclusions: of these questions; see `search_embeddings`.

  Raises:
    ValueError: for an index of something else, or a k that it does not have.
  """
  retriever = fit_to_index(system.retriever, system.corpus, index.manifest)
  embeddings = request.embeddings
  if retriever is not system.retriever:
    # The index holds fewer dimensions than the reader's scores are made of.
    embeddings = encode_questions(retriever, request.texts)
  return search_embeddings(index, embeddings, k, exclusions=exclusions)


class ReadBatch:
  """A batch of questions whose passages have been encoded.

  Every process reads its own part of the batch; the results are those of the
  whole batch on all of them.

  Attributes:
    start: number of its first question.
    stop: after that of its last one; what is more fills the batch up.
  """

  def __init__(
    self,
    system: ReadingSystem,
    reading: Reading,
    rows: Int[np.ndarray, "b k"],
    questions: range,
  ) -> None:
    self.start, self.stop = questions.start, questions.stop
    self._system, self._reading, self._rows = system, reading, rows

  def _scores(
    self, ids: Int[np.ndarray, "b t"], counts: Int[np.ndarray, " b"]
  ) -> Float[np.ndarray, " b"]:
    """Gives log p(a | q) of one answer for each of this process's questions."""
    sharding = row_sharding(make_mesh(devices=jax.local_devices()))
    placed = jax.device_put((ids, counts), sharding)
    score = self._system.predictor.score
    return np.asarray(score(self._system.params, self._reading, *placed))

  def log_probs(
    self, targets: Sequence[Sequence[int]], length: int
  ) -> Float[np.ndarray, " n"]:
    """Gives log p(a | q) of a given answer for every question.

    Args:
      targets: token ids with their end, at most `length`; of an empty one the
        log probability is 0.
      length: tokens to pad to: one compiled program for each.
    """
    size = len(self._rows)
    filled = [*targets, *[targets[-1]] * (size - len(targets))]
    local = filled[host_slice(size)]
    ids, counts = pad_tokens(local, length, self._system.vocabulary.pad_id)
    return _gather(self._scores(ids, counts))[: len(targets)]

  def answers(self, *, max_tokens: int, beams: int = 1) -> list[Answer]:
    """Writes answers, scores the different ones, and takes the likeliest.

    Args:
      max_tokens: longest answer, with its end; where the decoder has not ended
        one by then, its end is scored all the same.
      beams: hypotheses of the beam search; 1 is greedy, as in the paper.
    """
    system = self._system
    written = system.predictor.generate(
      system.params, self._reading, max_tokens=max_tokens, beams=beams
    )
    candidates, counts = distinct_answers(np.asarray(written))
    ids, lengths = ended_answers(candidates, system.vocabulary.eos_id)
    log_probs = np.full(ids.shape[:2], -np.inf, np.float32)
    # As many calls as the question with the most different answers has.
    for j in range(int(counts.max())):
      scores = self._scores(ids[:, j], lengths[:, j])
      log_probs[:, j] = np.where(j < counts, scores, -np.inf)
    relevance = np.asarray(self._reading.scores)
    parts = _gather((ids, log_probs, counts, relevance))
    return [
      self._answer(self._rows[i], *(part[i] for part in parts))
      for i in range(self.stop - self.start)
    ]

  def _answer(
    self,
    rows: Int[np.ndarray, " k"],
    ids: Int[np.ndarray, "c t"],
    log_probs: Float[np.ndarray, " c"],
    count: Any,
    scores: Float[np.ndarray, " k"],
  ) -> Answer:
    """One question's answer; equals come in the order of their passages."""
    system = self._system
    candidates = tuple(
      (system.vocabulary.decode(ids[j].tolist()), float(log_probs[j]))
      for j in np.argsort(-log_probs[:count], kind="stable")
    )
    text, log_prob = candidates[0]
    return Answer(text, log_prob, candidates, _passages(system, rows, scores))


def _passages(
  system: ReadingSystem,
  rows: Int[np.ndarray, " k"],
  scores: Float[np.ndarray, " k"],
) -> tuple[ReadPassage, ...]:
  """The passages of a question with their scores, best first."""
  weights = np.exp(scores.astype(np.float64) - scores.max())
  probs = weights / weights.sum()
  corpus = system.corpus
  return tuple(
    ReadPassage(
      row=(row := int(rows[i])),
      id=corpus.id(row) if row >= 0 else "",
      title=corpus.title(row) if row >= 0 else "",
      score=float(scores[i]) * system.config.temperature,
      prob=float(probs[i]),
    )
    for i in np.argsort(-scores, kind="stable")
  )


def _gather(tree: Any) -> Any:
  """Every process's rows, in order, on all of them."""
  if jax.process_count() == 1:
    return tree
  return multihost_utils.process_allgather(tree, tiled=True)


def read_batches(
  system: ReadingSystem,
  request: Request,
  rows: Int[np.ndarray, "n k"],
  *,
  batch_size: int,
) -> Iterator[ReadBatch]:
  """Encodes questions with their passages, batch by batch, in order.

  The null document is added where the config has it, and read alone where
  there is no passage.

  Args:
    system: what reads.
    request: the questions.
    rows: passages of each, from `find_passages`.
    batch_size: questions at a time; rounded up to what the devices can share.
      The last batch is filled up with its own last question.
  """
  mesh = make_mesh(devices=jax.local_devices())
  devices = jax.process_count() * mesh.size
  size = -(-bucket_count(len(request), batch_size) // devices) * devices
  sharding = row_sharding(mesh)
  longest = system.retriever.question_length
  for start in range(0, len(request), size):
    chosen = np.arange(start, start + size).clip(max=len(request) - 1)
    tokens = [request.reader_tokens[i] for i in chosen]
    counts = np.minimum([len(t) for t in tokens], longest).astype(np.int32)
    local = host_slice(size)
    ids, lengths = pad_tokens(
      tokens[local], bucket_length(counts, longest), system.vocabulary.pad_id
    )
    batch = system.gatherer.gather(
      {"reader_question_ids": ids, "reader_question_lengths": lengths},
      rows[chosen],
      counts,
    )
    inputs = {name: batch[name] for name in _READ if name in batch}
    inputs["question_embeddings"] = request.embeddings[chosen[local]]
    reading = system.predictor.read(
      system.params, jax.device_put(inputs, sharding)
    )
    questions = range(start, min(start + size, len(request)))
    yield ReadBatch(system, reading, _gather(batch["passage_rows"]), questions)


def answer_questions(
  system: ReadingSystem,
  index: Searchable | None,
  questions: Sequence[str],
  *,
  k: int,
  batch_size: int,
  max_tokens: int,
  beams: int = 1,
  exclusions: Exclusions | None = None,
  progress: Progress | None = None,
) -> list[Answer]:
  """Answers questions; every process gets all answers.

  Args:
    system: what answers.
    index: see `find_passages`.
    questions: their texts.
    k: passages that are read for each; 0 for none.
    batch_size: questions at a time, see `read_batches`.
    max_tokens: longest answer, with its end.
    beams: hypotheses of the beam search; 1 is greedy.
    exclusions: of these questions; see `search_request`.
    progress: called with questions done and in all.

  Raises:
    ValueError: see `encode_request` and `find_passages`; or for numbers below
      1.
  """
  for name, value in {"batch_size": batch_size, "beams": beams}.items():
    if value < 1:
      raise ValueError(f"{name}={value} is below 1.")
  request = encode_request(system, questions)
  rows = find_passages(system, index, request, k=k, exclusions=exclusions)
  answers: list[Answer] = []
  for batch in read_batches(system, request, rows, batch_size=batch_size):
    answers += batch.answers(max_tokens=max_tokens, beams=beams)
    if progress:
      progress(len(answers), len(request))
  return answers
