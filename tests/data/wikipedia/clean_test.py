"""Wikitext comes to the sentences that a reader of the page sees."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odqa_jax.data.wikipedia.clean import plain_text, scan_page
from odqa_jax.data.wikipedia.dump import Site

SITE = Site("en", "enwiki", (("", 0), ("datei", 6), ("kategorie", 14)))
DEEP = 10_000


def clean(text: str, title: str = "Page") -> str:
  return plain_text(scan_page(text), SITE, title)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    # Templates.
    ("A {{b|{{c|{{d}}|e={{f}}}}}} z.", "A z."),
    ("{{Infobox\n| a = {{b\n| c}}\n| d = [[E]]\n}}\n'''A''' was.", "A was."),
    ("{{a|b=1}}Text{{citation needed|date=May 2020}}.", "Text."),
    ("A {{{param|default}}} z.", "A z."),
    ("A {{{{{x}}}}} z {{{{y}}}}.", "A z."),
    ("Lost {{never closed.\n\nNext one.", "Lost never closed.\nNext one."),
    ("Lost }} closing.", "Lost closing."),
    # Templates that a sentence needs.
    ("It is {{convert|5|km|mi|abbr=on}} long.", "It is 5 km long."),
    ("{{convert|5|to|7|km|mi}}, {{cvt|6|ft|2|in|m}}", "5 to 7 km, 6 ft 2 in"),
    ("{{convert|1,234.5|-|2,000|m2}}", "1,234.5–2,000 m2"),
    ("The {{lang|fr|''mot''}} and {{lang-de|Wort}}.", "The mot and Wort."),
    ("{{nowrap|10 [[metre|m]]}}, {{abbr|No.|number}} 1", "10 m, No. 1"),
    ("{{Nowrap|a {{small|b {{convert|3|km}}}}}}", "a b 3 km"),
    ("1990{{ndash}}95, {{frac|1|2}}, {{circa|900}}", "1990–95, 1/2, c. 900"),
    ("{{formatnum:12345}} in {{PAGENAME}}", "12345 in Page"),
    ("The {{nihongo|castle|城|Shiro}}.", "The castle (城, Shiro)."),
    ("The {{USS|Ohio|BB-12}} and {{HMS|Lion}}.", "The USS Ohio and HMS Lion."),
    # What their loss leaves.
    ("Aaron ({{IPA|x}}; {{IPA|y}}) is.", "Aaron is."),
    ("Aaron ( {{IPA|x}} or {{lang|he|אהרן}}; ) is.", "Aaron (or אהרן) is."),
    ("Aaron（{{IPA|x}}、{{IPA|y}}）is.", "Aaronis."),
    ("A {{x}} , b {{x}} .", "A, b."),
    # References, comments, tags.
    ('One.<ref name="a b">{{cite|t=[[X]]}} <b>y</b></ref> Two.', "One. Two."),
    ("One.<ref name=a /> Two.<ref name='b'/>", "One. Two."),
    ("One.<REF>x</REF> Two.", "One. Two."),
    ("One.<ref>never closed. Two.", "One.never closed. Two."),
    ("<references>\n<ref name=a>x</ref>\n</references>\nEnd.", "End."),
    ("A<!-- b\n\n c -->d.<!-- never closed", "Ad."),
    ("H<sub>2</sub>O <span style='x'>s</span><br/>t</span>", "H2O s t"),
    ("A <b>bold<i> both</b> tail", "A bold both tail"),
    ("<math>x < {y}</math>So it is.", "So it is."),
    ("So <nowiki>''a'' [[b]] {{c</nowiki>.", "So ''a'' b c."),
    ("a < b and <foo> c > d", "a < b and <foo> c > d"),
    ("<gallery>\nFile:A.jpg|[[x]]\n</gallery>\nAfter.", "After."),
    ("<table><tr><td><table>a</table>b</td></tr></table>After.", "After."),
    ("<ul><li>a</li></ul>After <section begin=x />it.", "After it."),
    ("<syntaxhighlight lang=c>int {{a[[</syntaxhighlight>After.", "After."),
    # Tables.
    ('{| class="x"\n! a !! b\n|-\n| c || {{d\n| e}}\n|}\nAfter.', "After."),
    ("{|\n|\n{|\n| in\n|}\n| out\n|}\nAfter.", "After."),
    ("{{t|\n{|\n| in\n|}\n}}After.", "After."),
    (":{|\n| in\n|}\nAfter.", "After."),
    ("{| class=x\n| never || closed\n! a\nAfter.", "After."),
    ("{| class={{x}} y\nAfter.", "After."),
    # Links.
    ("[[Moses]], [[High Priest (J)|priest]]s, [[a|]]b", "Moses, priests, ab"),
    ("[[File:A.jpg|thumb|x [[y]] {{z}} [http://u v]]]After.", "After."),
    ("[[Datei:A.jpg|mini|x]][[Image:B.png]]After.", "After."),
    ("After.[[Category:X|y]]\n[[kategorie:Z]]\n[[fr:Aaron]]", "After."),
    ("See [[:Category:X]] and [[:fr:A|B]].", "See Category:X and B."),
    ("[http://a.b a label] [https://c.d] http://e.f", "a label http://e.f"),
    ("[//a.b label] [mailto:a@b c]", "label c"),
    ("[[Episode: One]] [[wikt:word|word]]", "Episode: One word"),
    ("Lost [[never closed.\nNext ]] one.", "Lost never closed. Next one."),
    ("See [[a|the {{b]] c.", "See the b c."),
    ("Lost [[no end.\n\nNext.", "Lost no end.\nNext."),
    # The rest of the markup.
    ("== Head ==\nText.\n=== ''Sub'' === \nMore.", "Text.\nMore."),
    ("* a\n# b\n: c\n; d\n----\nText.", "Text."),
    ("'''''Both''''' ''it'' l'''amour''", "Both it lamour"),
    ("__NOTOC__\nText __KEIN_INHALTSVERZEICHNIS__ __init__.", "Text __init__."),
    ("R&amp;D &lt;x&gt; 3&nbsp;m &mdash; &amp;lt;", "R&D <x> 3 m — &lt;"),
    ("5 &#8364; or &#x20ac;6", "5 € or €6"),
    ("&#0;a &#xD800; &#x110000; &no;", "&#0;a \ufffd &#x110000; &no;"),
    ("-{zh-hans:计算机; zh-hant:電腦}- -{T|zh:題}--{A}-", "计算机 A"),
    ("a-{{x}}b", "a-b"),
    # Scripts.
    ("'''אהרן''' הוא [[כהן|הכהן]].{{מקור}}", "אהרן הוא הכהן."),
    ("'''東京'''は[[日本]]の{{ルビ}}首都。", "東京は日本の首都。"),
    # Nothing.
    ("", ""),
    ("{{x}}\n[[Category:X]]\n* only a list", ""),
    (" . — \n''", ""),
  ],
)  # fmt: skip
def test_text_is_what_a_reader_sees(text, expected) -> None:
  assert clean(text) == expected


def nested(opening: str, closing: str) -> str:
  return f"Before. {opening * DEEP} in {closing * DEEP} After."


@pytest.mark.parametrize(
  ("opening", "closing"),
  [("{{a|", "}}"), ("[[File:a|", "]]"), ("{{{a|", "}}}"), ("\n{|\n|", "\n|}\n"),
   ("<table>", "</table>"), ("{{nowrap|", "}}"), ("{{nowrap|[[b|", "]]}}")],
)  # fmt: skip
def test_the_deepest_nesting_ends(opening, closing) -> None:
  found = clean(nested(opening, closing))
  assert found.startswith("Before.") and found.endswith("After.")
  assert "{{" not in found and "[[" not in found


def test_nesting_deeper_than_the_parser_follows_is_left_out() -> None:
  found = clean(f"Before. {'{{nowrap|' * 150} in {'}}' * 150} After.")
  assert found == "Before. After."


@pytest.mark.parametrize(
  "unit",
  ["{{", "{{a ", "{{a|", "[[a|", "{|\n|a\n", "<b>", "<ref>x ", "''a '''b ",
   "[http://a ", "{{{a|", "<!-- ", "{{a[[b|<i>", "<div>[[a|{{x|", "<nowiki>",
   "}}]]|}", "<table>", "<", "&#", "-{", "(", " ", "( ;, ", "&amp;", "__A"],
)  # fmt: skip
def test_markup_that_is_never_closed_ends(unit) -> None:
  found = clean(unit * DEEP + "\n\nAfter.")
  assert found.endswith("After.") or unit == "<!-- "


def test_a_page_of_five_megabytes_is_read() -> None:
  prose = "There is more to say about it. " * 40
  paragraph = (
    f"'''Bold''' [[link|label]] {{{{cite|x=[[y]]}}}} of {{{{cvt|3|km}}}}.<ref>"
    f"{{{{cite book|title=[[T]]}}}}</ref> {prose}\n\n"
  )
  count = 5_000_000 // len(paragraph)
  lines = clean(paragraph * count).split("\n")
  assert lines == [f"Bold label of 3 km. {prose.strip()}"] * count


@pytest.mark.parametrize("space", [" ", ""])
def test_a_paragraph_longer_than_the_parser_takes_is_whole(space) -> None:
  words = [f"[[Word {i}|word{i}]]" for i in range(3000)]
  found = clean(space.join(words))
  assert found == space.join(f"word{i}" for i in range(3000))
  plain = space.join(f"word{i}" for i in range(3000))
  assert clean(plain) == plain


PIECES: Sequence[str] = (
  "{{", "}}", "{{{", "}}}", "[[", "]]", "[", "]", "{|", "|}", "|-", "|", "\n",
  "\n\n", "== H ==", "*", ":", "''", "'''", "<ref>", "</ref>", "<ref name=a/>",
  "<ref", "<!--", "-->", "<nowiki>", "</nowiki>", "<math>", "</math>", "<b>",
  "</b>", "<table>", "</table>", "<", ">", "&lt;", "&amp;", "&#123;", "&#x5b;",
  "File:a.jpg", "Category:x", "http://a.b ", "-{", "}-", "__TOC__", "convert|",
  "nowrap|", "lang|fr|", "1", "word ", "שלום", "東京", ".", "(", ")", ";", "=",
  "{", "}", "\0", "\ud800", "&#xD800;", "\u200c", "\xa0", "\r", "\t",
)  # fmt: skip
WIKITEXT = st.lists(
  st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=40
).map("".join)


def holds_no_markup(text: str) -> None:
  found = clean(text)
  lowered = found.lower()
  for mark in ("{{", "}}", "[[", "]]", "<ref", "\0"):
    assert mark not in lowered, (text, found)
  found.encode()
  for line in found.split("\n"):
    assert line == line.strip()


@settings(max_examples=300, deadline=None)
@given(WIKITEXT)
def test_no_markup_survives(text) -> None:
  holds_no_markup(text)


@pytest.mark.fuzz
@settings(max_examples=10_000, deadline=None)
@given(WIKITEXT)
def test_no_markup_survives_in_many(text) -> None:
  holds_no_markup(text)
