"""The page of a training run.

html = run_page(read_workdir("work/ict"), [])
Path("ict.html").write_bytes(html)
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from odqa_jax.evaluation.outcomes import Outcome
from odqa_jax.inspection.report.charts import Line, line_chart, number
from odqa_jax.inspection.report.elements import (
  Child,
  Element,
  document,
  element,
  section,
  table,
)
from odqa_jax.inspection.report.questions import questions_section
from odqa_jax.inspection.report.workdir import (
  TrainingRun,
  differences,
  is_share,
)
from odqa_jax.runtime.config import flatten
from odqa_jax.runtime.plots import smooth

_DEV = "dev/"
# Drawn together or not of interest as a curve.
_NO_CURVE = ("loss", "dev/loss", "examples_left_out", "dev/dev_passages")
# One of four rates that rise and fall together.
_SPEED = "time/passages_per_s"


def run_page(
  run: TrainingRun, outcomes: Sequence[Outcome], *, samples: int = 12
) -> bytes:
  """The page, in UTF-8.

  Args:
    run: what it is of.
    outcomes: of questions, if any were asked; shown as examples, and counted.
    samples: how many of them are shown.
  """
  name = run.path.absolute().name
  body = [
    *_head(run, name),
    _cards(run),
    section("Curves", element("div", *_charts(run), class_="charts")),
    section("Figures", _figures(run)),
    questions_section(outcomes, samples) if outcomes else None,
    _data(run),
    _networks(run),
    _machine(run),
    _config(run),
  ]
  return document(f"{name} · odqa_jax", body)


# ---- What it is ----


def _head(run: TrainingRun, name: str) -> list[Element]:
  of = "" if run.steps is None else f" of {run.steps:,}"
  seed = run.config.get("seed")
  about = [
    f"task {run.config.get('task', 'unknown')}",
    f"step {run.step:,}{of}, {run.state}",
    "" if seed is None else f"seed {seed}",
  ]
  now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
  return [
    element("h1", name),
    element("p", " · ".join(filter(None, about))),
    element("p", f"{run.path.absolute()} · page made {now}", class_="note"),
  ]


def _cards(run: TrainingRun) -> Element:
  cards = []
  if "loss" in run.series:
    steps, values = run.series["loss"]
    cards.append(("loss", number(values[-1]), f"at step {steps[-1]:,}"))
  chosen = f"{_DEV}{run.config.get('evaluate.best')}"
  names = [chosen, *_dev(run)]
  for name in [n for n in dict.fromkeys(names) if n in run.series][:2]:
    step, value = run.best(name)
    text = number(value, percent=is_share(name, run.series[name][1]))
    cards.append((f"best {name}", text, f"at step {step:,}"))
  if seconds := sum(s["seconds"] for s in _sessions(run)):
    parts = len(_sessions(run))
    told = "in one go" if parts == 1 else f"in {parts} parts"
    cards.append(("time", duration(seconds), told))
  if _SPEED in run.series:
    middle = float(np.median(run.series[_SPEED][1]))
    cards.append(("speed", number(middle), "passages a second, median"))
  if count := run.record.get("parameters"):
    cards.append(("parameters", f"{count:,}", ""))
  return element(
    "dl",
    *(
      element(
        "div",
        element("dt", name),
        element("dd", value, element("small", note) if note else None),
      )
      for name, value, note in cards
    ),
    class_="cards",
  )


def duration(seconds: int | float) -> str:
  """A time as people say it."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours} h {minutes:02d} min"
  return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.3g} s"


# ---- Metrics ----


def _dev(run: TrainingRun) -> list[str]:
  return [n for n in run.series if n.startswith(_DEV) and n not in _NO_CURVE]


def _charts(run: TrainingRun) -> list[Element]:
  """Losses, dev figures, learning rate, speed, and what else is logged."""
  series, charts = run.series, []
  losses: dict[str, Line] = {}
  faint: dict[str, Line] = {}
  if "loss" in series:
    steps, values = series["loss"]
    smoothed = smooth(np.asarray(values, np.float64), len(values) / 80)
    losses["train"] = (steps, smoothed.tolist())
    if len(values) / 80 >= 0.5:
      faint["train"] = (steps, values)
      losses = {"train (smoothed)": losses["train"]}
      faint = {"train (smoothed)": faint["train"]}
  if "dev/loss" in series:
    losses["dev"] = series["dev/loss"]
  if losses:
    charts.append(line_chart("Loss", losses, faint=faint))
  families: dict[tuple[str, bool], dict[str, Line]] = {}
  for name in _dev(run):
    short, share = name.removeprefix(_DEV), is_share(name, series[name][1])
    family = short.partition("@")[0] if share else short
    families.setdefault((family, share), {})[short] = series[name]
  for (family, share), lines in families.items():
    charts.append(
      line_chart(f"Development set: {family}", lines, percent=share)
    )
  rest = [n for n in series if not n.startswith((_DEV, "time/"))]
  order = ["learning_rate", *(n for n in rest if n not in _NO_CURVE)]
  for name in [*dict.fromkeys(order), _SPEED]:
    if name in series:
      label = name.removeprefix("time/").replace("_", " ")
      share = is_share(name, series[name][1])
      charts.append(
        line_chart(label.capitalize(), {label: series[name]}, percent=share)
      )
  return charts


