#!/usr/bin/env bash
# The film of a Gymnasium MuJoCo task whose camera is configured to track a body does not follow it: the body walks out of the picture.
# Versions: gymnasium 1.4.0, mujoco 3.8.1 (with 1.2.0 it follows)
# Behaviour: Humanoid's default_camera_config has trackbodyid 1, and its model a camera called "track". Renderer 1.2.0 films with that
#   camera. 1.4.0 takes a free camera, so that distance and elevation of the configuration count; a free camera ignores trackbodyid, which
#   MuJoCo reads for tracking cameras alone. Needs EGL (MUJOCO_GL=egl) or another off-screen OpenGL.
# Seen 2026-11-28:
#   gymnasium 1.2.0: camera of type 2, pixels of the body at 0 m 3841, at 30 m 4041
#   gymnasium 1.4.0: camera of type 0, pixels of the body at 0 m 3675, at 30 m 0
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export MUJOCO_GL=${MUJOCO_GL:-egl}
python3.11 -m venv "$dir/venv"
cat >"$dir/film.py" <<'EOF'
import sys

import gymnasium as gym
import numpy as np

env = gym.make("Humanoid-v5", render_mode="rgb_array")
env.reset(seed=0)
task, counts = env.unwrapped, []
for metres in (0, 30):
    task.set_state(task.init_qpos + metres * (np.arange(task.model.nq) == 0), task.init_qvel)
    red, _, blue = np.moveaxis(env.render().astype(int), 2, 0)
    counts.append(int((red - blue > 40).sum()))
kind = int(task.mujoco_renderer.viewer.cam.type)
print(f"gymnasium {gym.__version__}: camera of type {kind}, pixels of the body at 0 m {counts[0]}, at 30 m {counts[1]}")
assert counts[0] > 1000 and (counts[1] > 1000) == (sys.argv[1] == "follows")
EOF
for case in "1.2.0 follows" "1.4.0 stays"; do
    read -r version says <<<"$case"
    "$dir/venv/bin/pip" install -q "gymnasium==$version" numpy==2.4.6 imageio==2.38.1 packaging==26.4 mujoco==3.8.1
    (cd "$dir" && "$dir/venv/bin/python" -W ignore film.py "$says" 2>/dev/null)
done
