"""The page in a browser, with its script."""

import os
import threading
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from fake_system import HOSTILE, Fake

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

import uvicorn

from odqa_jax.serving.web.app import make_app
from odqa_jax.serving.web.metrics import Metrics
from odqa_jax.serving.web.server import bound_socket
from odqa_jax.serving.web.worker import Worker

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

# Where pictures are kept, to be looked at.
PICTURES = os.environ.get("ODQA_PICTURES")


@pytest.fixture
def browser(tmp_path):
  browser = Browser(tmp_path / "profile")
  yield browser
  browser.close()


class Served:
  """The address of systems that are served in a thread."""

  def __init__(self, *systems):
    metrics = Metrics()
    worker = Worker(systems, batch_size=4, queue_size=8, metrics=metrics)
    app = make_app(
      worker,
      metrics,
      hosts=["127.0.0.1"],
      examples=["Which city?", HOSTILE],
    )
    self._bound = bound_socket("127.0.0.1", 0)
    self.url = f"http://127.0.0.1:{self._bound.getsockname()[1]}/"
    config = uvicorn.Config(app, log_level="critical")
    self._server = uvicorn.Server(config)
    self._thread = threading.Thread(
      target=self._server.run, args=([self._bound],)
    )

  def __enter__(self):
    self._thread.start()
    return self.url

  def __exit__(self, *_):
    self._server.should_exit = True
    self._thread.join()
    self._bound.close()


def answered(browser):
  browser.until("!!document.querySelector('.answer')")
  browser.until("!document.querySelector('[aria-busy]')")


def keep(browser, name):
  if PICTURES:
    browser.picture(Path(PICTURES) / f"{name}.png")


def test_a_question_is_typed_and_its_answer_read(browser):
  fake = Fake()
  with Served(fake) as url:
    browser.show(1200, 900)
    browser.go(url)
    assert browser.get("document.activeElement.id") == "question"
    fake.gate.clear()
    browser.type("What is the capital?")
    browser.press("Enter", 13)
    # The first stage is seen before there is an answer.
    browser.until("document.querySelectorAll('.passage').length === 5")
    assert not browser.get("!!document.querySelector('.answer')")
    keep(browser, "stage")
    fake.gate.set()
    answered(browser)
    keep(browser, "answered")
    assert browser.get("document.querySelector('.said').innerText").startswith(
      "Paris"
    )
    assert "q=What%20is%20the%20capital" in browser.get("location.search")
    browser.get("document.querySelector('.mark').click()")
    assert browser.get("document.activeElement.id") == "s1-1"
    for key, focused in {"j": "s1-2", "4": "s1-4", "k": "s1-3"}.items():
      browser.press(key)
      assert browser.get("document.activeElement.id") == focused
    browser.press("/")
    assert browser.get("document.activeElement.id") == "question"
    browser.press("j")
    assert browser.get("document.activeElement.id") == "question"
    browser.press("Escape", 27)
    assert browser.get("document.activeElement.tagName") == "BODY"
    browser.get("history.back()")
    browser.until("!document.querySelector('.answer')")
  assert not browser.errors


def test_hostile_text_runs_nothing(browser):
  fake = Fake(answered=HOSTILE)
  with Served(fake) as url:
    browser.go(url)
    browser.get("window.alert = () => { window.hurt = true }")
    # The second example is hostile.
    browser.get("document.querySelectorAll('.examples a')[1].click()")
    answered(browser)
    said = browser.get("document.querySelector('.said').textContent")
    assert HOSTILE in said
    assert browser.get("document.querySelectorAll('main script').length") == 0
    assert browser.get("document.getElementById('question').value") == HOSTILE
    assert not browser.get("!!window.hurt")
  assert not browser.errors


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_screen(browser, width, dark):
  long = Fake(answered="Donaudampfschifffahrtsgesellschaft" * 5)
  with Served(Fake("one"), long) as url:
    browser.show(width, 844, dark=dark)
    browser.go(f"{url}?q=which%20one")
    answered(browser)
    assert browser.get("document.documentElement.scrollWidth") <= width
    keep(browser, f"two-{width}-{'dark' if dark else 'light'}")
    # Two systems, beside each other where there is room.
    beside = browser.get(
      "new Set([...document.querySelectorAll('.result')].map("
      "x => x.getBoundingClientRect().top)).size"
    )
    assert beside == (1 if width == 1200 else 2)
    paper, ink = (
      browser.get(f"getComputedStyle(document.body).{name}")
      for name in ("backgroundColor", "color")
    )
    assert (sum_of(paper) < sum_of(ink)) == dark
  assert not browser.errors


def sum_of(colour):
  numbers = colour[colour.index("(") + 1 : colour.index(")")]
  return sum(map(float, numbers.split(",")))


def test_a_refusal_is_told(browser):
  with Served(Fake()) as url:
    browser.go(url)
    browser.type("break")
    browser.press("Enter", 13)
    browser.until("!!document.querySelector('.error')")
    said = browser.get("document.querySelector('.error').innerText")
    assert said.startswith("could not be answered")
