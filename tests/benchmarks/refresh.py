"""What refreshing the index during end-to-end training is worth, in recall.

    python tests/benchmarks/refresh.py demo --out /tmp/refresh --steps 300 \
      --every 75

Trains Individual Top-k with both encoders from the reader of a demo's workdir,
once without refresh and once with `blocking` refresh, and measures both on a
new index. Prints one JSON line for each.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.demo.presets import PRESETS, ReaderPreset
from odqa_jax.demo.reader import reader_stage
from odqa_jax.demo.retriever import held_out_questions, stage_config
from odqa_jax.evaluation.measures import evaluate_ranking
from odqa_jax.evaluation.systems import rank_passages
from odqa_jax.retrieval.retriever import index_corpus, load_retriever
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.training.train import train


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("demo", type=Path, help="workdir of `odqa demo`")
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--every", type=int, default=75)
  args = parser.parse_args()
  report = json.loads((args.demo / "report.json").read_text())
  preset, data = PRESETS["default"], args.demo / "data"
  name = preset.sets[-1]
  sizes = dataclasses.replace(ReaderPreset(), refresh_every=args.every)
  corpus = Corpus(data / "corpus")
  questions = held_out_questions(data, name, preset.test_questions)
  for refresh in ("none", "blocking"):
    config = reader_stage(
      sizes,
      stage_config(
        preset, data, source="pairs", seed=report["seed"], init_from=""
      ),
      data,
      f"{name}-train",
      args.demo / "index" / "ict_supervised",
      task="individual",
      steps=args.steps,
      k=sizes.k,
      rate=sizes.end_rate,
      init_from=str(args.demo / "reader"),
      passage_encoder=True,
    )
    with config.unlocked():
      config.retrieval.refresh = refresh
    train(config, args.out / refresh)
    retriever = load_retriever(args.out / refresh)
    folder = args.out / "index" / refresh
    index = index_corpus(retriever, corpus, folder, mesh=make_mesh())
    ranking = rank_passages(retriever, index, corpus, questions, k=100)
    figures = evaluate_ranking(ranking, questions, corpus)
    print(json.dumps({"refresh": refresh, "recall": figures["recall"]}))


if __name__ == "__main__":
  main()
