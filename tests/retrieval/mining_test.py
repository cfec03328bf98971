"""Dense negatives by the command, against dot products in NumPy."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_retriever import small_retriever

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.main import main
from odqa_jax.models.hf.encoder import save_encoder
from odqa_jax.retrieval.encoding import encode_questions
from odqa_jax.retrieval.retriever import load_retriever
from odqa_jax.text.answers import has_answer


@pytest.fixture(scope="module")
def folder(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The toy dataset without pairs, and a retriever beside it."""
  folder = tmp_path_factory.mktemp("mine")
  for name in ("corpus", "questions"):
    shutil.copytree(toy_data / name, folder / "data" / name)
  retriever = small_retriever(Corpus(folder / "data" / "corpus"), 0)
  save_encoder(
    folder / "retriever",
    retriever.encoder.config,
    # So small a network gives all texts nearly one vector otherwise.
    jax.tree.map(lambda x: 20 * x if x.ndim > 1 else x, retriever.params),
    retriever.tokenizer,
    question_length=32,
    passage_length=64,
  )
  return folder


def mine(folder: Path, *args: str) -> int:
  return main(["mine", "--data", str(folder / "data"), "--sets", "toy", *args])


def dense(folder: Path, *args: str) -> int:
  checkpoint = ["--retriever", str(folder / "retriever")]
  return mine(folder, *checkpoint, "--index", str(folder / "index"), *args)


def pairs_of(folder: Path) -> Pairs:
  return Pairs.open(folder / "data" / "pairs" / "toy")


@pytest.mark.slow
def test_dense_negatives_are_the_best_rows_without_an_answer(
  folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert dense(folder, "--negatives", "5", "--depth", "20") == 0
  figures = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert figures["mining"]["toy"]["negatives_mined"] == 100
  assert figures["searches"][0].startswith("retriever ")
  corpus = Corpus(folder / "data" / "corpus")
  questions = QuestionSet(folder / "data" / "questions" / "toy")
  retriever = load_retriever(folder / "retriever")
  ids, lengths = corpus.passage_inputs(
    np.arange(len(corpus)), 64, title=retriever.title
  )
  inputs = jnp.asarray(ids), jnp.asarray(lengths)
  passages = retriever.encoder.encode_passage(retriever.params, *inputs)
  asked = encode_questions(retriever, [q.question for q in questions])
  scores = asked @ np.asarray(passages).T
  order = np.argsort(-scores, axis=1, kind="stable")[:, :20]
  pairs = pairs_of(folder)
  assert len(pairs) == 100
  for i, question in enumerate(questions):
    gold = [corpus.row_of(name) for name in question.positive_ids]
    expected = [
      row
      for row in order[i].tolist()
      if row not in gold and not has_answer(corpus.text(row), question.answers)
    ]
    assert pairs.positive(i).tolist() == gold
    assert pairs.negatives(i).tolist() == expected[:5]


def test_bm25_is_added_to_dense_negatives(
  folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert dense(folder, "--negatives", "2") == 0
  before = pairs_of(folder)
  assert mine(folder, "--bm25", "--negatives", "3", "--add") == 0
  after = pairs_of(folder)
  assert after.manifest["searches"] == [*before.manifest["searches"], "bm25"]
  for i in range(len(after)):
    both = after.negatives(i).tolist()
    assert both[:2] == before.negatives(i).tolist()
    assert len(both) == 5 == len(set(both))
    assert after.positive(i).tolist() == before.positive(i).tolist()
  assert dense(folder, "--bm25", "--negatives", "4") == 0
  figures = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert figures["searches"][1] == "bm25"
  mixed = pairs_of(folder)
  assert mixed.negatives(0)[0] == before.negatives(0)[0]


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ([], "give --retriever CHECKPOINT with --index, or --bm25"),
    (
      ["--retriever", "x"],
      "--retriever CHECKPOINT and --index DIR go",
    ),
    (["--bm25", "--depth", "0"], "--depth 0: none or more of the best 1"),
    (["--bm25", "--negatives", "-1"], "--negatives -1"),
    (["--bm25", "--gold-format", "squad"], "--gold-format is that of --gold"),
    (["--bm25", "--sets", ""], "--sets names none"),
    (["--bm25", "--sets", "tyo"], "questions/tyo holds no questions"),
    (["--bm25", "--gold", "nope.json"], "nope.json"),
  ],
)
def test_flags_that_do_not_go_together(
  folder: Path,
  args: list[str],
  message: str,
  capsys: pytest.CaptureFixture[str],
) -> None:
  assert mine(folder, *args) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.strip().splitlines()) == 1
