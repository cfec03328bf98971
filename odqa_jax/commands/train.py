"""Trains by a config; resumes by itself."""

import argparse
from typing import Any


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa train`."""
  add = parser.add_argument
  add("--config", required=True, help="configs/NAME.py[:key=value,…]")
  add("--workdir", required=True)


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Trains with the overrides `--config.a.b=3`."""
  from odqa_jax.runtime.config import load_config
  from odqa_jax.runtime.paths import check_folder
  from odqa_jax.training.train import train

  check_folder(args.workdir)
  return train(load_config(args.config, args.overrides), args.workdir)
