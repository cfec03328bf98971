"""Configs: presets, overrides, and what users get wrong."""

import importlib.metadata
import json
from pathlib import Path, PurePosixPath

import pytest

import odqa_jax
from odqa_jax.runtime.config import (
  apply_overrides,
  base_config,
  check_same_config,
  load_config,
  load_sweep,
  parse_arg,
  recipe_folder,
  saved_config,
)

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.py"))


def test_there_are_configs():
  assert {p.stem for p in CONFIGS} >= {"ict", "supervised"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("arg", ["", ":debug", ":size=large"])
def test_every_config_builds_and_is_locked(path, arg):
  config = load_config(f"{path}{arg}")
  assert config.is_locked
  assert ("debug" in arg) == (config.steps <= 20)
  assert set(config.keys()) == set(base_config().keys())


def flat(config, prefix=""):
  values = {}
  for key, value in config.items():
    inner = flat(value, f"{prefix}{key}.") if hasattr(value, "items") else None
    values |= {f"{prefix}{key}": value} if inner is None else inner
  return values


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_debug_changes_sizes_and_nothing_else(path):
  full, small = flat(load_config(str(path))), flat(load_config(f"{path}:debug"))
  changed = {key for key in full if full[key] != small[key]}
  assert changed <= {
    "steps", "batch_size", "micro_batches", "log_every", "checkpoint.every",
    "model.preset", "model.dtype", "reader.preset", "reader.dtype",
    "data.question_length", "data.passage_length", "data.reader_length",
    "retrieval.k", "retrieval.dtype", "retrieval.refresh_every",
    "epochs", "data.passages", "data.pair_length", "data.pool_size",
  }  # fmt: skip
  presets = {"minilm": "init", "shared": "mobilebert-tiny"}
  assert small["model.preset"] == presets.get(path.stem, "tiny")
  assert small["model.dtype"] == small["retrieval.dtype"] == "float32"
  # What memory is free must not decide what ten steps on a laptop give.
  assert small["micro_batches"] == 1
  reads = small["data.source"] in ("answers", "salient")
  sizes = {
    "ict": 16,
    "supervised": 16,
    "reranker": 4,
    "extractive": 4,
    "pruner": 16,
    "unified": 4,
    "shared": 16,
    "filter": 16,
  }
  assert small["batch_size"] == sizes.get(path.stem, 8)
  assert (small["reader.preset"] == "tiny") == reads


# What is common to the paper's two ways of end-to-end training (A.3); steps are
# 10 epochs of 79,168 questions. Lengths and warm-up are this project's choice.
END_TO_END = {
  "steps": 10 * 79_168 // 64,
  "batch_size": 64,
  "optimizer.learning_rate": 2e-5,
  "optimizer.warmup": 0.01,
  "optimizer.weight_decay": 0.1,
  "data.source": "answers",
  "data.question_length": 256,
  "data.passage_length": 256,
  "data.reader_length": 512,
  "data.answer_length": 32,
  "data.reader_title": False,
}
# "Pruning the Index Contents for Memory Efficient Open-Domain QA" and its code;
# what all recipes of the other paper share does not hold for them.
R2D2 = {
  "reranker": {
    "task": "reranker",
    "epochs": 5.0,
    "model.preset": "roberta-base",
    "data.source": "retrieved",
    "data.passages": 24,
    "data.pair_length": 256,
    "optimizer.learning_rate": 2e-5,
  },
  "extractive": {
    "task": "extractive",
    "steps": 200_000,
    "batch_size": 1,
    "model.preset": "electra-large",
    "data.source": "retrieved_spans",
    "data.passages": 128,
    "objective.extractive": "independent",
    "optimizer.learning_rate": 2e-5,
    "optimizer.warmup": 0.1,
    "optimizer.weight_decay": 0.01,
    "optimizer.clip_norm": 5.0,
  },
  "pruner": {
    "task": "pruner",
    "epochs": 2.0,
    "batch_size": 12,
    "model.preset": "electra-base",
    "data.source": "golden",
    "data.random_negatives": 2,
    "optimizer.learning_rate": 3e-5,
  },
}
# "Designing a Minimal Retrieve-and-Read System for Open-Domain QA", A.2; epochs
# are 460 steps of the 58,880 filtered questions.
MINIMAL = {
  # A.1; 9 + 9 passages are 9 examples.
  "filter": {
    "task": "filter",
    "epochs": 1.0,
    "batch_size": 9,
    "model.preset": "base",
    "model.dropout": 0.1,
    "data.source": "found",
    "data.passages": 200,
    "data.frequency_base": 10,
    "data.pool_size": 893 + 9107,
    "data.leaky": False,
    "optimizer.learning_rate": 1e-5,
    "optimizer.warmup_steps": 1000,
    "optimizer.clip_norm": 2.0,
    "checkpoint.every": 2000,
    "evaluate.best": "hit_ratio",
  },
  "unified": {
    "task": "distillation",
    "epochs": 16.0,
    "batch_size": 16,
    "optimizer.learning_rate": 1e-5,
    "optimizer.warmup": 0.0,
    "optimizer.clip_norm": 2.0,
    "data.source": "unified",
    "data.candidates": 200,
    "data.passages": 24,
    "data.pair_length": 350,
    "data.passage_length": 256,
    "model.shared": True,
    "model.pooling": "cls",
    "model.projection": "truncate",
    "model.embedding_dim": 128,
    "objective.scale_multiple": 0.0,
    "unified.temperature": 3.0,
    "unified.retrieval": "teacher",
    "unified.reconstruction": True,
    "evaluate.best": "mean_em",
  },
  "shared": {
    "task": "contrastive",
    "epochs": 40.0,
    "batch_size": 128,
    "model.preset": "mobilebert",
    "model.shared": True,
    "model.passage_type": 1,
    "model.pooling": "cls",
    "model.projection": "truncate",
    "model.embedding_dim": 128,
    "data.source": "pairs",
    "data.question_length": 256,
    "data.passage_length": 256,
    "data.hard_negatives": 0,
    "objective.temperature": 1.0,
    "optimizer.learning_rate": 2e-5,
    "optimizer.warmup": 1237 / (40 * 460),
    "optimizer.clip_norm": 2.0,
  },
}
# "End-to-End Training of Neural Retrievers", Sec. 2 and 3, A.2 and A.3; what it
# leaves open is as the heads of the recipes say.
RECIPES = {
  "ict": {
    "task": "contrastive",
    "steps": 100_000,
    "batch_size": 4096,
    "optimizer.learning_rate": 1e-4,
    "optimizer.warmup": 0.01,
    "optimizer.weight_decay": 0.01,
    "data.source": "ict",
    "data.question_length": 256,
    "data.passage_length": 256,
    "data.hard_negatives": 0,
    "data.keep_query": 0.1,
  },
  "mss": {
    "task": "individual",
    "steps": 100_000,
    "batch_size": 64,
    "optimizer.learning_rate": 2e-5,
    "optimizer.warmup": 0.05,
    "optimizer.weight_decay": 0.01,
    "data.source": "salient",
    "data.question_length": 128,
    "data.passage_length": 256,
    "data.reader_length": 512,
    "data.answer_length": 32,
    "data.reader_title": False,
    "data.spans_per_example": 1,
    # Eight candidates, one of which is the null document.
    "retrieval.k": 7,
    "retrieval.null_document": True,
    "retrieval.refresh": "snapshot",
    "retrieval.refresh_every": 500,
    "objective.marginal": "sequence",
    "objective.passage_encoder": True,
  },
  "supervised": {
    "task": "contrastive",
    "steps": 80 * 58_880 // 128,
    "batch_size": 128,
    "optimizer.learning_rate": 2e-5,
    "optimizer.warmup": 0.01,
    "optimizer.weight_decay": 0.1,
    "data.source": "pairs",
    "data.question_length": 256,
    "data.passage_length": 256,
    "data.hard_negatives": 1,
  },
  "individual": END_TO_END
  | {
    "task": "individual",
    "retrieval.k": 32,
    "retrieval.null_document": False,
    "retrieval.refresh": "snapshot",
    "retrieval.refresh_every": 500,
    "objective.marginal": "sequence",
    "objective.passage_encoder": True,
  },
  "joint": END_TO_END
  | {
    "task": "joint",
    "retrieval.k": 50,
    "retrieval.refresh": "none",
    "objective.passage_encoder": False,
    "objective.bias": "prob",
    "objective.bias_scope": "layer",
    "objective.bias_start": 1.0,
    "objective.bias_learning_rate": 1e-3,
  },
  "fid": END_TO_END
  | {"task": "fid", "retrieval.k": 50, "retrieval.refresh": "none"},
  "minilm": {
    "task": "contrastive",
    "steps": 500,
    "batch_size": 32,
    "optimizer.learning_rate": 2e-5,
    "optimizer.warmup": 0.1,
    "data.source": "pairs",
    "data.question_length": 64,
    "data.passage_length": 256,
    "data.hard_negatives": 1,
    "init_from": "minilm",
    "model.pooling": "mean",
    "model.normalise": True,
    "model.shared": True,
    "model.preset": "init",
    "objective.temperature": 0.05,
  },
}
# Adam's constants and the seed (1234 for all runs of the paper), two encoders
# with [CLS] and τ = sqrt(d) (Sec. 2.1).
ALL_OF_THE_PAPER = {
  "seed": 1234,
  "epochs": 0.0,
  "data.fraction": 1.0,
  "data.title": True,
  "model.preset": "base",
  "model.shared": False,
  "model.pooling": "cls",
  "model.normalise": False,
  "model.dropout": 0.1,
  "objective.scale_multiple": 1.0,
  "objective.temperature": 0.0,
  "optimizer.b1": 0.9,
  "optimizer.b2": 0.999,
  "optimizer.clip_norm": 1.0,
  "optimizer.multipliers": (),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_recipes_have_the_numbers_of_the_paper(path):
  stated = (RECIPES | R2D2 | MINIMAL)[path.stem]
  if path.stem != "minilm" and path.stem in RECIPES:
    stated = ALL_OF_THE_PAPER | stated
    if "reader_length" in path.read_text():
      stated |= {"reader.preset": "base", "reader.dropout": 0.1}
  made = flat(load_config(str(path)))
  assert {name: made[name] for name in stated} == stated


def test_stages_of_the_unified_reader_have_their_tasks():
  path = next(p for p in CONFIGS if p.stem == "unified")
  for stage, task in (("iterative", "iterative"), ("joint", "unified")):
    config = load_config(f"{path}:stage={stage}")
    assert config.task == task and config.epochs == 6.0
  with pytest.raises(ValueError, match="stage='both'; choose of distill"):
    load_config(f"{path}:stage=both")


def test_individual_without_the_passage_encoder_needs_no_fresh_index():
  path = next(p for p in CONFIGS if p.stem == "individual")
  config = load_config(f"{path}:context=false")
  assert not config.objective.passage_encoder
  assert config.retrieval.refresh == "none"


def test_recipes_are_known_by_name_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert load_config("minilm:debug").steps == 10
  with pytest.raises(FileNotFoundError, match="did you mean 'minilm'"):
    load_config("minlm")
  # A file of that name in the folder comes first.
  (tmp_path / "minilm").write_text("broken(")
  with pytest.raises(ValueError):
    load_config("minilm")


def test_a_wheels_recipes_are_found(tmp_path, monkeypatch):
  """Where `odqa_jax` lies in no checkout, its files are asked."""
  recipe = tmp_path / "share" / "odqa_jax" / "configs" / "ict.py"
  recipe.parent.mkdir(parents=True)
  recipe.touch()

  class Listed(PurePosixPath):
    def locate(self):
      return tmp_path / self

  files = [Listed("odqa_jax/main.py"), Listed(recipe.relative_to(tmp_path))]
  monkeypatch.setattr(importlib.metadata, "files", lambda name: files)
  monkeypatch.setattr(odqa_jax, "__file__", str(tmp_path / "a" / "b" / "c.py"))
  assert recipe_folder() == recipe.parent


def test_debug_and_a_size_are_refused():
  with pytest.raises(ValueError, match="size=large,debug: debug makes"):
    load_config("ict:size=large,debug")


def test_parse_arg_reads_types():
  arg = parse_arg("way=up,debug,rate=1", way="on", debug=False, rate=0.5)
  assert (arg.way, arg.debug, arg.rate) == ("up", True, 1.0)


@pytest.mark.parametrize(
  "text, message",
  [
    ("sise=large", "unknown preset 'sise'.*did you mean 'size'"),
    ("size", "preset 'size' needs a value"),
    ("debug=maybe", "debug='maybe' is not a bool"),
  ],
)
def test_parse_arg_errors(text, message):
  with pytest.raises(ValueError, match=message):
    parse_arg(text, size="base", debug=False)


def test_overrides_reach_into_blocks():
  config = base_config().lock()
  apply_overrides(
    config,
    [
      "optimizer.learning_rate=1",
      "model.shared=true",
      "data.corpus=a=b",
      "sharding=fsdp",
      "optimizer.multipliers=(('.*', 0.5),)",
    ],
  )
  assert config.optimizer.learning_rate == 1.0
  assert config.model.shared is True
  assert config.data.corpus == "a=b"
  assert config.sharding == "fsdp"
  assert config.optimizer.multipliers == ((".*", 0.5),)


@pytest.mark.parametrize(
  "item, message",
  [
    ("optimiser.learning_rate=1", "did you mean 'optimizer'"),
    ("optimizer.lerning_rate=1", "did you mean 'learning_rate'"),
    ("steps=many", "config.steps='many' is not a int"),
    ("steps", "--config.steps has no value"),
    ("model=3", "config.model is a block"),
    ("steps.a=3", "unknown config key 'steps.a'"),
  ],
)
def test_override_errors(item, message):
  with pytest.raises(ValueError, match=message):
    apply_overrides(base_config().lock(), [item])


@pytest.mark.parametrize(
  "override, message",
  [
    ("steps=0", "config.steps=0"),
    ("micro_batches=300", "config.micro_batches=300: more parts than"),
    ("data.passage_length=600", "config.model.max_positions=512"),
    ("optimizer.warmup=1.5", "config.optimizer.warmup=1.5"),
  ],
)
def test_validation_names_the_key(override, message):
  path = Path(__file__).parents[2] / "configs" / "supervised.py"
  with pytest.raises(ValueError, match=message):
    load_config(str(path), [override])


def test_missing_file_and_missing_function(tmp_path):
  with pytest.raises(FileNotFoundError, match="no such file"):
    load_config("configs/nothing.py")
  empty = tmp_path / "empty.py"
  empty.write_text("")
  with pytest.raises(ValueError, match="defines get_config"):
    load_config(str(empty))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_saved_configs_are_what_was_saved(path, tmp_path):
  items = ["mesh.data=4", "optimizer.multipliers=(('a', 2.0), ('b', 0.0))"]
  config = load_config(str(path), items)
  with config.unlocked():
    config.mesh.fsdp = 2
  saved = json.dumps(config.to_dict())
  (tmp_path / "config.json").write_text(saved)
  assert saved_config(tmp_path).to_dict() == config.to_dict()
  again = saved_config(tmp_path, ["mesh.fsdp=1", "micro_batches=auto"])
  assert again.mesh.fsdp == 1 and again.micro_batches == "auto"
  with pytest.raises(ValueError, match="did you mean 'steps'"):
    saved_config(tmp_path, ["stepz=3"])


@pytest.mark.parametrize(
  "text, message",
  [
    (None, "no run to go on with"),
    ("{", "is no config of this version"),
    ("[1]", "is no config of this version"),
    ('{"was_once": 3}', "config.was_once is no setting"),
  ],
)
def test_folders_without_a_saved_config(text, message, tmp_path):
  if text is not None:
    (tmp_path / "config.json").write_text(text)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    saved_config(tmp_path)


def test_a_run_of_an_older_version_had_the_defaults_of_what_it_did_not_know():
  config = load_config(str(CONFIGS[0]))
  old = config.to_dict()
  del old["data"]["leaky"], old["unified"]
  check_same_config(old, config)
  with config.unlocked():
    config.data.leaky = True
    config.unified.temperature = 2.0
  with pytest.raises(ValueError) as told:
    check_same_config(old, config)
  assert "config.data.leaky was False and is True" in str(told.value)
  assert "config.unified.temperature was 3.0 and is 2.0" in str(told.value)
  # What the old one has and this one not is no default.
  with pytest.raises(ValueError, match=r"config\.was_once was 3 and is None"):
    check_same_config({**old, "was_once": 3}, load_config(str(CONFIGS[0])))


def test_sweeps_are_read(tmp_path):
  recipe = tmp_path / "recipe.py"
  recipe.write_text("def get_config(arg): ...\n")
  assert load_sweep(f"{recipe}:debug") == []
  recipe.write_text("def sweep():\n  yield {'seed': 1}\n  yield {}\n")
  assert load_sweep(str(recipe)) == [{"seed": 1}, {}]
  rates = [each["optimizer.learning_rate"] for each in load_sweep("minilm")]
  assert rates == [1e-5, 2e-5, 5e-5]
