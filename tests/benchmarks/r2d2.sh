#!/usr/bin/env bash
# R2-D2 on real questions, sized for a laptop: SQuAD's paragraphs, cut to passages
# of 100 words, and the 10,077 vital articles between them; questions of 20
# articles to train on, of 4 to tune on, of 8 to measure on; every network from
# MiniLM, but for a small generative reader from random weights. Prints a line of
# figures for each stage; a finished one is not run again.
#
#   DATA=/data/squad_dev WORK=/scratch/r2d2 SEED=0 bash tests/benchmarks/r2d2.sh
#
# DATA holds paragraphs.jsonl.gz and questions.jsonl.gz (see r2d2_data.py). What
# no seed changes lies in WORK, all else in WORK/seed$SEED. READ=1 reranks and
# reads for all dev and test questions, in place of every third; of each, K
# passages; STEPS and FID_STEPS are how long the readers are trained.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DATA:?set DATA to the folder with the paragraphs and questions of SQuAD}"
: "${WORK:?set WORK to a folder with room for 3 GB}"
SEED=${SEED:-0}
READ=${READ:-3}
K=${K:-20}
STEPS=${STEPS:-2000}
FID_STEPS=${FID_STEPS:-600}
MORE=${MORE-prune}
here=$WORK/seed$SEED
corpus=$WORK/data
questions=$WORK/data/questions
mkdir -p "$WORK/runs" "$WORK/figures" "$here/runs" "$here/figures"
# A step's temporaries in pages of 2 MiB; see launch/README.md.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

stage() { # the file of its figures, and a command whose last line they are
  if [ ! -s "$1" ]; then
    local begin=$SECONDS
    "${@:2}" > "$1.part"
    echo "${1#"$WORK/"}: $((SECONDS - begin)) s" | tee -a "$WORK/seconds"
    mv "$1.part" "$1"
  fi
  echo "$(basename "$1" .json): $(tail -n 1 "$1")"
}

if [ ! -s "$WORK/raw/test.jsonl" ]; then
  python tests/benchmarks/r2d2_data.py "$DATA" "$WORK/raw"
fi
stage "$WORK/figures/prepare.json" odqa prepare --tokenizer minilm \
  --corpus "vital_articles,$WORK/raw/passages.jsonl" --pairs train --out "$corpus" \
  --questions "$WORK/raw/train.jsonl,$WORK/raw/dev.jsonl,$WORK/raw/test.jsonl"

# The retriever, before and after training.
stage "$WORK/figures/untrained.json" odqa evaluate --checkpoint minilm --bm25 \
  --index "$WORK/index/minilm" --corpus "$corpus" --questions "$questions/test"
stage "$WORK/figures/untrained_train.json" odqa search --checkpoint minilm \
  --index "$WORK/index/minilm" --corpus "$corpus" \
  --questions "$questions/train" --out "$WORK/runs/minilm_train.json"

common=(--config.seed="$SEED" --config.log_every=20
  --config.data.corpus="$corpus/corpus"
  --config.data.questions="$questions/train"
  --config.model.dropout=0.0 --config.model.scan=False
  --config.data.question_length=32)
stage "$here/figures/retriever.json" odqa train --config configs/minilm.py \
  --workdir "$here/retriever" "${common[@]}" --config.steps=80 --config.batch_size=16 \
  --config.data.pairs="$corpus/pairs/train" --config.data.passage_length=128 \
  --config.data.title=True --config.optimizer.learning_rate=5e-5 \
  --config.checkpoint.every=40
stage "$here/figures/index.json" odqa index --checkpoint "$here/retriever" \
  --corpus "$corpus" --out "$here/index"
for set in train dev test; do
  stage "$here/figures/search_$set.json" odqa search --index "$here/index" \
    --checkpoint "$here/retriever" --corpus "$corpus" \
    --questions "$questions/$set" --out "$here/runs/$set.json"
done
stage "$here/figures/retrieved.json" odqa evaluate --corpus "$corpus" \
  --run "$here/runs/test.json" --questions "$questions/test"

