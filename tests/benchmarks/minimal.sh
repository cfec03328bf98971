#!/usr/bin/env bash
# The ladder of minimal retrieve-and-read on real questions, sized for a laptop:
# the passages of r2d2.sh; questions of every other paragraph to learn from, of
# the paragraphs between them to choose on (every fourth) and to measure on. Every
# network is from MiniLM, the small encoder from its first four layers. Prints a
# line of figures for each stage, and the table of `odqa footprint` last; a finished
# stage is not run again.
#
#   DATA=/data/squad_dev WORK=/scratch/minimal SEED=0 bash tests/benchmarks/minimal.sh
#
# DATA holds paragraphs.jsonl.gz and questions.jsonl.gz (see r2d2_data.py). STEPS is
# how long a reader is trained, FIND_STEPS retrievers and the filter, DISTILL_STEPS and
# TUNE_STEPS the network that does both (STEPS, and half of it). The filter leaves KEEP
# passages; of each question at most K are read; READ measures on every READ-th
# question. ABLATIONS=1 trains those as well; RUNTIME is a tree of launch/minimal.py to
# count. MORE is for every training: on a GPU, where it compiles sooner,
# MORE=--config.model.scan=True.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DATA:?set DATA to the folder with the paragraphs and questions of SQuAD}"
: "${WORK:?set WORK to a folder with room for 3 GB}"
SEED=${SEED:-0}
STEPS=${STEPS:-2000}
FIND_STEPS=${FIND_STEPS:-120}
DISTILL_STEPS=${DISTILL_STEPS:-$STEPS}
TUNE_STEPS=${TUNE_STEPS:-$((STEPS / 2))}
KEEP=${KEEP:-4000}
READ=${READ:-4}
K=${K:-20}
ABLATIONS=${ABLATIONS:-}
here=$WORK/minimal${SEED}_${STEPS}_${FIND_STEPS}_$KEEP
asked=$here/asked_${READ}_$K
data=$WORK/ladder
mkdir -p "$here/runs" "$here/figures" "$asked" "$WORK/figures"
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

if [ ! -s "$WORK/raw/odd.jsonl" ]; then
  python tests/benchmarks/r2d2_data.py "$DATA" "$WORK/raw"
fi
if [ ! -s "$WORK/shallow/config.json" ]; then
  python tests/benchmarks/cut_layers.py minilm 0,1,2,3 "$WORK/shallow"
fi
awk "NR % 4 == 0" "$WORK/raw/odd.jsonl" > "$WORK/raw/choose.jsonl"
awk "NR % (4 * $READ) == 0" "$WORK/raw/odd.jsonl" > "$asked/dev.jsonl"
awk "NR % $READ == 1 % $READ && NR % 4" "$WORK/raw/odd.jsonl" > "$asked/test.jsonl"
stage "$WORK/figures/ladder.json" odqa prepare --tokenizer minilm \
  --corpus "vital_articles,$WORK/raw/passages.jsonl" --pairs even \
  --questions "$WORK/raw/even.jsonl,$WORK/raw/choose.jsonl" --out "$data"

common=(--config.seed="$SEED" --config.log_every=20 --config.epochs=0.0
  --config.data.questions="$data/questions/even" --config.data.question_length=32
  --config.model.preset=init --config.model.dtype=float32
  --config.model.remat=none --config.model.scan=False --config.micro_batches=1
  ${MORE:-})

train() { # its name, a recipe, what it begins from, its steps, more settings
  stage "$here/figures/train_$1.json" odqa train --config "configs/$2" \
    --workdir "$here/$1" "${common[@]}" --config.init_from="$3" \
    --config.steps="$4" --config.checkpoint.every="$4" "${@:5}"
}
retriever() { # its name, what it begins from, more settings
  train "$1" shared.py "$2" "$FIND_STEPS" \
    --config.data.corpus="$data/corpus" --config.data.pairs="$data/pairs/even" \
    --config.data.passage_length=128 --config.batch_size=32 \
    --config.objective.temperature=0.05 --config.optimizer.warmup=0.1 \
    --config.optimizer.learning_rate=1e-4 "${@:3}"
}
# What reads: a batch of 24 pairs.
pairs=("--config.optimizer.multipliers=(('.*/qa_.*', 5.0),)"
  --config.data.pair_length=160 --config.data.span_length=30
  --config.optimizer.learning_rate=1.5e-4)
