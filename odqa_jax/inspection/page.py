"""A page that tells what something is, as text to read and as JSON.

page = Page("data/corpus", "corpus", "the evidence, tokenised")
page.facts["passages"] = 21_015_324
print(page.text())
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num

from odqa_jax.runtime.report import json_ready, text_table

_WIDTH = 80
_BAR = 36
_BINS = 12
# Widths of a histogram's bins that read well, times a power of ten.
_STEPS = (1, 2, 4, 5, 8)
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SIGNS = {"same": "✓", "other": "✗", "not found": "?"}
_SPARKS = "▁▂▃▄▅▆▇█"


class Parent(NamedTuple):
  """One thing that something was made from.

  Attributes:
    name: of it, such as "corpus".
    fingerprint: what it had then.
    state: "same", "other" or "not found".
    where: the path that was looked at, or "".
  """

  name: str
  fingerprint: str
  state: str
  where: str = ""


class Histogram(NamedTuple):
  """How long things are.

  Attributes:
    name: of the things and the unit.
    figures: smallest, median, mean, 95th percentile, largest.
    bins: (first, last, count); the last bin is open where `last` is None.
  """

  name: str
  figures: dict[str, float]
  bins: list[tuple[int, int | None, int]]


@dataclasses.dataclass
class Page:
  """What is known of one path.

  Attributes:
    path: it.
    kind: in a word or two.
    about: the same in a sentence.
    facts: by name, what JSON can hold; printed in this order.
    parents: what it was made from.
    histograms: lengths.
    tables: by name, rows of cells; the first is the head.
    records: decoded, by a name each.
    parts: pages of what lies in it, by their place in it.
    problems: what is wrong, a sentence each.
  """

  path: str
  kind: str
  about: str
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  parents: list[Parent] = dataclasses.field(default_factory=list)
  histograms: list[Histogram] = dataclasses.field(default_factory=list)
  tables: dict[str, list[list[str]]] = dataclasses.field(default_factory=dict)
  records: list[tuple[str, dict[str, Any]]] = dataclasses.field(
    default_factory=list
  )
  parts: dict[str, "Page"] = dataclasses.field(default_factory=dict)
  problems: list[str] = dataclasses.field(default_factory=list)

  def add_histogram(self, name: str, lengths: np.ndarray) -> None:
    """Adds how long things are, where there are any."""
    if (lines := histogram(name, lengths)) is not None:
      self.histograms.append(lines)

  def all_problems(self) -> list[str]:
    """Those of the page and of all its parts, each once."""
    theirs = (part.all_problems() for part in self.parts.values())
    every = [*self.problems, *(p for problems in theirs for p in problems)]
    return list(dict.fromkeys(every))

  def as_json(self) -> dict[str, Any]:
    """The page as JSON can hold it."""
    content = {
      "path": self.path,
      "kind": self.kind,
      "about": self.about,
      "facts": self.facts,
      "made_from": [parent._asdict() for parent in self.parents],
      "histograms": [histogram._asdict() for histogram in self.histograms],
      "tables": self.tables,
      "records": [{"name": name, **fields} for name, fields in self.records],
      "parts": {name: part.as_json() for name, part in self.parts.items()},
      "problems": self.problems,
    }
    return dict(json_ready(content))

  def text(self) -> str:
    """The page for people, about 80 columns wide."""
    lines = [f"{self.kind} · {self.path}", f"  {self.about}", ""]
    lines += _fact_lines(self.facts)
    if self.parents:
      lines += ["", "made from", *map(_parent_line, self.parents)]
    if self.parts:
      lines += ["", *text_table(self._part_rows(), right=(2,)).splitlines()]
    for name, rows in self.tables.items():
      table = text_table(rows, right=range(1, len(rows[0])))
      lines += ["", name, *(f"  {line}" for line in table.splitlines())]
    for histogram in self.histograms:
      lines += ["", *_histogram_lines(histogram)]
    for name, fields in self.records:
      lines += ["", plain(name), *_fact_lines(fields)]
    problems = self.all_problems()
    if problems:
      lines += ["", "WRONG"]
    for problem in problems:
      first, *rest = _wrapped(plain(problem, 800), _WIDTH - 4)
      lines += [f"  ✗ {first}", *(f"    {line}" for line in rest)]
    return "\n".join(line.rstrip() for line in lines)

  def _part_rows(self) -> list[list[str]]:
    rows = [["part", "kind", "count", "fingerprint", "made from"]]
    for name, part in self.parts.items():
      facts = part.facts
      count = facts.get("count")
      state = "  ".join(f"{_SIGNS[p.state]} {p.name}" for p in part.parents)
      rows.append(
        [
          name,
          part.kind,
          f"{count:,}" if isinstance(count, int) else "",
          short(str(facts.get("fingerprint", ""))),
          "damaged" if part.all_problems() else state,
        ]
      )
    return rows


def short(fingerprint: str) -> str:
  """The beginning of a fingerprint, enough to tell two apart."""
  return fingerprint[:12]


def plain(value: Any, limit: int = 400) -> str:
  """A value on one line, without characters that move a cursor."""
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, int):
    return f"{value:,}"
  if isinstance(value, float):
    return f"{value:.6g}"
  if isinstance(value, Mapping):
    value = ", ".join(f"{k} {plain(v)}" for k, v in value.items())
  elif isinstance(value, Sequence) and not isinstance(value, str):
    value = " · ".join(map(plain, value))
  text = "".join(c if c.isprintable() else "␣" for c in str(value))
  return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _fact_lines(facts: Mapping[str, Any]) -> list[str]:
  """`name  value`, values wrapped at the page's width."""
  told = {k: v for k, v in facts.items() if v not in (None, "", [], {})}
  widest = max(map(len, told), default=0)
  lines = []
  for name, value in told.items():
    first, *rest = _wrapped(plain(value), _WIDTH - widest - 4)
    lines.append(f"  {name.ljust(widest)}  {first}")
    lines += [" " * (widest + 4) + line for line in rest]
  return lines


