"""Published models with a head against torch, in both directions."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from odqa_jax.models.bert import VARIANTS, BertConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.hf.encoder import load_encoder
from odqa_jax.models.hf.heads import (
  load_extractive_reader,
  load_scorer,
  read_body,
  read_params,
  save_network,
)
from odqa_jax.models.mobilebert import config_class
from odqa_jax.models.passage_scorer import (
  PassageClassifier,
  Reranker,
  ScorerConfig,
)

N, L = 4, 10
IDS = np.random.default_rng(0).integers(5, 40, (N, L), np.int32)
LENGTHS = np.array([10, 3, 7, 2], np.int32)
FIRST = np.array([4, 2, 7, 1], np.int32)
# The small ELECTRA projects its embeddings; the bare MobileBERT has LayerNorms
# and no pooler.
KINDS = (
  "bert",
  "roberta",
  "electra",
  "electra-small",
  "mobilebert",
  "mobilebert-bare",
)


def bert(kind: str, **other) -> BertConfig:
  variant = kind.removesuffix("-small")
  own = {"embedding_width": 6 if kind == "electra-small" else None}
  if kind.startswith("mobilebert"):
    own = {"dropout": 0.0, "word_width": 6, "inner_width": 8}
  if kind == "mobilebert-bare":
    variant = "mobilebert"
    own |= {"norm": "layer_norm", "pooler": False}
  return config_class(variant)(
    vocab_size=40,
    width=16,
    layers=2,
    heads=2,
    mlp_dim=24,
    max_positions=12,
    type_vocab=1 if variant == "roberta" else 2,
    eps=1e-5 if variant == "roberta" else 1e-12,
    variant=variant,
    **own,
    **other,
  )


def noise(network, seed: int = 0):
  """Parameters whose every one matters to the result."""
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    centre = float(path[-1].key == "scale")
    return jnp.asarray(rng.normal(centre, 0.3, x.shape), jnp.float32)

  shapes = jax.eval_shape(network.init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(leaf, shapes)


class NoTokenizer:
  def save(self, directory: Path) -> None:
    pass


def torch_model(folder: Path, name: str):
  transformers = pytest.importorskip("transformers")
  model, report = getattr(transformers, name).from_pretrained(
    folder, output_loading_info=True
  )
  assert not report["missing_keys"]
  assert not report["mismatched_keys"]
  return model, set(report["unexpected_keys"])


def torch_call(model, kind: str):
  import torch

  mask = np.arange(L)[None] < LENGTHS[:, None]
  # RoBERTa's positions count the ids that are not the padding's.
  ids = np.where(mask, IDS, 1) if kind == "roberta" else IDS
  if kind.startswith("mobilebert"):
    # The last token's trigram has the padding in torch; here it has zeros.
    ids = np.where(mask, IDS, 0)
    model.get_input_embeddings().weight.data[0] = 0
  inputs = {"input_ids": ids, "attention_mask": mask}
  if kind != "roberta":
    inputs["token_type_ids"] = np.arange(L)[None] >= FIRST[:, None]
  with torch.no_grad():
    return model.eval()(
      **{k: torch.tensor(v, dtype=torch.long) for k, v in inputs.items()}
    )


def close(got, want, where=True) -> None:
  want = np.where(where, want.numpy(), 0)
  difference = np.abs(np.where(where, got, 0) - want)
  # Without LayerNorms numbers grow, and so does what float32 rounds off.
  assert difference.max() <= 1e-5 * max(1, np.abs(want).max())


def assert_equal(a, b) -> None:
  jax.tree.map(np.testing.assert_array_equal, a, b)


REAL = np.arange(L)[None] < LENGTHS[:, None]


def spread(model) -> None:
  """Random weights as far from their defaults as trained ones are."""
  import torch

  torch.manual_seed(0)
  for parameter in model.parameters():
    parameter.data += 0.2 * torch.randn_like(parameter)


def torch_config(kind: str, **other):
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  own = {"max_position_embeddings": 12}
  if kind == "roberta":
    own = {"max_position_embeddings": 14, "type_vocab_size": 1}
  if kind.startswith("electra"):
    own["embedding_size"] = 6 if kind == "electra-small" else 16
  if kind.startswith("mobilebert"):
    own |= {"embedding_size": 6, "intra_bottleneck_size": 8}
  if kind == "mobilebert-bare":
    own |= {"normalization_type": "layer_norm", "classifier_activation": False}
  return transformers.AutoConfig.for_model(
    kind.split("-")[0],
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    **own,
    **other,
  )


# --- Against torch ---------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_classifier_gives_the_same_scores_here(tmp_path, kind):
  config = torch_config(kind, num_labels=1)
  import transformers

  make = transformers.AutoModelForSequenceClassification.from_config
  model = make(config)
  spread(model)
  model.save_pretrained(tmp_path)
  network, params = load_scorer(tmp_path, Reranker)
  assert network.config.bert.variant == kind.split("-")[0]
  got = jax.jit(network.score)(params, IDS, LENGTHS, FIRST)
  close(got, torch_call(model, kind).logits[:, 0])


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_torch_gives_the_scores_of_what_we_save(tmp_path, kind):
  pytest.importorskip("torch")
  network = PassageClassifier(ScorerConfig(bert(kind)))
  params = noise(network)
  save_network(tmp_path / "out", network, params, NoTokenizer())
  model, unexpected = torch_model(
    tmp_path / "out", "AutoModelForSequenceClassification"
  )
  assert not unexpected
  # It would take names without the prefix, too; others do not.
  with safetensors.safe_open(tmp_path / "out/model.safetensors", "np") as file:
    assert set(file.keys()) == set(model.state_dict())
  assert model.num_labels == 1
  want = torch_call(model, kind).logits
  assert want.shape == (N, 1)
  got = jax.jit(network.score)(params, IDS, LENGTHS, FIRST)
  close(got, want[:, 0])


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_reader_gives_the_same_spans_here(tmp_path, kind):
  config = torch_config(kind)
  import transformers

  model = transformers.AutoModelForQuestionAnswering.from_config(config)
  spread(model)
  model.save_pretrained(tmp_path)
  network, params = load_extractive_reader(tmp_path)
  assert not network.config.span
  assert not network.config.passage
  got = jax.jit(network.read)(params, IDS, LENGTHS, FIRST)
  want = torch_call(model, kind)
  close(got.start, want.start_logits, REAL)
  close(got.end, want.end_logits, REAL)
  assert got.passage is None


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_torch_reads_the_spans_of_what_we_save(tmp_path, kind):
  pytest.importorskip("torch")
  network = ExtractiveReader(SpanConfig(bert(kind)))
  params = noise(network)
  save_network(tmp_path / "out", network, params, NoTokenizer())
  model, unexpected = torch_model(
    tmp_path / "out", "AutoModelForQuestionAnswering"
  )
  assert {name.split(".")[0] for name in unexpected} == {
    "qa_span",
    "qa_classifier",
  }
  got = jax.jit(network.read)(params, IDS, LENGTHS, FIRST)
  want = torch_call(model, kind)
  close(got.start, want.start_logits, REAL)
  close(got.end, want.end_logits, REAL)


@pytest.mark.torch
def test_dpr_s_reader_scores_passages_here(tmp_path):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  config = torch_config("dpr")
  model = transformers.DPRReader(config)
  spread(model)
  model.save_pretrained(tmp_path)
  network, params = load_extractive_reader(tmp_path)
  assert network.config.passage
  assert not network.config.span
  # It has one type for both segments.
  got = jax.jit(network.read)(params, IDS, LENGTHS)
  with torch.no_grad():
    want = model.eval()(
      input_ids=torch.tensor(IDS, dtype=torch.long),
      attention_mask=torch.tensor(REAL, dtype=torch.long),
    )
  close(got.passage, want.relevance_logits)
  close(got.start, want.start_logits, REAL)
  close(got.end, want.end_logits, REAL)


# --- Round trips and what a folder lacks ------------------------------------


@functools.cache
def readers(kind: str):
  network = ExtractiveReader(SpanConfig(bert(kind)))
  return network, noise(network)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_reader_comes_back(tmp_path, kind):
  network, params = readers(kind)
  save_network(tmp_path / "out", network, params, NoTokenizer())
  again, found = load_extractive_reader(tmp_path / "out")
  assert again.config == network.config
  assert_equal(found, params)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_scorer_comes_back(tmp_path, kind):
  network = Reranker(ScorerConfig(bert(kind)))
  params = noise(network)
  save_network(tmp_path / "out", network, params, NoTokenizer())
  again, found = load_scorer(tmp_path / "out", PassageClassifier)
  assert again.config == network.config
  assert_equal(found, params)


def test_the_body_serves_another_head(tmp_path):
  reader, params = readers("electra-small")
  save_network(tmp_path / "out", reader, params, NoTokenizer())
  body = read_body(tmp_path / "out", dtype="bfloat16", scan=False)
  assert body == bert("electra-small", dtype="bfloat16", scan=False)
  found, missing = read_params(
    tmp_path / "out", Reranker(ScorerConfig(reader.config.bert))
  )
  assert missing == ("classifier.dense", "classifier.out_proj")
  assert_equal(
    found, {k: v for k, v in params.items() if not k.startswith("qa_")}
  )
  with pytest.raises(ValueError, match=r"no classifier\.dense.*Reranker"):
    load_scorer(tmp_path / "out", Reranker)


def test_a_pooler_without_a_classifier_is_its_first_layer(tmp_path):
  network = Reranker(ScorerConfig(bert("bert")))
  params = noise(network)
  pooled = params | {"classifier": {"dense": params["classifier"]["dense"]}}
  save_network(tmp_path / "out", network, pooled, NoTokenizer())
  found, missing = read_params(tmp_path / "out", network)
  assert missing == ("classifier.out_proj",)
  assert_equal(found, pooled)


def test_half_a_head_is_listed(tmp_path):
  network = Reranker(ScorerConfig(bert("roberta")))
  params = noise(network)
  del params["classifier"]["out_proj"]["bias"]
  save_network(tmp_path / "out", network, params, NoTokenizer())
  with pytest.raises(ValueError, match=r"- classifier\.out_proj\.bias \[1\]"):
    load_scorer(tmp_path / "out", Reranker)


def test_a_classifier_of_classes_is_refused(tmp_path):
  network = Reranker(ScorerConfig(bert("bert")))
  params = noise(network)
  params["classifier"]["out_proj"] = {
    "kernel": jnp.ones((16, 3)),
    "bias": jnp.ones(3),
  }
  save_network(tmp_path / "out", network, params, NoTokenizer())
  with pytest.raises(ValueError, match="tells 3 labels apart"):
    load_scorer(tmp_path / "out", Reranker)


@pytest.mark.parametrize(
  ("kind", "change", "message"),
  [
    ("roberta", {"pad_token_id": 0}, "pad_token_id=0"),
    ("roberta", {"max_position_embeddings": 2}, "leaves no position"),
    ("electra", {"embedding_size": 0}, "embedding_size=0"),
    ("bert", {"model_type": "deberta"}, "model_type='deberta'"),
    ("mobilebert", {"normalization_type": "rms"}, "normalization_type='rms'"),
    ("mobilebert", {"embedding_size": 0}, "embedding_size=0"),
    ("mobilebert", {"hidden_act": "silu"}, "hidden_act='silu'"),
  ],
)
def test_other_networks_are_refused(tmp_path, kind, change, message):
  network = Reranker(ScorerConfig(bert(kind)))
  save_network(tmp_path / "out", network, noise(network), NoTokenizer())
  path = tmp_path / "out" / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=message):
    load_scorer(tmp_path / "out", Reranker)


def test_a_retriever_is_no_roberta(tmp_path):
  network = Reranker(ScorerConfig(bert("roberta")))
  save_network(tmp_path / "out", network, noise(network), NoTokenizer())
  with pytest.raises(ValueError, match="model_type='roberta'"):
    load_encoder(tmp_path / "out")


def test_every_variant_is_tried():
  assert {kind.split("-")[0] for kind in KINDS} == set(VARIANTS)
