"""Datasets that TFDS has prepared, read without TensorFlow.

    read_tfds_questions("natural_questions_open:validation")
    read_tfds_passages("tfds:squad/v1.1:train")
    read_tfds_questions("tfds:converted/dev")     # a folder with dataset_info

The features of a record say how it is read: those of natural_questions_open,
of trivia_qa, of squad (and xquad, mlqa, which share them), of web_questions,
and of what `odqa convert --to tfds` writes. The order is that of the files,
which TFDS has shuffled; the ids of sets that have none are numbers in that
order.
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats.fields import content_id
from odqa_jax.data.questions.sets import FEATURES, Question, stored_question
from odqa_jax.data.raw.tfds_folder import INFO, read_dataset, splits_of
from odqa_jax.runtime.artifact import read_json
from odqa_jax.runtime.paths import expand_home

PREFIX = "tfds:"
# Usable without the prefix.
KNOWN = ("natural_questions_open", "trivia_qa", "squad")
_READ_AHEAD = 1024
# The folder of a version.
_NUMBERED = r"\d+\.\d+\.\d+"
# What TFDS writes where TriviaQA's test questions have no answer.
_UNKNOWN = "<unk>"

Record = dict[str, Any]


def _text(value: bytes) -> str:
  return value.decode()


def _texts(values: list[bytes]) -> tuple[str, ...]:
  """Each once, in order; without what is empty."""
  texts = (value.decode() for value in values)
  return tuple(dict.fromkeys(text for text in texts if text.strip()))


def _open_question(record: Record, n: int) -> Question:
  return Question(str(n), _text(record["question"]), _texts(record["answer"]))


def _trivia_question(record: Record, n: int) -> Question:
  del n
  answer = record["answer"]
  names = _texts([answer["value"], *answer["aliases"]])
  return Question(
    id=_text(record["question_id"]),
    question=_text(record["question"]),
    answers=tuple(name for name in names if name != _UNKNOWN),
  )


def _squad_question(record: Record, n: int) -> Question | None:
  """None for one that SQuAD 2.0 marks as impossible."""
  del n
  if record.get("is_impossible"):
    return None
  return Question(
    id=_text(record["id"]),
    question=_text(record["question"]),
    answers=_texts(record["answers"]["text"]),
    positive_ids=(_squad_passage(record).id,),
  )


def _squad_passage(record: Record) -> Passage:
  """TFDS keeps no numbers of paragraphs: the id is of the text."""
  text = _text(record["context"])
  title = _text(record["title"]).replace("_", " ")
  return Passage(content_id("squad", text), title, text)


def _web_question(record: Record, n: int) -> Question:
  return Question(str(n), _text(record["question"]), _texts(record["answers"]))


def _own_pair(record: Record, n: int) -> Question:
  """What was mined for a question is what its file names."""
  del n
  return Question(
    id=_text(record["id"]),
    question=_text(record["question"]),
    answers=_texts(record["answers"]),
    positive_ids=_texts(record["positives"]["id"]),
    negative_ids=_texts(record["negatives"]["id"]),
  )


def _own_question(record: Record, n: int) -> Question:
  del n
  return stored_question(record)


def _own_passage(record: Record) -> Passage:
  return Passage(*(_text(record[name]) for name in ("id", "title", "text")))


@dataclasses.dataclass(frozen=True)
class _Kind:
  """How records with certain features are read.

  Attributes:
    features: those that tell them.
    question: of a record and its number; None to leave it out.
    passage: of a record.
    once: whether records repeat passages, of which the first counts.
  """

  features: frozenset[str]
  question: Callable[[Record, int], Question | None] | None = None
  passage: Callable[[Record], Passage] | None = None
  once: bool = False


# In the order in which they are tried.
_KINDS = (
  _Kind(frozenset(FEATURES), _own_question),
  _Kind(frozenset({"id", "title", "text"}), passage=_own_passage),
  _Kind(
    frozenset({"id", "title", "context", "question", "answers"}),
    _squad_question,
    _squad_passage,
    once=True,
  ),
  _Kind(
    frozenset({"id", "question", "answers", "positives", "negatives"}),
    _own_pair,
  ),
  _Kind(frozenset({"url", "question", "answers"}), _web_question),
  _Kind(frozenset({"question_id", "question", "answer"}), _trivia_question),
  _Kind(frozenset({"question", "answer"}), _open_question),
)


def is_tfds(name: str | Path) -> bool:
  """Whether it names a dataset of TFDS: `tfds:…`, or one of `KNOWN`."""
  text = str(name)
  if text.startswith(PREFIX):
    return True
  known = text.partition(":")[0].partition("/")[0] in KNOWN
  return known and not Path(text).exists()


def set_name(name: str) -> str:
  """The name of a prepared set: `squad-v1.1-train` of `tfds:squad/v1.1:train`.

  Of a folder it is the last part, but for those that TFDS numbers.
  """
  dataset, split = _parts(name)
  if Path(dataset).is_dir():
    folder = Path(dataset).absolute()
    dataset = folder.name
    if re.fullmatch(_NUMBERED, dataset):
      # NAME/VERSION, or NAME/CONFIG/VERSION.
      configured = (folder.parents[1] / ".config").is_dir()
      dataset = "/".join(folder.parts[-3 if configured else -2 : -1])
  return "-".join(filter(None, (dataset.replace("/", "-"), split)))


def _parts(name: str) -> tuple[str, str]:
  """(dataset or folder, split or "")."""
  plain = expand_home(name.removeprefix(PREFIX))
  dataset, colon, split = plain.rpartition(":")
  # A colon before a slash belongs to a folder's name.
  return (dataset, split) if colon and "/" not in split else (plain, "")


def _data_dir() -> Path:
  default = Path.home() / "tensorflow_datasets"
  return Path(os.environ.get("TFDS_DATA_DIR") or default)


def _version(path: Path) -> tuple[int, ...]:
  parts = path.name.split(".")
  return tuple(int(p) if p.isdigit() else -1 for p in parts)


def _build_command(dataset: str) -> str:
  """What prepares NAME, NAME/CONFIG or NAME/CONFIG/VERSION."""
  name, *rest = dataset.strip("/").split("/")
  if rest and re.fullmatch(_NUMBERED, rest[-1]):
    name += f":{rest.pop()}"
  told = f" --config={rest[0]}" if rest else ""
  return f"tfds build {name}{told} --file_format=array_record"


def _default_configuration(dataset: Path) -> Path | None:
  """That which TFDS takes where none is named, as it has noted it."""
  noted = dataset / ".config" / "metadata.json"
  if not noted.is_file():
    return None
  name = read_json(noted).get("default_config_name")
  return dataset / name if isinstance(name, str) else None


def find_dataset(dataset: str) -> Path:
  """The newest version of a dataset that TFDS has prepared, or the folder.

  Without a configuration it is the default one, as for `tfds.load`.

  Args:
    dataset: NAME, NAME/CONFIG, NAME/CONFIG/VERSION, or a folder.

  Raises:
    ValueError: if there is none, with the command that prepares it; or if it
      was prepared in configurations of which none is named or the default.
  """
  if (Path(dataset) / INFO).is_file():
    return Path(dataset)
  root = _data_dir() / dataset
  versions = sorted(
    path.parent
    for depth in ("", "*/", "*/*/")
    for path in root.glob(depth + INFO)
  )
  if not versions:
    raise ValueError(
      f"{PREFIX}{dataset}: TFDS has not prepared it in {_data_dir()} "
      "(TFDS_DATA_DIR), and it is no folder with a dataset; prepare it with "
      f"`{_build_command(dataset)}`, which needs TensorFlow; reading does not."
    )
  configurations = {path.parent for path in versions}
  default = _default_configuration(root)
  if default in configurations:
    versions = [path for path in versions if path.parent == default]
  elif default or len(configurations) > 1:
    names = sorted(str(p.relative_to(_data_dir())) for p in configurations)
    raise ValueError(
      f"{PREFIX}{dataset}: prepared in configurations of which none is the "
      f"default; name one of {', '.join(names)}."
    )
  return max(versions, key=_version)


def _open(name: str, content: str) -> tuple[Any, _Kind]:
  """Records, and how they are read.

  Raises:
    ValueError: if they are not there, or hold no such content.
  """
  dataset, split = _parts(name)
  folder = find_dataset(dataset)
  splits = splits_of(folder)
  if not split and len(splits) != 1:
    raise ValueError(
      f"{name}: name one of its splits, such as {name}:{splits[0]}; there are "
      f"{', '.join(splits)}."
      if splits
      else f"{name}: {folder} has no splits; have TFDS prepare it again."
    )
  features = _feature_names(folder)
  kind = next((k for k in _KINDS if k.features <= features), None)
  if kind is None or getattr(kind, content) is None:
    raise ValueError(
      f"{name}: the features {sorted(features)} are those of no {content} that "
      "is known; export it as JSON lines and name their format."
    )
  return read_dataset(folder, split or splits[0]), kind


def _feature_names(folder: Path) -> frozenset[str]:
  path = folder / "features.json"
  try:
    content = json.loads(path.read_bytes())
    return frozenset(content["featuresDict"]["features"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path}: not readable as the features of a dataset ({error!r}); have "
      "TFDS prepare it again."
    ) from error


def check_tfds(name: str, content: str) -> None:
  """Raises ValueError unless questions (passages) can be read from it."""
  _open(name, content)


def _records(source: Any) -> Iterator[tuple[int, Record]]:
  for start in range(0, len(source), _READ_AHEAD):
    rows = range(start, min(start + _READ_AHEAD, len(source)))
    yield from zip(rows, source.__getitems__(list(rows)), strict=True)


def read_tfds_questions(name: str) -> Iterator[Question]:
  """Streams the questions; what is left out is said on stderr.

  That is a question that is marked as impossible, and one that stands there
  again: `rc` of TriviaQA has those of its web and its Wikipedia part.

  Raises:
    ValueError: if there are none, or two questions have one id.
  """
  source, kind = _open(name, "question")
  assert kind.question is not None
  seen: dict[str, str] = {}
  impossible = repeated = 0
  for n, record in _records(source):
    question = _at(name, n, kind.question, record, n)
    if question is None:
      impossible += 1
      continue
    if question.id not in seen:
      seen[question.id] = question.question
      yield question
    elif seen[question.id] == question.question:
      repeated += 1
    else:
      raise ValueError(
        f"{name}: record {n}: the id {question.id!r} is already that of "
        "another question; have TFDS prepare the dataset again."
      )
  told = {"marked as impossible": impossible, "that come again": repeated}
  for what, count in told.items():
    if count:
      print(f"{name}: {count} questions {what} are left out.", file=sys.stderr)


def _at(name: str, n: int, function: Callable[..., Any], *args: Any) -> Any:
  try:
    return function(*args)
  except ValueError as error:
    raise ValueError(f"{name}: record {n}: {error}") from error


def read_tfds_passages(name: str) -> Iterator[Passage]:
  """Streams the passages; the contexts of SQuAD each once.

  Raises:
    ValueError: if there are none.
  """
  source, kind = _open(name, "passage")
  assert kind.passage is not None
  seen: set[str] = set()
  for n, record in _records(source):
    passage = _at(name, n, kind.passage, record)
    if kind.once:
      if passage.id in seen:
        continue
      seen.add(passage.id)
    yield passage
