"""The second half of `odqa demo`: a small reader, then end-to-end training.

Closed book → reader on retrieved passages → from that one start: Fusion-in-
Decoder, Joint Top-k, Individual Top-k with one and with both encoders.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from odqa_jax.answer import Answer, answer_questions, default_batch_size
from odqa_jax.answer_system import ReadingSystem, load_system
from odqa_jax.config import base_config, validate
from odqa_jax.data.corpus import Corpus
from odqa_jax.data.question_sets import Question
from odqa_jax.evaluate import Ranking, answer_measures, evaluate_ranking
from odqa_jax.mesh import make_mesh
from odqa_jax.progress import progress_bar
from odqa_jax.retrieval import Searchable
from odqa_jax.retriever import index_corpus, search_questions
from odqa_jax.train import train


@dataclasses.dataclass(frozen=True)
class ReaderPreset:
  """How large a reader, and how long.

  The options of `tiny` readers (token mixing, mimetic initialisation, flags,
  span loss) and the two stages, one passage and then several, are what makes
  a reader learn from random weights within minutes.

  Attributes:
    model: a preset of `models.t5`.
    gold_steps: first stage: the gold passage alone; 0 leaves it out.
    steps: second stage: `k` retrieved passages, the gold one among them.
    end_steps: each of the runs that begin with the trained reader.
    closed_book_steps: the reader without passages; 0 leaves it out.
    batch_size: questions in a step.
    k: passages read in training.
    k_answer: passages read when answering.
    length: tokens of question and passage.
    gold_rate: peak learning rate of the first stage.
    rate: peak learning rate of the second stage.
    end_rate: peak learning rate of the end-to-end runs.
    retriever_factor: what the retriever's rate is of that; its encoders are
      trained already, and a reader that is not yet good misleads them.
    refresh_every: steps between renewals of the index.
    questions: held-out questions that are answered.
    runs: which of `RUNS` begin with the trained reader.
  """

  model: str = "tiny"
  gold_steps: int = 500
  steps: int = 120
  end_steps: int = 50
  closed_book_steps: int = 80
  batch_size: int = 16
  k: int = 4
  k_answer: int = 8
  length: int = 80
  gold_rate: float = 2e-3
  rate: float = 1.5e-3
  end_rate: float = 5e-4
  retriever_factor: float = 0.1
  refresh_every: int = 30
  questions: int = 200
  runs: tuple[str, ...] = ("joint", "individual_both")


# Workdir → name in the table, task, whether the context encoder is trained.
RUNS = {
  "fid": ("FiD", "fid", False),
  "joint": ("Joint Top-k", "joint", False),
  "individual_question": (
    "Individual, question encoder",
    "individual",
    False,
  ),
  "individual_both": ("Individual, both encoders", "individual", True),
}
# Tied embeddings of deviation 1 need larger steps: sqrt(128).
EMBEDDING_RATE = 11.3


def reader_stage(
  preset: ReaderPreset,
  retriever: ConfigDict,
  data: Path,
  question_set: str,
  index: Path,
  *,
  task: str,
  steps: int,
  k: int,
  rate: float,
  init_from: str,
  context_encoder: bool = False,
  force_gold: bool = False,
) -> ConfigDict:
  """The training config of one stage with a reader.

  Args:
    preset: sizes.
    retriever: the config that the retriever was trained with.
    data: the dataset folder.
    question_set: the name of the training questions.
    index: of the retriever that all stages begin with.
    task: see `tasks.TASKS`.
    steps: how many.
    k: passages of a question.
    rate: peak learning rate.
    init_from: the workdir of the retriever, or of retriever and reader.
    context_encoder: whether it is trained.
    force_gold: whether the gold passage is among the k.
  """
  config = base_config()
  config.task = task
  config.seed = retriever.seed
  config.steps = steps
  config.batch_size = preset.batch_size
  config.log_every = max(steps // 20, 1)
  config.init_from = init_from
  config.model.update(retriever.model)
  config.model.shared = False
  config.model.dropout = 0.0
  config.data.update(retriever.data)
  config.data.source = "answers"
  config.data.pairs = ""
  config.data.questions = str(data / "questions" / question_set)
  config.data.reader_length = preset.length
  config.data.answer_length = 24
  # One program a stage: compiling takes longer than padding here.
  config.data.reader_buckets = False
  # Passages of a few words need their title.
  config.data.reader_title = True
  config.reader.preset = preset.model
  config.reader.dropout = 0.0
  config.reader.scan = False
  config.reader.mixing = True
  config.reader.mimetic = True
  config.reader.flags = True
  config.reader.span_loss = 2.0
  config.objective.temperature = retriever.objective.temperature
  config.objective.context_encoder = context_encoder
  config.retrieval.k = k
  config.retrieval.force_gold = force_gold
  config.retrieval.index = str(index)
  if context_encoder:
    # The first index that `snapshot` swaps in is that of the weights at the
    # start, so runs of one or two renewals learn nothing from it.
    config.retrieval.refresh = "blocking"
    config.retrieval.refresh_every = preset.refresh_every
  config.optimizer.learning_rate = rate
  config.optimizer.warmup = 0.1
  config.optimizer.b2 = 0.98
  config.optimizer.multipliers = (
    ("reader/shared/embedding", EMBEDDING_RATE),
    ("retriever/.*", preset.retriever_factor),
  )
  config.checkpoint.every = steps
  config.lock()
  return validate(config)


def _measure(
  system: ReadingSystem,
  index: Searchable | None,
  questions: Sequence[Question],
  answered: Sequence[Question],
  k: int,
) -> tuple[dict[str, Any], list[Answer]]:
  """Recall on all questions, EM and F1 on those to be answered."""
  figures: dict[str, Any] = {}
  if index is not None:
    scores, rows = search_questions(
      system.retriever,
      index,
      system.corpus,
      [q.question for q in questions],
      k=100,
    )
    ranking = Ranking(tuple(q.id for q in questions), rows, scores)
    figures = evaluate_ranking(ranking, questions, system.corpus)
  with progress_bar("answer", len(answered), "question") as update:
    answers = answer_questions(
      system,
      index,
      [q.question for q in answered],
      k=k,
      batch_size=default_batch_size(system, k),
      max_tokens=system.config.data.answer_length,
      progress=update,
    )
  measured = answer_measures(answers, answered)
  measured["answered"] = measured.pop("questions")
  return figures | measured, answers


def run_reader_stages(
  preset: ReaderPreset,
  retriever: ConfigDict,
  retriever_workdir: Path,
  retriever_index: Path,
  data: Path,
  question_set: str,
  *,
  corpus: Corpus,
  questions: Sequence[Question],
  answered: Sequence[Question],
  stage: Callable[[str], AbstractContextManager[None]],
) -> tuple[list[dict[str, Any]], list[Answer]]:
  """Trains and measures every reader.

  Args:
    preset: sizes.
    retriever: the config of the retriever that all begin with.
    retriever_workdir: its workdir.
    retriever_index: its index.
    data: the dataset folder; workdirs and indexes go beside it.
    question_set: the name of the training questions.
    corpus: the evidence.
    questions: what recall is measured on.
    answered: what EM and F1 are measured on.
    stage: times a stage by name.

  Returns:
    A row of figures for each, and the answers of Joint Top-k, if it was run.
  """
  root = data.parent
  rows: list[dict[str, Any]] = []
  answers: list[Answer] = []

  def train_stage(name: str, folder: str, **settings: Any) -> Path:
    config = reader_stage(
      preset, retriever, data, question_set, retriever_index, **settings
    )
    with stage(f"train {name}"):
      train(config, root / folder)
    return root / folder

  def add_row(name: str, workdir: Path, k: int) -> list[Answer]:
    with stage(f"measure {name}"):
      system = load_system(workdir, corpus)
      trained = system.config.objective.context_encoder
      folder = retriever_index
      if trained:
        folder = folder.with_name(workdir.name)
      index = None
      if k:
        index = index_corpus(system.retriever, corpus, folder, mesh=make_mesh())
      figures, found = _measure(system, index, questions, answered, k)
    rows.append({"name": name, **figures})
    return found

  start = str(retriever_workdir)
  if preset.closed_book_steps:
    closed = train_stage(
      "closed book",
      "closed_book",
      task="fid",
      steps=preset.closed_book_steps,
      k=0,
      rate=preset.gold_rate,
      init_from=start,
    )
    add_row("closed book (k = 0)", closed, 0)
  if preset.gold_steps:
    gold = train_stage(
      "reader, gold passage",
      "reader_gold",
      task="fid",
      steps=preset.gold_steps,
      k=1,
      rate=preset.gold_rate,
      init_from=start,
      force_gold=True,
    )
    start = str(gold)
  reader = train_stage(
    f"reader, {preset.k} passages",
    "reader",
    task="fid",
    steps=preset.steps,
    k=preset.k,
    rate=preset.rate,
    init_from=start,
    force_gold=True,
  )
  add_row("reader (start)", reader, preset.k_answer)
  for folder in preset.runs:
    name, task, context_encoder = RUNS[folder]
    workdir = train_stage(
      name,
      folder,
      task=task,
      steps=preset.end_steps,
      k=preset.k,
      rate=preset.end_rate,
      init_from=str(reader),
      context_encoder=context_encoder,
    )
    found = add_row(name, workdir, preset.k_answer)
    answers = found if task == "joint" else answers
  return rows, answers
