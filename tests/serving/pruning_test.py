"""Pruned folders: consistent, whole or absent, and named by what they are."""

import hashlib
import json

import numpy as np
import pytest
from command_line import last_line, run
from six_passages import make_corpus
from small_retriever import small_retriever

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.cut import read_parent_rows
from odqa_jax.data.questions.sets import Question
from odqa_jax.retrieval import cut as index_cut
from odqa_jax.retrieval.folders import open_index
from odqa_jax.retrieval.retriever import search_questions, write_index
from odqa_jax.runtime.artifact import open_artifact
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.serving.pruning import Rule, Whole, gold_rows, prune
from odqa_jax.serving.scores import read_scores

SCORES = np.array([0.4, 0.2, 0.9, 0.1, 0.8, 0.8], np.float32)


class Table:
  """A classifier that gives a table's scores, and may fail at a row."""

  def __init__(self, fail_at=None):
    self.fingerprint = "table"
    self.fail_at, self.asked = fail_at, []

  def __call__(self, rows, progress=None):
    if self.fail_at is not None and self.fail_at in rows:
      raise InterruptedError
    self.asked += rows
    return SCORES[rows.start : rows.stop]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Corpus, reader's store and index of six passages."""
  folder = tmp_path_factory.mktemp("whole")
  corpus = make_corpus(folder / "corpus")
  store = make_corpus(folder / "reader_corpus")
  retriever = small_retriever(corpus, 0)
  write_index(retriever, corpus, folder / "index", mesh=make_mesh())
  return Whole(corpus, folder / "index", store)


def test_all_parts_are_cut_alike_and_belong_together(tmp_path, whole):
  figures = prune(whole, SCORES, Rule(keep=3), tmp_path / "out")
  assert figures == {"kept": 3, "passages": 6, "share": 0.5, "gold_only": 0}
  corpus = Corpus(tmp_path / "out" / "corpus")
  assert [corpus.id(i) for i in range(3)] == ["p0", "p1", "p3"]
  for name in ("corpus", "reader_corpus"):
    rows = read_parent_rows(tmp_path / "out" / name)
    assert rows.tolist() == [0, 1, 3]
  store = Corpus(tmp_path / "out" / "reader_corpus")
  assert store.fingerprint == corpus.fingerprint
  # What answers takes the index for that of this corpus, and no other.
  retriever = small_retriever(whole.corpus, 0)
  index = open_index(retriever, corpus, str(tmp_path / "out/index"), "exact")
  found = search_questions(retriever, index, corpus, ["Ulm"], k=3)[1]
  assert sorted(found[0].tolist()) == [0, 1, 2]
  with pytest.raises(ValueError, match="does not belong here: its corpus"):
    open_index(retriever, whole.corpus, str(tmp_path / "out/index"), "exact")


def test_the_manifest_names_parents_rule_and_scores(tmp_path, whole):
  gold = {"train": np.array([2], np.int64)}
  prune(whole, SCORES, Rule(threshold=0.3, gold=gold), tmp_path / "out")
  manifest = open_artifact(tmp_path / "out", "pruned").manifest
  rule = {"keep": None, "threshold": 0.3, "gold": {"train": 1}}
  rule["gold_rows"] = hashlib.sha256(gold["train"].tobytes()).hexdigest()
  assert manifest["rule"] == rule
  assert (manifest["kept"], manifest["gold_only"]) == (3, 1)
  assert manifest["parts"] == ["corpus", "index", "reader_corpus"]
  parents = manifest["parents"]
  assert parents["corpus"]["fingerprint"] == whole.corpus.fingerprint
  for name, parent in parents.items():
    folder = whole.corpus.directory.with_name(name)
    known = json.loads((folder / "manifest.json").read_text())
    assert parent["manifest"] == known["sha256"], name
  for name in manifest["parts"]:
    part = json.loads((tmp_path / "out" / name / "manifest.json").read_text())
    assert part["made_from"]["rule"] == rule
    assert part["made_from"]["scores"] == manifest["scores"]
    assert part["made_from"]["parent"]["manifest"] == parents[name]["manifest"]


