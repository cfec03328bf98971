"""Several recipes in one table: which they are, and what is said of each."""

import json
from pathlib import Path

import pytest

from odqa_jax.main import main
from odqa_jax.plan import recipes as recipes_module
from odqa_jax.plan.recipes import plan_recipes, recipe_configs
from odqa_jax.plan.tables import recipe_table

CONFIGS = Path(__file__).parents[2] / "configs"


def test_all_are_those_whose_sizes_a_plan_can_know():
  found = [Path(c).name for c in recipe_configs(["all"], CONFIGS)]
  expected = {path.name for path in CONFIGS.glob("*.py")} - {"minilm.py"}
  assert set(found) == expected
  assert found == sorted(found)


def test_presets_go_to_every_recipe_that_they_follow():
  found = recipe_configs(["ict:size=large", "all:debug"], CONFIGS)
  assert found[0] == f"{CONFIGS / 'ict.py'}:size=large"
  assert found[1:] == [c + ":debug" for c in recipe_configs(["all"], CONFIGS)]


def test_an_unknown_recipe_is_named_with_the_known_ones(capsys):
  code = main(["plan", "--recipes", "ict", "icd", "--topology", "v5e-8"])
  said = capsys.readouterr().err
  assert code == 2
  assert (
    "--recipes icd: no such file" in said
    and "all, extractive, fid, filter, ict" in said
  )


def program(**changes):
  seconds = {"matmul": 0.5, "memory": 0.25, "network": 0.125}
  return {
    "seconds": seconds, "bound": "matmul", "mfu_bound": 0.75, "per_step": 1.0
  } | changes  # fmt: skip


FITS = {
  "micro_batches": 4,
  "resident": {"total": 12 * 2**30, "fits": True},
  "programs": {
    "train_step": program(),
    # Ten times in a step, 20 ms each: the largest of the three.
    "refresh": program(
      per_step=10.0,
      seconds={"matmul": 0.001, "memory": 0.02, "network": 0.0},
    ),
    "search": program(per_step=0.0),
  },
}


def test_a_line_has_the_limits_of_the_step_and_what_runs_beside_it():
  table = recipe_table({"ict": FITS | {"seconds": 61.4}})
  (line,) = [line for line in table.splitlines() if line.startswith("ict")]
  assert line.split() == [
    "ict", "4", "12.000", "yes", "500.0", "250.0", "125.0", "matmul", "0.75",
    "200.0", "61", "s",
  ]  # fmt: skip


def test_what_cannot_be_planned_is_a_line_with_its_reason(monkeypatch, capsys):
  def plan(config, topology, overrides, options):
    assert (topology, overrides) == ("v5e-8", ["a=1"])
    assert options.programs == "train"
    if config == "large":
      raise ValueError("this run cannot fit 8 devices")
    return FITS

  monkeypatch.setattr(recipes_module, "plan", plan)
  options = recipes_module.Options(1, None, None, 1, 1, "search", None, 1, 1)
  figures = plan_recipes(["base", "large"], "v5e-8", ["a=1"], options)
  assert figures["recipes"]["large"]["refused"].startswith("this run cannot")
  assert figures["recipes"]["base"]["micro_batches"] == 4
  assert all("seconds" in f for f in figures["recipes"].values())
  json.dumps(figures)
  said = capsys.readouterr().err
  assert said.count("large: this run cannot fit 8 devices") == 1
  assert said.index("base") < said.index("large")


def test_one_of_config_and_recipes_is_asked_for(capsys):
  with pytest.raises(SystemExit):
    main(["plan", "--topology", "v5e-8"])
  assert "--config --recipes" in capsys.readouterr().err
