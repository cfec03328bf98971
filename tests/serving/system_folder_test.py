"""System folders: what fits is kept, and what changed since is told."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from candidate_sets import make_set
from command_line import last_line, run
from small_parts import random_index
from small_reader import save_workdir, small_system

from odqa_jax.commands.flags import take_system
from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.main import make_parser
from odqa_jax.reading.fusion import save_fusion, tune
from odqa_jax.reading.system import with_params
from odqa_jax.retrieval.retriever import load_retriever
from odqa_jax.runtime.files import Damage
from odqa_jax.serving.pruning import Rule, Whole, prune
from odqa_jax.serving.system_folder import (
  _check_component,
  _same,
  assemble,
  open_for_answering,
  open_system,
  part_hash,
)
from odqa_jax.text.wordpiece_training import train_wordpiece


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy_data):
  """Checkpoints with a reader and without, and their index."""
  root = tmp_path_factory.mktemp("made")
  system = small_system("individual", toy_data)
  save_workdir(system, root / "trained")
  save_workdir(system, root / "retriever", with_reader=False)
  moved = jax.tree.map(lambda x: x + 0.01, jax.device_get(system.params))
  save_workdir(with_params(system, moved), root / "other")
  random_index(system.retriever, system.corpus, root / "index")
  shutil.copytree(toy_data / "corpus", root / "data" / "corpus")
  return root


def parts_of(root, **others):
  return {
    "retriever": root / "trained",
    "index": root / "index",
    "corpus": root / "data",
  } | others


@pytest.fixture
def moved(tmp_path, made):
  """A copy, which a test may damage, and its system."""
  root = tmp_path / "root"
  shutil.copytree(made, root)
  assemble(root / "systems" / "one", parts_of(root))
  return root


def test_a_system_names_its_parts_by_relative_path_and_hash(moved, tmp_path):
  text = json.loads((moved / "systems" / "one" / "system.json").read_text())
  step = {"path": "../../trained/checkpoints/3"}
  corpus = json.loads((moved / "data/corpus/manifest.json").read_text())
  assert text["parts"]["corpus"] == {
    "path": "../../data/corpus", "sha256": corpus["sha256"]
  }  # fmt: skip
  assert text["parts"]["retriever"].items() >= step.items()
  # The checkpoint's own reader is the system's.
  assert text["parts"]["reader"] == text["parts"]["retriever"]
  # All of it may be moved together.
  shutil.move(moved, tmp_path / "elsewhere")
  system = open_system(tmp_path / "elsewhere" / "systems" / "one")
  assert system.paths["index"] == tmp_path / "elsewhere" / "index"
  assert system.versions == {
    name: text["parts"][name]["sha256"] for name in ("retriever", "reader")
  }


def test_a_reader_of_another_checkpoint_with_the_same_retriever(made, tmp_path):
  parts = parts_of(made, retriever=made / "retriever", reader=made / "trained")
  system = assemble(tmp_path / "s", parts)
  assert system.paths["reader"] != system.paths["retriever"]
  alone = assemble(tmp_path / "t", parts_of(made, retriever=made / "retriever"))
  assert "reader" not in alone.paths
  with pytest.raises(ValueError, match="trained with another retriever"):
    assemble(tmp_path / "u", parts | {"reader": made / "other"})
  assert not (tmp_path / "u").exists()


def test_both_sides_of_a_retriever_are_compared(made):
  one = load_retriever(made / "trained")
  assert _same(one, load_retriever(made / "retriever"))
  # Equal weights that read with other lengths.
  assert not _same(one, dataclasses.replace(one, fingerprint="another"))
  leaves, tree = jax.tree.flatten(one.params)
  for i in (0, len(leaves) - 1):
    changed = [x + (j == i) for j, x in enumerate(leaves)]
    params = jax.tree.unflatten(tree, changed)
    assert not _same(one, dataclasses.replace(one, params=params))


@pytest.mark.parametrize(
  ("others", "said"),
  [
    ({"index": "absent"}, "index: .*absent is not there"),
    ({"retriever": "other"}, "this index does not belong here: its encoder"),
    ({"reader": "retriever"}, "reader: .* has no reader, but retriever"),
    (
      {"reranker": "trained"},
      "reranker: .* has no reranker, but retriev",
    ),
    ({"extractive_reader": "trained"}, "has no extractive_reader"),
  ],
)
def test_parts_that_do_not_fit_are_not_assembled(made, tmp_path, others, said):
  parts = parts_of(made, **{name: made / p for name, p in others.items()})
  with pytest.raises(ValueError, match=said):
    assemble(tmp_path / "s", parts)
  assert not (tmp_path / "s").exists()


def test_what_is_needed_and_what_is_unknown(made, tmp_path):
  parts = parts_of(made)
  del parts["index"]
  with pytest.raises(ValueError, match="'index' is needed"):
    assemble(tmp_path / "s", parts)
  with pytest.raises(ValueError, match="'pruner' is none"):
    assemble(tmp_path / "s", parts_of(made, pruner=made / "trained"))


def other_corpus(folder, made, tokenizer=None):
  """Fifty passages; of the same word pieces unless others are given."""
  corpus = Corpus(made / "data" / "corpus")
  passages = [
    Passage(corpus.id(i), corpus.title(i), corpus.text(i)) for i in range(50)
  ]
  build_corpus(passages, folder, tokenizer or corpus.tokenizer)
  return folder


def test_a_corpus_of_other_passages_or_tokens(made, tmp_path):
  other = other_corpus(tmp_path / "other", made)
  with pytest.raises(ValueError, match="is that of another corpus"):
    assemble(tmp_path / "s", parts_of(made, corpus=other))
  corpus = Corpus(made / "data" / "corpus")
  pieces = train_wordpiece([corpus.text(i) for i in range(50)], 150)
  passages = [
    Passage(corpus.id(i), corpus.title(i), corpus.text(i)) for i in range(200)
  ]
  build_corpus(passages, tmp_path / "tokens", pieces)
  with pytest.raises(ValueError, match="is that of another tokenizer"):
    assemble(tmp_path / "s", parts_of(made, corpus=tmp_path / "tokens"))
  # Nor can a generative reader weigh what its retriever cannot read.
  for name in ("retriever", "reader"):
    with pytest.raises(ValueError, match=f"{name}: .* another tokenizer"):
      _check_component(name, made / "trained", Corpus(tmp_path / "tokens"))
  with pytest.raises(ValueError, match=r"reader_corpus: .* other passages"):
    assemble(tmp_path / "s", parts_of(made, reader_corpus=other))


def test_a_reader_without_passages_in_its_vocabulary(made, tmp_path, toy_data):
  system = small_system("individual", toy_data)
  save_workdir(system, tmp_path / "alien", reader_tokenizer="a" * 64)
  with pytest.raises(ValueError, match="with the vocabulary aaaaaaaaaaaa, but"):
    assemble(tmp_path / "s", parts_of(made, reader=tmp_path / "alien"))
  assert not (tmp_path / "s").exists()


def test_a_part_that_is_gone_is_told(moved):
  shutil.move(moved / "index", moved / "away")
  with pytest.raises(ValueError, match=r"its index .*index is not there"):
    open_system(moved / "systems" / "one")


def test_a_part_that_is_another_is_told(moved):
  shutil.rmtree(moved / "trained")
  shutil.copytree(moved / "other", moved / "trained")
  with pytest.raises(ValueError, match=r"its retriever .* is another one"):
    open_system(moved / "systems" / "one")


def test_training_on_does_not_change_a_system(moved):
  """It names a step, and a workdir may get more."""
  steps = moved / "trained" / "checkpoints"
  shutil.copytree(steps / "3", steps / "7")
  system = open_system(moved / "systems" / "one")
  assert system.paths["reader"] == steps / "3"


def edited(path, change):
  """Changes a system as a person would, checksum and all."""
  content = json.loads(path.read_text())
  change(content["parts"])
  path.write_text(json.dumps(content))


def test_an_edited_system_is_damage(moved):
  path = moved / "systems" / "one" / "system.json"

  def change(parts):
    parts["corpus"]["path"] = "../../elsewhere"

  edited(path, change)
  with pytest.raises(Damage, match="does not match its checksum"):
    open_system(path.parent)
  path.write_text('{"kind": "fusion"}')
  with pytest.raises(ValueError, match="is no system of this version"):
    open_system(path.parent)
  path.unlink()
  with pytest.raises(ValueError, match=r"holds no system\.json"):
    open_system(path.parent)


def test_a_fusion_is_of_the_systems_components(made, tmp_path):
  system = assemble(tmp_path / "s", parts_of(made))
  candidates, questions = make_set(30, 0, ("retriever", "reader"))
  for versions, fits in ((system.versions, True), ({}, False)):
    mine = dataclasses.replace(
      candidates, components={**candidates.components, **versions}
    )
    save_fusion(tmp_path / "fusion.json", tune(mine, questions))
    parts = parts_of(made, fusion=tmp_path / "fusion.json")
    if fits:
      whole = assemble(tmp_path / "s", parts)
      assert whole.paths["fusion"] == tmp_path / "fusion.json"
      # Nothing that a system has is passed over in silence.
      with pytest.raises(ValueError, match="has the part fusion, which answer"):
        open_for_answering(tmp_path / "s")
    else:
      with pytest.raises(ValueError, match="tuned for other components"):
        assemble(tmp_path / "t", parts)
      # The file that the first system names has changed.
      with pytest.raises(ValueError, match=r"its fusion .* is another one"):
        open_system(tmp_path / "s")


def test_a_folder_that_is_none_is_not_replaced(made, tmp_path):
  (tmp_path / "s").mkdir()
  (tmp_path / "s" / "thesis.txt").write_text("…")
  with pytest.raises(ValueError, match="is no system folder"):
    assemble(tmp_path / "s", parts_of(made))


def test_the_hash_of_a_folder_is_of_names_and_bytes(tmp_path):
  folder = tmp_path / "a"
  (folder / "deep").mkdir(parents=True)
  (folder / "deep" / "x").write_text("1")
  (folder / "y").write_text("2")
  first = part_hash(folder)
  shutil.copytree(folder, tmp_path / "b")
  assert part_hash(tmp_path / "b") == first
  (tmp_path / "b" / "y").rename(tmp_path / "b" / "z")
  assert part_hash(tmp_path / "b") != first
  (folder / "y").write_text("3")
  assert part_hash(folder) != first


# ---- Commands ----


@pytest.mark.slow
@pytest.mark.eight_devices
def test_answers_and_figures_are_those_of_the_parts(
  made, tmp_path, capsys, toy_data
):
  assemble(tmp_path / "s", parts_of(made))
  one = ("--system", tmp_path / "s")
  parts = (
    "--checkpoint", made / "trained", "--index", made / "index", "--corpus",
    made / "data",
  )  # fmt: skip
  asked = ("--question", "what is known of the red castle 7", "--k", 3)
  said = [run(capsys, "answer", *flags, *asked) for flags in (one, parts)]
  assert said[0][0] == said[1][0] == 0, said[0][2]
  assert said[0][1] == said[1][1]
  questions = ("--questions", toy_data / "questions" / "toy", "--k", 20)
  figures = []
  for flags in (one, parts):
    code, out, err = run(capsys, "evaluate", *flags, *questions)
    assert code == 0, err
    figures.append(json.loads(last_line(out)))
  assert figures[0]["system"] == figures[1]["checkpoint"]
  assert "em" in figures[0]["system"]


def test_commands_take_the_parts_of_a_system(made, tmp_path, capsys):
  code, out, err = run(
    capsys, "assemble", "--retriever", made / "trained", "--index",
    made / "index", "--corpus", made / "data", "--out", tmp_path / "s",
  )  # fmt: skip
  assert code == 0, err
  names = ["corpus", "index", "retriever", "reader"]
  assert list(json.loads(last_line(out))["parts"]) == names
  for command in ("answer", "evaluate"):
    args = make_parser().parse_args(
      [command, "--questions", "q", "--system", str(tmp_path / "s")]
    )
    take_system(args)
    assert Path(args.checkpoint) == made / "trained" / "checkpoints" / "3"
    assert Path(args.index) == made / "index"
    assert Path(args.corpus) == made / "data" / "corpus"
    assert args.reader_corpus is None


def test_flags_that_do_not_go_together(made, tmp_path, capsys):
  assemble(tmp_path / "s", parts_of(made))
  question = ("answer", "--question", "who")
  for flags, message in (
    (("--system", tmp_path / "s", "--corpus", "c"), "has its own corpus"),
    (("--system", tmp_path / "none"), "holds no system.json"),
    ((), "give --system DIR, or --checkpoint DIR with --corpus"),
  ):
    code, _, err = run(capsys, *question, *flags)
    assert code == 2 and message in last_line(err)


def test_a_pruned_folder_is_assembled_like_any_other(made, tmp_path):
  corpus = Corpus(made / "data" / "corpus")
  scores = np.random.default_rng(0).normal(size=200).astype(np.float32)
  prune(
    Whole(corpus, made / "index"), scores, Rule(keep=50), tmp_path / "pruned"
  )
  parts = parts_of(
    made, corpus=tmp_path / "pruned", index=tmp_path / "pruned" / "index"
  )
  assemble(tmp_path / "s", parts)
  system = open_system(tmp_path / "s")
  assert len(Corpus(system.paths["corpus"])) == 50
  with pytest.raises(ValueError, match="is that of another corpus"):
    assemble(tmp_path / "t", parts | {"index": made / "index"})
