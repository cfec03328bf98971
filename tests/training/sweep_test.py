"""Sweeps: names, checks before anything begins, seeds, the table, resuming."""

import json
import os
import statistics
import subprocess
import sys

import pytest
from command_line import last_line, run

from odqa_jax.commands import sweep as command
from odqa_jax.runtime.files import read_json
from odqa_jax.training import sweep
from odqa_jax.training.sweep import (
  RESULT,
  member_names,
  sweep_members,
  sweep_rows,
)

RECIPE = """
from odqa_jax.runtime.config import base_config, debug
def get_config(arg=None):
  config = base_config()
  debug(config)
  config.steps = 2
  config.checkpoint.every = 1
  return config
def sweep():
  for rate in (1e-4, 1e-3):
    yield {"optimizer.learning_rate": rate}
"""


@pytest.fixture
def recipe(tmp_path):
  path = tmp_path / "recipe.py"
  path.write_text(RECIPE)
  return path


def changed(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def data_flags(toy_data, questions="toy"):
  return [
    f"--config.data.corpus={toy_data / 'corpus'}",
    f"--config.data.questions={toy_data / 'questions' / 'toy'}",
    f"--config.data.pairs={toy_data / 'pairs' / 'toy'}",
    f"--config.evaluate.questions={toy_data / 'questions' / questions}",
    "--config.evaluate.best=mrr@10",
  ]


def test_names_say_what_is_special():
  names = member_names(
    [
      {"optimizer.learning_rate": 1e-5, "seed": 0},
      {"optimizer.learning_rate": 1e-5, "seed": 1},
      {"init_from": "work/ict", "model.dropout": 0.0, "reader.dropout": 0.1},
      {"init_from": "other/ict", "model.dropout": 0.0, "reader.dropout": 0.1},
      {},
      {"optimizer.multipliers": (("x" * 200, 0.5),)},
    ]
  )
  assert names[0] == "learning_rate=1e-05,seed=0"
  # Leaves of two keys are told apart, and so are paths that end alike.
  assert names[2].startswith("init_from=ict,model.dropout=0.0,reader.dropout=")
  assert len({*names}) == len(names) and names[4] == "default"
  assert all(len(n) < 150 and "/" not in n for n in names)
  with pytest.raises(ValueError, match="2 times"):
    member_names([{"seed": 1}, {"seed": 1}])


def test_seeds_follow_that_of_the_config(recipe):
  members = sweep_members(str(recipe), ["seed=7"], seeds=2)
  assert [m.config.seed for m in members] == [7, 8, 7, 8]
  assert [m.config.optimizer.learning_rate for m in members] == [
    1e-4, 1e-4, 1e-3, 1e-3
  ]  # fmt: skip
  assert members[3].setting == {"optimizer.learning_rate": 1e-3}


@pytest.mark.parametrize(
  ("old", "new", "overrides", "seeds", "message"),
  [
    ("def sweep", "def other", [], None, "has no sweep"),
    ("(1e-4, 1e-3)", "(1e-4, -1)", [], None, "learning_rate=-1:.*at least 0"),
    ("optimizer.learning", "optimizer.lerning", [], None, "did you mean"),
    ('{"optimizer.learning_rate": rate}', "rate", [], None, "yields 0.0001"),
    ("yield", "yield 1 / 0; yield", [], None, r"recipe.py:11: ZeroDivision"),
    ("(1e-4, 1e-3)", "(1e-4, 1e-4)", [], None, "2 times"),
    ('"optimizer.learning_rate"', '"seed"', [], 2, "seeds of its own"),
    ("(1e-4", "(2e-4", ["optimizer.learning_rate=1.0"], None, "sweep varies"),
    (
      "(1e-4", "(2e-4", ["evaluate.questions=data/nq-test"], None,
      r"nq-test: is a test set.*config.evaluate.on_test=True",
    ),
  ],
)  # fmt: skip
def test_all_settings_are_checked_before_the_first_begins(
  recipe, old, new, overrides, seeds, message
):
  changed(recipe, old, new)
  with pytest.raises(ValueError, match=message):
    sweep_members(str(recipe), overrides, seeds=seeds)


def test_a_measure_must_be_that_of_all(recipe):
  changed(
    recipe, '{"optimizer.learning_rate": rate}',
    '{"evaluate.best": f"recall@{5 if rate > 5e-4 else 1}"}',
  )  # fmt: skip
  members = sweep_members(str(recipe), ["evaluate.questions=data/dev"])
  with pytest.raises(ValueError, match="varies what its trainings"):
    sweep.dev_measure(members)
  assert sweep.dev_measure(members[:1]) == "recall@1"


def test_one_task_trains_one_and_is_then_finished(
  recipe, toy_data, tmp_path, capsys, monkeypatch
):
  trained = []

  def train(config, folder, recipe):
    trained.append((config.seed, recipe.config["seed"]))
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
      {"step": 1, "loss": 3.0},
      {"step": 1, "dev/mrr@10": 0.5, "dev/recall@1": 0.25},
      {"step": 2, "loss": 2.0},
      {"step": 2, "dev/mrr@10": 0.4, "dev/recall@1": 0.75},
      {"step": 3, "dev/mrr@10": 0.5, "dev/recall@1": 0.5},
    ]
    lines = (json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text("".join(lines))
    sessions = [{"seconds": 30.0}, {"seconds": 1.5}]
    (folder / "run.json").write_text(json.dumps({"sessions": sessions}))
    return {"seconds": 1.0}

  monkeypatch.setattr(sweep, "train", train)
  flags = ["sweep", "--config", recipe, "--workdir", tmp_path / "work"]
  flags += ["--seeds", 2, *data_flags(toy_data)]
  code, _, err = run(capsys, *flags, "--task", 4)
  assert code == 2 and "--array=0-3" in last_line(err)
  monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
  code, out, err = run(capsys, *flags)
  assert code == 0, err
  figures = json.loads(last_line(out))
  assert figures["name"] == "learning_rate=0.0001,seed=1235"
  assert trained == [(1235, 1234)]
  # Of the checkpoint that is kept: the last of equals, which is not the best in
  # every figure.
  assert figures["dev"] == {"mrr@10": 0.5, "recall@1": 0.5}
  assert figures["figures"]["seconds"] == 31.5
  assert figures["loss"] == 2.0

  assert run(capsys, *flags)[0] == 0 and len(trained) == 1
  code, out, _ = run(capsys, *flags, "--table")
  told = json.loads(last_line(out))
  assert (told["trainings"], told["finished"]) == (4, 1)
  assert told["best"]["values"] == [0.5] and told["best"]["sd"] is None
  # Another setting of all of them is trained for.
  assert run(capsys, *flags, "--config.steps=3")[0] == 0 and len(trained) == 2


@pytest.fixture
def fake(monkeypatch):
  """Trainings that take no time; fails, and stops, where it is told to."""
  ends = {}

  def train(command_line):
    args = [a for a in command_line if not a.startswith("--config.")]
    overrides = [
      a.removeprefix("--config.") for a in command_line if a not in args
    ]
    task = int(args[args.index("--task") + 1])
    if task in ends:
      return ends[task]
    members = sweep_members(
      args[args.index("--config") + 1], overrides, seeds=2
    )
    folder = args[args.index("--workdir") + 1]
    member = members[task]
    path = os.path.join(folder, member.name)
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, RESULT), "w") as file:
      json.dump(
        {
          "overrides": dict(member.overrides),
          "config": json.loads(member.config.to_json()),
          "figures": {"seconds": 2.0},
          "dev": {"mrr@10": [0.2, 0.4, 0.1, 0.3][task]},
          "loss": 1.0,
        },
        file,
      )
    return 0

  monkeypatch.setattr(command, "_in_a_process", train)
  return ends


