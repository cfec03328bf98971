"""What a stage makes of its settings: steps, and what it leaves as it is."""

import re

import jax
import pytest
from small_reader import one_device, reader_settings, small_parts

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.loader import train_batches
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.input_pipeline import RetrievalPipeline
from odqa_jax.training.pipelines import trains_passages
from odqa_jax.training.retrieval import BatchRetrieval
from odqa_jax.training.train import number_of_steps


@pytest.mark.parametrize(
  ("settings", "examples", "steps"),
  [
    ({"steps": 7}, 10**6, 7),
    # The paper's: 80 epochs of 58,880 questions, 10 of 79,168.
    ({"steps": 7, "epochs": 80.0, "batch_size": 128}, 58_880, 36_800),
    ({"steps": 7, "epochs": 10.0, "batch_size": 64}, 79_168, 12_370),
    # The last step takes what is left, so that no example is left out.
    ({"epochs": 1.0, "batch_size": 64}, 65, 2),
    ({"epochs": 0.5, "batch_size": 64}, 128, 1),
    ({"epochs": 0.001, "batch_size": 64}, 10, 1),
  ],
)
def test_steps_are_given_or_made_of_epochs(settings, examples, steps):
  assert number_of_steps(Settings(**settings), examples) == steps


# ---- Whether the passage encoder is trained ----

FROZEN = "retriever/passage/.*"


def parts(data, name="individual", **settings):
  run = reader_settings(name, data, **settings)
  return run, *small_parts(run, Corpus(data / "corpus"))


def abstract(task):
  return jax.eval_shape(task.init, jax.random.key(0))


@pytest.mark.parametrize(
  ("multipliers", "trained"),
  [
    ((), True),
    (((FROZEN, 0.0),), False),
    (((FROZEN, 0.1),), True),
    ((("retriever/question/.*", 0.0),), True),
    ((("retriever/.*", 0.0),), False),
    # A part of it is enough for the embeddings to change.
    ((("retriever/passage/embeddings/.*", 0.0),), True),
    # The first match decides.
    (((".*/LayerNorm/.*", 1.0), (FROZEN, 0.0)), True),
    (((FROZEN, 0.0), (".*/LayerNorm/.*", 1.0)), False),
  ],
  ids=str,
)
def test_multipliers_of_zero_freeze_the_passage_encoder(
  toy_data, multipliers, trained
):
  run, task, *_ = parts(toy_data, **{"optimizer.multipliers": multipliers})
  assert trains_passages(run, task, abstract(task)) == trained


@pytest.mark.parametrize(
  ("name", "settings", "trained"),
  [
    ("individual", {}, True),
    ("individual", {"objective.passage_encoder": False}, False),
    ("joint", {"objective.passage_encoder": False}, False),
    ("joint", {}, True),
    ("fid", {}, False),
  ],
)
def test_the_objective_may_freeze_it_too(toy_data, name, settings, trained):
  run, task, *_ = parts(toy_data, name, **settings)
  assert trains_passages(run, task, abstract(task)) == trained


@pytest.mark.parametrize(
  ("pattern", "trained"),
  [("retriever/shared/.*", False), ("retriever/shared/embeddings/.*", True)],
)
def test_a_shared_encoder_is_the_passage_encoder(toy_data, pattern, trained):
  frozen = {"optimizer.multipliers": ((pattern, 0.0),)}
  run, task, *_ = parts(toy_data, **frozen)
  params = abstract(task)
  params["retriever"] = {"shared": params["retriever"]["passage"]}
  assert trains_passages(run, task, params) == trained


class Unread:
  """Examples that nobody asks for."""

  def __init__(self):
    self.left_out = {}

  def __len__(self):
    return 8

  def batch(self, indices, rng, rows):
    raise AssertionError("a batch was drawn")


@pytest.mark.parametrize("mode", ["blocking", "snapshot", "rolling"])
def test_an_index_that_cannot_change_is_not_refreshed(toy_data, tmp_path, mode):
  run, task, components, _, gatherer = parts(
    toy_data,
    **{"retrieval.refresh": mode, "optimizer.multipliers": ((FROZEN, 0.0),)},
  )
  encoder, mesh = components["retriever"], one_device()
  batches = train_batches(Unread(), 8, seed=0, rows=slice(0, 8))
  with pytest.raises(
    ValueError, match=re.escape(f"config.retrieval.refresh={mode!r}, but this")
  ):
    RetrievalPipeline(
      run.retrieval,
      batches,
      BatchRetrieval(encoder, gatherer, mesh, k=4, force_gold=False),
      encoder,
      tmp_path,
      question_length=32,
      trained=trains_passages(run, task, abstract(task)),
    )
  assert not list(tmp_path.iterdir())
