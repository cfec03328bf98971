"""What is counted in a program's text: by hand, and against XLA."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from odqa_jax.plan.work import Work, measure, ring_factor
from odqa_jax.runtime.mesh import make_mesh, row_sharding

HLO = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

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
    "all-gather": {
      "count": 12, "bytes": 12 * 8 * part, "largest": 8 * part,
      "sent": 12 * 7 * part,
    },
    "all-reduce": {
      "count": 12, "bytes": 12 * (part + 8), "largest": part + 8,
      "sent": 12 * 2 * 7 * (part + 8) // 8,
    },
    "reduce-scatter": {"count": 1, "bytes": 64, "largest": 64, "sent": 7 * 64},
    "collective-permute": {
      "count": 1, "bytes": part, "largest": part, "sent": part
    },
    "all-to-all": {
      "count": 1, "bytes": part, "largest": part, "sent": 7 * part // 8
    },
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
HloModule branches, num_partitions=2

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
  assert work.collectives == {
    "collective-permute": once | {"sent": 32},
    "all-to-all": once | {"sent": 16},
  }
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
    "all-reduce": {
      "count": 7, "bytes": 7 * 4096, "largest": 4096, "sent": 7 * 2 * 7 * 512
    },
    "all-gather": {
      "count": 7, "bytes": 7 * 8 * 4096, "largest": 8 * 4096,
      "sent": 7 * 7 * 4096,
    },
  }  # fmt: skip


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


@pytest.mark.parametrize(
  ("groups", "size"),
  [
    ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
    ("replica_groups=[4,2]<=[8]", 2),
    ("replica_groups=mesh['data'=4,'model'=2] {'model'}", 2),
    ("replica_groups=mesh['data'=4,'model'=2] {'data','model'}", 8),
    ("replica_groups={}", 8),
    ("channel_id=1", 8),
  ],
)
def test_what_is_sent_goes_by_the_devices_that_take_part(groups, size):
  text = HLO.replace("constant(12)", "constant(0)").replace(
    "all-to-all(%cp.done), dimensions={0}", f"all-gather(%cp.done), {groups}"
  )
  total = measure(text).collectives["all-gather"]
  assert total["sent"] == 8 * 16 * 4 * (size - 1) // size


@pytest.mark.parametrize("n", [1, 2, 8])
def test_a_ring_sends_what_it_must(n):
  """Scattering a sum and gathering its parts is what an all-reduce is."""
  size = 1000.0
  both = ring_factor("reduce-scatter", n) * size / n
  both += ring_factor("all-gather", n) * size
  assert ring_factor("all-reduce", n) * size == pytest.approx(both)


# ---- Programs of GPUs ----

# As XLA of jax 0.10.2 wrote them for an H100: 8 rows of a batch, 12 heads, 256
# tokens, width 64; nothing left out but what is not read.
FMHA = """\
HloModule jit_f1, is_scheduled=true, num_partitions=8

ENTRY %main (q: bf16[8,256,12,64], n: s32[8]) -> bf16[8,12,256,64] {
  %q = bf16[8,256,12,64]{3,2,1,0} parameter(0)
  %n = s32[8]{0} parameter(1)
  %fwd = (bf16[8,12,256,64]{3,1,2,0}, f32[8,12,256]{2,1,0}, u8[4096]{0}) \
custom-call(%q, %q, %q, %n, %n), custom_call_target="__cudnn$fmhaSoftmax", \
operand_layout_constraints={bf16[8,256,12,64]{3,2,1,0}, s32[8]{0}}, \
api_version=API_VERSION_STATUS_RETURNING, backend_config={"operation_queue_id":\
 "0", "cudnn_fmha_backend_config": {"algorithm": {"algo_id": "0"}, \
"fmha_scale": 0.125, "intermediate_tensor_shape": {"element_type": "BF16", \
"dimensions": ["8", "12", "256", "256"], "tuple_shapes": []}}}
  %out = bf16[8,12,256,64]{3,1,2,0} get-tuple-element(%fwd), index=0
  %sums = f32[8,12,256]{2,1,0} get-tuple-element(%fwd), index=1
  %bwd = (bf16[8,12,256,64]{3,1,2,0}, bf16[8,12,256,64]{3,1,2,0}, \
bf16[8,12,256,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q, %sums, %q, \
/*index=5*/%out, %n, %n), custom_call_target="__cudnn$fmhaSoftmaxBackward", \
api_version=API_VERSION_STATUS_RETURNING, backend_config={\
"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": \
"BF16", "dimensions": ["8", "12", "256", "256"]}}}
  ROOT %dq = bf16[8,12,256,64]{3,1,2,0} get-tuple-element(%bwd), index=0
}
"""


def test_attention_of_cudnn_is_counted_from_its_shapes():
  """Two products forward, five backward; no scores in the main memory."""
  work = measure(FMHA)
  assert work.matmul_flops == (2 + 5) * 2 * 8 * 12 * 256 * 256 * 64
  tensor, sums, lengths = 8 * 12 * 256 * 64 * 2, 8 * 12 * 256 * 4, 8 * 4
  forward = tensor + lengths + tensor + sums
  backward = tensor + sums + tensor + lengths + 3 * tensor
  assert work.hbm_bytes == forward + backward


GEMM = """\
HloModule jit_g, is_scheduled=true

