"""Supporting facts become positives, the other paragraphs negatives."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.questions.sets import Question
from tests.support.format_examples import (
  EXAMPLES,
  HOTPOTQA,
  MUSIQUE,
  json_lines,
)
from tests.support.reading import parquet, passages_of, questions_of, written

WANTED = Question(
  "5a8b57f25542995d1e6f1371",
  "Were Scott and Ed of the same nationality?",
  ("yes",),
  positive_ids=("Scott D#0", "Ed Wood#0"),
  negative_ids=("Tyler#0",),
)
PASSAGES = [
  Passage("Ed Wood#0", "Ed Wood", "Ed was American. He made films."),
  Passage("Tyler#0", "Tyler", "Tyler is a place."),
  Passage("Scott D#0", "Scott D", "Scott is American. So he is."),
]


def test_hotpot_facts_and_context(tmp_path: Path) -> None:
  path = written(tmp_path / "hotpot.json", EXAMPLES["hotpotqa"])
  assert questions_of(path) == [
    WANTED,
    Question("5a8b57f25542995d1e6f1372", "A question of the test set", ()),
  ]
  assert passages_of(path) == PASSAGES


def test_hotpot_of_hugging_face_has_dicts_of_lists(tmp_path: Path) -> None:
  one = HOTPOTQA[0]
  facts, context = one["supporting_facts"], one["context"]
  record: dict[str, Any] = {
    "id": one["_id"],
    "question": one["question"],
    "answer": one["answer"],
    "supporting_facts": {
      "title": [title for title, _ in facts],
      "sent_id": [sentence for _, sentence in facts],
    },
    "context": {
      "title": [title for title, _ in context],
      "sentences": [sentences for _, sentences in context],
    },
  }
  path = parquet(tmp_path / "hotpot.parquet", record)
  assert pq.read_table(path).to_pylist() == [record]
  assert questions_of(path) == [WANTED]
  assert passages_of(path) == PASSAGES


def test_gold_paragraphs_outside_the_context_are_named(tmp_path: Path) -> None:
  record = {**HOTPOTQA[0], "context": [["Tyler", ["Tyler is a place."]]]}
  path = written(tmp_path / "fullwiki.json", json.dumps([record]))
  assert questions_of(path) == [WANTED]


def test_sentences_without_a_space_between_get_one(tmp_path: Path) -> None:
  record = {
    **HOTPOTQA[0],
    "context": [["A", ["One.", "Two."]], ["B", []], ["A", ["One.", "Two."]]],
  }
  path = written(tmp_path / "2wiki.json", json.dumps([record]))
  assert passages_of(path) == [Passage("A#0", "A", "One. Two.")]


def test_one_title_with_two_texts_is_refused(tmp_path: Path) -> None:
  other = {**HOTPOTQA[0], "_id": "2", "context": [["Tyler", ["Another."]]]}
  path = written(tmp_path / "hotpot.json", json.dumps([*HOTPOTQA, other]))
  with pytest.raises(ValueError, match=r"\[2\]: .*'Tyler' has another.*\[0\]"):
    passages_of(path)


def test_half_a_character_names_its_place(tmp_path: Path) -> None:
  record = {**HOTPOTQA[0], "context": [["A", ["\ud800"]]]}
  path = written(tmp_path / "hotpot.json", json.dumps([record]))
  with pytest.raises(ValueError, match=r"hotpot.json:\[0\]: .*surrogate"):
    passages_of(path)


def test_musique_paragraphs_are_named_by_their_text(tmp_path: Path) -> None:
  twin = {**MUSIQUE[0], "answerable": False}
  path = written(tmp_path / "musique.jsonl", json_lines(*MUSIQUE, twin))
  first, second = questions_of(path)
  album, colour = passages_of(path)
  assert album.text == "Green is an album."
  assert album.id.startswith("Green#") and album.id != colour.id
  assert first == Question(
    "2hop__482757_12019",
    "Who performed Green?",
    ("Steve Hillage", "Hillage"),
    positive_ids=(album.id,),
    negative_ids=(colour.id,),
  )
  assert second == Question(
    "2hop__482757_12019-unanswerable", "Who performed Green?", ()
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"supporting_facts": [["Ed"]]}, "'supporting_facts' is .*list of pairs"),
    ({"supporting_facts": "Ed"}, "'supporting_facts' is 'Ed'"),
    ({"context": {"title": ["a"], "sentences": []}}, "'context' has not as"),
    ({"answer": ["yes"]}, "'answer' is .*not a string"),
  ],
)
def test_bad_questions_name_their_place(
  tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
  path = written(
    tmp_path / "hotpot.json", json.dumps([{**HOTPOTQA[0], **changes}])
  )
  with pytest.raises(ValueError, match=rf"hotpot.json:\[0\]: {message}"):
    questions_of(path)
