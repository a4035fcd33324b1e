"""scripts/multigoal.py: the task, a training on it by its id, and the figures from its CSV files."""

import csv
import subprocess
import sys

import numpy as np
from conftest import ROOT
from gymnasium.utils.env_checker import check_env

sys.path.append(str(ROOT / "scripts"))
import multigoal  # noqa: E402

import sac_flow_g  # noqa: E402

TINY = "--env-id multigoal:MultiGoal-v0 --no-compile --device cpu --total-timesteps 200 --learning-starts 100"
TINY += " --batch-size 16 --buffer-size 1000 --critic-hidden-dim 16 --eval-frequency 0"


def test_the_goals_are_alike():
    env = multigoal.MultiGoal()
    check_env(env, skip_render_check=True)
    returns = []
    for goal in multigoal.GOALS:
        obs, _ = env.reset(seed=0)
        env.position = obs = np.zeros(2, np.float32)
        total, seen = 0.0, []
        for _ in range(10):
            obs, reward, terminated, truncated, info = env.step(goal / 5)
            total, seen = total + reward, [*seen, info["goal"]]
            assert not (terminated or truncated)
        # Half a unit per step: within one unit of the goal behind the ninth.
        assert seen[:8] == [-1] * 8 and all((multigoal.GOALS[i] == goal).all() for i in seen[8:])
        assert np.allclose(obs, goal)
        returns.append(total)
    # By hand: behind step k the nearest goal is 5 - k / 2 away.
    assert np.allclose(returns, sum(-0.2 * (5 - k / 2) for k in range(1, 11)))


def test_from_training_to_picture(tmp_path):
    def measure(root, episodes):
        multigoal.measure(multigoal.Args(roots=[root], out=tmp_path, episodes=episodes))

    flags = [*TINY.split(), "--run-dir", str(tmp_path / "runs")]
    sac_flow_g.main(sac_flow_g.read_args(flags))
    measure(tmp_path / "runs", 8)
    multigoal.draw(multigoal.Args(out=tmp_path))
    with open(tmp_path / "multigoal.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["noise"] for row in rows] == ["1", "0"]
    for row in rows:
        assert np.isclose(sum(float(row[name]) for name in (*multigoal.NAMES, "none")), 1, atol=5e-3)
    picture = tmp_path / "figures" / "multigoal.svg"
    before = picture.read_bytes()
    picture.unlink()
    call = [sys.executable, ROOT / "scripts" / "multigoal.py", "--out", tmp_path]
    subprocess.run([*call, "--figures-only"], check=True, timeout=300)
    assert picture.read_bytes() == before
    # A second temperature joins the tables, and measuring the first again replaces its rows.
    sac_flow_g.main(sac_flow_g.read_args([*flags, "--alpha", "0.2", "--no-autotune"]))
    held = next(path for path in (tmp_path / "runs").iterdir() if path.name != rows[0]["run"])
    measure(held, 8)
    measure(tmp_path / "runs" / rows[0]["run"], 4)
    with open(tmp_path / "multigoal.csv", newline="") as file:
        assert [(row["run"], row["noise"]) for row in csv.DictReader(file)] == [
            (rows[0]["run"], "1"),
            (rows[0]["run"], "0"),
            (held.name, "1"),
            (held.name, "0"),
        ]
    with open(tmp_path / "multigoal_paths.csv", newline="") as file:
        drawn = [row["episode"] for row in csv.DictReader(file) if row["kind"] == "path" and row["k"] == "1"]
    assert sorted(map(int, drawn)) == sorted([*range(4), *range(8)])
    # A run that goes on takes its own place.
    sac_flow_g.main(sac_flow_g.read_args(["--resume", str(held), "--total-timesteps", "210"]))
    measure(held, 8)
    with open(tmp_path / "multigoal.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["run"] == held.name] == ["210", "210"]
    empty = subprocess.run([*call, tmp_path / "figures"], capture_output=True, text=True)
    assert empty.returncode == 2 and "no run of MultiGoal-v0" in empty.stderr
