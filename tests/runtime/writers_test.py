"""Metrics at services: order, names, resuming, failures, real libraries."""

import json
import math
import re
from pathlib import Path

import pytest

from odqa_jax.runtime import tracking, writers
from odqa_jax.runtime.interruption import Interrupted
from odqa_jax.runtime.kept_settings import ReportSettings
from odqa_jax.runtime.report import Report
from odqa_jax.runtime.writers import Tracked, check_writers

# What every fake has been told, in order.
SAID: list[tuple] = []


class Fake:
  """A service that records what it is told."""

  def __init__(self, run: Tracked) -> None:
    self.id = run.id or f"run{len(SAID)}"
    SAID.append(("open", self.id, run.project, run.name, dict(run.config)))

  def write(self, step, values):
    SAID.append((step, dict(values)))

  def flush(self):
    SAID.append(("flush",))

  def close(self, *, failed=False):
    SAID.append(("close", failed))


@pytest.fixture
def fake(monkeypatch):
  SAID.clear()
  monkeypatch.setitem(writers.TRACKERS, "wandb", Fake)
  return ReportSettings(writers="csv,wandb", project="p")


def told():
  return [row for row in SAID if isinstance(row[0], int)]


def test_a_service_is_told_what_the_file_has_in_order(tmp_path, fake):
  with Report(tmp_path, fake, resume_step=0, config={"seed": 3}) as report:
    report.write(2, {"loss": 2.5})
    report.write(2, {"dev/recall@20": 0.5})
    report.write(4, {"loss": float("nan")})
    report.flush()
  first, *rows, flushed, closed = SAID
  assert first == ("open", "run0", "p", tmp_path.name, {"seed": 3})
  assert rows[:2] == [(2, {"loss": 2.5}), (2, {"dev/recall@20": 0.5})]
  assert math.isnan(rows[2][1]["loss"])
  assert (flushed, closed) == (("flush",), ("close", False))


def write_steps(workdir, settings, resume, steps):
  with Report(workdir, settings, resume_step=resume) as report:
    for step in steps:
      report.write(step, {"loss": step})


def test_a_killed_run_goes_on_under_its_id_and_sends_nothing_twice(
  tmp_path, fake
):
  with Report(tmp_path, fake, resume_step=0) as report:
    for step in (2, 4, 6):
      report.write(step, {"loss": step})
  # Killed before the dev figures of step 6, and saved at step 2; then again.
  write_steps(tmp_path, fake, 2, (4,))
  with Report(tmp_path, fake, resume_step=2) as report:
    for step in (4, 6, 8):
      report.write(step, {"loss": step, "dev": -step})
  assert {row[1] for row in SAID if row[0] == "open"} == {"run0"}
  sent = [(s, n, v) for s, values in told() for n, v in values.items()]
  assert sent == [
    (2, "loss", 2.0), (4, "loss", 4.0), (6, "loss", 6.0), (6, "dev", -6.0),
    (8, "loss", 8.0), (8, "dev", -8.0),
  ]  # fmt: skip


def test_what_was_trained_without_a_service_is_sent_when_it_is_back(
  tmp_path, fake
):
  alone = ReportSettings(writers="csv")
  write_steps(tmp_path, alone, 0, (2, 4))
  write_steps(tmp_path, fake, 4, (6,))
  write_steps(tmp_path, alone, 6, (8,))
  write_steps(tmp_path, fake, 8, (10,))
  assert [step for step, _ in told()] == [2, 4, 6, 8, 10]


def test_a_run_that_begins_anew_is_another_one(tmp_path, fake):
  write_steps(tmp_path, fake, 0, (2, 4))
  write_steps(tmp_path, fake, 0, (2,))
  assert len({row[1] for row in SAID if row[0] == "open"}) == 2
  assert [step for step, _ in told()] == [2, 4, 2]


def test_only_the_first_process_writes(tmp_path, fake):
  with Report(tmp_path / "work", fake, enabled=False) as report:
    report.write(1, {"loss": 1.0})
    report.flush()
  assert SAID == []
  assert not (tmp_path / "work").exists()


def test_an_error_of_the_run_is_told(tmp_path, fake):
  with pytest.raises(FloatingPointError), Report(tmp_path, fake):
    raise FloatingPointError
  assert SAID[-1] == ("close", True)


def test_a_stop_that_was_asked_for_is_no_failure(tmp_path, fake):
  with pytest.raises(Interrupted), Report(tmp_path, fake):
    raise Interrupted("stopped, saved")
  assert SAID[-1] == ("close", False)


def test_what_was_begun_before_another_fails_is_kept(
  tmp_path, fake, monkeypatch
):
  def refuse(run):
    raise ConnectionError("no server")

  monkeypatch.setitem(writers.TRACKERS, "mlflow", refuse)
  both = ReportSettings(writers="wandb,mlflow", project="p")
  with pytest.raises(ValueError, match="mlflow cannot be opened"):
    Report(tmp_path, both, resume_step=2)
  assert SAID[-1] == ("close", True)
  # It is gone on with, in place of another one.
  write_steps(tmp_path, fake, 2, (4,))
  assert {row[1] for row in SAID if row[0] == "open"} == {"run0"}


