#!/usr/bin/env bash
# rliable's interquartile mean of three runs on a task is their mean, and so is its median: one failed run counts in full.
# Versions: rliable 1.2.0, scipy 1.17.1, numpy 2.4.6
# Behaviour: a quarter of the runs is cut off at each side, rounded down: of three runs none, of seven one. "Median" is over tasks, of
#   each one's mean, which a single task does not have.
# Seen 2026-11-29 (one run scores 0, the others 1):
#   3 runs  interquartile mean 0.667, median 0.667
#   4 runs  interquartile mean 1.000, median 0.750
#   7 runs  interquartile mean 1.000, median 0.857
#   7 runs, two failed: interquartile mean 0.800
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q rliable==1.2.0 arch==7.2.0 pandas==2.3.3 scipy==1.17.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import numpy as np
from rliable import metrics


def scores(runs, failed=1):
    """Runs x one task."""
    return (np.arange(runs) >= failed).astype(float)[:, None]


found = {runs: (metrics.aggregate_iqm(scores(runs)), metrics.aggregate_median(scores(runs))) for runs in (3, 4, 7)}
for runs, (iqm, median) in found.items():
    print(f"{runs} runs  interquartile mean {iqm:.3f}, median {median:.3f}")
two = metrics.aggregate_iqm(scores(7, failed=2))
print(f"7 runs, two failed: interquartile mean {two:.3f}")
expected = {3: (2 / 3, 2 / 3), 4: (1, 3 / 4), 7: (1, 6 / 7)}
assert all(np.allclose(found[runs], expected[runs]) for runs in found) and np.isclose(two, 4 / 5)
EOF
