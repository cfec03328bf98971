"""`odqa plan`: whether programs fit devices that are not at hand.

The compilers of TPUs and of NVIDIA's GPUs run on any x86 machine. What they
compile here is what the other commands run, at full size, from shapes alone.
"""

import dataclasses
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

from odqa_jax.models.families import Components
from odqa_jax.plan.cuda import COMPILER_OPTIONS, cudnn_of
from odqa_jax.plan.peaks import Peak, largest, mfu_bound, peak_of, roofline
from odqa_jax.plan.programs import (
  Planned,
  Setting,
  encode_programs,
  index_rows,
  planned_components,
  planned_tokens,
  search_programs,
  train_programs,
  training_state,
)
from odqa_jax.plan.scoring import scoring_programs
from odqa_jax.plan.tables import gib, plan_table
from odqa_jax.plan.topologies import planned_devices
from odqa_jax.plan.work import measure
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training import memory
from odqa_jax.training.fitting import recomputed
from odqa_jax.training.tasks.table import check_names
from odqa_jax.training.tasks.task import Needs
from odqa_jax.training.tokens import settled

PROGRAMS = ("search", "encode", "train")
_GIB = 2**30
# What jax calls the platforms of devices, and what its compilers are called.
_PLATFORMS = {"gpu": "cuda"}


@dataclasses.dataclass(frozen=True)
class Options:
  """What is planned of a config.

  Attributes:
    passages: rows of the index.
    width: of the index, outside training; None: that of the config's encoder.
      A config without a retriever has no index.
    index_dtype: likewise; None: `config.retrieval.dtype`.
    questions: searched at once.
    k: passages found for each.
    programs: of `PROGRAMS`, separated by commas; None: all that there are.
    hbm_gb: GiB of a device; None: from `peaks.PEAKS`.
    vocabulary: see `planned_components`.
    passage_tokens: of a passage and its title, on average.
  """

  passages: int
  width: int | None
  index_dtype: str | None
  questions: int
  k: int
  programs: str | None
  hbm_gb: float | None
  vocabulary: int | None
  passage_tokens: int


def plan(
  config: str, topology: str, overrides: Sequence[str], options: Options
) -> dict[str, Any]:
  """Compiles the programs of a config for other devices, and measures them.

  Args:
    config: `FILE.py[:presets]`.
    topology: see `topologies.planned_devices`.
    overrides: `a.b=value` items.
    options: what is planned.

  Returns:
    The figures, for JSON. Bytes and FLOPs are of one chip.

  Raises:
    ImportError: if the compiler for the topology is not installed.
    ValueError: for a slice, program or setting that is not possible.
  """
  # The compiler needs no TPU, and must not take one that is there.
  jax.config.update("jax_platforms", "cpu")
  settings = read_settings(load_config(config, overrides))
  wanted = _programs(options, check_names(settings))
  devices = planned_devices(topology)
  peak = peak_of(devices[0].device_kind)
  needs, components = planned_components(
    settings, options.vocabulary, devices[0].platform
  )
  setting = Setting(
    settings=settings,
    needs=needs,
    components=components,
    mesh=make_mesh(settings.mesh, devices),
    passages=options.passages,
    width=_width(options, components),
    dtype=options.index_dtype or settings.retrieval.dtype,
    questions=options.questions,
    k=options.k,
  )
  given = options.hbm_gb
  limit = peak.memory if given is None else int(given * _GIB)
  if "train" in wanted:
    stored = planned_tokens(setting, options.passage_tokens)
    with cudnn_of(devices[0]):
      setting = settled(setting, lambda: stored, limit, check=True)
  figures = {
    "topology": topology,
    "device": devices[0].device_kind,
    "chips": len(devices),
    "hbm_bytes": limit,
    "passages": setting.passages,
    "width": setting.width or None,
    "index_dtype": setting.dtype if setting.width else None,
    "micro_batches": setting.settings.micro_batches,
    "remat": recomputed(setting),
  }
  return figures | measure_programs(setting, wanted, peak, limit)


