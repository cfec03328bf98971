"""Pages of everything that the commands read or write."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from candidate_sets import make_set
from command_line import last_line, run

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.inspection.inspect import inspect
from odqa_jax.inspection.page import Page, histogram, plain, sparkline
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.hf.encoder import save_encoder
from odqa_jax.models.hf.heads import save_network
from odqa_jax.models.passage_scorer import Reranker, ScorerConfig
from odqa_jax.reading.fusion import save_fusion, tune
from odqa_jax.retrieval.retriever import load_retriever, write_index
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.serving.system_folder import assemble
from odqa_jax.training.train import train


@pytest.fixture(scope="module")
def model(tmp_path_factory, toy_data) -> Path:
  """A published folder whose tokenizer is the toy corpus's."""
  tokenizer = Corpus(toy_data / "corpus").tokenizer
  bert = BertConfig(tokenizer.vocab_size, 8, 1, 2, 8, max_positions=64)
  config = EncoderConfig(bert, shared=True, passage_type=0)
  folder = tmp_path_factory.mktemp("model") / "m"
  params = DualEncoder(config).init(jax.random.key(0))
  lengths = {"question_length": 16, "passage_length": 64}
  save_encoder(folder, config, params, tokenizer, **lengths)
  return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory, toy_data, model) -> Path:
  folder = tmp_path_factory.mktemp("index") / "i"
  corpus = Corpus(toy_data / "corpus")
  write_index(load_retriever(model), corpus, folder, mesh=make_mesh())
  return folder


@pytest.fixture
def workdir(tmp_path, toy_config) -> Path:
  train(toy_config(**{"checkpoint.keep": 2}), tmp_path / "w")
  return tmp_path / "w"


@pytest.fixture
def dataset(tmp_path, toy_data) -> Path:
  """A copy that a test may damage."""
  return Path(shutil.copytree(toy_data, tmp_path / "data"))


def flip(path: Path, at: int = -1) -> None:
  content = bytearray(path.read_bytes())
  content[at] ^= 1
  path.write_bytes(content)


def states(page: Page) -> dict[str, str]:
  return {parent.name: parent.state for parent in page.parents}


def test_a_corpus(toy_data):
  corpus = Corpus(toy_data / "corpus")
  page = inspect(toy_data / "corpus", n=2)
  assert page.problems == []
  facts = page.facts
  assert facts["count"] == 200 and facts["articles"] == 67
  assert facts["fingerprint"] == corpus.fingerprint
  lengths = np.diff(corpus.text_offsets) + np.diff(corpus.title_offsets)
  (bins,) = page.histograms
  assert sum(count for *_, count in bins.bins) == 200
  assert bins.figures["max"] == lengths.max()
  assert bins.figures["mean"] == pytest.approx(lengths.mean(), abs=0.1)
  assert [r["text"] for _, r in page.records] == [
    corpus.text(0),
    corpus.text(199),
  ]
  # The raw file lies beside the dataset folder still.
  assert states(page) == {"tokenizer": "same", "passages.jsonl": "same"}


def test_pairs_decode_their_rows(toy_data):
  page = inspect(toy_data / "pairs" / "toy", n=1)
  questions = QuestionSet(toy_data / "questions" / "toy")
  (_, record), *_ = page.records
  assert record["question"] == questions[0].question
  assert record["positives"][0].startswith("row 0 'Article 0': The ")
  assert states(page) == {"corpus": "same", "questions": "same"}


def test_parents_that_changed_or_are_gone_are_told(dataset, toy_data, tmp_path):
  from odqa_jax.data.prepare import prepare

  shutil.rmtree(dataset / "questions")
  page = inspect(dataset / "pairs" / "toy")
  assert states(page)["questions"] == "not found"
  asked = tmp_path / "toy.jsonl"
  asked.write_text('{"question": "who?", "answer": ["A"]}\n')
  prepare(
    corpus=[str(toy_data.parent / "passages.jsonl")],
    questions=[str(asked)],
    out=dataset,
    tokenizer=str(dataset / "tokenizer"),
  )
  page = inspect(dataset / "pairs" / "toy")
  assert states(page) == {"corpus": "same", "questions": "other"}
  assert "✗ questions" in page.text()


def test_a_dataset_shows_all_its_parts(toy_data):
  page = inspect(toy_data)
  assert page.kind == "dataset"
  assert list(page.parts) == ["corpus", "questions/toy", "pairs/toy"]
  text = page.text()
  assert all(name in text for name in page.parts)
  assert "✓ corpus  ✓ questions" in text


