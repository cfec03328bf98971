"""An evaluation card as a page of Markdown, and as a few lines.

write_card("card.json", card)   # card.json and card.md
print(short_card(card))
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from odqa_jax.runtime.files import replace_file, write_json
from odqa_jax.runtime.paths import CARD, CARD_PAGE, check_output


def check_card(path: str | Path) -> None:
  """Refuses, before any work, a card that cannot be written.

  Raises:
    ValueError: naming the file.
  """
  if Path(path).suffix != ".json":
    raise ValueError(f"--card {path}: name a file that ends in .json.")
  check_output(path, [], CARD)
  check_output(_page_of(path), [], CARD_PAGE)


def _page_of(path: str | Path) -> Path:
  return Path(path).with_suffix(".md")


def write_card(path: str | Path, card: Mapping[str, Any]) -> None:
  """Writes the card, and a page of the same name that ends in `.md`."""
  write_json(Path(path), dict(card))
  replace_file(_page_of(path), page(card).encode())


def short_card(card: Mapping[str, Any]) -> str:
  """What must stand beside a figure, on a few lines."""
  asked = card["questions"]
  lines = [
    f"{asked['questions']} questions of {asked['name']} (split: "
    f"{asked['split']}), {asked['with_answers']} with answers; "
    f"{card['corpus']['passages']:,} passages"
  ]
  if card["corpus"].get("leaky"):
    lines.append("leaky: questions that are measured on have chosen them")
  excluded = card["excluded"]["by the question set"]["passages"]
  own = ", and the question itself" if len(card["excluded"]) > 1 else ""
  if excluded or own:
    lines.append(f"no results: {excluded} passages that the set names{own}")
  for name, system in card["systems"].items():
    lines.append(f"{name}: {', '.join(_said(system))}")
  interval = card["interval"]
  lines.append(
    f"95 %: {interval['method']}, {interval['samples']} samples, seed "
    f"{interval['seed']}; p: McNemar's where questions are right or wrong, "
    "else of the bootstrap; not corrected for the number of comparisons"
  )
  return "\n".join(lines)


def _said(system: Mapping[str, Any]) -> Iterator[str]:
  for name in ("k", "read_k", "missing"):
    if system.get(name) is not None:
      yield f"{name.replace('_', '-')} {system[name]}"
  for what, where in system.get("chosen_on", {}).items():
    yield f"{what} chosen on {where}"
  if index := system.get("index"):
    yield f"index {index['dtype']} by {index['backend']}, loss {index['loss']}"


def page(card: Mapping[str, Any]) -> str:
  """All of the card, in Markdown."""
  lines = ["# Evaluation card", "", f"Made on {card['date']} by", ""]
  lines += ["```bash", card["command"], "```", "", "## Figures", ""]
  lines += [*_figures(card), ""]
  if card["differences"]:
    lines += ["## Differences", "", *_differences(card), ""]
  blocks = ("questions", "corpus", "qrels", "excluded")
  for name in blocks:
    if card.get(name):
      lines += [f"## {name.capitalize()}", "", *_facts(card[name]), ""]
  for name, system in card["systems"].items():
    told = {k: v for k, v in system.items() if k not in _NUMBERS}
    lines += [f"## System {name}", "", *_facts(told), ""]
  rules = {k: card[k] for k in ("normaliser", "has_answer", "interval")}
  lines += ["## Rules", "", *_facts(rules), ""]
  made = {k: card[k] for k in ("hardware", "versions")}
  lines += ["## Made with", "", *_facts(made)]
  return "\n".join(lines) + "\n"


_NUMBERS = ("figures", "intervals")


def _figures(card: Mapping[str, Any]) -> Iterator[str]:
  systems = card["systems"]
  names = dict.fromkeys(m for s in systems.values() for m in s["figures"])
  yield "| in percent | " + " | ".join(systems) + " |"
  yield "|---|" + "---:|" * len(systems)
  for name in names:
    cells = []
    for system in systems.values():
      if name not in system["figures"]:
        cells.append("-")
        continue
      low, high = system["intervals"][name]
      value = system["figures"][name]
      cells.append(f"{100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f})")
    yield f"| {name} | " + " | ".join(cells) + " |"


def _differences(card: Mapping[str, Any]) -> Iterator[str]:
  yield "| systems | measure | difference | 95 % | p | p (McNemar) |"
  yield "|---|---|---:|---|---:|---:|"
  for found in card["differences"]:
    low, high = found["interval"]
    exact = found["mcnemar"]
    yield (
      f"| {found['first']} − {found['second']} | {found['measure']} | "
      f"{100 * found['difference']:+.1f} | {100 * low:+.1f} to "
      f"{100 * high:+.1f} | {found['p']:.3g} | "
      f"{'-' if exact is None else f'{exact:.3g}'} |"
    )
  yield ""
  yield "p is not corrected for the number of comparisons."


def _facts(facts: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
  """A list of facts, blocks within blocks."""
  for name, value in facts.items():
    head = f"{'  ' * depth}- {str(name).replace('_', ' ')}"
    if isinstance(value, Mapping):
      yield f"{head}:"
      yield from _facts(value, depth + 1)
    elif isinstance(value, list | tuple):
      yield f"{head}: {', '.join(map(str, value)) or 'none'}"
    else:
      yield f"{head}: {value}"