def _width(options: Options, components: Components) -> int:
  if "retriever" not in components:
    return 0
  return options.width or int(components["retriever"].embedding_dim)


def _programs(options: Options, needs: Needs) -> list[str]:
  """The programs that are wanted.

  Raises:
    ValueError: for one that is unknown or that the task does not have, or a
      number that is not possible.
  """
  searches = "retriever" in needs.components
  known = PROGRAMS if searches else PROGRAMS[1:]
  given = ",".join(known) if options.programs is None else options.programs
  wanted = [name for name in given.split(",") if name]
  unknown = [name for name in wanted if name not in known]
  if unknown or not wanted:
    raise ValueError(
      f"--programs {options.programs!r}: choose of {', '.join(known)}"
      + ("." if searches else ": the config has no retriever.")
    )
  for name in ("passages", "questions", "vocabulary", "passage_tokens"):
    value = getattr(options, name)
    if value is not None and value < 1:
      flag = name.replace("_", "-")
      raise ValueError(f"--{flag} {value}: must be at least 1.")
  return wanted


def measure_programs(
  setting: Setting, wanted: Sequence[str], peak: Peak, limit: int
) -> dict[str, Any]:
  """Compiles the programs and adds up what lies on a chip in training.

  Args:
    setting: what the plan is made for.
    wanted: of `PROGRAMS`.
    peak: of a chip.
    limit: bytes of a chip.

  Returns:
    `programs`, name → figures, and `resident`.
  """
  training = training_state(setting) if "train" in wanted else None
  # Made first, so that what cannot be is refused before anything is compiled.
  planned: list[Planned] = []
  if "search" in wanted:
    planned += search_programs(setting)
  if "encode" in wanted:
    searches = "retriever" in setting.components
    programs = encode_programs if searches else scoring_programs
    planned += programs(setting)
  if training is not None:
    planned += train_programs(setting, training)
  figures = {}
  for program in planned:
    print(f"compiling {program.name}: {program.note}", file=sys.stderr)
    made = compiled_figures(program, setting.mesh.devices.flat[0], peak, limit)
    figures[program.name] = made
    # Compiling a training step takes minutes; a plan may be stopped half-way.
    print(f"  {gib(made['peak'])} GiB of {gib(limit)}", file=sys.stderr)
  resident = _resident(setting, figures, limit)
  print(plan_table(figures, resident, limit), file=sys.stderr, flush=True)
  return {"programs": figures, "resident": resident}


def compiled_figures(
  program: Planned, device: Any, peak: Peak, limit: int
) -> dict[str, Any]:
  """Compiles one program and measures it on one chip.

  Args:
    program: what is compiled.
    device: one of those that it is compiled for.
    peak: of that device.
    limit: bytes that programs may use there.
  """
  started = time.monotonic()
  platform = _PLATFORMS.get(device.platform, device.platform)
  options = COMPILER_OPTIONS if platform == "cuda" else None
  try:
    with cudnn_of(device):
      lowered = program.lower(platform)
    compiled = lowered.compile(compiler_options=options)
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
  total = sum(sizes.values()) - aliased
  work = measure(compiled.as_text() or "")
  bounds = roofline(work, peak)
  return {
    "note": program.note,
    "per_step": program.per_step,
    "fits": total <= limit,
    **sizes,
    "aliased": aliased,
    "peak": total,
    "bytes_accessed": work.hbm_bytes,
    "matmul_flops": work.matmul_flops,
    "useful_flops": program.useful_flops,
    "seconds": bounds,
    "bound": largest(bounds),
    "mfu_bound": mfu_bound(program.useful_flops, bounds, peak),
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


def _resident(
  setting: Setting, figures: dict[str, Any], limit: int
) -> dict[str, Any]:
  """What lies on a chip that holds the index, if there is one, and trains.

  Where training searches, it is its own index, with what refreshes it.
  """
  devices = setting.mesh.size
  parts = {
    name: part.on_one(devices)
    for name, part in memory.resident(setting).items()
  }
  if not setting.needs.retrieval and setting.width:
    parts["index"] = memory.held(index_rows(setting)).on_one(devices)
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