def test_an_index_and_its_corpus(index, toy_data):
  shutil.copytree(toy_data / "corpus", index.parent / "corpus")
  page = inspect(index, n=1)
  assert page.facts["count"] == 200 and page.facts["width"] == 8
  assert states(page) == {"corpus": "same"}
  assert page.records[0][1]["title"] == "Article 0"


@pytest.mark.slow
def test_a_workdir_and_a_step(workdir, toy_data):
  page = inspect(workdir)
  assert list(page.parts) == ["3", "6"]
  assert page.facts["used as --checkpoint"] == "step 6"
  assert page.facts["retriever"].startswith("dual_encoder: width 128, layers 2")
  assert page.tables["last steps"][0][0] == "step"
  assert [row[0] for row in page.tables["last steps"][1:]] == ["2", "4", "6"]
  assert states(page) == {"corpus": "same"}
  step = inspect(workdir / "checkpoints" / "3")
  assert step.kind == "checkpoint" and step.facts["task"] == "contrastive"
  assert inspect(workdir / "metrics.jsonl").kind == "metrics"


def test_a_damaged_step_is_told_beside_the_whole_one(workdir, capsys):
  shutil.rmtree(workdir / "checkpoints" / "6" / "state")
  code, out, err = run(capsys, "inspect", workdir)
  assert code == 2
  assert "checkpoints/6" in err and "step 3 is whole" in err
  assert "damaged" in out


def test_a_published_folder(model):
  page = inspect(model)
  assert page.problems == []
  assert page.kind == "sentence-transformers folder"
  assert page.facts["width"] == 8 and page.facts["passage length"] == 64
  tensors = safetensors.numpy.load_file(model / "model.safetensors")
  assert page.facts["parameters"] == sum(t.size for t in tensors.values())


@pytest.mark.parametrize("kind", [Reranker, ExtractiveReader])
def test_a_published_folder_with_a_head(tmp_path, toy_data, kind):
  tokenizer = Corpus(toy_data / "corpus").tokenizer
  bert = BertConfig(
    tokenizer.vocab_size, 8, 1, 2, 8, max_positions=64, variant="electra"
  )
  reads = kind is ExtractiveReader
  network = kind(SpanConfig(bert) if reads else ScorerConfig(bert))
  params = network.init(jax.random.key(0))
  save_network(tmp_path / "out", network, params, tokenizer)
  page = inspect(tmp_path / "out")
  assert not page.all_problems()
  role = "extractive_reader" if reads else "reranker"
  assert page.facts["role"] == role
  assert "width 8, layers 1" in page.facts[role]
  assert ", question_length 16, pair_length 64, title" in page.facts[role]
  assert page.facts["pair length"] == 64
  assert page.facts["fingerprint"] == tokenizer.fingerprint


@pytest.fixture
def system(tmp_path, toy_data, index, model) -> Path:
  """A system of copies that a test may change."""
  shutil.copytree(toy_data / "corpus", tmp_path / "corpus")
  shutil.copytree(index, tmp_path / "index")
  parts = {"retriever": model}
  parts |= {name: tmp_path / name for name in ("corpus", "index")}
  assemble(tmp_path / "system", parts)
  return tmp_path / "system"


def test_a_system_shows_whether_its_parts_are_the_same(
  system, tmp_path, capsys
):
  for path in (system, system / "system.json"):
    page = inspect(path)
    assert page.kind == "system" and not page.all_problems()
    names = ["corpus", "index", "retriever"]
    assert states(page) == dict.fromkeys(names, "same")
    assert [p.kind for p in page.parts.values()] == [
      "corpus", "index", "sentence-transformers folder"
    ]  # fmt: skip
    version = next(p for p in page.parents if p.name == "retriever")
    versions = page.facts["versions of components"]
    assert versions == {"retriever": version.fingerprint[:12]}
  # Another corpus in its place, and an index that is gone.
  manifest = tmp_path / "corpus" / "manifest.json"
  content = json.loads(manifest.read_text())
  manifest.write_text(json.dumps(content | {"sha256": "0" * 64}))
  shutil.rmtree(tmp_path / "index")
  code, _, _ = run(capsys, "inspect", system)
  page = inspect(system)
  problems = " ".join(page.all_problems())
  assert code == 2 and "its corpus" in problems
  assert "is another one (000000000000) than it was" in problems
  assert states(page) == {
    "corpus": "other", "index": "not found", "retriever": "same"
  }  # fmt: skip
  (system / "system.json").write_text('{"kind": "system", "parts": 3}')
  problems = inspect(system).all_problems()
  assert len(problems) == 1 and "assemble it again" in problems[0]


