"""Parts: one meaning whoever makes them, each made once."""

from pathlib import Path

import numpy as np
import pytest
from squares import Squares, parts_of_numbers

from odqa_jax.data.parts.files import (
  Arrays,
  Part,
  pack_texts,
  part_path,
  read_part,
  unpack_texts,
)
from odqa_jax.data.parts.run import (
  Runner,
  count_cores,
  make_parts,
  parse_runner,
)
from odqa_jax.runtime.files import Damage

BEAM = ("--runner=DirectRunner",)


def files(folder: Path) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def stage(tmp_path: Path) -> Squares:
  return Squares(tmp_path / "notes")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
  (tmp_path / "parts").mkdir()
  return tmp_path / "parts"


def runners() -> list:
  beam = pytest.param(Runner(beam=BEAM), id="beam")
  return [Runner(), Runner(processes=2), beam]


@pytest.mark.parametrize("runner", runners())
def test_every_runner_makes_the_same_bytes(
  runner: Runner, stage: Squares, folder: Path, tmp_path: Path
) -> None:
  if runner.beam:
    pytest.importorskip("apache_beam")
  whole = tmp_path / "whole"
  whole.mkdir()
  make_parts(stage, parts_of_numbers(50, 8), whole, Runner())
  counts: list[tuple[int, int]] = []
  paths = make_parts(
    stage,
    iter(parts_of_numbers(50, 8)),
    folder,
    runner,
    progress=lambda *pair: counts.append(pair),
    total=50,
  )
  assert paths == [part_path(folder, i) for i in range(7)]
  squares = [read_part(path)["squares"] for path in paths]
  assert np.concatenate(squares).tolist() == [i * i for i in range(50)]
  assert files(folder) == files(whole)
  assert counts[-1] == (50, 50) and sorted(counts) == counts


@pytest.mark.parametrize("runner", runners())
def test_only_missing_parts_are_made(
  runner: Runner, stage: Squares, folder: Path
) -> None:
  if runner.beam:
    pytest.importorskip("apache_beam")
  parts = parts_of_numbers(50, 8)
  make_parts(stage, parts, folder, Runner())
  before = files(folder)
  stage.asked()
  make_parts(stage, parts, folder, runner)
  assert stage.asked() == []
  part_path(folder, 2).unlink()
  part_path(folder, 4).write_bytes(before["part-00004.npz"][:-40])
  part_path(folder, 5).write_bytes(b"")
  # Of other input, in the place of part 6.
  make_parts(stage, [Part("?", 1, {"numbers": np.arange(2)})], folder, Runner())
  stage.asked()
  make_parts(stage, parts, folder, runner)
  assert stage.asked() == [0, 16, 32, 40]
  assert files(folder) == before


@pytest.mark.parametrize("runner", runners())
def test_an_error_keeps_what_is_complete(
  runner: Runner, stage: Squares, folder: Path, tmp_path: Path
) -> None:
  if runner.beam:
    pytest.importorskip("apache_beam")
  failing = Squares(stage.notes, fail_at=20)
  with pytest.raises(ValueError, match="20: has no square today"):
    make_parts(failing, parts_of_numbers(50, 8), folder, runner)
  assert not part_path(folder, 2).exists()
  assert not list(folder.glob("*.tmp"))
  kept = {int(p.stem[-5:]) * 8 for p in folder.glob("part-*.npz")}
  stage.asked()
  make_parts(stage, parts_of_numbers(50, 8), folder, runner)
  assert set(stage.asked()) == set(range(0, 50, 8)) - kept


def test_a_part_of_other_input_is_not_left_by_beam(
  stage: Squares, folder: Path
) -> None:
  pytest.importorskip("apache_beam")
  other = [Part("?", 1, {"numbers": np.arange(2)})] * 3
  make_parts(stage, other, folder, Runner())
  failing = Squares(stage.notes, fail_at=20)
  with pytest.raises(ValueError, match="20: has no square today"):
    make_parts(failing, parts_of_numbers(50, 8), folder, Runner(beam=BEAM))
  assert not part_path(folder, 2).exists()


def test_what_cannot_be_written_leaves_nothing(folder: Path) -> None:
  def bad(arrays: Arrays) -> Arrays:
    return {"good": arrays["numbers"], "bad": np.array([None])}

  with pytest.raises(ValueError, match="allow_pickle"):
    make_parts(bad, parts_of_numbers(8, 8), folder, Runner())
  assert not list(folder.iterdir())


def test_a_damaged_part_is_named(stage: Squares, folder: Path) -> None:
  (path,) = make_parts(stage, parts_of_numbers(8, 8), folder, Runner())
  content = bytearray(path.read_bytes())
  content[content.index(b"sum.npy") - 60] ^= 1
  path.write_bytes(content)
  with pytest.raises(Damage, match=r"part-00000\.npz: the part is damaged"):
    read_part(path)


def test_an_error_of_the_input_ends_the_workers(
  stage: Squares, folder: Path
) -> None:
  def broken():
    yield from parts_of_numbers(50, 8)
    raise ValueError("file:51: broken")

  with pytest.raises(ValueError, match="file:51: broken"):
    make_parts(stage, broken(), folder, Runner(processes=2))
  assert not list(folder.glob("*.tmp"))


def test_a_killed_worker_is_a_sentence(stage: Squares, folder: Path) -> None:
  killed = Squares(stage.notes, kill_at=20)
  with pytest.raises(ChildProcessError, match="a worker was killed, perhaps"):
    make_parts(killed, parts_of_numbers(50, 8), folder, Runner(processes=2))


def test_few_inputs_wait(stage: Squares, folder: Path) -> None:
  taken = 0

  def stream():
    nonlocal taken
    for part in parts_of_numbers(400, 8):
      taken += 1
      yield part

  ahead: list[int] = []
  make_parts(
    stage,
    stream(),
    folder,
    Runner(processes=2),
    progress=lambda done, _: ahead.append(taken - done // 8),
  )
  assert len(ahead) == 50 and max(ahead) <= 5


def test_one_part_starts_no_process(
  stage: Squares, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr("odqa_jax.data.parts.run._run_local", None)
  make_parts(stage, parts_of_numbers(8, 8), folder, Runner(processes=2))
  make_parts(stage, parts_of_numbers(16, 8), folder, Runner(processes=2))
  assert stage.asked() == [0, 8]


def test_runners_by_name() -> None:
  assert parse_runner("local") == Runner(count_cores())
  assert parse_runner("local:3") == Runner(3)
  for text in ("", "local:0", "local:x", "flink", "locall"):
    with pytest.raises(ValueError, match=f"--runner '{text}': it is local, "):
      parse_runner(text)


def test_beam_by_name() -> None:
  pytest.importorskip("apache_beam")
  assert parse_runner("beam") == Runner(beam=())
  options = "--runner=DirectRunner --direct_num_workers=2"
  assert parse_runner(f"beam:{options}") == Runner(beam=tuple(options.split()))
  for text in ("beam:runner=X", "beam:--direct_num_workers=x"):
    with pytest.raises(ValueError, match=f"--{'runner ' + text}: .*option"):
      parse_runner(text)


def test_texts_in_one_array() -> None:
  texts = ["", "a\n", "Zürich", "", "東京"]
  values, lengths = pack_texts([text.encode() for text in texts])
  assert values.dtype == np.uint8 and lengths.tolist() == [0, 2, 7, 0, 6]
  assert unpack_texts(values, lengths) == texts
  assert unpack_texts(*pack_texts([])) == []
