"""Small datasets as TFDS prepares the real ones: same features, same layout.

The features are those of natural_questions_open 1.0.0, squad 3.0.0 (v1.1 and
v2.0), trivia_qa 1.1.0 and web_questions 1.0.0 as `tensorflow_datasets` 4.9
declares them.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

Sequence, Text = tfds.features.Sequence, tfds.features.Text

NQ_OPEN = {"question": np.str_, "answer": Sequence(np.str_)}
_ANSWERS = Sequence({"text": Text(), "answer_start": np.int32})
SQUAD = {
  "id": np.str_,
  "title": Text(),
  "context": Text(),
  "question": Text(),
  "answers": _ANSWERS,
}
WEB_QUESTIONS = {
  "url": Text(),
  "question": Text(),
  "answers": Sequence(Text()),
}
SQUAD_2 = SQUAD | {"plausible_answers": _ANSWERS, "is_impossible": np.bool_}
TRIVIA_QA = {
  "question": Text(),
  "question_id": Text(),
  "question_source": Text(),
  "entity_pages": Sequence(
    {
      name: Text()
      for name in ("doc_source", "filename", "title", "wiki_context")
    }
  ),
  "search_results": Sequence(
    {
      "description": Text(),
      "filename": Text(),
      "rank": np.int32,
      "title": Text(),
      "url": Text(),
      "search_context": Text(),
    }
  ),
  "answer": tfds.features.FeaturesDict(
    {
      "aliases": Sequence(Text()),
      "normalized_aliases": Sequence(Text()),
      "matched_wiki_entity_name": Text(),
      "normalized_matched_wiki_entity_name": Text(),
      "normalized_value": Text(),
      "type": Text(),
      "value": Text(),
    }
  ),
}


def trivia_record(name: str, question: str, value: str, *aliases: str) -> Any:
  return {
    "question": question,
    "question_id": name,
    "question_source": "http://www.example.org/",
    "entity_pages": [],
    "search_results": [],
    "answer": {
      "aliases": list(aliases),
      "normalized_aliases": [a.lower() for a in aliases],
      "matched_wiki_entity_name": "",
      "normalized_matched_wiki_entity_name": "",
      "normalized_value": value.lower(),
      "type": "WikipediaEntity",
      "value": value,
    },
  }


def squad_record(name: str, title: str, context: str, *answers: str) -> Any:
  return {
    "id": name,
    "title": title,
    "context": context,
    "question": f"What of {name}?",
    "answers": [{"text": a, "answer_start": 0} for a in answers],
  }


def prepare(
  data_dir: Path,
  dataset: str,
  features: Any,
  splits: dict[str, Iterable[Any]],
  *,
  config: str = "",
  default: str = "",
  version: str = "1.0.0",
) -> Path:
  """Prepares DATA_DIR/NAME[/CONFIG]/VERSION; returns it.

  TFDS notes the dataset's default configuration; none given: this one.
  """
  names = dict.fromkeys(filter(None, (default, config)))
  configs = [tfds.core.BuilderConfig(name=name) for name in names]

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = dataset
    VERSION = tfds.core.Version(version)
    BUILDER_CONFIGS = configs
    code_path = None

    def _info(self) -> Any:
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager: Any) -> Any:
      return {n: self._generate_examples(r) for n, r in splits.items()}

    def _generate_examples(self, records: Any) -> Iterator[Any]:
      yield from enumerate(records)

  tfds.disable_progress_bar()
  builder = Builder(
    config=config or None, data_dir=str(data_dir), file_format="array_record"
  )
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(download_dir=str(data_dir / "downloads"))
  return Path(builder.data_dir)
