"""`odqa prune`: a corpus, its index and its reader's store, cut alike.

    OUT/corpus         the passages that were kept, in their order
    OUT/index          their embeddings
    OUT/reader_corpus  they in the reader's own vocabulary, if there is one
    OUT/scores.npy     how irrelevant every passage of the whole is

The folder appears whole, with a manifest that names what it was cut from; each
part has one of its own, and is opened like any other. Passages keep their ids.
All of them say so where questions that are measured on have trained the filter.
"""

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.corpus.cut import cut_corpus, parent_of
from odqa_jax.data.corpus.kept import check_rule, choose_rows
from odqa_jax.data.examples.found import positive_rows
from odqa_jax.data.questions.sets import Question
from odqa_jax.retrieval import storage
from odqa_jax.retrieval.cut import cut_index
from odqa_jax.retrieval.embed import Progress
from odqa_jax.runtime.artifact import Draft, publish, read_manifest
from odqa_jax.runtime.mesh import is_primary, sync
from odqa_jax.serving.scores import SCORES, Scorer, score_passages

_FIGURES = ("kept", "passages", "share", "gold_only")
# What the manifests of parts say of how they were cut.
_TOLD = ("rule", "scores", "leaky")


@dataclasses.dataclass(frozen=True)
class Whole:
  """What is cut.

  Attributes:
    corpus: the passages.
    index: the folder of their embeddings; None: no index is cut.
    reader_corpus: the passages in a reader's vocabulary; None: there is none.
  """

  corpus: Corpus
  index: Path | None = None
  reader_corpus: Corpus | None = None

  def check(self) -> None:
    """Raises ValueError unless all parts are of the same passages."""
    mine, folder = self.corpus.fingerprint, self.corpus.directory
    if self.index is not None:
      theirs = storage.read_manifest(self.index)["corpus"]
      if theirs != mine:
        raise ValueError(
          f"{self.index}: is the index of the corpus {theirs[:12]}, and "
          f"{folder} is {mine[:12]}; name the index of this corpus."
        )
    other = self.reader_corpus
    if other is not None and other.fingerprint != mine:
      raise ValueError(
        f"{other.directory}: holds other passages ({other.fingerprint[:12]}) "
        f"than {folder} ({mine[:12]}); name the reader's store of this corpus."
      )

  def parents(self) -> dict[str, Any]:
    """What a manifest says of the whole."""
    parents = {
      "corpus": parent_of(self.corpus.directory, self.corpus.manifest)
      | {"fingerprint": self.corpus.fingerprint}
    }
    if self.index is not None:
      manifest = storage.read_manifest(self.index)
      parents["index"] = parent_of(self.index, manifest)
    if (store := self.reader_corpus) is not None:
      parents["reader_corpus"] = parent_of(store.directory, store.manifest)
    return parents


