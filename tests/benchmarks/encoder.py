"""Encode and train-step throughput beside sentence-transformers, interleaved.

    python tests/benchmarks/encoder.py [--pairs 5] [--passages 256]

Both run the same MiniLM weights (6 × 384) in f32 on the same real-length
inputs: A B A B …, at least five pairs; the ratio of every pair, its median and
range are printed. The peer runs as its documentation says (sorted batches of
32 in `encode`; its own multiple-negatives loss in training). Needs `pip
install torch==2.13.0 sentence-transformers`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from sentence_transformers import SentenceTransformer, losses

from odqa_jax.data.examples.batch import bucket_length
from odqa_jax.models.dual_encoder import DualEncoder
from odqa_jax.models.hf.encoder import load_encoder
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.objectives.contrastive import (
  contrastive_loss,
  contrastive_mask,
  relevance_scores,
)
from odqa_jax.text.tokenizer import load_tokenizer

BATCH = 32
CLS, SEP = 101, 102


def texts(count: int, words: range, rng: np.random.Generator) -> list[str]:
  """Texts of random common words; lengths spread over `words`."""
  vocabulary = (
    "the of and in to a is was for on as by with from at it an be are this "
    "river city people year state world time system work water house group"
  ).split()
  return [
    " ".join(rng.choice(vocabulary, rng.integers(words.start, words.stop)))
    for _ in range(count)
  ]


def pack(lists: list[list[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
  """[CLS] tokens [SEP], padded."""
  ids = np.zeros((len(lists), length), np.int32)
  for i, tokens in enumerate(lists):
    row = [CLS, *tokens[: length - 2], SEP]
    ids[i, : len(row)] = row
  return ids, np.array([min(len(t) + 2, length) for t in lists], np.int32)


def compare(
  name: str, ours: Callable[[], float], theirs: Callable[[], float], pairs: int
) -> dict[str, object]:
  """Runs A B A B …; each returns its items per second."""
  ours(), theirs()
  rows = [(ours(), theirs()) for _ in range(pairs)]
  ratios = [a / b for a, b in rows]
  result = {
    "what": name,
    "ours_per_s": round(statistics.median(a for a, _ in rows), 2),
    "theirs_per_s": round(statistics.median(b for _, b in rows), 2),
    "ratio_median": round(statistics.median(ratios), 3),
    "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    "pairs": pairs,
  }
  print(json.dumps(result), flush=True)
  return result


def main() -> None:
  """Runs both comparisons."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--pairs", type=int, default=5)
  parser.add_argument("--passages", type=int, default=256)
  args = parser.parse_args()
  rng = np.random.default_rng(0)
  folder: Path = resolve_folder("minilm")
  config, params, _ = load_encoder(folder, scan=False)
  model, tokenizer = DualEncoder(config), load_tokenizer(folder)
  peer = SentenceTransformer(str(folder), device="cpu")
  peer.max_seq_length = 256

  # ---- Encode: from text to vectors, lengths as in 100-word passages ----
  passages = texts(args.passages, range(40, 110), rng)
  encode = jax.jit(model.encode_passage)

  def encode_ours() -> float:
    start = time.perf_counter()
    tokens = tokenizer.encode_batch(passages)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    for i in range(0, len(order), BATCH):
      chunk = [tokens[j] for j in order[i : i + BATCH]]
      longest = bucket_length(np.array([len(t) + 2 for t in chunk]), 256)
      np.asarray(encode(params, *map(jnp.asarray, pack(chunk, longest))))
    return len(passages) / (time.perf_counter() - start)

  def encode_theirs() -> float:
    start = time.perf_counter()
    peer.encode(passages, batch_size=BATCH, show_progress_bar=False)
    return len(passages) / (time.perf_counter() - start)

  compare("encode passages", encode_ours, encode_theirs, args.pairs)

  # ---- A training step: 32 questions, 32 passages of 128 tokens ----
  asked = texts(BATCH, range(8, 14), rng)
  answers = texts(BATCH, range(120, 130), rng)
  tx = optax.adamw(2e-5)
  batch = [
    *map(jnp.asarray, pack(tokenizer.encode_batch(asked), 32)),
    *map(jnp.asarray, pack(tokenizer.encode_batch(answers), 128)),
  ]
  columns = jnp.arange(BATCH)
  allowed = contrastive_mask(columns, columns, jnp.ones(BATCH, bool))

  @jax.jit
  def step(params, state, rng):
    def loss(params):
      keys = jax.random.split(rng)
      q = model.encode_question(params, batch[0], batch[1], rng=keys[0])
      p = model.encode_passage(params, batch[2], batch[3], rng=keys[1])
      scores = relevance_scores(q, p, 0.05)
      return jnp.mean(contrastive_loss(scores, columns, allowed))

    gradients = jax.grad(loss)(params)
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  state = [params, tx.init(params)]

  def train_ours() -> float:
    start = time.perf_counter()
    state[:] = step(*state, jax.random.key(1))
    jax.block_until_ready(state[0])
    return 1 / (time.perf_counter() - start)

  peer.train()
  objective = losses.MultipleNegativesRankingLoss(peer)
  optimizer = torch.optim.AdamW(peer.parameters(), lr=2e-5)
  peer.max_seq_length = 128
  features = [peer.tokenize(asked), peer.tokenize(answers)]

  def train_theirs() -> float:
    start = time.perf_counter()
    optimizer.zero_grad()
    objective([dict(f) for f in features], None).backward()
    optimizer.step()
    return 1 / (time.perf_counter() - start)

  compare("training step", train_ours, train_theirs, args.pairs)


if __name__ == "__main__":
  main()
