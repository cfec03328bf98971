"""Answers against NumPy and one-by-one decoding; files, flags and refusals."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_reader import (
  ANSWER_LENGTH,
  one_device,
  reader_settings,
  save_workdir,
  small_system,
  use_one_device,
)

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.data.examples.answers import AnswerExamples
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.evaluation.tables import rounded
from odqa_jax.main import main
from odqa_jax.models import decoding
from odqa_jax.reading.answer import (
  Answer,
  answer_questions,
  encode_request,
  find_passages,
  read_batches,
)
from odqa_jax.reading.predict import distinct_answers, ended_answers
from odqa_jax.reading.system import (
  load_reading_system,
  with_params,
  without_params,
)
from odqa_jax.retrieval.retriever import (
  index_corpus,
  load_retriever,
)
from odqa_jax.runtime.mesh import make_mesh, to_global
from odqa_jax.text.reader_vocabulary import reader_vocabulary
from odqa_jax.text.wordpiece_training import train_wordpiece
from odqa_jax.training.retrieval import BatchRetrieval
from odqa_jax.training.tasks.table import make_task

QUESTIONS = [
  "what is known of the red castle 7",
  "which sailor has a golden bridge",
  "where",
  "what is known of the quiet northern harbour 31 and of the wooden tower 99 "
  "that the captain built for the king of the green village by the river",
]


@pytest.fixture(autouse=True)
def mesh(request, monkeypatch):
  """One device, unless a test is marked to use all eight."""
  if "eight_devices" in request.keywords:
    return make_mesh()
  use_one_device(monkeypatch)
  return one_device()


@pytest.fixture(scope="module")
def index_folder(tmp_path_factory):
  return tmp_path_factory.mktemp("index")


@pytest.fixture
def make_index(index_folder, mesh):
  """The index of a system; all small systems of one seed share theirs."""

  def make(system):
    folder = index_folder / system.retriever.fingerprint
    return index_corpus(system.retriever, system.corpus, folder, mesh=mesh)

  return make


def ask(system, index, questions=QUESTIONS, **options):
  settings = {"k": 4, "batch_size": 8, "max_tokens": ANSWER_LENGTH}
  return answer_questions(system, index, questions, **settings | options)


# ---- By hand: one question, one passage, one token at a time ----


def log_softmax(x: np.ndarray) -> np.ndarray:
  x = x.astype(np.float64)
  x = x - x.max(axis=-1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


EMBEDDED: dict[str, np.ndarray] = {}


class ByHand:
  """What a system should do: inputs made by hand, no cache, no batch."""

  def __init__(self, system):
    self.system = system
    self.config = system.config
    self.params = jax.device_put(jax.device_get(system.params))
    self.vocabulary = system.vocabulary
    encoder = system.components["retriever"]
    reader = system.components["reader"]
    self._question = jax.jit(encoder.encode_question)
    self._passage = jax.jit(encoder.encode_passage)
    self._encode, self._decode = jax.jit(reader.encode), jax.jit(reader.decode)

  def passages(self) -> np.ndarray:
    """Embeddings of the null document, at -1, and of all passages."""
    name = self.system.retriever.fingerprint
    if name not in EMBEDDED:
      corpus, tokenizer = self.system.corpus, self.system.corpus.tokenizer
      limit = self.system.retriever.passage_length
      rows = []
      for i in range(len(corpus)):
        title, text = tokenizer.encode_batch([corpus.title(i), corpus.text(i)])
        ids = [tokenizer.cls_id, *title, tokenizer.sep_id, *text]
        rows.append([*ids[: limit - 1], tokenizer.sep_id])
      rows.append([tokenizer.cls_id, tokenizer.sep_id])
      EMBEDDED[name] = self.embed(self._passage, rows, limit)
    return EMBEDDED[name]

  def embed(self, encode, rows: list[list[int]], limit: int) -> np.ndarray:
    ids = np.full((len(rows), limit), 7)
    for i, row in enumerate(rows):
      ids[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    made = encode(self.params["retriever"], jnp.array(ids), jnp.array(lengths))
    return np.asarray(made, np.float64)

  def relevance(self, question: str) -> np.ndarray:
    """Dot products with all passages and the null document."""
    tokenizer, limit = self.system.corpus.tokenizer, 32
    ids = tokenizer.encode(question)[: limit - 2]
    ids = [tokenizer.cls_id, *ids, tokenizer.sep_id]
    return self.passages() @ self.embed(self._question, [ids], limit)[0]

  def retrieved(self, question: str, k: int) -> list[int]:
    scores = self.relevance(question)[:-1]
    return np.argsort(-scores, kind="stable")[:k].tolist()

  def memory(self, question: str, row: int) -> tuple[jax.Array, int]:
    """States of one input, padded; and its length."""
    corpus, tokenizer = self.system.corpus, self.system.corpus.tokenizer
    limit = self.config.input_length
    asked = tokenizer.encode(question)[: self.system.retriever.question_length]
    text = tokenizer.encode(corpus.text(row)) if row >= 0 else []
    ids = [tokenizer.cls_id, *asked, tokenizer.sep_id, *text]
    ids = [*ids[: limit - 1], tokenizer.sep_id]
    padded = jnp.array([[*ids, *[7] * (limit - len(ids))]])
    lengths = jnp.array([[len(ids)]])
    states = self._encode(self.params["reader"], padded[None], lengths)
    return states[0, 0], len(ids)

  def log_likelihoods(
    self, answer: list[int], memories, bias=None
  ) -> np.ndarray:
    """Of every token and its end, given these passages at once; float64."""
    inputs = [self.vocabulary.start_id, *answer]
    # Later tokens do not matter: one shape for all.
    padded = [*inputs, *[7] * (ANSWER_LENGTH + 1 - len(inputs))]
    logits = self._decode(
      self.params["reader"],
      jnp.array([padded]),
      jnp.stack([states for states, _ in memories])[None],
      jnp.array([[length for _, length in memories]]),
      bias=None if bias is None else jnp.float32(bias),
    )
    return log_softmax(np.asarray(logits[0, : len(inputs)]))

  def greedy(self, memories, bias=None) -> tuple[int, ...]:
    answer: list[int] = []
    while len(answer) < ANSWER_LENGTH:
      best = self.log_likelihoods(answer, memories, bias)[-1].argmax()
      answer.append(int(best))
      if best == self.vocabulary.eos_id:
        break
    return tuple(answer)

  def tokens(self, answer, memories, bias=None) -> np.ndarray:
    """Of an answer and its end, which is scored though it was not written."""
    end = self.vocabulary.eos_id
    answer = answer if answer[-1] == end else (*answer, end)
    log_probs = self.log_likelihoods(list(answer[:-1]), memories, bias)
    return np.array([log_probs[j, token] for j, token in enumerate(answer)])

  def rows_and_scores(self, question: str, k: int):
    rows = self.retrieved(question, k)
    if self.config.null_document or not k:
      rows.append(-1)
    return rows, self.relevance(question)[rows]

  def individual(self, question: str, k: int):
    """Appendix A.4: different answers by first passage, each with Eq. 5."""
    rows, scores = self.rows_and_scores(question, k)
    prior = log_softmax(scores / self.config.temperature)
    memories = [self.memory(question, row) for row in rows]
    written = list(dict.fromkeys(self.greedy([m]) for m in memories))
    likelihoods = []
    for answer in written:
      tokens = np.stack([self.tokens(answer, [m]) for m in memories])
      if self.config.marginal == "sequence":
        value = np.log(np.exp(tokens.sum(axis=1) + prior).sum())
      else:
        value = np.log(np.exp(tokens + prior[:, None]).sum(axis=0)).sum()
      likelihoods.append(value)
    return rows, scores, prior, written, np.array(likelihoods)

  def fused(self, question: str, k: int):
    rows, scores = self.rows_and_scores(question, k)
    prior = log_softmax(scores / self.config.temperature)
    bias = None
    if self.config.bias != "none":
      kind = {"prob": np.exp(prior), "logprob": prior}[self.config.bias]
      weights = np.asarray(self.params["bias"]["lambda"]).reshape(-1, 1, 1, 1)
      bias = weights * kind[None, None, None]
    memories = [self.memory(question, row) for row in rows]
    written = self.greedy(memories, bias)
    value = self.tokens(written, memories, bias).sum()
    return rows, scores, prior, [written], np.array([value])


def assert_as_by_hand(system, found: list[Answer], k: int) -> list:
  """Compares everything; returns places of the answers, and all by passage."""
  hand = ByHand(system)
  alone = system.config.fusion == "answers"
  solve = hand.individual if alone else hand.fused
  chosen = []
  for question, answer in zip(QUESTIONS, found, strict=True):
    rows, scores, prior, written, values = solve(question, k)
    order = np.argsort(-values, kind="stable")
    texts = [system.vocabulary.decode(written[j]) for j in order]
    assert [text for text, _ in answer.candidates] == texts
    np.testing.assert_allclose(
      [value for _, value in answer.candidates], values[order], atol=2e-4
    )
    assert (answer.text, answer.log_prob) == answer.candidates[0]
    # Two passages of the toy corpus may be equally relevant.
    assert {p.row for p in answer.passages} == set(rows)
    by_row = {row: i for i, row in enumerate(rows)}
    order = [by_row[p.row] for p in answer.passages]
    np.testing.assert_allclose(
      [p.score for p in answer.passages], scores[order], atol=1e-4
    )
    np.testing.assert_allclose(
      [p.prob for p in answer.passages], np.exp(prior[order]), atol=2e-3
    )
    probs = [p.prob for p in answer.passages]
    assert probs == sorted(probs, reverse=True)
    assert sum(probs) == pytest.approx(1)
    for p in answer.passages:
      known = system.corpus
      wanted = (known.id(p.row), known.title(p.row)) if p.row >= 0 else ("", "")
      assert (p.id, p.title) == wanted
    chosen.append((int(values.argmax()), written))
  return chosen


@pytest.mark.parametrize("marginal", ["sequence", "token"])
@pytest.mark.parametrize("null", [False, True])
def test_individual_is_the_procedure_of_the_paper(
  toy_data, make_index, marginal, null
):
  system = small_system(
    "individual",
    toy_data,
    **{"objective.marginal": marginal, "retrieval.null_document": null},
  )
  found = ask(system, make_index(system))
  chosen = assert_as_by_hand(system, found, 4)
  # Otherwise this test would show little.
  assert max(len(answer.candidates) for answer in found) >= 3
  assert any(place for place, _ in chosen), "the first is not always the best"
  end = system.vocabulary.eos_id
  ends = [end in ids for _, written in chosen for ids in written]
  assert any(ends) and not all(ends), "some answers are cut off, and some end"


@pytest.mark.parametrize(
  "task, settings",
  [
    ("fid", {}),
    ("joint", {"objective.bias": "prob"}),
    ("joint", {"objective.bias": "logprob", "objective.bias_scope": "model"}),
    ("joint", {"objective.bias": "logprob", "retrieval.null_document": True}),
  ],
)
def test_fused_tasks_decode_once_from_all_passages(
  toy_data, make_index, task, settings
):
  settings = {"objective.bias_start": 3.0} | settings
  system = small_system(task, toy_data, **settings)
  found = ask(system, make_index(system))
  assert_as_by_hand(system, found, 4)


def test_the_bias_of_joint_decides(toy_data, make_index):
  """Without it, other answers or other probabilities come out."""
  log_probs = []
  for start in (0.0, 5.0):
    system = small_system("joint", toy_data, **{"objective.bias_start": start})
    log_probs.append([a.log_prob for a in ask(system, make_index(system))])
  assert not np.allclose(*log_probs, atol=1e-3)


@pytest.mark.parametrize("task", ["individual", "joint"])
def test_a_closed_book_needs_no_index(toy_data, task):
  system = small_system(task, toy_data)
  found = ask(system, None, k=0)
  assert_as_by_hand(system, found, 0)
  for answer in found:
    assert [(p.row, p.prob) for p in answer.passages] == [(-1, 1.0)]


# ---- Against the objective that is trained ----


@pytest.mark.parametrize(
  "task, settings",
  [
    ("individual", {}),
    ("individual", {"objective.marginal": "token"}),
    ("individual", {"retrieval.null_document": True}),
    (
      "individual",
      {"reader.overlap_features": True, "data.reader_title": True},
    ),
    ("joint", {}),
    ("joint", {"objective.bias": "none"}),
    ("fid", {}),
  ],
)
def test_scores_are_the_likelihoods_that_training_maximises(
  toy_data, make_index, mesh, task, settings
):
  """The same references through the training pipeline give the same loss."""
  system = small_system(task, toy_data, **settings)
  corpus = system.corpus
  questions = list(QuestionSet(toy_data / "questions" / "toy"))[:16]
  # Some toy answers are longer than the answer length of these tests.
  short = [
    dataclasses.replace(q, answers=(q.question.split()[-2],)) for q in questions
  ]
  examples = AnswerExamples(
    short,
    corpus,
    system.vocabulary,
    question_length=system.retriever.question_length,
    answer_length=ANSWER_LENGTH,
  )
  batch = examples.batch(np.arange(16), np.random.default_rng(0), slice(None))
  retrieval = BatchRetrieval(
    system.components["retriever"],
    system.gatherer,
    mesh,
    k=4,
    force_gold=False,
  )
  index = make_index(system)
  candidates = retrieval.dispatch(system.params["retriever"], index, batch)
  placed = to_global(mesh, retrieval.complete(batch, candidates))
  run = reader_settings(task, toy_data, **settings)
  task = make_task(run, system.components)
  loss, _ = jax.jit(lambda p, b: task.loss(p, b, None))(system.params, placed)

  targets = [answers[0] for answers in examples.answers]
  texts = [q.question for q in short]
  request = encode_request(system, texts)
  rows = find_passages(system, index, request, k=4)
  likelihoods = []
  for part in read_batches(system, request, rows, batch_size=5):
    likelihoods += part.log_probs(
      targets[part.start : part.stop], ANSWER_LENGTH
    ).tolist()
  assert len(likelihoods) == 16
  assert -np.mean(likelihoods) == pytest.approx(float(loss), rel=1e-5)


# ---- Batches, beams, weights ----


@pytest.mark.eight_devices
@pytest.mark.parametrize("task", ["individual", "joint"])
@pytest.mark.slow
def test_eight_devices_answer_like_one(
  toy_data, make_index, tmp_path, monkeypatch, task
):
  system = small_system(task, toy_data)
  eight = ask(system, make_index(system), QUESTIONS[:3])
  use_one_device(monkeypatch)
  system = small_system(task, toy_data)
  index = index_corpus(
    system.retriever, system.corpus, tmp_path / "index", mesh=one_device()
  )
  assert_same(ask(system, index, QUESTIONS[:3]), eight)


def assert_same(answers: list[Answer], others: list[Answer]) -> None:
  for a, b in zip(answers, others, strict=True):
    assert [text for text, _ in a.candidates] == [t for t, _ in b.candidates]
    assert [p.row for p in a.passages] == [p.row for p in b.passages]
    assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)


def test_batches_and_their_padding_change_nothing(toy_data, make_index):
  system = small_system("individual", toy_data)
  index = make_index(system)
  texts = [q.question for q in QuestionSet(toy_data / "questions" / "toy")][:19]
  calls = []
  together = ask(
    system, index, texts, batch_size=24, progress=lambda *x: calls.append(x)
  )
  assert calls == [(19, 19)]
  calls.clear()
  apart = ask(
    system, index, texts, batch_size=8, progress=lambda *x: calls.append(x)
  )
  assert calls == [(8, 19), (16, 19), (19, 19)]
  assert_same(together, apart)
  assert ask(system, index, []) == []


@pytest.mark.parametrize("task", ["individual", "fid"])
def test_beams_are_those_of_the_decoder(toy_data, make_index, task):
  system = small_system(task, toy_data)
  found = ask(system, make_index(system), beams=3)
  hand = ByHand(system)
  search = jax.jit(
    functools.partial(
      decoding.beam_search,
      system.components["reader"],
      max_tokens=ANSWER_LENGTH,
      beams=3,
    )
  )
  for question, answer in zip(QUESTIONS, found, strict=True):
    memories = [
      hand.memory(question, row) for row in hand.retrieved(question, 4)
    ]
    parts = [memories] if task == "fid" else [[m] for m in memories]
    wanted = []
    for part in parts:
      ids, _ = search(
        hand.params["reader"],
        jnp.stack([states for states, _ in part])[None],
        jnp.array([[length for _, length in part]]),
      )
      wanted.append(system.vocabulary.decode(np.asarray(ids[0]).tolist()))
    texts = [text for text, _ in answer.candidates]
    assert set(texts) == set(wanted)
  greedy = ask(system, make_index(system))
  assert any(
    a.log_prob != b.log_prob for a, b in zip(found, greedy, strict=True)
  )


def test_other_weights_need_no_new_programs(toy_data, make_index):
  first = small_system("individual", toy_data)
  second = small_system("individual", toy_data, seed=1)
  stripped = without_params(first)
  assert stripped.params is None and stripped.retriever.params is None
  other = with_params(stripped, second.params)
  assert other.predictor is first.predictor
  assert other.retriever.fingerprint == second.retriever.fingerprint
  index = make_index(second)
  assert ask(other, index) == ask(second, index)


def test_equal_answers_are_scored_once():
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 2, (50, 7, 2)).astype(np.int32)
  out, counts = distinct_answers(ids)
  for before, after, count in zip(ids, out, counts, strict=True):
    wanted = list(dict.fromkeys(map(tuple, before.tolist())))
    filled = wanted + [wanted[0]] * (7 - len(wanted))
    assert count == len(wanted)
    assert [tuple(row) for row in after.tolist()] == filled
  answers = np.array([[[3, 1, 0], [1, 0, 0], [3, 0, 3]]])
  ended, lengths = ended_answers(answers, 1)
  assert lengths.tolist() == [[2, 1, 4]]
  assert ended[0, 2].tolist() == [3, 0, 3, 1], "an end for what has none"


# ---- Checkpoints ----


@pytest.fixture(scope="module")
def workdir(toy_data, tmp_path_factory):
  """Weights saved as training saves them."""
  folder = tmp_path_factory.mktemp("work") / "individual"
  return save_workdir(small_system("individual", toy_data), folder)


def test_a_checkpoint_answers_like_the_system_it_was_saved_from(
  toy_data, make_index, workdir
):
  system = small_system("individual", toy_data)
  index = make_index(system)
  for path in (workdir, workdir / "checkpoints" / "3"):
    loaded = load_reading_system(path, Corpus(toy_data / "corpus"))
    assert ask(loaded, index) == ask(system, index)
  alone = load_retriever(workdir)
  assert alone.fingerprint == system.retriever.fingerprint
  jax.tree.map(
    np.testing.assert_array_equal, alone.params, system.params["retriever"]
  )


def test_a_second_store_is_found_beside_the_corpus(toy_data, workdir, tmp_path):
  """The reader has its own vocabulary: here, other word pieces."""
  shutil.copytree(toy_data / "corpus", tmp_path / "corpus")
  corpus = Corpus(tmp_path / "corpus")
  passages = [
    Passage(corpus.id(i), corpus.title(i), corpus.text(i))
    for i in range(len(corpus))
  ]
  other = train_wordpiece([p.text for p in passages[:40]], 200)
  system = small_system("fid", toy_data)
  path = save_workdir(system, tmp_path / "work")
  with pytest.raises(ValueError, match="other passages"):
    load_reading_system(
      path, corpus, _store(tmp_path / "few", passages[:9], None)
    )
  store = _store(tmp_path / "reader_corpus", passages, other)
  name = reader_vocabulary(other).fingerprint
  path = save_workdir(system, tmp_path / "second", reader_tokenizer=name)
  for given in (None, store):
    loaded = load_reading_system(path, corpus, given)
    assert loaded.gatherer.inputs.store.directory == tmp_path / "reader_corpus"
    assert loaded.corpus is corpus
  shutil.rmtree(tmp_path / "reader_corpus")
  with pytest.raises(ValueError, match="--reader-corpus"):
    load_reading_system(path, corpus)


def _store(folder, passages, tokenizer) -> Corpus:
  tokenizer = tokenizer or Corpus(folder.with_name("corpus")).tokenizer
  build_corpus(passages, folder, tokenizer)
  return Corpus(folder)


def test_a_retriever_alone_answers_nothing(toy_data, tmp_path):
  system = small_system("individual", toy_data)
  path = save_workdir(system, tmp_path / "work", with_reader=False)
  with pytest.raises(ValueError, match="no reader that writes"):
    load_reading_system(path, system.corpus)
  assert load_retriever(path).fingerprint == system.retriever.fingerprint
  with pytest.raises(ValueError, match="nowhere: no such folder"):
    load_reading_system(tmp_path / "nowhere", system.corpus)


def test_other_word_pieces_are_refused(toy_data, workdir, tmp_path):
  passages = [Passage("1", "a", "the red castle"), Passage("2", "b", "a king")]
  tokenizer = train_wordpiece([p.text for p in passages], 60)
  corpus = _store(tmp_path / "other", passages, tokenizer)
  with pytest.raises(ValueError, match="the corpus was tokenised with"):
    load_reading_system(workdir, corpus)


@pytest.mark.parametrize(
  "questions, options, message",
  [
    (["who", " \n"], {}, "question 2 of 2 is empty"),
    (["who"], {"k": 201}, "k=201 passages .* corpus of 200"),
    (["who"], {"k": -1}, "k=-1"),
    (["who"], {"beams": 0}, "beams=0 is below 1"),
    (["who"], {"batch_size": 0}, "batch_size=0 is below 1"),
    (["who"], {"max_tokens": 0}, "max_tokens=0 is below 1"),
  ],
)
def test_senseless_requests(toy_data, make_index, questions, options, message):
  system = small_system("individual", toy_data)
  with pytest.raises(ValueError, match=message):
    ask(system, make_index(system), questions, **options)


def test_an_index_of_another_encoder_is_refused(toy_data, make_index):
  system = small_system("individual", toy_data)
  other = make_index(small_system("individual", toy_data, seed=1))
  with pytest.raises(ValueError, match="its encoder is"):
    ask(system, other)
  with pytest.raises(ValueError, match="need an index"):
    ask(system, None)


# ---- The command ----


def run(capsys, *args: object) -> tuple[int, str, str]:
  code = main([str(a) for a in args])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


@pytest.mark.eight_devices
def test_one_question_on_the_screen(
  capsys, toy_data, workdir, make_index, tmp_path
):
  flags = ["--checkpoint", workdir, "--corpus", toy_data, "--k", 3]
  flags += ["--index", tmp_path / "index", "--question", QUESTIONS[0]]
  code, out, _ = run(capsys, "answer", *flags)
  assert code == 0
  *text, last = out.splitlines()
  figures = json.loads(last)
  system = small_system("individual", toy_data)
  wanted = ask(system, make_index(system), QUESTIONS[:1], k=3)[0]
  assert figures["answer"] == wanted.text
  assert figures["log_prob"] == pytest.approx(wanted.log_prob, abs=1e-4)
  assert [p["id"] for p in figures["passages"]] == [
    p.id for p in wanted.passages
  ]
  assert text[0] == f"? {QUESTIONS[0]}"
  assert text[1].startswith(f"= {wanted.text}   (log-probability ")
  for i, passage in enumerate(wanted.passages, start=1):
    assert any(line.startswith(f"{passage.id} ") for line in text)
    assert any(line.startswith(f"[{i}] {passage.title} ") for line in text)
  assert (tmp_path / "index" / "manifest.json").is_file(), "made when absent"
  again = run(capsys, "answer", *flags, "--beams", 2)
  assert again[0] == 0


@pytest.mark.eight_devices
def test_a_set_into_a_file(capsys, toy_data, workdir, make_index, tmp_path):
  asked = toy_data / "questions" / "toy"
  out_file = tmp_path / "deep" / "answers.jsonl"
  flags = ["--checkpoint", workdir, "--corpus", toy_data / "corpus"]
  flags += ["--index", tmp_path / "index", "--questions", asked]
  code, out, _ = run(capsys, "answer", *flags, "--out", out_file)
  assert code == 0
  figures = json.loads(out.splitlines()[-1])
  assert figures["k"] == 4, "as many as in training"
  assert figures["questions"] == 100
  assert figures["normaliser"] == "nq"
  assert 0 <= figures["em"] <= figures["f1"] <= 1
  assert figures["em_95"][0] <= figures["em"] <= figures["em_95"][1]
  lines = [json.loads(line) for line in out_file.read_text().splitlines()]
  questions = list(QuestionSet(asked))
  assert [line["id"] for line in lines] == [q.id for q in questions]
  assert lines[7]["references"] == list(questions[7].answers)
  assert len(lines[7]["passages"]) == 4
  assert lines[7]["answer"] == lines[7]["candidates"][0]["answer"]
  assert [p.name for p in out_file.parent.iterdir()] == ["answers.jsonl"]

  code, out, _ = run(
    capsys, "evaluate", "--checkpoint", workdir, "--corpus", toy_data,
    "--index", tmp_path / "index", "--questions", asked, "--k", 20,
  )  # fmt: skip
  assert code == 0
  measured = json.loads(out.splitlines()[-1])["checkpoint"]
  assert (measured["k"], measured["read_k"]) == (20, 4)
  assert measured["questions"] == 100
  assert "20" in measured["recall"]
  for name in ("em", "em_95", "f1", "f1_95"):
    assert measured[name] == rounded(figures[name], 6)


@pytest.mark.eight_devices
@pytest.mark.parametrize(
  "flags, message",
  [
    ([], "--index DIR is needed"),
    (["--questions", "b", "--out", "c", "--json"], "--json is for the screen"),
    (["--batch-size", "2"], "--batch-size needs --questions"),
    (["--question", "a", "--questions", "b"], "give --question TEXT"),
    (["--questions", "b"], "go together"),
    (["--question", "a", "--out", "b"], "go together"),
    (["--question", " "], "--question is empty"),
    (["--question", "a", "--k", "201"], "--k 201: the corpus has 200"),
    (["--question", "a"], "--index DIR is needed"),
    (["--question", "a", "--rank-weight", "0"], "is for an extractive reader"),
  ],
)
def test_flags_that_do_not_go_together(
  capsys, toy_data, workdir, flags, message
):
  flags = ["--checkpoint", workdir, "--corpus", toy_data, *flags]
  code, out, err = run(capsys, "answer", *flags)
  assert code == 2 and not out
  assert message in err.splitlines()[-1]


@pytest.mark.eight_devices
def test_the_index_of_another_checkpoint(capsys, toy_data, workdir, tmp_path):
  other = small_system("individual", toy_data, seed=1)
  index_corpus(
    other.retriever, other.corpus, tmp_path / "index", mesh=make_mesh()
  )
  flags = ["--checkpoint", workdir, "--corpus", toy_data, "--question", "who"]
  code, _, err = run(capsys, "answer", *flags, "--index", tmp_path / "index")
  assert code == 2 and "its encoder is" in err.splitlines()[-1]
