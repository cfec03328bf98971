"""What is measured of rerankers, readers and pruners while they train."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_reader import one_device

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.examples.golden import golden_passages
from odqa_jax.data.examples.sources import load_examples
from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.evaluation.measures import evaluate_ranking
from odqa_jax.evaluation.passage_evaluators import make_passage_evaluator
from odqa_jax.models import dual_encoder
from odqa_jax.models.families import network_from
from odqa_jax.objectives.best_spans import best_spans
from odqa_jax.objectives.spans import Contexts, SpanScores
from odqa_jax.reading import extract, trained_scorer
from odqa_jax.reading.extract import load_span_reader
from odqa_jax.runtime.checkpoint import find_step
from odqa_jax.runtime.config import load_config
from odqa_jax.runtime.settings import read_settings
from odqa_jax.text.answers import exact_match, f1
from odqa_jax.text.pairs import PairVocabulary
from odqa_jax.training import train as train_module
from odqa_jax.training.initial import initial_components
from odqa_jax.training.tasks.table import check_names
from odqa_jax.training.train import train

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = {"width": 16, "layers": 1, "heads": 2, "mlp_dim": 32}
K = 6
WORDS = "red blue green old young large small quiet famous wooden".split()


@pytest.fixture(autouse=True)
def small(monkeypatch):
  for module in (extract, trained_scorer, train_module):
    monkeypatch.setattr(module, "make_mesh", lambda *_, **__: one_device())
  tiny = dual_encoder.PRESETS["tiny"] | SIZES
  monkeypatch.setitem(dual_encoder.PRESETS, "tiny", tiny)


@pytest.fixture(scope="module")
def dev(toy_data, tmp_path_factory):
  """12 questions, one of them with answers alone, and a run of most of them."""
  folder = tmp_path_factory.mktemp("dev")
  corpus = Corpus(toy_data / "corpus")
  asked = list(QuestionSet(toy_data / "questions" / "toy"))[:12]
  asked[3] = Question("alone", asked[3].question, asked[3].answers)
  write_questions(asked, folder / "dev", "dev")
  rng = np.random.default_rng(0)
  rows = np.full((12, K), -1)
  for i, question in enumerate(asked[:11]):
    golds = [corpus.row_of(name) for name in question.positive_ids]
    some = rng.choice(len(corpus), K, replace=False).tolist()
    rows[i] = rng.permutation([*golds, *(r for r in some if r not in golds)])[
      :K
    ]
  scores = np.where(rows < 0, -np.inf, -np.arange(float(K)))
  ids = tuple(question.id for question in asked)
  ranking = Ranking(ids, rows, scores.astype(np.float32))
  write_run(folder / "run.json", ranking, asked, corpus)
  return folder, asked, ranking


def settings_of(recipe, toy_data, dev, **changes):
  folder, _, _ = dev
  changes = {
    "data.corpus": toy_data / "corpus",
    "data.questions": toy_data / "questions" / "toy",
    "data.run": "" if recipe == "pruner" else folder / "run.json",
    "model.scan": False,
    "evaluate.questions": folder / "dev",
    "evaluate.run": "" if recipe == "pruner" else folder / "run.json",
  } | changes
  overrides = [f"{key}={value}" for key, value in changes.items()]
  return load_config(f"{CONFIGS / recipe}.py:debug", overrides)


class Parts:
  """An evaluator with the network that it measures."""

  def __init__(self, recipe, toy_data, dev, **changes):
    settings = read_settings(settings_of(recipe, toy_data, dev, **changes))
    self.corpus = Corpus(settings.data.corpus)
    needs = check_names(settings)
    initial = initial_components(settings, needs, self.corpus, one_device())
    ((self.role, self.description),) = initial.descriptions.items()
    self.network = network_from(self.description)
    self.tokenizer = initial.tokenizer
    self.evaluate = make_passage_evaluator(
      settings,
      initial.descriptions,
      initial.tokenizer,
      self.corpus,
      load_examples(settings.data, self.corpus, initial.vocabulary),
    )

  def params(self, seed=0):
    """Random ones, of which all matter."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(self.network.init, jax.random.key(0))
    return jax.tree.map(
      lambda x: jnp.asarray(rng.normal(0, 0.6, x.shape), jnp.float32), shapes
    )

  def measured(self, params):
    """As the loop does it."""
    with jax.transfer_guard("disallow"):
      return self.evaluate({self.role: params}, None)

  def pair(self, question, row, *, passage_first):
    """A question with one passage, and its tokens: [1, l]."""
    length = self.description["pair_length"]
    vocabulary = PairVocabulary(self.tokenizer)
    row = int(row)
    (text,) = vocabulary.encodings([self.corpus.text(row)])
    title, asked = vocabulary.encode_batch(
      [self.corpus.title(row), question.question]
    )
    join = (
      vocabulary.passage_first if passage_first else vocabulary.question_first
    )
    return join(asked, title, text.ids, length), text

  def inputs(self, pair):
    counts = len(pair.ids), pair.first_length
    return [jnp.array([x], jnp.int32) for x in (pair.ids, *counts)]


