"""Search beside faiss, torch, ScaNN and a naive `lax.top_k`, interleaved.

    python tests/benchmarks/search.py [--rows 1000000] [--width 768]
        [--batches 1,16,64,256] [--rounds 7] [--k 100] [--without scann]

All search the same rows on the same cores: in every round each system answers
the same questions once (as often as fills `--seconds`), so that all of them
meet the same noise. Printed per batch size: questions/s, the bytes of rows read
per second, recall@k against exact float64 search of a sample, and our rate
over each peer's in the same round, median and range, rounds left out in which
the peer is below 0.8 of its best. The read bandwidth is that of a sum over the
rows. Needs `pip install faiss-cpu torch==2.13.0`, and the `scann` extra unless
left out. The OpenBLAS of faiss's wheel does not know newer processors: set
OPENBLAS_CORETYPE to what yours can do, SkylakeX where there is AVX-512.
`threadpoolctl` tells what it takes a processor for; ours does not multiply with
it.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import jax
import numpy as np
import torch
from jax import lax
from pairs import quiet_pairs

from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends.codes import quantize
from odqa_jax.retrieval.backends.table import open_index
from odqa_jax.retrieval.index import load_index
from odqa_jax.runtime.mesh import make_mesh

# A search, and the bytes that it reads of every number of a row.
Search = Callable[[np.ndarray], np.ndarray]
SAMPLE = 64
SHARD_ROWS = 65536


def embeddings(count: int, width: int, seed: int) -> np.ndarray:
  """Like those of encoders: most of the variance in few directions.

  Row by row the same whatever `count` is.
  """
  mix = np.random.default_rng(0).standard_normal((64, width), np.float32)
  rng = np.random.default_rng(seed)
  rows = np.empty((count, width), np.float32)
  for start in range(0, count, 65536):
    part = rows[start : start + 65536]
    part[:] = rng.standard_normal((len(part), 64), np.float32) @ mix
    part += 2 * rng.standard_normal(part.shape, np.float32)
  return rows


def saved(rows: np.ndarray, dtype: str) -> Path:
  """The folder of an index of these rows."""
  partial = Path(tempfile.mkdtemp(prefix="odqa-search-"))
  folder = partial.with_name(f"{partial.name}-index")
  starts = range(0, len(rows), SHARD_ROWS)
  for i, start in enumerate(starts):
    part, sides = rows[start : start + SHARD_ROWS], {}
    if dtype == "int8":
      part, sides["scales"], sides["residuals"] = quantize(part)
    storage.save_shard(partial, i, start, part, **sides)
  made_from = {"dtype": dtype, "count": len(rows), "encoder": "random"}
  storage.finish(partial, folder, made_from, len(starts))
  return folder


def ours(rows: np.ndarray, k: int) -> dict[str, tuple[Search, int]]:
  """Exact search of float32 rows, int8 codes with rescoring, and a baseline."""
  mesh = make_mesh(devices=jax.devices()[:1])
  floats = load_index(saved(rows, "float32"), mesh)
  codes = open_index(saved(rows, "int8"), mesh)
  naive = jax.jit(lambda x, q: lax.top_k(q @ x.T, k)[1])
  return {
    "ours, f32": (lambda q: np.asarray(floats.search(q, k)[1]), 4),
    "ours, int8": (lambda q: np.asarray(codes.search(q, k)[1]), 1),
    "naive lax.top_k": (lambda q: np.asarray(naive(floats.embeddings, q)), 4),
  }


def peers(
  rows: np.ndarray, k: int, without: list[str]
) -> dict[str, tuple[Search, int]]:
  """The others, each as its documentation says."""
  width = rows.shape[1]
  found: dict[str, tuple[Search, int]] = {}
  if "faiss" not in without:
    flat = faiss.IndexFlatIP(width)
    flat.add(rows)

    def with_blas(queries: np.ndarray) -> np.ndarray:
      # Batches of fewer numbers than that are multiplied vector by vector.
      least = faiss.cvar.distance_compute_blas_threshold
      faiss.cvar.distance_compute_blas_threshold = 1
      best = flat.search(queries, k)[1]
      faiss.cvar.distance_compute_blas_threshold = least
      return best

    found["faiss Flat"] = (lambda q: flat.search(q, k)[1], 4)
    found["faiss Flat, BLAS"] = (with_blas, 4)
    codes = faiss.IndexScalarQuantizer(
      width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    codes.train(rows[:: max(len(rows) // 65536, 1)])
    codes.add(rows)
    found["faiss SQ8"] = (lambda q: codes.search(q, k)[1], 1)
  if "torch" not in without:
    held = torch.from_numpy(rows)

    def with_torch(queries: np.ndarray) -> np.ndarray:
      scores = torch.from_numpy(queries) @ held.T
      return torch.topk(scores, k, dim=1).indices.numpy()

    found["torch matmul, topk"] = (with_torch, 4)
  if "scann" not in without:
    found["ScaNN (ours to call)"] = (with_scann(rows, k), 0)
  return found


def with_scann(rows: np.ndarray, k: int) -> Search:
  """The `scann` backend, built as `odqa search --backend scann` builds it."""
  mesh = make_mesh(devices=jax.devices()[:1])
  index = open_index(saved(rows, "float32"), mesh, backend="scann")
  return lambda queries: np.asarray(index.search(queries, k)[1])


def recall(found: np.ndarray, best: np.ndarray) -> float:
  """The share of the true k that was found."""
  hits = [
    len(set(f) & set(b))
    for f, b in zip(found.tolist(), best.tolist(), strict=True)
  ]
  return sum(hits) / best.size


def true_best(rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
  """Float64 brute force, block by block."""
  scores = np.concatenate(
    [
      queries.astype(np.float64) @ rows[i : i + 65536].astype(np.float64).T
      for i in range(0, len(rows), 65536)
    ],
    axis=1,
  )
  return np.argpartition(-scores, k - 1, axis=1)[:, :k]


def rate(run: Search, queries: np.ndarray, seconds: float) -> float:
  """Questions per second."""
  calls, start = 0, time.perf_counter()
  while not calls or time.perf_counter() - start < seconds:
    run(queries)
    calls += 1
  return calls * len(queries) / (time.perf_counter() - start)


def spread(values: list[float]) -> str:
  """Median and range."""
  middle = statistics.median(values)
  return f"{middle:.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
  """Runs all batch sizes and prints a table and a JSON line for each."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--rows", type=int, default=1_000_000)
  parser.add_argument("--width", type=int, default=768)
  parser.add_argument("--batches", default="1,16,64,256")
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--seconds", type=float, default=0.5)
  parser.add_argument("--k", type=int, default=100)
  parser.add_argument("--without", default="", help="faiss,torch,scann")
  args = parser.parse_args()
  threads = len(os.sched_getaffinity(0))
  torch.set_num_threads(threads)
  faiss.omp_set_num_threads(threads)
  batches = [int(b) for b in args.batches.split(",")]
  rows = embeddings(args.rows, args.width, seed=1)
  queries = embeddings(max(*batches, SAMPLE), args.width, seed=2)
  best = true_best(rows, queries[:SAMPLE], args.k)
  systems = ours(rows, args.k) | peers(rows, args.k, args.without.split(","))
  recalls = {
    name: recall(run(queries[:SAMPLE]), best)
    for name, (run, _) in systems.items()
  }
  held = torch.from_numpy(rows)
  for batch in batches:
    asked = queries[:batch]
    for run, _ in systems.values():
      run(asked)
    rates: dict[str, list[float]] = {name: [] for name in systems}
    read = []
    for _ in range(args.rounds):
      start = time.perf_counter()
      held.sum()
      read.append(rows.nbytes / (time.perf_counter() - start) / 1e9)
      for name, (run, _) in systems.items():
        rates[name].append(rate(run, asked, args.seconds))
    print(f"\nbatch {batch}: {args.rows:,} × {args.width}, k = {args.k}, ")
    print(f"{threads} threads; reading {spread(read)} GB/s")
    for name, (_, size) in systems.items():
      passes = [r / batch * size * rows.size / 1e9 for r in rates[name]]
      line = {
        "batch": batch,
        "what": name,
        "questions_per_s": round(statistics.median(rates[name]), 2),
        "gb_per_s": round(statistics.median(passes), 1) if size else None,
        "recall": round(recalls[name], 4),
      }
      if not name.startswith("ours"):
        for our in ("ours, f32", "ours, int8"):
          pairs = quiet_pairs(list(zip(rates[our], rates[name], strict=True)))
          line[f"{our} over it"] = spread([a / b for a, b in pairs])
          line["pairs"] = len(pairs)
      print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main()
