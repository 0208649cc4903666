"""Where the products of a warpgroup keep their operands, as tables: facts that a simulator and kernels can both be held against.

Source of the facts: NVIDIA/cutlass at 7107b05, include/cute/atom/mma_traits_sm90_gmma.hpp and
include/cute/arch/mma_sm90_desc.hpp (layouts as shape:stride; read, restated as numbers). Evaluated here by the colexicographic rule
of such layouts. `python3 make_layouts.py` writes layouts.json.
"""
import json


def size(shape):
    if isinstance(shape, int):
        return shape
    n = 1
    for s in shape:
        n *= size(s)
    return n


def offset(shape, stride, i):
    """The offset of linear coordinate i: the first mode runs fastest."""
    if isinstance(shape, int):
        return i % shape * stride
    total = 0
    for s, d in zip(shape, stride):
        total += offset(s, d, i % size(s))
        i //= size(s)
    return total


def fragment(rows, shape, stride):
    """[lane][value] -> [row, column]; offsets are column-major in a matrix of `rows` rows."""
    threads, values = shape
    table = []
    for t in range(size(threads)):
        line = []
        for v in range(size(values)):
            at = offset(threads, stride[0], t) + offset(values, stride[1], v)
            line.append([at % rows, at // rows])
        table.append(line)
    return table


# A warpgroup's 128 threads: sums of m64n64, and A from registers.
MMA = {
    "wgmma.m64n64": {"c": (64, ((4, 8, 4), (2, 2, 8)), ((128, 1, 16), (64, 8, 512)))},
    "wgmma.a.16bit": {"a": (64, ((4, 8, 4), (2, 2, 2)), ((128, 1, 16), (64, 8, 512)))},
}


def swizzle(bits, byte):
    """16-byte chunks of 128-byte lines are exchanged: address bits [4, 4+bits) ^= bits [7, 7+bits)."""
    return byte ^ (byte >> 7 & (1 << bits) - 1) << 4


SWIZZLES = {"none": 0, "32B": 1, "64B": 2, "128B": 3}


def k_major(kind, row, k, sbo, lbo, item):
    """Byte of element (row of M or N, k) of an operand whose depth is contiguous, from a base aligned to 1024 bytes."""
    t, w = 16 // item, 1 << SWIZZLES[kind]
    chunk = lbo if kind == "none" else 16
    byte = row % 8 * 16 * w + row // 8 * sbo + k % t * item + k // t * chunk
    return swizzle(SWIZZLES[kind], byte)


def mn_major(kind, mn, k, sbo, lbo, item):
    """The same where M or N is contiguous. Without swizzle SBO steps in M or N and LBO in depth, with it the other way round."""
    t, w = 16 // item, 1 << SWIZZLES[kind]
    along, across = (sbo, lbo) if kind == "none" else (lbo, sbo)
    byte = mn % t * item + mn // t % w * 16 + mn // (t * w) * along + k % 8 * 16 * w + k // 8 * across
    return swizzle(SWIZZLES[kind], byte)


def operands():
    out = {}
    for kind in SWIZZLES:
        w = 1 << SWIZZLES[kind]
        sbo, lbo = (8 * 16 * w, 16) if kind != "none" else (256, 128)
        out[f"k_major.{kind}"] = {
            "sbo": sbo, "lbo": lbo, "bytes_of": [[k_major(kind, r, k, sbo, lbo, 2) for k in range(16)] for r in range(64)]}
        atom = 8 * 16 * w
        sbo, lbo = (2 * atom, atom) if kind == "none" else (atom, 2 * atom)
        out[f"mn_major.{kind}"] = {
            "sbo": sbo, "lbo": lbo, "bytes_of": [[mn_major(kind, m, k, sbo, lbo, 2) for k in range(16)] for m in range(64)]}
    return out


facts = {
    "fragments": {f"{name}.{part}": fragment(*layout) for name, parts in MMA.items() for part, layout in parts.items()},
    "wgmma_operands_16bit": operands(),
    "wgmma_descriptor": {
        "start_address >> 4": [0, 14], "leading_byte_offset >> 4": [16, 30], "stride_byte_offset >> 4": [32, 46],
        "base_offset": [49, 52], "layout": [62, 64], "layouts": {"none": 0, "128B": 1, "64B": 2, "32B": 3}},
}
with open("layouts.json", "w") as f:
    json.dump(facts, f, separators=(",", ":"))
