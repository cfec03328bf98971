"""MediaWiki dumps → one file of passages, as DPR's `psgs_w100.tsv`.

    OUT                 id, text, title between tabs, under csv's quoting rules
    OUT.json            counts with reasons, and what the file is made from
    OUT.failures.tsv    pages that could not be read; absent if there are none
    OUT.parts/          while it is made: what an interrupted run goes on from

The dumps are read by one process and cleaned by all; every part of some
thousand pages is a pure function of its pages (`MakeArticles`). The corpus
that `odqa prepare` builds of OUT marks articles and sentences, so that the
inverse cloze task has its blocks of sentences without another pass.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from odqa_jax.data.parts.files import (
  Arrays,
  Part,
  discard_few,
  pack_texts,
  read_part,
  unpack_texts,
)
from odqa_jax.data.parts.run import Progress, Runner, make_parts
from odqa_jax.data.raw.records import Place, RawFile
from odqa_jax.data.wikipedia.articles import (
  FAILURE,
  WORDS,
  make_article,
  quick_reason,
  tell_language,
)
from odqa_jax.data.wikipedia.dump import ARTICLES, Dump, Page, Site
from odqa_jax.runtime.artifact import lock
from odqa_jax.runtime.files import (
  content_hash,
  file_hash,
  read_json,
  replace_file,
  replacing,
  write_json,
)

# Characters of wikitext in a part: some seconds of work.
_PART_CHARACTERS = 8_000_000
# Raised when the same page comes to other text.
_RULES = 1
_PARSER = "mwparserfromhell"


@dataclass(frozen=True)
class MakeArticles:
  """The stage: pages → the blocks of their articles.

  Attributes:
    words: in a block.
  """

  words: int

  def __call__(self, arrays: Arrays) -> Arrays:
    """The articles of one part, and a report of the other pages."""
    site = _site(str(arrays["site"]))
    texts = unpack_texts(arrays["texts"], arrays["text_lengths"])
    titles, blocks, counts = [], [], []
    reasons: Counter[str] = Counter()
    failures = []
    lines = arrays["lines"].tolist()
    for line, title, text in zip(lines, texts[::2], texts[1::2], strict=True):
      place = Place(Path(), line)
      page = Page(place, title, ARTICLES, False, "wikitext", text, len(text))
      article = make_article(page, site, self.words)
      if article.reason:
        reasons[article.reason] += 1
      else:
        titles.append(title.encode())
        blocks += [block.encode() for block in article.blocks]
        counts.append(len(article.blocks))
      if article.reason == FAILURE:
        failures.append([line, f"page {title!r}: {article.detail}"])
    result = {"blocks": np.array(counts, np.int64)}
    result["titles"], result["title_lengths"] = pack_texts(titles)
    result["texts"], result["text_lengths"] = pack_texts(blocks)
    report = {"reasons": dict(sorted(reasons.items())), "failures": failures}
    result["report"] = np.array(json.dumps(report))
    return result


def _site(text: str) -> Site:
  fields = json.loads(text)
  namespaces = tuple((name, number) for name, number in fields["namespaces"])
  return Site(fields["language"], fields["database"], namespaces)


@dataclass
class _Reading:
  """Dumps read as parts; counts what is left out before it comes to one."""

  files: Sequence[RawFile]
  words: int
  limit: int | None
  articles: int = 0
  reasons: Counter[str] = field(default_factory=Counter)
  # By part, the file that its pages are in.
  paths: list[Path] = field(default_factory=list)

  def parts(self) -> Iterator[Part]:
    """Streams all parts."""
    for file in self.files:
      dump = Dump(file)
      waiting: list[Page] = []
      size = 0
      with contextlib.closing(dump.pages()) as pages:
        for page in pages:
          if self.articles == self.limit:
            break
          if reason := quick_reason(page, dump.site):
            self.reasons[reason] += 1
            continue
          if not self.articles:
            tell_language(dump.site)
          self.articles += 1
          waiting.append(page)
          size += len(page.text or "")
          if size >= _PART_CHARACTERS:
            yield self._part(waiting, dump.site)
            waiting, size = [], 0
      if waiting:
        yield self._part(waiting, dump.site)

  def _part(self, pages: list[Page], site: Site) -> Part:
    texts = chain.from_iterable((p.title, p.text or "") for p in pages)
    packed, lengths = pack_texts([text.encode() for text in texts])
    arrays: Arrays = {
      "texts": packed,
      "text_lengths": lengths,
      "lines": np.array([p.place.number for p in pages], np.int64),
      "site": np.array(json.dumps(asdict(site))),
    }
    self.paths.append(pages[0].place.path)
    digest = hashlib.sha256(content_hash(_rules(self.words)).encode())
    for name, values in arrays.items():
      digest.update(f"{name} {values.dtype} {values.size} ".encode())
      digest.update(values.tobytes())
    return Part(digest.hexdigest(), len(pages), arrays)


def _rules(words: int) -> dict[str, Any]:
  """What the text depends on besides the dump."""
  try:
    version = metadata.version(_PARSER)
  except metadata.PackageNotFoundError as error:
    raise ImportError(
      "reading a Wikipedia dump needs the extra `wikipedia`: pip install "
      "'odqa_jax[wikipedia]'."
    ) from error
  return {"words": words, "rules": _RULES, _PARSER: version}


def build_passages(
  dumps: Sequence[str | Path],
  out: str | Path,
  *,
  words: int = WORDS,
  limit: int | None = None,
  runner: Runner | None = None,
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Writes the passages of dumps, or does nothing if they are there already.

  Args:
    dumps: files of one wiki, in order; ids go on from one to the next.
    out: a name that ends in .tsv or .tsv.gz.
    words: in a passage.
    limit: the first so many pages are read that may be articles (by
      namespace and title, and no redirects); None reads all.
    runner: who cleans the pages; None: this process.
    progress: called as `progress(pages, 0)`.

  Returns:
    Figures: articles, passages, and the pages left out for each reason.

  Raises:
    ValueError: for what is no dump, naming file and line, and if `out` is
      something else.
    ImportError: without the extra `wikipedia`.
  """
  out = Path(out)
  _check(out, words, limit)
  files = [RawFile(path) for path in dumps]
  made_from = _rules(words) | {"limit": limit}
  with lock(out):
    if (known := _finished(out, files, made_from)) is not None:
      return known
    folder = _parts_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    reading = _Reading(files, words, limit)
    stage = MakeArticles(words)
    runner = runner or Runner()
    joined = _Joined(reading)
    try:
      paths = make_parts(stage, reading.parts(), folder, runner, progress)
      with replacing(out) as temporary:
        joined.write(temporary, paths, packed=out.suffix == ".gz")
    except ValueError:
      discard_few(folder)
      raise
    figures = joined.figures()
    made_from["dumps"] = [
      file.digest.hexdigest() if limit is None else file_hash(file.path)
      for file in files
    ]
    _write_failures(_failures_path(out), joined.failures)
    content = {"made_from": made_from, "sha256": file_hash(out)}
    write_json(_report_path(out), content | {"figures": figures})
    shutil.rmtree(folder)
  return figures


