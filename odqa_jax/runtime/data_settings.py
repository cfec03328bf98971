"""Settings of what is trained on; `settings.py` has the others.

from odqa_jax.runtime.settings import DataSettings
DataSettings(corpus="data/corpus", questions="data/questions/train")
"""

import dataclasses
from typing import Any


def key(
  default: Any,
  meaning: str,
  *,
  choices: tuple[str, ...] = (),
  least: int | float | None = None,
  words: tuple[str, ...] = (),
) -> Any:
  """A field with what `configs/README.md` says of it, and its limits.

  `words` may stand in place of a value of the other type that the field has.
  """
  limits = {
    "meaning": meaning, "choices": choices, "least": least, "words": words
  }  # fmt: skip
  return dataclasses.field(default=default, metadata=limits)


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """What is trained on, and how it becomes token ids."""

  source: str = key(
    "pairs",
    "examples: ict, pairs, answers, salient, retrieved (to rerank), "
    "retrieved_spans (to read), unified (to retrieve and read), golden (to "
    "prune) or found (to filter)",
  )
  corpus: str = key("", "the evidence: a corpus folder")
  questions: str = key("", "question sets, separated by commas")
  pairs: str = key("", "mined pairs of each of these sets, likewise")
  spans: str = key("", "a spans folder, for masked salient spans")
  run: str = key("", "a retriever's run of each of these sets, likewise")
  fraction: float = key(1.0, "share of the examples that is trained on")
  strict: bool = key(
    False, "refuse a question that cannot be trained on, in place of a count"
  )
  question_length: int = key(64, "longest question in tokens", least=3)
  passage_length: int = key(256, "longest passage in tokens", least=3)
  hard_negatives: int = key(1, "drawn for each question, anew", least=0)
  title: bool = key(True, "passages begin with their title")
  keep_query: float = key(
    0.1, "ICT: how often the query's sentence stays in its block", least=0
  )
  spans_per_example: int = key(1, "entities masked in a sentence", least=1)
  reader_length: int = key(
    256, "longest reader input, question and passage together", least=8
  )
  answer_length: int = key(32, "longest answer, with its end", least=2)
  reader_title: bool = key(False, "reader inputs have titles")
  reader_buckets: bool = key(
    True,
    "pad to the longest row of a batch: less to compute, more to compile",
  )
  length_groups: int = key(
    1, "of a step's passages, each padded on its own", least=1
  )
  passages: int = key(
    24,
    "of a run, of one question: reranked or read together; filter: that count "
    "as found",
    least=1,
  )
  candidates: int = key(
    200, "unified: first passages of a run that these are drawn from", least=2
  )
  pair_length: int = key(
    256, "longest question and passage of these, together", least=8
  )
  passage_first: bool = key(
    True, "unified: pairs are passage, question, title; else DPR's order"
  )
  span_length: int = key(30, "longest answer within a passage", least=1)
  occurrences: int = key(16, "of answers within a passage", least=1)
  random_negatives: int = key(
    2, "pruner: passages drawn for each gold passage", least=1
  )
  frequency_base: int = key(
    10,
    "filter: b of ⌊log_b f + 1⌋, how often a passage is seen that f questions "
    "have found; 2 for TriviaQA",
    least=2,
  )
  pool_questions: str = key(
    "",
    "filter: question sets whose answering passages are kept out of training, "
    "to choose the checkpoint; none: nothing is measured",
  )
  pool_run: str = key(
    "",
    "filter: runs of these, whose first passages answer if they hold an "
    "answer; none: those that the questions name",
  )
  pool_size: int = key(
    10_000, "filter: passages that answer, and others at random", least=2
  )
  leaky: bool = key(
    False,
    "filter: train on questions that are measured on, as the paper does; all "
    "that the filter makes says so",
  )
  leaky_questions: str = key("", "filter: these question sets, with `leaky`")
  leaky_run: str = key("", "filter: a run of each of them")
  reader_corpus: str = key(
    "", "the passages in the reader's own vocabulary; none: the retriever's"
  )
