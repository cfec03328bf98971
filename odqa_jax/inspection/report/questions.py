"""Examples of questions with what was found and answered, and their counts."""

from collections.abc import Iterator, Sequence

from odqa_jax.evaluation.outcomes import Found, Outcome
from odqa_jax.inspection.report.elements import (
  Child,
  Element,
  element,
  section,
  table,
)

# Ranks of the first passage with an answer, as they are counted together.
_RANKS = ((1, 1), (2, 5), (6, 20), (21, 100), (101, 10**9))
# Of a question's passages; those that matter for its answer come besides.
_FIRST = 2
# Characters of a passage.
_LONGEST = 2000


def questions_section(outcomes: Sequence[Outcome], samples: int) -> Element:
  """Counts, and examples."""
  shown = chosen(outcomes, samples)
  return section(
    "Questions",
    *_counts(outcomes),
    element(
      "p",
      f"{len(shown)} of {len(outcomes):,}, evenly spaced"
      + (", right and wrong in turn." if len(_judged(outcomes)) else "."),
      class_="note",
    ),
    *(_example(outcome, opened=i == 0) for i, outcome in enumerate(shown)),
  )


def _judged(outcomes: Sequence[Outcome]) -> list[Outcome]:
  return [outcome for outcome in outcomes if outcome.right is not None]


def chosen(outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
  """Examples, evenly spaced in the file: as many right as wrong, in turn."""
  judged = _judged(outcomes)
  if not judged:
    return _spaced(outcomes, count)
  right = [outcome for outcome in judged if outcome.right]
  wrong = [outcome for outcome in judged if not outcome.right]
  half = min(count // 2, len(right))
  left = _spaced(wrong, min(count - half, len(wrong)))
  pair = _spaced(right, min(count - len(left), len(right))), left
  longest = max(map(len, pair))
  return [side[i] for i in range(longest) for side in pair if i < len(side)]


def _spaced(outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
  count = min(count, len(outcomes))
  return [outcomes[i * len(outcomes) // count] for i in range(count)]


# ---- Counts ----


def ranks(outcomes: Sequence[Outcome]) -> list[tuple[str, int, int, int]]:
  """Rank of the first passage with an answer, and how often right and wrong.

  Returns:
    (ranks, questions, right, wrong); the last row has those of which no passage
    holds an answer. Questions of which either is unknown are left out of its
    counts.
  """
  known = [o for o in outcomes if o.first_hit is not None]
  rows = []
  for low, high in (*_RANKS, (0, 0)):
    some = [o for o in known if low <= (o.first_hit or 0) <= high]
    if low == 0:
      name = "none found"
    elif low == high:
      name = str(low)
    else:
      name = f"{low}–{high}" if high < 10**9 else f"{low} and later"
    right = sum(o.right is True for o in some)
    wrong = sum(o.right is False for o in some)
    if some or low in (0, 1):
      rows.append((name, len(some), right, wrong))
  return rows


def _counts(outcomes: Sequence[Outcome]) -> Iterator[Element]:
  judged = _judged(outcomes)
  if judged:
    right = sum(o.right is True for o in judged)
    yield element(
      "p",
      f"{right:,} of {len(judged):,} answered right "
      f"({100 * right / len(judged):.1f}% exact match).",
    )
  if not any(o.first_hit is not None for o in outcomes):
    yield element(
      "p",
      "What was found is not known; give --run FILE.json.",
      class_="note",
    )
    return
  head = ["first hit at rank", "questions"]
  if judged:
    head += ["right", "wrong", "share right", ""]
  rows: list[list[Child]] = []
  for name, count, right, wrong in ranks(outcomes):
    row: list[Child] = [name, f"{count:,}"]
    if judged:
      share = right / (right + wrong) if right + wrong else None
      row += [
        f"{right:,}",
        f"{wrong:,}",
        "–" if share is None else f"{100 * share:.1f}%",
        None if share is None else _bar(share),
      ]
    rows.append(row)
  yield table(head, rows, right=range(1, 5))
  yield element("p", "A hit is a passage that holds an answer.", class_="note")


def _bar(share: float) -> Element:
  filled = element("span", style=f"width: {100 * share:.1f}%")
  return element("span", filled, class_="bar")


# ---- Examples ----


def _example(outcome: Outcome, *, opened: bool) -> Element:
  said: list[Child] = []
  if outcome.answer is not None:
    word = {True: "right", False: "wrong", None: "not judged"}[outcome.right]
    mark = {True: "✓ ", False: "✗ ", None: ""}[outcome.right]
    said = [
      element("b", f"{mark}{outcome.answer or '(nothing)'}", class_=word),
      f" · {word}",
    ]
  elif outcome.first_hit is not None:
    first = outcome.first_hit
    said = [f"answer in passage {first}" if first else "no passage answers"]
  references = " · ".join(outcome.references) or "none known"
  return element(
    "details",
    element(
      "summary",
      element("bdi", outcome.question),
      element("span", *said, class_="said"),
    ),
    element("p", f"Accepted: {references}", class_="note"),
    *(_passage(outcome, rank, found) for rank, found in _shown(outcome)),
    open="" if opened else None,
  )


def _shown(outcome: Outcome) -> list[tuple[int, Found]]:
  """The first passages, that of the answer, and the first that holds one."""
  return [
    (rank, found)
    for rank, found in enumerate(outcome.passages, 1)
    if rank <= _FIRST
    or rank == outcome.first_hit
    or found.id == outcome.span.get("passage")
  ]


def _passage(outcome: Outcome, rank: int, found: Found) -> Element:
  notes = [found.id]
  if found.score is not None:
    notes.append(f"score {found.score:.4g}")
  if found.hit is not None:
    notes.append("holds an answer" if found.hit else "holds no answer")
  if found.id == outcome.span.get("passage"):
    notes.append("the answer is from here")
  return element(
    "div",
    element("h3", f"{rank}. ", element("bdi", found.title or found.id)),
    element("p", *_marked(outcome, found), dir="auto"),
    element("p", " · ".join(notes), class_="scores"),
    class_="passage",
  )


def _marked(outcome: Outcome, found: Found) -> list[Child]:
  """The text with the span of the answer marked."""
  span, text = outcome.span, found.text
  cut: list[Child] = [text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"]
  if found.id != span.get("passage"):
    return cut
  start, end = span.get("start"), span.get("end")
  if not isinstance(start, int) or not isinstance(end, int):
    return cut
  # Another text under the same id has no such place.
  if text[start:end] != outcome.answer:
    return cut
  return [text[:start], element("mark", text[start:end]), text[end:]]
