"""`odqa plan`: what is counted, and that it is the training's own programs."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.main import main
from odqa_jax.models import dual_encoder, t5
from odqa_jax.plan import plan as plan_module
from odqa_jax.plan.peaks import Peak, peak_of
from odqa_jax.plan.programs import (
  ReaderSizes,
  Setting,
  planned_components,
  planned_tokens,
  train_programs,
  training_state,
)
from odqa_jax.plan.scoring import scoring_programs
from odqa_jax.plan.topologies import planned_devices
from odqa_jax.plan.work import measure
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.mesh import make_mesh, row_sharding, to_global
from odqa_jax.runtime.settings import read_settings
from odqa_jax.text.reader_vocabulary import WordPieceVocabulary
from odqa_jax.training.initial_reader import reader_inputs
from odqa_jax.training.memory import abstract_batch
from odqa_jax.training.retrieval import BatchRetrieval, Candidates
from odqa_jax.training.tasks.table import check_names, make_task

CONFIGS = Path(__file__).parents[2] / "configs"
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu is not installed: pip install -e '.[tpu]'",
)

# ---- The programs are those of training ----


def longest(examples, count):
  return examples.batch(
    np.arange(count), np.random.default_rng(0), slice(0, count)
  )


def described(batch):
  """Shape, type and placement of every array, made or planned."""
  return {
    name: (x.shape, np.dtype(x.dtype), x.sharding.spec)
    for name, x in batch.items()
  }


def planned(settings, batch, mesh):
  """The planned batch, as long as this one.

  A real batch is padded to its bucket, a planned one to the longest.
  """
  data = {"question_length": batch["question_ids"].shape[-1]}
  if settings.data.source in ("ict", "pairs"):
    data["passage_length"] = batch["passage_ids"].shape[-1]
  settings = dataclasses.replace(
    settings, data=dataclasses.replace(settings.data, **data)
  )
  return abstract_batch(settings, check_names(settings), row_sharding(mesh))


@pytest.mark.parametrize("source", ["pairs", "ict"])
def test_a_planned_batch_is_the_loaders(toy_config, source):
  settings = read_settings(
    toy_config(**{"data.source": source, "data.hard_negatives": 3})
  )
  data, mesh = settings.data, make_mesh()
  batch = longest(load_examples(data, Corpus(data.corpus)), settings.batch_size)
  expected = described(to_global(mesh, batch))
  assert described(planned(settings, batch, mesh)) == expected


@pytest.mark.parametrize(
  "changes",
  [
    {"retrieval.k": 3, "reader.overlap_features": True},
    {"retrieval.k": 2, "retrieval.null_document": True},
    {"retrieval.k": 0},
  ],
)
def test_a_planned_batch_is_that_of_retrieval(toy_config, changes):
  settings = read_settings(
    toy_config(
      **{
        "task": "individual",
        "batch_size": 8,
        "data.source": "answers",
        "data.reader_buckets": False,
        "data.reader_length": 96,
        "reader.preset": "tiny",
        "model.preset": "tiny",
      }
      | changes
    )
  )
  data, k, mesh = settings.data, settings.retrieval.k, make_mesh()
  corpus = Corpus(data.corpus)
  inputs = reader_inputs(settings, corpus)
  batch = longest(load_examples(data, corpus, inputs.vocabulary), 8)
  gatherer = PassageGatherer(
    corpus=corpus,
    inputs=inputs,
    passage_length=data.passage_length,
    title=data.title,
    null_document=settings.retrieval.null_document,
    buckets=data.reader_buckets,
  )
  _, components = planned_components(
    settings, corpus.tokenizer.vocab_size, "cpu"
  )
  retrieval = BatchRetrieval(
    components["retriever"], gatherer, mesh, k=k, force_gold=False
  )
  rows = np.zeros((8, k), np.int32)
  candidates = Candidates(rows, batch["reader_question_lengths"])
  complete = retrieval.complete(batch, candidates)
  expected = described(to_global(mesh, complete))
  assert described(planned(settings, batch, mesh)) == expected


def test_planned_readers_have_the_ids_of_word_pieces(toy_config, toy_data):
  tokenizer = Corpus(toy_data / "corpus").tokenizer
  mine = WordPieceVocabulary(tokenizer)
  config = toy_config(
    **{"task": "fid", "reader.preset": "tiny", "data.source": "answers"}
  )
  _, components = planned_components(
    read_settings(config), tokenizer.vocab_size, "cpu"
  )
  reader = components["reader"]
  assert reader.config.vocab_size == mine.size
  assert reader.config.start_id == mine.start_id
  assert reader.config.eos_id == mine.eos_id
  assert isinstance(ReaderSizes(1, 2, 3, 4).size, int)


@pytest.fixture
def small(monkeypatch):
  """Networks of one layer: what compiles here is not about their depth."""
  shape = {"width": 32, "layers": 1, "heads": 2, "mlp_dim": 64}
  tiny = dual_encoder.PRESETS["tiny"] | shape
  monkeypatch.setitem(dual_encoder.PRESETS, "tiny", tiny)
  shape |= {"decoder_layers": 1, "head_dim": 16}
  monkeypatch.setitem(t5.PRESETS, "tiny", t5.PRESETS["tiny"] | shape)


def setting(config, **changes):
  settings = read_settings(config)
  needs, components = planned_components(settings, 300, "cpu")
  values = {
    "settings": settings,
    "needs": needs,
    "components": components,
    "mesh": make_mesh(settings.mesh),
    "passages": 5000,
    "width": 32,
    "dtype": "float32",
    "questions": 8,
    "k": 10,
  }
  return Setting(**(values | changes))


PEAK = Peak(flops=1e12, exact_flops=1e11, hbm=1e11, network=1e10, memory=2**30)


def no_arrays():
  """Bytes of all arrays that this process holds."""
  return sum(x.nbytes for x in jax.live_arrays())


@pytest.mark.parametrize(
  "task",
  [
    "contrastive",
    "individual",
    pytest.param("joint", marks=pytest.mark.slow),
    pytest.param("fid", marks=pytest.mark.slow),
  ],
)
def test_the_planned_step_has_the_flops_of_its_task(toy_config, small, task):
  config = toy_config(
    **{
      "task": task,
      "model.dropout": 0.1,
      "reader.preset": "tiny",
      "reader.scan": True,
      "data.source": "pairs" if task == "contrastive" else "answers",
      "retrieval.k": 4,
      "retrieval.refresh": "snapshot" if task == "individual" else "none",
      "objective.passage_encoder": task == "individual",
    }
  )
  made = setting(config)
  before = no_arrays()
  programs = {p.name: p for p in train_programs(made, training_state(made))}
  lowered = programs["train_step"].lower("cpu")
  counted = measure(lowered.as_text("hlo")).matmul_flops
  assert no_arrays() - before < 2**16
  batch = abstract_batch(made.settings, made.needs, None)
  expected = make_task(made.settings, made.components).flops(batch)
  # The step is written for one device.
  assert counted * made.mesh.size == pytest.approx(expected, rel=0.05)
  useful = programs["train_step"].useful_flops * made.mesh.size
  assert useful == pytest.approx(expected)
  names = {"train_step"}
  if task != "contrastive":
    names.add("train_search")
    programs["train_search"].lower("cpu")
  if task == "individual":
    names.add("refresh")
    programs["refresh"].lower("cpu")
  assert set(programs) == names


def of_passages(task, **changes):
  """Settings of `toy_config` for a task that reads passages."""
  sources = {
    "reranker": "retrieved",
    "extractive": "retrieved_spans",
    "pruner": "golden",
    "filter": "found",
    "iterative": "unified",
  }
  return {
    "task": task,
    "data.source": sources[task],
    "model.dropout": 0.1,
    "data.passages": 3,
    "data.pair_length": 64,
    "data.span_length": 4,
    "data.occurrences": 2,
    "model.shared": task == "iterative",
  } | changes


@pytest.mark.parametrize(
  "task",
  [
    pytest.param("reranker", marks=pytest.mark.slow),
    pytest.param("extractive", marks=pytest.mark.slow),
    pytest.param("iterative", marks=pytest.mark.slow),
    "pruner",
    "filter",
  ],
)
def test_the_planned_step_of_what_reads_passages_has_its_flops(
  toy_config, small, task
):
  made = setting(toy_config(**of_passages(task)), width=0)
  before = no_arrays()
  (step,) = train_programs(made, training_state(made))
  counted = measure(step.lower("cpu").as_text("hlo")).matmul_flops
  assert no_arrays() - before < 2**16
  batch = abstract_batch(made.settings, made.needs, None)
  expected = make_task(made.settings, made.components).flops(batch)
  useful = step.useful_flops * made.mesh.size
  assert useful == pytest.approx(expected)
  # The scores of pairs of tokens are not counted as useful.
  rel = 0.15 if task in ("extractive", "iterative") else 0.05
  assert counted * made.mesh.size == pytest.approx(expected, rel=rel)
  assert planned_tokens(made, 100) == (0, 0)
  resident = plan_module._resident(made, {}, 10**9)
  assert set(resident) == {"training_state", "temporaries", "total", "fits"}


def test_planned_batches_of_passages_are_the_loaders(
  toy_config, toy_data, tmp_path
):
  corpus = Corpus(toy_data / "corpus")
  questions = list(QuestionSet(toy_data / "questions" / "toy"))
  rows = np.random.default_rng(0).permuted(
    np.tile(np.arange(200), (len(questions), 1)), axis=1
  )
  for i, question in enumerate(questions):
    rows[i, 0] = corpus.row_of(question.positive_ids[0])
    rows[i, 1:][rows[i, 1:] == rows[i, 0]] = 0
  rows = rows[:, :3]
  scores = -np.tile(np.arange(3.0, dtype=np.float32), (len(rows), 1))
  ids = tuple(question.id for question in questions)
  path = tmp_path / "run.json"
  write_run(path, Ranking(ids, rows, scores), questions, corpus)
  mesh = make_mesh()
  for task in ("reranker", "extractive", "pruner", "filter", "iterative"):
    run = "" if task == "pruner" else str(path)
    settings = read_settings(
      toy_config(**of_passages(task, **{"data.run": run}))
    )
    batch = longest(load_examples(settings.data, corpus), settings.batch_size)
    data = dataclasses.replace(
      settings.data, passage_length=batch["ids"].shape[-1]
    )
    settings = dataclasses.replace(settings, data=data)
    made = abstract_batch(settings, check_names(settings), row_sharding(mesh))
    assert described(made) == described(to_global(mesh, batch))


@pytest.mark.parametrize(
  "task",
  [
    "reranker",
    pytest.param("extractive", marks=pytest.mark.slow),
    pytest.param("pruner", marks=pytest.mark.slow),
    "filter",
  ],
)
def test_planned_scores_are_those_of_the_commands(toy_config, small, task):
  # Which is no matter of scoring.
  config = toy_config(**of_passages(task, micro_batches="auto"))
  made = setting(config, width=0)
  (program,) = scoring_programs(made)
  figures = plan_module.measure_programs(made, ("encode",), PEAK, 2**30)
  assert set(figures["programs"]) == {"score"} and figures["resident"]["fits"]
  counted = measure(program.lower("cpu").as_text("hlo")).matmul_flops
  b, length = (int(n) for n in program.note.split(" tokens")[0].split(" × "))
  assert length == 64 and b % made.mesh.size == 0
  assert program.useful_flops == pytest.approx(
    b * length * made.components[ROLES[task]].flops_per_token(length) / 8
  )
  rel = 0.15 if task == "extractive" else 0.05
  # The program is written for all devices, the figure is of one.
  assert counted == pytest.approx(8 * program.useful_flops, rel=rel)
  batches = f", {-(-5000 // b)} batches for all passages"
  assert program.note.endswith(batches) == (task in ("pruner", "filter"))


def test_sizes_that_no_one_gives_are_those_of_the_network(toy_config):
  config = toy_config(**of_passages("reranker"))
  for preset, size in (("base", 30522), ("roberta-base", 50265)):
    with config.unlocked():
      config.model.preset = preset
    _, components = planned_components(read_settings(config), None, "cpu")
    assert components["reranker"].config.bert.vocab_size == size


@pytest.mark.slow
def test_programs_compile_and_are_measured_here(toy_config, small):
  """The whole report, on eight fake devices in place of a slice."""
  config = toy_config(sharding="fsdp")
  made = setting(config)
  figures = plan_module.measure_programs(made, ("search", "train"), PEAK, 2**30)
  programs = figures["programs"]
  assert set(programs) == {"search", "train_step"}
  rows = 640 * 32 * 4
  assert programs["search"]["arguments"] >= rows
  assert programs["search"]["collectives"]["all-gather"]["count"] == 2
  step = programs["train_step"]
  # The state is donated, so that it lies there once.
  state = figures["resident"]["training_state"]
  assert step["aliased"] >= state
  assert step["peak"] < step["arguments"] + step["outputs"] + (
    step["temporaries"] + step["code"]
  )
  assert "all-gather" in step["collectives"]
  assert step["bound"] == max(step["seconds"], key=step["seconds"].get)
  flops = step["useful_flops"] / max(step["seconds"].values())
  assert step["mfu_bound"] == pytest.approx(flops / PEAK.flops)
  assert figures["resident"]["index"] == rows
  assert figures["resident"]["fits"]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_lies_on_a_chip_is_summed_by_hand(toy_config, small, dtype):
  config = toy_config(
    **{
      "task": "individual", "data.source": "answers",
      "model.dtype": "bfloat16",
      "reader.preset": "tiny", "retrieval.refresh": "snapshot",
      "retrieval.dtype": dtype,
    }
  )  # fmt: skip
  # The index of training is the config's, whatever else is searched.
  made = setting(config, passages=8 * 64 * 10, width=8, dtype="float32")
  state = training_state(made).abstract
  resident = plan_module._resident(made, {}, 10**6)
  params = sum(x.size for x in jax.tree.leaves(state.params))
  # Of codes also a float32 scale per row.
  index = 640 * (32 * 2 if dtype == "bfloat16" else 32 + 4)
  # The passage encoder alone: nothing of it is large enough to be split, and
  # the dense layers are in bfloat16.
  encoder = state.params["retriever"]["passage"]
  layers = encoder["encoder"]["layer"]
  dense = [
    layers["attention"]["self"], layers["attention"]["output"]["dense"],
    layers["intermediate"], layers["output"]["dense"],
  ]  # fmt: skip
  frozen = 4 * sum(x.size for x in jax.tree.leaves(encoder))
  frozen -= 2 * sum(x.size for x in jax.tree.leaves(dense))
  assert resident["index"] == index
  assert resident["refresh"] == index + frozen
  # Parameters and two moments, and the two counters of step and schedule.
  assert resident["training_state"] == pytest.approx(12 * params, abs=64)
  total = index * 2 + frozen + resident["training_state"]
  assert resident["total"] == total
  assert resident["fits"] == (total <= 10**6)


def test_tokens_of_the_passages_are_counted(toy_config, small):
  """Of both stores, a passage in its vocabulary's numbers."""
  config = toy_config(**{"task": "joint", "data.source": "answers"})
  made = setting(config, passages=8 * 64 * 10)
  # The small networks know below 2^16 tokens; 12 bytes more of every row.
  one = planned_tokens(made, 100)
  assert one.on_one(8) == 640 * (2 * 100 + 12)
  before = plan_module._resident(made, {}, 10**9)
  held = dataclasses.replace(made, tokens=one)
  after = plan_module._resident(held, {}, 10**9)
  assert after == before | {
    "tokens": one.on_one(8),
    "total": before["total"] + one.on_one(8),
  }
  data = dataclasses.replace(made.settings.data, reader_corpus="elsewhere")
  settings = dataclasses.replace(made.settings, data=data)
  two = planned_tokens(dataclasses.replace(made, settings=settings), 100)
  assert two.split == 2 * one.split


