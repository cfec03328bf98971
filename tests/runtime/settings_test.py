"""Every setting is checked by name, before any data is opened, and told of."""

import dataclasses
from pathlib import Path

import pytest

from odqa_jax.runtime import settings as settings_module
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.settings import Settings, keys, read_settings
from odqa_jax.training.tasks.table import check_names
from odqa_jax.training.train import train

CHOSEN = [(n, f) for n, f in keys() if f.metadata.get("choices")]
BOUNDED = [(n, f) for n, f in keys() if f.metadata.get("least") is not None]


def with_value(name, value):
  """A config whose key `config.a.b` has the value."""
  config = base_config()
  with config.ignore_type():
    config.update_from_flattened_dict({name.removeprefix("config."): value})
  return config


def value_of(settings, name):
  for part in name.split(".")[1:]:
    settings = getattr(settings, part)
  return settings


def test_the_defaults_are_valid_and_typed():
  assert read_settings(base_config()) == Settings()
  # As many keys as there are leaves: nothing is checked by its absence.
  assert len(dict(keys())) == len(list(keys())) > 70


@pytest.mark.parametrize(
  ("name", "field"), CHOSEN, ids=[name for name, _ in CHOSEN]
)
def test_choices_are_kept_to_and_the_nearest_is_named(name, field):
  for choice in field.metadata["choices"]:
    assert value_of(read_settings(with_value(name, choice)), name) == choice
  meant = field.metadata["choices"][-1]
  with pytest.raises(ValueError) as refusal:
    read_settings(with_value(name, meant + "x"))
  message = str(refusal.value)
  assert message.startswith(f"{name}={meant + 'x'!r}; did you mean {meant!r}?")
  assert all(choice in message for choice in field.metadata["choices"])


@pytest.mark.parametrize(
  ("name", "field"), BOUNDED, ids=[name for name, _ in BOUNDED]
)
def test_least_values_are_kept_to(name, field):
  least = field.metadata["least"]
  config = with_value(name, least)
  if name == "config.model.max_positions":  # No input may be longer.
    config.data.question_length = config.data.passage_length = least
  assert value_of(read_settings(config), name) == least
  for value in (least - 1, float("nan")):
    with pytest.raises(ValueError) as refusal:
      read_settings(with_value(name, value))
    said, _, rule = str(refusal.value).partition(": ")
    assert said in (f"{name}={value}", f"{name}={float(value)}")
    assert rule == f"must be at least {least}."


def test_no_key_loses_its_limit():
  """Without it, it would leave the tests above in silence."""
  chosen = {name.removeprefix("config.") for name, _ in CHOSEN}
  assert chosen >= {
    "model.pooling", "model.projection", "model.dtype", "model.remat",
    "reader.dtype", "reader.remat", "objective.marginal", "objective.bias",
    "objective.bias_scope", "retrieval.dtype", "retrieval.refresh",
    "evaluate.index",
  }  # fmt: skip
  least = {n.removeprefix("config."): f.metadata["least"] for n, f in BOUNDED}
  positive = {name for name, value in least.items() if value == 1}
  assert positive >= {
    "steps", "batch_size", "micro_batches", "log_every",
    "data.spans_per_example", "retrieval.refresh_every", "checkpoint.every",
    "checkpoint.keep", "evaluate.passages",
  }  # fmt: skip
  zero = {name for name, value in least.items() if value == 0}
  assert zero >= {
    "epochs", "data.hard_negatives", "data.keep_query", "model.embedding_dim",
    "model.dropout", "reader.dropout", "reader.span_loss",
    "objective.scale_multiple", "objective.temperature",
    "objective.bias_learning_rate", "retrieval.k", "optimizer.learning_rate",
    "optimizer.warmup", "optimizer.weight_decay", "optimizer.clip_norm",
    "optimizer.b1", "optimizer.b2", "optimizer.eps", "evaluate.k",
    "evaluate.max_questions",
  }  # fmt: skip


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("data.fraction", 0.0, "config.data.fraction=0.0"),
    ("data.fraction", 1.5, "config.data.fraction=1.5"),
    ("data.keep_query", 1.5, "config.data.keep_query=1.5"),
    ("model.dropout", 1.5, "config.model.dropout=1.5"),
    ("reader.dropout", 1.5, "config.reader.dropout=1.5"),
    ("optimizer.warmup", 1.0, "config.optimizer.warmup=1.0"),
    ("data.question_length", 513, "config.data.question_length=513"),
    ("data.passage_length", 513, "passage_length=513"),
    ("micro_batches", 200, "config.micro_batches=200: more parts than"),
  ],
)
def test_what_is_too_large_is_named(name, value, message):
  with pytest.raises(ValueError, match=message):
    read_settings(with_value(name, value))


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("stepz", "config.stepz is no setting; did you mean 'steps'?"),
    ("data.corpos", "config.data.corpos is no setting; did you mean 'corpus'?"),
    (
      "retrieval.refresh_ever",
      "config.retrieval.refresh_ever is no setting; did you mean "
      "'refresh_every'?",
    ),
  ],
)
def test_unknown_keys_are_named_at_every_depth(name, message):
  config = base_config()
  *blocks, leaf = name.split(".")
  node = config
  for block in blocks:
    node = node[block]
  node[leaf] = 1
  with pytest.raises(ValueError) as refusal:
    read_settings(config)
  assert str(refusal.value).startswith(message)


