"""Folders of `BertForTokenClassification`, read."""

from pathlib import Path

import jax

from odqa_jax.models.bert import BertConfig
from odqa_jax.models.hf import tensors as published
from odqa_jax.models.hf.bert_config import bert_config, read_bert_config
from odqa_jax.models.layers import Params
from odqa_jax.models.token_classifier import init_token_classifier


def load_token_classifier(
  directory: Path,
) -> tuple[BertConfig, Params, tuple[str, ...]]:
  """Network, parameters, and the label of each output.

  Args:
    directory: with `config.json`, whose `id2label` names the labels, and
      safetensors weights.

  Raises:
    ValueError: not a BERT, unnamed labels, or weights that do not fit.
    FileNotFoundError: there is no config.json or no weights.
  """
  given = read_bert_config(directory)
  config = bert_config(given)
  labels = _labels(given.get("id2label") or {}, directory / "config.json")
  spec = jax.eval_shape(
    lambda rng: init_token_classifier(config, len(labels), rng),
    jax.random.key(0),
  )
  with published.open_tensors(directory, published.BERT) as tensors:
    params, _ = published.read_tree(tensors, spec, directory)
  return config, params, labels


def _labels(named: dict[str, str], path: Path) -> tuple[str, ...]:
  """The labels in the order of their numbers.

  Raises:
    ValueError: if they are not numbered from 0, or only numbered.
  """
  numbers = sorted(map(int, named))
  labels = tuple(str(named[str(number)]) for number in numbers)
  if numbers != list(range(len(numbers))) or len(labels) < 2:
    raise ValueError(
      f"{path}: id2label={named!r:.80} must name the labels 0, 1 and so on of "
      "a token classifier; is this one?"
    )
  if all(label.startswith("LABEL_") for label in labels):
    raise ValueError(
      f"{path}: id2label only numbers the labels ({labels[0]} …); write what "
      'they stand for, such as "B-PER".'
    )
  return labels
