#!/usr/bin/env python3
"""More golden values in the format of make_golden.py (float64, one thread, seeded): operations that it leaves out.

Run:  python make_more.py [outdir]      (deterministic: same bytes on every run with the same torch)
"""
import hashlib, json, os, sys
os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
import torch, torch.nn.functional as F
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.mkldnn.enabled = False
torch.set_default_dtype(torch.float64)
SEED = 20240502
OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))


def gen(name):
    """an independent, order-free stream per case"""
    h = int.from_bytes(hashlib.sha256(f'{SEED}/{name}'.encode()).digest()[:7], 'little')
    return torch.Generator().manual_seed(h)


def rn(g, *s, scale=1.0):
    """normal numbers that float32 holds exactly"""
    return (torch.randn(*s, generator=g) * scale).float().double()


def write(op, cases):
    """cases: name -> (parameters, inputs, function of the inputs)"""
    meta, tensors = {'seed': str(SEED), 'torch': torch.__version__.split('+')[0], 'op': op}, {}
    for name, (parameters, inputs, fn) in cases.items():
        meta[name] = json.dumps(parameters, sort_keys=True)
        xs = {k: v.clone().requires_grad_(True) for k, v in inputs.items()}
        y = fn(**xs)
        gy = rn(gen(f'{op}/{name}/gy'), *y.shape)
        grads = dict(zip(xs, torch.autograd.grad(y, list(xs.values()), gy)))
        for k, v in {**inputs, 'y': y, 'gy': gy, **{'g' + k: v for k, v in grads.items()}}.items():
            tensors[f'{name}.{k}'] = v.detach().contiguous()
    # Written by hand: the safetensors writer orders __metadata__ by a randomised hash.
    header, at, blobs = {'__metadata__': dict(sorted(meta.items()))}, 0, []
    for k in sorted(tensors):
        b = tensors[k].numpy().tobytes()
        header[k] = {'dtype': 'F64', 'shape': list(tensors[k].shape), 'data_offsets': [at, at + len(b)]}
        at += len(b)
        blobs.append(b)
    h = json.dumps(header, separators=(',', ':')).encode()
    h += b' ' * (-len(h) % 8)
    with open(f'{OUT}/{op}.safetensors', 'wb') as f:
        f.write(len(h).to_bytes(8, 'little') + h + b''.join(blobs))


def filters(name, x, w, channels, bias):
    g = gen(name)
    inputs = dict(x=rn(g, *x), w=rn(g, *w, scale=(2 / (w[1] * w[2] * w[3])) ** .5))
    return {**inputs, **({'b': rn(g, channels)} if bias else {})}


cases = {}
for name, (x, k, mult, st, pd, dl, bias) in {  # x NCHW; k*k filters, `mult` of them on each channel
        'c17_k3s1p1': ((2, 17, 4, 5), 3, 1, 1, 1, 1, True), 'c20_k3s2p1': ((1, 20, 7, 6), 3, 1, 2, 1, 1, False),
        'c6_mult2_k3s1p1': ((2, 6, 5, 7), 3, 2, 1, 1, 1, True), 'c5_mult3_k3s2p1': ((1, 5, 8, 7), 3, 3, 2, 1, 1, True),
        'c4_k5s1p2': ((1, 4, 9, 9), 5, 1, 1, 2, 1, True), 'c3_k3d2p2': ((1, 3, 9, 8), 3, 1, 1, 2, 2, False)}.items():
    c = x[1]
    inputs = filters('depthwise/' + name, x, (c * mult, 1, k, k), c * mult, bias)
    fn = lambda x, w, b=None, a=(st, pd, dl, c): F.conv2d(x, w, b, *a)
    cases[name] = (dict(stride=st, padding=pd, dilation=dl, groups=c, bias=bias), inputs, fn)
write('conv2d_depthwise', cases)

cases = {}
for name, (x, co, k, st, pd, op, gp, dl, bias) in {
        'k3s2p1_out1': ((2, 6, 4, 5), 5, 3, 2, 1, 1, 1, 1, True), 'k4s2p1': ((1, 9, 3, 4), 6, 4, 2, 1, 0, 1, 1, True),
        'k2s2_nobias': ((2, 4, 3, 3), 6, 2, 2, 0, 0, 1, 1, False), 'k3s1p1': ((2, 5, 4, 6), 3, 3, 1, 1, 0, 1, 1, True),
        'k1s3_out2': ((1, 3, 3, 4), 4, 1, 3, 0, 2, 1, 1, True), 'groups2': ((1, 6, 4, 4), 8, 3, 2, 1, 0, 2, 1, True),
        'depthwise': ((2, 5, 4, 3), 5, 3, 2, 1, 1, 5, 1, True), 'k3s2d2p1': ((1, 3, 4, 4), 4, 3, 2, 1, 1, 1, 2, True)}.items():
    inputs = filters('transpose/' + name, x, (x[1], co // gp, k, k), co, bias)
    fn = lambda x, w, b=None, a=(st, pd, op, gp, dl): F.conv_transpose2d(x, w, b, *a)
    parameters = dict(stride=st, padding=pd, output_padding=op, groups=gp, dilation=dl, bias=bias)
    cases[name] = (parameters, inputs, fn)
write('conv_transpose2d', cases)

cases = {}
for name, (x, out) in {'x2': ((2, 3, 4, 5), (8, 10)), 'odd': ((1, 4, 5, 3), (7, 11)), 'same': ((1, 2, 3, 4), (3, 4)),
                       'smaller': ((1, 3, 9, 8), (4, 3)), 'one_row': ((2, 3, 1, 6), (3, 1)), 'to_one': ((1, 5, 3, 3), (1, 5))}.items():
    for corners in (False, True):
        inputs = dict(x=rn(gen('bilinear/' + name), *x))
        fn = lambda x, o=out, c=corners: F.interpolate(x, size=o, mode='bilinear', align_corners=c)
        parameters = dict(output_size=out, align_corners=corners)
        cases[name + ('_corners' if corners else '')] = (parameters, inputs, fn)
write('upsample_bilinear2d', cases)

cases = {}
for name, (x, size, alpha, beta, k) in {  # the sum of squares of `size` channels is divided by `size`
        'alexnet': ((2, 13, 3, 4), 5, 1e-4, .75, 1.0), 'strong': ((2, 13, 3, 4), 5, .5, .75, 2.0),
        'c3_size5': ((1, 3, 4, 3), 5, .2, .75, 1.0), 'size4_beta_half': ((1, 7, 3, 3), 4, .3, .5, 1.5)}.items():
    inputs = dict(x=rn(gen('lrn/' + name), *x))
    fn = lambda x, a=(size, alpha, beta, k): F.local_response_norm(x, *a)
    cases[name] = (dict(size=size, alpha=alpha, beta=beta, k=k), inputs, fn)
write('local_response_norm', cases)
