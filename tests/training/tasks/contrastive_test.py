"""The score scale of tasks: τ = sqrt(d), which the paper's Table 5 is about."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import PRESETS, DualEncoder, EncoderConfig
from odqa_jax.models.t5 import PRESETS as READERS
from odqa_jax.models.t5 import T5, T5Config
from odqa_jax.runtime.settings import ObjectiveSettings, Settings
from odqa_jax.training.tasks.contrastive import temperature
from odqa_jax.training.tasks.table import TASKS, make_task

WIDTH = 768


class Embeddings(DualEncoder):
  """A stand-in for a retriever of 768 dimensions: one vector per first token.

  Questions and passages have tables of their own.
  """

  embedding_dim = WIDTH

  def __init__(self):
    pass  # Nothing of the real encoder is wanted but its interface.

  def encode_question(self, params, ids, lengths, *, rng=None):
    del lengths, rng
    return params["question"][ids[:, 0]]

  def encode_passage(self, params, ids, lengths, *, rng=None):
    del lengths, rng
    return params["passage"][ids[:, 0]]


@pytest.mark.parametrize(
  ("settings", "expected"),
  [
    ({}, math.sqrt(WIDTH)),
    ({"scale_multiple": 0.5}, 0.5 * math.sqrt(WIDTH)),
    ({"scale_multiple": 0.0}, 1.0),
    ({"temperature": 0.05}, 0.05),
  ],
)
def test_temperature_is_the_root_of_the_width_unless_told(settings, expected):
  got = temperature(ObjectiveSettings(**settings), WIDTH)
  assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", ["base", "large"])
@pytest.mark.parametrize("task", ["individual", "joint", "fid"])
def test_readers_score_passages_at_that_temperature(task, size):
  """Of the networks at the paper's sizes, which are described, not made."""
  assert TASKS[task].needs.components == ("retriever", "reader")
  components = {
    "retriever": DualEncoder(EncoderConfig(BertConfig(**PRESETS[size]))),
    "reader": T5(T5Config(**READERS[size])),
  }
  made = make_task(Settings(task=task), components)
  width = {"base": 768, "large": 1024}[size]
  assert made.reading.temperature == pytest.approx(math.sqrt(width), rel=1e-12)


def test_the_loss_divides_scores_by_the_root_of_the_width():
  """Against float64 NumPy with the number written out."""
  b, k = 4, 2
  r = np.random.default_rng(0)
  tables = {
    name: r.normal(size=(20, WIDTH)) * 0.5 for name in ("question", "passage")
  }
  batch = {
    "question_ids": np.arange(b)[:, None].astype(np.int32),
    "question_lengths": np.ones(b, np.int32),
    "passage_ids": np.arange(b * k).reshape(b, k, 1).astype(np.int32),
    "passage_lengths": np.ones((b, k), np.int32),
    "passage_rows": np.arange(b * k).reshape(b, k).astype(np.int32),
    "example_mask": np.ones(b, bool),
  }
  params = {"retriever": jax.tree.map(jnp.float32, tables)}

  def loss(**objective):
    settings = Settings(objective=ObjectiveSettings(**objective))
    task = make_task(settings, {"retriever": Embeddings()})
    return float(task.loss(params, jax.tree.map(jnp.asarray, batch), None)[0])

  products = tables["question"][:b] @ tables["passage"][: b * k].T

  def expected(tau):
    exps = np.exp(products / tau)
    positive = exps[np.arange(b), np.arange(b) * k]
    return -np.log(positive / exps.sum(axis=1)).mean()

  # sqrt(768). The scores tell it from 1, the scale of DPR.
  np.testing.assert_allclose(loss(), expected(27.712812921102035), rtol=1e-5)
  np.testing.assert_allclose(loss(scale_multiple=0.0), expected(1.0), rtol=1e-5)
  assert expected(1.0) > 1.2 * expected(27.7)
