"""How commands tell what they do: `odqa --help`, `odqa COMMAND --help`, typos.

Each command has its first lines in the docstring of its file, and an example in
`parser.epilog`. Defaults, and what is required, are added to the help of the
flags here.
"""

import argparse
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

from odqa_jax.runtime.settings import nearest

# What says itself that nothing is chosen.
_NOTHING: tuple[Any, ...] = (None, "", False, argparse.SUPPRESS)
_WHOLE = """\
odqa COMMAND --help has the flags of a command, and an example. In the order of
a first run: prepare, train, index, search, evaluate; then assemble and serve.

  README.md                 the whole way, from raw files to answers
  odqa_jax/data/README.md   formats of corpora and questions
  configs/README.md         recipes, and every setting of odqa train
  launch/README.md          many hosts, Slurm, TPU
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
  """Adds the default of a flag to its help, or that it is required."""

  def _get_help_string(self, action: argparse.Action) -> str | None:
    text = action.help
    if not text or not action.option_strings:
      return text
    if action.required:
      return f"{text} (required)"
    # By identity too: 0 is a default, though it equals False.
    nothing = any(action.default is none for none in _NOTHING)
    if nothing or action.default == [] or "default" in text:
      return text
    return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
  """Says what is wrong with the flags in one line, without the usage.

  Flags are known by their whole names; of another one the nearest is told.

  Attributes:
    commands: names after which the flags are those of another parser.
  """

  def __init__(self, *args: Any, **options: Any) -> None:
    chosen: dict[str, Any] = {
      "formatter_class": Formatter,
      "allow_abbrev": False,
    }
    chosen |= options
    super().__init__(*args, **chosen)
    self.commands: tuple[str, ...] = ()

  def error(self, message: str) -> NoReturn:
    """Exits with code 2."""
    found = re.match(r"argument COMMAND: invalid choice: '(.*?)'", message)
    if found:
      message = (
        f"{found[1]!r} is no command; {nearest(found[1], self.commands)}"
      )
    self.exit(2, f"{self.prog}: {message} See {self.prog} --help.\n")

  def parse_known_args(  # type: ignore[override]
    self,
    args: Sequence[str] | None = None,
    namespace: argparse.Namespace | None = None,
  ) -> tuple[argparse.Namespace, list[str]]:
    """As ever; but a typo is told before what is missing because of it."""
    # Those of groups are among them.
    known = self._option_string_actions
    for argument in args or ():
      if argument == "--" or argument in self.commands:
        break
      name = argument.partition("=")[0]
      if name.startswith("--") and name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {close[0]}?" if close else "."
        self.error(f"{name} is none of its flags{meant}")
    return super().parse_known_args(args, namespace)


def whole_parser(version: str, commands: Mapping[str, ModuleType]) -> Parser:
  """All commands and their flags.

  Args:
    version: of the package.
    commands: name → its module, in the order in which they are listed.
  """
  parser = Parser(
    prog="odqa",
    description="Open-domain question answering in JAX.",
    epilog=_WHOLE,
    formatter_class=functools.partial(Formatter, max_help_position=16),
  )
  parser.commands = tuple(commands)
  add = parser.add_argument
  add("--version", action="version", version=f"odqa_jax {version}")
  several = parser.add_argument_group(
    "several hosts, one process each; see launch/README.md"
  )
  add = several.add_argument
  add("--coordinator", metavar="HOST:PORT", help="of process 0")
  add("--num-processes", type=int, metavar="N", help="of all hosts")
  add("--process-id", type=int, metavar="I", help="of this one, from 0")
  add(
    "--distributed",
    action="store_true",
    help="let JAX read the cluster from Slurm or the TPU runtime",
  )
  listed = parser.add_subparsers(
    dest="command",
    required=True,
    metavar="COMMAND",
    title="commands",
  )
  for name, module in commands.items():
    about = module.__doc__ or ""
    added = listed.add_parser(
      name, help=about.splitlines()[0], description=about
    )
    module.add_flags(added)
    # Some ask for one of their own that keeps the lines of an example.
    added.formatter_class = Formatter
  return parser
