"""What a checkpoint is exported to, and how a network is written so.

To add a format: a function that writes a `Part`, what loads it in `usage.py`,
and a row in `FORMATS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from odqa_jax.models.extractive_reader import SpanConfig
from odqa_jax.models.hf.encoder import save_encoder
from odqa_jax.models.hf.heads import save_network
from odqa_jax.models.hf.t5 import save_t5
from odqa_jax.runtime.files import read_json, write_json
from odqa_jax.serving.export.parts import Part


class Format(NamedTuple):
  """A row of `FORMATS`.

  Attributes:
    role: of the network that is written.
    library_name: which loads it, as the Hub names libraries.
    pipeline: what it is for, as the Hub names tasks.
    write: makes the files in an empty folder.
  """

  role: str
  library_name: str
  pipeline: str
  write: Callable[[Path, Part], None]


def _write_retriever(folder: Path, part: Part, layout: str) -> None:
  save_encoder(
    folder,
    part.network.config,
    part.params,
    part.tokenizer,
    question_length=part.reading["question_length"],
    passage_length=part.reading["passage_length"],
    title=part.reading["title"],
    layout=layout,
  )


def _write_sentences(folder: Path, part: Part) -> None:
  _write_retriever(folder, part, "sentence-transformers")


def _write_dpr(folder: Path, part: Part) -> None:
  _write_retriever(folder, part, "dpr")


def _write_t5(folder: Path, part: Part) -> None:
  save_t5(folder, part.network.config, part.params, part.tokenizer)
  if part.reading:
    _limit(folder, part.reading["input_length"])


def _write_head(folder: Path, part: Part) -> None:
  save_network(folder, part.network, part.params, part.tokenizer, part.reading)
  alone = part.role == "passage_classifier"
  _limit(folder, part.reading["passage_length" if alone else "pair_length"])


def _write_spans(folder: Path, part: Part) -> None:
  """A reader of starts and ends alone.

  Raises:
    ValueError: if it has other heads, which the class would not load.
  """
  config: SpanConfig = part.network.config
  more = []
  if config.passage:
    more.append("the passage (qa_classifier)")
  if config.span:
    more.append("the span as a whole (qa_span)")
  if more:
    raise ValueError(
      f"{part.path}: its head scores {' and '.join(more)} besides starts and "
      "ends, which no class for question answering of transformers has, so "
      "that it would answer otherwise; use --to odqa, a folder in safetensors "
      "that odqa_jax reads whole."
    )
  _write_head(folder, part)


def _limit(folder: Path, length: int) -> None:
  """Says in tokens where the tokenizer of transformers cuts."""
  path = folder / "tokenizer_config.json"
  write_json(path, read_json(path) | {"model_max_length": length})


FORMATS: dict[str, Format] = {
  "sentence-transformers": Format(
    "retriever",
    "sentence-transformers",
    "sentence-similarity",
    _write_sentences,
  ),
  "dpr": Format("retriever", "transformers", "feature-extraction", _write_dpr),
  "t5": Format("reader", "transformers", "text2text-generation", _write_t5),
  "cross-encoder": Format(
    "reranker", "sentence-transformers", "text-ranking", _write_head
  ),
  "text-classification": Format(
    "passage_classifier", "transformers", "text-classification", _write_head
  ),
  "question-answering": Format(
    "extractive_reader", "transformers", "question-answering", _write_spans
  ),
  "odqa": Format(
    "extractive_reader", "odqa_jax", "question-answering", _write_head
  ),
}
