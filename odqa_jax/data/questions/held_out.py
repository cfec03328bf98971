"""Test sets, told by their names, and kept from deciding anything.

    choice = choose_on("data/questions/dev", "the fusion", "--choose-on-test")
    choice.name, choice.test

What is chosen on the questions that it is measured by looks better than it is.
Whatever chooses a number, a weight or a checkpoint by figures asks here first.
"""

import dataclasses
import re
from pathlib import Path

from odqa_jax.runtime.artifact import MANIFEST
from odqa_jax.runtime.files import Damage, read_json

# `test` as a word: nq-test.qa.csv, factbook:test, testset; but no contest.
_TEST = re.compile(r"(?<![a-z])test(set|s)?(?![a-z])", re.IGNORECASE)
# The official dev set of Natural Questions is the test set of open-domain
# papers ("Latent Retrieval for Weakly Supervised Open Domain Question
# Answering", Lee et al. 2019, Sec. 5); their dev set is cut from train.
_NQ_OPEN = re.compile(
  r"^(nq|natural[-_]?questions)[-_]?open[-_.:/]([^:]*:)?(dev|validation)\b",
  re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Choice:
  """The set that something was chosen on.

  Attributes:
    name: of the set.
    test: whether it is a test set, which somebody has allowed.
  """

  name: str
  test: bool

  def __str__(self) -> str:
    return f"{self.name} (a test set, as told)" if self.test else self.name


def set_names(source: str | Path) -> list[str]:
  """What a set is called: its file or folder, and what its manifest says.

  The folders above are not looked at, which say where a set lies and not what
  it is.
  """
  path = Path(source)
  packaged = ":" in str(source) and not path.exists()
  names = [str(source) if packaged else path.absolute().name]
  if (path / MANIFEST).is_file():
    try:
      names.append(str(read_json(path / MANIFEST).get("name", "")))
    except (Damage, AttributeError):
      pass  # Whoever reads the set says what is wrong with it.
  return names


def is_test_set(source: str | Path) -> bool:
  """Whether a set of questions is one that results are reported on.

  It is if a word of its name, or of that in its manifest, is `test`, or if it
  is NQ-open's dev set, by which papers report results.

  Args:
    source: a file, a prepared set, or NAME:SPLIT of a packaged one.
  """
  return any(
    _TEST.search(name) or _NQ_OPEN.match(name) for name in set_names(source)
  )


def choose_on(
  source: str | Path, chosen: str, override: str, *, allowed: bool = False
) -> Choice:
  """Refuses to choose anything on a test set, unless that is allowed.

  Args:
    source: the questions; see `is_test_set`.
    chosen: what is chosen by figures on them, in words.
    override: the flag or key that allows it.
    allowed: whether it is given.

  Raises:
    ValueError: naming the set, the rule and the override.
  """
  test = is_test_set(source)
  if test and not allowed:
    raise ValueError(
      f"{source}: is a test set by its name, and {chosen} would be chosen on "
      "it: what is chosen on the questions that it is measured by looks better "
      f"than it is. Name a dev set, or give {override}, which results then say."
    )
  return Choice(set_names(source)[0], test)
