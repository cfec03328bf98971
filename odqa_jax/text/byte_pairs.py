"""RoBERTa's byte-level pieces, from Hugging Face files.

    tokenizer = load_byte_pairs("roberta-base/")  # or a tokenizer.json
    tokenizer.encode("Who wrote Faust?")

The Rust library `tokenizers` does the work: a text is cut as GPT-2 cuts it, and
the bytes of every word are merged in the order of the learned merges. Whatever
file a vocabulary came from, it gets the same rules, and so the same
`fingerprint`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
  decoders,
  models,
  pre_tokenizers,
  processors,
)

from odqa_jax.text.pieces import PieceTokenizer
from odqa_jax.text.tokenizer import Tokenizer, load_tokenizer
from odqa_jax.text.tokenizer_config import CONFIG
from odqa_jax.text.tokenizer_files import (
  check_parts,
  parse_json,
  read_text,
  write_files,
)

# First and last of a text, and what an id is for.
CLS, SEP, PAD, UNK, MASK = "<s>", "</s>", "<pad>", "<unk>", "<mask>"
SPECIAL_TOKENS = (CLS, PAD, SEP, UNK, MASK)
# What would make a BPE model cut otherwise.
_RULES: dict[str, tuple[Any, ...]] = {
  "dropout": (None,),
  "continuing_subword_prefix": ("", None),
  "end_of_word_suffix": ("", None),
  "byte_fallback": (False, None),
  "ignore_merges": (False, None),
}

Merge = tuple[str, str]


class BytePairTokenizer(PieceTokenizer):
  """RoBERTa's pieces: text ↔ ids, without special tokens or truncation.

  A special token spelt out in a text becomes that token, as in Hugging Face.
  Case, accents and spaces are kept: the pieces of a word after a space differ
  from those of the word alone.

  Attributes:
    vocab_size: number of ids; every id is below it.
    pad_id: id of `<pad>`; likewise `unk_id`, `mask_id`.
    cls_id: id of `<s>`, which begins an input.
    sep_id: id of `</s>`, which ends a segment.
    pair_separator: the ids between the segments of a pair.
    cuts_at_spaces: False: the ids of a text are not those of its words.
    fingerprint: sha256 (hex) of the vocabulary and rules; the same whichever
      file format they were read from.
  """

  def __init__(
    self,
    vocab: Mapping[str, int],
    merges: Sequence[Merge],
    *,
    source: str = "the vocabulary",
    prefix_space: bool = False,
    added_tokens: Sequence[Mapping[str, Any]] = (),
  ):
    """Puts RoBERTa's rules around a vocabulary.

    Args:
      vocab: token → id; the ids are 0 … size-1.
      merges: pairs of pieces that are joined, the first pairs first.
      source: what to name in errors, usually a file.
      prefix_space: whether a text gets a space before its first word.
      added_tokens: whole tokens, in the form of tokenizer.json.

    Raises:
      ValueError: if a special token is missing, the ids have gaps, or a merge
        is of pieces that the vocabulary has not.
    """
    tokens = {entry["content"]: entry["id"] for entry in added_tokens}
    ids = sorted({**vocab, **tokens}.values())
    missing = [t for t in SPECIAL_TOKENS if t not in vocab and t not in tokens]
    if missing:
      raise ValueError(
        f"{source}: no {', '.join(missing)} in the vocabulary of {len(vocab)} "
        "tokens; that of a RoBERTa holds all of "
        f"{' '.join(SPECIAL_TOKENS)}; use another file."
      )
    if ids != list(range(len(ids))):
      raise ValueError(
        f"{source}: the ids of the {len(ids)} tokens are not 0 to "
        f"{len(ids) - 1}, each once; mend the vocabulary."
      )
    _check_merges(vocab, merges, source)
    self._vocab, self._merges = dict(vocab), list(merges)
    self._prefix_space = prefix_space
    self._backend = tokenizers.Tokenizer(models.BPE(self._vocab, self._merges))
    self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(prefix_space)
    self._backend.decoder = decoders.ByteLevel()
    self._add_tokens(added_tokens, source)
    of = self._backend.get_vocab()
    self.cls_id: int = of[CLS]
    self.sep_id: int = of[SEP]
    self.pad_id: int = of[PAD]
    self.unk_id: int = of[UNK]
    self.mask_id: int = of[MASK]
    self.pair_separator: tuple[int, ...] = (self.sep_id, self.sep_id)
    # It leaves the space before a word out of the word's offsets.
    self._backend.post_processor = processors.RobertaProcessing(
      (SEP, self.sep_id), (CLS, self.cls_id), True, prefix_space
    )
    self.vocab_size: int = self._backend.get_vocab_size()
    self.cuts_at_spaces: bool = False
    self.fingerprint: str = self._hash()

  def _hash(self) -> str:
    """Hashes what decides the ids, not how some library version writes it."""
    canonical = {
      "tokens": sorted(self._vocab, key=self._vocab.__getitem__),
      "merges": self._merges,
      "prefix_space": self._prefix_space,
      "added": json.loads(self._backend.to_str())["added_tokens"],
    }
    text = json.dumps(canonical, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def _add_tokens(
    self, added_tokens: Sequence[Mapping[str, Any]], source: str
  ) -> None:
    """Adds the five special tokens and the file's own, which keep their ids."""
    given = {entry["content"]: entry for entry in added_tokens}
    # Published files have the space before a mask be part of it.
    plain = {
      t: {"id": -1, "content": t, "special": True} for t in SPECIAL_TOKENS
    }
    plain[MASK]["lstrip"] = True
    entries = [given.pop(t, plain[t]) for t in SPECIAL_TOKENS]
    entries += given.values()
    for entry in sorted(entries, key=lambda e: e["id"]):
      flags = {k: v for k, v in entry.items() if k not in ("id", "content")}
      self._add(entry, source, **{"normalized": False, **flags})

  def save(self, directory: str | Path) -> None:
    """Writes tokenizer.json, vocab.json, merges.txt, tokenizer_config.json.

    `load_byte_pairs` and the `AutoTokenizer` of transformers read the folder.
    """
    names = {"bos": CLS, "cls": CLS, "eos": SEP, "sep": SEP}
    names |= {"pad": PAD, "unk": UNK, "mask": MASK}
    config = {
      "tokenizer_class": "RobertaTokenizer",
      "add_prefix_space": self._prefix_space,
      **{f"{name}_token": token for name, token in names.items()},
    }
    merges = "".join(f"{a} {b}\n" for a, b in self._merges)
    files = {
      "tokenizer.json": self._backend.to_str(pretty=True),
      "vocab.json": json.dumps(self._vocab, ensure_ascii=False),
      "merges.txt": f"#version: 0.2\n{merges}",
      CONFIG: json.dumps(config, indent=2) + "\n",
    }
    write_files(directory, files)


