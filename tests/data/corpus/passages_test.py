"""Reading passage files: every accepted form, and every complaint."""

import csv
import gzip
import hashlib
import io
import json
import os
from pathlib import Path

import pytest

from odqa_jax.data.corpus.passages import (
  PLAIN_FORMATS,
  Passage,
  PassageFile,
  read_passages,
)

PASSAGES = [
  Passage("1", "Café", 'He said "yes" and left.'),
  Passage("2", "", "“Quoted” text,\nover two lines."),
  Passage("x 3", "Tab\there", '"Whole text quoted." \u2028 中文 🙂'),
]
HEADER = "id\ttext\ttitle\n"


def as_tsv(passages: list[Passage]) -> bytes:
  out = io.StringIO(newline="")
  writer = csv.writer(out, delimiter="\t", lineterminator="\n")
  writer.writerow(["id", "text", "title"])
  writer.writerows([p.id, p.text, p.title] for p in passages)
  return out.getvalue().encode()


def as_jsonl(passages: list[Passage], body: str = "text") -> bytes:
  return "".join(
    json.dumps({"id": p.id, "title": p.title, body: p.text}) + "\n"
    for p in passages
  ).encode()


def read(root: Path, content: bytes | str) -> list[Passage]:
  path = root / "p.dat"
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return list(read_passages(path))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
  "content",
  [
    as_tsv(PASSAGES),
    as_jsonl(PASSAGES),
    as_jsonl(PASSAGES, "context"),
    b"\xef\xbb\xbf" + as_tsv(PASSAGES),
    b"\xef\xbb\xbf" + as_jsonl(PASSAGES),
    as_jsonl(PASSAGES).replace(b"\n", b"\r\n"),
    as_tsv(PASSAGES) + b"\n\n",
    b"\n" + as_jsonl(PASSAGES).replace(b"\n", b"\n\n"),
    as_tsv(PASSAGES).removesuffix(b"\n"),
  ],
  ids="tsv json context bom bomjson crlf blank blankjson noeol".split(),
)
def test_every_form_gives_the_same_passages(tmp_path, content, compress):
  content = gzip.compress(content) if compress else content
  assert read(tmp_path, content) == PASSAGES


def test_tsv_with_crlf_and_another_column_order(tmp_path):
  content = "title\tid\ttext\r\nT\t1\tone\r\nU\t2\ttwo\r\n"
  assert read(tmp_path, content) == [
    Passage("1", "T", "one"),
    Passage("2", "U", "two"),
  ]


def test_quote_rules_of_the_csv_module(tmp_path):
  content = HEADER + '1\t"a ""b"" c"\tT\n2\td "e" f\tT\n'
  assert [p.text for p in read(tmp_path, content)] == ['a "b" c', 'd "e" f']


def test_quotes_that_mean_nothing(tmp_path):
  content = HEADER + '1\t"g" h\tT\n2\t"i\t"T"\n'
  path = tmp_path / "p.tsv"
  path.write_text(content)
  with pytest.raises(ValueError, match=r"p.tsv:2: no row by csv's.*_unquoted"):
    list(read_passages(path))
  unquoted = next(f for f in PLAIN_FORMATS if f.name == "passages_tsv_unquoted")
  assert list(read_passages(path, unquoted)) == [
    Passage("1", "T", '"g" h'),
    Passage("2", '"T"', '"i'),
  ]


def test_json_numbers_as_ids_and_further_keys(tmp_path):
  line = '{"id": 7, "title": "T", "paragraph": 0, "context": "c"}'
  assert read(tmp_path, line) == [Passage("7", "T", "c")]


def test_reading_is_lazy(tmp_path):
  path = tmp_path / "big.tsv"
  path.write_text(HEADER + "1\tone\tT\n" + "broken\n" * 3)
  assert next(iter(read_passages(path))) == Passage("1", "T", "one")


def test_long_first_line(tmp_path):
  long = [Passage("1", "T", "word " * 40_000)]
  assert read(tmp_path, b"\xef\xbb\xbf" + as_jsonl(long)) == long


def test_several_members_of_gzip(tmp_path):
  half = len(as_jsonl(PASSAGES)) // 2
  parts = as_jsonl(PASSAGES)[:half], as_jsonl(PASSAGES)[half:]
  assert read(tmp_path, b"".join(map(gzip.compress, parts))) == PASSAGES


ROW = "1\tone\tT\n"
JSON = '{"id": "1", "title": "T", "text": "one"}\n'


