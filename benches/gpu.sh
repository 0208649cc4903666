#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU. Needs the driver and the built binaries; NVRTC or exported kernels
# (DEEP_AFFECT_CACHE); compute-sanitizer for its part, and a Python with torch for the side-by-side.
#
#     cargo build --release && cargo test --release --no-run --test gpu      # where there is Rust
#     benches/gpu.sh check [REPORT]      # where there is a GPU: every case, sanitizer, golden files, compare, the demo
#     benches/gpu.sh speed [REPORT]      # ours beside PyTorch, in under nine minutes; the table comes last
#
# BINARY and TESTS name the two binaries if they are not under target/release, PYTHON the interpreter that has torch; MODEL,
# BATCHES and CPU_BATCH choose what `check` runs, OUT is where `speed` leaves its records. SMOKE=1 runs every part that can
# run without a GPU, tiny and on the CPU, to try this script. Every part runs, whatever failed before it; the exit status
# counts the parts that failed.
set -uo pipefail
cd "$(dirname "$0")/.."

newest() { ls -t "$@" 2>/dev/null | head -1; }
BINARY=${BINARY:-target/release/deep-affect}
TESTS=${TESTS:-$(newest $(find target/release/deps -maxdepth 1 -name 'gpu-*' -perm -u+x -type f 2>/dev/null))}
PYTHON=${PYTHON:-python3}
MODEL=${MODEL:-deep-affect}
BATCHES=${BATCHES:-1 25}
CPU_BATCH=${CPU_BATCH:-2} # the CPU's training step at batch 25 takes half a minute
SMOKE=${SMOKE:-}
WHAT=${1:-check}
REPORT=${2:-/dev/null}
failed=0

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

cases() { REQUIRE_DEVICES=cuda "$TESTS" kernels_ same_bits grouped_ nan_ ceilings --nocapture --test-threads=1 "$@"; }

sanitize() {
    # One run of every case is enough: the same kernels run in the other tests.
    REQUIRE_DEVICES=cuda compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
        "$TESTS" kernels_stay --nocapture --test-threads=1
}

check() {
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
}

# Ours and theirs in turns: what the card does meanwhile (clocks, heat) hits both. Compiling a training step takes PyTorch
# minutes, so the first of each kind has the most seconds.
speed() {
    local began=$SECONDS out=${OUT:-$(mktemp -d)} rounds=5 flags=(--device cuda) peer=() peers=() all=() found=()
    local steps="25 64" infers="25 1 64 256" layers=25 seconds
    if [ -n "$SMOKE" ]; then
        rounds=2 steps=2 infers="2 1" layers=2 peer=(--device cpu --smoke)
        flags=(--device cpu --threads 1 --width 16 --image 32 --head "12,8,6")
    fi
    mkdir -p "$out"
    ours() { # name, what, batch
        part "$2 at batch $3" "$BINARY" bench "$2" --batch "$3" --rounds $rounds "${flags[@]}" --json "$out/$1.json" ${4:+--svg "$out/$1.svg"}
    }
    theirs() { # name, cases, seconds
        [ "$3" -gt 5 ] || return 0
        peers+=("$out/$1.json")
        part "PyTorch: $2" "$PYTHON" benches/peers/deep_affect_torch.py "${peer[@]}" --cases "$2" --rounds $rounds --budget "$3" --json "$out/$1.json"
    }
    # Kernels are compiled once, before anything counts; so is what Python compiles.
    part "kernels and caches" "$BINARY" bench step --batch "${steps%% *}" --rounds 1 "${flags[@]}"
    theirs torch-warm "infer:1" 25
    seconds=120
    for batch in $steps; do
        ours "step-$batch" step "$batch" svg
        theirs "torch-step-$batch" "step:$batch" $seconds
        all+=("$out/step-$batch.json")
        seconds=50
    done
    seconds=60
    for batch in $infers; do
        ours "infer-$batch" infer "$batch"
        theirs "torch-infer-$batch" "infer:$batch" $seconds
        all+=("$out/infer-$batch.json")
        seconds=20
    done
    ours conv conv "$layers" svg
    ours dense dense "$layers" svg
    all+=("$out/conv.json" "$out/dense.json")
    # The script ends within nine minutes, whatever came before.
    local left=$((505 - (SECONDS - began)))
    theirs torch-layers "layers:$layers" $((left < 110 ? left : 110))
    for file in "${all[@]}" "${peers[@]}"; do
        [ -s "$file" ] && found+=("$file")
    done
    echo "== $failed parts failed, ${SECONDS} s; records in $out"
    echo
    "$BINARY" bench table "${found[@]}"
}

head_lines() {
    DEEP_AFFECT_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || true)
    export DEEP_AFFECT_COMMIT
    echo "date: $(date -u +%Y-%m-%d)  commit: ${DEEP_AFFECT_COMMIT:-unknown}  command: benches/gpu.sh $WHAT"
    [ -n "$SMOKE" ] || nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv 2>&1
}

needed=("$BINARY")
case $WHAT in
    check) needed+=("$TESTS") ;;
    speed) ;;
    *) echo "usage: benches/gpu.sh check|speed [REPORT]" >&2; exit 2 ;;
esac
for file in "${needed[@]}"; do
    [ -x "$file" ] || { echo "gpu.sh: no program \`$file\`: build it as the head of this file says" >&2; exit 2; }
done

all() {
    head_lines
    "$WHAT"
    [ "$WHAT" = speed ] || echo "== $failed parts failed"
    return "$failed"
}

all | tee "$REPORT"
exit "${PIPESTATUS[0]}"