NAMES = [
  ("task", "individul", "config.task='individul'; did you mean 'individual'?"),
  ("data.source", "pair", "config.data.source='pair'; did you mean 'pairs'?"),
  ("model.preset", "bse", "config.model.preset='bse'; did you mean 'base'?"),
  ("reader.preset", "lage", "config.reader.preset='lage'; did you mean 'larg"),
  ("objective.bias", "score", "config.objective.bias='score'; known: logprob"),
  ("data.source", "pairs", "config.data.source='pairs' does not go with this"),
]


@pytest.mark.parametrize(
  ("name", "value", "message"), NAMES, ids=[f"{n}={v}" for n, v, _ in NAMES]
)
def test_names_are_checked_before_any_data_is_opened(
  tmp_path, name, value, message
):
  config = with_value("config.task", "individual")
  config.data.source = "answers"
  config.data.corpus = str(tmp_path / "no corpus here")
  config.update_from_flattened_dict({name: value})
  with pytest.raises(ValueError) as refusal:
    train(config.lock(), tmp_path / "work")
  assert str(refusal.value).startswith(message)
  assert not list(tmp_path.iterdir())


def test_a_task_without_a_reader_is_not_asked_for_one():
  settings = read_settings(with_value("reader.preset", "no such size"))
  assert check_names(settings).components == ("retriever",)


# ---- What is written of them ----


def documented(name, field):
  """The line of a key in `configs/README.md`."""
  default = field.default
  if default is dataclasses.MISSING:
    default = field.default_factory()
  meaning = field.metadata["meaning"]
  if choices := field.metadata.get("choices"):
    meaning += "; one of " + ", ".join(f"`{choice!r}`" for choice in choices)
  return f"| `{name}` | `{default!r}` | {meaning} |"


def test_every_key_is_explained_beside_the_recipes():
  page = Path(__file__).parents[2] / "configs" / "README.md"
  lines = [
    line
    for line in page.read_text().splitlines()
    if line.startswith("| `config.")
  ]
  expected = [documented(*key) for key in keys()]
  missing = [line for line in expected if line not in lines]
  assert not missing, f"put into {page}:\n" + "\n".join(missing)
  too_many = [line for line in lines if line not in expected]
  assert not too_many, "no such keys any more:\n" + "\n".join(too_many)
  assert lines == expected


def test_the_names_of_refresh_modes_are_those_of_the_refresher():
  from odqa_jax.retrieval import refresh

  assert settings_module.REFRESH_MODES == refresh.MODES


@pytest.mark.parametrize("path", ["seed", "retrieval.k"])
def test_a_missing_key_is_named(path):
  config = base_config()
  block, _, name = path.rpartition(".")
  del (config[block] if block else config)[name]
  with pytest.raises(ValueError, match=rf"config\.{path} is missing"):
    read_settings(config)