@dataclasses.dataclass(frozen=True)
class Rule:
  """What is kept; see `choose_rows`.

  Attributes:
    keep: how many passages.
    threshold: or the highest score.
    gold: rows that are kept as well, by the name of their question set.
  """

  keep: int | None = None
  threshold: float | None = None
  gold: dict[str, Int64[np.ndarray, " g"]] = dataclasses.field(
    default_factory=dict
  )

  def check(self, count: int) -> None:
    """Raises ValueError for what no scores of `count` passages allow."""
    check_rule(self.keep, self.threshold, count)

  def choose(self, scores: Float[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """The rows to keep, ascending; raises ValueError if there are none."""
    gold = [np.zeros(0, np.int64), *self.gold.values()]
    return choose_rows(
      scores,
      keep=self.keep,
      threshold=self.threshold,
      gold=np.concatenate(gold),
    )

  def described(self) -> dict[str, Any]:
    """What a manifest says of it."""
    said: dict[str, Any] = {"keep": self.keep, "threshold": self.threshold}
    said["gold"] = {name: len(rows) for name, rows in self.gold.items()}
    if self.gold:
      # A file of questions may change and name as many passages as before.
      said["gold_rows"] = _hash(np.concatenate([*self.gold.values()]))
    return said


def gold_rows(
  questions: Sequence[Question], corpus: Corpus
) -> Int64[np.ndarray, " g"]:
  """Rows of the passages that questions name as positive.

  Those that the corpus lacks are left out.

  Raises:
    ValueError: if it has none of them.
  """
  rows = positive_rows(questions, corpus)
  if not len(rows):
    names = {name for q in questions for name in q.positive_ids}
    raise ValueError(
      f"--keep-gold: {corpus.directory} has none of the {len(names)} passages "
      f"that {len(questions)} questions name as positive (its ids look like "
      f"{corpus.id(0)!r}); give a set with positive_ids of this corpus."
    )
  return rows


def prune(
  whole: Whole,
  scores: Float[np.ndarray, " n"] | Scorer,
  rule: Rule,
  out: str | Path,
  *,
  leaky: bool = False,
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Cuts a corpus and what was made from it.

  Args:
    whole: what is cut.
    scores: how irrelevant each passage is; or what says so.
    rule: what is kept.
    out: the folder; an older pruned one is replaced when this one is whole.
    leaky: whether questions that are measured on have led to the scores.
    progress: called with passages scored, or copied, and in all.

  Returns:
    Figures: passages kept and before, their share, how many only as gold;
    and `leaky`, if they are.

  Raises:
    ValueError: if nothing is left, a score is not finite, the parts do not
      belong together, or one of them lies in `out`; no folder appears then.
  """
  whole.check()
  rule.check(len(whole.corpus))
  out = Path(out)
  _check_apart(whole, out)
  made_from: dict[str, Any] = {"rule": rule.described()}
  made_from |= {"parents": whole.parents()}
  # What is cut again stays so.
  if leaky or whole.corpus.leaky:
    made_from["leaky"] = True
  identity = None
  if isinstance(scores, np.ndarray):
    made_from["scores"] = _hash(scores)
  else:
    made_from["scored_by"] = scores.fingerprint
    # Another rule for the same scores goes on from them.
    identity = {"corpus": whole.corpus.fingerprint, "by": scores.fingerprint}
  figures = _finished(out, made_from)
  if figures:
    return figures
  with ExitStack() as stack:
    draft = Draft(out.with_name(f"{out.name}.tmp"))
    if is_primary():
      draft = stack.enter_context(
        publish(out, "pruned", made_from, identity=identity)
      )
    sync("prune: begun")
    if not isinstance(scores, np.ndarray):
      count = len(whole.corpus)
      scores = score_passages(scores, count, draft.folder, progress=progress)
      made_from["scores"] = _hash(scores)
    elif is_primary():
      # They may be those of the folder that this one replaces.
      np.save(draft.folder / SCORES, scores)
    if is_primary():
      figures |= _cut(whole, scores, rule, draft, made_from, progress)
  sync("prune: finished")
  return figures


def _check_apart(whole: Whole, out: Path) -> None:
  """Raises ValueError if a part lies where its cut copy replaces it."""
  parts = [whole.corpus.directory, whole.index]
  if whole.reader_corpus is not None:
    parts.append(whole.reader_corpus.directory)
  for part in parts:
    if part is not None and out.resolve() in Path(part).resolve().parents:
      raise ValueError(
        f"{out}: holds {part}, which is cut, and would be replaced by the "
        "result; name another folder."
      )


def _cut(
  whole: Whole,
  scores: Float[np.ndarray, " n"],
  rule: Rule,
  draft: Draft,
  made_from: dict[str, Any],
  progress: Progress | None,
) -> dict[str, Any]:
  """Fills the folder; returns the figures."""
  rows = rule.choose(scores)
  alone = dataclasses.replace(rule, gold={}).choose(scores)
  origin = {n: made_from[n] for n in _TOLD if n in made_from}
  folder = draft.folder
  # What an interrupted run has left of another rule.
  for name in ("corpus", "reader_corpus", "index"):
    shutil.rmtree(folder / name, ignore_errors=True)
  kept = cut_corpus(
    whole.corpus, rows, folder / "corpus", origin, progress=progress
  )
  parts = {"corpus": kept}
  if whole.reader_corpus is not None:
    parts["reader_corpus"] = cut_corpus(
      whole.reader_corpus, rows, folder / "reader_corpus", origin
    )
  if whole.index is not None:
    parts["index"] = cut_index(
      whole.index,
      rows,
      folder / "index",
      corpus=kept["fingerprint"],
      made_from=origin,
    )
  for part, manifest in parts.items():
    # They were described when they were written.
    draft.files |= {f"{part}/{n}": f for n, f in manifest["files"].items()}
  before = len(whole.corpus)
  figures: dict[str, Any] = {
    "kept": len(rows),
    "passages": before,
    "share": len(rows) / before,
    "gold_only": len(rows) - len(alone),
  }
  draft.counts |= figures | {"parts": sorted(parts)}
  return figures | _label(made_from)


def _hash(values: Float[np.ndarray, " n"] | Int64[np.ndarray, " n"]) -> str:
  return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _finished(out: Path, made_from: dict[str, Any]) -> dict[str, Any]:
  """The figures of a folder that this run would write; {} if it is not."""
  try:
    manifest = read_manifest(out, "pruned")
  except ValueError:
    return {}
  before = manifest["made_from"]
  if any(before.get(k) != v for k, v in ({"leaky": None} | made_from).items()):
    return {}
  return {name: manifest[name] for name in _FIGURES} | _label(made_from)


def _label(made_from: Mapping[str, Any]) -> dict[str, Any]:
  """What figures say of a leaky filter, and of no other."""
  return {n: made_from[n] for n in ("leaky",) if n in made_from}
