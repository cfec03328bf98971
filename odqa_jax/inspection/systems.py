"""Pages of systems: what `odqa assemble` and `odqa fuse` make."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from odqa_jax.inspection.page import Page, Parent, short
from odqa_jax.reading.fusion import load_fusion
from odqa_jax.runtime.files import read_json
from odqa_jax.serving.system_folder import SYSTEM, open_system, part_hash

# A fusion has a few numbers.
_LARGEST = 1 << 20


def is_fusion(path: Path) -> bool:
  """Whether a file says of itself that it is a fusion."""
  if path.suffix != ".json" or path.stat().st_size > _LARGEST:
    return False
  try:
    content: Any = read_json(path)
  except (ValueError, OSError):
    return False
  return isinstance(content, dict) and content.get("kind") == "fusion"


def fusion_page(path: Path) -> Page:
  """Weights of components, and what they were tuned for."""
  page = Page(str(path), "fusion", "how the scores of components are weighed")
  try:
    fusion = load_fusion(path)
  except (ValueError, OSError) as error:
    page.problems.append(" ".join(str(error).split()))
    return page
  choice = "the answer is always a span"
  if (by := fusion.choice) is not None:
    choice = (
      f"the span, where {by.fused:.4g} of its fused score, {by.generated:+.4g} "
      f"of the generated answer's and {by.bias:+.4g} are not below 0"
    )
  page.facts = {
    "weights": dict(fusion.weights),
    "span or generated": choice,
    "tuned on": dict(fusion.tuned_on),
    "chosen on": fusion.chosen_on or "not kept",
    "l2": fusion.l2,
    "versions": {n: short(v) for n, v in fusion.components.items()},
  }
  return page


def system_page(folder: Path, inspect: Callable[[Path], Page]) -> Page:
  """The parts of a system, and whether they are what they were.

  Args:
    folder: with `system.json`.
    inspect: the page of a part.
  """
  page = Page(str(folder), "system", "parts that answer together")
  try:
    content = read_json(folder / SYSTEM)
    for name, part in content["parts"].items():
      path = Path(os.path.normpath(folder / part["path"]))
      page.parents.append(_state(name, path, str(part["sha256"])))
      if path.exists():
        page.parts[name] = inspect(path)
  except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
    message = error if isinstance(error, ValueError | OSError) else repr(error)
    page.problems.append(f"{folder / SYSTEM}: {message}; assemble it again.")
    return page
  try:
    system = open_system(folder)
    versions = {n: short(v) for n, v in system.versions.items()}
    page.facts["versions of components"] = versions
  except (ValueError, OSError) as error:
    page.problems.append(" ".join(str(error).split()))
  return page


def _state(name: str, path: Path, version: str) -> Parent:
  """A part, and whether it is the one that the system was assembled with."""
  if not path.exists():
    return Parent(name, version, "not found")
  same = part_hash(path) == version
  return Parent(name, version, "same" if same else "other", str(path))
