"""run.json of a workdir: what a training ran on, when, and with what.

    record = RunRecord("work/ict", step=0, about={"seed": 3})
    record.update(80, "finished")

It is for people and reports; a training is taken up again without it.
"""

import datetime
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from odqa_jax.runtime.files import read_json, write_json
from odqa_jax.runtime.report import json_ready, versions

RUN = "run.json"


class Recipe(NamedTuple):
  """A config file as it is, before anything is changed in it.

  Attributes:
    name: as it was given, `configs/NAME.py:presets`.
    config: its values.
  """

  name: str
  config: Mapping[str, Any]


def hardware() -> dict[str, Any]:
  """The devices of all processes, and this process's machine."""
  devices = jax.devices()
  kinds = dict.fromkeys(device.device_kind for device in devices)
  machine = {
    "devices": f"{len(devices)} × {', '.join(kinds)} ({devices[0].platform})",
    "processes": jax.process_count(),
    "processor": _processor(),
    "cores": len(os.sched_getaffinity(0)),
    "memory_gib": None,
    "system": platform.platform(),
  }
  if "SC_PHYS_PAGES" in os.sysconf_names:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    machine["memory_gib"] = round(pages / 2**30, 1)
  return machine


def _processor() -> str:
  """What Linux calls the processor, else the architecture."""
  about = Path("/proc/cpuinfo")
  if about.is_file():
    for line in about.read_text(errors="replace").splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.machine()


class RunRecord:
  """Keeps run.json, a session for every part of a run; of process 0 alone."""

  def __init__(
    self,
    workdir: str | Path,
    *,
    step: int,
    about: Mapping[str, Any],
    started: float | None = None,
    enabled: bool = True,
  ) -> None:
    """Begins a session.

    Args:
      workdir: of the run.
      step: that it goes on from; 0 begins a run.
      about: what is known of the run as a whole.
      started: when, by `time.monotonic`; None is now.
      enabled: False on every process but the first.
    """
    self._enabled = enabled
    if not enabled:
      return
    self._path = Path(workdir) / RUN
    self._mark = time.monotonic() if started is None else started
    before = read_record(workdir) if step else {}
    now = datetime.datetime.now(datetime.UTC)
    begun = now - datetime.timedelta(seconds=time.monotonic() - self._mark)
    self._session = {
      "started": begun.isoformat(timespec="seconds"),
      "from_step": step,
      "to_step": step,
      "seconds": 0.0,
      "ended": "",
      "hardware": hardware(),
      "versions": versions(),
    }
    self._record = json_ready(
      {
        **before,
        **{k: v for k, v in about.items() if v is not None},
        "sessions": [*before.get("sessions", []), self._session],
      }
    )
    self.update(step)

  def update(self, step: int, ended: str = "") -> None:
    """Notes how far the session is.

    Args:
      step: that is saved.
      ended: "finished" or "stopped"; "" while it goes on, and after a kill.
    """
    if self._enabled:
      seconds = round(time.monotonic() - self._mark, 1)
      self._record["sessions"][-1] |= {
        "to_step": step,
        "seconds": seconds,
        "ended": ended,
      }
      write_json(self._path, self._record)


def read_record(workdir: str | Path) -> dict[str, Any]:
  """What run.json says; {} for a run of an older version.

  Raises:
    Damage: if it is not JSON.
  """
  path = Path(workdir) / RUN
  return read_json(path) if path.is_file() else {}
