"""Line charts as SVG, in the colours of the page that they are on.

    chart = line_chart("Loss", {"train": ([20, 40], [2.5, 1.25])})

They have 360 units across, so that letters stay readable on a phone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.ticker import MaxNLocator

from odqa_jax.inspection.report.elements import Element, element

_WIDTH, _HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 24
# More would lie on one another.
_POINTS = 300
_MARKED = 25
# Of `page.css`.
_COLOURS = 7

Line = tuple[Sequence[int], Sequence[int | float]]


def number(value: int | float | None, *, percent: bool = False) -> str:
  """A figure in few digits."""
  if value is None:
    return "–"
  if percent:
    return f"{100 * value:.1f}%"
  if abs(value) >= 1e6:
    return f"{value:.3g}"
  if 0 < abs(value) < 1e-3:
    return f"{value:.3e}".replace("e-0", "e-")
  if abs(value) >= 1000:
    return f"{value:,.0f}"
  return f"{value:.4g}"


def line_chart(
  title: str,
  lines: Mapping[str, Line],
  *,
  percent: bool = False,
  faint: Mapping[str, Line] | None = None,
) -> Element:
  """A chart with its title and, below it, names and last values.

  Args:
    title: what is drawn.
    lines: name → steps and values.
    percent: whether the values are shares.
    faint: drawn behind, in the colour of the line of the same name.
  """
  drawn = [*lines.values(), *(faint or {}).values()]
  frame = _Frame(drawn, zero=percent)
  names = list(lines)
  paths = [
    *(
      frame.path(*line, f"line faint c{names.index(name) % _COLOURS}")
      for name, line in (faint or {}).items()
    ),
    *(
      part
      for i, line in enumerate(lines.values())
      for part in frame.line(*line, i)
    ),
  ]
  picture = element(
    "svg",
    *frame.axes(percent),
    *paths,
    viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
    role="img",
    aria_label=title,
  )
  legend = [
    element(
      "li",
      element("span", class_=f"key c{i % _COLOURS} d{i // _COLOURS % 3}"),
      f"{name} ",
      element("b", number(values[-1], percent=percent)),
    )
    for i, (name, (_, values)) in enumerate(lines.items())
  ]
  return element(
    "figure",
    element("figcaption", title),
    picture,
    element("ul", *legend, class_="legend"),
  )


class _Frame:
  """Where steps and values lie in the picture."""

  def __init__(self, lines: Sequence[Line], *, zero: bool) -> None:
    steps = [step for line in lines for step in line[0]]
    values = [value for line in lines for value in line[1]]
    low, high = min(values), max(values)
    if zero:
      low, high = 0.0, min(1.0, 1.1 * high) or 1.0
    if low == high:
      low, high = low - abs(low) / 2 - 1e-9, high + abs(high) / 2 + 1e-9
    ticks = MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10])
    self._ticks = [t for t in ticks.tick_values(low, high) if t >= 0 or low < 0]
    self._low = min(low, self._ticks[0])
    self._high = max(high, self._ticks[-1])
    self._first = min(steps)
    self._last = max(max(steps), self._first + 1)

  def x(self, step: int | float) -> float:
    """Place of a step."""
    share = (step - self._first) / (self._last - self._first)
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

  def y(self, value: int | float) -> float:
    """Place of a value."""
    share = (value - self._low) / (self._high - self._low)
    return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

  def axes(self, percent: bool) -> list[Element]:
    """Lines and labels of the values, labels of the steps."""
    parts, right = [], _WIDTH - _RIGHT
    for tick in self._ticks:
      y = self.y(tick)
      label = f"{100 * tick:g}%" if percent else _tick(tick)
      parts += [
        element("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"),
        element("text", label, x=_LEFT - 6, y=y + 4, text_anchor="end"),
      ]
    places = MaxNLocator(nbins=4, integer=True)
    for step in places.tick_values(self._first, self._last):
      if self._first <= step <= self._last:
        x = self.x(step)
        anchor = "end" if x > right - 20 else "middle"
        parts.append(
          element(
            "text", f"{step:,.0f}", x=x, y=_HEIGHT - 8, text_anchor=anchor
          )
        )
    return parts

  def path(
    self, steps: Sequence[int], values: Sequence[int | float], class_: str
  ) -> Element:
    """A line through the points, or through their means where they are many."""
    points = zip(_thinned(steps), _thinned(values), strict=True)
    places = [f"{self.x(step)} {self.y(value)}" for step, value in points]
    return element("path", d=f"M{'L'.join(places)}", class_=class_)

  def line(
    self, steps: Sequence[int], values: Sequence[int | float], i: int
  ) -> list[Element]:
    """A line of the legend, with its points where they are few."""
    colour = f"c{i % _COLOURS}"
    parts = [self.path(steps, values, f"line {colour} d{i // _COLOURS % 3}")]
    if len(steps) <= _MARKED:
      parts += [
        element("circle", cx=self.x(s), cy=self.y(v), r=2.4, class_=colour)
        for s, v in zip(steps, values, strict=True)
      ]
    return parts


def _tick(value: int | float) -> str:
  """A label that fits beside the axis."""
  if 0 < abs(value) < 1e-3:
    return f"{value:.1e}".replace("e-0", "e-")
  return f"{value:.4g}"


def _thinned(values: Sequence[int | float]) -> Float64[np.ndarray, " n"]:
  """Means of equal parts, of which there are few enough to draw."""
  every = np.asarray(values, np.float64)
  if len(every) <= _POINTS:
    return every
  return np.array([part.mean() for part in np.array_split(every, _POINTS)])
