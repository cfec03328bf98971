"""What the documentation shows works: examples, commands, keys, links."""

import ast
import doctest
import importlib
import re
import runpy
import shlex
from pathlib import Path

import jax
import pytest

import odqa_jax
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.formats.table import FORMATS
from odqa_jax.main import make_parser, split_overrides
from odqa_jax.models.dual_encoder import PRESETS, BertConfig, DualEncoder
from odqa_jax.models.dual_encoder import EncoderConfig as Config
from odqa_jax.models.hf.encoder import save_encoder
from odqa_jax.plan.recipes import recipe_configs
from odqa_jax.runtime.config import load_config

PACKAGE = Path(odqa_jax.__file__).parent
ROOT = PACKAGE.parent
README = ROOT / "README.md"
PAGES = [
  README,
  ROOT / "configs" / "README.md",
  ROOT / "launch" / "README.md",
  PACKAGE / "data" / "README.md",
  ROOT / "tests" / "benchmarks" / "README.md",
]
CONFIGS = sorted(ROOT.glob("configs/*.py"))


# ---- Examples in docstrings ----


def examples(path):
  """(place, docstring) of every docstring with an example.

  Read from the text, since what wraps a function for shape checks hides it
  from `doctest.DocTestFinder`.
  """
  documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, documented) and ">>>" in (
      text := ast.get_docstring(node) or ""
    ):
      yield getattr(node, "name", "module"), text


# Those of the library's names need a model and data: see library_test.py.
EXAMPLES = [
  pytest.param(path, text, id=f"{path.relative_to(PACKAGE)}:{place}")
  for path in sorted(PACKAGE.rglob("*.py"))
  for place, text in examples(path)
  if place not in (*odqa_jax.__all__, "encode")
]


def test_there_are_examples():
  assert len(EXAMPLES) >= 3


@pytest.mark.parametrize(("path", "text"), EXAMPLES)
def test_examples_of_docstrings_run(path, text):
  name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
  module = importlib.import_module(name.removesuffix(".__init__"))
  test = doctest.DocTestParser().get_doctest(
    text, dict(vars(module)), name, str(path), 0
  )
  said = []
  doctest.DocTestRunner().run(test, out=said.append)
  assert test.examples and not said, "".join(said)


def test_the_readmes_five_lines_run(toy_data, tmp_path, monkeypatch, capsys):
  """With random weights in place of a trained retriever."""
  (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
  tokenizer = Corpus(toy_data / "corpus").tokenizer
  size = {"vocab_size": tokenizer.vocab_size}
  config = Config(BertConfig(**PRESETS["tiny"] | size))
  work = tmp_path / "work" / "sup"
  work.parent.mkdir()
  save_encoder(
    work,
    config,
    DualEncoder(config).init(jax.random.key(0)),
    tokenizer,
    question_length=32,
    passage_length=64,
  )
  (tmp_path / "data").symlink_to(toy_data)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "five_lines.py").write_text(code)
  runpy.run_path("five_lines.py")
  printed = capsys.readouterr().out
  assert printed.startswith("Article ")
  assert (tmp_path / "work" / "index" / "manifest.json").is_file()


# ---- Commands ----


def commands(text):
  """The `odqa …` lines of a text, put together, without their comments."""
  for line in re.sub(r"\\\n\s*", "", text).splitlines():
    line = line.strip()
    if line.startswith("odqa ") and "…" not in line and "PATH" not in line:
      yield line


COMMANDS = [
  pytest.param(line, id=f"{path.relative_to(ROOT)}:{line[5:40]}")
  for path in PAGES + CONFIGS
  for line in commands(
    "\n".join(re.findall(r"```bash\n(.*?)```", path.read_text(), re.S))
    if path.suffix == ".md"
    else ast.get_docstring(ast.parse(path.read_text())) or ""
  )
]


def test_there_are_commands():
  assert len(COMMANDS) > 10


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_documentation_are_understood(line):
  rest, overrides = split_overrides(shlex.split(line, comments=True)[1:])
  args = make_parser().parse_args(rest)
  if getattr(args, "recipes", None):
    configs = recipe_configs(args.recipes, ROOT / "configs")
    assert all(load_config(config, overrides) for config in configs)
  elif args.command in ("train", "sweep", "teach", "plan"):
    name, _, presets = args.config.partition(":")
    file = ROOT / name
    load_config(f"{file if file.suffix else name}:{presets}", overrides)
  else:
    assert not overrides


# ---- Completeness ----


@pytest.mark.parametrize(
  ("page", "files"),
  [
    ("configs/README.md", "configs/*.py"),
    ("launch/README.md", "launch/*.s*"),
    ("tests/benchmarks/README.md", "tests/benchmarks/*.[ps]*"),
  ],
)
def test_every_file_is_on_the_page_beside_it(page, files):
  text = (ROOT / page).read_text()
  found = sorted(ROOT.glob(files))
  assert found
  for path in found:
    assert re.search(rf"[`/]{re.escape(path.name)}\b", text), path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page):
  text = page.read_text()
  linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
  for target in linked:
    assert (page.parent / target).exists(), target
  # Files of the package, tests and scripts, as they are written in prose.
  for name in re.findall(
    r"`((?:odqa_jax|configs|launch|tests)/[\w/.]+)`", text
  ):
    assert (ROOT / name).exists(), name


def test_every_format_is_on_the_page_of_data():
  text = (PACKAGE / "data" / "README.md").read_text()
  for name in FORMATS:
    assert f"`{name}`" in text, name


def test_the_readme_is_short():
  assert len(README.read_text().splitlines()) < 300


def test_every_folder_of_the_package_is_in_the_readme():
  folders = {p.parent.relative_to(PACKAGE).parts[0] for p in
             PACKAGE.glob("*/**/*.py")}  # fmt: skip
  for folder in folders:
    assert f"`{folder}/`" in README.read_text(), folder
