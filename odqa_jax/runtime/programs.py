"""Compiled programs, kept on disk between the runs of commands.

Commands call this, never the library: an import writes nothing. JAX keys what
it keeps on the program, its own version, the flags and the kind of device, to
which on a CPU its instruction sets belong, so a folder may be seen by several
kinds of machine. With several hosts JAX lets the first process write; all of
them read.
"""

import contextlib
import os
import re
import sys
from pathlib import Path

import filelock
import jax

FOLDER = "programs"
# The programs of a run at full size take a tenth of it.
_MAX_BYTES = 2**31
# Of what compiles faster, reading a file saves nothing.
_MIN_SECONDS = 0.05
# As JAX's cache names what it keeps: the program, and when it was last used.
_PROGRAM, _USED, _LOCK = "-cache", "-atime", ".lockfile"


def user_folder() -> Path:
  """Where commands without a workdir keep programs.

  Raises:
    RuntimeError: if the user has no home.
  """
  given = os.environ.get("XDG_CACHE_HOME", "")
  root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
  return root / "odqa_jax" / FOLDER


def keep_programs(workdir: str | None) -> None:
  """Lets this process read and write compiled programs from here on.

  They lie in `WORKDIR/programs`, or in `user_folder()`; where that cannot be
  written they are compiled each time, which is said. Nothing is made before
  the first one is kept, and the least recently used ones go once there are two
  gigabytes of them. Whoever has named a folder to JAX
  (`JAX_COMPILATION_CACHE_DIR`) keeps that, with JAX's other settings.

  Args:
    workdir: of the command; None if it has none.
  """
  if jax.config.values["jax_compilation_cache_dir"] is not None:
    return
  try:
    folder = Path(workdir, FOLDER).absolute() if workdir else user_folder()
  except RuntimeError as error:
    return _do_without(str(error))
  there = next(p for p in (folder, *folder.parents) if p.exists())
  if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
    # A workdir that cannot be written is refused by its command.
    return None if workdir else _do_without(f"{there} cannot be written")
  _remove_torn(folder)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  # With a limit JAX takes a lock, so that no process reads half a file.
  jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)


def _do_without(reason: str) -> None:
  print(
    f"warning: compiled programs are not kept ({reason}); set "
    "JAX_COMPILATION_CACHE_DIR to a folder that can be written.",
    file=sys.stderr,
  )


def _remove_torn(folder: Path) -> None:
  """Removes programs of which a process that was killed wrote a part.

  JAX writes when one was used after the program itself; one without that note
  it could neither read nor replace, and would keep no others.
  """
  if not folder.is_dir():
    return
  lock = filelock.FileLock(folder / _LOCK, timeout=0)
  # Whoever holds the lock is writing one just now.
  with contextlib.suppress(filelock.Timeout, OSError), lock:
    for path in folder.glob(f"*{_PROGRAM}"):
      if not path.with_name(path.name.removesuffix(_PROGRAM) + _USED).exists():
        path.unlink()


def size_thread_pool() -> None:
  """Gives several CPU devices of one process enough threads.

  XLA sizes its pool by the cores it sees. With fewer threads than (fake)
  devices, queued steps wait for each other for ever; with more threads than
  cores, one device alone takes a fifth longer for a step. Must run before JAX
  makes its devices.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  forced = re.findall(r"--xla_force_host_platform_device_count=(\d+)", flags)
  counts = [*forced, os.environ.get("JAX_NUM_CPU_DEVICES", "")]
  if any(count.isdigit() and int(count) > 1 for count in counts):
    os.environ.setdefault("NPROC", "16")
