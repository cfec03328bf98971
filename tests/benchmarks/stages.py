"""Speed and size of BM25, leak checks and the cleaning of a dump, on one core.

    odqa prepare --corpus vital_articles,factbook --tokenizer minilm --out data
    python tests/benchmarks/stages.py data

The dump is made of the corpus: every article as a page of its passages, with a
link, a template or a reference after every tenth word. Prints passages a second
(median of the rounds and range) and bytes a passage of the BM25 index.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from odqa_jax.data.corpus.corpus import Corpus
from odqa_jax.data.mining.bm25_build import build_bm25
from odqa_jax.data.parts.run import Runner
from odqa_jax.data.raw.records import Place
from odqa_jax.data.wikipedia.articles import make_article
from odqa_jax.data.wikipedia.dump import Page, Site
from odqa_jax.text.normalised import normalise_text

MARKUP = (
  "[[Another page|{}]]",
  "'''{}'''",
  "{}{{{{citation needed|date=May 2020}}}}",
  '{}<ref name="x">{{{{cite web|url=http://x.org|title=X}}}}</ref>',
)


def pages(corpus: Corpus) -> Iterator[Page]:
  """Every article as a page with markup."""
  starts = np.append(np.asarray(corpus.article_starts), len(corpus)).tolist()
  for first, end in itertools.pairwise(starts):
    words = " ".join(corpus.text(row) for row in range(first, end)).split()
    for n, i in enumerate(range(0, len(words), 10)):
      words[i] = MARKUP[n % len(MARKUP)].format(words[i])
    text = " ".join(words)
    place = Place(Path("dump.xml"), first)
    yield Page(
      place, corpus.title(first), 0, False, "wikitext", text, len(text)
    )


def timed(name: str, rounds: int, run: Callable[[], int]) -> None:
  """Prints how many passages a second a stage makes."""
  rates = []
  for _ in range(rounds):
    start = time.process_time()
    count = run()
    rates.append(count / (time.process_time() - start))
  middle, low, high = statistics.median(rates), min(rates), max(rates)
  print(f"{name}: {middle:,.0f} ({low:,.0f} to {high:,.0f}) passages/s")


def main() -> None:
  """Runs all stages."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("data", type=Path)
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  corpus = Corpus(args.data / "corpus")
  dump, site = list(pages(corpus)), Site()

  def clean() -> int:
    articles = [make_article(page, site) for page in dump]
    assert all(article.blocks or article.reason for article in articles)
    return sum(len(article.blocks) for article in articles)

  def check() -> int:
    for row in range(len(corpus)):
      normalise_text(corpus.text(row))
    return len(corpus)

  def index() -> int:
    with tempfile.TemporaryDirectory() as folder:
      build_bm25(corpus, Path(folder) / "bm25", runner=Runner())
      files = (Path(folder) / "bm25").rglob("*.npy")
      size = sum(path.stat().st_size for path in files)
    print(f"BM25 index: {size / len(corpus):.0f} bytes a passage")
    return len(corpus)

  timed("BM25", args.rounds, index)
  timed("normalised for leak checks", args.rounds, check)
  timed("cleaned and cut from a dump", args.rounds, clean)


if __name__ == "__main__":
  main()
