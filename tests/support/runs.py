"""Small runs, with a reader if their task has one, on so many fake devices."""

import dataclasses

import jax

from odqa_jax.models import dual_encoder, t5
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.initial_reader import reader_config
from odqa_jax.training.initial_retriever import encoder_config
from odqa_jax.training.memory import Run
from odqa_jax.training.tasks.table import check_names


@dataclasses.dataclass
class _Ids:
  size: int = 300
  pad_id: int = 0
  start_id: int = 298
  eos_id: int = 299


def make_run(config, devices=1):
  """What a config trains, on 5,000 passages."""
  settings = read_settings(config)
  needs = check_names(settings)
  components = {
    "retriever": dual_encoder.DualEncoder(encoder_config(settings.model, 300))
  }
  if "reader" in needs.components:
    components["reader"] = t5.T5(reader_config(settings.reader, _Ids()))
  mesh = make_mesh(None, jax.devices()[:devices])
  return Run(settings, needs, components, mesh, passages=5000)


def task_settings(task, **settings):
  """Settings of `toy_config` for a task."""
  source = "pairs" if task == "contrastive" else "answers"
  return {
    "task": task,
    "batch_size": 32,
    "data.source": source,
    "data.passage_length": 128,
    "data.reader_length": 128,
    "reader.preset": "tiny",
    "retrieval.k": 4,
  } | settings
