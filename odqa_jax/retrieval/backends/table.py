"""The kinds of index that can be searched, by the name that a user gives.

To add one: a class with the members of `Searchable`, a function that opens it,
and a row in `BACKENDS`.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from odqa_jax.retrieval.backends.host import open_host
from odqa_jax.retrieval.backends.int8 import load_int8
from odqa_jax.retrieval.backends.scann import open_scann
from odqa_jax.retrieval.backends.scann_library import ScannConfig
from odqa_jax.retrieval.index import load_index
from odqa_jax.retrieval.searchable import Searchable
from odqa_jax.retrieval.storage import read_manifest
from odqa_jax.runtime.config import parse_arg
from odqa_jax.runtime.settings import nearest


@dataclasses.dataclass(frozen=True)
class Backend:
  """How rows are held and searched.

  Attributes:
    opens: `(directory, mesh) -> Searchable`; with settings
      `(directory, mesh, settings)`, where None stands for none given.
    description: where the rows lie, and what is found.
    settings: a dataclass whose fields can be set; None: nothing can.
  """

  opens: Callable[..., Searchable]
  description: str
  settings: type | None = None


def open_exact(directory: str | Path, mesh: Mesh) -> Searchable:
  """Places the rows on the devices, in the type that they are stored in."""
  int8 = read_manifest(Path(directory))["dtype"] == "int8"
  return (load_int8 if int8 else load_index)(directory, mesh)


BACKENDS = {
  "exact": Backend(
    open_exact, "rows on the devices; finds the best, of int8 rows nearly"
  ),
  "host": Backend(
    open_host, "rows on the disk of the host; finds the best, batch by batch"
  ),
  "scann": Backend(
    open_scann,
    "rows in the host's memory; finds nearly the best without a device",
    ScannConfig,
  ),
}


def open_index(
  directory: str | Path, mesh: Mesh, *, backend: str = "exact"
) -> Searchable:
  """Opens an index on any number of devices and processes.

  All processes must open it together.

  Args:
    directory: what `build_index` made.
    mesh: the devices that hold it, or search it.
    backend: a name of `BACKENDS`, and settings where it takes some:
      `scann:key=value,…` sets fields of `ScannConfig`, and builds anew where
      the build there has others.

  Raises:
    ImportError: if the backend needs an extra that is not installed.
    ValueError: if the backend or a setting is unknown, a file is missing or
      damaged, or the rows do not fit in memory.
  """
  row, settings = read_backend(backend)
  if row.settings is None:
    return row.opens(directory, mesh)
  return row.opens(directory, mesh, settings)


def read_backend(backend: str) -> tuple[Backend, Any]:
  """The row of `BACKENDS` that is named, and its settings; None if none are.

  Raises:
    ValueError: if the backend or a setting is unknown.
  """
  name, _, text = backend.partition(":")
  if name not in BACKENDS:
    described = "; ".join(f"{n}: {b.description}" for n, b in BACKENDS.items())
    raise ValueError(
      f"backend {name!r} is not known; {nearest(name, BACKENDS)} {described}."
    )
  row = BACKENDS[name]
  if not text:
    return row, None
  if row.settings is None:
    raise ValueError(
      f"backend {backend!r}: {name} takes no settings; leave out {text!r}."
    )
  defaults = dataclasses.asdict(row.settings())
  return row, row.settings(**parse_arg(text, **defaults))
