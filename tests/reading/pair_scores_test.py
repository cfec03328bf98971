"""Scores of pairs and passages: as in training, in any order and number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from six_passages import make_corpus

from odqa_jax.data.examples.judged import JudgedPassages
from odqa_jax.data.examples.reranking import RerankingExamples
from odqa_jax.data.examples.retrieved import RetrievedQuestions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.families import describe
from odqa_jax.models.passage_scorer import (
  PassageClassifier,
  PassageFilter,
  Reranker,
  ScorerConfig,
)
from odqa_jax.reading import pair_scores
from odqa_jax.reading.pair_scores import PassageScores, rerank, score_pairs
from odqa_jax.reading.trained_scorer import make_scorer
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.serving.scores import Scorer
from odqa_jax.text.pairs import PairVocabulary
from odqa_jax.text.wordpiece_training import train_wordpiece

LENGTHS = {"question_length": 6, "passage_length": 14, "pair_length": 40}
TEXTS = [
  (f"Title {i}", " ".join(["Einstein was born in the city of Ulm."] * n))
  for i, n in enumerate((1, 2, 1, 5, 3, 1, 2, 4, 1, 2))
]
QUESTIONS = [
  Question("q0", "where was Einstein born in the year of his birth", ()),
  Question("q1", "Ulm", ()),
  Question("q2", "who was born", ()),
  Question("q3", "nothing was found for this", ()),
]
ROWS = np.array(
  [[3, 1, 2, 0, 8], [9, 4, 7, -1, -1], [5, 3, 6, 1, -1], [-1] * 5]
)
NEAR = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  return make_corpus(tmp_path_factory.mktemp("pairs") / "corpus", TEXTS)


def trained(corpus, kind=Reranker, *, devices=1, tokenizer=None, **changes):
  """A scorer of random weights, large enough that scores differ."""
  tokenizer = tokenizer or corpus.tokenizer
  bert = BertConfig(
    vocab_size=tokenizer.vocab_size,
    width=8,
    layers=1,
    heads=2,
    mlp_dim=12,
    max_positions=48,
    dropout=0.1,
    scan=False,
  )
  network = kind(ScorerConfig(bert))
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32),
    jax.eval_shape(network.init, jax.random.key(0)),
  )
  made_from = {"tokenizer": tokenizer.fingerprint, "title": True, **LENGTHS}
  return make_scorer(
    describe(network) | made_from | changes,
    params,
    tokenizer,
    mesh=make_mesh(devices=jax.devices()[:devices]),
  )


def texts():
  return [question.question for question in QUESTIONS]


def ranking():
  ids = tuple(question.id for question in QUESTIONS)
  return Ranking(ids, ROWS, np.where(ROWS < 0, -np.inf, 0.0).astype(np.float32))


def reference(scorer, *inputs):
  """What the network says of a batch, on one device."""
  params = jax.device_get(scorer.params)
  score = jax.jit(scorer.network.score)
  return np.asarray(score(params, *map(jnp.asarray, inputs)))


def in_training(scorer, corpus):
  """The scores of the batches that a reranker trains on, one by one."""
  examples = RerankingExamples(
    RetrievedQuestions([(QUESTIONS, ranking())], corpus),
    PairVocabulary(scorer.tokenizer),
    passages=5,
    question_length=LENGTHS["question_length"],
    length=LENGTHS["pair_length"],
    title=scorer.title,
    training=False,
  )
  scores = np.full(ROWS.shape, -np.inf, np.float32)
  for place, i in enumerate(examples.numbers):
    batch = examples.batch(
      np.array([place]), np.random.default_rng(0), slice(0, 1)
    )
    names = ("ids", "lengths", "first_lengths")
    found = reference(scorer, *(batch[name][0] for name in names))
    np.testing.assert_array_equal(batch["passage_rows"][0], ROWS[i])
    scores[i] = np.where(ROWS[i] < 0, -np.inf, found)
  return scores


@pytest.mark.parametrize("title", [True, False])
@pytest.mark.parametrize(("devices", "piece"), [(1, 8192), (8, 8192), (8, 3)])
def test_scores_are_those_of_training(corpus, title, devices, piece):
  """In batches of several questions, cut at any place, on 1 device or 8."""
  scorer = trained(corpus, title=title, devices=devices)
  told = []
  scores = score_pairs(
    scorer,
    texts(),
    ROWS,
    corpus,
    piece=piece,
    batch_tokens=64,
    progress=lambda *n: told.append(n),
  )
  wanted = in_training(scorer, corpus)
  np.testing.assert_allclose(scores, wanted, **NEAR)
  # The scores tell the passages apart, or the test would prove nothing.
  real = wanted[ROWS >= 0]
  assert np.diff(np.sort(real)).max() > 100 * NEAR["atol"]
  assert told[-1] == (ROWS.size, ROWS.size)
  # After every batch, in order.
  counts = [done for done, _ in told]
  assert counts == sorted(counts) and 0 < counts[0] < ROWS.size


def test_order_does_not_matter(corpus):
  scorer = trained(corpus, devices=8)
  rng = np.random.default_rng(0)
  asked, placed = rng.permutation(len(ROWS)), rng.permutation(ROWS.shape[1])
  plain = score_pairs(scorer, texts(), ROWS, corpus, batch_tokens=64)
  other = score_pairs(
    scorer,
    [texts()[i] for i in asked],
    ROWS[asked][:, placed],
    corpus,
    batch_tokens=64,
  )
  np.testing.assert_allclose(other, plain[asked][:, placed], **NEAR)


def test_few_shapes_of_bounded_size(corpus, monkeypatch):
  """Of 400 passages a question: pieces of 100 pairs, batches of 256 tokens."""
  scorer = trained(corpus)
  rows = np.random.default_rng(0).integers(0, len(TEXTS), (6, 400))
  asked = [" ".join(["Ulm"] * n) for n in range(1, 7)]
  shapes, pieces, finished, most = [], 0, 0, 0

  def packed(self, part):
    nonlocal pieces, most
    pieces += 1
    most = max(most, pieces - finished)
    piece = pack(self, part)
    assert len(piece.places) == len(part) <= 100
    return piece

  def computed(scorer, ids, lengths, first_lengths):
    assert ids.size <= 256
    shapes.append(ids.shape)
    return jnp.zeros(len(ids))

  def told(done, total):
    nonlocal finished
    finished = done // 100

  pack = pair_scores._Packer.pack
  monkeypatch.setattr(pair_scores._Packer, "pack", packed)
  monkeypatch.setattr(pair_scores, "_compute", computed)
  score_pairs(
    scorer,
    asked,
    rows,
    corpus,
    piece=100,
    batch_tokens=256,
    progress=told,
  )
  assert len(set(shapes)) <= 9 and len(set(shapes)) > 1
  assert most == 2 and finished == pieces == 24


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_what_is_done_is_told_while_a_cpu_computes(
  corpus, monkeypatch, platform
):
  events = []

  def computed(scorer, ids, lengths, first_lengths):
    events.append("batch")
    return jnp.zeros(len(ids))

  monkeypatch.setattr(pair_scores, "_compute", computed)
  monkeypatch.setattr(pair_scores, "_platform", lambda scorer: platform)
  rows = np.arange(len(TEXTS))[None]
  score_pairs(
    trained(corpus), ["Ulm"], rows, corpus, batch_tokens=64,
    progress=lambda *n: events.append("told"),
  )  # fmt: skip
  assert events.count("batch") > 2
  # Other devices have all batches before the first one's scores are fetched.
  assert (events[1] == "told") == (platform == "cpu")


def test_a_longer_pair_in_a_later_piece(corpus):
  scorer = trained(corpus)
  rows = np.array([[0, 2, 5, 8, 3]])
  scores = score_pairs(scorer, ["Ulm"], rows, corpus, piece=4, batch_tokens=64)
  whole = score_pairs(scorer, ["Ulm"], rows, corpus)
  np.testing.assert_allclose(scores, whole, **NEAR)


def test_rerank_puts_the_best_first(corpus):
  scorer = trained(corpus)
  before = ranking()
  after = rerank(scorer, before, QUESTIONS, corpus)
  scores = score_pairs(scorer, texts(), ROWS, corpus)
  for i, row in enumerate(ROWS):
    pairs = sorted(
      (p for p in zip(-scores[i], row, strict=True) if p[1] >= 0),
      key=lambda p: p[0],
    )
    assert after.rows[i].tolist() == [r for _, r in pairs] + [-1] * (
      5 - len(pairs)
    )
    np.testing.assert_array_equal(after.scores[i], np.sort(scores[i])[::-1])
  with pytest.raises(ValueError, match="does not belong to these 3"):
    rerank(scorer, before, QUESTIONS[:3], corpus)


def test_equal_scores_keep_their_order(corpus, monkeypatch):
  monkeypatch.setattr(
    pair_scores, "_compute", lambda scorer, ids, *_: jnp.zeros(len(ids))
  )
  after = rerank(trained(corpus), ranking(), QUESTIONS, corpus)
  np.testing.assert_array_equal(after.rows, ROWS)


def test_nothing_to_score(corpus):
  scorer = trained(corpus)
  for shape in ((2, 0), (0, 5), (2, 3)):
    rows = np.full(shape, -1)
    scores = score_pairs(scorer, texts()[: shape[0]], rows, corpus)
    np.testing.assert_array_equal(scores, np.full(shape, -np.inf, np.float32))


def test_a_score_that_is_not_finite_is_named(corpus):
  scorer = trained(corpus)
  broken = dataclasses.replace(
    scorer, params=jax.tree.map(lambda x: x * jnp.nan, scorer.params)
  )
  with pytest.raises(ValueError, match="passage 'p3' for the question 'where"):
    score_pairs(broken, texts(), ROWS, corpus)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("title", [True, False])
def test_passages_alone(corpus, devices, title):
  scorer = trained(corpus, PassageClassifier, devices=devices, title=title)
  scores = PassageScores(scorer, corpus, batch_tokens=32)
  assert isinstance(scores, Scorer)
  ids, lengths = corpus.passage_inputs(np.arange(10), 14, title=title)
  wanted = reference(scorer, ids, lengths, lengths)
  np.testing.assert_allclose(scores(range(10)), wanted, **NEAR)
  np.testing.assert_allclose(scores(range(3, 7)), wanted[3:7], **NEAR)


@pytest.mark.parametrize("rows", [None, np.array([1, 3, 4, 8])])
def test_a_network_of_another_vocabulary_reads_the_texts(corpus, rows):
  """As in training, and whichever rows are asked for together."""
  other = train_wordpiece([text for _, text in TEXTS], 60)
  scorer = trained(corpus, PassageFilter, tokenizer=other, passage_length=40)
  scores = PassageScores(scorer, corpus, rows=rows, batch_tokens=64)
  chosen = np.arange(10) if rows is None else rows
  examples = JudgedPassages(corpus, other, length=40, title=True)
  batch = examples.batch(
    chosen[:, None], np.zeros((len(chosen), 1), bool), slice(None)
  )
  ids, lengths = batch["ids"][:, 0], batch["lengths"][:, 0]
  assert len(set(lengths.tolist())) > 2
  # Of a filter the highest scores are the least irrelevant.
  wanted = -reference(scorer, ids, lengths, lengths)
  np.testing.assert_allclose(scores(range(len(chosen))), wanted, **NEAR)
  np.testing.assert_allclose(scores(range(1, 3)), wanted[1:3], **NEAR)


def test_the_fingerprint_is_of_what_a_score_depends_on(corpus):
  plain = trained(corpus, PassageClassifier)
  assert trained(corpus, PassageClassifier, devices=8).fingerprint == (
    plain.fingerprint
  )
  quiet = describe(plain.network)
  quiet["config"]["bert"]["dropout"] = 0.0
  assert trained(corpus, PassageClassifier, **quiet).fingerprint == (
    plain.fingerprint
  )
  for change in ({"title": False}, {"passage_length": 13}):
    other = trained(corpus, PassageClassifier, **change)
    assert other.fingerprint != plain.fingerprint
  moved = jax.tree.map(lambda x: x + 1, plain.params)
  described = describe(plain.network) | {
    "tokenizer": corpus.tokenizer.fingerprint,
    "title": True,
    **LENGTHS,
  }
  other = make_scorer(described, moved, corpus.tokenizer)
  assert other.fingerprint != plain.fingerprint
