#!/usr/bin/env python3
"""Makes the bundled photographs: photographs.csv and photographs/*.jpg beside this file.

Needs Pillow, the photographs of OASIS and the list of those that may be bundled (its columns: path, id, group, category,
valence, arousal, valence_sd, arousal_sd, valence_n, arousal_n, status, why):

    pip install pillow
    python3 src/bundled/make_photographs.py IMAGES KEEP.csv

Kept are the rows of status `keep`. A photograph becomes 256 pixels wide and high at most (Lanczos) and a baseline JPEG of
quality 80 without metadata; the file is named by the id. The same Pillow makes the same bytes. Ratings are those of the list,
on 1 to 9 (the set's own scale of 1 to 7, stretched). Where they come from, and why they may be here, is in photographs.NOTICE.
"""

import csv
import io
import sys
from pathlib import Path

from PIL import Image

SIDE, QUALITY, MOST = 256, 80, 5_000_000
COLUMNS = ["path", "valence", "arousal", "group", "dataset", "category", "valence_sd", "arousal_sd", "valence_n", "arousal_n"]


def main():
    images, keep = map(Path, sys.argv[1:])
    here = Path(__file__).parent
    folder = here / "photographs"
    folder.mkdir(exist_ok=True)
    with open(keep, newline="") as f:
        rows = [row for row in csv.DictReader(f) if row["status"] == "keep"]
    lines, total = [], 0
    for row in rows:
        image = Image.open(images / row["path"]).convert("RGB")
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=QUALITY, optimize=True)
        total += len(out.getvalue())
        name = f"{row['group'].replace(' ', '-').lower()}-{row['id'].lower()}.jpg"
        (folder / name).write_bytes(out.getvalue())
        cells = {**row, "path": f"photographs/{name}", "dataset": "oasis"}
        cells |= {c: f"{float(row[c]):.4f}" for c in ("valence", "arousal", "valence_sd", "arousal_sd")}
        lines.append([cells[c] for c in COLUMNS])
    if total > MOST:
        sys.exit(f"{total} bytes are more than {MOST}: lower the quality")
    with open(here / "photographs.csv", "w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([COLUMNS, *sorted(lines)])
    print(f"{len(lines)} photographs, {total} bytes")


main()
