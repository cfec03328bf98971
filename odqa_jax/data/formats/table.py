"""The table of all formats of raw files, `FORMATS`.

To add a dataset: a function from one record to a `Question` or to passages
and a `Format` in a file of its family, and its name here; the first that
detects a file counts.
"""

from odqa_jax.data.corpus.passages import PLAIN_FORMATS
from odqa_jax.data.formats import (
  beir,
  bright,
  flashrag,
  kilt,
  msmarco,
  multihop,
  popqa,
  tevatron,
)
from odqa_jax.data.formats.dpr import DPR_QAS, DPR_RETRIEVER
from odqa_jax.data.formats.paired import (
  PARAGRAPH_QUESTION,
  QED,
  SENTENCE_QUESTION,
)
from odqa_jax.data.formats.plain import (
  ENTITY_QUESTIONS,
  NQ_OPEN,
  PLAIN_TEXT,
  WEBQUESTIONS,
)
from odqa_jax.data.formats.squad import SQUAD
from odqa_jax.data.formats.trec import CURATED_TREC
from odqa_jax.data.raw.formats import Format
from odqa_jax.data.wikipedia.articles import WIKIPEDIA_DUMP

# In the order in which they are tried.
FORMATS: dict[str, Format] = {
  format.name: format
  for format in (
    SQUAD,
    DPR_RETRIEVER,
    WEBQUESTIONS,
    QED,
    SENTENCE_QUESTION,
    ENTITY_QUESTIONS,
    PARAGRAPH_QUESTION,
    flashrag.QUESTIONS,
    flashrag.CORPUS,
    kilt.TASK,
    kilt.SOURCE,
    multihop.HOTPOTQA,
    multihop.MUSIQUE,
    tevatron.TRAINING_SET,
    tevatron.CORPUS,
    bright.EXAMPLES,
    bright.LONG_EXAMPLES,
    bright.DOCUMENTS,
    # KILT's pages have an _id and a text too, and come before.
    beir.BEIR,
    popqa.POPQA,
    msmarco.MSMARCO,
    CURATED_TREC,
    NQ_OPEN,
    DPR_QAS,
    WIKIPEDIA_DUMP,
    PLAIN_TEXT,
    *PLAIN_FORMATS,
  )
}
