"""Names of number types, as people write them."""

from collections.abc import Collection

from odqa_jax.runtime.settings import nearest

_SHORT = {
  "f32": "float32",
  "fp32": "float32",
  "f16": "float16",
  "fp16": "float16",
  "bf16": "bfloat16",
}


def long_dtype(name: str) -> str:
  """NumPy's name of a type, and any other name as it is."""
  return _SHORT.get(name, name)


def read_dtype(name: str, known: Collection[str]) -> str:
  """NumPy's name of a type.

  >>> read_dtype("bf16", ["float32", "bfloat16"])
  'bfloat16'

  Args:
    name: long or short.
    known: what may be named, by the long names.

  Raises:
    ValueError: for anything else.
  """
  found = long_dtype(name)
  if found not in known:
    raise ValueError(f"dtype {name!r}: {nearest(found, known)}")
  return found
