"""The token classifier against torch, and its entities against transformers."""

import json
import pickle
import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.spans import Spans
from odqa_jax.main import main
from odqa_jax.models import entity_finder
from odqa_jax.models.bert import BertConfig
from odqa_jax.models.entity_finder import (
  TokenClassifierFinder,
  _entities,
  _parse,
  _windows,
  make_finder,
)
from odqa_jax.models.hf.tensors import BERT, write_tree
from odqa_jax.models.hf.token_classifier import load_token_classifier
from odqa_jax.models.token_classifier import (
  apply_token_classifier,
  init_token_classifier,
)
from odqa_jax.text.tokenizer import Tokenizer
from odqa_jax.text.wordpiece_training import train_wordpiece

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
WORDS = (
  "Ada Lovelace went to Zürich and wrote unbelievable letters, O'Neill's; "
  "nobody re-read them in New York (N.Y.) before 1843."
).split()
SIZES = {"width": 32, "layers": 2, "heads": 4, "mlp_dim": 48}


def texts(count: int, longest: int = 30) -> list[str]:
  rng = random.Random(0)
  return [
    " ".join(rng.choices(WORDS, k=rng.randrange(longest))) for _ in range(count)
  ]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
  return train_wordpiece([" ".join(WORDS)], 80)


def write_folder(
  folder: Path, tokenizer: Tokenizer, positions: int = 64
) -> Path:
  """A classifier with random weights that tell labels apart."""
  tokenizer.save(folder)
  config = BertConfig(
    vocab_size=tokenizer.vocab_size, max_positions=positions, **SIZES
  )
  params = init_token_classifier(config, len(LABELS), jax.random.key(0))
  # Or every token would have the same label.
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), params
  )
  words = params["embeddings"]["word_embeddings"]
  words["embedding"] = 8 * words["embedding"]
  write_tree(
    folder / "model.safetensors",
    params,
    BERT,
    lambda name: name if name.startswith("classifier.") else f"bert.{name}",
  )
  written = {
    "model_type": "bert",
    "architectures": ["BertForTokenClassification"],
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "intermediate_size": config.mlp_dim,
    "max_position_embeddings": positions,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "id2label": {str(i): label for i, label in enumerate(LABELS)},
    "label2id": {label: i for i, label in enumerate(LABELS)},
  }
  (folder / "config.json").write_text(json.dumps(written))
  return folder


@pytest.fixture(scope="module")
def folder(
  tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
  return write_folder(tmp_path_factory.mktemp("ner") / "tiny", tokenizer)


@pytest.mark.torch
def test_logits_are_those_of_torch(folder: Path, tokenizer: Tokenizer) -> None:
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = transformers.BertForTokenClassification.from_pretrained(folder)
  config, params, labels = load_token_classifier(folder)
  assert labels == LABELS
  rng = np.random.default_rng(0)
  ids = rng.integers(5, tokenizer.vocab_size, (5, 20))
  lengths = np.array([20, 3, 11, 1, 7])
  mask = np.arange(20) < lengths[:, None]
  with torch.no_grad():
    want = model.eval()(
      input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)
    ).logits.numpy()
  got = np.asarray(
    apply_token_classifier(
      config, params, jnp.asarray(ids, jnp.int32), jnp.asarray(lengths)
    )
  )
  # Of logits near 10, in float32 through two layers that sum in other orders.
  np.testing.assert_allclose(got[mask], want[mask], atol=1e-4)
  assert np.ptp(want[mask], axis=-1).min() > 0.1


@pytest.mark.torch
def test_entities_are_those_of_the_pipeline(folder: Path) -> None:
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  pipeline = transformers.pipeline(
    "token-classification", model=str(folder), aggregation_strategy="first"
  )
  given = [text for text in texts(80, 12) if text]
  ours = list(TokenClassifierFinder(folder).find(given))
  kinds = set()
  for text, found in zip(given, ours, strict=True):
    expected = [
      (e["start"], e["end"], e["entity_group"]) for e in pipeline(text)
    ]
    assert found == expected, text
    kinds |= {kind for _, _, kind in found}
  assert kinds == {"PER", "LOC", "MISC"}


def test_texts_of_any_length_and_number_are_classified(
  folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
  finder = TokenClassifierFinder(folder)
  given = ["", *texts(70, 12), "", *texts(3, 200)]
  together = list(finder.find(given))
  assert len(together) == len(given) and together[0] == []
  # In other company, and in smaller batches.
  assert together[5] == next(iter(finder.find([given[5]])))
  monkeypatch.setattr(entity_finder, "_BATCH", 3)
  assert list(finder.find(given)) == together
  long = max(given, key=len)
  entities = together[given.index(long)]
  assert entities[-1][1] > 0.9 * len(long) > 300, "its end is read"
  for start, end, _ in entities:
    assert not (long[start - 1 : start].isalnum() and long[start].isalnum())
    assert not (long[end : end + 1].isalnum() and long[end - 1].isalnum())
  assert list(finder.find([])) == []
  again = pickle.loads(pickle.dumps(finder))
  assert again.model == finder.model
  assert finder.types == ("PER", "LOC", "MISC") and finder.alone


def encoding(text: str, *pieces: str) -> tokenizers.Encoding:
  words = [*pieces, *[f"##{c}" for c in "abcdefgh"]]
  vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]
  model = Tokenizer({word: i for i, word in enumerate(vocab)})
  return model.encodings([text])[0]


