"""A page's markup cut into lines that a parser can take one by one.

A parser of wikitext must guess where markup that is never closed ends, and
takes a time that grows with the square of the page for it. So one scan, whose
time is linear, first finds what belongs together: it takes out comments, tags
and whatever holds no prose (references, tables, galleries, formulae, nearly
all templates), drops brackets without a partner, and divides the rest at line
ends that no bracket encloses.
"""

import dataclasses
import re
from collections.abc import Callable

# Elements whose inside is no wikitext, or no prose.
_OPAQUE = (
  "ref|references|math|chem|ce|gallery|timeline|score|graph|imagemap|hiero|"
  "syntaxhighlight|source|pre|templatedata|templatestyles|mapframe|maplink|"
  "inputbox|categorytree|indicator|includeonly|section|nowiki"
)
_NESTED = "table|ul|ol|dl"
_TOKEN = re.compile(
  r"<!--"
  rf"|<(?P<opaque>{_OPAQUE})\b(?P<attributes>[^<>]*)>"
  rf"|<(?P<open>{_NESTED})\b[^<>]*>"
  rf"|</(?P<close>{_NESTED})\s*>"
  r"|(?P<braces>\{{2,})|(?P<ends>\}{2,})|\[\[|\]\]"
  r"|^[ \t:*#;]*(?P<table>\{\|)|^[ \t]*(?P<row>\|\})(?!\})",
  re.IGNORECASE | re.MULTILINE,
)
# HTML that MediaWiki lets through, and its own tags around prose; the names of
# all others are text ("a <b and c> d" is none of them).
_TAG = re.compile(
  r"</?(?:(?P<block>blockquote|br|caption|center|dd|div|dt|h[1-6]|hr|li|p|poem|"
  r"rb|rp|rt|ruby|td|th|tr|wbr)"
  r"|abbr|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|mark|noinclude"
  r"|onlyinclude|q|s|samp|small|span|strike|strong|sub|sup|time|tt|u|var"
  rf"|{_OPAQUE}|{_NESTED})\b[^<>]*>",
  re.IGNORECASE,
)
_NAME = re.compile(r"\{\{\s*([^|{}\[\]<>]{1,80}?)\s*(?:\||\}\})")
# Deeper than MediaWiki's editors nest, and than a parser follows.
_DEEPEST = 32
# A parser takes this much at a time; few paragraphs are as long.
_LONGEST_LINE = 4096
_MARKUP = str.maketrans({c: f"&#{ord(c)};" for c in "{}[]<>|'&=*#:;!-_"})


@dataclasses.dataclass(frozen=True)
class Markup:
  """The prose of a page, still with links, and templates inside sentences.

  Attributes:
    lines: in order; a line that is too long is cut in several pieces.
    templates: the names of the page's outermost templates.
  """

  lines: list[list[str]]
  templates: list[str]


@dataclasses.dataclass(slots=True)
class _Open:
  """A bracket that waits for its partner, `count` braces wide."""

  kind: str
  start: int
  end: int
  count: int


