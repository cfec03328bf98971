"""`odqa demo`: the whole pipeline on the embedded corpus, on this machine.

Prepare → ICT → supervised → index → search → evaluate → reader → end-to-end
training, from random weights, through the same functions that the commands
call. Ends with a table, three questions with their passages and answers,
`report.json`, `recall.png` and loss curves.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from odqa_jax.answer import Answer
from odqa_jax.config import base_config, validate
from odqa_jax.data.corpus import Corpus
from odqa_jax.data.mining import Bm25
from odqa_jax.data.question_sets import Question, QuestionSet
from odqa_jax.demo_reader import (
  RUNS,
  ReaderPreset,
  run_reader_stages,
)
from odqa_jax.evaluate import Ranking, evaluate_ranking, recall_table
from odqa_jax.initial import resolve_folder
from odqa_jax.mesh import is_primary, make_mesh
from odqa_jax.models.bert import DualEncoder
from odqa_jax.plots import plot_recall
from odqa_jax.prepare import prepare
from odqa_jax.progress import progress_bar
from odqa_jax.report import write_report
from odqa_jax.retriever import (
  Retriever,
  index_corpus,
  load_retriever,
  make_retriever,
  search_questions,
)
from odqa_jax.tasks import encoder_config
from odqa_jax.train import train

SPLITS = ("train", "test")
K = 100


@dataclasses.dataclass(frozen=True)
class Preset:
  """How large and how long.

  Attributes:
    sets: embedded corpora with questions; the last one's have short answers.
    model: a preset of `models.bert`, or "init" with `init_from`.
    init_from: where training begins; "" is random.
    vocabulary: word pieces trained on the corpus.
    ict_steps: steps of the inverse cloze task.
    supervised_steps: steps of supervised training.
    baselines: whether the random encoder is measured, and one that was trained
      without ICT.
    batch_size: examples in a step, of both stages.
    question_length: tokens.
    passage_length: tokens.
    ict_rate: peak learning rate.
    supervised_rate: peak learning rate.
    test_questions: held-out questions measured, per set.
    temperature: τ. The paper's sqrt(d) is for long training; with minutes a
      small model learns several times faster from sharper scores.
    reader: the stages with a reader; None leaves them out.
  """

  sets: tuple[str, ...] = ("factbook_short",)
  model: str = "tiny"
  init_from: str = ""
  vocabulary: int = 8192
  ict_steps: int = 120
  supervised_steps: int = 280
  baselines: bool = False
  batch_size: int = 48
  question_length: int = 32
  passage_length: int = 64
  ict_rate: float = 2e-3
  supervised_rate: float = 1e-3
  test_questions: int = 1000
  temperature: float = 1.0
  reader: ReaderPreset | None = dataclasses.field(default_factory=ReaderPreset)


PRESETS = {
  "quick": Preset(
    sets=("vital_articles",),
    ict_steps=30,
    supervised_steps=15,
    batch_size=32,
    passage_length=48,
    test_questions=200,
    reader=ReaderPreset(
      gold_steps=0,
      steps=10,
      end_steps=6,
      closed_book_steps=0,
      questions=40,
      runs=("joint",),
    ),
  ),
  "default": Preset(),
  "full": Preset(
    ict_steps=400,
    supervised_steps=600,
    baselines=True,
    reader=ReaderPreset(
      gold_steps=3500,
      steps=1500,
      end_steps=200,
      closed_book_steps=600,
      refresh_every=100,
      questions=831,
      runs=tuple(RUNS),
    ),
  ),
  "minilm": Preset(
    model="init",
    init_from="minilm",
    ict_steps=0,
    supervised_steps=60,
    batch_size=32,
    passage_length=96,
    supervised_rate=2e-5,
    temperature=0.05,
    reader=None,
  ),
}


def stage_config(
  preset: Preset, data: Path, *, source: str, seed: int, init_from: str
) -> ConfigDict:
  """The training config of one stage of the demo."""
  config = base_config()
  ict = source == "ict"
  config.seed = seed
  config.steps = preset.ict_steps if ict else preset.supervised_steps
  config.batch_size = preset.batch_size
  config.log_every = max(config.steps // 20, 1)
  config.init_from = init_from
  config.data.source = source
  config.data.corpus = str(data / "corpus")
  config.data.question_length = preset.question_length
  config.data.passage_length = preset.passage_length
  config.data.hard_negatives = 0 if ict else 1
  if not ict:
    names = [f"{name}-train" for name in preset.sets]
    config.data.questions = ",".join(str(data / "questions" / n) for n in names)
    config.data.pairs = ",".join(str(data / "pairs" / n) for n in names)
  config.model.preset = preset.model
  config.model.dropout = 0.0 if ict else 0.1
  # One shared encoder: with minutes of training it learns twice as much.
  config.model.shared = True
  config.model.pooling = "mean"
  config.model.scan = False
  config.objective.temperature = preset.temperature
  config.optimizer.learning_rate = (
    preset.ict_rate if ict else preset.supervised_rate
  )
  config.optimizer.warmup = 0.05
  config.checkpoint.every = config.steps
  config.lock()
  return validate(config)


def held_out_questions(data: Path, name: str, limit: int) -> list[Question]:
  """At most `limit` test questions of a set, evenly spaced."""
  questions = QuestionSet(data / "questions" / f"{name}-test")
  count = min(limit, len(questions))
  return [questions[i * len(questions) // count] for i in range(count)]


def prepare_data(preset: Preset, data: Path) -> tuple[Corpus, list[Question]]:
  """The embedded corpus, and the held-out questions that are measured."""
  prepare(
    corpus=preset.sets,
    questions=[f"{name}:{split}" for name in preset.sets for split in SPLITS],
    out=data,
    tokenizer=preset.init_from,
    vocabulary_size=preset.vocabulary,
    pairs=[f"{name}-train" for name in preset.sets],
  )
  questions = [
    question
    for name in preset.sets
    for question in held_out_questions(data, name, preset.test_questions)
  ]
  return Corpus(data / "corpus"), questions


def keep_programs(folder: Path) -> None:
  """Lets stages that differ in their weights alone share one compilation."""
  if jax.config.values["jax_compilation_cache_dir"] is None:
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def measure_bm25(corpus: Corpus, questions: list[Question]) -> dict[str, Any]:
  """The baseline without training."""
  texts = [q.question for q in questions]
  rows, scores = Bm25.build(corpus).search(texts, K)
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  return evaluate_ranking(ranking, questions, corpus)


class Stages:
  """Wall time per stage, printed as it passes."""

  def __init__(self) -> None:
    self.seconds: dict[str, float] = {}

  @contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    """Times one stage."""
    print(f"— {name}", file=sys.stderr, flush=True)
    start = time.monotonic()
    yield
    self.seconds[name] = round(time.monotonic() - start, 1)


def measure(
  retriever: Retriever,
  corpus: Corpus,
  questions: list[Question],
  index_folder: Path,
) -> tuple[dict[str, Any], Ranking]:
  """Index, search and evaluate with one retriever."""
  with progress_bar("encode", len(corpus), "passage") as update:
    index = index_corpus(
      retriever, corpus, index_folder, mesh=make_mesh(), progress=update
    )
  scores, rows = search_questions(
    retriever, index, corpus, [q.question for q in questions], k=K
  )
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  return evaluate_ranking(ranking, questions, corpus), ranking


def random_retriever(config: ConfigDict, corpus: Corpus) -> Retriever:
  """The untrained model that the stages begin from."""
  model = encoder_config(config.model, corpus.tokenizer.vocab_size)
  params = DualEncoder(model).init(jax.random.key(config.seed))
  return make_retriever(
    model,
    params,
    corpus.tokenizer,
    question_length=config.data.question_length,
    passage_length=config.data.passage_length,
    title=config.data.title,
  )


def show_examples(
  ranking: Ranking, questions: list[Question], corpus: Corpus
) -> str:
  """Three questions, each with its three best passages."""
  lines = []
  for i in (0, len(questions) // 2, len(questions) - 1):
    question = questions[i]
    lines.append(f"\n? {question.question}   [{question.answers[0]}]")
    for rank in range(3):
      row = int(ranking.rows[i, rank])
      gold = "*" if corpus.id(row) in question.positive_ids else " "
      text = corpus.text(row)[:90]
      lines.append(
        f" {gold}{ranking.scores[i, rank]:7.2f}  {corpus.title(row)}: {text}…"
      )
  return "\n".join([*lines, "", "* the question's own passage"])


def show_answers(answers: list[Answer], questions: list[Question]) -> str:
  """Five questions with the answers of a reader."""
  lines = ["", "Joint Top-k answers:"]
  for i in range(0, len(questions), max(len(questions) // 5, 1)):
    answer, best = answers[i], answers[i].passages[0]
    lines.append(
      f"? {questions[i].question}   [{questions[i].answers[0]}]\n"
      f"  {answer.text}   (p = {math.exp(answer.log_prob):.2f}; "
      f"{best.title}, p(z|q) = {best.prob:.2f})"
    )
  return "\n".join(lines)


def run_demo(workdir: str, preset: str, seed: int) -> dict[str, Any]:
  """Runs the demo; what is complete in `workdir` is not done again.

  Raises:
    ValueError: for an unknown preset, or a workdir of another preset or seed.
  """
  if preset not in PRESETS:
    raise ValueError(f"--preset {preset!r}; known: {sorted(PRESETS)}.")
  chosen = PRESETS[preset]
  root = Path(workdir)
  data = root / "data"
  stages = Stages()
  keep_programs(root / "programs")

  with stages("prepare"):
    corpus, questions = prepare_data(chosen, data)
  rows: list[dict[str, Any]] = []

  def add_row(name: str, retriever: Retriever, folder: str) -> Ranking:
    with stages(f"measure {name}"):
      figures, found = measure(
        retriever, corpus, questions, root / "index" / folder
      )
    rows.append({"name": name, **figures})
    return found

  def run_stage(name: str, folder: str, source: str, init_from: str) -> Path:
    with stages(name):
      train(
        stage_config(
          chosen, data, source=source, seed=seed, init_from=init_from
        ),
        root / folder,
      )
    return root / folder

  start = chosen.init_from
  if start:
    published = load_retriever(resolve_folder(start))
    add_row(f"{start}, no training", published, "start")
  elif chosen.baselines:
    config = stage_config(chosen, data, source="ict", seed=seed, init_from="")
    add_row("random BERT", random_retriever(config, corpus), "start")
  if chosen.ict_steps:
    ict = run_stage("train ICT", "ict", "ict", start)
    add_row("ICT", load_retriever(ict), "ict")
  if chosen.baselines or not chosen.ict_steps:
    best = run_stage("train supervised", "supervised", "pairs", start)
    ranking = add_row("supervised", load_retriever(best), "supervised")
  if chosen.ict_steps:
    best = run_stage(
      "train ICT + supervised", "ict_supervised", "pairs", str(ict)
    )
    ranking = add_row("ICT + supervised", load_retriever(best), best.name)
  with stages("measure BM25"):
    rows.append({"name": "BM25", **measure_bm25(corpus, questions)})
  shown = show_examples(ranking, questions, corpus)
  if chosen.reader:
    answered = held_out_questions(
      data, chosen.sets[-1], chosen.reader.questions
    )
    found, answers = run_reader_stages(
      chosen.reader,
      stage_config(chosen, data, source="pairs", seed=seed, init_from=""),
      best,
      root / "index" / best.name,
      data,
      f"{chosen.sets[-1]}-train",
      corpus=corpus,
      questions=questions,
      answered=answered,
      stage=stages,
    )
    rows += found
    if answers:
      shown += "\n" + show_answers(answers, answered)
  if is_primary():
    print(recall_table(rows))
    print(shown)
    plot_recall(rows, root / "recall.png")
    write_report(
      root / "report.json",
      rows=rows,
      seconds=stages.seconds,
      config=dataclasses.asdict(chosen),
      seed=seed,
    )
  return {
    "passages": len(corpus),
    "questions": len(questions),
    "recall@20": {
      row["name"]: row["recall"]["20"] for row in rows if "recall" in row
    },
    "em": {row["name"]: row["em"] for row in rows if "em" in row},
    "seconds": round(sum(stages.seconds.values()), 1),
    "report": str(root / "report.json"),
  }
