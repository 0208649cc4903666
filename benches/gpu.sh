#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, for a machine that is lent for minutes and has neither Rust nor a network.
#
#     benches/gpu.sh pack                # where there is Rust: one archive, and the two calls to make with it
#     benches/gpu.sh check [REPORT]      # where there is a GPU, under 5 minutes: is it right? The most telling part first
#     benches/gpu.sh speed [REPORT]      # where there is a GPU, under 8 minutes: is it fast? Beside PyTorch; the table comes last
#
# `check` and `speed` run from the unpacked archive, or from a checkout with built binaries. They need the driver; exported
# kernels (`cache/`, in the archive) or NVRTC; Nsight Compute (ncu) and compute-sanitizer for their parts of `check`; a Python
# with torch for `speed`. A part has its seconds and is cut off after them; what it said is in a log, and one line of it is
# printed. What comes back lies in OUT: a report and one archive of records, pictures and logs. The exit status counts the parts
# that failed. `benches/results/README.md` says what to do with what comes back.
#
# BINARY, TESTS and PRECISION_TESTS name other binaries, PYTHON the interpreter that has torch, LIMIT the seconds of the whole,
# ARCH what `pack` compiles kernels for (sm_90a).
# SMOKE=1 tries the script without a GPU: tiny networks on the CPU, and stand-ins for all tools (`tests/fake-cuda/tool`).
set -uo pipefail
cd "$(dirname "$0")/.."

newest() { ls -t "$@" 2>/dev/null | head -1; }
built() {
    if [ -x "bin/$1" ]; then
        echo "bin/$1"
    else
        newest $(find target/release/deps -maxdepth 1 -name "$1-*" -perm -u+x -type f 2>/dev/null)
    fi
}
[ -x bin/deep-affect ] && BINARY=${BINARY:-bin/deep-affect}
BINARY=${BINARY:-target/release/deep-affect}
TESTS=${TESTS:-$(built gpu)}
PRECISION_TESTS=${PRECISION_TESTS:-$(built precision)}
PYTHON=${PYTHON:-python3}
SMOKE=${SMOKE:-}
OUT=${OUT:-$(mktemp -d)}
WHAT=${1:-check}
REPORT=${2:-/dev/null}
WORK=$(mktemp -d)
LOGS=$WORK/logs
mkdir -p "$OUT" "$LOGS"
failed=0
device=(--device cuda)
export REQUIRE_DEVICES=cuda SKIP_DEVICES=sim # The card is the subject.
if [ -n "$SMOKE" ]; then
    mkdir "$WORK/tools"
    for tool in nvidia-smi ncu compute-sanitizer python3; do
        ln -s "$PWD/tests/fake-cuda/tool" "$WORK/tools/$tool"
    done
    PATH=$WORK/tools:$PATH
    PYTHON=python3
    device=(--device cpu --threads 1 --width 16 --image 32 --head "12,8,6")
    export REQUIRE_DEVICES=
fi
[ -d cache/kernels ] && export DEEP_AFFECT_CACHE=${DEEP_AFFECT_CACHE:-$PWD/cache}

left() { echo $((LIMIT - SECONDS)); }
least() { echo $(($1 < $2 ? $1 : $2)); }

# A name, its seconds at most, the command: one line says how it ended, and more of the log where it failed.
part() {
    local name=$1 seconds status=0 start=$SECONDS log
    seconds=$(least "$2" "$(left)")
    log=$LOGS/$(printf %02d "$(ls "$LOGS" | wc -l)")-${name//[^a-zA-Z0-9]/-}.log
    shift 2
    if [ "$seconds" -lt 3 ]; then
        echo "not begun  $name: no time left"
        return 1
    fi
    echo "\$ $*" >"$log"
    # An interrupt first: a profiler then writes what it has.
    timeout --signal=INT --kill-after=5 "$seconds" "$@" >>"$log" 2>&1 || status=$?
    local took="$((SECONDS - start)) s" said
    said=$(grep -v -e '^ *$' -e '^\$ ' "$log" | tail -1 | cut -c1-160)
    case $status in
        0) echo "passed     $name, $took: $said" ;;
        124 | 137) echo "cut off    $name, $took: $said" ;;
        *)
            failed=$((failed + 1))
            echo "FAILED     $name, $took, status $status:"
            grep -v '^ *$' "$log" | tail -8 | cut -c1-240 | sed 's/^/    /'
            ;;
    esac
    return "$status"
}

