"""Chromium without a window, driven over a pipe by its DevTools protocol."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_SECONDS = 60


class Browser:
  """One page; `errors` has what its console complains of."""

  def __init__(self, profile: Path) -> None:
    assert CHROMIUM
    theirs, self._to = os.pipe()
    self._from, answers = os.pipe()
    # It reads descriptor 3 and writes to 4.
    script = f'exec "$@" 3<&{theirs} 4>&{answers}'
    flags = [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
      "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    self._process = subprocess.Popen(
      ["bash", "-c", script, "bash", CHROMIUM, *flags],
      pass_fds=(theirs, answers),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    os.close(answers)
    self._numbers, self._rest = itertools.count(1), b""
    self._session = None
    self.errors: list[str] = []
    target = self._call("Target.createTarget", url="about:blank")["targetId"]
    attached = self._call(
      "Target.attachToTarget", targetId=target, flatten=True
    )
    self._session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log"):
      self._call(f"{domain}.enable")

  def _read(self) -> dict:
    while b"\0" not in self._rest:
      ready, _, _ = select.select([self._from], [], [], _SECONDS)
      assert ready, "the browser does not answer"
      self._rest += os.read(self._from, 1 << 16)
    message, self._rest = self._rest.split(b"\0", 1)
    return json.loads(message)

  def _call(self, method: str, **params):
    number = next(self._numbers)
    message = {"id": number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._to, json.dumps(message).encode() + b"\0")
    while True:
      said = self._read()
      if said.get("id") == number:
        assert "error" not in said, said
        return said["result"]
      self._note(said)

  def _note(self, said: dict) -> None:
    params = said.get("params", {})
    if said.get("method") == "Log.entryAdded":
      self.errors.append(params["entry"]["text"])
    elif said.get("method") == "Runtime.exceptionThrown":
      self.errors.append(json.dumps(params["exceptionDetails"]))

  def go(self, url: str) -> None:
    self._call("Page.navigate", url=url)
    self.until("document.readyState === 'complete' && location.port !== ''")

  def get(self, expression: str):
    """The value of an expression in the page."""
    found = self._call(
      "Runtime.evaluate", expression=expression, returnByValue=True
    )
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")

  def until(self, expression: str) -> None:
    end = time.monotonic() + _SECONDS
    while not self.get(expression):
      assert time.monotonic() < end, f"never: {expression}"
      time.sleep(0.02)

  def type(self, text: str) -> None:
    self._call("Input.insertText", text=text)

  def press(self, key: str, code: int = 0) -> None:
    """A key; of one that makes a character, that character."""
    text = {"text": "\r" if key == "Enter" else key}
    if key == "Escape":
      text = {}
    for kind in ("keyDown", "keyUp"):
      self._call(
        "Input.dispatchKeyEvent",
        type=kind,
        key=key,
        windowsVirtualKeyCode=code,
        **(text if kind == "keyDown" else {}),
      )

  def show(self, width: int, height: int, *, dark: bool = False) -> None:
    """Sets the size of the window, and what its user likes."""
    self._call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=width < 600,
    )
    likes = {
      "name": "prefers-color-scheme",
      "value": "dark" if dark else "light",
    }
    self._call("Emulation.setEmulatedMedia", features=[likes])

  def picture(self, path: Path) -> None:
    data = self._call("Page.captureScreenshot", format="png")["data"]
    path.write_bytes(base64.b64decode(data))

  def close(self) -> None:
    os.close(self._to)
    os.close(self._from)
    self._process.terminate()
    self._process.wait()
