"""How an extractive reader that ranks passages chooses its answer, tuned.

    scoring = load_scoring("scoring.json")
    reader = with_rank_weight(reader, scoring.rank_weight)

"Designing a Minimal Retrieve-and-Read System for Open-Domain Question
Answering" (Yang and Seo 2021), A.3: a span's score is
(1 − λ)(log P_start + log P_end) + 2λ log P_rank, where starts and ends are
normalised over the tokens of a passage and ranks over the passages that are
read. Without λ it is DPR's rule: the best span of the passage ranked first.
"""

import dataclasses
from pathlib import Path
from typing import Any

from odqa_jax.runtime.files import Damage, content_hash, read_json, write_json

KIND = "scoring"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class AnswerScoring:
  """What was chosen on a dev set.

  Attributes:
    rank_weight: λ; None: DPR's rule.
    read_k: passages that are read.
    em: with both, on these questions.
    em_of_rule: the best of DPR's rule there, at any number of passages.
    questions: how many they were.
    reader: the version of the extractive reader.
    chosen_on: the set of these questions; "" where that was not kept.
  """

  rank_weight: float | None
  read_k: int
  em: float
  em_of_rule: float
  questions: int
  reader: str
  chosen_on: str = ""


def check_rank_weight(weight: float | None) -> None:
  """Raises ValueError unless λ is a share."""
  if weight is not None and not 0 <= weight <= 1:
    raise ValueError(f"--rank-weight {weight}: a share, 0 to 1.")


def save_scoring(path: str | Path, scoring: AnswerScoring) -> None:
  """Writes it with its checksum."""
  content = {"kind": KIND, "format": _FORMAT, **dataclasses.asdict(scoring)}
  write_json(Path(path), content | {"sha256": content_hash(content)})


def load_scoring(path: str | Path, reader: str | None = None) -> AnswerScoring:
  """Reads what `save_scoring` has written.

  Args:
    path: the file.
    reader: the version of the extractive reader; None: not compared.

  Raises:
    ValueError: if it is none, is damaged, or was tuned for another reader.
  """
  content: dict[str, Any] = read_json(Path(path))
  again = "tune it again with `odqa evaluate --tune-scoring FILE`."
  if (content.get("kind"), content.get("format")) != (KIND, _FORMAT):
    raise ValueError(f"{path}: is no scoring of this version; {again}")
  if content.pop("sha256", None) != content_hash(content):
    raise Damage(f"{path}: does not match its checksum; {again}")
  names = [field.name for field in dataclasses.fields(AnswerScoring)]
  scoring = AnswerScoring(**{n: content[n] for n in names if n in content})
  check_rank_weight(scoring.rank_weight)
  if reader is not None and scoring.reader != reader:
    raise ValueError(
      f"{path}: was tuned for another extractive reader "
      f"({scoring.reader[:12]}) than this one ({reader[:12]}); {again}"
    )
  return scoring
