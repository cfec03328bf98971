"""Stores what a teacher says of what a student will read.

Then train with the same config and --config.unified.teacher=DIR, the folder
that was written.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import short_dtype

_DTYPES = {"f16": "float16", "f32": "float32"}

_EXAMPLE = """\
example:
  odqa teach --config unified --out teacher \\
    --config.unified.teacher=work/dpr --config.init_from=work/shared \\
    --config.data.corpus=data/corpus --config.data.run=train.json \\
    --config.data.questions=data/questions/train
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa teach`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add(
    "--config",
    required=True,
    help="unified[:key=value,…], with --config.unified.teacher=…",
  )
  add("--out", required=True, help="the folder to write")
  add(
    "--dtype",
    type=short_dtype,
    choices=_DTYPES,
    default="f16",
    help="of the scores of tokens; those of passages are f32",
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Reads the candidates of all questions, with one process."""
  import jax

  from odqa_jax.runtime.config import load_config
  from odqa_jax.runtime.mesh import make_mesh
  from odqa_jax.runtime.paths import check_folder
  from odqa_jax.runtime.progress import progress_bar
  from odqa_jax.runtime.settings import read_settings
  from odqa_jax.training.stored_teacher import store_scores
  from odqa_jax.training.tasks.table import check_names, check_teacher_named

  if jax.process_count() > 1:
    raise ValueError(
      "odqa teach runs on one process; a live teacher reads on all of them."
    )
  settings = read_settings(load_config(args.config, args.overrides))
  check_teacher_named(settings, check_names(settings))
  check_folder(args.out)
  with progress_bar("teach", unit="questions") as update:
    counts = store_scores(
      args.out,
      settings,
      make_mesh(settings.mesh),
      dtype=_DTYPES[args.dtype],
      progress=update,
    )
  return {"teacher": args.out, "dtype": args.dtype} | counts
