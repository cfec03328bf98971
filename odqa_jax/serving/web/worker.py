"""The one thread that asks the systems, and the queue before it.

    worker = Worker([system], batch_size=8, queue_size=64, metrics=Metrics())
    worker.start()
    async for stage, record in worker.ask(Job("answer", "who …", k=5), 30.0):
      ...

Questions that wait together are answered together. The queue is bounded: who
comes when it is full is told at once, and when to come again.
"""

import asyncio
import collections
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from odqa_jax.serving.answering import ANSWERED, Answering
from odqa_jax.serving.views import Record
from odqa_jax.serving.web.metrics import Metrics

_LOG = logging.getLogger(__name__)
# What is being answered at the end has so many seconds more.
GRACE = 5.0
Event = tuple[str, Record] | Exception


class Full(Exception):
  """The queue is.

  Attributes:
    seconds: after which there may be room again.
  """

  def __init__(self, seconds: int) -> None:
    super().__init__("too many questions wait; ask again later.")
    self.seconds = seconds


class Failed(Exception):
  """A question that could not be answered; the log says why."""


class Ended(Exception):
  """The server ends before the question is answered."""

  def __init__(self) -> None:
    super().__init__("the server ends; ask again later.")


class Job:
  """One question; to be made where it is waited for.

  Attributes:
    task: "answer" or "search".
    question: its text.
    k: passages that are found.
    system: which of the systems.
    left: whether nobody waits any more.
  """

  def __init__(self, task: str, question: str, k: int, system: int = 0) -> None:
    self.task, self.question, self.k, self.system = task, question, k, system
    self.left = False
    self._loop = asyncio.get_running_loop()
    self._events: asyncio.Queue[Event] = asyncio.Queue()

  @property
  def together(self) -> tuple[str, int, int]:
    """Jobs that have it in common are done at once."""
    return self.task, self.system, self.k

  def tell(self, event: Event) -> None:
    """From the worker's thread."""
    try:
      self._loop.call_soon_threadsafe(self._events.put_nowait, event)
    except RuntimeError:
      # The loop is closed: the server has ended.
      self.left = True

  async def events(self) -> AsyncIterator[tuple[str, Record]]:
    """What the worker tells, until the last stage."""
    while True:
      event = await self._events.get()
      if isinstance(event, Exception):
        raise event
      yield event
      if event[0] == ANSWERED:
        return


class Worker:
  """See the module."""

  def __init__(
    self,
    systems: Sequence[Answering],
    *,
    batch_size: int,
    queue_size: int,
    metrics: Metrics,
  ) -> None:
    self.systems = systems
    self._batch_size, self._queue_size = batch_size, queue_size
    self._metrics = metrics
    self._waiting: collections.deque[Job] = collections.deque()
    self._changed = threading.Condition()
    self._closed = False
    self._asked: Sequence[Job] = ()
    # Of the last batch.
    self._seconds = 1.0
    # A daemon, so that a process that is told to end does not wait for it.
    self._thread = threading.Thread(
      target=self._work, name="answering", daemon=True
    )

  def start(self) -> None:
    """Begins to answer."""
    self._thread.start()

  def close(self) -> None:
    """Ends after the batch that is being answered; waits a while for it."""
    self.dismiss()
    if self._thread.is_alive():
      self._thread.join(GRACE)

  def dismiss(self, seconds: float = GRACE) -> None:
    """Takes no more questions, and tells those that wait.

    Args:
      seconds: after which those that are being answered are told too.
    """
    with self._changed:
      if self._closed:
        return
      self._closed = True
      for job in self._waiting:
        job.tell(Ended())
      self._waiting.clear()
      self._changed.notify()
    late = threading.Timer(seconds, self._give_up)
    late.daemon = True
    late.start()

  def _give_up(self) -> None:
    """What the thread computes cannot be stopped, but nobody waits for it."""
    for job in self._asked:
      job.tell(Ended())

  async def ask(
    self, job: Job, seconds: float
  ) -> AsyncIterator[tuple[str, Record]]:
    """(stage, record) of a question, the last stage being the answer.

    Raises:
      Full: if too many wait.
      Ended: if the server ends first.
      Failed: if it could not be answered.
      TimeoutError: if it was not within so many seconds.
    """
    self._submit(job)
    try:
      async with asyncio.timeout(seconds):
        async for event in job.events():
          yield event
    finally:
      job.left = True

  def _submit(self, job: Job) -> None:
    with self._changed:
      waiting = len(self._waiting)
      if waiting >= self._queue_size or self._closed:
        batches = waiting / self._batch_size
        raise Full(max(1, math.ceil(self._seconds * batches)))
      self._waiting.append(job)
      self._metrics.waiting.set(waiting + 1)
      self._changed.notify()

  def _next(self) -> list[Job]:
    """Those to be done now; none at the end."""
    with self._changed:
      while True:
        self._changed.wait_for(lambda: self._waiting or self._closed)
        if self._closed:
          return []
        present = [job for job in self._waiting if not job.left]
        same = [j for j in present if j.together == present[0].together]
        chosen = same[: self._batch_size]
        rest = [job for job in present if job not in chosen]
        self._waiting = collections.deque(rest)
        self._metrics.waiting.set(len(rest))
        if chosen:
          return chosen

  def _work(self) -> None:
    while jobs := self._next():
      start = time.monotonic()
      self._metrics.batch.observe(len(jobs))
      self._asked = jobs
      self._do(jobs)
      self._seconds = time.monotonic() - start

  def _do(self, jobs: Sequence[Job]) -> None:
    """Tells every stage; of questions that fail together, each for itself."""
    try:
      for stage, records in self._stages(jobs):
        for job, record in zip(jobs, records, strict=True):
          job.tell((stage, record))
    except Exception as error:
      # Whatever it is, the next question must be answered.
      if len(jobs) > 1:
        for job in jobs:
          self._do([job])
        return
      _LOG.exception("a question could not be answered")
      jobs[0].tell(Failed(f"could not be answered: {type(error).__name__}."))

  def _stages(
    self, jobs: Sequence[Job]
  ) -> Iterator[tuple[str, Sequence[Record]]]:
    """The stages of a batch, each timed."""
    first = jobs[0]
    system = self.systems[first.system]
    questions = [job.question for job in jobs]
    then = time.monotonic()
    stages: Any
    if first.task == "search":
      stages = iter([(ANSWERED, system.search(questions, first.k))])
    else:
      stages = system.stages(questions, first.k)
    for stage, records in stages:
      now = time.monotonic()
      name = "searched" if first.task == "search" else stage
      self._metrics.stage.labels(stage=name).observe(now - then)
      then = now
      yield stage, records
