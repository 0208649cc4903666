"""Writes statistics.json beside itself: measures of predictions, weighted and not, paired t-tests and Holm's correction, by
NumPy, SciPy, scikit-learn and statsmodels. `pip install numpy scipy scikit-learn statsmodels`; the same bytes on every run
of the versions that the file names."""

import json
from pathlib import Path

import numpy as np
import scipy
import scipy.stats as st
import sklearn
import sklearn.metrics as sk
import statsmodels
import statsmodels.api as sm
from sklearn.dummy import DummyClassifier
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

rng = np.random.default_rng(18)


def measures(a, p, w):
    n = len(a)
    plain = np.all(w == w[0])
    both = DescrStatsW(np.c_[a, p], weights=w)
    (va, cov), (_, vp) = both.cov
    ma, mp = both.mean
    mae = sk.mean_absolute_error(a, p, sample_weight=w)
    mse = sk.mean_squared_error(a, p, sample_weight=w)
    side = np.sign(a - 5)
    majority = DummyClassifier(strategy="most_frequent").fit(a[:, None], side, sample_weight=w)
    sd = lambda x, v: np.std(x, ddof=1) if plain else np.sqrt(v * n / (n - 1))
    return {
        "mse": mse,
        "rmse": np.sqrt(mse),
        "mae": mae,
        "bias": np.average(p - a, weights=w),
        "pearson_r": st.pearsonr(a, p).statistic if plain else both.corrcoef[0, 1],
        "ccc": 2 * cov / (va + vp + (ma - mp) ** 2),
        "sagr_at_5": sk.accuracy_score(side, np.sign(p - 5), sample_weight=w),
        "majority_at_5": majority.score(a[:, None], side, sample_weight=w),
        "accuracy9_percent": 100 * (1 - mae / 9),
        "accuracy8_percent": 100 * (1 - mae / 8),
        "calibration_slope": sm.WLS(a, sm.add_constant(p), weights=w).fit().params[1],
        "sd_predicted": sd(p, vp),
        "sd_true": sd(a, va),
        "beyond_scale_percent": 100 * np.average((p < 1) | (p > 9), weights=w),
    }


def sample(name, n, weights):
    a = np.clip(np.round(rng.normal(5.4, 1.7, n), 2), 1, 9)
    a[0] = 5.0
    p = np.round(5.2 + 0.6 * (a - 5.2) + rng.normal(0, 1.1, n), 3)
    p[1] = 9.25
    w = {"equal": np.ones(n), "halves": rng.integers(1, 5, n) / 2, "spread": np.round(rng.lognormal(0, 1.5, n), 3)}[weights]
    case = {"name": name, "truth": a, "predicted": p, "weight": w}
    return {k: v if k == "name" else v.tolist() for k, v in case.items()} | {"measures": measures(a, p, w)}


def tests(k, pairs):
    """`pairs` comparisons over k equal folds."""
    share = 1 / (k - 1)
    folds = [[np.round(rng.normal(2 + 0.1 * i * j, 0.15, k), 3) for j in range(2)] for i in range(pairs)]
    all = []
    for a, b in folds:
        d = a - b
        mean, sd = d.mean(), d.std(ddof=1)
        t = st.ttest_rel(a, b)
        corrected = mean / (sd * np.sqrt(1 / k + share))
        all.append({
            "a": a.tolist(), "b": b.tolist(), "t": t.statistic, "p": t.pvalue, "d_z": mean / sd,
            "p_corrected": 2 * st.t.sf(abs(corrected), k - 1),
        })
    for name in ["p", "p_corrected"]:
        holm = multipletests([x[name] for x in all], method="holm")[1]
        for x, h in zip(all, holm):
            x[f"{name}_holm"] = h
    return {"share": share, "tests": all}


out = {
    "made_with": {m.__name__: m.__version__ for m in [np, scipy, sklearn, statsmodels]},
    "metrics": [
        sample(f"{weights} weights, {n} pictures", n, weights)
        for n in [5, 30, 200] for weights in ["equal", "halves", "spread"]
    ],
    "paired": [tests(5, 4), tests(10, 6), tests(3, 2)],
}
plain = lambda x: float(x) if isinstance(x, np.floating) else x.tolist()
Path(__file__).with_name("statistics.json").write_text(json.dumps(out, indent=1, default=plain) + "\n")