def test_a_run_that_began_without_a_service_does_not_take_an_older_ones(
  tmp_path, fake
):
  write_steps(tmp_path, fake, 0, (2, 4))
  write_steps(tmp_path, ReportSettings(writers="csv"), 0, (2, 4))
  write_steps(tmp_path, fake, 4, (6,))
  assert len({row[1] for row in SAID if row[0] == "open"}) == 2
  assert [step for step, _ in told()] == [2, 4, 2, 4, 6]


def test_a_service_that_fails_ends_no_run(tmp_path, fake, monkeypatch, capsys):
  def fail(self, step, values):
    raise ConnectionError("no route\nto host")

  monkeypatch.setattr(Fake, "write", fail)
  write_steps(tmp_path, fake, 0, (2, 4))
  said = capsys.readouterr().err
  assert said.count("wandb: not sent") == 1
  assert "no route to host" in said
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_service_that_does_not_open_is_told_at_once(
  tmp_path, fake, monkeypatch
):
  def refuse(run):
    raise RuntimeError("no key")

  monkeypatch.setitem(writers.TRACKERS, "wandb", refuse)
  with pytest.raises(ValueError, match=r"wandb cannot be opened .*no key"):
    Report(tmp_path, fake, resume_step=0)
  assert not (tmp_path / "metrics.csv").exists()


def test_names_and_extras_are_checked():
  check_writers(ReportSettings(writers=""))
  check_writers(ReportSettings(writers=" csv, tensorboard,csv"))
  with pytest.raises(ValueError, match="did you mean 'wandb'"):
    check_writers(ReportSettings(writers="csv,wandbb"))


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch):
  monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ImportError, match=r"pip install 'odqa_jax\[mlflow\]'"):
    check_writers(ReportSettings(writers="mlflow"))


def test_every_service_has_an_extra():
  setup = (Path(__file__).parents[2] / "setup.cfg").read_text()
  for name in writers.TRACKERS:
    assert re.search(rf"^{name} =$", setup, re.M), name


# ---- The libraries themselves, offline ----

ROWS = [(2, {"loss": 2.5}), (2, {"dev/recall@20": 0.5}), (4, {"loss": 1.5})]


def send(workdir: Path, name: str) -> str:
  """Two parts of a run; returns the id at the service."""
  settings = ReportSettings(writers=name, project="p", name="n")
  config = {"seed": 3}
  with Report(workdir, settings, resume_step=0, config=config) as report:
    for step, values in ROWS:
      report.write(step, values)
  with Report(workdir, settings, resume_step=2, config=config) as report:
    report.write(4, {"loss": 1.5})
    report.write(6, {"loss": 1.0})
  return json.loads((workdir / tracking.FILE).read_text())[name]["id"]


EXPECTED = [
  (2, "dev/recall@20", 0.5), (2, "loss", 2.5),
  (4, "loss", 1.5), (6, "loss", 1.0),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_run(tmp_path, monkeypatch):
  mlflow = pytest.importorskip("mlflow")
  pytest.importorskip("sqlalchemy")
  monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
  run = send(tmp_path / "work", "mlflow")
  client = mlflow.MlflowClient()
  found = client.get_run(run)
  assert found.data.params == {"seed": "3"}
  assert (found.info.run_name, found.info.status) == ("n", "FINISHED")
  sent = [
    (m.step, name.replace("_at_", "@"), m.value)
    for name in found.data.metrics
    for m in client.get_metric_history(run, name)
  ]
  assert sorted(sent) == EXPECTED


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trackio_has_the_run(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
  trackio = pytest.importorskip("trackio")
  from trackio.sqlite_storage import SQLiteStorage

  name = send(tmp_path / "work", "trackio")
  (run,) = trackio.Api().runs("p")
  assert (run.name, run.config["seed"]) == (name, 3)
  sent = [
    (row["step"], key, value)
    for row in SQLiteStorage.get_logs("p", name, run_id=run.id)
    for key, value in row.items()
    if key not in ("step", "timestamp")
  ]
  assert sorted(sent) == EXPECTED
  # Standard output is for the figures of a command.
  assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_has_the_run(tmp_path, monkeypatch):
  wandb = pytest.importorskip("wandb")
  from wandb.proto.wandb_internal_pb2 import Record

  monkeypatch.setenv("WANDB_MODE", "offline")
  run = send(tmp_path / "work", "wandb")
  # Its process may still write; this waits for its end.
  wandb.teardown()
  sent = []
  for path in sorted(
    (tmp_path / "work" / "wandb").glob("offline-run-*/run-*.wandb")
  ):
    assert path.name == f"run-{run}.wandb"
    data, at = path.read_bytes(), 7
    # Records of less than a block of a log of LevelDB: checksum, length, kind.
    while at + 7 <= len(data):
      size = int.from_bytes(data[at + 4 : at + 6], "little")
      record = Record.FromString(data[at + 7 : at + 7 + size])
      at += 7 + size
      row = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for item in record.history.item
      }
      sent += [
        (row["step"], key, value)
        for key, value in row.items()
        if key != "step" and not key.startswith("_")
      ]
  assert sorted(sent) == EXPECTED
