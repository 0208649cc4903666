#!/usr/bin/env bash
# deep-affect beside PyTorch (both layouts), ONNX Runtime, OpenVINO, TensorFlow and candle: installs them into a folder
# of its own, builds what is to be built, and prints one table. Nothing here is a dependency of the project.
#
#   benches/peers/run.sh [options of compare.py]        PEERS=FOLDER keeps the installation elsewhere
#
# Needs Python 3.10 or newer, cargo, 10 GB of disk and 20 GB of memory.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
peers=${PEERS:-$root/target/peers}
mkdir -p "$peers"

environment() { # name, packages
    local at=$peers/$1
    shift
    if [ ! -e "$at/complete" ]; then
        python3 -m venv "$at"
        "$at/bin/pip" install --quiet --disable-pip-version-check "$@"
        touch "$at/complete"
    fi
}
environment torch torch torchvision onnx onnxruntime openvino safetensors numpy pillow
environment tensorflow tensorflow-cpu keras numpy

target=${CARGO_TARGET_DIR:-$root/target}
cargo build --release --manifest-path "$root/Cargo.toml" --target-dir "$target"
cargo build --release --manifest-path "$here/candle/Cargo.toml" --target-dir "$peers/candle"
ours=$target/release/deep-affect

# One photograph, and the same network's weights for everybody: random numbers cost what trained ones cost.
if [ ! -e "$peers/fused.onnx" ]; then
    "$peers/torch/bin/python" "$here/worker.py" --peer torch --case save --model "$peers/fused" 2>/dev/null
fi
if [ ! -e "$peers/model/checkpoint.safetensors" ]; then
    "$peers/torch/bin/python" - "$peers" <<'PYTHON'
import sys, numpy as np
from PIL import Image
folder = sys.argv[1]
rng = np.random.default_rng(1)
for name in "abcd":
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).resize((1024, 768), Image.BICUBIC).save(f"{folder}/{name}.png")
Image.open(f"{folder}/a.png").save(f"{folder}/photo.png")
open(f"{folder}/four.csv", "w").write("path,valence,arousal\n" + "".join(f"{n}.png,{v},{9 - v}\n" for n, v in zip("abcd", (2, 4, 6, 8))))
PYTHON
    "$ours" train "$peers/four.csv" --out "$peers/model" --init-missing --epochs 1 --batch 4 --val 0 --lr 0.000001
fi
exec "$peers/torch/bin/python" "$here/compare.py" --binary "$ours" --scratch "$peers" "$@"
