"""RoBERTa's pieces by hand, against transformers, and from every file."""

import gzip
import json
from pathlib import Path

import pytest
import tokenizers

from odqa_jax.text.byte_pairs import (
  SPECIAL_TOKENS,
  BytePairTokenizer,
  load_byte_pairs,
  load_pair_tokenizer,
)
from odqa_jax.text.tokenizer import SPECIAL_TOKENS as BERTS
from odqa_jax.text.tokenizer import Tokenizer, load_tokenizer

AWKWARD = [
  "",
  " \t\n",
  "Café CAFÉ cafe\u0301 naïve İstanbul ΣΊΣΥΦΟΣ ﬁne ½",
  "中文 and 日本語 and 한국어, ok?",
  "no\u00a0break\u200bspace \u2028 line \x00 \x1c control \ufffd \ufeff",
  "two  spaces \r\n and   lines\n\nhere  ",
  "it's we'll 3.14 e.g. U.S.A. $5 a_b C++",
  "</s> what <pad> is<s>this <unk>",
  "🙂 “quotes” ‘single’ …",
]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the")]
PIECES = [*"aehrtv", "Ġ", "th", "the", "Ġthe"]


def by_hand(**other) -> BytePairTokenizer:
  tokens = [*SPECIAL_TOKENS, *PIECES]
  vocab = {token: i for i, token in enumerate(tokens)}
  return BytePairTokenizer(vocab, MERGES, **other)


@pytest.fixture(scope="session")
def texts() -> list[str]:
  words = "the river There harbour's 1815 Ada went to London and Ürümqi".split()
  return [" ".join(words[i:] + words[:i]) for i in range(9)] + AWKWARD


@pytest.fixture(scope="session")
def folder(tmp_path_factory, texts) -> Path:
  """What `tokenizers` learns and saves: vocab.json and merges.txt."""
  path = tmp_path_factory.mktemp("roberta")
  trained = tokenizers.ByteLevelBPETokenizer()
  trained.train_from_iterator(
    texts * 3, 400, show_progress=False, special_tokens=[*SPECIAL_TOKENS]
  )
  trained.save_model(str(path))
  return path


def test_pieces_by_hand():
  small = by_hand()
  ids = {piece: i + 5 for i, piece in enumerate(PIECES)}
  want = [ids["the"], ids["Ġthe"], ids["Ġ"], ids["e"], ids["v"], ids["a"]]
  assert small.encode("the the eva") == want
  assert small.decode([0, *want, 2, 1]) == "the the eva"
  assert by_hand(prefix_space=True).encode("the") == [ids["Ġthe"]]
  assert (small.cls_id, small.pad_id, small.sep_id) == (0, 1, 2)
  assert (small.unk_id, small.mask_id) == (3, 4)
  assert small.pair_separator == (2, 2)
  assert small.vocab_size == 15
  assert not small.cuts_at_spaces


def test_offsets_leave_the_space_out():
  text = "the  the"
  (encoding,) = by_hand().encodings([text])
  assert [text[a:b] for a, b in encoding.offsets] == ["the", "", "the"]


@pytest.mark.torch
@pytest.mark.parametrize("prefix_space", [False, True])
def test_transformers_cuts_the_same(folder, texts, tmp_path, prefix_space):
  transformers = pytest.importorskip("transformers")
  for name in ("vocab.json", "merges.txt"):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  config = {
    "tokenizer_class": "RobertaTokenizer",
    "add_prefix_space": prefix_space,
  }
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  ours = load_byte_pairs(tmp_path)
  for text in texts:
    want = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text) == want, text
    assert ours.decode(want) == theirs.decode(want, skip_special_tokens=True)
  question, passage = texts[:2]
  want = theirs(question, passage)["input_ids"]
  assert [
    ours.cls_id,
    *ours.encode(question),
    *ours.pair_separator,
    *ours.encode(passage),
    ours.sep_id,
  ] == want
  theirs.save_pretrained(tmp_path / "theirs")
  again = load_byte_pairs(tmp_path / "theirs")
  assert again.encode_batch(texts) == ours.encode_batch(texts)
  ours.save(tmp_path / "ours")
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
  assert theirs(question, passage)["input_ids"] == want
  assert theirs(f"{question} <mask>")["input_ids"][-2] == ours.mask_id


