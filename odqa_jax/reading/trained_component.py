"""A component of a training workdir, with the tokenizer of its training."""

from pathlib import Path
from typing import Any, NamedTuple

from odqa_jax.retrieval.retriever import is_pretrained_folder
from odqa_jax.runtime.checkpoint import find_step, read_extra, restore_params
from odqa_jax.runtime.mesh import make_mesh, replicated
from odqa_jax.text.byte_pairs import BytePairTokenizer, load_pair_tokenizer
from odqa_jax.text.tokenizer import Tokenizer


class TrainedComponent(NamedTuple):
  """What a checkpoint has of one network.

  Attributes:
    description: as the checkpoint holds it.
    params: of this network alone, replicated on all devices.
    tokenizer: what made the ids that it was trained on.
  """

  description: dict[str, Any]
  params: Any
  tokenizer: Tokenizer | BytePairTokenizer


def load_component(path: str | Path, role: str) -> TrainedComponent:
  """Loads a component of a training workdir, or of one step of it.

  Args:
    path: the folder.
    role: "reranker", "passage_classifier" or "extractive_reader".

  Raises:
    ValueError: if the checkpoint lacks the component, naming what it has; or
      its tokenizer is not the one of the training.
  """
  path = Path(path)
  called = role.replace("_", " ")
  if is_pretrained_folder(path):
    raise ValueError(
      f"{path}: a published folder, which does not say how long its inputs "
      f"are; train a {called} with --config.init_from={path}, and name its "
      "workdir."
    )
  folder, step = find_step(path)
  described = read_extra(folder, step)["components"]
  if role not in described:
    has = ", ".join(name.replace("_", " ") for name in described)
    raise ValueError(
      f"{path}: has no {called} but {has}; name the workdir of a {called}."
    )
  tokenizer = load_pair_tokenizer(folder.parent / "tokenizer")
  theirs = described[role]["tokenizer"]
  if tokenizer.fingerprint != theirs:
    raise ValueError(
      f"{folder.parent / 'tokenizer'}: is not the tokenizer that {path} was "
      f"trained with ({tokenizer.fingerprint[:12]} against {theirs[:12]}); "
      "restore the original folder."
    )
  params, _ = restore_params(path, replicated(make_mesh()))
  return TrainedComponent(described[role], params[role], tokenizer)
