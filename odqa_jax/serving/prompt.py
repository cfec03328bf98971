"""Questions one after the other: typed at a prompt, or lines of a pipe.

ask(system, typed_questions(), as_json=False)
ask(system, piped_questions(), as_json=True)
"""

import json
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from odqa_jax.runtime.programs import user_folder
from odqa_jax.serving.answering import Answering
from odqa_jax.serving.views import Record, pieces

_PROMPT = "? "
_HISTORY = 1000
# Passages that are shown; those with the answer come first.
_SHOWN = 3
_WIDTH = 100
_INDENT = "    "
# Stand for the marks of an answer while lines are broken; texts have none.
_START, _END = "\x01", "\x02"


def ask(system: Answering, questions: Iterable[str], *, as_json: bool) -> int:
  """Answers on the screen; returns how many were asked.

  Args:
    system: what answers.
    questions: blank ones are left out.
    as_json: one line of JSON for each in place of text.
  """
  asked = 0
  for question in questions:
    if not question.strip():
      continue
    (record,) = system.answer([question.strip()])
    text = json.dumps(record, ensure_ascii=False) if as_json else show(record)
    print(text, flush=True)
    asked += 1
  return asked


def piped_questions() -> Iterator[str]:
  """The lines of stdin, as soon as they are there."""
  yield from iter(sys.stdin.readline, "")


def typed_questions() -> Iterator[str]:
  """What is typed until Ctrl-D; Ctrl-C drops the line. Keeps a history."""
  _keep_history()
  while True:
    try:
      yield input(_PROMPT)
    except EOFError:
      print(file=sys.stderr)
      return
    except KeyboardInterrupt:
      print(file=sys.stderr)


def _keep_history() -> None:
  """Lets `input` edit lines and know those of earlier times, where it can."""
  try:
    import atexit
    import readline

    path = user_folder().with_name("questions")
    path.parent.mkdir(parents=True, exist_ok=True)
    # What somebody has asked is for nobody else to read.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    readline.read_history_file(path)
  except (ImportError, OSError, RuntimeError):
    return
  readline.set_history_length(_HISTORY)
  atexit.register(_write_history, path)


def _write_history(path: Path) -> None:
  import readline

  try:
    readline.write_history_file(path)
  except OSError as error:
    print(f"{path}: the history is not kept ({error}).", file=sys.stderr)


def show(record: Record) -> str:
  """Answer and passages as text for a terminal."""
  answer = _plain(record["answer"]) or "no answer was found"
  said = ""
  if record["confidence"] is not None:
    decided = record["decided_by"].replace("_", " ")
    said = f"   (confidence {record['confidence']:.1%}, by the {decided})"
  return f"= {answer}{said}\n{show_passages(record)}"


def show_passages(record: Record) -> str:
  """The passages with the answer, or else the first, with it marked."""
  marks = record["marks"]
  passages = sorted(record["passages"], key=lambda p: p["n"] not in marks)
  chosen = sorted(passages[:_SHOWN], key=lambda p: p["n"])
  return "\n".join(["", *map(_passage, chosen)])


def _passage(passage: Record) -> str:
  scores = ", ".join(
    f"{name.replace('_', ' ')} {value:.3f}"
    for name, value in passage["scores"].items()
    if value is not None
  )
  name = _plain(passage["title"] or passage["id"])
  text = "".join(
    f"{_START}{_plain(piece)}{_END}" if kind == "answer" else _plain(piece)
    for piece, kind in pieces(passage["text"], passage["highlights"])
  )
  width = min(shutil.get_terminal_size().columns, _WIDTH)
  room = max(width, 40) - len(_INDENT)
  lines = textwrap.indent(textwrap.fill(text, room), _INDENT)
  start, end = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("«", "»")
  marked = lines.replace(_START, start).replace(_END, end)
  return f"[{passage['n']}] {name}   ({scores})\n{marked}\n"


def _plain(text: str) -> str:
  """Without what a terminal would take for orders."""
  return "".join(
    " " if unicodedata.category(c) in ("Cc", "Cf") else c for c in text
  )