%copied (x.1: f32[256,768]) -> f32[256,768] {
  %x.1 = f32[256,768]{1,0} parameter(0)
  ROOT %c = f32[256,768]{1,0} copy(%x.1)
}

ENTRY %main (x: f32[256,768], w: f32[768,3072], b: f32[3072]) -> f32[256,3072] {
  %x = f32[256,768]{1,0} parameter(0)
  %w = f32[768,3072]{1,0} parameter(1)
  %b = f32[3072]{0} parameter(2)
  %begun = ((f32[256,768]{1,0}), f32[256,768]{1,0}) async-start(%x), \
calls=%copied, async_execution_thread="parallel"
  %moved = f32[256,768]{1,0} async-done(%begun), calls=%copied
  %gemm = (f32[256,3072]{1,0}, s8[33554432]{0}) custom-call(%moved, %w, %b), \
custom_call_target="__cublas$lt$matmul", backend_config={\
"gemm_backend_config":{"alpha_real":1,"dot_dimension_numbers":{\
"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]},\
"precision_config":{"operand_precision":["HIGHEST","HIGHEST"]},\
"epilogue":"BIAS_RELU"}}
  %y = f32[256,3072]{1,0} get-tuple-element(%gemm), index=0
  %best = (f32[256,10]{1,0}, s32[256,10]{1,0}) custom-call(%y), \
custom_call_target="__gpu$TopK", api_version=API_VERSION_TYPED_FFI
  ROOT %values = f32[256,10]{1,0} get-tuple-element(%best), index=0
}
"""


def test_products_of_cublas_and_what_runs_beside_are_counted_once():
  """The scratch memory of a library is none of a program's traffic."""
  work = measure(GEMM)
  assert work.matmul_flops == work.exact_flops == 2 * 256 * 768 * 3072
  x, w, y = 256 * 768 * 4, 768 * 3072 * 4, 256 * 3072 * 4
  copied, gemm, best = 2 * x, x + w + 3072 * 4 + y, y + 2 * 256 * 10 * 4
  assert work.hbm_bytes == copied + gemm + best


def test_products_are_exact_in_full_float32_only():
  def exact(dtype, precision):
    x = jax.ShapeDtypeStruct((8, 8), dtype)
    run = jax.jit(lambda x: jnp.dot(x, x, precision=precision))
    work = measure(run.lower(x).as_text("hlo"))
    assert work.matmul_flops == 2 * 8**3
    return work.exact_flops / work.matmul_flops

  assert exact(jnp.float32, lax.Precision.HIGHEST) == 1
  assert exact(jnp.float32, None) == exact(jnp.bfloat16, "highest") == 0
  assert Work().exact_flops == 0


# ---- Collectives of TPUs ----

# As libtpu 0.0.42 writes a gather that goes on through a loop of eleven rounds
# (shortened): one fusion starts it, one in the loop carries it on beside a
# product's epilogue, one ends it; and a sum that is scattered.
CHAIN = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%all-reduce-scatter (input: f32[64,96]) -> f32[8,96] {
  %input = f32[64,96]{1,0} parameter(0)
  %id = u32[] partition-id()
  %all = f32[64,96]{1,0} all-reduce(%input), replica_groups=\
{{0,1,2,3,4,5,6,7}}, to_apply=%sum
  ROOT %mine = f32[8,96]{1,0} dynamic-slice(%all, %id, %id), \
dynamic_slice_sizes={8,96}
}

%start (p.0: f32[64,12]) -> (f32[64,12], f32[64,96], u32[]) {
  %p.0 = f32[64,12]{1,0} parameter(0)
  %ag.0 = f32[64,96]{1,0} all-gather(%p.0), dimensions={1}, \
replica_groups={{0,1,2,3,4,5,6,7}}, frontend_attributes={chain_id="0"}
  ROOT %begun = (f32[64,12]{1,0}, f32[64,96]{1,0}, u32[]{:S(2)}) \
custom-call(%ag.0), custom_call_target="AsyncCollectiveStart"
}

%on (p.1: f32[64,12], p.2: f32[64,96], p.3: f32[16]) -> \
(f32[16], f32[64,12], f32[64,96]) {
  %p.1 = f32[64,12]{1,0} parameter(0)
  %p.2 = f32[64,96]{1,0} parameter(1)
  %p.3 = f32[16]{0} parameter(2)
  %twice = f32[16]{0} add(%p.3, %p.3)
  %ag.1 = f32[64,96]{1,0} all-gather(%p.1), dimensions={1}, \
replica_groups={{0,1,2,3,4,5,6,7}}, frontend_attributes={chain_id="0"}
  ROOT %state.1 = (f32[16]{0}, f32[64,12]{1,0}, f32[64,96]{1,0}) \
tuple(%twice, %p.1, %ag.1)
}

%done (p.4: f32[64,12], p.5: f32[64,96]) -> f32[64,96] {
  %p.4 = f32[64,12]{1,0} parameter(0)
  %p.5 = f32[64,96]{1,0} parameter(1)
  %ag.2 = f32[64,96]{1,0} all-gather(%p.4), dimensions={1}, \
replica_groups={{0,1,2,3,4,5,6,7}}, frontend_attributes={chain_id="0"}
  ROOT %whole = f32[64,96]{1,0} custom-call(%p.4, %p.5, %ag.2), \
custom_call_target="AsyncCollectiveDone"
}

%body (s: (s32[], f32[16], f32[64,12], f32[64,96])) -> \
(s32[], f32[16], f32[64,12], f32[64,96]) {
  %s = (s32[], f32[16]{0}, f32[64,12]{1,0}, f32[64,96]{1,0}) parameter(0)
  %i = s32[]{:S(2)} get-tuple-element(%s), index=0
  %y = f32[16]{0} get-tuple-element(%s), index=1
  %shard = f32[64,12]{1,0} get-tuple-element(%s), index=2
  %out = f32[64,96]{1,0} get-tuple-element(%s), index=3
  %step = (f32[16]{0}, f32[64,12]{1,0}, f32[64,96]{1,0}) \
fusion(%shard, %out, %y), kind=kOutput, calls=%on
  %y.1 = f32[16]{0} get-tuple-element(%step), index=0
  %shard.1 = f32[64,12]{1,0} get-tuple-element(%step), index=1
  %out.1 = f32[64,96]{1,0} get-tuple-element(%step), index=2
  ROOT %next = (s32[], f32[16]{0}, f32[64,12]{1,0}, f32[64,96]{1,0}) \
tuple(%i, %y.1, %shard.1, %out.1)
}

%more (t: (s32[], f32[16], f32[64,12], f32[64,96])) -> pred[] {
  %t = (s32[], f32[16]{0}, f32[64,12]{1,0}, f32[64,96]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x: f32[64,12], z: f32[16]) -> f32[8,96] {
  %x = f32[64,12]{1,0} parameter(0)
  %z = f32[16]{0} parameter(1)
  %zero = s32[]{:S(2)} constant(0)
  %first = (f32[64,12]{1,0}, f32[64,96]{1,0}, u32[]{:S(2)}) fusion(%x), \
kind=kCustom, calls=%start
  %x.1 = f32[64,12]{1,0} get-tuple-element(%first), index=0
  %out.0 = f32[64,96]{1,0} get-tuple-element(%first), index=1
  %begin = (s32[], f32[16]{0}, f32[64,12]{1,0}, f32[64,96]{1,0}) \
tuple(%zero, %z, %x.1, %out.0)
  %loop = (s32[], f32[16]{0}, f32[64,12]{1,0}, f32[64,96]{1,0}) \
while(%begin), condition=%more, body=%body, \
backend_config={"known_trip_count":{"n":"11"}}
  %x.2 = f32[64,12]{1,0} get-tuple-element(%loop), index=2
  %out.2 = f32[64,96]{1,0} get-tuple-element(%loop), index=3
  %gathered = f32[64,96]{1,0} fusion(%x.2, %out.2), kind=kCustom, calls=%done
  ROOT %part = f32[8,96]{1,0} fusion(%gathered), kind=kCustom, \
calls=%all-reduce-scatter
}
"""


def test_a_collective_that_goes_on_beside_a_loop_counts_where_it_starts():
  work = measure(CHAIN)
  shard, whole, part = 64 * 12 * 4, 64 * 96 * 4, 8 * 96 * 4
  gather = {
    "count": 1, "bytes": whole, "largest": whole, "sent": 7 * shard
  }  # fmt: skip
  assert work.collectives["all-gather"] == gather
  beside = 11 * 2 * 16 * 4
  assert work.hbm_bytes == shard + whole + beside + (whole + part)


def test_a_sum_that_is_scattered_is_no_all_reduce():
  part = 8 * 96 * 4
  collectives = measure(CHAIN).collectives
  assert set(collectives) == {"all-gather", "reduce-scatter"}
  assert collectives["reduce-scatter"] == {
    "count": 1, "bytes": part, "largest": part, "sent": 7 * part
  }  # fmt: skip
