"""`odqa demo`: the whole pipeline on embedded corpora, on this machine.

By default a system from MiniLM, see `system.py`. The other presets begin with
random weights: prepare → ICT → supervised → index → search → evaluate → reader
→ end-to-end training. All through the same functions that the commands call.
Ends with a table, questions with their answers, and `report.json`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question, QuestionSet
from odqa_jax.data.runs import Ranking
from odqa_jax.demo.presets import PRESETS, SYSTEM, Preset, SystemPreset
from odqa_jax.demo.reader import ReaderStages
from odqa_jax.demo.retriever import (
  RetrieverStages,
  held_out_questions,
  prepare_data,
)
from odqa_jax.demo.stages import Stages
from odqa_jax.demo.system import EXPECTED, SystemStages
from odqa_jax.demo.system_data import ASKED, HELD_OUT
from odqa_jax.demo.system_page import (
  next_steps,
  show_records,
  show_rows,
  tell,
)
from odqa_jax.evaluation.measures import recall_table
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.reading.answer import Answer
from odqa_jax.runtime.mesh import is_primary
from odqa_jax.runtime.plots import plot_recall
from odqa_jax.runtime.report import write_report
from odqa_jax.runtime.run_record import hardware
from odqa_jax.runtime.settings import nearest
from odqa_jax.serving.opening import open_answering

DEFAULT = "default"


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

  Where MiniLM cannot be had, the default preset says so, and `scratch` runs.

  Raises:
    ValueError: for an unknown preset, or a workdir of another preset or seed.
  """
  known = [DEFAULT, *PRESETS]
  if preset not in known:
    raise ValueError(f"--preset {preset!r}; {nearest(preset, known)}")
  if preset == DEFAULT:
    try:
      minilm = resolve_folder("minilm")
    except (OSError, ValueError) as error:
      tell(f"Without MiniLM, from random weights instead: {error}")
      preset = "scratch"
    else:
      return run_system(Path(workdir), minilm, seed)
  return run_scratch(Path(workdir), preset, seed)


def run_system(root: Path, minilm: Path, seed: int) -> dict[str, Any]:
  """The default demo, with the folder of MiniLM's weights."""
  rows: list[dict[str, Any]] = []
  stages = Stages(EXPECTED)
  folder = SystemStages(SYSTEM, root, seed, minilm, stages, rows).run()
  count = rows[0]["questions"]
  tell(f"\n{count} questions about countries that training never saw:\n")
  tell(show_rows(rows))
  system = open_answering(folder, k=SYSTEM.k, read_k=SYSTEM.read_k)
  held_out = QuestionSet(root / "data" / "questions" / HELD_OUT)
  step = max(len(held_out) // 4, 1)
  asked = [held_out[i].question for i in range(step // 2, len(held_out), step)]
  tell(show_records(system.answer([*asked, *ASKED])))
  tell(next_steps(folder, root, SYSTEM))
  return _report(root, SYSTEM, seed, rows, stages) | {"system": str(folder)}


def run_scratch(root: Path, preset: str, seed: int) -> dict[str, Any]:
  """A preset of `PRESETS`."""
  chosen = PRESETS[preset]
  rows: list[dict[str, Any]] = []
  stages = Stages()

  with stages("prepare"):
    corpus, questions = prepare_data(chosen, root / "data")
  retrievers = RetrieverStages(
    chosen, root, seed, corpus, questions, stages, rows
  )
  best, ranking = retrievers.run()
  shown = show_examples(ranking, questions, corpus)
  if chosen.reader:
    name = chosen.sets[-1]
    answered = held_out_questions(root / "data", name, chosen.reader.questions)
    readers = ReaderStages(
      chosen.reader,
      root,
      best,
      retrievers.config("pairs", ""),
      f"{name}-train",
      corpus,
      questions,
      answered,
      stages,
      rows,
    )
    answers = readers.run()
    if answers:
      shown += "\n" + show_answers(answers, answered)
  tell(f"{recall_table(rows)}\n{shown}")
  if is_primary():
    plot_recall(rows, root / "recall.png")
  return {
    "passages": len(corpus),
    "questions": len(questions),
    **_report(root, chosen, seed, rows, stages),
  }


def _report(
  root: Path,
  preset: Preset | SystemPreset,
  seed: int,
  rows: Sequence[Mapping[str, Any]],
  stages: Stages,
) -> dict[str, Any]:
  """Writes report.json; returns the figures of the command."""
  path = root / "report.json"
  if is_primary():
    write_report(
      path,
      rows=rows,
      seconds=stages.seconds,
      config=dataclasses.asdict(preset),
      seed=seed,
      hardware=hardware(),
    )
  return {
    "recall@20": {
      row["name"]: row["recall"]["20"] for row in rows if "recall" in row
    },
    "em": {row["name"]: row["em"] for row in rows if "em" in row},
    "seconds": round(sum(stages.seconds.values()), 1),
    "report": str(path),
  }
