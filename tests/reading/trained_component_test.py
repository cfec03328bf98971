"""Published folders in the place of a workdir, against transformers."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tokenizers
from command_line import last_line, run
from six_passages import make_corpus

from odqa_jax.data.questions.sets import Question
from odqa_jax.data.runs import Ranking, read_run, write_run
from odqa_jax.evaluation.measures import answer_measures
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.hf.heads import save_network
from odqa_jax.models.passage_scorer import (
  ALONE,
  PassageFilter,
  Reranker,
  ScorerConfig,
)
from odqa_jax.reading.extract import (
  holds_span_reader,
  load_span_reader,
  read_spans,
)
from odqa_jax.reading.passage_spans import best_answers
from odqa_jax.reading.trained_component import load_component
from odqa_jax.reading.trained_scorer import load_trained_scorer
from odqa_jax.text.byte_pairs import SPECIAL_TOKENS
from odqa_jax.text.wordpiece_training import train_wordpiece

# The longest passages are cut.
POSITIONS = 96
QUESTIONS = [
  Question("q0", "where was Einstein born?", ("Ulm",)),
  Question("q1", "what flows through Vienna?", ("The Danube",)),
  Question("q2", "what is soft?", ("potatoes",)),
]
ROWS = np.array([[3, 0, 2, 1, 4], [2, 3, 5, 0, -1], [1, 4, 0, 3, 2]])
LONG = "Einstein moved from Ulm to Bern, and far from there he died. "
TEXTS = [
  ("Ulm", "Einstein was born in the city of Ulm."),
  ("Bern", "Einstein worked at a patent office in Bern."),
  ("Princeton", LONG * 6),
  ("Rivers", "The Danube flows through Ulm and Vienna."),
  ("Cooking", "Boil the potatoes until they are soft."),
  ("Cooking", "Boil the potatoes until they are hot."),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """A corpus, questions and a run of them."""
  folder = tmp_path_factory.mktemp("data")
  corpus = make_corpus(folder / "corpus", TEXTS)
  with (folder / "questions.jsonl").open("w") as file:
    for question in QUESTIONS:
      record = {"id": question.id, "question": question.question}
      file.write(json.dumps(record | {"answer": list(question.answers)}) + "\n")
  scores = np.where(ROWS < 0, -np.inf, -np.arange(5.0)).astype(np.float32)
  ranking = Ranking(tuple(q.id for q in QUESTIONS), ROWS, scores)
  write_run(folder / "run.json", ranking, QUESTIONS, corpus)
  return folder, corpus


def published(folder, kind, task, corpus, **other):
  """A folder as transformers writes it, its model and its tokenizer."""
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  own = {"max_position_embeddings": POSITIONS}
  if kind == "roberta":
    own = {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1}
    learned = tokenizers.ByteLevelBPETokenizer()
    learned.train_from_iterator(
      [text for _, text in TEXTS], 330, special_tokens=[*SPECIAL_TOKENS]
    )
    folder.mkdir()
    learned.save_model(str(folder))
    said = {"tokenizer_class": "RobertaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
  else:
    corpus.tokenizer.save(folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  config = transformers.AutoConfig.for_model(
    kind,
    vocab_size=len(tokenizer),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    **own,
    **other,
  )
  model = getattr(transformers, f"AutoModelFor{task}").from_config(config)
  torch.manual_seed(0)
  for parameter in model.parameters():
    parameter.data += 0.3 * torch.randn_like(parameter)
  model.save_pretrained(folder)
  return model.eval(), tokenizer


def theirs(model, tokenizer, question, corpus, rows):
  """What transformers makes of a question with passages."""
  import torch

  inputs = tokenizer(
    [question] * len(rows),
    [corpus.text(row) for row in rows],
    truncation="only_second",
    max_length=POSITIONS,
    padding=True,
    return_tensors="pt",
  )
  with torch.no_grad():
    return inputs, model(**inputs)


def flags(data, folder, *args):
  root, _ = data
  return [
    "--checkpoint", folder, "--run", root / "run.json", "--corpus",
    root / "corpus", "--questions", root / "questions.jsonl", *args,
  ]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_published_cross_encoder_reranks_a_run(capsys, tmp_path, data, kind):
  _, corpus = data
  folder, out = tmp_path / kind, tmp_path / "out.json"
  model, tokenizer = published(
    folder, kind, "SequenceClassification", corpus, num_labels=1
  )
  code, said, err = run(capsys, "rerank", *flags(data, folder, "--out", out))
  assert code == 0 and json.loads(last_line(said))["after"]["k"] == 5
  assert "a published reranker: question_length 24, pair_length 96" in err
  found = read_run(out, QUESTIONS, corpus)
  cut = False
  for i, question in enumerate(QUESTIONS):
    rows = found.rows[i][found.rows[i] >= 0].tolist()
    assert sorted(rows) == sorted(r for r in ROWS[i].tolist() if r >= 0)
    inputs, outputs = theirs(model, tokenizer, question.question, corpus, rows)
    cut |= inputs["input_ids"].shape[1] == POSITIONS
    want = outputs.logits[:, 0].numpy()
    np.testing.assert_allclose(found.scores[i][: len(rows)], want, atol=1e-5)
    assert np.ptp(want) > 0.01
  assert cut


def brute_force(model, tokenizer, question, corpus, rows, longest):
  """The best span: (log-probability, row, first character, the last's end)."""
  inputs, outputs = theirs(model, tokenizer, question, corpus, rows)
  starts = outputs.start_logits.double().numpy()
  ends = outputs.end_logits.double().numpy()
  # Special tokens belong to none of the two.
  inside = np.array([inputs.sequence_ids(i) for i in range(len(rows))]) == 1
  best = []
  for i, row in enumerate(rows):
    where = np.flatnonzero(inside[i])
    for s in where.tolist():
      for e in where[(where >= s) & (where < s + longest)].tolist():
        span = (
          inputs.token_to_chars(i, s).start,
          inputs.token_to_chars(i, e).end,
        )
        best.append((starts[i, s] + ends[i, e], -row, -span[0], -span[1]))
  total = sum(np.logaddexp.reduce(x[inside]) for x in (starts, ends))
  score, *place = max(best)
  return score - total, *(-x for x in place)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_published_reader_finds_the_same_span(capsys, tmp_path, data, kind):
  _, corpus = data
  folder = tmp_path / kind
  model, tokenizer = published(folder, kind, "QuestionAnswering", corpus)
  assert holds_span_reader(folder)
  reader = load_span_reader(folder, corpus)
  assert "answers by start, end alone" in capsys.readouterr().err
  texts = [q.question for q in QUESTIONS]
  found = read_spans(reader, texts, ROWS, most=3)
  answers = []
  for i, spans in enumerate(found):
    rows = [row for row in ROWS[i].tolist() if row >= 0]
    want = brute_force(model, tokenizer, texts[i], corpus, rows, 30)
    best = best_answers(spans, corpus, most=1)[0]
    assert best.log_prob == pytest.approx(want[0], abs=1e-4)
    assert set(best.scores) == {"start", "end"}
    assert (best.row, best.start, best.end) == want[1:]
    answers.append(best)
  code, out, err = run(
    capsys, "evaluate", *flags(data, folder, "--read-k", 5, "--k", 5)
  )
  assert code == 0 and "a published extractive_reader" in err
  figures = json.loads(last_line(out))["checkpoint"]["read"]["5"]
  assert figures["f1"] == pytest.approx(
    answer_measures(answers, QUESTIONS)["f1"]
  )


@pytest.mark.torch
def test_several_labels_and_no_head_are_refused(capsys, tmp_path, data):
  _, corpus = data
  out = tmp_path / "out.json"
  many, none = tmp_path / "many", tmp_path / "none"
  published(many, "bert", "SequenceClassification", corpus, num_labels=3)
  published(none, "bert", "QuestionAnswering", corpus)
  code, _, err = run(capsys, "rerank", *flags(data, many, "--out", out))
  assert code == 2 and "tells 3 labels apart" in err
  code, _, err = run(capsys, "rerank", *flags(data, none, "--out", out))
  assert code == 2 and "the weights have no classifier" in err
  assert not holds_span_reader(many)
  with pytest.raises(ValueError, match="the weights have no qa_outputs"):
    load_span_reader(many, corpus)
  assert not out.exists()


def zeros(network):
  """Parameters that take no program to make."""
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def network_of(corpus, kind, config, **sizes):
  """A network with parameters."""
  body = BertConfig(
    vocab_size=corpus.tokenizer.vocab_size,
    width=8,
    layers=1,
    heads=2,
    mlp_dim=8,
    **sizes,
  )
  network = kind(config(body))
  return network, zeros(network)


@pytest.mark.parametrize("span", [True, False])
def test_readers_that_rank_passages_read_as_their_authors_do(
  tmp_path, data, span
):
  """All heads are this project's own; without that of spans it is DPR's."""
  _, corpus = data
  network, params = network_of(
    corpus, ExtractiveReader, lambda body: SpanConfig(body, span=span)
  )
  save_network(tmp_path / "out", network, params, corpus.tokenizer)
  reader = load_span_reader(tmp_path / "out", corpus)
  assert reader.passage_first == span
  assert reader.objective == ("independent" if span else "dpr")
  assert reader.inputs.title
  assert (reader.question_length, reader.span_length) == (64, 30)
  assert reader.inputs.length == 512


def test_a_published_classifier_prunes(tmp_path, data):
  _, corpus = data
  network, params = network_of(
    corpus, Reranker, ScorerConfig, max_positions=300
  )
  save_network(tmp_path / "out", network, params, corpus.tokenizer)
  scorer = load_trained_scorer(tmp_path / "out", "passage_classifier")
  assert (scorer.passage_length, scorer.title) == (256, False)
  network, params = network_of(
    corpus, PassageFilter, ScorerConfig, max_positions=300
  )
  params["filter"]["kernel"] += 1
  save_network(tmp_path / "filter", network, params, corpus.tokenizer)
  scorer = load_trained_scorer(tmp_path / "filter", "passage_filter")
  assert isinstance(scorer.network, PassageFilter) and not scorer.leaky
  assert np.all(np.asarray(scorer.params["filter"]["kernel"]) == 1)
  with pytest.raises(ValueError, match=r"no classifier\.dense"):
    load_trained_scorer(tmp_path / "filter", *ALONE)
  other = train_wordpiece(["another vocabulary"], 60)
  few = other.vocab_size - 1
  small = dataclasses.replace(network.config.bert, vocab_size=few)
  network = Reranker(ScorerConfig(small))
  params = zeros(network)
  save_network(tmp_path / "few", network, params, other)
  with pytest.raises(ValueError, match=f"has {few} embeddings, and its token"):
    load_component(tmp_path / "few", "reranker")
