"""What model folders say of themselves is honoured, or refused by its name."""

import json
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.hf.encoder import load_encoder, save_encoder
from odqa_jax.retrieval.encoding import encode_questions
from odqa_jax.retrieval.retriever import load_retriever
from odqa_jax.text.tokenizer import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "capital", "é"]
BERT = BertConfig(
  vocab_size=len(WORDS), width=8, layers=1, heads=2, mlp_dim=8, max_positions=9
)


def edit(path: Path, **change) -> None:
  """Changes a JSON file; "absent" removes a key."""
  before = json.loads(path.read_text()) if path.exists() else {}
  content = {k: v for k, v in (before | change).items() if v != "absent"}
  path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
  config = EncoderConfig(BERT, shared=True, passage_type=0, pooling="mean")
  save_encoder(
    tmp_path / "m",
    config,
    DualEncoder(config).init(jax.random.key(0)),
    Tokenizer({word: i for i, word in enumerate(WORDS)}),
    question_length=8,
    passage_length=9,
  )
  return tmp_path / "m"


def cased(folder: Path) -> None:
  (folder / "tokenizer.json").unlink()
  edit(folder / "tokenizer_config.json", do_lower_case=False)


def vector(folder: Path, question: str) -> np.ndarray:
  return encode_questions(load_retriever(folder), [question])[0]


def test_text_is_lowered_before_a_cased_tokenizer(folder):
  lowered = vector(folder, "the capital")
  cased(folder)
  assert not np.allclose(vector(folder, "The CAPITAL"), lowered)
  edit(folder / "sentence_bert_config.json", do_lower_case=True)
  np.testing.assert_array_equal(vector(folder, "The CAPITAL"), lowered)
  # The normaliser of an uncased model would strip the accent as well.
  assert load_retriever(folder).tokenizer.encode("É e") == [7, 1]


def test_lowering_means_nothing_to_an_uncased_tokenizer(folder):
  before = load_retriever(folder).tokenizer.fingerprint
  edit(folder / "sentence_bert_config.json", do_lower_case=True)
  assert load_retriever(folder).tokenizer.fingerprint == before


def test_what_a_config_leaves_out_is_what_transformers_takes(folder):
  before = load_encoder(folder)[0]
  edit(
    folder / "config.json",
    layer_norm_eps="absent",
    type_vocab_size="absent",
    hidden_dropout_prob="absent",
    attention_probs_dropout_prob="absent",
    model_type="absent",
    hidden_act="absent",
  )
  assert load_encoder(folder)[0] == before
  edit(folder / "config.json", layer_norm_eps=1e-5)
  assert load_encoder(folder)[0].bert.eps == 1e-5


