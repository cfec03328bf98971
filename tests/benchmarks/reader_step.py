"""Where the time of an end-to-end training step goes, and what refresh costs.

    python tests/benchmarks/reader_step.py demo/individual_both --repeats 10

Takes the config of a training workdir, and times its parts one by one, each
waited for: question encoding with search, gathering of tokens, the training
step, and one step's share of an index refresh in every mode. In training the
first two overlap with the step before. Prints one JSON line.
"""

import argparse
import functools
import json
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.loader import train_batches
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.retrieval.refresh import Refresher
from odqa_jax.retrieval.retriever import index_corpus, make_retriever
from odqa_jax.runtime.mesh import make_mesh, to_global
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.initial import initial_components
from odqa_jax.training.optimizer import make_optimizer
from odqa_jax.training.pipelines import make_gatherer
from odqa_jax.training.program import TrainState, make_layout, train_step
from odqa_jax.training.retrieval import BatchRetrieval
from odqa_jax.training.tasks.table import check_names, make_task


def timed(run, repeats: int) -> list[float]:
  """Milliseconds of each call; the first one compiles and is left out."""
  jax.block_until_ready(run())
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(1000 * (time.perf_counter() - start))
  return seconds


def summary(milliseconds: list[float]) -> dict[str, float]:
  return {
    "median": round(float(np.median(milliseconds)), 1),
    "least": round(min(milliseconds), 1),
    "most": round(max(milliseconds), 1),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("workdir", type=Path)
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument("--every", type=int, default=100, help="refresh_every")
  args = parser.parse_args()
  config = ConfigDict(json.loads((args.workdir / "config.json").read_text()))
  settings = read_settings(config)
  data, k = settings.data, settings.retrieval.k
  mesh = make_mesh()
  corpus = Corpus(data.corpus)
  initial = initial_components(settings, check_names(settings), corpus, mesh)
  assert initial.inputs is not None, "a workdir of a task with a reader"
  encoder = initial.components["retriever"]
  task = make_task(settings, initial.components)
  tx = make_optimizer(
    settings.optimizer,
    steps=settings.steps,
    frozen_paths=task.frozen,
    rates=task.rates,
  )
  params = task.init(jax.random.key(0)) | initial.params
  state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
  gatherer = make_gatherer(settings, initial, corpus)
  retrieval = BatchRetrieval(encoder, gatherer, mesh, k=k, force_gold=False)
  retriever = make_retriever(
    encoder.config,
    params["retriever"],
    corpus.tokenizer,
    question_length=data.question_length,
    passage_length=data.passage_length,
    title=data.title,
  )
  with tempfile.TemporaryDirectory() as folder:
    index = index_corpus(retriever, corpus, Path(folder) / "index", mesh=mesh)
  examples = load_examples(data, corpus, initial.inputs.vocabulary)
  size = settings.batch_size
  batch = next(train_batches(examples, size, seed=0, rows=slice(0, size)))
  result = {"batch": size, "k": k, "passages": len(corpus)}

  def search():
    return retrieval.dispatch(params["retriever"], index, batch)

  result["encode_and_search_ms"] = summary(timed(search, args.repeats))
  candidates = search()
  result["gather_ms"] = summary(
    timed(lambda: retrieval.complete(batch, candidates), args.repeats)
  )
  placed = to_global(mesh, retrieval.complete(batch, candidates))
  # Not the loop's own program, which donates the state.
  layout = make_layout(settings, task, mesh, params)
  step = jax.jit(
    functools.partial(train_step, task=task, tx=tx, seed=0, layout=layout)
  )
  result["step_ms"] = summary(timed(lambda: step(state, placed), args.repeats))
  for mode in ("blocking", "snapshot", "rolling"):
    refresher = Refresher(
      mode,
      args.every,
      encoder.encode_passage,
      corpus,
      mesh,
      max_length=data.passage_length,
    )
    refreshed = refresher.begin(None, params["retriever"], 0)
    seconds = []
    for at in range(1, args.every + 1):
      start = time.perf_counter()
      refreshed = refresher.step(refreshed, params["retriever"], at)
      jax.block_until_ready(refreshed.embeddings)
      jax.block_until_ready(refreshed.building)
      seconds.append(time.perf_counter() - start)
    per_step = 1000 * sum(seconds) / args.every
    result[f"{mode}_ms_per_step"] = round(per_step, 1)
    result[f"{mode}_longest_ms"] = round(1000 * max(seconds), 1)
    result[f"{mode}_share_of_step"] = round(
      per_step / result["step_ms"]["median"], 3
    )
  print(json.dumps(result))


if __name__ == "__main__":
  main()
