"""From a dump to passages, a corpus and examples."""

import csv
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from wiki_dump import DumpPage, dump, multistream

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.passages import read_passages
from odqa_jax.data.examples.ict import IctExamples
from odqa_jax.data.formats.files import choose_format
from odqa_jax.data.parts.run import Runner
from odqa_jax.data.prepare import prepare
from odqa_jax.data.wikipedia import articles, build
from odqa_jax.data.wikipedia.build import build_passages


def sentence(page: int, number: int) -> str:
  return f"Sentence {number} of page {page} is about the ''river'' [[Rhine]]."


def text(page: int, sentences: int = 25) -> str:
  lines = [sentence(page, number) for number in range(sentences)]
  return "{{Infobox|a=1}}\n" + " ".join(lines) + "\n[[Category:X]]"


def pages(count: int = 6) -> list[DumpPage]:
  return [
    *(DumpPage(f'Page "{i}"', text(i)) for i in range(count)),
    DumpPage("List of pages", text(7)),
    DumpPage("Page (disambiguation)", text(8)),
    DumpPage("Other", "{{disambig}}"),
    DumpPage("Old", "#REDIRECT [[Page 1]]", redirect="Page 1"),
    DumpPage("Talk:Page", text(9), namespace=1),
    DumpPage("Empty", ""),
    DumpPage("Last", "The ''last'' page."),
  ]


LEFT_OUT = {
  "disambiguation": 2,
  "list": 1,
  "namespace": 1,
  "no text": 1,
  "redirect": 1,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
  path = tmp_path / "enwiki.xml.bz2"
  path.write_bytes(multistream(pages()))
  return path


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(build, "_PART_CHARACTERS", 3000)


def rows(path: Path) -> list[list[str]]:
  opened = gzip.open if path.suffix == ".gz" else open
  with opened(path, "rt", encoding="utf-8", newline="") as file:
    return list(csv.reader(file, delimiter="\t"))


def test_passages_are_dprs_tsv(source, tmp_path, small_parts) -> None:
  out = tmp_path / "psgs.tsv"
  figures = build_passages([source], out)
  header, *found = rows(out)
  assert header == ["id", "text", "title"]
  assert [row[0] for row in found] == [str(i + 1) for i in range(len(found))]
  by_title: dict[str, list[str]] = {}
  for _, passage, title in found:
    by_title.setdefault(title, []).append(passage)
  assert list(by_title) == [*(f'Page "{i}"' for i in range(6)), "Last"]
  plain = " ".join(sentence(3, number) for number in range(25))
  plain = re.sub(r"''|[\[\]]", "", plain)
  assert " ".join(by_title['Page "3"']) == plain
  for title, blocks in by_title.items():
    sizes = [len(block.split()) for block in blocks]
    assert sizes[:-1] == [100] * (len(sizes) - 1), title
  assert figures == {
    "pages": 13,
    "articles": 7,
    "passages": len(found),
    "left_out": LEFT_OUT,
  }
  report = json.loads((tmp_path / "psgs.tsv.json").read_text())
  assert report["figures"] == figures
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "enwiki.xml.bz2", "psgs.tsv", "psgs.tsv.json"
  ]  # fmt: skip
  # The package reads what it wrote.
  assert [p.text for p in read_passages(out)] == [row[1] for row in found]


@pytest.mark.parametrize(
  "runner",
  [Runner(2), pytest.param(Runner(beam=("--runner=DirectRunner",)), id="beam")],
)
def test_every_runner_writes_the_same_bytes(
  source, tmp_path, small_parts, runner
) -> None:
  if runner.beam:
    pytest.importorskip("apache_beam")
  one, other = tmp_path / "one.tsv.gz", tmp_path / "other.tsv.gz"
  assert build_passages([source], one) == build_passages(
    [source], other, runner=runner
  )
  assert one.read_bytes() == other.read_bytes()


