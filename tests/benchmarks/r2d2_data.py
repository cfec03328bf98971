"""SQuAD's paragraphs as passages of 100 words, its questions split by article.

    python tests/benchmarks/r2d2_data.py SQUAD OUT

SQUAD holds paragraphs.jsonl.gz (id, title, context) and questions.jsonl.gz (id,
title, paragraph, question, answers). OUT gets passages.jsonl, train.jsonl,
dev.jsonl and test.jsonl: of 20, 4 and 8 of its 32 articles; and even.jsonl and
odd.jsonl: of every other paragraph of all of them, for the pruner.
"""

import gzip
import json
import random
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from odqa_jax.text.answers import has_answer

_WORDS = 100
_ARTICLES = {"train": 20, "dev": 4, "test": 8}
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")


def _read(path: Path) -> list[dict[str, Any]]:
  with gzip.open(path, "rt") as file:
    return [json.loads(line) for line in file]


def _write(path: Path, records: list[dict[str, Any]]) -> None:
  path.write_text("".join(json.dumps(record) + "\n" for record in records))


def cut(text: str) -> list[str]:
  """Whole sentences, as many as are nearest to equal parts of 100 words."""
  sentences = _SENTENCE.split(text)
  total = len(text.split())
  parts = -(-total // _WORDS)
  found: list[list[str]] = [[] for _ in range(parts)]
  before = 0
  for sentence in sentences:
    words = len(sentence.split())
    middle = before + words / 2
    found[min(int(middle * parts / total), parts - 1)].append(sentence)
    before += words
  return [" ".join(part) for part in found if part]


def _gold(question: dict[str, Any], parts: list[dict[str, Any]]) -> list[str]:
  """The part with an answer that has most words of the question."""
  asked = set(re.findall(r"\w+", question["question"].lower()))

  def shared(part: dict[str, Any]) -> int:
    return len(asked & set(re.findall(r"\w+", part["text"].lower())))

  right = [p for p in parts if has_answer(p["text"], question["answers"])]
  return [max(right, key=shared)["id"]] if right else []


def _records(
  questions: list[dict[str, Any]], parts: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
  """As the format nq_open has them, with their gold passages."""
  return [
    {
      "id": q["id"],
      "question": q["question"],
      "answer": list(dict.fromkeys(q["answers"])),
      "positive_ids": _gold(q, parts[f"{q['title']}#{q['paragraph']}"]),
    }
    for q in questions
  ]


def main(squad: Path, out: Path) -> None:
  """Writes the files; says how many of what."""
  parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
  for record in _read(squad / "paragraphs.jsonl.gz"):
    title = record["title"].replace("_", " ")
    for i, text in enumerate(cut(record["context"])):
      part = {"id": f"{record['id']}#{i}", "title": title, "text": text}
      parts[record["id"]].append(part)
  out.mkdir(parents=True, exist_ok=True)
  _write(out / "passages.jsonl", [p for each in parts.values() for p in each])
  print(f"{sum(map(len, parts.values()))} passages of {len(parts)} paragraphs")
  questions = _read(squad / "questions.jsonl.gz")
  titles = sorted({q["title"] for q in questions})
  random.Random(0).shuffle(titles)
  sets = {}
  for name, count in _ARTICLES.items():
    chosen, titles = titles[:count], titles[count:]
    sets[name] = [q for q in questions if q["title"] in chosen]
  sets["even"] = [q for q in questions if q["paragraph"] % 2 == 0]
  sets["odd"] = [q for q in questions if q["paragraph"] % 2 == 1]
  for name, some in sets.items():
    records = _records(some, parts)
    _write(out / f"{name}.jsonl", records)
    without = sum(not record["positive_ids"] for record in records)
    print(f"{name}: {len(records)} questions, {without} without a gold passage")


if __name__ == "__main__":
  main(Path(sys.argv[1]), Path(sys.argv[2]))
