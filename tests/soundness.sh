#!/usr/bin/env bash
# Memory errors that tests of results do not see: the routines of the CPU under AddressSanitizer and Miri, each with a read out of
# bounds that it must find; graphs, plans, arena, devices and headers of weight files under Miri; all ops under AddressSanitizer.
# Needs rustup; takes a nightly compiler with Miri from there, for this alone. Builds in target/soundness.
#
#     tests/soundness.sh                # address and miri
#     tests/soundness.sh address        # half a minute of processor time with what it compiles
#     tests/soundness.sh miri           # the whole library is compiled for its second half
#     tests/soundness.sh address-all    # every op's cases: the whole library is compiled twice
#
# Last run, by hand, on two cores that many shared, with nightly 1.97 of 2026-05-15:
# - address: 2026-11-30 on 6b3d4dc, 26 s of processor time; the planted error found, 15 tests without an error.
# - miri: 2026-11-30 on 6b3d4dc, the planted error found and 8 tests of the package without an error, 28 s; 2026-11-29 on
#   9f096f1, tests/soundness.rs without an error in 7 minutes.
# - address-all: 2026-11-30 on f444ffd, 20 minutes of processor time; the planted error found, 36 tests, 2,538 cases of ops on reals
#   and 1,752 on integers without an error.
set -euo pipefail
cd "$(dirname "$0")/.."
nightly=${NIGHTLY:-nightly}
export CARGO_TARGET_DIR=target/soundness CARGO_PROFILE_DEV_DEBUG=0

if ! cargo "+$nightly" --version >/dev/null 2>&1; then
    rustup toolchain install "$nightly" --profile minimal
fi
cargo "+$nightly" --version

# A command that must fail and say why.
found() {
    local why=$1 log
    shift
    if log=$("$@" 2>&1); then
        echo "$log"
        echo "the planted error was not found" >&2
        exit 1
    fi
    grep -q "$why" <<<"$log" || { echo "$log"; echo "no word of \"$why\"" >&2; exit 1; }
    echo "found: $(grep -m 1 "$why" <<<"$log")"
}

# Tests by name, of which some must be there.
some() {
    local log
    log=$(mktemp)
    "$@" | tee "$log"
    grep -q ' [1-9][0-9]* passed' "$log" || { echo "no test has such a name" >&2; exit 1; }
    rm "$log"
}

miri() {
    # Trees are what rayon's queues are written for. Files and the clock are the machine's.
    export MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-permissive-provenance" RAYON_NUM_THREADS=2
    local run=(cargo "+$nightly" miri test) package
    if ! cargo "+$nightly" miri --version >/dev/null 2>&1; then
        rustup component add --toolchain "$nightly" miri rust-src
    fi
    package=$(routines)
    found "Undefined Behavior" "${run[@]}" --manifest-path "$package" --lib -- --ignored an_access_out_of_bounds
    some "${run[@]}" --manifest-path "$package" --lib -- launch::tests shape:: launch::gpu::tests::one nan_is_not
    "${run[@]}" --test soundness
}

# The routines of the CPU with what they use and their own tests, as a package: compiled in a minute where the whole takes many.
routines() {
    local dir=$PWD/$CARGO_TARGET_DIR/routines module file
    mkdir -p "$dir"
    {
        printf '[package]\nname = "routines"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[lib]\npath = "lib.rs"\n[dependencies]\n'
        grep -E '^(bytemuck|half|rayon|serde) = ' Cargo.toml
        printf '[profile.dev]\nopt-level = 1\n'
    } >"$dir/Cargo.toml"
    cp Cargo.lock "$dir"
    for module in error shape par launch host; do
        file=src/$module.rs
        [ -e "$file" ] || file=src/$module/mod.rs
        printf '#[path = "%s"]\npub mod %s;\n' "$PWD/$file" "$module"
    done >"$dir/lib.rs"
    echo "$dir/Cargo.toml"
}

# One package alone is instrumented: it has the pointers, and the allocator that knows the ends is everybody's. Ends of
# allocations are what is watched: no margins around outputs. Vector instructions as this machine has them.
sanitized() {
    export SANITIZED=1 ASAN_OPTIONS=detect_leaks=0 RUSTC_WORKSPACE_WRAPPER=$PWD/$CARGO_TARGET_DIR/sanitized
    mkdir -p "$CARGO_TARGET_DIR"
    printf '#!/bin/sh\nexec "$@" -Zsanitizer=address\n' >"$RUSTC_WORKSPACE_WRAPPER"
    chmod +x "$RUSTC_WORKSPACE_WRAPPER"
    run=(cargo "+$nightly" test --config 'profile.dev.package."*".opt-level=1')
}

address() {
    local run package
    package=$(routines)
    sanitized
    run+=(--manifest-path "$package" --lib --)
    found "heap-buffer-overflow" "${run[@]}" --ignored an_access_out_of_bounds
    some "${run[@]}" host:: launch::
}

# The same of the whole library: every op's cases, and what safe code may ask.
address-all() {
    local run
    sanitized
    some "${run[@]}" --lib -- host:: launch:: device::cpu
    "${run[@]}" --test ops --test soundness
}

for part in "${@:-address miri}"; do
    for one in $part; do
        SECONDS=0
        ("$one")
        echo "$one: $SECONDS s"
    done
done