@pytest.mark.torch
def test_bert_s_pairs_have_one_separator():
  transformers = pytest.importorskip("transformers")
  words = [*BERTS, "the", "river", "."]
  vocab = {word: i for i, word in enumerate(words)}
  ours, theirs = Tokenizer(vocab), transformers.BertTokenizer(vocab=vocab)
  pair = [
    ours.cls_id,
    *ours.encode("the river"),
    *ours.pair_separator,
    *ours.encode("river ."),
    ours.sep_id,
  ]
  assert theirs("the river", "river .")["input_ids"] == pair


def test_real_text_comes_back(shared_data, folder):
  with gzip.open(shared_data / "squad_dev" / "paragraphs.jsonl.gz") as file:
    real = [json.loads(line)["context"] for line in file][::20]
  tokenizer = load_byte_pairs(folder)
  assert [tokenizer.decode(x) for x in tokenizer.encode_batch(real)] == real


def test_every_file_gives_the_same_tokenizer(folder, texts, tmp_path):
  first = load_byte_pairs(folder)
  first.save(tmp_path)
  with_json = load_byte_pairs(tmp_path)
  named = load_byte_pairs(tmp_path / "tokenizer.json")
  parsed = json.loads((tmp_path / "tokenizer.json").read_text())
  parsed["model"]["merges"] = [
    merge if isinstance(merge, str) else " ".join(merge)
    for merge in parsed["model"]["merges"]
  ]
  (tmp_path / "tokenizer.json").write_text(json.dumps(parsed))
  older = load_byte_pairs(tmp_path)
  for other in (with_json, named, older):
    assert other.fingerprint == first.fingerprint
    assert other.encode_batch(texts) == first.encode_batch(texts)
  assert by_hand().fingerprint != by_hand(prefix_space=True).fingerprint


def test_a_folder_says_which_pieces_it_has(folder, tmp_path):
  words = [*BERTS, "the"]
  bert = Tokenizer({word: i for i, word in enumerate(words)})
  bert.save(tmp_path)
  assert load_pair_tokenizer(tmp_path).fingerprint == bert.fingerprint
  assert isinstance(load_pair_tokenizer(folder), BytePairTokenizer)
  load_byte_pairs(folder).save(tmp_path / "bpe")
  for path in ("bpe", "bpe/tokenizer.json"):
    assert isinstance(load_pair_tokenizer(tmp_path / path), BytePairTokenizer)
  with pytest.raises(ValueError, match="BERT's own tokenizer"):
    load_tokenizer(tmp_path / "bpe")


@pytest.mark.parametrize(
  ("part", "change", "message"),
  [
    ("model", {"dropout": 0.1}, "model.dropout=0.1"),
    ("model", {"byte_fallback": True}, "model.byte_fallback=True"),
    ("model", {"merges": ["a b c"]}, "no pair of pieces"),
    ("model", {"merges": ["t v"]}, "needs 'tv'"),
    ("model", {"vocab": [["a", 0.5]]}, "not byte-level"),
    ("pre_tokenizer", {"use_regex": False}, "use_regex=false"),
    ("pre_tokenizer", {"type": "Whitespace"}, "not byte-level"),
  ],
)
def test_other_rules_are_refused(tmp_path, part, change, message):
  by_hand().save(tmp_path)
  path = tmp_path / "tokenizer.json"
  parsed = json.loads(path.read_text())
  parsed[part] |= change
  path.write_text(json.dumps(parsed))
  with pytest.raises(ValueError, match=message):
    load_byte_pairs(tmp_path)


def test_vocabularies_with_holes_are_refused(tmp_path):
  vocab = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
  with pytest.raises(ValueError, match="no <mask>"):
    BytePairTokenizer({k: v for k, v in vocab.items() if k != "<mask>"}, [])
  with pytest.raises(ValueError, match="not 0 to 5"):
    BytePairTokenizer(vocab | {"a": 6}, [])
  with pytest.raises(ValueError, match=r"neither a tokenizer\.json nor"):
    load_byte_pairs(tmp_path)
  with pytest.raises(ValueError, match="lone surrogate"):
    by_hand().encode("\ud800")
