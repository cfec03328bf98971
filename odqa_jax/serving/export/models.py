"""A trained network as a folder that other libraries load.

figures = export_model("work/sup", "sentence-transformers", "out", Stated())
"""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from odqa_jax.models.hf.folders import new_folder
from odqa_jax.runtime.artifact import lock
from odqa_jax.runtime.files import saying_what_is_full
from odqa_jax.serving.export.card import (
  Stated,
  figures_section,
  read_figures,
  training_section,
  write_card,
)
from odqa_jax.serving.export.formats import FORMATS, Format
from odqa_jax.serving.export.history import history_of, told
from odqa_jax.serving.export.parts import Part, load_part
from odqa_jax.serving.export.usage import input_lines, usage_section

# Roles as a card names them.
_CALLED = {
  "retriever": "A dense retriever: questions and passages become vectors, and "
  "their product is the score.",
  "reader": "A generative reader: it writes the answer to a question from "
  "passages that were found for it.",
  "reranker": "A reranker: it scores a question with a passage.",
  "passage_classifier": "A pruner: it finds passages that answer no question.",
  "extractive_reader": "An extractive reader: it finds the answer to a "
  "question as a span of a passage.",
}


def refuse_filled(out: Path) -> None:
  """Raises ValueError for a folder that has something in it."""
  if out.is_dir() and any(out.iterdir()):
    raise ValueError(
      f"--out {out}: is not empty, and nothing in it is replaced; name another "
      "folder, or remove this one."
    )


@contextmanager
def exported(out: Path) -> Iterator[Path]:
  """A folder to fill that gets its name at the end; nothing after an error."""
  with lock(out), new_folder(out) as folder, saying_what_is_full(folder):
    yield folder


def files_of(out: Path) -> dict[str, Any]:
  """What a command tells of an export."""
  files = sorted(p for p in out.rglob("*") if p.is_file())
  return {
    "export": str(out),
    "files": [file.relative_to(out).as_posix() for file in files],
    "bytes": sum(file.stat().st_size for file in files),
  }


def export_model(
  checkpoint: str | Path, to: str, out: str | Path, stated: Stated
) -> dict[str, Any]:
  """Writes one network of a checkpoint, its tokenizer, and a card.

  Args:
    checkpoint: a workdir, a step, a published folder or a name of the Hub.
    to: of `FORMATS`.
    out: the folder, which must not be there, or be empty.
    stated: what the card says besides.

  Returns:
    `export`, `files`, `bytes`, `to`, `role` and `parameters`.

  Raises:
    ValueError: if the checkpoint has no such network, the format cannot hold
      it, or the folder is not empty.
  """
  out = Path(out)
  refuse_filled(out)
  if stated.metrics:
    read_figures(stated.metrics)
  form = FORMATS[to]
  part = load_part(checkpoint, form.role)
  with exported(out) as folder:
    form.write(folder, part)
    _write_card(folder, out.absolute().name, to, part, stated)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(part.params))
  told_of = {"to": to, "role": part.role, "parameters": parameters}
  return files_of(out) | told_of


def _write_card(
  folder: Path, name: str, to: str, part: Part, stated: Stated
) -> None:
  form = FORMATS[to]
  history = history_of(part.path, part.role)
  today = datetime.datetime.now(datetime.UTC).date()
  source = told(part.path.absolute())
  if history.stages:
    source = f"step {history.stages[0].step} of `{history.stages[0].name}`"
  about = (
    f"{_CALLED[part.role]} Written by odqa_jax on {today} from {source}, for "
    f"{form.library_name}."
  )
  write_card(
    folder,
    name,
    stated,
    head=_head(form, part, history.base),
    about=about,
    facts=_facts(part),
    sections=[
      usage_section(to, name, folder, part),
      training_section(history),
      figures_section(stated.metrics),
      _limits(to, part),
    ],
  )


def _head(form: Format, part: Part, base: str | None) -> dict[str, Any]:
  """What the Hub finds a model by."""
  tags = ["odqa_jax", "question-answering", part.role.replace("_", "-")]
  return {
    "library_name": form.library_name,
    "pipeline_tag": form.pipeline,
    **({"base_model": base} if base else {}),
    "tags": list(dict.fromkeys(tags)),
  }


def _facts(part: Part) -> list[tuple[str, Any]]:
  """Rows of the first table."""
  config = part.network.config
  sizes = getattr(config, "bert", config)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(part.params))
  kind = getattr(sizes, "variant", "t5")
  rows: list[tuple[str, Any]] = [
    (
      "Network",
      f"{kind}: {sizes.layers} layers, width {sizes.width}, {sizes.heads} "
      f"heads, {sizes.vocab_size:,} tokens",
    ),
    ("Parameters", f"{parameters:,}"),
  ]
  if part.role == "retriever":
    normalised = ", of length 1" if config.normalise else ""
    rows.append(
      (
        "Embeddings",
        f"{config.output_dim} dimensions, {config.pooling} pooling, projection "
        f"{config.projection}{normalised}",
      )
    )
  return rows


def _limits(to: str, part: Part) -> str:
  """What to know before use."""
  lines = [*input_lines(part)]
  if to == "sentence-transformers":
    lines.append(
      "One limit of tokens serves all texts of a folder: the longer one, where "
      "questions and passages share it."
    )
  lines += [
    "It was measured on what stands above, and on nothing else; on other "
    "questions, texts and languages it is not known to work.",
    "Answers and rankings can be wrong, and carry what the texts carry that it "
    "was trained on; no check for bias or harm was made.",
  ]
  return "\n".join(["## Limits", "", *(f"- {line}" for line in lines)])
