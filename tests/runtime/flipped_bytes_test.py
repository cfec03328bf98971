"""A byte that changed on the disk is found, whichever artifact it is in.

Each flip changes one byte to another value, then opens the artifact and uses
everything that it holds. The change is *found* if that raises a ValueError
that names the file, and *missed* if it does not. Nothing is exempt: every byte
below the folder of an artifact counts.
"""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_names import NAMES, Names
from random_corpus import IDENTITY, Encoder, Tokens, first_devices

from odqa_jax.data.corpus.corpus import Corpus, Passage, build_corpus
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.mining.spans import Spans
from odqa_jax.data.mining.spans_build import build_spans
from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions
from odqa_jax.retrieval import storage
from odqa_jax.retrieval.backends.scann_build import build_scann, read_build
from odqa_jax.retrieval.backends.table import open_index
from odqa_jax.retrieval.index import build_index, export_npy, load_index
from odqa_jax.runtime import blocks
from odqa_jax.runtime.checkpoint import Checkpoints, find_step, restore_params
from odqa_jax.runtime.mesh import make_mesh, replicated
from odqa_jax.text.wordpiece_training import train_wordpiece

ROWS = 60


def make_corpus(folder: Path) -> None:
  texts = [f"Ada Lovelace met {i} men in 1843. She left." for i in range(ROWS)]
  passages = [Passage(f"p{i}", f"t{i // 3}", t) for i, t in enumerate(texts)]
  build_corpus(passages, folder, train_wordpiece(texts, 120))


def use_corpus(folder: Path) -> None:
  corpus = Corpus(folder)
  corpus.passage_inputs(np.arange(ROWS), 64)
  for row in range(ROWS):
    corpus.text(row), corpus.title(row)
    assert corpus.row_of(corpus.id(row)) == row
  np.asarray(corpus.sentence_starts), np.asarray(corpus.article_starts)


def make_questions(folder: Path) -> None:
  asked = [Question(f"q{i}", f"who is {i}?", (f"no {i}",)) for i in range(ROWS)]
  write_questions(asked, folder, "set")


def make_pairs(folder: Path) -> None:
  rows, offsets = np.arange(ROWS), np.arange(ROWS + 1)
  facts = {"corpus": "c", "questions": "q", "count": ROWS}
  Pairs(rows, rows, offsets, rows, offsets, facts).save(folder)


def make_spans(folder: Path) -> None:
  source = folder.with_name("source")
  if not source.exists():
    make_corpus(source)
  build_spans(Corpus(source), folder, Names(NAMES))


def index_maker(dtype: str) -> Callable[[Path], None]:
  def make(folder: Path) -> None:
    build_index(
      Encoder(),
      Tokens(ROWS),
      folder,
      mesh=first_devices(1),
      identity=IDENTITY,
      max_length=80,
      batch_tokens=1024,
      shard_rows=25,
      dtype=dtype,
    )

  return make


def use_index(folder: Path) -> None:
  load_index(folder, first_devices(1))


def use_int8(folder: Path) -> None:
  open_index(folder, first_devices(1)).rows(np.arange(ROWS))


def make_scann(folder: Path) -> None:
  pytest.importorskip("scann", reason="the extra `scann` is not installed")
  index_maker("float32")(folder)
  build_scann(folder)


def use_scann(folder: Path) -> None:
  use_index(folder)
  read_build(folder, storage.read_manifest(folder))


def export(folder: Path) -> None:
  export_npy(folder, folder.with_name("rows.npy"))


def make_checkpoint(folder: Path) -> None:
  params = {"a": jnp.arange(3000.0), "b": {"c": jnp.ones((5, 7))}}
  with Checkpoints(folder, keep=1) as checkpoints:
    checkpoints.save(1, {"params": params, "step": jnp.array(1)}, {"seed": 7})


def use_checkpoint(folder: Path) -> None:
  find_step(folder)
  restore_params(folder, replicated(make_mesh(devices=jax.devices()[:1])))


# Kind → how it is made, and what opens and uses everything in it.
KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
  "corpus": (make_corpus, use_corpus),
  "questions": (make_questions, lambda folder: list(QuestionSet(folder))),
  "pairs": (make_pairs, Pairs.open),
  "spans": (make_spans, Spans.open),
  "index": (index_maker("float32"), use_index),
  "int8 index": (index_maker("int8"), use_int8),
  "exported index": (index_maker("bfloat16"), export),
  "index with scann": (make_scann, use_scann),
  "checkpoint": (make_checkpoint, use_checkpoint),
}


def flipped(
  folder: Path, use: Callable[[Path], object], rng: random.Random
) -> str:
  """Changes a byte, uses the artifact, and restores the byte."""
  files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
  # By size, but so that small files have their turn as well.
  weights = [p.stat().st_size ** 0.5 for p in files]
  path = rng.choices(files, weights)[0]
  content = path.read_bytes()
  at = rng.randrange(len(content))
  changed = bytearray(content)
  changed[at] ^= rng.randrange(1, 256)
  path.write_bytes(changed)
  try:
    use(folder)
  except ValueError as error:
    return "found" if str(path) in str(error) else f"unnamed: {path} {error}"
  finally:
    path.write_bytes(content)
  return f"missed: byte {at} of {path}"


def count(tmp_path: Path, kind: str, flips: int) -> None:
  make, use = KINDS[kind]
  folder = tmp_path / "artifact"
  make(folder)
  use(folder)
  rng = random.Random(f"{kind} {blocks.BLOCK_BYTES}")
  results = [flipped(folder, use, rng) for _ in range(flips)]
  use(folder)
  wrong = [r for r in results if r != "found"]
  counts = Counter(r.split(":")[0] for r in results)
  print(
    f"{kind}, blocks of {blocks.BLOCK_BYTES}: {flips} flips, found "
    f"{counts['found']}, harmless 0, missed {counts['missed']}, "
    f"unnamed {counts['unnamed']}"
  )
  assert not wrong, wrong[:5]


# Blocks of the real size compare small files at opening; tiny ones leave
# everything to its first use.
@pytest.mark.parametrize("block", [blocks.BLOCK_BYTES, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_found(
  tmp_path: Path, kind: str, block: int, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
  monkeypatch.setattr(blocks, "AT_ONCE", 1)
  count(tmp_path, kind, 12)


@pytest.mark.slow
@pytest.mark.parametrize("block", [blocks.BLOCK_BYTES, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_200_flipped_bytes_are_found(
  tmp_path: Path, kind: str, block: int, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
  monkeypatch.setattr(blocks, "AT_ONCE", 1)
  count(tmp_path, kind, 200)
