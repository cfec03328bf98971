"""What groups by length save of a training step with a reader.

    python tests/benchmarks/length_groups.py data/corpus --task individual

Lengths are those of the corpus, drawn for every step; tokens and weights are
random. Step times are taken in turns, with and without groups, and told as the
ratio of the best; FLOPs are those of the matrix products. One JSON line.
"""

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models import dual_encoder, t5
from odqa_jax.models.length_groups import LengthProfile
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.mesh import make_mesh, to_global
from odqa_jax.runtime.settings import Settings, read_settings
from odqa_jax.training.initial_reader import reader_config
from odqa_jax.training.initial_retriever import encoder_config
from odqa_jax.training.length_groups import with_profiles
from odqa_jax.training.memory import Run, abstract_batch
from odqa_jax.training.program import batch_gradients, make_layout
from odqa_jax.training.tasks.table import check_names, make_task

VOCABULARY = 30000


@dataclasses.dataclass
class Ids:
  size: int = VOCABULARY
  pad_id: int = 0
  start_id: int = 1
  eos_id: int = 2


def settings_of(args: argparse.Namespace) -> Settings:
  config = base_config()
  config.update_from_flattened_dict(
    {
      "task": args.task,
      "batch_size": args.questions,
      "data.source": "answers",
      "data.passage_length": args.passage_length,
      "data.reader_length": args.reader_length,
      "model.preset": args.preset,
      "reader.preset": args.preset,
      "retrieval.k": args.k,
    }
  )
  return read_settings(config)


def run_of(settings: Settings) -> Run:
  components = {
    "retriever": dual_encoder.DualEncoder(
      encoder_config(settings.model, VOCABULARY)
    ),
    "reader": t5.T5(reader_config(settings.reader, Ids())),
  }
  mesh = make_mesh(devices=jax.devices()[:1])
  return Run(settings, check_names(settings), components, mesh, passages=1)


def drawn(
  run: Run, lengths: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
  """A batch of random tokens; passages and inputs have drawn lengths."""
  batch = {}
  for name, x in abstract_batch(run.settings, run.needs, None).items():
    high = 1000 if name.endswith("ids") else 5
    batch[name] = rng.integers(3, high, x.shape).astype(x.dtype)
  batch["example_mask"][:] = True
  rows = rng.integers(len(lengths["passage"]), size=(len(batch["answer_ids"]),
                      run.settings.retrieval.k))  # fmt: skip
  for name, of_rows in lengths.items():
    batch[f"{name}_lengths"] = of_rows[rows].astype(np.int32)
  return batch


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("corpus", type=Path)
  parser.add_argument("--reader", type=Path, help="a second token store")
  parser.add_argument("--task", default="individual")
  parser.add_argument("--preset", default="tiny")
  parser.add_argument("--passage-length", type=int, default=256)
  parser.add_argument("--reader-length", type=int, default=512)
  parser.add_argument("--questions", type=int, default=2)
  parser.add_argument("--k", type=int, default=32)
  parser.add_argument("--groups", type=int, default=4)
  parser.add_argument("--step", type=int, default=32)
  parser.add_argument("--repeats", type=int, default=5, help="0: FLOPs alone")
  args = parser.parse_args()
  run = run_of(settings_of(args))
  passages = Corpus(args.corpus).packed_lengths(args.passage_length)
  store = Corpus(args.reader or args.corpus)
  # As long as a question of 12 tokens and the words between make it.
  reads = np.minimum(np.diff(store.text_offsets) + 20, args.reader_length)
  of = functools.partial(LengthProfile.of, groups=args.groups, step=args.step)
  profiles = {"retriever": of(passages), "reader": of(reads)}
  rng = np.random.default_rng(0)
  batch = drawn(run, {"passage": passages, "reader": reads}, rng)
  plain = make_task(run.settings, run.components)
  grouped = with_profiles(plain, run, profiles)
  figures: dict[str, Any] = {
    "task": args.task,
    "rows": args.questions * args.k,
    "flops_ratio": round(plain.flops(batch) / grouped.flops(batch), 3),
  }
  if args.repeats:
    figures |= timed(run, {"plain": plain, "grouped": grouped}, batch, args)
  print(json.dumps(figures))


def timed(
  run: Run,
  tasks: dict[str, Any],
  batch: dict[str, np.ndarray],
  args: argparse.Namespace,
) -> dict[str, Any]:
  """Compiles both gradients, then runs them in turns."""
  params = tasks["plain"].init(jax.random.key(0))
  layout = make_layout(run.settings, tasks["plain"], run.mesh, params)
  placed, inputs = params, to_global(run.mesh, batch)
  programs, figures = {}, {}
  for name, task in tasks.items():
    step = functools.partial(
      batch_gradients, loss=task.loss, layout=layout, parts=1
    )
    start = time.perf_counter()
    rng = jax.random.key(0)
    programs[name] = jax.jit(step).lower(placed, inputs, rng).compile()
    figures[f"compile_{name}_s"] = round(time.perf_counter() - start, 1)
  best = dict.fromkeys(programs, np.inf)
  for _ in range(args.repeats):
    for name, program in programs.items():
      start = time.perf_counter()
      _, metrics = jax.block_until_ready(program(placed, inputs, rng))
      best[name] = min(best[name], time.perf_counter() - start)
  share = metrics["in_length_groups"][0] / metrics["in_length_groups"][1]
  return figures | {
    "fits": float(share),
    "plain_s": round(best["plain"], 3),
    "grouped_s": round(best["grouped"], 3),
    "speed_ratio": round(best["plain"] / best["grouped"], 3),
  }


if __name__ == "__main__":
  main()
