"""How large the models of `odqa demo` are, and how long they are trained.

`SYSTEM` begins with MiniLM; those of `PRESETS` begin with random weights.
"""

import dataclasses

# Workdir → name in the table, task, whether the passage encoder is trained.
RUNS = {
  "fid": ("FiD", "fid", False),
  "joint": ("Joint Top-k", "joint", False),
  "individual_question": (
    "Individual, question encoder",
    "individual",
    False,
  ),
  "individual_both": ("Individual, both encoders", "individual", True),
}


@dataclasses.dataclass(frozen=True)
class ReaderPreset:
  """How large a reader, and how long.

  The options of `tiny` readers (depthwise convolution, mimetic initialisation,
  overlap features, span loss) and the two stages, one passage and then several,
  are what makes a reader learn from random weights within minutes.

  Attributes:
    model: a preset of `models.t5`.
    gold_steps: first stage: the gold passage alone; 0 leaves it out.
    steps: second stage: `k` retrieved passages, the gold one among them.
    end_steps: each of the runs that begin with the trained reader.
    closed_book_steps: the reader without passages; 0 leaves it out.
    batch_size: questions in a step.
    k: passages read in training.
    k_answer: passages read when answering.
    length: tokens of question and passage.
    gold_rate: peak learning rate of the first stage.
    rate: peak learning rate of the second stage.
    end_rate: peak learning rate of the end-to-end runs.
    retriever_factor: what the retriever's rate is of that; its encoders are
      trained already, and a reader that is not yet good misleads them.
    refresh_every: steps between refreshes of the index.
    questions: held-out questions that are answered.
    runs: which of `RUNS` begin with the trained reader.
  """

  model: str = "tiny"
  gold_steps: int = 500
  steps: int = 120
  end_steps: int = 50
  closed_book_steps: int = 80
  batch_size: int = 16
  k: int = 4
  k_answer: int = 8
  length: int = 80
  gold_rate: float = 2e-3
  rate: float = 1.5e-3
  end_rate: float = 5e-4
  retriever_factor: float = 0.1
  refresh_every: int = 30
  questions: int = 200
  runs: tuple[str, ...] = ("joint", "individual_both")


@dataclasses.dataclass(frozen=True)
class Preset:
  """How large and how long.

  Attributes:
    sets: embedded corpora with questions; the last one's have short answers.
    model: a preset of `models.bert`.
    vocabulary: word pieces trained on the corpus.
    ict_steps: steps of the inverse cloze task.
    supervised_steps: steps of supervised training.
    baselines: whether the random encoder is measured, and one that was trained
      without ICT.
    batch_size: examples in a step, of both stages.
    question_length: tokens.
    passage_length: tokens.
    ict_rate: peak learning rate.
    supervised_rate: peak learning rate.
    test_questions: held-out questions measured, per set.
    temperature: τ. The paper's sqrt(d) is for long training; with minutes a
      small model learns several times faster from sharper scores.
    reader: the stages with a reader; None leaves them out.
  """

  sets: tuple[str, ...] = ("factbook_short",)
  model: str = "tiny"
  vocabulary: int = 8192
  ict_steps: int = 120
  supervised_steps: int = 280
  baselines: bool = False
  batch_size: int = 48
  question_length: int = 32
  passage_length: int = 64
  ict_rate: float = 2e-3
  supervised_rate: float = 1e-3
  test_questions: int = 1000
  temperature: float = 1.0
  reader: ReaderPreset | None = dataclasses.field(default_factory=ReaderPreset)


@dataclasses.dataclass(frozen=True)
class SystemPreset:
  """A system that begins with MiniLM.

  Its passage encoder stays as it is, so that the passages are encoded once,
  and before anything is trained.

  Attributes:
    country_questions: about countries, to learn from.
    article_questions: about articles, likewise.
    held_out: questions that are measured, about countries that no training
      question names.
    question_length: tokens.
    passage_length: tokens of a passage that are encoded.
    temperature: τ of cosines.
    retriever_steps: of the question encoder.
    retriever_batch: questions in a step.
    retriever_rate: its peak learning rate.
    reader_steps: of the extractive reader.
    reader_batch: questions in a step.
    reader_rate: its peak learning rate.
    head_factor: what the rate of its new layers is of that.
    pair_length: tokens of question and passage together.
    passages: of each question that the reader learns from.
    k: passages that the system finds.
    read_k: the first of these, which it reads. A reader that has learnt from
      so few passages knows where in one an answer stands, but not yet in which:
      on the countries of the dev split EM is 62 with one, 46 with three.
  """

  country_questions: int = 2400
  article_questions: int = 1200
  held_out: int = 400
  question_length: int = 32
  passage_length: int = 64
  temperature: float = 0.05
  retriever_steps: int = 40
  retriever_batch: int = 32
  retriever_rate: float = 2e-4
  reader_steps: int = 100
  reader_batch: int = 16
  reader_rate: float = 5e-4
  head_factor: float = 5.0
  pair_length: int = 96
  passages: int = 2
  k: int = 10
  read_k: int = 1


SYSTEM = SystemPreset()

PRESETS = {
  "quick": Preset(
    sets=("vital_articles",),
    ict_steps=30,
    supervised_steps=15,
    batch_size=32,
    passage_length=48,
    test_questions=200,
    reader=ReaderPreset(
      gold_steps=0,
      steps=10,
      end_steps=6,
      closed_book_steps=0,
      questions=40,
      runs=("joint",),
    ),
  ),
  "scratch": Preset(),
  "full": Preset(
    ict_steps=400,
    supervised_steps=600,
    baselines=True,
    reader=ReaderPreset(
      gold_steps=3500,
      steps=1500,
      end_steps=200,
      closed_book_steps=600,
      refresh_every=100,
      questions=831,
      runs=tuple(RUNS),
    ),
  ),
}
