"""What a request asks, once it is known to be within the limits."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from odqa_jax.serving.answering import Answering

# Characters of a question; whoever asks more wants something else.
QUESTION_LIMIT = 1000
# Passages of a search.
SEARCH_LIMIT = 1000
# Bytes of a question, four of each character, and of the JSON around it, where
# every character may take twelve.
BODY_LIMIT = 16 * QUESTION_LIMIT
_KEYS = ("q", "k", "system", "stream")


@dataclasses.dataclass(frozen=True)
class Asked:
  """What is asked.

  Attributes:
    question: its text.
    k: passages that are found.
    system: which of the systems, from 0.
    stream: whether every stage is told.
  """

  question: str
  k: int
  system: int
  stream: bool


async def read_asked(
  request: Request, systems: Sequence[Answering], task: str
) -> Asked:
  """Reads the query of a GET, or the JSON of a POST.

  Raises:
    HTTPException: 400, 413 or 415, saying what is wrong and what is allowed.
  """
  values = await _values(request)
  unknown = [name for name in values if name not in _KEYS]
  if unknown:
    raise _bad(f"{unknown[0][:40]!r} is unknown; there are {', '.join(_KEYS)}.")
  system = _number(values, "system", 1, len(systems), 1) - 1
  opened = systems[system]
  if task == "search":
    most = min(SEARCH_LIMIT, len(opened.corpus))
    k = _number(values, "k", 1, most, min(10, most))
  else:
    k = _number(values, "k", 1, opened.k, opened.k)
  stream = values.get("stream", False)
  return Asked(
    read_question(values.get("q")), k, system, stream in (True, "1", "true")
  )


def read_question(value: Any) -> str:
  """A question.

  Raises:
    HTTPException: if it is none, blank, too long, or no text.
  """
  if not isinstance(value, str) or not value.strip():
    raise _bad("q is missing; ask a question.")
  if len(value) > QUESTION_LIMIT:
    raise _bad(
      f"q has {len(value)} characters; at most {QUESTION_LIMIT} are read."
    )
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise _bad(f"q is no text ({error.reason}).") from error
  return " ".join(value.split())


async def _values(request: Request) -> Mapping[str, Any]:
  if request.method != "POST":
    return dict(request.query_params)
  kind = request.headers.get("content-type", "").partition(";")[0].strip()
  if kind.lower() != "application/json":
    raise HTTPException(415, "send JSON: Content-Type: application/json.")
  body = b""
  async for chunk in request.stream():
    body += chunk
    if len(body) > BODY_LIMIT:
      raise HTTPException(
        413,
        f"the request is larger than {BODY_LIMIT} bytes; a question has at "
        f"most {QUESTION_LIMIT} characters.",
      )
  try:
    values = json.loads(body)
  except (ValueError, RecursionError) as error:
    raise _bad("the request is no JSON.") from error
  if not isinstance(values, dict):
    raise _bad('the request is no JSON object; send {"q": "…"}.')
  return values


def _number(
  values: Mapping[str, Any], name: str, least: int, most: int, default: int
) -> int:
  given = values.get(name)
  if given is None or given == "":
    return default
  # The text of a number, as a query has it; Python takes `true` for 1.
  text = "" if isinstance(given, bool) else str(given)[:20]
  if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
    raise _bad(f"{name}={str(given)[:20]}: choose from {least} to {most}.")
  return int(text)


def _bad(message: str) -> HTTPException:
  return HTTPException(400, message)
