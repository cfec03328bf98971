"""Gold paragraphs as passages of another cut of the same articles."""

import gzip
import json
from pathlib import Path

import pytest

from odqa_jax.data.corpus.build import build_corpus
from odqa_jax.data.corpus.corpus import Corpus, Passage
from odqa_jax.data.formats.files import read_questions
from odqa_jax.data.mining.gold import GoldPassages, read_gold
from odqa_jax.data.questions.sets import Question
from odqa_jax.main import main
from odqa_jax.text.wordpiece_training import train_wordpiece

TEXTS = [
  ("New York", "The city was founded in 1624 as a trading post by colonists."),
  ("New York", "It was renamed in 1664 and 1624 was long past by that time."),
  ("Ulm", "The city of Ulm was founded in 850 on the left bank of a river."),
  ("new  york", "A later article of the same name on the year 1624 in trade."),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
  folder = tmp_path_factory.mktemp("gold") / "corpus"
  tokenizer = train_wordpiece([text for _, text in TEXTS], 200)
  passages = [Passage(f"p{i}", *pair) for i, pair in enumerate(TEXTS)]
  build_corpus(passages, folder, tokenizer)
  return Corpus(folder)


def matched(
  corpus: Corpus, paragraph: tuple[str, str], *answers: str
) -> tuple[list[int], str]:
  gold = GoldPassages(corpus, {"g": Passage("g", *paragraph)})
  return gold.positives(0, Question("q", "?", answers, positive_ids=("g",)))


@pytest.mark.parametrize(
  ("paragraph", "answers", "expected"),
  [
    # The title is written otherwise; passage 1 has the answer, but not these
    # words, and passage 2 is of another article.
    (("New_York", "a trading post by colonists, 1624"), ["1624"], ([0], "")),
    (("NEW YORK", "renamed in 1664 and 1624 was"), ["1624"], ([1], "")),
    (("New York", "name on the year 1624 in"), ["1624"], ([3], "")),
    # The passage with the most of the paragraph lacks the answer.
    (
      ("New York", "was founded in 1624 as a trading post. It was renamed in"),
      ["1664"],
      ([1], ""),
    ),
    (("New York", "The city was founded in 1624"), [], ([0], "")),
    (("Bern", "The city was founded"), ["1624"], ([], "article_not_in_corpus")),
    (("Ulm", "founded in 850 on"), ["1624"], ([], "answer_not_in_article")),
    (
      ("Ulm", "quite 850 other words"),
      ["850"],
      ([], "paragraph_not_in_article"),
    ),
    (("", "The city was founded"), ["1624"], ([], "article_not_in_corpus")),
  ],
)
def test_a_paragraph_becomes_the_passage_that_shares_most_of_it(
  corpus: Corpus,
  paragraph: tuple[str, str],
  answers: list[str],
  expected: tuple[list[int], str],
) -> None:
  assert matched(corpus, paragraph, *answers) == expected


def test_several_paragraphs_and_none(corpus: Corpus) -> None:
  paragraphs = {
    "a": Passage("a", "Bern", "nothing of this"),
    "b": Passage("b", "Ulm", "Ulm was founded in 850"),
  }
  gold = GoldPassages(corpus, paragraphs)
  both = Question("q", "?", ("850",), positive_ids=("a", "b", "c"))
  assert gold.positives(0, both) == ([2], "")
  lost = Question("q", "?", ("850",), positive_ids=("c",))
  assert gold.positives(0, lost) == ([], "gold_not_in_file")
  assert gold.positives(0, Question("q", "?", ("850",))) == ([], "")


def write_squad(path: Path) -> None:
  def paragraph(text: str, *answers: str) -> dict[str, object]:
    qas = [
      {"id": f"{text[:3]}{a}", "question": f"{a}?", "answers": [{"text": a}]}
      for a in answers
    ]
    return {"context": text, "qas": qas}

  articles = [
    (
      "New_York",
      paragraph("founded in 1624 as a trading post", "1624", "post"),
    ),
    ("Ulm", paragraph("Ulm on the Danube", "Danube")),
  ]
  data = [{"title": t, "paragraphs": [p]} for t, p in articles]
  path.write_text(json.dumps({"data": data}))


def test_mine_maps_the_paragraphs_of_a_file(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  passages = tmp_path / "p.jsonl"
  passages.write_text(
    "".join(
      json.dumps({"id": f"p{i}", "title": title, "text": text}) + "\n"
      for i, (title, text) in enumerate(TEXTS)
    )
  )
  squad = tmp_path / "train.json"
  write_squad(squad)
  folder = str(tmp_path / "data")
  args = ["prepare", "--corpus", str(passages), "--questions", str(squad)]
  assert main([*args, "--out", folder, "--vocabulary-size", "99"]) == 0
  args = ["mine", "--data", folder, "--sets", "train", "--bm25"]
  assert main([*args, "--gold", str(squad)]) == 0
  printed = capsys.readouterr()
  report = json.loads(printed.out.splitlines()[-1])["mining"]["train"]
  assert (report["kept"], report["positives_named"]) == (2, 2)
  assert report["dropped"] == {"answer_not_in_article": 1}
  assert "1 answer not in article (such as UlmDanube)" in printed.err
  # Without it, the paragraphs' own ids are in no corpus.
  assert main(args) == 2
  assert "3 gold not in corpus" in capsys.readouterr().err


def test_a_file_without_paragraphs_is_refused(tmp_path: Path) -> None:
  path = tmp_path / "q.jsonl"
  path.write_text('{"question": "who?", "answer": ["she"]}\n')
  with pytest.raises(ValueError, match=r"q\.jsonl"):
    read_gold(path)


def cut(paragraphs: list[str], size: int = 100) -> list[str]:
  words = " ".join(paragraphs).split()
  return [" ".join(words[i : i + size]) for i in range(0, len(words), size)]


@pytest.mark.slow
def test_squad_paragraphs_are_found_again_among_passages_of_100_words(
  shared_data: Path, tmp_path: Path
) -> None:
  """The right passage is known by where the answer stands in its article."""
  source = shared_data / "xquad_en" / "xquad.en.shared_articles.json.gz"
  data = json.loads(gzip.decompress(source.read_bytes()))["data"]
  passages, right = [], {}
  for article in data:
    title = article["title"].replace("_", " ")
    contexts = [p["context"] for p in article["paragraphs"]]
    first = len(passages)
    passages += [
      Passage(f"{len(passages) + i}", title, text)
      for i, text in enumerate(cut(contexts))
    ]
    before = 0
    for paragraph in article["paragraphs"]:
      for qa in paragraph["qas"]:
        answer = qa["answers"][0]
        start = answer["answer_start"]
        word = before + len(paragraph["context"][:start].split())
        end = word + len(answer["text"].split()) - 1
        right[qa["id"]] = {first + word // 100, first + end // 100}
      before += len(paragraph["context"].split())
  tokenizer = train_wordpiece(["a small vocabulary will do here"], 100)
  build_corpus(passages, tmp_path / "c", tokenizer)
  gold = GoldPassages(Corpus(tmp_path / "c"), read_gold(source))
  found = {q.id: gold.positives(0, q) for q in read_questions(source)}
  kept = {name: rows[0] for name, (rows, _) in found.items() if rows}
  assert len(found) == 811
  correct = sum(row in right[name] for name, row in kept.items())
  assert len(kept) >= 780 and correct >= 0.9 * len(kept)
