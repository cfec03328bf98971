"""Configs: Python files with `get_config(arg)`, presets, overrides, checks.

    config = load_config("configs/ict.py:size=large,debug", ["seed=3"])

A config file imports only from `odqa_jax`. Values live in the config or they
do not exist: library code never reads a key with a default of its own.
"""

import ast
import difflib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
  """Reads the text after `:` in `configs/NAME.py:key=value,flag`.

      >>> arg = parse_arg("size=large,debug", size="base", debug=False)
      >>> arg.size, arg.debug
      ('large', True)

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
        f"unknown preset {key!r} in {arg!r}; {_nearest(key, defaults)}"
      )
    result[key] = (
      _cast(text, defaults[key], key) if has_value else _flag(key, defaults)
    )
  return result


def _flag(key: str, defaults: dict[str, Any]) -> bool:
  if not isinstance(defaults[key], bool):
    raise ValueError(f"preset {key!r} needs a value: {key}={defaults[key]!r}.")
  return True


def _nearest(key: str, known: Iterable[str]) -> str:
  known = sorted(known)
  close = difflib.get_close_matches(key, known, n=1)
  return f"did you mean {close[0]!r}?" if close else f"known: {known}."


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
          f"{_nearest(name, known)}"
        )
      if name is not leaf:
        node = node[name]
    if isinstance(node[leaf], ConfigDict):
      raise ValueError(
        f"config.{path} is a block; set one of {list(node[leaf])}."
      )
    with node.ignore_type():
      node[leaf] = _cast(text, node[leaf], f"config.{path}")
  return config


def load_config(spec: str, overrides: Iterable[str] = ()) -> ConfigDict:
  """Loads `FILE.py[:presets]`, applies overrides, locks and checks the result.

  Raises:
    ValueError: if the file has no `get_config`, or the config is not valid.
    FileNotFoundError: if there is no such file.
  """
  name, _, arg = spec.partition(":")
  path = Path(name)
  if not path.is_file():
    raise FileNotFoundError(
      f"config {name!r}: no such file; the recipes are in configs/*.py."
    )
  module_spec = importlib.util.spec_from_file_location("odqa_config", path)
  assert module_spec and module_spec.loader
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise ValueError(f"{name}: a config file defines get_config(arg).")
  config = module.get_config(arg or None)
  config.lock()
  return validate(apply_overrides(config, overrides))


def validate(config: ConfigDict) -> ConfigDict:
  """Checks what types cannot say; every message names the key.

  Raises:
    ValueError: naming the key, its value and the rule.
  """
  for key in ("steps", "batch_size", "chunks", "log_every"):
    if config[key] < 1:
      raise ValueError(f"config.{key}={config[key]}: must be at least 1.")
  if config.batch_size % config.chunks:
    raise ValueError(
      f"config.chunks={config.chunks} does not divide "
      f"config.batch_size={config.batch_size}."
    )
  lengths = config.data.question_length, config.data.passage_length
  longest = config.model.max_positions
  if max(lengths) > longest or min(lengths) < 3:
    raise ValueError(
      f"config.data.question_length, passage_length = {lengths}: each must be "
      f"between 3 and config.model.max_positions={longest}."
    )
  if config.retrieval.dtype not in ("float32", "bfloat16"):
    raise ValueError(
      f"config.retrieval.dtype={config.retrieval.dtype!r}: training searches "
      "float32 or bfloat16 rows."
    )
  if not 0 <= config.optimizer.warmup < 1:
    raise ValueError(
      f"config.optimizer.warmup={config.optimizer.warmup}: a share of the "
      "steps, at least 0 and below 1."
    )
  return config


def base_config() -> ConfigDict:
  """What every training config has; a recipe changes values, not keys."""
  config = ConfigDict()
  config.task = "contrastive"
  config.seed = 1234
  config.steps = 1000
  config.batch_size = 128
  # The batch is encoded in this many chunks, with the gradient of the whole.
  config.chunks = 1
  config.log_every = 50
  # A folder with weights to begin from ("" is random): a Hugging Face or
  # sentence-transformers folder, or another stage's workdir.
  config.init_from = ""

  config.data = ConfigDict()
  config.data.source = "pairs"
  config.data.corpus = ""
  config.data.questions = ""
  config.data.pairs = ""
  config.data.tokenizer = ""
  config.data.question_length = 64
  config.data.passage_length = 256
  config.data.hard_negatives = 1
  config.data.title = True
  # ICT: how often the query's sentence stays in its block.
  config.data.keep_query = 0.1
  # Masked salient spans: a spans folder, and entities masked in a sentence.
  config.data.spans = ""
  config.data.spans_per_example = 1
  # Readers: tokens of question and passage together, and of an answer.
  config.data.reader_length = 256
  config.data.answer_length = 32
  config.data.reader_title = False
  # Pad a batch to the bucket of its longest row, not to the lengths above:
  # less to compute in long runs, more programs to compile in short ones.
  config.data.reader_buckets = True
  # The passages in the reader's own vocabulary; "": it shares the retriever's.
  config.data.reader_corpus = ""

  config.model = ConfigDict()
  config.model.preset = "base"
  config.model.shared = False
  config.model.pooling = "cls"
  config.model.normalise = False
  config.model.embedding_dim = 0  # 0: the model's width
  config.model.projection = "none"
  config.model.max_positions = 512
  config.model.dropout = 0.1
  config.model.dtype = "float32"
  config.model.remat = "none"
  config.model.scan = True

  config.reader = ConfigDict()
  config.reader.preset = "base"
  # A T5 folder or a workdir with a reader; "": that of `init_from`, or random.
  config.reader.init_from = ""
  config.reader.dropout = 0.1
  config.reader.dtype = "float32"
  config.reader.remat = "none"
  config.reader.scan = True
  # For small readers from random weights; published sizes leave them off.
  config.reader.mixing = False
  config.reader.mimetic = False
  config.reader.flags = False
  config.reader.span_loss = 0.0  # weight of the auxiliary loss

  config.objective = ConfigDict()
  # m in τ = m·sqrt(d); 0 leaves scores unscaled.
  config.objective.scale_multiple = 1.0
  # τ itself, in place of m·sqrt(d); 0 leaves it to `scale_multiple`.
  config.objective.temperature = 0.0
  # Individual Top-k: "sequence" (Eq. 5) or "token".
  config.objective.marginal = "sequence"
  # Whether end-to-end training updates the context encoder as well.
  config.objective.context_encoder = True
  # Joint Top-k: what is added to the cross-attention, times λ; how many λ.
  config.objective.bias = "prob"
  config.objective.bias_scope = "layer"
  config.objective.bias_start = 1.0

  config.retrieval = ConfigDict()
  config.retrieval.k = 8  # 0: the reader answers without passages
  config.retrieval.index = ""  # begin with this one; "": made at the start
  config.retrieval.dtype = "float32"
  config.retrieval.refresh = "none"
  config.retrieval.refresh_every = 500
  config.retrieval.null_document = False
  config.retrieval.force_gold = False

  config.optimizer = ConfigDict()
  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup = 0.01
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip_norm = 1.0
  config.optimizer.b1 = 0.9
  config.optimizer.b2 = 0.999
  config.optimizer.eps = 1e-8
  # (path regex, factor); 0 freezes. The first match decides.
  config.optimizer.multipliers = ()

  config.mesh = ConfigDict({"data": -1})
  # (path regex, spec); a spec is a tuple of mesh axes or "fsdp".
  config.sharding = ((".*", ()),)

  config.checkpoint = ConfigDict()
  config.checkpoint.every = 1000
  config.checkpoint.keep = 1

  config.evaluate = ConfigDict()
  # Measured at every checkpoint; "" turns it off. The step with the highest
  # `best` is kept beside the last ones.
  config.evaluate.questions = ""
  config.evaluate.corpus = ""
  config.evaluate.best = "recall@20"
  config.evaluate.k = 0  # passages read; 0: as many as in training
  config.evaluate.max_questions = 0  # evenly spaced; 0: all
  return config


# What makes a recipe take seconds on a laptop.
_SMALL = {
  "steps": 10,
  "batch_size": 16,
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