reader() { # its name, what it begins from
  train "$1" extractive.py:loss=dpr "$2" "$STEPS" "${pairs[@]}" \
    --config.data.corpus="$data/corpus" --config.data.run="$here/runs/two.json" \
    --config.data.passages=3 --config.batch_size=8
}
find() { # a rung, what searches, a dataset
  stage "$here/figures/index_$1.json" odqa index --checkpoint "$here/$2" \
    --corpus "$3" --out "$here/index_$1"
}
run() { # a rung, what searches, a dataset: what others learn from
  stage "$here/figures/run_$1.json" odqa search --checkpoint "$here/$2" \
    --index "$here/index_$1" --corpus "$3" --k 100 \
    --questions "$data/questions/even" --out "$here/runs/$1.json"
}
rung() { # its name, what searches, a dataset, what reads: tuned on dev, measured
  local parts=(--checkpoint "$here/$4" --retriever "$here/$2"
    --index "$here/index_$1" --corpus "$3" --k "$K")
  stage "$asked/tuned_$1.json" odqa evaluate "${parts[@]}" \
    --questions "$asked/dev.jsonl" --tune-scoring "$asked/scoring_$1.json"
  stage "$asked/em_$1.json" odqa evaluate "${parts[@]}" \
    --questions "$asked/test.jsonl" --scoring "$asked/scoring_$1.json"
  stage "$asked/system_$1.json" odqa assemble --retriever "$here/$2" \
    --index "$here/index_$1" --corpus "$3" --extractive-reader "$here/$4" \
    --scoring "$asked/scoring_$1.json" --out "$asked/system_$1"
}

# DPR's shape: two encoders of the whole width, a reader that ranks passages.
two=(--config.model.shared=False --config.model.passage_type=auto)
retriever two minilm "${two[@]}" \
  --config.model.projection=none --config.model.embedding_dim=0
find two two "$data"
run two two "$data"
reader reader minilm
rung two two "$data" reader

# The passages that questions find.
train filter filter.py minilm "$FIND_STEPS" \
  --config.data.corpus="$data/corpus" --config.data.run="$here/runs/two.json" \
  --config.data.passages=20 --config.data.frequency_base=2 \
  --config.data.pool_questions="$data/questions/choose" --config.data.pool_size=2000 \
  --config.data.passage_length=128 --config.batch_size=12 \
  --config.optimizer.warmup_steps=$((FIND_STEPS / 10)) \
  --config.optimizer.learning_rate=5e-5
stage "$here/figures/filtered.json" odqa prune --checkpoint "$here/filter" \
  --corpus "$data" --index "$here/index_two" --keep "$KEEP" --out "$here/small"
small=$here/small
find filtered two "$small"
rung filtered two "$small" reader

# 128 dimensions, then four of six layers, then one encoder.
retriever narrow minilm "${two[@]}"
find narrow narrow "$small"
rung narrow narrow "$small" reader
retriever shallow "$WORK/shallow" "${two[@]}"
find shallow shallow "$small"
reader shallow_reader "$WORK/shallow"
rung shallow shallow "$small" shallow_reader
retriever shared "$WORK/shallow"
find shared shared "$small"
run shared shared "$small"
rung shared shared "$small" shallow_reader

# One encoder that retrieves and reads. It learns from candidates alone, among which
# what is measured on would only ever be negatives, and be learned as such.
stage "$here/figures/held_out.json" python tests/benchmarks/held_out.py \
  "$here/runs/shared.json" "$WORK/raw/odd.jsonl" "$here/runs/learned.json"
unified() { # its name, the stage of the recipe, what it begins from, its steps, more
  # With the retriever's own 0.05, its gradient outweighs what reading learns from.
  train "$1" "unified.py:stage=$2" "$here/$3" "$4" "${pairs[@]}" \
    --config.data.corpus="$small/corpus" --config.data.run="$here/runs/learned.json" \
    --config.data.candidates=30 --config.data.passages=4 --config.batch_size=6 \
    --config.data.passage_length=128 --config.objective.temperature=0.2 "${@:5}"
  find "$1" "$1" "$small"
  rung "$1" "$1" "$small" "$1"
}
# At τ = 3 a teacher of few steps is not sure of anything.
unified unified distillation shared "$DISTILL_STEPS" \
  --config.unified.teacher="$here/reader" --config.unified.temperature=1.0
# At the rate of distillation, a third of what it has learned is lost.
finetuned() { # its name, the stage of the recipe, more settings
  unified "$1" "$2" unified "$TUNE_STEPS" --config.optimizer.learning_rate=3e-5 "${@:3}"
}
finetuned iterative iterative
if [ -n "$ABLATIONS" ]; then
  finetuned unreconstructed iterative --config.unified.reconstruction=False
  finetuned joint joint
  unified undistilled iterative shared "$TUNE_STEPS"
fi

# One file, of two kinds of weights; and what every rung takes up.
for weights in f16 int8; do
  stage "$asked/packing_$weights.json" odqa pack --system "$asked/system_iterative" \
    --index int8 --weights "$weights" --text tokens --out "$asked/$weights.odqa"
  stage "$asked/em_$weights.json" odqa evaluate --system "$asked/$weights.odqa" \
    --questions "$asked/test.jsonl" --k "$K"
done
rungs=() em=()
for name in two filtered narrow shallow shared unified iterative f16 int8; do
  path=$asked/system_$name
  if [ -e "$asked/$name.odqa" ]; then path=$asked/$name.odqa; fi
  rungs+=("$name=$path") em+=("$name=$asked/em_$name.json")
done
rm -rf "$asked/footprint"
odqa footprint "${rungs[@]}" --em "${em[@]}" ${RUNTIME:+--runtime "$RUNTIME"} \
  --out "$asked/footprint"
