#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one run: the whole case list on `cuda`, compute-sanitizer's four tools over it,
# full-size networks against the CPU path, the demo, and the times of an inference and of a training step. Needs the
# driver and the built binaries; NVRTC or exported kernels (DEEP_AFFECT_CACHE); compute-sanitizer for its part.
#
#     cargo build --release && cargo test --release --no-run --test gpu      # where there is Rust
#     benches/gpu.sh [REPORT]                                                # where there is a GPU
#
# BINARY and TESTS name the two binaries if they are not under target/release; MODEL, BATCHES and CPU_BATCH choose what is
# measured. Every part runs, whatever failed before it; the exit status counts the parts that failed.
set -uo pipefail
cd "$(dirname "$0")/.."

newest() { ls -t "$@" 2>/dev/null | head -1; }
BINARY=${BINARY:-target/release/deep-affect}
TESTS=${TESTS:-$(newest $(find target/release/deps -maxdepth 1 -name 'gpu-*' -perm -u+x -type f 2>/dev/null))}
MODEL=${MODEL:-deep-affect}
BATCHES=${BATCHES:-1 25}
CPU_BATCH=${CPU_BATCH:-2} # the CPU's training step at batch 25 takes half a minute
REPORT=${1:-/dev/null}
failed=0

for file in "$BINARY" "$TESTS"; do
    [ -x "$file" ] || { echo "gpu.sh: no program \`$file\`: build it as the head of this file says" >&2; exit 2; }
done

part() {
    local name=$1 status=0 start=$SECONDS
    shift
    echo "== $name: $*"
    "$@" 2>&1 || status=$?
    if [ $status -ne 0 ]; then
        failed=$((failed + 1))
        echo "== FAILED ($status): $name, after $((SECONDS - start)) s"
    else
        echo "== passed: $name, $((SECONDS - start)) s"
    fi
}

cases() { REQUIRE_DEVICES=cuda "$TESTS" kernels_ same_bits grouped_ nan_ --nocapture --test-threads=1 "$@"; }

sanitize() {
    # One run of every case is enough: the same kernels run in the other tests.
    REQUIRE_DEVICES=cuda compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
        "$TESTS" kernels_stay --nocapture --test-threads=1
}

all() {
    echo "date: $(date -u +%Y-%m-%d)  commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown)  command: benches/gpu.sh"
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv 2>&1
    part "what is here" "$BINARY" doctor
    part "every case" cases
    for tool in memcheck racecheck initcheck synccheck; do
        part "compute-sanitizer $tool" sanitize $tool
    done
    part "golden files" "$BINARY" conform tests/golden/*.safetensors --device cuda
    for batch in $BATCHES; do
        part "inference at batch $batch against the CPU" "$BINARY" compare "$MODEL" --batch "$batch" --device cuda --against cpu
    done
    part "a training step against the CPU" "$BINARY" compare "$MODEL" --pass train --batch "$CPU_BATCH" --device cuda --against cpu
    demo=$(mktemp -d)
    part "the demo" "$BINARY" demo --out "$demo/demo" --device cuda
    rm -rf "$demo"
    for batch in $BATCHES; do
        part "inference at batch $batch" "$BINARY" profile "$MODEL" --batch "$batch" --device cuda
        part "training at batch $batch" "$BINARY" profile "$MODEL" --pass train --batch "$batch" --device cuda
    done
    echo "== $failed parts failed"
    return "$failed"
}

all | tee "$REPORT"
exit "${PIPESTATUS[0]}"
