"""The picture of several runs: a panel a metric, a line a run.

plot_curves([Curve("ict", {"loss": points})], ["loss"], "curves.png")
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from odqa_jax.runtime.plots import look, row_wise, save, smooth, style

_COLUMNS = 2
# Points from which a line is smoothed, to about as many.
_NOISY = 80


class Points(NamedTuple):
  """A metric of a run, or of several that differ in their seed.

  Attributes:
    steps: at which all of them have it.
    mean: of them.
    low: the lowest of them.
    high: the highest.
  """

  steps: list[int]
  mean: list[float]
  low: list[float]
  high: list[float]


class Curve(NamedTuple):
  """A run in the legend.

  Attributes:
    label: its name there.
    metrics: name → points; what a run lacks is not drawn.
  """

  label: str
  metrics: Mapping[str, Points]


def plot_curves(
  curves: Sequence[Curve],
  names: Sequence[str],
  path: str | Path,
  *,
  shares: Sequence[str] = (),
) -> None:
  """Draws all runs, in their order, which is that of the legend.

  Args:
    curves: the runs; a band shows the lowest and highest of several seeds.
    names: of the metrics, a panel each.
    path: the PNG to write.
    shares: those of them that are told in percent.

  Raises:
    ValueError: if no run has any of them.
  """
  names = [n for n in names if any(n in curve.metrics for curve in curves)]
  if not names:
    raise ValueError("nothing to draw: no run has any of these metrics.")
  columns = min(_COLUMNS, len(names))
  rows = math.ceil(len(names) / columns)
  longest = max(len(curve.label) for curve in curves)
  wide = max(1, min(len(curves), int(15 * columns // (longest / 4 + 4))))
  figure = Figure(
    figsize=(6.4 * columns, 3.3 * rows + 0.3 * math.ceil(len(curves) / wide)),
    layout="constrained",
  )
  panels = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes in panels[len(names) :]:
    axes.set_axis_off()
  for axes, name in zip(panels, names, strict=False):
    for i, curve in enumerate(curves):
      if name in curve.metrics:
        _draw(axes, curve.metrics[name], i)
    style(axes, name)
    axes.set_xlabel("step", fontsize=11)
    if name in shares:
      axes.yaxis.set_major_formatter(PercentFormatter(1.0))
  handles = [
    Line2D([], [], linewidth=2.2, label=curve.label, **look(i))
    for i, curve in enumerate(curves)
  ]
  figure.legend(
    handles=row_wise(handles, wide),
    loc="outside lower center",
    ncols=wide,
    frameon=False,
    fontsize=11,
    handlelength=3,
  )
  save(figure, path)


def _draw(axes: Axes, points: Points, i: int) -> None:
  width = len(points.steps) / _NOISY if len(points.steps) > _NOISY else 0.0

  def line(values: list[float]) -> Float64[np.ndarray, " n"]:
    return smooth(np.asarray(values, np.float64), width)

  marker = "o" if len(points.steps) <= 25 else ""
  axes.plot(
    points.steps,
    line(points.mean),
    linewidth=2,
    marker=marker,
    markersize=3.5,
    **look(i),
  )
  if points.low != points.high:
    axes.fill_between(
      points.steps,
      line(points.low),
      line(points.high),
      color=look(i)["color"],
      alpha=0.18,
      linewidth=0,
    )
