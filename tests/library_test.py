"""The library as a program sees it: its names, their examples, its values."""

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small_parts import random_system, save_extractive_reader, save_parts
from small_reader import save_workdir
from small_retriever import small_retriever

import odqa_jax
from odqa_jax import (
  Passage,
  Question,
  build_index,
  load_reader,
  load_system,
  open_index,
)
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.models.dual_encoder import BertConfig, DualEncoder, EncoderConfig
from odqa_jax.models.hf.encoder import save_encoder
from odqa_jax.retrieval import retriever as retriever_module
from odqa_jax.retrieval.encoding import Retriever
from odqa_jax.serving.system_folder import assemble

ROOT = Path(__file__).parents[1]


def test_every_name_is_there_and_costs_nothing_until_it_is_used():
  for name in odqa_jax.__all__:
    assert inspect.getdoc(getattr(odqa_jax, name)), name
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    _ = odqa_jax.nothing
  program = (
    "import sys, odqa_jax;"
    "print([m for m in ('jax', 'numpy') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert done.stdout == "[]\n"


# ---- Examples ----


@pytest.fixture(scope="module")
def model(toy_data, tmp_path_factory) -> Path:
  """A folder in place of MiniLM: as wide, with random weights."""
  folder = tmp_path_factory.mktemp("model") / "minilm"
  tokenizer = Corpus(toy_data / "corpus").tokenizer
  bert = BertConfig(
    vocab_size=tokenizer.vocab_size,
    width=384,
    layers=1,
    heads=2,
    mlp_dim=16,
    max_positions=256,
  )
  encoder = DualEncoder(EncoderConfig(bert))
  save_encoder(
    folder,
    encoder.config,
    encoder.init(jax.random.key(0)),
    tokenizer,
    question_length=64,
    passage_length=256,
  )
  return folder


@pytest.fixture
def beside(toy_data, model, tmp_path, monkeypatch):
  """Everything that examples name lies in the working folder."""
  for name in ("data", "configs"):
    there = {"data": toy_data, "configs": ROOT / "configs"}[name]
    (tmp_path / name).symlink_to(there)
  for name in ("passages", "toy"):
    there = toy_data.parent / f"{name}.jsonl"
    (tmp_path / f"{name.replace('toy', 'dev')}.jsonl").symlink_to(there)
  monkeypatch.setattr(retriever_module, "resolve_folder", lambda path: (
    model if path == "minilm" else Path(path)
  ))  # fmt: skip
  monkeypatch.chdir(tmp_path)
  return tmp_path


def run_examples(name, thing):
  module = importlib.import_module(thing.__module__)
  names = {n: getattr(odqa_jax, n) for n in odqa_jax.__all__}
  test = doctest.DocTestParser().get_doctest(
    inspect.getdoc(thing) or "", names, name, module.__file__, 0
  )
  said = []
  doctest.DocTestRunner().run(test, out=said.append)
  assert test.examples and not said, "".join(said)


QUICK = ["Passage", "Question", "build_index", "load_retriever", "open_index"]


@pytest.mark.parametrize("name", QUICK)
def test_examples_of_the_names_run(beside, name):
  run_examples(name, getattr(odqa_jax, name))


def test_the_example_of_encode_runs(beside):
  run_examples("encode", inspect.unwrap(Retriever.encode))


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["load_reader", "load_system", "prepare", "train"]
)
def test_examples_of_the_names_that_take_long_run(beside, toy_data, name):
  if name == "prepare":
    (beside / "data").unlink()
  if name == "load_system":
    assemble(beside / "system", save_parts(toy_data, beside / "parts"))
  if name == "load_reader":
    save_extractive_reader(
      Corpus(toy_data / "corpus"), beside / "work" / "reader"
    )
  run_examples(name, getattr(odqa_jax, name))


def test_all_examples_are_run():
  slow = {"load_reader", "load_system", "prepare", "train"}
  assert {*QUICK, *slow} == {*odqa_jax.__all__}


def test_a_retriever_is_no_reader(model):
  with pytest.raises(ValueError, match="holds no reader"):
    odqa_jax.load_reader(model)


# ---- Values ----


