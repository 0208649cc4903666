"""Ratings and classes on one trunk: the weighted sum of a squared error and a cross-entropy, as mean and as sum over rows of
different weights, and its gradients, by JAX in float64.

    pip install jax numpy ; python make_losses.py > losses.json"""
import json
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp

rng = np.random.default_rng(20)
draw = lambda *shape, at=0: (at + rng.normal(size=shape)).astype(np.float32).astype(float)
n, features, hidden, ratings, classes = 5, 3, 4, 2, 3
x, y = draw(n, features), draw(n, ratings, at=5)
labels, rows = rng.integers(0, classes, n), np.array([1.0, 2.0, 0.5, 1.0, 3.0])
params = {
    "head.fc1.weight": draw(hidden, features), "head.fc1.bias": draw(hidden),
    "head.out.weight": draw(ratings, hidden), "head.out.bias": draw(ratings, at=5),
    "head.classes.weight": draw(classes, hidden), "head.classes.bias": draw(classes),
}

def outputs(p):
    h = jax.nn.relu(x @ p["head.fc1.weight"].T + p["head.fc1.bias"])
    return h @ p["head.out.weight"].T + p["head.out.bias"], h @ p["head.classes.weight"].T + p["head.classes.bias"]

def errors(p):
    """Of each rating and of the classes, mean over rows by their weights."""
    said, scores = outputs(p)
    entropy = -jax.nn.log_softmax(scores)[jnp.arange(n), labels]
    return jnp.concatenate([rows @ (said - y) ** 2, (rows @ entropy)[None]]) / rows.sum()

def loss(p, reduction, of_ratings, of_classes):
    e = errors(p)
    if reduction == "mean":
        return of_ratings * e[:ratings].mean() + of_classes * e[ratings]
    return rows.sum() * (of_ratings * e[:ratings].sum() + of_classes * e[ratings])

cases = []
for reduction, of_ratings, of_classes in [("mean", 1.0, 1.0), ("mean", 0.75, 2.5), ("sum", 1.0, 1.0), ("sum", 0.125, 0.5)]:
    value, grads = jax.value_and_grad(loss)(params, reduction, of_ratings, of_classes)
    cases.append({"reduction": reduction, "ratings": of_ratings, "classes": of_classes, "loss": float(value),
                  "gradients": {k: np.asarray(g).ravel().tolist() for k, g in grads.items()}})
flat = lambda a: np.asarray(a).ravel().tolist()
print(json.dumps({"made_by": f"jax {jax.__version__}, numpy {np.__version__}", "x": flat(x), "y": flat(y), "labels": flat(labels),
                  "rows": flat(rows), "params": {k: flat(v) for k, v in params.items()}, "errors": flat(errors(params)), "cases": cases}))
