"""Many trainings of one recipe: settings that `sweep()` yields, and seeds.

    members = sweep_members("configs/minilm.py", ["steps=100"], seeds=3)
    run_member(members[0], Path("work/sweep"), recipe)
    print(sweep_table(sweep_rows(members, Path("work/sweep"), "recall@20")))

Each training has a folder of its own with a name that says what is special to
it; what it ended with lies there as `result.json`, by which it is known to be
finished.
"""

import dataclasses
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from odqa_jax.runtime.config import load_config, load_sweep
from odqa_jax.runtime.files import Damage, content_hash, read_json, write_json
from odqa_jax.runtime.mesh import is_primary, sync
from odqa_jax.runtime.report import json_ready, read_metrics, text_table
from odqa_jax.runtime.run_record import Recipe, read_record
from odqa_jax.runtime.settings import Settings, read_settings
from odqa_jax.runtime.writers import check_writers
from odqa_jax.training.measuring import dev_choices
from odqa_jax.training.tasks.table import check_names, check_teacher_named
from odqa_jax.training.train import train

RESULT = "result.json"
_SEED = "seed"
_LONGEST_NAME = 120
# Of the hash that tells apart what has one name.
_DIGITS = 8


@dataclasses.dataclass(frozen=True)
class Member:
  """One training of a sweep.

  Attributes:
    name: of its folder.
    overrides: key → value, what it has of its own.
    config: all of its settings.
  """

  name: str
  overrides: Mapping[str, Any]
  config: ConfigDict

  @property
  def setting(self) -> dict[str, Any]:
    """Its own settings but for the seed."""
    return {k: v for k, v in self.overrides.items() if k != _SEED}


def sweep_members(
  spec: str, overrides: Sequence[str] = (), *, seeds: int | None = None
) -> list[Member]:
  """All trainings of a sweep, their settings checked.

  Args:
    spec: `FILE.py[:presets]`, whose `sweep()` yields what they have of their
      own.
    overrides: `key=value` that all of them have.
    seeds: how many trainings of each setting, of the config's seed and those
      that follow; None: one, or as `sweep()` says.

  Raises:
    ValueError: if there is nothing to sweep, a setting of any training cannot
      be, a key is set twice, or two trainings are the same.
  """
  base = load_config(spec, overrides)
  own = load_sweep(spec)
  if not own and seeds is None:
    raise ValueError(
      f"{spec.partition(':')[0]}: has no sweep() that yields dicts of "
      "overrides; write one, or give --seeds N: seeds of one setting."
    )
  given = {item.partition("=")[0] for item in overrides}
  for key in (key for each in own for key in each):
    if key in given:
      raise ValueError(
        f"--config.{key}: is what the sweep varies; leave it out, or change "
        "sweep()."
      )
  own = own or [{}]
  if seeds is not None:
    following = range(base.seed, base.seed + seeds)
    own = [_with_seed(each, seed) for each in own for seed in following]
  names = member_names(own)
  members = []
  for name, each in zip(names, own, strict=True):
    try:
      config = load_config(spec, [*overrides, *map(_written, each.items())])
      _check(read_settings(config))
    except ValueError as error:
      raise ValueError(f"{name or 'the sweep'}: {error}") from error
    members.append(Member(name, each, config))
  return members


