"""The page of a run: what it says, and that no text of a run is markup."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from odqa_jax.inspection.report.charts import line_chart, number
from odqa_jax.inspection.report.elements import (
  MARK,
  clean,
  document,
  element,
)
from odqa_jax.inspection.report.page import duration, run_page
from odqa_jax.inspection.report.workdir import is_share, read_workdir
from odqa_jax.main import main
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.report import Report
from odqa_jax.runtime.run_record import RunRecord, read_record

HOSTILE = '</style><script>alert(1)</script><img src=x onerror="a">\x00\x1b[2J'


class Tags(HTMLParser):
  """Every tag of a page, and its text by the tag that it stands in."""

  def __init__(self, page: bytes) -> None:
    super().__init__()
    self.tags: list[str] = []
    self.attributes: set[str] = set()
    self.text = ""
    self.feed(page.decode())

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes |= {name for name, _ in attrs}

  def handle_data(self, data):
    self.text += f" {data}"


def workdir(path: Path, *, steps=10, name=HOSTILE) -> Path:
  """A run with dev figures, its settings and record."""
  with Report(path, resume_step=0) as report:
    for step in range(2, steps + 1, 2):
      report.write(step, {"loss": 5 - step / 10, "learning_rate": 1e-5})
    report.write(steps, {"dev/recall@20": 0.25, "dev/loss": 4.0})
  config = base_config()
  recipe = config.to_dict()
  config.steps, config.init_from = 10, name
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  about = {
    "steps": 10,
    "recipe": {"name": f"configs/{name}.py", "config": recipe},
    "data": [
      {
        "key": "data.corpus",
        "names": name,
        "fingerprint": "ab" * 32,
        "counts": {"count": 1234},
      }
    ],
    "parameters": 1000,
  }
  record = RunRecord(path, step=0, about=about)
  record.update(10, "finished" if steps == 10 else "")
  return path


def result_files(path: Path) -> tuple[Path, Path]:
  """Answers and a run of four questions, one of them right."""
  run, answers = [], []
  for i in range(4):
    text = f"It is {HOSTILE} here" if i else "It is Ulm here."
    answer = "Ulm" if i == 0 else f"no {HOSTILE}"
    run.append(
      {
        "id": f"q{i}",
        "question": f"where {i} {HOSTILE}",
        "answers": ["ulm"],
        "ctxs": [
          {"id": "a", "title": HOSTILE, "text": text, "has_answer": i == 0},
          {"id": "b", "title": "", "text": "Ulm", "has_answer": i < 2},
        ],
      }
    )
    answers.append(
      {
        "id": f"q{i}",
        "question": f"where {i} {HOSTILE}",
        "references": ["ulm"],
        "answer": answer,
        "spans": [{"text": answer, "passage": "a", "start": 6, "end": 9}],
      }
    )
  (path / "run.json").write_text(json.dumps(run))
  lines = "".join(json.dumps(a) + "\n" for a in answers)
  (path / "answers.jsonl").write_text(lines)
  return path / "run.json", path / "answers.jsonl"


def test_the_page_tells_the_run_and_hostile_text_stays_text(tmp_path, capsys):
  work = workdir(tmp_path / "work")
  run, answers = result_files(tmp_path)
  out = tmp_path / "page.html"
  flags = ["--run", str(run), "--answers", str(answers), "--out", str(out)]
  assert main(["report", str(work), *flags]) == 0
  told = json.loads(capsys.readouterr().out)
  assert told["state"] == "finished" and told["questions"] == 4
  page = out.read_bytes()
  read = Tags(page)
  assert "script" not in read.tags and "img" not in read.tags
  assert "onerror" not in read.attributes and "src" not in read.attributes
  assert read.tags.count("style") == 1
  assert b"\x00" not in page and b"\x1b" not in page
  # Nothing is loaded.
  assert b"http://" not in page and b"https://" not in page
  text = " ".join(read.text.split())
  for said in (
    "step 10 of 10, finished",
    "best dev/recall@20 25.0%",
    "1 of 4 answered right (25.0% exact match)",
    "1 1 1 0 100.0%",  # The first passage answers: one question, right.
    "2–5 1 0 1 0.0%",
    "none found 2 0 2 0.0%",
    "<script>alert(1)</script>",
    "1,234",
    "abababababababab",
    "config.steps 1000 1000 10",
  ):
    assert said in text, said
  assert ">Ulm</mark>" in page.decode()
  # It may be written again, and nothing else may.
  assert main(["report", str(work), "--out", str(out)]) == 0


def test_a_run_that_goes_on_and_one_of_an_older_version(tmp_path):
  work = workdir(tmp_path / "work", steps=6, name="x")
  run = read_workdir(work)
  assert (run.step, run.steps, run.state) == (6, 10, "running, or killed")
  # Killed within a row.
  with (work / "metrics.jsonl").open("ab") as file:
    file.write(b'{"step": 8, "lo')
  for name in ("run.json", "config.json"):
    run = read_workdir(work)
    assert run.step == 6
    assert b"Not known" in run_page(run, []) or name == "run.json"
    (work / name).unlink()
  assert b"task unknown" in run_page(read_workdir(work), [])


@pytest.mark.parametrize(
  ("made", "said"),
  [
    ("nothing", "there is no such folder"),
    ("folder", "is no workdir of a training"),
    ("empty", "has no metrics yet"),
    ("torn", "has no metrics yet"),
    ("damaged", "metrics.jsonl:1: no metrics row"),
  ],
)
def test_what_is_no_run_is_one_clear_line(tmp_path, capsys, made, said):
  work = tmp_path / "work"
  content = {"empty": b"", "torn": b'{"st', "damaged": b"{}\n"}
  if made != "nothing":
    work.mkdir()
  if made in content:
    (work / "metrics.jsonl").write_bytes(content[made])
  out = tmp_path / "page.html"
  assert main(["report", str(work), "--out", str(out)]) == 2
  told = capsys.readouterr().err
  assert said in told and len(told.splitlines()) == 1
  assert not out.exists()


def test_a_file_of_somebodys_is_not_replaced(tmp_path, capsys):
  work = workdir(tmp_path / "work")
  out = tmp_path / "mine.html"
  out.write_text("<!DOCTYPE html>mine")
  assert main(["report", str(work), "--out", str(out)]) == 2
  assert "is not replaced" in capsys.readouterr().err
  assert out.read_text() == "<!DOCTYPE html>mine"


def test_a_file_of_results_that_is_none_is_told(tmp_path, capsys):
  work = workdir(tmp_path / "work")
  run, answers = result_files(tmp_path)
  for flags in (["--run", str(answers)], ["--answers", str(run)]):
    assert main(["report", str(work), *flags]) == 2
    assert "is no result of a question" in capsys.readouterr().err
  assert not (work / "report.html").exists()


def test_text_is_escaped_wherever_it_stands():
  page = document("<b>", [element("p", "a<b", element("i"), "c&d", id='"')])
  assert page.startswith(MARK.encode())
  assert b'<p id="&quot;">a&lt;b<i></i>c&amp;d</p>' in page
  assert b"<title>&lt;b&gt;</title>" in page
  assert clean("a\x00\n\ud800") == "a␣\n␣"


def test_a_chart_holds_its_line():
  steps = list(range(1000))
  chart = line_chart("x", {"a": (steps, [float(s) for s in steps])})
  (path,) = [e for e in chart.iter("path")]
  numbers = path.get("d").removeprefix("M").replace("L", " ").split()
  across, down = numbers[::2], numbers[1::2]
  assert len(across) == 300
  assert all(46 <= float(x) <= 350 for x in across)
  assert all(8 <= float(y) <= 166 for y in down)
  assert sorted(map(float, down), reverse=True) == list(map(float, down))
  # One value, at one step, that never changes.
  assert line_chart("x", {"a": ([5], [0.0])}).tag == "figure"


def test_figures_in_few_digits():
  assert [number(v) for v in (None, 0.0, 2e-5, 0.12345, 1234.5, 4e10)] == [
    "–", "0", "2.000e-5", "0.1235", "1,234", "4e+10",
  ]  # fmt: skip
  assert number(0.1234, percent=True) == "12.3%"
  assert [duration(s) for s in (3.21, 75, 7325)] == [
    "3.21 s", "1 min 15 s", "2 h 02 min",
  ]  # fmt: skip
  assert is_share("dev/recall@20", [0.0, 1.0])
  assert not is_share("learning_rate", [1e-5])
  assert not is_share("dev/gold", [1.5])
  assert not is_share("dev/passage_entropy", [0.4])


def test_the_record_has_a_session_for_each_part_of_a_run(tmp_path):
  RunRecord(tmp_path, step=0, about={"seed": 3}).update(5)
  RunRecord(tmp_path, step=5, about={"steps": 9}).update(9, "finished")
  record = read_record(tmp_path)
  told = [(s["from_step"], s["to_step"], s["ended"]) for s in
          record["sessions"]]  # fmt: skip
  assert told == [(0, 5, ""), (5, 9, "finished")]
  assert (record["seed"], record["steps"]) == (3, 9)
  assert record["sessions"][0]["hardware"]["processes"] == 1
  # A run that begins anew forgets them.
  RunRecord(tmp_path, step=0, about={})
  assert len(read_record(tmp_path)["sessions"]) == 1
  RunRecord(tmp_path / "no", step=0, about={}, enabled=False).update(1)
  assert not (tmp_path / "no").exists()
