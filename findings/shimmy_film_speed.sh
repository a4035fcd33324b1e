#!/usr/bin/env bash
# A film of a dm_control task that Shimmy wraps plays up to ten times too slowly: its frames per second are milliseconds per step.
# Versions: shimmy 2.0.1, dm_control 1.0.41, gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: metadata["render_fps"], which RecordVideo and most film writers take, is the control step times 1000. At 32 ms a step that is
#   about right; a shorter step makes it smaller where it should be larger. Gymnasium's MuJoCo tasks refuse a rate that is not 1 / dt.
# Seen 2026-11-30 (control step, render_fps, the rate of real time, and how many times too slow a film is):
#   cheetah-run       0.010 s  10 fps, 100 in real time: 10.0 times
#   finger-spin       0.020 s  20 fps,  50 in real time:  2.5 times
#   humanoid-walk     0.025 s  25 fps,  40 in real time:  1.6 times
#   swimmer-swimmer6  0.030 s  30 fps,  33 in real time:  1.1 times
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q shimmy==2.0.1 dm_control==1.0.41 gymnasium==1.4.0 mujoco==3.8.1 imageio==2.38.1 packaging==26.4
cd "$dir"
MUJOCO_GL=disabled "$dir/venv/bin/python" -W ignore - <<'EOF'
import gymnasium
import shimmy  # noqa: F401
from dm_control import suite

found = {}
for domain, task in (("cheetah", "run"), ("finger", "spin"), ("humanoid", "walk"), ("swimmer", "swimmer6")):
    step = suite.load(domain, task).control_timestep()
    film = gymnasium.make(f"dm_control/{domain}-{task}-v0").metadata["render_fps"]
    found[domain] = round(film, 6), round(1 / step / film, 1)
    name = f"{domain}-{task}"
    print(f"{name:17} {step:.3f} s  {film:2.0f} fps, {1 / step:3.0f} in real time: {1 / step / film:4.1f} times")
assert found == {"cheetah": (10, 10), "finger": (20, 2.5), "humanoid": (25, 1.6), "swimmer": (30, 1.1)}
EOF
