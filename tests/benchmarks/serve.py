"""Requests a second, latency and memory of a server on this machine.

odqa serve --system system --port 8000 &
python tests/benchmarks/serve.py http://127.0.0.1:8000 questions.txt

Every client asks its next question once the last is answered, or, where the
queue is full, after as many seconds as it is told. The questions are asked in
turn; the first round, which compiles what is left, is not counted.
"""

import asyncio
import itertools
import json
import re
import sys
import time
from pathlib import Path

import httpx2
import numpy as np

CLIENTS = (1, 8, 64)
SECONDS = 20.0


async def ask(client, question):
  """Seconds until the answer, and how often it was told to come again."""
  start, refused = time.monotonic(), 0
  while True:
    response = await client.get("/api/answer", params={"q": question})
    if response.status_code != 503:
      response.raise_for_status()
      return time.monotonic() - start, refused
    refused += 1
    await asyncio.sleep(float(response.headers["retry-after"]))


async def measure(client, questions, clients, seconds):
  """The figures of so many clients at once."""
  endless = itertools.cycle(questions)
  start = time.monotonic()

  async def one():
    said = []
    while time.monotonic() - start < seconds:
      said.append(await ask(client, next(endless)))
    return said

  each = await asyncio.gather(*(one() for _ in range(clients)))
  elapsed = time.monotonic() - start
  times, refused = zip(*itertools.chain.from_iterable(each), strict=True)
  metrics = (await client.get("/metrics")).text
  memory = re.search(r"(?m)^process_resident_memory_bytes (\S+)", metrics)
  return {
    "clients": clients,
    "answers_per_s": round(len(times) / elapsed, 2),
    "p50_s": round(float(np.quantile(times, 0.5)), 3),
    "p95_s": round(float(np.quantile(times, 0.95)), 3),
    "told_to_wait": sum(refused),
    "memory_mb": round(float(memory[1]) / 1e6) if memory else None,
  }


async def main(url, path):
  questions = Path(path).read_text(encoding="utf-8").splitlines()
  limits = httpx2.Limits(max_connections=None)
  async with httpx2.AsyncClient(
    base_url=url, timeout=600, limits=limits
  ) as client:
    for clients in CLIENTS:
      await measure(client, questions, clients, SECONDS / 4)
      print(json.dumps(await measure(client, questions, clients, SECONDS)))


if __name__ == "__main__":
  asyncio.run(main(*sys.argv[1:3]))