def _figures(run: TrainingRun) -> Element:
  rows = []
  for name, (_, values) in run.series.items():
    percent = is_share(name, values)
    at, best = run.best(name)
    told = percent or "loss" in name or name in _dev(run)
    rows.append(
      [
        name,
        number(values[0], percent=percent),
        number(values[-1], percent=percent),
        number(best, percent=percent) if told else "",
        f"{at:,}" if told else "",
        f"{len(values):,}",
      ]
    )
  head = ["metric", "first", "last", "best", "at step", "rows"]
  return table(head, rows, right=range(1, 6))


# ---- What it was made from, and on ----


def code(value: Any) -> Element:
  """A value as a config has it."""
  text = json.dumps(value, ensure_ascii=False)
  return element(
    "code", text if isinstance(value, list) else str(value) or "''"
  )


def _data(run: TrainingRun) -> Element:
  record = run.record
  rows: list[list[Child]] = []
  for row in record.get("data", []):
    counts = ", ".join(
      f"{n:,}" if k == "count" else f"{n:,} {k}"
      for k, n in row["counts"].items()
    )
    rows.append(
      [row["key"], code(row["names"]), counts, code(row["fingerprint"][:16])]
    )
  if not record:
    for key, fingerprint in run.extra.get("contents", {}).items():
      if fingerprint:
        named = code(run.config.get(key, ""))
        rows.append([key, named, "", code(fingerprint[:16])])
  notes = []
  if "examples" in record:
    left = sum(record.get("examples_left_out", {}).values())
    notes.append(f"{record['examples']:,} examples, {left:,} left out")
  if "passages" in record:
    notes.append(f"{record['passages']:,} passages in the corpus")
  if "initial" in record:
    notes.append(record["initial"])
  return section(
    "Trained on",
    element("p", "; ".join(notes)) if notes else None,
    table(["key", "from", "counts", "SHA-256"], rows) if rows else _unknown(),
  )


def _unknown() -> Element:
  return element("p", "Not known: nothing here says so.", class_="note")


def _networks(run: TrainingRun) -> Element | None:
  components = run.extra.get("components")
  if not components:
    return None
  rows = []
  for role, about in components.items():
    config = flatten(about["config"])
    sizes = {name.rpartition(".")[2]: value for name, value in config.items()}
    names = ("width", "layers", "heads", "vocab_size", "pooling", "dtype")
    told = (f"{n} {sizes[n]}" for n in names if n in sizes)
    rows.append([role, about["family"], ", ".join(told)])
  where = f"Of the checkpoint of step {run.checkpoint:,}."
  return section(
    "Networks",
    element("p", where, class_="note"),
    table(["role", "family", "sizes"], rows),
  )


def _sessions(run: TrainingRun) -> list[Mapping[str, Any]]:
  return list(run.record.get("sessions", []))


def _machine(run: TrainingRun) -> Element:
  sessions = _sessions(run)
  if not sessions:
    return section("Machine and times", _unknown())
  rows = [
    [
      element("time", s["started"][:16].replace("T", " ")),
      f"{s['from_step']:,} → {s['to_step']:,}",
      duration(s["seconds"]),
      s["ended"] or ("killed" if s is not sessions[-1] else run.state),
      s["hardware"]["devices"],
    ]
    for s in sessions
  ]
  last = sessions[-1]["hardware"]
  facts = [
    ["processor", f"{last['processor']}, {last['cores']} cores"],
    ["memory", f"{last['memory_gib']} GiB"],
    ["system", last["system"]],
    ["processes", str(last["processes"])],
    *([name, version] for name, version in sessions[-1]["versions"].items()),
  ]
  head = ["begun (UTC)", "steps", "time", "ended", "devices"]
  return section(
    "Machine and times",
    table(head, rows, right=(1, 2)),
    element("p", " "),
    table(["the last time", ""], facts),
  )


def _config(run: TrainingRun) -> Element:
  recipe = run.record.get("recipe")
  values = recipe and flatten(recipe["config"])
  rows: list[list[Child]] = [
    [
      f"config.{key}",
      code(default),
      *([] if values is None else [code(said)]),
      element("b", code(value)) if said != value else code(value),
    ]
    for key, default, said, value in differences(run.config, values)
  ]
  columns = ["key", "default", *(["recipe"] if recipe else []), "this run"]
  note = (
    f"What differs from the defaults, or from {recipe['name']} as the file is; "
    "bold where the run changed it."
    if recipe
    else "What differs from the defaults; the recipe is not known."
  )
  return section(
    "Settings",
    element("p", note, class_="note"),
    table(columns, rows) if rows else _unknown(),
  )
