"""Bad records are left out one by one, written down, and bounded."""

import json
from pathlib import Path

import pytest

from odqa_jax.data.corpus.passages import PassageFile
from odqa_jax.data.formats.files import choose_format, read_questions
from odqa_jax.data.prepare import prepare
from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.raw.rejections import Rejections


def good(n: int) -> bytes:
  record = {"id": f"q{n}", "question": f"what is {n}?", "answer": [str(n)]}
  return json.dumps(record).encode()


BAD_LINES = {
  "broken": b'{"id": "x", "question": ',
  "not UTF-8": b'{"id": "x", "question": "\xff\xfe", "answer": []}',
  "NUL": b"\0\0\0",
  "NUL in a string": b'{"id": "x", "question": "a\0b"}',
  "escaped NUL": b'{"id": "x", "question": "a\\u0000b"}',
  "lone surrogate": b'{"id": "x", "question": "\\ud83d?"}',
  "surrogate in UTF-8": b'{"id": "x", "question": "\xed\xa0\x80"}',
  "long": b'{"id": "x", "question": "' + b"w" * 30_000 + b'"}',
  "deep": b'{"id": "x", "question": "a", "z": ' + b"[" * 10_000 + b"}",
  "deep and closed": b'{"question": ' + b"[" * 3000 + b"]" * 3000 + b"}",
  "NaN": b'{"id": "x", "question": "a", "score": NaN}',
  "twice": b'{"id": "x", "question": "a", "question": "b"}',
  "digits": b'{"id": ' + b"9" * 5000 + b', "question": "a"}',
  "array": b"[1, 2]",
  "number": b"17",
  "null": b"null",
  "two objects": b'{"id": "x", "question": "a"} {"id": "y"}',
  "type": b'{"id": "x", "question": ["a"]}',
  "no question": b'{"id": "x"}',
  "id twice": good(0),
  "id with a space": b'{"id": "x y", "question": "a"}',
  "BOM inside": b"\xef\xbb\xbf" + good(99),
}


LATER = (
  "id twice",
  "BOM inside",
  "NUL",
  "array",
  "number",
  "null",
  "no question",
)


@pytest.mark.parametrize("name", BAD_LINES)
@pytest.mark.parametrize("at", [0, 3, 6])
def test_one_bad_line_is_rejected_and_reading_goes_on(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
  monkeypatch.setattr("odqa_jax.data.raw.records._LONGEST_LINE", 20_000)
  lines = [good(n) for n in range(6)]
  # The first line tells what the file is; the second of two ids is the bad one.
  at = at or int(name in LATER)
  lines.insert(at, BAD_LINES[name])
  path = tmp_path / "q.jsonl"
  path.write_bytes(b"\r\n".join(lines) + b"\r\n")
  rejections = Rejections(1, tmp_path / "out" / "rejected.txt")
  assert choose_format(path, "questions")[0].name == "nq_open"
  questions = list(read_questions(RawFile(path, rejections)))
  assert [q.id for q in questions] == [f"q{n}" for n in range(6)]
  (line,) = rejections.path.read_text().splitlines()
  assert line.startswith(f"{path}:{at + 1}\t") and len(line) < 600
  assert rejections.by_file() == {str(path): 1}
  with pytest.raises(ValueError, match=f"q.jsonl:{at + 1}: "):
    list(read_questions(path))


def test_one_too_many_is_an_error_that_names_it(tmp_path: Path) -> None:
  path = tmp_path / "q.jsonl"
  path.write_bytes(b"\n".join([good(0), b"bad", b"worse", good(1)]))
  rejections = Rejections(1, tmp_path / "rejected.txt")
  with pytest.raises(ValueError, match=r"q.jsonl:3: .*number 2, and --max-bad"):
    list(read_questions(RawFile(path, rejections), "nq_open"))
  assert rejections.count == 1
  with pytest.raises(ValueError, match="--max-bad -1"):
    Rejections(-1, tmp_path / "rejected.txt")


def test_a_passage_counts_once_however_often_it_is_read(tmp_path: Path) -> None:
  path = tmp_path / "p.tsv"
  path.write_text(
    "id\ttext\ttitle\n1\ta\tT\n2\tb\n3\t \tT\n4\t\0\tT\n1\tc\tT\n"
  )
  rejections = Rejections(9, tmp_path / "rejected.txt")
  source = PassageFile(path, None, rejections)
  for _ in range(2):
    assert [(p.id, n) for p, n in source.records()] == [("1", 2)]
  lines = rejections.path.read_text().splitlines()
  # One without text is left out, and is no bad one.
  assert [line.partition("\t")[0] for line in lines] == [
    f"{path}:{n}" for n in (3, 5, 6)
  ]


def test_prepare_counts_what_it_leaves_out(tmp_path: Path) -> None:
  passages = [{"id": str(n), "text": f"passage number {n}"} for n in range(30)]
  corpus, asked = tmp_path / "p.jsonl", tmp_path / "q.jsonl"
  lines = [json.dumps(p) for p in passages]
  corpus.write_text("\n".join([*lines, "{broken", '{"id": 7, "text": "b"}']))
  asked.write_bytes(b"\n".join([good(0), b'{"question": 3}', good(1)]))

  def run(max_bad: int) -> dict:
    return prepare(
      corpus=[str(corpus)],
      questions=[str(asked)],
      out=tmp_path / "D",
      vocabulary_size=100,
      max_bad=max_bad,
    )

  with pytest.raises(ValueError, match=r"q.jsonl:2: "):
    run(0)
  with pytest.raises(ValueError, match=r"p.jsonl:32: .*number 3"):
    run(2)
  counts = {str(corpus): 2, str(asked): 1}
  rejected = tmp_path / "D" / "rejected.txt"
  # The second time the corpus is not read at all.
  for _ in range(2):
    figures = run(3)
    assert (figures["passages"], figures["questions"]) == (30, {"q": 2})
    assert figures["rejected"] == counts
    assert len(rejected.read_text().splitlines()) == 3
  asked.write_bytes(good(0))
  assert run(3)["rejected"] == {str(corpus): 2}
  assert len(rejected.read_text().splitlines()) == 2