def _with_seed(setting: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """A setting with a seed.

  Raises:
    ValueError: if it has one.
  """
  if _SEED in setting:
    raise ValueError(
      f"--seeds: sweep() yields seeds of its own ({setting!r:.60}); leave the "
      "flag out."
    )
  return {**setting, _SEED: seed}


def _written(item: tuple[str, Any]) -> str:
  """As the command line has it, so that `odqa train` can be given the same."""
  key, value = item
  return f"{key}={value if isinstance(value, str) else repr(value)}"


def _check(settings: Settings) -> None:
  """Raises ValueError for what a training refuses before it opens any data."""
  check_teacher_named(settings, check_names(settings))
  check_writers(settings.report)
  dev_choices(settings)


def member_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
  """Folder names that say what each setting is: `learning_rate=1e-05,seed=1`.

  Raises:
    ValueError: if two settings are the same.
  """
  keys = dict.fromkeys(key for each in settings for key in each)
  leaves = [key.rpartition(".")[2] for key in keys]
  short = {
    key: leaf if leaves.count(leaf) == 1 else key
    for key, leaf in zip(keys, leaves, strict=True)
  }
  names: list[str] = []
  for each in settings:
    if settings.count(each) > 1:
      raise ValueError(
        f"sweep() yields {each!r:.80} {settings.count(each)} times; each "
        "training is made once: vary its seed, or use --seeds N."
      )
    items = (f"{short[key]}={_value(each[key])}" for key in each)
    names.append(",".join(items) or "default")
  return [
    f"{name[:_LONGEST_NAME]}-{content_hash(json_ready(each))[:_DIGITS]}"
    if names.count(name) > 1 or len(name) > _LONGEST_NAME
    else name
    for name, each in zip(names, settings, strict=True)
  ]


def _value(value: Any) -> str:
  """A value in the name of a folder; of a path its last part."""
  text = Path(value).name if isinstance(value, str) else repr(value)
  return re.sub(r"[^\w.+-]+", "_", text).strip("_") or "none"


def run_member(
  member: Member, workdir: Path, recipe: Recipe | None = None
) -> dict[str, Any]:
  """Trains one, from where it was stopped; not if it is finished.

  Returns:
    Its result: `overrides`, `config`, `figures` of `train`, and `dev`.
  """
  folder = workdir / member.name
  if (found := member_result(member, workdir)) is not None:
    return found
  figures = train(member.config, folder, recipe=recipe)
  # Those of `train` are of its last part, which may have been stopped before.
  parts = read_record(folder).get("sessions", ())
  seconds = sum(part["seconds"] for part in parts)
  result = json_ready(
    {
      "overrides": dict(member.overrides),
      "config": member.config.to_dict(),
      "figures": figures | {"seconds": round(seconds, 1)},
      **_measured(folder, read_settings(member.config)),
    }
  )
  if is_primary():
    write_json(folder / RESULT, result)
  sync("sweep")
  return dict(result)


def member_result(member: Member, workdir: Path) -> dict[str, Any] | None:
  """What a finished training ended with; None if it is to be trained on."""
  path = workdir / member.name / RESULT
  try:
    result = read_json(path)
  except (OSError, Damage):
    return None
  same = result.get("config") == json.loads(
    json.dumps(json_ready(member.config.to_dict()))
  )
  return result if same else None


def _measured(folder: Path, settings: Settings) -> dict[str, Any]:
  """`dev`: the figures of the checkpoint that is kept; and the last `loss`."""
  rows = read_metrics(folder / "metrics.jsonl")
  dev = [
    {k.removeprefix("dev/"): v for k, v in row.items() if k.startswith("dev/")}
    for row in rows
  ]
  best = settings.evaluate.best
  ranked = [each for each in dev if each.get(best) is not None]
  losses = [row["loss"] for row in rows if row.get("loss") is not None]
  return {
    # Of equal ones the last is kept, as `Checkpoints` does.
    "dev": max(reversed(ranked), key=lambda each: each[best], default={}),
    "loss": losses[-1] if losses else None,
  }


def dev_measure(members: Sequence[Member]) -> str | None:
  """What the sweep is judged by; None if nothing is measured while training.

  Raises:
    ValueError: if the trainings are measured by several, or on several sets.
  """
  judged = set()
  for member in members:
    settings = read_settings(member.config)
    choices = tuple(str(choice) for choice in dev_choices(settings))
    judged.add((settings.evaluate.best if choices else None, choices))
  if len(judged) > 1:
    raise ValueError(
      "the sweep varies what its trainings are measured by: "
      + "; ".join(sorted(map(str, judged)))
      + ". Measure all of them by one figure on one dev set."
    )
  ((measure, _),) = judged
  return measure


def sweep_rows(
  members: Iterable[Member], workdir: Path, measure: str | None
) -> list[dict[str, Any]]:
  """A row for every setting, its seeds taken together.

  Args:
    members: of the sweep.
    workdir: of it.
    measure: of the dev figures; None: there are none.

  Returns:
    `setting`, `runs`, `finished`, `folders`; and of the finished ones `mean`,
    `sd` (of a sample; None of one run), `values` by seed, `loss` and `seconds`.
  """
  groups: dict[str, list[Member]] = {}
  for member in members:
    groups.setdefault(json.dumps(json_ready(member.setting)), []).append(member)
  rows = []
  for key, group in groups.items():
    found = [r for m in group if (r := member_result(m, workdir)) is not None]
    row = {"setting": json.loads(key), "runs": len(group)}
    row |= {"finished": len(found), "folders": [m.name for m in group]}
    values = [r["dev"][measure] for r in found if measure in r["dev"]]
    if values:
      spread = statistics.stdev(values) if len(values) > 1 else None
      row |= {"mean": statistics.fmean(values), "sd": spread, "values": values}
    for name, each in {
      "loss": [r["loss"] for r in found if r["loss"] is not None],
      "seconds": [r["figures"]["seconds"] for r in found],
    }.items():
      if each:
        row[name] = statistics.fmean(each)
    rows.append(row)
  return rows


def best_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
  """The setting with the highest mean; None if nothing was measured."""
  measured = [row for row in rows if "mean" in row]
  return max(measured, key=lambda row: row["mean"], default=None)


def sweep_table(rows: Sequence[Mapping[str, Any]], measure: str | None) -> str:
  """The rows as text; the best setting has a star."""
  keys = dict.fromkeys(key for row in rows for key in row["setting"])
  head = ["", *keys, "runs"]
  head += [f"dev {measure}", "± sd", "lowest", "highest"] if measure else []
  cells = []
  for row in rows:
    line = ["*" if row is best_row(rows) else ""]
    line += [str(row["setting"].get(key, "-")) for key in keys]
    line.append(f"{row['finished']}/{row['runs']}")
    if measure:
      values = row.get("values", [])
      line += [
        _number(row.get("mean")),
        _number(row.get("sd")),
        _number(min(values, default=None)),
        _number(max(values, default=None)),
      ]
    line += [_number(row.get("loss")), _number(row.get("seconds"))]
    cells.append(line)
  head += ["loss", "seconds"]
  return text_table([head, *cells], right=range(len(keys) + 1, len(head)))


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.4g}"
