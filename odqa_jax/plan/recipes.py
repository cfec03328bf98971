"""Several recipes planned one after the other, and one table of them.

configs = recipe_configs(["all", "individual:size=large"], Path("configs"))
plan_recipes(configs, "v5e-8", (), options)
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odqa_jax.plan.plan import Options, plan
from odqa_jax.plan.tables import recipe_table
from odqa_jax.runtime.config import load_config

_ALL = "all"


def recipe_configs(names: Sequence[str], folder: Path) -> list[str]:
  """Recipes as `FILE.py[:presets]`.

  Args:
    names: of recipes, with presets after a colon; `all` stands for every file
      of the folder that has a size which a plan can know.
    folder: of the recipes.

  Raises:
    ValueError: for a name that is no recipe.
  """
  files = {path.stem: path for path in sorted(folder.glob("*.py"))}
  sized = [name for name, path in files.items() if _has_size(path)]
  configs = []
  for name in names:
    stem, colon, presets = name.partition(":")
    if stem != _ALL and stem not in files:
      raise ValueError(
        f"--recipes {stem}: no such file in {folder}/; choose of "
        f"{', '.join([_ALL, *files])}."
      )
    for found in sized if stem == _ALL else [stem]:
      configs.append(f"{files[found]}{colon}{presets}")
  return configs


def _has_size(path: Path) -> bool:
  return load_config(str(path), ()).model.preset != "init"


def plan_recipes(
  configs: Sequence[str],
  topology: str,
  overrides: Sequence[str],
  options: Options,
) -> dict[str, Any]:
  """Plans what recipes train; one that cannot be is told with its reason.

  Args:
    configs: see `recipe_configs`.
    topology: see `topologies.planned_devices`.
    overrides: `a.b=value` items, for all of them.
    options: of every plan; the training programs alone are compiled.

  Returns:
    `recipes`, config → figures of `plan`, or `refused` with the reason; each
    with its `seconds`.

  Raises:
    ImportError: if the compiler for the topology is not installed.
  """
  options = dataclasses.replace(options, programs="train")
  figures: dict[str, dict[str, Any]] = {}
  for config in configs:
    print(f"== {config}", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
      made = plan(config, topology, overrides, options)
    except ValueError as error:
      print(f"{error}", file=sys.stderr, flush=True)
      made = {"refused": str(error)}
    seconds = round(time.monotonic() - started, 1)
    figures[config] = made | {"seconds": seconds}
  print(recipe_table(figures), file=sys.stderr, flush=True)
  return {"topology": topology, "recipes": figures}
