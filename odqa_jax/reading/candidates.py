"""Candidate answers of questions, each with the log-score of every component.

    {"components": {"retriever": "3f2a…", "extractive_reader": "91bc…"},
     "sizes": {"k": 400, "read_k": 128, "spans": 10}}
    {"id": "q1", "spans": [{"text": "Ulm", "passage": "p0", "start": 33,
      "end": 36, "scores": {"retriever": -1.2, "extractive_reader": -0.4}}],
     "generated": {"text": "Ulm", "score": -0.3}}

JSON lines: the first says which components have scored, and their versions,
and may say how many passages were found and read, and how many spans compared;
every other is a question. `generated` is the answer of the generative reader,
the component `reader`, which has scored the spans too where it is named.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.records import RawFile
from odqa_jax.runtime.files import replacing
from odqa_jax.text.answers import exact_match, matches_regex

# In the order in which they score.
COMPONENTS = ("retriever", "reranker", "extractive_reader", "reader")
# Passages that are found, and read; spans that are compared.
SIZES = ("k", "read_k", "spans")
# Begins the version of a component whose scores came from the file of a run.
RUN = "run:"


@dataclasses.dataclass(frozen=True)
class Span:
  """Words of a passage that may be the answer.

  Attributes:
    text: the words.
    passage: the id of their passage.
    start: their place there, in characters; `end` is past the last one.
    end: likewise.
    scores: by component, its log-score.
  """

  text: str
  passage: str
  start: int
  end: int
  scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Generated:
  """What the generative reader has written, and its log-probability."""

  text: str
  score: float


@dataclasses.dataclass(frozen=True)
class Candidates:
  """What one question may be answered with.

  Attributes:
    question_id: of the question.
    spans: in the order of passage and place, whatever their order was: so
      equal scores are decided alike.
    generated: None where there is no generative reader.
  """

  question_id: str
  spans: tuple[Span, ...]
  generated: Generated | None = None

  def __post_init__(self) -> None:
    ordered = sorted(self.spans, key=lambda s: (s.passage, s.start, s.end))
    object.__setattr__(self, "spans", tuple(ordered))


@dataclasses.dataclass(frozen=True)
class CandidateSet:
  """The candidates of a question set.

  Attributes:
    components: those that have scored, and their versions.
    candidates: one for each question.
    sizes: `k` passages found, `read_k` read, `spans` compared, on which scores
      depend that are normalised over them; those that are known.
  """

  components: Mapping[str, str]
  candidates: tuple[Candidates, ...]
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def of(self, questions: Sequence[Question]) -> list[Candidates]:
    """Those of questions, in their order; none where there are no candidates.

    Raises:
      ValueError: if there are candidates of another question.
    """
    known = {c.question_id: c for c in self.candidates}
    others = set(known) - {q.id for q in questions}
    if others:
      raise ValueError(
        f"the candidates of question {min(others)!r} (and {len(others) - 1} "
        f"more) belong to none of the {len(questions)} questions; give the set "
        "that they were made for."
      )
    return [known.get(q.id) or Candidates(q.id, ()) for q in questions]


def same_components(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
  """Whether two sets of candidates have the scores of the same components.

  Every question set has runs of its own, whose versions therefore differ: of
  two runs it is not known who made them.
  """

  def known(components: Mapping[str, str]) -> dict[str, str]:
    return {
      name: RUN if version.startswith(RUN) else version
      for name, version in components.items()
    }

  return known(one) == known(other)


# Every subset of components is tuned on the same answers.
@functools.lru_cache(maxsize=1 << 18)
def is_right(text: str, question: Question) -> bool:
  """Whether an answer is one of those accepted (exact match, or a pattern)."""
  if question.answer_type == "regex":
    return bool(matches_regex(text, question.answers))
  return bool(exact_match(text, question.answers))


def write_candidates(path: str | Path, candidates: CandidateSet) -> None:
  """Writes the file, which appears whole."""
  with replacing(path) as temporary:
    with temporary.open("w", encoding="utf-8") as file:
      components, sizes = dict(candidates.components), dict(candidates.sizes)
      head = {"components": components, "sizes": sizes}
      file.write(json.dumps(head) + "\n")
      for found in candidates.candidates:
        record = dataclasses.asdict(found)
        record = {"id": record.pop("question_id"), **record}
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_candidates(path: str | Path) -> CandidateSet:
  """Reads a file of candidates, plain or compressed.

  Raises:
    ValueError: with file and line, if the first line names no components, a
      component has not scored a span, a score is not finite, or a question
      comes twice.
  """
  records = RawFile(path).records()
  place, head = next(records, (f"{path}:1", {}))
  components, sizes = _components(head, str(place)), _sizes(head, str(place))
  found: dict[str, Candidates] = {}
  for place, record in records:
    try:
      candidates = _candidates(record, components)
    except (AttributeError, KeyError, TypeError) as error:
      raise ValueError(
        f"{place}: no candidates of a question ({{id, spans: [{{text, passage, "
        f"start, end, scores}}], generated}}): {error!r}; mend the line."
      ) from error
    except ValueError as error:
      raise ValueError(f"{place}: {error}") from error
    if candidates.question_id in found:
      raise ValueError(
        f"{place}: the question {candidates.question_id!r} comes twice; remove "
        "one of the lines."
      )
    found[candidates.question_id] = candidates
  return CandidateSet(components, tuple(found.values()), sizes)


def _components(head: Mapping[str, Any], place: str) -> dict[str, str]:
  named = head.get("components")
  if (
    not isinstance(named, dict) or not named or not set(named) <= {*COMPONENTS}
  ):
    raise ValueError(
      f"{place}: the first line must name the components that have scored, as "
      f'{{"components": {{NAME: VERSION}}}} with names among '
      f"{', '.join(COMPONENTS)}; it has {str(named)[:60]}."
    )
  return {name: str(named[name]) for name in COMPONENTS if name in named}


def _sizes(head: Mapping[str, Any], place: str) -> dict[str, int]:
  given = head.get("sizes", {})
  known = isinstance(given, dict) and set(given) <= {*SIZES}
  if not known or any(type(n) is not int or n < 1 for n in given.values()):
    raise ValueError(
      f"{place}: sizes {str(given)[:60]}: are numbers above 0 of "
      f"{', '.join(SIZES)}; mend them, or leave them out."
    )
  return given


def _candidates(
  record: Mapping[str, Any], components: Mapping[str, str]
) -> Candidates:
  spans = []
  for i, span in enumerate(record["spans"]):
    where = f"span {i + 1} ({span['text']!r})"
    scores = {
      name: _finite(span["scores"].get(name), f"{where}: {name}")
      for name in components
    }
    place = str(span["passage"]), int(span["start"]), int(span["end"])
    spans.append(Span(str(span["text"]), *place, scores))
  generated = record.get("generated")
  if generated is not None:
    score = _finite(generated["score"], "the generated answer: reader")
    generated = Generated(str(generated["text"]), score)
  if (generated is not None) and "reader" not in components:
    raise ValueError(
      "has a generated answer, but the first line names no component 'reader'; "
      "name it there, or leave the answer out."
    )
  return Candidates(str(record["id"]), tuple(spans), generated)


def _finite(score: Any, where: str) -> float:
  if score is None:
    raise ValueError(
      f"{where} has given no score, though the first line names it; score all "
      "spans with it, or leave it out there."
    )
  if not math.isfinite(score):
    raise ValueError(
      f"{where} has the log-score {score}; it must be finite: leave the span "
      "out, or look at the component."
    )
  return float(score)
