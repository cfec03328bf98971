"""Answers questions: typed, from a pipe, or a whole set.

Without --question and --questions it asks for them.
"""

import argparse
from typing import Any

from odqa_jax.commands.flags import (
  FOUND,
  add_backend,
  add_exclude_self,
  add_format,
  add_spans,
  add_system,
  names_pack,
  span_sources,
  take_system,
)

_EXAMPLE = """\
example:
  odqa answer --system system
  odqa answer --system system --question "who wrote Emma"
  odqa answer --system system --json < questions.txt > answers.jsonl
  odqa answer --checkpoint work/individual --index work/individual_index \\
    --corpus data --questions dev.jsonl --out answers.jsonl
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `odqa answer`."""
  parser.epilog = _EXAMPLE
  add = parser.add_argument
  add_system(parser)
  add_spans(parser)
  add("--question", help="one question, answered on the screen")
  add(
    "--json",
    action="store_true",
    help="on the screen, a line of JSON for each question",
  )
  add("--questions", help="a file or prepared set; needs --out")
  add_format(parser)
  add("--run", help="extractive reader: what is read, found by odqa search")
  add("--out", help="answers.jsonl")
  add("--candidates", help="extractive reader: candidates.jsonl for odqa fuse")
  add(
    "--k",
    type=int,
    help="passages found, and read; by default as a reader that writes was "
    "trained, 100 for an extractive one",
  )
  add("--beams", type=int, default=1, help="1 is greedy")
  add(
    "--batch-size",
    type=int,
    help="questions at a time; by default what suits the devices",
  )
  add_exclude_self(parser)
  add_backend(parser)


def _check(args: argparse.Namespace, *, pack: bool) -> None:
  """Raises ValueError for flags that do not go together."""
  if not pack and (args.checkpoint is None or args.corpus is None):
    raise ValueError(
      "give --system DIR, or --checkpoint DIR with --corpus DIR."
    )
  if args.question is not None and args.questions is not None:
    raise ValueError("give --question TEXT, or --questions FILE with --out.")
  if args.questions is not None and args.json:
    raise ValueError("--json is for the screen; --out FILE has lines of JSON.")
  if args.question is None and args.questions is None:
    for name in ("batch_size", "exclude_self"):
      if getattr(args, name):
        raise ValueError(
          f"--{name.replace('_', '-')} needs --questions FILE or --question "
          "TEXT; leave it out to be asked."
        )
  if args.questions is None and (args.candidates or args.run):
    raise ValueError("--run and --candidates need --questions FILE.")
  if (args.questions is None) != (args.out is None):
    raise ValueError("--questions FILE and --out FILE go together.")
  for name in ("beams", "batch_size"):
    value = getattr(args, name)
    if value is not None and value < 1:
      flag = name.replace("_", "-")
      raise ValueError(f"--{flag} {value}: must be at least 1.")
  if args.question is not None and not args.question.strip():
    raise ValueError("--question is empty; ask something.")


def run(args: argparse.Namespace) -> dict[str, Any] | None:
  """Answers on the screen, one question or any number, or a set into a file."""
  from odqa_jax.data.formats.files import open_questions
  from odqa_jax.data.questions.sets import Question
  from odqa_jax.retrieval.backends.table import read_backend
  from odqa_jax.runtime.paths import ANSWERS, CANDIDATES, check_output

  # A typo is told before a checkpoint is loaded.
  read_backend(args.backend)
  pack = names_pack(args)
  if not pack:
    take_system(args)
  _check(args, pack=pack)
  sources = None if pack else span_sources(args)
  if args.run is not None and (sources is None or args.system):
    raise ValueError(
      f"--run {args.run}: {args.system or args.checkpoint} searches for "
      "itself; leave it out."
    )
  if sources is None and not pack and args.read_k is not None:
    raise ValueError(
      f"--read-k {args.read_k} is for an extractive reader; --k says how many "
      f"passages {args.checkpoint} reads."
    )
  if args.questions is None and (args.question is None or args.json):
    return _ask(args, sources, pack=pack)
  if args.candidates is not None:
    check_output(args.candidates, [args.questions, args.run], CANDIDATES)
  if args.questions is None:
    questions = [Question("0", args.question, ())]
  else:
    read = [args.questions, args.corpus, args.run]
    check_output(args.out, read, ANSWERS)
    questions = open_questions(args.questions, args.format, args.columns)
  if pack:
    return _answer_with_pack(args, questions)
  if sources is not None:
    return _answer_with_spans(args, sources, questions)
  return _answer_with_reader(args, questions)


