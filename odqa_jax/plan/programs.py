"""The programs that `odqa plan` compiles: those that the other commands run.

Only their arguments are made here, as shapes: no parameter and no row of an
index is ever allocated, and neither corpus nor weights are read.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from odqa_jax.data.examples.batch import SEARCHED
from odqa_jax.models import dual_encoder, t5
from odqa_jax.models.families import Components
from odqa_jax.models.hf.bert_config import CONFIG_DEFAULTS, VARIANT_DEFAULTS
from odqa_jax.models.roles import UNIFIED
from odqa_jax.models.unified_reader import UnifiedReader, unified_config
from odqa_jax.reading.token_store import ROW_BYTES
from odqa_jax.retrieval.backends.exact import search_placed
from odqa_jax.retrieval.division import size_for
from odqa_jax.retrieval.embed import bulk_tokens, local_mesh
from odqa_jax.retrieval.encoding import compiled_encoders
from odqa_jax.retrieval.index import padded_rows
from odqa_jax.retrieval.refresh_batches import row_writer
from odqa_jax.retrieval.rows import abstract_rows
from odqa_jax.runtime.mesh import replicated, row_sharding
from odqa_jax.runtime.settings import ModelSettings, Settings
from odqa_jax.text.reader_vocabulary import SENTINELS
from odqa_jax.training import memory
from odqa_jax.training.initial_head import HEADS
from odqa_jax.training.initial_reader import reader_config
from odqa_jax.training.initial_retriever import encoder_config
from odqa_jax.training.memory import Run, abstract_batch
from odqa_jax.training.program import TrainingProgram, training_program
from odqa_jax.training.retrieval import question_search, question_side
from odqa_jax.training.tasks.table import check_names, make_task
from odqa_jax.training.tasks.task import Needs

# As `index_corpus` writes them.
_SHARD_ROWS = 65536


@dataclasses.dataclass(frozen=True)
class Planned:
  """One program.

  Attributes:
    name: what it is called in the report.
    note: what it is given.
    trace: its function, as jax sees it.
    useful_flops: of one device, without what is only computed again.
    per_step: how often it runs in a training step, on average.
  """

  name: str
  note: str
  trace: Callable[[], jax.stages.Traced]
  useful_flops: float
  per_step: float = 0.0

  def lower(self, platform: str) -> jax.stages.Lowered:
    """For "tpu", "cuda" or "cpu"; no such device need exist."""
    return self.trace().lower(lowering_platforms=(platform,))


@dataclasses.dataclass
class ReaderSizes:
  """The ids of a reader that shares BERT's word pieces; see `ReaderIds`."""

  size: int
  pad_id: int
  start_id: int
  eos_id: int


@dataclasses.dataclass(frozen=True)
class Setting(Run):
  """What a plan is made for: a training run, and a search outside it.

  Attributes:
    width: of the index that is searched outside training; 0: there is none.
    dtype: of that index: float32, bfloat16 or int8.
    questions: searched at once, there.
    k: passages found for each.
  """

  width: int
  dtype: str
  questions: int
  k: int


def planned_components(
  settings: Settings, vocabulary: int | None, platform: str
) -> tuple[Needs, Components]:
  """What the task of a run needs, with networks of its presets' sizes.

  Args:
    settings: of the training run.
    vocabulary: tokens of the network, or of the retriever; None: BERT's, or
      RoBERTa's. A generative reader shares them, unless
      `config.data.reader_corpus` gives it T5's own.
    platform: "tpu", "gpu" or "cpu", which implementations depend on.

  Raises:
    ValueError: if a size can be told from weights only.
  """
  needs = check_names(settings)
  blocks: dict[str, Any] = {"model": dual_encoder.PRESETS}
  if "reader" in needs.components:
    blocks["reader"] = t5.PRESETS
  for block, presets in blocks.items():
    if getattr(settings, block).preset == "init":
      raise ValueError(
        f"config.{block}.preset=init takes the sizes of weights, which a plan "
        f"does not read; give --config.{block}.preset, one of "
        f"{', '.join(presets)}."
      )
  vocabulary = vocabulary or _usual_vocabulary(settings.model)
  encoder = encoder_config(settings.model, vocabulary, platform)
  bert = dataclasses.replace(encoder.bert, platform=platform)
  components: dict[str, Any] = {
    role: HEADS[role](settings, bert)
    for role in needs.components
    if role in HEADS
  }
  if "retriever" in needs.components:
    encoder = dataclasses.replace(encoder, bert=bert)
    components["retriever"] = dual_encoder.DualEncoder(encoder)
  if UNIFIED in needs.components:
    encoder = dataclasses.replace(encoder, bert=bert)
    components[UNIFIED] = UnifiedReader(unified_config(encoder))
  if "reader" in needs.components:
    size = vocabulary + 2 + SENTINELS
    ids = ReaderSizes(size, 0, vocabulary, vocabulary + 1)
    if settings.data.reader_corpus:
      rows = t5.PRESETS["base"]["vocab_size"]
      ids = ReaderSizes(rows, 0, 0, 1)
    reader = reader_config(settings.reader, ids, platform)
    components["reader"] = t5.T5(dataclasses.replace(reader, platform=platform))
  return needs, components


