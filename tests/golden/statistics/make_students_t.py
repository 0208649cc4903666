"""Writes students_t.json beside itself: two-sided tails of Student's t distribution and its 97.5 % points, by SciPy.
`pip install scipy`; the same bytes on every run of the version that the file names."""

import json
from pathlib import Path

import scipy
import scipy.stats as st

values = [1e-3, 0.1, 0.5, 1.0, 1.96, 5.0, 15.0, 40.0]
freedom = [1, 2, 3, 4, 9, 24, 99, 1000, 100000]
out = {
    "made_with": {"scipy": scipy.__version__},
    "tails": [{"t": t, "df": df, "p": float(2 * st.t.sf(t, df))} for df in freedom for t in values],
    "points": [{"df": df, "t": float(st.t.ppf(0.975, df))} for df in freedom],
}
Path(__file__).with_name("students_t.json").write_text(json.dumps(out, indent=1) + "\n")