def test_an_interrupted_build_makes_what_is_missing(
  source, tmp_path, small_parts, monkeypatch
) -> None:
  whole = tmp_path / "whole.tsv"
  build_passages([source], whole)
  out = tmp_path / "psgs.tsv"
  made: list[str] = []
  make = build.make_article

  def stop(page, *rest):
    made.append(page.title)
    if page.title == 'Page "4"':
      raise KeyboardInterrupt
    return make(page, *rest)

  monkeypatch.setattr(build, "make_article", stop)
  with pytest.raises(KeyboardInterrupt):
    build_passages([source], out)
  assert not out.exists()
  kept = set(made) - {'Page "4"'}
  assert kept
  monkeypatch.setattr(
    build,
    "make_article",
    lambda page, *rest: made.append(page.title) or make(page, *rest),
  )
  made.clear()
  build_passages([source], out)
  # Whole parts stay; that of page 4 began with page 3.
  assert len(kept - set(made)) >= 2
  assert 'Page "4"' in made
  assert out.read_bytes() == whole.read_bytes()
  # All is there: nothing is made, whatever the dump is called now.
  made.clear()
  renamed = source.rename(tmp_path / "other.xml.bz2")
  build_passages([renamed], out)
  assert not made
  # Another dump, other words, or a damaged file are not what is there.
  build_passages([renamed], out, words=50)
  assert made
  made.clear()
  out.write_text("damaged")
  build_passages([renamed], out, words=50)
  assert made and len(rows(out)) > 10
  made.clear()
  renamed.write_bytes(dump(pages(2)))
  build_passages([renamed], out, words=50)
  assert made


def test_parts_of_another_dump_are_not_used(
  source, tmp_path, small_parts, monkeypatch
) -> None:
  make = build.make_article

  def stop(page, *rest):
    if page.title == 'Page "4"':
      raise KeyboardInterrupt
    return make(page, *rest)

  out, fresh = tmp_path / "psgs.tsv", tmp_path / "fresh.tsv"
  with monkeypatch.context() as patch:
    patch.setattr(build, "make_article", stop)
    with pytest.raises(KeyboardInterrupt):
      build_passages([source], out)
  changed = pages()
  changed[0].text = changed[0].text.replace("river", "ocean")
  source.write_bytes(multistream(changed))
  build_passages([source], out)
  build_passages([source], fresh)
  assert "ocean" in out.read_text()
  assert out.read_bytes() == fresh.read_bytes()


def test_a_page_that_cannot_be_read_is_written_down(
  source, tmp_path, monkeypatch
) -> None:
  plain_text = articles.plain_text

  def fail(markup, site, title):
    if title == 'Page "1"':
      raise RecursionError("too\ndeep")
    return plain_text(markup, site, title)

  monkeypatch.setattr(articles, "plain_text", fail)
  out = tmp_path / "psgs.tsv"
  source.write_bytes(dump(pages()))
  figures = build_passages([source], out)
  assert figures["left_out"] == LEFT_OUT | {"parse failure": 1}
  lines = source.read_text().splitlines()
  number = 1 + next(
    n for n, t in enumerate(lines) if "Page &quot;1" in t or 'Page "1' in t
  )
  assert (tmp_path / "psgs.tsv.failures.tsv").read_text() == (
    f"{source}:{number - 1}\tpage 'Page \"1\"': RecursionError: too deep\n"
  )
  # As one of a corpus's files it is a bad record.
  with pytest.raises(ValueError, match=rf":{number - 1}: page 'Page \"1\"'"):
    prepare(corpus=[str(source)], questions=[], out=tmp_path / "data")
  monkeypatch.setattr(articles, "plain_text", plain_text)
  build_passages([source], out, words=99)
  assert not (tmp_path / "psgs.tsv.failures.tsv").exists()


def test_a_limit_counts_pages_that_may_be_articles(source, tmp_path) -> None:
  out = tmp_path / "psgs.tsv"
  figures = build_passages([source], out, limit=2)
  assert (figures["pages"], figures["articles"]) == (2, 2)
  whole = build_passages([source], tmp_path / "all.tsv", limit=99)
  assert whole == build_passages([source], tmp_path / "plain.tsv")
  assert rows(out) == rows(tmp_path / "all.tsv")[: len(rows(out))]


def test_ids_go_on_from_one_dump_to_the_next(source, tmp_path) -> None:
  second = tmp_path / "second.xml"
  second.write_bytes(dump([DumpPage("Second", text(1))]))
  out = tmp_path / "psgs.tsv"
  figures = build_passages([source, second], out)
  found = rows(out)[1:]
  assert [int(row[0]) for row in found] == list(range(1, len(found) + 1))
  assert found[-1][2] == "Second" and figures["articles"] == 8