@pytest.mark.parametrize(("limit", "k"), [(0, 100), (5, 5)])
def test_a_reranker_is_measured_by_its_order(toy_data, dev, limit, k):
  _, questions, ranking = dev
  changes = {"evaluate.max_questions": limit, "evaluate.k": k}
  parts = Parts("reranker", toy_data, dev, **changes)
  params = parts.params()
  chosen = [i * 12 // limit for i in range(limit)] if limit else range(12)
  asked = [questions[i] for i in chosen]
  rows = ranking.rows[[*chosen], :k]
  scores = np.full(rows.shape, -np.inf)
  score = jax.jit(parts.network.score)
  for i, j in np.argwhere(rows >= 0).tolist():
    pair, _ = parts.pair(asked[i], rows[i, j], passage_first=False)
    # One length, so that little is compiled.
    room = parts.description["pair_length"] - len(pair.ids)
    ids, lengths, first = parts.inputs(pair)
    ids = jnp.pad(ids, ((0, 0), (0, room)))
    scores[i, j] = score(params, ids, lengths, first)[0]
  order = np.argsort(-scores, axis=1)
  ranked = Ranking(
    tuple(q.id for q in asked),
    np.take_along_axis(rows, order, axis=1),
    np.take_along_axis(scores, order, axis=1).astype(np.float32),
  )
  wanted = evaluate_ranking(ranked, asked, parts.corpus)
  before = evaluate_ranking(ranking, questions, parts.corpus)
  figures = parts.measured(params)
  assert figures == {
    f"{name}@{cutoff}": wanted[name][cutoff]
    for name in ("recall", "gold")
    for cutoff in ("1", "5")
  } | {name: wanted[name] for name in ("ndcg@10", "mrr@10", "map")}
  if not limit:
    assert figures["recall@1"] != before["recall"]["1"]
    assert parts.measured(parts.params(1)) != figures


def test_an_extractive_reader_is_measured_by_its_answers(
  toy_data, dev, tmp_path
):
  _, questions, ranking = dev
  # Any two words of a passage are an answer now and then.
  answers = tuple(f"{a} {b}" for a in WORDS for b in ("the", *WORDS))
  questions = [dataclasses.replace(q, answers=answers) for q in questions]
  write_questions(questions, tmp_path / "dev", "dev")
  changes = {
    "data.passages": 3, "data.span_length": 5, "evaluate.best": "f1",
    "evaluate.questions": tmp_path / "dev",
  }  # fmt: skip
  parts = Parts("extractive", toy_data, dev, **changes)
  read, seen = jax.jit(parts.network.read), []
  longest = parts.description["span_length"]
  for seed in (0, 1, 2):
    params, answers = parts.params(seed), []
    for question, rows in zip(questions, ranking.rows[:, :3], strict=True):
      if rows[0] < 0:
        answers.append("")
        continue
      made = [parts.pair(question, r, passage_first=True) for r in rows]
      pairs = [pair for pair, _ in made]
      ids = np.zeros((3, parts.description["pair_length"]), np.int32)
      for i, pair in enumerate(pairs):
        ids[i, : len(pair.ids)] = pair.ids
      counts = [[len(p.ids), p.first_length] for p in pairs]
      found = read(params, jnp.array(ids), *jnp.array(counts, jnp.int32).T)
      bounds = np.array([[[p.context_start, p.context_end] for p in pairs]])
      contexts = Contexts(jnp.ones((1, 3), bool), *jnp.moveaxis(bounds, 2, 0))
      scores = SpanScores(*(x[None] for x in found))
      best = best_spans(scores, contexts, most=1, longest=longest)
      i, s, e = (int(x[0, 0]) for x in best[:3])
      offsets = made[i][1].offsets
      text = parts.corpus.text(int(rows[i]))
      answers.append(text[offsets[s - 1][0] : offsets[e - 1][1]])
    pairs = list(zip(answers, (q.answers for q in questions), strict=True))
    figures = parts.measured(params)
    assert figures == {
      "em": np.mean([exact_match(*pair) for pair in pairs]),
      "f1": pytest.approx(np.mean([f1(*pair) for pair in pairs])),
    }
    seen.append(figures)
  assert len({s["f1"] for s in seen}) == 3 and any(s["em"] for s in seen)


def test_a_pruner_is_measured_on_gold_and_random_passages(toy_data, dev):
  _, questions, _ = dev
  parts = Parts("pruner", toy_data, dev)
  corpus, length = parts.corpus, parts.description["passage_length"]
  golden = golden_passages(questions, corpus, negatives=1, seed=0)
  assert len(golden.rows) == 22
  ids, lengths = corpus.passage_inputs(golden.rows, length, title=True)
  inputs = [jnp.asarray(x) for x in (ids, lengths, lengths)]
  score = jax.jit(parts.network.score)
  shares = set()
  for seed in (0, 1, 2):
    params = parts.params(seed)
    useless = np.asarray(score(params, *inputs)) > 0
    figures = parts.measured(params)
    assert figures["accuracy"] == np.mean(useless == golden.irrelevant)
    kept = ~useless
    hits = (kept & ~golden.irrelevant).sum()
    if hits:
      precision, recall = hits / kept.sum(), hits / 11
      mean = 2 * precision * recall / (precision + recall)
      assert figures["f1"] == pytest.approx(mean)
    else:
      assert figures["f1"] == 0
    shares.add(float(useless.mean()))
  assert len(shares) > 1


@pytest.mark.slow
def test_the_best_step_is_kept(toy_data, dev, tmp_path):
  config = settings_of(
    "extractive",
    toy_data,
    dev,
    **{
      "objective.extractive": "dpr",
      "evaluate.best": "f1",
      "steps": 5,
      "checkpoint.every": 1,
      "log_every": 6,
      "batch_size": 2,
      "optimizer.learning_rate": 0.03,
    },
  )
  train(config, tmp_path)
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if "dev/f1" in row]
  assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
  values = [row["dev/f1"] for row in rows]
  assert len(set(values)) > 1
  _, step = find_step(tmp_path)
  assert values[step - 1] == max(values)
  corpus = Corpus(toy_data / "corpus")
  assert load_span_reader(tmp_path, corpus).objective == "dpr"


