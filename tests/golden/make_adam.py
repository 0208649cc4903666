#!/usr/bin/env python3
"""Golden values of Adam in the format of make_golden.py: the steps of PyTorch's `Adam` and `AdamW` and of Keras's `Adam`, in
float64 on one thread.

    pip install torch keras jax numpy ; KERAS_BACKEND=jax python make_adam.py [outdir]      (the same bytes on every run)
"""
import json, os, sys
os.environ.setdefault("KERAS_BACKEND", "jax")
import jax
jax.config.update("jax_enable_x64", True)
import keras, numpy as np, torch
keras.config.set_floatx("float64")

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
STEPS, ROWS, COLUMNS = 6, 4, 3


def rates(lr):
    return lr if isinstance(lr, list) else [lr] * STEPS


def by_torch(w, grads, s):
    kind = torch.optim.AdamW if s["decoupled"] else torch.optim.Adam
    w = torch.tensor(w)
    o = kind([w], betas=s["betas"], eps=s["eps"], weight_decay=s["weight_decay"], amsgrad=s["amsgrad"], foreach=False)
    after = []
    for lr, g in zip(rates(s["lr"]), grads):
        o.param_groups[0]["lr"], w.grad = lr, torch.tensor(g)
        o.step()
        kept = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * s["amsgrad"]
        after.append([w.numpy().copy()] + [o.state[w][k].numpy().copy() for k in kept])
    return after


def by_keras(w, grads, s):
    o = keras.optimizers.Adam(beta_1=s["betas"][0], beta_2=s["betas"][1], epsilon=s["eps"], amsgrad=s["amsgrad"],
                              weight_decay=s["weight_decay"] or None)
    w = keras.Variable(w, dtype="float64")
    o.build([w])
    after = []
    for lr, g in zip(rates(s["lr"]), grads):
        o.learning_rate = lr
        o.apply([keras.ops.convert_to_tensor(g, dtype="float64")])
        kept = [o._momentums[0], o._velocities[0]] + ([o._velocity_hats[0]] if s["amsgrad"] else [])
        after.append([np.array(x.value, np.float64) for x in [w] + kept])
    return after


falling = [.1, .1, .1, .05, .05, .05]
torch_adam = dict(by="torch.optim.Adam", betas=(.9, .999), eps=1e-8, weight_decay=0.0, decoupled=False, uncorrected=False, amsgrad=False)
torch_adamw = dict(torch_adam, by="torch.optim.AdamW", weight_decay=1e-2, decoupled=True)
keras_adam = dict(torch_adam, by="keras.optimizers.Adam", eps=1e-7, decoupled=True, uncorrected=True)
cases = {
    "adamw": dict(torch_adamw, lr=1e-3), "adamw_fast": dict(torch_adamw, lr=.1), "adamw_no_decay": dict(torch_adamw, lr=4e-2, weight_decay=0.0),
    "adamw_decay": dict(torch_adamw, lr=4e-2, weight_decay=.5), "adamw_betas": dict(torch_adamw, lr=4e-2, betas=(.5, .75)),
    "adamw_eps": dict(torch_adamw, lr=4e-2, eps=.25), "adamw_lr_change": dict(torch_adamw, lr=falling, weight_decay=.1),
    "adamw_amsgrad": dict(torch_adamw, lr=.1, betas=(.5, .75), amsgrad=True),
    "adam": dict(torch_adam, lr=1e-3), "adam_penalty": dict(torch_adam, lr=falling, weight_decay=.25),
    "adam_amsgrad": dict(torch_adam, lr=.1, betas=(.5, .75), weight_decay=.25, amsgrad=True),
    "keras": dict(keras_adam, lr=1e-3), "keras_eps": dict(keras_adam, lr=falling, eps=.25),
    "keras_decay": dict(keras_adam, lr=4e-2, eps=1e-2, weight_decay=.25),
    "keras_amsgrad": dict(keras_adam, lr=.1, eps=.25, betas=(.5, .75), amsgrad=True),
}
made = f"torch {torch.__version__.split('+')[0]}, keras {keras.__version__}, jax {jax.__version__}"
meta, tensors = {"seed": "20261130", "op": "adam", "torch": made}, {}
for name, s in cases.items():
    rng = np.random.default_rng([20261130, *name.encode()])
    w, *grads = np.float64(np.float32(rng.standard_normal((1 + STEPS, ROWS, COLUMNS))))  # float32 holds them
    steps = (by_keras if s["by"].startswith("keras") else by_torch)(w, grads, s)
    meta[name] = json.dumps({("note" if k == "by" else k): v for k, v in s.items()}, sort_keys=True)
    names = ["w_after", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    for tensor, x in [("w", w), ("grads", np.stack(grads)), *zip(names, map(np.stack, zip(*steps)))]:
        tensors[f"{name}.{tensor}"] = list(x.shape), np.ascontiguousarray(x).tobytes()
header, at = {"__metadata__": dict(sorted(meta.items()))}, 0
for name in sorted(tensors):
    dims, data = tensors[name]
    header[name] = {"dtype": "F64", "shape": dims, "data_offsets": [at, at + len(data)]}
    at += len(data)
text = json.dumps(header, separators=(",", ":")).encode()
text += b" " * (-len(text) % 8)
with open(f"{OUT}/adam.safetensors", "wb") as f:
    f.write(len(text).to_bytes(8, "little") + text + b"".join(tensors[name][1] for name in sorted(tensors)))
