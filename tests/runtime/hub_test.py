"""Names of the Hub, from a cache laid out as `huggingface_hub` writes it."""

import hashlib
import json
import sys

import jax
import pytest
from command_line import last_line, run
from hub_cache import COMMIT, cache_model
from small_retriever import small_encoder

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.models.hf.encoder import save_encoder
from odqa_jax.models.hf.minilm import resolve_folder
from odqa_jax.runtime import hub
from odqa_jax.runtime.files import Damage
from odqa_jax.runtime.settings import read_settings
from odqa_jax.serving.system_folder import part_hash
from odqa_jax.training.contents import origins

huggingface_hub = pytest.importorskip("huggingface_hub")
NAME = "someone/small"


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache; no name is remembered from another."""
  monkeypatch.setattr(
    "huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub")
  )
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  hub._fetched.cache_clear()
  yield tmp_path / "hub"
  hub._fetched.cache_clear()


@pytest.fixture(scope="module")
def encoder_folder(toy_data, tmp_path_factory):
  tokenizer = Corpus(toy_data / "corpus").tokenizer
  encoder = small_encoder(tokenizer.vocab_size)
  folder = tmp_path_factory.mktemp("published") / "encoder"
  save_encoder(
    folder,
    encoder.config,
    encoder.init(jax.random.key(0)),
    tokenizer,
    question_length=32,
    passage_length=64,
  )
  return folder


def weights(folder):
  return folder / "question" / "model.safetensors"


@pytest.mark.parametrize(
  "name", [NAME, f"{NAME}@main", f"{NAME}@{COMMIT}", "small", f"small@{COMMIT}"]
)
def test_a_name_leads_into_the_cache(cache, encoder_folder, name):
  snapshot = cache_model(cache, name.partition("@")[0], encoder_folder)
  assert resolve_folder(name) == snapshot


def test_what_lies_here_is_no_name_of_the_hub(cache, tmp_path, monkeypatch):
  (tmp_path / "work").mkdir()
  monkeypatch.chdir(tmp_path)
  for path in ("work", "work/sup", "./sup", "a/b/c", "vocab.txt", "../x"):
    assert str(resolve_folder(path)) == path.removeprefix("./")


def test_origin_is_the_commit_and_the_hashes(cache, encoder_folder):
  folder = cache_model(cache, NAME, encoder_folder)
  found = hub.origin(folder)
  assert (found["name"], found["revision"]) == (NAME, COMMIT)
  mine = hashlib.sha256(weights(encoder_folder).read_bytes()).hexdigest()
  assert found["files"]["question/model.safetensors"] == mine
  assert hub.origin(encoder_folder) is None


def test_a_flipped_byte_in_the_cache_is_found(cache, encoder_folder):
  folder = cache_model(cache, NAME, encoder_folder)
  content = bytearray(weights(folder).read_bytes())
  content[-1] ^= 1
  weights(folder).resolve().write_bytes(content)
  with pytest.raises(Damage, match=r"sha256 is .* fetch it again"):
    hub.origin(folder)


def test_a_part_stays_the_same_when_other_files_come(cache, encoder_folder):
  folder = cache_model(cache, NAME, encoder_folder)
  before = part_hash(folder)
  (folder / "onnx").mkdir()
  (folder / "onnx" / "config.json").write_text("{}")
  (folder / "README.md").write_text("# small")
  assert part_hash(folder) == before
  (folder / "config.json").write_text("{}")
  assert part_hash(folder) != before


def test_offline_one_line_says_what_to_do(cache, capsys, toy_data, tmp_path):
  code, out, err = run(
    capsys,
    *("index", "--checkpoint", "bert-base-uncasd", "--corpus", toy_data),
    *("--out", tmp_path / "index"),
  )
  assert (code, out, err.count("\n")) == (2, "", 1)
  assert "bert-base-uncasd: neither a folder, nor a model in the cache" in err
  assert "HF_HUB_OFFLINE" in err and "hf download bert-base-uncasd." in err
  assert not list(tmp_path.glob("index*"))


def test_a_proxy_that_refuses_is_one_line(cache, monkeypatch):
  broken = huggingface_hub.errors.HfHubHTTPError.__bases__[0]

  def refuse(*args, **options):
    raise broken("403 Forbidden")

  monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
  with pytest.raises(ValueError, match="the Hub is not reached"):
    resolve_folder(NAME)


def test_a_commit_that_is_there_in_part_is_asked_for(
  cache, encoder_folder, monkeypatch
):
  whole = cache_model(cache, NAME, encoder_folder)
  monkeypatch.setattr(
    "huggingface_hub.snapshot_download", lambda *args, **options: str(whole)
  )
  part = cache_model(cache, "someone/part", encoder_folder)
  (part / "tokenizer.json").unlink()
  assert resolve_folder(f"someone/part@{COMMIT}", weights=False) == whole


def test_without_the_library_the_extra_is_named(cache, monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(ImportError, match=r"no such folder.*odqa_jax\[hub\]"):
    resolve_folder("bert-base-uncased")


def test_pickled_weights_are_not_taken(cache, tmp_path):
  (tmp_path / "old").mkdir()
  (tmp_path / "old" / "config.json").write_text("{}")
  (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
  snapshot = cache_model(cache, NAME, tmp_path / "old")
  with pytest.raises(ValueError, match="no weights in safetensors"):
    resolve_folder(NAME)
  # Of a tokenizer none are needed.
  assert resolve_folder(NAME, weights=False) == snapshot


def test_manifests_name_model_and_revision(
  cache, encoder_folder, toy_data, toy_config, tmp_path, capsys
):
  folder = cache_model(cache, NAME, encoder_folder)
  expected = hub.origin(folder)
  # The tokenizer of a dataset, an index, and a checkpoint.
  passages = tmp_path / "passages.jsonl"
  passages.write_text('{"id": "1", "title": "A", "text": "The red river."}\n')
  code, _, err = run(
    capsys,
    *("prepare", "--corpus", passages, "--tokenizer", NAME),
    *("--out", tmp_path / "data"),
  )
  assert code == 0, err
  record = json.loads((tmp_path / "data/tokenizer/made_from.json").read_bytes())
  assert record == {"origin": expected}
  code, out, err = run(
    capsys,
    *("index", "--checkpoint", NAME, "--corpus", tmp_path / "data"),
    *("--out", tmp_path / "index"),
  )
  assert code == 0, err
  manifest = json.loads((tmp_path / "index/manifest.json").read_bytes())
  assert manifest["made_from"]["origin"] == expected
  assert (
    json.loads(last_line(out))["encoder"] == manifest["made_from"]["encoder"]
  )
  settings = read_settings(toy_config(init_from=NAME))
  assert origins(settings) == {"init_from": expected}