@pytest.mark.torch
def test_the_defaults_are_those_of_transformers():
  transformers = pytest.importorskip("transformers")
  from odqa_jax.models.hf import bert_config, t5

  theirs = transformers.BertConfig().to_dict()
  ours = bert_config.CONFIG_DEFAULTS
  assert {k: theirs.get(k, 0) for k in ours} == ours
  for kind, changed in bert_config.VARIANT_DEFAULTS.items():
    theirs = transformers.AutoConfig.for_model(kind).to_dict()
    variant = ours | changed
    assert {k: theirs.get(k, 0) for k in variant} == variant
  theirs = transformers.T5Config().to_dict()
  assert {k: theirs[k] for k in t5.DEFAULTS} == t5.DEFAULTS


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map="),
    ({"quantization_config": {"bits": 4}}, "quantization_config="),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads="),
    ({"add_cross_attention": True}, "add_cross_attention=True"),
    ({"model_type": "absent", "architectures": ["MPNetModel"]}, "MPNetModel"),
    ({"hidden_size": "8"}, "hidden_size='8' is not a whole number"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is not"),
    ({"num_hidden_layers": -1}, "num_hidden_layers=-1 is not"),
    ({"layer_norm_eps": "small"}, "layer_norm_eps='small' is not"),
    ({"num_attention_heads": 3}, "heads=3 does not divide"),
  ],
)
def test_configs_of_other_networks_are_refused(folder, change, message):
  edit(folder / "config.json", **change)
  with pytest.raises(ValueError, match=message):
    load_encoder(folder)


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("tokenizer_config.json", {"do_basic_tokenize": False}, "do_basic_tok"),
    ("tokenizer_config.json", {"never_split": ["a"]}, "never_split="),
    ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side"),
    ("tokenizer_config.json", {"cls_token": "<s>"}, "cls_token='<s>'"),
    ("tokenizer_config.json", {"strip_accents": "yes"}, "strip_accents is"),
    ("sentence_bert_config.json", {"max_seq_length": 10}, "3 to 9 tokens"),
    ("sentence_bert_config.json", {"max_seq_length": "8"}, "max_seq_length="),
    ("odqa_jax.json", {"passage_length": 10}, "passage_length=10"),
    ("adapter_config.json", {"r": 8}, "adapter_config.json: an adapter"),
    (
      "config_sentence_transformers.json",
      {"similarity_fn_name": "euclidean"},
      "similarity_fn_name='euclidean'",
    ),
    (
      "config_sentence_transformers.json",
      {"prompts": {"query": "query: "}},
      "expects question_prompt 'query: '",
    ),
  ],
)
def test_other_parts_of_a_folder_are_refused(folder, name, change, message):
  edit(folder / name, **change)
  with pytest.raises(ValueError, match=message):
    load_retriever(folder)


def test_the_cosine_is_the_product_of_embeddings_of_length_1(folder):
  plain = vector(folder, "capital")
  edit(folder / "config_sentence_transformers.json", similarity_fn_name="dot")
  np.testing.assert_array_equal(vector(folder, "capital"), plain)
  edit(
    folder / "config_sentence_transformers.json", similarity_fn_name="cosine"
  )
  scaled = plain / np.linalg.norm(plain)
  np.testing.assert_allclose(vector(folder, "capital"), scaled, atol=1e-6)


@pytest.mark.parametrize(
  ("modules", "message"),
  [
    ("{}", "not a list of JSON objects"),
    ("[{}]", "'None'"),
    ("[1", "modules.json: not JSON"),
    ('[{"type": "a.Transformer"}, {"type": "a.LayerNorm"}]', "LayerNorm"),
    ('[{"type": "a.Transformer"}, {"type": "a.WordWeights"}]', "WordWeights"),
  ],
)
def test_other_modules_are_refused(folder, modules, message):
  (folder / "modules.json").write_text(modules)
  with pytest.raises(ValueError, match=message):
    load_encoder(folder)


def test_a_vocabulary_of_another_class_is_refused(folder):
  (folder / "tokenizer.json").unlink()
  edit(
    folder / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer"
  )
  with pytest.raises(ValueError, match="tokenizer_class='BertJapanese"):
    load_retriever(folder)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(folder):
  with (folder / "vocab.txt").open("a") as file:
    file.write("further\n")
  (folder / "tokenizer.json").unlink()
  with pytest.raises(ValueError, match="has 9 ids, the embedding table 8 rows"):
    load_retriever(folder)


def test_tokens_added_beside_a_vocabulary_are_read(folder):
  (folder / "tokenizer.json").unlink()
  (folder / "added_tokens.json").write_text('{"xyzzy": 8}')
  with pytest.raises(ValueError, match="has 9 ids, the embedding table 8 rows"):
    load_retriever(folder)


@pytest.mark.parametrize(
  ("part", "message"),
  [
    ({"model": {"type": "WordPiece", "vocab": ["the"]}}, "model.vocab"),
    ({"model": {"type": "WordPiece", "vocab": {"the": "1"}}}, "model.vocab"),
    ({"added_tokens": [{"id": 1}]}, "no id and content"),
    ({"added_tokens": 3}, "no id and content"),
    ({"model": {"type": "BPE", "vocab": {}}}, "its model is BPE"),
  ],
)
def test_a_broken_tokenizer_is_named(folder, part, message):
  edit(folder / "tokenizer.json", **part)
  with pytest.raises(ValueError, match=message):
    load_retriever(folder)


