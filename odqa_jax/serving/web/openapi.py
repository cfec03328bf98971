"""The description of the API that programs read, OpenAPI 3.1."""

from typing import Any

from odqa_jax import __version__
from odqa_jax.serving.web.asked import QUESTION_LIMIT, SEARCH_LIMIT

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 1}
_QUESTION = _TEXT | {"minLength": 1, "maxLength": QUESTION_LIMIT}
_HIGHLIGHT = {
  "type": "object",
  "properties": {
    "start": {"type": "integer", "minimum": 0},
    "end": _COUNT,
    "answer": {"type": "boolean"},
  },
}
_PASSAGE = {
  "type": "object",
  "required": ["n", "id", "title", "text", "scores", "highlights"],
  "properties": {
    "n": _COUNT,
    "id": _TEXT,
    "title": _TEXT,
    "text": _TEXT,
    "scores": {
      "type": "object",
      "additionalProperties": {"type": ["number", "null"]},
    },
    "highlights": {"type": "array", "items": _HIGHLIGHT},
  },
}
_PASSAGES = {
  "type": "array",
  "items": {"$ref": "#/components/schemas/Passage"},
}
_SEARCH = {
  "type": "object",
  "required": ["question", "passages"],
  "properties": {"question": _TEXT, "passages": _PASSAGES},
}
# Readers add keys of their own: spans or candidates with their scores.
_ANSWER = {
  "type": "object",
  "required": ["question", "answer", "confidence", "passages", "marks"],
  "properties": {
    "question": _TEXT,
    "answer": _TEXT,
    "confidence": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "decided_by": {"enum": ["extractive_reader", "reader", "fusion"]},
    "kind": {"enum": ["span", "written", None]},
    "passages": _PASSAGES,
    "marks": {"type": "array", "items": _COUNT},
    "candidates": {"type": "array", "items": {"type": "object"}},
    "spans": {"type": "array", "items": {"type": "object"}},
    "generated": {"type": "object"},
    "log_prob": _NUMBER,
    "margin": {"type": ["number", "null"]},
  },
}
_ERROR = {
  "type": "object",
  "required": ["error"],
  "properties": {"error": _TEXT},
}


def _response(about: str, schema: str, kind: str = "application/json") -> Any:
  content = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
  return {"description": about, "content": {kind: content}}


_ERRORS = {
  "400": _response("A value is missing, too long or out of range.", "Error"),
  "413": _response("The request is too large.", "Error"),
  "415": _response("The request is no JSON.", "Error"),
  "500": _response("The question could not be answered.", "Error"),
  "503": _response(
    "Too many questions wait; Retry-After says when to ask again.", "Error"
  ),
  "504": _response("The answer took too long.", "Error"),
}
_STREAM = {"stream": {"type": "boolean", "default": False}}


def _asks(task: str, most: int, systems: int) -> dict[str, Any]:
  """GET and POST of a question."""
  limits = _COUNT | {"maximum": most}
  fields: dict[str, Any] = {"q": _QUESTION, "k": limits}
  fields["system"] = _COUNT | {"maximum": systems, "default": 1}
  if task == "answer":
    fields |= _STREAM
  done = _response("What was found.", task.capitalize())
  if task == "answer":
    done["content"]["application/x-ndjson"] = {
      "schema": {
        "type": "object",
        "description": "With stream: a line for every stage.",
        "required": ["stage"],
        "properties": {
          "stage": {"enum": ["retrieved", "reranked", "answered", "failed"]}
        },
      }
    }
  parameters = [
    {"name": name, "in": "query", "required": name == "q", "schema": schema}
    for name, schema in fields.items()
  ]
  body = {"type": "object", "required": ["q"], "properties": fields}
  both: dict[str, Any] = {"responses": {"200": done} | _ERRORS}
  return {
    "get": both | {"operationId": f"get_{task}", "parameters": parameters},
    "post": both
    | {
      "operationId": f"post_{task}",
      "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": body}},
      },
    },
  }


def _get(name: str, done: Any, **more: Any) -> dict[str, Any]:
  return {"get": {"operationId": name, "responses": {"200": done}} | more}


def openapi(*, k: int, passages: int, systems: int) -> dict[str, Any]:
  """The document.

  Args:
    k: the most passages of an answer.
    passages: of the largest corpus.
    systems: how many are served.
  """
  path = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
  passage = _get(
    "get_passage",
    _response("The passage.", "Passage"),
    parameters=[
      path,
      {
        "name": "system",
        "in": "query",
        "schema": _COUNT | {"maximum": systems, "default": 1},
      },
    ],
  )
  passage["get"]["responses"]["404"] = _response("There is none.", "Error")
  plain = {"content": {"text/plain": {"schema": _TEXT}}}
  whole = {"content": {"application/json": {"schema": {"type": "object"}}}}
  return {
    "openapi": "3.1.0",
    "info": {
      "title": "odqa_jax",
      "version": __version__,
      "description": "Answers to questions, with the passages they are from.",
    },
    "paths": {
      "/api/answer": _asks("answer", k, systems),
      "/api/search": _asks("search", min(SEARCH_LIMIT, passages), systems),
      "/api/passage/{id}": passage,
      "/api/openapi.json": _get(
        "get_openapi", {"description": "This document."} | whole
      ),
      "/healthz": _get(
        "get_health", {"description": "The server is there."} | whole
      ),
      "/metrics": _get(
        "get_metrics", {"description": "Counts, for Prometheus."} | plain
      ),
    },
    "components": {
      "schemas": {
        "Answer": _ANSWER,
        "Search": _SEARCH,
        "Passage": _PASSAGE,
        "Error": _ERROR,
      }
    },
  }
