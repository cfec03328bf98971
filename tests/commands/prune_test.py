"""`odqa prune` with a trained classifier, as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import last_line, run

from odqa_jax.commands import prune
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.dual_encoder import PRESETS
from odqa_jax.reading.pair_scores import PassageScores
from odqa_jax.reading.trained_scorer import load_trained_scorer
from odqa_jax.serving import scores

CONFIGS = Path(__file__).parents[2] / "configs"
CURVE = ("--curve", "c.png", "--run", "r", "--questions", "q")


@pytest.mark.slow
def test_train_prune(capsys, tmp_path, toy_data, monkeypatch):
  work, out = tmp_path / "pruner", tmp_path / "pruned"
  sizes = {"width": 32, "layers": 1, "heads": 2, "mlp_dim": 64}
  monkeypatch.setitem(PRESETS, "tiny", PRESETS["tiny"] | sizes)
  code, _, _ = run(
    capsys, "train", "--config", f"{CONFIGS / 'pruner.py'}:debug",
    "--workdir", work, f"--config.data.corpus={toy_data / 'corpus'}",
    f"--config.data.questions={toy_data / 'questions' / 'toy'}",
    "--config.batch_size=8",
  )  # fmt: skip
  assert code == 0
  corpus = Corpus(toy_data / "corpus")
  scorer = PassageScores(
    load_trained_scorer(work, "passage_classifier"), corpus
  )
  wanted = scorer(range(len(corpus)))
  monkeypatch.setattr(scores, "BLOCK_ROWS", 64)
  asked, right = [], PassageScores.__call__

  def interrupted(self, rows, progress):
    asked.append(rows.start)
    if len(asked) == 3:
      raise ValueError("stopped here")
    return right(self, rows, progress)

  monkeypatch.setattr(PassageScores, "__call__", interrupted)
  given = (
    "prune", "--checkpoint", work, "--corpus", toy_data, "--keep", 50,
    "--out", out,
  )  # fmt: skip
  code, _, err = run(capsys, *given)
  assert code == 2 and "stopped here" in err and not out.exists()
  code, said, _ = run(capsys, *given)
  assert code == 0 and json.loads(last_line(said))["kept"] == 50
  # What was scored before the interruption is not scored again.
  assert asked == [0, 64, 128, 128, 192]
  np.testing.assert_allclose(np.load(out / "scores.npy"), wanted, atol=1e-5)
  kept = Corpus(out / "corpus")
  best = np.sort(np.argsort(wanted, kind="stable")[:50]).tolist()
  ids = [corpus.id(i) for i in best]
  assert [kept.id(i) for i in range(len(kept))] == ids


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ((), "either --checkpoint DIR or --scores FILE.npy"),
    (("--checkpoint", "w", "--scores", "s.npy"), "either --checkpoint DIR"),
    (
      ("--checkpoint", "w", "--curve", "c.png", "--run", "r"),
      "--checkpoint DIR needs --out DIR",
    ),
    (("--scores", "s.npy", *CURVE, "--keep", 3), "--keep is for --out DIR"),
    (("--scores", "s.npy", *CURVE, "--index", "i"), "--index is for --out"),
  ],
)
def test_flags_that_do_not_go_together(capsys, toy_data, given, said):
  code, _, err = run(capsys, "prune", "--corpus", toy_data, *given)
  assert code == 2 and said in err


def test_what_the_curve_needs_is_looked_at_before_hours_of_scoring(
  capsys, toy_data, tmp_path, monkeypatch
):
  class Scorer:
    fingerprint = "never asked"

    def __call__(self, rows, progress=None):
      raise AssertionError("passages were scored")

  monkeypatch.setattr(prune, "_scores", lambda args, corpus: (Scorer(), False))
  questions = tmp_path / "q.jsonl"
  questions.write_text(json.dumps({"id": "q", "question": "?", "answer": []}))
  (tmp_path / "run.trec").write_text("q Q0 nowhere 1 1.0 run\n")
  good = tmp_path / "good.trec"
  good.write_text(f"q Q0 {Corpus(toy_data / 'corpus').id(0)} 1 1.0 run\n")
  common = (
    "prune", "--corpus", toy_data, "--checkpoint", "w", "--keep", 3, "--out",
    tmp_path / "out", "--curve", tmp_path / "c.png", "--questions", questions,
  )  # fmt: skip
  for given, said in (
    (("--run", tmp_path / "run.trec"), "nowhere"),
    (("--run", good, "--candidates", tmp_path / "typo.jsonl"), "typo.jsonl"),
    (
      ("--run", good, "--frequency-run", tmp_path / "typo.trec",
       "--frequency-questions", questions),
      "typo.trec",
    ),
  ):  # fmt: skip
    code, _, err = run(capsys, *common, *given)
    assert code == 2 and said in last_line(err)
    assert not (tmp_path / "out").exists()
