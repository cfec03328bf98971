"""The programs that `odqa plan` compiles: those that the other commands run.

Only their arguments are made here, as shapes: no parameter and no row of an
index is ever allocated, and neither corpus nor weights are read.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, Sharding
from ml_collections import ConfigDict

from odqa_jax.models import dual_encoder as bert
from odqa_jax.models import t5
from odqa_jax.models.components import Models
from odqa_jax.reading.gather import SEARCHED, question_search
from odqa_jax.reading.likelihoods import READER_TASKS
from odqa_jax.retrieval.backends.exact import search_placed
from odqa_jax.retrieval.embed import batch_sizes, bulk_tokens, local_mesh
from odqa_jax.retrieval.index import padded_rows
from odqa_jax.retrieval.reembed import row_writer
from odqa_jax.retrieval.retriever import compiled_encoders
from odqa_jax.runtime.mesh import replicated, row_sharding
from odqa_jax.text.reader_vocabulary import SENTINELS
from odqa_jax.training.initial_reader import reader_config
from odqa_jax.training.tasks.tasks import encoder_config, make_task
from odqa_jax.training.train import (
  TrainingProgram,
  check_batch,
  training_program,
)

# As `index_corpus` writes them.
_SHARD_ROWS = 65536

# Shape and dtype of every array of a batch.
Shapes = Mapping[str, tuple[tuple[int, ...], Any]]


@dataclasses.dataclass(frozen=True)
class Planned:
  """One program.

  Attributes:
    name: what it is called in the report.
    note: what it is given.
    lower: traces it.
  """

  name: str
  note: str
  lower: Callable[[], jax.stages.Lowered]


@dataclasses.dataclass
class ReaderSizes:
  """The ids of a reader that shares BERT's word pieces; see `ReaderIds`."""

  size: int
  pad_id: int
  start_id: int
  eos_id: int


@dataclasses.dataclass(frozen=True)
class Setting:
  """What a plan is made for.

  Attributes:
    config: the training config.
    models: its networks, sized by its presets.
    mesh: of the devices that are planned for.
    passages: rows of the index.
    width: of the index that is searched outside training.
    dtype: of that index: float32, bfloat16 or int8.
    questions: searched at once, there.
    k: passages found for each.
  """

  config: ConfigDict
  models: Models
  mesh: Mesh
  passages: int
  width: int
  dtype: str
  questions: int
  k: int


def planned_models(config: ConfigDict, vocabulary: int) -> Models:
  """The networks that the presets of a config describe.

  Args:
    config: the training config.
    vocabulary: word pieces of the retriever. The reader shares them, unless
      `config.data.reader_corpus` gives it T5's own.

  Raises:
    ValueError: if a size can be told from weights only.
  """
  blocks = {"model": bert.PRESETS}
  if config.task in READER_TASKS:
    blocks["reader"] = t5.PRESETS
  for block, presets in blocks.items():
    if config[block].preset == "init":
      raise ValueError(
        f"config.{block}.preset=init takes the sizes of weights, which a plan "
        f"does not read; give --config.{block}.preset, one of "
        f"{', '.join(presets)}."
      )
  encoder = bert.DualEncoder(encoder_config(config.model, vocabulary))
  if config.task not in READER_TASKS:
    return Models(encoder)
  size = vocabulary + 2 + SENTINELS
  ids = ReaderSizes(size, 0, vocabulary, vocabulary + 1)
  if config.data.reader_corpus:
    rows = t5.PRESETS["base"]["vocab_size"]
    ids = ReaderSizes(rows, 0, 0, 1)
  return Models(encoder, t5.T5(reader_config(config.reader, ids)))


