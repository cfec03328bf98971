"""What answers from a pack, part by part, against what it stands for."""

import ast
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odqa_jax
from odqa_jax.models.bert import BertConfig, apply_bert
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.extractive_reader import ExtractiveReader, SpanConfig
from odqa_jax.models.mobilebert import MobileBertConfig
from odqa_jax.reading.extract import score_passages
from odqa_jax.runtime.files import Damage
from odqa_jax.serving.pack_parts import add_networks, add_rows
from odqa_jax.serving.packed import search
from odqa_jax.serving.packed.container import Pack, PackWriter
from odqa_jax.serving.packed.layers import gelu
from odqa_jax.serving.packed.network import encode, question_vector
from odqa_jax.serving.packed.search import Rows
from odqa_jax.serving.packed.spans import read_passage
from odqa_jax.serving.packed.tensors import quantised, read_weights
from odqa_jax.serving.packed.token_coder import ESCAPE, NGramModel, Tables
from odqa_jax.serving.packed.token_model import fit_tables, weights_of_levels
from odqa_jax.serving.packed.words import join

PACKAGE = Path(odqa_jax.__file__).parent
VARIANTS = {
  "bert": {},
  "narrow": {"embedding_width": 8, "variant": "electra"},
  "roberta": {"type_vocab": 1, "variant": "roberta"},
}


def bert(**more):
  return BertConfig(
    vocab_size=50, width=24, layers=3, heads=3, mlp_dim=48, max_positions=40,
    eps=1e-12, scan=False, **more,
  )  # fmt: skip


def random_params(network, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32),
    jax.eval_shape(network.init, jax.random.key(0)),
  )


def packed(path, described, params, weights="f32"):
  """A network's config and weights as a pack gives them back."""
  with PackWriter(path, {"networks": {}}) as writer:
    networks = {"network": (described, params)}
    add_networks(writer, networks, weights, compress=False)
  pack = Pack(path)
  config = pack.about["networks"]["network"]["config"]
  return config, read_weights(pack, "network", {})


MOBILE = {
  "plain": {},
  "norms": {"norm": "layer_norm", "activation": "gelu", "trigrams": False},
  "thin": {"bottleneck_attention": True, "feed_forwards": 1},
  "wide": {"bottleneck": False, "feed_forwards": 2},
}


def mobilebert(**more):
  return MobileBertConfig(
    vocab_size=50, width=24, layers=2, heads=3, mlp_dim=32, max_positions=40,
    word_width=8, inner_width=12, scan=False, **more,
  )  # fmt: skip


@pytest.mark.parametrize("variant", [*VARIANTS, *MOBILE])
def test_bert_is_flaxs(tmp_path, variant):
  if variant in MOBILE:
    config = mobilebert(**MOBILE[variant])
  else:
    config = bert(**VARIANTS[variant])
  params = random_params(ExtractiveReader(SpanConfig(config)))
  described = {"bert": config.__dict__}
  mine, weights = packed(tmp_path / "p.odqa", described, params)
  ids = np.random.default_rng(1).integers(0, 50, (1, 17))
  for first in (5, 17):
    theirs = apply_bert(
      config,
      params,
      jnp.array(ids),
      jnp.array([17]),
      first_lengths=jnp.array([first]),
    )[0]
    found = encode(mine["bert"], weights, ids[0].tolist(), first_length=first)
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    (one,) = encode(
      mine["bert"], weights, ids[0].tolist(), first_length=first,
      first_only=True,
    )  # fmt: skip
    np.testing.assert_allclose(one, theirs[0], atol=1e-5)


@pytest.mark.parametrize(
  "options",
  [
    {"shared": True, "projection": "truncate", "embedding_dim": 7},
    {"pooling": "mean", "normalise": True},
    {"projection": "dense", "embedding_dim": 9},
  ],
)
def test_question_vectors_are_flaxs(tmp_path, options):
  config = EncoderConfig(bert(), **options)
  encoder = DualEncoder(config)
  params = random_params(encoder)
  side = params["shared" if config.shared else "question"]
  described = config.__dict__ | {
    "bert": config.bert.__dict__, "output_dim": config.output_dim
  }  # fmt: skip
  mine, weights = packed(tmp_path / "p.odqa", described, side)
  ids = np.random.default_rng(1).integers(0, 50, (1, 9))
  theirs = encoder.encode_question(params, jnp.array(ids), jnp.array([9]))[0]
  found = question_vector(mine, weights, ids[0].tolist())
  np.testing.assert_allclose(found, theirs, atol=1e-5)


