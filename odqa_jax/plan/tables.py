"""The figures of a plan as a user reads them; bytes in GiB of one chip."""

from typing import Any

from odqa_jax.runtime.report import text_table

_GIB = 2**30
_SECONDS = ("matmul", "memory", "network")


def plan_table(
  figures: dict[str, Any], resident: dict[str, Any], limit: int
) -> str:
  """Memory, time at least and collectives of every program of a recipe.

  Args:
    figures: name → `plan.compiled_figures`.
    resident: what lies on a chip in training.
    limit: bytes of a chip.
  """
  tables = [
    _memory(figures),
    _roofline(figures),
    _collectives(figures),
    _together(resident, limit),
    *(f"{name}: {f['error']}" for name, f in figures.items() if "error" in f),
  ]
  return "\n\n".join(table for table in tables if table)


def _memory(figures: dict[str, Any]) -> str:
  rows = [
    "program, fits, peak, arguments, temporaries, outputs, "
    "read + written, matmul TFLOP, compiled in".split(", ")
  ]
  for name, f in figures.items():
    if "temporaries" not in f:
      rows.append([name, "no", gib(f["peak"])] + ["-"] * 6)
      continue
    sizes = ("peak", "arguments", "temporaries", "outputs", "bytes_accessed")
    rows.append(
      [
        name,
        "yes" if f["fits"] else "no",
        *(gib(f[key]) for key in sizes),
        f"{f['matmul_flops'] / 1e12:,.3f}",
        f"{f['compile_seconds']} s",
      ]
    )
  return text_table(rows, right=tuple(range(2, 9)))


def _roofline(figures: dict[str, Any]) -> str:
  """Milliseconds at least, by what the device does; the largest is named."""
  rows = [
    ["program", *(f"{name}, ms" for name in _SECONDS), "largest", "MFU at most"]
  ]
  for name, f in figures.items():
    if "seconds" not in f:
      continue
    times = [f"{f['seconds'][key] * 1e3:,.2f}" for key in _SECONDS]
    rows.append([name, *times, f["bound"], f"{f['mfu_bound']:.2f}"])
  return text_table(rows, right=(1, 2, 3, 5)) if len(rows) > 1 else ""


def _collectives(figures: dict[str, Any]) -> str:
  rows = [["program", "collective", "count", "MB", "largest, MB", "sent, MB"]]
  for name, f in figures.items():
    for op, total in f.get("collectives", {}).items():
      megabytes = [
        f"{total[key] / 1e6:,.2f}" for key in ("bytes", "largest", "sent")
      ]
      rows.append([name, op, str(total["count"]), *megabytes])
  return text_table(rows, right=(2, 3, 4, 5)) if len(rows) > 1 else ""


def _together(resident: dict[str, Any], limit: int) -> str:
  parts = ", ".join(
    f"{name.replace('_', ' ')} {gib(size)}"
    for name, size in resident.items()
    if name not in ("total", "fits")
  )
  return (
    f"resident together: {gib(resident['total'])} of {gib(limit)} GiB "
    f"({parts}): {'fits' if resident['fits'] else 'does not fit'}"
  )


def recipe_table(figures: dict[str, Any]) -> str:
  """One line a recipe: what it needs of a chip, and the limits of its step.

  Args:
    figures: config → `plan.plan`, or `refused`, with `seconds`.
  """
  rows = [
    "recipe, micro-batches, resident GiB, fits, matmul ms, memory ms, "
    "network ms, largest, MFU at most, beside it ms, planned in".split(", ")
  ]
  refused = []
  for config, f in figures.items():
    step = f.get("programs", {}).get("train_step", {})
    taken = f"{f['seconds']:.0f} s"
    if "seconds" not in step:
      reason = f.get("refused") or step["error"]
      refused.append(f"{config}: {reason}")
      rows.append([config, *["-"] * 2, "no", *["-"] * 6, taken])
      continue
    rows.append(
      [
        config,
        str(f["micro_batches"]),
        gib(f["resident"]["total"]),
        "yes" if f["resident"]["fits"] else "no",
        *(f"{step['seconds'][key] * 1e3:,.1f}" for key in _SECONDS),
        step["bound"],
        f"{step['mfu_bound']:.2f}",
        f"{_beside(f['programs']) * 1e3:,.1f}",
        taken,
      ]
    )
  table = text_table(rows, right=(1, 2, 4, 5, 6, 8, 9, 10))
  return "\n\n".join([table, *refused])


def _beside(programs: dict[str, Any]) -> float:
  """Seconds that search and refresh add to a step, at least."""
  return sum(
    f["per_step"] * max(f["seconds"].values())
    for name, f in programs.items()
    if name != "train_step" and "seconds" in f
  )


def gib(size: int | None) -> str:
  """Bytes as GiB; a question mark for what is not known."""
  return "?" if size is None else f"{size / _GIB:,.3f}"
