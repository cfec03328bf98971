"""An index says what it was made of, wherever the three lie together."""

import shutil

import pytest

from odqa_jax.retrieval.source import given_source, read_source, write_source


def test_what_moves_together_is_found(tmp_path):
  for name in ("work", "data/corpus", "index"):
    (tmp_path / "a" / name).mkdir(parents=True)
  write_source(
    tmp_path / "a" / "index",
    checkpoint=tmp_path / "a" / "work",
    corpus=tmp_path / "a" / "data" / "corpus",
    title=True,
  )
  shutil.move(tmp_path / "a", tmp_path / "b")
  found = given_source(str(tmp_path / "b" / "index"), None, None)
  assert found.checkpoint == str(tmp_path / "b" / "work")
  assert found.corpus == str(tmp_path / "b" / "data" / "corpus")
  assert found.title

  shutil.move(tmp_path / "b" / "data", tmp_path / "elsewhere")
  with pytest.raises(ValueError, match="data/corpus, which is not there"):
    given_source(str(tmp_path / "b" / "index"), None, None)
  given = str(tmp_path / "elsewhere" / "corpus")
  found = given_source(str(tmp_path / "b" / "index"), None, given)
  assert found.corpus == given


def test_a_name_stays_a_name(tmp_path):
  write_source(tmp_path, checkpoint="minilm", corpus=tmp_path)
  found = read_source(tmp_path)
  assert found.checkpoint == "minilm" and not found.title
  write_source(tmp_path, checkpoint="owner/model", corpus=tmp_path)
  assert given_source(str(tmp_path), None, None).checkpoint == "owner/model"


def test_an_index_that_does_not_say(tmp_path):
  assert read_source(tmp_path) is None
  with pytest.raises(ValueError, match="nowhere: no such index"):
    given_source(str(tmp_path / "nowhere"), None, None)
  with pytest.raises(ValueError, match="its checkpoint; give --checkpoint DIR"):
    given_source(str(tmp_path), None, "data")
