"""Question formats, their detection, and errors that name the place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from odqa_jax.data.corpus.passages import Passage, PassageFile
from odqa_jax.data.formats.files import (
  FORMATS,
  choose_format,
  open_questions,
  read_questions,
)
from odqa_jax.data.questions.sets import Question

# File below the development data -> (format, rows its README states).
REAL_FILES = {
  "nq_open/NQ-open.dev.jsonl.gz": ("nq_open", 3610),
  "nq_open/topics.dpr.nq.dev.txt.gz": ("dpr_qas", 8757),
  "triviaqa_open/topics.dpr.trivia.dev.txt.gz": ("dpr_qas", 8837),
  "webquestions/trainmodel.json.gz": ("webquestions", 2834),
  "webquestions/devtest.json.gz": ("webquestions", 189),
  "webquestions/val.json.gz": ("webquestions", 755),
  "webquestions/test.json.gz": ("webquestions", 2032),
  "webquestions/topics.dpr.wq.test.txt.gz": ("nq_open", 2032),
  "curated_trec/curated-train.tsv.gz": ("curated_trec", 430),
  "curated_trec/curated-test.tsv.gz": ("curated_trec", 430),
  "curated_trec/large2470-train.tsv.gz": ("curated_trec", 1704),
  "curated_trec/large2470-test.tsv.gz": ("curated_trec", 766),
  "curated_trec/topics.dpr.curated.test.txt.gz": ("nq_open", 694),
  "entity_questions/train.jsonl.gz": ("entity_questions", 176560),
  "entity_questions/dev.jsonl.gz": ("entity_questions", 22068),
  "squad_dev/questions.jsonl.gz": ("paragraph_question", 7876),
  "squad_train_sentence_question/pairs.jsonl.gz": ("sentence_question", 11877),
  "xquad_en/xquad.en.shared_articles.json.gz": ("squad", 811),
  "dpr_sample/nq_dev_sample.json.gz": ("dpr_retriever", 5),
  "qed_nq/qed-dev.jsonlines.gz": ("qed", 1355),
}


def detected(path: Path) -> str:
  return choose_format(path, "questions")[0].name


def passage_file(path: Path) -> PassageFile:
  return PassageFile(path, choose_format(path, "passages")[0])


def passages_of(path: Path) -> list[Passage]:
  return [passage for passage, _ in passage_file(path).records()]


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if rows > 100_000 else ())
    for name, (_, rows) in sorted(REAL_FILES.items())
  ],
)
def test_real_file_is_detected_and_wholly_read(
  shared_data: Path, name: str
) -> None:
  wanted, rows = REAL_FILES[name]
  assert detected(shared_data / name) == wanted
  questions = list(read_questions(shared_data / name))
  assert len(questions) == rows
  kinds = {question.answer_type for question in questions}
  assert kinds == {"regex" if wanted == "curated_trec" else "string"}
  assert all(q.answers for q in questions) != (wanted == "sentence_question")


def test_quoted_rows_of_trivia_are_unquoted(shared_data: Path) -> None:
  path = shared_data / "triviaqa_open/topics.dpr.trivia.dev.txt.gz"
  third = list(read_questions(path))[2]
  assert third.question == "Ezzard Charles was a world champion in which sport?"
  assert third.answers[0] == "Prize fight"


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("dpr_sample/nq_dev_sample.json.gz", 751),
    ("xquad_en/xquad.en.shared_articles.json.gz", 160),
    ("squad_train_sentence_question/pairs.jsonl.gz", 6652),
    ("qed_nq/qed-dev.jsonlines.gz", 1343),
  ],
)
def test_passages_of_a_file_hold_its_positives(
  shared_data: Path, name: str, count: int
) -> None:
  path = shared_data / name
  passages = passages_of(path)
  ids = {passage.id for passage in passages}
  assert len(passages) == len(ids) == count
  for question in read_questions(path):
    assert question.positive_ids
    assert ids.issuperset(question.positive_ids + question.negative_ids)


def test_squad_positive_holds_the_answer(shared_data: Path) -> None:
  path = shared_data / "xquad_en/xquad.en.shared_articles.json.gz"
  texts = {p.id: p.text for p in passages_of(path)}
  for question in read_questions(path):
    (gold,) = question.positive_ids
    assert question.answers[0] in texts[gold]


def _dpr_record(**changes: Any) -> dict[str, Any]:
  def context(**fields: Any) -> dict[str, Any]:
    return {"title": "t", "text": "words", **fields}

  return {
    "question": "who?",
    "answers": ["she"],
    "positive_ctxs": [context(passage_id="7")],
    "hard_negative_ctxs": [context(psg_id=8), context(psg_id="7")],
    "negative_ctxs": [context(passage_id="9")],
    **changes,
  }


def test_dpr_retriever_takes_hard_negatives_first(tmp_path: Path) -> None:
  path = tmp_path / "train.json"
  records = [_dpr_record(), _dpr_record(hard_negative_ctxs=[])]
  path.write_text(json.dumps(records))
  hard, ordinary = read_questions(path)
  assert hard == Question(
    "0", "who?", ("she",), positive_ids=("7",), negative_ids=("8",)
  )
  assert ordinary.negative_ids == ("9",)
  assert [p.id for p in passages_of(path)] == ["7", "8", "9"]


def test_nq_open_understands_ids_and_positives(tmp_path: Path) -> None:
  path = tmp_path / "own.jsonl"
  path.write_bytes(
    b'\xef\xbb\xbf{"id": 5, "question": "q", "answers": ["a", "a"], '
    b'"positive_ids": [3, "x"]}\r\n\n'
    b'{"question": "r", "answer": ["b\xe2\x80\xa8c"]}\n'
  )
  assert list(read_questions(path)) == [
    Question("5", "q", ("a",), positive_ids=("3", "x")),
    Question("1", "r", ("b\u2028c",)),
  ]


def test_quotes_and_line_ends_are_no_part_of_trec_columns(
  tmp_path: Path,
) -> None:
  path = tmp_path / "trec.tsv"
  path.write_bytes(b'1\tfactoid\t"Who" said?\t"?x"?\r\n')
  assert list(read_questions(path)) == [
    Question("1", '"Who" said?', ('"?x"?',), "regex")
  ]


def test_same_sentence_is_the_same_positive(tmp_path: Path) -> None:
  path = tmp_path / "pairs.jsonl"
  pairs = [("one .", "q ?"), ("one .", "r ?"), ("two .", "s ?")]
  path.write_text(
    "".join(
      json.dumps({"sentence": sentence, "question": question}) + "\n"
      for sentence, question in pairs
    )
  )
  first, second, third = read_questions(path)
  assert first.positive_ids == second.positive_ids != third.positive_ids
  assert first.answers == ()
  passages = passages_of(path)
  assert [p.text for p in passages] == ["one .", "two ."]
  assert (passages[0].id,) == first.positive_ids


@pytest.mark.parametrize(
  ("text", "wanted"),
  [
    ("who?\t['AC|DC', 'x']\n", "dpr_qas"),
    ("who?\t['AC|DC']\n", "dpr_qas"),
    (r"how hot?" + "\t" + r"['5,?7\\d\\d|x']" + "\n", "dpr_qas"),
    ("1\tfactoid\thow hot is it?\t5,?7\n", "curated_trec"),
    ('{"question": "q", "answer": ["a (b) c?"]}\n', "nq_open"),
    ('{"question": "q", "answer": ["(a|b)", "c"]}\n', "nq_open"),
    ('{"question": "q", "answer": ["Sept?(ember)?"]}\n', "nq_open"),
    ('{\n "version": "1.1",\n "data": [{"title": "t"}]\n}', "squad"),
    ('[{"question": "q", "answers": ["a"]}]', "nq_open"),
  ],
)
def test_detection(tmp_path: Path, text: str, wanted: str) -> None:
  path = tmp_path / "file"
  path.write_text(text)
  assert detected(path) == wanted


def test_format_can_be_forced(tmp_path: Path) -> None:
  path = tmp_path / "file"
  path.write_text('{"question": "q", "answer": ["Sept?(ember)?"]}\n')
  for name, kind in (("nq_open", "string"), ("curated_trec", "regex")):
    (question,) = read_questions(path, name)
    assert question.answer_type == kind
  with pytest.raises(ValueError, match=r"'sqad'; did you mean 'squad'\?"):
    read_questions(path, "sqad")
  with pytest.raises(ValueError, match=r"'passages_tsv' hold no questions"):
    read_questions(path, "passages_tsv")
  with pytest.raises(ValueError, match=r"'nq_open' hold no passages.*squad"):
    choose_format(path, "passages", "nq_open")
  with pytest.raises(ValueError, match=r"prepared set.*--format squad"):
    open_questions(tmp_path, "squad")


def test_what_is_wanted_decides_between_formats(tmp_path: Path) -> None:
  path = tmp_path / "file"
  path.write_text(
    '{"id": "1", "title": "t", "text": "words", "question": "q", '
    '"answer": ["a"]}'
  )
  assert choose_format(path, "questions") == (
    FORMATS["nq_open"],
    "JSON with the keys question",
  )
  assert choose_format(path, "passages")[0].name == "passages_jsonl"
  assert passages_of(path) == [Passage("1", "t", "words")]


def test_a_passage_in_an_array_is_named_by_its_position(tmp_path: Path) -> None:
  path = tmp_path / "train.json"
  bad = _dpr_record(hard_negative_ctxs=[{"psg_id": "8", "title": "t"}])
  path.write_text(json.dumps([_dpr_record(), bad]))
  with pytest.raises(ValueError, match=r"train.json:\[1\]: 'text' is None"):
    passages_of(path)
  source = passage_file(path)
  next(iter(source.records()))
  assert source.locate(1).endswith("train.json:[1]")


GOOD = '{"question": "q", "answer": ["a"]}\n'
BAD_FILES = {
  "broken JSON": (GOOD + '{"question": "q", "answ\n', ":2: broken JSON"),
  "broken first": ('{"question" 3}\n', ":1: .*broken"),
  "not UTF-8": (GOOD.encode() + b'{"question": "\xff"}\n', ":2: .*not UTF-8"),
  "no object": (GOOD + "[1]\n", ":2: a JSON object is expected"),
  "empty answer": ('{"question": "q", "answer": [" "]}\n', ":1: .*empty ans"),
  "empty question": ('{"question": " ", "answer": ["a"]}\n', ":1: .*is empty"),
  "id twice": (
    '{"id": "x", "question": "q", "answer": ["a"]}\n' * 2,
    ":2: the id 'x' is already that of .*:1",
  ),
  "id with space": (
    '{"id": "x y", "question": "q", "answer": ["a"]}\n',
    ":1: .*white space",
  ),
  "half a character": (
    '{"question": "q", "answer": ["\\ud800"]}\n',
    ":1: .*surrogate",
  ),
  "deep JSON": (GOOD + "[" * 20_000 + "\n", ":2: broken JSON"),
  "no answers column": ("who?\n", ":1: 1 columns.*known: .*nq_open"),
  "lost column": ("who?\t['a']\nwhere?\n", ":2: 1 columns"),
  "no list": ("who?\t['a']\nwhere?\tUlm\n", ":2: .*not a list of plain"),
  "no literal": ("who?\t['a'\n", ":1: .*no list literal"),
  "deep literal": ("who?\t" + "[" * 5000 + "\n", ":1: .*not a list of plain"),
  "numbers": ("who?\t[1, 2]\n", ":1: .*not a list of plain"),
  "open quote": (
    "who?\t['a']\n\"where?\t['b']\nwhen?\t['c']\n",
    ":2: this line and line 3 have 2 columns each",
  ),
  "open quote at the end": (
    "who?\t['a']\n\"where?\t['b']\n",
    ":2: no row by csv's rules .*until line 2",
  ),
  "pattern": (
    "1\tfactoid\tq\tok\n2\tfactoid\tq\t(a\n",
    r":2: .*'\(a'.*regular",
  ),
  "other JSON": ('{"id": 1, "text": "t"}\n', ":1: .*known: .*webquestions"),
  "empty file": ("", "empty"),
  "array cut": ("[" + GOOD + "," + GOOD, r":\[2\]: broken JSON"),
  "array item": ("[" + GOOD + ',{"question": ""}]', r":\[1\]: .*is empty"),
  "number for an answer": (
    '{"question": "q", "answer": 7}\n',
    ":1: 'answer' is 7, not a list of str",
  ),
  "SQuAD shape": (
    '{"data": [{"title": "t", "paragraphs": [{"context": "c"}]}]}',
    r":data\[0\].paragraphs\[0\]: 'qas'",
  ),
  "SQuAD answers": (
    '{"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": '
    '[{"id": "1", "question": "q", "answers": []}]}]}]}',
    r":data\[0\].paragraphs\[0\].qas\[0\]: .*empty list",
  ),
  "context without id": (
    json.dumps([_dpr_record(positive_ctxs=[{"title": "", "text": "x"}])]),
    r":\[0\]: a context has neither",
  ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_names_the_place(tmp_path: Path, name: str) -> None:
  content, message = BAD_FILES[name]
  path = tmp_path / "bad.file"
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(ValueError, match="bad.file.*" + message):
    list(read_questions(path))


def test_missing_and_damaged_files(tmp_path: Path) -> None:
  with pytest.raises(ValueError, match="no such file"):
    read_questions(tmp_path / "absent")
  cut = tmp_path / "cut.gz"
  cut.write_bytes(gzip.compress((GOOD * 3000).encode())[:-20])
  with pytest.raises(ValueError, match="gzip"):
    list(read_questions(cut))


@pytest.mark.parametrize(
  "code",
  [
    "__import__('pathlib').Path('{0}').touch()",
    "[__import__('pathlib').Path('{0}').touch()]",
    "['a'] + [open('{0}', 'w')]",
    "['a', *[open('{0}', 'w')]]",
    '[f\'{{open("{0}", "w")}}\']',
  ],
)
def test_code_in_answers_is_refused_not_run(tmp_path: Path, code: str) -> None:
  target = tmp_path / "touched"
  path = tmp_path / "qas.tsv"
  path.write_text(f"who?\t{code.format(target)}\n")
  with pytest.raises(ValueError, match=r"qas.tsv:1: .*not evaluated"):
    list(read_questions(path))
  assert not target.exists()


@pytest.mark.parametrize(
  "answers", ["", ', "answer": null', ', "answer": []', ', "answers": []']
)
def test_questions_need_no_answers(
  tmp_path: Path, answers: str, capsys: pytest.CaptureFixture[str]
) -> None:
  path = tmp_path / "q.jsonl"
  path.write_text(f'{{"question": "q"{answers}}}\n{GOOD}')
  assert [q.answers for q in open_questions(path)] == [(), ("a",)]
  assert "q.jsonl: 1 questions have no answers" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("text", "wanted"),
  [
    ("what is the capital of aruba\nwhat is it called\n", "plain_text"),
    ("Ulm, or Bonn?\nDo you (or I) know, Bob?\n", "plain_text"),
    ("what is it\nit is known\n", None),
    ("what is the capital,Oranjestad\n", None),
    ("what is the capital;Oranjestad\n", None),
    ("question\nwhat is it called\n", None),
    ("what is it? ['a']\n", None),
    ("who?\nwhat is it?\n", None),
    ("what is it called?\t['a']\n", "dpr_qas"),
  ],
)
def test_lines_of_text_are_told_with_care(
  tmp_path: Path, text: str, wanted: str | None
) -> None:
  path = tmp_path / "q.txt"
  path.write_text(text)
  if wanted is None:
    with pytest.raises(ValueError, match=r"q.txt:1: .*Name one with --format"):
      detected(path)
  else:
    assert detected(path) == wanted
  questions = list(read_questions(path, "plain_text"))
  assert [q.question for q in questions] == text.splitlines()


def test_answers_that_look_like_patterns_are_told_of(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  path = tmp_path / "q.jsonl"
  path.write_text(json.dumps({"question": "q", "answer": ["C:\\Windows"]}))
  (question,) = open_questions(path)
  assert question.answer_type == "string"
  assert "1 of the first 1 answers look like" in capsys.readouterr().err
  assert open_questions(path, "nq_open") == [question]
  assert "look like" not in capsys.readouterr().err
  path.write_text(GOOD)
  open_questions(path)
  assert "look like" not in capsys.readouterr().err


def test_squad_questions_without_an_answer_are_left_out(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  found = {"id": "1", "question": "q", "answers": [{"text": "c"}]}
  qas = [
    found,
    {"id": "2", "question": "r", "answers": [], "is_impossible": True},
    {**found, "id": "3", "is_impossible": True},
    {**found, "id": "4", "is_impossible": False},
  ]
  articles = [{"title": "T", "paragraphs": [{"context": "c", "qas": qas}]}]
  path = tmp_path / "dev.json"
  path.write_text(json.dumps({"data": articles}))
  for _ in range(2):
    assert [q.id for q in open_questions(path)] == ["1", "4"]
    assert "2 questions marked as impossible" in capsys.readouterr().err
