"""A unified reader on the toy corpus, what it learns from and after whom."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.unified_reader import UnifiedConfig, UnifiedReader

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = {"width": 16, "layers": 1, "heads": 2, "mlp_dim": 32}


def unified_network(vocabulary: int = 40, **more: Any) -> UnifiedReader:
  """As small as it can be, without dropout."""
  bert = BertConfig(
    vocabulary,
    **SIZES,
    max_positions=96,
    dropout=0.0,
    attention_dropout=0.0,
    scan=False,
  )
  return UnifiedReader(UnifiedConfig(bert, embedding_dim=8, **more))


def write_toy_run(data: Path, path: Path, others: int = 5) -> Path:
  """A run of each toy question: its gold passage second, between others."""
  questions = list(QuestionSet(data / "questions" / "toy"))
  corpus = Corpus(data / "corpus")
  rows = []
  for question in questions:
    gold = corpus.find(question.positive_ids[0])
    assert gold is not None
    first, *rest = [(gold + 31 * i + 19) % len(corpus) for i in range(others)]
    rows.append([first, gold, *rest])
  scores = np.tile(np.arange(others + 1, 0, -1, np.float32), (len(rows), 1))
  ids = tuple(question.id for question in questions)
  ranking = Ranking(ids, np.array(rows, np.int32), scores)
  write_run(path, ranking, questions, corpus)
  return path


def noise(init: Any, seed: int = 1) -> Any:
  """Parameters of which all matter."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32),
    jax.eval_shape(init, jax.random.key(0)),
  )
