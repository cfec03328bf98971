"""Formats written and prepared again: the same, but for what is listed."""

import dataclasses
import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from command_line import last_line, run
from ir_measures import AP, RR, nDCG

from odqa_jax.data.convert.content import open_content
from odqa_jax.data.convert.convert import convert
from odqa_jax.data.convert.targets import TARGETS
from odqa_jax.data.corpus.corpus import Corpus, build_corpus
from odqa_jax.data.corpus.passages import Passage
from odqa_jax.data.formats.files import open_questions
from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.prepare import prepare
from odqa_jax.data.questions.sets import Question, QuestionSet, write_questions
from odqa_jax.data.runs import Ranking, write_run
from odqa_jax.evaluation.relevant import read_qrels
from odqa_jax.text.wordpiece_training import train_wordpiece

PASSAGES = [
  Passage("p 1", "", '"Quoted" from the first word, and a "" twice.'),
  Passage("<dbpedia:Caf%C3%A9>", '"Café"', "A café\tsells coffee, é."),
  Passage('"3"', " padded ", " Spaces around it. "),
  Passage("4", "Two\nlines", "One line.\nAnother\u2028one.\r\nAnd one."),
  Passage("wiki:5", "C:\\new, 漢字", r"back\slash and \n; {json: true}"),
  Passage("6", '"', "'"),
]
QUESTIONS = [
  Question("q1", "Who said  it?", ("Ann", 'B "b" b')),
  Question("q2", "When?", (r"19\d\d", "never"), "regex", ("4",), ("6", '"3"')),
  Question(
    "q3",
    'What\tis "it",\nexactly? ',
    ("it's",),
    positive_ids=("<dbpedia:Caf%C3%A9>", "p 1"),
    negative_ids=("wiki:5", "p 1"),
    excluded_ids=("6", "elsewhere"),
  ),
  Question("q4", "Is it?", (), positive_ids=('"3"',)),
]
OTHERS = [Question("o1", "And who else?", ("Bob",), positive_ids=("6", "4"))]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
  folder = tmp_path_factory.mktemp("convert") / "data"
  tokenizer = train_wordpiece([p.text for p in PASSAGES], 100)
  tokenizer.save(folder / "tokenizer")
  build_corpus(PASSAGES, folder / "corpus", tokenizer)
  write_questions(QUESTIONS, folder / "questions" / "dev", "dev")
  write_questions(OTHERS, folder / "questions" / "other", "other")
  return folder


def passages_of(folder: Path) -> list[Passage]:
  corpus = Corpus(folder / "corpus")
  return [
    Passage(corpus.id(i), corpus.title(i), corpus.text(i))
    for i in range(len(corpus))
  ]


def prepared_again(dataset: Path, to: str, tmp_path: Path) -> Path:
  """prepare(convert(dataset)) with the dataset's own tokenizer."""
  target, out = TARGETS[to], tmp_path / "converted"
  convert(open_content(dataset, ["dev"]), to, out)

  def source(name: str) -> str:
    prefix, _, path = name.rpartition(":")
    return f"{prefix}:{out / path}" if prefix else str(out / path)

  prepare(
    corpus=[source(target.corpus)]
    if target.corpus
    else [str(write_tsv(tmp_path))],
    questions=[source(target.questions.format(name="dev"))],
    out=tmp_path / "again",
    tokenizer=str(dataset / "tokenizer"),
  )
  return tmp_path / "again"


def write_tsv(folder: Path) -> Path:
  path = folder / "any.tsv"
  path.write_text("id\ttext\ttitle\n1\ta text\tT\n")
  return path


@pytest.mark.parametrize("to", TARGETS)
def test_what_is_prepared_again_is_the_same_but_for_what_is_listed(
  to: str, dataset: Path, tmp_path: Path
) -> None:
  again = prepared_again(dataset, to, tmp_path)
  if TARGETS[to].corpus:
    assert passages_of(again) == PASSAGES
    assert (
      Corpus(again / "corpus").fingerprint
      == Corpus(dataset / "corpus").fingerprint
    )
  (folder,) = (again / "questions").iterdir()
  read = list(QuestionSet(folder))
  assert [q.id for q in read] == [q.id for q in QUESTIONS]
  differing = {
    field.name
    for field in dataclasses.fields(Question)
    if [getattr(q, field.name) for q in read]
    != [getattr(q, field.name) for q in QUESTIONS]
  }
  assert differing == set(TARGETS[to].lost)


@pytest.mark.parametrize("to", ["beir", "flashrag", "tfds"])
def test_prepared_again_it_is_equal_to_the_byte(
  to: str, dataset: Path, tmp_path: Path
) -> None:
  again = prepared_again(dataset, to, tmp_path)
  for name in ("text_tokens.npy", "ids.bin", "titles.bin", "texts.bin"):
    wanted = (dataset / "corpus" / name).read_bytes()
    assert (again / "corpus" / name).read_bytes() == wanted
  (folder,) = (again / "questions").iterdir()
  wanted = QuestionSet(dataset / "questions" / "dev").fingerprint
  assert QuestionSet(folder).fingerprint == wanted


