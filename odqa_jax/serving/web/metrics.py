"""What a server counts, for Prometheus."""

from prometheus_client import (
  CollectorRegistry,
  Counter,
  Gauge,
  Histogram,
  ProcessCollector,
  generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
  """The counts of one server.

  Attributes:
    requests: by route and status.
    seconds: of requests, by route, until the last byte.
    stage: seconds of a batch in each stage.
    batch: questions that were answered together.
    waiting: questions in the queue.
  """

  def __init__(self) -> None:
    self._registry = CollectorRegistry()
    self.requests = Counter(
      "odqa_requests",
      "Requests that were answered.",
      ("route", "status"),
      registry=self._registry,
    )
    self.seconds = Histogram(
      "odqa_request_seconds",
      "Time of a request, until its last byte.",
      ("route",),
      buckets=_SECONDS,
      registry=self._registry,
    )
    self.stage = Histogram(
      "odqa_stage_seconds",
      "Time of a batch of questions in a stage.",
      ("stage",),
      buckets=_SECONDS,
      registry=self._registry,
    )
    self.batch = Histogram(
      "odqa_batch_questions",
      "Questions that were answered together.",
      buckets=(1, 2, 4, 8, 16, 32, 64),
      registry=self._registry,
    )
    self.waiting = Gauge(
      "odqa_queue_length",
      "Questions that wait.",
      registry=self._registry,
    )
    ProcessCollector(registry=self._registry)

  def text(self) -> bytes:
    """All of them, as Prometheus reads them."""
    return bytes(generate_latest(self._registry))