def test_a_failure_leaves_the_others_and_is_told(
  recipe, toy_data, tmp_path, capsys, fake
):
  flags = ["sweep", "--config", recipe, "--workdir", tmp_path / "work"]
  flags += ["--seeds", 2, *data_flags(toy_data)]
  fake[0] = 2
  code, out, err = run(capsys, *flags)
  told = json.loads(last_line(out))
  failed = "learning_rate=0.0001,seed=1234"
  assert code == 2 and f"1 of 4 trainings failed: {failed}" in last_line(err)
  assert told["finished"] == 3 and told["failed"] == [failed]
  assert told["chosen_on"] == ["toy"]
  # The rest is finished, and only what failed is tried again.
  fake.update({1: 9, 2: 9, 3: 9})
  del fake[0]
  code, out, err = run(capsys, *flags)
  assert code == 0 and err.count("finished before") == 3
  rows = json.loads(last_line(out))["rows"]
  assert [row["mean"] for row in rows] == pytest.approx([0.3, 0.2])
  assert rows[0]["sd"] == pytest.approx(statistics.stdev([0.2, 0.4]))
  assert "*  0.0001                    2/2         0.3" in err
  assert read_json(tmp_path / "work" / "sweep.json")["rows"] == rows


def test_stopping(recipe, toy_data, tmp_path, capsys, fake):
  flags = ["sweep", "--config", recipe, "--workdir", tmp_path / "work"]
  flags += ["--seeds", 2, *data_flags(toy_data)]
  fake[1] = 130
  code, _, err = run(capsys, *flags)
  assert code == 130 and "goes on from there" in last_line(err)
  assert len([*(tmp_path / "work").glob(f"*/{RESULT}")]) == 1
  fake[1] = -9
  code, out, _ = run(capsys, *flags, "--stop-on-failure")
  assert code == 2 and json.loads(last_line(out))["finished"] == 1


def test_no_dev_figure_names_no_best(recipe, tmp_path, capsys, fake):
  flags = ["sweep", "--config", recipe, "--workdir", tmp_path / "work"]
  code, out, err = run(capsys, *flags, "--seeds", 2, "--config.steps=3")
  told = json.loads(last_line(out))
  assert code == 0 and told["measure"] is None and told["best"] is None
  assert "--config.evaluate.questions=SET" in err
  members = sweep_members(str(recipe), ["steps=3"], seeds=2)
  rows = sweep_rows(members, tmp_path / "work", None)
  assert [row["seconds"] for row in rows] == [2.0, 2.0]


@pytest.mark.slow
def test_the_real_command_in_processes(recipe, toy_data, tmp_path):
  flags = ["--config", recipe, "--workdir", tmp_path / "work"]
  flags += data_flags(toy_data)
  line = [sys.executable, "-m", "odqa_jax.main", "sweep", *map(str, flags)]
  environment = os.environ | {"XLA_FLAGS": ""}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  done = subprocess.run(
    line, capture_output=True, text=True, check=True, env=environment
  )
  told = json.loads(done.stdout.splitlines()[-1])
  assert told["finished"] == 2 and len(done.stdout.splitlines()) == 1
  # Programs of the first are there for the second.
  assert any((tmp_path / "work" / "programs").iterdir())
  assert not [*(tmp_path / "work").glob("*/programs")]