def test_a_corpus_of_a_dump_has_sentence_blocks(source, tmp_path) -> None:
  figures = prepare(
    corpus=[str(source)], questions=[], out=tmp_path / "data",
    vocabulary_size=200,
  )  # fmt: skip
  assert figures["left_out"] == {source.name: LEFT_OUT}
  corpus = Corpus(tmp_path / "data" / "corpus")
  build_passages([source], tmp_path / "psgs.tsv")
  found = rows(tmp_path / "psgs.tsv")[1:]
  assert [[corpus.id(i), corpus.text(i), corpus.title(i)] for i in
          range(len(corpus))] == found  # fmt: skip
  assert len(corpus.article_starts) == 7
  # 25 sentences of six pages, though passages end inside them, and one more.
  assert len(corpus.sentence_starts) == 6 * 25 + 1
  examples = IctExamples(
    corpus,
    question_length=64,
    passage_length=128,
    keep_query=0.0,
    title=True,
  )
  assert examples.left_out == {"articles of one sentence": 1}
  batch = examples.batch(np.arange(4), np.random.default_rng(0), slice(0, 4))
  ids = batch["question_ids"][0][: batch["question_lengths"][0]]
  asked = corpus.tokenizer.decode(ids.tolist())
  assert re.fullmatch(
    r"sentence \d+ of page 0 is about the river rhine\s?\.", asked.strip()
  )


def test_the_command_writes_passages(source, tmp_path, capsys) -> None:
  out = tmp_path / "psgs.tsv.gz"
  code, printed, _ = run(
    capsys, "wikipedia", "--dump", source, "--out", out, "--runner", "local:1"
  )
  assert code == 0
  figures = json.loads(printed.splitlines()[-1])
  assert figures["left_out"] == LEFT_OUT
  assert len(rows(out)) == figures["passages"] + 1


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--out", "{}/psgs.tsv.bz2"], "name a file that ends in .tsv or .tsv.gz"),
    (["--out", "{}/foreign.tsv"], "was not made by `odqa wikipedia`"),
    (["--out", "{}/x.tsv", "--words", "0"], "--words 0"),
    (["--out", "{}/x.tsv", "--limit", "0"], "--limit 0"),
    (["--out", "{}/x.tsv", "--dump", "{}/none.xml"], "no such file"),
    (["--out", "{}/x.tsv", "--dump", "{}/foreign.tsv"], ":1: broken XML"),
    (["--out", "{}/x.tsv", "--dump", "{}/talk.xml"], "no passage; left out"),
    (["--out", "{}/x.tsv", "--dump", "{}/cut.bz2"], "cut.bz2"),
    (["--out", "{}/x.tsv", "--runner", "threads"], "--runner 'threads'"),
  ],
)  # fmt: skip
def test_bad_input_is_one_line(
  source, tmp_path, capsys, flags, message
) -> None:
  (tmp_path / "foreign.tsv").write_text("id\ttext\ttitle\n")
  (tmp_path / "talk.xml").write_bytes(dump([DumpPage("T:x", "y", namespace=1)]))
  (tmp_path / "cut.bz2").write_bytes(source.read_bytes()[:-30])
  flags = [flag.format(tmp_path) for flag in flags]
  code, printed, errors = run(capsys, "wikipedia", "--dump", source, *flags)
  assert code == 2 and not printed
  last = errors.strip().splitlines()[-1]
  assert last.startswith("odqa wikipedia: ") and message in last
  assert (tmp_path / "foreign.tsv").read_text() == "id\ttext\ttitle\n"
  assert not list(tmp_path.glob("x.tsv*"))


def test_a_language_without_rules_is_told(tmp_path, capsys) -> None:
  path = tmp_path / "sw.xml"
  path.write_bytes(dump([DumpPage("Mto", "Mto ni maji.")], "sw"))
  build_passages([path], tmp_path / "psgs.tsv")
  told = capsys.readouterr().err
  assert "swwiki" in told and "English names" in told


def test_a_dump_is_known_by_its_content(source, tmp_path) -> None:
  format, reason = choose_format(source, "passages")
  assert format.name == "wikipedia_dump" and "<mediawiki>" in reason
  with pytest.raises(ValueError, match="XML: no known format"):
    choose_format(source, "questions")
  other = tmp_path / "other.xml"
  other.write_text('<?xml version="1.0"?>\n<rss></rss>\n')
  with pytest.raises(ValueError, match="XML: no known format"):
    choose_format(other, "passages")
  # A title that begins like a tag is none.
  table = tmp_path / "tags.tsv"
  table.write_text("id\ttext\ttitle\n1\t<b>\t<mediawiki\n")
  assert choose_format(table, "passages")[0].name == "passages_tsv"