def load_byte_pairs(path: str | Path) -> BytePairTokenizer:
  """Reads a byte-level tokenizer.

  Args:
    path: a Hugging Face folder with a tokenizer.json, or with a vocab.json and
      a merges.txt; or the tokenizer.json.

  Raises:
    ValueError: if the path does not exist, holds no tokenizer, holds one of
      another kind, or lacks a special token.
  """
  path = Path(path)
  file = path / "tokenizer.json" if path.is_dir() else path
  if file.is_file():
    return _from_json(file)
  vocab, merges = path / "vocab.json", path / "merges.txt"
  if not (vocab.is_file() and merges.is_file()):
    raise ValueError(
      f"{path}: neither a tokenizer.json nor a vocab.json with its merges.txt; "
      "name the folder of a RoBERTa."
    )
  ids = parse_json(read_text(vocab), vocab)
  check_parts({"model": {"vocab": ids}}, vocab)
  config_file = path / CONFIG
  config = (
    parse_json(read_text(config_file), config_file)
    if config_file.is_file()
    else {}
  )
  return BytePairTokenizer(
    ids,
    _parse_merges(read_text(merges), merges),
    source=str(vocab),
    prefix_space=bool(config.get("add_prefix_space", False)),
  )


def load_pair_tokenizer(path: str | Path) -> Tokenizer | BytePairTokenizer:
  """Reads word pieces or byte-level pieces, as the folder has them.

  Raises:
    ValueError: as `load_tokenizer` or `load_byte_pairs`.
  """
  path = Path(path)
  return (
    load_byte_pairs(path) if _has_byte_pairs(path) else load_tokenizer(path)
  )


