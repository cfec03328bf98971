"""Losses over all passages of a question against NumPy in float64."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from odqa_jax.objectives.best_spans import best_spans
from odqa_jax.objectives.extractive import dpr_reader_losses, extractive_losses
from odqa_jax.objectives.pruning import binary_cross_entropy
from odqa_jax.objectives.reranking import (
  listwise_cross_entropy,
  listwise_hits,
)
from odqa_jax.objectives.spans import (
  COMPONENTS,
  Contexts,
  SpanScores,
  span_band,
  span_mask,
)

Q, N, L, D, O = 3, 8, 11, 4, 4


@pytest.fixture(autouse=True)
def double_precision():
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", False)


def make(seed=0):
  """Three questions: several answers, one that is too long, and none."""
  r = np.random.default_rng(seed)
  scores = SpanScores(
    start=r.normal(size=(Q, N, L)) * 2,
    end=r.normal(size=(Q, N, L)) * 2,
    span_start=r.normal(size=(Q, N, L, D)),
    span_end=r.normal(size=(Q, N, L, D)),
    passage=r.normal(size=(Q, N)) * 2,
  )
  mask = np.ones((Q, N), bool)
  mask[1, 5:] = False
  starts = r.integers(1, 4, (Q, N)).astype(np.int32)
  ends = r.integers(6, L + 1, (Q, N)).astype(np.int32)
  contexts = Contexts(mask, starts, ends)
  first = np.full((Q, N, O), -1, np.int32)
  last = np.full((Q, N, O), -1, np.int32)
  # The same span twice, one more from the same token, one to the same token.
  first[0, 0], last[0, 0] = [4, 4, 4, 3], [5, 5, 4, 5]
  first[0, 3, 0], last[0, 3, 0] = 4, 4
  # Too long; before the text; after it; and in a passage that is none.
  first[1, 0, 0], last[1, 0, 0] = 3, 8
  first[1, 1, 0], last[1, 1, 0] = 0, 4
  first[1, 2, 0], last[1, 2, 0] = 5, ends[1, 2]
  first[1, 6, 0], last[1, 6, 0] = 4, 5
  first[1, 4, 2], last[1, 4, 2] = 4, 5
  return scores, contexts, first, last


def jitted(function):
  """Compiled at once: op by op takes longer."""
  known = {"length", "longest", "most", "components"}
  names = known & set(inspect.signature(function).parameters)
  return jax.jit(function, static_argnames=tuple(names))


def arrays(tree):
  return jax.tree.map(jnp.asarray, tree)


def softmax_of(values):
  """Keys → probabilities."""
  top = max(values.values())
  weights = {key: np.exp(v - top) for key, v in values.items()}
  total = sum(weights.values())
  return {key: v / total for key, v in weights.items()}


def spelt_out(scores, contexts, q, longest):
  """Component → place → probability, one pair of tokens after the other."""
  passages = [n for n in range(N) if contexts.passage_mask[q, n]]
  tokens = [
    (n, t)
    for n in passages
    for t in range(contexts.starts[q, n], contexts.ends[q, n])
  ]
  pairs = [
    (n, s, e)
    for (n, s), (m, e) in itertools.product(tokens, tokens)
    if n == m and s <= e < s + longest
  ]
  return {
    "start": softmax_of({k: scores.start[q][k] for k in tokens}),
    "end": softmax_of({k: scores.end[q][k] for k in tokens}),
    "span": softmax_of(
      {
        (n, s, e): scores.span_start[q, n, s] @ scores.span_end[q, n, e]
        for n, s, e in pairs
      }
    ),
    "passage": softmax_of({n: scores.passage[q, n] for n in passages}),
  }


def brute_force(example, longest):
  scores, contexts, first, last = example
  out = {name: np.zeros(Q) for name in COMPONENTS}
  for q in range(Q):
    probs = spelt_out(scores, contexts, q, longest)
    golds = {
      (n, int(s), int(e))
      for n in range(N)
      for s, e in zip(first[q, n], last[q, n], strict=True)
      if (n, int(s), int(e)) in probs["span"]
    }
    if golds:
      places = {
        "start": {(n, s) for n, s, _ in golds},
        "end": {(n, e) for n, _, e in golds},
        "span": golds,
        "passage": {n for n, _, _ in golds},
      }
      for name, keys in places.items():
        out[name][q] = -np.log(sum(probs[name][k] for k in keys))
  return out


@pytest.mark.parametrize("longest", [1, 3, 20])
def test_losses_are_those_of_all_places_spelt_out(longest):
  example = make()
  losses = jitted(extractive_losses)(*arrays(example), longest=longest)
  expected = brute_force(example, longest)
  for name in COMPONENTS:
    np.testing.assert_allclose(losses[name], expected[name], rtol=1e-12)
    assert np.array_equal(losses["answered"], expected["start"] > 0)


def test_band_holds_every_product():
  scores, contexts, *_ = make()
  for longest in (1, 2, 4, 10, L, 15):
    band = jitted(span_band)(
      *arrays((scores.span_start, scores.span_end)), longest=longest
    )
    allowed = jitted(span_mask)(arrays(contexts), length=L, longest=longest)
    band, allowed = np.asarray(band), np.asarray(allowed)
    assert band.shape == allowed.shape == (Q, N, L, longest)
    for s, j in itertools.product(range(L), range(longest)):
      if s + j < L:
        product = np.sum(
          scores.span_start[:, :, s] * scores.span_end[:, :, s + j], axis=-1
        )
        np.testing.assert_allclose(band[:, :, s, j], product, rtol=1e-12)
      else:
        assert not allowed[:, :, s, j].any()


def test_band_needs_no_square_of_the_length():
  """At l = 256 and 10 tokens, nothing in the program has l·l elements."""
  q, n, l, d, longest = 1, 2, 256, 8, 10
  shapes = SpanScores(
    *(jax.ShapeDtypeStruct((q, n, l), jnp.float32),) * 2,
    jax.ShapeDtypeStruct((q, n), jnp.float32),
    *(jax.ShapeDtypeStruct((q, n, l, d), jnp.float32),) * 2,
  )
  contexts = Contexts(
    jax.ShapeDtypeStruct((q, n), bool),
    *(jax.ShapeDtypeStruct((q, n), jnp.int32),) * 2,
  )
  places = jax.ShapeDtypeStruct((q, n, 3), jnp.int32)

  def total(scores, *others):
    losses = jitted(extractive_losses)(scores, *others, longest=longest)
    return sum(losses[name].sum() for name in COMPONENTS)

  def sizes(jaxpr):
    for equation in jaxpr.eqns:
      yield from (var.aval.size for var in equation.outvars)
      for inner in jaxprs_in_params(equation.params):
        yield from sizes(inner)

  program = jax.make_jaxpr(jax.grad(total))(shapes, contexts, places, places)
  assert max(sizes(program.jaxpr)) <= n * l * 4 * longest < n * l * l


def test_gradients_of_the_four_losses():
  scores, *others = make()

  def total(*scores):
    losses = jitted(extractive_losses)(
      SpanScores(*map(jnp.asarray, scores)), *arrays(others), longest=3
    )
    return sum(losses[name] for name in COMPONENTS)

  check_grads(jax.jit(total), tuple(scores), 1, ["rev"], atol=1e-7, rtol=1e-7)


def test_a_reader_without_some_heads_has_the_losses_of_the_others():
  scores, *others = arrays(make())
  few = SpanScores(scores.start, scores.end)
  assert few.components == ("start", "end")
  losses = jitted(extractive_losses)(few, *others, longest=3)
  whole = jitted(extractive_losses)(scores, *others, longest=3)
  assert set(losses) == {"start", "end", "answered"}
  for name in losses:
    np.testing.assert_array_equal(losses[name], whole[name])
  found = jitted(best_spans)(few, others[0], most=2, longest=3)
  assert set(found.log_scores) == {"start", "end"}
  with pytest.raises(ValueError, match="no head for it; it has start, end;"):
    best_spans(few, others[0], most=2, longest=3, components=("span",))
  with pytest.raises(ValueError, match="give scores of passages"):
    dpr_reader_losses(few, *others)


def test_what_is_not_allowed_has_no_gradient():
  scores, *others = make()

  def total(scores):
    losses = jitted(extractive_losses)(scores, *arrays(others), longest=3)
    return sum(losses[name].sum() for name in COMPONENTS)

  gradients = jax.jit(jax.grad(total))(jax.tree.map(jnp.asarray, scores))
  contexts = others[0]
  places = np.arange(L)[None, None]
  inside = (places >= contexts.starts[..., None]) & (
    places < contexts.ends[..., None]
  )
  inside &= contexts.passage_mask[..., None]
  for name in ("start", "end", "span_start", "span_end"):
    gradient = np.asarray(getattr(gradients, name))
    assert np.all(gradient[~inside] == 0), name
    assert np.all(gradient[2] == 0), name
    assert np.any(gradient[0]), name
  assert np.all(np.asarray(gradients.passage)[1, 5:] == 0)


def test_a_question_of_nothing_has_neither_loss_nor_gradient():
  scores, contexts, first, last = make()
  contexts = contexts._replace(
    passage_mask=np.zeros((Q, N), bool),
    starts=np.zeros((Q, N), np.int32),
    ends=np.zeros((Q, N), np.int32),
  )

  def total(scores):
    losses = jitted(extractive_losses)(
      scores, *arrays((contexts, first, last)), longest=3
    )
    return sum(losses[name].sum() for name in COMPONENTS)

  value, gradients = jax.jit(jax.value_and_grad(total))(
    jax.tree.map(jnp.asarray, scores)
  )
  assert value == 0
  assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_the_order_of_the_passages_does_not_matter():
  scores, contexts, first, last = make()
  order = np.random.default_rng(1).permutation(N)
  turned = (
    SpanScores(*(x[:, order] for x in scores)),
    Contexts(*(x[:, order] for x in contexts)),
    first[:, order],
    last[:, order],
  )
  one = jitted(extractive_losses)(
    *arrays((scores, contexts, first, last)), longest=3
  )
  two = jitted(extractive_losses)(*arrays(turned), longest=3)
  for name in COMPONENTS:
    np.testing.assert_allclose(one[name], two[name], rtol=1e-12)


def over_devices(function, *, check):
  mesh = jax.make_mesh((8,), ("passage",), axis_types=(AxisType.Auto,))
  return lambda **specs: jax.jit(
    jax.shard_map(function, mesh=mesh, check_vma=check, **specs)
  )


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.eight_devices
def test_passages_split_over_devices_give_the_same_losses(check):
  example = jax.tree.map(jnp.asarray, make())
  split = PartitionSpec(None, "passage")

  def total(losses):
    return sum(losses[name].sum() for name in COMPONENTS)

  def losses(*example):
    return extractive_losses(*example, longest=3, axis_name="passage")

  one = jitted(extractive_losses)(*example, longest=3)
  eight = over_devices(losses, check=check)(
    in_specs=(split,) * 4, out_specs=PartitionSpec()
  )
  for name in one:
    np.testing.assert_allclose(
      eight(*example)[name], one[name], rtol=1e-12, atol=1e-12
    )
  if check:
    gradients = jax.jit(jax.grad(lambda s: total(eight(s, *example[1:]))))(
      example[0]
    )
  else:
    # As a training step does it: each device differentiates its share.
    share = over_devices(
      jax.grad(lambda s, *others: total(losses(s, *others)) / 8), check=False
    )(in_specs=(split,) * 4, out_specs=split)
    gradients = share(*example)
  expected = jax.jit(
    jax.grad(lambda s: total(extractive_losses(s, *example[1:], longest=3)))
  )(example[0])
  for mine, theirs in zip(gradients, expected, strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.eight_devices
def test_listwise_split_over_devices_gives_the_same():
  r = np.random.default_rng(3)
  scores, mask = jnp.asarray(r.normal(size=(4, 16))), r.random((4, 16)) < 0.7
  mask[:, 0] = [True, True, True, False]
  split = PartitionSpec(None, "passage")
  eight = over_devices(
    functools.partial(listwise_cross_entropy, axis_name="passage"), check=True
  )(in_specs=(split, split), out_specs=PartitionSpec())
  mask = jnp.asarray(mask)
  np.testing.assert_allclose(
    eight(scores, mask), listwise_cross_entropy(scores, mask), rtol=1e-12
  )
  np.testing.assert_allclose(
    jax.grad(lambda x: eight(x, mask).sum())(scores),
    jax.grad(lambda x: listwise_cross_entropy(x, mask).sum())(scores),
    rtol=1e-9,
    atol=1e-14,
  )


def test_listwise_loss_and_hits_spelt_out():
  r = np.random.default_rng(2)
  scores, mask = r.normal(size=(5, 6)) * 4, r.random((5, 6)) < 0.6
  mask[:, 0] = [True, True, True, True, False]
  mask[3], mask[4, 2:] = False, True
  scores[0, 0], scores[1, 0] = 50.0, -50.0
  scores[2, 1:], scores[2, 0], mask[2, 1] = 9.0, 9.0, True
  expected = [
    np.log(np.exp(scores[i][mask[i]]).sum()) - scores[i, 0] if mask[i, 0] else 0
    for i in range(5)
  ]
  losses = listwise_cross_entropy(jnp.asarray(scores), jnp.asarray(mask))
  np.testing.assert_allclose(losses, expected, rtol=1e-12, atol=1e-12)
  check_grads(
    lambda x: jitted(listwise_cross_entropy)(*arrays((x, mask))),
    (scores,), 1, ["rev"], atol=1e-7, rtol=1e-7,
  )  # fmt: skip
  hits = listwise_hits(jnp.asarray(scores), jnp.asarray(mask))
  best = [
    bool(mask[i, 0]) and scores[i, 0] >= scores[i][mask[i]].max()
    for i in range(5)
  ]
  assert hits.tolist() == best
  assert best[0] and not best[1] and best[2] and not best[4]


def test_weighed_binary_cross_entropy():
  r = np.random.default_rng(4)
  logits, labels = r.normal(size=(20,)) * 5, r.random(20) < 0.6
  p = 1 / (1 + np.exp(-logits))
  expected = np.where(labels, -0.5 * np.log(p), -np.log(1 - p))
  losses = binary_cross_entropy(
    jnp.asarray(logits), jnp.asarray(labels), weight=0.5
  )
  np.testing.assert_allclose(losses, expected, rtol=1e-9)
  check_grads(
    lambda x: binary_cross_entropy(*arrays((x, labels)), weight=0.5),
    (logits,), 1, ["rev"], atol=1e-7, rtol=1e-7,
  )  # fmt: skip
  far = binary_cross_entropy(
    jnp.array([800.0, -800.0]), jnp.array([False, True])
  )
  np.testing.assert_allclose(far, [800.0, 800.0])


def test_dprs_reader_spelt_out():
  scores, contexts, first, last = make()
  losses = jitted(dpr_reader_losses)(
    *arrays((scores, contexts, first, last)), longest=3
  )
  for q in range(Q):
    tokens = range(contexts.starts[q, 0], contexts.ends[q, 0])
    start = softmax_of({t: scores.start[q, 0, t] for t in tokens})
    end = softmax_of({t: scores.end[q, 0, t] for t in tokens})
    golds = {
      (int(s), int(e))
      for s, e in zip(first[q, 0], last[q, 0], strict=True)
      if s in start and e in end and e - s < 3
    }
    expected = -np.log(sum(start[s] * end[e] for s, e in golds)) if golds else 0
    np.testing.assert_allclose(losses["span"][q], expected, rtol=1e-12)
    assert losses["answered"][q] == bool(golds)
    passages = softmax_of(
      dict(enumerate(scores.passage[q][contexts.passage_mask[q]]))
    )
    np.testing.assert_allclose(
      losses["passage"][q], -np.log(passages[0]), rtol=1e-12
    )
  assert losses["answered"].tolist() == [True, False, False]

  def total(*scores):
    losses = jitted(dpr_reader_losses)(
      SpanScores(*map(jnp.asarray, scores)),
      *arrays((contexts, first, last)),
      longest=3,
    )
    return losses["span"] + losses["passage"]

  check_grads(jax.jit(total), tuple(scores), 1, ["rev"], atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(
  "components, most, longest",
  [
    (COMPONENTS, 1, 1),
    (COMPONENTS, 1000, 4),
    (("start", "end"), 7, 3),
    (("span",), 7, 3),
  ],
)
def test_best_spans_are_those_of_brute_force(components, most, longest):
  scores, contexts, *_ = make(seed=5)
  # Equal ones: the earlier one comes first.
  scores.start[:, 2], scores.end[:, 2] = scores.start[:, 1], scores.end[:, 1]
  found = jitted(best_spans)(
    *arrays((scores, contexts)),
    most=most,
    longest=longest,
    components=components,
  )
  for q in range(Q):
    probs = spelt_out(scores, contexts, q, longest)
    ranked = []
    for n, s, e in probs["span"]:
      parts = {
        "start": probs["start"][n, s],
        "end": probs["end"][n, e],
        "span": probs["span"][n, s, e],
        "passage": probs["passage"][n],
      }
      parts = {name: np.log(p) for name, p in parts.items()}
      total = sum(parts[name] for name in components)
      ranked.append((round(-total, 9), n, s, e, parts))
    ranked.sort(key=lambda r: r[:4])
    count = min(most, len(ranked))
    spans = list(
      zip(
        found.passages[q].tolist(),
        found.starts[q].tolist(),
        found.ends[q].tolist(),
        strict=True,
      )
    )
    assert len(spans) == most
    assert spans[:count] == [r[1:4] for r in ranked[:count]]
    assert set(spans[count:]) <= {(-1, -1, -1)}
    assert np.all(found.total[q, count:] == -np.inf)
    np.testing.assert_allclose(
      found.total[q, :count], [-r[0] for r in ranked[:count]], atol=1e-8
    )
    for name in COMPONENTS:
      np.testing.assert_allclose(
        found.log_scores[name][q, :count],
        [r[4][name] for r in ranked[:count]],
        rtol=1e-9,
      )
      assert np.all(found.log_scores[name][q, count:] == -np.inf)


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"components": ("begin",)}, "component 'begin'"),
    ({"components": ()}, "one component"),
    ({"most": 0}, "one span at least"),
    ({"longest": 0}, "longest=0"),
  ],
)
def test_spans_that_cannot_be_are_refused(settings, message):
  scores, contexts, *_ = make()
  with pytest.raises(ValueError, match=message):
    best_spans(
      *arrays((scores, contexts)), **{"most": 1, "longest": 3, **settings}
    )


def test_scores_in_bf16_are_summed_in_f32():
  """Within f32's error of what float64 makes of the same bf16 scores."""
  scores, *others = arrays(make())
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), scores)
  exact = jax.tree.map(lambda x: x.astype(jnp.float64), half)
  losses = jitted(extractive_losses)(half, *others, longest=3)
  expected = jitted(extractive_losses)(exact, *others, longest=3)
  for name in COMPONENTS:
    assert losses[name].dtype == jnp.float32
    # Sums of some 50 terms and d = 4 products, each to 2⁻²⁴; with room.
    np.testing.assert_allclose(losses[name], expected[name], atol=1e-5)
