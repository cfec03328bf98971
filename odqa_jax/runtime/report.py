"""What a run tells its user: metric files, progress, tables, report.json.

One `write` feeds metrics.jsonl and what else the settings name: metrics.csv,
TensorBoard, W&B, MLflow, Trackio. The files can be read at any moment and after
any kill: rows are whole lines, and only the last can be torn.

    with Report(workdir, resume_step=200) as report:
      report.write(201, {"loss": 2.5})
"""

import dataclasses
import json
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat

import jax
import numpy as np
from ml_collections import ConfigDict

import odqa_jax
from odqa_jax.runtime.files import replace_file
from odqa_jax.runtime.interruption import Interrupted
from odqa_jax.runtime.kept_settings import ReportSettings
from odqa_jax.runtime.progress import humanise, progress_bar
from odqa_jax.runtime.tracking import open_trackers
from odqa_jax.runtime.writers import FILES, Writer

__all__ = [
  "Report",
  "Series",
  "humanise",
  "json_ready",
  "lower_is_better",
  "metric_series",
  "parameter_table",
  "progress_bar",
  "read_metrics",
  "text_table",
  "versions",
  "write_report",
]

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "numpy",
  "tokenizers",
)

_DEFAULTS = ReportSettings()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
  """The rows of a metrics.jsonl; a torn last line is left out.

  Returns:
    One `{"step": int, name: float | None, …}` per row; None stands for a value
    that was not finite.

  Raises:
    ValueError: if a line that was ended is no row, naming it.
  """
  *lines, _ = Path(path).read_bytes().split(b"\n")
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      if not isinstance(row.get("step"), int):
        raise TypeError("no step")
    except (ValueError, TypeError, AttributeError) as error:
      raise ValueError(
        f"{path}:{number}: no metrics row ({error}); a row is a JSON object "
        'with an integer "step". Remove the line, or the file to start anew.'
      ) from error
    rows.append(row)
  return rows


Series = dict[str, tuple[list[int], list[float]]]


def metric_series(rows: Iterable[Mapping[str, Any]]) -> Series:
  """Name → steps and values of `read_metrics`, without what was not finite."""
  series: Series = {}
  for row in rows:
    for name, value in row.items():
      if name != "step" and value is not None:
        steps, values = series.setdefault(name, ([], []))
        steps.append(row["step"])
        values.append(value)
  return series


def lower_is_better(name: str) -> bool:
  """Whether a metric is a loss, or a time."""
  return "loss" in name or name.endswith("_ms")


def _json_line(row: Mapping[str, Any]) -> bytes:
  return json.dumps(row, allow_nan=False).encode() + b"\n"


class Report:
  """Writes metrics by step to all places; a no-op when not enabled.

  The rows live in `metrics.jsonl`; what else the settings name is made from it
  when a run goes on, so that all agree even after a kill between two writes.
  """

  def __init__(
    self,
    workdir: str | Path,
    settings: ReportSettings = _DEFAULTS,
    *,
    enabled: bool = True,
    resume_step: int | None = None,
    config: Mapping[str, Any] | None = None,
  ) -> None:
    """Opens the files, going on after what they hold.

    Args:
      workdir: the folder to write in, made if absent.
      settings: where metrics go beside metrics.jsonl.
      enabled: False on every process but the first of a multi-host run.
      resume_step: the last step that counts; rows of later steps are dropped,
        and 0 begins a run. None keeps all.
      config: of the run, by flat names, for services that keep it.

    Raises:
      ValueError: if the existing metrics.jsonl is damaged before its end, or a
        service cannot be opened.
    """
    self._enabled = enabled
    if not enabled:
      return
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    rows_path = workdir / "metrics.jsonl"
    rows = written = read_metrics(rows_path) if rows_path.exists() else []
    if resume_step is not None:
      rows = [row for row in rows if row["step"] <= resume_step]
    # First, as these fail most easily; and what was sent is read from the file.
    self._writers: list[Writer] = [
      *open_trackers(
        workdir,
        settings,
        config or {},
        written=written,
        kept=rows,
        anew=resume_step == 0,
      )
    ]
    replace_file(rows_path, b"".join(map(_json_line, rows)))
    # Unbuffered: one write call a row, so that a kill tears the last at most.
    self._rows = rows_path.open("ab", buffering=0)
    self._writers += [
      FILES[name](workdir, rows, resume_step)
      for name in settings.names
      if name in FILES
    ]

  def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
    """Appends one row.

    Args:
      step: the step that the values belong to.
      values: name → number; what is not finite is null in metrics.jsonl.

    Raises:
      ValueError: if a value is called "step".
    """
    if "step" in values:
      raise ValueError('a metric cannot be called "step"; rename it.')
    if not self._enabled:
      return
    numbers = {name: float(value) for name, value in values.items()}
    self._rows.write(_json_line(json_ready({"step": step, **numbers})))
    for writer in self._writers:
      writer.write(step, numbers)

  def flush(self) -> None:
    """Hands on what writers hold back; rows never are."""
    if self._enabled:
      for writer in self._writers:
        writer.flush()

  def close(self, *, failed: bool = False) -> None:
    """Closes all; a second call does nothing."""
    if self._enabled:
      self._enabled = False
      self._rows.close()
      for writer in self._writers:
        writer.close(failed=failed)

  def __enter__(self) -> "Report":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    stopped = kind is not None and issubclass(kind, Interrupted)
    self.close(failed=kind is not None and not stopped)


