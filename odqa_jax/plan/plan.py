"""`odqa plan`: whether programs fit a TPU slice that is not at hand.

libtpu holds TPU's compiler and runs it on any x86 machine. What it compiles
here is what the other commands run, at full size, from shapes alone.
"""

import importlib.util
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from odqa_jax.plan.programs import (
  Planned,
  Setting,
  encode_programs,
  index_rows,
  planned_components,
  refresh_state,
  search_programs,
  train_programs,
  trained_rows,
  training_state,
)
from odqa_jax.plan.work import measure
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.report import text_table
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.program import TrainingProgram

PROGRAMS = ("search", "encode", "train")
# Names of slices as Google Cloud sells them; other sizes by their shape.
SLICES = {
  "v4-8": "v4:2x2x1",
  "v5e-4": "v5e:2x2",
  "v5e-8": "v5e:2x4",
  "v5e-16": "v5e:4x4",
  "v5e-256": "v5e:16x16",
  "v5p-8": "v5p:2x2x1",
  "v5p-16": "v5p:2x2x2",
  "v6e-4": "v6e:2x2",
  "v6e-8": "v6e:2x4",
  "v6e-256": "v6e:16x16",
}
# GiB of a chip that programs may use: the limits that the compiler of libtpu
# 0.0.42 names when a program exceeds them (of 16, 95, 32 and 32 GB sold).
HBM_GIB = {
  "TPU v5 lite": 15.75,
  "TPU v5": 95.74,
  "TPU v6 lite": 31.25,
  "TPU v4": 30.75,
}
# Without these libtpu asks the network what it runs on, and warns at length, or
# refuses to be loaded twice, as the use of a TPU would demand.
_SETTINGS = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_MIN_LOG_LEVEL": "3",
  "TPU_STDERR_LOG_LEVEL": "3",
}
_GIB = 2**30