def _has_byte_pairs(path: Path) -> bool:
  file = path / "tokenizer.json" if path.is_dir() else path
  if file.suffix == ".json" and file.is_file():
    return _is_byte_level(parse_json(read_text(file), file))
  return (path / "merges.txt").is_file()


def _is_byte_level(parsed: Mapping[str, Any]) -> bool:
  cutter = parsed.get("pre_tokenizer")
  return isinstance(cutter, dict) and cutter.get("type") == "ByteLevel"


def _from_json(file: Path) -> BytePairTokenizer:
  """Takes vocabulary and rules only: truncation must not cut a corpus."""
  parsed = parse_json(read_text(file), file)
  model = parsed.get("model")
  if (
    not _is_byte_level(parsed)
    or not isinstance(model, dict)
    or not isinstance(model.get("vocab"), dict)
    or not isinstance(model.get("merges"), list)
    or parsed.get("normalizer")
  ):
    raise ValueError(
      f"{file}: not byte-level pieces with merges and without a normaliser; "
      "only RoBERTa's are read here; name the folder of a RoBERTa."
    )
  check_parts(parsed, file)
  for key, values in _RULES.items():
    if model.get(key, values[0]) not in values:
      raise ValueError(
        f"{file}: model.{key}={model[key]!r} cuts words in another way than "
        "RoBERTa; name the folder of a RoBERTa."
      )
  cutter = parsed["pre_tokenizer"]
  if not cutter.get("use_regex", True):
    raise ValueError(
      f"{file}: pre_tokenizer.use_regex=false cuts texts in another way than "
      "RoBERTa; name the folder of a RoBERTa."
    )
  return BytePairTokenizer(
    model["vocab"],
    _pairs(model["merges"], file),
    source=str(file),
    prefix_space=bool(cutter.get("add_prefix_space", False)),
    added_tokens=parsed.get("added_tokens") or (),
  )


def _parse_merges(text: str, file: Path) -> list[Merge]:
  lines = text.split("\n")
  if lines[0].startswith("#version"):
    lines = lines[1:]
  return _pairs([line for line in lines if line], file)


def _pairs(merges: Sequence[Any], file: Path) -> list[Merge]:
  """The merges of any version of the format.

  Raises:
    ValueError: for one that is no pair.
  """
  found: list[Merge] = []
  for merge in merges:
    # Byte-level pieces hold no space.
    parts = merge.split(" ") if isinstance(merge, str) else merge
    pair = [p for p in parts if isinstance(p, str) and p]
    if len(parts) != 2 or len(pair) != 2:
      raise ValueError(
        f"{file}: the merge {merge!r} is no pair of pieces; get the file again."
      )
    found.append((pair[0], pair[1]))
  return found


def _check_merges(
  vocab: Mapping[str, int], merges: Sequence[Merge], source: str
) -> None:
  """Refuses merges of another vocabulary, which `tokenizers` panics at.

  Raises:
    ValueError: naming the first.
  """
  for a, b in merges:
    unknown = [piece for piece in (a, b, a + b) if piece not in vocab]
    if unknown:
      raise ValueError(
        f"{source}: the merge of {a!r} and {b!r} needs {unknown[0]!r}, which "
        "the vocabulary has not; take both from one folder."
      )
