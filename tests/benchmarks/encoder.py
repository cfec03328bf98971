"""Encode and train-step throughput beside torch, interleaved.

    python tests/benchmarks/encoder.py [--pairs 7] [--passages 192]
        [--only encode,train,bert,compiled]

- `encode`: MiniLM (6 × 384, real weights) in f32 from text to vectors, passages
  of real lengths, beside sentence-transformers' `encode` in sorted batches of
  32. Ours goes the way of `odqa index`: length-sorted batches by tokens.
- `train`: MiniLM, a step with in-batch negatives, beside sentence-transformers'
  own loss.
- `bert`, `compiled`: a step of BERT-base (random weights, 8 questions of 32 and
  8 passages of 128 tokens) beside transformers in torch, eager and compiled.

Equal shapes, dropout and AdamW on both sides. Ratios by `pairs.compare`. Needs
`pip install torch==2.13.0 sentence-transformers`.
"""

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from pairs import compare
from sentence_transformers import SentenceTransformer, losses
from transformers import BertConfig, BertModel

from odqa_jax.models.bert import BertConfig as OurBertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.hf.encoder import load_encoder
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.objectives.contrastive import (
  contrastive_loss,
  contrastive_mask,
  relevance_scores,
)
from odqa_jax.retrieval.division import batch_sizes
from odqa_jax.retrieval.embed import bulk_tokens, embed
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.text.tokenizer import load_tokenizer

BATCH = 32
CLS, SEP = 101, 102
LONGEST = 256


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


class Tokenised:
  """Texts as `embed` takes them: a corpus in memory."""

  def __init__(self, lists: list[list[int]]) -> None:
    self.lists = lists

  def passage_inputs(self, rows: np.ndarray, length: int) -> Any:
    return pack([self.lists[i] for i in rows], length)


def rate(run: Callable[[], Any], items: int) -> Callable[[], float]:
  """Items per second of one run."""

  def timed() -> float:
    start = time.perf_counter()
    run()
    return items / (time.perf_counter() - start)

  return timed


def training_step(
  model: DualEncoder, params: Any, batch: list[np.ndarray], tau: float
) -> Callable[[], None]:
  """Our step with in-batch negatives, dropout and AdamW."""
  tx = optax.adamw(2e-5)
  columns = jnp.arange(len(batch[0]))
  allowed = contrastive_mask(columns, columns, jnp.ones(len(batch[0]), bool))

  @jax.jit
  def step(params: Any, state: Any, rng: Any) -> Any:
    def loss(params: Any) -> Any:
      keys = jax.random.split(rng)
      q = model.encode_question(params, *batch[:2], rng=keys[0])
      p = model.encode_passage(params, *batch[2:], rng=keys[1])
      scores = relevance_scores(q, p, tau)
      return jnp.mean(contrastive_loss(scores, columns, allowed))

    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  state = [params, tx.init(params)]

  def run() -> None:
    state[:] = step(*state, jax.random.key(1))
    jax.block_until_ready(state[0])

  return run


def minilm(args: argparse.Namespace, wanted: list[str]) -> None:
  """Encoding and training MiniLM beside sentence-transformers."""
  rng = np.random.default_rng(0)
  folder = resolve_folder("minilm")
  config, params, _ = load_encoder(folder, scan=False)
  model, tokenizer = DualEncoder(config), load_tokenizer(folder)
  peer = SentenceTransformer(str(folder), device="cpu")
  peer.max_seq_length = LONGEST
  passages = texts(args.passages, range(40, 110), rng)
  encode = jax.jit(model.encode_passage)
  mesh = make_mesh(devices=jax.devices()[:1])

  def encode_ours() -> None:
    lists = tokenizer.encode_batch(passages)
    lengths = np.array([min(len(t) + 2, LONGEST) for t in lists], np.int32)
    # The shapes that a corpus of such passages is worth compiling for.
    sizes = batch_sizes(
      np.tile(lengths, 100),
      LONGEST,
      bulk_tokens("cpu", 1),
      rows=len(lists),
      devices=1,
    )
    embed(
      lambda ids, lengths: encode(params, ids, lengths),
      Tokenised(lists),
      0,
      lengths,
      sizes=sizes,
      mesh=mesh,
      dtype=np.dtype(np.float32),
      progress=lambda done: None,
    )

  def encode_theirs() -> None:
    peer.encode(passages, batch_size=BATCH, show_progress_bar=False)

  count = len(passages)
  if "encode" in wanted:
    ours, theirs = rate(encode_ours, count), rate(encode_theirs, count)
    compare("encode passages, MiniLM", ours, theirs, args.pairs)
  if "train" not in wanted:
    return
  asked = texts(BATCH, range(8, 14), rng)
  answers = texts(BATCH, range(120, 130), rng)
  batch = [
    *pack(tokenizer.encode_batch(asked), 32),
    *pack(tokenizer.encode_batch(answers), 128),
  ]
  step = training_step(model, params, batch, 0.05)
  peer.train()
  objective = losses.MultipleNegativesRankingLoss(peer)
  optimizer = torch.optim.AdamW(peer.parameters(), lr=2e-5)
  peer.max_seq_length = 128
  features = [peer.preprocess(asked), peer.preprocess(answers)]

  def train_theirs() -> None:
    optimizer.zero_grad()
    objective([dict(f) for f in features], None).backward()
    optimizer.step()

  compare("step, MiniLM", rate(step, 1), rate(train_theirs, 1), args.pairs)


def bert(args: argparse.Namespace, wanted: list[str]) -> None:
  """Steps of BERT-base beside torch."""
  size = SimpleNamespace(batch=8, question=32, passage=128)
  rng = np.random.default_rng(0)

  def tokens(length: int) -> list[np.ndarray]:
    ids = rng.integers(1000, 30000, (size.batch, length)).astype(np.int32)
    return [ids, np.full(size.batch, length, np.int32)]

  batch = [*tokens(size.question), *tokens(size.passage)]
  config = OurBertConfig(
    vocab_size=30522, width=768, layers=12, heads=12, mlp_dim=3072, scan=False
  )
  model = DualEncoder(EncoderConfig(bert=config, shared=True))
  step = training_step(model, model.init(jax.random.key(0)), batch, 27.7)
  peer = BertModel(BertConfig(), add_pooling_layer=False).train()
  ids = [torch.from_numpy(batch[i]).long() for i in (0, 2)]

  def train(forward: Any) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(peer.parameters(), lr=2e-5)

    def run() -> None:
      optimizer.zero_grad()
      q, p = (forward(input_ids=x).last_hidden_state[:, 0] for x in ids)
      scores = q @ p.T / 27.7
      labels = torch.arange(size.batch)
      torch.nn.functional.cross_entropy(scores, labels).backward()
      optimizer.step()

    return run

  for name, wrap in (("bert", lambda m: m), ("compiled", torch.compile)):
    if name in wanted:
      what = f"step, BERT-base, torch {'eager' if name == 'bert' else name}"
      theirs = rate(train(wrap(peer)), 1)
      compare(what, rate(step, 1), theirs, args.pairs)


def main() -> None:
  """Runs what is wanted."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--pairs", type=int, default=7)
  parser.add_argument("--passages", type=int, default=192)
  parser.add_argument("--only", default="encode,train,bert,compiled")
  args = parser.parse_args()
  wanted = args.only.split(",")
  if {"encode", "train"} & set(wanted):
    minilm(args, wanted)
  if {"bert", "compiled"} & set(wanted):
    bert(args, wanted)


if __name__ == "__main__":
  main()