def test_texts_are_found_again_and_can_be_kept(toy_data, tmp_path):
  retriever = small_retriever(Corpus(toy_data / "corpus"), 0)
  passages = [
    Passage("a", "Castle", "the old castle of the king"),
    Passage("b", "River", "a quiet river in the forest"),
  ]
  made = build_index(retriever, passages, tmp_path / "kept", dtype="bf16")
  assert made.rows.manifest["dtype"] == "bfloat16" and len(made) == 2
  opened = open_index(retriever, tmp_path / "kept")
  asked = ["which river", "whose castle"]
  for index in (made, opened):
    found = index.search(asked, k=9)
    assert [len(some) for some in found] == [2, 2]
    for question, some in zip(asked, found, strict=True):
      assert {p.id for p in some} == {"a", "b"}
      assert some[0].score >= some[1].score
      for passage in some:
        (one,) = (p for p in passages if p.id == passage.id)
        assert (passage.title, passage.text) == (one.title, one.text)
        sides = (
          retriever.encode([question])
          @ retriever.encode([one.text], "passage", titles=[one.title]).T
        )
        # Rows of bfloat16 keep three digits.
        assert passage.score == pytest.approx(sides.item(), rel=0.02)
  figures = opened.measure([Question("1", "which river", ("quiet",), "string",
                                     ("b",))])  # fmt: skip
  assert figures["k"] == 2 and "recall" in figures
  with pytest.raises(ValueError, match="is an index of other texts"):
    build_index(retriever, passages[:1], tmp_path / "kept")
  assert open_index(retriever, tmp_path / "kept").search(
    asked
  ) == opened.search(asked)
  with pytest.raises(ValueError, match="'which' is one text"):
    made.search("which")
  with pytest.raises(ValueError, match="k=0: at least 1"):
    made.search(["which"], k=0)
  with pytest.raises(ValueError, match="does not say its corpus"):
    open_index(retriever, tmp_path / "kept" / "index")
  with pytest.raises(ValueError, match="did you mean 'bfloat16'"):
    build_index(retriever, passages, dtype="bflot16")


@pytest.mark.slow
def test_a_system_answers_with_values(toy_data, tmp_path):
  """As the records of `answering_test.py`, which are those of the command."""
  assemble(tmp_path / "system", save_parts(toy_data, tmp_path / "parts"))
  system = load_system(tmp_path / "system", k=9, read_k=4)
  asked = ["what is the first thing", "who"]
  answers = system.answer(asked)
  records = system.answering.answer(asked)
  for answer, record in zip(answers, records, strict=True):
    assert answer.text == record["answer"]
    assert answer.confidence == pytest.approx(record["confidence"])
    assert [p.id for p in answer.passages] == [
      p["id"] for p in record["passages"]
    ]
    assert answer.marks == tuple(record["marks"]) != ()
  (found,) = system.search(asked[:1], k=3)
  assert [p.text for p in found] == [p.text for p in answers[0].passages[:3]]
  assert np.diff([p.score for p in found]).max() <= 0
  questions = list(QuestionSet(toy_data / "questions" / "toy"))[:4]
  figures = system.measure(questions)
  assert figures["questions"] == 4 and 0 <= figures["em"] <= figures["f1"] <= 1
  with pytest.raises(ValueError, match="question 2 is empty"):
    system.answer(["who", " "])
  with pytest.raises(ValueError, match="k=0: the corpus has 200"):
    system.search(["who"], k=0)
  with pytest.raises(ValueError, match="corpus and index go together"):
    load_system(tmp_path / "system", corpus=toy_data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["extractive", "writes"])
def test_a_reader_answers_as_the_system_does_from_its_passages(
  toy_data, tmp_path, kind
):
  if kind == "extractive":
    assemble(tmp_path / "system", save_parts(toy_data, tmp_path / "parts"))
    system = load_system(tmp_path / "system", k=4)
    reader = load_reader(tmp_path / "parts" / "extractive")
  else:
    workdir = save_workdir(random_system("joint", toy_data), tmp_path / "work")
    system = load_system(
      workdir, corpus=toy_data, index=tmp_path / "index", k=4
    )
    reader = load_reader(workdir)
  asked = ["what is the first thing", "who", "which castle"]
  wanted = system.answer(asked)
  given = [
    [Passage(p.id, p.title, p.text) for p in answer.passages]
    for answer in wanted
  ]
  found = reader.read(asked, given)
  for mine, theirs, some in zip(found, wanted, given, strict=True):
    assert mine.text == theirs.text
    assert mine.confidence == pytest.approx(theirs.confidence, rel=1e-3)
    assert [p.id for p in mine.passages] == [p.id for p in some]
  # Questions with other numbers of passages, and texts without names.
  few = reader.read(asked, [given[0], given[1][:1], ["the old castle"]])
  assert few[0].text == wanted[0].text
  assert [len(a.passages) for a in few] == [4, 1, 1]
  (passage,) = few[2].passages
  assert (passage.id, passage.text) == ("0", "the old castle")
  for questions, passages, message in (
    (["who"], [[]], "'who' has no passages"),
    (["who"], [["a"], ["b"]], "2 lists of passages"),
    ([" "], [["a"]], "a question is empty"),
    (["who"], [[" "]], "the text is empty"),
  ):
    with pytest.raises(ValueError, match=message):
      reader.read(questions, passages)
