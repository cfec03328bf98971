"""A published encoder with some of its layers, to begin a smaller one from.

    python tests/benchmarks/cut_layers.py minilm 1,3,5 OUT

Every other layer of a trained network is what DistilBERT began from (Sanh et
al. 2019, Sec. 3). OUT is a folder for `config.init_from`.
"""

import dataclasses
import sys
from typing import Any

import jax
import numpy as np

from odqa_jax.models.hf.encoder import load_encoder, save_encoder
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.retrieval.retriever import folder_tokenizer


def main(name: str, layers: list[int], out: str) -> None:
  """Writes the folder."""
  folder = resolve_folder(name)
  config, params, facts = load_encoder(folder)
  tokenizer = folder_tokenizer(folder, config.bert.vocab_size)
  bert = dataclasses.replace(config.bert, layers=len(layers))

  def cut(side: dict[str, Any]) -> dict[str, Any]:
    kept = jax.tree.map(lambda x: x[np.array(layers)], side["encoder"])
    return side | {"encoder": kept}

  save_encoder(
    out,
    dataclasses.replace(config, bert=bert),
    {side: cut(weights) for side, weights in params.items()},
    tokenizer,
    question_length=facts["question_length"],
    passage_length=facts["passage_length"],
    title=facts["title"],
  )


if __name__ == "__main__":
  main(sys.argv[1], [int(i) for i in sys.argv[2].split(",")], sys.argv[3])
