"""The tokenizer against Hugging Face's own, and what users get wrong."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from odqa_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer
from odqa_jax.text.wordpiece_training import train_wordpiece

WORDS = [*SPECIAL_TOKENS, "un", "##aff", "##able", "the", "cafe", ".", "Paris"]
AWKWARD = [
  "",
  " \t\n",
  "Café CAFÉ cafe\u0301 naïve İstanbul ΣΊΣΥΦΟΣ",
  "中文 and 日本語 and 한국어, ok?",
  "no\u00a0break\u200bspace \u2028 line \x00 \x1c control \ufffd",
  "a" * 101 + " " + "b" * 100,
  "[CLS] what [MASK] is [SEP]this[SEP] ##able",
  "🙂 “quotes” ‘single’ … — 3.14 e.g. U.S.A. $5 a_b C++",
]


@pytest.fixture
def small() -> Tokenizer:
  return Tokenizer({w: i for i, w in enumerate(WORDS)})


@pytest.fixture(scope="session")
def bert(shared_data) -> Path:
  return shared_data / "tokenizers" / "bert-uncased"


@pytest.fixture(scope="session")
def real_texts(shared_data) -> list[str]:
  with gzip.open(shared_data / "squad_dev" / "paragraphs.jsonl.gz") as file:
    texts = [json.loads(line)["context"] for line in file]
  path = shared_data / "triviaqa_open" / "topics.dpr.trivia.dev.txt.gz"
  with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
    texts += [row[0] for row in csv.reader(file, delimiter="\t")]
  return texts[::2]


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
  return train_wordpiece(toy_texts(), 80)


def toy_texts() -> list[str]:
  words = "river bridge castle garden market harbour forest Élan 橋 zoo".split()
  return [
    f"The {a} of the {b}, {i}." for i, a in enumerate(words) for b in words
  ]


def test_word_pieces_by_hand(small):
  assert small.encode("The UNaffable café.") == [8, 5, 6, 7, 9, 10]
  assert small.encode("zebra") == [small.unk_id]
  assert small.encode("") == []
  assert small.decode([2, 8, 5, 6, 7, 10, 3, 0]) == "the unaffable."
  assert small.vocab_size == len(WORDS)
  ids = small.pad_id, small.unk_id, small.cls_id, small.sep_id, small.mask_id
  assert ids == (0, 1, 2, 3, 4)


def test_batch_is_every_text_alone(small):
  texts = ["the cafe", "", "unaffable the", "."] * 40
  assert small.encode_batch(texts) == [small.encode(t) for t in texts]
  assert small.encode_batch([]) == []


def test_equals_reference_on_real_text(bert, real_texts):
  texts = real_texts + AWKWARD
  reference = tokenizers.Tokenizer.from_file(str(bert / "tokenizer.json"))
  expected = reference.encode_batch(texts, add_special_tokens=False)
  for source in (bert, bert / "tokenizer.json", bert / "vocab.txt"):
    tokenizer = load_tokenizer(source)
    assert tokenizer.encode_batch(texts) == [e.ids for e in expected]
    assert tokenizer.vocab_size == 30522
    assert (tokenizer.cls_id, tokenizer.sep_id) == (101, 102)


def test_one_vocabulary_one_fingerprint(bert, tmp_path):
  fingerprints = {
    load_tokenizer(source).fingerprint
    for source in (bert, bert / "tokenizer.json", bert / "vocab.txt")
  }
  compact = json.dumps(json.loads((bert / "tokenizer.json").read_text()))
  (tmp_path / "tokenizer.json").write_text(compact)
  fingerprints.add(load_tokenizer(tmp_path).fingerprint)
  assert len(fingerprints) == 1


def test_fingerprint_tells_rules_and_order_apart():
  vocab = {w: i for i, w in enumerate(WORDS)}
  swapped = vocab | {"the": vocab["un"], "un": vocab["the"]}
  fingerprints = [
    Tokenizer(vocab).fingerprint,
    Tokenizer(swapped).fingerprint,
    Tokenizer(vocab, normaliser={"lowercase": False}).fingerprint,
    Tokenizer(vocab, max_word=5).fingerprint,
  ]
  assert len(set(fingerprints)) == len(fingerprints)
  same = Tokenizer(vocab, normaliser={"strip_accents": True})
  assert same.fingerprint == fingerprints[0]


def test_truncation_and_padding_of_a_file_are_ignored(small, tmp_path):
  small.save(tmp_path)
  backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  backend.enable_truncation(2)
  backend.enable_padding(length=9)
  backend.save(str(tmp_path / "tokenizer.json"))
  loaded = load_tokenizer(tmp_path)
  assert loaded.encode("the the the the") == [8] * 4
  assert loaded.fingerprint == small.fingerprint


def test_added_tokens_keep_their_ids(small, tmp_path):
  small.save(tmp_path)
  backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  backend.add_special_tokens(["[TITLE]"])
  backend.save(str(tmp_path / "tokenizer.json"))
  loaded = load_tokenizer(tmp_path)
  assert loaded.encode("the [TITLE] the") == [8, len(WORDS), 8]
  assert loaded.vocab_size == len(WORDS) + 1
  assert loaded.fingerprint != small.fingerprint


def test_do_lower_case_is_honoured(tmp_path):
  (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
  config = tmp_path / "tokenizer_config.json"
  assert load_tokenizer(tmp_path).encode("Paris") == [1]
  config.write_text('{"do_lower_case": false}')
  assert load_tokenizer(tmp_path).encode("Paris") == [11]
  assert load_tokenizer(tmp_path / "vocab.txt").encode("Paris") == [11]
  load_tokenizer(tmp_path).save(tmp_path / "both")
  (tmp_path / "both" / "tokenizer_config.json").write_text(
    '{"do_lower_case": true}'
  )
  assert load_tokenizer(tmp_path / "both").encode("Paris") == [1]
  config.write_text('{"do_lower_case": "no"}')
  with pytest.raises(ValueError, match=r"tokenizer_config.json: .*'no'"):
    load_tokenizer(tmp_path)


def test_vocabulary_lines_end_only_at_newlines(tmp_path):
  words = [*SPECIAL_TOKENS, "a\u2028b", "\u0085", "the"]
  (tmp_path / "vocab.txt").write_bytes("\r\n".join([*words, ""]).encode())
  tokenizer = load_tokenizer(tmp_path)
  assert tokenizer.vocab_size == len(words)
  assert tokenizer.encode("the") == [7]


def test_save_and_load(trained, tmp_path):
  trained.save(tmp_path / "new" / "folder")
  loaded = load_tokenizer(tmp_path / "new" / "folder")
  assert loaded.fingerprint == trained.fingerprint
  assert loaded.encode_batch(AWKWARD) == trained.encode_batch(AWKWARD)
  names = {p.name for p in (tmp_path / "new" / "folder").iterdir()}
  assert names == {"tokenizer.json", "vocab.txt", "tokenizer_config.json"}


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lowercase", [True, False])
def test_transformers_reads_the_saved_folder(
  bert, real_texts, tmp_path, lowercase
):
  transformers = pytest.importorskip("transformers")
  words = (bert / "vocab.txt").read_text("utf-8").splitlines()
  ours = Tokenizer(
    {w: i for i, w in enumerate(words)}, normaliser={"lowercase": lowercase}
  )
  ours.save(tmp_path)
  texts = real_texts[:400] + AWKWARD
  for theirs in (
    transformers.AutoTokenizer.from_pretrained(tmp_path),
    transformers.BertTokenizer.from_pretrained(tmp_path),
  ):
    assert theirs(texts, add_special_tokens=False)[
      "input_ids"
    ] == ours.encode_batch(texts)
    pair = theirs("who", "why")["input_ids"]
    who, why = ours.encode_batch(["who", "why"])
    assert pair == [101, *who, 102, *why, 102]


def test_training_is_deterministic_across_processes(trained):
  # The library's hash maps are seeded per process: one process proves little.
  code = (
    "from tokenizer_test import toy_texts\n"
    "from odqa_jax.text.wordpiece_training import train_wordpiece\n"
    "print(train_wordpiece(toy_texts(), 80).fingerprint)"
  )
  tests = Path(__file__).parent
  path = os.pathsep.join([str(tests), str(tests.parents[1])])
  for seed in ("1", "2"):
    env = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed}
    done = subprocess.run(
      [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == trained.fingerprint, done.stderr


def test_training_learns_the_words(trained):
  assert trained.vocab_size == 80
  tokenizer = train_wordpiece(toy_texts(), 1000)
  assert tokenizer.unk_id not in tokenizer.encode(" ".join(toy_texts()))
  assert len(tokenizer.encode("river castle Elan")) == 3
  assert tokenizer.decode(tokenizer.encode("the harbour")) == "the harbour"
  assert (tokenizer.pad_id, tokenizer.mask_id) == (0, 4)


def test_training_takes_an_iterator_and_few_texts():
  tokenizer = train_wordpiece(iter(["to be or not"]), 1000)
  assert len(tokenizer.encode("to be or not")) == 4


@pytest.mark.parametrize(
  "texts, size, message",
  [
    ([], 100, "0 texts hold no character"),
    (["  ", "\n"], 100, "2 texts hold no character"),
    (["abc def"], 6, "vocab_size 6 is too small.* need 1"),
  ],
)
def test_training_refuses(texts, size, message):
  with pytest.raises(ValueError, match=message):
    train_wordpiece(texts, size)


def test_lone_surrogates_are_named(small):
  with pytest.raises(ValueError, match=r"text 1 is 'a.*lone surrogate"):
    small.encode_batch(["the", "a\ud800"])


def bad_folder(root: Path, kind: str) -> Path:
  vocab = "\n".join(WORDS)
  Tokenizer({w: i for i, w in enumerate(WORDS)}).save(root)
  file = root / "tokenizer.json"
  parsed = json.loads(file.read_text())
  if kind == "absent":
    return root / "nothing"
  if kind == "empty":
    (root / "empty").mkdir()
    return root / "empty"
  if kind == "bpe":
    parsed["model"]["type"] = "BPE"
  elif kind == "gap":
    parsed["model"]["vocab"]["the"] = 99
  elif kind == "broken":
    file.write_text('{\n"model": }')
    return root
  if kind in ("bpe", "gap"):
    file.write_text(json.dumps(parsed))
    return root
  lines = {
    "special": vocab.replace("[MASK]", "mask"),
    "twice": vocab + "\nun",
    "latin": vocab,
  }[kind]
  raw = lines.encode() + (b"\n\xff" if kind == "latin" else b"")
  (root / "vocab.txt").write_bytes(raw)
  return root / "vocab.txt"


@pytest.mark.parametrize(
  "kind, message",
  [
    ("absent", "nothing: no such file"),
    ("empty", "neither tokenizer.json nor vocab.txt"),
    ("bpe", "its model is BPE; only BERT WordPiece"),
    ("gap", "not 0 to 11, each once"),
    ("broken", "tokenizer.json:2: "),
    ("special", r"vocab.txt: no \[MASK\] in the vocabulary"),
    ("twice", "vocab.txt:13: 'un' stands already at line 6"),
    ("latin", "vocab.txt: byte .* is not UTF-8"),
  ],
)
def test_bad_folders_are_explained(tmp_path, kind, message):
  with pytest.raises(ValueError, match=message):
    load_tokenizer(bad_folder(tmp_path, kind))
