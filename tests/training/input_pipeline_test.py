"""The searched index is made by the weights that train, at every refresh."""

import jax
import numpy as np
import pytest
from small_reader import one_device, reader_settings, small_parts

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.loader import train_batches
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.models import dual_encoder, t5
from odqa_jax.retrieval import encoding as encoding_module
from odqa_jax.retrieval import retriever as retriever_module
from odqa_jax.retrieval.index import load_index
from odqa_jax.retrieval.retriever import load_retriever
from odqa_jax.training import train as train_module
from odqa_jax.training.input_pipeline import RetrievalPipeline
from odqa_jax.training.retrieval import BatchRetrieval
from odqa_jax.training.train import train

ROWS = np.array([0, 1, 57, 120, 199])


@pytest.fixture(autouse=True)
def use_one_device(monkeypatch):
  for module in (train_module, retriever_module, encoding_module):
    monkeypatch.setattr(module, "make_mesh", lambda *_, **__: one_device())


def embedded(encoder, params, corpus, length):
  """Some passages, encoded without the code that makes an index."""
  ids, lengths = corpus.passage_inputs(ROWS, length, title=True)
  return np.asarray(
    encoder.encode_passage(
      jax.device_get(params), jax.numpy.array(ids), jax.numpy.array(lengths)
    )
  )


def searched(index):
  return np.asarray(index.embeddings)[ROWS]


@pytest.fixture
def parts(toy_data, tmp_path):
  """A function that makes a pipeline of small networks, and what it encodes."""

  def make(mode):
    run = reader_settings(
      "individual",
      toy_data,
      **{
        "retrieval.refresh": mode,
        "retrieval.refresh_every": 2,
        "data.source": "answers",
        "data.questions": str(toy_data / "questions" / "toy"),
      },
    )
    corpus = Corpus(toy_data / "corpus")
    _, components, params, gatherer = small_parts(run, corpus)
    encoder = components["retriever"]
    examples = load_examples(run.data, corpus, gatherer.inputs.vocabulary)
    pipeline = RetrievalPipeline(
      run.retrieval,
      train_batches(examples, 4, seed=0, rows=slice(0, 4)),
      BatchRetrieval(encoder, gatherer, one_device(), k=4, force_gold=False),
      encoder,
      tmp_path,
      question_length=32,
      trained=True,
    )

    def rows(params):
      return embedded(encoder, params["retriever"], corpus, 48)

    return pipeline, params, rows

  return make


def scaled(params, factor):
  """Weights of a later step: those of the passage encoder are others."""
  retriever = params["retriever"]
  other = jax.tree.map(lambda x: x * np.float32(factor), retriever["passage"])
  return params | {"retriever": retriever | {"passage": other}}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mode", "made_at"),
  # Which weights made the searched rows, after each of four steps; in the mode
  # "rolling" a step refreshes some of the rows, so only the ends are the same.
  [
    ("none", [0, 0, 0, 0]),
    ("blocking", [0, 2, 2, 4]),
    ("snapshot", [0, 0, 0, 2]),
  ],
)
def test_rows_are_those_of_the_weights_that_were_given(parts, mode, made_at):
  pipeline, params, rows = parts(mode)
  steps = [scaled(params, 1 + 0.5 * step) for step in range(5)]
  # Of weights that no rounding confuses.
  expected = [rows(params) for params in steps]
  assert np.abs(expected[0] - expected[2]).max() > 0.05
  assert np.abs(expected[2] - expected[4]).max() > 0.05
  pipeline.begin(steps[0])
  np.testing.assert_allclose(searched(pipeline.index()), expected[0], atol=1e-5)
  for step, made in enumerate(made_at, start=1):
    pipeline.refresh(steps[step], step)
    np.testing.assert_allclose(
      searched(pipeline.index()), expected[made], atol=1e-5
    )
    assert pipeline.metrics(step) == {"index_age": step - made}


def test_rolling_renews_every_row_within_a_period(parts):
  pipeline, params, rows = parts("rolling")
  pipeline.begin(params)
  later = scaled(params, 2.0)
  for step in (1, 2):
    pipeline.refresh(later, step)
  np.testing.assert_allclose(searched(pipeline.index()), rows(later), atol=1e-5)


@pytest.mark.slow
def test_training_searches_the_rows_of_its_live_weights(
  toy_config, tmp_path, monkeypatch
):
  """At the end of a period the index is that of the saved weights."""
  small = {"width": 32, "layers": 1, "heads": 2, "mlp_dim": 64}
  tiny = dual_encoder.PRESETS["tiny"] | small
  monkeypatch.setitem(dual_encoder.PRESETS, "tiny", tiny)
  small |= {"decoder_layers": 1, "head_dim": 16}
  monkeypatch.setitem(t5.PRESETS, "tiny", t5.PRESETS["tiny"] | small)
  pipelines = []
  make_pipeline = train_module.make_pipeline

  def kept(*args, **kwargs):
    pipelines.append(make_pipeline(*args, **kwargs))
    return pipelines[-1]

  monkeypatch.setattr(train_module, "make_pipeline", kept)
  config = toy_config(
    **{
      "task": "individual",
      "batch_size": 8,
      "steps": 4,
      "checkpoint.every": 4,
      "data.source": "answers",
      "data.reader_length": 96,
      "data.answer_length": 16,
      "model.pooling": "mean",
      "optimizer.learning_rate": 0.01,
      "reader.preset": "tiny",
      "retrieval.k": 2,
      "retrieval.refresh": "blocking",
      "retrieval.refresh_every": 2,
    }
  )
  train(config, tmp_path)
  live = searched(pipelines[0].index())
  trained = load_retriever(tmp_path)
  direct = embedded(
    trained.encoder, trained.params, Corpus(config.data.corpus), 64
  )
  np.testing.assert_allclose(live, direct, atol=1e-5)
  first = searched(load_index(tmp_path / "index", one_device()))
  assert np.abs(first - direct).max() > 0.01
