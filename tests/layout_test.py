"""Keeps the architecture true: import ranks, file sizes, forbidden things."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "odqa_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module may import modules of a lower rank, and those of its own rank.
RANKS = {
  "config": 0,
  "mesh": 0,
  "report": 0,
  "plots": 0,
  "progress": 0,
  "run": 0,
  "metrics": 0,
  "data": 1,
  "models": 2,
  "objectives": 2,
  "retrieval": 2,
  "task": 3,
  "reading": 3,
  "reader_tasks": 3,
  "tasks": 3,
  "optimizer": 3,
  "checkpoint": 3,
  "retriever": 4,
  "initial": 5,
  "initial_reader": 5,
  "lookup": 5,
  "feed": 5,
  "answer_programs": 5,
  "answer_system": 5,
  "answer": 5,
  "evaluate": 6,
  "evaluators": 6,
  "prepare": 6,
  "train": 7,
  "plan_hlo": 0,
  "plan_work": 1,
  "plan_programs": 8,
  "plan": 8,
  "demo_presets": 0,
  "demo_retriever": 8,
  "demo_reader": 8,
  "demo": 8,
  "answer_commands": 9,
  "commands": 9,
  "main": 10,
}

MAX_LINES = 400


def name_of(path: Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      found.add(node.module)
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


@pytest.mark.parametrize(
  "path", FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_one_way(path):
  if path.name == "__init__.py" and path.parent == PACKAGE:
    return
  rank = RANKS[name_of(path)]
  for module in imports(path):
    parts = module.split(".")
    if parts[0] == "odqa_jax" and len(parts) > 1 and parts[1] in RANKS:
      if name_of(path) == "main":
        continue  # The command line may import anything, late.
      assert RANKS[parts[1]] <= rank, f"{path.name} imports {module}"


def test_flax_stays_in_models():
  users = {
    p for p in FILES if any(m.split(".")[0] == "flax" for m in imports(p))
  }
  assert users
  assert all(p.parent.name == "models" for p in users)


@pytest.mark.parametrize("forbidden", ["pickle", "tensorflow", "dill", "torch"])
def test_forbidden_imports(forbidden):
  for path in FILES:
    assert not any(m.split(".")[0] == forbidden for m in imports(path)), path


def test_data_and_metrics_are_free_of_jax():
  for path in FILES:
    if path.parent.name == "data" or path.name == "metrics.py":
      assert not any(m.split(".")[0] == "jax" for m in imports(path)), path


@pytest.mark.parametrize(
  "path", FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_files_stay_readable(path):
  assert len(path.read_text().splitlines()) <= MAX_LINES
