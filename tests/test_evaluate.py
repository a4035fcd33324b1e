"""scripts/evaluate.py: a run's policy, or its file alone, scores as in the run's own evaluation."""

import csv
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from conftest import ROOT, SCRIPTS, has_egl, make_actor, scalars

sys.path.append(str(ROOT / "scripts"))
import contact_margin  # noqa: E402
import evaluate as tool  # noqa: E402

import sac_flow_g  # noqa: E402

TINY = "--env-id InvertedPendulum-v4 --no-compile --device cpu --total-timesteps 90 --learning-starts 60"
TINY += " --batch-size 16 --buffer-size 1000 --critic-hidden-dim 16 --eval-frequency 1000 --eval-episodes 3"


def evaluate(*words, **env):
    env = os.environ | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run(
        [sys.executable, tool.__file__, *map(str, words)], capture_output=True, text=True, env=env, timeout=300
    )


def score(*words):
    tool.main(tyro.cli(tool.Args, args=list(map(str, words))))


@pytest.fixture
def refused(capsys):
    """What these words are answered by, on one line and with exit code 2."""

    def answer(*words) -> str:
        with pytest.raises(SystemExit) as stop:
            score(*words)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
        return error

    return answer


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Script -> the folder of its run, which has one evaluation, at its end."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for script in SCRIPTS:
        module = importlib.import_module(script)
        found[script] = Path(module.main(module.read_args([*TINY.split(), "--run-dir", str(folder)])))
    return found


