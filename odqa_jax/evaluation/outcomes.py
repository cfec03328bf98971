"""What was found and answered for each question, read from result files.

    outcomes = read_outcomes(answers="answers.jsonl", run="run.json")
    outcomes[0].right, outcomes[0].first_hit

`odqa answer --out` writes the answers, `odqa search --out NAME.json` and
`odqa rerank` the run; neither needs the corpus.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.runs import ID_KEYS
from odqa_jax.evaluation.measures import CUTOFFS
from odqa_jax.text.answers import exact_match, f1, has_answer, matches_regex


class Found(NamedTuple):
  """A passage of a run.

  Attributes:
    id: of it.
    title: of it; may be empty.
    text: of it; "" where the file has none.
    score: by which it was ranked, if that is known.
    hit: whether it holds an answer; None where that cannot be said.
  """

  id: str
  title: str
  text: str
  score: float | None
  hit: bool | None


@dataclasses.dataclass(frozen=True)
class Outcome:
  """One question, and what came of it.

  Attributes:
    id: of the question.
    question: its text.
    references: accepted answers; may be none.
    answer: that was given; None where nothing was asked to answer.
    span: where the answer was read: "passage", "start", "end"; or empty.
    passages: that were found, best first.
    k: passages of the longest list in the file; 0 where nothing was searched.
    answer_type: "string"; "regex" where the references are patterns.
  """

  id: str
  question: str
  references: tuple[str, ...]
  answer: str | None
  span: Mapping[str, Any]
  passages: tuple[Found, ...]
  k: int = 0
  answer_type: str = "string"

  @functools.cached_property
  def right(self) -> bool | None:
    """Whether the answer is one of the references (EM); None if unknown."""
    if self.answer is None or not self.references:
      return None
    if self.answer_type == "regex":
      return bool(matches_regex(self.answer, self.references))
    return bool(exact_match(self.answer, self.references))

  @functools.cached_property
  def first_hit(self) -> int | None:
    """Rank of the first passage with an answer, 0 for none; None if unknown."""
    searched = self.k or self.passages
    if not searched or any(p.hit is None for p in self.passages):
      return None
    return next((i for i, p in enumerate(self.passages, 1) if p.hit), 0)

  def measures(self) -> dict[str, float]:
    """Those of this question: `em`, `f1`, `recall@k`."""
    values: dict[str, float] = {}
    if self.answer is not None and self.right is not None:
      values["em"] = float(self.right)
      if self.answer_type == "string":
        values["f1"] = f1(self.answer, self.references)
    if self.references and (rank := self.first_hit) is not None:
      for k in CUTOFFS:
        # A short list has found nothing more; a short file was cut.
        if k <= max(self.k, len(self.passages)):
          values[f"recall@{k}"] = float(0 < rank <= k)
    return values


def read_outcomes(
  *, answers: str | Path | None = None, run: str | Path | None = None
) -> list[Outcome]:
  """The questions of the answers, or else of the run.

  Args:
    answers: lines of JSON from `odqa answer`.
    run: DPR's JSON; of questions that have answers it gives the passages.

  Raises:
    ValueError: with file and place, for what is neither; or if the two have no
      question in common.
  """
  found = {} if run is None else _read(run, _run_outcome)
  k = max((len(outcome.passages) for outcome in found.values()), default=0)
  found = {n: dataclasses.replace(each, k=k) for n, each in found.items()}
  if answers is None:
    return list(found.values())
  told = _read(answers, _answer_outcome)
  if run is not None and not told.keys() & found.keys():
    raise ValueError(
      f"{run}: has none of the {len(told)} questions of {answers}; give the "
      "run of the same set."
    )
  return [
    dataclasses.replace(outcome, passages=found[name].passages, k=found[name].k)
    if name in found
    else outcome
    for name, outcome in told.items()
  ]


def read_file(path: str | Path) -> list[Outcome]:
  """Answers, or a run, whichever the file is.

  Raises:
    ValueError: if it is neither.
  """
  if RawFile(path).first_byte() == b"[":
    return read_outcomes(run=path)
  return read_outcomes(answers=path)


def _read(path: str | Path, make: Any) -> dict[str, Outcome]:
  outcomes: dict[str, Outcome] = {}
  source = RawFile(path)
  if source.first_byte() not in (b"[", b"{"):
    raise ValueError(
      f"{path}: is no JSON; give the answers of `odqa answer --out`, or a run "
      "that `odqa search --out NAME.json` wrote."
    )
  for place, record in source.json_records():
    try:
      outcome = make(record)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
      raise ValueError(
        f"{place}: is no result of a question ({type(error).__name__}: "
        f"{error}); give the answers of `odqa answer --out`, or a run that "
        "`odqa search --out NAME.json` wrote."
      ) from error
    outcomes[outcome.id] = outcome
  if not outcomes:
    raise ValueError(f"{path}: has no questions; give another file.")
  return outcomes


def _answer_outcome(record: Mapping[str, Any]) -> Outcome:
  answer = str(record["answer"])
  spans = record.get("spans") or [{}]
  # A reader that writes lists passages, an extractive one spans.
  passages = record.get("passages") or []
  return Outcome(
    id=str(record["id"]),
    question=str(record["question"]),
    references=tuple(map(str, record["references"])),
    answer_type=str(record.get("answer_type", "string")),
    answer=answer,
    span=spans[0] if spans[0].get("text") == answer else {},
    passages=tuple(
      Found(str(p["id"]), str(p["title"]), "", p.get("score"), None)
      for p in passages
    ),
  )


def _run_outcome(record: Mapping[str, Any]) -> Outcome:
  answers = tuple(map(str, record.get("answers") or ()))
  return Outcome(
    id=str(record["id"] if "id" in record else record["question"]),
    question=str(record["question"]),
    references=answers,
    answer=None,
    span={},
    passages=tuple(_found(p, answers) for p in record["ctxs"]),
  )


def _found(passage: Mapping[str, Any], answers: tuple[str, ...]) -> Found:
  text = str(passage.get("text") or "")
  hit = passage.get("has_answer")
  if not isinstance(hit, bool):
    hit = has_answer(text, answers) if text and answers else None
  score = passage.get("score")
  return Found(
    id=str(passage[next((key for key in ID_KEYS if key in passage), "id")]),
    title=str(passage.get("title") or ""),
    text=text,
    score=None if score is None else float(score),
    hit=hit if answers else None,
  )
