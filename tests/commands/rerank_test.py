"""`odqa train`, `odqa rerank` and `odqa evaluate`, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import last_line, run

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import Ranking, read_run, write_run
from odqa_jax.evaluation.tables import rounded
from odqa_jax.main import main
from odqa_jax.models.dual_encoder import PRESETS
from odqa_jax.models.passage_scorer import Reranker
from odqa_jax.reading.trained_scorer import load_trained_scorer
from odqa_jax.text.wordpiece_training import train_wordpiece

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def found(toy_data, tmp_path_factory):
  """Runs of 6 passages a question, the gold one anywhere among them."""
  folder = tmp_path_factory.mktemp("runs")
  corpus = Corpus(toy_data / "corpus")
  questions = list(QuestionSet(toy_data / "questions" / "toy"))
  rng = np.random.default_rng(0)
  rows = np.empty((len(questions), 6), np.int64)
  for i, question in enumerate(questions):
    gold = corpus.row_of(question.positive_ids[0])
    others = rng.permutation(np.delete(np.arange(len(corpus)), gold))[:5]
    rows[i] = rng.permutation([gold, *others])
  scores = np.tile(np.arange(6, 0, -1, np.float32), (len(rows), 1))
  ranking = Ranking(tuple(q.id for q in questions), rows, scores)
  for name in ("run.json", "run.trec"):
    write_run(folder / name, ranking, questions, corpus)
  return folder


@pytest.fixture(scope="module")
def reranker(toy_data, found, tmp_path_factory):
  """The workdir of `configs/reranker.py:debug`."""
  work = tmp_path_factory.mktemp("reranker")
  sizes = {"width": 32, "layers": 1, "heads": 2, "mlp_dim": 64}
  arguments = [
    "train", "--config", f"{CONFIGS / 'reranker.py'}:debug",
    "--workdir", str(work),
    f"--config.data.corpus={toy_data / 'corpus'}",
    f"--config.data.questions={toy_data / 'questions' / 'toy'}",
    f"--config.data.run={found / 'run.json'}",
    "--config.batch_size=8",
  ]  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(PRESETS, "tiny", PRESETS["tiny"] | sizes)
    code = main(arguments)
  assert code == 0
  return work


def flags(toy_data, checkpoint, run_file, out):
  return [
    "rerank", "--checkpoint", checkpoint, "--run", run_file, "--corpus",
    toy_data, "--questions", toy_data / "questions" / "toy", "--out", out,
  ]  # fmt: skip


def measured(capsys, toy_data, run_file):
  code, out, _ = run(
    capsys, "evaluate", "--run", run_file, "--corpus", toy_data,
    "--questions", toy_data / "questions" / "toy",
  )  # fmt: skip
  assert code == 0
  figures = json.loads(last_line(out))["run"]
  assert figures.pop("missing") == 0
  del figures["intervals"]
  return figures


@pytest.mark.slow
def test_train_rerank_evaluate(capsys, tmp_path, toy_data, found, reranker):
  corpus = Corpus(toy_data / "corpus")
  questions = list(QuestionSet(toy_data / "questions" / "toy"))
  runs = {}
  for name in ("run.json", "run.trec"):
    out = tmp_path / name
    code, said, err = run(capsys, *flags(toy_data, reranker, found / name, out))
    assert code == 0
    figures = json.loads(last_line(said))
    for when, file in (("before", found / name), ("after", out)):
      assert rounded(figures[when], 6) == measured(capsys, toy_data, file)
    assert figures["run"] == str(out)
    assert "before" in err and "after" in err and "gold@5" in err
    runs[name] = read_run(out, questions, corpus)
    assert [p.name for p in tmp_path.iterdir() if name in p.name] == [name]
  before = read_run(found / "run.json", questions, corpus)
  after = runs["run.json"]
  np.testing.assert_array_equal(after.rows, runs["run.trec"].rows)
  np.testing.assert_array_equal(np.sort(after.rows), np.sort(before.rows))
  assert (after.rows != before.rows).any()
  assert (np.diff(after.scores) <= 0).all()
  # Of the first two passages alone, both come back, in their new order.
  code, said, _ = run(
    capsys,
    *flags(toy_data, reranker, found / "run.json", tmp_path / "two.json"),
    "--k", 2,
  )  # fmt: skip
  assert code == 0 and json.loads(last_line(said))["after"]["k"] == 2
  two = read_run(tmp_path / "two.json", questions, corpus)
  np.testing.assert_array_equal(np.sort(two.rows), np.sort(before.rows[:, :2]))


@pytest.mark.slow
def test_a_checkpoint_is_refused(capsys, tmp_path, toy_data, found, reranker):
  scorer = load_trained_scorer(reranker, "reranker")
  assert type(scorer.network) is Reranker
  assert (scorer.pair_length, scorer.title) == (96, True)
  with pytest.raises(ValueError, match="has no passage classifier but reran"):
    load_trained_scorer(reranker, "passage_classifier")
  out = tmp_path / "out.json"
  code, _, err = run(
    capsys,
    "prune", "--checkpoint", reranker, "--corpus", toy_data, "--keep", 3,
    "--out", tmp_path / "pruned",
  )  # fmt: skip
  assert (
    code == 2
    and "has no passage classifier or passage filter but reranker" in err
  )
  # The tokenizer of another training in the place of its own.
  kept = reranker / "tokenizer.kept"
  (reranker / "tokenizer").rename(kept)
  try:
    train_wordpiece(["another vocabulary"], 60).save(reranker / "tokenizer")
    code, _, err = run(
      capsys, *flags(toy_data, reranker, found / "run.json", out)
    )
    assert code == 2 and "is not the tokenizer that" in err
  finally:
    for path in (reranker / "tokenizer").iterdir():
      path.unlink()
    (reranker / "tokenizer").rmdir()
    kept.rename(reranker / "tokenizer")
  assert not out.exists()


def test_flags_and_files_are_refused(capsys, tmp_path, toy_data, found):
  """Before a checkpoint is looked for."""
  out = tmp_path / "out.json"
  given = flags(toy_data, tmp_path / "none", found / "run.json", out)
  code, _, err = run(capsys, *given, "--k", 0)
  assert code == 2 and "--k 0: at least 1 passage" in err
  code, _, err = run(capsys, *given)
  assert code == 2 and "no such folder" in err
  other = tmp_path / "other.json"
  text = (found / "run.json").read_text()
  other.write_text(text.replace("has a", "had a"))
  given = flags(toy_data, tmp_path / "none", other, out)
  code, _, err = run(capsys, *given)
  assert code == 2 and "the run is of another corpus" in err
  other.write_text(text.replace('"id": "p', '"id": "x'))
  code, _, err = run(capsys, *given)
  assert code == 2 and "is not in the corpus" in err
  same = flags(
    toy_data, tmp_path / "none", found / "run.json", found / "run.json"
  )
  code, _, err = run(capsys, *same)
  assert code == 2 and "is read by this command" in err
