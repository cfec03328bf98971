"""A run without the passages that other questions ask for.

    python tests/benchmarks/held_out.py RUN QUESTIONS OUT

RUN is a JSON file of `odqa search`; QUESTIONS has records with `positive_ids`.
In a small corpus, what measured questions ask for is often a candidate of those
that are learned from, and never the right one. A network that learns from
candidates alone learns that it never is.
"""

import json
import sys
from pathlib import Path


def main(run: Path, questions: Path, out: Path) -> None:
  """Writes the run; its last line says how many results it left out."""
  with questions.open() as lines:
    asked = {i for line in lines for i in json.loads(line)["positive_ids"]}
  results = json.loads(run.read_text())
  before = sum(len(result["ctxs"]) for result in results)
  for result in results:
    result["ctxs"] = [p for p in result["ctxs"] if p["id"] not in asked]
  after = sum(len(result["ctxs"]) for result in results)
  out.write_text(json.dumps(results))
  print(json.dumps({"results": before, "left_out": before - after}))


if __name__ == "__main__":
  main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
