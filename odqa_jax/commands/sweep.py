"""Trains a recipe with many settings and seeds: one table.

What has failed or was stopped is taken up by the same command.
"""

import argparse
from collections.abc import Sequence
from typing import Any

_EXAMPLE = """\
The config file has a function sweep() that yields dicts of overrides, such as
{"optimizer.learning_rate": 1e-5}. Each is trained in a folder of its own below
--workdir; --config.KEY=VALUE sets a key of all of them. The same command goes
on with what is not finished. Without sweep() only seeds differ.

example:
  odqa sweep --config minilm --workdir work/rates --seeds 3 \\
    --config.data.corpus=data --config.data.questions=data/questions/train \\
    --config.data.pairs=data/pairs/train --config.evaluate.best=ndcg@10 \\
    --config.evaluate.questions=data/questions/dev
  odqa sweep --config minilm --workdir work/rates --seeds 3 --table
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa sweep`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add("--config", required=True, help="NAME or FILE.py[:key=value,…]")
  add("--workdir", required=True, help="of all trainings, a folder for each")
  add("--seeds", type=int, help="trainings of each setting, config.seed on")
  add(
    "--task",
    type=int,
    help="this one alone, from 0; by default SLURM_ARRAY_TASK_ID, else all",
  )
  add("--table", action="store_true", help="train nothing, show what there is")
  add(
    "--stop-on-failure",
    action="store_true",
    help="begin no more once a training has failed",
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  """Trains all, one process after the other, or one of them in this one."""
  import os
  import sys
  from pathlib import Path

  from odqa_jax.runtime.paths import check_folder
  from odqa_jax.training.sweep import dev_measure, sweep_members

  if args.seeds is not None and args.seeds < 1:
    raise ValueError(f"--seeds {args.seeds}: must be at least 1.")
  check_folder(args.workdir)
  members = sweep_members(args.config, args.overrides, seeds=args.seeds)
  measure = dev_measure(members)
  task, array = args.task, os.environ.get("SLURM_ARRAY_TASK_ID", "")
  if task is None and array.isdigit() and not args.table:
    task = int(array)
    print(f"task {task} of SLURM_ARRAY_TASK_ID", file=sys.stderr)
  if task is not None:
    return _run_one(args, members, task)
  if args.distributed or args.num_processes is not None:
    raise ValueError(
      "with several processes one training runs at a time: give --task N, or "
      "a Slurm array."
    )
  failed = [] if args.table else _run_all(args, members)
  return _told(members, Path(args.workdir), measure, failed)


def _run_one(
  args: argparse.Namespace, members: Sequence[Any], task: int
) -> dict[str, Any]:
  """Trains one of them here."""
  from pathlib import Path

  from odqa_jax.runtime.config import read_recipe
  from odqa_jax.runtime.run_record import Recipe
  from odqa_jax.training.sweep import run_member

  if not 0 <= task < len(members):
    raise ValueError(
      f"--task {task}: there are {len(members)} trainings, from 0 to "
      f"{len(members) - 1} (sbatch --array=0-{len(members) - 1})."
    )
  member = members[task]
  recipe = Recipe(args.config, read_recipe(args.config).to_dict())
  result = run_member(member, Path(args.workdir), recipe)
  return {
    "task": task,
    "name": member.name,
    **{k: result[k] for k in ("overrides", "dev", "loss", "figures")},
  }


def _run_all(args: argparse.Namespace, members: Sequence[Any]) -> list[str]:
  """Trains those that are not finished, and tells which have failed.

  Each has a process of its own, which gives all memory back at its end and
  takes nothing else down with it; the programs that one has compiled lie in
  `WORKDIR/programs` for the next.
  """
  import sys
  from pathlib import Path

  from odqa_jax.runtime.interruption import Interrupted
  from odqa_jax.training.sweep import member_result

  failed: list[str] = []
  for i, member in enumerate(members):
    place = f"{i + 1}/{len(members)} {member.name}"
    if member_result(member, Path(args.workdir)) is not None:
      print(f"{place}: finished before", file=sys.stderr)
      continue
    if failed and args.stop_on_failure:
      break
    print(f"{place}:", file=sys.stderr, flush=True)
    code = _in_a_process(_command(args, i))
    if code == _STOPPED:
      raise Interrupted(
        f"stopped in {place}, saved; the same command goes on from there."
      )
    if code:
      print(f"{place}: failed, exit code {code}", file=sys.stderr)
      failed.append(member.name)
  return failed


_STOPPED = 130


def _command(args: argparse.Namespace, task: int) -> list[str]:
  import sys

  command = [sys.executable, "-m", "odqa_jax.main", "sweep"]
  command += ["--config", args.config, "--workdir", args.workdir]
  command += ["--task", str(task)]
  if args.seeds is not None:
    command += ["--seeds", str(args.seeds)]
  return command + [f"--config.{item}" for item in args.overrides]


def _in_a_process(command: list[str]) -> int:
  """Runs a command and returns its exit code.

  The first Ctrl-C or SIGTERM is passed on to it, once: on a terminal it would
  else get one from there and one from here, and the second is final.
  """
  import signal
  import subprocess

  from odqa_jax.runtime.interruption import stop_requested

  told = False
  with stop_requested() as is_requested:
    child = subprocess.Popen(
      command, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
      while True:
        try:
          return child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
          if is_requested() and not told:
            told = True
            child.send_signal(signal.SIGTERM)
    except KeyboardInterrupt:
      child.kill()
      child.wait()
      raise


def _told(
  members: Sequence[Any], workdir: Any, measure: str | None, failed: list[str]
) -> dict[str, Any]:
  """Prints the table, keeps it as sweep.json, and gives its figures.

  Raises:
    ValueError: naming what has failed; the figures were printed by then.
  """
  import json
  import sys

  from odqa_jax.runtime.files import write_json
  from odqa_jax.runtime.settings import read_settings
  from odqa_jax.training.measuring import dev_choices
  from odqa_jax.training.sweep import best_row, sweep_rows, sweep_table

  rows = sweep_rows(members, workdir, measure)
  print(sweep_table(rows, measure), file=sys.stderr)
  choices = dev_choices(read_settings(members[0].config))
  figures: dict[str, Any] = {
    "trainings": len(members),
    "finished": sum(row["finished"] for row in rows),
    "failed": failed,
    "measure": measure,
    "chosen_on": [str(choice) for choice in choices],
    "best": best_row(rows),
    "rows": rows,
  }
  if measure is None:
    print(
      "no dev figure: the best is named with --config.evaluate.questions=SET.",
      file=sys.stderr,
    )
  if workdir.is_dir():
    write_json(workdir / "sweep.json", figures)
  if failed:
    print(json.dumps(figures))
    raise ValueError(
      f"{len(failed)} of {len(members)} trainings failed: {', '.join(failed)}; "
      "see above. The same command tries them again."
    )
  return figures