# Networks that read questions and passages together. The extractive reader
# learns from what MiniLM finds untrained, so it can be trained beside the rest.
pairs=("${common[@]}" --config.init_from=minilm --config.model.preset=init
  --config.model.dtype=float32 --config.model.remat=none
  --config.micro_batches=1 --config.batch_size=8 --config.data.pair_length=160)
stage "$here/figures/extractive_$STEPS.json" odqa train --config configs/extractive.py \
  --workdir "$here/extractive_$STEPS" "${pairs[@]}" --config.steps="$STEPS" \
  --config.data.run="$WORK/runs/minilm_train.json" --config.data.passages=3 \
  --config.optimizer.learning_rate=1.5e-4 --config.checkpoint.every=50 \
  "--config.optimizer.multipliers=(('extractive_reader/qa_.*', 5.0),)"

stage "$here/figures/reranker.json" odqa train --config configs/reranker.py \
  --workdir "$here/reranker" "${pairs[@]}" --config.epochs=0.0 \
  --config.steps=120 --config.checkpoint.every=40 \
  --config.data.run="$here/runs/train.json" --config.data.passages=4 \
  --config.optimizer.learning_rate=1e-4 \
  "--config.optimizer.multipliers=(('reranker/classifier/.*', 5.0),)"

# A generative reader from random weights.
reader=()
if [ "$FID_STEPS" -gt 0 ]; then
  stage "$here/figures/fid_$FID_STEPS.json" odqa train --config configs/fid.py \
    --workdir "$here/fid_$FID_STEPS" "${common[@]}" --config.init_from="$here/retriever" \
    --config.model.preset=init --config.model.dtype=float32 \
    --config.model.remat=none --config.micro_batches=1 \
    --config.objective.temperature=0.05 --config.data.passage_length=128 \
    --config.reader.preset=tiny --config.reader.dtype=float32 \
    --config.reader.remat=none --config.reader.scan=False --config.reader.dropout=0.0 \
    --config.reader.depthwise_convolution=True --config.reader.mimetic=True \
    --config.reader.overlap_features=True --config.reader.span_loss=2.0 \
    --config.data.reader_length=160 --config.data.reader_title=True \
    --config.data.answer_length=32 --config.retrieval.k=4 \
    --config.retrieval.dtype=float32 --config.retrieval.index="$here/index" \
    --config.retrieval.force_gold=True --config.batch_size=16 --config.steps="$FID_STEPS" \
    --config.checkpoint.every=200 --config.optimizer.b2=0.98 \
    --config.optimizer.warmup=0.1 --config.optimizer.learning_rate=1e-3 \
    "--config.optimizer.multipliers=(('reader/shared/embedding', 11.3),)"
  reader=(--reader "$here/fid_$FID_STEPS")
fi

# The pipeline: K passages are found, reranked and read by both readers, for
# every READ-th question. The fusion is tuned on dev and measured on test.
name=${STEPS}_${FID_STEPS}_${K}_$READ
pipeline=(--checkpoint "$here/extractive_$STEPS" --corpus "$corpus" --k "$K"
  --retriever "$here/retriever" --index "$here/index"
  --reranker "$here/reranker" "${reader[@]}")
search() { # a file of questions, a run
  stage "$here/figures/search_$(basename "$2" .trec).json" odqa search \
    --corpus "$corpus" --index "$here/index" --checkpoint "$here/retriever" \
    --questions "$1" --out "$2"
}
for set in dev test; do
  [ -s "$WORK/raw/${set}_$READ.jsonl" ] || awk "NR % $READ == 0" \
    "$WORK/raw/$set.jsonl" > "$WORK/raw/${set}_$READ.jsonl"
  stage "$here/figures/answer_${set}_$name.json" odqa answer "${pipeline[@]}" \
    --spans 20 --questions "$WORK/raw/${set}_$READ.jsonl" \
    --out "$here/runs/answers_${set}_$name.jsonl" \
    --candidates "$here/runs/candidates_${set}_$name.jsonl"
