"""T5's pieces against its own files, and the second token store."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from toy_pieces import make_tokenizer, vocabulary

from odqa_jax.data.corpus.corpus import Corpus, Passage, build_corpus
from odqa_jax.text import sentences
from odqa_jax.text.sentencepiece import (
  SentencePieceTokenizer,
  load_any_tokenizer,
  load_sentencepiece,
)
from odqa_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer

AWKWARD = [
  "",
  " \t\n",
  "Café CAFÉ cafe\u0301 naïve İstanbul ΣΊΣΥΦΟΣ ﬁne ½",
  "中文 and 日本語 and 한국어, ok?",
  "no\u00a0break\u200bspace \u2028 line \x00 \x1c control \ufffd \ufeff",
  "two  spaces \r\n and   lines\n\nhere  ",
  "</s> what <extra_id_0> is<extra_id_99>this <pad> ▁x",
  "🙂 “quotes” ‘single’ … — 3.14 e.g. U.S.A. $5 a_b C++",
]


@pytest.fixture
def small() -> SentencePieceTokenizer:
  return make_tokenizer()


@pytest.fixture(scope="session")
def t5(shared_data) -> Path:
  return shared_data / "tokenizers" / "t5-base"


@pytest.fixture(scope="session")
def real_texts(shared_data) -> list[str]:
  with gzip.open(shared_data / "squad_dev" / "paragraphs.jsonl.gz") as file:
    return [json.loads(line)["context"] for line in file]


def test_pieces_by_hand(small):
  ids = {p: i for i, (p, _) in enumerate(vocabulary())}
  want = [ids[p] for p in ("▁the", "▁river", ".", "▁", "A")]
  assert small.encode(" the  river.\nA ") == want
  assert small.encode("") == []
  assert small.encode("é") == [ids["▁"], ids["<unk>"]]
  assert small.decode([0, *want, 1, small.sentinel_ids[0]]) == "the river. A"
  assert (small.pad_id, small.eos_id) == (0, 1)
  assert small.vocab_size == len(ids)
  assert small.sentinel_ids[:2] == (ids["<extra_id_0>"], ids["<extra_id_1>"])
  assert len(small.sentinel_ids) == 100


def test_equals_the_published_rules_on_real_text(t5, real_texts):
  texts = real_texts[::3] + AWKWARD
  reference = tokenizers.Tokenizer.from_file(str(t5 / "tokenizer.json"))
  expected = reference.encode_batch(texts, add_special_tokens=False)
  for source in (t5, t5 / "tokenizer.json"):
    tokenizer = load_sentencepiece(source)
    assert tokenizer.encode_batch(texts) == [e.ids for e in expected]
    assert tokenizer.vocab_size == 32100
    assert tokenizer.sentinel_ids == tuple(range(32099, 31999, -1))
  for text in texts[:20]:
    ids = reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == reference.decode(ids)


@pytest.mark.torch
def test_transformers_reads_and_writes_the_same(t5, real_texts, tmp_path):
  transformers = pytest.importorskip("transformers")
  texts = real_texts[::30] + AWKWARD
  ours = load_sentencepiece(t5)
  ours.save(tmp_path / "ours")
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
  ids = theirs(texts)["input_ids"]
  assert [[*i, 1] for i in ours.encode_batch(texts)] == ids
  assert (theirs.pad_token_id, theirs.eos_token_id) == (0, 1)
  theirs.save_pretrained(tmp_path / "theirs")
  again = load_sentencepiece(tmp_path / "theirs")
  assert again.fingerprint == ours.fingerprint
  assert again.encode_batch(texts) == ours.encode_batch(texts)


def test_saved_and_loaded_it_is_the_same(small, tmp_path):
  small.save(tmp_path)
  for again in (load_sentencepiece(tmp_path), load_any_tokenizer(tmp_path)):
    assert isinstance(again, SentencePieceTokenizer)
    assert again.fingerprint == small.fingerprint
    assert again.encode("the castle") == small.encode("the castle")
  # As transformers wrote them in 2023: other rules for the same pieces.
  file = tmp_path / "tokenizer.json"
  written = json.loads(file.read_text())
  written["pre_tokenizer"] = {
    "type": "Metaspace",
    "replacement": "▁",
    "add_prefix_space": True,
  }
  pattern = {"pattern": {"Regex": " {2,}"}, "content": " "}
  written["normalizer"] = {"type": "Replace", **pattern}
  file.write_text(json.dumps(written))
  older = load_sentencepiece(file)
  assert older.fingerprint == small.fingerprint
  assert older.encode("the  castle ") == small.encode("the castle")


def test_fingerprint_tells_pieces_and_scores_apart():
  pieces = vocabulary()
  kinds = [pieces, vocabulary(99), [(p, s - 1) for p, s in pieces]]
  found = {SentencePieceTokenizer(p, unk_id=2).fingerprint for p in kinds}
  assert len(found) == 3


def test_a_lone_surrogate_is_named(small):
  with pytest.raises(ValueError, match=r"text 1 is 'a\\ud800', .*surrogate"):
    small.encode_batch(["fine", "a\ud800"])


def test_other_files_are_refused_with_advice(small, tmp_path):
  (tmp_path / "spiece.model").write_bytes(b"\x0a")
  for path in (tmp_path, tmp_path / "spiece.model"):
    for load in (load_sentencepiece, load_any_tokenizer):
      with pytest.raises(ValueError, match=r"convert it once: AutoTokenizer"):
        load(path)
  with pytest.raises(ValueError, match=r"no such file; name a Hugging Face"):
    load_sentencepiece(tmp_path / "absent")
  bert = Tokenizer({t: i for i, t in enumerate(SPECIAL_TOKENS)})
  bert.save(tmp_path / "bert")
  assert isinstance(load_any_tokenizer(tmp_path / "bert"), Tokenizer)
  with pytest.raises(ValueError, match=r"tokenizer.json: its model is not"):
    load_sentencepiece(tmp_path / "bert")
  small.save(tmp_path / "odd")
  file = tmp_path / "odd" / "tokenizer.json"
  odd = json.loads(file.read_text())
  odd["normalizer"] = {"type": "Lowercase"}
  file.write_text(json.dumps(odd))
  with pytest.raises(ValueError, match=r"its normalizer has Lowercase, which"):
    load_sentencepiece(file)


def test_a_vocabulary_without_end_or_with_wrong_ids_is_refused():
  with pytest.raises(ValueError, match=r"x.json: no <pad>, </s> in the"):
    SentencePieceTokenizer([("<unk>", 0.0)], unk_id=0, source="x.json")
  token = {"id": 7, "content": "<s>", "special": True}
  with pytest.raises(ValueError, match=r"'<s>' has id 7, but .* gives it 3"):
    SentencePieceTokenizer(
      vocabulary()[:3], unk_id=2, added_tokens=[token], source="x.json"
    )


# --- The second token store -------------------------------------------------


def passages() -> list[Passage]:
  texts = [
    "The river ran.  It ran to the castle! (So it did.) Was it the end?",
    'He said "no."Then he left.And left.\nThe end.',
    " Mr. Fox ran. ",
    "One.) Two. Three.",
  ]
  return [
    Passage(f"p{i}", f"the castle {i // 2}", text)
    for i, text in enumerate(texts)
  ]


def ragged(values: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
  return [values[a:b].tolist() for a, b in pairwise(offsets)]


def check_store(records, tokenizer, out: Path) -> Corpus:
  build_corpus(records, out, tokenizer)
  corpus = Corpus(out)
  assert ragged(corpus.text_tokens, corpus.text_offsets) == [
    tokenizer.encode(p.text) for p in records
  ]
  assert ragged(corpus.title_tokens, corpus.title_offsets) == [
    tokenizer.encode(p.title) for p in records
  ]
  return corpus


def test_a_second_store_of_the_same_passages(small, tmp_path):
  bert = Tokenizer({t: i for i, t in enumerate([*SPECIAL_TOKENS, "the"])})
  build_corpus(passages(), tmp_path / "corpus", bert)
  first = Corpus(tmp_path / "corpus")
  second = check_store(passages(), small, tmp_path / "reader_corpus")
  assert second.fingerprint == first.fingerprint
  assert second.manifest["tokenizer"] == small.fingerprint
  assert second.manifest["special_ids"] == {"pad": 0, "eos": 1}
  assert second.any_tokenizer.fingerprint == small.fingerprint
  assert second.text(1) == first.text(1) == passages()[1].text
  second.verify()
  again = build_corpus(passages(), tmp_path / "reader_corpus", small)
  assert again == second.manifest


def test_a_retriever_cannot_read_a_readers_store(small, tmp_path):
  build_corpus(passages(), tmp_path / "c", small)
  corpus = Corpus(tmp_path / "c")
  for use in (
    lambda: corpus.tokenizer,
    lambda: corpus.passage_inputs(np.array([0]), 16),
  ):
    with pytest.raises(ValueError, match=r"SentencePieces, .* no \[CLS\]"):
      use()


def test_sentences_are_cut_at_spaces_only(small):
  text = passages()[1].text
  word_cuts = sentences.split_sentences(text)
  parts = sentences.split_sentences(text, spaces_only=True)
  assert "".join(parts) == "".join(word_cuts) == text
  assert any(not a[-1].isspace() for a in word_cuts[:-1])
  assert all(a[-1].isspace() for a in parts[:-1]) and len(parts) > 1
  ids = [i for ids in small.encode_batch(parts) for i in ids]
  assert ids == small.encode(text)


def test_the_store_of_real_passages(t5, real_texts, tmp_path):
  records = [
    Passage(str(i), text[:9], text) for i, text in enumerate(real_texts[::5])
  ]
  check_store(records, load_sentencepiece(t5), tmp_path / "c")