def lines(path: Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def test_beir_is_laid_out_as_beir_reads_it(
  dataset: Path, tmp_path: Path
) -> None:
  out = tmp_path / "out"
  convert(open_content(dataset, ["dev", "other"]), "beir", out)
  assert lines(out / "corpus.jsonl")[3] == {
    "_id": "4",
    "title": "Two\nlines",
    "text": PASSAGES[3].text,
  }
  queries = lines(out / "queries.jsonl")
  assert [q["_id"] for q in queries] == ["q1", "q2", "q3", "q4", "o1"]
  assert queries[4]["metadata"] == {"odqa_jax": {"answers": ["Bob"]}}
  assert (out / "qrels" / "other.tsv").read_text() == (
    "query-id\tcorpus-id\tscore\no1\t6\t1\no1\t4\t1\n"
  )
  rows = (out / "qrels" / "dev.tsv").read_text("utf-8").splitlines()
  assert rows[1:] == [
    "q2\t4\t1",
    "q3\t<dbpedia:Caf%C3%A9>\t1",
    "q3\tp 1\t1",
    'q4\t"""3"""\t1',
  ]


@pytest.mark.parametrize(
  ("to", "file"), [("beir", "qrels/dev.tsv"), ("trec", "qrels.dev.tsv")]
)
def test_written_judgements_are_those_of_the_questions(
  to: str, file: str, dataset: Path, tmp_path: Path
) -> None:
  convert(open_content(dataset, ["dev"]), to, tmp_path / "out")
  corpus = Corpus(dataset / "corpus")
  assert read_qrels(tmp_path / "out" / file, QUESTIONS, corpus) == {
    q.id: dict.fromkeys(q.positive_ids, 1) for q in QUESTIONS if q.positive_ids
  }


def test_flashrag_puts_the_title_on_the_first_line(
  dataset: Path, tmp_path: Path
) -> None:
  out = tmp_path / "out"
  convert(open_content(dataset, ["dev"]), "flashrag", out)
  corpus = lines(out / "corpus.jsonl")
  assert corpus[0] == {"id": "p 1", "contents": f'""\n{PASSAGES[0].text}'}
  assert corpus[3]["title"] == "Two\nlines"
  first = lines(out / "dev.jsonl")[0]
  assert first == {
    "id": "q1",
    "question": "Who said  it?",
    "golden_answers": ["Ann", 'B "b" b'],
  }


def mined(dataset: Path) -> Pairs:
  corpus = Corpus(dataset / "corpus")
  questions = QuestionSet(dataset / "questions" / "dev")
  manifest = {
    "corpus": corpus.fingerprint,
    "questions": questions.fingerprint,
    "count": 2,
  }
  return Pairs(
    np.array([0, 2]),
    np.array([5, 1, 0]),
    np.array([0, 1, 3]),
    np.array([4]),
    np.array([0, 1, 1]),
    manifest,
  )


@pytest.fixture
def with_pairs(dataset: Path, tmp_path: Path) -> Path:
  folder = tmp_path / "data"
  folder.mkdir()
  for part in ("corpus", "questions"):
    (folder / part).symlink_to(dataset / part)
  mined(dataset).save(folder / "pairs" / "dev")
  return folder


def test_dpr_has_the_contexts_that_were_mined(
  with_pairs: Path, tmp_path: Path
) -> None:
  out = tmp_path / "out"
  convert(open_content(with_pairs, ["dev"]), "dpr", out)
  records = json.loads((out / "dev.json").read_text("utf-8"))
  ids = [
    [[c["passage_id"] for c in r[key]] for r in records]
    for key in ("positive_ctxs", "hard_negative_ctxs")
  ]
  assert ids[0] == [["6"], [], ["<dbpedia:Caf%C3%A9>", "p 1"], []]
  assert ids[1] == [["wiki:5"], [], [], []]
  assert records[0]["positive_ctxs"][0] == {
    "title": '"',
    "text": "'",
    "score": 0.0,
    "title_score": 0,
    "passage_id": "6",
  }
  assert (
    (out / "dev.qas.csv")
    .read_text("utf-8")
    .startswith('Who said  it?\t"[""Ann"", ""B \\""b\\"" b""]"\n')
  )


def test_pairs_are_a_dataset_of_tfds(with_pairs: Path, tmp_path: Path) -> None:
  import tensorflow_datasets as tfds

  out = tmp_path / "out"
  figures = convert(open_content(with_pairs, ["dev"]), "tfds", out)
  assert figures["files"] == {"corpus": 6, "questions/dev": 4, "pairs/dev": 2}
  builder = tfds.builder_from_directory(str(out / "pairs" / "dev"))
  source = builder.as_data_source("pairs")
  assert len(source) == 2
  assert source[1]["id"] == b"q3"
  assert source[1]["positives"]["id"] == [
    b"<dbpedia:Caf%C3%A9>",
    b"p 1",
  ]
  assert source[0]["negatives"]["title"] == ["C:\\new, 漢字".encode()]
  names = [
    (q.id, q.positive_ids, q.negative_ids)
    for q in open_questions(f"tfds:{out}/pairs/dev")
  ]
  assert names == [
    ("q1", ("6",), ("wiki:5",)),
    ("q3", ("<dbpedia:Caf%C3%A9>", "p 1"), ()),
  ]
  corpus = tfds.builder_from_directory(str(out / "corpus"))
  stored = corpus.as_data_source("passages")
  assert [r["text"].decode() for r in stored] == [p.text for p in PASSAGES]


def test_pairs_of_other_questions_are_refused(with_pairs: Path) -> None:
  pairs = mined(with_pairs)
  pairs.manifest["questions"] = "0" * 64
  pairs.save(with_pairs / "pairs" / "dev")
  with pytest.raises(ValueError, match="were mined for other questions"):
    open_content(with_pairs, ["dev"])


def test_a_run_of_json_becomes_trec_s(dataset: Path, tmp_path: Path) -> None:
  corpus = Corpus(dataset / "corpus")
  rows = np.array([[0, 1, 2], [3, 4, 5], [0, 2, -1], [-1, -1, -1]])
  scores = np.full(rows.shape, 0.5, np.float32)
  ranking = Ranking(tuple(q.id for q in QUESTIONS), rows, scores)
  write_run(tmp_path / "run.json", ranking, QUESTIONS, corpus)
  out = tmp_path / "out"
  content = open_content(dataset, ["dev"], run=tmp_path / "run.json")
  assert convert(content, "trec", out)["files"] == {
    "queries.dev.tsv": 4,
    "qrels.dev.tsv": 4,
    "run.trec": 3,
  }
  qrels = ir_measures.read_trec_qrels(str(out / "qrels.dev.tsv"))
  found = ir_measures.read_trec_run(str(out / "run.trec"))
  figures = ir_measures.calc_aggregate([RR @ 10, AP, nDCG @ 10], qrels, found)
  # q2 finds its passage first, q3 its second one, q4 nothing.
  assert figures[RR @ 10] == pytest.approx((1 + 1 + 0) / 3)
  assert figures[AP] == pytest.approx((1 + 1 / 2 + 0) / 3)
  with pytest.raises(ValueError, match="run of one question set, and 2"):
    open_content(dataset, ["dev", "other"], run=tmp_path / "run.json")


def test_sets_with_the_same_ids_do_not_share_a_file(
  dataset: Path, tmp_path: Path
) -> None:
  asked = tmp_path / "more.jsonl"
  asked.write_text('{"id": "q2", "question": "Which?", "answer": ["a"]}\n')
  content = open_content(dataset, ["dev", str(asked)])
  with pytest.raises(ValueError, match=r"'dev' and 'more' both have .* 'q2'"):
    convert(content, "beir", tmp_path / "out")
  assert not (tmp_path / "out").exists()
  assert not list(tmp_path.glob("*.tmp"))
  convert(content, "flashrag", tmp_path / "out")


def test_a_passage_that_the_corpus_lacks(dataset: Path, tmp_path: Path) -> None:
  asked = tmp_path / "more.jsonl"
  asked.write_text(
    '{"id": "m1", "question": "Which?", "answer": [], "positive_ids": ["x"]}\n'
  )
  content = open_content(dataset, [str(asked)])
  with pytest.raises(ValueError, match="'m1' names the passage 'x', which"):
    convert(content, "dpr", tmp_path / "out")
  convert(content, "beir", tmp_path / "out")
  assert "m1\tx\t1" in (tmp_path / "out" / "qrels" / "more.tsv").read_text()


def test_the_command(capsys, dataset: Path, tmp_path: Path) -> None:
  flags = ["convert", "--corpus", dataset, "--questions", "dev,other"]
  out = tmp_path / "out"
  code, stdout, _ = run(capsys, *flags, "--to", "flashrag", "--out", out)
  assert code == 0
  assert json.loads(last_line(stdout))["files"] == {
    "corpus.jsonl": 6,
    "dev.jsonl": 4,
    "other.jsonl": 1,
  }
  before = (out / "corpus.jsonl").stat()
  code, _, _ = run(capsys, *flags, "--to", "flashrag", "--out", out)
  assert code == 0 and (out / "corpus.jsonl").stat() == before
  code, _, _ = run(capsys, *flags, "--to", "beir", "--out", out)
  assert code == 0 and (out / "queries.jsonl").exists()
  assert not (out / "dev.jsonl").exists()
  code, _, err = run(capsys, *flags, "--to", "bier", "--out", out)
  assert code == 2 and "did you mean 'beir'" in last_line(err)
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "precious").touch()
  code, _, err = run(capsys, *flags, "--to", "beir", "--out", tmp_path / "mine")
  assert code == 2 and "is not replaced" in last_line(err)
