"""The page and the API, as an ASGI application.

    worker = Worker([system], batch_size=8, queue_size=64, metrics=metrics)
    app = make_app(worker, metrics, hosts=["localhost"])

Everything that is shown is escaped by the templates; the browser is told to
run no script and load nothing but what the package brings.
"""

import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
  HTMLResponse,
  JSONResponse,
  Response,
  StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from odqa_jax.serving.answering import ANSWERED
from odqa_jax.serving.views import Record, pieces
from odqa_jax.serving.web.asked import (
  QUESTION_LIMIT,
  Asked,
  read_asked,
  read_question,
)
from odqa_jax.serving.web.metrics import CONTENT_TYPE, Metrics
from odqa_jax.serving.web.openapi import openapi
from odqa_jax.serving.web.worker import Ended, Failed, Full, Job, Worker

_HEADERS = {
  "content-security-policy": "default-src 'none'; script-src 'self'; style-src "
  "'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri "
  "'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
  "cache-control": "no-cache",
}
_LINES = "application/x-ndjson"


@dataclasses.dataclass(frozen=True)
class _Pages:
  """What the routes share."""

  worker: Worker
  metrics: Metrics
  examples: Sequence[str]
  seconds: float
  templates: Environment

  async def page(self, request: Request) -> Response:
    """The page; with `q` in its address, answered for want of a script."""
    question, results, status = request.query_params.get("q", ""), [], 200
    if question.strip():
      for system in range(len(self.worker.systems)):
        html, failed = await self._whole(question, system)
        results.append(html)
        status = max(status, failed)
    page = self._render(
      "page.html",
      question=question[:QUESTION_LIMIT],
      results=results,
      systems=self.worker.systems,
      examples=self.examples,
      limit=QUESTION_LIMIT,
    )
    return HTMLResponse(page, status)

  async def _whole(self, question: str, system: int) -> tuple[str, int]:
    """What one system says, as HTML, and the status."""
    try:
      text = read_question(question)
      asked = Asked(text, self.worker.systems[system].k, system, False)
      record = await self._last("answer", asked)
    except HTTPException as error:
      return self._result(system, "failed", {"error": error.detail}), (
        error.status_code
      )
    return self._result(system, ANSWERED, record), 200

  async def results(self, request: Request) -> Response:
    """Stages of an answer as lines of JSON: `stage` and its `html`."""
    asked = await read_asked(request, self.worker.systems, "answer")

    def line(stage: str, record: Record) -> Record:
      return {
        "stage": stage,
        "html": self._result(asked.system, stage, record),
      }

    return await self._stream(asked, line)

  async def answer(self, request: Request) -> Response:
    """The answer of one question, or its stages."""
    asked = await read_asked(request, self.worker.systems, "answer")
    if asked.stream:
      return await self._stream(asked, lambda s, record: {"stage": s} | record)
    return JSONResponse(await self._last("answer", asked))

  async def search(self, request: Request) -> Response:
    """The best passages of one question."""
    asked = await read_asked(request, self.worker.systems, "search")
    return JSONResponse(await self._last("search", asked))

  async def passage(self, request: Request) -> Response:
    """One passage by its id."""
    name = request.path_params["id"]
    systems = self.worker.systems
    number = request.query_params.get("system", "1")
    if number not in [str(i + 1) for i in range(len(systems))]:
      raise HTTPException(
        400, f"system={number[:20]}: choose from 1 to {len(systems)}."
      )
    corpus = systems[int(number) - 1].corpus
    row = corpus.find(name)
    if row is None:
      raise HTTPException(404, f"there is no passage {name[:80]!r}.")
    return JSONResponse(
      {
        "n": 1,
        "id": corpus.id(row),
        "title": corpus.title(row),
        "text": corpus.text(row),
        "scores": {},
        "highlights": [],
      }
    )

  async def description(self, request: Request) -> Response:
    """The OpenAPI document."""
    del request
    systems = self.worker.systems
    return JSONResponse(
      openapi(
        k=max(s.k for s in systems),
        passages=max(len(s.corpus) for s in systems),
        systems=len(systems),
      )
    )

  async def health(self, request: Request) -> Response:
    """That the server is there, and what it serves."""
    del request
    served = [
      {"name": s.name, "passages": len(s.corpus), "components": [*s.versions]}
      for s in self.worker.systems
    ]
    return JSONResponse({"status": "ok", "systems": served})

  async def counts(self, request: Request) -> Response:
    """The metrics."""
    del request
    return Response(self.metrics.text(), media_type=CONTENT_TYPE)

  async def _events(
    self, task: str, asked: Asked
  ) -> AsyncIterator[tuple[str, Record]]:
    """The stages of a job.

    Raises:
      HTTPException: 503, 504 or 500.
    """
    job = Job(task, asked.question, asked.k, asked.system)
    try:
      async for event in self.worker.ask(job, self.seconds):
        yield event
    except Full as full:
      headers = {"Retry-After": str(full.seconds)}
      raise HTTPException(503, str(full), headers) from full
    except Ended as ended:
      raise HTTPException(503, str(ended)) from ended
    except TimeoutError as late:
      raise HTTPException(
        504, f"no answer within {self.seconds:g} seconds; ask again later."
      ) from late
    except Failed as failed:
      raise HTTPException(500, str(failed)) from failed

  async def _last(self, task: str, asked: Asked) -> Record:
    *_, (_, record) = [event async for event in self._events(task, asked)]
    return record

  async def _stream(
    self, asked: Asked, line: Callable[[str, Record], Record]
  ) -> Response:
    """A line for every stage; what fails before the first is a status."""
    events = self._events("answer", asked)
    first = await anext(events)

    async def lines() -> AsyncIterator[str]:
      yield json.dumps(line(*first)) + "\n"
      try:
        async for event in events:
          yield json.dumps(line(*event)) + "\n"
      except HTTPException as error:
        yield json.dumps(line("failed", {"error": error.detail})) + "\n"

    return StreamingResponse(lines(), media_type=_LINES)

  def _result(self, system: int, stage: str, record: Record) -> str:
    return self._render(
      "result.html",
      system=self.worker.systems[system],
      number=system + 1,
      several=len(self.worker.systems) > 1,
      stage=stage,
      record=record,
    )

  def _render(self, name: str, **values: Any) -> str:
    return self.templates.get_template(name).render(**values)