def _report_path(out: Path) -> Path:
  return out.with_name(f"{out.name}.json")


def _parts_path(out: Path) -> Path:
  return out.with_name(f"{out.name}.parts")


def _failures_path(out: Path) -> Path:
  return out.with_name(f"{out.name}.failures.tsv")


def _check(out: Path, words: int, limit: int | None) -> None:
  if not out.name.endswith((".tsv", ".tsv.gz")):
    raise ValueError(
      f"--out {out}: the passages are written as TSV, perhaps gzipped; name a "
      "file that ends in .tsv or .tsv.gz."
    )
  if words < 1:
    raise ValueError(f"--words {words}: a passage has one word or more.")
  if limit is not None and limit < 1:
    raise ValueError(f"--limit {limit}: one page or more is read.")
  ours = _report_path(out), _parts_path(out)
  if out.exists() and not any(path.exists() for path in ours):
    raise ValueError(
      f"{out}: exists and was not made by `odqa wikipedia`, so it is not "
      "replaced; name another file, or remove this one."
    )


def _finished(
  out: Path, files: Sequence[RawFile], made_from: dict[str, Any]
) -> dict[str, Any] | None:
  """The figures of `out` if it is what would be written."""
  if not (out.exists() and _report_path(out).exists()):
    return None
  known = read_json(_report_path(out))
  wanted = {k: v for k, v in known["made_from"].items() if k != "dumps"}
  same = (
    wanted == made_from
    and [file_hash(file.path) for file in files] == known["made_from"]["dumps"]
    and file_hash(out) == known["sha256"]
  )
  return known["figures"] if same else None