def test_a_fusion_tells_its_weights(tmp_path, capsys):
  found, questions = make_set(60, 0)
  fusion = tune(found, questions)
  path = tmp_path / "fusion.json"
  save_fusion(path, fusion)
  page = inspect(path)
  assert page.kind == "fusion" and not page.problems
  assert page.facts["weights"] == fusion.weights
  assert page.facts["tuned on"] == fusion.tuned_on
  assert f"{fusion.choice.bias:+.4g}" in page.facts["span or generated"]
  assert set(page.facts["versions"]) == set(fusion.components)
  text = page.text()
  assert "reranker" in text and "comparable" in text
  save_fusion(path, dataclasses.replace(fusion, choice=None))
  assert "always a span" in inspect(path).text()
  path.write_text(path.read_text().replace('"l2": 0.001', '"l2": 0.002'))
  code, out, _ = run(capsys, "inspect", path)
  assert code == 2 and "does not match its checksum" in out


def test_a_tokenizer(toy_data):
  page = inspect(toy_data / "tokenizer")
  assert page.kind == "tokenizer" and page.problems == []


@pytest.mark.parametrize("name", ["run.trec", "run.json"])
def test_a_run(toy_data, tmp_path, name):
  questions = list(QuestionSet(toy_data / "questions" / "toy"))
  corpus = Corpus(toy_data / "corpus")
  rows = np.tile(np.array([[0, 4, 9]]), (len(questions), 1))
  scores = np.tile(np.array([[3.0, 2.0, 1.0]], np.float32), (len(rows), 1))
  ids = tuple(q.id for q in questions)
  write_run(tmp_path / name, Ranking(ids, rows, scores), questions, corpus)
  page = inspect(tmp_path / name, n=1)
  assert page.kind == "run" and page.facts["questions"] == 100
  assert page.facts["scores"] == "1 to 3"
  assert page.records[0][1] == {"1": "p0  3", "2": "p4  2", "3": "p9  1"}
  recall = page.facts.get("recall by its has_answer")
  if name == "run.json":
    assert recall == {"@1": 0.01}
  else:
    assert recall is None


def test_raw_files(toy_data):
  page = inspect(toy_data.parent / "toy.jsonl", n=1)
  assert page.kind == "raw questions" and page.facts["questions"] == 100
  assert page.facts["questions as"].startswith("nq_open (JSON with the keys")
  page = inspect(toy_data.parent / "passages.jsonl", n=1)
  assert page.kind == "raw passages" and page.facts["passages"] == 200


def test_a_report(tmp_path):
  rows = [{"name": "BM25", "recall": {"1": 0.5}, "em": None}]
  (tmp_path / "report.json").write_text(json.dumps({"rows": rows, "seed": 1}))
  page = inspect(tmp_path / "report.json")
  assert page.tables["rows"] == [
    ["name", "recall@1", "em"],
    ["BM25", "0.5", "None"],
  ]


def test_json_is_the_same_page(toy_data, capsys):
  code, out, _ = run(capsys, "inspect", toy_data / "corpus", "--json")
  assert code == 0 and len(out.splitlines()) == 1
  assert json.loads(out) == inspect(toy_data / "corpus").as_json()
  code, out, _ = run(capsys, "inspect", toy_data / "corpus", "--n", 0)
  assert code == 0
  assert json.loads(last_line(out)) == {
    "path": str(toy_data / "corpus"),
    "kind": "corpus",
    "problems": 0,
  }


# ---- What is wrong ----


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("corpus/texts.bin", r"texts\.bin: bytes 0 to"),
    ("corpus/manifest.json", "manifest"),
    ("questions/toy/dataset_info.json", "dataset_info"),
    ("pairs/toy/negative_rows.npy", "negative_rows"),
  ],
)
def test_a_flipped_byte_is_found(dataset, name, message, capsys):
  flip(dataset / name, 60)
  for path in (dataset, (dataset / name).parent):
    page = inspect(path)
    assert len(page.all_problems()) == 1
    assert message.replace("\\", "") in page.all_problems()[0]
    code, out, err = run(capsys, "inspect", path)
    assert code == 2 and len(err.splitlines()) == 1
    assert "WRONG" in out
    code, out, _ = run(capsys, "inspect", path, "--json")
    assert code == 2 and json.loads(out)["path"] == str(path)


