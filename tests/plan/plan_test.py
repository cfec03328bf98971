"""`odqa plan`: what is counted, and that it is the training's own programs."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.main import main
from odqa_jax.models import dual_encoder, t5
from odqa_jax.plan import plan as plan_module
from odqa_jax.plan.programs import (
  ReaderSizes,
  Setting,
  abstract_batch,
  planned_components,
  train_programs,
  training_state,
)
from odqa_jax.plan.work import measure
from odqa_jax.reading.gather import PassageGatherer
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.mesh import make_mesh, row_sharding, to_global
from odqa_jax.runtime.settings import read_settings
from odqa_jax.text.reader_vocabulary import WordPieceVocabulary
from odqa_jax.training.initial_reader import reader_inputs
from odqa_jax.training.retrieval import BatchRetrieval, Candidates
from odqa_jax.training.tasks.table import check_names, make_task

CONFIGS = Path(__file__).parents[2] / "configs"
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu is not installed: pip install -e '.[tpu]'",
)

HLO = """\
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%scattering (part.0: f32[8,16]) -> f32[1,16] {
  %part.0 = f32[8,16]{1,0:T(8,128)} parameter(0)
  ROOT %rs.1 = f32[1,16]{1,0:T(1,128)} reduce-scatter(%part.0), \
replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add
}

%body (state: (s32[], f32[8,16], s32[])) -> (s32[], f32[8,16], s32[]) {
  %state = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}, /*index=2*/s32[]) \
parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,16]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %end = s32[]{:T(128)} get-tuple-element(%state), index=2
  %ag = (f32[8,16]{1,0:T(8,128)}, f32[64,16]{1,0:T(8,128)S(1)}) \
all-gather-start(%x), dimensions={0}, metadata={op_name="a(b)"}
  %ag.done = f32[64,16]{1,0:T(8,128)S(1)} all-gather-done(%ag)
  %both = (f32[8,16]{1,0:T(8,128)}, bf16[4]{0:T(128)}) all-reduce(%x, %x), \
to_apply=%add
  %y = f32[8,16]{1,0:T(8,128)} get-tuple-element(%both), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  ROOT %out = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}, s32[]) \
tuple(%next, %y, %end)
}

%more (state.1: (s32[], f32[8,16], s32[])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}, s32[]) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %end.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=2
  ROOT %less = pred[]{:T(512)} compare(%i.1, %end.1), direction=LT
}

ENTRY %main (p: f32[8,16]) -> f32[8,16] {
  %p = f32[8,16]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %twelve = s32[]{:T(128)} constant(12)
  %held = s32[]{:T(128)} copy(%twelve)
  %first = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}, s32[]) \
tuple(%zero, %p, %held)
  %loop = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}, s32[]) while(%first), \
condition=%more, body=%body
  %z = f32[8,16]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  %fused = f32[1,16]{1,0:T(1,128)} fusion(%z), kind=kCustom, calls=%scattering
  %cp = (f32[8,16]{1,0:T(8,128)}, f32[8,16]{1,0:T(8,128)}, u32[], u32[]) \
collective-permute-start(%z), source_target_pairs={{0,1}}
  %cp.done = f32[8,16]{1,0:T(8,128)} collective-permute-done(%cp)
  ROOT %swapped = f32[8,16]{1,0:T(8,128)} all-to-all(%cp.done), dimensions={0}
}
"""


def test_collectives_of_a_program_with_a_loop():
  work = measure(HLO)
  part = 8 * 16 * 4
  assert work.unknown_loops == 0
  assert work.collectives == {
    "all-gather": {"count": 12, "bytes": 12 * 8 * part, "largest": 8 * part},
    "all-reduce": {
      "count": 12, "bytes": 12 * (part + 8), "largest": part + 8
    },
    "reduce-scatter": {"count": 1, "bytes": 64, "largest": 64},
    "collective-permute": {"count": 1, "bytes": part, "largest": part},
    "all-to-all": {"count": 1, "bytes": part, "largest": part},
  }  # fmt: skip


def test_a_loop_of_unknown_length_counts_once_and_is_told():
  text = HLO.replace("constant(12)", "parameter(1)")
  work = measure(text)
  assert work.unknown_loops == 1
  assert work.collectives["all-gather"]["count"] == 1


def test_on_chip_memory_is_not_counted():
  """The gathered rows lie in space 1, so that only their source is read."""
  part = 8 * 16 * 4
  both = 12 * (part + (3 * part + 8 - part))  # gather; all-reduce reads x once
  after = (part + 64) + 2 * part + 2 * part
  copied = 2 * 4 + 12 * 12  # the loop's end, and its counter: two in, one out
  condition = 0
  assert measure(HLO).hbm_bytes == both + after + copied + condition


UPDATES = """\
HloModule updates

