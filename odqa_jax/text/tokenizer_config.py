"""What the files beside a WordPiece vocabulary say of it.

`tokenizer_config.json` and `added_tokens.json` (transformers), and the
`do_lower_case` of sentence-transformers. Each key is honoured, or refused by
its name, or does not change the ids.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.text.tokenizer_files import parse_json, read_text

CONFIG = "tokenizer_config.json"
# Names of BertNormalizer's switches in tokenizer_config.json.
SWITCHES = {
  "do_lower_case": "lowercase",
  "strip_accents": "strip_accents",
  "tokenize_chinese_chars": "handle_chinese_chars",
}
_SPECIAL = ("pad", "unk", "cls", "sep", "mask")
# Values of other keys that leave the ids as they are.
_KNOWN: dict[str, tuple[Any, ...]] = {
  "do_basic_tokenize": (True,),
  "never_split": ([], None),
  "truncation_side": ("right", None),
} | {f"{name}_token": (f"[{name.upper()}]", None) for name in _SPECIAL}
# Classes whose rules a bare vocab.txt is read with.
_CLASSES = (
  "Bert",
  "DPRQuestionEncoder",
  "DPRContextEncoder",
  "DPRReader",
  "DistilBert",
  "Electra",
  "MobileBert",
  "RetriBert",
  "PreTrained",
)
# Under the names of the networks that sentence-transformers has known.
_LOWERED = "sentence_*_config.json"


def read_switches(folder: Path) -> dict[str, bool | None]:
  """The normaliser's switches that the folder's files set.

  sentence-transformers may lower the text before the tokenizer sees it. To a
  cased vocabulary that is the normaliser's `lowercase` alone: accents stay.

  Raises:
    ValueError: naming file and key, for a value that would give other ids.
  """
  path = folder / CONFIG
  config = parse_json(read_text(path), path) if path.is_file() else {}
  switches = {v: config[k] for k, v in SWITCHES.items() if k in config}
  for name, value in switches.items():
    if not isinstance(value, bool | None):
      raise ValueError(f"{path}: {name} is {value!r}; use true, false or null.")
  for key, values in _KNOWN.items():
    given = config.get(key, values[0])
    # Older files write a special token with its flags.
    given = given.get("content") if isinstance(given, dict) else given
    if given not in values:
      raise ValueError(
        f"{path}: {key}={given!r}, but only {values[0]!r} is read; choose a "
        "model with BERT's own tokenizer."
      )
  return switches


def lowered(
  folder: Path, switches: Mapping[str, bool | None]
) -> dict[str, bool | None]:
  """The switches, where sentence-transformers lowers the text before."""
  if switches.get("lowercase", True) or not _lowers_text(folder):
    return dict(switches)
  # None: as `lowercase` was for the tokenizer itself.
  accents = bool(switches.get("strip_accents"))
  return {**switches, "lowercase": True, "strip_accents": accents}


def _lowers_text(folder: Path) -> bool:
  """Whether sentence-transformers lowers the text before the tokenizer."""
  for path in sorted(folder.glob(_LOWERED)):
    if parse_json(read_text(path), path).get("do_lower_case"):
      return True
  return False


def check_class(folder: Path) -> None:
  """Refuses a vocab.txt that another class of tokenizer reads.

  Raises:
    ValueError: naming the class.
  """
  path = folder / CONFIG
  if not path.is_file():
    return
  name = parse_json(read_text(path), path).get("tokenizer_class")
  stem = str(name or "Bert").removesuffix("Fast").removesuffix("Tokenizer")
  if stem not in _CLASSES:
    raise ValueError(
      f"{path}: tokenizer_class={name!r}, but a vocab.txt is read as BERT's "
      "word pieces; choose a model with BERT's own tokenizer."
    )


def added_tokens(
  folder: Path, vocab: Mapping[str, int]
) -> Sequence[Mapping[str, Any]]:
  """Whole tokens beyond a vocab.txt, in the form of tokenizer.json.

  Raises:
    ValueError: an id is none.
  """
  found: dict[str, dict[str, Any]] = {}
  path = folder / "added_tokens.json"
  if path.is_file():
    entries = parse_json(read_text(path), path)
    found |= {token: {"id": number} for token, number in entries.items()}
  path = folder / CONFIG
  config = parse_json(read_text(path), path) if path.is_file() else {}
  for number, entry in (config.get("added_tokens_decoder") or {}).items():
    if not (number.isdecimal() and isinstance(entry, dict)):
      raise ValueError(f"{path}: added_tokens_decoder has no id {number!r}.")
    flags = {k: v for k, v in entry.items() if isinstance(v, bool)}
    found[str(entry.get("content"))] = {"id": int(number), **flags}
  for token, entry in found.items():
    if type(entry["id"]) is not int:
      raise ValueError(f"{path.parent}: the added token {token!r} has no id.")
  return [
    {"content": token, **entry}
    for token, entry in found.items()
    if token not in vocab
  ]
