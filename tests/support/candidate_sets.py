"""Candidates of made-up questions, of which components know something."""

import numpy as np

from odqa_jax.data.questions.sets import Question
from odqa_jax.reading.candidates import (
  COMPONENTS,
  Candidates,
  CandidateSet,
  Generated,
  Span,
)

# How much each component's scores say of what is right.
KNOWS = dict(zip(COMPONENTS, (0.3, 0.8, 1.6, 1.2), strict=True))


def make_set(
  count: int, seed: int, components=COMPONENTS, spans: int = 6
) -> tuple[CandidateSet, list[Question]]:
  """Questions with a right span among others, and generated answers."""
  rng = np.random.default_rng(seed)
  questions, found = [], []
  for i in range(count):
    questions.append(Question(f"q{i}", "what?", ("the answer",)))
    right = rng.random(spans) < 0.25
    made = []
    for j in range(spans):
      scores = {
        name: float(rng.normal() + KNOWS[name] * right[j] - 3)
        for name in components
      }
      text = "Answer" if right[j] else f"other {j}"
      made.append(Span(text, f"p{i}.{j}", j, j + 5, scores))
    knows = rng.random() < 0.5
    generated = Generated(
      "answer" if knows else "nothing", float(rng.normal() + 2 * knows - 2)
    )
    written = generated if "reader" in components else None
    found.append(Candidates(f"q{i}", tuple(made), written))
  versions = {name: f"version of {name}" for name in components}
  return CandidateSet(versions, tuple(found)), questions