# Where NVRTC is, if the loader does not know. Exported kernels need none, and must not be compiled again because one of another
# version is here.
find_nvrtc() {
    local folder site='import glob, site
print(*(f for s in {*site.getsitepackages(), site.getusersitepackages()} for f in glob.glob(s + "/nvidia/*/lib")), sep="\n")'
    if [ -d cache/kernels ]; then
        export DEEP_AFFECT_NVRTC=$PWD/cache
        return
    fi
    if [ -n "${DEEP_AFFECT_NVRTC:-}" ] || ldconfig -p 2>/dev/null | grep -q 'libnvrtc\.so'; then
        return
    fi
    while read -r folder; do
        if [ -n "$(newest "$folder"/libnvrtc.so.1[23])" ]; then
            export DEEP_AFFECT_NVRTC=$folder
            echo "NVRTC: $folder"
            return
        fi
    done < <(ls -d /usr/local/cuda*/lib64 2>/dev/null; "$PYTHON" -c "$site" 2>/dev/null)
}

# The card, and what there is for it. Without one nothing else is worth a second.
begin() {
    local said
    find_nvrtc
    part "the card" 15 nvidia-smi --format=csv,noheader \
        --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.sm,clocks.mem,power.limit,temperature.gpu
    part "what is here" 30 "$BINARY" doctor
    said=$(newest "$LOGS"/*-what-is-here.log)
    grep -v '^\$' "$said" | cut -c1-200 | sed 's/^/    /'
    if [ -z "$SMOKE" ] && ! grep -q '^--device cuda *cuda:0' "$said"; then
        echo "no GPU can be used here: nothing else is tried"
        failed=$((failed + 1))
        return 1
    fi
}

family() { # name, seconds, which tests
    FAMILY=$1 timeout --signal=INT --kill-after=5 "$2" "$TESTS" "${@:3}" --nocapture --test-threads=1
}

# Tests of the ops, a process for each family and four at a time: an illegal access ends a process's work. A family that fails
# runs once more, alone. Returns 1 if none passes.
families() { # name, seconds, which tests
    local name=$1 seconds start=$SECONDS until f status passed=0 late=() bad=() running=()
    seconds=$(least "$2" "$(left)")
    until=$((SECONDS + seconds))
    shift 2
    for f in $FAMILIES; do
        while [ ${#running[@]} -ge 4 ]; do
            wait "${running[0]}"
            running=("${running[@]:1}")
        done
        if [ $((until - SECONDS)) -lt 3 ]; then
            late+=("$f")
            continue
        fi
        (
            family "$f" $((until - SECONDS)) "$@" >"$LOGS/$name-$f.log" 2>&1
            echo $? >"$WORK/$name-$f.status"
        ) &
        running+=($!)
    done
    [ ${#running[@]} -eq 0 ] || wait "${running[@]}"
    for f in $FAMILIES; do
        [ -e "$WORK/$name-$f.status" ] || continue
        status=$(cat "$WORK/$name-$f.status")
        case $status in
            0) passed=$((passed + 1)) ;;
            124 | 137) late+=("$f") ;;
            *) bad+=("$f") ;;
        esac
    done
    echo "families   $name, $((SECONDS - start)) s: $passed passed, ${#bad[@]} failed, ${#late[@]} not finished${late[*]:+ (${late[*]})}"
    for f in ${bad[@]+"${bad[@]}"}; do
        failed=$((failed + 1))
        if [ "$(left)" -lt 10 ]; then
            echo "FAILED     $f; no time to run it alone"
            continue
        fi
        status=0
        family "$f" "$(least 20 "$(left)")" "$@" >"$LOGS/$name-$f-alone.log" 2>&1 || status=$?
        echo "FAILED     $f; alone: $([ $status -eq 0 ] && echo passed || echo "status $status")"
        [ $status -eq 0 ] || grep -a -e ' on cuda' -e panicked "$LOGS/$name-$f-alone.log" | head -4 | cut -c1-240 | sed 's/^/    /'
    done
    [ $((passed + ${#late[@]})) -gt 0 ]
}

compare() { # name, seconds, flags
    local name=$1 seconds=$2
    shift 2
    part "$name" "$seconds" "$BINARY" compare "$@" "${device[@]}"
}

# The eight launches of a training step that take longest, by the card's own counters.
counters() {
    local batch=25 step=$WORK/step.json names n most=8
    [ -z "$SMOKE" ] || batch=2
    "$BINARY" kernels launches --pass train --batch "$batch" --precision bf16 "${device[@]:4}" --json >"$step" 2>/dev/null
    names=$(grep -o '"kernel": "[a-z0-9_]*"' "$step" | cut -d'"' -f4 | sort -u | paste -sd'|')
    n=$(grep -c '"kernel": ' "$step")
    [ "$n" -gt 0 ] || { echo "FAILED     counters: no list of launches"; failed=$((failed + 1)); return; }
    # The step runs twice after what prepares it: as many launches as one step has, from anywhere within the first, are each of
    # its launches once.
    part "counters of $n launches" 75 env DEEP_AFFECT_GRAPHS=0 ncu --clock-control none --csv --page raw --log-file "$WORK/ncu.csv" \
        --section SpeedOfLight --section ComputeWorkloadAnalysis --section WarpStateStats --section LaunchStats \
        --kernel-name "regex:^($names)$" --launch-skip "$n" --launch-count "$n" \
        "$BINARY" profile --pass train --batch "$batch" --precision bf16 --repeat 1 "${device[@]}"
    [ -s "$WORK/ncu.csv" ] && "$PYTHON" benches/counters.py "$WORK/ncu.csv" "$step" $most | tee "$WORK/counters.txt" | cut -c1-160
}

check() {
    local batch=25 cpu=2 many=700 piece=25 golden=(tests/golden/*.safetensors) precision
    [ -z "$SMOKE" ] || batch=2 cpu=1 many=5 piece=2 golden=(tests/golden/softmax.safetensors)
    begin || return
    part "golden files" 30 "$BINARY" conform "${golden[@]}" "${device[@]:0:2}"
    FAMILIES=$("$TESTS" families_ --nocapture | sed -n 's/^family //p')
    if ! families values 60 kernels_; then
        echo "no family of kernels computes what it should: nothing else is tried"
        return
    fi
    families bits 45 same_bits grouped_ nan_ tiles_ ceilings
    if [ -z "$SMOKE" ] && [ "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1)" = 9.0 ]; then
        part "Hopper's own kernels beside the portable ones" 60 \
            bash -c '"$@" | tee /dev/stderr | grep -x agreed' -- "$BINARY" kernels check "${device[@]}"
    fi
    part "graph replay, small network" 20 "$TESTS" replays_ --nocapture --test-threads=1
    compare "graph replay, training step, bf16" 25 --replay --pass train --batch "$batch" --precision bf16
    compare "graph replay, inference, bf16" 15 --replay --batch "$batch" --precision bf16
    # The CPU's training step at batch 25 takes half a minute.
    for precision in float32 bf16 tf32x3; do
        compare "training step against the CPU, $precision" 25 --pass train --batch "$cpu" --precision $precision --against cpu
    done
    compare "inference at $batch against the CPU, bf16" 25 --batch "$batch" --precision bf16 --against cpu
    # More elements than 32 bits count. The CPU would take minutes; a picture has the same bits in a batch of any size.
    compare "inference at $many against $piece at a time, bf16" 25 --batch $many --pieces $piece --precision bf16
    for run in "step $batch" "infer 1" "infer $batch"; do
        set -- $run
        part "bench $run, bf16" 15 "$BINARY" bench "$1" --batch "$2" --rounds 3 --precision bf16 "${device[@]}" \
            --json "$WORK/$1-$2-bf16.json"
    done
    counters
    part "training in 16 bits and in tf32" 20 "$PRECISION_TESTS" --nocapture --test-threads=1
    part "racecheck of the convolutions" 60 env FAMILY=conv compute-sanitizer --tool racecheck --error-exitcode 9 --print-limit 20 \
        "$TESTS" kernels_stay --nocapture --test-threads=1
    echo "parts that failed: $failed; seconds: $SECONDS"
}

# Ours and theirs in turns: what the card does meanwhile (clocks, heat) hits both. bf16 first, the comparison that counts; then
# float32, with tf32 (theirs and ours) and tf32x3 (ours) beside it, as far as the time goes. Compiling a training step takes
# PyTorch minutes, so the first of each kind has the most seconds.
speed() {
    local rounds=5 peer=() whole=() layers=() steps="25 64" infers="25 1 64 256" layer=25 seconds precision batch clocks
    if [ -n "$SMOKE" ]; then
        rounds=2 steps=2 infers="2 1" layer=2 peer=(--device cpu --smoke)
    fi
    begin || return
    nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active --format=csv -lms 500 \
        >"$WORK/clocks.csv" 2>&1 &
    clocks=$!
    ours() { # what, batch, set for a picture; in `precision`
        local name=$1-$2-$precision
        case $1 in step | infer) whole+=("$WORK/$name.json") ;; *) layers+=("$WORK/$name.json") ;; esac
        part "$1 at batch $2 in $precision" 40 "$BINARY" bench "$1" --batch "$2" --rounds $rounds --precision $precision \
            "${device[@]}" --json "$WORK/$name.json" ${3:+--svg "$WORK/$name.svg"}
    }
    on_tensor_cores() { # the same of float32 numbers
        local precision
        for precision in tf32 tf32x3; do ours "$@"; done
    }
    theirs() { # case, seconds at most; in `precision`
        local setups=$precision most=$(($(left) - 8)) name=torch-${1/:/-}-$precision
        [ $precision = bf16 ] || setups=float32,tf32
        most=$(least "$most" "$2")
        [ "$most" -gt 5 ] || return 0
        case $1 in layers*) layers+=("$WORK/$name.json") ;; *) whole+=("$WORK/$name.json") ;; esac
        part "PyTorch: $1 in $setups" $((most + 8)) "$PYTHON" benches/peers/deep_affect_torch.py ${peer[@]+"${peer[@]}"} \
            --cases "$1" --setups "$setups" --rounds $rounds --budget "$most" --json "$WORK/$name.json"
    }
    # Kernels are loaded once, before anything counts; so is what Python compiles.
    precision=bf16
    part "first step" 40 "$BINARY" bench step --batch "${steps%% *}" --rounds 1 --precision bf16 "${device[@]}"
    theirs ceilings 15
    # Theirs tunes itself while it compiles; ours keeps what it finds, for this kind of card.
    if [ -z "$SMOKE" ]; then
        part "tiles of a step" 40 "$BINARY" kernels tune --pass train --batch "${steps%% *}" --repeat 3 --precision bf16 "${device[@]}"
        part "tiles of an inference" 30 "$BINARY" kernels tune --pass infer --batch "${infers%% *}" --repeat 3 --precision bf16 "${device[@]}"
    fi
    seconds=90
    for batch in $steps; do
        ours step "$batch" svg
        theirs "step:$batch" $seconds
        seconds=30
    done
    seconds=45
    for batch in $infers; do
        ours infer "$batch"
        theirs "infer:$batch" $seconds
        seconds=12
    done
    for precision in bf16 float32; do
        ours conv "$layer" svg
        ours dense "$layer" svg
        theirs "layers:$layer" 30
        # The whole steps of 16 bits are done.
        [ $precision = float32 ] || continue
        for batch in $steps; do
            ours step "$batch" svg
            theirs "step:$batch" 20
            on_tensor_cores step "$batch"
        done
        for batch in $infers; do
            ours infer "$batch"
            theirs "infer:$batch" 12
            on_tensor_cores infer "$batch"
        done
    done
    kill $clocks
    wait $clocks 2>/dev/null
    echo "parts that failed: $failed; seconds: $SECONDS"
    echo "clocks, MHz: $(awk -F', ' 'NR > 1 { sub(/ MHz/, "", $2); print $2 }' "$WORK/clocks.csv" | sort -n | awk '
        { c[NR] = $1 } END { if (NR) print "lowest " c[1] ", median " c[int((NR + 1) / 2)] ", highest " c[NR] " of " NR }')"
    [ -n "$(there "${layers[@]}")" ] && "$BINARY" bench table $(there "${layers[@]}") >"$WORK/layers.md"
    [ -n "$(there "${whole[@]}")" ] && "$BINARY" bench table $(there "${whole[@]}") | tee "$WORK/table.md" |
        grep -v -e ': peak memory' -e ': process start'
}

there() {
    local file
    for file in "$@"; do [ ! -s "$file" ] || echo "$file"; done
}

# One archive of what the two calls need, tried in a folder where nothing else is.
pack() {
    local name=deep-affect-gpu stage=$WORK/pack archive=target/deep-affect-gpu.tar.xz empty=$WORK/empty ARCH=${ARCH:-sm_90a}
    local file most bytes least
    if [ -z "$SMOKE" ] && command -v cargo >/dev/null; then
        cargo build --release && cargo test --release --no-run --test gpu --test precision || return 1
        TESTS=$(built gpu) PRECISION_TESTS=$(built precision)
    fi
    mkdir -p "$stage/$name/bin" "$stage/$name/benches/peers" "$stage/$name/tests/golden" "$stage/$name/tests/fake-cuda" "$empty" target
    cp "$BINARY" "$stage/$name/bin/deep-affect"
    cp "$TESTS" "$stage/$name/bin/gpu"
    cp "$PRECISION_TESTS" "$stage/$name/bin/precision"
    cp benches/gpu.sh benches/counters.py "$stage/$name/benches/"
    cp benches/peers/deep_affect_torch.py "$stage/$name/benches/peers/"
    cp tests/golden/*.safetensors "$stage/$name/tests/golden/"
    cp tests/fake-cuda/tool "$stage/$name/tests/fake-cuda/"
    git rev-parse --short HEAD >"$stage/$name/commit" 2>/dev/null
    "$BINARY" kernels export "$stage/$name/cache" --arch "$ARCH" || return 1
    # What the three programs have in common counts once: the dictionary reaches from one to the next. Whoever unpacks it owns it,
    # root too: compiled kernels of somebody else would not be used.
    XZ_OPT=--lzma2=preset=6,dict=192MiB tar -C "$stage" --owner=0 --group=0 -cJf $archive $name || return 1
    bytes=$(stat -c %s $archive)
    most=$((64 << 20))
    [ "$bytes" -le $most ] || { echo "gpu.sh: $archive has $bytes bytes, and $most may be taken along" >&2; return 1; }
    # As on the other machine: no variables, no compiler of kernels, and this folder hidden where the system allows that.
    tar -C "$empty" -xf $archive
    local alone=(env -i PATH="$PATH" HOME=/nonexistent DEEP_AFFECT_NVRTC=/nonexistent DEEP_AFFECT_CACHE="$empty/$name/cache"
        bash -c 'cd "$0" && exec "$@"' "$empty/$name")
    if unshare -rm true 2>/dev/null; then
        alone=(unshare -rm bash -c 'mount -t tmpfs none "$0" && exec "$@"' "$PWD" "${alone[@]}")
    fi
    part "the program starts" 20 "${alone[@]}" bin/deep-affect --version
    part "every kernel is there" 120 "${alone[@]}" bin/deep-affect kernels list --arch "$ARCH"
    part "the tests start" 20 "${alone[@]}" bin/gpu families_
    part "golden files are read" 20 "${alone[@]}" bin/deep-affect conform tests/golden/softmax.safetensors --device cpu
    for file in check speed; do
        part "$file, without a GPU" 300 "${alone[@]}" env SMOKE=1 benches/gpu.sh $file
    done
    least=$(for file in "$stage/$name/bin/"*; do grep -ao 'GLIBC_2\.[0-9]*' "$file"; done | sort -uV | tail -1)
    echo
    echo "$archive: $bytes bytes, for $ARCH; needs glibc ${least#GLIBC_} or newer. With OUT an empty folder, the two calls are"
    echo
    echo "    python3 -m tarfile -e $archive . && deep-affect-gpu/benches/gpu.sh check"
    echo "    python3 -m tarfile -e $archive . && deep-affect-gpu/benches/gpu.sh speed"
}

head_lines() {
    DEEP_AFFECT_COMMIT=$(cat commit 2>/dev/null || git rev-parse --short HEAD 2>/dev/null || true)
    export DEEP_AFFECT_COMMIT
    echo "date: $(date -u +%Y-%m-%d)  commit: ${DEEP_AFFECT_COMMIT:-unknown}  command: benches/gpu.sh $WHAT  in ${OUT}"
}

case $WHAT in
    check) LIMIT=${LIMIT:-290} needed=("$BINARY" "$TESTS" "$PRECISION_TESTS") ;;
    speed) LIMIT=${LIMIT:-465} needed=("$BINARY") ;;
    pack) LIMIT=${LIMIT:-3600} needed=() ;;
    *)
        echo "usage: benches/gpu.sh pack|check|speed [REPORT]" >&2
        exit 2
        ;;
esac
for file in ${needed[@]+"${needed[@]}"}; do
    [ -x "$file" ] || { echo "gpu.sh: no program \`$file\`: build it, or unpack what \`gpu.sh pack\` made" >&2; exit 2; }
done

all() {
    [ "$WHAT" = pack ] || head_lines
    # The table of `speed` comes last, so that it is seen where only the end is.
    "$WHAT" || failed=$((failed + (failed == 0)))
    return "$failed"
}

status=0
all > >(tee "$WORK/$WHAT.txt" "$REPORT") || status=$?
wait $!
if [ "$WHAT" != pack ]; then
    cp "$WORK/$WHAT.txt" "$OUT/"
    tar -C "$WORK" --exclude=tools -czf "$OUT/$WHAT.tar.gz" .
fi
rm -rf "$WORK"
exit "$status"
