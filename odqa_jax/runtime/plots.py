"""The pictures of a run, loss.png and recall.png, of pruning, of footprints.

Drawn on matplotlib's object interface, which keeps no global state and needs
no display.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from odqa_jax.runtime.files import replacing
from odqa_jax.runtime.report import Series, metric_series, read_metrics

# Okabe and Ito's colours, told apart with any kind of colour vision.
PALETTE = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
)
_DEV = "dev/"
_BASELINE = "BM25"
_HATCHES = (None, "//", "..", "xx")
_GREY = "#5f6b76"
_MIB = 2**20
# Ratio of sizes up to which an axis has ticks between the powers of ten.
_STEPPED = 300


def smooth(
  values: Float[np.ndarray, " n"], width: float
) -> Float[np.ndarray, " n"]:
  """Gaussian mean; unlike an exponential one it does not lag behind.

  Args:
    values: the series.
    width: standard deviation in points; at the ends the kernel is cut.
  """
  if width < 0.5:
    return values
  reach = min(math.ceil(3 * width), len(values) - 1)
  kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
  total = np.convolve(values, kernel)[reach : reach + len(values)]
  weight = np.convolve(np.ones_like(values), kernel)
  return total / weight[reach : reach + len(values)]


def look(i: int) -> dict[str, Any]:
  """Colour and dashes of the i-th line; 28 are told apart."""
  dashes = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.5, 2)))
  return {
    "color": PALETTE[i % len(PALETTE)],
    "linestyle": dashes[i // len(PALETTE) % len(dashes)],
  }


def row_wise(items: Sequence[Any], columns: int) -> list[Any]:
  """Items so that a legend, which is filled by columns, reads by rows."""
  return [item for column in range(columns) for item in items[column::columns]]


def style(axes: Axes, title: str) -> None:
  """The title, and an axis without what says nothing."""
  axes.set_title(title, loc="left", fontsize=13, fontweight="bold")
  axes.grid(axis="y", color="#dfe3e6", linewidth=0.8)
  axes.set_axisbelow(True)
  for side in ("top", "right", "left"):
    axes.spines[side].set_visible(False)
  axes.spines["bottom"].set_color(_GREY)
  axes.tick_params(colors=_GREY, labelsize=11, length=0)


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
  """Writes each line's name and last value at its end, pushed apart."""
  low, high = axes.get_ylim()
  gap = 0.065 * (high - low)
  heights: list[float] = []
  ordered = sorted(ends, key=lambda end: end[1])
  for _, value, _ in ordered:
    heights.append(max(value, heights[-1] + gap) if heights else value)
  # A stack that outgrew the panel moves down as a whole.
  shift = max(0.0, heights[-1] - high) if heights else 0.0
  for (label, _, colour), height in zip(ordered, heights, strict=True):
    axes.annotate(
      label,
      (1.0, height - shift),
      xycoords=("axes fraction", "data"),
      xytext=(8, 0),
      textcoords="offset points",
      va="center",
      fontsize=11,
      color=colour,
      annotation_clip=False,
    )


def _draw_loss(axes: Axes, series: Series) -> None:
  ends = []
  for i, name in enumerate(n for n in ("loss", "dev/loss") if n in series):
    steps, values = series[name]
    colour = PALETTE[i]
    if name == "loss":
      line = smooth(np.asarray(values, np.float64), len(values) / 80)
      axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
    else:
      line = np.asarray(values, np.float64)
    axes.plot(
      steps,
      line,
      color=colour,
      linewidth=2.2,
      marker="o" if name != "loss" or len(steps) == 1 else "",
      markersize=4,
    )
    label = "train (smoothed)" if name == "loss" else "dev"
    ends.append((f"{label} {line[-1]:.3g}", float(line[-1]), colour))
  style(axes, "Loss")
  _label_ends(axes, ends)


