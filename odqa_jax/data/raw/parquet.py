"""Rows of Parquet files, a batch at a time.

The values are Python's own: a list column gives lists, a struct gives a dict,
a null gives None.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAGIC = b"PAR1"
_ROWS = 256


def _damaged(path: Path, error: Exception) -> ValueError:
  reason = str(error).strip().split("\n", 1)[0]
  return ValueError(
    f"{path}: no whole Parquet file ({reason}); get the file again."
  )


def column_names(path: Path) -> list[str]:
  """Names of the columns, in order.

  Raises:
    ValueError: if the file is damaged.
  """
  import pyarrow
  import pyarrow.parquet

  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      return list(file.schema_arrow.names)
  except (pyarrow.ArrowException, OSError) as error:
    raise _damaged(path, error) from error


def rows(path: Path) -> Iterator[dict[str, Any]]:
  """All rows as dicts; one batch of one row group is held.

  Raises:
    ValueError: if the file is damaged, or two columns share a name.
  """
  import pyarrow
  import pyarrow.parquet

  names = column_names(path)
  if repeated := sorted({n for n in names if names.count(n) > 1}):
    raise ValueError(
      f"{path}: the column {repeated[0]!r} is there more than once; rename one."
    )
  try:
    with pyarrow.parquet.ParquetFile(
      path, page_checksum_verification=True
    ) as file:
      for batch in file.iter_batches(_ROWS, use_threads=False):
        yield from batch.to_pylist()
  except (pyarrow.ArrowException, OSError) as error:
    raise _damaged(path, error) from error
