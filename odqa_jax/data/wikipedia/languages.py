"""What differs between the Wikipedias: names of pages that are no articles.

Karpukhin et al. 2020 (DPR), Sec. 4.1, leave out "disambiguation pages", and
with DrQA's pre-processing pages named "List of …", "Index of …" and "Outline
of …". Deviation: "Lists of …" too, and the same in other languages.

A language that is not in `LANGUAGES` gets the English rules alone, which
`unknown_parts` says: templates and titles of its own go unnoticed.
"""

import dataclasses
import re

_ENGLISH_TEMPLATES = (
  "disambiguation disambig disamb dab hndis geodis tndis mathdab numberdis "
  "schooldis roadindex letter–numbercombdisambig disambiguation_cleanup "
  "disambiguation_page"
)


@dataclasses.dataclass(frozen=True)
class Language:
  """The pages of one language that are no articles.

  Attributes:
    mark: what stands in brackets at the end of a disambiguation page's title.
    templates: names that only disambiguation pages use; "_" for a space.
    lists: a pattern of the titles of lists.
  """

  mark: str = "disambiguation"
  templates: str = ""
  lists: str = r"(?!)"


LANGUAGES: dict[str, Language] = {
  "en": Language(
    templates=_ENGLISH_TEMPLATES,
    lists=r"(?:Lists?|Index|Outline) of .",
  ),
  "simple": Language(templates=_ENGLISH_TEMPLATES, lists=r"Lists? of ."),
  "ar": Language("توضيح", "توضيح صفحة_توضيح", r"قائمة "),
  "ca": Language("desambiguació", "desambiguació", r"Llist(?:a|es) d"),
  "cs": Language("rozcestník", "rozcestník", r"Seznam "),
  "da": Language("flertydig", "flertydig", r"Liste over ."),
  "de": Language(
    "Begriffsklärung",
    "begriffsklärung",
    r"Listen? (?:der|von|des|deutscher|aller) .",
  ),
  "es": Language(
    "desambiguación", "desambiguación des", r"(?:Anexo:|Lista de)"
  ),
  "fa": Language("ابهام‌زدایی", "ابهام‌زدایی", r"فهرست "),
  "fi": Language("täsmennyssivu", "täsmennyssivu", r"Luettelo "),
  "fr": Language(
    "homonymie",
    "homonymie patronyme toponymie paronymie",
    r"Listes? (?:de|des|du|d)\b.",
  ),
  "he": Language("פירושונים", "פירושונים", r"רשימת "),
  "hu": Language("egyértelműsítő lap", "egyért egyért-redir", r".*listája$"),
  "id": Language("disambiguasi", "disambiguasi disambig", r"Daftar ."),
  "it": Language("disambigua", "disambigua", r"Lista d"),
  "ja": Language(
    "曖昧さ回避", "aimai 曖昧さ回避 人名の曖昧さ回避", r".*(?:の)?一覧$"
  ),
  "ko": Language("동음이의", "동음이의 동음이의어", r".*목록$"),
  "nl": Language("doorverwijspagina", "dp doorverwijspagina", r"Lijst van ."),
  "no": Language(
    "andre betydninger", "peker andrebetydninger", r"Liste over ."
  ),
  "pl": Language("ujednoznacznienie", "ujednoznacznienie disambig", r"Lista ."),
  "pt": Language("desambiguação", "desambiguação desambig", r"Lista d"),
  "ro": Language("dezambiguizare", "dezambiguizare dezambig", r"Listă d"),
  "ru": Language(
    "значения", "неоднозначность многозначность disambig", r"Список "
  ),
  "sv": Language("olika betydelser", "förgrening gren", r"Lista över ."),
  "th": Language("แก้ความกำกวม", "แก้กำกวม", r"รายชื่อ"),
  "tr": Language("anlam ayrımı", "anlam_ayrımı anlam_ayrım", r".*listesi$"),
  "uk": Language("значення", "disambig багатозначність", r"Список "),
  "vi": Language("định hướng", "định_hướng trang_định_hướng", r"Danh sách "),
  "zh": Language(
    "消歧义", "disambig 消歧义 消歧義 hndis geodis", r".*(?:列表|一覽)$"
  ),
}
_UNSPACED = frozenset(
  "bo dz gan ja km lo lzh my th wuu yue zh zh-classical zh-yue".split()
)
_ENGLISH = LANGUAGES["en"]
# A book and a film whose title is that of a list in some languages.
_SCHINDLER = re.compile(r"Schindler|Шиндлера|Шіндлера|שינדלר|شندلر|شیندلر")


def language_of(code: str) -> Language:
  """The rules of a language; none but the English ones for most."""
  return LANGUAGES.get(code, Language())


def has_spaces(code: str) -> bool:
  """Whether spaces divide the words of a language."""
  return code not in _UNSPACED


def is_list(title: str, code: str) -> bool:
  """Whether a page of that title is a list, an index or an outline."""
  patterns = (_ENGLISH.lists, language_of(code).lists)
  if _SCHINDLER.search(title):
    return False
  return any(re.match(pattern, title) for pattern in patterns)


def is_disambiguation(title: str, code: str) -> bool:
  """Whether the title says so; also "… (disambiguation page)", as in DrQA."""
  if not title.endswith((")", "）")):
    return False
  _, _, last = title.replace("（", "(").rpartition("(")
  mark = last[:-1].strip().casefold().removesuffix(" page")
  return mark in (_ENGLISH.mark, language_of(code).mark.casefold())


def disambiguates(template: str, code: str) -> bool:
  """Whether only disambiguation pages use the template of that name."""
  name = template.replace(" ", "_").casefold()
  known = f"{_ENGLISH.templates} {language_of(code).templates}".split()
  return name in known or name.endswith("_disambiguation")


def unknown_parts(code: str) -> str:
  """What goes unnoticed in a language, as a line for people; "" if nothing."""
  parts = []
  if code not in LANGUAGES:
    parts.append("disambiguation and list pages are known by English names")
  if code not in ("en", "simple"):
    parts.append(
      "templates inside sentences are kept by the names of the English "
      "Wikipedia, and sentences are cut by English rules"
    )
  return "; ".join(parts)
