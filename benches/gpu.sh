#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU. Needs the driver and the built binaries; NVRTC or exported kernels
# (DEEP_AFFECT_CACHE); compute-sanitizer for its part, and a Python with torch for the side-by-side.
#
#     cargo build --release && cargo test --release --no-run --test gpu --test precision      # where there is Rust
#     benches/gpu.sh check [REPORT]      # where there is a GPU: every case, sanitizer, golden files, compare, the demo
#     benches/gpu.sh speed [REPORT]      # ours beside PyTorch, in under nine minutes; the table comes last
#
# BINARY, TESTS and PRECISION_TESTS name the binaries if they are not under target/release, PYTHON the interpreter that has
# torch; MODEL, BATCHES and CPU_BATCH choose what `check` runs, OUT is where `speed` leaves its records. SMOKE=1 runs every part that can
# run without a GPU, tiny and on the CPU, to try this script. Every part runs, whatever failed before it; the exit status
# counts the parts that failed.
set -uo pipefail
cd "$(dirname "$0")/.."

newest() { ls -t "$@" 2>/dev/null | head -1; }
BINARY=${BINARY:-target/release/deep-affect}
built() { newest $(find target/release/deps -maxdepth 1 -name "$1-*" -perm -u+x -type f 2>/dev/null); }
TESTS=${TESTS:-$(built gpu)}
PRECISION_TESTS=${PRECISION_TESTS:-$(built precision)}
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

precisions() { REQUIRE_DEVICES=cuda "$PRECISION_TESTS" --nocapture --test-threads=1; }

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
    part "training in 16 bits and in tf32" precisions
    for precision in tf32x3 tf32 bf16 fp16; do
        for pass in infer train; do
            part "$pass in $precision against the CPU" "$BINARY" compare "$MODEL" --pass $pass --batch "$CPU_BATCH" \
                --precision $precision --device cuda --against cpu
        done
    done
    demo=$(mktemp -d)
    for precision in float32 bf16; do
        part "the demo in $precision" "$BINARY" demo --out "$demo/$precision" --precision $precision --device cuda
    done
    rm -rf "$demo"
}

# Ours and theirs in turns: what the card does meanwhile (clocks, heat) hits both. 16 bits first, the comparison that
# counts; then float32, with tf32 (theirs and ours) and tf32x3 (ours) beside it, as far as the time goes. Compiling a training step takes PyTorch minutes, so the first of each kind
# has the most seconds.
speed() {
    local began=$SECONDS out=${OUT:-$(mktemp -d)} rounds=5 flags=(--device cuda) peer=() all=() peers=() found=()
    local steps="25 64" infers="25 1 64 256" layers=25 seconds precision
    if [ -n "$SMOKE" ]; then
        rounds=2 steps=2 infers="2 1" layers=2 peer=(--device cpu --smoke)
        flags=(--device cpu --threads 1 --width 16 --image 32 --head "12,8,6")
    fi
    mkdir -p "$out"
    # Seconds until nothing new is begun: the script ends within nine minutes.
    left() { echo $((505 - (SECONDS - began))); }
    ours() { # what, batch, set for a picture; in `precision`
        [ "$(left)" -gt 10 ] || return 0
        local name=$1-$2-$precision
        all+=("$out/$name.json")
        part "$1 at batch $2 in $precision" "$BINARY" bench "$1" --batch "$2" --rounds $rounds --precision $precision "${flags[@]}" \
            --json "$out/$name.json" ${3:+--svg "$out/$name.svg"}
    }
    on_tensor_cores() { # the same of float32 numbers
        local precision
        for precision in tf32 tf32x3; do ours "$@"; done
    }
    theirs() { # case, seconds at most; in `precision`
        local setups=$precision most=$(left) name=torch-${1/:/-}-$precision
        [ $precision = bf16 ] || setups=float32,tf32
        [ "$most" -lt "$2" ] || most=$2
        [ "$most" -gt 12 ] || return 0
        peers+=("$out/$name.json")
        part "PyTorch: $1 in $setups" "$PYTHON" benches/peers/deep_affect_torch.py "${peer[@]}" --cases "$1" --setups $setups \
            --rounds $rounds --budget "$most" --json "$out/$name.json"
    }
    # Kernels are compiled once, before anything counts; so is what Python compiles.
    precision=bf16
    part "kernels and caches" "$BINARY" bench step --batch "${steps%% *}" --rounds 1 --precision bf16 "${flags[@]}"
    theirs infer:3 20
    # Theirs tunes itself while it compiles; ours keeps what it finds, for this kind of card.
    if [ -z "$SMOKE" ]; then
        part "tiles of a step" "$BINARY" kernels tune --pass train --batch "${steps%% *}" --repeat 3 --precision bf16 "${flags[@]}"
        part "tiles of an inference" "$BINARY" kernels tune --pass infer --batch "${infers%% *}" --repeat 3 --precision bf16 "${flags[@]}"
    fi
    seconds=105
    for batch in $steps; do
        ours step "$batch" svg
        theirs "step:$batch" $seconds
        seconds=45
    done
    seconds=60
    for batch in $infers; do
        ours infer "$batch"
        theirs "infer:$batch" $seconds
        seconds=18
    done
    for precision in bf16 float32; do
        ours conv "$layers" svg
        ours dense "$layers" svg
        theirs "layers:$layers" 40
        # The whole steps of 16 bits are done.
        [ $precision = float32 ] || continue
        for batch in $steps; do
            ours step "$batch" svg
            theirs "step:$batch" 25
            on_tensor_cores step "$batch"
        done
        for batch in $infers; do
            ours infer "$batch"
            theirs "infer:$batch" 15
            on_tensor_cores infer "$batch"
        done
        on_tensor_cores conv "$layers"
        on_tensor_cores dense "$layers"
    done
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
    check) needed+=("$TESTS" "$PRECISION_TESTS") ;;
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
