"""What the components of a checkpoint can do, by role.

A unified reader is a retriever and an extractive reader in one. Whoever needs
one of the two asks here, and need not know of it:

    described = roles(extra["components"])["retriever"]
    params = role_params("retriever", extra["components"], params)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odqa_jax.models.families import describe, network_from
from odqa_jax.models.unified_reader import as_retriever

UNIFIED = "unified_reader"
# What a unified reader can do.
_PLAYED = ("retriever", "extractive_reader")

Description = Mapping[str, Any]


def roles(components: Mapping[str, Description]) -> dict[str, Description]:
  """Role → what there is for it, its descriptions as checkpoints hold them.

  Args:
    components: of the checkpoint, by name.
  """
  known = dict(components)
  if UNIFIED in components:
    unified = components[UNIFIED]
    network = network_from(unified)
    for role, part in zip(
      _PLAYED, (network.retriever, network.reader), strict=True
    ):
      known.setdefault(role, {**unified, **describe(part)})
  return known


def described_role(
  where: str | Path, components: Mapping[str, Description], *wanted: str
) -> tuple[str, Description]:
  """The first of some roles that a checkpoint has, and its description.

  Args:
    where: the checkpoint, as an error names it.
    components: of it, by name.
    wanted: roles, the best first.

  Raises:
    ValueError: if it has none of them, naming what it has.
  """
  known = roles(components)
  role = next((name for name in wanted if name in known), None)
  if role is None:
    has = ", ".join(name.replace("_", " ") for name in known)
    called = " or ".join(name.replace("_", " ") for name in wanted)
    raise ValueError(
      f"{where}: has no {called} but {has}; name the workdir of a {called}."
    )
  return role, known[role]


def role_params(
  role: str, components: Mapping[str, Description], params: Mapping[str, Any]
) -> Any:
  """The parameters of a role.

  Args:
    role: of `roles(components)`.
    components: of the checkpoint.
    params: of all of them, by name.
  """
  if role in components:
    return params[role]
  unified = params[UNIFIED]
  return as_retriever(unified) if role == "retriever" else unified
