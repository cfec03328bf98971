"""Every setting of a training run: its type, default, meaning and limits.

    settings = read_settings(config)  # once, at the edge of `train`
    settings.retrieval.k

A config is a `ConfigDict` of these keys, which recipes and the command line
change; library code gets the blocks or values that it needs. To add a setting:
a field here, or in a file beside it, and its line in `configs/README.md`.

Names that a table of another folder lists (tasks, sources, presets) are checked
by `training.tasks.table.check_names`, also before any data is opened.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from odqa_jax.runtime.data_settings import DataSettings
from odqa_jax.runtime.data_settings import key as _key
from odqa_jax.runtime.evaluate_settings import EvaluateSettings
from odqa_jax.runtime.kept_settings import CheckpointSettings, ReportSettings
from odqa_jax.runtime.paths import expand_home
from odqa_jax.runtime.unified_settings import UnifiedSettings

EXTRACTIVE = ("independent", "dpr")
MARGINALS = ("sequence", "token")
BIASES = ("prob", "logprob", "none")
BIAS_SCOPES = ("model", "layer", "head")
TOKENS = ("auto", "device", "host")
REFRESH_MODES = ("none", "blocking", "snapshot", "rolling")
FLOATS = ("float32", "bfloat16")
INDEX_DTYPES = (*FLOATS, "int8")
REMAT = ("none", "dots", "full", "auto")
SHARDINGS = ("zero", "fsdp", "replicated")
ATTENTION = ("auto", "xla", "cudnn", "pallas")
# In place of what the devices decide.
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
  """The retriever."""

  preset: str = _key("base", "its size; init: that of the weights loaded")
  shared: bool = _key(False, "one encoder for questions and passages")
  pooling: str = _key("cls", "cls or mean", choices=("cls", "mean"))
  normalise: bool = _key(False, "embeddings of length 1")
  embedding_dim: int = _key(0, "of the embeddings; 0: the width", least=0)
  projection: str = _key(
    "none",
    "to `embedding_dim`: none, dense or truncate",
    choices=("none", "dense", "truncate"),
  )
  passage_type: int | str = _key(
    AUTO,
    "token type of passages, 0 or 1 (questions have 0); auto: as the weights "
    "were trained, else 1 if `shared`",
    least=0,
    words=(AUTO,),
  )
  max_positions: int = _key(512, "longest input that it takes", least=3)
  dropout: float = _key(0.1, "rate, in attention too", least=0)
  dtype: str = _key("float32", "of its computations", choices=FLOATS)
  remat: str = _key(
    "none",
    "recomputed in the backward pass; auto: on GPUs as little as memory allows",
    choices=REMAT,
  )
  scan: bool | str = _key(
    AUTO, "one compiled layer for all of them; auto: not on GPUs", words=(AUTO,)
  )
  attention: str = _key(
    "auto",
    "what computes it: cudnn on GPUs (which drops no attention weights), "
    "pallas on TPUs, where it takes shape and dtype; else xla",
    choices=ATTENTION,
  )


@dataclasses.dataclass(frozen=True)
class ReaderSettings:
  """The generative reader."""

  preset: str = _key("base", "its size; init: that of the weights loaded")
  init_from: str = _key(
    "",
    "a T5 folder, Hub name or workdir; none: `init_from`'s reader, or random",
  )
  dropout: float = _key(0.1, "rate", least=0)
  dtype: str = _key("float32", "of its computations", choices=FLOATS)
  remat: str = _key(
    "none",
    "recomputed in the backward pass; auto: on GPUs as little as memory allows",
    choices=REMAT,
  )
  scan: bool | str = _key(
    AUTO, "one compiled layer for all of them; auto: not on GPUs", words=(AUTO,)
  )
  attention: str = _key(
    "auto",
    "what computes it: cudnn on GPUs (which drops no attention weights), "
    "pallas on TPUs, where it takes shape and dtype; else xla",
    choices=ATTENTION,
  )
  depthwise_convolution: bool = _key(False, "an aid for small readers")
  mimetic: bool = _key(False, "an aid for small readers: its first weights")
  overlap_features: bool = _key(
    False, "an aid for small readers: marks words that the question has"
  )
  span_loss: float = _key(
    0.0, "an aid for small readers: weight of the auxiliary loss", least=0
  )


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
  """What is minimised."""

  scale_multiple: float = _key(
    1.0, "m in τ = m·sqrt(d), which divides scores; 0: τ = 1", least=0
  )
  temperature: float = _key(0.0, "τ itself; 0: by `scale_multiple`", least=0)
  marginal: str = _key(
    "sequence", "Individual: Eq. 5, or token by token", choices=MARGINALS
  )
  passage_encoder: bool = _key(
    True, "end-to-end training updates the passage encoder as well"
  )
  extractive: str = _key(
    "independent",
    "extractive reader: four likelihoods over all passages, or dpr",
    choices=EXTRACTIVE,
  )
  bias: str = _key(
    "prob", "Joint: what λ weighs in the cross-attention", choices=BIASES
  )
  bias_scope: str = _key(
    "layer", "Joint: what has a λ of its own", choices=BIAS_SCOPES
  )
  bias_start: float = _key(1.0, "Joint: the first λ")
  bias_learning_rate: float = _key(
    1e-3,
    "Joint: the rate of λ, whose scale is 1, not that of a weight",
    least=0,
  )


@dataclasses.dataclass(frozen=True)
class RetrievalSettings:
  """Retrieval in the training loop."""

  k: int = _key(8, "passages read; 0: the reader answers without", least=0)
  index: str = _key("", "begin with this one; none: it is made at the start")
  dtype: str = _key("float32", "of the index", choices=INDEX_DTYPES)
  refresh: str = _key("none", "how it is kept fresh", choices=REFRESH_MODES)
  refresh_every: int = _key(500, "steps between two indexes", least=1)
  tokens: str = _key(
    "auto", "are gathered here; auto: on GPUs, TPUs with room", choices=TOKENS
  )
  null_document: bool = _key(False, "one more candidate, without text")
  force_gold: bool = _key(False, "the gold passage is always among the k")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """AdamW, warm-up and linear decay."""

  learning_rate: float = _key(2e-5, "the highest rate", least=0)
  warmup: float = _key(0.01, "share of the steps until it is reached", least=0)
  warmup_steps: int = _key(
    0, "steps until it is reached; 0: by `warmup`", least=0
  )
  weight_decay: float = _key(0.01, "decoupled", least=0)
  clip_norm: float = _key(1.0, "longest gradient", least=0)
  b1: float = _key(0.9, "decay of the first moment", least=0)
  b2: float = _key(0.999, "decay of the second moment", least=0)
  eps: float = _key(1e-8, "added to the root of the second moment", least=0)
  multipliers: tuple[tuple[str, float], ...] = _key(
    (), "(path regex, factor of the rate); 0 freezes; the first match decides"
  )


@dataclasses.dataclass(frozen=True)
class Settings:
  """A training run."""

  task: str = _key("contrastive", "what is trained")
  seed: int = _key(1234, "of weights, dropout and the order of the data")
  steps: int = _key(1000, "updates", least=1)
  epochs: float = _key(
    0.0, "passes over the examples, in place of `steps`; 0: by `steps`", least=0
  )
  batch_size: int = _key(128, "examples of an update, on all devices", least=1)
  micro_batches: int | str = _key(
    1, "parts that a batch is computed in, with the gradient of the whole; "
    "auto: as few as the memory of the devices allows",
    least=1, words=(AUTO,),
  )  # fmt: skip
  log_every: int = _key(50, "steps between two lines of metrics", least=1)
  init_from: str = _key(
    "",
    "first weights: a published folder, a Hub name, minilm, a workdir; none: "
    "random",
  )
  data: DataSettings = dataclasses.field(default_factory=DataSettings)
  model: ModelSettings = ModelSettings()
  reader: ReaderSettings = ReaderSettings()
  objective: ObjectiveSettings = ObjectiveSettings()
  unified: UnifiedSettings = dataclasses.field(default_factory=UnifiedSettings)
  retrieval: RetrievalSettings = RetrievalSettings()
  optimizer: OptimizerSettings = OptimizerSettings()
  checkpoint: CheckpointSettings = dataclasses.field(
    default_factory=CheckpointSettings
  )
  evaluate: EvaluateSettings = dataclasses.field(
    default_factory=EvaluateSettings
  )
  report: ReportSettings = dataclasses.field(default_factory=ReportSettings)
  mesh: Mapping[str, int] = dataclasses.field(
    default_factory=lambda: {"data": -1},
    metadata={"meaning": "axes of the devices; -1 takes what is left"},
  )
  sharding: str = _key(
    "zero",
    "of weights and moments: split and gathered once a step (zero) or layer by "
    "layer (fsdp), or replicated",
    choices=SHARDINGS,
  )

  @property
  def parts(self) -> int:
    """`micro_batches` as the number that it must be by now."""
    assert isinstance(self.micro_batches, int), self.micro_batches
    return self.micro_batches


def nearest(name: str, known: Iterable[str]) -> str:
  """What to say of an unknown name: the nearest known one, and all of them."""
  known = sorted(known)
  close = difflib.get_close_matches(name, known, n=1)
  meant = f"did you mean {close[0]!r}? " if close else ""
  return f"{meant}known: {', '.join(known)}."


def keys(
  block: Any = Settings, prefix: str = "config"
) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
  """Every key of a config with its field, in order."""
  for field in dataclasses.fields(block):
    if dataclasses.is_dataclass(field.type):
      yield from keys(field.type, f"{prefix}.{field.name}")
    else:
      yield f"{prefix}.{field.name}", field


def described() -> Iterator[str]:
  """A line for every key of a config: its default and what it means."""
  for name, field in keys():
    make = field.default_factory
    default = field.default if make is dataclasses.MISSING else make()
    yield f"--{name}={default!r}  {field.metadata['meaning']}"


def read_settings(config: ConfigDict) -> Settings:
  """Checks a config and makes it typed and frozen.

  Raises:
    ValueError: naming the key, its value and the rule.
  """
  settings = _read(Settings, config, "config")
  _check_together(settings)
  return settings


def _read(block: Any, config: Any, prefix: str) -> Any:
  values = {}
  for field in dataclasses.fields(block):
    name = f"{prefix}.{field.name}"
    if field.name not in config:
      raise ValueError(
        f"{name} is missing; begin a config with `base_config()`."
      )
    value = config[field.name]
    if dataclasses.is_dataclass(field.type):
      values[field.name] = _read(field.type, value, name)
    elif isinstance(value, ConfigDict):
      values[field.name] = value.to_dict()
    else:
      values[field.name] = _checked(field, value, name)
  unknown = set(config) - set(values)
  if unknown:
    raise ValueError(
      f"{prefix}.{min(unknown)} is no setting; {nearest(min(unknown), values)}"
    )
  return block(**values)


def word_for(field: dataclasses.Field[Any]) -> type:
  """The type of a key's values that are none of its words."""
  kind: type = typing.get_args(field.type)[0]
  return kind


