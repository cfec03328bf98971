"""Folders of TFDS, written and read without TensorFlow.

    write_dataset(folder, "toy", "passages", {"id": TEXT, "text": TEXT}, rows)
    read_dataset(folder, "passages")[0]["id"]
    tfds.builder_from_directory(folder).as_data_source("passages")[0]

Records lie in ArrayRecord files, in the order in which they were given; the
same records are the same bytes.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from odqa_jax.runtime.files import Damage, read_json

TEXT = "text"
# A feature: TEXT, a list of one feature, or a mapping of names to features.
Feature = Any
Record = Mapping[str, Any]

INFO = "dataset_info.json"
_READ_AHEAD = 1024


def _tfds_name(name: str) -> str:
  """`name` as TFDS accepts it: lower-case words that begin with a letter."""
  words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
  return words if words[:1].isalpha() else f"dataset_{words}".rstrip("_")


def _tfds_feature(feature: Feature) -> Any:
  import tensorflow_datasets as tfds

  if isinstance(feature, Mapping):
    inner = {name: _tfds_feature(f) for name, f in feature.items()}
    return tfds.features.FeaturesDict(inner)
  if isinstance(feature, list):
    return tfds.features.Sequence(_tfds_feature(feature[0]))
  return tfds.features.Text()


def _builder_class(
  name: str, split: str, features: Feature, records: Iterable[Record]
) -> type:
  """A TFDS builder of these records, kept out of TFDS's global registry."""
  import tensorflow_datasets as tfds

  tfds_name = _tfds_name(name)

  class RecordBuilder(  # type: ignore[call-arg, misc]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
  ):
    """Records in their given order."""

    name = tfds_name
    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look for checksums of downloads beside the class's module, by
    # way of importlib_resources, which it does not declare.
    code_path = None

    def _info(self) -> Any:
      info = tfds.core.DatasetInfo(
        builder=self,
        features=_tfds_feature(features),
        # TFDS would order examples by a hash of their keys.
        disable_shuffling=True,
      )
      # It would look for the set in a bucket, and leave a temporary folder.
      info.initialize_from_bucket = lambda: None
      return info

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      del dl_manager
      return {split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, Record]]:
      yield from enumerate(records)

  return RecordBuilder


def write_dataset(
  directory: Path,
  name: str,
  split: str,
  features: Mapping[str, Feature],
  records: Iterable[Record],
) -> None:
  """Has TFDS write a dataset of one split, streamed.

  Args:
    directory: exists, and holds no dataset yet.
    name: TFDS sees it in lower case with underscores.
    split: the name of the only split.
    features: of a record.
    records: what to write, in this order.
  """
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  # TFDS insists on NAME/VERSION below its data_dir.
  with tempfile.TemporaryDirectory(dir=directory) as work:
    builder = _builder_class(name, split, features, records)(
      data_dir=work, file_format="array_record"
    )
    # TFDS prints notices to stdout, which carries a command's figures.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(download_dir=f"{work}/downloads")
    for file in Path(builder.data_dir).iterdir():
      if ".array_record-" in file.name:
        _order_keys(file, directory / file.name)
      else:
        os.replace(file, directory / file.name)


def _order_keys(source: Path, target: Path) -> None:
  """Copies records with their keys in order.

  TFDS leaves them in the order of a hash table that every process seeds anew,
  so that the same records would be other bytes each time.
  """
  from array_record.python.array_record_module import (
    ArrayRecordReader,
    ArrayRecordWriter,
  )
  from tensorflow_datasets.proto import tf_example_pb2

  reader = ArrayRecordReader(str(source))
  # As TFDS writes them: each record is found by itself.
  writer = ArrayRecordWriter(str(target), "group_size:1")
  count = reader.num_records()
  for start in range(0, count, _READ_AHEAD):
    rows = range(start, min(start + _READ_AHEAD, count))
    for record in reader.read(list(rows)):
      example = tf_example_pb2.Example.FromString(record)
      writer.write(example.SerializeToString(deterministic=True))
  writer.close()
  reader.close()


def splits_of(directory: Path) -> list[str]:
  """The splits of a dataset that can be read without TensorFlow.

  Raises:
    ValueError: if the folder holds no dataset, or records of another kind.
  """
  path = directory / INFO
  if not path.is_file():
    raise ValueError(
      f"{directory}: no dataset of TFDS is in it ({INFO}); name the folder of "
      "one version, such as …/squad/v1.1/3.0.0."
    )
  info = read_json(path)
  kind = info.get("fileFormat", "tfrecord")
  if kind != "array_record":
    raise ValueError(
      f"{directory}: its records are of the kind {kind}, which needs "
      "TensorFlow; prepare the dataset again with --file_format=array_record."
    )
  return [str(split["name"]) for split in info.get("splits", ())]


def read_dataset(directory: Path, split: str) -> Sequence[dict[str, Any]]:
  """The records of a split, read when asked for; text is bytes.

  Raises:
    ValueError: if the folder is no dataset, has no such split, or is damaged.
  """
  import tensorflow_datasets as tfds

  splits = splits_of(directory)
  if split not in splits:
    raise ValueError(
      f"{directory}: no split {split!r}; it has {', '.join(splits)}."
    )
  try:
    builder = tfds.builder_from_directory(str(directory))
    return builder.as_data_source(split)
  except (OSError, RuntimeError, ValueError, KeyError) as error:
    raise Damage(
      f"{directory}: not readable as a dataset of TFDS ({error}); have TFDS "
      "prepare it again."
    ) from error
