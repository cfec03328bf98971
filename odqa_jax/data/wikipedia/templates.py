"""Templates inside sentences, and what is left of them.

Most templates are boxes, notes and marks, and go. Without these a sentence
would lack a word. Their names are those of the English Wikipedia; many other
Wikipedias use some of them (`lang`, `nowrap`, `abbr`, …).
"""

import re
from collections.abc import Callable, Sequence

Parameters = Sequence[str]

# The parameter that is the text.
_FIRST = (
  "abbr tooltip nowrap nobr nowraplinks nobold noitalic small smaller big "
  "larger sc smallcaps small_caps allcaps caps math mvar var em strong bold "
  "italic sub sup ill interlanguage_link link-interwiki flag flagu flagcountry "
  "quote blockquote cquote quotation rquote bquote formatnum lc uc lcfirst "
  "ucfirst keypress key char typo sic not_a_typo notatypo proper_name "
  "linktext w:link langue unicode polytonic script u underline samp code mono "
  "no_bold nowrapped chem2 native_name okina'd gender"
)
_SECOND = "lang langx font color colour fontcolor resize lang-xx"
_LAST = "transl transliteration script/hebrew"
_FIXED = {
  "!": "|",
  "=": "=",
  "'": "'",
  "'s": "'s",
  '"': '"',
  "·": " · ",
  "•": " • ",
  "dot": " · ",
  "bull": " • ",
  "-": "-",
  "–": "–",
  "ndash": "–",
  "en_dash": "–",
  "mdash": "—",
  "em_dash": "—",
  "snd": " – ",
  "spnd": " – ",
  "spaced_ndash": " – ",
  "spaced_en_dash": " – ",
  "spaced_mdash": " — ",
  "nbsp": " ",
  "nbs": " ",
  "space": " ",
  "spaces": " ",
  "thinsp": " ",
  "zwsp": "",
  "zwj": "\u200d",
  "zwnj": "\u200c",
  "shy": "",
  "wbr": "",
  "okina": "ʻ",
  "hamza": "ʾ",
  "ayin": "ʿ",
  "degree": "°",
  "pi": "π",
  "ell": "…",
  "...": "...",
}
_UNITS_BETWEEN = ("to", "and", "or", "by", "x", "×", "-", "–", "to(-)", "+/-")
_NUMBER = re.compile(r"[-+−]?[\d.,]*\d(?:[+ ]?\d*[/⁄]\d+)?(?:e[-+]?\d+)?")


def _convert(values: Parameters) -> str:
  """`{{convert|5|to|7|km|mi}}` → "5 to 7 km"; what it converts to is left."""
  words: list[str] = []
  rest = list(values)
  while rest and _NUMBER.fullmatch(rest[0]):
    words.append(rest.pop(0))
    if len(rest) > 1 and rest[0] in _UNITS_BETWEEN:
      words.append({"-": "–", "to(-)": "to"}.get(rest[0], rest[0]))
      rest.pop(0)
    elif rest:
      words.append(rest.pop(0))
  return " ".join(words).replace(" – ", "–")


def _value(values: Parameters) -> str:
  return values[0] if values else ""


def _fraction(values: Parameters) -> str:
  """`{{frac|1|2|3}}` is one and two thirds."""
  match list(values):
    case [one]:
      return f"1/{one}"
    case [above, below]:
      return f"{above}/{below}"
    case [whole, above, below]:
      return f"{whole} {above}/{below}"
  return ""


def _circa(values: Parameters) -> str:
  return " ".join(["c.", *values[:1]])


def _as_of(values: Parameters) -> str:
  return " ".join(["As of", *values[:1]])


def _nihongo(values: Parameters) -> str:
  """English, then Japanese and its transliteration in brackets."""
  others = ", ".join(value for value in values[1:3] if value)
  return f"{values[0]} ({others})" if others else _value(values)


def _ship(values: Parameters) -> str:
  return " ".join(value for value in values[:2] if value)


def _joined(values: Parameters) -> str:
  return "".join(values)


def _money(sign: str) -> Callable[[Parameters], str]:
  return lambda values: f"{sign}{_value(values)}"


_FUNCTIONS: dict[str, Callable[[Parameters], str]] = {
  "convert": _convert,
  "cvt": _convert,
  "val": _value,
  "frac": _fraction,
  "fraction": _fraction,
  "sfrac": _fraction,
  "sqrt": lambda values: f"√{_value(values)}",
  "circa": _circa,
  "c.": _circa,
  "ca.": _circa,
  "as_of": _as_of,
  "nihongo": _nihongo,
  "ship": _ship,
  "chem": _joined,
  "su": _joined,
  "us$": _money("US$"),
  "usd": _money("US$"),
  "£": _money("£"),
  "gbp": _money("£"),
  "€": _money("€"),
  "euro": _money("€"),
  "¥": _money("¥"),
  "inr": _money("₹"),
  "₹": _money("₹"),
}
_NAVIES = ("uss", "hms", "hmas", "hmcs", "ss", "rms", "sms", "hmnzs")
_POSITIONS = {
  name: position
  for position, names in ((0, _FIRST), (1, _SECOND), (-1, _LAST))
  for name in names.split()
}


def normal_name(name: str) -> str:
  """A template's name as the tables here spell it."""
  name = " ".join(name.replace("_", " ").split()).casefold()
  return name.removeprefix("template:").replace(" ", "_")


def _split_function(name: str) -> tuple[str, list[str]]:
  """`{{lc:Word}}` names its first parameter after a colon."""
  function, colon, value = name.partition(":")
  if colon and normal_name(function) in ("formatnum", "lc", "uc"):
    return normal_name(function), [value.strip()]
  return normal_name(name), []


def is_kept(name: str) -> bool:
  """Whether `inline_text` has something to say about a template."""
  plain, _ = _split_function(name)
  return (
    plain in _POSITIONS
    or plain in _FIXED
    or plain in _FUNCTIONS
    or plain in _NAVIES
    or plain in ("pagename", "fullpagename")
    or plain.startswith("lang-")
  )


def inline_text(name: str, values: Parameters, title: str) -> str:
  """What a template leaves in its sentence; "" for most.

  Args:
    name: of the template.
    values: its parameters without names, in order, as text.
    title: of the page.
  """
  plain, first = _split_function(name)
  values = [value.strip() for value in (*first, *values)]
  if plain in _FIXED:
    return _FIXED[plain]
  if plain in ("pagename", "fullpagename"):
    return title
  if plain in _FUNCTIONS:
    return _FUNCTIONS[plain](values) if values or plain == "circa" else ""
  if plain in _NAVIES:
    return " ".join([plain.upper(), *values[:1]])
  position = 0 if plain.startswith("lang-") else _POSITIONS.get(plain)
  if position is None or len(values) <= max(position, 0):
    return ""
  return values[position]
