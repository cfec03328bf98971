"""Answers from a pack where nothing but NumPy and `tokenizers` is installed.

python -m odqa_jax.serving.packed FILE.odqa --question "who wrote faust"
python -m odqa_jax.serving.packed FILE.odqa < questions.txt
"""

import argparse
import json
import os
import sys

# Passages are read in threads of their own. Before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> int:
  """Answers one question, or those of the standard input, a line of JSON each.

  Returns:
    The exit code: 2 on bad input, with one line that says what.
  """
  parser = argparse.ArgumentParser(prog="odqa-packed", description=__doc__)
  parser.add_argument("pack")
  parser.add_argument("--question", help="by default lines of stdin")
  parser.add_argument("--k", type=int, help="passages found; by default 100")
  parser.add_argument(
    "--read-k", type=int, help="and read; by default as tuned, or 5"
  )
  parser.add_argument("--spans", type=int, default=1, help="spans told")
  args = parser.parse_args()
  from odqa_jax.serving.packed.system import open_packed

  try:
    system = open_packed(args.pack)
    k = min(100, len(system)) if args.k is None else args.k
    read_k = args.read_k
    if read_k is None:
      read_k = system.tuned_read_k(k) or min(k, 5)
    sizes = {"k": k, "read_k": read_k}
    for line in [args.question] if args.question else sys.stdin:
      if not line.strip():
        continue
      found = system.read(line.strip(), most=args.spans, **sizes)
      answers = found.answers(args.spans)
      record = {
        "question": line.strip(),
        "answer": answers[0].text if answers else "",
        "spans": [
          {
            "text": each.text,
            "log_prob": each.log_prob,
            "passage": found.texts.id(each.row),
            "title": found.texts.title(each.row),
          }
          for each in answers
        ],
      }
      print(json.dumps(record, ensure_ascii=False), flush=True)
  except (ValueError, OSError) as error:
    print(f"odqa-packed: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