def json_ready(value: Any) -> Any:
  """The same value in JSON's types.

  Mappings and ConfigDicts become dicts, sequences and arrays lists, NumPy
  scalars Python numbers, paths and dtypes strings; a float that is not finite
  becomes None, since JSON has no word for it.

  Raises:
    TypeError: for any other type, naming it.
  """
  if isinstance(value, ConfigDict):
    value = value.to_dict()
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    value = dataclasses.asdict(value)
  if isinstance(value, np.generic | np.ndarray | jax.Array):
    value = np.asarray(value).tolist()
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if value is None or isinstance(value, str | int):
    return value
  if isinstance(value, Mapping):
    return {str(k): json_ready(v) for k, v in value.items()}
  if isinstance(value, Sequence):
    return [json_ready(v) for v in value]
  if isinstance(value, os.PathLike | np.dtype):
    return str(value)
  raise TypeError(f"{value!r} ({type(value).__name__}) has no form in JSON.")


def versions() -> dict[str, str]:
  """Versions of Python, this package and what its numbers depend on."""
  installed = {
    "python": platform.python_version(),
    "odqa_jax": odqa_jax.__version__,
  }
  for name in _PACKAGES:
    try:
      installed[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  return installed


def write_report(
  path: str | Path,
  *,
  rows: Sequence[Mapping[str, Any]],
  seconds: Mapping[str, float],
  config: Any,
  seed: int,
  hardware: Mapping[str, Any],
) -> dict[str, Any]:
  """Writes report.json, the summary of a whole run.

  Args:
    path: the file.
    rows: one per system: "name", "recall" (cutoff → share), "em", …
    seconds: stage → wall time in seconds.
    config: anything `json_ready` takes.
    seed: the seed of the run.
    hardware: what it ran on.

  Returns:
    What was written.
  """
  report = json_ready(
    {
      "rows": rows,
      "seconds": seconds,
      "versions": versions(),
      "config": config,
      "seed": seed,
      "hardware": hardware,
    }
  )
  text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
  replace_file(Path(path), text.encode() + b"\n")
  return report


def text_table(
  rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
  """Aligns columns with two spaces between them; the first row is the head.

  Args:
    rows: cells; every row has the same number.
    right: the columns that are aligned to the right.
  """
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in [rows[0], ["─" * width for width in widths], *rows[1:]]:
    cells = [
      cell.rjust(width) if i in right else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    lines.append("  ".join(cells).rstrip())
  return "\n".join(lines)


def _layer_name(pattern: str, numbers: Sequence[tuple[int, ...]]) -> str:
  """`layer_#/kernel` with its numbers put back, as `{0..11}` where many."""
  name = pattern
  for column in zip(*numbers, strict=True):
    low, high = min(column), max(column)
    name = name.replace(
      "\0", str(low) if low == high else f"{{{low}..{high}}}", 1
    )
  return name


def parameter_table(params: Any, shardings: Any) -> str:
  """Lists parameters: name, shape, dtype, count and PartitionSpec.

  Layers that repeat (same shape, dtype and spec, names that differ in numbers
  only) share a line, with how many there are.

  Args:
    params: a tree of arrays or `ShapeDtypeStruct`s.
    shardings: the same tree of `NamedSharding`s.
  """
  groups: dict[tuple[str, str, str, str], list[tuple[int, ...]]] = {}
  sizes: dict[tuple[str, str, str, str], int] = {}
  count = size = 0
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), sharding in zip(
    leaves, jax.tree.leaves(shardings), strict=True
  ):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    pattern = re.sub(r"\d+", "\0", name)
    shape = "×".join(map(str, leaf.shape)) or "scalar"
    spec = ", ".join(map(str, sharding.spec)) or "replicated"
    key = (pattern, shape, str(leaf.dtype), spec)
    numbers = tuple(int(digits) for digits in re.findall(r"\d+", name))
    groups.setdefault(key, []).append(numbers)
    elements = math.prod(leaf.shape)
    sizes[key] = sizes.get(key, 0) + elements
    count += elements
    size += elements * leaf.dtype.itemsize
  table = [["parameter", "shape", "dtype", "count", "sharding"]]
  for key, members in groups.items():
    pattern, shape, dtype, spec = key
    times = f" (×{len(members)})" if len(members) > 1 else ""
    name = _layer_name(pattern, members)
    table.append([name, shape + times, dtype, f"{sizes[key]:,}", spec])
  table.append(["total", "", "", f"{count:,}", f"{size / 2**20:,.1f} MiB"])
  return text_table(table, right=(3,))
