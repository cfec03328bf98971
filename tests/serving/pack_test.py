"""A system in one file: the same answers, and nothing that is damaged."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import last_line, run
from small_parts import save_extractive_reader, save_parts

from odqa_jax.commands import measured
from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.questions.sets import QuestionSet
from odqa_jax.reading.answer_scoring import AnswerScoring, save_scoring
from odqa_jax.retrieval import storage
from odqa_jax.runtime.files import Damage
from odqa_jax.serving import pack as pack_module
from odqa_jax.serving import pack_parts
from odqa_jax.serving.opening import open_answering
from odqa_jax.serving.pack import PackOptions, contents, pack_system
from odqa_jax.serving.packed import system as system_module
from odqa_jax.serving.packed.__main__ import main as packed_main
from odqa_jax.serving.packed.container import Pack, PackWriter
from odqa_jax.serving.packed.system import open_packed
from odqa_jax.serving.system_folder import assemble, component_version

LOSSY = PackOptions(index="int8", weights="int8", text="tokens", compress=True)


@pytest.fixture(scope="module")
def questions(toy_data):
  return list(QuestionSet(toy_data / "questions" / "toy"))[:6]


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy_data, questions):
  """A system with random weights, its packs, and questions."""
  root = tmp_path_factory.mktemp("pack")
  parts = save_parts(toy_data, root)
  assemble(root / "system", parts)
  assemble(root / "more", parts | {"reranker": root / "reranker"})
  assemble(root / "less", {n: parts[n] for n in [*parts][:3]})
  pack_system(root / "system", root / "exact.odqa", PackOptions())
  pack_system(root / "system", root / "small.odqa", LOSSY)
  records = [
    {"id": q.id, "question": q.question, "answer": list(q.answers)}
    for q in questions
  ]
  text = "".join(json.dumps(r) + "\n" for r in records)
  (root / "q.jsonl").write_text(text)
  return root


def asked(capsys, made, tmp_path, system, *flags):
  """The records that `odqa answer` writes, and its figures."""
  out = tmp_path / f"{Path(system).name}.jsonl"
  code, said, err = run(
    capsys, "answer", "--system", made / system, "--questions",
    made / "q.jsonl", "--out", out, *flags,
  )  # fmt: skip
  assert code == 0, err
  figures = json.loads(last_line(said))
  lines = out.read_text().splitlines()
  return [json.loads(line) for line in lines], figures


def card_of(capsys, made, system):
  """The card of a measurement, after what it printed was read."""
  code, _, err = run(
    capsys, "evaluate", "--system", system, "--questions", made / "q.jsonl",
    "--k", 3, "--card", made / "card.json",
  )  # fmt: skip
  assert code == 0, err
  card = json.loads((made / "card.json").read_text())
  leaky = card["corpus"].get("leaky", False)
  for said in ("in percent, leaky", "leaky: questions"):
    assert (said in err) == leaky
  return card


@pytest.mark.parametrize("flags", [("--k", 9, "--read-k", 4), ("--k", 3)])
def test_a_pack_answers_as_its_system(capsys, made, tmp_path, flags):
  before, figures = asked(capsys, made, tmp_path, "system", *flags)
  after, again = asked(capsys, made, tmp_path, "exact.odqa", *flags)
  del figures["answers"], again["answers"]
  assert figures == again
  for one, other in zip(before, after, strict=True):
    assert len(one["spans"]) == len(other["spans"]) == 10
    for a, b in zip(one["spans"], other["spans"], strict=True):
      for kind in ("scores", "parts"):
        # Sums of float32 in another order.
        assert a.pop(kind) == pytest.approx(b.pop(kind), abs=3e-5)
      assert a == b
    assert one["answer"] == other["answer"]


@pytest.mark.parametrize("weight", [None, 0.4])
def test_how_spans_are_scored_is_packed(
  capsys, made, tmp_path, toy_data, questions, weight
):
  reader = made / "extractive"
  if weight is not None:
    corpus = Corpus(toy_data / "corpus")
    reader = save_extractive_reader(corpus, tmp_path / "dpr", objective="dpr")
  version = component_version(reader)
  scoring = AnswerScoring(weight, 2, 0.5, 0.5, 10, version, "dev questions")
  save_scoring(tmp_path / "scoring.json", scoring)
  parts = {
    "retriever": made / "retriever", "index": made / "index",
    "corpus": toy_data, "extractive_reader": reader,
    "scoring": tmp_path / "scoring.json",
  }  # fmt: skip
  assemble(tmp_path / "system", parts)
  pack_system(tmp_path / "system", tmp_path / "scored.odqa", PackOptions())
  answers, figures = asked(capsys, made, tmp_path, tmp_path / "scored.odqa")
  assert (figures["k"], figures["read_k"]) == (100, 2)
  config = open_packed(tmp_path / "scored.odqa").pack.about["networks"]
  assert config["extractive_reader"]["config"]["rank_weight"] == weight
  wanted, _ = asked(capsys, made, tmp_path, tmp_path / "system")
  texts = [question.question for question in questions]
  for name in ("system", "scored.odqa"):
    opened = open_answering(tmp_path / name).answer(texts)
    for mine, there, one in zip(answers, opened, wanted, strict=True):
      assert len(there["passages"]) == 2
      assert mine["answer"] == there["answer"] == one["answer"]
      assert mine["spans"][0]["scores"] == pytest.approx(
        one["spans"][0]["scores"], abs=3e-5
      )
    # Fewer are found than are best read.
    (alone,) = open_answering(tmp_path / name, k=1).answer(texts[:1])
    assert len(alone["passages"]) == 1
  _, figures = asked(capsys, made, tmp_path, tmp_path / "system", "--k", 1)
  assert figures["read_k"] == 1
  for name in ("system", "scored.odqa"):
    card = card_of(capsys, made, tmp_path / name)
    chosen = card["systems"]["system"]["chosen_on"]
    assert chosen["rank weight and read_k"] == "dev questions"


@pytest.mark.parametrize(
  ("flags", "tuned", "wanted"),
  [
    ((), 7, (100, 7)),
    ((), None, (100, 5)),
    (("--k", "3"), 7, (3, 3)),
    (("--k", "3"), None, (3, 3)),
    (("--read-k", "9"), 7, (100, 9)),
    (("--read-k", "0"), 7, (100, 0)),
    (("--k", "300"), 7, (300, 7)),
  ],
)
def test_the_smallest_system_reads_as_many_as_are_best(
  made, monkeypatch, capsys, flags, tuned, wanted
):
  read = []

  def recorded(self, question, *, k, read_k, most):
    read.append((k, read_k))
    raise ValueError("enough")

  monkeypatch.setattr(system_module.PackedSystem, "read", recorded)
  opened = system_module.open_packed(made / "exact.odqa")
  opened._config["extractive_reader"]["read_k"] = tuned
  monkeypatch.setattr(system_module, "open_packed", lambda path: opened)
  arguments = ["odqa-packed", "exact.odqa", "--question", "who", *flags]
  monkeypatch.setattr("sys.argv", arguments)
  assert packed_main() == 2
  assert capsys.readouterr().err == "odqa-packed: enough\n"
  assert read == [wanted]


def test_a_pack_is_evaluated_as_its_system(capsys, made):
  found = []
  for name in ("system", "exact.odqa"):
    code, out, err = run(
      capsys, "evaluate", "--system", made / name, "--questions",
      made / "q.jsonl", "--k", 7, "--merge", "--card", made / "card.json",
    )  # fmt: skip
    assert code == 0, err
    found.append(json.loads(last_line(out)))
    (system,) = json.loads((made / "card.json").read_text())["systems"].values()
    whole = "not measured" if name.endswith("odqa") else "none, all rows"
    assert system["index"]["loss"].startswith(whole)
  assert found[0] == found[1]
  assert [*found[0]["system"]["read"]] == ["1", "5", "7"]


def test_a_leaky_pack_is_told_to_be_one(capsys, made, monkeypatch):
  system = open_packed(made / "exact.odqa")
  monkeypatch.setattr(measured, "open_packed", lambda path: system)
  assert "leaky" not in card_of(capsys, made, made / "exact.odqa")["corpus"]
  monkeypatch.setitem(system.pack.about, "leaky", True)
  facts = card_of(capsys, made, made / "exact.odqa")["corpus"]
  assert facts["leaky"] and facts["fingerprint"] == system.pack.about["corpus"]


def test_passages_are_what_they_were(made, toy_data):
  corpus = Corpus(toy_data / "corpus")
  exact = open_packed(made / "exact.odqa").texts
  small = open_packed(made / "small.odqa").texts
  assert len(exact) == len(small) == len(corpus)
  for row in (199, 0, 4, 5, 77, 3):
    for name in ("id", "title", "text"):
      assert getattr(exact, name)(row) == getattr(corpus, name)(row)
    assert exact.find(corpus.id(row)) == row
    assert small.find(str(row)) == row
    (tokens,) = small.tokens([row])
    start, stop = corpus.text_offsets[row : row + 2]
    assert [*tokens.ids] == corpus.text_tokens[start:stop].tolist()
    start, stop = corpus.title_offsets[row : row + 2]
    assert [*tokens.title] == corpus.title_tokens[start:stop].tolist()
    assert small.text(row) == corpus.text(row).lower()
    assert small.title(row) == corpus.title(row).lower()
    assert len(tokens.offsets) == len(tokens.ids)
  assert exact.find("none") is small.find("200") is small.find("-1") is None
  for texts in (exact, small):
    for row in (-1, 200):
      with pytest.raises(IndexError, match=f"row {row} of a pack of 200"):
        texts.text(row)


def test_what_is_lost_is_small(made, questions):
  exact = open_packed(made / "exact.odqa")
  small = open_packed(made / "small.odqa")
  for question in questions:
    scores, rows = exact.search(question.question, 200)
    others, found = small.search(question.question, 200)
    known = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    spread = float(scores[0] - scores[-1])
    assert [known[r] for r in found.tolist()] == pytest.approx(
      others.tolist(), abs=0.02 * spread
    )


def test_contents_are_the_file(made):
  sizes = {}
  for name in ("exact.odqa", "small.odqa"):
    sizes[name] = found = contents(made / name)
    assert [*found] == [
      "runtime", "models", "index", "text", "tokenizer", "other"
    ]  # fmt: skip
    assert sum(found.values()) == (made / name).stat().st_size
    assert found["runtime"] == 0
  exact, small = sizes.values()
  assert small["index"] < exact["index"] / 3
  assert small["models"] < exact["models"]


def test_int8_rows_of_an_int8_index_are_kept(made, toy_data, tmp_path):
  """Its residuals and its scales' last bits are what is left out."""
  manifest = storage.read_manifest(made / "index")
  (shard,) = manifest["shards"]
  rows = storage.float_rows(made / "index", manifest, shard)
  pack = Pack(made / "small.odqa")
  codes = pack.array("index/rows").astype(np.float32)
  scales = pack.array("index/scales") * pack.array("index/step")
  off = np.abs(codes * scales[:, None].astype(np.float32) - rows)
  assert (off <= 0.51 * scales[:, None] + 1e-3 * np.abs(rows)).all()


