"""The evaluation card: what a reader has to know to trust a figure.

    card = Card(...)
    write_card("card.json", card)   # and card.md, the same as a page

Every fact is a value of JSON; `card_page.py` writes them as Markdown.
"""

import dataclasses
import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.passages import PassageTexts
from odqa_jax.data.questions.held_out import is_test_set, set_names
from odqa_jax.data.questions.sets import Question, question_record
from odqa_jax.evaluation.comparison import Comparison, Difference
from odqa_jax.evaluation.measures import Values
from odqa_jax.evaluation.tables import means
from odqa_jax.reading.answer_scoring import load_scoring
from odqa_jax.reading.fusion import load_fusion
from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.checkpoint import find_step, read_extra
from odqa_jax.runtime.files import content_hash, file_hash
from odqa_jax.runtime.report import versions
from odqa_jax.runtime.run_record import hardware

KIND, _FORMAT = "evaluation card", 1
# Ids that are shown of those that are left out.
_SHOWN = 10
NORMALISER = (
  "nq: Unicode NFD, lower case, without ASCII punctuation and the words a, an, "
  "the; patterns match from the start of an answer"
)
_HAS_ANSWER = (
  "a passage's text, without its title, has an answer's tokens in a row (NFD, "
  "lower case); patterns are searched for"
)
_SPLITS = ("train", "dev", "validation", "valid")


def question_facts(
  source: str, questions: Sequence[Question]
) -> dict[str, Any]:
  """Which questions were asked, and how many of them can be measured."""
  names = set_names(source)
  name = names[0].lower()
  test = is_test_set(source)
  named = next((split for split in _SPLITS if split in name), "not said")
  return {
    "name": names[0],
    "path": source,
    "split": "test" if test else named,
    "questions": len(questions),
    "with_answers": sum(bool(q.answers) for q in questions),
    "with_patterns": sum(q.answer_type == "regex" for q in questions),
    "sha256": content_hash([question_record(q) for q in questions]),
  }


def corpus_facts(
  corpus: PassageTexts, path: str, about: Mapping[str, Any]
) -> dict[str, Any]:
  """Which passages were searched; those of a run are all that is known.

  Args:
    corpus: the passages.
    path: of the corpus, the pack or the run.
    about: `corpus`, the fingerprint, and `leaky`, as far as they are known.
  """
  facts: dict[str, Any] = {"path": path, "passages": len(corpus)}
  for name, value in (("fingerprint", "corpus"), ("leaky", "leaky")):
    if about.get(value):
      facts[name] = about[value]
  return facts


def excluded_facts(
  questions: Sequence[Question], corpus: PassageTexts, *, own: bool
) -> dict[str, Any]:
  """The passages that are no results, by reason."""
  named = {
    q.id: [name for name in q.excluded_ids if corpus.find(name) is not None]
    for q in questions
    if q.excluded_ids
  }
  pairs = [f"{q}: {name}" for q, names in named.items() for name in names]
  facts: dict[str, Any] = {
    "by the question set": {
      "reason": "it names passages that are no results of a question",
      "questions": sum(bool(names) for names in named.values()),
      "passages": len(pairs),
      "first": pairs[:_SHOWN],
    }
  }
  if own:
    facts["the question itself"] = {
      "reason": "--exclude-self: a passage with the question's own text"
    }
  return facts


def step_facts(checkpoint: str | Path) -> dict[str, Any]:
  """Which step of a training this is, and on what it was chosen."""
  path = Path(checkpoint)
  if path.is_file():
    return {"step": "of a pack", "chosen_on": "not kept"}
  if is_pretrained_folder(path):
    return {"step": "published weights", "chosen_on": "not known"}
  folder, step = find_step(path)
  extra = read_extra(folder, step)
  config, best = extra.get("config", {}), extra.get("best")
  facts: dict[str, Any] = {"step": step, "chosen_on": "nothing: the last step"}
  if best is None:
    return facts
  evaluate = config.get("evaluate", {})
  names = [evaluate.get("questions", "")]
  if config.get("task") == "filter":
    names = config["data"]["pool_questions"].split(",")
  said = f"{', '.join(set_names(name)[0] for name in names)}, by {best}"
  if any(map(is_test_set, names)):
    said += " (a test set, by config.evaluate.on_test)"
  return facts | {"chosen_on": said}


def tuned_on(chosen_on: str) -> dict[str, str]:
  """What λ and the number of passages read were chosen on; "": not kept."""
  return {"rank weight and read_k": chosen_on or "not kept"}


def tuned_facts(
  scoring: str | Path | None, fusion: str | Path | None
) -> dict[str, str]:
  """What λ, the number of passages read and the fusion were chosen on."""
  facts: dict[str, str] = {}
  if scoring is not None:
    facts |= tuned_on(load_scoring(scoring).chosen_on)
  if fusion is not None:
    facts["fusion"] = load_fusion(fusion).chosen_on or "not kept"
  return facts


@dataclasses.dataclass(frozen=True)
class Measurement:
  """One system of a card.

  Attributes:
    facts: what it is, and what its numbers were chosen on.
    values: what it was measured by.
  """

  facts: Mapping[str, Any]
  values: Values


def make_card(
  systems: Mapping[str, Measurement],
  comparison: Comparison,
  *,
  seed: int,
  samples: int,
  **facts: Any,
) -> dict[str, Any]:
  """The whole card.

  Args:
    systems: by name, in order.
    comparison: of these.
    seed: of the bootstrap.
    samples: likewise.
    facts: `questions`, `corpus`, `excluded` and other blocks as they are.
  """
  now = datetime.datetime.now(datetime.UTC)
  return {
    "kind": KIND,
    "format": _FORMAT,
    "date": now.isoformat(timespec="seconds"),
    "command": shlex.join(["odqa", *sys.argv[1:]]),
    **facts,
    "normaliser": NORMALISER,
    "has_answer": _HAS_ANSWER,
    "interval": {
      "level": 0.95,
      "method": "percentiles of the bootstrap over questions",
      "samples": samples,
      "seed": seed,
    },
    "systems": {
      name: {
        **measured.facts,
        "figures": means(measured.values),
        "intervals": {
          k: list(v) for k, v in comparison.intervals[name].items()
        },
      }
      for name, measured in systems.items()
    },
    "differences": [*map(difference_facts, comparison.differences)],
    "hardware": hardware(),
    "versions": versions(),
  }


def difference_facts(difference: Difference) -> dict[str, Any]:
  """A difference as JSON has it."""
  facts = dataclasses.asdict(difference)
  return facts | {"interval": list(difference.interval)}


def part_facts(paths: Mapping[str, str | None]) -> dict[str, Any]:
  """The files of a system that are single files, with their hashes."""
  facts = {}
  for name, path in paths.items():
    if path:
      facts[name] = {"path": str(path)}
      if Path(path).is_file():
        facts[name]["sha256"] = file_hash(Path(path))
  return facts
