"""Ctrl-C and SIGTERM as a request that a long run answers when it can."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOPPING = (
  b"\nstopping after this step, and saving; once more stops without saving\n"
)


class Interrupted(Exception):
  """The run was told to stop; what was done is saved."""


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
  """Turns the first Ctrl-C or SIGTERM into a request; the second is final.

  It is confirmed on stderr at once. Outside the main thread signals stay as
  they are.
  """
  requests: list[int] = []

  def handle(number: int, frame: Any) -> None:
    del frame
    if requests:
      raise KeyboardInterrupt
    requests.append(number)

  if threading.current_thread() is not threading.main_thread():
    yield lambda: False
    return
  before = {number: signal.signal(number, handle) for number in _SIGNALS}
  try:
    with _confirmed():
      yield lambda: bool(requests)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


@contextmanager
def _confirmed() -> Iterator[None]:
  """Says that a signal has come, also while the main thread compiles.

  A handler in Python waits until the main thread is back from C; what the
  system calls writes to a pipe, which another thread reads.
  """
  reading, writing = os.pipe()
  os.set_blocking(writing, False)

  def confirm() -> None:
    said = False
    while number := os.read(reading, 1):
      if number[0] in _SIGNALS and not said:
        said = True
        os.write(2, _STOPPING)
    os.close(reading)

  before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
  thread = threading.Thread(target=confirm, daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(writing)
    thread.join()
