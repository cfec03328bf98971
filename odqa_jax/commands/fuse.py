"""Tunes the fusion of retriever, reranker and readers.

It weighs what each says of a span, and decides between a span and what a reader
wrote. All subsets of the components are measured.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from odqa_jax.commands.flags import (
  add_choose_on_test,
  add_format,
  split_names,
)

_EXAMPLE = """\
example:
  odqa answer --checkpoint work/extractive --retriever work/sup \\
    --index work/index --corpus data --reader work/fid --questions dev.jsonl \\
    --out answers.jsonl --candidates candidates.jsonl
  odqa fuse --candidates candidates.jsonl --questions dev.jsonl \\
    --out fusion.json
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa fuse`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--candidates", required=True, help="of a dev set: candidates.jsonl")
  add("--questions", required=True, help="the dev set")
  add_format(parser)
  add("--components", default="", help="those to fuse; by default all")
  add("--l2", type=float, default=1e-3, help="strength of regularisation")
  add("--test-candidates", help="measure here, and not on the dev set")
  add("--test-questions", help="of these")
  add("--seed", type=int, default=0, help="of the confidence intervals")
  add("--out", required=True, help="fusion.json")
  add_choose_on_test(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Writes the fusion; measures it and that of every subset of components."""
  import dataclasses
  import sys

  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.data.questions.held_out import choose_on
  from odqa_jax.evaluation.ablation import Measured, ablate, ablation_table
  from odqa_jax.reading.candidates import read_candidates
  from odqa_jax.reading.fusion import save_fusion, tune
  from odqa_jax.runtime.mesh import is_primary
  from odqa_jax.runtime.paths import FUSION, check_output

  if (args.test_candidates is None) != (args.test_questions is None):
    raise ValueError(
      "--test-candidates FILE and --test-questions FILE go together."
    )
  inputs = args.candidates, args.questions, args.test_candidates
  check_output(args.out, inputs, FUSION)
  components = split_names(args.components) or None
  choice = choose_on(
    args.questions,
    "the fusion",
    "--choose-on-test",
    allowed=args.choose_on_test,
  )

  def opened(candidates: str, questions: str) -> Measured:
    return Measured(
      read_candidates(candidates),
      open_questions(questions, args.format, args.columns),
    )

  dev, test = opened(args.candidates, args.questions), None
  if args.test_candidates is not None:
    test = opened(args.test_candidates, args.test_questions)
    _check_sizes(args, dev.candidates.sizes, test.candidates.sizes)
  fusion = tune(
    dev.candidates, dev.questions, components=components, l2=args.l2
  )
  rows = ablate(dev, test, components=components, l2=args.l2, seed=args.seed)
  if is_primary():
    print(ablation_table(rows), file=sys.stderr)
    save_fusion(args.out, dataclasses.replace(fusion, chosen_on=str(choice)))
  return {
    "weights": fusion.weights,
    "tuned_on": fusion.tuned_on,
    "chosen_on": str(choice),
    "measured_on": "test" if test else "dev",
    "rows": rows,
    "fusion": args.out,
  }


def _check_sizes(
  args: argparse.Namespace, tuned: Mapping[str, int], given: Mapping[str, int]
) -> None:
  """Raises ValueError for candidates of other numbers of passages or spans."""
  for name, size in tuned.items():
    if given.get(name, size) != size:
      raise ValueError(
        f"--test-candidates {args.test_candidates}: were made with {name}="
        f"{given[name]}, and {args.candidates} with {size}; scores of "
        "one are not comparable with those of the other: make both alike."
      )
