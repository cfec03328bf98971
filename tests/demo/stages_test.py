"""The time that is left follows how fast this machine is."""

from odqa_jax.demo.stages import Stages


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_what_took_longer_makes_the_rest_longer(capsys):
  clock = Clock()
  stages = Stages({"a": 10.0, "b": 30.0, "c": 20.0}, clock=clock)
  assert stages.left() == 60
  with stages("a"):
    clock.now += 20
  assert stages.seconds == {"a": 20.0}
  assert stages.left() == 100
  with stages("b"):
    clock.now += 40
  # Twice, then 4/3 as long as planned: 60 seconds for 40.
  assert stages.left() == 30
  said = capsys.readouterr().err.splitlines()
  assert said == [
    "— 1/3 a   (about 1:00 left)", "— 2/3 b   (about 1:40 left)"
  ]  # fmt: skip


def test_a_moment_says_nothing_of_the_machine():
  """A stage that was done before takes no time."""
  clock = Clock()
  stages = Stages({"a": 10.0, "b": 30.0}, clock=clock)
  with stages("a"):
    clock.now += 0.1
  assert stages.left() == 30


def test_without_a_plan_stages_are_timed_alone(capsys):
  with Stages()("train"):
    pass
  assert capsys.readouterr().err == "— train\n"