def make_app(
  worker: Worker,
  metrics: Metrics,
  *,
  hosts: Sequence[str],
  examples: Sequence[str] = (),
  seconds: float = 60.0,
) -> Starlette:
  """The application; it starts and ends the worker.

  Args:
    worker: with the systems.
    metrics: that of the worker.
    hosts: names by which the server may be asked.
    examples: questions to show.
    seconds: after which an answer is too late.
  """
  templates = Environment(
    loader=PackageLoader("odqa_jax.serving.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  templates.filters["pieces"] = lambda p: pieces(p["text"], p["highlights"])
  pages = _Pages(worker, metrics, examples, seconds, templates)

  @asynccontextmanager
  async def lifespan(app: Starlette) -> AsyncIterator[None]:
    del app
    worker.start()
    try:
      yield
    finally:
      worker.close()

  both = ["GET", "POST"]
  return Starlette(
    routes=[
      Route("/", pages.page),
      Route("/results", pages.results, methods=both),
      Route("/api/answer", pages.answer, methods=both),
      Route("/api/search", pages.search, methods=both),
      Route("/api/passage/{id:path}", pages.passage),
      Route("/api/openapi.json", pages.description),
      Route("/healthz", pages.health),
      Route("/metrics", pages.counts),
      Mount(
        "/static",
        StaticFiles(packages=[("odqa_jax.serving.web", "static")]),
      ),
    ],
    middleware=[
      Middleware(_Watched, metrics=metrics),
      Middleware(
        TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False
      ),
    ],
    exception_handlers={HTTPException: _refused},
    lifespan=lifespan,
  )


async def _refused(request: Request, error: Exception) -> Response:
  del request
  assert isinstance(error, HTTPException)
  content = {"error": error.detail}
  return JSONResponse(content, error.status_code, error.headers)


class _Watched:
  """Adds the headers to every answer, and counts it."""

  def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
    self._app, self._metrics = app, metrics

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
      return await self._app(scope, receive, send)
    start, status = time.monotonic(), 500

    async def with_headers(message: Message) -> None:
      nonlocal status
      if message["type"] == "http.response.start":
        status = message["status"]
        added = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
        message["headers"] = [*message.get("headers", ()), *added]
      await send(message)

    try:
      await self._app(scope, receive, with_headers)
    finally:
      found = scope.get("route")
      route = found.path if found else "other"
      self._metrics.requests.labels(route=route, status=str(status)).inc()
      self._metrics.seconds.labels(route=route).observe(
        time.monotonic() - start
      )
