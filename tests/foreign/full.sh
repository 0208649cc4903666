#!/usr/bin/env bash
# Published networks at full size, as the real tools write them, imported and compared: full.py says what.
#
#   tests/foreign/full.sh FOLDER --binary target/release/deep-affect PHOTOGRAPH...
#
# Installs what it needs into FOLDER. Needs Python 3.10 or newer and 8 GB of disk.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?the folder for environments and files}
shift
mkdir -p "$folder"
if [ ! -e "$folder/complete" ]; then
    python3 -m venv "$folder/torch"
    "$folder/torch/bin/pip" install --quiet --disable-pip-version-check torch onnx onnxscript onnxruntime numpy pillow grpcio-tools
    python3 -m venv "$folder/keras"
    "$folder/keras/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu keras numpy pillow h5py
    touch "$folder/complete"
fi
"$folder/torch/bin/python" "$here/full.py" --scratch "$folder" --python "$folder/keras/bin/python" "$@"
