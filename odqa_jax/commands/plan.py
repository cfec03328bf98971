"""Does it fit, and what bounds it? For devices elsewhere.

The programs of a config are compiled for TPUs or GPUs that are not at hand; it
tells their memory, and the least seconds that they take.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import DTYPES, short_dtype

_EXAMPLE = """\
example:
  odqa plan --config supervised --topology v5e-8
  odqa plan --recipes all --topology h100:8
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa plan`."""
  parser.epilog = _EXAMPLE
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--config", help="NAME or FILE.py[:key=value,…]")
  what.add_argument(
    "--recipes",
    nargs="+",
    metavar="NAME[:key=value,…]",
    help="training of several recipes of configs/, one table; all: every one",
  )
  add = parser.add_argument
  add("--topology", required=True, help="v5e:2x4, v5p-8, v6e-8, h100:8, …")
  add("--passages", type=int, default=21_015_324, help="of the corpus")
  add("--width", type=int, help="of the index; by default the encoder's")
  add(
    "--index-dtype",
    type=short_dtype,
    choices=list(DTYPES),
    help="of the index; by default the config's",
  )
  add("--questions", type=int, default=64, help="searched at once")
  add("--k", type=int, default=100, help="passages that a search finds")
  add("--programs", help="of --config, of search,encode,train; by default all")
  add("--hbm-gb", type=float, help="GiB of a chip; by default as known")
  add(
    "--vocabulary", type=int, help="tokens; by default those of BERT or RoBERTa"
  )
  # Of 100 words and a title: 138 word pieces of BERT, 156 of T5.
  add(
    "--passage-tokens", type=int, default=160, help="of a passage, on average"
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Compiles the programs with the overrides `--config.a.b=3`."""
  from odqa_jax.plan.plan import Options, plan
  from odqa_jax.plan.recipes import plan_recipes, recipe_configs
  from odqa_jax.runtime.config import recipe_folder

  options = Options(
    passages=args.passages,
    width=args.width,
    index_dtype=args.index_dtype and DTYPES[args.index_dtype],
    questions=args.questions,
    k=args.k,
    programs=args.programs,
    hbm_gb=args.hbm_gb,
    vocabulary=args.vocabulary,
    passage_tokens=args.passage_tokens,
  )
  if args.config:
    return plan(args.config, args.topology, args.overrides, options)
  configs = recipe_configs(args.recipes, recipe_folder())
  return plan_recipes(configs, args.topology, args.overrides, options)
