"""Pages of trained models: workdirs, steps, and published folders."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from odqa_jax.inspection.page import Page, Parent, plain, size_of, sparkline
from odqa_jax.inspection.provenance import find_parent, manifest_of
from odqa_jax.models.hf.encoder import load_encoder
from odqa_jax.models.hf.t5 import load_t5
from odqa_jax.models.passage_scorer import ALONE
from odqa_jax.reading.trained_component import load_component
from odqa_jax.retrieval.retriever import folder_tokenizer, is_pretrained_folder
from odqa_jax.runtime import artifact
from odqa_jax.runtime.checkpoint import find_step
from odqa_jax.runtime.report import read_metrics
from odqa_jax.text.sentencepiece import load_any_tokenizer
from odqa_jax.text.tokenizer import Tokenizer

# Larger models are not read to see whether they load.
_LOADED_BYTES = 4 << 30
# What classes of networks with a head that is read here end with.
_HEADS = ("ForSequenceClassification", "ForQuestionAnswering")


# ---- What `odqa train` makes ----


def workdir_page(path: Path, n: int) -> Page:
  """A training workdir: its steps, what they hold, and the last metrics."""
  page = Page(str(path), "workdir", "a training run: checkpoints and metrics")
  folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
  names = sorted(folder.iterdir(), key=lambda p: (len(p.name), p.name))
  for step in names:
    if step.name.isdigit():
      page.parts[step.name] = step_page(step)
  damaged = [p.name for p in names if p.name.endswith(".damaged")]
  unfinished = [p.name for p in names if p.name.endswith(".tmp")]
  page.facts = {"damaged, set aside": damaged, "unfinished": unfinished}
  try:
    _, best = find_step(path)
    page.facts["used as --checkpoint"] = f"step {best}"
    whole = page.parts[str(best)]
    page.facts |= {k: v for k, v in whole.facts.items() if k != "files"}
    page.parents = whole.parents
  except ValueError as error:
    page.problems.append(str(error))
  try:
    _tokenizers(page, path)
    if (path / "metrics.jsonl").is_file():
      add_metrics(page, path / "metrics.jsonl", n)
  except ValueError as error:
    page.problems.append(str(error))
  return page


def step_page(path: Path) -> Page:
  """One step of a training."""
  page = Page(str(path), "checkpoint", "a step of a training")
  try:
    files = artifact.open_artifact(path, "checkpoint")
  except (ValueError, OSError) as error:
    page.problems.append(str(error))
    page.facts["count"] = int(path.name) if path.name.isdigit() else None
    return page
  extra, entries = files.manifest["made_from"], files.manifest["files"]
  shapes = files.manifest["params"].values()
  config, total = extra["config"], sum(e["bytes"] for e in entries.values())
  page.facts = {
    "count": int(path.name) if path.name.isdigit() else None,
    "task": config.get("task"),
    "parameters": sum(math.prod(shape) for shape, _ in shapes),
    "metrics": files.manifest["metrics"],
    "best by": extra.get("best"),
    **{name: _component(name, c) for name, c in extra["components"].items()},
    "reading": extra.get("reading"),
    "begun from": config.get("init_from") or "random weights",
    "of the Hub": [
      f"{key}: {o['name']} of revision {o['revision']}"
      for key, o in extra.get("origins", {}).items()
    ],
    "optimiser": {
      "steps": config.get("steps"),
      "batch": config.get("batch_size"),
      "rate": config.get("optimizer", {}).get("learning_rate"),
    },
    "files": f"{len(entries)}, {size_of(total)}; every byte is as written",
  }
  where = config.get("data", {}).get("corpus")
  expected = Path(where) if where else None
  page.parents = [find_parent(path, "corpus", extra["corpus"], expected)]
  return page


def _component(role: str, component: Mapping[str, Any]) -> str:
  """One trained network in a line."""
  config = dict(component["config"])
  sizes = config.pop("bert", {}) | config
  names = ("width", "layers", "heads", "vocab_size", "dtype", "pooling")
  told = [f"{k} {plain(sizes[k])}" for k in names if k in sizes]
  # What most encoders have not.
  more = ("variant", "projection", "embedding_dim", "shared", "passage_type")
  usual = (None, False, "bert", "none")
  own = {k: sizes[k] for k in more if sizes.get(k) not in usual}
  told += [f"{k} {plain(value)}" for k, value in own.items()]
  lengths = ["question_length", "passage_length"]
  if role in ("reranker", "extractive_reader"):
    lengths = ["question_length", "pair_length"]
  elif role == "unified_reader":
    lengths += ["pair_length"]
  elif role in ALONE:
    lengths = ["passage_length"]
  shown = (*lengths, "title", "objective", "leaky")
  told += [f"{k} {plain(component[k])}" for k in shown if k in component]
  return f"{component['family']}: " + ", ".join(told)


def _tokenizers(page: Page, path: Path) -> None:
  for name in ("tokenizer", "reader_tokenizer"):
    if (path / name).is_dir():
      tokenizer = load_any_tokenizer(path / name)
      page.facts[name] = f"{tokenizer.vocab_size:,} ids"
      page.facts[f"{name}'s fingerprint"] = tokenizer.fingerprint


def add_metrics(page: Page, path: Path, n: int) -> None:
  """The last rows of metrics.jsonl, and the course of the loss.

  Raises:
    ValueError: if a line of it is no row.
  """
  rows = read_metrics(path)
  steps = [row for row in rows if "loss" in row]
  measured = [row for row in rows if "loss" not in row]
  page.facts["loss"] = sparkline(row["loss"] for row in steps)
  for name, some in (("last steps", steps), ("last evaluations", measured)):
    last = some[-n:] if n else []
    names = [k for k in (last or [{}])[-1] if not k.startswith("time/")][:5]
    if last:
      cells = [[_number(row.get(k)) for k in names] for row in last]
      page.tables[name] = [names, *cells]


def _number(value: Any) -> str:
  return "" if value is None else f"{value:.6g}"


# ---- Published folders ----


def published_page(path: Path) -> Page:
  """A Hugging Face or sentence-transformers folder."""
  kind = "sentence-transformers folder"
  if not (path / "modules.json").is_file():
    kind = "Hugging Face folder"
  page = Page(str(path), kind, "a published model")
  try:
    _published(page, path)
  except (ValueError, OSError) as error:
    page.problems.append(" ".join(str(error).split()))
  return page


def _published(page: Page, path: Path) -> None:
  # Refuses pickles.
  is_pretrained_folder(path)
  pair = (path / "question").is_dir() and (path / "passage").is_dir()
  config = artifact.read_json(
    (path / "question" if pair else path) / "config.json"
  )
  family = config.get("model_type") or "bert"
  page.facts = {
    "model_type": family,
    "architectures": config.get("architectures"),
    "encoders": "question/ and passage/" if pair else "one for both sides",
  }
  total = _tensors(page, path)
  heads = [a for a in config.get("architectures") or () if a.endswith(_HEADS)]
  if family == "t5":
    _reader(page, path, total)
  elif heads and not pair:
    _with_head(page, path, total, reads=heads[0].endswith(_HEADS[1]))
  else:
    _retriever(page, path, total)


def _tensors(page: Page, path: Path) -> int:
  """Counts tensors from the heads of their files; returns the bytes."""
  kinds: dict[str, int] = {}
  parameters = total = tensors = 0
  for file in sorted(path.rglob("*.safetensors")):
    total += file.stat().st_size
    try:
      with safetensors.safe_open(file, "numpy") as opened:
        for name in opened.keys():
          piece = opened.get_slice(name)
          kind = piece.get_dtype()
          kinds[kind] = kinds.get(kind, 0) + 1
          parameters += math.prod(piece.get_shape())
          tensors += 1
    except safetensors.SafetensorError as error:
      page.problems.append(
        f"{file}: not a readable safetensors file ({error}); copy it again."
      )
  page.facts |= {
    "tensors": tensors,
    "parameters": parameters,
    "types": kinds,
    "size": size_of(total),
  }
  return total


def _retriever(page: Page, path: Path, total: int) -> None:
  page.about = "a published encoder, for --checkpoint and config.init_from"
  if total > _LOADED_BYTES:
    page.facts["loads"] = f"not tried: more than {size_of(_LOADED_BYTES)}"
    return
  config, _, facts = load_encoder(path)
  bert = config.bert
  tokenizer = folder_tokenizer(path, bert.vocab_size)
  page.facts |= {
    "width": bert.width,
    "layers": bert.layers,
    "heads": bert.heads,
    "embedding": f"{config.output_dim} dimensions, {config.pooling} pooling"
    + (", of length 1" if config.normalise else ""),
    "projection": config.projection,
    "positions": bert.max_positions,
    "question length": facts["question_length"],
    "passage length": facts["passage_length"],
    "titles": facts["title"],
    "tokenizer": f"{tokenizer.vocab_size:,} word pieces of "
    f"{bert.vocab_size:,} rows",
    "fingerprint": tokenizer.fingerprint,
    "ignored tensors": facts["ignored"],
  }
  for side in ("question", "passage"):
    if prompt := facts[f"{side}_prompt"]:
      page.problems.append(
        f"{path}: expects {prompt!r} before every {side}, which passages "
        "tokenised once cannot have; it can be trained on, not searched with."
      )
  where = str(path)
  page.parents = [Parent("tokenizer", tokenizer.fingerprint, "same", where)]


def _with_head(page: Page, path: Path, total: int, *, reads: bool) -> None:
  """A classifier of sequences, or an extractive reader."""
  commands = "answer and evaluate" if reads else "rerank and prune"
  page.about = f"a published network with a head, for odqa {commands}"
  if total > _LOADED_BYTES:
    page.facts["loads"] = f"not tried: more than {size_of(_LOADED_BYTES)}"
    return
  role = "extractive_reader" if reads else "reranker"
  described, _, tokenizer = load_component(path, role)
  page.facts |= {
    "role": role,
    role: _component(role, described),
    "pair length": described["pair_length"],
    "tokenizer": f"{tokenizer.vocab_size:,} tokens",
    "fingerprint": tokenizer.fingerprint,
  }


def _reader(page: Page, path: Path, total: int) -> None:
  page.about = "a published T5, for config.reader.init_from"
  if total > _LOADED_BYTES:
    page.facts["loads"] = f"not tried: more than {size_of(_LOADED_BYTES)}"
    return
  config, _ = load_t5(path)
  page.facts |= {
    "width": config.width,
    "layers": f"{config.layers} and {config.decoder_layers} in the decoder",
    "heads": config.heads,
    "vocabulary": config.vocab_size,
    "version": "1.1 (gated)" if config.gated else "1.0 (relu)",
    "head": "tied" if config.tied else "of its own",
  }
  tokenizer_facts(page, path)


# ---- Tokenizers ----


def tokenizer_page(path: Path) -> Page:
  """A folder or file with a tokenizer alone."""
  page = Page(str(path), "tokenizer", "for odqa prepare --tokenizer")
  try:
    tokenizer_facts(page, path)
  except (ValueError, OSError) as error:
    page.problems.append(" ".join(str(error).split()))
  return page


def tokenizer_facts(page: Page, path: Path) -> None:
  """Size, fingerprint, and an example of a tokenizer."""
  tokenizer = load_any_tokenizer(path)
  kind = "word pieces" if isinstance(tokenizer, Tokenizer) else "SentencePieces"
  page.facts |= {
    "tokenizer": f"{tokenizer.vocab_size:,} {kind}",
    "fingerprint": tokenizer.fingerprint,
  }
  text = "Who wrote the Città of Ύδρα in 1832?"
  ids = tokenizer.encode_batch([text])[0]
  page.records = [
    ("example", {"text": text, "ids": ids, "decoded": tokenizer.decode(ids)})
  ]


def is_workdir(path: Path) -> bool:
  """Whether a folder holds a training's checkpoints."""
  if (path / "checkpoints").is_dir():
    return True
  steps = (p for p in path.iterdir() if p.name.isdigit() and p.is_dir())
  return any(manifest_of(p) or (p / "state").is_dir() for p in steps)
