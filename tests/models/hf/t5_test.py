"""T5 folders read and written, against torch and tensor by tensor."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from toy_pieces import make_tokenizer

from odqa_jax.models.hf.t5 import load_t5, read_t5_config, save_t5
from odqa_jax.models.t5 import PRESETS, T5, T5Config
from odqa_jax.text.sentencepiece import load_sentencepiece

V10 = T5Config(
  vocab_size=40,
  width=16,
  layers=2,
  decoder_layers=3,
  heads=2,
  head_dim=6,
  mlp_dim=24,
  relative_buckets=8,
  relative_distance=20,
  dropout=0.2,
  pad_id=0,
  eos_id=3,
  start_id=2,
)
V11 = dataclasses.replace(V10, gated=True, tied=False)
BOTH = pytest.mark.parametrize("config", [V10, V11], ids=["v1.0", "v1.1"])

RNG = np.random.default_rng(0)
IDS = RNG.integers(4, 40, (4, 11), np.int32)
LENGTHS = np.array([11, 3, 7, 1], np.int32)
TARGETS = RNG.integers(4, 40, (4, 6), np.int32)


def make_params(config: T5Config):
  shapes = jax.eval_shape(T5(config).init, jax.random.key(0))
  rng = np.random.default_rng(1)

  def leaf(path, x):
    centre = float(path[-1].key == "scale")
    return jnp.asarray(rng.normal(centre, 0.3, x.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def saved(directory: Path, config: T5Config):
  params = make_params(config)
  save_t5(directory, config, params)
  return params


def logits(config: T5Config, params) -> np.ndarray:
  reader = T5(config)

  @jax.jit
  def run(params, ids, lengths, targets):
    lengths = lengths[:, None]
    states = reader.encode(params, ids[:, None], lengths)
    inputs = reader.shift_right(targets)
    return reader.decode(params, inputs, states, lengths)

  return np.asarray(run(params, IDS, LENGTHS, TARGETS))


def assert_equal(a, b) -> None:
  jax.tree.map(np.testing.assert_array_equal, a, b)


def edit_tensors(directory: Path, edit) -> None:
  path = directory / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  edit(tensors)
  safetensors.numpy.save_file(tensors, path)


def edit_config(directory: Path, **values) -> None:
  path = directory / "config.json"
  config = json.loads(path.read_text()) | values
  config = {k: v for k, v in config.items() if v != "absent"}
  path.write_text(json.dumps(config))


# --- Against torch ---------------------------------------------------------


def torch_logits(model) -> np.ndarray:
  import torch

  mask = np.arange(IDS.shape[1])[None] < LENGTHS[:, None]
  with torch.no_grad():
    out = model.eval()(
      input_ids=torch.tensor(IDS, dtype=torch.long),
      attention_mask=torch.tensor(mask, dtype=torch.long),
      labels=torch.tensor(TARGETS, dtype=torch.long),
    )
  return out.logits.numpy()


def torch_t5(config: T5Config):
  """A random T5 of transformers; of v1.1, with a head of its own."""
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=40,
      d_model=16,
      d_kv=6,
      d_ff=24,
      num_layers=2,
      num_decoder_layers=3,
      num_heads=2,
      relative_attention_num_buckets=8,
      relative_attention_max_distance=20,
      dropout_rate=0.2,
      feed_forward_proj="gated-gelu" if config.gated else "relu",
      tie_word_embeddings=config.tied,
      eos_token_id=3,
      decoder_start_token_id=2,
    )
  )
  if not config.tied:
    head = torch.nn.Parameter(torch.randn(40, 16))
    model.lm_head.weight = head
  for parameter in model.parameters():
    parameter.data += 0.2 * torch.randn_like(parameter)
  return model


@pytest.mark.torch
@BOTH
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
def test_a_torch_t5_gives_the_same_logits_here(tmp_path, config, shards):
  model = torch_t5(config)
  model.save_pretrained(tmp_path, max_shard_size="4KB" if shards else "1GB")
  assert len(list(tmp_path.glob("*.safetensors"))) > 2 * shards
  found, params = load_t5(tmp_path)
  assert found == config
  np.testing.assert_allclose(
    logits(found, params), torch_logits(model), atol=1e-4, rtol=0
  )


@pytest.mark.torch
@BOTH
def test_torch_gives_the_logits_of_our_folder(tmp_path, config):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  params = saved(tmp_path, config)
  model, report = transformers.T5ForConditionalGeneration.from_pretrained(
    tmp_path, output_loading_info=True
  )
  assert not any(report.values())
  assert model.config.dropout_rate == 0.2
  np.testing.assert_allclose(
    logits(config, params), torch_logits(model), atol=1e-4, rtol=0
  )
  # Its cache fails where the decoder has more layers than the encoder.
  source = torch.tensor(IDS[:1], dtype=torch.long)
  ids = model.generate(source, max_new_tokens=3, use_cache=False)
  assert ids[0, 0] == config.start_id


@pytest.mark.torch
def test_a_tied_head_without_scale_becomes_a_copy(tmp_path):
  """What transformers 5 makes of a fresh v1.1."""
  model = torch_t5(V11)
  model.lm_head.weight = model.shared.weight
  model.save_pretrained(tmp_path)
  names = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  assert "lm_head.weight" not in names
  config, params = load_t5(tmp_path)
  assert config == V11
  np.testing.assert_array_equal(
    params["lm_head"]["kernel"], params["shared"]["embedding"].T
  )
  np.testing.assert_allclose(
    logits(config, params), torch_logits(model), atol=1e-4, rtol=0
  )


# --- Round trips and the files ---------------------------------------------


@BOTH
def test_a_round_trip_is_exact(tmp_path, config):
  params = saved(tmp_path / "a", config)
  found, again = load_t5(tmp_path / "a")
  assert found == config
  assert_equal(again, params)
  save_t5(tmp_path / "b", found, again)
  for name in ("model.safetensors", "config.json", "generation_config.json"):
    a, b = ((tmp_path / x / name).read_bytes() for x in "ab")
    assert a == b


def test_names_and_shapes_are_the_published_ones(tmp_path):
  saved(tmp_path, V11)
  tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  shapes = {name: x.shape for name, x in tensors.items()}
  cross = "decoder.block.2.layer.1.EncDecAttention"
  assert shapes[f"{cross}.q.weight"] == (12, 16)
  assert shapes[f"{cross}.o.weight"] == (16, 12)
  self_attention = "encoder.block.0.layer.0.SelfAttention"
  bias = f"{self_attention}.relative_attention_bias.weight"
  assert shapes[bias] == (8, 2)
  assert shapes["lm_head.weight"] == shapes["shared.weight"] == (40, 16)
  dense = "encoder.block.1.layer.1.DenseReluDense"
  assert shapes[f"{dense}.wi_1.weight"] == (24, 16)
  # Products and norms of every layer, then biases, final norms, table and head.
  assert len(tensors) == 2 * 9 + 3 * 14 + 2 + 2 + 2


def test_execution_options_and_dropout_are_the_callers(tmp_path):
  saved(tmp_path, V10)
  config, _ = load_t5(
    tmp_path, dtype="bfloat16", scan=False, remat="full", dropout=0.0
  )
  assert config == dataclasses.replace(
    V10, dtype="bfloat16", scan=False, remat="full", dropout=0.0
  )
  assert load_t5(tmp_path)[0].dropout == 0.2


def test_a_tokenizer_goes_along(tmp_path):
  tokenizer = make_tokenizer()
  save_t5(tmp_path, V10, make_params(V10), tokenizer)
  again = load_sentencepiece(tmp_path)
  assert again.fingerprint == tokenizer.fingerprint


def test_repeated_and_obsolete_tensors_are_ignored(tmp_path):
  params = saved(tmp_path, V10)

  def edit(tensors):
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
      tensors[f"{name}.weight"] = tensors["shared.weight"].copy()
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias"
    tensors[f"{name}.weight"] = np.zeros((8, 2), np.float32)

  edit_tensors(tmp_path, edit)
  assert_equal(load_t5(tmp_path)[1], params)
  edit_tensors(tmp_path, lambda t: t.pop("shared.weight"))
  assert_equal(load_t5(tmp_path)[1], params)


def test_half_precision_weights_are_read_as_float32(tmp_path):
  params = saved(tmp_path, V10)

  def halve(tensors):
    for name in tensors:
      kind = np.float16 if "wo" in name else jnp.bfloat16
      tensors[name] = tensors[name].astype(kind)

  edit_tensors(tmp_path, halve)
  _, found = load_t5(tmp_path)
  assert found["shared"]["embedding"].dtype == jnp.float32
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), found, params
  )


def test_an_old_config_without_defaults_is_read(tmp_path):
  config = dataclasses.replace(
    V10,
    decoder_layers=2,
    relative_buckets=32,
    relative_distance=128,
    dropout=0.1,
    eos_id=1,
    start_id=0,
  )
  params = saved(tmp_path, config)
  (tmp_path / "generation_config.json").unlink()
  gone = (
    "num_decoder_layers",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "feed_forward_proj",
    "tie_word_embeddings",
    "decoder_start_token_id",
    "pad_token_id",
    "eos_token_id",
    "dropout_rate",
    "layer_norm_epsilon",
  )
  edit_config(tmp_path, **dict.fromkeys(gone, "absent"))
  found, again = load_t5(tmp_path)
  assert found == config
  assert_equal(again, params)


def test_the_published_base_model_is_the_preset(shared_data):
  """The configuration only: there are no weights here."""
  config = read_t5_config(shared_data / "tokenizers" / "t5-base")
  assert config == T5Config(**PRESETS["base"])


# --- What is refused -------------------------------------------------------


@BOTH
def test_all_that_does_not_fit_is_listed(tmp_path, config):
  saved(tmp_path, config)
  gone = "decoder.block.2.layer.2.DenseReluDense.wo.weight"

  def edit(tensors):
    del tensors[gone]
    tensors["encoder.extra.weight"] = np.zeros(3, np.float32)
    tensors["shared.weight"] = np.zeros((41, 16), np.float32)

  edit_tensors(tmp_path, edit)
  with pytest.raises(ValueError) as error:
    load_t5(tmp_path)
  lines = str(error.value).split("\n")
  assert str(tmp_path) in lines[0]
  assert lines[1:] == [
    f"- {gone} [16, 24]",
    "+ encoder.extra.weight [3]",
    "- shared.weight [40, 16]",
    "+ shared.weight [41, 16]",
  ]


def test_a_head_or_copy_that_differs_is_refused(tmp_path):
  saved(tmp_path, V10)
  for name in ("lm_head.weight", "encoder.embed_tokens.weight"):

    def edit(tensors, name=name):
      tensors[name] = tensors["shared.weight"] + 1

    edit_tensors(tmp_path, edit)
    with pytest.raises(ValueError, match=f"{name} differs from shared.weight"):
      load_t5(tmp_path)


def test_other_models_are_refused(tmp_path):
  saved(tmp_path, V10)
  edit_config(tmp_path, feed_forward_proj="gated-silu")
  with pytest.raises(ValueError, match=r"feed_forward_proj='gated-silu', but"):
    load_t5(tmp_path)
  edit_config(tmp_path, feed_forward_proj="relu", model_type="bert")
  with pytest.raises(ValueError, match=r"model_type='bert', but only"):
    load_t5(tmp_path)
  edit_config(tmp_path, model_type="t5", d_kv="absent", num_layers="absent")
  with pytest.raises(ValueError, match=r"- decoder\.block\.0.*\[128, 16\]"):
    load_t5(tmp_path)


def test_pickled_weights_are_refused_with_advice(tmp_path):
  saved(tmp_path, V10)
  path = tmp_path / "model.safetensors"
  path.rename(tmp_path / "pytorch_model.bin")
  with pytest.raises(
    ValueError, match=r"AutoModelForSeq2SeqLM.from_pretrained"
  ):
    load_t5(tmp_path)
  (tmp_path / "pytorch_model.bin").unlink()
  with pytest.raises(
    FileNotFoundError, match=r"model.safetensors: there is no"
  ):
    load_t5(tmp_path)


@pytest.mark.parametrize(
  "options",
  [
    {"depthwise_convolution": True},
    {"overlap_features": 3},
    {"span_head": True},
  ],
)
def test_what_transformers_has_not_is_not_written(tmp_path, options):
  config = dataclasses.replace(V10, **options)
  [(name, value)] = options.items()
  with pytest.raises(ValueError, match=rf"{name}={value}: no T5 of transform"):
    save_t5(tmp_path / "out", config, make_params(config))
  assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_not_overwritten(tmp_path):
  saved(tmp_path, V10)
  with pytest.raises(FileExistsError, match="is not empty"):
    save_t5(tmp_path, V10, make_params(V10))
