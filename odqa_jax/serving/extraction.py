"""What answers with spans: an extractive reader and who found its passages.

sources = Sources("work/extractive", retriever="work/ict", index="index")
extraction = open_extraction(sources, questions, corpus, k=100)
for found in extraction.answers(questions, most=10):
  ...

A retriever finds k passages of each question, a reranker brings them into its
own order, and the first of them are read. A generative reader scores the best
spans as well and writes an answer of its own, and a fusion decides: that is
"R2-D2: A Modular Baseline for Open-Domain Question Answering" (Fajcik et al.
2021), of which every part but the extractive reader may be left out.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.retrieved import check_run_texts
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking, read_run
from odqa_jax.evaluation.measures import (
  CUTOFFS,
  Measured,
  answer_measures,
  answer_values,
)
from odqa_jax.evaluation.systems import rank_passages
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.reading.answer import default_batch_size
from odqa_jax.reading.extract import (
  ROLE,
  SpanReader,
  load_span_reader,
  with_rank_weight,
)
from odqa_jax.reading.fusion import Fusion, load_fusion
from odqa_jax.reading.pair_scores import rerank
from odqa_jax.reading.span_answers import (
  GENERATOR,
  Passages,
  SpanAnswers,
  answer_with_spans,
  check_fusion,
)
from odqa_jax.reading.span_likelihoods import GenerativeReader
from odqa_jax.reading.system import load_reading_system
from odqa_jax.reading.trained_scorer import (
  TrainedScorer,
  load_trained_scorer,
)
from odqa_jax.reading.unified import holds_unified, load_unified
from odqa_jax.retrieval.folders import make_index
from odqa_jax.retrieval.retriever import Retriever, load_retriever
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.serving.system_folder import component_version


@dataclasses.dataclass(frozen=True)
class Sources:
  """Where the parts are.

  Attributes:
    extractive_reader: a checkpoint.
    retriever: a checkpoint that searches; None: `run` has been found.
    index: of it.
    backend: of the search.
    run: the file of a search.
    reranker: a checkpoint; None: there is none, or `reranked`.
    reranked: a run that a reranker made of `run`; None: there is none.
    reader: the checkpoint of a generative reader; None: there is none.
    reader_corpus: the passages in its vocabulary; see `load_reading_system`.
    fusion: the file; None: the extractive reader decides.
    exclude_self: see `rank_passages`.
    rank_weight: λ of its answers; see `reading/answer_scoring.py`.
  """

  extractive_reader: str
  retriever: str | None = None
  index: str | None = None
  backend: str = "exact"
  run: str | None = None
  reranker: str | None = None
  reranked: str | None = None
  reader: str | None = None
  reader_corpus: str | None = None
  fusion: str | None = None
  exclude_self: bool = False
  rank_weight: float | None = None

  def check(self) -> None:
    """Raises ValueError unless there is one source of passages."""
    if (self.retriever is None) == (self.run is None):
      raise ValueError(
        f"{self.extractive_reader} holds an extractive reader, which reads "
        "what others find; give --retriever DIR with --index DIR, or --run "
        "FILE of a search."
      )
    if (self.retriever is None) != (self.index is None):
      raise ValueError("--retriever DIR and --index DIR go together.")
    if self.reranked is not None and self.run is None:
      raise ValueError(
        "--reranked FILE needs --run FILE, the run that was reranked."
      )
    if self.run is not None and self.exclude_self:
      raise ValueError(
        f"--exclude-self: {self.run} has been found already; give the flag to "
        "odqa search."
      )
    if self.reranked is not None and self.reranker is not None:
      raise ValueError(
        "--reranker DIR makes what --reranked FILE has; leave one of them out."
      )
    if self.reader_corpus is not None and self.reader is None:
      raise ValueError(
        "--reader-corpus DIR is for a reader that writes; give --reader DIR."
      )

  def versions(self) -> dict[str, str]:
    """Component → what a fusion knows it by."""
    named = {
      "retriever": self.retriever or self.run,
      "reranker": self.reranker or self.reranked,
      ROLE: self.extractive_reader,
      GENERATOR: self.reader,
    }
    return {n: component_version(p) for n, p in named.items() if p is not None}


@dataclasses.dataclass(frozen=True)
class Parts:
  """What answers, loaded once for any number of questions.

  Attributes:
    reader: the extractive reader.
    generator: the generative reader; None without one.
    reranker: None without one.
    retriever: None where a run has been found.
    index: of the retriever.
    versions: component → what a fusion knows it by.
    fusion: None: the extractive reader decides.
  """

  reader: SpanReader
  generator: GenerativeReader | None
  reranker: TrainedScorer | None
  retriever: Retriever | None
  index: Searchable | None
  versions: Mapping[str, str]
  fusion: Fusion | None


@dataclasses.dataclass(frozen=True)
class Extraction:
  """Parts that are open, and what was found.

  Attributes:
    reader: the extractive reader.
    generator: the generative reader; None without one.
    ranking: of the search.
    reranked: of the reranker; None without one.
    passages: what is read of it.
    versions: component → what a fusion knows it by.
    fusion: None: the extractive reader decides.
  """

  reader: SpanReader
  generator: GenerativeReader | None
  ranking: Ranking
  reranked: Ranking | None
  passages: Passages
  versions: Mapping[str, str]
  fusion: Fusion | None

  def answers(
    self, questions: Sequence[Question], **options: Any
  ) -> Iterator[list[SpanAnswers]]:
    """`answer_with_spans`, with progress on the screen."""
    with progress_bar("read", len(questions), "questions") as update:
      for i, found in enumerate(
        answer_with_spans(
          self.reader,
          questions,
          self.passages,
          generator=self.generator,
          fusion=self.fusion,
          **options,
        )
      ):
        update(i + 1)
        yield found


def open_extraction(
  sources: Sources,
  questions: Sequence[Question],
  corpus: Corpus,
  *,
  k: int,
  read_k: int | None = None,
  batch_size: int | None = None,
  beams: int = 1,
) -> Extraction:
  """Loads the parts, searches or reads the run, and reranks.

  Args:
    sources: where all is.
    questions: what is asked.
    corpus: the evidence.
    k: passages that are found, and reranked, of each question at most.
    read_k: the first of these, which are read; None: all.
    batch_size: questions that a generative reader reads at a time; None: what
      suits the devices.
    beams: see `GenerativeReader`.

  Raises:
    ValueError: if a part is missing or does not fit the others.
  """
  if read_k is not None and not 1 <= read_k <= k:
    raise ValueError(f"--read-k {read_k}: choose from 1 to --k {k}.")
  # All are loaded before the search, which may take long.
  parts = load_parts(sources, corpus, batch_size=batch_size, beams=beams)
  if parts.retriever is None or parts.index is None:
    ranking = _read_run(str(sources.run), questions, corpus)
  else:
    ranking = rank_passages(
      parts.retriever,
      parts.index,
      corpus,
      questions,
      k=k,
      exclude_self=sources.exclude_self,
    )
  reranked = None
  if sources.reranked is not None:
    reranked = _read_run(sources.reranked, questions, corpus)
  elif parts.reranker is not None:
    some = ranking.cut(k)
    with progress_bar("rerank", some.rows.size, "pairs") as update:
      reranked = rerank(
        parts.reranker, some, questions, corpus, progress=update
      )
  return Extraction(
    parts.reader,
    parts.generator,
    ranking,
    reranked,
    Passages.of(ranking, reranked, read_k or k),
    parts.versions,
    parts.fusion,
  )


def load_parts(
  sources: Sources,
  corpus: Corpus,
  *,
  batch_size: int | None = None,
  beams: int = 1,
) -> Parts:
  """Loads the parts; see `open_extraction`.

  Raises:
    ValueError: if a part is missing or does not fit the others.
  """
  sources.check()
  versions, fusion = sources.versions(), None
  if sources.fusion is not None:
    fusion = load_fusion(sources.fusion)
    check_fusion(fusion, [*versions])
  reader, retriever = _load_both(sources, corpus)
  generator = _load_generator(sources, corpus, batch_size, beams)
  reranker = index = None
  if sources.reranker is not None:
    reranker = load_trained_scorer(sources.reranker, "reranker")
  if retriever is not None and sources.index is not None:
    index = make_index(retriever, corpus, sources.index, sources.backend)
  return Parts(reader, generator, reranker, retriever, index, versions, fusion)


def _load_both(
  sources: Sources, corpus: Corpus
) -> tuple[SpanReader, Retriever | None]:
  """What reads, and what searches; a unified checkpoint is read once."""
  found = sources.retriever and resolve_folder(sources.retriever)
  retriever: Retriever | None = None
  path = sources.extractive_reader
  if found and resolve_folder(path) == found and holds_unified(found):
    retriever, reader = load_unified(found, corpus)
  else:
    reader = load_span_reader(path, corpus)
    retriever = load_retriever(found) if found else None
  return with_rank_weight(reader, sources.rank_weight), retriever


def _load_generator(
  sources: Sources, corpus: Corpus, batch_size: int | None, beams: int
) -> GenerativeReader | None:
  if sources.reader is None:
    return None
  store = sources.reader_corpus and Corpus(sources.reader_corpus)
  system = load_reading_system(sources.reader, corpus, store or None)
  if batch_size is None:
    batch_size = default_batch_size(system, system.config.k)
  return GenerativeReader(system, batch_size, beams)


def _read_run(
  path: str, questions: Sequence[Question], corpus: Corpus
) -> Ranking:
  ranking = read_run(path, questions, corpus)
  check_run_texts(path, corpus)
  return ranking


def measure_spans(
  extraction: Extraction,
  questions: Sequence[Question],
  *,
  read_k: int | None = None,
  **options: Any,
) -> Measured:
  """Gives k → `span_measures` with the first k passages; values are `em@k`.

  Args:
    extraction: what answers.
    questions: those to measure on.
    read_k: this k alone; None: `CUTOFFS`, and as many as there are. A
      generative reader reads as many as in training for every k, and takes
      long: with one, only as many as there are.
    options: of `answer_with_spans`.
  """
  width = extraction.passages.rows.shape[1]
  cutoffs = [k for k in CUTOFFS if k < width] + [width]
  if read_k is not None:
    cutoffs = [read_k]
  elif extraction.generator is not None:
    cutoffs = [width]
  best = []
  for found in extraction.answers(questions, cutoffs=cutoffs, **options):
    best.append([dataclasses.replace(f, answers=f.answers[:1]) for f in found])
  given = {k: [found[i] for found in best] for i, k in enumerate(cutoffs)}
  return measured_by_k(given, questions)


def measured_by_k(
  answers: Mapping[int, Sequence[SpanAnswers]], questions: Sequence[Question]
) -> Measured:
  """`span_measures` of the answers from each number of passages."""
  figures, values = {}, {}
  for k, given in answers.items():
    figures[str(k)] = span_measures(given, questions)
    del figures[str(k)]["questions"]
    for name, each in answer_values(given, questions).items():
      values[f"{name}@{k}"] = each
  return Measured(figures, values)


def span_measures(
  answers: Sequence[SpanAnswers], questions: Sequence[Question]
) -> dict[str, Any]:
  """`answer_measures`, also of a generative reader's own answers.

  With one, `extractive` is the share of answers that are spans, and `generated`
  has the figures of what was written.
  """
  measured = answer_measures(answers, questions)
  written = [a.generated for a in answers if a.generated is not None]
  if written:
    spans = sum(a.extractive for a in answers)
    measured["extractive"] = spans / len(answers)
    generated = answer_measures(written, questions)
    del generated["questions"]
    measured["generated"] = generated
  return measured
