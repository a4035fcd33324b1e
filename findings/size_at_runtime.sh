#!/usr/bin/env bash
# A ball that is made twice as large in a loaded MuJoCo model, as size randomization does, sinks to its old radius and trembles there.
# Versions: mujoco 3.8.1
# Behaviour: geom_size moves the surface, but contacts are only looked for within geom_rbound, the bounding radius from compilation. From
#   there the ball is thrown back out of the floor, and falls in again. mj_setConst does not update it, setting geom_rbound does.
# Seen 2026-11-29 (least and largest height of the centre while it should lie still; a ball of .2 m):
#   radius .2 in XML                        0.200 to 0.200 m
#   .1 in XML, geom_size .2                 0.099 to 0.116 m
#   .1 in XML, geom_size .2, mj_setConst    0.099 to 0.116 m
#   .1 in XML, geom_size and geom_rbound .2 0.200 to 0.200 m
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mujoco==3.8.1
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import mujoco

XML = """<mujoco><worldbody><geom type="plane" size="5 5 .1"/>
<body pos="0 0 .5"><freejoint/><geom type="sphere" size="{}" mass="1"/></body></worldbody></mujoco>"""


def heights(radius, edit=lambda model: None):
    model = mujoco.MjModel.from_xml_string(XML.format(radius))
    edit(model)
    data, seen = mujoco.MjData(model), []
    for step in range(10_000):
        mujoco.mj_step(model, data)
        seen += [data.qpos[2]] if step >= 5000 else []
    return min(seen), max(seen)


def size(model):
    model.geom_size[1, 0] = 0.2


def size_and_constants(model):
    size(model)
    mujoco.mj_setConst(model, mujoco.MjData(model))


def size_and_bound(model):
    size(model)
    model.geom_rbound[1] = 0.2


found = {
    "radius .2 in XML": heights(0.2),
    ".1 in XML, geom_size .2": heights(0.1, size),
    ".1 in XML, geom_size .2, mj_setConst": heights(0.1, size_and_constants),
    ".1 in XML, geom_size and geom_rbound .2": heights(0.1, size_and_bound),
}
for name, (low, high) in found.items():
    print(f"{name:39} {low:.3f} to {high:.3f} m")
right, edited, constants, repaired = found.values()
assert 0.199 < right[0] and repaired == right and constants == edited
assert 0.09 < edited[0] < 0.1 < 0.11 < edited[1] < 0.13
EOF
