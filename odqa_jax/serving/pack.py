"""A system in one file, and what its bytes are for.

contents("small.odqa")  # {"runtime": 0, "models": …, "index": …, …}
"""

from pathlib import Path

from odqa_jax.serving.packed import container


def contents(path: str | Path) -> dict[str, int]:
  """Bytes by part of a system in one file.

  Args:
    path: of the pack.

  Returns:
    runtime (0: it is beside the file, see `launch/minimal.sh`), models, index,
    text, tokenizer, other → bytes; together they are the file.

  Raises:
    ValueError: if it is no pack, or damaged.
  """
  return {"runtime": 0} | container.contents(path)
