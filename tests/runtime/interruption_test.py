"""A signal is confirmed at once, and answered when the run can."""

import os
import signal
import threading

import pytest

from odqa_jax.runtime.interruption import stop_requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_a_request_and_the_second_final(number, capfd):
  before = signal.getsignal(number)
  with stop_requested() as is_requested:
    assert not is_requested()
    os.kill(os.getpid(), number)
    assert is_requested()
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), number)
  said = capfd.readouterr().err
  assert said.count("stopping after this step") == 1
  assert signal.getsignal(number) is before
  assert signal.set_wakeup_fd(-1) == -1


def test_without_a_signal_nothing_is_said(capfd):
  with stop_requested() as is_requested:
    assert not is_requested()
  assert capfd.readouterr().err == ""


def test_other_threads_leave_signals_alone():
  before, seen = signal.getsignal(signal.SIGINT), []

  def run():
    with stop_requested() as is_requested:
      seen.append((signal.getsignal(signal.SIGINT) is before, is_requested()))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert seen == [(True, False)]
