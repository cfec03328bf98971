"""One update of every task, pinned: loss, gradient norm, and what it changes.

Parameters and batches are NumPy formulas, so that the numbers depend on no
random generator. A change of the numbers is a change of what is trained.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odqa_jax.data.examples.batch import check_batch, shapes
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.dual_encoder import DualEncoder, EncoderConfig
from odqa_jax.models.t5 import T5, T5Config
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.mesh import make_mesh, path_name
from odqa_jax.runtime.settings import read_settings
from odqa_jax.training.program import training_program
from odqa_jax.training.tasks.table import TASKS, make_task

WORDS, WIDTH, TAU = 40, 16, 4.0  # τ is the root of the width.
BERT = BertConfig(
  WORDS,
  WIDTH,
  layers=1,
  heads=2,
  mlp_dim=32,
  max_positions=16,
  dropout=0.0,
  attention_dropout=0.0,
  scan=False,
)
READER = T5Config(
  vocab_size=WORDS,
  width=WIDTH,
  layers=1,
  decoder_layers=1,
  heads=2,
  head_dim=8,
  mlp_dim=32,
  dropout=0.0,
  scan=False,
)
COMPONENTS = {
  "retriever": DualEncoder(EncoderConfig(BERT)),
  "reader": T5(READER),
}
SIZES = {"b": 4, "k": 3, "q": 6, "l": 8, "r": 5, "i": 10, "t": 5, "m": 1}

# Case → what is set, and the sizes of the batch that differ.
CASES = {
  "contrastive": ({"task": "contrastive"}, {"k": 2}),
  # One passage for each query, as the inverse cloze task has it.
  "contrastive, ICT": ({"task": "contrastive"}, {"k": 1}),
  "individual": ({"task": "individual"}, {}),
  "individual, token": (
    {"task": "individual", "objective.marginal": "token"},
    {},
  ),
  "joint": ({"task": "joint", "objective.passage_encoder": False}, {}),
  "joint, logprob": ({"task": "joint", "objective.bias": "logprob"}, {}),
  "fid": ({"task": "fid"}, {}),
}
# Of f32: with sums in another order losses and norms differ by 2e-6, and single
# changes of a weight by 1e-5, since they are differences of two near numbers.
TOLERANCE = 1e-4
GOLDEN = {
  "contrastive": {
    "gradient_norm": 5.229487,
    "loss": 1.855197,
    "moved retriever/passage": 1.540601,
    "first retriever/passage": 0.006283581,
    "moved retriever/question": 1.41572,
    "first retriever/question": 0.005854577,
  },
  "contrastive, ICT": {
    "gradient_norm": 1.830802,
    "loss": 1.179923,
    "moved retriever/passage": 1.524624,
    "first retriever/passage": 0.0006266832,
    "moved retriever/question": 1.517891,
    "first retriever/question": -0.004070163,
  },
  "individual": {
    "gradient_norm": 7.802305,
    "loss": 16.21797,
    "moved retriever/passage": 0.262243,
    "first retriever/passage": -0.003794372,
    "moved retriever/question": 0.2591493,
    "first retriever/question": 0.003309488,
    "moved reader": 2.239783,
    "first reader": -0.0340423,
  },
  "individual, token": {
    "gradient_norm": 7.402701,
    "loss": 16.18931,
    "moved retriever/passage": 0.2707356,
    "first retriever/passage": -0.003876835,
    "moved retriever/question": 0.2730084,
    "first retriever/question": 0.003310174,
    "moved reader": 2.251847,
    "first reader": -0.04164344,
  },
  "joint": {
    "gradient_norm": 9.583868,
    "loss": 16.12448,
    "moved retriever/passage": 0,
    "first retriever/passage": 0,
    "moved retriever/question": 0.2283709,
    "first retriever/question": 0.003261983,
    "moved bias": 0.070225,
    "first bias": 0.070225,
    "moved reader": 2.267442,
    "first reader": -0.03834003,
  },
  "joint, logprob": {
    "gradient_norm": 9.075131,
    "loss": 16.08782,
    "moved retriever/passage": 0.3514547,
    "first retriever/passage": -0.004362077,
    "moved retriever/question": 0.3550905,
    "first retriever/question": 0.003277868,
    "moved bias": 0.1006624,
    "first bias": 0.1006624,
    "moved reader": 2.274433,
    "first reader": -0.03800905,
  },
  "fid": {
    "gradient_norm": 9.712873,
    "loss": 16.1603,
    "moved retriever/passage": 0,
    "first retriever/passage": 0,
    "moved retriever/question": 0,
    "first retriever/question": 0,
    "moved reader": 2.26817,
    "first reader": -0.03896344,
  },
}


def wave(shape, name):
  """Numbers in [−1, 1] of full rank, and others for every name."""
  i = np.arange(np.prod(shape, dtype=int), dtype=np.float64)
  return np.sin(0.37 * i**2 + i + zlib.crc32(name.encode()) % 1000).reshape(
    shape
  )


def parameter(path, leaf):
  """Of about the size that a trained network has."""
  name = path_name(path)
  values = wave(leaf.shape, name)
  if name.endswith("scale") or name == "bias/lambda":
    values = 1 + 0.2 * values
  elif name.endswith("/bias"):
    values = 0.2 * values
  elif name.endswith("/kernel"):
    values = values * (2 / leaf.shape[-2]) ** 0.5
  else:
    values = 0.7 * values
  return jnp.asarray(values, jnp.float32)


def make_batch(fields, sizes):
  """Arrays of a batch, as the schema has them."""
  made = {}
  for name, (shape, dtype) in shapes(fields, sizes).items():
    i = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    if name.endswith("_ids"):
      i = 3 + (i * i + 5 * i + zlib.crc32(name.encode()) % 31) % (WORDS - 3)
    made[name] = i.astype(dtype)
  for name in made:
    if name.endswith("_lengths"):
      longest = made[name.replace("_lengths", "_ids")].shape[-1]
      made[name] = (longest - made[name] % 4).astype(np.int32)
  # A positive twice, two that are not of the corpus, and an example of padding.
  made["passage_rows"] = made["passage_rows"] % 4
  made["passage_rows"][[1, 2], [0, -1]] = -1
  made["example_mask"][:] = [True, True, True, False]
  if "answer_starts" in made:
    made["answer_starts"] = np.where(made["answer_starts"] % 3, -1, 2)
    made["answer_ends"] = made["answer_starts"]
    made["answer_starts"] = made["answer_starts"].astype(np.int32)
    made["answer_ends"] = made["answer_ends"].astype(np.int32)
  check_batch(made, fields)
  return made


def inputs(case):
  """Settings, task, parameters and batch."""
  changed, sizes = CASES[case]
  config = base_config()
  config.batch_size = SIZES["b"]
  config.update_from_flattened_dict(
    {
      "optimizer.learning_rate": 0.1,
      "optimizer.warmup": 0.0,
      "optimizer.weight_decay": 0.1,
      # Both hold here: gradients are clipped, and the first step of Adam is
      # not just their sign.
      "optimizer.clip_norm": 0.5,
      "optimizer.eps": 0.01,
      "objective.bias_learning_rate": 0.5,
    }
    | changed
  )
  settings = read_settings(config)
  needs = TASKS[settings.task].needs
  components = {name: COMPONENTS[name] for name in needs.components}
  task = make_task(settings, components)
  params = jax.tree_util.tree_map_with_path(
    parameter, jax.eval_shape(task.init, jax.random.key(0))
  )
  return settings, task, params, make_batch(needs.batch, SIZES | sizes)


def one_update(case):
  """What `GOLDEN` holds of a case."""
  settings, task, params, batch = inputs(case)
  mesh = make_mesh(devices=jax.devices()[:1])
  program = training_program(settings, task, mesh, steps=10)
  # Optax begins with zeros everywhere.
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), program.abstract)
  state = jax.device_put(state._replace(params=params), program.shardings)
  before = jax.device_get(params)
  # A program that runs once compiles in half the time without optimisation.
  step = program.step.lower(state, batch).compile(
    compiler_options={"xla_backend_optimization_level": "0"}
  )
  state, metrics = step(state, jax.device_put(batch))
  assert int(state.step) == 1
  moved = jax.tree.map(lambda a, b: a - b, jax.device_get(state.params), before)
  found = {
    name: float(total / weight)
    for name, (total, weight) in metrics.items()
    if name in ("loss", "gradient_norm")
  }
  sides = moved.pop("retriever")
  moved |= {f"retriever/{side}": x for side, x in sides.items()}
  for name, tree in moved.items():
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    found[f"moved {name}"] = sum(np.sum(x**2) for x in leaves) ** 0.5
    # One entry each, of the leaf in the middle: a norm has no sign.
    found[f"first {name}"] = float(leaves[len(leaves) // 2].reshape(-1)[0])
  return found


@pytest.mark.parametrize("case", CASES)
def test_one_update_is_what_it_was(case):
  found = one_update(case)
  lines = "\n".join(f"    {n!r}: {v:.7g}," for n, v in found.items())
  advice = (
    f"\n\nTraining by {case!r} has changed. If that is meant, say in the "
    "commit what changes for those who train with it, and put this into "
    f"GOLDEN:\n\n  {case!r}: {{\n{lines}\n  }},\n"
  )
  pinned = GOLDEN.get(case, {})
  if pinned.keys() != found.keys():
    pytest.fail(f"other numbers are measured{advice}")
  for name, value in found.items():
    if value != pytest.approx(pinned[name], rel=TOLERANCE, abs=1e-9):
      pytest.fail(f"{name} is {value:.7g}, was {pinned[name]:.7g}{advice}")


# ---- The same losses from the networks' outputs, in float64 NumPy ----


def log_softmax(x):
  x = np.asarray(x, np.float64)
  x = x - x.max(axis=-1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def embeddings(params, batch):
  """Of questions [b, e] and passages [b, k, e]."""
  encoder, weights = COMPONENTS["retriever"], params["retriever"]
  b, k, l = batch["passage_ids"].shape
  questions = jax.jit(encoder.encode_question)(
    weights,
    jnp.asarray(batch["question_ids"]),
    jnp.asarray(batch["question_lengths"]),
  )
  passages = jax.jit(encoder.encode_passage)(
    weights,
    jnp.asarray(batch["passage_ids"].reshape(b * k, l)),
    jnp.asarray(batch["passage_lengths"].reshape(b * k)),
  )
  arrays = questions, passages.reshape(b, k, -1)
  return tuple(np.asarray(x, np.float64) for x in arrays)


@pytest.mark.parametrize("case", ["contrastive", "contrastive, ICT"])
def test_the_contrastive_loss_is_that_of_numpy(case):
  _, _, params, batch = inputs(case)
  questions, passages = embeddings(params, batch)
  b, k, _ = passages.shape
  losses = []
  for i in range(b):
    if not batch["example_mask"][i]:
      continue
    positive = batch["passage_rows"][i, 0]
    scores = [questions[i] @ passages[i, 0] / TAU]
    for j, z in np.ndindex(b, k):
      row = batch["passage_rows"][j, z]
      same = row == positive and row >= 0
      if (j, z) != (i, 0) and batch["example_mask"][j] and not same:
        scores.append(questions[i] @ passages[j, z] / TAU)
    losses.append(-log_softmax(scores)[0])
  assert np.mean(losses) == pytest.approx(GOLDEN[case]["loss"], rel=1e-5)


@pytest.mark.parametrize("case", ["individual", "individual, token"])
def test_the_individual_loss_is_that_of_numpy(case):
  """In probabilities, one passage and one token at a time (Eq. 5)."""
  _, _, params, batch = inputs(case)
  questions, passages = embeddings(params, batch)
  priors = np.exp(
    log_softmax(np.einsum("be,bke->bk", questions, passages) / TAU)
  )
  reader, weights = COMPONENTS["reader"], params["reader"]
  ids, lengths = batch["reader_ids"], jnp.asarray(batch["reader_lengths"])
  states = jax.jit(reader.encode)(weights, jnp.asarray(ids), lengths)
  decode = jax.jit(reader.decode)
  targets = reader.shift_right(jnp.asarray(batch["answer_ids"]))
  probs = np.stack(
    [
      np.exp(
        log_softmax(
          decode(weights, targets, states[:, z : z + 1], lengths[:, z : z + 1])
        )
      )
      for z in range(ids.shape[1])
    ]
  )
  losses = []
  for i in np.flatnonzero(batch["example_mask"]):
    n = batch["answer_lengths"][i]
    chosen = probs[:, i, np.arange(n), batch["answer_ids"][i, :n]]
    losses.append(
      -np.log((priors[i] @ chosen).prod())
      if case.endswith("token")
      else -np.log(priors[i] @ chosen.prod(axis=1))
    )
  assert np.mean(losses) == pytest.approx(GOLDEN[case]["loss"], rel=1e-5)


def test_every_task_is_pinned():
  """But those with one network and a head, which have tests of their own."""
  pinned = {settings["task"] for settings, _ in CASES.values()}
  assert pinned == {
    name for name, row in TASKS.items() if "retriever" in row.needs.components
  }
