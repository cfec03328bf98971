"""Training and held-out questions share no country and no article."""

import json

import pytest

from odqa_jax.data.formats.files import read_questions
from odqa_jax.demo.presets import SystemPreset
from odqa_jax.demo.system_data import spread, write_question_files

PRESET = SystemPreset(country_questions=400, article_questions=50, held_out=80)


@pytest.mark.parametrize(("count", "kept"), [(3, "adg"), (9, "abcdefghi")])
def test_they_are_evenly_spaced(count, kept):
  assert "".join(spread("abcdefghi", count)) == kept
  assert "".join(spread("abcdefghi", 20)) == "abcdefghi"


def test_no_country_is_in_both(tmp_path):
  train, held_out = write_question_files(PRESET, tmp_path)
  learned, asked = (list(read_questions(p)) for p in (train, held_out))
  assert (len(learned), len(asked)) == (450, 80)
  countries = [
    {q.id.split("/")[1] for q in questions if q.id.startswith("factbook/")}
    for questions in (learned, asked)
  ]
  assert len(countries[0]) > 100 and len(countries[1]) > 20
  assert not countries[0] & countries[1]
  assert all(q.positive_ids and q.answers for q in (*learned, *asked))
  first = json.loads(train.read_text().splitlines()[0])
  assert list(first) == ["id", "question", "answers", "positive_ids"]
