"""Questions typed or piped, and what is shown of an answer."""

import builtins
import io
import json
import sys

import pytest
from fake_system import Fake

from odqa_jax.serving import prompt
from odqa_jax.serving.prompt import (
  ask,
  piped_questions,
  show,
  typed_questions,
)


def record(question="who?", **more):
  passages = [
    {
      "n": n,
      "id": f"p{n}",
      "title": "" if n == 2 else f"Title {n}",
      "text": f"Passage {n} says\x1b[31m Paris.",
      "scores": {"retriever": 2.0, "reranker": None},
      "highlights": [],
    }
    for n in range(1, 8)
  ]
  place = {"start": 19, "end": 25, "answer": True}
  for n in (5, 7):
    passages[n - 1]["highlights"] = [place]
  return {
    "question": question, "answer": "Paris", "confidence": 0.5,
    "decided_by": "extractive_reader", "kind": "span", "marks": [5, 7],
    "passages": passages,
  } | more  # fmt: skip


@pytest.fixture(autouse=True)
def no_history(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_passages_with_the_answer_are_shown_in_their_order(capsys):
  print(show(record()))
  out = capsys.readouterr().out
  assert out.startswith(
    "= Paris   (confidence 50.0%, by the extractive reader)"
  )
  assert [line[:3] for line in out.splitlines() if line.startswith("[")] == [
    "[1]", "[5]", "[7]"
  ]  # fmt: skip
  assert out.count("«Paris.") == 0 and out.count("«") == 2
  # Nothing in a text moves the cursor or colours the terminal.
  assert "\x1b" not in out


def test_no_answer_is_told():
  none = record(answer="", confidence=None, kind=None, marks=[])
  assert show(none).startswith("= no answer was found\n")


def test_a_pipe_gives_lines_of_json(capsys, monkeypatch):
  lines = io.StringIO("one?\n\n  two?  \nthree?")
  monkeypatch.setattr(sys, "stdin", lines)
  assert ask(Fake(), piped_questions(), as_json=True) == 3
  out = capsys.readouterr().out
  asked = [json.loads(line)["question"] for line in out.splitlines()]
  assert asked == ["one?", "two?", "three?"]


def test_a_line_is_answered_before_the_next_is_there(capsys, monkeypatch):
  """Whoever asks through a pipe may wait for the answer."""

  class Pipe(io.StringIO):
    def __init__(self):
      super().__init__()
      self.lines = ["one?\n", "two?\n", ""]
      self.seen = []

    def readline(self):
      self.seen.append(capsys.readouterr().out.count("\n"))
      return self.lines.pop(0)

  pipe = Pipe()
  monkeypatch.setattr(sys, "stdin", pipe)
  ask(Fake(), piped_questions(), as_json=True)
  assert pipe.seen == [0, 1, 1]


def test_the_prompt_ends_at_the_end_and_drops_what_is_interrupted(
  monkeypatch, capsys
):
  typed = iter(["one?", KeyboardInterrupt, "two?", EOFError])

  def read(shown):
    assert shown == "? "
    given = next(typed)
    if isinstance(given, str):
      return given
    raise given

  monkeypatch.setattr(builtins, "input", read)
  assert ask(Fake(), typed_questions(), as_json=False) == 2
  assert capsys.readouterr().out.count("= Paris") == 2


def test_a_history_is_for_nobody_else(tmp_path, monkeypatch):
  pytest.importorskip("readline")
  monkeypatch.setattr(builtins, "input", lambda shown: "one?")
  assert next(typed_questions()) == "one?"
  path = prompt.user_folder().with_name("questions")
  assert path.is_relative_to(tmp_path)
  assert path.stat().st_mode & 0o777 == 0o600