%fresh (u.1: f32[1,8], at.1: s32[]) -> f32[100,8] {
  %u.1 = f32[1,8]{1,0} parameter(0)
  %at.1 = s32[] parameter(1)
  %zero.1 = f32[] constant(0)
  %zeros = f32[100,8]{1,0} broadcast(%zero.1), dimensions={}
  ROOT %set = f32[100,8]{1,0} dynamic-update-slice(%zeros, %u.1, %at.1, %at.1)
}

%in_place (rows.1: f32[100,8], u.2: f32[1,8], at.2: s32[]) -> f32[100,8] {
  %rows.1 = f32[100,8]{1,0} parameter(0)
  %u.2 = f32[1,8]{1,0} parameter(1)
  %at.2 = s32[] parameter(2)
  ROOT %set.2 = f32[100,8]{1,0} dynamic-update-slice(%rows.1, %u.2, %at.2, \
%at.2)
}

ENTRY %main (rows: f32[100,8], u: f32[1,8], at: s32[], ids: s32[3], \
new: f32[3,8]) -> (f32[100,8], f32[100,8]) {
  %rows = f32[100,8]{1,0} parameter(0)
  %u = f32[1,8]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %ids = s32[3]{0} parameter(3)
  %new = f32[3,8]{1,0} parameter(4)
  %made = f32[100,8]{1,0} fusion(%u, %at), kind=kLoop, calls=%fresh
  %kept = f32[100,8]{1,0} fusion(%rows, %u, %at), kind=kLoop, calls=%in_place
  %put = f32[100,8]{1,0} scatter(%kept, %ids, %new), to_apply=%nothing
  ROOT %both = (f32[100,8], f32[100,8]) tuple(%made, %put)
}
"""


def test_rows_replaced_in_place_cost_what_is_replaced():
  row, whole = 8 * 4, 100 * 8 * 4
  fresh = row + 4 + whole
  in_place = row + 4 + row
  scattered = 2 * 3 * row
  counted = measure(UPDATES).hbm_bytes
  assert counted == fresh + in_place + scattered


BRANCHES = """\
HloModule branches

%cheap (x.1: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  ROOT %all = f32[8]{0} all-reduce(%x.1), to_apply=%nothing
}

%dear (x.2: f32[8]) -> f32[8] {
  %x.2 = f32[8]{0} parameter(0)
  %twice = f32[8]{0} negate(%x.2)
  ROOT %moved = f32[8]{0} collective-permute(%twice), channel_id=1
}

%wrapped (x.3: f32[8]) -> f32[8] {
  %x.3 = f32[8]{0} parameter(0)
  ROOT %swap = f32[8]{0} all-to-all(%x.3), dimensions={0}
}