def test_every_flipped_byte_is_found(made, tmp_path):
  for name in ("exact.odqa", "small.odqa"):
    whole = (made / name).read_bytes()
    rng = np.random.default_rng(len(whole))
    path = tmp_path / "flipped.odqa"
    for i in range(200):
      flipped = bytearray(whole)
      place = int(rng.integers(len(whole))) if i >= 96 else i
      flipped[place] ^= 1 << int(rng.integers(8))
      path.write_bytes(flipped)
      with pytest.raises(ValueError, match=r"flipped\.odqa: "):
        Pack(path).verify()


def test_damage_is_found_at_first_use(made, tmp_path, questions):
  """What opens after all must not answer from a block that has changed."""
  for name in ("exact.odqa", "small.odqa"):
    whole = (made / name).read_bytes()
    for part in Pack(made / name).parts.values():
      if not part.bytes:
        continue
      flipped = bytearray(whole)
      flipped[part.offset + part.bytes // 2] ^= 1
      path = tmp_path / "flipped.odqa"
      path.write_bytes(flipped)
      with pytest.raises(Damage, match=f"{part.name}.*checksum"):
        open_packed(path).read(questions[0].question, k=200, read_k=200, most=1)


@pytest.mark.parametrize("size", [0, 5, 70, 4000, -1])
def test_a_pack_that_is_cut_short(capsys, made, tmp_path, size):
  path = tmp_path / "short.odqa"
  path.write_bytes((made / "small.odqa").read_bytes()[:size])
  code, _, err = run(
    capsys, "answer", "--system", path, "--question", "who"
  )  # fmt: skip
  assert code == 2
  (line,) = err.splitlines()
  assert "short.odqa: " in line and "`odqa pack`" in line


def test_a_pack_of_another_version(capsys, made, tmp_path, monkeypatch):
  from odqa_jax.serving.packed import container

  monkeypatch.setattr(container, "VERSION", 2)
  with PackWriter(tmp_path / "new.odqa", {}):
    pass
  monkeypatch.undo()
  code, _, err = run(
    capsys, "answer", "--system", tmp_path / "new.odqa", "--question", "who"
  )
  assert code == 2
  assert "a pack of version 2, and this version of odqa_jax reads " in err


def test_a_pack_larger_than_memory(capsys, made, monkeypatch):
  monkeypatch.setattr(system_module, "total_memory", lambda: 1000)
  code, _, err = run(
    capsys, "answer", "--system", made / "exact.odqa", "--question", "who"
  )
  assert code == 2 and len(err.splitlines()) == 1
  assert "MB of memory, and this machine has 0 MB; answer on a larger" in err


def test_a_container_has_less_memory_than_its_machine(tmp_path, monkeypatch):
  whole = system_module.total_memory()
  limits = tmp_path / "memory.max", tmp_path / "absent"
  monkeypatch.setattr(system_module, "_LIMITS", limits)
  for text, wanted in (("max", whole), ("1000", 1000), (str(2**63), whole)):
    limits[0].write_text(f"{text}\n")
    assert system_module.total_memory() == wanted


def test_a_pack_appears_whole_or_not_at_all(made, tmp_path, monkeypatch):
  out = tmp_path / "s.odqa"
  shutil.copy(made / "exact.odqa", out)
  before = out.read_bytes()

  def fail(*args):
    raise OSError("no space")

  monkeypatch.setattr(pack_module, "add_texts", fail)
  with pytest.raises(OSError, match="no space"):
    pack_system(made / "system", out, PackOptions())
  assert out.read_bytes() == before
  assert os.listdir(tmp_path) == ["s.odqa"]


def test_the_same_system_gives_the_same_pack(made, tmp_path):
  pack_system(made / "system", tmp_path / "again.odqa", LOSSY)
  again = (tmp_path / "again.odqa").read_bytes()
  assert again == (made / "small.odqa").read_bytes()


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (("--index", "int4"), "--index int4: choose of f32, int8"),
    (("--weights", "bf16"), "--weights bf16: choose of f32, f16, int8"),
    (("--system", "more"), "has the part reranker, and a pack has a"),
    (("--system", "less"), "has no extractive_reader, which a pack needs"),
    (("--out", "q.jsonl"), "q.jsonl: exists and is no pack"),
  ],
)
def test_what_is_not_packed(capsys, made, tmp_path, monkeypatch, flags, said):
  monkeypatch.chdir(made)
  given = {"--system": "system", "--out": tmp_path / "s.odqa"}
  given |= {flags[0]: flags[1]}
  code, _, err = run(capsys, "pack", *[x for f in given.items() for x in f])
  assert code == 2 and said in err
  assert not (tmp_path / "s.odqa").exists()


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (("--index", "x"), "has its own index; leave one of the flags out"),
    (("--backend", "host"), "--backend host is not for a pack"),
    (("--exclude-self",), "--exclude-self is not for a pack"),
    (("--k", 0), "--k 0: at least 1 passage is searched for"),
    (("--k", 5, "--read-k", 6), "choose 1 to that number, and --read-k up"),
    (("--spans", 0), "--spans 0: at least 1 is compared"),
    (("--rank-weight", 0), "--rank-weight is not for a pack"),
  ],
)
def test_flags_that_are_not_for_a_pack(capsys, made, flags, said):
  code, _, err = run(
    capsys, "answer", "--system", made / "exact.odqa", "--question", "who",
    *flags,
  )  # fmt: skip
  assert code == 2 and said in err


def test_weights_that_half_precision_does_not_hold(made):
  values = np.array([1e5], np.float32)
  with pytest.raises(ValueError, match="pack with --weights f32"):
    pack_parts._halved("x", values)
