"""Where the time of a program goes on a device, kernel by kernel."""

import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_TRACED = 3


def kernel_times(run: Callable[[], Any]) -> dict[str, tuple[float, float]]:
  """What the first device ran, longest first.

  Returns:
    Kernel and the operation that it belongs to → (milliseconds, times that it
    ran), of one call. Empty on a CPU, which has no such record.
  """
  jax.block_until_ready(run())
  spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(_TRACED):
        result = run()
      jax.block_until_ready(result)
    (path,) = Path(folder).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    for plane in data.planes:
      if not plane.name.startswith("/device:") or ":0" not in plane.name:
        continue
      for line in plane.lines:
        # The other lines sum the same events up by module and by name.
        if not line.name.startswith(("Stream", "XLA Ops")):
          continue
        for event in line.events:
          operation = dict(event.stats).get("hlo_op", "")
          entry = spent[f"{event.name} {operation}".strip()[:160]]
          entry[0] += event.duration_ns / 1e6
          entry[1] += 1
  longest = sorted(spent.items(), key=lambda item: -item[1][0])
  return {name: (ms / _TRACED, n / _TRACED) for name, (ms, n) in longest}


def write_profile(
  folder: Path, name: str, run: Callable[[], Any], program: Any
) -> None:
  """Writes `name.json.gz`: the kernels of a call, and its compiled text.

  Args:
    folder: made if it is not there.
    name: of the file.
    run: calls the program.
    program: compiled; its text says which operations a kernel fuses.
  """
  folder.mkdir(parents=True, exist_ok=True)
  kernels = [[k, round(ms, 4), n] for k, (ms, n) in kernel_times(run).items()]
  text = json.dumps({"kernels": kernels, "program": program.as_text()})
  (folder / f"{name}.json.gz").write_bytes(gzip.compress(text.encode()))