@pytest.mark.parametrize(
  "name", ["config.json", "modules.json", "tokenizer.json"]
)
def test_brackets_without_end_are_one_line(folder, name):
  (folder / name).write_text("[" * 200_000)
  with pytest.raises(ValueError, match=name):
    load_retriever(folder)


# ---- Files that were made to hurt ----


def crafted(path: Path, header: dict, body: bytes = b"") -> None:
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + body)


WORD = "embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
  "header",
  [
    {WORD: {"dtype": "F32", "shape": [1 << 40, 8], "data_offsets": [0, 4]}},
    {WORD: {"dtype": "F32", "shape": [1 << 63, 8], "data_offsets": [0, 4]}},
    {WORD: {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    {WORD: {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
    {WORD: {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 40]}},
    {
      WORD: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
      "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    },
    {WORD: {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}},
    {"../../etc/x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    {},
  ],
)
def test_crafted_safetensors_are_refused(folder, header):
  crafted(folder / "model.safetensors", header, b"\0" * 4)
  with pytest.raises(ValueError, match=r"model\.safetensors|do not fit"):
    load_encoder(folder)


def test_a_header_longer_than_its_file_is_refused(folder):
  (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
  with pytest.raises(ValueError, match="not a readable safetensors file"):
    load_encoder(folder)


def test_quantised_weights_are_refused(folder):
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  tensors[WORD] = np.ones(tensors[WORD].shape, np.int8)
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(ValueError, match="of type I8"):
    load_encoder(folder)


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": []}'])
def test_a_broken_shard_index_is_named(folder, index):
  (folder / "model.safetensors").unlink()
  (folder / "model.safetensors.index.json").write_text(index)
  with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json: no"):
    load_encoder(folder)


PICKLE = b"\x80\x04cos\nsystem\n(S'touch %s'\ntR."


@pytest.mark.parametrize("command", ["index", "search", "evaluate", "answer"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "biencoder.cp"])
def test_commands_open_no_pickle(
  folder, tmp_path, capsys, toy_data, command, name
):
  from command_line import run

  (folder / "model.safetensors").unlink()
  (folder / "modules.json").unlink()
  witness = tmp_path / "witness"
  (folder / name).write_bytes(PICKLE % str(witness).encode())
  questions = ["--questions", toy_data / "questions" / "toy"]
  flags = {
    "index": ["--out", tmp_path / "i"],
    "search": ["--index", "i", *questions, "--out", tmp_path / "run.trec"],
    "evaluate": ["--index", "i", *questions],
    "answer": ["--question", "who?"],
  }[command]
  for checkpoint in (folder, folder / name):
    code, out, err = run(
      capsys, command, "--checkpoint", checkpoint, "--corpus", toy_data, *flags
    )
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert "save_pretrained(DIR)" in err and name in err
  assert not witness.exists()


def test_training_starts_from_no_pickle(folder, tmp_path, toy_config):
  from odqa_jax.training.train import train

  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  config = toy_config(init_from=str(folder / "pytorch_model.bin"))
  (folder / "pytorch_model.bin").write_bytes(PICKLE % b"witness")
  with pytest.raises(ValueError, match="pickles can run code"):
    train(config, tmp_path / "w")
  config = toy_config(
    **{
      "task": "individual",
      "data.source": "answers",
      "reader.init_from": str(folder / "pytorch_model.bin"),
    }
  )
  with pytest.raises(ValueError, match="pickles can run code"):
    train(config, tmp_path / "w")


def test_a_pickled_array_offered_as_an_index_is_refused(
  folder, tmp_path, capsys, toy_data
):
  from command_line import run

  path = tmp_path / "embeddings.npy"
  np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
  code, _, err = run(
    capsys, "search", "--checkpoint", folder, "--corpus", toy_data,
    "--questions", toy_data / "questions" / "toy", "--index", path,
    "--out", tmp_path / "run.trec",
  )  # fmt: skip
  assert code == 2 and "NumPy file of pickled objects" in err
