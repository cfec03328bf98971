"""What `accelerator.py` measures, part by part, on the devices of a process.

MFU counts the FLOPs of matrix products without what is computed again, against
`plan.peaks`; where the device is not in that table it is None.
"""

import dataclasses
import functools
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from kernels import write_profile

from odqa_jax.data.examples.batch import OVERLAP
from odqa_jax.models.attention import attention
from odqa_jax.models.layers import random_words
from odqa_jax.plan.peaks import PEAKS
from odqa_jax.plan.programs import (
  Setting,
  planned_components,
  training_state,
  useful_flops,
)
from odqa_jax.retrieval.backends.exact import search_placed
from odqa_jax.retrieval.backends.int8 import CANDIDATES, candidates_placed
from odqa_jax.retrieval.embed import bulk_tokens
from odqa_jax.retrieval.encoding import compiled_encoders
from odqa_jax.retrieval.index import padded_rows
from odqa_jax.retrieval.refresh_batches import row_writer
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.mesh import make_mesh, replicated, row_sharding
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.fitting import fitted
from odqa_jax.training.memory import abstract_batch, device_limit

CONFIGS = Path(__file__).parents[2] / "configs"
WIKIPEDIA = 21_015_324
K = 100
# Of the memory of a device, that the rows of an index may take.
_ROWS_SHARE = 0.75
# Norm of the error of bfloat16 over the norm of the result.
_CLOSE = 2e-2


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How large a measurement is.

  Attributes:
    size: of the networks.
    batch: questions of a supervised step, on all devices.
    each: questions of a step with a reader, on each device.
    k: passages that a reader reads for each; Joint Top-k.
    k_individual: likewise, Individual Top-k.
    passage: tokens.
    reader: tokens of question and passage.
    encoded: tokens of the passages that are embedded.
    rows: of the index that is searched, if they fit.
    checked: of the index that is compared with brute force.
    width: of the embeddings, and of attention by itself.
    heads: of that attention.
    seconds: of every measurement.
    profile: where the kernels of training steps are written, if anywhere.
  """

  size: str = "base"
  batch: int = 128
  each: int = 8
  k: int = 50
  k_individual: int = 32
  passage: int = 256
  reader: int = 512
  encoded: int = 144
  rows: int = WIKIPEDIA
  checked: int = 200_000
  width: int = 768
  heads: int = 12
  seconds: float = 5.0
  profile: Path | None = None


SIZES = {
  "full": Sizes(),
  "tiny": Sizes(
    size="tiny",
    batch=8,
    each=2,
    k=2,
    k_individual=2,
    passage=32,
    reader=32,
    encoded=32,
    rows=20_000,
    checked=5_000,
    width=64,
    heads=2,
    seconds=0.2,
  ),
}


def device() -> dict[str, Any]:
  """The device, and the most of its memory that was in use so far."""
  first = jax.devices()[0]
  stats = first.memory_stats() or {}
  peak = stats.get("peak_bytes_in_use")
  return {
    "device": first.device_kind,
    "devices": jax.device_count(),
    "jax": jax.__version__,
    "peak_gib": peak and round(peak / 2**30, 2),
  }


def timed(run: Callable[[], Any], seconds: float) -> float:
  """The median seconds of a call that is waited for, after one that is not."""
  jax.block_until_ready(run())
  times: list[float] = []
  while sum(times) < seconds or len(times) < 3:
    started = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - started)
  return statistics.median(times)


def share_of_peak(flops: float, seconds: float) -> float | None:
  """MFU of work on all devices."""
  peak = PEAKS.get(jax.devices()[0].device_kind)
  return peak and round(flops / seconds / peak.flops / jax.device_count(), 4)


def hashed(shape: tuple[int, int], dtype: Any) -> jax.Array:
  """Random rows in place, with no temporary of their size.

  Integers from −8 to 7 for int8, else numbers between −1 and 1.
  """
  row = jax.lax.broadcasted_iota(jnp.uint32, shape, 0)
  column = jax.lax.broadcasted_iota(jnp.uint32, shape, 1)
  words = random_words(row, (column, column * jnp.uint32(40503)))
  if dtype == jnp.int8:
    return (words >> 28).astype(jnp.int8) - jnp.int8(8)
  return (words.astype(jnp.float32) * 2.0**-31 - 1).astype(dtype)


# ---- Equality ----


class Attended(NamedTuple):
  """What attention is given, of bfloat16, so that all see the same numbers.

  Attributes:
    q: queries [b, l, d].
    k: keys [b, m, d].
    v: values.
    bias: float32 [1, h, l, m], or None.
    lengths: [b, segments].
    g: the cotangent of the result.
  """

  q: np.ndarray
  k: np.ndarray
  v: np.ndarray
  bias: np.ndarray | None
  lengths: np.ndarray
  g: np.ndarray


def _attended(
  heads: int, b: int, l: int, m: int, segments: int, d: int, *, biased: bool
) -> Attended:
  """Random inputs of some shapes."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, m // segments + 1, (b, segments), dtype=np.int32)
  q, k, v, g = (
    rng.normal(size=(b, n, d)).astype(jnp.bfloat16) for n in (l, m, m, l)
  )
  bias = rng.normal(size=(1, heads, l, m)).astype(jnp.bfloat16)
  wide = bias.astype(np.float32) if biased else None
  return Attended(q, k, v, wide, lengths, g)


