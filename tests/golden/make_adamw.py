#!/usr/bin/env python3
"""Golden values of AdamW in the format of make_golden.py, without PyTorch: its own arithmetic (`_single_tensor_adamw` of
torch/optim/adamw.py, version 2.5), line by line in Python's float64. The formula is algorithm 2 of Loshchilov & Hutter 2019.

Run:  python make_adamw.py [outdir]      (Python alone; the same bytes on every run)
"""
import json, math, os, random, struct, sys

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
STEPS, ROWS, COLUMNS = 6, 4, 3


def normal(rng, n):
    """normal numbers that float32 holds exactly"""
    return [struct.unpack('<f', struct.pack('<f', rng.gauss(0, 1)))[0] for _ in range(n)]


def steps(w, grads, lr, betas=(.9, .999), eps=1e-8, weight_decay=1e-2):
    """parameters, exp_avg and exp_avg_sq after each step"""
    w, m, v = list(w), [0.0] * len(w), [0.0] * len(w)
    after = [], [], []
    for step, grad in enumerate(grads, 1):
        rate = lr[step - 1] if isinstance(lr, list) else lr
        bias_correction1, bias_correction2 = 1 - betas[0] ** step, 1 - betas[1] ** step
        step_size = rate / bias_correction1
        for i, g in enumerate(grad):
            w[i] *= 1 - rate * weight_decay
            m[i] += (g - m[i]) * (1 - betas[0])
            v[i] = v[i] * betas[1] + (1 - betas[1]) * g * g
            denom = math.sqrt(v[i]) / math.sqrt(bias_correction2) + eps
            w[i] += -step_size * m[i] / denom
        for kept, now in zip(after, (w, m, v)):
            kept += now
    return after


cases = {'default': dict(lr=1e-3), 'fast': dict(lr=.1), 'no_decay': dict(lr=4e-2, weight_decay=0.0),
         'decay': dict(lr=4e-2, weight_decay=.5), 'betas': dict(lr=4e-2, betas=(.5, .75)), 'eps': dict(lr=4e-2, eps=.25),
         'lr_change': dict(lr=[.1, .1, .1, .05, .05, .05], weight_decay=.1)}
meta, tensors = {'seed': '20240503', 'op': 'adamw'}, {}
for name, settings in cases.items():
    rng = random.Random('20240503/' + name)
    w = normal(rng, ROWS * COLUMNS)
    grads = [normal(rng, ROWS * COLUMNS) for _ in range(STEPS)]
    after = steps(w, grads, **settings)
    meta[name] = json.dumps(settings, sort_keys=True)
    for tensor, dims, x in [('w', [ROWS, COLUMNS], w), ('grads', [STEPS, ROWS, COLUMNS], sum(grads, [])),
                            *((t, [STEPS, ROWS, COLUMNS], x) for t, x in zip(('w_after', 'exp_avg', 'exp_avg_sq'), after))]:
        tensors[f'{name}.{tensor}'] = dims, struct.pack(f'<{len(x)}d', *x)
header, at = {'__metadata__': dict(sorted(meta.items()))}, 0
for name in sorted(tensors):
    dims, data = tensors[name]
    header[name] = {'dtype': 'F64', 'shape': dims, 'data_offsets': [at, at + len(data)]}
    at += len(data)
text = json.dumps(header, separators=(',', ':')).encode()
text += b' ' * (-len(text) % 8)
with open(f'{OUT}/adamw.safetensors', 'wb') as f:
    f.write(len(text).to_bytes(8, 'little') + text + b''.join(tensors[name][1] for name in sorted(tensors)))
