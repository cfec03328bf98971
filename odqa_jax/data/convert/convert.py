"""A dataset folder → files of other tools' formats.

convert(open_content("data", ["dev"]), "beir", "out")
"""

from pathlib import Path
from typing import Any

from odqa_jax.data.convert.content import Content
from odqa_jax.data.convert.targets import TARGETS
from odqa_jax.runtime.artifact import existing, publish
from odqa_jax.runtime.settings import nearest


def check_target(to: str, run: str | Path | None = None) -> None:
  """Raises a ValueError for a format that is not written, or has no runs."""
  if to not in TARGETS:
    raise ValueError(f"--to {to!r}: {nearest(to, TARGETS)}")
  if run is not None and not TARGETS[to].run:
    others = " or ".join(name for name, target in TARGETS.items() if target.run)
    raise ValueError(
      f"--run {run}: {to} has no run files; leave it out, or write --to "
      f"{others}."
    )


def convert(content: Content, to: str, out: str | Path) -> dict[str, Any]:
  """Writes a folder, which appears whole; once more, it does nothing.

  Args:
    content: what is converted.
    to: a key of `TARGETS`.
    out: the folder; a conversion that is there is replaced.

  Returns:
    `to`, `out`, by file how many records it has, and what is `lost`: field by
    field, how passages and questions differ once the files are prepared again.

  Raises:
    ValueError: for an unknown format, content that it cannot hold, or if
      something else lies there.
  """
  check_target(to, content.run)
  made_from = {"to": to, **content.identity()}
  before = existing(out, "converted")
  if before is None or before.manifest["made_from"] != made_from:
    with publish(out, "converted", made_from) as draft:
      draft.counts["records"] = TARGETS[to].write(content, draft.folder)
    manifest = draft.manifest
  else:
    manifest = before.manifest
  return {
    "to": to,
    "out": str(out),
    "files": manifest["records"],
    "lost": {**TARGETS[to].lost_of_passages, **TARGETS[to].lost},
  }
