"""Component fusion: one decision from the log-scores of all components.

    fusion = tune(candidates, questions)
    answer = fusion.answer(candidates.candidates[0])

Source: "R2-D2: A Modular Baseline for Open-Domain Question Answering", the
section on component fusion. Two steps, each tuned on questions of a dev set:

1. *Which span.* A span's fused score is the weighted sum of the log-scores
   that the components give it; a softmax over the spans of a question makes
   probabilities of them. The weights minimise −log of the probability that the
   span is right, over the questions that have a right span and a wrong one.
   A bias would be the same for all spans of a question and cancel.
2. *Extracted or generated.* A logistic regression on the fused score of the
   best span and the log-probability of the generated answer, with a bias,
   over the questions of which exactly one of the two answers is right.

Both are regularised by l2/2 times the squared weights (in step 2 the bias as
well, so that there is an optimum where one side is always right) after every
input was divided by its standard deviation, so that the scale of a component
means nothing. Nothing is random; all is float64.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import minimize

from odqa_jax.data.questions.sets import Question
from odqa_jax.reading.candidates import (
  RUN,
  SIZES,
  Candidates,
  CandidateSet,
  Span,
  is_right,
)
from odqa_jax.runtime.files import Damage, content_hash, read_json, write_json

L2 = 1e-3
_FORMAT = 1
# Of an optimum in standardised inputs.
_OPTIONS = {"gtol": 1e-10, "maxiter": 10_000}


@dataclasses.dataclass(frozen=True)
class Choice:
  """Whether the best span or the generated answer is given.

  The span is, where `fused` times its fused score plus `generated` times the
  log-probability of the generated answer plus `bias` is not below 0.
  """

  fused: float
  generated: float
  bias: float


@dataclasses.dataclass(frozen=True)
class FusedAnswer:
  """What is answered.

  Attributes:
    text: the answer; "" where there are no candidates at all.
    span: the best span, with its passage and the score of every component;
      None where there is none.
    score: its fused score.
    margin: above 0 the span is preferred to the generated answer, below it is
      not; None where there is no choice.
    extractive: whether the answer is the span.
  """

  text: str
  span: Span | None
  score: float
  margin: float | None
  extractive: bool


@dataclasses.dataclass(frozen=True)
class Fusion:
  """Weights that were tuned.

  Attributes:
    components: those that are fused, and their versions.
    weights: of each.
    choice: None: the answer is always a span.
    tuned_on: how many questions each step had.
    l2: of the regularisation.
    chosen_on: the set of these questions; "" where that was not kept.
    sizes: of the candidates; see `CandidateSet`.
  """

  components: Mapping[str, str]
  weights: Mapping[str, float]
  choice: Choice | None
  tuned_on: Mapping[str, int]
  l2: float
  chosen_on: str = ""
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def sized(
    self, given: Mapping[str, int | None], count: int
  ) -> dict[str, int | None]:
    """`SIZES` as they are given, or else as the weights were tuned with.

    Scores are normalised over the passages that are read, so that a bias tuned
    with some is not that of others.

    Args:
      given: by name; None or absent: not given.
      count: passages that there are.
    """
    k, read_k, spans = map(given.get, SIZES)
    if k is None and "k" in self.sizes:
      k = min(self.sizes["k"], count)
    if read_k is None and "read_k" in self.sizes:
      read_k = min(self.sizes["read_k"], k or count)
    if spans is None:
      spans = self.sizes.get("spans")
    return {"k": k, "read_k": read_k, "spans": spans}

  def scores(self, spans: Sequence[Span]) -> Float64[np.ndarray, " s"]:
    """The fused scores of spans."""
    weights = np.array([*self.weights.values()], np.float64)
    return span_scores(spans, [*self.weights]) @ weights

  def answer(self, candidates: Candidates) -> FusedAnswer:
    """The best answer; of equal spans that of the first passage and place."""
    generated = candidates.generated
    span, score, margin = None, -np.inf, None
    if candidates.spans:
      scores = self.scores(candidates.spans)
      best = int(np.argmax(scores))
      span, score = candidates.spans[best], float(scores[best])
    if self.choice is None or generated is None:
      text = span.text if span else ""
      return FusedAnswer(text, span, score, None, span is not None)
    if span is None:
      return FusedAnswer(generated.text, None, score, None, False)
    margin = self.choice.fused * score + self.choice.bias
    margin += self.choice.generated * generated.score
    text = span.text if margin >= 0 else generated.text
    return FusedAnswer(text, span, score, margin, margin >= 0)


def span_scores(
  spans: Sequence[Span], components: Sequence[str]
) -> Float64[np.ndarray, "s c"]:
  """The log-scores that components give to spans."""
  rows = [[span.scores[name] for name in components] for span in spans]
  return np.array(rows, np.float64).reshape(len(spans), len(components))


def tune(
  candidates: CandidateSet,
  questions: Sequence[Question],
  *,
  components: Sequence[str] | None = None,
  l2: float = L2,
) -> Fusion:
  """Tunes both steps on a dev set.

  Args:
    candidates: of the questions; more or fewer spans each.
    questions: those without answers are left out.
    components: those to fuse, in any order; None: all that have scored. With
      none of them a span is as good as another. Without `reader` the answer is
      always a span.
    l2: strength of the regularisation, above 0.

  Raises:
    ValueError: if a component has not scored, or no question has a right span
      beside a wrong one.
  """
  if not l2 > 0:
    raise ValueError(f"--l2 {l2}: must be above 0, or weights may be infinite.")
  known = candidates.components
  missing = [n for n in components or () if n not in known]
  if missing:
    raise ValueError(
      f"component {missing[0]!r} has scored none of the candidates; those that "
      f"have: {', '.join(known)}."
    )
  chosen = known if components is None else components
  names = [name for name in known if name in chosen]
  asked = [q for q in questions if q.answers]
  found = dict(
    zip([q.id for q in questions], candidates.of(questions), strict=True)
  )
  pairs = [(q, found[q.id]) for q in asked]
  features, right, counts = _comparable(pairs, names)
  weights = fit_spans(features, right, counts, l2) if names else np.zeros(0)
  fusion = Fusion(
    {name: known[name] for name in names},
    dict(zip(names, weights.tolist(), strict=True)),
    None,
    {"questions": len(asked), "comparable": len(counts), "decided": 0},
    l2,
    sizes=candidates.sizes,
  )
  if "reader" not in names or not any(c.generated for _, c in pairs):
    return fusion
  scores, extractive = _decided(fusion, pairs)
  tuned_on = {**fusion.tuned_on, "decided": len(extractive)}
  choice = Choice(*fit_choice(scores, extractive, l2).tolist())
  return dataclasses.replace(fusion, choice=choice, tuned_on=tuned_on)


def _comparable(
  pairs: Sequence[tuple[Question, Candidates]], names: Sequence[str]
) -> tuple[
  Float64[np.ndarray, "s c"], Bool[np.ndarray, " s"], Int64[np.ndarray, " q"]
]:
  """Of questions with a right and a wrong span: scores, which are right, sizes.

  Raises:
    ValueError: if there is no such question.
  """
  features, right, counts = [], [], []
  for question, candidates in pairs:
    hits = [is_right(span.text, question) for span in candidates.spans]
    if any(hits) and not all(hits):
      features.append(span_scores(candidates.spans, names))
      right += hits
      counts.append(len(hits))
  if not counts:
    raise ValueError(
      f"none of {len(pairs)} questions with answers has both a right span and "
      "a wrong one, so there is nothing to learn weights from; give more "
      "questions, or more spans of each."
    )
  return np.concatenate(features), np.array(right), np.array(counts, np.int64)


def _decided(
  fusion: Fusion, pairs: Sequence[tuple[Question, Candidates]]
) -> tuple[Float64[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
  """Where span and generated answer differ in being right: scores, and how."""
  scores, extractive = [], []
  for question, candidates in pairs:
    best, generated = fusion.answer(candidates), candidates.generated
    if best.span is None or generated is None:
      continue
    hits = is_right(best.text, question), is_right(generated.text, question)
    if hits[0] != hits[1]:
      scores.append((best.score, generated.score))
      extractive.append(hits[0])
  return np.array(scores, np.float64).reshape(-1, 2), np.array(extractive, bool)


def fit_spans(
  features: Float64[np.ndarray, "s c"],
  right: Bool[np.ndarray, " s"],
  counts: Int64[np.ndarray, " q"],
  l2: float,
) -> Float64[np.ndarray, " c"]:
  """Weights of the components, step 1.

  Args:
    features: log-scores of the spans of all questions, one after the other.
    right: which spans are.
    counts: how many spans each question has, one at least.
    l2: see the module.
  """
  starts = np.cumsum(counts) - counts
  means = np.add.reduceat(features, starts) / counts[:, None]
  # What is the same for all spans of a question cancels, and is no spread.
  centred = features - np.repeat(means, counts, axis=0)
  scale = _spread(np.sqrt((centred**2).mean(axis=0)), features)

  def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
    return span_loss(weights, centred / scale, right, counts, l2)

  return _minimise(loss, features.shape[1]) / scale


def span_loss(
  weights: Float64[np.ndarray, " c"],
  features: Float64[np.ndarray, "s c"],
  right: Bool[np.ndarray, " s"],
  counts: Int64[np.ndarray, " q"],
  l2: float,
) -> tuple[float, Float64[np.ndarray, " c"]]:
  """The objective of step 1, and its gradient.

  The mean over questions of −log Σ_right softmax(w·x), and l2/2 |w|².
  """
  scores = features @ weights
  losses, slopes = 0.0, np.zeros_like(scores)
  for sign, chosen in ((1.0, np.ones_like(right)), (-1.0, right)):
    among = np.where(chosen, scores, -np.inf)
    total = _log_sums(among, counts)
    losses += sign * total.sum()
    slopes += sign * np.exp(among - np.repeat(total, counts))
  n = len(counts)
  value = losses / n + l2 / 2 * float(weights @ weights)
  return value, features.T @ slopes / n + l2 * weights


def _log_sums(
  scores: Float64[np.ndarray, " s"], counts: Int64[np.ndarray, " q"]
) -> Float64[np.ndarray, " q"]:
  """Gives log Σ exp of each question; one of its scores is finite."""
  starts = np.cumsum(counts) - counts
  highest = np.maximum.reduceat(scores, starts)
  rest = np.exp(scores - np.repeat(highest, counts))
  return highest + np.log(np.add.reduceat(rest, starts))


def fit_choice(
  scores: Float64[np.ndarray, "n 2"],
  extractive: Bool[np.ndarray, " n"],
  l2: float,
) -> Float64[np.ndarray, " 3"]:
  """Weights of both scores and the bias, step 2; all 0 for no question.

  Args:
    scores: fused score of the best span, log-probability of what was generated.
    extractive: whether the span is the right one.
    l2: see the module.
  """
  if not len(scores):
    return np.zeros(3)
  mean = scores.mean(axis=0)
  scale = _spread(scores.std(axis=0), scores)
  inputs = np.column_stack([(scores - mean) / scale, np.ones(len(scores))])

  def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
    return choice_loss(weights, inputs, extractive, l2)

  found = _minimise(loss, 3)
  weights = found[:2] / scale
  return np.append(weights, found[2] - weights @ mean)


def choice_loss(
  weights: Float64[np.ndarray, " c"],
  inputs: Float64[np.ndarray, "n c"],
  extractive: Bool[np.ndarray, " n"],
  l2: float,
) -> tuple[float, Float64[np.ndarray, " c"]]:
  """The objective of step 2, logistic regression, and its gradient."""
  signs = np.where(extractive, 1.0, -1.0)
  margins = signs * (inputs @ weights)
  value = float(np.logaddexp(0, -margins).mean())
  slopes = -signs * np.exp(-np.logaddexp(0, margins)) / len(signs)
  return (
    value + l2 / 2 * float(weights @ weights),
    inputs.T @ slopes + l2 * weights,
  )


def _spread(
  deviations: Float64[np.ndarray, " c"], values: Float64[np.ndarray, "s c"]
) -> Float64[np.ndarray, " c"]:
  """What inputs are divided by: 1 where they are the same but for rounding."""
  varies = deviations > 1e-9 * np.abs(values).max(axis=0)
  return np.where(varies, deviations, 1.0)


def _minimise(loss: Any, size: int) -> Float64[np.ndarray, " c"]:
  return minimize(
    loss, np.zeros(size), jac=True, method="BFGS", options=_OPTIONS
  ).x


def save_fusion(path: str | Path, fusion: Fusion) -> None:
  """Writes a fusion as JSON with its checksum."""
  content = {"kind": "fusion", "format": _FORMAT, **dataclasses.asdict(fusion)}
  write_json(path, content | {"sha256": content_hash(content)})


def load_fusion(
  path: str | Path, components: Mapping[str, str] | None = None
) -> Fusion:
  """Reads what `save_fusion` has written.

  Args:
    path: the file.
    components: those of the system, and their versions; None: not compared.

  Raises:
    ValueError: if it is none, is damaged, or was tuned for other components.
  """
  content = read_json(Path(path))
  if (content.get("kind"), content.get("format")) != ("fusion", _FORMAT):
    raise ValueError(
      f"{path}: is no fusion of this version of odqa_jax; tune one with `odqa "
      "fuse`."
    )
  if content.pop("sha256", None) != content_hash(content):
    raise Damage(
      f"{path}: does not match its checksum; tune it again with `odqa fuse`."
    )
  names = [field.name for field in dataclasses.fields(Fusion)]
  fields = {name: content[name] for name in names if name in content}
  choice = fields.pop("choice")
  fusion = Fusion(**fields, choice=Choice(**choice) if choice else None)
  if components is not None:
    _check_components(path, fusion.components, components)
  return fusion


def _check_components(
  path: str | Path, tuned: Mapping[str, str], given: Mapping[str, str]
) -> None:
  wrong = [
    f"{name} {version[:12]} ("
    + (f"here {given[name][:12]}" if name in given else "not here")
    + ")"
    for name, version in tuned.items()
    if given.get(name) != version
  ]
  if wrong:
    remedy = "tune it for these with `odqa fuse`."
    if any(version.startswith(RUN) for version in tuned.values()):
      remedy = (
        "a run does not say who made it: write the candidates with `odqa "
        "answer --retriever DIR --index DIR`, and --reranker DIR in place of "
        "--reranked, and tune it anew."
      )
    raise ValueError(
      f"{path}: was tuned for other components: {', '.join(wrong)}; {remedy}"
    )
