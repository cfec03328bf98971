"""`odqa demo`: the whole pipeline on the embedded corpus, on this machine.

Prepare → ICT → supervised → index → search → evaluate → reader → end-to-end
training, from random weights, through the same functions that the commands
call. Ends with a table, three questions with their passages and answers,
`report.json`, `recall.png` and loss curves.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.demo.presets import PRESETS
from odqa_jax.demo.reader import ReaderStages
from odqa_jax.demo.retriever import (
  RetrieverStages,
  Stages,
  held_out_questions,
  prepare_data,
)
from odqa_jax.evaluation.measures import recall_table
from odqa_jax.reading.answer import Answer
from odqa_jax.runtime.mesh import is_primary
from odqa_jax.runtime.plots import plot_recall
from odqa_jax.runtime.report import write_report
from odqa_jax.runtime.settings import nearest


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
    raise ValueError(f"--preset {preset!r}; {nearest(preset, PRESETS)}")
  chosen = PRESETS[preset]
  root = Path(workdir)
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
