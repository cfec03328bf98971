"""`odqa answer`, and what `odqa evaluate` measures of a checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.files import read_questions
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.evaluation.measures import (
  Ranking,
  answer_measures,
  evaluate_ranking,
)
from odqa_jax.reading.answer import (
  Answer,
  ReadingSystem,
  answer_questions,
  default_batch_size,
  holds_reader,
  load_system,
  read_batches,
)
from odqa_jax.retrieval.retriever import (
  Retriever,
  fit_to_index,
  load_retriever,
  search_questions,
  write_index,
)
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.retrieval.searchable import open_index as open_searchable
from odqa_jax.retrieval.storage import read_manifest
from odqa_jax.runtime.artifact import replacing
from odqa_jax.runtime.mesh import is_primary, make_mesh, sync
from odqa_jax.runtime.progress import progress_bar
from odqa_jax.runtime.report import text_table


def open_corpus(path: str) -> Corpus:
  """A corpus folder, or the dataset folder that holds one."""
  nested = Path(path) / "corpus"
  return Corpus(nested if nested.is_dir() else Path(path))


def open_questions(path: str) -> list[Question]:
  """A prepared question set, or a raw file of any known format."""
  if Path(path).is_dir():
    return list(QuestionSet(Path(path)))
  return list(read_questions(path))


def open_index(
  retriever: Retriever, corpus: Corpus, directory: str, backend: str
) -> Searchable:
  """Opens the index of a retriever, once it is known to belong to it.

  Raises:
    ImportError: if the backend needs an extra that is not installed.
    ValueError: if the index is that of another encoder or corpus, or does not
      fit in memory.
  """
  fit_to_index(retriever, corpus, read_manifest(Path(directory)))
  return open_searchable(directory, make_mesh(), backend=backend)


def make_index(
  retriever: Retriever, corpus: Corpus, directory: str, backend: str
) -> Searchable:
  """`open_index`; makes it when absent."""
  if not Path(directory).exists():
    with progress_bar("encode", len(corpus), "passage") as update:
      write_index(
        retriever, corpus, directory, mesh=make_mesh(), progress=update
      )
  return open_index(retriever, corpus, directory, backend)


def evaluate_checkpoint(
  checkpoint: Path,
  index: str,
  questions: list[Question],
  corpus: Corpus,
  *,
  qrels: str | None,
  k: int,
  backend: str,
) -> dict[str, Any]:
  """Retrieval and, of a checkpoint with a reader, its answers.

  The reader gets as many passages as in training, at most k; `read_k` says
  how many.
  """
  system = load_system(checkpoint, corpus) if holds_reader(checkpoint) else None
  retriever = system.retriever if system else load_retriever(checkpoint)
  opened = make_index(retriever, corpus, index, backend)
  texts = [q.question for q in questions]
  scores, rows = search_questions(retriever, opened, corpus, texts, k=k)
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  figures = evaluate_ranking(ranking, questions, corpus, qrels=qrels)
  if system is None:
    return figures
  read = rows[:, : trained_k(system)]
  size = default_batch_size(system, read.shape[1])
  answers: list[Answer] = []
  with progress_bar("read", len(texts), "question") as update:
    for batch in read_batches(system, texts, read, batch_size=size):
      answers += batch.answers(max_tokens=system.config.data.answer_length)
      update(len(answers))
  measured = answer_measures(answers, questions)
  del measured["questions"]
  return figures | {"read_k": read.shape[1]} | measured


def trained_k(system: ReadingSystem) -> int:
  """Passages that a reader gets unless something else is asked for."""
  return system.config.evaluate.k or system.config.retrieval.k


def answer(
  checkpoint: str,
  index: str | None,
  corpus: str,
  reader_corpus: str | None,
  question: str | None,
  questions: str | None,
  out: str | None,
  k: int | None,
  beams: int,
  batch_size: int | None,
  backend: str,
) -> dict[str, Any]:
  """`odqa answer`: one question on the screen, or a set into a file.

  Raises:
    ValueError: for flags that do not go together, an empty question, or a
      checkpoint, corpus or index that does not fit.
  """
  if (question is None) == (questions is None):
    raise ValueError("give --question TEXT, or --questions FILE with --out.")
  if (questions is None) != (out is None):
    raise ValueError("--questions FILE and --out FILE go together.")
  if question is not None and not question.strip():
    raise ValueError("--question is empty; ask something.")
  asked = None if questions is None else open_questions(questions)
  texts = [question or ""]
  if asked is not None:
    texts = [q.question for q in asked]
  system = load_system(
    checkpoint,
    open_corpus(corpus),
    None if reader_corpus is None else Corpus(reader_corpus),
  )
  k = trained_k(system) if k is None else k
  if not 0 <= k <= len(system.corpus):
    raise ValueError(
      f"--k {k}: the corpus has {len(system.corpus)} passages; choose from 0 "
      "(closed book) to that number."
    )
  opened = None
  if k:
    if index is None:
      raise ValueError("--index DIR is needed; it is made when absent.")
    opened = make_index(system.retriever, system.corpus, index, backend)
  with progress_bar("answer", len(texts), "question") as update:
    answers = answer_questions(
      system,
      opened,
      texts,
      k=k,
      batch_size=batch_size or default_batch_size(system, k),
      max_tokens=system.config.data.answer_length,
      beams=beams,
      progress=update,
    )
  if asked is None or out is None:
    if is_primary():
      print(show_answer(texts[0], answers[0]))
    return answer_record(answers[0]) | {"question": texts[0], "k": k}
  if is_primary():
    write_answers(Path(out), asked, answers)
  sync("answers")
  return {"k": k, "answers": out} | answer_measures(answers, asked)


def answer_record(answer: Answer) -> dict[str, Any]:
  """An answer as JSON has it."""
  return {
    "answer": answer.text,
    "log_prob": answer.log_prob,
    "candidates": [
      {"answer": text, "log_prob": log_prob}
      for text, log_prob in answer.candidates
    ],
    "passages": [
      {"id": p.id, "title": p.title, "score": p.score, "prob": p.prob}
      for p in answer.passages
    ],
  }


def show_answer(question: str, answer: Answer) -> str:
  """Question, answer and passages as text."""
  table = [["passage", "title", "score", "prob"]]
  for p in answer.passages:
    name = (p.id, p.title) if p.row >= 0 else ("", "(no passage)")
    table.append([*name, f"{p.score:.3f}", f"{p.prob:.3f}"])
  others = [
    f"  {log_prob:8.3f}  {text}" for text, log_prob in answer.candidates[1:]
  ]
  return "\n".join(
    [
      f"? {question}",
      f"= {answer.text}   (log-probability {answer.log_prob:.3f})",
      *others,
      "",
      text_table(table, right=(2, 3)),
    ]
  )


def write_answers(
  path: Path, questions: Sequence[Question], answers: Sequence[Answer]
) -> None:
  """Writes one JSON object a line; the file appears whole.

  The keys are those of `answer_record`, and `id`, `question`, `references`.
  """
  with (
    replacing(path) as temporary,
    temporary.open("w", encoding="utf-8") as file,
  ):
    for question, found in zip(questions, answers, strict=True):
      record = {
        "id": question.id,
        "question": question.question,
        "references": list(question.answers),
      }
      line = json.dumps(record | answer_record(found), ensure_ascii=False)
      file.write(f"{line}\n")
