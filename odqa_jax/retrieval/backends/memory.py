"""Whether rows fit in memory, asked before they are placed.

A device that runs out says so late and names no remedy; a host is killed.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

# Bytes that a device has free; None where nobody knows.
Free = Callable[[jax.Device], int | None]
# More than there is.
_UNKNOWN = 2**61
_MEMINFO = Path("/proc/meminfo")


def host_bytes() -> int | None:
  """Bytes that this machine can give to a program; None where unknown."""
  if not _MEMINFO.exists():
    return None
  for line in _MEMINFO.read_text().splitlines():
    name, _, value = line.partition(":")
    if name == "MemAvailable":
      return int(value.split()[0]) * 1024
  return None


def free_bytes(device: jax.Device) -> int | None:
  """Bytes that a device has free; None where unknown.

  CPU devices share the memory of their host.
  """
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
  available = host_bytes() if device.platform == "cpu" else None
  return None if available is None else available // jax.local_device_count()


def check_fits(
  what: str, needed: int, mesh: Mesh, *, free: Free = free_bytes
) -> None:
  """Refuses to place what the devices cannot hold.

  With several processes all of them must call this together, so that all of
  them refuse.

  Args:
    what: names it in the error.
    needed: bytes on every device.
    mesh: the devices.
    free: says what a device has free.

  Raises:
    ValueError: naming the bytes needed, the bytes free and what can be done.
  """
  known = [n for n in map(free, mesh.local_devices) if n is not None]
  least = min(known, default=_UNKNOWN)
  processes = {d.process_index for d in mesh.devices.flat}
  if len(processes) > 1:
    # In halves: on the way JAX keeps 32 bits of a number.
    halves = np.array(divmod(least, 2**31), np.int32)
    gathered = np.asarray(multihost_utils.process_allgather(halves))
    least = min(int(high) * 2**31 + int(low) for high, low in gathered)
  if needed <= least:
    return
  raise ValueError(
    f"{what} needs {needed:,} bytes on each of {mesh.size} devices, but only "
    f"{least:,} are free; leave the rows on the host (--backend host), store "
    "them in fewer bytes (odqa index --dtype bf16 or int8), or use more "
    "devices."
  )


def check_host(what: str, needed: int) -> None:
  """Refuses what the memory of this machine cannot hold.

  Args:
    what: names it in the error.
    needed: bytes.

  Raises:
    ValueError: naming the bytes needed, the bytes free and what can be done.
  """
  available = host_bytes()
  if available is not None and needed > available:
    raise ValueError(
      f"{what} needs {needed:,} bytes of this machine's memory, but only "
      f"{available:,} are free; use a machine with more, or --backend host, "
      "which holds a few blocks at a time."
    )
