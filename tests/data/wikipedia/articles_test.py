"""Which pages are articles, and where their passages end."""

from pathlib import Path

import pytest

from odqa_jax.data.raw.records import Place
from odqa_jax.data.wikipedia import articles
from odqa_jax.data.wikipedia.articles import make_article, split_words
from odqa_jax.data.wikipedia.dump import LONGEST_TEXT, Page, Site
from odqa_jax.data.wikipedia.languages import unknown_parts

TEXT = "Some text of an article."


def page(title: str = "Aaron", text: str | None = TEXT, **fields) -> Page:
  whole = {
    "place": Place(Path("dump.xml"), 7),
    "namespace": 0,
    "redirect": False,
    "model": "wikitext",
    "length": len(text or ""),
  }
  return Page(title=title, text=text, **(whole | fields))


@pytest.mark.parametrize(
  ("language", "reason", "given"),
  [
    ("en", "", page()),
    ("en", "namespace", page("Talk:Aaron", namespace=1)),
    ("en", "redirect", page(redirect=True)),
    ("en", "redirect", page(text="#REDIRECT [[Moses]]")),
    ("de", "redirect", page(text="#WEITERLEITUNG [[Moses]]")),
    ("ja", "redirect", page(text="#転送 [[Moses]]")),
    ("en", "no text", page(text="#Item [[Moses]]")),
    ("en", "not wikitext", page(model="json")),
    ("en", "deleted", page(text=None)),
    ("en", "no text", page(text="")),
    ("en", "no text", page(text="{{x}} — .")),
    ("en", "disambiguation", page("Aaron (disambiguation)")),
    ("en", "disambiguation", page("Aaron (Disambiguation page)")),
    ("en", "disambiguation", page(text=f"{TEXT}\n{{{{disambig}}}}")),
    ("en", "disambiguation", page(text=f"{TEXT}\n{{{{Hndis|name=A}}}}")),
    ("en", "disambiguation", page(text="A {{ school_disambiguation }}")),
    ("en", "", page(text=f"{TEXT}{{{{disambiguation needed|date=x}}}}")),
    ("en", "", page(text=f"{TEXT}<nowiki>{{{{disambig}}}}</nowiki>")),
    ("en", "", page("Aaron (film)")),
    ("en", "list", page("List of rivers")),
    ("en", "list", page("Lists of rivers")),
    ("en", "list", page("Outline of chess")),
    ("en", "list", page("Index of chess articles")),
    ("en", "", page("Listen (song)")),
    ("en", "", page("List of")),
    ("de", "disambiguation", page("Aaron (Begriffsklärung)")),
    ("de", "disambiguation", page(text=f"{TEXT} {{{{Begriffsklärung}}}}")),
    ("de", "list", page("Liste der Flüsse")),
    ("fr", "disambiguation", page(text=f"{TEXT} {{{{Homonymie}}}}")),
    ("ja", "list", page("川の一覧")),
    ("ru", "list", page("Список рек")),
    ("ru", "", page("Список Шиндлера")),
    ("en", "", page("Liste der Flüsse")),
    ("xx", "disambiguation", page("Aaron (disambiguation)")),
    ("en", "parse failure", page(length=LONGEST_TEXT + 1)),
  ],
)  # fmt: skip
def test_pages_are_left_out_for_a_reason(language, reason, given) -> None:
  article = make_article(given, Site(language))
  assert article.reason == reason
  assert bool(article.blocks) == (not reason)
  assert not reason or reason in articles.REASONS


def test_what_the_parser_raises_is_a_failure(monkeypatch) -> None:
  def fail(*_: object) -> None:
    raise RecursionError("too deep")

  monkeypatch.setattr(articles, "plain_text", fail)
  article = make_article(page(), Site())
  assert article.reason == "parse failure"
  assert article.detail == "RecursionError: too deep"


def test_other_languages_are_told_what_goes_unnoticed() -> None:
  assert not unknown_parts("en")
  assert "English" in unknown_parts("de")
  assert "disambiguation" not in unknown_parts("de")
  assert "disambiguation" in unknown_parts("sw")


@pytest.mark.parametrize("count", [1, 99, 100, 101, 200, 250])
def test_blocks_are_disjoint_and_have_a_hundred_words(count) -> None:
  words = [f"w{i}" for i in range(count)]
  blocks = split_words("\n".join(words), 100, spaces=True)
  sizes = [len(block.split(" ")) for block in blocks]
  assert sizes[:-1] == [100] * (len(blocks) - 1)
  assert 1 <= sizes[-1] <= 100
  assert " ".join(blocks).split(" ") == words


def test_a_last_block_without_a_word_joins_the_one_before() -> None:
  text = " ".join(["word"] * 100) + " — …"
  assert split_words(text, 100, spaces=True) == [text]
  assert split_words("— …", 100, spaces=True) == []


def test_without_spaces_two_characters_are_a_word() -> None:
  text = "東京は日本の首都である。人口は1400万人。" * 20
  blocks = split_words(text, 10, spaces=False)
  assert "".join(blocks) == text
  assert all(15 <= len(block) <= 30 for block in blocks[:-1])


def test_no_vowel_sign_is_torn_off() -> None:
  text = "กำแพงเมืองจีนเป็นกำแพงที่มีป้อมคั่น" * 10
  blocks = split_words(text, 3, spaces=False)
  assert "".join(blocks) == text
  # Marks above and below the line.
  assert not any(
    block[0] in "\u0e31\u0e34\u0e35\u0e47\u0e48\u0e49" for block in blocks
  )
