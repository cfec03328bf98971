"""A system that gives the same answer to all, and hostile passages."""

import copy
import dataclasses
import threading

from odqa_jax.serving.answering import ANSWERED, RETRIEVED

HOSTILE = "<script>alert(1)</script>\" onload='x' {{ 7*7 }} &amp;"


class Passages:
  """Ten passages, one of them hostile."""

  def __len__(self):
    return 10

  def find(self, name):
    return int(name) if name.isdigit() and int(name) < 10 else None

  def id(self, row):
    return str(row)

  def title(self, row):
    return f"Title {row}" if row else HOSTILE

  def text(self, row):
    return f"Passage {row} says Paris." if row else f"Paris {HOSTILE}"


@dataclasses.dataclass
class Fake:
  """A system that gives the same answer to all; `gate` holds it up."""

  name: str = "fake"
  k: int = 5
  answered: str = "Paris"

  def __post_init__(self):
    self.versions = {"retriever": "1", "extractive_reader": "2"}
    self.corpus = Passages()
    self.gate = threading.Event()
    self.gate.set()
    self.batches = []

  def _passages(self, k):
    return [
      {
        "n": row + 1,
        "id": self.corpus.id(row),
        "title": self.corpus.title(row),
        "text": self.corpus.text(row),
        "scores": {"retriever": 1.5 - row, "reranker": None},
        "highlights": [],
      }
      for row in range(k)
    ]

  def search(self, questions, k):
    return [{"question": q, "passages": self._passages(k)} for q in questions]

  def stages(self, questions, k=None):
    self.batches.append(len(questions))
    if any("break" in question for question in questions):
      raise RuntimeError("a secret of the inside")
    found = self.search(questions, k or self.k)
    yield RETRIEVED, found
    self.gate.wait(20)
    found = copy.deepcopy(found)
    for record in found:
      record |= {
        "answer": self.answered, "confidence": 0.75, "kind": "span",
        "decided_by": "extractive_reader", "marks": [1], "spans": [],
      }  # fmt: skip
      record["passages"][0]["highlights"] = [
        {"start": 0, "end": 5, "answer": True}
      ]
    yield ANSWERED, found

  def answer(self, questions, k=None):
    *_, (_, records) = self.stages(questions, k)
    return records
