"""Reranking throughput beside sentence-transformers, interleaved.

    python tests/benchmarks/rerank.py [--pairs 7] [--questions 8]
        [--passages 24] [--only tiny,minilm]

Pairs of question and passage to scores: ours goes the way of `odqa rerank`
(tokenised from a corpus on the disk, sorted by length, batches by tokens),
theirs is `CrossEncoder.predict`, which sorts too, with batches of 32. Random
weights of two sizes, MiniLM's (6 × 384) and a tiny one (2 × 128), the same on
both sides, f32; the scores must agree before anything is timed. Passages of 60
to 120 words, as those of Wikipedia; no titles, which the peer has no place for.

Ratios by `pairs.compare`. Needs `pip install torch==2.13.0
sentence-transformers`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from pairs import compare
from sentence_transformers import CrossEncoder

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.families import describe
from odqa_jax.models.hf.heads import save_network
from odqa_jax.models.passage_scorer import Reranker, ScorerConfig
from odqa_jax.reading.pair_scores import score_pairs
from odqa_jax.reading.trained_scorer import TrainedScorer, make_scorer
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.text.tokenizer import Tokenizer
from odqa_jax.text.wordpiece_training import train_wordpiece

LONGEST = 256
BATCH = 32
WORDS = (
  "the of and in to a is was for on as by with from at it an be are this "
  "river city people year state world time system work water house group"
).split()
SIZES = {
  "tiny": {"width": 128, "layers": 2, "heads": 2, "mlp_dim": 512},
  "minilm": {"width": 384, "layers": 6, "heads": 12, "mlp_dim": 1536},
}


def texts(count: int, words: range, rng: np.random.Generator) -> list[str]:
  """Texts of random common words; lengths spread over `words`."""
  return [
    " ".join(rng.choice(WORDS, rng.integers(words.start, words.stop)))
    for _ in range(count)
  ]


def make_reranker(size: str, tokenizer: Tokenizer) -> TrainedScorer:
  """Random weights, wide enough that scores differ."""
  bert = BertConfig(
    vocab_size=tokenizer.vocab_size,
    max_positions=512,
    scan=False,
    **SIZES[size],
  )
  network = Reranker(ScorerConfig(bert))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: np.asarray(x) + rng.normal(0, 0.05, x.shape).astype(np.float32),
    network.init(jax.random.key(0)),
  )
  described = describe(network) | {
    "tokenizer": tokenizer.fingerprint,
    "question_length": 64,
    "passage_length": LONGEST,
    "pair_length": LONGEST,
    "title": False,
  }
  one = make_mesh(devices=jax.devices()[:1])
  return make_scorer(described, params, tokenizer, mesh=one)


def rate(run: Callable[[], Any], items: int) -> Callable[[], float]:
  """Items per second of one run."""

  def timed() -> float:
    start = time.perf_counter()
    run()
    return items / (time.perf_counter() - start)

  return timed


def measure(
  size: str, folder: Path, corpus: Corpus, args: argparse.Namespace
) -> None:
  """Compares the scores, then the rates, of one size."""
  rng = np.random.default_rng(1)
  questions = texts(args.questions, range(8, 14), rng)
  shape = (args.questions, args.passages)
  rows = rng.integers(len(corpus), size=shape)
  scorer = make_reranker(size, corpus.tokenizer)
  saved = folder / size
  save_network(saved, scorer.network, scorer.params, corpus.tokenizer)
  peer = CrossEncoder(
    str(saved),
    device="cpu",
    max_length=LONGEST,
    activation_fn=torch.nn.Identity(),
  )
  inputs = [
    (question, corpus.text(int(row)))
    for question, some in zip(questions, rows, strict=True)
    for row in some
  ]

  def ours() -> np.ndarray:
    return score_pairs(scorer, questions, rows, corpus)

  def theirs() -> np.ndarray:
    return peer.predict(inputs, batch_size=BATCH, show_progress_bar=False)

  mine, other = ours().reshape(-1), theirs()
  error = float(np.abs(mine - other).max() / other.std())
  if not error < 1e-3:
    raise SystemExit(
      f"{size}: the scores differ by {error:.1e} of their spread"
    )
  compare(
    f"rerank {len(inputs)} pairs, {size}",
    rate(ours, len(inputs)),
    rate(theirs, len(inputs)),
    args.pairs,
  )


def main() -> None:
  """Measures the sizes that are wanted."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--pairs", type=int, default=7)
  parser.add_argument("--questions", type=int, default=8)
  parser.add_argument("--passages", type=int, default=24)
  parser.add_argument("--only", default=",".join(SIZES))
  args = parser.parse_args()
  rng = np.random.default_rng(0)
  passages = texts(args.questions * args.passages, range(60, 121), rng)
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    build_corpus(
      [Passage(f"p{i}", "", text) for i, text in enumerate(passages)],
      folder / "corpus",
      train_wordpiece(WORDS, 200),
    )
    corpus = Corpus(folder / "corpus")
    for size in args.only.split(","):
      measure(size, folder, corpus, args)


if __name__ == "__main__":
  main()
