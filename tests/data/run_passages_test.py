"""Runs that are measured by the texts they hold, without their corpus."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import last_line, run

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.prepare import open_corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.run_passages import RunPassages
from odqa_jax.data.runs import Ranking, write_run


def test_the_figures_are_those_with_the_corpus(
  capsys: pytest.CaptureFixture, toy_data: Path, tmp_path: Path
) -> None:
  corpus: Corpus = open_corpus(toy_data)
  folder = toy_data / "questions" / "toy"
  questions = list(QuestionSet(folder))
  rng = np.random.default_rng(0)
  rows = np.array([rng.permutation(len(corpus))[:20] for _ in questions])
  # The answer of every second question stands in some place.
  for i, question in enumerate(questions[::2]):
    rows[2 * i, i % 20] = corpus.row_of(question.positive_ids[0])
  rows = np.array([_once(found) for found in rows])
  scores = -np.arange(rows.size, dtype=np.float32).reshape(rows.shape)
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  for name in ("run.json", "run.trec"):
    write_run(tmp_path / name, ranking, questions, corpus)
  flags = ["evaluate", "--run", tmp_path / "run.json", "--questions", folder]
  figures = []
  for more in ([], ["--corpus", toy_data]):
    code, out, _ = run(capsys, *flags, *more)
    assert code == 0
    figures.append(json.loads(last_line(out))["run"])
  assert figures[0] == figures[1]
  assert figures[0]["recall"]["20"] > 0 < figures[0]["gold"]["20"]
  flags[2] = tmp_path / "run.trec"
  code, _, err = run(capsys, *flags)
  assert code == 2 and "has no texts of passages" in last_line(err)
  code, _, err = run(capsys, "evaluate", "--bm25", "--questions", folder)
  assert code == 2 and "--corpus DIR is needed" in last_line(err)


def _once(rows: np.ndarray) -> list[int]:
  """Rows, of which a repeated one is replaced by one that is not there."""
  kept = list(dict.fromkeys(rows.tolist()))
  spare = (row for row in range(200) if row not in kept)
  return [*kept, *(next(spare) for _ in range(len(rows) - len(kept)))]


def _write(path: Path, *contexts: Any) -> Path:
  records = [{"question": "Who?", "ctxs": [c]} for c in contexts]
  path.write_text(json.dumps(records))
  return path


def test_ids_with_and_without_the_prefix_of_dpr(tmp_path: Path) -> None:
  path = _write(
    tmp_path / "run.json",
    {"id": "wiki:7", "title": "T", "text": "seven"},
    {"docid": "8", "text": "eight"},
    {"id": "wiki:7", "title": "T", "text": "seven"},
  )
  passages = RunPassages(path)
  assert len(passages) == 2
  assert passages.find("7") == passages.find("wiki:7") == 0
  assert passages.find("8") == 1 and passages.title(1) == ""
  assert passages.find("9") is None


@pytest.mark.parametrize(
  ("contexts", "message"),
  [
    ([{"id": "7", "title": "T"}], r"\[0\]: the passage '7' has no text in the"),
    ([{"text": "x"}], "the passage '' has no text"),
    (["7"], "the passage '' has no text"),
    (
      [{"id": "7", "text": "x"}, {"id": "7", "text": "y"}],
      r"\[1\]: the passage '7' has another text here",
    ),
    ([], "no passages"),
  ],
)
def test_what_has_no_texts_needs_a_corpus(
  tmp_path: Path, contexts: list[Any], message: str
) -> None:
  path = _write(tmp_path / "run.json", *contexts)
  with pytest.raises(ValueError, match=message):
    RunPassages(path)