done
search "$WORK/raw/test_$READ.jsonl" "$here/runs/test_$READ.trec"
stage "$here/figures/rerank_${K}_$READ.json" odqa rerank --corpus "$corpus" \
  --checkpoint "$here/reranker" --run "$here/runs/test_$READ.trec" --k "$K" \
  --questions "$WORK/raw/test_$READ.jsonl" --out "$here/runs/reranked_$READ.trec"
stage "$here/figures/fusion_$name.json" odqa fuse --seed "$SEED" \
  --candidates "$here/runs/candidates_dev_$name.jsonl" \
  --questions "$WORK/raw/dev_$READ.jsonl" \
  --test-candidates "$here/runs/candidates_test_$name.jsonl" \
  --test-questions "$WORK/raw/test_$READ.jsonl" \
  --out "$here/fusion_$name.json"
if [ -z "$MORE" ]; then exit; fi

# From how many passages each reader answers best, reranked and not.
stage "$here/figures/reranked_$name.json" odqa evaluate --corpus "$corpus" \
  --checkpoint "$here/extractive_$STEPS" --retriever "$here/retriever" \
  --index "$here/index" --reranker "$here/reranker" --k 100 \
  --questions "$WORK/raw/test_$READ.jsonl"
stage "$here/figures/read_$name.json" odqa evaluate --corpus "$corpus" \
  --checkpoint "$here/extractive_$STEPS" --run "$here/runs/test_$READ.trec" \
  --questions "$WORK/raw/test_$READ.jsonl"
if [ "$FID_STEPS" -gt 0 ]; then
  stage "$here/figures/fid_test_$name.json" odqa evaluate --corpus "$corpus" \
    --checkpoint "$here/fid_$FID_STEPS" --index "$here/index" \
    --questions "$WORK/raw/test_$READ.jsonl"
fi

# The pruner, and what it costs beside pruning by chance and by what is found:
# for questions of other articles than those that it learns from, and of other
# paragraphs. The curve chooses nothing: --keep is the paper's share.
if [ "$MORE" = read ]; then exit; fi
prune() { # a name, a dataset, its questions to learn from, more of the curve
  stage "$here/figures/pruner_$1.json" odqa train --config configs/pruner.py \
    --workdir "$here/pruner_$1" "${common[@]}" --config.init_from=minilm \
    --config.data.corpus="$2/corpus" --config.data.questions="$2/questions/$3" \
    --config.model.preset=init --config.model.dtype=float32 \
    --config.model.remat=none --config.micro_batches=1 --config.epochs=0.0 \
    --config.steps=150 --config.checkpoint.every=150 --config.batch_size=24 \
    --config.data.passage_length=128 --config.optimizer.learning_rate=1e-4
  stage "$here/figures/pruned_$1.json" odqa prune --keep 3157 --corpus "$2" \
    --checkpoint "$here/pruner_$1" --index "$here/index" --out "$here/pruned_$1"
  stage "$here/figures/curve_$1_$name.json" odqa prune --corpus "$2" \
    --scores "$here/pruned_$1/scores.npy" --curve "$here/pruning_$1_$name.png" \
    --frequency-questions "$2/questions/$3" --seed "$SEED" --choose-on-test "${@:4}"
}
prune articles "$corpus" train --run "$here/runs/test_$READ.trec" \
  --questions "$WORK/raw/test_$READ.jsonl" \
  --candidates "$here/runs/candidates_test_$name.jsonl" \
  --frequency-run "$here/runs/train.json"
stage "$WORK/figures/halves.json" odqa prepare --tokenizer minilm \
  --corpus "vital_articles,$WORK/raw/passages.jsonl" --out "$WORK/halves" \
  --questions "$WORK/raw/even.jsonl,$WORK/raw/odd.jsonl"
for set in even odd; do
  search "$WORK/halves/questions/$set" "$here/runs/$set.trec"
done
prune paragraphs "$WORK/halves" even --run "$here/runs/odd.trec" \
  --questions "$WORK/halves/questions/odd" --frequency-run "$here/runs/even.trec"
