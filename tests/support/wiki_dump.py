"""Writes small MediaWiki exports."""

import bz2
from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

NAMESPACES = {
  "en": {0: "", 6: "File", 10: "Template", 14: "Category"},
  "de": {0: "", 6: "Datei", 10: "Vorlage", 14: "Kategorie"},
}


@dataclass
class DumpPage:
  title: str
  text: str
  namespace: int = 0
  redirect: str = ""
  model: str = "wikitext"
  deleted: bool = False

  def xml(self) -> str:
    redirect = ""
    if self.redirect:
      redirect = f"    <redirect title={quoteattr(self.redirect)} />\n"
    text = f'<text xml:space="preserve">{escape(self.text)}</text>'
    if self.deleted:
      text = '<text deleted="deleted" />'
    return (
      f"  <page>\n    <title>{escape(self.title)}</title>\n"
      f"    <ns>{self.namespace}</ns>\n    <id>12</id>\n{redirect}"
      "    <revision>\n      <id>345</id>\n      <contributor>"
      "<username>Title &amp; text</username><id>6</id></contributor>\n"
      f"      <model>{self.model}</model>\n      {text}\n"
      "    </revision>\n  </page>\n"
    )


def header(language: str = "en") -> str:
  names = NAMESPACES.get(language, NAMESPACES["en"])
  rows = "".join(
    f'      <namespace key="{key}" case="first-letter">{name}</namespace>\n'
    if name
    else f'      <namespace key="{key}" case="first-letter" />\n'
    for key, name in names.items()
  )
  return (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" '
    f'version="0.11" xml:lang="{language}">\n  <siteinfo>\n'
    f"    <sitename>Wikipedia</sitename>\n    <dbname>{language}wiki</dbname>\n"
    f"    <namespaces>\n{rows}    </namespaces>\n  </siteinfo>\n"
  )


def dump(pages: Iterable[DumpPage], language: str = "en") -> bytes:
  body = "".join(page.xml() for page in pages)
  return f"{header(language)}{body}</mediawiki>\n".encode()


def multistream(pages: Iterable[DumpPage], language: str = "en") -> bytes:
  """As the published ones: a stream for the head, for pages, for the end."""
  parts = [header(language), *(page.xml() for page in pages), "</mediawiki>\n"]
  return b"".join(bz2.compress(part.encode()) for part in parts)
