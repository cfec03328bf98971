"""WordPiece tokens, from Hugging Face files or trained here.

    tokenizer = load_tokenizer("bert-base-uncased/")  # or a .json, or vocab.txt
    tokenizer.encode("Who wrote Faust?")

The Rust library `tokenizers` does the work. Whatever file a vocabulary came
from, it gets the same rules, and so the same `fingerprint`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from odqa_jax.text.pieces import PieceTokenizer
from odqa_jax.text.tokenizer_config import (
  SWITCHES,
  added_tokens,
  check_class,
  lowered,
  read_switches,
)
from odqa_jax.text.tokenizer_files import (
  check_parts,
  cuts_at_spaces,
  parse_json,
  read_text,
  write_files,
)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

NORMALISER: dict[str, Any] = {
  "clean_text": True,
  "handle_chinese_chars": True,
  "strip_accents": None,
  "lowercase": True,
}
_PARTS = {
  "model": "WordPiece",
  "normalizer": "BertNormalizer",
  "pre_tokenizer": "BertPreTokenizer",
}


class Tokenizer(PieceTokenizer):
  """BERT WordPiece: text ↔ ids, without special tokens or truncation.

  A special token spelt out in a text becomes that token, as in Hugging Face.

  Attributes:
    vocab_size: number of ids; every id is below it.
    pad_id: id of `[PAD]`; likewise `unk_id`, `cls_id`, `sep_id`, `mask_id`.
    pair_separator: the ids between the segments of a pair.
    cuts_at_spaces: whether the ids of a text are those of its words.
    fingerprint: sha256 (hex) of the vocabulary and rules; the same whichever
      file format they were read from.
  """

  def __init__(
    self,
    vocab: Mapping[str, int],
    *,
    source: str = "the vocabulary",
    normaliser: Mapping[str, bool | None] | None = None,
    max_word: int = 100,
    added_tokens: Sequence[Mapping[str, Any]] = (),
  ):
    """Puts BERT's rules around a vocabulary.

    Args:
      vocab: token → id; the ids are 0 … size-1.
      source: what to name in errors, usually a file.
      normaliser: switches of `tokenizers.normalizers.BertNormalizer` that
        differ from the uncased model's.
      max_word: longer words (in characters) become `[UNK]`.
      added_tokens: further whole tokens, in the form of tokenizer.json.

    Raises:
      ValueError: if a special token is missing or the ids have gaps.
    """
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
      raise ValueError(
        f"{source}: no {', '.join(missing)} in the vocabulary of {len(vocab)} "
        "tokens; a BERT vocabulary holds all of "
        f"{' '.join(SPECIAL_TOKENS)}; use another file."
      )
    if sorted(vocab.values()) != list(range(len(vocab))):
      raise ValueError(
        f"{source}: the ids of the {len(vocab)} tokens are not 0 to "
        f"{len(vocab) - 1}, each once; mend the vocabulary."
      )
    self._vocab = dict(vocab)
    self._switches = {**NORMALISER, **(normaliser or {})}
    self._backend = tokenizers.Tokenizer(
      models.WordPiece(
        self._vocab,
        unk_token="[UNK]",
        max_input_chars_per_word=max_word,
        continuing_subword_prefix="##",
      )
    )
    self._backend.normalizer = normalizers.BertNormalizer(**self._switches)
    self._backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    self._backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    self._add_tokens(added_tokens, source)
    self.pad_id: int = vocab["[PAD]"]
    self.unk_id: int = vocab["[UNK]"]
    self.cls_id: int = vocab["[CLS]"]
    self.sep_id: int = vocab["[SEP]"]
    self.mask_id: int = vocab["[MASK]"]
    self.pair_separator: tuple[int, ...] = (self.sep_id,)
    self._backend.post_processor = processors.TemplateProcessing(
      single="[CLS]:0 $A:0 [SEP]:0",
      pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
      special_tokens=[("[CLS]", self.cls_id), ("[SEP]", self.sep_id)],
    )
    self.vocab_size: int = self._backend.get_vocab_size()
    self.cuts_at_spaces: bool = cuts_at_spaces(self._backend)
    self.fingerprint: str = self._hash(max_word)

  def _tokens(self) -> list[str]:
    return sorted(self._vocab, key=self._vocab.__getitem__)

  def _hash(self, max_word: int) -> str:
    """Hashes what decides the ids, not how some library version writes it."""
    switches = dict(self._switches)
    if switches["strip_accents"] is None:
      switches["strip_accents"] = switches["lowercase"]
    added = json.loads(self._backend.to_str())["added_tokens"]
    switches.update(tokens=self._tokens(), max_word=max_word, added=added)
    canonical = json.dumps(switches, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()

  def _add_tokens(
    self, added_tokens: Sequence[Mapping[str, Any]], source: str
  ) -> None:
    """Adds the five special tokens and the file's own, which keep their ids."""
    self._backend.add_special_tokens(
      [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    )
    for entry in sorted(added_tokens, key=lambda e: e["id"]):
      flags = {k: v for k, v in entry.items() if k not in ("id", "content")}
      self._add(entry, source, **flags)

  def save(self, directory: str | Path) -> None:
    """Writes tokenizer.json, vocab.txt and tokenizer_config.json.

    `load_tokenizer` and the `AutoTokenizer` of transformers read the folder.
    """
    config: dict[str, Any] = {"tokenizer_class": "BertTokenizer"}
    config |= {n: self._switches[k] for n, k in SWITCHES.items()}
    config |= {f"{t[1:-1].lower()}_token": t for t in SPECIAL_TOKENS}
    files = {
      "tokenizer.json": self._backend.to_str(pretty=True),
      "vocab.txt": "".join(f"{token}\n" for token in self._tokens()),
      "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }
    write_files(directory, files)


def load_tokenizer(path: str | Path) -> Tokenizer:
  """Reads a BERT WordPiece tokenizer.

  Args:
    path: a Hugging Face folder, a `tokenizer.json`, or a `vocab.txt` (one
      token a line; uncased unless a tokenizer_config.json beside it says
      `do_lower_case: false`).

  Raises:
    ValueError: if the path does not exist, holds no tokenizer, holds one of
      another kind than BERT WordPiece, or lacks a special token.
  """
  path = Path(path)
  file = path
  if path.is_dir():
    file = path / "tokenizer.json"
    if not file.is_file():
      file = path / "vocab.txt"
    if not file.is_file():
      raise ValueError(
        f"{path}: neither tokenizer.json nor vocab.txt in this folder; name "
        "a folder or file with a BERT WordPiece vocabulary."
      )
  elif not path.is_file():
    raise ValueError(
      f"{path}: no such file or folder; name a Hugging Face folder, a "
      "tokenizer.json or a vocab.txt on this machine."
    )
  text = read_text(file)
  switches = read_switches(file.parent)
  if file.suffix == ".json":
    return _from_json(text, file, switches)
  check_class(file.parent)
  vocab = _parse_vocab(text, file)
  return Tokenizer(
    vocab,
    source=str(file),
    normaliser=lowered(file.parent, switches),
    added_tokens=added_tokens(file.parent, vocab),
  )


def _parse_vocab(text: str, file: Path) -> dict[str, int]:
  # Not splitlines(): some vocabularies hold U+2028 and its like as tokens.
  lines = [line.removesuffix("\r") for line in text.split("\n")]
  if lines[-1] == "":
    lines.pop()
  vocab: dict[str, int] = {}
  for i, token in enumerate(lines):
    if token in vocab:
      raise ValueError(
        f"{file}:{i + 1}: {token!r} stands already at line "
        f"{vocab[token] + 1}; a token may occur once; remove one of them."
      )
    vocab[token] = i
  return vocab


def _from_json(
  text: str, file: Path, switches: Mapping[str, bool | None]
) -> Tokenizer:
  """Takes vocabulary and rules only: truncation must not cut a corpus."""
  parsed = parse_json(text, file)
  for key, wanted in _PARTS.items():
    part = parsed.get(key)
    kind = part.get("type") if isinstance(part, dict) else None
    # Files from before 2021 leave out the model's type.
    if key == "model" and isinstance(part, dict) and "vocab" in part:
      kind = kind or ("BPE" if "merges" in part else "WordPiece")
    if kind != wanted:
      raise ValueError(
        f"{file}: its {key} is {kind}; only BERT WordPiece tokenizers "
        f"({wanted}) are read; name a BERT folder."
      )
  check_parts(parsed, file)
  model = parsed["model"]
  prefix = model.get("continuing_subword_prefix", "##")
  if prefix != "##":
    raise ValueError(
      f"{file}: continuing_subword_prefix={prefix!r}, but BERT's word pieces "
      "go on with '##'; name a BERT folder."
    )
  rules = {k: v for k, v in parsed["normalizer"].items() if k != "type"}
  return Tokenizer(
    model["vocab"],
    source=str(file),
    normaliser=lowered(file.parent, {**rules, **switches}),
    max_word=model.get("max_input_chars_per_word", 100),
    added_tokens=parsed.get("added_tokens") or (),
  )