def _usual_vocabulary(model: ModelSettings) -> int:
  """What published networks of the preset's variant have."""
  variant = dual_encoder.PRESETS[model.preset].get("variant", "bert")
  usual = CONFIG_DEFAULTS | VARIANT_DEFAULTS.get(variant, {})
  return int(usual["vocab_size"])


def planned_tokens(setting: Setting, each: int) -> memory.Held:
  """What the tokens of all passages take of the devices.

  Without the margins, of a few hundred tokens on each.

  Args:
    setting: whose reader may have a store of its own. Without retrieval no
      tokens are held.
    each: tokens of a passage and its title, on average.
  """
  data = setting.settings.data
  if not setting.needs.retrieval:
    return memory.Held(0, 0)
  sizes = [setting.components["retriever"].config.bert.vocab_size]
  if data.reader_corpus and "reader" in setting.components:
    sizes.append(setting.components["reader"].config.vocab_size)
  rows = padded_rows(setting.passages, setting.mesh)
  of_rows = len(sizes) * rows * ROW_BYTES
  # A token is uint16 where the vocabulary allows; see `Corpus`.
  of_tokens = (
    setting.passages * each * sum(2 if n <= 2**16 else 4 for n in sizes)
  )
  return memory.Held(split=of_rows + of_tokens, whole=0)


