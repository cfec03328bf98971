"""The socket and the server: warm before the port opens.

with bound_socket("127.0.0.1", 8000) as bound:
  serve(app, bound)
"""

import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import uvicorn
from starlette.types import ASGIApp

from odqa_jax.serving.web.worker import GRACE

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The worker has told all who wait by then.
_GRACE_SECONDS = round(GRACE) + 2


def bound_socket(host: str, port: int) -> socket.socket:
  """Takes the port; nobody is heard before the server listens.

  Raises:
    ValueError: if the port is in use, or the host is not this machine's.
  """
  if not 0 <= port <= 65535:
    raise ValueError(f"--port {port}: choose from 0 (any free one) to 65535.")
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  bound = socket.socket(family, socket.SOCK_STREAM)
  # A port of a server that has just ended can be taken at once.
  bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    bound.bind((host, port))
  except OSError as error:
    bound.close()
    if error.errno == errno.EADDRINUSE:
      raise ValueError(
        f"--port {port}: is in use on {host}; choose another, or 0 for any "
        "free one."
      ) from error
    raise ValueError(
      f"--host {host} --port {port}: {error.strerror or error}; name an "
      "address of this machine, and a port that you may take."
    ) from error
  # Else another could take it too, as long as nobody listens.
  bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
  return bound


def allowed_hosts(host: str, more: Sequence[str]) -> list[str]:
  """Names by which the server may be asked: its own, and those given."""
  names = ["localhost", "127.0.0.1", "[::1]", *more]
  if host in ("0.0.0.0", "::"):
    names.append(socket.gethostname())
  elif host not in _LOOPBACK:
    names.append(f"[{host}]" if ":" in host else host)
  return names


def warn_of_others(host: str) -> None:
  """Says on stderr who can ask, where that is not this machine alone."""
  if host not in _LOOPBACK:
    print(
      f"warning: --host {host}: whoever reaches this machine can ask, without "
      "a password or encryption; put a proxy before it that has both.",
      file=sys.stderr,
    )


def address(bound: socket.socket) -> str:
  """What to type into a browser."""
  host, port = bound.getsockname()[:2]
  if host in ("0.0.0.0", "::"):
    host = socket.gethostname()
  return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


class _Server(uvicorn.Server):
  """Tells those who wait before it waits for those who are being answered."""

  def __init__(
    self, config: uvicorn.Config, ending: Callable[[], None]
  ) -> None:
    super().__init__(config)
    self._ending = ending

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    """See `uvicorn.Server`."""
    self._ending()
    await super().shutdown(sockets)


def serve(
  app: ASGIApp, bound: socket.socket, ending: Callable[[], None]
) -> None:
  """Serves until Ctrl-C or SIGTERM; what is being answered may finish.

  Args:
    app: what is served.
    bound: from `bound_socket`.
    ending: called once the end has been asked for.

  Raises:
    KeyboardInterrupt: once it has ended.
  """
  config = uvicorn.Config(
    app,
    # Questions are nobody else's business, not the log's either.
    access_log=False,
    log_level=logging.WARNING,
    server_header=False,
    timeout_graceful_shutdown=_GRACE_SECONDS,
    h11_max_incomplete_event_size=16384,
  )
  bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  before = signal.getsignal(signal.SIGTERM)
  # The server raises the signal again that it ended for.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    _Server(config, ending).run(sockets=[bound])
  finally:
    signal.signal(signal.SIGTERM, before)
