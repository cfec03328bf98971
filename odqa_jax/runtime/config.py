"""Configs: Python files with `get_config(arg)`, presets, overrides, checks.

    config = load_config("ict:size=large", ["seed=3"])

A config file imports only from `odqa_jax`. Values live in the config or they
do not exist; `settings.py` lists them all, with their defaults and limits.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

import odqa_jax
from odqa_jax.runtime.dtypes import long_dtype
from odqa_jax.runtime.files import read_json
from odqa_jax.runtime.settings import (
  Settings,
  keys,
  nearest,
  read_settings,
  word_for,
)

# Keys that may differ between the beginning of a run and its resumption.
HARMLESS_KEYS = (
  "log_every",
  "checkpoint.",
  "evaluate.",
  "report.",
  "mesh.",
  "sharding",
)
# Names of what may have moved in between: its content decides.
CONTENT_KEYS = (
  "data.corpus",
  "data.reader_corpus",
  "data.questions",
  "data.pairs",
  "data.run",
  "data.pool_questions",
  "data.pool_run",
  "data.leaky_questions",
  "data.leaky_run",
  "data.spans",
  "init_from",
  "reader.init_from",
  "unified.teacher",
  "retrieval.index",
)


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
  """Reads the text after `:` in `configs/NAME.py:key=value,flag`.

      >>> arg = parse_arg("size=large", size="base", debug=False)
      >>> arg.size, arg.debug
      ('large', False)

  Args:
    arg: comma-separated `key=value`; a bare `key` sets a boolean to True.
    **defaults: every key that is understood, with its default; the default's
      type decides how a value is read.

  Raises:
    ValueError: for an unknown key or a value of another type.
  """
  result = ConfigDict(defaults)
  for item in filter(None, (arg or "").split(",")):
    key, has_value, text = item.partition("=")
    if key not in defaults:
      raise ValueError(
        f"unknown preset {key!r} in {arg!r}; {nearest(key, defaults)}"
      )
    result[key] = (
      _cast(text, defaults[key], key) if has_value else _flag(key, defaults)
    )
  if result.get("debug") and result.get("size") != defaults.get("size"):
    raise ValueError(
      f"size={result.size},debug: debug makes the network tiny; leave one of "
      "them out."
    )
  return result


def _flag(key: str, defaults: dict[str, Any]) -> bool:
  if not isinstance(defaults[key], bool):
    raise ValueError(f"preset {key!r} needs a value: {key}={defaults[key]!r}.")
  return True


def _cast(text: str, like: Any, key: str) -> Any:
  """Reads `text` as a value of the type of `like`."""
  if isinstance(like, str):
    return text
  try:
    value = ast.literal_eval(text.capitalize() if text in TRUTH else text)
  except (ValueError, SyntaxError):
    value = text
  if like is None:
    return value
  if isinstance(like, float) and isinstance(value, int | float):
    if not isinstance(value, bool):
      return float(value)
  if isinstance(like, tuple | list) and isinstance(value, tuple | list):
    return type(like)(value)
  if type(value) is not type(like):
    raise ValueError(
      f"{key}={text!r} is not a {type(like).__name__}; the default is {like!r}."
    )
  return value


TRUTH = ("true", "false")


def apply_overrides(config: ConfigDict, overrides: Iterable[str]) -> ConfigDict:
  """Sets `a.b=value` items in a locked config, in place.

  Raises:
    ValueError: for an unknown key (with the nearest known one), a missing
      `=`, or a value of another type.
  """
  for item in overrides:
    path, has_value, text = item.partition("=")
    if not has_value:
      raise ValueError(f"--config.{item} has no value; write --config.{item}=…")
    node: Any = config
    *parents, leaf = path.split(".")
    for name in [*parents, leaf]:
      if not isinstance(node, ConfigDict) or name not in node:
        known = list(node) if isinstance(node, ConfigDict) else []
        raise ValueError(
          f"unknown config key {path!r}: no {name!r} there; "
          f"{nearest(name, known)}"
        )
      if name is not leaf:
        node = node[name]
    if isinstance(node[leaf], ConfigDict):
      raise ValueError(
        f"config.{path} is a block; set one of {list(node[leaf])}."
      )
    with node.ignore_type():
      field = _WORDED.get(f"config.{path}")
      like = word_for(field)() if field else node[leaf]
      if leaf == "dtype":
        text = long_dtype(text)
      word = field and text in field.metadata["words"]
      node[leaf] = text if word else _cast(text, like, f"config.{path}")
  return config


def load_config(spec: str, overrides: Iterable[str] = ()) -> ConfigDict:
  """Loads a recipe, applies overrides, locks and checks the result.

  Args:
    spec: `NAME` of a recipe of the package, or `FILE.py`, and `:presets`.
    overrides: see `apply_overrides`.

  Raises:
    ValueError: if the file has no `get_config`, or the config is not valid.
    FileNotFoundError: if there is no such file.
  """
  config = read_recipe(spec)
  config.lock()
  read_settings(apply_overrides(config, overrides))
  return config


def read_recipe(spec: str) -> ConfigDict:
  """What a recipe says, `NAME` or `FILE.py`, unchecked; see `load_config`.

  Raises:
    FileNotFoundError: if there is no such file or recipe.
  """
  name, _, arg = spec.partition(":")
  path = recipe_file(name)
  return _run_recipe(_loaded(path), path, arg or None)


def recipe_file(name: str) -> Path:
  """A config file by its path, or a recipe of the package by its name.

  Raises:
    FileNotFoundError: if there is none.
  """
  path = Path(name)
  if path.is_file():
    return path
  recipes = {file.stem: file for file in recipe_folder().glob("*.py")}
  if path.suffix or name not in recipes:
    raise FileNotFoundError(
      f"config {name!r}: no such file; recipes: {nearest(name, recipes)}"
    )
  return recipes[name]


def recipe_folder() -> Path:
  """Where the recipes of the package lie: a checkout, or what a wheel put."""
  checkout = Path(odqa_jax.__file__).parents[1] / "configs"
  if checkout.is_dir():
    return checkout
  for file in importlib.metadata.files("odqa_jax") or []:
    if file.match("share/odqa_jax/configs/*.py"):
      return Path(str(file.locate())).resolve().parent
  return checkout


def saved_config(workdir: Path, overrides: Iterable[str] = ()) -> ConfigDict:
  """The config that a run was begun with, and what is set anew in it.

  Raises:
    ValueError: if the file is none, or a setting is not valid.
    FileNotFoundError: if no run was begun there.
  """
  path = workdir / "config.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{workdir}: no run to go on with, which has a config.json; begin one "
      "with --config NAME, a recipe or your own file."
    )
  config = base_config()
  try:
    with config.ignore_type():
      _fill(config, read_json(path))
  except (ValueError, TypeError) as error:
    raise ValueError(
      f"{path}: is no config of this version ({error}); give --config."
    ) from error
  config.lock()
  read_settings(apply_overrides(config, overrides))
  return config


def _fill(config: ConfigDict, saved: Mapping[str, Any]) -> None:
  """Sets saved values, in place, as they were before JSON."""
  for name, value in saved.items():
    if name != "mesh" and isinstance(config.get(name), ConfigDict):
      _fill(config[name], value)
    else:
      config[name] = ConfigDict(value) if name == "mesh" else _as_tuple(value)


def _as_tuple(value: Any) -> Any:
  return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def load_sweep(spec: str) -> list[dict[str, Any]]:
  """What the `sweep` of `FILE.py[:presets]` yields: key → value, each a run.

  Raises:
    ValueError: if it yields anything but mappings of keys; a file without one
      yields nothing.
    FileNotFoundError: if there is no such file.
  """
  path = recipe_file(spec.partition(":")[0])
  module = _loaded(path)
  if not hasattr(module, "sweep"):
    return []
  with _telling_where(path):
    settings = list(module.sweep())
  for each in settings:
    if not isinstance(each, Mapping) or not all(
      isinstance(k, str) for k in each
    ):
      raise ValueError(
        f"{path}: sweep() yields {each!r:.60}; yield dicts of overrides, as in "
        '{"optimizer.learning_rate": 1e-5, "seed": 1}.'
      )
  return [dict(each) for each in settings]


def _loaded(path: Path) -> ModuleType:
  """A config file, executed.

  Raises:
    ValueError: if it is no Python file; an error in it is told with its line.
  """
  module_spec = importlib.util.spec_from_file_location("odqa_config", path)
  if module_spec is None or module_spec.loader is None:
    raise ValueError(f"{path}: a config is a Python file, configs/NAME.py.")
  module = importlib.util.module_from_spec(module_spec)
  with _telling_where(path):
    module_spec.loader.exec_module(module)
  return module


@contextlib.contextmanager
def _telling_where(path: Path) -> Iterator[None]:
  """Raises a ValueError with the line of whatever a config file raises."""
  try:
    yield
  except (ValueError, ImportError):
    raise
  # Whatever a file of somebody's may raise.
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename) == path.absolute()]
    line = getattr(error, "lineno", None) or (lines or [0])[-1]
    raise ValueError(
      f"{path}:{line}: {type(error).__name__}: {error}; mend the config."
    ) from error


def _run_recipe(module: ModuleType, path: Path, arg: str | None) -> ConfigDict:
  """What the `get_config` of a file returns.

  Raises:
    ValueError: if it makes no config; an error in it is told with its line.
  """
  if not hasattr(module, "get_config"):
    raise ValueError(f"{path}: a config file defines get_config(arg).")
  with _telling_where(path):
    config = module.get_config(arg)
  if not isinstance(config, ConfigDict):
    raise ValueError(f"{path}: get_config returns no ConfigDict; mend it.")
  return config


# Keys that take words in place of numbers, or of True and False.
_WORDED = {name: field for name, field in keys() if field.metadata.get("words")}


def base_config() -> ConfigDict:
  """What every training config has; a recipe changes values, not keys."""
  config = ConfigDict(dataclasses.asdict(Settings()))
  for name in _WORDED:
    *parents, leaf = name.split(".")[1:]
    node = functools.reduce(lambda node, parent: node[parent], parents, config)
    # A config refuses values of another type than its default's.
    value = node[leaf]
    del node[leaf]
    node[leaf] = FieldReference(value, field_type=object)
  return config


def check_same_config(
  old: Mapping[str, Any], new: ConfigDict, *, longer: bool = False
) -> None:
  """Refuses to resume a run with settings that would change its result.

  What a run reads may have moved, see `training.contents`.

  Args:
    old: of the run; a key that it lacks had the default.
    new: that it would go on with.
    longer: whether there are steps left by the new ones, which may then be
      others; the learning rate follows these from here on.

  Raises:
    ValueError: naming every key that differs, with both values.
  """
  # What a run of an older version did not know was as it is by default now.
  before = flatten(base_config().to_dict()) | flatten(dict(old))
  now = flatten(new.to_dict())
  harmless = HARMLESS_KEYS + (("steps", "epochs") if longer else ())
  different = [
    f"config.{key} was {before.get(key)!r} and is {now.get(key)!r}"
    for key in sorted(before.keys() | now.keys())
    if before.get(key) != now.get(key)
    and not key.startswith(harmless)
    and key not in CONTENT_KEYS
  ]
  if different:
    raise ValueError(
      "this workdir was begun with another config: "
      + "; ".join(different)
      + ". Use the old values or a new --workdir."
    )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
  """`a.b` → value of a config as a tree of dicts; tuples become lists."""
  if isinstance(tree, dict):
    return {
      key: value
      for name, branch in tree.items()
      for key, value in flatten(
        branch, f"{prefix}.{name}" if prefix else name
      ).items()
    }
  return {prefix: _as_list(tree)}


def _as_list(value: Any) -> Any:
  """JSON has no tuples, so both sides are compared as lists."""
  if isinstance(value, tuple | list):
    return [_as_list(v) for v in value]
  return value


# What makes a recipe take seconds on a laptop.
_SMALL = {
  "steps": 10,
  "batch_size": 16,
  "micro_batches": 1,
  "log_every": 5,
  "checkpoint.every": 5,
  "model.preset": "tiny",
  "model.dtype": "float32",
  "data.question_length": 32,
  "data.passage_length": 64,
}
_SMALL_READER = {
  "batch_size": 8,
  "reader.preset": "tiny",
  "reader.dtype": "float32",
  "data.reader_length": 96,
  "retrieval.k": 4,
  "retrieval.dtype": "float32",
}


def debug(config: ConfigDict, *, reader: bool = False) -> None:
  """Shrinks a recipe, in place, until its stage runs in seconds.

  Args:
    config: what `get_config` has made.
    reader: whether the stage has a reader, and searches for what it reads.
  """
  config.update_from_flattened_dict(_SMALL | (_SMALL_READER if reader else {}))