class _Scan:
  """Finds what belongs together; `edits` are (start, end, replacement)."""

  def __init__(self, text: str) -> None:
    self.text = text
    self.edits: list[tuple[int, int, str]] = []
    # Brackets that nothing encloses: links and templates.
    self.spans: list[tuple[int, int]] = []
    self._stack: list[_Open] = []
    self._waiting: dict[str, int] = {}
    # Elements that are not closed from here on.
    self._unclosed: set[str] = set()

  def run(self) -> None:
    """Reads the whole text."""
    position = 0
    while token := _TOKEN.search(self.text, position):
      position = self._take(token)
    for left in self._stack:
      self.edits.append((left.start, left.end, ""))

  def _take(self, token: re.Match[str]) -> int:
    """Takes one token; returns where to go on."""
    start, end = token.span()
    if name := token["opaque"]:
      return self._opaque(token, name.casefold())
    if token["braces"]:
      self._push("{", start, end, end - start)
    elif token["ends"]:
      self._close_braces(start, end)
    elif token["table"]:
      # If it is never closed, its attributes go with it.
      line = self.text.find("\n", end)
      line = len(self.text) if line < 0 else line
      self._push("{|", token.start("table"), line)
    elif token["row"]:
      self._close("{|", token.start("row"), end)
    elif name := token["open"] or token["close"]:
      take = self._push if token["open"] else self._close
      take(name.casefold(), start, end)
    elif token[0] == "[[":
      self._push("[", start, end)
    elif token[0] == "]]":
      self._close("[", start, end)
    else:
      close = self.text.find("-->", end)
      end = len(self.text) if close < 0 else close + 3
      self.edits.append((start, end, ""))
    return end

  def _opaque(self, token: re.Match[str], name: str) -> int:
    start, end = token.span()
    inside = ""
    if not token["attributes"].endswith("/") and name not in self._unclosed:
      closing = re.compile(rf"</{name}\s*>", re.IGNORECASE)
      if close := closing.search(self.text, end):
        if name == "nowiki":
          inside = self.text[end : close.start()].translate(_MARKUP)
        end = close.end()
      else:
        self._unclosed.add(name)
    self.edits.append((start, end, inside))
    return end

  def _push(self, kind: str, start: int, end: int, count: int = 2) -> None:
    self._stack.append(_Open(kind, start, end, count))
    self._waiting[kind] = self._waiting.get(kind, 0) + 1

  def _pop(self) -> _Open:
    top = self._stack.pop()
    self._waiting[top.kind] -= 1
    return top

  def _close_braces(self, start: int, end: int) -> None:
    while end - start >= 2 and self._waiting.get("{"):
      self._drop_until("{")
      top = self._stack[-1]
      # Three are a parameter, two a template.
      width = min(end - start, top.count, 3)
      if top.count - width == 1 and width == 3:
        width = 2
      start += width
      top.count -= width
      top.end -= width
      self.spans.append((top.start + top.count, start))
      if top.count < 2:
        self._pop()
    if start < end:
      self.edits.append((start, end, ""))

  def _close(self, kind: str, start: int, end: int) -> None:
    if self._waiting.get(kind):
      self._drop_until(kind)
      self._matched(self._pop(), end)
    else:
      self.edits.append((start, end, ""))

  def _drop_until(self, kind: str) -> None:
    """Drops brackets without a partner that stand above one of a kind."""
    while self._stack[-1].kind != kind:
      left = self._pop()
      self.edits.append((left.start, left.end, ""))

  def _matched(self, opened: _Open, end: int) -> None:
    if opened.kind == "[":
      self.spans.append((opened.start, end))
    else:
      self.edits.append((opened.start, end, ""))

  def outermost(self) -> list[tuple[int, int]]:
    """Spans that lie in no other; what is nested too deep becomes an edit."""
    enclosing: list[int] = []
    outer = []
    for start, end in sorted(self.spans):
      while enclosing and enclosing[-1] <= start:
        enclosing.pop()
      if not enclosing:
        outer.append((start, end))
      elif len(enclosing) == _DEEPEST:
        self.edits.append((start, end, ""))
      enclosing.append(end)
    return outer


def scan(text: str, keeps: Callable[[str], bool]) -> Markup:
  """Divides a page into lines.

  Args:
    text: the wikitext.
    keeps: whether a template is to stay, by its name.
  """
  found = _Scan(text)
  found.run()
  outer = found.outermost()
  # Where one change lies in another, the outer one counts.
  edits = sorted(found.edits, key=lambda edit: (edit[0], -edit[1]))
  lines = _Lines(text, edits)
  templates = []
  position = 0
  for start, end in outer:
    lines.add(lines.edited(position, start), enclosed=False)
    inside = lines.edited(start, end)
    position = end
    if inside.startswith("{{"):
      name = _NAME.match(inside)
      templates.append(name[1] if name else "")
      if not keeps(templates[-1]):
        continue
    lines.add(inside, enclosed=True)
  lines.add(lines.edited(position, len(text)), enclosed=False)
  return Markup(lines.lines, templates)


class _Lines:
  """Puts the lines together again."""

  def __init__(self, text: str, edits: list[tuple[int, int, str]]) -> None:
    self.lines: list[list[str]] = [[""]]
    self._text, self._edits = text, edits
    self._next = 0
    self._done = 0

  def edited(self, start: int, end: int) -> str:
    """A part of the text with its edits; parts are asked for in order."""
    pieces = []
    start = max(start, self._done)
    while self._next < len(self._edits):
      first, last, replacement = self._edits[self._next]
      if first >= end:
        break
      self._next += 1
      if first >= start:
        pieces += [self._text[start:first], replacement]
        start = last
    self._done = start
    pieces.append(self._text[start:end])
    return _TAG.sub(_tag_space, "".join(pieces))

  def add(self, text: str, *, enclosed: bool) -> None:
    """Goes on with text; its line ends count where nothing encloses it."""
    if enclosed:
      self._add_whole(text)
      return
    for number, line in enumerate(text.split("\n")):
      if number:
        self.lines.append([""])
      self._add_pieces(line)

  def _add_whole(self, text: str) -> None:
    pieces = self.lines[-1]
    # What is longer than a line is no part of a sentence.
    if len(text) <= _LONGEST_LINE - len(pieces[-1]):
      pieces[-1] += text
    elif len(text) <= _LONGEST_LINE:
      pieces.append(text)

  def _add_pieces(self, text: str) -> None:
    pieces = self.lines[-1]
    start = 0
    while len(text) - start > (room := _LONGEST_LINE - len(pieces[-1])):
      cut = text.rfind(" ", start, start + room) + 1
      if not cut and not pieces[-1]:
        cut = start + room
      if cut:
        pieces[-1] += text[start:cut]
        start = cut
      pieces.append("")
    pieces[-1] += text[start:]


def _tag_space(tag: re.Match[str]) -> str:
  """Words on the two sides of a block are two words."""
  return " " if tag["block"] else ""
