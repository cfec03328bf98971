"""The parts of a stage as an Apache Beam pipeline.

    odqa prepare … --runner beam
    odqa prepare … --runner "beam:--direct_num_workers=2"

Inputs are laid beside the parts and the pipeline is sent their numbers, so
that the folder must be one that all workers see: a shared file system. What
the options after `beam:` may be is Beam's; its DirectRunner is tested. Not run
here, and given as Beam documents them:

- Flink: `beam:--runner=FlinkRunner --flink_master=HOST:8081
  --environment_type=LOOPBACK`
- Spark: `beam:--runner=SparkRunner --spark_master_url=spark://HOST:7077
  --environment_type=LOOPBACK`
- Dataflow: `beam:--runner=DataflowRunner --project=P --region=R
  --temp_location=gs://B/tmp --sdk_container_image=IMAGE`, where the image has
  this package and the folder mounted (Filestore).
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.data.parts.files import (
  Part,
  Stage,
  input_path,
  part_path,
  read_key,
  read_part,
  write_arrays,
)

# Seconds between two looks at what a pipeline has made.
_LOOK_SECONDS = 1.0


def check_options(options: Sequence[str]) -> tuple[str, ...]:
  """Returns the options of a pipeline.

  Raises:
    ImportError: without the extra `beam`.
    ValueError: if Beam cannot read them.
  """
  _pipeline_options(options)
  return tuple(options)


def _pipeline_options(options: Sequence[str]) -> Any:
  try:
    from apache_beam.options import pipeline_options
  except ImportError as error:
    raise ImportError(
      "--runner beam needs the extra `beam`: pip install 'odqa_jax[beam]'."
    ) from error
  text = " ".join(options)
  if any(not option.startswith("--") for option in options[:1]):
    raise ValueError(
      f"--runner beam:{text}: options of a pipeline begin with --."
    )
  try:
    parsed = pipeline_options.PipelineOptions(list(options))
    parsed.view_as(pipeline_options.StandardOptions)
    parsed.get_all_options()
  # Its parser prints the usage, and ends the process.
  except SystemExit as error:
    raise ValueError(
      f"--runner beam:{text}: no options of a pipeline; Apache Beam says why "
      "above."
    ) from error
  return parsed


def run_beam(
  stage: Stage,
  missing: Iterable[tuple[int, Part]],
  folder: Path,
  options: Sequence[str],
  count: Callable[[int], None],
) -> None:
  """Makes the missing parts in one pipeline.

  Args:
    stage: makes a part.
    missing: numbers and inputs.
    folder: where the parts are kept, for this process and all workers.
    options: of the pipeline.
    count: told the records of every part that is made.
  """
  # Beam wants an absolute path where a worker starts in another folder.
  folder = folder.resolve()
  sizes: dict[int, int] = {}
  for number, part in missing:
    write_arrays(input_path(folder, number), part.arrays, part.key)
    # What an earlier run has made of another input is not this part.
    part_path(folder, number).unlink(missing_ok=True)
    sizes[number] = part.count
    # Nothing is made yet, but it goes on.
    count(0)
  if not sizes:
    return
  with _counting(folder, sizes, count):
    _run_pipeline(stage, folder, sorted(sizes), options)
  for number in sizes:
    input_path(folder, number).unlink()


def _run_pipeline(
  stage: Stage, folder: Path, numbers: Sequence[int], options: Sequence[str]
) -> None:
  import apache_beam as beam

  with beam.Pipeline(options=_pipeline_options(options)) as pipeline:
    numbered = pipeline | "Numbers" >> beam.Create(numbers)
    spread = numbered | "Spread" >> beam.Reshuffle()
    _ = spread | "Make" >> beam.Map(
      functools.partial(_make_numbered, stage, folder)
    )


def _make_numbered(stage: Stage, folder: Path, number: int) -> None:
  source = input_path(folder, number)
  arrays = stage(read_part(source))
  write_arrays(part_path(folder, number), arrays, read_key(source))


@contextlib.contextmanager
def _counting(
  folder: Path, sizes: Mapping[int, int], count: Callable[[int], None]
) -> Iterator[None]:
  """Looks for new parts, since a pipeline does not tell how far it is."""
  waiting = dict(sizes)

  def look() -> None:
    for number in list(waiting):
      if part_path(folder, number).exists():
        count(waiting.pop(number))

  over = threading.Event()

  def watch() -> None:
    while not over.wait(_LOOK_SECONDS):
      look()

  watcher = threading.Thread(target=watch, daemon=True)
  watcher.start()
  try:
    yield
  finally:
    over.set()
    watcher.join()
  look()