# ---- The command ----

ROLES = {
  "reranker": "reranker",
  "extractive": "extractive_reader",
  "pruner": "passage_classifier",
  "filter": "passage_filter",
}


def run(capsys, *args):
  argv = ["plan", "--config", str(CONFIGS / "supervised.py") + ":debug", *args]
  code = main([str(a) for a in argv])
  captured = capsys.readouterr()
  return code, captured.out, captured.err.strip().splitlines()


def test_without_libtpu_the_extra_is_named(capsys, monkeypatch):
  real = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *a: None if name == "libtpu" else real(name, *a),
  )
  code, out, err = run(capsys, "--topology", "v5e:2x4")
  assert code == 2 and not out
  assert len(err) == 1 and "pip install -e '.[tpu]'" in err[0]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--programs", "search,fly"], "choose of search, encode, train"),
    (["--programs", ""], "choose of search, encode, train"),
    (["--passages", "0"], "--passages 0: must be at least 1"),
    (["--config.modle.preset=base"], "did you mean 'model'"),
  ],
)
def test_bad_flags_are_one_line(capsys, flags, message):
  code, out, err = run(capsys, "--topology", "v5e:2x4", *flags)
  assert code == 2 and not out
  assert len(err) == 1 and message in err[0]


def test_what_has_no_retriever_searches_nothing(capsys):
  argv = ["--config", f"{CONFIGS / 'pruner.py'}:debug", "--programs", "search"]
  code = main(["plan", "--topology", "v5e:2x4", *argv])
  said = capsys.readouterr().err
  assert code == 2
  assert "choose of encode, train: the config has no retriever." in said