def abstract(tree: Any, sharding: Sharding) -> Any:
  """Shapes of a tree, placed."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def index_rows(setting: Setting) -> jax.ShapeDtypeStruct:
  """The rows of the index that `odqa search` searches."""
  return _rows(setting, setting.width, setting.dtype)


def trained_rows(setting: Setting) -> jax.ShapeDtypeStruct:
  """The rows of the index that training searches, and may renew."""
  width = setting.models.encoder.embedding_dim
  return _rows(setting, width, setting.config.retrieval.dtype)


def _rows(setting: Setting, width: int, dtype: str) -> jax.ShapeDtypeStruct:
  """Rows as `Index` has them."""
  count = padded_rows(setting.passages, setting.mesh)
  return jax.ShapeDtypeStruct(
    (count, width), dtype, sharding=row_sharding(setting.mesh)
  )


def batch_shapes(config: ConfigDict) -> Shapes:
  """A global training batch, padded to the config's longest lengths.

  As `loader.py`, `reader_examples.py` and `lookup.py` describe it; of salient
  spans without copies of passages.
  """
  b, data = config.batch_size, config.data
  lq, lp = data.question_length, data.passage_length
  int32 = np.int32
  shapes: dict[str, tuple[tuple[int, ...], Any]] = {
    "question_ids": ((b, lq), int32),
    "question_lengths": ((b,), int32),
    "example_mask": ((b,), np.bool_),
  }
  k = 1 + (data.hard_negatives if data.source == "pairs" else 0)
  if config.task in READER_TASKS:
    k = config.retrieval.k
    k += bool(config.retrieval.null_document or not k)
    for name, tail in {
      "reader_question_ids": (lq,),
      "reader_question_lengths": (),
      "answer_ids": (data.answer_length,),
      "answer_lengths": (),
      "own_rows": (1,),
      "gold_rows": (),
      "reader_ids": (k, data.reader_length),
      "reader_lengths": (k,),
      "answer_starts": (k,),
      "answer_ends": (k,),
    }.items():
      shapes[name] = ((b, *tail), int32)
    if config.reader.flags:
      shapes["reader_flags"] = shapes["reader_ids"]
  shapes["passage_ids"] = ((b, k, lp), int32)
  shapes["passage_lengths"] = ((b, k), int32)
  shapes["passage_rows"] = ((b, k), int32)
  return shapes


def abstract_batch(config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
  """`batch_shapes`, split over the mesh as `to_global` does."""
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=row_sharding(mesh))
    for name, (shape, dtype) in batch_shapes(config).items()
  }


def search_programs(setting: Setting) -> list[Planned]:
  """The search of `odqa search`."""
  mesh, rows = setting.mesh, index_rows(setting)
  queries = jax.ShapeDtypeStruct(
    (setting.questions, setting.width), np.float32, sharding=replicated(mesh)
  )

  def lower() -> jax.stages.Lowered:
    if setting.dtype == "int8":
      return _int8_search(setting, rows, queries)
    search = jax.jit(
      lambda q, e: search_placed(mesh, e, setting.passages, q, setting.k)
    )
    return search.lower(queries, rows)

  note = f"{setting.questions} questions, k = {setting.k}"
  return [Planned("search", note, lower)]


def _int8_search(setting: Setting, rows: Any, queries: Any) -> Any:
  """The candidates of an int8 index; the host rescores them."""
  from odqa_jax.retrieval.backends import int8 as quantized

  scales = jax.ShapeDtypeStruct(
    rows.shape[:1], np.float32, sharding=rows.sharding
  )
  wanted = min(quantized.CANDIDATES * setting.k, setting.passages)

  def search(codes: Any, scales: Any, queries: Any) -> Any:
    return quantized.candidates_placed(
      setting.mesh, codes, scales, setting.passages, queries, wanted
    )

  return jax.jit(search).lower(rows, scales, queries)


def encode_programs(setting: Setting) -> list[Planned]:
  """The encoders of `odqa index` and `odqa search`, on one host's devices."""
  encoder, data = setting.models.encoder, setting.config.data
  mesh = local_mesh(setting.mesh)
  platform = mesh.devices.flat[0].platform
  params = abstract(
    jax.eval_shape(encoder.init, jax.random.key(0)), replicated(mesh)
  )
  ask, read = compiled_encoders(encoder.config)
  sizes = batch_sizes(
    data.passage_length,
    bulk_tokens(platform, mesh.size),
    rows=_SHARD_ROWS,
    devices=mesh.size,
  )
  asked = -(-setting.questions // mesh.size) * mesh.size
  planned = []
  for name, encode, b, length in (
    ("encode_passages", read, sizes[data.passage_length], data.passage_length),
    ("encode_questions", ask, asked, data.question_length),
  ):
    ids, lengths = (
      jax.ShapeDtypeStruct(shape, np.int32, sharding=row_sharding(mesh))
      for shape in ((b, length), (b,))
    )

    def lower(
      encode: Any = encode, ids: Any = ids, lengths: Any = lengths
    ) -> jax.stages.Lowered:
      return encode.lower(params, ids, lengths)

    note = f"{b} × {length} tokens on {mesh.size} chips of a host"
    planned.append(Planned(name, note, lower))
  return planned


def training_state(setting: Setting) -> TrainingProgram:
  """The state and the step of the config's task.

  Raises:
    ValueError: for a task that is not known.
  """
  task = make_task(setting.config, setting.models)
  return training_program(setting.config, task, setting.mesh)


def train_programs(
  setting: Setting, training: TrainingProgram
) -> list[Planned]:
  """The training step and, with a reader, what the loop runs beside it.

  Raises:
    ValueError: if the devices cannot share the batch.
  """
  config, mesh = setting.config, setting.mesh
  check_batch(config, mesh.size)
  batch = abstract_batch(config, mesh)
  planned = [
    Planned(
      "train_step",
      f"{config.task}, batch {config.batch_size}",
      lambda: training.step.lower(training.abstract, batch),
    )
  ]
  if config.task not in READER_TASKS or not config.retrieval.k:
    return planned
  encoder, params = setting.models.encoder, training.abstract.params
  rows = trained_rows(setting)
  search: Any = question_search(
    encoder,
    mesh,
    count=setting.passages,
    k=config.retrieval.k,
    force_gold=config.retrieval.force_gold,
  )
  planned.append(
    Planned(
      "train_search",
      f"{config.batch_size} questions, k = {config.retrieval.k}",
      lambda: search.lower(
        params["retriever"], rows, *(batch[name] for name in SEARCHED)
      ),
    )
  )
  if config.retrieval.refresh != "none":
    planned.append(_refresh_program(setting, training, rows))
  return planned


def _refresh_program(
  setting: Setting, training: TrainingProgram, rows: Any
) -> Planned:
  """One batch of passages written into the index in the making."""
  config, mesh = setting.config, setting.mesh
  length = config.data.passage_length
  platform = mesh.devices.flat[0].platform
  each = batch_sizes(
    length,
    bulk_tokens(platform, 1),
    rows=rows.shape[0] // mesh.size,
    devices=1,
  )[length]
  params = training.abstract.params["retriever"]
  if config.retrieval.refresh == "snapshot":
    params = abstract(params, replicated(mesh))
  b = each * mesh.size
  ids, lengths, at = (
    jax.ShapeDtypeStruct(shape, np.int32, sharding=row_sharding(mesh))
    for shape in ((b, length), (b,), (b,))
  )
  write: Any = row_writer(setting.models.encoder.encode_passage, mesh)
  return Planned(
    "refresh",
    f"{b} × {length} tokens, {config.retrieval.refresh}",
    lambda: write.lower(rows, params, ids, lengths, at),
  )
