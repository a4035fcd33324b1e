#!/usr/bin/env bash
# Multiplying all masses of a loaded MuJoCo model, as domain randomization does, lets it sink into the floor and lifts its centre of mass.
# Versions: mujoco 3.8.1, numpy 2.4.6
# Behaviour: a resting box sinks in equally far whatever its mass if the mass was in the XML (contact stiffness scales with invweight0),
#   but five times as far if body_mass and body_inertia are multiplied by 8 afterwards; subtree_com, a weighted sum over a stale total
#   mass, then lies eight times too high. mj_setConst repairs both.
# Seen 2026-11-28:
#   1 kg                       sinks in 0.108 mm, subtree_com at z = 0.100
#   8 kg in XML                sinks in 0.108 mm, subtree_com at z = 0.100
#   1 kg times 8               sinks in 0.564 mm, subtree_com at z = 0.795
#   1 kg times 8, mj_setConst  sinks in 0.108 mm, subtree_com at z = 0.100
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mujoco==3.8.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import mujoco

XML = """<mujoco><worldbody><geom type="plane" size="5 5 .1"/>
<body pos="0 0 .1"><freejoint/><geom type="box" size=".1 .1 .1" mass="{}"/></body></worldbody></mujoco>"""
rest = {}
for name, mass, factor in (("1 kg", 1, 1), ("8 kg in XML", 8, 1), ("1 kg times 8", 1, 8), ("1 kg times 8, mj_setConst", 1, 8)):
    model = mujoco.MjModel.from_xml_string(XML.format(mass))
    model.body_mass *= factor
    model.body_inertia *= factor
    data = mujoco.MjData(model)
    if "setConst" in name:
        mujoco.mj_setConst(model, data)
    mujoco.mj_resetData(model, data)
    for _ in range(3000):
        mujoco.mj_step(model, data)
    rest[name] = (0.1 - data.qpos[2]) * 1000, data.subtree_com[1, 2]
    print(f"{name:26} sinks in {rest[name][0]:.3f} mm, subtree_com at z = {rest[name][1]:.3f}")
one, xml, edited, repaired = rest.values()
assert abs(one[0] - xml[0]) < 1e-6 and 5 < edited[0] / one[0] < 5.5 and abs(edited[1] - 0.795) < 0.001
assert max(abs(a - b) for a, b in zip(repaired, xml)) < 1e-6
EOF
