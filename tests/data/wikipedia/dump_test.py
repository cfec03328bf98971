"""Pages come out of an export whole, and anything else is refused."""

import bz2
import gzip
import lzma
import tempfile
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from wiki_dump import DumpPage, dump, header, multistream

from odqa_jax.data.raw.records import RawFile
from odqa_jax.data.wikipedia import dump as dump_module
from odqa_jax.data.wikipedia.dump import Dump

PAGES = [
  DumpPage("Aaron", "A & B <b>x</b>\n\nwith &amp;lt; \u05d0\u4e16"),
  DumpPage("Template:X", "{{{1}}}", namespace=10),
  DumpPage("Old", "#REDIRECT [[Aaron]]", redirect="Aaron"),
  DumpPage("Gone", "", deleted=True),
  DumpPage("Data", "{}", model="json"),
]


def write(folder: Path, content: bytes) -> RawFile:
  (folder / "dump.xml").write_bytes(content)
  return RawFile(folder / "dump.xml")


@pytest.mark.parametrize(
  "pack",
  [
    lambda pages: dump(pages),
    lambda pages: bz2.compress(dump(pages)),
    lambda pages: multistream(pages),
    lambda pages: gzip.compress(dump(pages)),
    lambda pages: lzma.compress(dump(pages)),
    lambda pages: zstandard.compress(dump(pages)),
  ],
  ids=["plain", "bz2", "multistream", "gz", "xz", "zst"],
)
def test_pages_are_what_was_written(tmp_path, pack) -> None:
  source = Dump(write(tmp_path, pack(PAGES)))
  pages = list(source.pages())
  assert [p.title for p in pages] == [p.title for p in PAGES]
  assert [p.text for p in pages] == [
    None if p.deleted else p.text for p in PAGES
  ]
  assert [p.namespace for p in pages] == [0, 10, 0, 0, 0]
  assert [p.redirect for p in pages] == [False, False, True, False, False]
  assert [p.model for p in pages] == [p.model for p in PAGES]
  lines = (tmp_path / "dump.xml").read_bytes()
  if lines.startswith(b"<"):
    starts = [n for n, t in enumerate(lines.split(b"\n"), 1) if b"<page>" in t]
    assert [p.place.number for p in pages] == starts
  assert (source.site.language, source.site.database) == ("en", "enwiki")
  assert source.site.namespace_of("file:x.jpg") == 6
  assert source.site.namespace_of("Aaron: a life") == 0


def test_of_several_revisions_the_last_counts(tmp_path) -> None:
  revisions = (
    "<revision><id>1</id><text>old</text></revision>"
    '<revision><id>2</id><text deleted="deleted"/></revision>'
    "<revision><id>3</id><text>new</text></revision>"
  )
  page = f"<page><title>T</title><ns>0</ns>{revisions}</page></mediawiki>"
  (only,) = Dump(write(tmp_path, (header() + page).encode())).pages()
  assert only.text == "new"


def test_old_exports_tell_the_namespace_by_the_title(tmp_path) -> None:
  pages = "".join(
    f"<page><title>{title}</title><revision><text>x</text></revision></page>"
    for title in ("Aaron", "Datei:A.jpg", "Star Wars: Episode I")
  )
  content = f"{header('de')}{pages}</mediawiki>".encode()
  found = [p.namespace for p in Dump(write(tmp_path, content)).pages()]
  assert found == [0, 6, 0]


LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE mediawiki [
 <!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">
]>
<mediawiki><page><title>&c;</title></page></mediawiki>"""
EXTERNAL = """<!DOCTYPE mediawiki SYSTEM "file:///etc/passwd">
<mediawiki></mediawiki>"""


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (LAUGHS, r":2: a document type is declared"),
    (EXTERNAL, r":1: a document type is declared"),
    ("<rss><page></page></rss>", r":1: the XML is <rss>, not <mediawiki>"),
    (header() + "  <page>\n", r":13: broken XML .*cut short"),
    (header() + "<page></wrong>", r":12: broken XML \(mismatched tag\)"),
    (header() + "<page>&undefined;</page>", r":12: broken XML \(undefined"),
    ("", r":1: broken XML"),
    ("id\ttext\ttitle\n", r":1: broken XML"),
  ],
)
def test_what_is_no_export_is_refused(tmp_path, content, message) -> None:
  with pytest.raises(ValueError, match=message):
    list(Dump(write(tmp_path, content.encode())).pages())


@pytest.mark.parametrize("cut", [20, 500, 2000])
def test_a_truncated_archive_is_told(tmp_path, cut) -> None:
  text = "".join(f"word{i * 7919 % 100_003} " for i in range(3000))
  content = multistream([DumpPage(f"P{i}", text) for i in range(3)])
  file = write(tmp_path, content[: len(content) - cut])
  with pytest.raises(ValueError, match=r"dump\.xml.*(damaged|cut short)"):
    list(Dump(file).pages())


def test_a_text_without_end_does_not_fill_the_memory(
  tmp_path, monkeypatch
) -> None:
  monkeypatch.setattr(dump_module, "LONGEST_TEXT", 100_000)
  pages = [DumpPage("Long", "x" * 5_000_000), DumpPage("Next", "y")]
  file = write(tmp_path, bz2.compress(dump(pages)))
  tracemalloc.start()
  try:
    long, after = Dump(file).pages()
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert long.length == 5_000_000
  assert len(long.text or "") <= 100_000
  assert after.text == "y"
  assert peak < 4_000_000


def test_memory_does_not_grow_with_the_dump(tmp_path) -> None:
  def peak(count: int) -> int:
    file = write(
      tmp_path, dump(DumpPage("T", "z" * 9999) for _ in range(count))
    )
    tracemalloc.start()
    try:
      assert sum(1 for _ in Dump(file).pages()) == count
      return tracemalloc.get_traced_memory()[1]
    finally:
      tracemalloc.stop()

  few, many = peak(100), peak(1000)
  assert many < 1.5 * few


WHOLE = multistream(PAGES)
PLAIN = dump(PAGES)


def reads_or_refuses(path: Path, content: bytes) -> None:
  path.write_bytes(content)
  try:
    pages = list(Dump(RawFile(path)).pages())
  except ValueError as error:
    assert str(path) in str(error)
  else:
    # Where nothing is refused, no page is lost.
    assert len(pages) >= content.count(b"</page>")


CHANGES = st.tuples(
  st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=4)
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([WHOLE, PLAIN]), CHANGES)
def test_damaged_dumps_are_refused_or_whole(content, change) -> None:
  start, length, inserted = change
  start %= len(content) + 1
  damaged = content[:start] + inserted + content[start + length :]
  with tempfile.TemporaryDirectory() as folder:
    reads_or_refuses(Path(folder) / "dump.xml", damaged)
