#!/usr/bin/env python3
"""Golden values of augmentation: Philox 4x32-10, Keras's `ImageDataGenerator` (keras-preprocessing 1.1.2: get_random_transform,
apply_affine_transform, fill_mode nearest) in float64 and SciPy's bilinear resampling, in our words.

Run:  pip install numpy scipy; python make_augment.py [outdir]      (the same bytes on every run with the same SciPy)
"""
import json, os, sys
import numpy as np, scipy
from scipy import ndimage

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), 'augment')
AUGMENT = 6 << 28  # the stream's word


def philox(key, counter):
    k, c = list(key), list(counter)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xffffffff, a >> 32 ^ c[3] ^ k[1], a & 0xffffffff]
        k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
    return c


def draws(seed, step, row):
    """rotation, shift along x, along y, shear, zoom of x, of y, each from -1 to below 1; whether to mirror x, y"""
    words = []
    for block in (2 * row, 2 * row + 1):
        words += philox((seed & 0xffffffff, seed >> 32), (block & 0xffffffff, block >> 32, AUGMENT, step))
    return [2 * (w >> 8) / 2**24 - 1 for w in words[:6]], [w >= 2**31 for w in words[6:]]


def augmented(x, r, seed, step, row):
    """one picture [S,S,3] in float64, not rounded to bytes"""
    side = len(x)
    (turn, along_x, along_y, lean, wide, high), mirror = draws(seed, step, row)
    theta, shear = np.deg2rad(r['rotation'] * turn), np.deg2rad(r['shear'] * lean)
    # In coordinates (x, y), from the output to the input.
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    shift = np.array([[1, 0, r['shift'][0] * side * along_x], [0, 1, r['shift'][1] * side * along_y], [0, 0, 1]])
    shear = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    zoom = np.diag([1 + r['zoom'] * wide, 1 + r['zoom'] * high, 1])
    centre = np.array([[1, 0, (side - 1) / 2], [0, 1, (side - 1) / 2], [0, 0, 1]])
    m = centre @ rotation @ shift @ shear @ zoom @ np.linalg.inv(centre)
    m[:, [0, 1]] = m[:, [1, 0]]
    m[[0, 1]] = m[[1, 0]]
    planes = [ndimage.affine_transform(x[:, :, c], m[:2, :2], m[:2, 2], order=1, mode='nearest') for c in range(3)]
    y = np.stack(planes, axis=-1)
    if r['flip'][0] and mirror[0]:
        y = y[:, ::-1]
    if r['flip'][1] and mirror[1]:
        y = y[::-1]
    return y


def picture(n, side, rng):
    """colours that change slowly: what is compared is where pixels come from"""
    i, j = np.mgrid[:side, :side] * (2 * np.pi / side)
    planes = [127 + 90 * np.sin(rng.uniform(0.3, 1.5) * i + rng.uniform(0.3, 1.5) * j + n + c) for c in range(3)]
    return np.clip(np.rint(np.stack(planes, axis=-1) + rng.uniform(-3, 3, (side, side, 3))), 0, 255)


NONE = dict(rotation=0.0, shift=[0.0, 0.0], shear=0.0, zoom=0.0, flip=[False, False])
CASES = {  # ranges, side, seed, step
    'identity': (NONE, 9, 1, 0), 'rotation': ({**NONE, 'rotation': 180.0}, 19, 2, 3),
    'shift': ({**NONE, 'shift': [0.5, 0.25]}, 16, 2**40 + 7, 5), 'shear': ({**NONE, 'shear': 40.0}, 18, 4, 1),
    'zoom': ({**NONE, 'zoom': 0.5}, 19, 5, 1), 'flip': ({**NONE, 'flip': [True, True]}, 12, 6, 1),
    'noguera': (dict(rotation=80.0, shift=[0.2, 0.2], shear=0.2, zoom=0.2, flip=[True, True]), 24, 7, 900),
    'all': (dict(rotation=15.0, shift=[0.1, 0.1], shear=5.0, zoom=0.1, flip=[True, False]), 21, 2**63 + 11, 70000)}
meta, tensors = {'op': 'augment', 'scipy': scipy.__version__}, {}
for i, (name, (ranges, side, seed, step)) in enumerate(CASES.items()):
    rng, rows = np.random.default_rng(i), [3, 12345678]
    x = np.stack([picture(n, side, rng) for n in range(len(rows))])
    meta[name] = json.dumps(dict(ranges=ranges, seed=str(seed), step=step, rows=rows))
    tensors[f'{name}.x'] = x.astype('<f4')
    tensors[f'{name}.y'] = np.stack([augmented(x[n], ranges, seed, step, r) for n, r in enumerate(rows)]).astype('<f4')
header, at, blobs = {'__metadata__': dict(sorted(meta.items()))}, 0, []
for k in sorted(tensors):
    b = tensors[k].tobytes()
    header[k] = {'dtype': 'F32', 'shape': list(tensors[k].shape), 'data_offsets': [at, at + len(b)]}
    at += len(b)
    blobs.append(b)
h = json.dumps(header, separators=(',', ':')).encode()
h += b' ' * (-len(h) % 8)
os.makedirs(OUT, exist_ok=True)
with open(f'{OUT}/keras.safetensors', 'wb') as f:
    f.write(len(h).to_bytes(8, 'little') + h + b''.join(blobs))
