#!/usr/bin/env bash
# The paper's pipeline on Natural Questions, stage by stage:
#   ICT → (salient spans) → supervised → FiD reader → Individual and Joint Top-k.
# A finished stage is not run again; a killed one resumes.
#
#   DATA=/data/nq WORK=/scratch/nq BERT=/models/bert-base-uncased \
#     T5=/models/t5-base bash launch/reproduce_nq.sh
#
# DATA holds the published files: psgs_w100.tsv.gz, biencoder-nq-train.json.gz,
# nq-train.qa.csv, nq-dev.qa.csv, nq-test.qa.csv or NQ-open.dev.jsonl. The dev
# set is the one cut from train; NQ-open.train.jsonl holds both, so it will not do.
# SIZE is base or large; MSS=1 adds salient spans, which the paper found to help
# where questions are few. On several hosts run it on each, with LAUNCH set to
# what starts one process, for example LAUNCH="odqa --distributed".
set -euo pipefail
cd "$(dirname "$0")/.."
: "${DATA:?set DATA to the folder with the published files}"
: "${WORK:?set WORK to a folder with room for 200 GB}"
: "${BERT:?set BERT to a BERT folder (safetensors)}"
: "${T5:?set T5 to a T5 folder (safetensors)}"
SIZE=${SIZE:-base}
MSS=${MSS:-0}
LAUNCH=${LAUNCH:-odqa}
K=${K:-32}

find_file() { # the first that exists of the names given
  for name in "$@"; do
    if [ -f "$DATA/$name" ]; then echo "$DATA/$name"; return; fi
  done
  echo "reproduce_nq.sh: none of $* is in $DATA" >&2
  exit 2
}
passages=$(find_file psgs_w100.tsv.gz psgs_w100.tsv)
pairs=$(find_file biencoder-nq-train.json.gz biencoder-nq-train.json)
train=$(find_file nq-train.qa.csv)
dev=$(find_file nq-dev.qa.csv)
test=$(find_file nq-test.qa.csv NQ-open.dev.jsonl)
name() { basename "$1" .gz | sed 's/\.[^.]*$//'; }

spans=()
if [ "$MSS" = 1 ]; then spans=(--spans); fi
$LAUNCH prepare --corpus "$passages" --tokenizer "$BERT" \
  --reader-tokenizer "$T5" --questions "$pairs,$train,$dev,$test" \
  --pairs "$(name "$pairs")" "${spans[@]}" --out "$WORK/data" --allow-leak

data=(--config.data.corpus="$WORK/data/corpus"
  --config.evaluate.questions="$WORK/data/questions/$(name "$dev")")
reading=("${data[@]}"
  --config.data.questions="$WORK/data/questions/$(name "$train")"
  --config.data.reader_corpus="$WORK/data/reader_corpus")

$LAUNCH train --config "configs/ict.py:size=$SIZE" --workdir "$WORK/ict" \
  --config.init_from="$BERT" --config.data.corpus="$WORK/data/corpus"
start="$WORK/ict"
if [ "$MSS" = 1 ]; then
  $LAUNCH train --config "configs/mss.py:size=$SIZE" --workdir "$WORK/mss" \
    --config.init_from="$start" --config.reader.init_from="$T5" \
    --config.reader.preset=init --config.data.corpus="$WORK/data/corpus" \
    --config.data.reader_corpus="$WORK/data/reader_corpus" \
    --config.data.spans="$WORK/data/spans"
  start="$WORK/mss"
fi
$LAUNCH train --config "configs/supervised.py:size=$SIZE" \
  --workdir "$WORK/supervised" --config.init_from="$start" \
  --config.data.questions="$WORK/data/questions/$(name "$pairs")" \
  --config.data.pairs="$WORK/data/pairs/$(name "$pairs")" "${data[@]}"
for task in individual joint fid; do
  $LAUNCH train --config "configs/$task.py:size=$SIZE" \
    --workdir "$WORK/$task" --config.init_from="$WORK/supervised" \
    --config.reader.init_from="$T5" --config.reader.preset=init \
    --config.retrieval.k="$K" "${reading[@]}"
  $LAUNCH evaluate --checkpoint "$WORK/$task" --index "$WORK/${task}_index" \
    --questions "$test" --corpus "$WORK/data" --k 100
done