def _checked(field: dataclasses.Field[Any], value: Any, name: str) -> Any:
  choices, least = field.metadata["choices"], field.metadata["least"]
  words = field.metadata["words"]
  if value in words:
    return value
  if words and not isinstance(value, word_for(field) | float):
    kind = "True, False" if word_for(field) is bool else "a number"
    raise ValueError(f"{name}={value!r}: {kind}, or {', '.join(words)}.")
  if choices and value not in choices:
    raise ValueError(f"{name}={value!r}; {nearest(value, choices)}")
  if least is not None and not value >= least:
    raise ValueError(f"{name}={value}: must be at least {least}.")
  if field.type is float:
    return float(value)
  return expand_home(value) if isinstance(value, str) else value


def _check_together(settings: Settings) -> None:
  """What one key cannot say alone."""
  data, model = settings.data, settings.model
  if settings.micro_batches != AUTO and settings.parts > settings.batch_size:
    raise ValueError(
      f"config.micro_batches={settings.micro_batches}: more parts than the "
      f"config.batch_size={settings.batch_size} examples; lower it."
    )
  if max(data.question_length, data.passage_length) > model.max_positions:
    raise ValueError(
      f"config.data.question_length={data.question_length}, passage_length="
      f"{data.passage_length}: neither may exceed config.model.max_positions="
      f"{model.max_positions}."
    )
  if not 0 < data.fraction <= 1:
    raise ValueError(
      f"config.data.fraction={data.fraction}: a share above 0, at most 1."
    )
  for name, share in {
    "data.keep_query": data.keep_query,
    "model.dropout": model.dropout,
    "reader.dropout": settings.reader.dropout,
  }.items():
    if share > 1:
      raise ValueError(f"config.{name}={share}: a share, 0 to 1.")
  if settings.optimizer.warmup >= 1:
    raise ValueError(
      f"config.optimizer.warmup={settings.optimizer.warmup}: a share of the "
      "steps, at least 0 and below 1."
    )