def _draw_dev(axes: Axes, series: Series, names: Sequence[str]) -> None:
  ends = []
  shares = all(0 <= v <= 1 for name in names for v in series[name][1])
  for i, name in enumerate(names):
    steps, values = series[name]
    axes.plot(steps, values, linewidth=2.2, marker="o", markersize=4, **look(i))
    number = f"{100 * values[-1]:.1f}%" if shares else f"{values[-1]:.3g}"
    label = name.removeprefix(_DEV)
    ends.append((f"{label} {number}", values[-1], look(i)["color"]))
  style(axes, "Development set")
  if shares:
    highest = max(v for name in names for v in series[name][1])
    axes.set_ylim(0, min(1.0, 1.2 * highest) or 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
  _label_ends(axes, ends)


def plot_loss(metrics: str | Path, path: str | Path) -> None:
  """Draws the training loss and, below it, the development metrics.

  Args:
    metrics: a metrics.jsonl; "loss" is the training loss, "dev/loss" is drawn
      beside it, and other names that start with "dev/" get panels of their
      own: shares between 0 and 1 together, each other metric alone.
    path: the PNG to write.

  Raises:
    ValueError: if the file holds none of them.
  """
  series = metric_series(read_metrics(metrics))
  dev = [n for n in series if n.startswith(_DEV) and n != "dev/loss"]
  shares = [n for n in dev if all(0 <= v <= 1 for v in series[n][1])]
  panels = [shares] if shares else []
  panels += [[n] for n in dev if n not in shares]
  has_loss = "loss" in series or "dev/loss" in series
  count = has_loss + len(panels)
  if not count:
    raise ValueError(
      f'{metrics}: nothing to draw; a training writes "loss" and "dev/…".'
    )
  figure = Figure(figsize=(9, 3.4 * count), layout="constrained")
  axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
  if has_loss:
    _draw_loss(axes[0], series)
  for panel, names in zip(axes[has_loss:], panels, strict=True):
    _draw_dev(panel, series, names)
  axes[-1].set_xlabel("step", fontsize=12, color=_GREY)
  save(figure, path)


def plot_recall(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
  """Draws recall at each cutoff, one bar a system.

  Args:
    rows: `{"name": …, "recall": {"1": share, …}}`, as in report.json, in this
      order, BM25 before what is compared with it; rows without recall are left
      out.
    path: the PNG to write.

  Raises:
    ValueError: if no row has recall.
  """
  rows = [row for row in rows if row.get("recall")]
  rows = sorted(rows, key=lambda row: row["name"] != _BASELINE)
  if not rows:
    raise ValueError('nothing to draw: no row has "recall".')
  cutoffs = sorted({int(k) for row in rows for k in row["recall"]})
  width = 0.8 / len(rows)
  figure = Figure(
    figsize=(max(7.0, 1.2 + 0.62 * len(rows) * len(cutoffs)), 4.8),
    layout="constrained",
  )
  axes = figure.subplots()
  for i, row in enumerate(rows):
    recall = {int(k): share for k, share in row["recall"].items()}
    held = [(j, recall[k]) for j, k in enumerate(cutoffs) if k in recall]
    bars = axes.bar(
      [j + (i - (len(rows) - 1) / 2) * width for j, _ in held],
      [share for _, share in held],
      width * 0.92,
      color=PALETTE[i % len(PALETTE)],
      hatch=_HATCHES[i // len(PALETTE) % len(_HATCHES)],
      edgecolor="white",
      linewidth=0,
      label=str(row["name"]),
    )
    axes.bar_label(bars, fmt=lambda v: f"{100 * v:.1f}", fontsize=10, padding=2)
  style(axes, "Share of questions with an answer in the top k passages")
  axes.set_xticks(range(len(cutoffs)), [f"recall@{k}" for k in cutoffs])
  axes.set_ylim(0, 1.05)
  axes.set_yticks(np.linspace(0, 1, 6))
  axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  columns = len(rows) if len(rows) <= 5 else math.ceil(len(rows) / 2)
  figure.legend(
    handles=row_wise(axes.containers, columns),
    loc="outside lower center",
    ncols=columns,
    frameon=False,
    fontsize=11,
  )
  save(figure, path)


def plot_pruning(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
  """Draws recall, and exact match where it is there, against the share kept.

  Args:
    rows: `{"name": …, "share": …, "recall": {"20": …}, "em": …}`; recall@20 is
      drawn, or that of the largest cutoff below.
    path: the PNG to write.

  Raises:
    ValueError: if no row has recall.
  """
  cutoffs = sorted({int(k) for row in rows for k in row["recall"]})
  if not cutoffs:
    raise ValueError("nothing to draw: no row has recall.")
  cutoff = str(max((c for c in cutoffs if c <= 20), default=cutoffs[0]))
  panels = {f"recall@{cutoff}": [row["recall"][cutoff] for row in rows]}
  if all("em" in row for row in rows):
    panels["exact match"] = [row["em"] for row in rows]
  names = list(dict.fromkeys(row["name"] for row in rows))
  size = 4.6 * len(panels) + 2.4, 4.2
  figure = Figure(figsize=size, layout="constrained")
  for axes, (title, values) in zip(
    figure.subplots(1, len(panels), squeeze=False)[0],
    panels.items(),
    strict=True,
  ):
    for i, name in enumerate(names):
      points = sorted(
        (row["share"], value)
        for row, value in zip(rows, values, strict=True)
        if row["name"] == name
      )
      axes.plot(
        *zip(*points, strict=True),
        **look(i),
        linewidth=2.2,
        marker="o",
        markersize=4,
        label=name,
      )
    style(axes, title)
    axes.set_xscale("log")
    shares = sorted({row["share"] for row in rows})
    axes.set_xticks(shares, [f"{100 * share:g}%" for share in shares])
    axes.minorticks_off()
    axes.set_ylim(0, max(1.1 * max(values), 0.01))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of the passages that is kept", color=_GREY)
  handles = row_wise(figure.axes[0].get_lines(), 4)
  figure.legend(
    handles=handles, loc="outside lower center", ncols=4, frameon=False
  )
  save(figure, path)


def plot_footprint(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
  """Draws exact match against the size of systems.

  Source: Figure 1 of "Designing a Minimal Retrieve-and-Read System".

  Args:
    rows: `{"name": …, "total": bytes, "em": share, "em_95": […], "leaky": …}`
      in the order of the ladder; those without an exact match are left out.
    path: the PNG to write.

  Raises:
    ValueError: if no row has one.
  """
  rows = [row for row in rows if row.get("em") is not None]
  if not rows:
    raise ValueError("nothing to draw: no rung has an exact match.")
  figure = Figure(figsize=(10, 4.8), layout="constrained")
  axes = figure.subplots()
  sizes = [row["total"] / _MIB for row in rows]
  shares = [row["em"] for row in rows]
  axes.plot(sizes, shares, color=PALETTE[1], linewidth=1.4)
  for number, (size, row) in enumerate(zip(sizes, rows, strict=True), 1):
    _draw_rung(axes, number, size, row)
  style(axes, "Exact match against the size of the system")
  axes.set_xscale("log")
  low, high = min(sizes) / 1.3, max(sizes) * 1.3
  axes.set_xlim(low, high)
  steps = (1, 2, 5) if high < _STEPPED * low else (1,)
  ticks = [m * 10.0**e for e in range(-6, 8) for m in steps]
  ticks = [tick for tick in ticks if low <= tick <= high]
  axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
  axes.minorticks_off()
  axes.yaxis.set_major_formatter(PercentFormatter(1.0))
  axes.set_xlabel("files in MiB", color=_GREY)
  figure.legend(loc="outside right center", frameon=False, fontsize=10)
  save(figure, path)


def _draw_rung(
  axes: Axes, number: int, size: float, row: Mapping[str, Any]
) -> None:
  """A point with its interval and its number; hollow where it is leaky."""
  leaky, share = bool(row.get("leaky")), row["em"]
  low, high = row.get("em_95") or (share, share)
  name = f"{number}  {row['name']}{' (leaky)' if leaky else ''}"
  axes.errorbar(
    [size],
    [share],
    yerr=[[share - low], [high - share]],
    color=PALETTE[1],
    ecolor="#c9ced3",
    marker="o",
    markersize=7,
    markerfacecolor="white" if leaky else PALETTE[1],
    linestyle="",
    label=f"{name}: {size:,.1f} MiB",
  )
  axes.annotate(
    str(number),
    (size, share),
    # Neighbours are often as large and nearly as good: at its own height a
    # number is beside no other point.
    xytext=(8 if number % 2 else -8, 0),
    textcoords="offset points",
    ha="left" if number % 2 else "right",
    va="center",
    fontsize=11,
    # The line may lead there.
    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
  )


def save(figure: Figure, path: str | Path) -> None:
  """Writes a PNG that appears whole or not at all."""
  with replacing(path) as temporary:
    figure.savefig(temporary, format="png", dpi=144, bbox_inches="tight")
