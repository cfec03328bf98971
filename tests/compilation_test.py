"""Nothing is compiled once all shapes have been seen, whatever is asked.

A thousand batches of random lengths and sizes go through each path.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from random_corpus import Tokens, build
from small_reader import one_device, small_system, use_one_device
from small_retriever import small_encoder, small_retriever

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.exclusions import Exclusions
from odqa_jax.data.prepare import prepare
from odqa_jax.data.questions.sets import Question
from odqa_jax.reading.answer import answer_questions
from odqa_jax.retrieval.encoding import compiled_encoders
from odqa_jax.retrieval.retriever import index_corpus, search_questions
from odqa_jax.runtime.config import base_config
from odqa_jax.training import train as train_module
from odqa_jax.training.train import train

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "e", "in", "or")]
PASSAGES, BATCHES = 200, 1000


class Programs:
  """Counts the programs that JAX makes, from a cache on disk or not."""

  def __init__(self) -> None:
    self.count = 0
    jax.monitoring.register_event_duration_secs_listener(self._listen)

  def _listen(self, name: str, seconds: float, **_: object) -> None:
    self.count += name == "/jax/core/compile/backend_compile_duration"


PROGRAMS = Programs()


@pytest.fixture(autouse=True)
def on_one_device(monkeypatch):
  use_one_device(monkeypatch)
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  monkeypatch.setattr(train_module, "make_mesh", lambda *_: one_device())


def words(rng: np.random.Generator, most: int) -> str:
  return " ".join(rng.choice(WORDS, rng.integers(1, most)))


@pytest.fixture(scope="module")
def varied(tmp_path_factory) -> Path:
  """Passages of 1 to 80 words, each with a question of 1 to 60."""
  root = tmp_path_factory.mktemp("varied")
  rng = np.random.default_rng(0)
  passages, questions = [], []
  for i in range(PASSAGES):
    text = f"w{i} {words(rng, 80)}"
    passages.append({"id": f"p{i}", "title": words(rng, 4), "text": text})
    questions.append(
      {
        "question": f"w{i} {words(rng, 60)}",
        "answer": [f"w{i}"],
        "positive_ids": [f"p{i}"],
      }
    )
  for name, rows in (("corpus", passages), ("asked", questions)):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / f"{name}.jsonl").write_text(lines)
  prepare(
    corpus=[str(root / "corpus.jsonl")],
    questions=[str(root / "asked.jsonl")],
    out=root / "data",
    vocabulary_size=400,
    pairs=["asked"],
  )
  return root / "data"


@pytest.mark.slow
def test_encoding_a_corpus(tmp_path):
  corpus = Tokens(8 * BATCHES)
  _, encode = compiled_encoders(small_encoder(64).config)
  params = small_encoder(64).init(jax.random.key(0))
  made = []

  def counted(ids, lengths):
    rows = encode(params, ids, lengths)
    made.append(PROGRAMS.count)
    return rows

  options = {"max_length": 64, "batch_tokens": 320, "shard_rows": 1000}
  build(tmp_path / "index", counted, corpus, one_device(), **options)
  assert len(made) >= BATCHES
  # The sixteenth part of 64 tokens and its multiples.
  assert made[-1] - made[0] <= 4
  # The second of eight files has seen all lengths.
  assert made[-1] == made[len(made) // 4]


@pytest.mark.slow
def test_searching_any_number_of_questions(varied, tmp_path):
  corpus = Corpus(varied / "corpus")
  retriever = small_retriever(corpus, 0)
  index = index_corpus(retriever, corpus, tmp_path / "i", mesh=one_device())
  rng = np.random.default_rng(1)

  def ask(count: int, excluded: int) -> None:
    questions = [words(rng, 60) for _ in range(count)]
    names = tuple(f"p{i}" for i in range(excluded))
    asked = [Question("q", q, (), excluded_ids=names) for q in questions]
    exclusions = Exclusions(asked, corpus) if excluded else None
    search_questions(
      retriever, index, corpus, questions, k=8, exclusions=exclusions
    )

  before = PROGRAMS.count
  for size in range(7):
    for excluded in (0, 1, 2, 4):
      ask(2**size, excluded)
  # Encoders, and searches for k, k + 1, k + 3, k + 7; of 1, 2, … 64 questions.
  assert PROGRAMS.count - before <= 7 + 7 * 4
  before = PROGRAMS.count
  for _ in range(BATCHES):
    ask(int(rng.integers(1, 90)), int(rng.integers(0, 8)))
  assert PROGRAMS.count == before


@pytest.mark.slow
def test_training(varied, tmp_path, monkeypatch):
  config = base_config()
  config.update_from_flattened_dict(
    {
      "steps": BATCHES,
      "batch_size": 2,
      "log_every": 50,
      "checkpoint.every": 250,
      "data.corpus": str(varied / "corpus"),
      "data.questions": str(varied / "questions" / "asked"),
      "data.pairs": str(varied / "pairs" / "asked"),
      "data.question_length": 32,
      "data.passage_length": 128,
      "data.hard_negatives": 0,
      "model.preset": "tiny",
      "optimizer.learning_rate": 1e-5,
    }
  )
  made = []
  original = train_module.check_finite

  def counted(step, metrics):
    original(step, metrics)
    made.append(PROGRAMS.count)

  monkeypatch.setattr(train_module, "check_finite", counted)
  train(config, tmp_path)
  assert len(made) == BATCHES
  assert made[-1] == made[300], "after the first saved step"


@pytest.mark.slow
def test_answering(varied, tmp_path):
  system = small_system(
    "individual", varied, **{"data.reader_length": 96, "retrieval.k": 2}
  )
  corpus = system.corpus
  index = index_corpus(
    system.retriever, corpus, tmp_path / "i", mesh=one_device()
  )

  def ask(seed: int) -> None:
    rng, batches = np.random.default_rng(seed), 0
    while batches < BATCHES:
      # Rare shapes too: short questions that find short passages.
      count, most = rng.integers(1, 20), int(rng.choice([4, 20, 60]))
      questions = [words(rng, most) for _ in range(count)]
      answer_questions(
        system, index, questions, k=2, batch_size=8, max_tokens=6
      )
      batches += -(-count // 8)

  before = PROGRAMS.count
  ask(0)
  made = PROGRAMS.count - before
  # Of 1, 2, 4 and 8 questions: 2 lengths of passages with 3 of reader inputs,
  # for which an answer is written and scored; their encoder, and the search.
  assert made <= 4 * (2 * 3 + 2 * 3 + 2)
  ask(0)
  assert PROGRAMS.count - before == made
