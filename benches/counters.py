"""The most expensive launches of a step, from the counters of Nsight Compute.

    counters.py ncu.csv launches.json 8

ncu.csv is what `ncu --csv --page raw` writes, of as many launches as a step has, beginning anywhere in it; launches.json is
what `deep-affect kernels launches --json` says of the step, for the names of its layers. Counters are found by what their
names hold, because names differ between architectures; one that is not there is a dash.
"""

import csv
import json
import sys

path, launches, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(path, newline="") as file:
    lines = [line for line in file if not line.startswith("==")]
head = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
if head is None:
    sys.exit("counters.py: " + path + " has no table: " + "".join(lines[-3:]).strip())
rows = list(csv.DictReader(lines[head:]))
units, rows = rows[0], rows[1:]
names = list(units)


def number(row, name):
    try:
        return float(row[name].replace(",", ""))
    except (KeyError, ValueError):
        return None


def largest(row, *words):
    """Of the counters in percent whose names have all the words."""
    found = [number(row, n) for n in names if all(w in n for w in words) and "pct_of_peak_sustained" in n]
    return max((x for x in found if x is not None), default=None)


def stalls(row):
    """The two reasons that hold warps back longest, in cycles for each instruction that is issued."""
    mark = "_issue_stalled_"
    found = {}
    for n in names:
        if mark in n and "not_selected" not in n and "selected" not in n and (x := number(row, n)) is not None:
            reason = n.split(mark)[1].split("_per_")[0].split(".")[0]
            found[reason] = max(x, found.get(reason, 0.0))
    return ", ".join(f"{reason} {x:.1f}" for reason, x in sorted(found.items(), key=lambda f: -f[1])[:2])


def microseconds(row):
    scale = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3, "s": 1e6, "second": 1e6}
    x = number(row, "gpu__time_duration.sum")
    return None if x is None else x * scale.get(units["gpu__time_duration.sum"], 1e-3)


def layers():
    """Of the launches, if their kernels are those of the step from some place on."""
    with open(launches) as file:
        step = json.load(file)["launches"]
    seen = [r["Kernel Name"].split("(")[0] for r in rows]
    for first in range(len(step)):
        turned = step[first:] + step[:first]
        if len(seen) <= len(step) and all(k == s["kernel"] for k, s in zip(seen, turned)):
            return [f"{s['op']} {s['layer']}" for s in turned[: len(seen)]]
    return ["?"] * len(seen)


def shown(x, digits=0):
    return "-" if x is None else f"{x:.{digits}f}"


table = [["launch", "kernel", "us", "tensor %", "DRAM %", "L2 %", "registers", "stalls, cycles an instruction"]]
ranked = sorted(zip(rows, layers()), key=lambda r: -(microseconds(r[0]) or 0.0))
for row, layer in ranked[:most]:
    percent = [largest(row, "pipe_tensor"), largest(row, "dram"), largest(row, "lts__")]
    cells = [layer, row["Kernel Name"].split("(")[0], shown(microseconds(row), 1)] + [shown(p) for p in percent]
    table.append(cells + [shown(number(row, "launch__registers_per_thread")), stalls(row)])
widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
for line in table:
    print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
total = sum(microseconds(r) or 0.0 for r in rows)
print(f"{len(rows)} launches, {total / 1e3:.2f} ms by the counters, at the clocks as they were")