def test_the_same_again_does_nothing_and_another_rule_replaces(tmp_path, whole):
  out = tmp_path / "out"
  first = prune(whole, SCORES, Rule(keep=3), out)
  when = (out / "manifest.json").stat().st_mtime_ns
  assert prune(whole, SCORES, Rule(keep=3), out) == first
  assert (out / "manifest.json").stat().st_mtime_ns == when
  assert prune(whole, SCORES, Rule(keep=2), out)["kept"] == 2
  assert prune(whole, -SCORES, Rule(keep=2), out)["kept"] == 2
  assert Corpus(out / "corpus").find("p2") is not None
  assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_as_many_other_gold_passages_are_another_rule(tmp_path, whole):
  out = tmp_path / "out"
  for row, name in ((2, "p2"), (4, "p4")):
    gold = {"train.jsonl": np.array([row], np.int64)}
    prune(whole, SCORES, Rule(keep=2, gold=gold), out)
    assert Corpus(out / "corpus").find(name) is not None


def test_the_scores_stay_with_another_rule_for_them(tmp_path, whole):
  out = tmp_path / "out"
  prune(whole, Table(), Rule(keep=3), out)
  kept = out / "scores.npy"
  for keep in (2, 4):
    scores = read_scores(kept, whole.corpus)
    assert prune(whole, scores, Rule(keep=keep), out)["kept"] == keep
    np.testing.assert_array_equal(np.load(kept), SCORES)
  open_artifact(out, "pruned")


@pytest.mark.parametrize("part", ["corpus", "index", "reader_corpus"])
def test_what_is_cut_does_not_lie_where_it_goes(tmp_path, whole, part):
  out = tmp_path / "out"
  prune(whole, SCORES, Rule(keep=3), out)
  corpus = Corpus(out / "corpus")
  parts = {
    "corpus": Whole(corpus),
    "index": Whole(corpus, out / "index"),
    "reader_corpus": Whole(corpus, None, Corpus(out / "reader_corpus")),
  }
  with pytest.raises(ValueError, match="is cut, and would be replaced by"):
    prune(parts[part], SCORES[:3], Rule(keep=2), out)
  assert len(Corpus(out / "corpus")) == 3
  (tmp_path / "link").symlink_to(out)
  with pytest.raises(ValueError, match="is cut, and would be replaced by"):
    prune(parts[part], SCORES[:3], Rule(keep=2), tmp_path / "link")


def test_what_is_cut_from_a_leaky_corpus_is_leaky(tmp_path, whole):
  first = prune(whole, SCORES, Rule(keep=4), tmp_path / "a", leaky=True)
  assert first["leaky"] is True
  folder = tmp_path / "a"
  again = Whole(Corpus(folder / "corpus"), folder / "index")
  # The second time nothing is done.
  for _ in range(2):
    figures = prune(again, SCORES[:4], Rule(keep=2), tmp_path / "b")
    assert figures["leaky"] is True
  assert Corpus(tmp_path / "b" / "corpus").leaky and not whole.corpus.leaky
  manifest = open_artifact(tmp_path / "b" / "index", "index").manifest
  assert manifest["made_from"]["leaky"] is True
  # Without the label it is another folder.
  assert "leaky" not in prune(whole, SCORES, Rule(keep=4), folder)
  assert not Corpus(folder / "corpus").leaky


def test_nothing_is_half_cut(tmp_path, whole, monkeypatch):
  """The index, cut last, fails: neither corpus nor store is left behind."""

  def fail(*args, **rest):
    raise OSError("no room")

  monkeypatch.setattr(index_cut.storage, "save_shard", fail)
  with pytest.raises(OSError, match="no room"):
    prune(whole, SCORES, Rule(keep=3), tmp_path / "out")
  assert list(tmp_path.iterdir()) == []


def test_an_older_folder_stays_until_the_new_one_is_whole(
  tmp_path, whole, monkeypatch
):
  out = tmp_path / "out"
  prune(whole, SCORES, Rule(keep=3), out)

  def fail(*args, **rest):
    raise OSError("no room")

  monkeypatch.setattr(index_cut.storage, "save_shard", fail)
  with pytest.raises(OSError, match="no room"):
    prune(whole, SCORES, Rule(keep=2), out)
  assert len(Corpus(out / "corpus")) == 3


