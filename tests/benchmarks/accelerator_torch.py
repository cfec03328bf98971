"""What torch and transformers take on a GPU for two parts of `accelerator.py`.

    python tests/benchmarks/accelerator_torch.py [--compiled]

A step of two BERT-bases (128 questions, 256 passages of 256 tokens, bfloat16 by
autocast, fused AdamW) and embedding 144 tokens in bfloat16; fused attention,
random weights and tokens, eager or by `torch.compile`. Run by itself right
before or after `accelerator.py --parts supervised,embedding`: a GPU runs one
program at a time, and is not as noisy as a CPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers import BertConfig, BertModel

_SECONDS = 2.0


def make_bert() -> Any:
  """BERT-base with fused attention, without its pooler."""
  config = BertConfig()
  config._attn_implementation = "sdpa"
  return BertModel(config, add_pooling_layer=False).cuda()


def timed(run: Callable[[], Any]) -> float:
  """The median seconds of a call, after three that are not counted."""
  for _ in range(3):
    run()
  torch.cuda.synchronize()
  times: list[float] = []
  while sum(times) < _SECONDS or len(times) < 3:
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    times.append(time.perf_counter() - started)
  return statistics.median(times)


def inputs(count: int, length: int) -> dict[str, Any]:
  """Random tokens without padding."""
  ids = torch.randint(5, 30000, (count, length), device="cuda")
  return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def embedding(*, compiled: bool) -> dict[str, float]:
  """Passages per second, by size of the batch."""
  model = make_bert().to(torch.bfloat16).eval()
  encode = torch.compile(model) if compiled else model

  def run(batch: dict[str, Any]) -> Any:
    with torch.inference_mode():
      return encode(**batch).last_hidden_state[:, 0]

  batches = [inputs(count, 144) for count in (113, 455)]
  return {
    f"batch_{len(b['input_ids'])}": round(
      len(b["input_ids"]) / timed(lambda b=b: run(b)), 1
    )
    for b in batches
  }


def step(*, compiled: bool, batch: int = 128, length: int = 256) -> float:
  """Milliseconds of a step with in-batch and hard negatives."""
  towers = [make_bert().train() for _ in range(2)]
  params = [p for tower in towers for p in tower.parameters()]
  optimizer = torch.optim.AdamW(params, lr=1e-5, fused=True)
  encoders = [torch.compile(t) if compiled else t for t in towers]
  given = [inputs(batch, length), inputs(2 * batch, length)]
  labels = torch.arange(batch, device="cuda")

  def run() -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
      questions, passages = (
        encode(**x).last_hidden_state[:, 0].float()
        for encode, x in zip(encoders, given, strict=True)
      )
    functional.cross_entropy(questions @ passages.T, labels).backward()
    torch.nn.utils.clip_grad_norm_(params, 2.0)
    optimizer.step()

  return round(1e3 * timed(run), 2)


def main() -> None:
  """Prints both as a line of JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--compiled", action="store_true")
  compiled = parser.parse_args().compiled
  figures = {
    "embedding": embedding(compiled=compiled),
    "step_ms": step(compiled=compiled),
    "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
    "device": torch.cuda.get_device_name(),
    "torch": torch.__version__,
  }
  print(json.dumps(figures))


if __name__ == "__main__":
  main()