def _wrapped(text: str, width: int) -> list[str]:
  lines, line = [], ""
  for word in text.split(" "):
    if line and len(line) + 1 + len(word) > width:
      lines.append(line)
      line = word
    else:
      line = f"{line} {word}" if line else word
  return [*lines, line]


def _parent_line(parent: Parent) -> str:
  words = {
    "same": f"is {parent.where}",
    "other": f"{parent.where} has other content now",
    "not found": "not found near here",
  }
  name = f"{parent.name} {short(parent.fingerprint)}"
  return f"  {_SIGNS[parent.state]} {name}  {words[parent.state]}"


def histogram(name: str, lengths: Num[np.ndarray, " n"]) -> Histogram | None:
  """Bins of one width that show 99 of 100; the last takes the rest."""
  if not len(lengths):
    return None
  figures: dict[str, float] = {
    "min": int(lengths.min()),
    "median": float(np.median(lengths)),
    "mean": round(float(lengths.mean()), 1),
    "95%": float(np.percentile(lengths, 95)),
    "max": int(lengths.max()),
  }
  low, high = int(lengths.min()), int(np.percentile(lengths, 99))
  width = _bin_width((high - low + 1) / _BINS)
  first = low // width * width
  edges = list(range(first, high + 1, width))
  bins: list[tuple[int, int | None, int]] = []
  for edge in edges:
    last = edge == edges[-1] and figures["max"] >= edge + width
    inside = (lengths >= edge) & ((lengths < edge + width) | last)
    end = None if last else edge + width - 1
    bins.append((int(edge), end, int(inside.sum())))
  return Histogram(name, figures, bins)


def _bin_width(least: int | float) -> int:
  power = 10 ** max(0, math.floor(math.log10(max(least, 1))))
  steps = (step * scale for scale in (power, power * 10) for step in _STEPS)
  return next(step for step in steps if step >= least)


def _histogram_lines(histogram: Histogram) -> list[str]:
  figures = " · ".join(f"{k} {v:,g}" for k, v in histogram.figures.items())
  labels = [_label(first, last) for first, last, _ in histogram.bins]
  widest = max(map(len, labels))
  most = max(count for *_, count in histogram.bins)
  lines = [histogram.name, f"  {figures}"]
  for label, (*_, count) in zip(labels, histogram.bins, strict=True):
    bar = _bar(count / most)
    lines.append(f"  {label.rjust(widest)} │{bar.ljust(_BAR)} {count:,}")
  return lines


def _label(first: int, last: int | None) -> str:
  if last is None:
    return f"{first:,} …"
  return f"{first:,}" if first == last else f"{first:,}-{last:,}"


def _bar(share: int | float) -> str:
  eighths = round(share * _BAR * 8)
  if share > 0:
    eighths = max(eighths, 1)
  return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def sparkline(values: Iterable[int | float | None], width: int = 60) -> str:
  """A line of values as blocks of eight heights; "" of fewer than two."""
  known = np.array([v for v in values if v is not None], float)
  known = known[np.isfinite(known)]
  if len(known) < 2:
    return ""
  means = [
    part.mean() for part in np.array_split(known, min(width, len(known)))
  ]
  low, high = min(means), max(means)
  scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0
  return "".join(_SPARKS[round((mean - low) * scale)] for mean in means)


def size_of(count: int | float) -> str:
  """Bytes as people say them."""
  for unit in ("bytes", "KiB", "MiB", "GiB"):
    if count < 1024:
      return f"{count:.4g} {unit}"
    count /= 1024
  return f"{count:.4g} TiB"