def _in_float64(given: Attended, heads: int) -> list[np.ndarray]:
  """Attention, and its gradients for the cotangent."""

  def split(x: np.ndarray) -> np.ndarray:
    b, l, d = x.shape
    wide = x.astype(np.float64)
    return wide.reshape(b, l, heads, d // heads).swapaxes(1, 2)

  def join(x: np.ndarray) -> np.ndarray:
    b, h, l, c = x.shape
    return x.swapaxes(1, 2).reshape(b, l, h * c)

  b, segments = given.lengths.shape
  each = given.k.shape[1] // segments
  real = np.arange(each) < given.lengths[:, :, None]
  q, k, v, g = map(split, (given.q, given.k, given.v, given.g))
  scale = q.shape[-1] ** -0.5
  scores = scale * q @ k.swapaxes(2, 3)
  if given.bias is not None:
    scores += given.bias
  scores = np.where(real.reshape(b, 1, 1, -1), scores, -np.inf)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  back = g @ v.swapaxes(2, 3)
  back = weights * (back - (back * weights).sum(-1, keepdims=True))
  found = [weights @ v, scale * back @ k]
  found += [scale * back.swapaxes(2, 3) @ q, weights.swapaxes(2, 3) @ g]
  of_bias = [] if given.bias is None else [back.sum(axis=0, keepdims=True)]
  return [*map(join, found), *of_bias]


def _attention_and_gradients(
  given: Attended, *, heads: int, implementation: str
) -> tuple[jax.Array, ...]:
  """By one implementation of the package."""
  leaves = [given.q, given.k, given.v]
  leaves += [] if given.bias is None else [given.bias]

  def attend(q: Any, k: Any, v: Any, bias: Any = None) -> jax.Array:
    return attention(
      q,
      k,
      v,
      heads=heads,
      bias=bias,
      lengths=given.lengths,
      scale=(q.shape[2] // heads) ** -0.5,
      implementation=implementation,
    )

  out, back = jax.vjp(attend, *leaves)
  return (out, *back(given.g))


def check_attention(sizes: Sizes) -> dict[str, Any]:
  """The fused attention of this device and XLA's against float64.

  Values and gradients of BERT's, T5's and the fusion decoder's attention.
  """
  heads, d, k = sizes.heads, sizes.width, sizes.k
  l, r = sizes.passage, sizes.reader
  cases = {
    "bert": _attended(heads, 8, l, l, 1, d, biased=False),
    "t5": _attended(heads, 4, r, r, 1, d, biased=True),
    "fusion": _attended(heads, 2, 32, k * r, k, d, biased=False),
  }
  report: dict[str, Any] = {}
  for name, given in cases.items():
    expected = _in_float64(given, heads)
    placed = jax.device_put(given)
    for how in ("auto", "xla"):
      run = jax.jit(
        functools.partial(
          _attention_and_gradients, heads=heads, implementation=how
        )
      )
      text = run.lower(placed).as_text()
      errors = [
        float(np.linalg.norm(np.float64(a) - e) / np.linalg.norm(e))
        for a, e in zip(jax.device_get(run(placed)), expected, strict=True)
      ]
      called = [n for n in ("cudnn", "tpu_custom_call") if n in text]
      report[f"{name}_{how}"] = {
        "kernel": called[0] if called else "none",
        "errors": [round(error, 6) for error in errors],
        "ms": round(1e3 * timed(functools.partial(run, placed), 0.2), 3),
      }
  worst = max(max(x["errors"]) for x in report.values())
  return report | {"equal": worst < _CLOSE, "worst": worst}


def check_search(sizes: Sizes) -> dict[str, Any]:
  """Rows found against brute force in float64: ties, normal numbers, codes."""
  mesh, rng = make_mesh(), np.random.default_rng(0)
  n, e = sizes.checked, sizes.width
  padded, k = padded_rows(n, mesh), min(K, n)
  report: dict[str, Any] = {}

  def place(rows: np.ndarray) -> jax.Array:
    rows = np.pad(rows, ((0, padded - n),) + ((0, 0),) * (rows.ndim - 1))
    return jax.device_put(rows, row_sharding(mesh))

  for name, rows, queries in (
    ("ties", rng.integers(-1, 2, (n, e)), rng.integers(-1, 2, (16, e))),
    ("normal", rng.normal(size=(n, e)), rng.normal(size=(16, e))),
  ):
    stored = rows.astype(jnp.bfloat16)
    asked = queries.astype(np.float32)
    exact = asked.astype(np.float64) @ stored.astype(np.float64).T
    best = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    placed = jax.device_put(asked, replicated(mesh))
    found = np.asarray(search_placed(mesh, place(stored), n, placed, k)[1])
    gap = np.take_along_axis(exact, best, 1) - np.take_along_axis(
      exact, found, 1
    )
    # Where float32 cannot tell two rows apart either may stand first.
    unequal = (found != best) & (np.abs(gap) > 1e-5 * np.abs(exact).max())
    report[name] = {
      "same": float((found == best).mean()),
      "equal": not unequal.any(),
    }
  codes = rng.integers(-4, 5, (n, e)).astype(np.int8)
  scales = np.ones(n, np.float32)
  asked = rng.integers(-127, 128, (16, e)).astype(np.float32)
  asked[:, 0] = 127
  exact = asked.astype(np.float64) @ codes.astype(np.float64).T
  best = np.argsort(-exact, axis=1, kind="stable")[:, :k]
  placed = jax.device_put(asked, replicated(mesh))
  found = candidates_placed(mesh, place(codes), place(scales), n, placed, k)
  same = float((np.asarray(found) == best).mean())
  report["int8"] = {"same": same, "equal": same == 1.0}
  return report | {"equal": all(x["equal"] for x in report.values())}


# ---- Search ----


def _rows_that_fit(sizes: Sizes, row_bytes: int) -> int:
  mesh = make_mesh()
  room = _ROWS_SHARE * device_limit(jax.devices()[0]) * mesh.size
  return min(sizes.rows, int(room / row_bytes))


def _search_figures(
  search: Callable[[jax.Array], Any], rows: jax.Array, sizes: Sizes
) -> dict[str, Any]:
  """Seconds of 1 and 64 questions, and of only reading the rows."""
  read = jax.jit(lambda x: jnp.sum(x, dtype=jnp.float32))
  reading = timed(lambda: read(rows), sizes.seconds / 5)
  gigabytes = rows.nbytes / 1e9
  peak = PEAKS.get(rows.sharding.mesh.devices.flat[0].device_kind)
  report: dict[str, Any] = {
    "rows": rows.shape[0],
    "gigabytes": round(gigabytes, 2),
    "read_ms": round(1e3 * reading, 3),
    "read_gb_per_s": round(gigabytes / reading, 1),
  }
  for count in (1, 64):
    queries = jax.device_put(
      np.random.default_rng(1).normal(size=(count, rows.shape[1])),
      replicated(rows.sharding.mesh),
    ).astype(jnp.float32)
    seconds = timed(lambda q=queries: search(q), sizes.seconds / 2)
    report[f"batch_{count}"] = {
      "ms": round(1e3 * seconds, 3),
      "share_of_reading": round(reading / seconds, 3),
      "share_of_bandwidth": peak
      and round(gigabytes * 1e9 / seconds / peak.hbm / jax.device_count(), 3),
    }
  return report


def _made(shape: tuple[int, int], dtype: Any) -> jax.Array:
  """Random rows, split over the devices."""
  split = row_sharding(make_mesh())
  return jax.jit(lambda: hashed(shape, dtype), out_shardings=split)()


def search_bf16(sizes: Sizes) -> dict[str, Any]:
  """Top 100 of as many bfloat16 rows as fit."""
  mesh = make_mesh()
  n = _rows_that_fit(sizes, 2 * sizes.width)
  rows = _made((padded_rows(n, mesh), sizes.width), jnp.bfloat16)
  return _search_figures(
    lambda q: search_placed(mesh, rows, n, q, K), rows, sizes
  )


def search_int8(sizes: Sizes) -> dict[str, Any]:
  """The 200 candidates of as many int8 rows as fit."""
  mesh = make_mesh()
  n = _rows_that_fit(sizes, sizes.width + 4)
  rows = _made((padded_rows(n, mesh), sizes.width), jnp.int8)
  scales = jax.jit(
    lambda: jnp.ones(len(rows)), out_shardings=row_sharding(mesh)
  )()
  m = CANDIDATES * K
  return _search_figures(
    lambda q: candidates_placed(mesh, rows, scales, n, q, m), rows, sizes
  )


# ---- Training and encoding ----


def _setting(recipe: str, sizes: Sizes, **overrides: Any) -> Setting:
  """A recipe on the devices here, in as few micro-batches as fit."""
  lengths = {
    "data.question_length": sizes.passage,
    "data.passage_length": sizes.passage,
  }
  if recipe != "supervised":
    lengths |= {
      "data.reader_length": sizes.reader,
      # The reader's own vocabulary, of T5.
      "data.reader_corpus": "none",
    }
  items = [f"{k}={v}" for k, v in (lengths | overrides).items()]
  config = load_config(f"{CONFIGS / recipe}.py:size={sizes.size}", items)
  settings = read_settings(config)
  settings = dataclasses.replace(settings, micro_batches="auto")
  needs, components = planned_components(settings, 30522, jax.default_backend())
  setting = Setting(
    settings=settings,
    needs=needs,
    components=components,
    mesh=make_mesh(settings.mesh),
    # The index is measured by itself.
    passages=sizes.checked,
    width=components["retriever"].embedding_dim,
    dtype="bfloat16",
    questions=64,
    k=K,
  )
  limit = device_limit(jax.devices()[0])
  return fitted(setting, limit)


def _random_batch(setting: Setting) -> dict[str, jax.Array]:
  """Batch without padding: every token that is computed counts."""
  rng = np.random.default_rng(0)
  split = row_sharding(setting.mesh)
  shapes = abstract_batch(setting.settings, setting.needs, split)
  batch: dict[str, np.ndarray] = {}
  for name, x in shapes.items():
    if name.endswith("_lengths"):
      longest = shapes[name.replace("_lengths", "_ids")].shape[-1]
      batch[name] = np.full(x.shape, longest, x.dtype)
    elif name == "passage_rows":
      batch[name] = np.arange(np.prod(x.shape), dtype=x.dtype).reshape(x.shape)
    elif name == "example_mask":
      batch[name] = np.ones(x.shape, x.dtype)
    elif name.endswith("_ids"):
      batch[name] = rng.integers(5, 30000, x.shape, dtype=x.dtype)
    elif name in OVERLAP:
      batch[name] = np.zeros(x.shape, x.dtype)
    else:
      batch[name] = np.full(x.shape, -1, x.dtype)
  return jax.device_put(batch, split)


def _step_figures(setting: Setting, sizes: Sizes) -> dict[str, Any]:
  """Seconds and MFU of a training step."""
  gc.collect()
  program = training_state(setting)
  state = jax.jit(program.init, out_shardings=program.shardings)()
  batch = _random_batch(setting)
  started = time.perf_counter()
  step = program.step.lower(state, batch).compile()
  compiling = time.perf_counter() - started
  metrics: Any = {}

  def run() -> Any:
    nonlocal state, metrics
    state, metrics = step(state, batch)
    return metrics

  seconds = timed(run, sizes.seconds)
  loss, weight = map(float, metrics["loss"])
  memory = step.memory_analysis()
  if not np.isfinite(loss / weight):
    raise FloatingPointError(f"the loss is {loss / weight}")
  if sizes.profile:
    write_profile(sizes.profile, setting.settings.task, run, step)
  return {
    "ms": round(1e3 * seconds, 2),
    "mfu": share_of_peak(useful_flops(setting, batch), seconds),
    "examples_per_s": round(setting.settings.batch_size / seconds, 2),
    "micro_batches": setting.settings.micro_batches,
    "loss": round(loss / weight, 4),
    "compile_s": round(compiling, 1),
    "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
    "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 2),
  }


def _fitting_step(setting: Setting, sizes: Sizes) -> dict[str, Any]:
  """`_step_figures`, in more micro-batches where memory was less than told."""
  while True:
    try:
      return _step_figures(setting, sizes)
    except jax.errors.JaxRuntimeError as error:
      settings = setting.settings
      more = 2 * settings.parts
      each = settings.batch_size // setting.mesh.size
      if "RESOURCE_EXHAUSTED" not in str(error) or each % more:
        raise
    settings = dataclasses.replace(settings, micro_batches=more)
    setting = dataclasses.replace(setting, settings=settings)


def supervised(sizes: Sizes) -> dict[str, Any]:
  """A step of the dual encoder."""
  return _fitting_step(
    _setting("supervised", sizes, batch_size=sizes.batch), sizes
  )


def _read_together(recipe: str, sizes: Sizes, k: int) -> Setting:
  batch = sizes.each * jax.device_count()
  return _setting(recipe, sizes, batch_size=batch, **{"retrieval.k": k})


def joint(sizes: Sizes) -> dict[str, Any]:
  """A step of Joint Top-k."""
  return _fitting_step(_read_together("joint", sizes, sizes.k), sizes)


def _encode_settings(sizes: Sizes) -> tuple[Any, Any]:
  """The retriever of a recipe, and its weights on every device."""
  encoder = _setting("supervised", sizes).components["retriever"]
  everywhere = replicated(make_mesh())
  params = jax.jit(encoder.init, out_shardings=everywhere)(jax.random.key(0))
  return encoder, params


def _passages(sizes: Sizes, tokens: int) -> tuple[jax.Array, jax.Array]:
  """Passages without padding, in a batch of about so many tokens."""
  devices = jax.device_count()
  count = max(tokens // (sizes.encoded * devices), 1) * devices
  ids = np.random.default_rng(0).integers(5, 30000, (count, sizes.encoded))
  lengths = np.full(count, sizes.encoded)
  batch = (ids.astype(np.int32), lengths.astype(np.int32))
  return jax.device_put(batch, row_sharding(make_mesh()))


def embedding(sizes: Sizes) -> dict[str, Any]:
  """Passages per second of `odqa index`, and in larger batches."""
  encoder, params = _encode_settings(sizes)
  _, encode = compiled_encoders(encoder.config)
  tokens = bulk_tokens(jax.default_backend(), jax.device_count())
  report: dict[str, Any] = {"tokens": sizes.encoded}
  for factor in (1, 4):
    batch = _passages(sizes, factor * tokens)
    seconds = timed(lambda b=batch: encode(params, *b), sizes.seconds / 2)
    each = sizes.encoded * encoder.flops_per_token(sizes.encoded)
    report[f"batch_{len(batch[0])}"] = {
      "passages_per_s": round(len(batch[0]) / seconds, 1),
      "mfu": share_of_peak(len(batch[0]) * each, seconds),
    }
  return report


def individual(sizes: Sizes) -> dict[str, Any]:
  """A step of Individual Top-k, and the refresh of an index beside it.

  The share is that of a device in a run on eight with all of Wikipedia.
  """
  setting = _read_together("individual", sizes, sizes.k_individual)
  report = _fitting_step(setting, sizes)
  gc.collect()
  mesh, (encoder, params) = make_mesh(), _encode_settings(sizes)
  params = jax.jit(encoder.passage_weights)(params)
  tokens = bulk_tokens(jax.default_backend(), jax.device_count())
  ids, lengths = _passages(sizes, tokens)
  local = len(ids) // mesh.size
  at = np.tile(np.arange(local, dtype=np.int32), mesh.size)
  places = jax.device_put(at, row_sharding(mesh))
  write = row_writer(encoder.encode_passage, mesh)
  width = encoder.embedding_dim
  rows = _made((padded_rows(max(len(ids), 64), mesh), width), jnp.bfloat16)

  def run() -> jax.Array:
    nonlocal rows
    rows = write(rows, params, ids, lengths, places)
    return rows

  seconds = timed(run, sizes.seconds / 2)
  every = setting.settings.retrieval.refresh_every
  refreshing = WIKIPEDIA / 8 / every / local * seconds
  step = report["ms"] / 1e3
  return report | {
    "refreshed_per_s": round(len(ids) / seconds, 1),
    "refresh_share": round(refreshing / (refreshing + step), 4),
  }


PARTS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
  "attention": check_attention,
  "search_ids": check_search,
  "supervised": supervised,
  "search": search_bf16,
  "embedding": embedding,
  "joint": joint,
  "search_int8": search_int8,
  "individual": individual,
}
