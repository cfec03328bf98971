"""What a figure was computed on."""

import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import jax


def hardware() -> dict[str, Any]:
  """This machine: `devices` as JAX names them, `processor`, `cores`, `system`.

  With several processes, the devices are those of all of them.
  """
  kinds = Counter(device.device_kind for device in jax.devices())
  devices = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
  return {
    "devices": devices,
    "processor": _processor(),
    "cores": os.cpu_count() or 1,
    "system": platform.platform(),
  }


def _processor() -> str:
  """The CPU's name, which Python knows on few systems."""
  try:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
      key, _, value = line.partition(":")
      if key.strip() == "model name":
        return value.strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()
