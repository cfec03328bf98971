"""Keeps the architecture true: import ranks, file sizes, forbidden things."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "odqa_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Folders in the order in which data flows. A module may import from folders
# before its own, from its own, and from those that share its line.
FLOW = (
  ("runtime",),
  ("text",),
  ("data",),
  ("models", "objectives"),
  ("retrieval",),
  ("reading",),
  ("training", "evaluation"),
  ("serving",),
  ("plan", "demo", "inspection"),
  ("commands",),
)
# Within `data`, raw files become stores, and stores become examples.
DATA_FLOW = (
  ("raw", "parts"),
  ("corpus",),
  ("wikipedia",),
  ("questions", "embedded"),
  ("formats",),
  ("runs", "run_passages"),
  ("mining", "exclusions"),
  ("preparation",),
  ("prepare", "examples"),
  ("convert",),
)
RANKS = {name: i for i, names in enumerate(FLOW) for name in names}
DATA_RANKS = {name: i for i, names in enumerate(DATA_FLOW) for name in names}

MAX_CODE_LINES = 300


def parts_of(path: Path) -> tuple[str, ...]:
  return path.relative_to(PACKAGE).with_suffix("").parts


def imports(path: Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      found.add(node.module)
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def code_lines(text: str) -> int:
  """Lines that hold code: no blank lines, comments, and docstrings."""
  tree = ast.parse(text)
  documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
  docstrings: set[int] = set()
  for node in ast.walk(tree):
    if isinstance(node, documented) and ast.get_docstring(node) is not None:
      first = node.body[0]
      docstrings |= set(range(first.lineno, (first.end_lineno or 0) + 1))
  skipped = tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE
  counted: set[int] = set()
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type not in skipped and token.string.strip():
      counted |= set(range(token.start[0], token.end[0] + 1))
  return len(counted - docstrings)


def test_lines_of_code_are_counted_without_words():
  text = (
    '"""A\nmodule."""\n\n# Why.\ndef f(\n  a,\n):\n  """Doc."""\n  return a\n'
  )
  assert code_lines(text) == 4


@pytest.mark.parametrize(
  "path", FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_one_way(path):
  mine = parts_of(path)
  if len(mine) == 1:
    return  # The face of the package, and the command line.
  for module in imports(path):
    package, *theirs = module.split(".")
    if package != "odqa_jax" or not theirs or theirs[0] not in RANKS:
      continue
    assert RANKS[theirs[0]] <= RANKS[mine[0]], f"{path} imports {module}"
    if mine[0] == theirs[0] == "data" and len(theirs) > 1:
      if theirs[1] in DATA_RANKS and mine[1] in DATA_RANKS:
        rank = DATA_RANKS[mine[1]]
        assert DATA_RANKS[theirs[1]] <= rank, f"{path} imports {module}"


def test_every_file_has_a_room():
  top = {"__init__", "main"}
  assert {parts_of(p)[0] for p in FILES} <= top | set(RANKS)


def test_flax_stays_in_models():
  users = {
    p for p in FILES if any(m.split(".")[0] == "flax" for m in imports(p))
  }
  assert users
  assert all(parts_of(p)[0] == "models" for p in users)


@pytest.mark.parametrize("forbidden", ["pickle", "tensorflow", "dill", "torch"])
def test_forbidden_imports(forbidden):
  for path in FILES:
    assert not any(m.split(".")[0] == forbidden for m in imports(path)), path


def test_text_and_data_are_free_of_jax():
  for path in FILES:
    if parts_of(path)[0] in ("text", "data"):
      assert not any(m.split(".")[0] == "jax" for m in imports(path)), path


@pytest.mark.parametrize(
  "path", FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_files_stay_readable(path):
  assert code_lines(path.read_text()) <= MAX_CODE_LINES