@pytest.mark.parametrize(
  ("recipe", "changes", "message"),
  [
    (
      "reranker",
      {"evaluate.best": "em"},
      "choose one of recall@1, recall@5",
    ),
    ("extractive", {"evaluate.best": "recall@5"}, "choose one of em, f1"),
    ("pruner", {"evaluate.best": "em"}, "choose one of accuracy, f1"),
    ("reranker", {"evaluate.run": ""}, "give config.evaluate.run, from odqa s"),
    ("extractive", {"evaluate.questions": ""}, "give config.evaluate.quest"),
    ("pruner", {"evaluate.run": "run.json"}, "reads none; leave it out"),
    ("supervised", {"evaluate.run": "run.json"}, "reads none; leave it out"),
  ],
)
def test_what_cannot_be_measured_is_told_before(
  toy_data, dev, recipe, changes, message
):
  with pytest.raises(ValueError, match=message):
    Parts(recipe, toy_data, dev, **changes)


def test_a_run_of_others_is_refused(toy_data, dev, tmp_path):
  _, questions, ranking = dev
  none = Ranking(
    ranking.question_ids, ranking.rows[:, :0], ranking.scores[:, :0]
  )
  write_run(
    tmp_path / "none.json", none, questions, Corpus(toy_data / "corpus")
  )
  with pytest.raises(ValueError, match="has no passage for any of 12 quest"):
    Parts("reranker", toy_data, dev, **{"evaluate.run": tmp_path / "none.json"})
  assert Parts("reranker", toy_data, dev, **{
    "evaluate.questions": "", "evaluate.run": ""
  }).evaluate is None  # fmt: skip
