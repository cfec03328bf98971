"""JSON read value by value: what json reads whole, its bounds, its faults."""

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.raw.rejections import Rejections


def raw_file(root: Path, text: str | bytes, limit: int = 0) -> RawFile:
  data = text if isinstance(text, bytes) else text.encode()
  (root / "f.json").write_bytes(data)
  return RawFile(root / "f.json", Rejections(limit, root / "rejected.txt"))


def _value(rng: random.Random, depth: int = 0) -> Any:
  kind = rng.randrange(8 if depth < 4 else 6)
  if kind == 6:
    return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
  if kind == 7:
    return {f"k{i}é": _value(rng, depth + 1) for i in range(rng.randrange(4))}
  text = "".join(rng.choices('a"\\é\U0001f600\n[]{},: ', k=6))
  return [None, True, rng.randrange(10**12), rng.random(), -1e-7, text][kind]


@pytest.mark.parametrize("window", [1, 3, 64, 1 << 20])
@pytest.mark.parametrize("seed", range(10))
def test_items_are_those_that_json_reads(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, seed: int
) -> None:
  monkeypatch.setattr("odqa_jax.data.raw.json_text._WINDOW", window)
  rng = random.Random(seed)
  items = [{"v": _value(rng)} for _ in range(12)]
  text = json.dumps(
    items, ensure_ascii=bool(seed % 2), indent=[None, 1][seed % 3 == 0]
  )
  file = raw_file(tmp_path, text)
  assert [item for _, item in file.json_records()] == json.loads(text)
  nested = {"a": _value(rng), "data": items, "z": _value(rng)}
  file = raw_file(tmp_path, json.dumps(nested))
  assert [item for _, item in file.array("data")] == items
  assert file.top_keys() == {"a", "data"}
  assert list(file.array("none")) == []


BROKEN = {
  "cut": '[{"a": 1}, {"a"',
  "no comma": '[{"a": 1} {"a": 2}]',
  "comma at the end": '[{"a": 1},]',
  "more": '[{"a": 1}] {"a": 2}',
  "not UTF-8": b'[{"a": 1}, {"a": "\xff"}]',
  "cut inside a character": b'[{"a": 1}, {"a": "\xc3',
  "escape": '[{"a": 1}, {"a": "\\x"}]',
  "control": '[{"a": 1}, {"a": "\0"}]',
  "deep": '[{"a": 1}, ' + '{"a":[' * 100_000,
  "no end": '[{"a": 1}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_array_is_an_error_however_much_is_allowed(
  tmp_path: Path, name: str
) -> None:
  file = raw_file(tmp_path, BROKEN[name], limit=1000)
  records = file.json_records()
  assert next(records)[1] == {"a": 1}
  with pytest.raises(ValueError, match=r"f.json:\[[1]\]: broken JSON"):
    list(records)


def test_depth_takes_no_memory(tmp_path: Path) -> None:
  for text in ("[" * 1_000_000, '{"a":' * 200_000, '[{"x": ' + "[" * 500_000):
    file = raw_file(tmp_path, text)
    tracemalloc.start()
    try:
      with pytest.raises(ValueError, match=r"f.json.* broken"):
        list(file.records())
      with pytest.raises(ValueError, match="broken"):
        file.top_keys()
      _, peak = tracemalloc.get_traced_memory()
    finally:
      tracemalloc.stop()
    assert peak < 1 << 25


def test_a_value_is_bounded(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr("odqa_jax.data.raw.records._LONGEST_LINE", 1000)
  monkeypatch.setattr("odqa_jax.data.raw.json_text._WINDOW", 100)
  long = '[{"a": 1}, {"a": "' + "x" * 2000
  file = raw_file(tmp_path, long)
  with pytest.raises(ValueError, match=r"f.json:\[1\]: .*more than 1,000"):
    list(file.json_records())


@pytest.mark.parametrize("layout", ["[%s, %s]", "%s\n%s"])
@pytest.mark.parametrize(
  ("bad", "reason"),
  [
    ('{"a": 1, "a": 2}', "the key 'a' is there more than once"),
    ('{"b": {"a": 1, "a": 1}}', "the key 'a' is there more than once"),
    ('{"a": NaN}', "NaN is no JSON number"),
    ('{"a": [-Infinity]}', "-Infinity is no JSON number"),
  ],
)
def test_what_would_lose_a_value_is_rejected(
  tmp_path: Path, layout: str, bad: str, reason: str
) -> None:
  file = raw_file(tmp_path, layout % (bad, '{"a": 3}'), limit=1)
  assert [record for _, record in file.records()] == [{"a": 3}]
  assert reason in (tmp_path / "rejected.txt").read_text()
  with pytest.raises(ValueError, match=f"f.json:.*{reason}"):
    list(RawFile(file.path).records())
