"""A cut corpus is the one that is built of the kept passages."""

import json

import numpy as np
import pytest
from six_passages import make_corpus

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.data.corpus.cut import (
  PARENT_ROWS,
  cut_corpus,
  ragged_rows,
  read_parent_rows,
)


def articles(count: int, seed: int) -> list[Passage]:
  """Passages of a few articles; many sentences run over their borders."""
  rng = np.random.default_rng(seed)
  words = "river Ulm castle old tower Bern is of wood and stone".split()
  passages = []
  for i in range(count):
    text = " ".join(rng.choice(words, rng.integers(3, 12)))
    middle = " Then it was built." * int(rng.integers(0, 3))
    end = rng.choice([".", " and", "?"])
    passages.append(
      Passage(
        f"id {i * 7}", f"Article {i // 4}", f"{text}.{middle} {text}{end}"
      )
    )
  return passages


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_corpus_is_that_of_the_kept_passages(tmp_path, seed):
  passages = articles(60, seed)
  tokenizer = make_corpus(tmp_path / "any").tokenizer
  build_corpus(passages, tmp_path / "whole", tokenizer)
  corpus = Corpus(tmp_path / "whole")
  rng = np.random.default_rng(seed)
  rows = np.sort(rng.choice(60, [1, 17, 40, 60][seed], replace=False))
  manifest = cut_corpus(corpus, rows, tmp_path / "cut", {"rule": "any"})

  kept = [passages[row] for row in rows]
  wanted = build_corpus(kept, tmp_path / "built", tokenizer)
  assert manifest["fingerprint"] == wanted["fingerprint"]
  for name in ("count", "tokens", "sentences", "articles", "special_ids"):
    assert manifest[name] == wanted[name], name
  files = {n: f for n, f in manifest["files"].items() if n != PARENT_ROWS}
  assert files == wanted["files"]
  cut = Corpus(tmp_path / "cut")
  cut.verify()
  assert [cut.row_of(p.id) for p in kept] == list(range(len(kept)))
  assert cut.find("id 419") is None


def test_blocks_do_not_show(tmp_path, monkeypatch):
  tokenizer = make_corpus(tmp_path / "any").tokenizer
  build_corpus(articles(40, 5), tmp_path / "whole", tokenizer)
  corpus = Corpus(tmp_path / "whole")
  rows = np.sort(np.random.default_rng(5).choice(40, 25, replace=False))
  one = cut_corpus(corpus, rows, tmp_path / "one", {})
  monkeypatch.setattr("odqa_jax.data.corpus.cut._BLOCK_ROWS", 1)
  many = cut_corpus(corpus, rows, tmp_path / "many", {})
  assert one["files"] == many["files"]
  assert one["fingerprint"] == many["fingerprint"]


def test_it_names_its_parent_and_the_rows_there(tmp_path):
  corpus = make_corpus(tmp_path / "whole")
  rows = np.array([1, 4])
  cut_corpus(corpus, rows, tmp_path / "cut", {"rule": {"keep": 2}})
  manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
  assert manifest["made_from"]["parent"] == {
    "name": "whole",
    "count": 6,
    "manifest": corpus.manifest["sha256"],
    "fingerprint": corpus.fingerprint,
  }
  assert manifest["made_from"]["rule"] == {"keep": 2}
  np.testing.assert_array_equal(read_parent_rows(tmp_path / "cut"), rows)
  with pytest.raises(ValueError, match="was not cut from another"):
    read_parent_rows(tmp_path / "whole")


def test_a_damaged_parent_gives_no_corpus(tmp_path, monkeypatch):
  """Its block is found when it is copied: here a file has several."""
  monkeypatch.setattr("odqa_jax.runtime.blocks.BLOCK_BYTES", 64)
  monkeypatch.setattr("odqa_jax.runtime.blocks.AT_ONCE", 1)
  corpus = make_corpus(tmp_path / "whole")
  path = tmp_path / "whole" / "texts.bin"
  data = bytearray(path.read_bytes())
  data[130] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"texts\.bin"):
    cut_corpus(corpus, np.arange(6), tmp_path / "cut", {})
  assert not (tmp_path / "cut").exists()
  assert not (tmp_path / "cut.tmp").exists()


def test_ragged_rows():
  values = np.arange(10)
  found, lengths = ragged_rows(
    values, np.array([0, 5, 9]), np.array([2, 5, 10])
  )
  assert found.tolist() == [0, 1, 9] and lengths.tolist() == [2, 0, 1]
