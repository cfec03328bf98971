"""The programs of networks that read passages, as `odqa plan` compiles them."""

from typing import Any

import jax
import numpy as np

from odqa_jax.models.extractive_reader import ExtractiveReader
from odqa_jax.models.passage_scorer import ALONE
from odqa_jax.models.roles import UNIFIED
from odqa_jax.plan.programs import Planned, Setting, abstract
from odqa_jax.reading.extract import compiled_reading
from odqa_jax.reading.pair_scores import PIECE, compiled_scores
from odqa_jax.retrieval.division import size_for
from odqa_jax.retrieval.embed import bulk_tokens, local_mesh
from odqa_jax.runtime.mesh import replicated, row_sharding

# Spans of a passage that are compared.
_SPANS = 10


def scoring_programs(setting: Setting) -> list[Planned]:
  """What `odqa rerank`, `prune` and `answer` run, on one host's devices.

  A batch of pairs, or of passages alone for a pruner or filter, all of the
  longest length; the note says how many batches all passages are.
  """
  ((role, network),) = setting.components.items()
  if role == UNIFIED:
    network = network.reader
  data, mesh = setting.settings.data, local_mesh(setting.mesh)
  alone = role in ALONE
  length = data.passage_length if alone else data.pair_length
  tokens = bulk_tokens(mesh.devices.flat[0].platform, mesh.size)
  rows = setting.passages if alone else PIECE
  b = size_for(length, tokens, rows=rows, devices=mesh.size)
  params = abstract(
    jax.eval_shape(network.init, jax.random.key(0)), replicated(mesh)
  )
  reads = isinstance(network, ExtractiveReader)
  ids, *numbers = (
    jax.ShapeDtypeStruct(shape, np.int32, sharding=row_sharding(mesh))
    for shape in ((b, length), *[(b,)] * (4 if reads else 2))
  )

  def trace() -> jax.stages.Traced:
    if isinstance(network, ExtractiveReader):
      read: Any = compiled_reading(network, data.span_length)
      return read.trace(params, ids, *numbers, most=_SPANS)
    score: Any = compiled_scores(network)
    return score.trace(params, ids, *numbers)

  note = f"{b} × {length} tokens on {mesh.size} chips of a host"
  if alone:
    note += f", {-(-setting.passages // b):,} batches for all passages"
  flops = b * length * network.flops_per_token(length) / mesh.size
  return [Planned("score", note, trace, flops)]
