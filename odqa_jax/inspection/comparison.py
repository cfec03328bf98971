"""Several trainings, or several results of questions, side by side.

groups = grouped(trainings({"a": "work/a", "b": "work/b"}), by_seed=True)
print(training_table(groups, default_metrics(groups)))
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odqa_jax.inspection.report.charts import number
from odqa_jax.inspection.report.workdir import (
  TrainingRun,
  is_share,
  read_workdir,
)
from odqa_jax.runtime.curves import Curve, Points
from odqa_jax.runtime.report import text_table
from odqa_jax.runtime.settings import nearest

_NOT_COMPARED = ("dev/dev_passages", "examples_left_out", "learning_rate")


class Group(NamedTuple):
  """A line of the comparison: one run, or one config with several seeds."""

  label: str
  runs: tuple[TrainingRun, ...]

  def points(self, name: str) -> Points | None:
    """A metric at the steps that all the runs have it."""
    every = [r.series[name] for r in self.runs if name in r.series]
    if len(every) < len(self.runs):
      return None
    held = [dict(zip(*line, strict=True)) for line in every]
    steps = [s for s in held[0] if all(s in values for values in held)]
    if not steps:
      return None
    table = np.array([[values[s] for s in steps] for values in held])
    low, high = table.min(axis=0).tolist(), table.max(axis=0).tolist()
    return Points(steps, table.mean(axis=0).tolist(), low, high)


# ---- Which are compared ----


def labels(names: Sequence[str]) -> dict[str, str]:
  """Label → path, of `LABEL=PATH` or paths, told apart by their last parts.

  Raises:
    ValueError: if two have the same label, or path.
  """
  found: dict[str, str] = {}
  bare = []
  for name in names:
    label, equals, path = name.partition("=")
    if equals and not Path(name).exists():
      if label in found:
        raise ValueError(
          f"{name}: {label!r} is there twice; name it otherwise."
        )
      found[label] = path
    else:
      bare.append(name)
      found[name] = name
  paths = {Path(path).absolute() for path in found.values()}
  if len(paths) < len(names):
    raise ValueError("one of these is there twice; name each run once.")
  short = _short([Path(name).absolute() for name in bare])
  named = {
    short[bare.index(label)] if label in bare else label: path
    for label, path in found.items()
  }
  if len(named) < len(found):
    raise ValueError("two of these have one label; give LABEL=PATH.")
  return named


def _short(paths: Sequence[Path]) -> list[str]:
  """As many last parts of each path as tell all of them apart."""
  for count in range(1, max((len(p.parts) for p in paths), default=0) + 1):
    names = ["/".join(path.parts[-count:]) for path in paths]
    if len(set(names)) == len(names):
      return names
  return [str(path) for path in paths]


def trainings(paths: Mapping[str, str]) -> dict[str, TrainingRun]:
  """Label → run; see `read_workdir` for what it raises."""
  return {label: read_workdir(path) for label, path in paths.items()}


def grouped(runs: Mapping[str, TrainingRun], *, by_seed: bool) -> list[Group]:
  """Groups in the order of their first runs.

  Args:
    runs: label → run.
    by_seed: whether runs whose settings differ in the seed alone are one.
  """
  if not by_seed:
    return [Group(label, (run,)) for label, run in runs.items()]
  members: dict[str, list[str]] = {}
  for label, run in runs.items():
    config = {
      key: value
      for key, value in run.config.items()
      if key != "seed" and not key.startswith("report.")
    }
    # A run without a config is like no other.
    key = json.dumps(config, sort_keys=True) if config else label
    members.setdefault(key, []).append(label)
  return [
    Group(
      names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}",
      tuple(runs[name] for name in names),
    )
    for names in members.values()
  ]


def default_metrics(groups: Sequence[Group]) -> list[str]:
  """The loss and what was measured on the dev set, else what is a share."""
  names = dict.fromkeys(
    name
    for group in groups
    for run in group.runs
    for name in run.series
    if name not in _NOT_COMPARED and not name.startswith("time/")
  )
  dev = [name for name in names if name.startswith("dev/")]
  first = [name for name in ("loss", "dev/loss") if name in names]
  rest = dev or [n for n in names if "norm" not in n]
  return list(dict.fromkeys([*first, *rest]))


def check_metrics(groups: Sequence[Group], names: Sequence[str]) -> None:
  """Raises ValueError for a metric that no run has."""
  known = {n for group in groups for run in group.runs for n in run.series}
  for name in names:
    if name not in known:
      raise ValueError(f"--metrics {name}: {nearest(name, known)}")


def shares(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
  """Those of the metrics that are shares in every run."""
  return [
    name
    for name in names
    if all(
      is_share(name, run.series[name][1])
      for group in groups
      for run in group.runs
      if name in run.series
    )
  ]


def curves(groups: Sequence[Group], names: Sequence[str]) -> list[Curve]:
  """The groups as a plot has them."""
  made = []
  for group in groups:
    seeds = len(group.runs)
    label = group.label if seeds == 1 else f"{group.label} ({seeds} seeds)"
    points = {name: group.points(name) for name in names}
    made.append(Curve(label, {n: p for n, p in points.items() if p}))
  return made


# ---- Figures ----


def training_rows(
  groups: Sequence[Group], names: Sequence[str]
) -> list[dict[str, Any]]:
  """A row for each metric and group: last and best values, and where.

  Returns:
    `metric`, `run`, `seeds`, `steps` (the last with a value), `state`, `last`,
    `best`, `at` (a step for each seed), and with several seeds `last_sd` and
    `best_sd`, standard deviations over them; values are means. What a group
    lacks is left out.
  """
  rows = []
  for name in names:
    for group in groups:
      runs = [run for run in group.runs if name in run.series]
      if not runs:
        continue
      last = [run.series[name][1][-1] for run in runs]
      best = [run.best(name) for run in runs]
      row = {
        "metric": name,
        "run": group.label,
        "seeds": len(runs),
        "steps": max(run.series[name][0][-1] for run in runs),
        "state": ", ".join(dict.fromkeys(run.state for run in runs)),
        "last": statistics.fmean(last),
        "best": statistics.fmean(value for _, value in best),
        "at": [step for step, _ in best],
      }
      if len(runs) > 1:
        row["last_sd"] = statistics.stdev(last)
        row["best_sd"] = statistics.stdev(value for _, value in best)
      rows.append(row)
  return rows


def training_table(
  rows: Sequence[Mapping[str, Any]], percent: Sequence[str]
) -> str:
  """`training_rows` as text.

  Args:
    rows: they.
    percent: metrics that are shares.
  """
  table = [["metric", "run", "last", "best", "at step", "steps", "state"]]
  before = ""
  for row in rows:
    share = row["metric"] in percent
    told = [_spread(row, key, share) for key in ("last", "best")]
    at = ", ".join(f"{step:,}" for step in dict.fromkeys(row["at"]))
    seeds = f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""
    name = row["metric"] if row["metric"] != before else ""
    steps = f"{row['steps']:,}"
    table.append([name, f"{row['run']}{seeds}", *told, at, steps, row["state"]])
    before = row["metric"]
  return text_table(table, right=(2, 3, 4, 5))


def _spread(row: Mapping[str, Any], key: str, share: bool) -> str:
  text = number(row[key], percent=share)
  if f"{key}_sd" not in row:
    return text
  return f"{text} ± {number(row[f'{key}_sd'], percent=share)}"


def question_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """`compare_outcomes` as text, in percent."""
  head = ["measure", "system", "value", "95%", "against the first", "95%", "p"]
  table = [[*head, "questions"]]
  measures = dict.fromkeys(m for row in rows for m in row if m != "name")
  for measure in measures:
    before = measure
    for row in rows:
      told = row.get(measure)
      if told is None:
        continue
      cells = [before, row["name"], f"{100 * told['value']:.1f}"]
      cells.append(_interval(told["interval"]))
      if "p" in told:
        cells += [
          f"{100 * told['difference']:+.1f}",
          _interval(told["difference_95"], sign="+"),
          f"{told['p']:.2g}",
        ]
      else:
        cells += ["", "", ""]
      table.append([*cells, f"{told['questions']:,}"])
      before = ""
  return text_table(table, right=(2, 3, 4, 5, 6, 7))


def _interval(ends: Sequence[float], sign: str = "") -> str:
  low, high = (format(100 * end, f"{sign}.1f") for end in ends)
  return f"{low} … {high}"
