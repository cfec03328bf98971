"""One of the processes of `refresh_test.test_two_processes`.

Usage: refresh_worker.py PORT PROCESSES PROCESS FOLDER

Refreshes an index in every mode, saving it in the middle of a period, going on
with what was restored, and writing the last index to FOLDER/MODE.npy.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from random_corpus import Tokens
from refresh_test import LENGTH, REFRESHING, bag_of_words, table

from odqa_jax.retrieval.refresh import Refresher
from odqa_jax.runtime.checkpoint import Checkpoints
from odqa_jax.runtime.mesh import (
  make_mesh,
  replicated,
  start_distributed,
  sync,
  to_host,
)


class OwnRows(Tokens):
  """Rows that this process has no device for may not be asked for.

  Only the first row of all may: fillings are computed with it.
  """

  def passage_inputs(self, rows, length):
    own = len(jax.local_devices()) * 64 * 2
    first = jax.process_index() * own
    assert ((rows == 0) | ((rows >= first) & (rows < first + own))).all()
    return super().passage_inputs(rows, length)


def main(port: str, processes: int, process: int, folder: Path) -> None:
  if processes > 1:
    start_distributed(f"localhost:{port}", processes, process)
  assert len(jax.devices()) == 4
  mesh, corpus = make_mesh(), OwnRows(450)

  def weights(step):
    where = replicated(mesh)
    whole = table(step)
    return {
      "w": jax.make_array_from_callback(whole.shape, where, whole.__getitem__)
    }

  for mode in REFRESHING:
    refresher = Refresher(
      mode, 6, bag_of_words, corpus, mesh, max_length=LENGTH, batch_tokens=320
    )
    state = refresher.begin(None, weights(0), 0)
    with Checkpoints(folder / mode) as checkpoints:
      for step in range(1, 16):
        params = weights(step)
        with jax.transfer_guard("disallow"):
          state = refresher.step(state, params, step)
          assert refresher.age(state, step) >= 0
        if step == 9:
          checkpoints.save(step, {"refresh": state}, {})
          checkpoints.wait()
          abstract = {"refresh": refresher.abstract(params)}
          state = checkpoints.restore(abstract)[0]["refresh"]
    index = refresher.index(state)
    rows = to_host(index.embeddings)[: index.count]
    if jax.process_index() == 0:
      np.save(folder / f"{mode}.npy", np.asarray(rows, np.float32))
    sync("saved")
    assert np.isfinite(np.load(folder / f"{mode}.npy")).all()


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
