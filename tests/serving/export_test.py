"""Exports against the libraries that they are for."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import last_line, run
from hub_cache import COMMIT, cache_model
from small_parts import (
  random_index,
  random_system,
  save_extractive_reader,
  save_reranker,
  save_unified_reader,
)
from small_reader import save_workdir

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.packing import pack_questions
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.hf.encoder import save_encoder
from odqa_jax.models.hf.heads import save_network
from odqa_jax.reading.pair_scores import score_pairs
from odqa_jax.reading.trained_component import load_component
from odqa_jax.reading.trained_scorer import load_trained_scorer
from odqa_jax.retrieval.retriever import compiled_encoders, load_retriever
from odqa_jax.runtime import hub
from odqa_jax.runtime.artifact import write_manifest
from odqa_jax.runtime.files import read_json
from odqa_jax.serving.export.card import Stated, front_matter
from odqa_jax.serving.export.models import export_model
from odqa_jax.serving.export.parts import load_part

ROWS = np.array([0, 7, 50, 199])
# Short: other libraries do not cut questions.
QUESTION = "the red river?"


@pytest.fixture(scope="module")
def corpus(toy_data) -> Corpus:
  return Corpus(toy_data / "corpus")


@pytest.fixture(scope="module")
def work(toy_data, corpus, tmp_path_factory) -> Path:
  """A checkpoint of every kind."""
  root = tmp_path_factory.mktemp("work")
  save_reranker(corpus, root / "reranker")
  save_extractive_reader(corpus, root / "extractive")
  save_unified_reader(corpus, root / "unified")
  system = random_system("joint", toy_data)
  save_workdir(system, root / "joint")
  corpus.tokenizer.save(root / "joint" / "reader_tokenizer")
  random_index(system.retriever, corpus, root / "index")
  return root


def random_params(network, seed: int = 0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32),
    jax.eval_shape(network.init, jax.random.key(0)),
  )


def small_bert(corpus: Corpus) -> BertConfig:
  return BertConfig(
    vocab_size=corpus.tokenizer.vocab_size,
    width=8,
    layers=1,
    heads=2,
    mlp_dim=16,
    max_positions=64,
    scan=False,
  )


def save_retriever(folder: Path, corpus: Corpus, **fields) -> None:
  config = EncoderConfig(small_bert(corpus), **fields)
  save_encoder(
    folder,
    config,
    random_params(DualEncoder(config)),
    corpus.tokenizer,
    question_length=16,
    passage_length=40,
    title=True,
  )


def passages(corpus: Corpus) -> list[str]:
  """Texts that give the ids of `corpus.passage_inputs`."""
  return [f"{corpus.title(r)} [SEP] {corpus.text(r)}" for r in map(int, ROWS)]


def our_embeddings(path: Path, corpus: Corpus, questions: list[str]):
  """Of questions and of the passages `ROWS`, by the JAX network."""
  found = load_retriever(path)
  ask, find = compiled_encoders(found.encoder.config)
  tokens = found.tokenizer.encode_batch(questions)
  asked = pack_questions(tokens, 16, found.tokenizer)
  inputs = corpus.passage_inputs(ROWS, found.passage_length)
  return np.array(ask(found.params, *asked)), np.array(
    find(found.params, *inputs)
  )


def assert_same_direction(got, want) -> None:
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
  assert ((got * want).sum(1) / lengths).min() >= 1 - 1e-6
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


# ---- Retrievers ----

SHARED = {"shared": True, "passage_type": 0}
RETRIEVERS = {
  "cls": {},
  "types": {"shared": True},
  "mean": SHARED | {"pooling": "mean", "normalise": True},
  "dense": SHARED | {"projection": "dense", "embedding_dim": 6},
  "truncated": {"projection": "truncate", "embedding_dim": 5, "shared": True},
}


@pytest.mark.torch
@pytest.mark.parametrize("kind", RETRIEVERS)
def test_sentence_transformers_embeds_alike(kind, corpus, tmp_path):
  library = pytest.importorskip("sentence_transformers")
  save_retriever(tmp_path / "mine", corpus, **RETRIEVERS[kind])
  out = tmp_path / "out"
  export_model(tmp_path / "mine", "sentence-transformers", out, Stated())
  sides = [out, out]
  if (out / "question").is_dir():
    sides = [out / "question", out / "passage"]
  asks, finds = (
    library.SentenceTransformer(str(s), device="cpu") for s in sides
  )
  short = [QUESTION]
  asked, found = our_embeddings(tmp_path / "mine", corpus, short)
  assert_same_direction(asks.encode(short), asked)
  assert_same_direction(finds.encode(passages(corpus)), found)
  normalised = RETRIEVERS[kind].get("normalise")
  assert asks.similarity_fn_name == ("cosine" if normalised else "dot")
  again = load_retriever(out)
  assert again.fingerprint == load_retriever(tmp_path / "mine").fingerprint


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["types", "dense", "truncated"])
def test_the_dpr_pair_embeds_alike(kind, corpus, tmp_path):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  save_retriever(tmp_path / "mine", corpus, **RETRIEVERS[kind])
  out = tmp_path / "out"
  export_model(tmp_path / "mine", "dpr", out, Stated())
  short = [QUESTION]
  asked, found = our_embeddings(tmp_path / "mine", corpus, short)
  for side, name, texts, want in (
    ("question", "DPRQuestionEncoder", short, asked),
    ("passage", "DPRContextEncoder", passages(corpus), found),
  ):
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / side)
    model = getattr(transformers, name).from_pretrained(out / side).eval()
    limit = {"truncation": True, "max_length": 40, "padding": True}
    with torch.no_grad():
      got = model(**tokenizer(texts, return_tensors="pt", **limit))
    assert_same_direction(got.pooler_output.numpy(), want)


def test_a_unified_checkpoint_is_exported_as_a_retriever(
  work, corpus, tmp_path
):
  export_model(
    work / "unified", "sentence-transformers", tmp_path / "out", Stated()
  )
  one, other = (
    load_retriever(work / "unified"),
    load_retriever(tmp_path / "out"),
  )
  assert one.fingerprint == other.fingerprint
  assert (one.question_length, one.title) == (16, True)


# ---- Readers and rerankers ----


@pytest.mark.torch
def test_the_t5_reads_all_passages_alike(work, corpus, tmp_path):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  out = tmp_path / "out"
  export_model(work / "joint", "t5", out, Stated())
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  model = transformers.T5ForConditionalGeneration.from_pretrained(out).eval()
  part = load_part(work / "joint", "reader")
  words = part.tokenizer
  # Ids of an input, put together by our vocabulary and by theirs.
  first, second = corpus.text(0), corpus.text(50)
  pieces = words.encode_batch([QUESTION, first, second])
  before = (*words.question_prefix, *pieces[0], *words.passage_prefix)
  ids = [[*before, *text, *words.suffix] for text in pieces[1:]]
  theirs = tokenizer(
    [QUESTION] * 2, [first, second], return_tensors="pt", padding=True
  )
  lengths = theirs["attention_mask"].sum(1).numpy()
  rows = theirs["input_ids"].numpy()
  assert [r[:n].tolist() for r, n in zip(rows, lengths, strict=True)] == ids
  assert "token_type_ids" not in theirs
  # What the decoder says of an answer, from both passages at once.
  answer = [*words.encode_batch(["red river"])[0], words.eos_id]
  assert tokenizer.eos_token_id == words.eos_id
  assert tokenizer.decode(answer, skip_special_tokens=True) == "red river"
  network, targets = part.network, jnp.array([answer])
  lengths = jnp.array(lengths)
  states = network.encode(part.params, jnp.array(rows[None]), lengths[None])
  shifted = network.shift_right(targets)
  want = network.decode(part.params, shifted, states, lengths[None])
  with torch.no_grad():
    encoded = model.encoder(**theirs).last_hidden_state
    joined = (encoded.reshape(1, -1, encoded.shape[-1]),)
    got = model(
      encoder_outputs=joined,
      attention_mask=theirs["attention_mask"].reshape(1, -1),
      labels=torch.tensor([answer]),
    ).logits
  scale = np.abs(want).max()
  np.testing.assert_allclose(got.numpy(), want, atol=1e-5 * scale)


@pytest.mark.torch
def test_the_cross_encoder_scores_alike(work, corpus, tmp_path):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  out = tmp_path / "out"
  export_model(work / "reranker", "cross-encoder", out, Stated())
  texts = passages(corpus)
  scorer = load_trained_scorer(work / "reranker", "reranker")
  want = score_pairs(scorer, [QUESTION], ROWS[None], corpus)[0]
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  kind = transformers.AutoModelForSequenceClassification
  model = kind.from_pretrained(out).eval()
  inputs = tokenizer(
    [QUESTION] * len(texts),
    texts,
    return_tensors="pt",
    padding=True,
    truncation="only_second",
  )
  assert tokenizer.model_max_length == 64
  with torch.no_grad():
    got = model(**inputs).logits[:, 0].numpy()
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
  # Read back, it scores the same, with titles and lengths of the training.
  again = load_trained_scorer(out, "reranker")
  assert (again.pair_length, again.title) == (64, True)
  np.testing.assert_array_equal(
    score_pairs(again, [QUESTION], ROWS[None], corpus)[0], want
  )
  library = pytest.importorskip("sentence_transformers")
  pairs = [(QUESTION, text) for text in texts]
  scores = library.CrossEncoder(str(out), device="cpu").predict(pairs)
  np.testing.assert_allclose(scores, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.torch
def test_starts_and_ends_alone_are_for_question_answering(corpus, tmp_path):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  config = SpanConfig(small_bert(corpus), span=False, passage=False)
  network = ExtractiveReader(config)
  params = random_params(network)
  save_network(tmp_path / "mine", network, params, corpus.tokenizer)
  out = tmp_path / "out"
  export_model(tmp_path / "mine", "question-answering", out, Stated())
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  kind = transformers.AutoModelForQuestionAnswering
  model, report = kind.from_pretrained(out, output_loading_info=True)
  assert not report["missing_keys"] and not report["unexpected_keys"]
  inputs = tokenizer(QUESTION, corpus.text(0)[:60], return_tensors="pt")
  with torch.no_grad():
    got = model.eval()(**inputs)
  ids = inputs["input_ids"].numpy()
  first = int((inputs["token_type_ids"] == 0).sum())
  lengths = jnp.array([ids.shape[1]]), jnp.array([first])
  want = network.read(params, jnp.array(ids), *lengths)
  np.testing.assert_allclose(got.start_logits.numpy(), want.start, atol=2e-5)
  np.testing.assert_allclose(got.end_logits.numpy(), want.end, atol=2e-5)


@pytest.mark.parametrize(
  ("name", "heads"),
  [
    ("extractive", "passage (qa_classifier) and the span as a whole (qa_span)"),
    ("unified", "the passage (qa_classifier) besides"),
  ],
)
def test_more_heads_are_refused_and_kept_by_our_own_format(
  name, heads, work, tmp_path, capsys
):
  flags = ("export", "--checkpoint", work / name, "--out", tmp_path / "out")
  code, _, err = run(capsys, *flags, "--to", "question-answering")
  assert (code, err.count("\n")) == (2, 1)
  assert heads in err and "--to odqa" in err
  assert not list(tmp_path.iterdir())
  code, _, err = run(capsys, *flags, "--to", "odqa")
  assert code == 0, err
  one = load_component(work / name, "extractive_reader")
  other = load_component(tmp_path / "out", "extractive_reader")
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
  for key in ("pair_length", "question_length", "span_length", "title"):
    assert one.description[key] == other.description[key], key


# ---- Indexes ----


def index_rows(work: Path) -> np.ndarray:
  (file,) = (work / "index").glob("rows-*.npy")
  return np.load(file)


def test_embeddings_for_numpy_and_parquet(
  work, corpus, toy_data, tmp_path, capsys
):
  flags = ("export", "--index", work / "index", "--corpus", toy_data)
  for to in ("npy", "parquet"):
    code, out, err = run(capsys, *flags, "--to", to, "--out", tmp_path / to)
    assert code == 0, err
    assert json.loads(last_line(out))["count"] == len(corpus)
  rows = index_rows(work)
  found = np.load(tmp_path / "npy" / "embeddings.npy")
  np.testing.assert_array_equal(found, rows)
  ids = [corpus.id(row) for row in range(len(corpus))]
  assert (tmp_path / "npy" / "ids.txt").read_text().split() == ids
  columns = pq.read_table(tmp_path / "parquet" / "embeddings.parquet")
  assert columns["id"].to_pylist() == ids
  assert columns["row"].to_pylist() == list(range(len(ids)))
  flat = columns["embedding"].combine_chunks().flatten().to_numpy()
  np.testing.assert_array_equal(flat.reshape(rows.shape), rows)


def test_faiss_finds_what_the_product_finds(work, tmp_path, capsys):
  faiss = pytest.importorskip("faiss")
  code, _, err = run(
    capsys,
    *("export", "--index", work / "index", "--to", "faiss"),
    *("--out", tmp_path / "out"),
  )
  assert code == 0, err
  rows = index_rows(work)
  index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
  _, found = index.search(rows[:3], 5)
  wanted = np.argsort(-(rows[:3] @ rows.T), axis=1, kind="stable")[:, :5]
  np.testing.assert_array_equal(found, wanted)


# ---- Cards ----


def card(folder: Path) -> str:
  return (folder / "README.md").read_text()


def test_the_card_is_one_of_the_hub(work, corpus, tmp_path):
  library = pytest.importorskip("huggingface_hub")
  metrics = tmp_path / "evaluation.json"
  figures = {"run": {"recall": {"20": 81.5}}, "command": "odqa evaluate x"}
  metrics.write_text("encode: 1/1\n" + json.dumps(figures) + "\n")
  stated = Stated("cc-by-sa-4.0", "no", str(metrics))
  export_model(work / "reranker", "cross-encoder", tmp_path / "out", stated)
  found = library.ModelCard.load(tmp_path / "out" / "README.md")
  assert found.data.license == "cc-by-sa-4.0"
  assert found.data.language == ["no"]
  assert found.data.to_dict()["library_name"] == "sentence-transformers"
  assert found.data.pipeline_tag == "text-ranking"
  assert "odqa_jax" in found.data.tags
  assert found.data.base_model is None
  assert "| run.recall.20 | 81.5 |" in found.text
  assert "| command | odqa evaluate x |" in found.text
  assert "| hardware | not stated |" in found.text
  assert "Begun with not stated." in found.text


def test_the_card_follows_the_training_back(work, corpus, toy_config, tmp_path):
  """Two stages; the first began with a model of the Hub."""
  save_reranker(corpus, tmp_path / "first")
  step = tmp_path / "first" / "checkpoints" / "3"
  begun = {"name": "someone/small", "revision": COMMIT, "files": {}}
  _edit(step, {"init_from": "someone/small"}, origins={"init_from": begun})
  save_reranker(corpus, tmp_path / "second")
  config = toy_config().to_dict() | {"init_from": str(tmp_path / "first")}
  _edit(
    tmp_path / "second" / "checkpoints" / "3",
    config,
    contents={"init_from": read_json(step / "manifest.json")["sha256"]},
  )
  session = {"started": "2026-11-26", "seconds": 4.0, "hardware": {"cores": 2}}
  record = {"sessions": [session, session | {"versions": {"jax": "0.10.2"}}]}
  (tmp_path / "second" / "run.json").write_text(json.dumps(record))
  out = tmp_path / "out"
  export_model(tmp_path / "second", "cross-encoder", out, Stated())
  text = card(out)
  assert "base_model: someone/small\n" in text
  assert f"someone/small of revision {COMMIT[:12]}" in text
  assert text.index("/second\n") < text.index("/first\n")
  assert "data/corpus (200 entries, " in text and "jax 0.10.2" in text
  assert "| seconds | 8 |" in text and "| hardware | cores 2 |" in text
  assert "license: unknown\n" in text and "| Licence | not stated |" in text
  # No folder of this machine is told.
  assert str(tmp_path) not in text and "/tmp/" not in text


def test_a_new_reader_is_not_begun_with_the_encoders_weights(
  work, toy_data, corpus, tmp_path
):
  save_workdir(random_system("joint", toy_data), tmp_path / "joint")
  corpus.tokenizer.save(tmp_path / "joint" / "reader_tokenizer")
  config = {"init_from": "minilm", "reader": {"init_from": ""}}
  _edit(tmp_path / "joint" / "checkpoints" / "3", config)
  for to, start in (
    ("t5", "random weights"),
    (
      "sentence-transformers",
      "the published model sentence-transformers/all-M",
    ),
  ):
    export_model(tmp_path / "joint", to, tmp_path / to, Stated())
    assert f"Begun with {start}" in card(tmp_path / to)
  # Nor is a stage before without a reader a part of its history.
  save_reranker(corpus, tmp_path / "first")
  before = tmp_path / "first" / "checkpoints" / "3" / "manifest.json"
  _edit(
    tmp_path / "joint" / "checkpoints" / "3",
    config | {"init_from": str(tmp_path / "first")},
    contents={"init_from": read_json(before)["sha256"]},
  )
  export_model(tmp_path / "joint", "t5", tmp_path / "again", Stated())
  text = card(tmp_path / "again")
  assert "Begun with random weights" in text and "/first\n" not in text


def _edit(step: Path, config, **more) -> None:
  """Another config in the manifest of a step."""
  manifest = read_json(step / "manifest.json")
  manifest["made_from"] |= {"config": config, **more}
  write_manifest(step, manifest)


def test_a_model_of_the_hub_is_named(corpus, tmp_path, monkeypatch):
  cache = str(tmp_path / "hub")
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
  hub._fetched.cache_clear()
  save_retriever(tmp_path / "mine", corpus, **SHARED)
  cache_model(tmp_path / "hub", "someone/small", tmp_path / "mine")
  out = tmp_path / "out"
  export_model("someone/small", "sentence-transformers", out, Stated())
  hub._fetched.cache_clear()
  assert "base_model: someone/small\n" in card(out)
  assert "Not trained here" in card(out)


def test_front_matter_keeps_text_text():
  matter = front_matter({"a": "no", "b": ["x: y", "mit"], "c": []})
  assert matter == '---\na: "no"\nb:\n- "x: y"\n- mit\n---'


# ---- Bad input ----


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ((), "give either --checkpoint DIR or --index DIR"),
    (("--checkpoint", "reranker", "--to", "npy"), "--to npy: --checkpoint is"),
    (("--index", "index", "--to", "dpr"), "--to dpr: --index is exported to"),
    (("--checkpoint", "reranker", "--to", "dpr"), "has no retriever but rer"),
    (("--checkpoint", "reranker", "--to", "t5"), "has no reader but reranker"),
    (
      ("--checkpoint", "joint", "--to", "cross-encoder"),
      "has no reranker but retriever, reader",
    ),
    (
      ("--checkpoint", "joint", "--to", "dpr"),
      "DPR takes the first token's state",
    ),
    (
      ("--checkpoint", "reranker", "--to", "odqa", "--license", "My own!"),
      "--license 'My own!'",
    ),
    (
      ("--checkpoint", "reranker", "--to", "odqa", "--metrics", "nothing"),
      "nothing",
    ),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
  flags, message, work, tmp_path, capsys
):
  flags = [
    work / f if f in ("reranker", "joint", "index") else f for f in flags
  ]
  to = () if "--to" in flags else ("--to", "dpr")
  code, out, err = run(capsys, "export", *flags, *to, "--out", tmp_path / "out")
  assert (code, out, err.count("\n")) == (2, "", 1), err
  assert message in err
  assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_stays(work, tmp_path, capsys):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "mine.txt").write_text("mine")
  code, _, err = run(
    capsys,
    *("export", "--checkpoint", work / "reranker", "--to", "cross-encoder"),
    *("--out", tmp_path / "out"),
  )
  assert code == 2 and "is not empty" in err
  assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_without_faiss_the_extra_is_named(work, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "faiss", None)
  code, _, err = run(
    capsys,
    *("export", "--index", work / "index", "--to", "faiss"),
    *("--out", tmp_path / "out"),
  )
  assert code == 2 and "odqa_jax[faiss]" in err
  assert not list(tmp_path.iterdir())