@pytest.mark.parametrize(
  "content, message",
  [
    (b"", "p.dat: the file is empty"),
    (ROW, "p.dat:1: the first line is .'1', 'one', 'T'.*not a header"),
    ("id\ttext\n", "p.dat:1: .*not a header"),
    ('[{"id": 1}]\n', r"p.dat:\[0\]: no text .nor context, contents. among"),
    (b"\x01" * 70_000, "p.dat:1: no line end in the first"),
    (HEADER + ROW + "2\ttwo\n", "p.dat:3: 2 columns; the header names 3"),
    (HEADER + ROW + "2\ttwo\tT\tx\n", "p.dat:3: 4 columns"),
    (HEADER + '1\t"a\nb"\tT\n' + "2\n", "p.dat:4: 1 columns"),
    (HEADER + "\tone\tT\n", "p.dat:2: the id is empty"),
    (HEADER + "1\to\0ne\tT\n", "p.dat:2: the text holds a NUL"),
    (
      HEADER + '1\t"one\tT\n2\t"two\tT\n',
      "p.dat:2: this line and line 3 have 3 columns",
    ),
    (
      HEADER + ROW + '2\ttwo\t"T\n3\tc\tT\n',
      "p.dat:3: this line and line 4 have 3 columns",
    ),
    (HEADER + ROW + '2\t"' + "x" * 140_000, "p.dat:3: .*unexpected end"),
    (HEADER.encode() + b"1\ta\xffb\tT\n", r"p.dat:2: byte 4 .*0xff.*not UTF-8"),
    ((HEADER + ROW).encode("utf-16"), "p.dat: the file is UTF-16 text"),
    (JSON + "{broken\n", "p.dat:2: broken JSON"),
    (JSON + "[1]\n", "p.dat:2: a JSON object is expected, not list"),
    (
      JSON + '{"id": "2", "title": "T"}\n',
      "p.dat:2: no text .nor context",
    ),
    ('{"text": "a"}', "p.dat:1: no id .nor _id, docid"),
    (
      '{"id": 1.5, "title": "T", "text": "a"}',
      "p.dat:1: id is 1.5, not a string",
    ),
    ('{"id": true, "title": "T", "text": "a"}', "p.dat:1: id is True"),
    ('{"id": "1", "title": 7, "text": "a"}', "p.dat:1: title is 7"),
    (JSON + JSON.replace("one", "\\ud800"), "p.dat:2: .*lone surrogate"),
    (JSON + JSON.replace("one", "\\u0000"), "p.dat:2: .*NUL"),
    (gzip.compress(JSON.encode(), mtime=0)[:-9], "p.dat:.*damaged gzip"),
  ],
)
def test_bad_input_is_named_with_its_line(tmp_path, content, message):
  with pytest.raises(ValueError, match=message) as caught:
    read(tmp_path, content)
  assert "\n" not in str(caught.value)


def test_missing_file_is_named_at_once(tmp_path):
  with pytest.raises(ValueError, match=r"none.tsv: no such file"):
    read_passages(tmp_path / "none.tsv")


def test_a_file_is_known_by_its_bytes_and_its_format(tmp_path):
  path = tmp_path / "p.jsonl"
  path.write_bytes(as_jsonl(PASSAGES))
  source = PassageFile(path)
  list(source.records())
  entry = source.describe()
  assert entry["format"] == "passages_jsonl"
  assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
  os.utime(path, (1, 1))
  assert PassageFile(path).matches(entry), "the bytes are the same"
  tsv = PassageFile(path, PLAIN_FORMATS[1])
  assert not tsv.matches(entry), "they mean something else"
  path.write_bytes(as_jsonl(PASSAGES).replace(b"Tab", b"Tub"))
  assert not PassageFile(path).matches(entry)


def test_squad_paragraphs(shared_data):
  passages = list(read_passages(shared_data / "squad_dev/paragraphs.jsonl.gz"))
  assert len(passages) == 1507
  assert passages[1].id == "Apollo_program#1"
  assert passages[1].text.startswith("Apollo ran from 1961 to 1972")


@pytest.mark.parametrize(
  ("line", "passage"),
  [
    ('{"id": 1, "title": null, "text": "a"}', Passage("1", "", "a")),
    ('{"id": 1, "text": "a"}', Passage("1", "", "a")),
    ('{"_id": "d", "title": "T", "text": "a"}', Passage("d", "T", "a")),
    ('{"docid": "d", "contents": "a"}', Passage("d", "", "a")),
    ('{"pid": 0, "context": "a", "title": ""}', Passage("0", "", "a")),
  ],
)
def test_other_keys_and_no_title(tmp_path, line, passage):
  path = tmp_path / "p.jsonl"
  path.write_text(line)
  assert list(read_passages(path)) == [passage]
