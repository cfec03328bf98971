"""Metric files that survive a kill, progress lines, tables and pictures."""

import csv
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event

from odqa_jax.runtime import plots, progress
from odqa_jax.runtime.mesh import make_mesh
from odqa_jax.runtime.progress import humanise, progress_bar
from odqa_jax.runtime.report import (
  Report,
  json_ready,
  parameter_table,
  read_metrics,
  text_table,
  write_report,
)

PNG = b"\x89PNG\r\n\x1a\n"


def _csv(workdir: Path) -> list[list[str]]:
  with (workdir / "metrics.csv").open(newline="") as file:
    return list(csv.reader(file))


def _events(workdir: Path) -> list[Event]:
  """TensorBoard's record format: length, checksum, bytes, checksum."""
  events = []
  for path in sorted((workdir / "tensorboard").iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (size,) = struct.unpack_from("<Q", data, at)
      events.append(Event.FromString(data[at + 12 : at + 12 + size]))
      at += size + 16
  return events


def test_one_write_reaches_all_three_places(tmp_path: Path) -> None:
  with Report(tmp_path) as report:
    report.write(1, {"loss": np.float32(2.5), "n": 3, "a,b": jnp.ones(())})
    report.write(2, {"loss": float("nan")})
  assert read_metrics(tmp_path / "metrics.jsonl") == [
    {"step": 1, "loss": 2.5, "n": 3.0, "a,b": 1.0},
    {"step": 2, "loss": None},
  ]
  assert _csv(tmp_path) == [
    ["step", "name", "value"],
    ["1", "loss", "2.5"],
    ["1", "n", "3.0"],
    ["1", "a,b", "1.0"],
    ["2", "loss", "nan"],
  ]
  found = {
    (event.step, value.tag): value.simple_value
    for event in _events(tmp_path)
    for value in event.summary.value
  }
  assert found[1, "loss"] == 2.5
  assert found[1, "n"] == 3.0
  assert np.isnan(found[2, "loss"])


def test_rows_are_on_disk_before_anything_is_closed(tmp_path: Path) -> None:
  script = (
    "import os, signal, sys\n"
    "from odqa_jax.runtime.report import Report\n"
    "report = Report(sys.argv[1])\n"
    "for step in range(50):\n"
    "  report.write(step, {'loss': step})\n"
    "os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  run = subprocess.run([sys.executable, "-c", script, str(tmp_path)])
  assert run.returncode == -signal.SIGKILL
  rows = read_metrics(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in rows] == list(range(50))
  assert len(_csv(tmp_path)) == 51


def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path) -> None:
  with Report(tmp_path) as report:
    report.write(1, {"loss": 2.0})
    report.write(2, {"loss": 1.0})
  for name, cut in (("metrics.jsonl", 5), ("metrics.csv", 2)):
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-cut])
  assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]
  with Report(tmp_path) as report:
    report.write(2, {"loss": 0.5})
  rows = read_metrics(tmp_path / "metrics.jsonl")
  assert rows == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 0.5}]
  assert _csv(tmp_path)[1:] == [["1", "loss", "2.0"], ["2", "loss", "0.5"]]


def test_resuming_drops_later_rows_everywhere(tmp_path: Path) -> None:
  with Report(tmp_path) as report:
    for step in range(1, 7):
      report.write(step, {"loss": step})
  with Report(tmp_path, resume_step=4) as report:
    report.write(5, {"loss": 50.0})
  rows = read_metrics(tmp_path / "metrics.jsonl")
  assert [row["loss"] for row in rows] == [1.0, 2.0, 3.0, 4.0, 50.0]
  assert [row[2] for row in _csv(tmp_path)[1:]] == [
    str(row["loss"]) for row in rows
  ]
  # TensorBoard hides what earlier runs wrote, and finds all of it in the last,
  # as a kill may have lost what they had not handed on.
  events = _events(tmp_path)
  (start,) = [i for i, e in enumerate(events) if e.session_log.status == 1]
  assert events[start].step == 0
  shown = [
    (event.step, value.simple_value)
    for event in events[start:]
    for value in event.summary.value
  ]
  assert shown == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0)]
  assert not list(tmp_path.glob("*.tmp"))


