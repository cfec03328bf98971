"""Runs a command as a user does, within this process."""

from odqa_jax.main import main


def run(capsys, *args: object) -> tuple[int, str, str]:
  code = main([str(a) for a in args])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def last_line(text: str) -> str:
  return text.strip().splitlines()[-1]
