"""Every format is told from all others, in every layout it comes in."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Literal, get_args

import pytest
import zstandard

from odqa_jax.data.formats.files import choose_format
from odqa_jax.data.formats.table import FORMATS
from tests.support.format_examples import EXAMPLES
from tests.support.reading import passages_of, questions_of, written

Content = Literal["questions", "passages"]
# Cannot be told from others, so they have to be asked for.
FORCED = {"bright_long": "bright", "passages_tsv_unquoted": "passages_tsv"}
CASES = [
  pytest.param(name, content, id=f"{name}-{content}")
  for name in FORMATS
  for content in get_args(Content)
  if getattr(FORMATS[name], content)
]
JSON_LINES = [
  name
  for name, content in EXAMPLES.items()
  if content.startswith(b"{") and name != "squad"
]


def read(path: Path, content: Content, name: str | None = None) -> list[object]:
  reader = questions_of if content == "questions" else passages_of
  return list(reader(path, name))


def test_every_format_has_an_example() -> None:
  assert EXAMPLES.keys() == FORMATS.keys()


@pytest.mark.parametrize(("name", "content"), CASES)
def test_an_example_is_told_from_all_formats(
  tmp_path: Path, name: str, content: Content
) -> None:
  path = written(tmp_path / "file", EXAMPLES[name])
  chosen, reason = choose_format(path, content)
  assert chosen.name == FORCED.get(name, name)
  assert reason
  assert choose_format(path, content, name)[0].name == name
  if name not in FORCED:
    assert read(path, content) == read(path, content, name) != []


@pytest.mark.parametrize("name", JSON_LINES)
def test_json_lines_and_a_json_array_are_the_same(
  tmp_path: Path, name: str
) -> None:
  lines = EXAMPLES[name].decode().splitlines()
  one = written(tmp_path / "lines", EXAMPLES[name])
  array = written(
    tmp_path / "array", json.dumps([json.loads(line) for line in lines])
  )
  for content in get_args(Content):
    if getattr(FORMATS[name], content):
      found = read(array, content)
      if name not in FORCED:
        assert choose_format(array, content)[0].name == name
      assert found == read(one, content) != []


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_compressed_file_is_the_same(tmp_path: Path, name: str) -> None:
  plain = written(tmp_path / "plain", EXAMPLES[name])
  for compress in (
    gzip.compress,
    bz2.compress,
    lzma.compress,
    zstandard.ZstdCompressor().compress,
  ):
    packed = written(tmp_path / "packed", compress(EXAMPLES[name]))
    for content in get_args(Content):
      if getattr(FORMATS[name], content):
        chosen = choose_format(packed, content)[0].name
        assert chosen == FORCED.get(name, name)
        assert read(packed, content, name) == read(plain, content, name)


@pytest.mark.parametrize("name", [n for n in JSON_LINES if n not in FORCED])
def test_a_broken_record_names_its_line(tmp_path: Path, name: str) -> None:
  path = written(tmp_path / "file.jsonl", EXAMPLES[name] + b'{"_": {}}\n')
  number = EXAMPLES[name].count(b"\n") + 1
  for content in get_args(Content):
    # A record without contexts is one without passages.
    needs = name not in ("dpr_retriever", "tevatron", "musique", "hotpotqa")
    if getattr(FORMATS[name], content) and (content == "questions" or needs):
      with pytest.raises(ValueError, match=rf"file\.jsonl:{number}: "):
        read(path, content)


@pytest.mark.parametrize("name", ["qed", "sentence_question", "musique"])
def test_half_a_character_is_refused_with_its_place(
  tmp_path: Path, name: str
) -> None:
  text = (
    EXAMPLES[name]
    .replace(b" is ", b" \\ud800 ")
    .replace(b" wrote ", b" \\ud800 ")
  )
  path = written(tmp_path / "file.jsonl", text)
  with pytest.raises(ValueError, match=r"file\.jsonl:1: .*lone surrogate"):
    passages_of(path)
