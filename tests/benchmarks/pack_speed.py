"""A system of 1,224,000 passages in one file: its bytes, and how it answers.

python tests/benchmarks/pack_speed.py --data shared/data --out /tmp/pack

Rows: 128 dimensions of MiniLM's vectors of real passages, each of them many
times with noise of a third of their spread, in 8 bits. Text: `pack_text.py`'s.
Network: MiniLM for questions and, with heads of random weights, for reading;
its weights are stored once, in 8 bits, as those of a unified model are.
Questions: SQuAD's. What is measured runs in a process of its own.
"""

import argparse
import dataclasses
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

_MEASURED = """
import json, os, sys, time
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
began = time.perf_counter()
from odqa_jax.serving.packed.system import open_packed
system = open_packed(sys.argv[1])
opened = time.perf_counter() - began
questions, read_k = json.loads(sys.argv[2]), int(sys.argv[3])
def ask(question):
  start = time.perf_counter()
  system.read(question, k=max(read_k, 20), read_k=read_k, most=5).answers(1)
  return time.perf_counter() - start
first = ask(questions[0])
times = sorted(map(ask, questions))
searched = []
for question in questions:
  start = time.perf_counter()
  _, rows = system.search(question, 20)
  searched.append(time.perf_counter() - start)
start = time.perf_counter()
system.texts.tokens(list(range(0, len(system), len(system) // 10))[:read_k])
texts = time.perf_counter() - start
with open("/proc/self/status") as file:
  (peak,) = [line for line in file if line.startswith("VmHWM")]
print(json.dumps({
  "open_s": opened, "first_s": first, "p50_s": times[len(times) // 2],
  "p95_s": times[int(len(times) * 0.95)], "best_s": times[0],
  "search_p50_s": sorted(searched)[len(times) // 2], "texts_s": texts,
  "rss_mb": int(peak.split()[1]) / 1024,
}))
"""


def build(args: argparse.Namespace, path: Path) -> None:
  """Writes the pack."""
  import jax
  from pack_text import Source, passage_bounds, real_texts

  from odqa_jax.models.dual_encoder import DualEncoder
  from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
  from odqa_jax.models.hf.minilm import CACHE, fetch_minilm
  from odqa_jax.retrieval.backends.codes import quantize
  from odqa_jax.retrieval.retriever import load_retriever, truncate
  from odqa_jax.runtime.mesh import to_host
  from odqa_jax.serving.pack_parts import add_networks, add_rows, add_tokenizer
  from odqa_jax.serving.pack_texts import CodedPassages, add_token_ids
  from odqa_jax.serving.packed.container import PackWriter
  from odqa_jax.serving.packed.network import question_vector
  from odqa_jax.serving.packed.system import READER, RETRIEVER

  folder = fetch_minilm(CACHE)
  retriever = truncate(load_retriever(folder), 128)
  assert isinstance(retriever.encoder, DualEncoder)
  config = retriever.encoder.config
  params = to_host(retriever.params)["shared"]
  network = ExtractiveReader(SpanConfig(config.bert, span=False))
  heads = to_host(network.init(jax.random.key(0)))
  reader = {n: params.get(n, x) for n, x in heads.items()}
  lengths = {"question_length": 32, "pair_length": 256, "span_length": 10}
  described = dataclasses.asdict(config) | {"output_dim": 128} | lengths
  reading = dataclasses.asdict(network.config) | lengths
  reading |= {"title": True, "passage_first": False, "objective": "dpr"}
  reading |= {"rank_weight": None, "read_k": None}
  networks = {RETRIEVER: (described, params), READER: (reading, reader)}
  tokenizer = retriever.tokenizer
  texts = real_texts(args.data)
  some = [*texts["vital"], *texts["squad"]]
  tokens = tokenizer.encode_batch(some)
  rng = np.random.default_rng(0)
  options = {"index": "int8", "weights": "int8", "text": "tokens"}
  about = {
    "made_from": {},
    "options": options,
    "count": args.passages,
    "corpus": "synthetic",
    "tokenizer": tokenizer.fingerprint,
    "networks": {},
  }
  with PackWriter(path, about) as writer:
    memory = add_networks(writer, networks, "int8", compress=args.compress)
    # The pack's own network, so that nothing is compiled for every length.
    flat = {}
    for key, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
      name = "/".join(str(k.key) for k in key)
      if name.startswith("encoder/layer/"):
        for i, layer in enumerate(np.asarray(leaf)):
          flat[f"layer/{i}/{name.removeprefix('encoder/layer/')}"] = layer
      else:
        flat[name] = np.asarray(leaf)
    shape = writer.about["networks"][RETRIEVER]["config"]
    chosen = rng.permutation(len(tokens))[: args.vectors]
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    vectors = np.stack(
      [
        question_vector(shape, flat, [cls, *tokens[i][:126], sep])
        for i in chosen
      ]
    )
    print(f"{len(vectors)} vectors", file=sys.stderr)
    spread = vectors.std(axis=0) / 3
    rows = np.empty((args.passages, 128), np.int8)
    scales = np.empty(args.passages, np.float32)
    for start in range(0, args.passages, 2**16):
      stop = min(start + 2**16, args.passages)
      picked = vectors[rng.integers(0, len(vectors), stop - start)]
      noise = rng.standard_normal(picked.shape, np.float32) * spread
      picked = picked + noise
      picked /= np.linalg.norm(picked, axis=1, keepdims=True)
      rows[start:stop], scales[start:stop], _ = quantize(picked)
    memory += add_rows(writer, rows, scales)
    base = [np.array(x, np.uint16) for x in tokens]
    source = Source(np.concatenate(base), tokenizer.vocab_size)
    bounds = passage_bounds(args.passages)
    ids = source.sample(int(bounds[-1]), tuple(args.weights), 16384)
    counts = np.diff(bounds)
    # Two passages of an article, with a title of three tokens.
    articles = np.arange(0, args.passages, 2)
    titles = np.zeros(args.passages, np.int64)
    titles[articles] = 3
    passages = CodedPassages(ids, counts, titles, articles)
    memory += add_token_ids(
      writer, passages, tokenizer.vocab_size, lambda done: None
    )
    add_tokenizer(writer, folder / "tokenizer.json")
    writer.about["memory"] = memory


def main() -> None:
  """Builds the pack unless it is there; prints bytes and times as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", type=Path, required=True)
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument("--passages", type=int, default=1_224_000)
  parser.add_argument("--vectors", type=int, default=2000)
  parser.add_argument("--questions", type=int, default=40)
  parser.add_argument("--compress", action="store_true")
  parser.add_argument(
    "--weights", type=float, nargs=4, default=(0.17, 0.24, 0.3, 0.29)
  )
  args = parser.parse_args()
  path = args.out / f"{args.passages}.odqa"
  if not path.exists():
    began = time.perf_counter()
    build(args, path)
    print(f"built in {time.perf_counter() - began:.0f} s", file=sys.stderr)
  from odqa_jax.serving.packed.container import contents

  print(json.dumps({"bytes": contents(path), "all": path.stat().st_size}))
  with gzip.open(args.data / "squad_dev" / "questions.jsonl.gz") as file:
    asked = [json.loads(line)["question"] for line in file]
  asked = asked[:: len(asked) // args.questions][: args.questions]
  for read_k in (1, 3, 5, 10):
    command = [sys.executable, "-c", _MEASURED, str(path), json.dumps(asked)]
    said = subprocess.run(
      [*command, str(read_k)],
      check=True,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ,
    )
    print(json.dumps({"read_k": read_k} | json.loads(said.stdout)))


if __name__ == "__main__":
  main()
