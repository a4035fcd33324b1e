#!/usr/bin/env bash
# An action of 1 in robosuite asks the hand for 5 cm, and moves it by 1.3: a quarter, after six steps to get there.
# Versions: robosuite 1.5.2, mujoco 3.8.1
# Behaviour: OSC_POSE scales a delta action to output_max, .05 m, from where the hand is at that step. The controller closes only part of
#   it in a step of 1/20 s, and the next step starts anew from there. The share is the same for small actions, so a path of waypoints
#   divided by .05 comes out four times too short. From rest it takes six steps to full speed; after the last action the hand goes on for
#   one to two more centimetres.
# Seen 2026-11-29 (Lift, cm per step along x, y and z):
#   action 1.0: asked 5.00; step 1 0.55 0.51 0.45; step 12 1.26 1.29 1.27; the six steps after 1.68 1.79 1.10
#   action 0.1: asked 0.50; step 1 0.05 0.05 0.06; step 12 0.12 0.12 0.13; the six steps after 0.11 0.13 0.10
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mujoco==3.8.1 numpy==2.4.6 numba==0.68.1 scipy==1.17.1 pillow==11.3.0 termcolor==3.3.0 \
  opencv-python-headless==5.0.0.93
"$dir/venv/bin/pip" install -q --no-deps robosuite==1.5.2
cat >"$dir/reach.py" <<'EOF'
import logging

logging.disable(logging.WARNING)  # of extras that are not installed
import numpy as np
import robosuite

env = robosuite.make(
    "Lift", robots="Panda", has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False, ignore_done=True, seed=0
)
robot = env.robots[0]
asked = robot.composite_controller.part_controllers["right"].output_max[0]
assert asked == 0.05


def place(axis):
    return 100 * env.sim.data.site_xpos[robot.eef_site_id["right"]][axis]


for size in (1.0, 0.1):
    first, late, after = [], [], []
    for axis in range(3):
        env.reset()
        action, places = np.zeros(7), [place(axis)]
        action[axis] = size
        for step in range(18):
            env.step(action if step < 12 else np.zeros(7))
            places.append(place(axis))
        first.append(places[1] - places[0])
        late.append(places[12] - places[11])
        after.append(places[18] - places[12])
    rows = (" ".join(f"{value:.2f}" for value in values) for values in (first, late, after))
    text = "action {}: asked {:.2f}; step 1 {}; step 12 {}; the six steps after {}"
    print(text.format(size, 100 * asked * size, *rows))
    assert all(0.2 < value / (100 * asked * size) < 0.3 for value in late)
    assert all(value < 0.15 * 100 * asked * size for value in first)
EOF
"$dir/venv/bin/python" -W ignore "$dir/reach.py"
