"""A small T5 vocabulary: a few words, all ASCII characters, sentinels."""

from odqa_jax.text.sentencepiece import SentencePieceTokenizer


def vocabulary(sentinels: int = 100) -> list[tuple[str, float]]:
  pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
  pieces += [(w, -3.0) for w in ("▁the", "▁river", "▁castle", "question")]
  pieces += [(c, -5.0) for c in map(chr, range(33, 127))]
  extra = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(sentinels))]
  return pieces + extra


def make_tokenizer(sentinels: int = 100) -> SentencePieceTokenizer:
  pieces = vocabulary(sentinels)
  added = [
    {"id": i, "content": p, "special": True}
    for i, (p, _) in enumerate(pieces)
    if p.startswith("<") and len(p) > 1
  ]
  return SentencePieceTokenizer(pieces, unk_id=2, added_tokens=added)