@pytest.mark.parametrize("heads", [(True, True), (False, True), (False, False)])
def test_spans_are_those_of_the_reader(tmp_path, heads):
  config = SpanConfig(bert(), span=heads[0], passage=heads[1])
  network = ExtractiveReader(config)
  params = random_params(network)
  described = config.__dict__ | {"bert": config.bert.__dict__}
  mine, weights = packed(tmp_path / "p.odqa", described, params)
  ids = np.random.default_rng(1).integers(0, 50, (1, 20))
  context, most, longest = (4, 15), 6, 4
  theirs = score_passages(
    network, params, jnp.array(ids), jnp.array([20]), jnp.array([16]),
    *(jnp.array([c]) for c in context), most=most, longest=longest,
  )  # fmt: skip
  found = read_passage(
    mine, weights, ids[0].tolist(), 16, context, most=most, longest=longest
  )
  assert [*found.starts + 4] == [*theirs.best.starts[0]]
  assert [*found.ends + 4] == [*theirs.best.ends[0]]
  assert {*found.log_scores} == {*theirs.best.log_scores}
  assert {*found.log_sums} == {*theirs.log_sums}
  for name, values in found.log_scores.items():
    np.testing.assert_allclose(
      values, theirs.best.log_scores[name][0], atol=2e-5
    )
  for name, value in found.log_sums.items():
    np.testing.assert_allclose(value, theirs.log_sums[name][0], atol=2e-5)


def test_a_text_with_fewer_spans_than_asked_for(tmp_path):
  config = SpanConfig(bert())
  described = config.__dict__ | {"bert": config.bert.__dict__}
  params = random_params(ExtractiveReader(config))
  mine, weights = packed(tmp_path / "p.odqa", described, params)
  ids = [*range(10)]
  two = read_passage(mine, weights, ids, 5, (3, 5), most=6, longest=4)
  assert {*zip(two.starts.tolist(), two.ends.tolist(), strict=True)} == {
    (0, 0), (0, 1), (1, 1), (-1, -1)
  }  # fmt: skip
  none = read_passage(mine, weights, ids, 5, (3, 3), most=2, longest=4)
  assert [*none.starts] == [-1, -1]
  assert none.log_sums["start"] == -np.inf


def test_gelu_is_exact():
  x = np.linspace(-9, 9, 40_001, dtype=np.float32)
  wanted = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
  found = gelu(x.copy()[None])[0]
  np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("weights", "close"), [("f16", 5e-4), ("int8", 4e-3)])
def test_narrow_weights_are_near(tmp_path, weights, close):
  config = SpanConfig(bert())
  params = random_params(ExtractiveReader(config))
  described = config.__dict__ | {"bert": config.bert.__dict__}
  _, exact = packed(tmp_path / "a.odqa", described, params)
  _, near = packed(tmp_path / "b.odqa", described, params, weights)
  off = 0.0
  for name, values in exact.items():
    assert near[name].dtype == np.float32
    largest = np.abs(values).max()
    off = max(off, float(np.abs(values - near[name]).max() / largest))
  assert 0 < off < close
  # The rows of an embedding, and the outputs of a layer, have their own scale.
  values = np.array([[1.0, 100.0], [2.0, 127.0]], np.float32)
  assert quantised("a/kernel", values)[1].shape == (1, 2)
  assert quantised("a/embedding", values)[1].shape == (2, 1)


@pytest.mark.parametrize("narrow", [False, True])
def test_search_is_brute_force(tmp_path, monkeypatch, narrow):
  monkeypatch.setattr(search, "_ROWS", 7)
  rng = np.random.default_rng(0)
  rows = rng.integers(-127, 128, (100, 16)).astype(np.int8)
  rows[60:80] = rows[40:60]  # Equal scores: the first row comes first.
  scales = None
  if narrow:
    scales = np.full(100, 0.5, np.float32)
  else:
    rows = rows.astype(np.float32)
  with PackWriter(tmp_path / "p.odqa", {}) as writer:
    add_rows(writer, rows, scales)
  vector = rng.integers(-8, 9, 16).astype(np.float32)
  scores = rows.astype(np.float64) @ vector * (0.5 if narrow else 1)
  order = np.lexsort((np.arange(100), -scores))
  for k in (1, 45, 100):
    found, best = Rows(Pack(tmp_path / "p.odqa")).search(vector, k)
    assert best.tolist() == order[:k].tolist()
    np.testing.assert_allclose(found, scores[order[:k]], rtol=1e-6)


