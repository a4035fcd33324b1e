#!/usr/bin/env bash
# A MuJoCo sensor with noise="0.5" reads the exact value: the attribute changes no reading, and the flag that once switched it on is gone.
# Versions: mujoco 3.8.1 and 3.1.3, numpy 2.4.6 and 1.26.4
# Behaviour: a model may give any sensor a standard deviation of noise, which is compiled and stored (sensor_noise). Nothing reads
#   it: noise is left to the user. In 3.1.3 <flag sensornoise="enable"/> added it; today the XML with that flag is refused, and the XML
#   without it is read in silence, as it was then. So a policy trained "with sensor noise" by the model's file has seen none.
# Seen 2026-11-30 (a hinge at rest, joint position and velocity with noise .5; deviation of 100 readings):
#   3.8.1: stored [0.5 0.5], seen [0. 0.]
#   3.8.1 with the flag: refused, XML Error: Schema violation: unrecognized attribute: 'sensornoise'
#   3.1.3: stored [0.5 0.5], seen [0. 0.]
#   3.1.3 with the flag: stored [0.5 0.5], seen [0.46 0.52]
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/read.py" <<'PY'
import sys

import mujoco
import numpy as np

model = """<mujoco>{}<worldbody><body><joint name="hinge"/><geom size=".1"/></body></worldbody>
<sensor><jointpos joint="hinge" noise=".5"/><jointvel joint="hinge" noise=".5"/></sensor></mujoco>"""
spreads = []
for name, option in (("", ""), (" with the flag", '<option><flag sensornoise="enable"/></option>')):
    try:
        compiled = mujoco.MjModel.from_xml_string(model.format(option))
    except ValueError as error:
        print(f"{mujoco.__version__}{name}: refused, {str(error).splitlines()[0]}")
        spreads.append(None)
        continue
    data, readings = mujoco.MjData(compiled), []
    for _ in range(100):
        mujoco.mj_step(compiled, data)
        readings.append(data.sensordata.copy())
    spread = np.std(readings, axis=0)
    print(f"{mujoco.__version__}{name}: stored {compiled.sensor_noise}, seen {spread.round(2)}")
    spreads.append(spread.mean())
plain, flagged = spreads
assert plain == 0 and (flagged is None if sys.argv[1] == "new" else 0.3 < flagged < 0.7)
PY
for version in new:3.8.1:2.4.6 old:3.1.3:1.26.4; do
  IFS=: read -r age mujoco numpy <<<"$version"
  python3.11 -m venv "$dir/$age"
  "$dir/$age/bin/pip" install -q "mujoco==$mujoco" "numpy==$numpy"
  "$dir/$age/bin/python" "$dir/read.py" "$age"
done
