"""What a run is asked to be, checked before any data is read."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from odqa_jax.data.questions.held_out import Choice
from odqa_jax.runtime.config import load_config, read_recipe
from odqa_jax.runtime.mesh import is_primary
from odqa_jax.runtime.run_record import Recipe
from odqa_jax.runtime.settings import Settings, read_settings
from odqa_jax.runtime.writers import check_writers
from odqa_jax.training.measuring import dev_choices
from odqa_jax.training.named_data import unused_keys, with_corpora
from odqa_jax.training.tasks.table import check_names, check_teacher_named
from odqa_jax.training.tasks.task import Needs


class Asked(NamedTuple):
  """A run that can begin, as far as names and numbers go.

  Attributes:
    config: its values, as they are kept.
    recipe: that they were made from, if that is known.
    settings: the values, with the folders that they name.
    needs: of the task.
    choices: the sets that the best checkpoint is chosen on.
  """

  config: ConfigDict
  recipe: Recipe | None
  settings: Settings
  needs: Needs
  choices: list[Choice]


def ask(
  config: ConfigDict | str | Path,
  overrides: Mapping[str, Any],
  recipe: Recipe | None = None,
) -> Asked:
  """Reads a config, once; tells on stderr what has no effect.

  Args:
    config: see `train`.
    overrides: likewise.
    recipe: likewise.

  Raises:
    ValueError: naming a key, its value, and the rule.
    ImportError: if what metrics are to be sent to is not installed.
  """
  config, recipe = _loaded(config, overrides, recipe)
  settings = read_settings(config)
  needs = check_names(settings)
  check_teacher_named(settings, needs)
  choices = dev_choices(settings)
  check_writers(settings.report)
  settings = with_corpora(settings)
  if is_primary():
    for line in unused_keys(settings, needs):
      print(line, file=sys.stderr)
  return Asked(config, recipe, settings, needs, choices)


def _loaded(
  config: ConfigDict | str | Path,
  overrides: Mapping[str, Any],
  recipe: Recipe | None,
) -> tuple[ConfigDict, Recipe | None]:
  """See `train`."""
  if not isinstance(config, ConfigDict):
    name = str(config)
    changed = [f"{key}={value}" for key, value in overrides.items()]
    return load_config(name, changed), Recipe(name, read_recipe(name).to_dict())
  if overrides:
    raise ValueError(
      f"{', '.join(overrides)}: what is changed is for a recipe; set it in the "
      "config that is given."
    )
  return config, recipe
