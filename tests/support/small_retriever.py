"""A retriever with random weights, as small as it can be."""

import jax

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.dual_encoder import BertConfig, DualEncoder, EncoderConfig
from odqa_jax.retrieval.retriever import Retriever, make_retriever


def small_encoder(vocabulary: int = 2048) -> DualEncoder:
  sizes = {"vocab_size": vocabulary, "width": 16, "heads": 2, "mlp_dim": 32}
  bert = BertConfig(layers=2, max_positions=64, **sizes)
  return DualEncoder(EncoderConfig(bert=bert))


def small_retriever(corpus: Corpus, seed: int) -> Retriever:
  """Of lengths that suit the toy data."""
  model = small_encoder(corpus.tokenizer.vocab_size)
  return make_retriever(
    model.config,
    model.init(jax.random.key(seed)),
    corpus.tokenizer,
    question_length=32,
    passage_length=64,
    title=True,
  )