def grouped(text: str, labels: str) -> list[tuple[str, str]]:
  found = _entities(
    encoding(text, *"jklm"), [_parse(x) for x in labels.split()]
  )
  return [(text[a:b], kind) for a, b, kind in found]


@pytest.mark.parametrize(
  ("labels", "expected"),
  [
    ("O B-X I-X O", [("k l", "X")]),
    ("B-X B-X I-X I-Y", [("j", "X"), ("k l", "X"), ("m", "Y")]),
    ("I-X I-X O I-Y", [("j k", "X"), ("m", "Y")]),
    ("B-X I-Y O O", [("j", "X"), ("k", "Y")]),
    # BIOES and BILOU.
    ("S-X S-X B-X E-X", [("j", "X"), ("k", "X"), ("l m", "X")]),
    ("B-X I-X E-X I-X", [("j k l", "X"), ("m", "X")]),
    ("U-X B-Y L-Y O", [("j", "X"), ("k l", "Y")]),
    # No scheme; and a type with a dash in it.
    ("X X Y-Z O", [("j k", "X"), ("l", "Y-Z")]),
    ("B-WORK-ART I-WORK-ART O O", [("j k", "WORK-ART")]),
    ("O O O O", []),
  ],
)
def test_labels_become_entities_in_every_scheme(
  labels: str, expected: list[tuple[str, str]]
) -> None:
  assert grouped("j k l m", labels) == expected


def test_a_word_has_the_label_of_its_first_piece() -> None:
  text = "jab k"
  pieces = encoding(text, "j", "k")
  assert pieces.tokens == ["j", "##a", "##b", "k"]
  labels = [_parse(x) for x in ("B-X", "O", "B-Y", "O")]
  assert list(_entities(pieces, labels)) == [(0, 3, "X")]


def test_windows_end_between_words() -> None:
  pieces = encoding("j k lab mabcdefg n", *"jklmn")
  words = [0, 1, 2, 2, 2, *[3] * 8, 4]
  assert pieces.word_ids == words
  spans = [(w.start, w.stop) for w in _windows(pieces, 4)]
  # The word of eight pieces fits into no window.
  assert spans == [(0, 2), (2, 5), (5, 9), (9, 13), (13, 14)]
  assert list(_windows(encoding(""), 4)) == [range(0, 0)]


def test_prepare_finds_entities_with_a_folder(
  folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  source = tmp_path / "c.jsonl"
  source.write_text(
    "".join(
      json.dumps({"id": str(i), "title": "t", "text": f"{text} in May 1843."})
      + "\n"
      for i, text in enumerate(texts(12))
    )
  )
  data = tmp_path / "data"
  args = ["prepare", "--corpus", str(source), "--out", str(data)]
  args += ["--vocabulary-size", "120", "--tagger"]
  assert main([*args, str(folder), "--spans"]) == 0
  spans = Spans.open(data / "spans")
  assert spans.manifest["types"] == ["LOC", "MISC", "PER"]
  assert spans.manifest["model"].startswith("tiny ")
  assert main([*args, f"{folder}+dates", "--spans", "DATE"]) == 0
  spans = Spans.open(data / "spans")
  assert spans.manifest["types"] == ["DATE"]
  assert spans.manifest["model"].endswith(" + dates 1")
  corpus = Corpus(data / "corpus")
  for sentence, (_, _, start, end, _) in zip(
    np.repeat(spans.sentences[:, 0], np.diff(spans.entity_offsets)),
    spans.entities.tolist(),
    strict=True,
  ):
    assert corpus.text(int(sentence))[start:end] in ("May 1843", "1843")
  shutil.rmtree(data)
  assert main([*args, str(folder), "--spans", "TOWN"]) == 2
  assert "--spans TOWN: no type of tiny" in capsys.readouterr().err
  assert not data.exists(), "before the corpus is read"
  assert main([*args, "spacey", "--spans"]) == 2
  assert "--tagger spacey: neither spacy, nor" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"id2label": None}, "must name the labels 0, 1 and so on"),
    ({"id2label": {"0": "O", "2": "B-X"}}, "must name the labels 0, 1"),
    (
      {"id2label": {str(i): f"LABEL_{i}" for i in range(7)}},
      r"only numbers the labels \(LABEL_0",
    ),
    ({"id2label": {"0": "O", "1": "B-X"}}, r"(?s)classifier\.weight"),
    ({"model_type": "roberta"}, "model_type='roberta'"),
  ],
)
def test_folders_of_something_else_are_refused(
  folder: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
  other = tmp_path / "other"
  shutil.copytree(folder, other)
  config = json.loads((other / "config.json").read_text())
  (other / "config.json").write_text(json.dumps(config | changes))
  with pytest.raises(ValueError, match=message):
    make_finder(str(other))


def test_a_tokenizer_of_another_model_is_refused(
  folder: Path, tmp_path: Path
) -> None:
  other = tmp_path / "other"
  shutil.copytree(folder, other)
  train_wordpiece([" ".join(WORDS) + "a bb ccc quick brown fox"], 200).save(
    other
  )
  with pytest.raises(ValueError, match="belong to different models"):
    make_finder(str(other))
