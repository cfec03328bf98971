#!/usr/bin/env bash
# The end-to-end recipes on real questions, sized for a laptop: WebQuestions over
# the 10,077 vital articles, MiniLM as retriever (64 tokens of a passage once it
# is trained), a small reader from random weights. Prints a line of figures for
# each stage; a finished one is not trained again.
#
#   DATA=/data/webquestions WORK=/scratch/webq bash tests/benchmarks/webquestions.sh
#
# DATA holds trainmodel.json.gz and test.json.gz of the WebQuestions data set
# (github.com/brmson/dataset-factoid-webquestions).
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DATA:?set DATA to the folder with WebQuestions}"
: "${WORK:?set WORK to a folder with room for 2 GB}"
SEED=${SEED:-0}

# A reader cannot learn to write whole sentences: some answers are quotations.
mkdir -p "$WORK"
python - "$DATA/trainmodel.json.gz" "$WORK/short.json" <<'EOF'
import gzip, json, sys

with gzip.open(sys.argv[1], "rt") as file:
  questions = json.load(file)
short = [q for q in questions if min(map(len, q["answers"])) <= 40]
with open(sys.argv[2], "w") as file:
  json.dump(short, file)
EOF
odqa prepare --corpus vital_articles --tokenizer minilm --pairs trainmodel \
  --questions "$DATA/trainmodel.json.gz,$WORK/short.json,$DATA/test.json.gz" \
  --out "$WORK/data"

measure() { # a checkpoint, and the name of its index
  odqa evaluate --checkpoint "$1" --index "$WORK/index/$2" \
    --corpus "$WORK/data" --questions "$WORK/data/questions/test" --k 100
}
odqa evaluate --bm25 --corpus "$WORK/data" --k 100 \
  --questions "$WORK/data/questions/test"
measure minilm minilm

common=(--config.seed="$SEED" --config.log_every=20
  --config.data.corpus="$WORK/data/corpus"
  --config.data.questions="$WORK/data/questions/trainmodel"
  --config.data.question_length=32 --config.data.passage_length=64)
odqa train --config configs/minilm.py --workdir "$WORK/supervised" \
  "${common[@]}" --config.steps=60 --config.checkpoint.every=60 \
  --config.data.pairs="$WORK/data/pairs/trainmodel"
measure "$WORK/supervised" supervised

reader=("${common[@]}" --config.model.preset=init --config.model.dtype=float32
  --config.model.remat=none --config.model.dropout=0.0
  --config.objective.temperature=0.05
  --config.reader.preset=tiny --config.reader.dtype=float32
  --config.reader.remat=none --config.reader.dropout=0.0
  --config.reader.depthwise_convolution=True --config.reader.mimetic=True
  --config.reader.overlap_features=True --config.reader.span_loss=2.0
  --config.data.reader_length=128 --config.data.reader_title=True
  --config.data.answer_length=32
  --config.data.questions="$WORK/data/questions/short"
  --config.retrieval.k=4 --config.retrieval.dtype=float32
  --config.optimizer.b2=0.98 --config.optimizer.warmup=0.1)
odqa train --config configs/fid.py --workdir "$WORK/reader" "${reader[@]}" \
  --config.init_from="$WORK/supervised" --config.batch_size=16 \
  --config.steps=600 --config.checkpoint.every=600 \
  --config.optimizer.learning_rate=1e-3 \
  "--config.optimizer.multipliers=(('reader/shared/embedding', 11.3),)"
measure "$WORK/reader" reader

run() { # a name, a config, more flags
  odqa train --config "$2" --workdir "$WORK/$1" "${reader[@]}" \
    --config.init_from="$WORK/reader" --config.batch_size=16 \
    --config.steps=80 --config.checkpoint.every=80 \
    --config.optimizer.learning_rate=2e-4 \
    "--config.optimizer.multipliers=(('reader/shared/embedding', 11.3), ('retriever/.*', 0.1))" \
    --config.retrieval.index="$WORK/index/reader" "${@:3}"
}
# What leaves the passage encoder as it is keeps the index.
run joint configs/joint.py
measure "$WORK/joint" reader
run individual_question configs/individual.py:context=false
measure "$WORK/individual_question" reader
run individual_both configs/individual.py --config.retrieval.refresh=none
measure "$WORK/individual_both" individual_both