def words(count, size, seed=0):
  """Ids with some that are frequent, and pairs and triples that recur."""
  rng = np.random.default_rng(seed)
  ids = rng.zipf(1.3, count) % size
  for start in range(0, count - 8, 8):
    phrase = 100 + 7 * rng.integers(0, 20)
    # What follows 50 or 51 is told by what stands before it.
    ids[start : start + 6] = 50, phrase, 51, phrase + 1, 50, phrase + 2
  return ids.astype(np.uint16)


@pytest.mark.parametrize("size", [3000, 65000])
def test_coded_tokens_are_read_back(size):
  ids = words(20_000, size)
  rng = np.random.default_rng(1)
  cuts = np.sort(rng.integers(0, len(ids), 300))
  # Empty passages, and ones of a single token, are among them.
  bounds = np.concatenate([[0, 0, 1, 2], cuts[cuts > 2], [len(ids)] * 2])
  tables = fit_tables(ids, bounds, size)
  assert len(tables.contexts) and tables.levels.max() > 20
  model = NGramModel(tables)
  data, ends = model.encode(ids, bounds)
  starts = np.append(0, ends[:-1])
  for some in (range(len(ends)), [5, 0, 200, 5], [3]):
    streams = [data[starts[i] : ends[i]] for i in some]
    lengths = [int(bounds[i + 1] - bounds[i]) for i in some]
    found = model.decode(streams, lengths)
    for i, mine in zip(some, found, strict=True):
      assert mine.tolist() == ids[bounds[i] : bounds[i + 1]].tolist()
  # Phrases cost little: less than a model of single tokens asks for.
  shares = np.bincount(ids) / len(ids)
  shares = shares[shares > 0]
  plain = -np.sum(shares * np.log2(shares)) * len(ids)
  assert 8 * len(data) < 0.7 * plain, 8 * len(data) / plain


def test_a_token_that_is_rare_beyond_a_word():
  """A frequency below 16 of 2**20 may move the state by two words."""
  tables = Tables(
    vocab_size=3,
    contexts=np.zeros(0, np.int64),
    # Behind a rare 1 mostly 2, or 0 by an escape.
    lengths=np.array([3, 1, 2, 1]),
    tokens=np.array([0, 1, 2, ESCAPE, 2, ESCAPE, ESCAPE], np.uint16),
    levels=np.array([72, 0, 68, 0, 4, 0, 0], np.uint8),
    weights=weights_of_levels(),
  )
  model = NGramModel(tables)
  ids = np.random.default_rng(0).choice([0, 2], 6000).astype(np.uint16)
  ids[5::20] = 1
  bounds = np.arange(0, 6001, 20)
  data, ends = model.encode(ids, bounds)
  streams = [data[i:j] for i, j in zip([0, *ends], ends, strict=False)]
  found = model.decode(streams, [20] * 300)
  assert np.concatenate(found).tolist() == ids.tolist()


def test_what_crosses_a_border_is_not_counted():
  """Passages end in 3 and begin with 4, which never follows it."""
  ids = np.tile(np.array([4, 7, 8, 3], np.uint16), 50)
  tables = fit_tables(ids, np.arange(0, 201, 4), 9)
  starts = np.cumsum(tables.lengths) - tables.lengths
  after_3 = tables.tokens[starts[1 + 3] : starts[1 + 4]]
  assert after_3.tolist() == [ESCAPE]
  assert not (tables.contexts % 9 == 3).any()


def test_a_stream_that_is_another():
  ids = words(5000, 3000)
  bounds = np.arange(0, 5001, 50)
  model = NGramModel(fit_tables(ids, bounds, 3000))
  data, ends = model.encode(ids, bounds)
  first = data[: ends[0]]
  with pytest.raises(ValueError, match="is cut short"):
    model.decode([first[:4]], [50])
  for stream, length in ((first, 49), (first + b"ab", 50), (first[:-2], 50)):
    with pytest.raises(ValueError, match="does not end where it should"):
      model.decode([stream], [length])


