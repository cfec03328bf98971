"""What the demo prints of figures and answers."""

from odqa_jax.demo.presets import SYSTEM
from odqa_jax.demo.system_page import next_steps, show_records, show_rows


def test_a_table_with_intervals():
  rows = [
    {"name": "BM25", "recall": {"1": 0.5}, "recall_95": {"1": [0.4, 0.6]}},
    {
      "name": "trained",
      "recall": {"1": 0.9},
      "recall_95": {"1": [0.86, 0.94]},
      "em": 0.25,
      "em_95": [0.2, 0.3],
      "f1": 0.5,
      "f1_95": [0.4, 0.6],
    },
  ]
  head, _, bm25, trained = show_rows(rows).splitlines()
  assert head.split() == ["recall@1", "EM", "F1"]
  assert bm25.split() == ["BM25", "50.0", "±10", "-", "-"]
  assert trained.split()[1:] == ["90.0", "±4", "25.0", "±5", "50.0", "±10"]


def record(text, start, end):
  passage = {
    "n": 1,
    "title": "Chile",
    "text": text,
    "highlights": [{"start": start, "end": end, "answer": True}],
  }
  return {
    "question": "what is the capital",
    "answer": text[start:end],
    "confidence": 0.5,
    "passages": [passage],
    "marks": [1],
  }


def test_an_answer_is_shown_where_it_stands():
  far = record("word " * 100 + "Santiago" + " word" * 100, 500, 508)
  shown = show_records([far])
  assert "= Santiago   (confidence 50%)" in shown
  line = next(row for row in shown.splitlines() if "Chile:" in row)
  assert "Santiago" in line and len(line) <= 96 and line.count("…") == 2
  near = show_records([record("Santiago is the capital.", 0, 8)])
  assert "Chile: Santiago is the capital." in near and "…" not in near


def test_the_next_steps_are_commands_of_odqa(tmp_path):
  from odqa_jax.main import make_parser, split_overrides

  text = next_steps(tmp_path / "system", tmp_path, SYSTEM).replace("\\\n", " ")
  commands = [row.split() for row in text.splitlines() if row[:2] == "  "]
  assert [words[1] for words in commands] == [
    "answer", "serve", "prepare", "train"
  ]  # fmt: skip
  for words in commands:
    make_parser().parse_args(split_overrides(words[1:])[0])
