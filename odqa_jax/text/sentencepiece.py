"""SentencePiece tokens of a published T5, from its tokenizer.json.

    tokenizer = load_sentencepiece("t5-base/")
    build_corpus(sources, "reader_corpus", tokenizer)  # the second store

The Rust library `tokenizers` does the work. Whatever version of transformers
wrote the file, its pieces get the same rules, those of SentencePiece with T5's
settings: normalise, then cut at whitespace, then split each word by itself.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from odqa_jax.text.pieces import PieceTokenizer
from odqa_jax.text.tokenizer import Tokenizer, load_tokenizer
from odqa_jax.text.tokenizer_files import (
  check_parts,
  cuts_at_spaces,
  parse_json,
  read_text,
  write_files,
)

PAD, EOS = "<pad>", "</s>"
_SPACE = "\u2581"
# What a file may say before and after its character map; the rules that are
# given to every vocabulary do the same.
_NORMALISERS = frozenset(("Precompiled", "Strip", "Replace"))
_PRE_TOKENIZERS = frozenset(("WhitespaceSplit", "Metaspace"))


class SentencePieceTokenizer(PieceTokenizer):
  """T5's Unigram pieces: text ↔ ids, without special tokens or truncation.

  A special token spelt out in a text becomes that token, as in Hugging Face.

  Attributes:
    vocab_size: number of ids; every id is below it.
    pad_id: id of `<pad>`.
    eos_id: id of `</s>`.
    sentinel_ids: ids of `<extra_id_0>`, `<extra_id_1>`, … as far as the
      vocabulary has them.
    cuts_at_spaces: whether the ids of a text are those of its words.
    fingerprint: sha256 (hex) of the vocabulary and rules; the same whichever
      version of the file format they were read from.
  """

  def __init__(
    self,
    pieces: Sequence[tuple[str, float]],
    *,
    unk_id: int,
    charsmap: bytes = b"",
    added_tokens: Sequence[Mapping[str, Any]] = (),
    source: str = "the vocabulary",
  ):
    """Puts T5's rules around a Unigram vocabulary.

    Args:
      pieces: piece and log-probability, in the order of their ids.
      unk_id: id of what has no piece.
      charsmap: SentencePiece's compiled normalisation.
      added_tokens: whole tokens, in the form of tokenizer.json.
      source: what to name in errors, usually a file.

    Raises:
      ValueError: if `<pad>` or `</s>` is missing, or an added token has
        another id than the vocabulary gives it.
    """
    self._backend = tokenizers.Tokenizer(
      models.Unigram([(p, float(score)) for p, score in pieces], unk_id)
    )
    rules: list[Any] = [normalizers.Precompiled(charsmap)] if charsmap else []
    self._backend.normalizer = normalizers.Sequence(rules)
    self._backend.pre_tokenizer = pre_tokenizers.Sequence(
      [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(_SPACE)]
    )
    self._backend.decoder = decoders.Metaspace(_SPACE)
    self._add_tokens(added_tokens, source)
    ids = self._backend.get_vocab()
    missing = [token for token in (PAD, EOS) if token not in ids]
    if missing:
      raise ValueError(
        f"{source}: no {', '.join(missing)} in the vocabulary of "
        f"{len(pieces)} pieces; a T5 vocabulary holds both; use another file."
      )
    self.pad_id: int = ids[PAD]
    self.eos_id: int = ids[EOS]
    self._backend.post_processor = processors.TemplateProcessing(
      single=f"$A {EOS}",
      pair=f"$A {EOS} $B {EOS}",
      special_tokens=[(EOS, self.eos_id)],
    )
    self.vocab_size: int = self._backend.get_vocab_size()
    self.cuts_at_spaces: bool = cuts_at_spaces(self._backend)
    self.sentinel_ids: tuple[int, ...] = self._sentinels()
    canonical = {
      "pieces": [[p, float(score)] for p, score in pieces],
      "unk_id": unk_id,
      "charsmap": hashlib.sha256(charsmap).hexdigest(),
      "added": sorted((e["id"], e["content"]) for e in added_tokens),
    }
    self.fingerprint: str = hashlib.sha256(
      json.dumps(canonical, sort_keys=True).encode()
    ).hexdigest()

  def _add_tokens(
    self, added_tokens: Sequence[Mapping[str, Any]], source: str
  ) -> None:
    for entry in sorted(added_tokens, key=lambda e: e["id"]):
      special = entry.get("special", True)
      self._add(entry, source, special=special, normalized=False)

  def _sentinels(self) -> tuple[int, ...]:
    sentinels: list[int] = []
    while True:
      token = f"<extra_id_{len(sentinels)}>"
      i = self._backend.token_to_id(token)
      if i is None:
        return tuple(sentinels)
      sentinels.append(i)

  def save(self, directory: str | Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    `load_sentencepiece` and the `AutoTokenizer` of transformers read the
    folder.
    """
    config = {
      "tokenizer_class": "T5Tokenizer",
      "extra_ids": len(self.sentinel_ids),
      "pad_token": PAD,
      "eos_token": EOS,
      "unk_token": "<unk>",
    }
    files = {
      "tokenizer.json": self._backend.to_str(pretty=True),
      "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }
    write_files(directory, files)


AnyTokenizer = Tokenizer | SentencePieceTokenizer


def load_sentencepiece(path: str | Path) -> SentencePieceTokenizer:
  """Reads the tokenizer of a T5.

  Args:
    path: a Hugging Face folder with a `tokenizer.json`, or that file.

  Raises:
    ValueError: if the path does not exist, holds only SentencePiece's own
      format, or a tokenizer of another kind than T5's.
  """
  path = Path(path)
  file = path / "tokenizer.json" if path.is_dir() else path
  if file.suffix == ".model" or (
    not file.is_file() and any(path.glob("*.model"))
  ):
    raise ValueError(
      f"{path}: SentencePiece's own format is not read; convert it once: "
      "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) of "
      "transformers writes tokenizer.json."
    )
  if not file.is_file():
    raise ValueError(
      f"{file}: no such file; name a Hugging Face folder of a T5 or a "
      "tokenizer.json on this machine."
    )
  parsed = parse_json(read_text(file), file)
  _check_kind(parsed, file)
  check_parts(parsed, file)
  model = parsed["model"]
  charsmaps = [
    base64.b64decode(part["precompiled_charsmap"])
    for part in _parts(parsed, "normalizer", "normalizers")
    if part["type"] == "Precompiled" and part["precompiled_charsmap"]
  ]
  return SentencePieceTokenizer(
    [(piece, score) for piece, score in model["vocab"]],
    unk_id=model.get("unk_id", 0),
    charsmap=charsmaps[0] if charsmaps else b"",
    added_tokens=parsed.get("added_tokens") or (),
    source=str(file),
  )


def load_any_tokenizer(path: str | Path) -> AnyTokenizer:
  """Reads BERT's word pieces or T5's SentencePieces, as the folder has them.

  Raises:
    ValueError: as `load_tokenizer` or `load_sentencepiece`.
  """
  path = Path(path)
  file = path / "tokenizer.json" if path.is_dir() else path
  if file.suffix == ".model":
    return load_sentencepiece(file)
  if file.suffix == ".json" and file.is_file():
    if _is_unigram(parse_json(read_text(file), file)):
      return load_sentencepiece(file)
  elif path.is_dir() and not (path / "vocab.txt").is_file():
    if any(path.glob("*.model")):
      return load_sentencepiece(path)
  return load_tokenizer(path)


def _is_unigram(parsed: Mapping[str, Any]) -> bool:
  model = parsed.get("model")
  # Files from before 2021 leave out the model's type.
  return isinstance(model, dict) and (
    model.get("type") == "Unigram" or isinstance(model.get("vocab"), list)
  )


def _parts(
  parsed: Mapping[str, Any], key: str, inner: str
) -> list[dict[str, Any]]:
  """The steps of a normaliser or pre-tokenizer, one or a sequence."""
  part = parsed.get(key)
  if not part:
    return []
  return part[inner] if part["type"] == "Sequence" else [part]


def _check_kind(parsed: Mapping[str, Any], file: Path) -> None:
  """Raises ValueError unless the file is a T5's."""
  if not _is_unigram(parsed) or parsed["model"].get("byte_fallback"):
    raise ValueError(
      f"{file}: its model is not Unigram without byte fallback; only T5's "
      "SentencePieces are read here; name the folder of a T5."
    )
  for key, inner, known in (
    ("normalizer", "normalizers", _NORMALISERS),
    ("pre_tokenizer", "pretokenizers", _PRE_TOKENIZERS),
  ):
    kinds = {part["type"] for part in _parts(parsed, key, inner)}
    if kinds - known:
      raise ValueError(
        f"{file}: its {key} has {', '.join(sorted(kinds - known))}, which "
        f"T5's have not (they have {', '.join(sorted(known))}); name the "
        "folder of a T5."
      )