@needs_libtpu
@pytest.mark.parametrize(
  ("topology", "flags", "message"),
  [
    ("v5e", [], "examples: v4-8 = v4:2x2x1"),
    ("v9:8", [], "no GPU of l4, a100, h100, h200, b200; examples: h100:8"),
    ("v5e:2x4", ["--config.batch_size=12"], "8 devices cannot share"),
    ("v5e:2x4", ["--config.mesh.data=3"], "does not fit 8 devices"),
    ("v5e:2x4", ["--config.model.preset=init"], "--config.model.preset, one"),
    ("v5e:2x4", ["--k", "30000000"], "k=30000000 is out of range"),
  ],
)
def test_what_cannot_be_is_refused_before_compiling(
  capsys, topology, flags, message
):
  code, out, err = run(capsys, "--topology", topology, *flags)
  assert code == 2 and not out
  assert message in err[-1]


@needs_libtpu
@pytest.mark.parametrize(
  ("topology", "kind", "chips"),
  [
    ("v5e:2x4", "TPU v5 lite", 8),
    ("v5p-8", "TPU v5", 4),
    ("v6e-8", "TPU v6 lite", 8),
    ("v4-8", "TPU v4", 4),
  ],
)
def test_slices_are_known(topology, kind, chips):
  devices = planned_devices(topology)
  assert len(devices) == chips
  assert {d.device_kind for d in devices} == {kind}
  assert peak_of(kind).memory > 15 * 2**30


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p-8", "v6e-8"])
def test_21_million_passages_fit_and_are_read_once(capsys, topology):
  code, out, _ = run(
    capsys, "--topology", topology, "--width", 768, "--index-dtype", "bf16",
    "--programs", "search",
  )  # fmt: skip
  figures = json.loads(out.splitlines()[-1])
  search = figures["programs"]["search"]
  index = figures["resident"]["index"]
  assert code == 0 and search["fits"] and figures["resident"]["fits"]
  assert index * figures["chips"] >= 21_015_324 * 768 * 2
  assert index <= search["bytes_accessed"] <= 1.15 * index
  assert search["unknown_loops"] == 0
  largest = (total["largest"] for total in search["collectives"].values())
  assert max(largest) < 10**6


@needs_libtpu
@pytest.mark.slow
def test_an_index_too_large_is_a_figure_and_no_error(capsys):
  code, out, err = run(
    capsys, "--topology", "v5e:2x2", "--width", 768, "--index-dtype", "f32",
    "--programs", "search", "--passages", 25_000_000,
  )  # fmt: skip
  figures = json.loads(out.splitlines()[-1])
  search = figures["programs"]["search"]
  assert code == 0 and not search["fits"]
  assert "exceeds available HBM (15.75G)" in search["error"]
  assert search["peak"] > 15 * 2**30
  assert "does not fit" in "\n".join(err)


def test_configs_can_be_planned_for():
  """Every recipe has sizes that a plan can know, or says what it lacks."""
  for path in sorted(CONFIGS.glob("*.py")):
    settings = read_settings(load_config(f"{path}:debug"))
    if settings.model.preset == "init":
      with pytest.raises(ValueError, match="preset=init takes the sizes"):
        planned_components(settings, 300, "cpu")
    else:
      planned_components(settings, 300, "cpu")