def test_damage_before_the_end_is_named(tmp_path: Path) -> None:
  path = tmp_path / "metrics.jsonl"
  for bad in ('{"step": 1, "lo', "[]", '{"loss": 1}'):
    path.write_text(f'{{"step": 0}}\n{bad}\n{{"step": 2}}\n')
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}:2: no metr"):
      Report(tmp_path)


def test_a_report_that_is_not_enabled_leaves_nothing(tmp_path: Path) -> None:
  with Report(tmp_path / "work", enabled=False) as report:
    report.write(1, {"loss": 1.0})
    report.flush()
  assert not list(tmp_path.iterdir())


def test_no_metric_is_called_step(tmp_path: Path) -> None:
  with (
    Report(tmp_path) as report,
    pytest.raises(ValueError, match='cannot be called "step"'),
  ):
    report.write(1, {"step": 3})


def test_json_ready_turns_what_configs_hold_into_json() -> None:
  value = ConfigDict({"a": (1, np.int64(2)), "b": {"c": np.float32(0.5)}})
  value.d = [Path("x") / "y", None, True, float("inf"), jnp.arange(2)]
  ready = json_ready(value)
  assert json.loads(json.dumps(ready, allow_nan=False)) == {
    "a": [1, 2],
    "b": {"c": 0.5},
    "d": [os.path.join("x", "y"), None, True, None, [0, 1]],
  }
  with pytest.raises(TypeError, match="object"):
    json_ready({"x": object()})


def test_report_json_has_the_agreed_keys(tmp_path: Path) -> None:
  path = tmp_path / "report.json"
  rows = [{"name": "BM25", "recall": {"1": np.float64(0.25)}, "em": 0.5}]
  config = ConfigDict({"steps": 3})
  write_report(
    path,
    rows=rows,
    seconds={"train": 1.5},
    config=config,
    seed=7,
    hardware={"cores": 2},
  )
  report = json.loads(path.read_text())
  versions = report.pop("versions")
  assert report == {
    "rows": [{"name": "BM25", "recall": {"1": 0.25}, "em": 0.5}],
    "seconds": {"train": 1.5},
    "config": {"steps": 3},
    "seed": 7,
    "hardware": {"cores": 2},
  }
  assert versions["jax"] == jax.__version__
  assert versions["numpy"] == np.__version__
  assert {"python", "odqa_jax", "flax"} <= versions.keys()


def test_parameter_table_shows_repeated_layers_once() -> None:
  mesh = make_mesh({"data": 4, "model": 2})

  def leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  params = {
    "layer_0": {"kernel": leaf(8, 4), "bias": leaf(4)},
    "layer_1": {"kernel": leaf(8, 4), "bias": leaf(4)},
    "layer_2": {"kernel": leaf(8, 6), "bias": leaf(4)},
    "scale": jax.ShapeDtypeStruct((), jnp.bfloat16),
  }
  shardings: Any = jax.tree.map(
    lambda x: NamedSharding(
      mesh,
      PartitionSpec(None, "model") if x.ndim == 2 else PartitionSpec(),
    ),
    params,
  )
  rows = [
    re.split(r"\s{2,}", line)
    for line in parameter_table(params, shardings).splitlines()
  ]
  assert rows[0] == ["parameter", "shape", "dtype", "count", "sharding"]
  assert rows[2:] == [
    ["layer_{0..2}/bias", "4 (×3)", "float32", "12", "replicated"],
    ["layer_{0..1}/kernel", "8×4 (×2)", "float32", "64", "None, model"],
    ["layer_2/kernel", "8×6", "float32", "48", "None, model"],
    ["scale", "scalar", "bfloat16", "1", "replicated"],
    ["total", "125", "0.0 MiB"],
  ]


