"""The memory that rows need, against what there is."""

from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from random_corpus import first_devices, save

from odqa_jax.retrieval.backends import memory
from odqa_jax.retrieval.index import load_index


@pytest.mark.parametrize("devices", [1, 8])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, devices: int):
  """Before anything is placed; what to do is in the message."""
  directory = save(tmp_path / "index", np.ones((1000, 24), np.float32))
  mesh = first_devices(devices)
  # Every device holds a multiple of 64 rows.
  needed = -(-1000 // (64 * devices)) * 64 * 24 * 4
  load_index(directory, mesh, free=lambda device: needed)
  load_index(directory, mesh, free=lambda device: None)
  before = len(jax.live_arrays())
  with pytest.raises(ValueError) as error:
    # The last device has the least.
    devices_free = {d: needed for d in mesh.devices.flat}
    devices_free[mesh.devices.flat[-1]] = needed - 1
    load_index(directory, mesh, free=devices_free.get)
  assert len(jax.live_arrays()) == before
  message = str(error.value)
  for part in (
    f"index needs {needed:,} bytes on each of {devices} devices",
    f"only {needed - 1:,} are free",
    "--backend host",
    "--dtype bf16 or int8",
    "more devices",
  ):
    assert part in message


def device(platform: str, stats: dict[str, int] | None) -> Any:
  """A device that says what memory it has."""
  made = mock.create_autospec(jax.Device, instance=True)
  made.platform = platform
  made.memory_stats = lambda: stats
  return made


def test_free_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  free = memory.free_bytes
  assert free(device("gpu", {"bytes_limit": 100, "bytes_in_use": 30})) == 70
  assert free(device("gpu", None)) is None
  assert free(device("tpu", {})) is None
  info = tmp_path / "meminfo"
  monkeypatch.setattr(memory, "_MEMINFO", info)
  assert memory.host_bytes() is None
  assert free(device("cpu", None)) is None
  info.write_text("MemTotal: 99 kB\nMemAvailable:   80 kB\n")
  assert memory.host_bytes() == 80 * 1024
  # Eight CPU devices share the host.
  assert free(device("cpu", None)) == 10 * 1024