def _ask(
  args: argparse.Namespace, sources: Any, *, pack: bool
) -> dict[str, Any] | None:
  """Questions one after the other: typed, or lines of a pipe."""
  import sys

  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.serving.answering import Answering, SpanSystem
  from odqa_jax.serving.extraction import load_parts
  from odqa_jax.serving.opening import open_answering, open_writing
  from odqa_jax.serving.prompt import ask, piped_questions, typed_questions

  options = {"k": args.k}
  if pack or sources is not None:
    options |= {"read_k": args.read_k, "spans": args.spans, "merge": args.merge}
  system: Answering
  if pack:
    system = open_answering(args.system, **options)
  elif sources is not None:
    corpus = open_corpus(args.corpus)
    parts = load_parts(sources, corpus, beams=args.beams)
    system = SpanSystem("system", parts, corpus, **options)
  elif args.index is None:
    raise ValueError("--index DIR is needed; it is made when absent.")
  else:
    options |= {"beams": args.beams, "backend": args.backend}
    system = open_writing(
      "system",
      args.checkpoint,
      open_corpus(args.corpus),
      args.index,
      reader_corpus=args.reader_corpus,
      **options,
    )
  if args.question is not None:
    asked = ask(system, [args.question], as_json=args.json)
  elif sys.stdin.isatty():
    asked = ask(system, typed_questions(), as_json=args.json)
  else:
    asked = ask(system, piped_questions(), as_json=args.json)
  # Of JSON lines every line is an answer.
  return None if args.json else {"questions": asked}


def _answer_with_reader(
  args: argparse.Namespace, questions: Any
) -> dict[str, Any]:
  """With a reader that writes, and the retriever of its checkpoint."""
  from odqa_jax.data.corpus.corpus import Corpus
  from odqa_jax.data.exclusions import find_exclusions
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.evaluation.measures import answer_measures
  from odqa_jax.reading.answer import answer_questions, default_batch_size
  from odqa_jax.reading.records import (
    answer_record,
    show_answer,
    write_answers,
  )
  from odqa_jax.reading.system import load_reading_system
  from odqa_jax.retrieval.folders import make_index
  from odqa_jax.runtime.mesh import is_primary, sync
  from odqa_jax.runtime.progress import progress_bar
  from odqa_jax.serving.prompt import show_passages
  from odqa_jax.serving.views import written_view

  reader_corpus = args.reader_corpus and Corpus(args.reader_corpus)
  system = load_reading_system(
    args.checkpoint, open_corpus(args.corpus), reader_corpus
  )
  k = args.k
  if k is None:
    k = min(system.config.k, len(system.corpus))
  if not 0 <= k <= len(system.corpus):
    raise ValueError(
      f"--k {k}: the corpus has {len(system.corpus)} passages; choose from 0 "
      "(closed book) to that number."
    )
  if k and args.index is None:
    raise ValueError("--index DIR is needed; it is made when absent.")
  index = k and make_index(
    system.retriever, system.corpus, args.index, args.backend
  )
  with progress_bar("answer", len(questions), "questions") as update:
    answers = answer_questions(
      system,
      index or None,
      [question.question for question in questions],
      k=k,
      batch_size=args.batch_size or default_batch_size(system, k),
      max_tokens=system.config.answer_length,
      beams=args.beams,
      exclusions=find_exclusions(
        questions, system.corpus, own=args.exclude_self
      ),
      progress=update,
    )
  if args.out is None:
    if is_primary():
      print(show_answer(args.question, answers[0]))
      print(
        show_passages(written_view(args.question, answers[0], system.corpus))
      )
    return answer_record(answers[0]) | {"question": args.question, "k": k}
  if is_primary():
    write_answers(args.out, questions, answers)
  sync("answers")
  return {"k": k, "answers": args.out} | answer_measures(answers, questions)