def test_text_table_aligns_columns() -> None:
  table = text_table([["a", "count"], ["long name", "5"]], right=(1,))
  assert table.splitlines() == [
    "a          count",
    "─────────  ─────",
    "long name      5",
  ]


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (0.12345, "0.123"),
    (12, "12"),
    (999.0, "999"),
    (1234, "1.23k"),
    (999_999, "1M"),
    (2.5e12, "2.5T"),
    (-4200.0, "-4.2k"),
    (float("nan"), "nan"),
    ("warm-up", "warm-up"),
  ],
)
def test_humanise(value: float | int | str, text: str) -> None:
  assert humanise(value) == text


class _Clock:
  def __init__(self) -> None:
    self.now = 100.0

  def __call__(self) -> float:
    return self.now


def test_without_a_terminal_a_line_comes_every_ten_seconds(
  capsys: pytest.CaptureFixture[str],
) -> None:
  clock = _Clock()
  bar = progress_bar("embed", 1200, "passages", clock=clock)
  with bar as update:
    for done in range(10, 601, 10):
      clock.now += 0.5
      update(done, loss=2.34567, **{"time/tokens_per_s": 12_345.0})
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 3
  assert lines[0] == (
    "embed: 200/1,200 passages (16%), 0:10, 20 passages/s, 0:50 left, "
    "loss 2.35, tokens/s 12.3k"
  )
  assert lines[-1].startswith("embed: 600/1,200 passages (50%), 0:30,")


def test_the_last_count_is_shown_even_after_an_error(
  capsys: pytest.CaptureFixture[str],
) -> None:
  clock = _Clock()
  with (
    pytest.raises(KeyError),
    progress_bar("mine", clock=clock) as update,
  ):
    update(3)
    raise KeyError("stop")
  assert capsys.readouterr().err == "mine: 3 items, 0:00\n"


def test_a_resumed_run_does_not_count_what_was_done_before(
  capsys: pytest.CaptureFixture[str],
) -> None:
  clock = _Clock()
  bar = progress_bar("train", 2000, "steps", clock=clock)
  with bar as update:
    update(1000)
    clock.now += 10
    update(1010)
  assert "1 steps/s, 16:30 left" in capsys.readouterr().err


def test_a_rate_over_a_moment_is_not_shown(
  capsys: pytest.CaptureFixture[str],
) -> None:
  """225 questions after 9 seconds are not thousands a second."""
  clock = _Clock()
  with progress_bar("read", 400, "questions", clock=clock) as update:
    clock.now += 9
    update(64)
    clock.now += 0.01
    update(225)
  assert capsys.readouterr().err == "read: 225/400 questions (56%), 0:09\n"


def test_of_what_is_over_the_time_is_shown(
  capsys: pytest.CaptureFixture[str],
) -> None:
  clock = _Clock()
  with progress_bar("read", 400, "questions", clock=clock) as update:
    for done in (100, 400):
      clock.now += 4
      update(done)
  assert capsys.readouterr().err == "read: 400/400 questions (100%), 0:08\n"


