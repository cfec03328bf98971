"""Strict settings for the whole suite, and the small corpus that tests share.

The environment is set before jax is imported: eight fake CPU devices, and
NPROC=16 because XLA sizes its thread pool by it; with fewer threads than fake
devices, queued steps wait for each other for ever. Programs are compiled
without LLVM's optimization: most of a test's time went into that.
"""

import os

os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# No test asks a server for a name that it does not find here.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
  + " --xla_backend_optimization_level=0"
)

import json
import random
import tempfile
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("odqa_jax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
# Many tests compile the same step: the second time it comes from this folder.
_COMPILED = tempfile.TemporaryDirectory(prefix="odqa-jax-tests-")
jax.config.update("jax_compilation_cache_dir", _COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# What tests start, and kill, keeps its programs apart from these, and away from
# the user's own.
os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_COMPILED.name}/commands"

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
  """Real public data kept beside the checkout; absent on most machines."""
  if not SHARED_DATA.is_dir():
    pytest.skip(f"no development data at {SHARED_DATA}")
  return SHARED_DATA


WORDS = (
  "river mountain bridge castle garden market harbour forest village tower "
  "painter captain teacher doctor farmer sailor builder singer writer king "
  "red blue green old young large small quiet famous wooden golden northern"
).split()


def write_toy_files(root: Path) -> tuple[Path, Path]:
  """200 passages of 67 articles, and a question for every second passage."""
  rng = random.Random(0)
  passages, questions = [], []
  for i in range(200):
    topic = f"{rng.choice(WORDS)} {rng.choice(WORDS)} {i}"
    sentences = [
      f"The {topic} has a {rng.choice(WORDS)} {rng.choice(WORDS)}."
      for _ in range(4)
    ]
    title = f"Article {i // 3}"
    passages.append(
      {"id": f"p{i}", "title": title, "text": " ".join(sentences)}
    )
    if i % 2 == 0:
      questions.append(
        {
          "id": f"q{i}",
          "question": f"what is known of the {topic}",
          "answer": [topic],
          "positive_ids": [f"p{i}"],
        }
      )
  corpus, asked = root / "passages.jsonl", root / "toy.jsonl"
  corpus.write_text("".join(json.dumps(p) + "\n" for p in passages))
  asked.write_text("".join(json.dumps(q) + "\n" for q in questions))
  return corpus, asked


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
  """A dataset folder made by `prepare`: corpus, questions and pairs `toy`."""
  from odqa_jax.data.prepare import prepare

  root = tmp_path_factory.mktemp("toy")
  corpus, questions = write_toy_files(root)
  prepare(
    corpus=[str(corpus)],
    questions=[str(questions)],
    out=root / "data",
    vocabulary_size=300,
    pairs=["toy"],
  )
  return root / "data"


@pytest.fixture
def toy_config(toy_data):
  """A function that makes a small training config on `toy_data`."""
  from odqa_jax.runtime.config import base_config
  from odqa_jax.runtime.settings import read_settings

  def make(**settings):
    config = base_config()
    config.steps = 6
    config.batch_size = 16
    config.log_every = 2
    config.checkpoint.every = 3
    config.data.corpus = str(toy_data / "corpus")
    config.data.questions = str(toy_data / "questions" / "toy")
    config.data.pairs = str(toy_data / "pairs" / "toy")
    config.data.question_length = 32
    config.data.passage_length = 64
    config.model.preset = "tiny"
    config.optimizer.learning_rate = 1e-3
    config.update_from_flattened_dict(settings)
    read_settings(config.lock())
    return config

  return make