def test_a_large_artifact_is_read_whole_on_demand(dataset, monkeypatch):
  from odqa_jax.inspection import artifacts
  from odqa_jax.runtime import blocks

  monkeypatch.setattr(artifacts, "_COMPARED_BYTES", 0)
  page = inspect(dataset / "corpus")
  assert "--verify" in page.facts["files"] and not page.problems
  monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 20)
  assert "every byte" in inspect(dataset / "corpus", verify=True).facts["files"]


def test_blocks_that_no_page_needs_are_compared_too(
  tmp_path, toy_data, monkeypatch
):
  from odqa_jax.data.corpus.corpus import build_corpus
  from odqa_jax.runtime import blocks

  tokenizer = Corpus(toy_data / "corpus").tokenizer
  monkeypatch.setattr(blocks, "BLOCK_BYTES", 256)
  build_corpus(toy_data.parent / "passages.jsonl", tmp_path / "c", tokenizer)
  assert inspect(tmp_path / "c", n=0).problems == []
  flip(tmp_path / "c" / "texts.bin", 5000)
  (problem,) = inspect(tmp_path / "c", n=0).problems
  assert "texts.bin: bytes 4864 to 5120" in problem


def crafted(tmp_path: Path, name: str) -> Path:
  """Things that are nothing, or another thing than they seem."""
  path = tmp_path / name
  if name == "empty":
    path.mkdir()
  elif name == "index.tmp":
    path.mkdir()
    (path / "rows-00000.npy").write_bytes(b"x")
  elif name == "empty.jsonl":
    path.write_bytes(b"")
  elif name == "model.pt":
    path.write_bytes(b"\x80\x02cos\nsystem\n")
  elif name == "rows.npy":
    np.save(path, np.array([{}], object), allow_pickle=True)
  elif name == "noise.bin":
    path.write_bytes(bytes(range(256)) * 4)
  elif name == "pickled":
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\n")
  elif name == "kind":
    path.mkdir()
    (path / "manifest.json").write_text('{"kind": "soup", "count": 3}')
  elif name == "manifest":
    path.mkdir()
    (path / "manifest.json").write_text("[1")
  elif name == "report.json":
    path.write_text('{"rows": 3}')
  elif name == "other.json":
    path.write_text('{"data": {"corpus": "x"}, "seed": 3}')
  elif name == "cut.json":
    path.write_text('{"question": "who", ')
  return path


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("absent", "is not there"),
    ("empty", "is an empty folder"),
    ("index.tmp", "was not finished"),
    ("empty.jsonl", "is empty"),
    ("model.pt", "pickles can run code"),
    ("rows.npy", "NumPy file of pickled objects"),
    ("noise.bin", "noise.bin"),
    ("pickled", "pytorch_model.bin"),
    ("kind", "no artifact of the kind 'soup'"),
    ("manifest", "manifest"),
    ("report.json", "no rows"),
    ("other.json", "other.json"),
    ("cut.json", "cut.json"),
  ],
)
def test_what_is_nothing_is_one_line(tmp_path, capsys, name, message):
  path = crafted(tmp_path, name)
  code, _, err = run(capsys, "inspect", path)
  assert code == 2
  assert len(err.splitlines()) == 1 and message in err
  assert str(path) in err


def test_records_below_none_are_refused(capsys, toy_data):
  code, _, err = run(capsys, "inspect", toy_data, "--n", -1)
  assert code == 2 and "--n -1" in err


# ---- How it looks ----


def test_bins_are_round_and_hold_everything():
  lengths = np.array([0] * 5 + [7] * 3 + [100] * 90 + [100_000])
  bins = histogram("x", lengths)
  assert bins is not None
  assert sum(count for *_, count in bins.bins) == len(lengths)
  assert bins.bins[-1][1] is None
  assert histogram("x", np.zeros(0, int)) is None
  same = histogram("x", np.array([8, 8]))
  assert same is not None and same.bins == [(8, 8, 2)]


def test_text_from_a_file_moves_no_cursor():
  assert plain("a\x1b[2Jb\nc") == "a␣[2Jb␣c"
  page = Page("p", "k", "a", facts={"x": "\x1b[31m"})
  assert "\x1b" not in page.text()


def test_a_sparkline_rises_with_its_values():
  assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
  assert sparkline([None, 1.0]) == ""
  assert sparkline([2.0, 2.0]) == "▁▁"


def test_pages_keep_to_about_eighty_columns(toy_data, index):
  for path in (toy_data / "corpus", toy_data / "pairs" / "toy", index):
    # A path is not broken, however long.
    shown = inspect(path).text().splitlines()
    assert max(len(line) for line in shown if "/" not in line) <= 90
