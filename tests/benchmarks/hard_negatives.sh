#!/usr/bin/env bash
# What a mined hard negative is worth: the same small retriever, from random
# weights, with and without one per question. EntityQuestions over the vital
# articles and the World Factbook; dev questions are those that BM25 finds an
# answer to. Prints a line of figures for each run; about 15 minutes a seed.
#
#   DATA=/data/entity_questions WORK=/scratch/eq SEEDS="0 1 2" \
#     bash tests/benchmarks/hard_negatives.sh
#
# DATA holds train.jsonl.gz and dev.jsonl.gz of {relation, question, answers}.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DATA:?set DATA to the folder with EntityQuestions}"
: "${WORK:?set WORK to a folder with room for 1 GB}"
: "${TOKENIZER:=minilm}"

odqa prepare --corpus vital_articles,factbook --tokenizer "$TOKENIZER" \
  --questions "$DATA/train.jsonl.gz,$DATA/dev.jsonl.gz" --pairs train,dev \
  --out "$WORK/data" --allow-leak
python - "$WORK" <<'EOF'
import json, sys

from odqa_jax.data.mining.pairs import Pairs
from odqa_jax.data.questions.sets import QuestionSet

work = sys.argv[1]
questions = QuestionSet(f"{work}/data/questions/dev")
with open(f"{work}/answerable.jsonl", "w") as file:
  for row in Pairs.open(f"{work}/data/pairs/dev").question.tolist():
    question = questions[row]
    answers = list(question.answers)
    record = {"id": question.id, "question": question.question}
    file.write(json.dumps(record | {"answers": answers}) + "\n")
EOF

for seed in ${SEEDS:-0 1 2}; do
  for negatives in 0 1; do
    run="$WORK/run_${seed}_$negatives"
    odqa train --config configs/supervised.py:size=tiny --workdir "$run" \
      --config.seed="$seed" --config.steps=600 --config.batch_size=64 \
      --config.checkpoint.every=600 --config.log_every=100 \
      --config.model.dtype=float32 --config.model.remat=none \
      --config.data.corpus="$WORK/data/corpus" \
      --config.data.questions="$WORK/data/questions/train" \
      --config.data.pairs="$WORK/data/pairs/train" \
      --config.data.question_length=24 --config.data.passage_length=128 \
      --config.data.hard_negatives="$negatives" \
      --config.optimizer.learning_rate=5e-4
    echo "seed $seed, $negatives hard negatives:"
    odqa evaluate --checkpoint "$run" --index "$run/index" --k 20 \
      --corpus "$WORK/data" --questions "$WORK/answerable.jsonl"
  done
done