def topology_devices(name: str) -> list[Any]:
  """The devices of a TPU slice that need not exist.

  Args:
    name: a key of `SLICES`, or a kind and a shape, like "v5e:2x4".

  Raises:
    ImportError: if libtpu is not installed.
    ValueError: if there is no such slice.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ImportError(
      "odqa plan compiles with libtpu, which is not installed: "
      "pip install -e '.[tpu]' (Linux on x86)."
    )
  for key, value in _SETTINGS.items():
    os.environ.setdefault(key, value)
  from jax.experimental import topologies

  shape = SLICES.get(name, name)
  # A v4 chip has two cores, which work as one device.
  options = {"chip_config_name": "megacore"} if shape.startswith("v4") else {}
  try:
    topology = topologies.get_topology_desc(
      platform="tpu", topology_name=shape, **options
    )
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).partition("\n")[0]
    if "INVALID_ARGUMENT" not in reason:
      raise ValueError(f"libtpu cannot be used here: {reason}") from error
    raise ValueError(
      f"--topology {name!r} is no TPU slice ({reason}); examples: "
      f"{', '.join(f'{k} = {v}' for k, v in SLICES.items())}."
    ) from error
  return list(topology.devices)


def plan(
  config: str,
  topology: str,
  overrides: Sequence[str] = (),
  *,
  passages: int,
  width: int | None,
  index_dtype: str | None,
  questions: int,
  k: int,
  programs: str,
  hbm_gb: float | None,
  vocabulary: int,
) -> dict[str, Any]:
  """Compiles the programs of a config for a TPU slice, and measures them.

  Args:
    config: `FILE.py[:presets]`.
    topology: see `topology_devices`.
    overrides: `a.b=value` items.
    passages: rows of the index.
    width: of the index, outside training; None: that of the config's encoder.
    index_dtype: likewise; None: `config.retrieval.dtype`.
    questions: searched at once.
    k: passages found for each.
    programs: of `PROGRAMS`, separated by commas.
    hbm_gb: GiB of a chip; None: from `HBM_GIB`.
    vocabulary: word pieces.

  Returns:
    The figures, for JSON. Bytes and FLOPs are of one chip.

  Raises:
    ImportError: if libtpu is not installed.
    ValueError: for a slice, program or setting that is not possible.
  """
  # The compiler needs no TPU, and must not take one that is there.
  jax.config.update("jax_platforms", "cpu")
  settings = read_settings(load_config(config, overrides))
  wanted = [name for name in programs.split(",") if name]
  unknown = [name for name in wanted if name not in PROGRAMS]
  if unknown or not wanted:
    raise ValueError(
      f"--programs {programs!r}: choose of {', '.join(PROGRAMS)}."
    )
  _check_positive(passages=passages, questions=questions, vocabulary=vocabulary)
  devices = topology_devices(topology)
  needs, components = planned_components(settings, vocabulary)
  setting = Setting(
    settings=settings,
    needs=needs,
    components=components,
    mesh=make_mesh(settings.mesh, devices),
    passages=passages,
    width=width or components["retriever"].embedding_dim,
    dtype=index_dtype or settings.retrieval.dtype,
    questions=questions,
    k=k,
  )
  limit = _hbm_bytes(devices[0].device_kind, hbm_gb)
  figures = {
    "topology": topology,
    "device": devices[0].device_kind,
    "chips": len(devices),
    "hbm_bytes": limit,
    "passages": passages,
    "width": setting.width,
    "index_dtype": setting.dtype,
  }
  return figures | measure_programs(setting, wanted, limit)


def _check_positive(**numbers: int) -> None:
  for name, value in numbers.items():
    if value < 1:
      raise ValueError(f"--{name} {value}: must be at least 1.")


def _hbm_bytes(kind: str, given: float | None) -> int:
  """Bytes of a chip.

  Raises:
    ValueError: for a kind whose memory is not known here.
  """
  if given is None and kind not in HBM_GIB:
    raise ValueError(
      f"the memory of a {kind} is not known here; give --hbm-gb."
    )
  return int((HBM_GIB[kind] if given is None else given) * _GIB)


def measure_programs(
  setting: Setting, wanted: Sequence[str], limit: int
) -> dict[str, Any]:
  """Compiles the programs and adds up what lies on a chip in training.

  Args:
    setting: what the plan is made for.
    wanted: of `PROGRAMS`.
    limit: bytes of a chip.

  Returns:
    `programs`, name → figures, and `resident`.
  """
  training = training_state(setting)
  # Made first, so that what cannot be is refused before anything is compiled.
  planned: list[Planned] = []
  if "search" in wanted:
    planned += search_programs(setting)
  if "encode" in wanted:
    planned += encode_programs(setting)
  if "train" in wanted:
    planned += train_programs(setting, training)
  figures = {}
  for program in planned:
    print(f"compiling {program.name}: {program.note}", file=sys.stderr)
    figures[program.name] = compiled_figures(program, limit)
    # Compiling a training step takes minutes; a plan may be stopped half-way.
    peak = _gib(figures[program.name]["peak"])
    print(f"  {peak} GiB of {_gib(limit)}", file=sys.stderr)
  resident = _resident(setting, training, figures, limit)
  print(plan_table(figures, resident, limit), file=sys.stderr, flush=True)
  return {"programs": figures, "resident": resident}


def compiled_figures(program: Planned, limit: int) -> dict[str, Any]:
  """Compiles one program and measures it on one chip."""
  started = time.monotonic()
  lowered = program.lower()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return {"note": program.note, "fits": False, **_exceeded(str(error))}
  seconds = time.monotonic() - started
  memory: Any = compiled.memory_analysis()
  sizes = {
    "arguments": memory.argument_size_in_bytes,
    "outputs": memory.output_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
    "code": memory.generated_code_size_in_bytes,
  }
  # Outputs that take the place of donated arguments.
  aliased = memory.alias_size_in_bytes
  peak = sum(sizes.values()) - aliased
  work = measure(compiled.as_text() or "")
  return {
    "note": program.note,
    "fits": peak <= limit,
    **sizes,
    "aliased": aliased,
    "peak": peak,
    "bytes_accessed": work.hbm_bytes,
    "matmul_flops": work.matmul_flops,
    "collectives": work.collectives,
    "unknown_loops": work.unknown_loops,
    "compile_seconds": round(seconds, 1),
  }


def _exceeded(message: str) -> dict[str, Any]:
  """What the compiler says of a program that does not fit."""
  line = message.partition("\n")[0]
  numbers = re.findall(r"([\d.]+)([KMGT])", line)
  powers = {unit: 2 ** (10 * i) for i, unit in enumerate("KMGT", 1)}
  needs = [float(number) * powers[unit] for number, unit in numbers]
  return {"peak": int(max(needs)) if needs else None, "error": line}


def bytes_per_chip(tree: Any) -> int:
  """Bytes of abstract arrays on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )


