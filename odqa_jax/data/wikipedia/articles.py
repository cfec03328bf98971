"""One page → the blocks of its article, or why it has none.

Karpukhin et al. 2020 (DPR), Sec. 4.1: "we split each article into multiple,
disjoint text blocks of 100 words as passages", divided by spaces and "prepended
with the title". Deviations from the published `psgs_w100.tsv`: its last block
of an article is filled up with words from the article's beginning, and its
first begins with the title once more; here the last block is shorter and no
text occurs twice, which the inverse cloze task would see. A last block without
a letter or digit joins the one before.
"""

import dataclasses
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.raw.formats import Beginning, Format
from odqa_jax.data.raw.records import Place, RawFile
from odqa_jax.data.wikipedia.clean import plain_text, scan_page
from odqa_jax.data.wikipedia.dump import (
  ARTICLES,
  LONGEST_TEXT,
  Dump,
  Page,
  Site,
)
from odqa_jax.data.wikipedia.languages import (
  disambiguates,
  has_spaces,
  is_disambiguation,
  is_list,
  unknown_parts,
)

WORDS = 100
# Of the XML, before the root.
_LONGEST_PROLOGUE = 1 << 12
# Reasons in the order in which they are asked for.
NAMESPACE, REDIRECT, MODEL = "namespace", "redirect", "not wikitext"
DELETED, DISAMBIGUATION, LIST = "deleted", "disambiguation", "list"
NO_TEXT, FAILURE = "no text", "parse failure"
REASONS = (
  NAMESPACE,
  REDIRECT,
  MODEL,
  DELETED,
  DISAMBIGUATION,
  LIST,
  NO_TEXT,
  FAILURE,
)
# Exports before 0.4 have no element for it; the word is in any language, but
# always in capitals: "#item [[link]]" is a list.
_REDIRECT = re.compile(r"\s*#\s*(?:redirect|([^\W\d_]+))\s*:?\s*\[\[", re.I)
# A word of two characters where no spaces divide words, with what follows.
_UNSPACED_WORD = re.compile(
  r"[^\s\x00-\u0dff]{1,2}[^\s\u0e00-\U0010ffff]*|[^\s\u0e00-\U0010ffff]+"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Article:
  """What a page comes to.

  Attributes:
    blocks: the texts of its passages; none if it is left out.
    reason: why it is left out, one of `REASONS`; "" if it is not.
    detail: of a failure.
  """

  blocks: Sequence[str] = ()
  reason: str = ""
  detail: str = ""


def quick_reason(page: Page, site: Site) -> str:
  """Why a page is no article, as far as its head tells; "" if it may be one."""
  if page.namespace != ARTICLES:
    return NAMESPACE
  if page.redirect or _redirects(page.text or ""):
    return REDIRECT
  if page.model != "wikitext":
    return MODEL
  if page.text is None:
    return DELETED
  if is_disambiguation(page.title, site.language):
    return DISAMBIGUATION
  return LIST if is_list(page.title, site.language) else ""


def _redirects(text: str) -> bool:
  match = _REDIRECT.match(text)
  if match is None:
    return False
  return match[1] is None or match[1] == match[1].upper()


def make_article(page: Page, site: Site, words: int = WORDS) -> Article:
  """Divides a page into blocks; the same for the same page, and never fails.

  Args:
    page: of a dump.
    site: the dump's.
    words: in a block.

  Raises:
    ImportError: without the extra `wikipedia`.
  """
  if reason := quick_reason(page, site):
    return Article(reason=reason)
  if page.length > LONGEST_TEXT:
    detail = f"{page.length:,} characters; up to {LONGEST_TEXT:,} are read."
    return Article(reason=FAILURE, detail=detail)
  code = site.language
  try:
    markup = scan_page(page.text or "")
    if any(disambiguates(name, code) for name in markup.templates):
      return Article(reason=DISAMBIGUATION)
    text = plain_text(markup, site, page.title)
  # No fault of the page.
  except (ImportError, MemoryError):
    raise
  # Whatever a page does to the parser, the other millions are read.
  except Exception as error:
    detail = f"{type(error).__name__}: {error}"
    return Article(reason=FAILURE, detail=detail)
  blocks = split_words(text, words, spaces=has_spaces(code))
  return Article(blocks) if blocks else Article(reason=NO_TEXT)


def split_words(text: str, words: int, *, spaces: bool) -> list[str]:
  """Blocks of so many words, the last one shorter.

  Args:
    text: white space divides words, and a block has single spaces.
    words: in a block.
    spaces: False for a script without spaces, of which two characters count
      as a word, so that a block may end inside one.
  """
  text = " ".join(text.split())
  if spaces:
    units = text.split(" ") if text else []
    blocks = [
      " ".join(units[i : i + words]) for i in range(0, len(units), words)
    ]
  else:
    starts = [match.start() for match in _UNSPACED_WORD.finditer(text)]
    cuts = [_whole_character(text, start) for start in starts[::words]]
    blocks = [
      text[a:b].strip()
      for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)
    ]
  if blocks and not any(map(str.isalnum, blocks[-1])):
    last = blocks.pop()
    if blocks:
      blocks[-1] += f" {last}" if spaces else last
  return blocks


def _whole_character(text: str, start: int) -> int:
  """A place before which no vowel sign or other mark is torn off."""
  while 0 < start < len(text) and unicodedata.category(text[start])[0] == "M":
    start += 1
  return start


def read_dump(file: RawFile) -> Iterator[tuple[Place, Passage]]:
  """The passages of a dump, numbered from 1 as in `psgs_w100.tsv`.

  A page that cannot be read is a bad record of the file. With one process to
  clean them a large dump takes long: `odqa wikipedia` has many.

  Raises:
    ValueError: for what is no dump or is damaged, naming the line.
    ImportError: without the extra `wikipedia`.
  """
  dump = Dump(file)
  number = 0
  for page in dump.pages():
    article = make_article(page, dump.site)
    if article.reason == FAILURE:
      file.reject(page.place, f"page {page.title!r}: {article.detail}")
    elif article.reason:
      file.leave_out(article.reason)
    elif not number:
      tell_language(dump.site)
    for block in article.blocks:
      number += 1
      yield page.place, Passage(str(number), page.title, block)


def tell_language(site: Site) -> None:
  """Says on stderr what goes unnoticed in the language of a wiki."""
  if unknown := unknown_parts(site.language):
    name = site.database or "a wiki"
    print(f"{name} in language {site.language!r}: {unknown}.", file=sys.stderr)


def _is_dump(start: Beginning) -> str:
  if start.kind != "XML":
    return ""
  with start.file.open() as stream:
    fits = b"<mediawiki" in stream.read(_LONGEST_PROLOGUE)
  return "XML with <mediawiki>" if fits else ""


WIKIPEDIA_DUMP = Format(
  "wikipedia_dump",
  "MediaWiki's XML export; its articles are cut into passages of 100 words",
  _is_dump,
  passages=read_dump,
)