def abstract(tree: Any, sharding: Sharding) -> Any:
  """Shapes of a tree, placed."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def index_rows(setting: Setting) -> Any:
  """The rows of the index that `odqa search` searches."""
  count = padded_rows(setting.passages, setting.mesh)
  return abstract_rows(count, setting.width, setting.dtype, setting.mesh)


def trained_rows(setting: Setting) -> Any:
  """The rows of the index that training searches, and may refresh."""
  return memory.index_rows(setting)


def search_programs(setting: Setting) -> list[Planned]:
  """The search of `odqa search`."""
  mesh, rows = setting.mesh, index_rows(setting)
  queries = jax.ShapeDtypeStruct(
    (setting.questions, setting.width), np.float32, sharding=replicated(mesh)
  )

  def trace() -> jax.stages.Traced:
    if setting.dtype == "int8":
      return _int8_search(setting, rows, queries)
    search = jax.jit(
      lambda q, e: search_placed(mesh, e, setting.passages, q, setting.k)
    )
    return search.trace(queries, rows)

  note = f"{setting.questions} questions, k = {setting.k}"
  flops = _search_flops(setting, setting.questions, setting.width)
  return [Planned("search", note, trace, flops)]


def _search_flops(setting: Setting, questions: int, width: int) -> float:
  """Of one device: every passage is scored for every question."""
  return 2 * questions * setting.passages * width / setting.mesh.size


def _int8_search(setting: Setting, rows: Any, queries: Any) -> Any:
  """The candidates of an int8 index; the host rescores them."""
  from odqa_jax.retrieval.backends import int8

  wanted = min(int8.CANDIDATES * setting.k, setting.passages)

  def search(codes: Any, scales: Any, queries: Any) -> Any:
    return int8.candidates_placed(
      setting.mesh, codes, scales, setting.passages, queries, wanted
    )

  return jax.jit(search).trace(*rows, queries)


def encode_programs(setting: Setting) -> list[Planned]:
  """The encoders of `odqa index` and `odqa search`, on one host's devices."""
  encoder, data = setting.components["retriever"], setting.settings.data
  mesh = local_mesh(setting.mesh)
  platform = mesh.devices.flat[0].platform
  params = abstract(
    jax.eval_shape(encoder.init, jax.random.key(0)), replicated(mesh)
  )
  of_questions, of_passages = compiled_encoders(encoder.config)
  passages = size_for(
    data.passage_length,
    bulk_tokens(platform, mesh.size),
    rows=_SHARD_ROWS,
    devices=mesh.size,
  )
  questions = -(-setting.questions // mesh.size) * mesh.size
  planned = []
  for name, encode, b, length in (
    (
      "encode_passages",
      of_passages,
      passages,
      data.passage_length,
    ),
    ("encode_questions", of_questions, questions, data.question_length),
  ):
    ids, lengths = (
      jax.ShapeDtypeStruct(shape, np.int32, sharding=row_sharding(mesh))
      for shape in ((b, length), (b,))
    )

    def trace(
      encode: Any = encode, ids: Any = ids, lengths: Any = lengths
    ) -> jax.stages.Traced:
      return encode.trace(params, ids, lengths)

    note = f"{b} × {length} tokens on {mesh.size} chips of a host"
    flops = b * length * encoder.flops_per_token(length) / mesh.size
    planned.append(Planned(name, note, trace, flops))
  return planned


def training_state(setting: Setting) -> TrainingProgram:
  """The state and the step of the config's task."""
  settings = setting.settings
  task = make_task(settings, setting.components)
  return training_program(settings, task, setting.mesh, steps=settings.steps)


def useful_flops(setting: Setting, batch: dict[str, Any]) -> float:
  """Of a step on all devices, with no forward pass counted twice.

  What a task computes again for its micro-batches or for `remat` is work of the
  device, and no progress.
  """
  whole = dataclasses.replace(setting.settings, micro_batches=1)
  return make_task(whole, setting.components).flops(batch)


def train_programs(
  setting: Setting, training: TrainingProgram
) -> list[Planned]:
  """The training step and, with a reader, what the loop runs beside it."""
  settings, mesh = setting.settings, setting.mesh
  retrieval = settings.retrieval
  batch = abstract_batch(settings, setting.needs, row_sharding(mesh))
  planned = [
    Planned(
      "train_step",
      f"{settings.task}, batch {settings.batch_size}",
      lambda: training.step.trace(training.abstract, batch),
      useful_flops(setting, batch) / mesh.size,
      per_step=1.0,
    )
  ]
  if not setting.needs.retrieval or not retrieval.k:
    return planned
  encoder = setting.components["retriever"]
  # As the loop gathers them for a search.
  params = jax.eval_shape(
    training.whole, question_side(training.abstract.params)
  )
  params = abstract(params, replicated(mesh))
  rows = trained_rows(setting)
  search: Any = question_search(
    encoder,
    mesh,
    count=setting.passages,
    k=retrieval.k,
    force_gold=retrieval.force_gold,
  )
  b, q = batch["question_ids"].shape
  encoded = b * q * encoder.flops_per_token(q)
  planned.append(
    Planned(
      "train_search",
      f"{settings.batch_size} questions, k = {retrieval.k}",
      lambda: search.trace(
        params["retriever"], rows, *(batch[name] for name in SEARCHED)
      ),
      encoded / mesh.size + _search_flops(setting, b, encoder.embedding_dim),
      per_step=1.0,
    )
  )
  if retrieval.refresh != "none":
    planned.append(_refresh_program(setting, training, rows))
  return planned


def _refresh_program(
  setting: Setting, training: TrainingProgram, rows: Any
) -> Planned:
  """One batch of passages written into the index in the making.

  As many as a step's share has if all passages were of the longest length, more
  than there will be.
  """
  settings, mesh = setting.settings, setting.mesh
  length = settings.data.passage_length
  of_device = padded_rows(setting.passages, mesh) // mesh.size
  platform = mesh.devices.flat[0].platform
  each = size_for(
    length,
    bulk_tokens(platform, 1),
    rows=of_device,
    devices=1,
  )
  # As `Refresher` gathers them for a share.
  params = memory.passage_weights(setting, training.abstract.params)
  params = abstract(params, replicated(mesh))
  b = each * mesh.size
  ids, lengths, at = (
    jax.ShapeDtypeStruct(shape, np.int32, sharding=row_sharding(mesh))
    for shape in ((b, length), (b,), (b,))
  )
  encoder = setting.components["retriever"]
  write: Any = row_writer(encoder.encode_passage, mesh)
  return Planned(
    "refresh",
    f"{b} × {length} tokens, {settings.retrieval.refresh}",
    lambda: write.trace(rows, params, ids, lengths, at),
    each * length * encoder.flops_per_token(length),
    per_step=of_device / each / settings.retrieval.refresh_every,
  )
