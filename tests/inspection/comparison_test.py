"""Runs side by side: labels, groups of seeds, tables, pictures, refusals."""

import json
from pathlib import Path
from typing import Any

import matplotlib.colors
import numpy as np
import pytest

from odqa_jax.inspection import comparison
from odqa_jax.main import main
from odqa_jax.runtime import curves, plots
from odqa_jax.runtime.config import base_config
from odqa_jax.runtime.report import Report


def training(path: Path, steps: int, *, seed=0, rate=1e-4, slope=0.1) -> str:
  """A workdir whose loss falls; one step in four is measured."""
  with Report(path, resume_step=0) as report:
    for step in range(2, steps + 1, 2):
      report.write(step, {"loss": 5 - slope * step})
      if step % 4 == 0:
        share = 0.5 - abs(step - 8) / 100 + seed / 100
        report.write(step, {"dev/recall@20": share})
  config = base_config()
  config.seed, config.optimizer.learning_rate, config.steps = seed, rate, steps
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  return str(path)


def answers(path: Path, right: str) -> str:
  """Answers of a question for each letter of `right`: "1" where it is right."""
  rows = [
    {
      "id": f"q{i}",
      "question": "which",
      "references": ["red wine"],
      "answer": "red wine" if letter == "1" else "red",
    }
    for i, letter in enumerate(right)
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


# ---- Trainings ----


def test_runs_of_different_length_with_last_and_best(tmp_path, capsys):
  runs = [training(tmp_path / "a", 12), training(tmp_path / "b", 6)]
  out = tmp_path / "out"
  assert main(["compare", *runs, "--out", str(out)]) == 0
  told = capsys.readouterr()
  rows = {(r["metric"], r["run"]): r for r in
          json.loads(told.out)["training"]}  # fmt: skip
  assert list(rows) == [
    (metric, run) for metric in ("loss", "dev/recall@20") for run in "ab"
  ]
  recall = rows["dev/recall@20", "a"]
  assert (recall["best"], recall["at"], recall["steps"]) == (0.5, [8], 12)
  assert recall["last"] == pytest.approx(0.46)
  loss = rows["loss", "b"]
  assert loss["last"] == loss["best"] == pytest.approx(4.4)
  assert loss["at"] == [6]
  assert "46.0%" in told.err and "50.0%" in told.err
  assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
  assert json.loads((out / "comparison.json").read_text())["runs"]
  # It may be written again.
  assert main(["compare", *runs, "--out", str(out)]) == 0


def test_seeds_of_one_config_are_a_line_with_a_band(tmp_path):
  paths = {
    f"{rate}{seed}": training(
      tmp_path / f"{rate}{seed}", 16 - 4 * seed, seed=seed, rate=rate
    )
    for rate in (1e-4, 1e-3)
    for seed in (0, 1, 2)
  }
  for path in paths.values():  # As if all had been begun with as many steps.
    config = Path(path) / "config.json"
    settings = json.loads(config.read_text()) | {"steps": 16}
    config.write_text(json.dumps(settings))
  groups = comparison.grouped(comparison.trainings(paths), by_seed=True)
  assert [len(group.runs) for group in groups] == [3, 3]
  assert [group.label for group in groups] == [
    "0.00010 … 0.00012", "0.0010 … 0.0012",
  ]  # fmt: skip
  points = groups[0].points("dev/recall@20")
  assert points.steps == [4, 8]
  np.testing.assert_allclose(points.mean, [0.47, 0.51])
  np.testing.assert_allclose(points.low, [0.46, 0.5])
  np.testing.assert_allclose(points.high, [0.48, 0.52])
  (row,) = comparison.training_rows(groups[:1], ["dev/recall@20"])
  assert row["best"] == pytest.approx(0.51)
  assert row["best_sd"] == pytest.approx(0.01)
  assert "51.0% ± 1.0%" in comparison.training_table([row], ["dev/recall@20"])
  lines = comparison.curves(groups, ["loss", "dev/recall@20"])
  assert lines[0].label == "0.00010 … 0.00012 (3 seeds)"
  alone = comparison.grouped(comparison.trainings(paths), by_seed=False)
  assert [group.label for group in alone] == list(paths)


def test_a_metric_that_a_run_lacks_is_left_out(tmp_path, capsys):
  first = training(tmp_path / "a", 8)
  second = training(tmp_path / "b", 2)
  assert main(["compare", first, second]) == 0
  rows = json.loads(capsys.readouterr().out)["training"]
  assert [(r["metric"], r["run"]) for r in rows] == [
    ("loss", "a"), ("loss", "b"), ("dev/recall@20", "a"),
  ]  # fmt: skip
  assert main(["compare", first, "--metrics", "dev/recall@2"]) == 2
  assert "did you mean 'dev/recall@20'" in capsys.readouterr().err


def test_labels_tell_runs_apart(tmp_path):
  names = [str(tmp_path / "x" / "run"), str(tmp_path / "y" / "run"), "new=z"]
  assert list(comparison.labels(names)) == ["x/run", "y/run", "new"]
  with pytest.raises(ValueError, match="name each run once"):
    comparison.labels(["a", "b=a"])
  with pytest.raises(ValueError, match="name each run once"):
    comparison.labels(["a", "a/"])
  with pytest.raises(ValueError, match="two of these have one label"):
    comparison.labels(["b=x/a", "y/b"])
  with pytest.raises(ValueError, match="'b' is there twice"):
    comparison.labels(["b=a", "b=c"])


def test_twenty_eight_lines_look_different():
  looks = [plots.look(i) for i in range(28)]
  assert len({(x["color"], str(x["linestyle"])) for x in looks}) == 28


def test_the_legend_has_the_order_of_the_runs(tmp_path, monkeypatch):
  drawn: list[Any] = []
  monkeypatch.setattr(curves, "save", lambda figure, path: drawn.append(figure))
  points = curves.Points([1, 2], [1.0, 2.0], [0.5, 2.0], [1.5, 2.0])
  names = [f"run {i}" for i in range(9)]
  made = [curves.Curve(name, {"loss": points}) for name in names]
  curves.plot_curves(made, ["loss", "absent"], tmp_path / "x.png")
  (figure,) = drawn
  (legend,) = figure.legends
  columns = legend._ncols
  assert 1 < columns < 9
  shown = [text.get_text() for text in legend.get_texts()]
  # Matplotlib fills columns: the rows are read back from them.
  parts = [list(part) for part in np.array_split(np.array(shown), columns)]
  rows = [part[i] for i in range(9) for part in parts if i < len(part)]
  assert rows == names
  (axes,) = figure.axes
  assert len(axes.collections) == 9  # A band each.
  with pytest.raises(ValueError, match="nothing to draw"):
    curves.plot_curves(made, ["absent"], tmp_path / "x.png")


def test_bm25_comes_first_in_the_picture_of_recall(tmp_path, monkeypatch):
  drawn: list[Any] = []
  monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
  names = ["random", "ICT", "BM25", *(f"run {i}" for i in range(6))]
  rows = [{"name": name, "recall": {"1": 0.5}} for name in names]
  plots.plot_recall(rows, tmp_path / "recall.png")
  bars = drawn[0].axes[0].containers
  assert [bar.get_label() for bar in bars][:3] == ["BM25", "random", "ICT"]
  looks = {
    (matplotlib.colors.to_hex(bar[0].get_facecolor()), bar[0].get_hatch())
    for bar in bars
  }
  assert len(looks) == 9


# ---- Results of questions ----


def test_answers_of_the_same_questions_are_compared_in_pairs(tmp_path, capsys):
  first = answers(tmp_path / "first.jsonl", "1111000000")
  second = answers(tmp_path / "second.jsonl", "1111111110")
  assert main(["compare", f"old={first}", second]) == 0
  told = capsys.readouterr()
  rows = json.loads(told.out)["questions"]
  assert [row["name"] for row in rows] == ["old", "second.jsonl"]
  old, new = (row["em"] for row in rows)
  assert (old["value"], new["value"], new["questions"]) == (0.4, 0.9, 10)
  assert new["difference"] == pytest.approx(0.5)
  assert new["p"] == pytest.approx(2 / 2**5)
  assert "+50.0" in told.err


@pytest.mark.parametrize(
  ("runs", "said"),
  [
    (["none"], "there is no such folder"),
    (["folder"], "is no workdir of a training"),
    (["a", "folder"], "is no workdir of a training"),
    (["a", "empty"], "has no metrics yet"),
    (["passages"], "is no result of a question"),
    (["first", "other"], "no question in common"),
    (["first", "--group"], "--group is for workdirs"),
    (["a", "a"], "name each run once"),
  ],
)
def test_bad_input_is_one_clear_line(tmp_path, capsys, runs, said):
  training(tmp_path / "a", 4)
  (tmp_path / "folder").mkdir()
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty" / "metrics.jsonl").write_bytes(b'{"step": 1')
  answers(tmp_path / "first", "10")
  other = Path(answers(tmp_path / "other", "10"))
  other.write_text(other.read_text().replace("q", "z").replace("zue", "que"))
  (tmp_path / "passages").write_text('{"id": "p", "text": "t"}\n')
  named = [r if r[0] == "-" else str(tmp_path / r) for r in runs]
  out = tmp_path / "out"
  assert main(["compare", *named, "--out", str(out)]) == 2
  told = capsys.readouterr().err.splitlines()
  assert said in told[-1]
  assert not out.exists()


def test_somebodys_files_are_not_replaced(tmp_path, capsys):
  run = training(tmp_path / "a", 4)
  out = tmp_path / "out"
  out.mkdir()
  (out / "comparison.json").write_text('{"mine": 1}')
  assert main(["compare", run, "--out", str(out)]) == 2
  assert "is not replaced" in capsys.readouterr().err
  assert list(out.iterdir()) == [out / "comparison.json"]