def test_scoring_goes_on_and_the_scores_are_kept(tmp_path, whole, monkeypatch):
  monkeypatch.setattr("odqa_jax.serving.scores.BLOCK_ROWS", 2)
  out = tmp_path / "out"
  with pytest.raises(InterruptedError):
    prune(whole, Table(fail_at=3), Rule(keep=3), out)
  assert not out.exists()
  second = Table()
  # Another rule needs the same scores.
  assert prune(whole, second, Rule(keep=2), out)["kept"] == 2
  assert second.asked == [2, 3, 4, 5]
  np.testing.assert_array_equal(np.load(out / "scores.npy"), SCORES)
  assert read_parent_rows(out / "corpus").tolist() == [1, 3]
  assert open_artifact(out, "pruned").manifest["scored_by"] == "table"
  assert not list(out.glob("scores-*"))
  # Another classifier goes on from none of these, whole or interrupted.
  with pytest.raises(InterruptedError):
    prune(whole, Table(fail_at=3), Rule(keep=3), tmp_path / "next")
  for folder in ("out", "next"):
    other = Table()
    other.fingerprint = "other"
    prune(whole, other, Rule(keep=2), tmp_path / folder)
    assert other.asked == list(range(6))


def test_a_rule_that_cannot_be_is_told_before_hours_of_scoring(tmp_path, whole):
  table = Table()
  with pytest.raises(ValueError, match="--keep 7: the corpus has 6"):
    prune(whole, table, Rule(keep=7), tmp_path / "out")
  assert table.asked == [] and list(tmp_path.iterdir()) == []


def test_parts_of_other_passages_are_refused(tmp_path, whole):
  other = make_corpus(tmp_path / "other", [("Ulm", "Einstein was born.")])
  with pytest.raises(ValueError, match="is the index of the corpus"):
    prune(Whole(other, whole.index), SCORES[:1], Rule(keep=1), tmp_path / "o")
  with pytest.raises(ValueError, match="other: holds other passages"):
    prune(
      Whole(whole.corpus, None, other), SCORES, Rule(keep=1), tmp_path / "o"
    )
  assert not (tmp_path / "o").exists()


def test_a_folder_that_is_none_is_not_replaced(tmp_path, whole):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "thesis.txt").write_text("…")
  with pytest.raises(ValueError, match="is no pruned folder"):
    prune(whole, SCORES, Rule(keep=1), tmp_path / "out")


def test_gold_rows(whole):
  questions = [
    Question("a", "?", (), positive_ids=("p4", "wiki:p1")),
    Question("b", "?", (), positive_ids=("p1", "p99")),
  ]
  assert gold_rows(questions, whole.corpus).tolist() == [1, 4]
  with pytest.raises(ValueError, match="has none of the 1 passages"):
    gold_rows([Question("b", "?", (), positive_ids=("p99",))], whole.corpus)


def test_the_command(tmp_path, whole, capsys):
  np.save(tmp_path / "scores.npy", SCORES)
  (tmp_path / "train.jsonl").write_text(
    json.dumps({"question": "?", "answer": ["a"], "positive_ids": ["p2"]})
  )
  common = (
    "prune", "--corpus", whole.corpus.directory, "--index", whole.index,
    "--scores", tmp_path / "scores.npy", "--out", tmp_path / "out",
  )  # fmt: skip
  code, out, _ = run(
    capsys, *common, "--keep", 2, "--keep-gold", tmp_path / "train.jsonl"
  )
  assert code == 0
  assert json.loads(last_line(out)) == {
    "kept": 3, "passages": 6, "share": 0.5, "gold_only": 1
  }  # fmt: skip
  # The reader's store beside the corpus was cut as well.
  assert Corpus(tmp_path / "out" / "reader_corpus").find("p2") == 1
  for flags, said in (
    (("--keep", 7), "--keep 7"),
    (("--threshold", 0.01), "all 6 passages score more"),
    ((), "one of them"),
  ):
    code, _, err = run(capsys, *common, *flags)
    assert code == 2 and said in last_line(err)


def test_inspect_shows_it(tmp_path, whole, capsys):
  prune(whole, SCORES, Rule(keep=3), tmp_path / "out")
  code, out, err = run(capsys, "inspect", tmp_path / "out", "--json")
  assert code == 0, err
  page = json.loads(last_line(out))
  assert page["kind"] == "pruned" and page["facts"]["kept"] == 3
  assert sorted(page["parts"]) == ["corpus", "index", "reader_corpus"]
  assert not page["problems"]