def test_lines_come_while_nothing_is_done(
  capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
  """As while a first step compiles."""
  monkeypatch.setattr(progress, "_BEAT_SECONDS", 0.01)
  clock, said = _Clock(), ""
  with progress_bar("train", 20, "steps", clock=clock) as update:
    update(0, status="compiling")
    clock.now += 10
    for _ in range(3000):
      time.sleep(0.01)
      if said := capsys.readouterr().err:
        break
  assert said == "train: 0/20 steps (0%), 0:10, compiling\n"


def test_it_serves_as_the_callback_of_a_long_function(
  capsys: pytest.CaptureFixture[str],
) -> None:
  with progress_bar("tokenise") as update:
    for done in (1, 2):
      update(done, 4)
  assert capsys.readouterr().err.startswith("tokenise: 2/4 items (50%)")


def test_on_a_terminal_a_bar_is_drawn(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("COLUMNS", "120")
  clock = _Clock()
  bar = progress_bar("[train]", 10, "steps", clock=clock)
  with bar as update:
    update(5, loss=0.25)
  text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
  assert "[train]" in text
  assert "5/10 steps (50%), 0:00, loss 0.25" in text
  assert "━" in text


def _write_metrics(path: Path, rows: list[dict[str, Any]]) -> Path:
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_smoothing_keeps_a_straight_line_and_calms_noise() -> None:
  line = np.linspace(5.0, 1.0, 200)
  # Away from the ends, where the kernel is whole, there is no lag.
  np.testing.assert_allclose(plots.smooth(line, 4.0)[12:-12], line[12:-12])
  noise = np.random.default_rng(0).normal(size=400)
  assert plots.smooth(noise, 5.0).std() < 0.4 * noise.std()
  constant = np.full(7, 3.0)
  np.testing.assert_allclose(plots.smooth(constant, 2.0), constant)
  np.testing.assert_allclose(plots.smooth(constant[:1], 2.0), [3.0])


def test_loss_plot_has_a_panel_for_each_kind_of_metric(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  drawn: list[Any] = []
  monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
  rows: list[dict[str, Any]] = [{"step": s, "loss": 9.0 / s} for s in (1, 2, 3)]
  rows[1] |= {"dev/recall@1": 0.25, "dev/loss": 2.0, "dev/average_rank": 12.0}
  rows[2] = {"step": 3, "loss": None, "dev/average_rank": 0.5}
  plots.plot_loss(_write_metrics(tmp_path / "m", rows), tmp_path / "loss.png")
  panels = drawn[0].axes
  lines = [[list(x.get_ydata()) for x in panel.lines] for panel in panels]
  assert lines == [[[9.0, 4.5], [9.0, 4.5], [2.0]], [[0.25]], [[12.0, 0.5]]]
  labels = [[t.get_text() for t in panel.texts] for panel in panels]
  assert labels[0] == ["dev 2", "train (smoothed) 4.5"]
  assert labels[1:] == [["recall@1 25.0%"], ["average_rank 0.5"]]


def test_recall_plot_draws_a_bar_per_system_and_cutoff(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  drawn: list[Any] = []
  monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
  rows: list[dict[str, Any]] = [
    {"name": "BM25", "recall": {"1": 0.2, "20": 0.6, "5": 0.4}},
    {"name": "dense", "recall": {"1": 0.3}},
    {"name": "reader only", "em": 0.4},
  ]
  plots.plot_recall(rows, tmp_path / "recall.png")
  (axes,) = drawn[0].axes
  bars = [[bar.get_height() for bar in group] for group in axes.containers]
  assert bars == [[0.2, 0.4, 0.6], [0.3]]
  assert [t.get_text() for t in axes.texts] == ["20.0", "40.0", "60.0", "30.0"]
  ticks = [t.get_text() for t in axes.get_xticklabels()]
  assert ticks == ["recall@1", "recall@5", "recall@20"]
  names = [t.get_text() for t in drawn[0].legends[0].get_texts()]
  assert names == ["BM25", "dense"]


def test_pictures_are_png_files_and_nothing_else_is_left(
  tmp_path: Path,
) -> None:
  metrics = _write_metrics(tmp_path / "m", [{"step": 1, "loss": 1.0}])
  plots.plot_loss(metrics, tmp_path / "loss.png")
  plots.plot_recall(
    [{"name": "BM25", "recall": {"1": 0.2}}], tmp_path / "recall.png"
  )
  for name in ("loss.png", "recall.png"):
    assert (tmp_path / name).read_bytes().startswith(PNG)
  assert len(list(tmp_path.iterdir())) == 3


def test_nothing_to_draw_is_an_error_that_says_so(tmp_path: Path) -> None:
  metrics = _write_metrics(tmp_path / "m", [{"step": 1, "speed": 1.0}])
  with pytest.raises(ValueError, match="nothing to draw"):
    plots.plot_loss(metrics, tmp_path / "loss.png")
  with pytest.raises(ValueError, match="no row has"):
    plots.plot_recall([{"name": "x", "em": 0.1}], tmp_path / "recall.png")