def _resident(
  setting: Setting,
  training: TrainingProgram,
  figures: dict[str, Any],
  limit: int,
) -> dict[str, Any]:
  """What lies on a chip that holds the index while it trains.

  Where training searches, it is its own index, with what refreshes it.
  """
  searching = setting.needs.retrieval
  rows = trained_rows(setting) if searching else index_rows(setting)
  parts = {
    "index": bytes_per_chip(rows),
    "training_state": bytes_per_chip(training.abstract),
  }
  if searching and setting.settings.retrieval.refresh == "snapshot":
    state = refresh_state(setting, training)
    parts["refresh"] = bytes_per_chip((state.building, state.frozen))
  parts["temporaries"] = max(
    (
      f["temporaries"] + f["outputs"] + f["code"] - f["aliased"]
      for f in figures.values()
      if "temporaries" in f
    ),
    default=0,
  )
  total = sum(parts.values())
  complete = all("temporaries" in f for f in figures.values())
  return parts | {"total": total, "fits": complete and total <= limit}


def plan_table(
  figures: dict[str, Any], resident: dict[str, Any], limit: int
) -> str:
  """The figures as a user reads them; bytes in GiB of one chip."""
  table = [
    "program, fits, peak, arguments, temporaries, outputs, "
    "read + written, matmul TFLOP, compiled in".split(", ")
  ]
  moved = [["program", "collective", "count", "MB", "largest, MB"]]
  for name, f in figures.items():
    if "temporaries" not in f:
      table.append([name, "no", _gib(f["peak"])] + ["-"] * 6)
      continue
    sizes = ("peak", "arguments", "temporaries", "outputs", "bytes_accessed")
    table.append(
      [
        name,
        "yes" if f["fits"] else "no",
        *(_gib(f[key]) for key in sizes),
        f"{f['matmul_flops'] / 1e12:,.3f}",
        f"{f['compile_seconds']} s",
      ]
    )
    for op, total in f["collectives"].items():
      megabytes = [f"{total[key] / 1e6:,.2f}" for key in ("bytes", "largest")]
      moved.append([name, op, str(total["count"]), *megabytes])
  parts = ", ".join(
    f"{name.replace('_', ' ')} {_gib(resident[name])}"
    for name in ("index", "training_state", "refresh", "temporaries")
    if name in resident
  )
  lines = [text_table(table, right=tuple(range(2, 9)))]
  if len(moved) > 1:
    lines.append(text_table(moved, right=(2, 3, 4)))
  lines.append(
    f"resident together: {_gib(resident['total'])} of {_gib(limit)} GiB "
    f"({parts}): {'fits' if resident['fits'] else 'does not fit'}"
  )
  errors = [
    f"{name}: {f['error']}" for name, f in figures.items() if "error" in f
  ]
  return "\n\n".join([*lines, *errors])


def _gib(size: int | None) -> str:
  return "?" if size is None else f"{size / _GIB:,.3f}"
