"""The running text of an article.

Karpukhin et al. 2020 (DPR), Sec. 4.1: "only the clean, text-portion of
articles", with "semi-structured data, such as tables, infoboxes, lists, as
well as the disambiguation pages" removed. DPR ran WikiExtractor; here
mwparserfromhell reads the markup that `markup.scan` leaves. As there, lists
and headings go. Deviations: the title is no part of the text (it is a field of
its own); words of the templates in `templates` stay in their sentences;
brackets that are empty once their templates are gone go too; so do `{{`, `}}`,
`[[`, `]]` and `<ref` that an author wrote as text.
"""

import re
from typing import Any

from odqa_jax.data.wikipedia.dump import CATEGORIES, FILES, Site
from odqa_jax.data.wikipedia.markup import Markup, scan
from odqa_jax.data.wikipedia.templates import inline_text, is_kept

# Local names from before a wiki had one of its own; no export lists them.
_DROPPED_PREFIXES = frozenset(
  "file image category bild imagen imagem immagine afbeelding изображение "
  "grafika зображення 画像 图像 圖像".split()
)
_DROPPED_NAMESPACES = (FILES, CATEGORIES)
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*:")
# Lists, rows of tables that are never closed, rules, and headings.
_NO_PROSE = re.compile(r"\s*(?:[*#:;]|\||![ !]|\{\||----|=.*=\s*$)")
_SWITCH = re.compile(r"__[^\W\d_]+(?:_[^\W\d_]+)*__")
_VARIANT = re.compile(r"-\{(?!\{)([^{}]*)\}-")
# The begin of a link that ends nowhere, for which a parser would look long.
_UNCLOSED = re.compile(r"\[(?=[a-z]*:?//[^\[\]]*(?:\[(?!\[)|$))", re.IGNORECASE)
_QUOTES = re.compile(r"'{2,}")
_LEFT_OVER = re.compile(
  r"\{\{+|\}\}+|\[\[+|\]\]+|</?ref\b[^<>]*>?|</?ref", re.IGNORECASE
)
_SEPARATORS = r"[\s,;:،；，、/–—-]"
_EMPTY_BRACKETS = re.compile(
  rf" ?(?:\({_SEPARATORS}*\)|（{_SEPARATORS}*）|\[\s*\])"
)
# Runs are matched whatever follows, so that none is looked at twice.
_BEFORE_END = re.compile(r"[ ,;:،；，、]+([)）]?)")
_BRACKET_BEGIN = re.compile(r"([(（])(?:\s*[,;:،；，、])+\s*|([(（])\s+")
_SPACE_BEFORE = re.compile(r" ([,.;:!?)](?: |$))")
# Stands for one that begins no tag; Unicode assigns it to nothing.
_LESS = "\ufdd0"
_SPACES = re.compile(r"\s+")
# What no passage may hold: NUL and the rest of the controls, and halves of a
# pair that some entity stands for.
_UNFIT = re.compile(r"[\0-\x08\x0e-\x1b\x7f\ud800-\udfff]")


def scan_page(text: str) -> Markup:
  """The markup of a page's prose."""
  return scan(text, is_kept)


def plain_text(markup: Markup, site: Site, title: str) -> str:
  """The running text, one paragraph in a line; "" if there is none.

  Args:
    markup: of the page.
    site: names its namespaces.
    title: of the page.

  Raises:
    ImportError: without the extra `wikipedia`.
  """
  writer = _Writer(site, title)
  paragraphs = []
  for pieces in markup.lines:
    if _NO_PROSE.match(pieces[0]):
      continue
    line = "".join(writer.piece(piece) for piece in pieces if piece)
    line = _tidy(line)
    if any(map(str.isalnum, line)):
      paragraphs.append(line)
  return "\n".join(paragraphs)


def _tidy(line: str) -> str:
  # A space, so that nothing new comes to stand together.
  line = _LEFT_OVER.sub(" ", _UNFIT.sub("\ufffd", line))
  line = _EMPTY_BRACKETS.sub("", _SPACES.sub(" ", line))
  line = _BRACKET_BEGIN.sub(lambda m: m[1] or m[2], line)
  line = _BEFORE_END.sub(lambda m: m[1] or m[0], line)
  line = _SPACE_BEFORE.sub(r"\1", line)
  return _SPACES.sub(" ", line).strip()


def _variant(match: re.Match[str]) -> str:
  """The first form of a word that has several, `-{zh-hans:A; zh-hant:B}-`."""
  flags, bar, rest = match[1].partition("|")
  if not bar:
    rest = flags
  elif {"T", "H", "-"} & set(flags.replace(" ", "").split(";")):
    return ""
  form = rest.split(";")[0]
  name, colon, value = form.partition(":")
  known = colon and re.fullmatch(r"\s*[a-z]{2,3}(?:-[a-z]+)*\s*", name)
  return (value if known else form).strip()


class _Writer:
  """Writes nodes of one page as text."""

  def __init__(self, site: Site, title: str) -> None:
    try:
      import mwparserfromhell
    except ImportError as error:
      raise ImportError(
        "reading a Wikipedia dump needs the extra `wikipedia`: pip install "
        "'odqa_jax[wikipedia]'."
      ) from error
    self._parse = mwparserfromhell.parse
    self._nodes = mwparserfromhell.nodes
    self._site, self._title = site, title

  def piece(self, text: str) -> str:
    """A piece of a line as text."""
    text = _VARIANT.sub(_variant, _SWITCH.sub(_switch, text))
    text = _QUOTES.sub("", text)
    if not _has_markup(text):
      return text
    # All that was a tag is gone, and what is left of italics costs time.
    text = _UNCLOSED.sub("", text.replace("<", _LESS))
    code = self._parse(text, skip_style_tags=True)
    return self._text(code).replace(_LESS, "<")

  def _text(self, code: Any) -> str:
    if code is None:
      return ""
    return "".join(map(self._node, code.nodes))

  def _node(self, node: Any) -> str:
    kinds = self._nodes
    match node:
      case kinds.Text():
        return str(node.value)
      case kinds.HTMLEntity():
        return _entity(node)
      case kinds.Wikilink():
        return self._link(node)
      case kinds.ExternalLink():
        if node.brackets:
          return self._text(node.title)
        return str(node.url)
      case kinds.Template():
        return self._template(node)
      case kinds.Argument():
        return self._text(node.default)
      case kinds.Tag():
        return self._text(node.contents)
    return ""

  def _link(self, link: Any) -> str:
    target = self._text(link.title).strip()
    prefix, colon, _ = target.partition(":")
    if colon:
      if self._site.namespace_of(target) in _DROPPED_NAMESPACES:
        return ""
      if prefix.strip().casefold() in _DROPPED_PREFIXES:
        return ""
      if _LANGUAGE_LINK.match(target):
        return ""
    label = self._text(link.text).strip()
    return label or target.removeprefix(":")

  def _template(self, template: Any) -> str:
    name = self._text(template.name).strip()
    if not is_kept(name):
      return ""
    values = [
      self._text(parameter.value)
      for parameter in template.params
      if not parameter.showkey or str(parameter.name).strip().isdecimal()
    ]
    return inline_text(name, values, self._title)


def _switch(match: re.Match[str]) -> str:
  """`__NOTOC__` and its like, in any language, have no small letters."""
  return match[0] if any(map(str.islower, match[0])) else ""


def _has_markup(text: str) -> bool:
  return any(mark in text for mark in ("[", "{", "&"))


def _entity(entity: Any) -> str:
  try:
    return str(entity.normalize())
  except (ValueError, OverflowError):
    return str(entity)
