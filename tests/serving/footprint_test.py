"""Footprints: every byte in one part, once, and whose exact match it is."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import last_line, run
from small_parts import (
  random_index,
  random_system,
  save_extractive_reader,
  write_random_run,
)
from small_reader import save_workdir

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.evaluation.statistics import wilson_interval
from odqa_jax.runtime import plots
from odqa_jax.runtime.checkpoint import find_step
from odqa_jax.runtime.plots import plot_footprint
from odqa_jax.serving.footprint import (
  PARTS,
  Rung,
  footprint_table,
  measure_ladder,
  measure_rung,
  named_rungs,
)
from odqa_jax.serving.pack import PackOptions, contents, pack_system
from odqa_jax.serving.packed.container import PackWriter
from odqa_jax.serving.pruning import Rule, Whole, prune
from odqa_jax.serving.system_folder import assemble

MIB = 2**20


def size_of(*paths):
  """Bytes of all files below some paths."""
  files = [p for path in paths for p in [path, *path.rglob("*")]]
  return sum(p.stat().st_size for p in files if p.is_file())


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy_data):
  """A system, and the same with a filtered corpus."""
  root = tmp_path_factory.mktemp("made")
  system = random_system("individual", toy_data)
  save_workdir(system, root / "work")
  save_workdir(system, root / "retriever", with_reader=False)
  random_index(system.retriever, system.corpus, root / "index")
  shutil.copytree(toy_data / "corpus", root / "corpus")
  scores = np.arange(200.0)
  whole = Whole(Corpus(root / "corpus"), root / "index")
  prune(whole, scores, Rule(keep=20), root / "few", leaky=True)
  for name, folder in (("whole", root), ("small", root / "few")):
    parts = {"index": folder / "index", "corpus": folder / "corpus"}
    assemble(root / "systems" / name, parts | {"retriever": root / "work"})
  return root


def test_a_system_is_measured_part_by_part(made):
  row = measure_rung(Rung("whole", made / "systems" / "whole"))
  step = made / "work" / "checkpoints" / "3"
  corpus = made / "corpus"
  named = made / "work" / "tokenizer", corpus / "tokenizer"
  tokenizers = size_of(*named)
  if (beside := made / "work" / "reader_tokenizer").is_dir():
    tokenizers += size_of(beside)
  shapes = json.loads((step / "manifest.json").read_text())["params"].values()
  weights = sum(
    math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes
  )
  held = size_of(step)
  expected = {
    "runtime": 0,
    # Retriever and reader are one step, which counts once.
    "models": min(weights, held),
    "index": size_of(made / "index"),
    "text": size_of(corpus) - size_of(corpus / "tokenizer"),
    "tokenizer": tokenizers,
    "other": size_of(made / "systems" / "whole"),
  }
  # The share of the weights is one of floats.
  assert row["bytes"] == {k: pytest.approx(v, abs=1) for k, v in
                          expected.items()}  # fmt: skip
  assert row["training"] == pytest.approx(max(held - weights, 0), abs=1)
  assert row["total"] == sum(row["bytes"].values())
  assert (row["passages"], row["corpus"]) == (200, Corpus(corpus).fingerprint)
  assert "leaky" not in row and find_step(made / "work")[1] == 3


def test_optimisers_are_not_called_models(tmp_path):
  step = tmp_path / "work" / "checkpoints" / "5"
  step.mkdir(parents=True)
  params = {"reader/kernel": [[25, 40], "float32"], "reader/b": [[50], "int16"]}
  manifest = json.dumps({"kind": "checkpoint", "params": params})
  (step / "manifest.json").write_text(manifest)
  (step / "state").write_bytes(bytes(12_300))
  row = measure_rung(Rung("step", tmp_path / "work"))
  total = 12_300 + len(manifest)
  assert row["bytes"]["models"] == pytest.approx(4100, abs=1)
  assert row["training"] == pytest.approx(total - 4100, abs=300)
  assert row["total"] + row["training"] == total
  assert row["total"] == sum(row["bytes"].values())
  table = footprint_table([row]).splitlines()
  assert table[0].endswith("(to be trained on)")
  assert table[-1].split()[-1] == "0.01"
  (step / "state").write_bytes(bytes(4000))
  row = measure_rung(Rung("step", tmp_path / "work"))
  assert row["bytes"]["models"] == pytest.approx(4100, abs=1)
  (step / "state").write_bytes(bytes(1000))
  row = measure_rung(Rung("step", tmp_path / "work"))
  assert row["bytes"]["models"] == row["total"]


def test_files_go_to_their_parts_by_name(tmp_path):
  sizes = {
    "bert/model.safetensors": 500, "bert/vocab.txt": 30, "bert/config.json": 7,
    "bert/tokenizer/anything": 11, "notes.txt": 3,
    "lib/python/tokenizer/vocab.txt": 1000,
  }  # fmt: skip
  for name, size in sizes.items():
    path = tmp_path / "all" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
  shutil.move(tmp_path / "all" / "lib", tmp_path / "lib")
  # What two names have counts once; a link to nothing is nothing.
  os.link(tmp_path / "all/bert/vocab.txt", tmp_path / "all/again.txt")
  (tmp_path / "all" / "link").symlink_to(tmp_path / "lib" / "python")
  (tmp_path / "all" / "gone").symlink_to(tmp_path / "nowhere")
  rung = Rung("all", tmp_path / "all", runtime=tmp_path / "lib")
  row = measure_rung(rung)
  assert row["total"] == sum(sizes.values())
  linked = row["bytes"]
  assert linked["models"] == 500 and linked["other"] in (3 + 7, 3 + 7 + 30)
  (tmp_path / "all" / "link").unlink()
  (tmp_path / "all" / "again.txt").unlink()
  assert measure_rung(rung)["bytes"] == {
    "runtime": 1000, "models": 500, "index": 0, "text": 0, "tokenizer": 41,
    "other": 10,
  }  # fmt: skip


def test_a_pack_is_measured_by_its_contents(tmp_path):
  path = tmp_path / "small.odqa"
  about = {"count": 9, "corpus": "3fa9", "leaky": True, "networks": {}}
  with PackWriter(path, about) as writer:
    writer.add("reader", "models", np.arange(50_000))
    writer.add("rows", "index", np.zeros(30_000, np.int8))
    writer.add("texts", "text", np.zeros(20_000, np.uint8))
  tree = tmp_path / "tree"
  tree.mkdir()
  (tree / "python").write_bytes(bytes(77))
  row = measure_rung(Rung("pack", path, runtime=tree))
  assert row["bytes"] == contents(path) | {"runtime": 77}
  assert row["bytes"]["models"] >= 400_000 > row["bytes"]["index"] >= 30_000
  assert row["total"] == path.stat().st_size + 77
  found = [path.stat(), tree.stat(), (tree / "python").stat()]
  assert row["disk_total"] == 512 * sum(s.st_blocks for s in found)
  assert (row["passages"], row["corpus"], row["leaky"]) == (9, "3fa9", True)
  figures = figures_of(tmp_path / "figures.json", 0.4, "another")
  with pytest.raises(ValueError, match="corpus another, and pack="):
    measure_rung(Rung("pack", path, figures=figures))
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match=r"small\.odqa"):
    measure_rung(Rung("pack", path))


def test_a_pack_says_of_which_corpus_and_whether_it_is_leaky(
  made, toy_data, tmp_path, capsys
):
  whole = Corpus(made / "corpus")
  save_extractive_reader(whole, tmp_path / "extractive")
  assemble(tmp_path / "system", {
    "index": made / "few" / "index", "corpus": made / "few" / "corpus",
    "retriever": made / "retriever", "extractive_reader":
    tmp_path / "extractive",
  })  # fmt: skip
  path = tmp_path / "few.odqa"
  pack_system(tmp_path / "system", path, PackOptions())
  few = Corpus(made / "few" / "corpus")
  row = measure_rung(Rung("few", path))
  assert (row["passages"], row["corpus"], row["leaky"]) == (
    20, few.fingerprint, True
  )  # fmt: skip
  code, out, err = run(
    capsys, "evaluate", "--system", path, "--questions",
    toy_data / "questions" / "toy", "--k", 2, "--read-k", 1,
  )  # fmt: skip
  assert code == 0, err
  (tmp_path / "figures.json").write_text(out)
  figures = json.loads(last_line(out))
  assert (figures["corpus"], figures["leaky"]) == (few.fingerprint, True)
  again = measure_rung(Rung("few", path, figures=tmp_path / "figures.json"))
  assert again["em"] == figures["system"]["read"]["1"]["em"]


@pytest.mark.skipif(sys.platform != "linux", reason="du of GNU")
def test_the_disk_is_that_of_du(made):
  told = subprocess.run(
    ["du", "-sL", "--block-size=1", made / "corpus"],
    capture_output=True, text=True, check=True,
  ).stdout  # fmt: skip
  row = measure_rung(Rung("corpus", made / "corpus"))
  assert row["disk_total"] == int(told.split()[0])
  assert row["disk"]["text"] + row["disk"]["tokenizer"] == row["disk_total"]


def figures_of(path: Path, em, corpus, **more):
  interval = list(wilson_interval(round(100 * em), 100))
  read = {"10": {"em": em, "em_95": interval}} | more
  content = {"system": {"read": read}, "corpus": corpus}
  path.write_text("progress that was printed\n" + json.dumps(content) + "\n")
  return path


def test_evaluate_says_of_which_corpus_and_whether_it_is_leaky(
  made, toy_data, tmp_path, capsys
):
  asked = toy_data / "questions" / "toy"
  for folder, label in ((made, {}), (made / "few", {"leaky": True})):
    corpus = Corpus(folder / "corpus")
    run_file = tmp_path / "run.trec"
    write_random_run(run_file, list(QuestionSet(asked)), corpus, 2)
    code, out, err = run(
      capsys, "evaluate", "--run", run_file, "--corpus", folder / "corpus",
      "--questions", asked,
    )  # fmt: skip
    assert code == 0, err
    figures = json.loads(last_line(out))
    del figures["run"]
    assert figures == {"corpus": corpus.fingerprint} | label


def test_the_command_draws_the_ladder(made, tmp_path, capsys):
  fingerprints = [
    json.loads((made / name / "manifest.json").read_text())["fingerprint"]
    for name in ("corpus", "few/corpus")
  ]
  whole = figures_of(tmp_path / "whole.json", 0.4, fingerprints[0])
  small = figures_of(tmp_path / "small.json", 0.3, fingerprints[1])
  tree = tmp_path / "tree"
  tree.mkdir()
  (tree / "python").write_bytes(bytes(3 * MIB))
  named = [f"{n}={made / 'systems' / n}" for n in ("whole", "small")]
  flags = [
    *named, "--em", f"whole={whole}", f"small={small}", "--runtime", tree,
    "--out", tmp_path / "out",
  ]  # fmt: skip
  code, out, err = run(capsys, "footprint", *flags)
  assert code == 0, err
  head, _, *lines = err.strip().splitlines()
  assert head.split()[:3] == ["MiB", "passages", "runtime"]
  assert lines[0].split()[:3] == ["whole", "200", "3.00"]
  assert "  40.00  30.9 to 49.8  " in lines[0]
  assert lines[1].startswith("small (leaky)") and " 20 " in lines[1]
  report = json.loads((tmp_path / "out" / "report.json").read_text())
  rows = measure_ladder(
    named_rungs(named, [f"whole={whole}", f"small={small}"], [str(tree)])
  )
  assert report["rows"] == rows and report["unit"] == "bytes"
  assert [row.get("leaky") for row in rows] == [None, True]
  said = json.loads(last_line(out))
  assert said["rungs"]["small"]["leaky"] and said["rungs"]["whole"]["em"] == 0.4
  assert Path(said["picture"]).read_bytes().startswith(b"\x89PNG")
  # The same command again replaces what it has written, and nothing else.
  assert run(capsys, "footprint", *flags)[0] == 0
  (tmp_path / "out" / "report.json").write_text("a thesis")
  code, _, err = run(capsys, "footprint", *flags)
  assert code == 2 and "is not what this command writes" in last_line(err)


def test_without_exact_match_nothing_is_drawn(made, tmp_path, capsys):
  code, out, err = run(
    capsys, "footprint", f"c={made / 'corpus'}", "--out", tmp_path
  )
  assert code == 0 and "not given" in err
  assert "picture" not in json.loads(last_line(out))
  assert not (tmp_path / "footprint.png").exists()
  with pytest.raises(ValueError, match="no rung has an exact match"):
    plot_footprint([{"name": "a", "total": 1}], tmp_path / "footprint.png")


def test_a_number_is_nearest_to_its_own_point(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
  # The last two: one network, finetuned in between.
  ladder = [(303, 0.45), (279, 0.4), (160, 0.28), (83, 0.087), (83, 0.073)]
  rows = [
    {"name": str(i), "total": size * MIB, "em": em}
    for i, (size, em) in enumerate(ladder, 1)
  ]
  plot_footprint(rows, tmp_path / "footprint.png")
  figure = drawn[0]
  figure.canvas.draw()
  axes = figure.axes[0]
  points = axes.transData.transform(ladder)
  for own, number in enumerate(axes.texts):
    box = number.get_window_extent()
    centre = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    apart = np.hypot(*(points - np.array(centre)).T)
    assert number.get_text() == str(own + 1) and apart.argmin() == own


def test_runtimes_and_figures_are_named(tmp_path):
  rungs = named_rungs(["a=x", "b=y=z"], ["b=b.json"], ["b=mine", "tree"])
  assert rungs == [
    Rung("a", Path("x"), Path("tree")),
    Rung("b", Path("y=z"), Path("mine"), Path("b.json")),
  ]


def test_what_cannot_be_measured_is_one_line(made, tmp_path, capsys):
  whole = made / "systems" / "whole"
  good = figures_of(tmp_path / "good.json", 0.4, "another corpus")
  more = figures_of(tmp_path / "more.json", 0.4, None, **{"20": {"em": 0.5}})
  none = tmp_path / "none.json"
  none.write_text('{"run": {"recall": {"1": 0.5}}}')
  words = tmp_path / "words.json"
  words.write_text("no figures\n")
  for flags, said in (
    ([f"a={made / 'nowhere'}"], "nowhere: is not there"),
    (["a"], "a: write NAME=PATH"),
    ([f"a={whole}", f"a={made / 'few'}"], "a: is the name of 2 rungs"),
    ([f"a={whole}", "--em", f"b={good}"], "b: is no rung, which are a"),
    ([f"a={whole}", "--em", f"a={good}"], "the corpus another corp, and a="),
    ([f"a={whole}", "--em", f"a={more}"], "with 10, 20 passages; choose"),
    ([f"a={whole}", "--em", f"a={none}"], "holds no exact match"),
    ([f"a={whole}", "--em", f"a={words}"], "nor its last line is a JSON"),
    ([f"a={whole}", "--runtime", "nowhere"], "nowhere: is not there"),
  ):
    code, _, err = run(capsys, "footprint", *flags, "--out", tmp_path / "out")
    assert code == 2 and said in last_line(err), (flags, err)
    assert not (tmp_path / "out").exists()


def test_a_table_in_mib():
  sizes = dict.fromkeys(PARTS, 0) | {"index": 614 * MIB, "models": MIB // 2}
  row = {
    "name": "a", "passages": 1_224_000, "bytes": sizes, "runtime": None,
    "training": 0,
    "total": 614 * MIB + MIB // 2, "disk_total": 615 * MIB,
  }  # fmt: skip
  (line,) = footprint_table([row]).splitlines()[2:]
  assert line.split() == [
    "a", "1,224,000", "not", "given", "0.50", "614.00", "0.00", "0.00", "0.00",
    "614.50", "615.00",
  ]  # fmt: skip
