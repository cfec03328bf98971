"""What a config names, and what it sets that its task has no use for.

settings = with_corpora(settings)
for line in unused_keys(settings, needs):
  print(line)
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from odqa_jax.data.corpus.corpus import corpus_folder
from odqa_jax.data.examples.sources import SOURCES
from odqa_jax.runtime.artifact import MADE_BY, MANIFEST
from odqa_jax.runtime.settings import Settings
from odqa_jax.training.tasks.task import Needs

# A source may do without these.
_OPTIONAL = ("pool_questions", "pool_run", "leaky_questions", "leaky_run")
_OF_READERS = (
  "reader_corpus", "reader_length", "answer_length", "reader_title",
  "reader_buckets",
)  # fmt: skip
_OF_A_RUN = ("retrieved", "retrieved_spans", "unified")
# Keys of `config.data` and the sources that read them.
_OF_SOURCES = {
  "hard_negatives": ("pairs",),
  "keep_query": ("ict",),
  "spans_per_example": ("salient",),
  "random_negatives": ("golden",),
  "frequency_base": ("found",),
  "pool_size": ("found",),
  "passages": (*_OF_A_RUN, "found"),
  "candidates": ("unified",),
  "pair_length": _OF_A_RUN,
  "passage_first": ("unified",),
  "span_length": ("retrieved_spans", "unified"),
  "occurrences": ("retrieved_spans", "unified"),
}


def with_corpora(settings: Settings) -> Settings:
  """The settings with the corpus folders of the datasets that they name.

  Raises:
    ValueError: naming a key that is needed and not set.
  """
  data = settings.data
  needed = [n for n in SOURCES[data.source].reads if n not in _OPTIONAL]
  for name in ("corpus", *needed):
    if not getattr(data, name):
      maker = MADE_BY.get(name.rpartition("_")[2], "odqa search")
      raise ValueError(
        f"config.data.{name} is not set, and config.data.source="
        f"{data.source!r} reads it; give --config.data.{name}=PATH of what "
        f"{maker} makes."
      )
  folder = str(corpus_folder(data.corpus))
  if not (Path(folder) / MANIFEST).is_file():
    raise ValueError(
      f"config.data.corpus={data.corpus!r} holds no corpus ({MANIFEST}); name "
      "what odqa prepare --out has made."
    )
  searched = settings.evaluate.corpus
  return dataclasses.replace(
    settings,
    data=dataclasses.replace(data, corpus=folder),
    evaluate=dataclasses.replace(
      settings.evaluate, corpus=searched and str(corpus_folder(searched))
    ),
  )


def unused_keys(settings: Settings, needs: Needs) -> Iterator[str]:
  """A line for every key that is set and that the task does not read.

  Args:
    settings: whose names `check_names` has seen.
    needs: of the task.
  """
  reads = "reader" in needs.components
  used = {
    "reader": reads,
    "retrieval": needs.retrieval,
    "unified": "unified_reader" in needs.components,
  }
  before, source = Settings(), settings.data.source
  for block, is_used in used.items():
    if not is_used:
      fields = dataclasses.fields(getattr(before, block))
      names = [f"{block}.{field.name}" for field in fields]
      if settings.evaluate.questions:
        # The index of the dev set has it.
        names = [name for name in names if name != "retrieval.dtype"]
      yield from _set(names, before, settings, f"task={settings.task!r}")
  named = {name for row in SOURCES.values() for name in row.reads}
  unread = named - set(SOURCES[source].reads)
  unread |= {name for name, of in _OF_SOURCES.items() if source not in of}
  if not reads:
    unread |= set(_OF_READERS)
  names = [f"data.{name}" for name in sorted(unread)]
  yield from _set(names, before, settings, f"data.source={source!r}")


def _set(
  names: list[str], before: Settings, settings: Settings, why: str
) -> Iterator[str]:
  for name in names:
    block, leaf = name.split(".")
    value = getattr(getattr(settings, block), leaf)
    # None of it is what a task without it has.
    if value and value != getattr(getattr(before, block), leaf):
      yield f"config.{name}={value!r} has no effect: config.{why}."
