"""How an export is loaded, and what to know of its inputs, by format."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from odqa_jax.serving.export.parts import Part
from odqa_jax.text.byte_pairs import SEP, BytePairTokenizer
from odqa_jax.text.pairs import TEXT_MARKER, PairVocabulary
from odqa_jax.text.reader_vocabulary import WordPieceVocabulary

_QUESTION = "where is the lowest point of Aruba?"


class Shown(NamedTuple):
  """What stands in an example.

  Attributes:
    name: of the folder.
    pair: whether the encoders lie in `question/` and `passage/`.
    passage: a passage as text, put together as in training.
    reading: what a generative reader's tokenizer is given.
  """

  name: str
  pair: bool
  passage: str
  reading: str


def usage_section(to: str, name: str, folder: Path, part: Part) -> str:
  """The section "How to load": code for the library, and for odqa_jax.

  Args:
    to: of `FORMATS`.
    name: what the folder will be called.
    folder: as it was written.
    part: what is in it.
  """
  pair = (folder / "question").is_dir()
  shown = Shown(name, pair, _passage(part), _reading(part))
  code, command = _EXAMPLES[to](shown)
  lines = ["## How to load", ""]
  if code:
    lines += ["```python", *code, "```", ""]
  return "\n".join([*lines, "With odqa_jax:", "", "```bash", command, "```"])


def _passage(part: Part) -> str:
  if not part.reading.get("title"):
    return "text of the passage"
  # Of byte-level pieces a space belongs to the word behind it.
  bytes_ = isinstance(part.tokenizer, BytePairTokenizer)
  return f"title{SEP if bytes_ else ' [SEP] '}text of the passage"


def _reading(part: Part) -> str:
  passage = _passage(part)
  if isinstance(part.tokenizer, WordPieceVocabulary):
    return f'"{_QUESTION}", "{passage}"'
  title = "title: title " if part.reading.get("title") else ""
  return f'"question: {_QUESTION} {title}context: text of the passage"'


def _sentences(shown: Shown) -> tuple[list[str], str]:
  inner = ("/question", "/passage") if shown.pair else ("", "")
  other = f'SentenceTransformer("{shown.name}{inner[1]}")'
  code = [
    "from sentence_transformers import SentenceTransformer",
    "",
    f'questions = SentenceTransformer("{shown.name}{inner[0]}")',
    f"passages = {other if shown.pair else 'questions'}",
    f'asked = questions.encode(["{_QUESTION}"])',
    f'found = passages.encode(["{shown.passage}"])',
    "scores = asked @ found.T",
  ]
  return code, _index(shown)


def _dpr(shown: Shown) -> tuple[list[str], str]:
  name = shown.name
  code = [
    "from transformers import (",
    "  AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder",
    ")",
    "",
    f'tokenizer = AutoTokenizer.from_pretrained("{name}/question")',
    f'questions = DPRQuestionEncoder.from_pretrained("{name}/question")',
    f'passages = DPRContextEncoder.from_pretrained("{name}/passage")',
    f'asked = tokenizer(["{_QUESTION}"], return_tensors="pt")',
    f'found = tokenizer(["{shown.passage}"], return_tensors="pt")',
    "asked = questions(**asked).pooler_output",
    "scores = asked @ passages(**found).pooler_output.T",
  ]
  return code, _index(shown)


def _index(shown: Shown) -> str:
  return (
    f"odqa prepare --corpus passages.tsv --tokenizer {shown.name} --out data\n"
    f"odqa index --checkpoint {shown.name} --corpus data --out index"
  )


def _t5(shown: Shown) -> tuple[list[str], str]:
  code = [
    "from transformers import AutoTokenizer, T5ForConditionalGeneration",
    "",
    f'tokenizer = AutoTokenizer.from_pretrained("{shown.name}")',
    f'reader = T5ForConditionalGeneration.from_pretrained("{shown.name}")',
    f'inputs = tokenizer({shown.reading}, return_tensors="pt")',
    "answer = reader.generate(**inputs, max_new_tokens=32)[0]",
    "print(tokenizer.decode(answer, skip_special_tokens=True))",
  ]
  command = (
    "odqa train --config configs/fid.py --workdir work/fid "
    f"--config.reader.init_from={shown.name} --config.reader.preset=init"
  )
  return code, command


def _cross_encoder(shown: Shown) -> tuple[list[str], str]:
  code = [
    "from sentence_transformers import CrossEncoder",
    "",
    f'reranker = CrossEncoder("{shown.name}")',
    f'question = "{_QUESTION}"',
    f'scores = reranker.predict([(question, "{shown.passage}")])',
  ]
  command = (
    f"odqa rerank --checkpoint {shown.name} --run run.trec --questions "
    "dev.jsonl --corpus data --out reranked.trec"
  )
  return code, command


def _classifier(shown: Shown) -> tuple[list[str], str]:
  kind = "AutoModelForSequenceClassification"
  code = [
    f"from transformers import {kind}, AutoTokenizer",
    "",
    f'tokenizer = AutoTokenizer.from_pretrained("{shown.name}")',
    f'model = {kind}.from_pretrained("{shown.name}")',
    f'inputs = tokenizer(["{shown.passage}"], return_tensors="pt")',
    "irrelevance = model(**inputs).logits[:, 0]",
  ]
  command = (
    f"odqa prune --checkpoint {shown.name} --corpus data --keep 1000000 "
    "--out pruned"
  )
  return code, command


def _spans(shown: Shown) -> tuple[list[str], str]:
  code = [
    "from transformers import AutoModelForQuestionAnswering, AutoTokenizer",
    "",
    f'tokenizer = AutoTokenizer.from_pretrained("{shown.name}")',
    f'reader = AutoModelForQuestionAnswering.from_pretrained("{shown.name}")',
  ]
  return code, _ours(shown)[1]


def _ours(shown: Shown) -> tuple[list[str], str]:
  command = (
    f"odqa answer --checkpoint {shown.name} --retriever minilm --index index "
    f'--corpus data --question "{_QUESTION}"'
  )
  return [], command


_EXAMPLES: dict[str, Callable[[Shown], tuple[list[str], str]]] = {
  "sentence-transformers": _sentences,
  "dpr": _dpr,
  "t5": _t5,
  "cross-encoder": _cross_encoder,
  "text-classification": _classifier,
  "question-answering": _spans,
  "odqa": _ours,
}


def input_lines(part: Part) -> list[str]:
  """What the inputs must look like to give what was trained."""
  reading = part.reading
  if part.role == "reader":
    return _reader_inputs(part, reading)
  lines = []
  if part.role in ("retriever", "passage_classifier"):
    lines.append(f"Passages are read to {reading['passage_length']} tokens.")
  else:
    order = (
      "the text of the passage first, then the question and the title"
      if reading.get("passage_first")
      else "the question first"
    )
    lines.append(f"Pairs are read to {reading['pair_length']} tokens, {order}.")
  if part.role != "passage_classifier":
    lines.append(
      f"Questions were cut to {reading['question_length']} tokens in training."
    )
  if part.role == "retriever":
    lines.append(
      "transformers may report that a pooler is missing; nothing uses one."
    )
  if not reading.get("title"):
    return [*lines, "Titles are not read."]
  lines.append("Titles are read, with a separator between them and the text.")
  pieces = part.tokenizer
  if (
    part.role == "reranker"
    and isinstance(pieces, BytePairTokenizer)
    and PairVocabulary(pieces).title_marker
  ):
    lines.append(
      f"The separator is the unused token {TEXT_MARKER}, which no text "
      "becomes: in the library, put the ids together by hand."
    )
  return lines


def _reader_inputs(part: Part, reading: Mapping[str, Any]) -> list[str]:
  if not reading:
    return ["How its inputs were made: not stated."]
  words = isinstance(part.tokenizer, WordPieceVocabulary)
  named = ["question", *(["title"] if reading["title"] else []), "text"]
  made = (
    f"`[CLS] {' [SEP] '.join(named)} [SEP]`"
    if words
    else "`question: … "
    + ("title: … " if reading["title"] else "")
    + "context: … </s>`"
  )
  lines = [
    f"An input is {made}, of {reading['input_length']} tokens at most; it read "
    f"{reading['k']} passages, and wrote {reading['answer_length']} tokens at "
    "most.",
  ]
  if reading["fusion"] == "decoder":
    lines.append(
      "The decoder attends to all passages at once (Fusion-in-Decoder): encode "
      "each input alone, join the states along their length, and give them to "
      "`generate(encoder_outputs=…, attention_mask=…)`."
    )
  else:
    lines.append(
      "Each passage is read alone, and answers are weighed by the scores of "
      "the retriever that was trained with it, which is not in this folder."
    )
  if reading["bias"] != "none":
    lines.append(
      "In training, the scores of the retriever were added to the attention "
      "of the decoder; transformers does not do this, so that answers differ."
    )
  return lines
