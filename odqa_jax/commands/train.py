"""Trains by a config; resumes by itself.

A setting is changed by --config.KEY=VALUE; --list-settings has them all. More
--config.steps than a run was begun with extend it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any


class _ListSettings(argparse.Action):
  """Prints every setting, with its default and meaning, and exits."""

  def __call__(self, parser: argparse.ArgumentParser, *unused: Any) -> None:
    from odqa_jax.runtime.settings import described

    print("\n".join(described()))
    parser.exit()


_EXAMPLE = """\
example:
  odqa train --config ict:debug --workdir work/ict \\
    --config.data.corpus=data/corpus --config.optimizer.learning_rate=1e-4
  odqa train --workdir work/ict --config.steps=2000
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa train`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add(
    "--config",
    help="a recipe or your own file: NAME or FILE.py[:key=value,…]; by default "
    "that of the workdir's run",
  )
  add("--workdir", help="the folder of the run; what is in it is gone on with")
  add(
    "--print-config",
    action="store_true",
    help="shows all settings as they would be, and trains nothing",
  )
  add(
    "--list-settings",
    action=_ListSettings,
    nargs=0,
    help="every KEY of --config.KEY=VALUE, its default and meaning",
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Trains with the overrides `--config.a.b=3`."""
  from odqa_jax.runtime.config import load_config, read_recipe, saved_config
  from odqa_jax.runtime.mesh import is_primary
  from odqa_jax.runtime.paths import check_folder, leaving_no_empty_folder
  from odqa_jax.runtime.run_record import Recipe

  if args.workdir is None and not (args.config and args.print_config):
    raise ValueError("--workdir DIR is needed: what is trained is kept there.")
  recipe = None
  if args.config is None:
    config = saved_config(Path(args.workdir), args.overrides)
  else:
    config = load_config(args.config, args.overrides)
    recipe = Recipe(args.config, read_recipe(args.config).to_dict())
  if args.print_config:
    print(config)
    return config.to_dict()
  from odqa_jax.training.train import train

  check_folder(args.workdir)
  with leaving_no_empty_folder(args.workdir):
    figures = train(config, args.workdir, recipe=recipe)
  if is_primary():
    print(_where_to_look(args.workdir, config.report.writers), file=sys.stderr)
  return figures


def _where_to_look(workdir: str, writers: str) -> str:
  """What shows a run that is done."""
  told = f"curves: {Path(workdir) / 'loss.png'}; a page: odqa report {workdir}"
  if "tensorboard" in writers:
    told += f"; pip install tensorboard && tensorboard --logdir {workdir}"
  return told
