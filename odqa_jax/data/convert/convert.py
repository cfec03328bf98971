"""A dataset folder → files of other tools' formats.

convert(open_content("data", ["dev"]), "beir", "out")
"""

from pathlib import Path
from typing import Any

from odqa_jax.data.convert.content import Content
from odqa_jax.data.convert.targets import TARGETS
from odqa_jax.runtime.artifact import existing, publish
from odqa_jax.runtime.settings import nearest


def check_target(to: str) -> None:
  """Raises a ValueError for a format that is not written."""
  if to not in TARGETS:
    raise ValueError(f"--to {to!r}: {nearest(to, TARGETS)}")


def convert(content: Content, to: str, out: str | Path) -> dict[str, Any]:
  """Writes a folder, which appears whole; once more, it does nothing.

  Args:
    content: what is converted.
    to: a key of `TARGETS`.
    out: the folder; a conversion that is there is replaced.

  Returns:
    `to`, `out`, and by file how many records it has.

  Raises:
    ValueError: for an unknown format, content that it cannot hold, or if
      something else lies there.
  """
  check_target(to)
  made_from = {"to": to, **content.identity()}
  before = existing(out, "converted")
  if before is None or before.manifest["made_from"] != made_from:
    with publish(out, "converted", made_from) as draft:
      draft.counts["records"] = TARGETS[to].write(content, draft.folder)
    manifest = draft.manifest
  else:
    manifest = before.manifest
  return {"to": to, "out": str(out), "files": manifest["records"]}
