#!/usr/bin/env bash
# One picture of 61 x 43 in Huffman codes and, with the same coefficients, in arithmetic coding: with restarts, progressive,
# and a scan for each component. Made with cjpeg and jpegtran of libjpeg-turbo 2.1.5.
set -euo pipefail
cd "$(dirname "$0")"
python3 - <<'EOF' | cjpeg -quality 60 -sample 2x2 >huffman.jpg
import sys
pixels = [(5 * x % 256, (7 * y + x) % 256, x * y % 256) for y in range(43) for x in range(61)]
sys.stdout.buffer.write(b"P6\n61 43\n255\n" + bytes(sum(pixels, ())))
EOF
jpegtran -arithmetic -restart 2B huffman.jpg >arithmetic-sequential.jpg
jpegtran -arithmetic -progressive huffman.jpg >arithmetic-progressive.jpg
jpegtran -arithmetic -scans <(printf '0;\n1;\n2;\n') huffman.jpg >arithmetic-scans.jpg
