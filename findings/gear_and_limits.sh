#!/usr/bin/env bash
# A MuJoCo actuator with forcerange="-5 5" and gear="100" turns its joint with 500 N m, and a servo with gear="2" holds half its angle.
# Versions: mujoco 3.8.1
# Behaviour: forcerange bounds the actuator's own scalar force, before the gear multiplies it on its way to the joint. What bounds the
#   joint's torque is the joint's actuatorfrcrange, which an actuator's sensors and data.actuator_force do not show. The gear scales the
#   length that a position servo sees too: it pulls towards ctrl / gear, kp gear^2 stiff.
# Seen 2026-11-29:
#   motor, gear 100, ctrl 20                            joint 2000 N m, actuator_force 20
#   motor, gear 100, ctrl 20, forcerange -5 5           joint  500 N m, actuator_force 5
#   motor, gear 100, ctrl 20, actuatorfrcrange -5 5     joint    5 N m, actuator_force 20
#   servo, kp 100, gear 1, ctrl 1: rests at 1.000 rad
#   servo, kp 100, gear 2, ctrl 1: rests at 0.500 rad
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mujoco==3.8.1
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import mujoco

XML = """<mujoco><worldbody><body><joint name="joint" axis="0 1 0" damping="50" {}/><geom size=".1" mass="10"/></body></worldbody>
<actuator><{} joint="joint"/></actuator></mujoco>"""


def load(actuator, joint=""):
    model = mujoco.MjModel.from_xml_string(XML.format(joint, actuator))
    return model, mujoco.MjData(model)


def torque(actuator, joint=""):
    model, data = load(actuator, joint)
    data.ctrl[0] = 20
    mujoco.mj_forward(model, data)
    return data.qfrc_actuator[0], data.actuator_force[0]


def rest(gear):
    model, data = load(f'position kp="100" gear="{gear}"')
    data.ctrl[0] = 1
    for _ in range(10_000):
        mujoco.mj_step(model, data)
    assert abs(data.qvel[0]) < 1e-6
    return data.qpos[0]


motor = 'motor gear="100"'
found = {
    "": torque(motor),
    ", forcerange -5 5": torque(motor + ' forcerange="-5 5"'),
    ", actuatorfrcrange -5 5": torque(motor, 'actuatorfrcrange="-5 5"'),
}
for name, (joint, own) in found.items():
    print(f"{'motor, gear 100, ctrl 20' + name:51} joint {joint:4.0f} N m, actuator_force {own:.0f}")
held = {gear: rest(gear) for gear in (1, 2)}
for gear, angle in held.items():
    print(f"servo, kp 100, gear {gear}, ctrl 1: rests at {angle:.3f} rad")
assert list(found.values()) == [(2000, 20), (500, 5), (5, 20)]
assert [round(angle, 3) for angle in held.values()] == [1, 0.5]
EOF
