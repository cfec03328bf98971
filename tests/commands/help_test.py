"""What every command says of itself: what it does, an example, its flags."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from odqa_jax.main import COMMANDS, main, make_parser, split_overrides
from odqa_jax.runtime.config import load_config

ROOT = Path(__file__).parents[2]


def flags(name):
  """The flags of a command."""
  parser = argparse.ArgumentParser(add_help=False)
  COMMANDS[name].add_flags(parser)
  return parser._actions


def shown(capsys, *args):
  with pytest.raises(SystemExit) as stopped:
    main([*args, "--help"])
  assert stopped.value.code == 0
  return capsys.readouterr().out


@pytest.fixture(autouse=True)
def width(monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_says_what_it_is(capsys, name):
  """If it fails: give `help=` to the flag in commands/NAME.py."""
  text = shown(capsys, name)
  for flag in flags(name):
    called = flag.option_strings[-1] if flag.option_strings else flag.dest
    assert flag.help, f"{called} of odqa {name} has no help"
    assert called in text or flag.metavar in text
    if flag.option_strings and not isinstance(flag.default, bool):
      told = re.sub(r"\s+", "", text)
      if flag.required:
        assert "(required)" in text
      elif flag.default and "default" not in flag.help:
        assert f"(default:{flag.default})" in told, called


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_is_understood(capsys, name):
  """If it fails: `parser.epilog` of commands/NAME.py, as the others have it."""
  text = shown(capsys, name)
  _, _, below = text.partition("\nexample")
  lines = re.sub(r"\\\n\s*", "", below).splitlines()
  examples = [line.strip() for line in lines if f"odqa {name} " in f"{line} "]
  assert examples, f"odqa {name} --help shows no example"
  for line in lines:
    if not line.startswith("  odqa "):
      continue
    command = re.split(r" [<>|] ", line)[0]
    rest, _ = split_overrides(shlex.split(command)[1:])
    make_parser().parse_args(rest)
  for line in below.splitlines():
    assert len(line) <= 80, line


def test_all_commands_are_listed_in_a_line_each(capsys):
  """If it fails: the first line of the docstring of commands/NAME.py."""
  text = shown(capsys)
  listed = re.findall(r"^    (\w+) +(\S.*)$", text, re.M)
  assert [name for name, _ in listed] == list(COMMANDS)
  for name, about in listed:
    first = (COMMANDS[name].__doc__ or "").splitlines()[0]
    assert about == first, f"odqa {name}: {first!r} is too long for a line"
  assert "odqa_jax/data/README.md" in text


@pytest.mark.parametrize(
  ("args", "said"),
  [
    (["serach"], "'serach' is no command; did you mean 'search'?"),
    (["--verison"], "--verison is none of its flags; did you mean --version?"),
    (["search", "--question", "q"], "did you mean --questions?"),
    (["index", "--checkpont=m"], "did you mean --checkpoint?"),
    (["index", "--zzz"], "--zzz is none of its flags. See"),
    # Nothing is taken for the flag that it begins.
    (["train", "--work", "w"], "did you mean --workdir?"),
    (["index", "--dtype", "bf17"], "invalid choice: 'bf17'"),
  ],
)
def test_a_typo_is_told_with_what_was_meant(capsys, args, said):
  with pytest.raises(SystemExit) as stopped:
    main(args)
  err = capsys.readouterr().err
  assert stopped.value.code == 2
  assert said in err and err.count("\n") == 1


@pytest.mark.parametrize(
  ("written", "taken"),
  [
    ("bfloat16", "bf16"),
    ("bf16", "bf16"),
    ("float32", "f32"),
    ("int8", "int8"),
  ],
)
def test_types_are_known_by_both_names(written, taken):
  args = ["index", "--checkpoint", "m", "--corpus", "c", "--out", "o"]
  assert make_parser().parse_args([*args, "--dtype", written]).dtype == taken


@pytest.mark.parametrize("written", ["bf16", "bfloat16"])
def test_settings_know_types_by_both_names_too(written):
  config = load_config(str(ROOT / "configs/ict.py"), [f"model.dtype={written}"])
  assert config.model.dtype == "bfloat16"


def test_settings_may_follow_a_space():
  rest, overrides = split_overrides(
    ["train", "--config.steps", "40", "--config", "c.py", "--config.a.b=-1"]
  )
  assert rest == ["train", "--config", "c.py"]
  assert overrides == ["steps=40", "a.b=-1"]
  assert split_overrides(["--config.steps"]) == ([], ["steps"])


@pytest.mark.parametrize(
  ("typed", "offered"),
  [
    ("odqa se", ["search", "serve"]),
    ("odqa search --questions x --ba", ["--backend"]),
  ],
)
def test_a_shell_is_told_what_may_follow(tmp_path, typed, offered):
  """As argcomplete's own script for bash asks."""
  pytest.importorskip("argcomplete")
  told = tmp_path / "told"
  asked = {
    "_ARGCOMPLETE": "1",
    "_ARGCOMPLETE_STDOUT_FILENAME": str(told),
    "_ARGCOMPLETE_IFS": "\n",
    "COMP_LINE": typed,
    "COMP_POINT": str(len(typed)),
    "COMP_TYPE": "9",
  }
  program = "from odqa_jax.main import main; main()"
  subprocess.run(
    [sys.executable, "-c", program], env=os.environ | asked, check=True
  )
  assert told.read_text().split() == offered
