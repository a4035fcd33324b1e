#!/usr/bin/env bash
# BatchRenorm as SBX's CrossQ has it gives back running statistics only where a feature varies: below a deviation of .1 it shifts by less.
# Versions: sbx-rl 0.28.0, flax 0.12.8, jax 0.10.2
# Behaviour: for a batch whose mean has moved by one deviation, Ioffe's r and d make the output what running statistics give. SBX folds
#   d into the mean as d sqrt(var) / r, without epsilon (.001), so that the shift fades as var falls below it, to nothing.
#   Observations that hardly vary (Humanoid has dozens) are centred on the batch in training and on running statistics in evaluation.
# Seen 2026-11-28:
#   deviation          1.000  0.100  0.030  0.010  0.001
#   running statistics 0.995  0.972  0.687  0.301  0.032
#   r and d as printed 0.995  0.972  0.687  0.301  0.032
#   sbx-rl 0.28.0      0.995  0.927  0.472  0.092  0.001
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q jax==0.10.2 flax==0.12.8 numpy==2.4.6
"$dir/venv/bin/pip" install -q --no-deps sbx-rl==0.28.0
cat >"$dir/shift.py" <<'EOF'
import glob
import importlib.util
import sys

import jax
import numpy as np

# The layer's own file alone: the package imports Stable-Baselines3, and that torch.
file = glob.glob(f"{sys.prefix}/lib/python3.11/site-packages/sbx/common/jax_layers.py")[0]
spec = importlib.util.spec_from_file_location("jax_layers", file)
layers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(layers)

rng, deviation, epsilon = np.random.default_rng(0), np.array([1, 0.1, 0.03, 0.01, 0.001]), 1e-3


def batch(mean):
    """4096 rows of five normal features, their means so many deviations from 0."""
    return (deviation * (mean + rng.normal(size=(4096, 5)))).astype(np.float32)


layer = layers.BatchRenorm(use_running_average=False, momentum=0.99, warmup_steps=0, epsilon=epsilon)
variables = layer.init(jax.random.PRNGKey(0), batch(0))
for _ in range(2000):
    _, moved = layer.apply(variables, batch(0), mutable=["batch_stats"])
    variables = variables | moved
x = batch(1)
output, _ = layer.apply(variables, x, mutable=["batch_stats"])
mean, variance = (np.asarray(variables["batch_stats"][name]) for name in ("mean", "var"))
std, running_std = np.sqrt(x.var(0) + epsilon), np.sqrt(variance + epsilon)
r, d = np.clip(std / running_std, 1 / 3, 3), np.clip((x.mean(0) - mean) / running_std, -5, 5)
rows = {
    "deviation": deviation,
    "running statistics": ((x - mean) / running_std).mean(0),
    "r and d as printed": ((x - x.mean(0)) / std * r + d).mean(0),
    "sbx-rl 0.28.0": np.asarray(output).mean(0),
}
for name, row in rows.items():
    print(f"{name:18}", "  ".join(f"{value:.3f}" for value in row))
running, printed, sbx = list(rows.values())[1:]
assert np.allclose(running, printed, atol=1e-3) and np.allclose(running[0], sbx[0], atol=1e-3)
assert sbx[3] < 0.4 * running[3] and sbx[4] < 0.1 * running[4]
EOF
JAX_PLATFORMS=cpu "$dir/venv/bin/python" "$dir/shift.py"
