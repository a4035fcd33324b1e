#!/usr/bin/env bash
# Gymnasium's Humanoid moves otherwise at another time: the same state and torques accelerate it differently when only data.time differs.
# Versions: mujoco 3.8.1, gymnasium 1.4.0
# Behaviour: both Humanoids ask for MuJoCo's PGS solver, whose result depends on data.time: the same time gives the same accelerations to the last
#   bit, another one does not. Nothing in the model is a function of time, and Newton's and the conjugate gradient's results are not. So qpos
#   and qvel, all that set_state takes, continue an episode elsewhere: what plans from, branches from or replays a stored state must store
#   the time. An episode from its reset repeats, because the reset puts the time to 0.
# Seen 2026-11-30 (one state with contacts; times 0, .3, 1 and 100 s; largest difference in qacc, then in qpos after 500 steps from 0 and 1):
#   Humanoid-v5         PGS     of qacc 0.0067   of qpos 1.9
#   Humanoid-v5         CG      of qacc 0        of qpos 0
#   Humanoid-v5         Newton  of qacc 0        of qpos 0
#   HumanoidStandup-v5  PGS     of qacc 0.0021   of qpos 2.3
#   HumanoidStandup-v5  CG      of qacc 0        of qpos 0
#   HumanoidStandup-v5  Newton  of qacc 0        of qpos 0
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mujoco==3.8.1 gymnasium==1.4.0 numpy==2.4.6 packaging==26.4 imageio==2.38.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import gymnasium
import mujoco
import numpy as np

STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # the time among it, which is then changed
SOLVERS = {"PGS": 0, "CG": 1, "Newton": 2}
for task in ("Humanoid-v5", "HumanoidStandup-v5"):
    env = gymnasium.make(task).unwrapped
    env.reset(seed=0)
    model, data = env.model, env.data
    assert model.opt.solver == SOLVERS["PGS"]
    actions = np.random.default_rng(0).uniform(-1, 1, (530, model.nu)) * model.actuator_ctrlrange[:, 1]
    for action in actions[:30]:
        env.step(action)
    state = np.empty(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, data, state, STATE)

    def at(time: float) -> None:
        mujoco.mj_resetData(model, data)
        mujoco.mj_setState(model, data, state, STATE)
        data.time = time

    for name, solver in SOLVERS.items():
        model.opt.solver = solver
        accelerations, ends = [], []
        for time in (0, 0.3, 1, 100, 0):
            at(time)
            mujoco.mj_forward(model, data)
            accelerations.append(data.qacc.copy())
        assert data.ncon > 0 and np.array_equal(accelerations[0], accelerations[-1])
        for time in (0, 1):
            at(time)
            for action in actions[30:]:
                env.step(action)
            ends.append(data.qpos.copy())
        spread, apart = np.ptp(accelerations, axis=0).max(), np.abs(ends[1] - ends[0]).max()
        print(f"{task:<19} {name:<7} of qacc {spread:<8.2g} of qpos {apart:.2g}")
        assert (spread > 1e-4 and apart > 0.01) if name == "PGS" else spread == apart == 0
EOF
