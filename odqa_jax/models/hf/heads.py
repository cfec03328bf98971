"""Published models with a head, and our networks, in both directions.

`*ForSequenceClassification` with one label is a `Reranker` or a
`PassageClassifier`, `*ForQuestionAnswering` and DPR's reader are an
`ExtractiveReader`; `*` is Bert, Roberta, Electra or MobileBert.

>>> from odqa_jax.models.hf.heads import load_scorer
>>> from odqa_jax.models.passage_scorer import Reranker
>>> folder = "~/ms-marco-MiniLM-L6-v2"
>>> reranker, params = load_scorer(folder, Reranker)  # doctest: +SKIP
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from odqa_jax.models.bert import VARIANTS, BertConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.hf import tensors as published
from odqa_jax.models.hf.bert_config import (
  ALL,
  bert_config,
  class_name,
  read_bert_config,
  write_config,
)
from odqa_jax.models.hf.encoder import SavesTokenizer
from odqa_jax.models.hf.folders import new_folder, write_ours
from odqa_jax.models.layers import Params
from odqa_jax.models.passage_scorer import PassageScorer, ScorerConfig

# The parts that a folder may lack, by path in our tree.
_HEADS = (
  "filter",
  "classifier.dense",
  "classifier.out_proj",
  "qa_outputs",
  "qa_classifier",
  "qa_span",
)
# Of tensors that a network may have no use for.
_IGNORED = (
  *published.BERT.ignored,
  *(f"{head}." for head in _HEADS),
  "classifier.",
  "lm_head.",
  "discriminator_predictions.",
)
# What BERT calls the two layers of its classifier.
_POOLED = {
  "classifier.dense": "pooler.dense",
  "classifier.out_proj": "classifier",
}

# What can be loaded and saved here.
HeadNetwork = PassageScorer | ExtractiveReader


def read_body(
  directory: str | Path, *, dtype: str = "float32", scan: bool = True
) -> BertConfig:
  """The encoder that the config.json of a folder describes.

  Args:
    directory: the folder of a BERT or a relative of it, with any head.
    dtype: dtype of the computation.
    scan: how the layers will run, see `BertConfig`.

  Raises:
    ValueError: another network.
    FileNotFoundError: there is no config.json.
  """
  config = bert_config(read_bert_config(Path(directory).expanduser(), ALL))
  return dataclasses.replace(config, dtype=dtype, scan=scan)


def read_params(
  directory: str | Path, network: HeadNetwork
) -> tuple[Params, tuple[str, ...]]:
  """What a folder has of a network's parameters.

  Args:
    directory: with safetensors weights.
    network: its encoder is the folder's, see `read_body`.

  Returns:
    The parameters, and the heads that the folder lacks, which are not among
    them: every one of a model that was trained on text alone.

  Raises:
    ValueError: names or shapes that differ from the network's.
    FileNotFoundError: there are no weights.
  """
  directory = Path(directory).expanduser()
  spec = jax.eval_shape(network.init, jax.random.key(0))
  layout = _layout(network.config.bert)
  with published.open_tensors(directory, layout) as tensors:
    missing = tuple(
      head
      for head in _HEADS
      if _holds(spec, head) and not _is_there(tensors, layout, head)
    )
    if isinstance(network, PassageScorer):
      _check_one_label(tensors, layout, directory)
    present = _without(spec, missing)
    params, _ = published.read_tree(tensors, present, directory)
  return params, missing


def holds_spans(directory: str | Path) -> bool:
  """Whether a folder has the head of starts and ends, as a reader has.

  Args:
    directory: of any published model.
  """
  directory = Path(directory).expanduser()
  # That of two encoders has no network of its own.
  if not (directory / "config.json").is_file():
    return False
  with published.open_tensors(directory, published.BERT) as tensors:
    return _is_there(tensors, published.BERT, "qa_outputs")


def load_scorer(
  directory: str | Path,
  kind: type[PassageScorer],
  *,
  dtype: str = "float32",
  scan: bool = True,
) -> tuple[Any, Params]:
  """A reranker or classifier of passages, of a folder that has its head.

  Args:
    directory: of a `*ForSequenceClassification` with one label.
    kind: `Reranker` or `PassageClassifier`.
    dtype: dtype of the computation.
    scan: how the layers will run.

  Raises:
    ValueError: another network, another number of labels, or no head.
    FileNotFoundError: there is no config.json or no weights.
  """
  network = kind(ScorerConfig(read_body(directory, dtype=dtype, scan=scan)))
  return network, _complete(directory, network)


def load_extractive_reader(
  directory: str | Path, *, dtype: str = "float32", scan: bool = True
) -> tuple[ExtractiveReader, Params]:
  """An extractive reader with the heads that a folder has.

  Args:
    directory: of a `*ForQuestionAnswering`, of DPR's reader, or of what
      `save_network` writes.
    dtype: dtype of the computation.
    scan: how the layers will run.

  Raises:
    ValueError: another network, or no head of starts and ends.
    FileNotFoundError: there is no config.json or no weights.
  """
  config = SpanConfig(read_body(directory, dtype=dtype, scan=scan))
  layout = _layout(config.bert)
  with published.open_tensors(Path(directory).expanduser(), layout) as tensors:
    config = dataclasses.replace(
      config,
      span=_is_there(tensors, layout, "qa_span"),
      passage=_is_there(tensors, layout, "qa_classifier"),
    )
  network = ExtractiveReader(config)
  return network, _complete(directory, network)


def save_network(
  directory: str | Path,
  network: HeadNetwork,
  params: Mapping[str, Any],
  tokenizer: SavesTokenizer,
  reading: Mapping[str, Any] | None = None,
) -> None:
  """Writes a folder for transformers, and for the functions above.

  The heads of passages and spans of an extractive reader are written beside
  that of starts and ends; a class of transformers leaves them unread.

  Args:
    directory: folder to make; it must not exist, or be empty.
    network: what to save.
    params: its parameters.
    tokenizer: has `save(directory)`.
    reading: how its inputs are made, which is read back by `load_component`:
      lengths in tokens, `title` and so on.

  Raises:
    FileExistsError: `directory` has something in it.
  """
  bert = network.config.bert
  reads = isinstance(network, ExtractiveReader)
  task = "QuestionAnswering" if reads else "SequenceClassification"
  labels: dict[str, Any] = {}
  if not reads:
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    # Or sentence-transformers gives the sigmoid of a score.
    identity = {"activation_fn": "torch.nn.modules.linear.Identity"}
    labels["sentence_transformers"] = identity

  def prefixed(name: str) -> str:
    body = name.startswith(("embeddings", "encoder.", "pooler."))
    return f"{bert.variant}.{name}" if body else name

  with new_folder(Path(directory).expanduser()) as folder:
    tokenizer.save(folder)
    if reading:
      write_ours(folder, reading)
    architecture = class_name(bert, f"For{task}")
    write_config(folder, bert, architectures=[architecture], **labels)
    path = folder / "model.safetensors"
    published.write_tree(path, dict(params), _layout(bert), prefixed)


def _layout(config: BertConfig) -> published.Layout:
  def rename(name: str) -> str:
    stem, _, last = name.rpartition(".")
    if VARIANTS[config.variant].pooled and stem in _POOLED:
      return f"{_POOLED[stem]}.{last}"
    return published.BERT.rename(name)

  return dataclasses.replace(published.BERT, ignored=_IGNORED, rename=rename)


def _holds(tree: Mapping[str, Any], head: str) -> bool:
  outer, _, inner = head.partition(".")
  return outer in tree and (not inner or inner in tree[outer])


def _is_there(
  tensors: published.Tensors, layout: published.Layout, head: str
) -> bool:
  """Whether a folder has any tensor of a head."""
  names = (layout.template(f"{head}.{leaf}") for leaf in ("kernel", "bias"))
  return any(name in tensors.raw for name in names)


def _without(tree: Params, heads: tuple[str, ...]) -> Params:
  kept = {k: dict(v) if k == "classifier" else v for k, v in tree.items()}
  for head in heads:
    outer, _, inner = head.partition(".")
    if inner:
      del kept[outer][inner]
    else:
      del kept[outer]
  return {k: v for k, v in kept.items() if v}


def _check_one_label(
  tensors: published.Tensors, layout: published.Layout, directory: Path
) -> None:
  """Refuses a classifier of several classes.

  Raises:
    ValueError: naming their number.
  """
  name = layout.template("classifier.out_proj.kernel")
  shape = tensors.shape(name) if name in tensors.raw else (1,)
  if shape[0] != 1:
    raise ValueError(
      f"{directory}: its classifier tells {shape[0]} labels apart, but a "
      "passage's score is one number; choose a model with one label "
      "(num_labels=1)."
    )


def _complete(directory: str | Path, network: HeadNetwork) -> Params:
  params, missing = read_params(directory, network)
  if missing:
    raise ValueError(
      f"{directory}: the weights have no {', '.join(missing)}, which a "
      f"{type(network).__name__} needs; begin its training from this folder, "
      "or choose a model that has the head."
    )
  return params
