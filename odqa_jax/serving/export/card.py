"""The card of an export: README.md in the layout of the Hugging Face Hub.

What a checkpoint, a workdir or an evaluation does not say is "not stated"; no
fact is guessed. Paths are told without the folders of the machine.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.runtime.report import versions
from odqa_jax.serving.export.history import History, Stage

UNKNOWN = "not stated"
# As the Hub writes them.
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")
# Folders of this machine before the last two parts of a path.
_PART = r"[^\s/'\",]+"
_ABOVE = re.compile(rf"(?<![\w.:/])/(?:{_PART}/)+(?={_PART}/{_PART})")
# YAML takes these for something else than text.
_PLAIN = re.compile(r"[A-Za-z][\w./+-]*")
_NO_TEXT = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
# Of a config, what a row of the table tells; the rest follows as JSON.
_TOLD = (
  "task",
  "batch_size",
  "optimizer.learning_rate",
  "objective.temperature",
  "seed",
)
# Of an evaluation: how it was done, and not what came out.
_HOW = ("command", "hardware", "date", "versions")
_MOST_FIGURES = 60


@dataclasses.dataclass(frozen=True)
class Stated:
  """What the exporting person says; None where nothing is said.

  Attributes:
    licence: as the Hub names it, such as "apache-2.0".
    language: a code, such as "en".
    metrics: file of JSON: the last line of `odqa evaluate`, its card, or a
      report.json.
  """

  licence: str | None = None
  language: str | None = None
  metrics: str | None = None

  def __post_init__(self) -> None:
    for flag, value, known, example in (
      ("license", self.licence, _LICENCE, "apache-2.0"),
      ("language", self.language, _LANGUAGE, "en"),
    ):
      if value is not None and not known.fullmatch(value):
        raise ValueError(
          f"--{flag} {value!r}: is none of the Hub's names, such as {example}; "
          "leave it out where it is not known."
        )


def read_figures(path: str) -> dict[str, Any]:
  """A JSON object: a whole file, or the last line of one.

  Raises:
    ValueError: if there is none.
    OSError: if there is no such file.
  """
  text = Path(path).read_text(encoding="utf-8", errors="replace").strip()
  for part in (text, text.rpartition("\n")[2]):
    try:
      found = json.loads(part)
    except (ValueError, RecursionError):
      continue
    if isinstance(found, dict):
      return found
  raise ValueError(
    f"--metrics {path}: neither JSON nor ends with a line of it; give the last "
    "line of `odqa evaluate`, its card, or a report.json."
  )


def front_matter(entries: Mapping[str, Any]) -> str:
  """YAML of text and lists of it, as the Hub reads it at the head of a card."""
  lines = ["---"]
  for key, value in entries.items():
    if isinstance(value, str):
      lines.append(f"{key}: {_yaml(value)}")
    elif value:
      lines += [f"{key}:", *(f"- {_yaml(item)}" for item in value)]
  return "\n".join([*lines, "---"])


def _yaml(text: str) -> str:
  plain = _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXT
  return text if plain else json.dumps(text)


def without_folders(text: str) -> str:
  """A text whose absolute paths have lost all but their last two parts."""
  return _ABOVE.sub("", text)


def table(rows: Sequence[tuple[str, Any]], head: tuple[str, str]) -> str:
  """Two columns in Markdown; "" without rows."""
  if not rows:
    return ""
  lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
  return "\n".join(lines + [f"| {_cell(k)} | {_cell(v)} |" for k, v in rows])


def _cell(value: Any) -> str:
  """A value on one line, which cannot end its cell."""
  if isinstance(value, float):
    value = f"{value:.6g}"
  text = without_folders(" ".join(str(value).split()))
  return text.replace("|", "\\|").replace("<", "&lt;")


# ---- Training ----


def training_section(history: History) -> str:
  """How the weights came to be, the last stage first."""
  lines = ["## Training", "", f"Begun with {history.start}."]
  if not history.stages:
    lines[-1] = f"Not trained here: {history.start}, converted."
  for stage in history.stages:
    lines += ["", f"### Step {stage.step} of {_cell(stage.name)}", ""]
    lines += [table(_stage_rows(stage), ("Setting", "Value"))]
    config = json.dumps(stage.made_from["config"], indent=1, sort_keys=True)
    lines += ["", "<details><summary>The whole config</summary>", "", "```json"]
    lines += [without_folders(config), "```", "", "</details>"]
  return "\n".join(lines)


def _stage_rows(stage: Stage) -> list[tuple[str, Any]]:
  made_from = stage.made_from
  config = made_from["config"]
  rows = [(key, _value(config, key)) for key in _TOLD]
  rows = [(key, value) for key, value in rows if value is not None]
  rows.insert(1, ("steps made", stage.step))
  rows += [(f"data.{key}", value) for key, value in stage.data.items()]
  rows.append(("corpus, sha256 of its texts", made_from["corpus"]))
  rows += _run_rows(stage.record)
  rows.append(("chosen by", made_from.get("best") or "being the last step"))
  rows += [(f"{k}, while training", v) for k, v in stage.metrics.items()]
  return rows


def _run_rows(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
  """When and on what it ran, as run.json says."""
  sessions = record.get("sessions") or [{}]
  machines = [_told(session.get("hardware")) for session in sessions]
  seconds = sum(session.get("seconds", 0) for session in sessions)
  recipe = record.get("recipe") or {}
  return [
    ("recipe", recipe.get("name") or UNKNOWN),
    ("begun", sessions[0].get("started") or UNKNOWN),
    ("seconds", seconds or UNKNOWN),
    ("hardware", "; ".join(dict.fromkeys(machines))),
    ("versions", _told(sessions[-1].get("versions"))),
  ]


def _value(config: Mapping[str, Any], key: str) -> Any:
  for name in key.split("."):
    config = config.get(name) if isinstance(config, Mapping) else None  # type: ignore[assignment]
  return config


# ---- Figures ----


def figures_section(path: str | None) -> str:
  """What was measured, with what is known of how."""
  lines = ["## Figures", ""]
  if path is None:
    return "\n".join([*lines, f"Figures of an evaluation: {UNKNOWN}."])
  figures = read_figures(path)
  systems = figures.get("systems")
  found = [*_leaves(systems if isinstance(systems, dict) else _rest(figures))]
  lines.append(table(found[:_MOST_FIGURES], ("Figure", "Value")))
  if len(found) > _MOST_FIGURES:
    lines.append(f"\nand {len(found) - _MOST_FIGURES} more.")
  asked = figures.get("questions")
  how = [(name, _told(figures.get(name))) for name in _HOW]
  if isinstance(asked, Mapping):
    how.insert(0, ("questions", _told(asked)))
  lines += ["", table(how, ("Measured", ""))]
  return "\n".join(lines)


def _rest(figures: Mapping[str, Any]) -> dict[str, Any]:
  left_out = (*_HOW, "config", "seconds")
  return {k: v for k, v in figures.items() if k not in left_out}


def _told(value: Any) -> str:
  """Nested facts in one line."""
  if value and isinstance(value, Mapping):
    return ", ".join(f"{k} {_told(v)}" for k, v in value.items())
  return UNKNOWN if value in (None, "", {}) else str(value)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
  """Dotted name → number, interval or word, of nested figures."""
  if isinstance(value, Mapping):
    for key, inner in value.items():
      yield from _leaves(inner, f"{name}.{key}" if name else str(key))
  elif isinstance(value, list):
    if value and all(isinstance(item, Mapping) for item in value):
      for i, item in enumerate(value):
        own = {k: v for k, v in item.items() if k != "name"}
        yield from _leaves(own, f"{name}.{item.get('name', i)}".lstrip("."))
    elif value and all(isinstance(item, int | float) for item in value):
      yield name, " to ".join(f"{item:.6g}" for item in value)
  elif value is not None:
    yield name, value


# ---- The whole page ----


def write_card(
  folder: Path,
  name: str,
  stated: Stated,
  *,
  head: Mapping[str, Any],
  about: str,
  facts: Sequence[tuple[str, Any]],
  sections: Sequence[str],
) -> None:
  """Writes README.md.

  Args:
    folder: of the export.
    name: title of the card.
    stated: what a person says.
    head: entries of the front matter besides licence, language and tags.
    about: a paragraph.
    facts: rows of the first table.
    sections: what follows.
  """
  matter = {
    # "unknown" is the Hub's own word for it.
    "license": stated.licence or "unknown",
    "language": [stated.language] if stated.language else [],
    **head,
  }
  rows = [
    ("Licence", stated.licence or UNKNOWN),
    ("Language", stated.language or UNKNOWN),
    *facts,
    ("Exported with", ", ".join(f"{k} {v}" for k, v in versions().items())),
  ]
  page = [front_matter(matter), f"# {name}", about]
  page += [table(rows, ("", "")), *sections]
  text = "\n\n".join(page) + "\n"
  (folder / "README.md").write_text(text, encoding="utf-8")
