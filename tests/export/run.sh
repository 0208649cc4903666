#!/usr/bin/env bash
# Exported models in ONNX Runtime and PyTorch, beside what deep-affect computes: every network at a sixteenth of its width,
# the forms of the fused model, the bundled towers, the toy model, and checkpoints of yours.
#
#   tests/export/run.sh VENV [CHECKPOINT ...]        installs what it needs into the folder VENV
#
# Needs Python 3.10 or newer, cargo and 3 GB of disk.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${1:?the folder for a virtual environment}
shift
if [ ! -e "$venv/complete" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check torch torchvision onnx onnxruntime safetensors numpy pillow
    touch "$venv/complete"
fi
target=${CARGO_TARGET_DIR:-$root/target}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$root"
cargo build --target-dir "$target"
EXPORT_DIR=$scratch cargo test --quiet --target-dir "$target" --test export every > /dev/null
"$venv/bin/python" "$here/check.py" --binary "$target/debug/deep-affect" --scratch "$scratch" \
    "$root/src/bundled/weights/toy.safetensors" "$@"
