"""HTML as a tree, so that no text of a run can become markup.

    page = document("A run", [element("p", "1 < 2", class_="note")])

Everything is escaped when the tree is written; there are no templates.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from importlib import resources
from xml.etree import ElementTree

Element = ElementTree.Element
Child = Element | str | None
# Begins every page, by which `--out` knows what it may replace.
MARK = "<!DOCTYPE html><!-- odqa report -->"
# Controls, and halves of characters.
_UNSHOWN = ("Cc", "Cs")


def clean(text: str) -> str:
  """Text without what no page may hold; line ends stay."""
  return "".join(
    "␣" if unicodedata.category(c) in _UNSHOWN and c not in "\n\t" else c
    for c in text
  )


def element(tag: str, *children: Child, **attributes: object) -> Element:
  """A tag with what is in it.

  Args:
    tag: its name.
    *children: elements and texts; None is left out.
    **attributes: `class_` is "class", `font_size` is "font-size"; None is left
      out.
  """
  made = ElementTree.Element(
    tag,
    {
      name.strip("_").replace("_", "-"): clean(str(value))
      for name, value in attributes.items()
      if value is not None
    },
  )
  for child in children:
    if isinstance(child, Element):
      made.append(child)
    elif child is not None and len(made):
      made[-1].tail = (made[-1].tail or "") + clean(child)
    elif child is not None:
      made.text = (made.text or "") + clean(child)
  return made


def table(
  head: Sequence[Child],
  rows: Iterable[Sequence[Child]],
  *,
  right: Sequence[int] = (),
) -> Element:
  """A table that scrolls by itself where it is too wide.

  Args:
    head: of the columns.
    rows: of cells.
    right: the columns that are aligned to the right.
  """

  def line(tag: str, cells: Sequence[Child]) -> Element:
    return element(
      "tr",
      *(
        element(tag, cell, class_="number" if i in right else None)
        for i, cell in enumerate(cells)
      ),
    )

  return element(
    "div",
    element(
      "table",
      element("thead", line("th", head)),
      element("tbody", *(line("td", row) for row in rows)),
    ),
    class_="wide",
    # So that keys can scroll it.
    tabindex=0,
  )


def section(title: str, *children: Child) -> Element:
  """A part of the page under a heading."""
  return element("section", element("h2", title), *children)


def document(title: str, body: Iterable[Child]) -> bytes:
  """A whole page, in UTF-8."""
  style = resources.files(__package__).joinpath("page.css").read_text()
  page = element(
    "html",
    element(
      "head",
      element("meta", charset="utf-8"),
      element(
        "meta",
        name="viewport",
        content="width=device-width, initial-scale=1",
      ),
      # Nothing is loaded, and nothing runs.
      element(
        "meta",
        http_equiv="Content-Security-Policy",
        content="default-src 'none'; style-src 'unsafe-inline'",
      ),
      element("title", title),
      element("style", style),
    ),
    element("body", *body),
    lang="en",
  )
  text = ElementTree.tostring(page, encoding="unicode", method="html")
  return f"{MARK}\n{text}\n".encode()
