#!/usr/bin/env bash
# MuJoCo's own XML of a compiled HalfCheetah is a robot 1.5 times as heavy.
# Versions: mujoco 3.8.1, the model of gymnasium 1.4.0
# Behaviour: the model asks the compiler for a total mass of 14 (settotalmass) and lets geoms give the masses. Both writers,
#   mj_saveLastXML and MjSpec.to_xml, leave settotalmass out and write no masses, so that reading the file back undoes the scaling.
# Seen 2026-11-28:
#   original: 14.0 kg
#   mj_saveLastXML and back: 21.184 kg; x after a second of the same controls: [-0.63 -0.78]
#   MjSpec.to_xml and back: 21.184 kg; x after a second of the same controls: [-0.63 -0.78]
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium==1.4.0 numpy==2.4.6 imageio==2.38.1 packaging==26.4 mujoco==3.8.1
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import pathlib

import gymnasium
import mujoco
import numpy as np

path = str(pathlib.Path(gymnasium.__file__).parent / "envs/mujoco/assets/half_cheetah.xml")
model = mujoco.MjModel.from_xml_path(path)
mujoco.mj_saveLastXML("saved.xml", model)
spec = mujoco.MjSpec.from_file(path)
spec.compile()
saved = {"mj_saveLastXML": pathlib.Path("saved.xml").read_text(), "MjSpec.to_xml": spec.to_xml()}
print("original:", model.body_mass.sum().round(3), "kg")
for writer, text in saved.items():
    again = mujoco.MjModel.from_xml_string(text)
    ends = []
    for m in (model, again):
        data = mujoco.MjData(m)
        for i in range(100):
            data.ctrl[:] = np.sin(0.3 * i + np.arange(m.nu))
            mujoco.mj_step(m, data)
        ends.append(data.qpos[0])
    print(writer, "and back:", again.body_mass.sum().round(3), "kg; x after a second of the same controls:", np.round(ends, 3))
    assert "settotalmass" not in text
    assert abs(model.body_mass.sum() - 14) < 1e-6 and abs(again.body_mass.sum() - 21.184) < 1e-3
EOF