def _answer_with_pack(
  args: argparse.Namespace, questions: Any
) -> dict[str, Any]:
  """With a system in one file."""
  from odqa_jax.evaluation.systems import possible_k
  from odqa_jax.reading.records import show_spans, span_record, write_answers
  from odqa_jax.serving.extraction import span_measures
  from odqa_jax.serving.pack_answers import read_questions, span_answers
  from odqa_jax.serving.packed.system import open_packed

  system = open_packed(args.system)
  k = min(FOUND, len(system)) if args.k is None else args.k
  k = possible_k(k, system.texts)
  read_k = system.read_k(k) if args.read_k is None else args.read_k
  sizes = {"k": k, "read_k": read_k, "most": args.spans}
  found = read_questions(system, questions, **sizes)
  options = {"k": read_k, "most": args.spans, "merge": args.merge}
  answers = [
    span_answers(question, reading, **options)
    for question, reading in zip(questions, found, strict=True)
  ]
  if args.out is None:
    print(show_spans(args.question, answers[0]))
    return span_record(answers[0]) | {"question": args.question}
  write_answers(args.out, questions, answers)
  figures = {"k": k, "read_k": read_k, "answers": args.out}
  return figures | span_measures(answers, questions)


def _answer_with_spans(
  args: argparse.Namespace, sources: Any, questions: Any
) -> dict[str, Any]:
  """The same with an extractive reader; writes candidates if asked to."""
  from odqa_jax.data.prepare import open_corpus
  from odqa_jax.evaluation.systems import possible_k
  from odqa_jax.reading.candidates import CandidateSet, write_candidates
  from odqa_jax.reading.records import show_spans, span_record, write_answers
  from odqa_jax.runtime.mesh import is_primary, sync
  from odqa_jax.serving.extraction import open_extraction, span_measures
  from odqa_jax.serving.prompt import show_passages
  from odqa_jax.serving.views import span_view

  for flag, unused in (("beams", 1), ("batch_size", None)):
    if args.reader is None and getattr(args, flag) != unused:
      raise ValueError(
        f"--{flag.replace('_', '-')} is for a reader that writes; "
        f"{args.checkpoint} holds an extractive one."
      )
  corpus = open_corpus(args.corpus)
  k = min(FOUND, len(corpus)) if args.k is None else args.k
  k = possible_k(k, corpus)
  extraction = open_extraction(
    sources,
    questions,
    corpus,
    k=k,
    read_k=args.read_k,
    batch_size=args.batch_size,
    beams=args.beams,
  )
  found = extraction.answers(questions, most=args.spans, merge=args.merge)
  answers = [each for (each,) in found]
  if args.out is None:
    if is_primary():
      print(show_spans(args.question, answers[0]))
      view = span_view(
        args.question, answers[0], extraction.passages, 0, corpus
      )
      print(show_passages(view))
    return span_record(answers[0]) | {"question": args.question}
  figures: dict[str, Any] = {"k": k, "read_k": args.read_k or k}
  figures["answers"] = args.out
  if is_primary():
    write_answers(args.out, questions, answers)
    if args.candidates is not None:
      candidates = tuple(answer.candidates for answer in answers)
      sizes = {"k": k, "read_k": args.read_k or k, "spans": args.spans}
      made = CandidateSet(extraction.versions, candidates, sizes)
      write_candidates(args.candidates, made)
      figures["candidates"] = args.candidates
  sync("answers")
  return figures | span_measures(answers, questions)