@pytest.mark.parametrize(
  ("pieces", "text"),
  [
    ("the new york times", "the new york times"),
    ("un ##believ ##able !", "unbelievable!"),
    ("spider - man ' s ( 2002 )", "spider-man's (2002)"),
    ("1 , 000 , 000 or $ 3 . 5", "1,000,000 or $3.5"),
    ("in 1990 , 12 of them", "in 1990, 12 of them"),
    ('he said " no , never " twice', 'he said "no, never" twice'),
    ("a - ( b )", "a - (b)"),
    ("## is a mark", "## is a mark"),
    ("", ""),
  ],
)
def test_words_are_joined_as_in_print(pieces, text):
  found, places = join(pieces.split())
  assert found == text
  words = [p.removeprefix("##") or p for p in pieces.split()]
  assert [found[a:b] for a, b in places] == words


def test_a_part_that_is_empty(tmp_path):
  with PackWriter(tmp_path / "p.odqa", {"a": 1}) as writer:
    writer.add("none", "other", np.zeros((0, 3), np.float32))
    writer.add("some", "other", np.arange(3), xz=True)
  pack = Pack(tmp_path / "p.odqa")
  assert pack.about == {"a": 1}
  assert pack.array("none").shape == (0, 3)
  assert pack.array("some").tolist() == [0, 1, 2]


def test_damage_names_the_part(tmp_path):
  with PackWriter(tmp_path / "p.odqa", {}) as writer:
    writer.add("one", "other", np.arange(100_000))
    writer.add("two", "other", np.arange(100_000))
  data = bytearray((tmp_path / "p.odqa").read_bytes())
  data[Pack(tmp_path / "p.odqa").parts["two"].offset + 70_000] ^= 1
  (tmp_path / "p.odqa").write_bytes(data)
  pack = Pack(tmp_path / "p.odqa")
  assert pack.array("one")[-1] == 99_999
  # The blocks before and behind are sound.
  assert pack.bytes_of("two", 8, 16) == (1).to_bytes(8, "little")
  with pytest.raises(Damage, match=r"bytes \d+ to \d+ \(two\) do not match"):
    pack.bytes_of("two", 70_000, 70_008)


def test_only_what_a_minimal_runtime_has_is_imported():
  allowed = {"numpy", "tokenizers", "jaxtyping"}
  own = {
    "odqa_jax.reading.passage_spans", "odqa_jax.text.answers",
    "odqa_jax.text.pairs", "odqa_jax.runtime.files",
  }  # fmt: skip
  files = [*(PACKAGE / "serving" / "packed").glob("*.py")]
  files += [
    (PACKAGE.parent / name.replace(".", "/")).with_suffix(".py") for name in own
  ]
  assert len(files) > 10
  for file in files:
    for node in ast.walk(ast.parse(file.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module]
      for name in names:
        mine = name in own or name.startswith("odqa_jax.serving.packed")
        known = name.split(".")[0] in {*sys.stdlib_module_names, *allowed}
        assert mine or known, f"{file} imports {name}"


def test_jax_is_not_loaded():
  code = (
    "import sys, odqa_jax.serving.packed.system; "
    "print([m for m in ('jax', 'flax', 'scipy', 'ssl') if m in sys.modules])"
  )
  said = subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True,
    cwd=PACKAGE.parent,
  )  # fmt: skip
  assert not set(ast.literal_eval(said.stdout)) & {"jax", "flax", "scipy"}


@pytest.mark.parametrize(
  "command",
  [
    "answer --question q --system",
    "serve --system",
    "serve --system x --compare",
  ],
)
def test_numpy_gets_one_thread_beside_those_of_a_pack(tmp_path, command):
  """It is told before it is imported; later it does not listen."""
  (tmp_path / "no.odqa").write_text("no pack")
  code = """if True:
    import os, sys
    told = []
    class Told:
      def find_spec(self, name, *rest):
        if name == "numpy":
          told.append(os.environ.get("OPENBLAS_NUM_THREADS"))
    sys.meta_path.insert(0, Told())
    from odqa_jax.main import main
    print(main(sys.argv[1:]), told[0])
  """
  unset = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
  for name, threads in (("no.odqa", "1"), ("no_folder", "None")):
    asked = [*command.split(), str(tmp_path / name)]
    said = subprocess.run(
      [sys.executable, "-c", code, *asked],
      check=True, capture_output=True, text=True, cwd=PACKAGE.parent, env=unset,
    )  # fmt: skip
    assert said.stdout == f"2 {threads}\n", said.stderr