class _Joined:
  """Writes the parts as one file, and sums up what they report."""

  def __init__(self, reading: _Reading) -> None:
    self.failures: list[tuple[Place, str]] = []
    self._reading = reading
    self._reasons: Counter[str] = Counter()
    self._articles = self._passages = 0

  def write(self, path: Path, parts: Sequence[Path], *, packed: bool) -> None:
    """Writes all parts in order, perhaps gzipped; ids count from 1."""
    self._reasons.update(self._reading.reasons)
    with _text_file(path, packed=packed) as file:
      rows = csv.writer(file, delimiter="\t", lineterminator="\n")
      rows.writerow(("id", "text", "title"))
      for part, source in zip(parts, self._reading.paths, strict=True):
        for title, text in self._rows(read_part(part), source):
          self._passages += 1
          rows.writerow((self._passages, text, title))
    if not self._passages:
      names = ", ".join(str(file.path) for file in self._reading.files)
      raise ValueError(
        f"{names}: no passage; left out: {dict(self._reasons)}; check that it "
        "is a dump of articles (*-pages-articles.xml)."
      )

  def _rows(self, arrays: Arrays, source: Path) -> Iterator[tuple[str, str]]:
    report = json.loads(str(arrays["report"]))
    self._reasons.update(report["reasons"])
    for line, reason in report["failures"]:
      self.failures.append((Place(source, line), reason))
    titles = unpack_texts(arrays["titles"], arrays["title_lengths"])
    texts = unpack_texts(arrays["texts"], arrays["text_lengths"])
    ends = np.cumsum(arrays["blocks"]).tolist()
    self._articles += len(titles)
    for title, (first, end) in zip(titles, pairwise([0, *ends]), strict=True):
      for text in texts[first:end]:
        yield title, text

  def figures(self) -> dict[str, Any]:
    """What was kept, and what was left out for which reason."""
    return {
      "pages": self._articles + sum(self._reasons.values()),
      "articles": self._articles,
      "passages": self._passages,
      "left_out": dict(sorted(self._reasons.items())),
    }


@contextlib.contextmanager
def _text_file(path: Path, *, packed: bool) -> Iterator[TextIO]:
  with path.open("wb") as raw, contextlib.ExitStack() as stack:
    # Without a name and a time the same rows are the same bytes.
    binary: Any = raw
    if packed:
      binary = stack.enter_context(
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
      )
    text = io.TextIOWrapper(binary, "utf-8", newline="")
    yield text
    text.flush()
    text.detach()


def _write_failures(path: Path, failures: list[tuple[Place, str]]) -> None:
  """As `Rejections` writes them: FILE:LINE, a tab, the reason."""
  lines = [
    f"{place}\t{' '.join(reason.split())}\n" for place, reason in failures
  ]
  if lines:
    replace_file(path, "".join(lines).encode())
  else:
    path.unlink(missing_ok=True)