def read(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_and_its_policy_file_score_as_in_the_run(runs, tmp_path, capsys):
    """All four scripts at once: mean and deviation are those that the run logged, the policy file's the same."""
    table, policies = tmp_path / "scores.csv", []
    for script, run in runs.items():
        policies.append(tmp_path / f"{script}.pt")
        score(run, "--save-policy", policies[-1])
        assert policies[-1].stat().st_size < (run / "checkpoint.pt").stat().st_size / 2
    score(*runs.values(), *policies, "--episodes", 3, "--csv", table)
    printed, rows = capsys.readouterr().out, read(table)
    for (script, run), *both in zip(runs.items(), rows[: len(runs)], rows[len(runs) :], strict=True):
        logged = [scalars(run)[tag] for tag in ("eval/episodic_return", "eval/episodic_return_std")]
        assert [events[-1][0] for events in logged] == [90, 90]
        for row in both:
            scores = float(row["mean"]), float(row["std"])
            assert np.allclose(scores, [events[-1][1] for events in logged])
            assert f"mean {scores[0]:.6g}  std {scores[1]:.6g}" in printed
            seed = str(sac_flow_g.episode_seed(1, 10**9))
            assert (row["script"], row["step"], row["seed"], row["eval_seed"]) == (f"{script}.py", "90", "1", seed)
    other = set()
    for seed in (5, 6):
        score(runs["sac_flow_g"], "--csv", table, "--seed", seed)
        other.add(read(table)[0]["mean"])
    assert len(other) == 2  # other start states


def test_a_policy_file_is_the_actor_its_flags_and_nothing_that_executes(runs, tmp_path, refused):
    policy = tmp_path / "policy.pt"
    score(runs["sac_flow_t"], "--save-policy", policy)
    state = torch.load(policy, weights_only=True)
    assert state.keys() == {"actor", "args", "script", "step"}
    assert (state["args"]["run_dir"], state["args"]["resume"]) == ("runs", None), "no folder of its owner's"
    script = pytest.importorskip("sac_flow_t")
    actor = make_actor(script, obs_dim=4, box=script.gym.make("InvertedPendulum-v4").action_space, d_model=96)
    assert actor.load_state_dict(state["actor"]) and {"norm.running_mean", "norm.running_var"} <= state["actor"].keys()
    shutil.copy(ROOT / "sac_flow_t.py", tmp_path / "my_fork.py")
    del state["args"]["bf16"]  # as if the flag had come after this policy
    torch.save(state | {"script": "my_fork.py"}, policy)
    assert "name the script by --script" in refused(policy)
    torch.save(state | {"script": str(tmp_path / "my_fork.py")}, policy)  # which might come with the policy
    assert "name the script by --script" in refused(policy)
    score(policy, "--script", tmp_path / "my_fork.py", "--episodes", 1)


def test_the_published_policies_load_and_act():
    policies = sorted((ROOT / "results" / "policies").glob("*.pt"))
    assert policies and sum(path.stat().st_size for path in policies) < 40 * 2**20
    for path in policies:
        state, script = tool.load(path, None)
        args = script.Args(**state["args"])
        env = script.make_env(args)
        shapes = env.observation_space.shape[0], env.action_space, args
        actor = tool.make_actor(script, state, torch.device("cpu"), *shapes)
        obs = torch.as_tensor(env.reset(seed=0)[0])[None]
        action = actor.act(obs, actor.draw_noise(1, torch.Generator().manual_seed(0)), deterministic=True)[0].numpy()
        assert np.isfinite(env.step(script.into_box(action, env.action_space))[0]).all()


def test_old_contacts_are_half_the_margin_or_refused():
    env = contact_margin.gym.make("Hopper-v4")
    model = env.unwrapped.model
    assert set(contact_margin.old_contacts(env).unwrapped.model.geom_margin) == {0.0005}
    model.geom_margin[0] = 0.01
    with pytest.raises(SystemExit, match=r"error: Hopper-v4: margins of .*0\.01"):
        contact_margin.old_contacts(env)


def test_a_film_has_the_first_episode(runs, tmp_path):
    if not has_egl():
        pytest.skip("no EGL")
    import imageio.v3

    film, table = tmp_path / "film.mp4", tmp_path / "scores.csv"
    result = evaluate(runs["sac_flow_g"], "--video", film, "--csv", table, "--episodes", 1, MUJOCO_GL="egl")
    assert result.returncode == 0 and f"film: {film}" in result.stdout and "filming" not in result.stderr
    assert len(imageio.v3.imread(film)) == float(read(table)[0]["mean"])  # a reward of 1 per step
    result = evaluate(runs["sac_flow_g"], "--video", film, DISPLAY="", MUJOCO_GL="glfw")
    assert result.returncode == 2 and re.search(r"error: --video: .*MUJOCO_GL=egl", result.stderr), result.stderr


def test_progress_is_shown_on_a_terminal_alone(runs, capfd, monkeypatch):
    """Behind a pipe, and in a log, it would be thousands of lines."""
    score(runs["sac_gaussian"], "--episodes", 1)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    score(runs["sac_gaussian"], "--episodes", 1)
    assert "evaluating" in capfd.readouterr().err


def test_a_run_needs_neither_its_tracker_nor_its_device(runs, tmp_path):
    """A policy of a tracked run on a GPU can be tried on a machine without either."""
    state = torch.load(runs["sac_flow_g"] / "checkpoint.pt", weights_only=True)
    state["args"] |= {"track": True, "device": "cuda", "compile": True, "resume": "gone"}
    torch.save(state, tmp_path / "checkpoint.pt")
    score(tmp_path, "--episodes", 1)


def test_bad_input(runs, tmp_path, refused):
    run, other = runs["sac_flow_g"], runs["sac_flow_t"]
    damaged, old, foreign = (tmp_path / f"{name}.pt" for name in ("damaged", "old", "foreign"))
    data = bytearray((run / "checkpoint.pt").read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({name: state[name] for name in ("actor", "args")}, old)
    blob = io.BytesIO()
    torch.save(state | {"args": state["args"] | {"gone": 1}}, blob)
    (tmp_path / "flags.pt").write_bytes(blob.getvalue())
    torch.save(
        state | {"actor": torch.load(other / "checkpoint.pt", weights_only=True)["actor"]}, tmp_path / "weights.pt"
    )
    with zipfile.ZipFile(foreign, "w") as file:
        file.writestr("a", "b")
    for path, says in (
        (tmp_path / "absent", "no checkpoint or policy file"),
        (tmp_path, "no checkpoint or policy file"),
        (damaged, "damaged"),
        (foreign, "damaged"),
        (old, "older version"),
        (tmp_path / "flags.pt", "another version of sac_flow_g.py"),
    ):
        assert says in refused(run, path, "--csv", tmp_path / "scores.csv"), path
    assert "weights do not fit" in refused(tmp_path / "weights.pt")
    for words, flag in (
        ((run, "--episodes", 0), "--episodes"),
        ((run, "--seed", -1), "--seed"),
        ((run, "--device", "abacus"), "--device"),
        ((run, "--csv", tmp_path / "absent" / "scores.csv"), "--csv"),
        ((run, "--video", tmp_path / "film.avi"), "--video"),
        ((run, other, "--video", tmp_path / "film.mp4"), "--video"),
        ((run, other, "--save-policy", tmp_path / "policy.pt"), "--save-policy"),
        ((run, "--save-policy", tmp_path / "policy.pt", "--csv", tmp_path / "scores.csv"), "--save-policy"),
    ):
        assert flag in refused(*words)
    assert not (tmp_path / "scores.csv").exists() and not (tmp_path / "film.mp4").exists()
