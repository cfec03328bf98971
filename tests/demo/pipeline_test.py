"""Which demo runs, and that one that was stopped goes on."""

import json

import pytest
from command_line import run

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.embedded import sets
from odqa_jax.data.questions.sets import Question
from odqa_jax.demo import pipeline, system_data
from odqa_jax.demo.presets import SystemPreset
from odqa_jax.models.hf import minilm

GOODS = ("cheese", "bread", "iron", "glass", "paper", "wine")
TINY = SystemPreset(
  country_questions=24,
  article_questions=8,
  held_out=8,
  passage_length=16,
  retriever_steps=2,
  retriever_batch=4,
  reader_steps=2,
  reader_batch=2,
  pair_length=40,
  passages=2,
  k=4,
  read_k=2,
)


def test_without_minilm_it_says_so_and_trains_from_scratch(
  monkeypatch, tmp_path, capsys
):
  def offline(name):
    raise OSError(f"pip could not fetch {name}.")

  monkeypatch.setattr(pipeline, "resolve_folder", offline)
  run = []
  monkeypatch.setattr(
    pipeline, "run_scratch", lambda *args: run.append(args) or {}
  )
  pipeline.run_demo(str(tmp_path), "default", 3)
  assert run == [(tmp_path, "scratch", 3)]
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith("Without MiniLM") and "could not fetch" in line


def test_a_page_of_a_preset_without_a_system_is_refused(tmp_path, capsys):
  work = tmp_path / "demo"
  code, _, err = run(
    capsys, "demo", "--preset", "scratch", "--serve", "--workdir", work
  )
  assert code == 2 and "--preset default, and scratch makes none" in err
  assert not work.exists()


def test_an_unknown_preset_is_refused(tmp_path):
  with pytest.raises(ValueError, match="did you mean 'scratch'"):
    pipeline.run_demo(str(tmp_path), "scrach", 0)


def articles():
  for i in range(30):
    yield Passage(f"vital/{i}", f"Thing {i}", f"Thing {i} was found long ago.")


def facts():
  for i in range(24):
    text = f"Economy. Exports: {GOODS[i % 6]} and number {i}."
    yield Passage(f"factbook/{i}", f"Land {i}", text)


def questions(split, *, kind):
  held_out = split != "train"
  for i in range(24):
    if (i % 4 == 0) == held_out:
      answer = GOODS[i % 6] if kind == "factbook" else f"Thing {i}"
      text = f"what comes from {kind} {i}?"
      yield Question(
        f"{kind}/{i}", text, (answer,), positive_ids=(f"{kind}/{i}",)
      )


@pytest.mark.slow
@pytest.mark.skipif(
  not (minilm.CACHE / "all-MiniLM-L6-v2").is_dir(),
  reason="the weights of MiniLM are not in the cache",
)
def test_a_system_from_minilm_and_again(monkeypatch, tmp_path, capsys):
  monkeypatch.setitem(sets.CORPORA, "vital_articles", articles)
  monkeypatch.setitem(sets.CORPORA, "factbook_facts", facts)
  for name, kind in (
    ("vital_articles", "vital"),
    ("factbook_short", "factbook"),
  ):
    monkeypatch.setitem(
      system_data.EMBEDDED,
      name,
      lambda split, kind=kind: questions(split, kind=kind),
    )
  monkeypatch.setattr(pipeline, "SYSTEM", TINY)
  figures = pipeline.run_demo(str(tmp_path), "default", 0)
  out, err = capsys.readouterr()
  # What is found comes before what is trained, and the plan before all.
  assert out.index("real articles can be searched") < out.index("recall@1")
  assert err.index("1/9 prepare") < err.index("5/9 train the retriever")
  report = json.loads((tmp_path / "report.json").read_text())
  names = [row["name"] for row in report["rows"]]
  assert names == ["BM25", "MiniLM, no training", "MiniLM, trained"]
  assert {"em", "f1", "em_95"} <= report["rows"][2].keys()
  assert report["hardware"]["cores"] > 0 and report["seed"] == 0
  assert set(figures["em"]) == {"BM25", "MiniLM, trained"}

  # What is complete is not done again.
  times = {
    path: path.stat().st_mtime_ns
    for name in ("retriever/checkpoints", "index", "data/corpus")
    for path in (tmp_path / name).rglob("*.npy")
  }
  again = pipeline.run_demo(str(tmp_path), "default", 0)
  assert again["em"] == figures["em"]
  assert times == {path: path.stat().st_mtime_ns for path in times}
  with pytest.raises(ValueError, match=r"config\.seed was 0 and is 1"):
    pipeline.run_demo(str(tmp_path), "default", 1)
