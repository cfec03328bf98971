"""Pages of a MediaWiki XML export, read as a stream.

    for page in Dump(RawFile("enwiki-pages-articles.xml.bz2")).pages():
      print(page.place, page.title)

One page is in memory at a time, and of its text no more than
`LONGEST_TEXT` characters. An export holds no document type; one that declares
any is refused, and with it all entities (billion laughs, external files).

Source: https://www.mediawiki.org/xml/export-0.11.xsd; exports of 0.3 and later
are read. Of a page with several revisions the last one counts.
"""

import dataclasses
import re
from collections import deque
from collections.abc import Generator
from typing import NoReturn
from xml.parsers import expat

from odqa_jax.data.raw.records import Place, RawFile

ARTICLES, FILES, CATEGORIES = 0, 6, 14
# MediaWiki saves no page above 2 MiB ($wgMaxArticleSize); a wiki may allow
# more, but a text without end must not fill the memory.
LONGEST_TEXT = 16_000_000
_CHUNK = 1 << 18
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_FIELDS = ("title", "ns", "model", "text", "dbname", "namespace")
_WIKITEXT = "wikitext"


@dataclasses.dataclass(frozen=True)
class Site:
  """What an export says of its wiki.

  Attributes:
    language: of `xml:lang`, such as "en"; else the database's.
    database: such as "enwiki"; "" if the export does not say.
    namespaces: the local names, in lower case, with their numbers.
  """

  language: str = "en"
  database: str = ""
  namespaces: tuple[tuple[str, int], ...] = ()

  def namespace_of(self, title: str) -> int:
    """The namespace that a title or the target of a link begins with."""
    prefix, colon, _ = title.partition(":")
    name = prefix.replace("_", " ").strip().casefold()
    return dict(self.namespaces).get(name, ARTICLES) if colon else ARTICLES


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
  """One page.

  Attributes:
    place: where it begins.
    title: with its namespace.
    namespace: its number.
    redirect: whether it only points to another page.
    model: "wikitext", or what else its content is, such as "json".
    text: the wikitext; None if it was deleted.
    length: characters of the whole text; `text` may be cut.
  """

  place: Place
  title: str
  namespace: int
  redirect: bool
  model: str
  text: str | None
  length: int


class _Handlers:
  """Collects pages from the events of an XML parser."""

  def __init__(self, file: RawFile) -> None:
    self.file = file
    self.site = Site()
    self.pages: deque[Page] = deque()
    self.parser = parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = self.start
    parser.EndElementHandler = self.end
    parser.CharacterDataHandler = self.characters
    parser.StartDoctypeDeclHandler = self.refuse_doctype
    self._depth = 0
    # The element that is being read, where its text counts.
    self._field = ""
    self._pieces: list[str] = []
    self._length = 0
    self._namespace_key = ""
    self._namespaces: dict[str, int] = {}
    self._fields: dict[str, str] = {}
    self._text_length = 0
    self._line = 0

  def refuse_doctype(self, *_: object) -> NoReturn:
    """An export has none."""
    raise ValueError(
      f"{self.file.path}:{self.parser.CurrentLineNumber}: a document type is "
      "declared; a MediaWiki export has none, and its entities are not read; "
      "remove the declaration."
    )

  def start(self, name: str, attributes: dict[str, str]) -> None:
    """Takes note of a start tag."""
    self._depth += 1
    if self._depth == 1:
      self._check_root(name, attributes)
    elif name == "page":
      self._line = self.parser.CurrentLineNumber
      self._fields = {}
    elif name == "redirect":
      self._fields["redirect"] = attributes.get("title", "")
    elif name == "namespace":
      self._namespace_key = attributes.get("key", "")
    if name in _FIELDS:
      self._field, self._pieces, self._length = name, [], 0
      if name == "text":
        self._fields.pop("deleted", None)
        if "deleted" in attributes:
          self._fields["deleted"] = ""

  def _check_root(self, name: str, attributes: dict[str, str]) -> None:
    if name != "mediawiki":
      raise ValueError(
        f"{self.file.path}:{self.parser.CurrentLineNumber}: the XML is <{name}>"
        ", not <mediawiki>; a dump is the file *-pages-articles.xml, perhaps "
        "compressed, of https://dumps.wikimedia.org."
      )
    if language := attributes.get("xml:lang"):
      self.site = dataclasses.replace(self.site, language=language)

  def characters(self, data: str) -> None:
    """Takes note of text."""
    if not self._field:
      return
    self._length += len(data)
    if self._length <= LONGEST_TEXT:
      self._pieces.append(data)

  def end(self, name: str) -> None:
    """Takes note of an end tag."""
    self._depth -= 1
    if name == self._field:
      self._take_field(name, "".join(self._pieces))
      self._field, self._pieces = "", []
    elif name == "siteinfo":
      self.site = dataclasses.replace(
        self.site, namespaces=tuple(self._namespaces.items())
      )
    elif name == "page":
      self.pages.append(self._page())

  def _take_field(self, name: str, value: str) -> None:
    if name == "dbname":
      self.site = dataclasses.replace(self.site, database=value)
    elif name == "namespace":
      if _NUMBER.fullmatch(self._namespace_key):
        self._namespaces[value.casefold()] = int(self._namespace_key)
    else:
      self._fields[name] = value
      if name == "text":
        self._text_length = self._length

  def _page(self) -> Page:
    fields = self._fields
    title = fields.get("title", "")
    number = fields.get("ns", "")
    return Page(
      place=Place(self.file.path, self._line),
      title=title,
      # Exports before 0.6 do not say.
      namespace=(
        int(number)
        if _NUMBER.fullmatch(number)
        else self.site.namespace_of(title)
      ),
      redirect="redirect" in fields,
      model=fields.get("model", _WIKITEXT),
      text=None if "deleted" in fields else fields.get("text", ""),
      length=self._text_length if "text" in fields else 0,
    )


class Dump:
  """A MediaWiki export.

  Attributes:
    file: where it is read from.
    site: what it says of its wiki, once the first page has been read.
  """

  def __init__(self, file: RawFile) -> None:
    self.file = file
    self.site = Site()

  def pages(self) -> Generator[Page, None, None]:
    """Streams the pages.

    Raises:
      ValueError: naming the line, if this is no export, or one that is
        damaged or cut short.
    """
    handlers = _Handlers(self.file)
    with self.file.open() as stream:
      while True:
        chunk = stream.read(_CHUNK)
        try:
          handlers.parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
          raise ValueError(
            f"{self.file.path}:{error.lineno}: broken XML "
            f"({expat.ErrorString(error.code)}); the dump is damaged or cut "
            "short; get it again."
          ) from error
        self.site = handlers.site
        while handlers.pages:
          yield handlers.pages.popleft()
        if not chunk:
          return
