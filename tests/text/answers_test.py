"""Answer metrics against official cases, published scores and brute force."""

import gzip
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from odqa_jax.text import answers as metrics

COMPOSED = "Beyoncé"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("The Beatles!", "beatles"),
    ("  a  cat,\tthe\ndog ", "cat dog"),
    ("U.S.A.", "usa"),
    ("an-hour", "anhour"),
    ("another theme", "another theme"),
    ("$1,000", "1000"),
    ("“curly”", "“curly”"),
    ("“the”", "“ ”"),
    ("The the", ""),
  ],
)
def test_normalisation_follows_the_official_rules(
  text: str, expected: str
) -> None:
  assert metrics.normalise_answer(text, variant="nq") == expected
  assert metrics.normalise_answer(text, variant="squad") == expected


def test_only_the_nq_variant_unites_composed_and_decomposed_accents() -> None:
  assert metrics.exact_match(COMPOSED, [DECOMPOSED], "nq") == 1.0
  assert metrics.exact_match(COMPOSED, [DECOMPOSED], "squad") == 0.0
  assert metrics.f1(COMPOSED, [DECOMPOSED], "squad") == 0.0


def test_exact_match_and_f1_take_the_best_reference() -> None:
  assert metrics.exact_match("the cat", ["dog", "Cat."]) == 1.0
  assert metrics.exact_match("cat", ["dog", "cats"]) == 0.0
  golds = ["a black cat sat", "dog"]
  # Two of two predicted and of three gold tokens: 2·1·(2/3)/(1 + 2/3).
  assert metrics.f1("cat sat", golds) == pytest.approx(0.8)
  assert metrics.f1("cat cat", ["cat"]) == pytest.approx(2 / 3)
  assert metrics.f1("", ["cat"]) == 0.0


def test_no_reference_is_an_error_and_not_a_zero() -> None:
  for score in (metrics.exact_match, metrics.f1, metrics.matches_regex):
    with pytest.raises(ValueError, match="without reference answers"):
      score("cat", [])


@pytest.mark.parametrize(
  ("system", "em", "digits", "f1"),
  [
    ("bert_ensemble", 86.021, 3, 91.77),
    ("logistic_regression_baseline", 39.22, 2, 50.02),
  ],
)
def test_published_squad_predictions_get_their_published_scores(
  shared_data: Path, system: str, em: float, digits: int, f1: float
) -> None:
  folder = shared_data / "squad_dev"
  with gzip.open(folder / "questions.jsonl.gz", "rt", encoding="utf-8") as file:
    questions = [json.loads(line) for line in file]
  path = folder / f"predictions_{system}.json.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    predictions = json.load(file)
  pairs = [(predictions.get(q["id"], ""), q["answers"]) for q in questions]
  ours_em = [metrics.exact_match(p, golds, "squad") for p, golds in pairs]
  ours_f1 = [metrics.f1(p, golds, "squad") for p, golds in pairs]
  assert len(pairs) == 7876
  assert round(100 * float(np.mean(ours_em)), digits) == em
  assert round(100 * float(np.mean(ours_f1)), 2) == f1


def test_regex_predictions_match_from_the_start_and_ignore_case() -> None:
  assert metrics.matches_regex("sept 5", ["Sept?(ember)?|Feb"]) == 1.0
  assert metrics.matches_regex("in Sept", ["Sept"]) == 0.0
  with pytest.raises(ValueError, match=r"'\(' is no valid regular expr"):
    metrics.matches_regex("x", ["("])


@pytest.mark.parametrize(
  ("text", "answer", "expected"),
  [
    ("born in Ulm, Germany.", "ulm", True),
    ("born in Ulmer Strasse", "Ulm", False),
    ("the Rolling  Stones", "rolling stones", True),
    ("the Rolling (British) Stones", "rolling stones", False),
    ("Stones Rolling", "rolling stones", False),
    ("it's a 9-5 job", "it ' s", True),
    ("snake_case", "snake", True),
    (f"by {COMPOSED} in 2010", DECOMPOSED, True),
    ("by Beyonce", COMPOSED, False),
    ("“quoted” words", '"quoted"', False),
    ("price: $5", "$ 5", True),
    ("tab\x00separated\u200bword", "separated word", True),
    ("हिन्दी भाषा", "हिन्दी", True),
    ("ΟΔΟΣ'Α", "οδος", True),
    ("anything at all", "", False),
    ("anything at all", " \t", False),
    ("", "x", False),
    ("", "", False),
  ],
)
def test_has_answer_follows_the_dpr_rule(
  text: str, answer: str, expected: bool
) -> None:
  assert metrics.has_answer(text, [answer]) is expected
  assert metrics.has_answer(text, ["zebra", answer]) is expected


def _tokens(text: str) -> list[str]:
  """The specification read out character by character."""
  tokens, word = [], ""
  for character in unicodedata.normalize("NFD", text):
    kind = unicodedata.category(character)[0]
    if kind in "LNM":
      word += character
      continue
    tokens += [word] if word else []
    word = ""
    tokens += [] if kind in "ZC" else [character]
  return [token.lower() for token in [*tokens, *([word] if word else [])]]


def test_has_answer_equals_a_plain_reading_of_the_rule_on_random_text() -> None:
  rng = np.random.default_rng(0)
  pools = [(32, 127), (0xA0, 0x600), (0x900, 0x980), (0x2000, 0x2100), (9, 11)]
  for _ in range(500):
    lows = [pools[i] for i in rng.integers(len(pools), size=30)]
    text = "".join(chr(int(rng.integers(*pool))) for pool in lows)
    start = int(rng.integers(25))
    answer = text[start : start + int(rng.integers(1, 5))]
    passage, wanted = _tokens(text), _tokens(answer)
    found = bool(wanted) and any(
      passage[i : i + len(wanted)] == wanted for i in range(len(passage))
    )
    assert metrics.has_answer(text, [answer]) is found, (text, answer)


def test_regex_answers_are_searched_anywhere_in_the_passage() -> None:
  text = f"{COMPOSED} is 20,320 feet tall"
  assert metrics.has_answer(text, [r"20,?320\s?f(ee|oo)t"], "regex")
  assert metrics.has_answer(text, [f"{DECOMPOSED} IS"], "regex")
  assert not metrics.has_answer(text, [r"^20,320"], "regex")
  assert metrics.has_answer(text, [f"Beyonc\\{COMPOSED[-1]}"], "regex")
  assert metrics.has_answer("a\\é", [r"a\\é"], "regex")
  assert not metrics.has_answer(text, [r"20,?320\s?f(ee|oo)t"], "string")
  with pytest.raises(ValueError, match="'pattern' is unknown"):
    metrics.has_answer(text, ["x"], "pattern")


def test_every_curated_trec_pattern_compiles(shared_data: Path) -> None:
  path = shared_data / "curated_trec" / "large2470-train.tsv.gz"
  with gzip.open(path, "rt", encoding="utf-8") as file:
    patterns = [line.rstrip("\n").split("\t")[3] for line in file]
  assert len(patterns) == 1704
  for pattern in patterns:
    assert metrics.has_answer("zq", [pattern], "regex") is False


def test_a_passage_seen_again_is_not_tokenised_again() -> None:
  before = metrics._passage_line.cache_info()
  for answer in ("nothing", "else"):
    assert not metrics.has_answer("a passage seen in this test alone", [answer])
  after = metrics._passage_line.cache_info()
  assert after.misses - before.misses == 1
  assert after.hits - before.hits == 1
