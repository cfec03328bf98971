"""Building a corpus against the tokenizer library alone, on the same passages.

    python tests/benchmarks/prepare.py psgs.tsv --tokenizer bert/ --pairs 5

`tokenizers` is given the titles and texts in memory and keeps nothing; building
reads and checks the file, finds sentences, hashes, and writes a corpus that is
opened afterwards. Both may use every core. Each run is a process of its own, in
turns: ours, theirs, ours, … Prints passages a second, the median ratio of the
pairs with its range, the highest memory of any process, and what 21,015,324
passages (DPR's Wikipedia) would take at that rate.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import read_passages
from odqa_jax.data.parts.run import parse_runner
from odqa_jax.text.tokenizer import load_tokenizer

WIKIPEDIA = 21_015_324
BATCH = 4096


def build(args: argparse.Namespace) -> dict[str, float]:
  """Builds the corpus."""
  tokenizer = load_tokenizer(args.tokenizer)
  with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
    start = time.monotonic()
    out = Path(folder) / "corpus"
    build_corpus(
      args.passages, out, tokenizer, runner=parse_runner(args.runner)
    )
    seconds = time.monotonic() - start
    count = len(Corpus(out))
  return {"passages_per_s": count / seconds}


def tokenise(args: argparse.Namespace) -> dict[str, float]:
  """Tokenises the same texts, and no more."""
  os.environ["TOKENIZERS_PARALLELISM"] = "true"
  backend = load_tokenizer(args.tokenizer)._backend
  passages = list(read_passages(args.passages))
  start = time.monotonic()
  for i in range(0, len(passages), BATCH):
    batch = passages[i : i + BATCH]
    for texts in ([p.title for p in batch], [p.text for p in batch]):
      backend.encode_batch_fast(texts, add_special_tokens=False)
  return {"passages_per_s": len(passages) / (time.monotonic() - start)}


def run_once(what: str, flags: list[str]) -> dict[str, float]:
  """Runs this file for one measurement."""
  done = subprocess.run(
    [sys.executable, __file__, *flags, "--only", what],
    check=True,
    capture_output=True,
    text=True,
  )
  return json.loads(done.stdout)


def spread(values: list[float]) -> str:
  median = statistics.median(values)
  return f"{median:,.2f} ({min(values):,.2f} to {max(values):,.2f})"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("passages", type=Path, help="a plain passage file")
  parser.add_argument("--tokenizer", required=True)
  parser.add_argument("--runner", default="local")
  parser.add_argument("--pairs", type=int, default=5)
  parser.add_argument("--scratch", help="where corpora are written, to go")
  parser.add_argument("--only", choices=("build", "tokenise"))
  args = parser.parse_args()
  if args.only:
    figures = (build if args.only == "build" else tokenise)(args)
    usage = map(
      resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    figures["memory_mb"] = max(u.ru_maxrss for u in usage) / 1024
    figures["load"] = os.getloadavg()[0]
    print(json.dumps(figures))
    return
  flags = sys.argv[1:]
  runs: dict[str, list[dict[str, float]]] = {"build": [], "tokenise": []}
  for _ in range(args.pairs):
    for name, figures in runs.items():
      figures.append(run_once(name, flags))
      print(name, figures[-1], file=sys.stderr)
  rates = {n: [f["passages_per_s"] for f in runs[n]] for n in runs}
  pairs = zip(rates["build"], rates["tokenise"], strict=True)
  hours = WIKIPEDIA / statistics.median(rates["build"]) / 3600
  print(f"build: {spread(rates['build'])} passages/s")
  print(f"tokenizers alone: {spread(rates['tokenise'])} passages/s")
  print(f"ratio of the pairs: {spread([a / b for a, b in pairs])}")
  print(
    f"memory of a process: {max(f['memory_mb'] for f in runs['build']):,.0f} MB"
  )
  print(f"21,015,324 passages: {hours:.2f} hours")


if __name__ == "__main__":
  main()