ENTRY %main (x: f32[8], which: s32[]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %which = s32[] parameter(1)
  %one = f32[8]{0} conditional(%which, %x, %x), \
branch_computations={%cheap, %dear}
  %begun = ((f32[8]{0}), f32[8]{0}, u32[]) async-start(%one), calls=%wrapped
  ROOT %done = f32[8]{0} async-done(%begun), control-predecessors={%one}
}
"""


def test_the_dearest_branch_counts_and_what_runs_beside():
  work = measure(BRANCHES)
  once = {"count": 1, "bytes": 32, "largest": 32}
  assert work.collectives == {"collective-permute": once, "all-to-all": once}
  assert work.hbm_bytes == 3 * 2 * 32


def test_a_line_that_is_not_understood_is_named():
  text = HLO.replace("all-to-all(%cp.done)", "all-to-all %cp.done")
  with pytest.raises(ValueError, match=r"not understood:.*ROOT %swapped"):
    measure(text)


def test_text_without_an_entry_is_refused():
  with pytest.raises(ValueError, match="no ENTRY"):
    measure("HloModule m")


def test_collectives_of_a_compiled_program():
  mesh = make_mesh()

  def local(x):
    def step(carry, _):
      total = lax.psum(carry, "data")
      return carry + total[:1] * 1e-3, lax.all_gather(carry, "data").sum()

    carry, sums = lax.scan(step, x, None, length=7)
    return carry + sums.sum()

  run = jax.jit(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=PartitionSpec("data"),
      out_specs=PartitionSpec("data"),
      check_vma=False,
    )
  )
  x = jax.ShapeDtypeStruct((8, 1024), jnp.float32, sharding=row_sharding(mesh))
  work = measure(run.lower(x).compile().as_text())
  assert work.unknown_loops == 0
  assert work.collectives == {
    "all-reduce": {"count": 7, "bytes": 7 * 4096, "largest": 4096},
    "all-gather": {"count": 7, "bytes": 7 * 8 * 4096, "largest": 8 * 4096},
  }


def test_flops_of_products_in_nested_loops():
  def step(x, _):
    inner = lax.fori_loop(0, 3, lambda i, y: jnp.tanh(y @ y), x)
    return inner, None

  def run(x, y):
    return lax.scan(step, x, None, length=5)[0], jnp.einsum(
      "bij,bjk->bik", y, y
    )

  lowered = jax.jit(run).lower(
    jax.ShapeDtypeStruct((32, 32), jnp.float32),
    jax.ShapeDtypeStruct((4, 16, 16), jnp.float32),
  )
  work = measure(lowered.as_text("hlo"))
  assert work.matmul_flops == 15 * 2 * 32**3 + 4 * 2 * 16**3


@pytest.mark.parametrize(
  "options",
  [
    {"window_strides": (1, 1), "padding": "VALID"},
    {"window_strides": (2, 3), "padding": [(1, 2), (0, 3)]},
    {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1)},
    {
      "window_strides": (1, 1),
      "padding": [(3, 1), (2, 2)],
      "lhs_dilation": (3, 2),
    },
  ],
)
def test_flops_of_convolutions_are_xlas(options):
  """On a TPU products are convolutions, of strange windows at times."""
  images = jax.ShapeDtypeStruct((2, 4, 9, 11), jnp.float32)
  window = jax.ShapeDtypeStruct((5, 4, 3, 4), jnp.float32)
  lowered = jax.jit(
    lambda x, w: lax.conv_general_dilated(x, w, **options)
  ).lower(images, window)
  counted = measure(lowered.as_text("hlo")).matmul_flops
  assert counted == lowered.cost_analysis()["flops"]


def test_memory_of_a_program_without_loops_is_xlas():
  def run(rows, x, at):
    part = lax.dynamic_slice_in_dim(rows, at, 8)
    rows = lax.dynamic_update_slice_in_dim(rows, part * 2, 0, 0)
    return rows, x @ x + 1, x[at], jnp.zeros(4096).at[at].add(1)

  compiled = (
    jax.jit(run, donate_argnums=0)
    .lower(
      jax.ShapeDtypeStruct((4096, 64), jnp.float32),
      jax.ShapeDtypeStruct((256, 256), jnp.float32),
      jax.ShapeDtypeStruct((), jnp.int32),
    )
    .compile()
  )
  counted = measure(compiled.as_text()).hbm_bytes
  assert counted == pytest.approx(
    compiled.cost_analysis()["bytes accessed"], rel=0.02
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
  return abstract_batch(settings, check_names(settings), mesh)


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
  _, components = planned_components(settings, corpus.tokenizer.vocab_size)
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
    read_settings(config), tokenizer.vocab_size
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
  needs, components = planned_components(settings, 300)
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
  lowered = programs["train_step"].lower()
  counted = measure(lowered.as_text("hlo")).matmul_flops
  assert no_arrays() - before < 2**16
  batch = abstract_batch(made.settings, made.needs, made.mesh)
  expected = make_task(made.settings, made.components).flops(batch)
  assert counted == pytest.approx(expected, rel=0.05)
  names = {"train_step"}
  if task != "contrastive":
    names.add("train_search")
    programs["train_search"].lower()
  if task == "individual":
    names.add("refresh")
    programs["refresh"].lower()
  assert set(programs) == names


@pytest.mark.slow
def test_programs_compile_and_are_measured_here(toy_config, small):
  """The whole report, on eight fake devices in place of a slice."""
  config = toy_config(**{"sharding": ((".*", "fsdp"),)})
  made = setting(config)
  figures = plan_module.measure_programs(made, ("search", "train"), 2**30)
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
  training = training_state(made)
  state = training.abstract
  resident = plan_module._resident(made, training, {}, 10**6)
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


# ---- The command ----


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


@needs_libtpu
@pytest.mark.parametrize(
  ("topology", "flags", "message"),
  [
    ("v5e", [], "examples: v4-8 = v4:2x2x1"),
    ("h100:8", [], "examples: "),
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
  devices = plan_module.topology_devices(topology)
  assert len(devices) == chips
  assert {d.device_kind for d in devices} == {kind}
  assert kind in plan_module.HBM_GIB


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
        planned_components(settings, 300)
    else:
      planned_components(settings, 300)
