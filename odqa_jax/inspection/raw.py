"""Pages of single files: raw questions and passages, runs, reports, arrays."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from odqa_jax.data.corpus.passages import PassageFile
from odqa_jax.data.formats.files import choose_format, read_questions
from odqa_jax.data.formats.table import FORMATS
from odqa_jax.data.raw.records import RawFile
from odqa_jax.inspection.artifacts import fill_questions
from odqa_jax.inspection.models import add_metrics
from odqa_jax.inspection.page import Page, size_of
from odqa_jax.runtime.files import file_hash, read_json
from odqa_jax.runtime.pickles import pickle_sign

# Records read of a file, so that a page of the largest takes seconds.
READ = 200_000
_RECALLS = (1, 5, 20, 100)


def file_page(path: Path, n: int) -> Page:
  """The page of a file, told by its content."""
  page = Page(str(path), "file", "a file that nothing here reads")
  size = path.stat().st_size
  try:
    if not size:
      raise ValueError(f"{path}: is empty; make it anew.")
    if sign := pickle_sign(path):
      page.kind = "pickle"
      raise ValueError(
        f"{path}: {sign}; pickles can run code and none is opened here; save "
        "weights as safetensors and arrays as .npy where you trust them."
      )
    _told(page, path, n)
  except (ValueError, OSError) as error:
    page.problems.append(" ".join(str(error).split()))
  page.facts["size"] = size_of(size)
  # A hash that takes longer than the reading is left out.
  if size < 1 << 30:
    page.facts["sha256"] = file_hash(path)
  return page


def _told(page: Page, path: Path, n: int) -> None:
  with path.open("rb") as file:
    start = file.read(6)
  if start == b"\x93NUMPY":
    _array(page, path, n)
  elif path.name == "report.json":
    _report(page, path)
  elif path.name == "metrics.jsonl":
    page.kind, page.about = "metrics", "what a training run measured"
    add_metrics(page, path, n)
  elif (runs := _run_lines(path)) is not None:
    _run(page, *runs, n)
  else:
    _records(page, path, n)


def _array(page: Page, path: Path, n: int) -> None:
  page.kind, page.about = "array", "a NumPy array"
  array = np.load(path, mmap_mode="r", allow_pickle=False)
  page.facts = {"shape": list(array.shape), "type": str(array.dtype)}
  for row in range(min(n, len(array) if array.ndim else 0)):
    values = np.ravel(array[row])[:8].tolist()
    page.records.append((f"row {row}", {"values": values}))


def _report(page: Page, path: Path) -> None:
  page.kind, page.about = "report", "the figures of a whole run"
  report = read_json(path)
  page.facts = {
    k: report.get(k) for k in ("seed", "seconds", "versions") if report.get(k)
  }
  rows = report.get("rows")
  if not isinstance(rows, list):
    raise ValueError(f"{path}: has no rows; write it again.")
  flat = [_flat(row) for row in rows if isinstance(row, dict)]
  names = list(dict.fromkeys(name for row in flat for name in row))
  cells = [[row.get(name, "") for name in names] for row in flat]
  page.tables["rows"] = [names, *cells]


def _flat(row: dict[str, Any]) -> dict[str, str]:
  """Nested figures as `recall@20`."""
  cells: dict[str, str] = {}
  for name, value in row.items():
    if isinstance(value, dict):
      cells |= {f"{name}@{k}": _cell(v) for k, v in value.items()}
    else:
      cells[name] = _cell(value)
  return cells


def _cell(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---- Runs ----


Line = tuple[str, str, float, bool | None]


def _run_lines(path: Path) -> tuple[str, Iterator[Line]] | None:
  """(format, (question, passage, score, has_answer)…) of a run file."""
  file = RawFile(path)
  try:
    if file.first_byte() in (b"[", b"{"):
      record = next(iter(file.json_records()), (None, {}))[1]
      ctxs = record.get("ctxs") if isinstance(record, dict) else None
      if isinstance(ctxs, list):
        return "DPR's JSON", _json_run(file)
      return None
    first = next(iter(file.lines()), (None, ""))[1].split()
  except ValueError:
    # Parquet, or damaged: the formats say which.
    return None
  if len(first) != 6 or not (_is_number(first[3]) and _is_number(first[4])):
    return None
  return "TREC", _trec_run(file)


def _is_number(text: str) -> bool:
  try:
    return math.isfinite(float(text))
  except ValueError:
    return False


def _trec_run(file: RawFile) -> Iterator[Line]:
  for place, line in file.lines():
    fields = line.split()
    if len(fields) != 6 or not _is_number(fields[4]):
      raise ValueError(
        f"{place}: {line[:60]!r} is not a run line "
        "(`qid Q0 docid rank score tag`); mend or remove it."
      )
    yield fields[0], fields[2], float(fields[4]), None


def _json_run(file: RawFile) -> Iterator[Line]:
  for place, record in file.json_records():
    name = str(record.get("id", record.get("question")))
    for passage in record.get("ctxs") or ():
      if not isinstance(passage, dict) or "id" not in passage:
        raise ValueError(f"{place}: a passage of it has no id; mend it.")
      score = float(passage.get("score", "nan"))
      known = passage.get("has_answer")
      yield name, str(passage["id"]), score, known


def _run(page: Page, format: str, lines: Iterator[Line], n: int) -> None:
  page.kind, page.about = "run", f"a ranking of passages ({format})"
  ranked: dict[str, list[Line]] = defaultdict(list)
  for line in lines:
    ranked[line[0]].append(line)
  counts = np.array([len(lines) for lines in ranked.values()], int)
  scores = [line[2] for lines in ranked.values() for line in lines]
  page.facts = {
    "format": format,
    "questions": len(ranked),
    "passages of a question": f"{counts.min()} to {counts.max()}",
    "passages": len({line[1] for lines in ranked.values() for line in lines}),
    "scores": f"{min(scores):.4g} to {max(scores):.4g}",
  }
  known = [[line[3] for line in lines] for lines in ranked.values()]
  if all(value is not None for values in known for value in values):
    page.facts["recall by its has_answer"] = {
      f"@{k}": float(np.mean([any(values[:k]) for values in known]))
      for k in _RECALLS
      if k <= counts.max()
    }
  rising = [q for q, lines in ranked.items() if _rises(lines)]
  page.facts["scores that rise with the rank"] = rising[:5]
  for question, best in itertools.islice(ranked.items(), n):
    shown = {
      f"{i + 1}": f"{p}  {s:.6g}" for i, (_, p, s, _) in enumerate(best[:3])
    }
    page.records.append((f"question {question}", shown))


def _rises(lines: list[Line]) -> bool:
  return any(b[2] > a[2] for a, b in itertools.pairwise(lines))


# ---- Raw records ----


def _records(page: Page, path: Path, n: int) -> None:
  """Questions, passages, or both, as the formats detect them."""
  told = 0
  errors: list[str] = []
  for content, fill in (("questions", _asked), ("passages", _evidence)):
    try:
      format, reason = choose_format(path, content)  # type: ignore[arg-type]
      if content == "passages" and told and format.name.startswith("passages_"):
        continue  # Rows of questions, which any rows are taken for.
      part = page if not told else Page(str(path), "file", "")
      part.facts[f"{content} as"] = f"{format.name} ({reason}): {format.about}"
      fill(part, path, format.name, n)
    except (ValueError, OSError) as error:
      errors.append(f"{' '.join(str(error).split())} (read as {content})")
      continue
    if told:
      page.facts |= part.facts
      page.records += part.records
      page.histograms += part.histograms
      page.kind, page.about = "raw file", "raw questions and their passages"
    told += 1
  if not told:
    page.problems += errors


def _asked(page: Page, path: Path, format: str, n: int) -> None:
  questions = list(itertools.islice(read_questions(path, format), READ))
  _check_some(path, format, "questions", len(questions))
  page.kind, page.about = "raw questions", "for odqa prepare --questions"
  page.facts["questions"] = _count(len(questions))
  fill_questions(page, questions, n, None)


def _check_some(path: Path, format: str, content: str, count: int) -> None:
  """A file that looks like a format and has nothing of it is something else."""
  if not count:
    raise ValueError(f"{path}: as {format} it holds no {content}.")


def _count(read: int) -> int | str:
  return read if read < READ else f"{READ:,} and more; so many were read"


def _evidence(page: Page, path: Path, format: str, n: int) -> None:
  source = PassageFile(path, FORMATS[format])
  lengths: list[int] = []
  titles = 0
  for passage, number in itertools.islice(source.records(), READ):
    if len(lengths) < n:
      fields = {"title": passage.title, "text": passage.text}
      page.records.append((f"passage {passage.id} ({number})", fields))
    lengths.append(len(passage.text.split()))
    titles += bool(passage.title)
  _check_some(path, format, "passages", len(lengths))
  page.kind, page.about = "raw passages", "for odqa prepare --corpus"
  page.facts |= {"passages": _count(len(lengths)), "with a title": titles}
  page.add_histogram("words of a passage", np.array(lengths, int))
