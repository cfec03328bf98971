"""What answers are compared by: the likelihood of all tokens and an end."""

import dataclasses

import numpy as np
import pytest
from small_reader import small_system, use_one_device

from odqa_jax.reading.answer import encode_request, read_batches
from odqa_jax.reading.predict import ended_answers

EOS = 9


def test_every_answer_has_one_end_and_its_tokens_are_counted_with_it():
  ids = np.array(
    [
      [[5, 6, EOS, 0], [5, EOS, 0, 0], [EOS, 0, 0, 0]],
      [[5, 6, 7, 8], [5, 6, 7, EOS], [8, 8, 8, 8]],
    ],
    np.int32,
  )
  ended, lengths = ended_answers(ids, EOS)
  assert lengths.tolist() == [[3, 2, 1], [5, 4, 5]]
  for answers, counts, before in zip(ended, lengths, ids, strict=True):
    for answer, count, written in zip(answers, counts, before, strict=True):
      kept = answer[:count].tolist()
      assert kept[-1] == EOS and kept.count(EOS) == 1
      assert kept[:-1] == written[: count - 1].tolist()


@pytest.mark.parametrize("task", ["individual", "fid"])
def test_an_unfinished_answer_is_scored_with_its_end(
  toy_data, monkeypatch, task
):
  """Of two candidates for each question the decoder has not ended one."""
  use_one_device(monkeypatch)
  system = small_system(task, toy_data)
  eos = system.vocabulary.eos_id
  finished, unfinished = [7, eos, 0], [7, 8, 11]
  written = np.array([[unfinished, finished]] * 2, np.int32)
  predictor = dataclasses.replace(
    system.predictor, generate=lambda *_, **__: written
  )
  system = dataclasses.replace(system, predictor=predictor)
  request = encode_request(system, ["who", "what is known of the castle"])
  rows = np.array([[0, 5, 9, 3], [4, 2, 1, 8]], np.int32)
  (batch,) = read_batches(system, request, rows, batch_size=2)
  answers = batch.answers(max_tokens=3)

  def scores(*tokens):
    return batch.log_probs([list(tokens)] * 2, 4)

  given = {
    text: [dict(answer.candidates)[text] for answer in answers]
    for text in map(system.vocabulary.decode, (finished, unfinished))
  }
  expected = scores(7, eos), scores(*unfinished, eos)
  np.testing.assert_allclose(list(given.values()), expected, rtol=1e-5)
  # log p(end | answer) is no rounding: without it they would be compared by
  # three factors against two.
  assert (scores(*unfinished) - scores(*unfinished, eos) > 0.1).all()
