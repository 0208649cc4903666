#!/usr/bin/env bash
# Memory errors that tests of results do not see: the pointer code, graphs, plans, arena and headers of weight files under
# Miri, and all routines of the CPU under AddressSanitizer, each with a read out of bounds that it must find. Needs rustup; takes
# a nightly compiler with Miri from there, for this alone. Builds in target/soundness.
#
#     tests/soundness.sh            # both
#     tests/soundness.sh miri       # or address
#
# Last run: 2026-11-29 on 9f096f1, by hand and on two busy cores: Miri over tests/soundness.rs (7 minutes) and over the chosen
# tests of the library (5 minutes), no undefined behaviour. Not run yet: Miri's control, and AddressSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
nightly=${NIGHTLY:-nightly}
export CARGO_TARGET_DIR=target/soundness CARGO_PROFILE_DEV_DEBUG=0

if ! cargo "+$nightly" miri --version >/dev/null 2>&1; then
    rustup toolchain install "$nightly" --profile minimal --component miri,rust-src
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

miri() {
    # Trees are what rayon's queues are written for. Files and the clock are the machine's.
    export MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-permissive-provenance" RAYON_NUM_THREADS=2
    local run=(cargo "+$nightly" miri test)
    "${run[@]}" --test soundness
    "${run[@]}" --lib -- launch::tests shape:: launch::gpu::tests::one nan_is_not --skip cli::
    found "Undefined Behavior" "${run[@]}" --lib -- --ignored an_access_out_of_bounds
}

address() {
    # Ends of allocations are what is watched: no margins around outputs. Vector instructions as this machine has them.
    export SANITIZED=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0
    local target run
    target=$(rustc "+$nightly" -vV | sed -n 's/^host: //p')
    run=(cargo "+$nightly" test --target "$target" --config 'profile.dev.package."*".opt-level=1')
    "${run[@]}" --lib -- host:: launch:: device::cpu
    found "heap-buffer-overflow" "${run[@]}" --lib -- --ignored an_access_out_of_bounds
    "${run[@]}" --test ops --test soundness
}

for part in "${@:-miri address}"; do
    for one in $part; do
        SECONDS=0
        ("$one")
        echo "$one: $SECONDS s"
    done
done
