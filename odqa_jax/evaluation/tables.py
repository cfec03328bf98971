"""Figures of several systems side by side, with how sure they are.

print_figures({"bm25": measured, "ours": other}, compare(...))
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from odqa_jax.evaluation.comparison import Comparison, Difference
from odqa_jax.evaluation.measures import Values

# Wider than any table.
_WIDEST = 10_000


def means(values: Values) -> dict[str, float]:
  """Measure → mean of the questions that count."""
  return {name: float(np.nanmean(each)) for name, each in values.items()}


def figures_table(
  systems: Mapping[str, Values], comparison: Comparison, *, leaky: bool = False
) -> Table:
  """Measures as rows, systems as columns, in percent.

  Beside a figure stands its interval; beside those of all systems but the first
  what they have more than the first, and p. The highest figure is bold. The
  head says whether the passages are `leaky`.
  """
  first, *others = systems
  table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
  head = "in percent, leaky" if leaky else "in percent"
  table.add_column(head, no_wrap=True)
  for name in systems:
    table.add_column(name, justify="right", no_wrap=True)
    table.add_column("95 %", justify="right", no_wrap=True)
    if name != first:
      table.add_column(f"− {first}", justify="right", no_wrap=True)
      table.add_column("p", justify="right", no_wrap=True)
  figures = {name: means(values) for name, values in systems.items()}
  against = {
    (d.second, d.measure): d
    for d in comparison.differences
    if d.first == first and d.second in others
  }
  measures = dict.fromkeys(m for found in figures.values() for m in found)
  for measure in measures:
    best = max(f[measure] for f in figures.values() if measure in f)
    row = [measure]
    for name, found in figures.items():
      row += _figure(found.get(measure), best if others else None)
      row.append(_span(comparison.intervals[name].get(measure)))
      if name != first:
        row += _against(against.get((name, measure)))
    table.add_row(*row)
  return table


def _figure(value: float | None, best: float | None) -> list[str]:
  if value is None:
    return ["-"]
  text = f"{100 * value:.1f}"
  return [f"[bold]{text}[/]" if value == best else text]


def _span(interval: tuple[float, float] | None) -> str:
  if interval is None:
    return "-"
  return "–".join(f"{100 * end:.1f}" for end in interval)


def _against(found: Difference | None) -> list[str]:
  if found is None:
    return ["-", "-"]
  p = found.p if found.mcnemar is None else found.mcnemar
  return [
    f"{0.0 - 100 * found.difference:+.1f}",
    "<0.001" if p < 1e-3 else f"{p:.3f}",
  ]


def print_figures(
  systems: Mapping[str, Values], comparison: Comparison, *, leaky: bool = False
) -> None:
  """Prints the table on stderr."""
  table = figures_table(systems, comparison, leaky=leaky)
  # A narrow terminal wraps lines; no figure is cut.
  width = Console(width=_WIDEST).measure(table).maximum
  Console(stderr=True, width=width).print(table)


def rounded(value: Any, digits: int) -> Any:
  """The same value of JSON, its fractions rounded."""
  if isinstance(value, float):
    return round(value, digits)
  if isinstance(value, Mapping):
    return {key: rounded(each, digits) for key, each in value.items()}
  if isinstance(value, list | tuple):
    return [rounded(each, digits) for each in value]
  return value
