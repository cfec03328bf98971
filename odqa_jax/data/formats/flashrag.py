"""FlashRAG's JSON lines: questions with `golden_answers`, and its corpora.

Checked against RUC-NLPIR/FlashRAG: `flashrag/dataset/dataset.py` (a question is
`{id, question, golden_answers, choices, metadata}`) and the corpora of its
README, `{id, contents}`. Everything there that shows a passage takes the first
line of `contents` for the title and the rest for the text; in the published
`wiki18_100w.jsonl` the title is in quotes, in corpora of others it is not.
"""

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats import fields
from odqa_jax.data.formats.joined import joined_corpus, joined_questions
from odqa_jax.data.questions.sets import Question
from odqa_jax.data.raw.formats import Format, has_keys
from odqa_jax.data.raw.records import RawFile, Record


def question(record: Record, n: int) -> Question:
  """id, question, golden_answers; of `metadata` what `odqa convert` wrote."""
  return Question(
    id=fields.identifier(record.get("id", n)),
    question=fields.text(record, "question"),
    answers=fields.answer_strings(
      record.get("golden_answers"), "'golden_answers'"
    ),
    **fields.own_fields(record),
  )


def passage(record: Record) -> Passage:
  """An id and contents; `title` and `text` count where a record has both."""
  name = fields.identifier(record.get("id"))
  if isinstance(record.get("title"), str) and "text" in record:
    return Passage(name, record["title"], fields.text(record, "text"))
  title, text = split_contents(fields.text(record, "contents"))
  return Passage(name, title, text)


def split_contents(contents: str) -> tuple[str, str]:
  """Title and text: the first line, without quotes around it, and the rest."""
  title, line_end, text = contents.partition("\n")
  if not line_end:
    return "", contents
  title = title.strip()
  if len(title) > 1 and title[0] == title[-1] == '"':
    title = title[1:-1]
  return title, text


QUESTIONS = Format(
  "flashrag",
  "FlashRAG's JSON lines of id, question and golden_answers",
  has_keys("question", "golden_answers"),
  questions=joined_questions(RawFile.records, question),
)
CORPUS = Format(
  "flashrag_corpus",
  "FlashRAG's JSON lines of id and contents; their first line is the title",
  has_keys("id", "contents"),
  passages=joined_corpus(passage),
)
