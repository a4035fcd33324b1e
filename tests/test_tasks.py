"""Tasks as people write them: each trains with the right numbers, or is refused in one line before a run exists."""

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, has_egl, scalars, small
from tasks import steps_shown

import sac_flow_g


def one_line(script, tmp_path, capsys, **flags) -> str:
    """What a refused run says: on one line, with exit code 2, and without leaving a folder."""
    with pytest.raises(SystemExit) as stop:
        script.main(script.Args(**small(run_dir=str(tmp_path / "runs"), **flags)))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: --") and error.count("\n") == 1, error
    assert not os.listdir(tmp_path)
    return error


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("BadReset", "cannot connect to the simulator"),
        ("OldReset", "unexpected keyword argument 'seed'"),
        ("BadStep", "no sensor"),
        ("RewardPair", "array of size 1"),
        ("WholeActions", "int64.*Box of floats"),
        ("Huge", r"3.4e\+38.*bounded"),
        ("Vast", r"1e\+300.*bounded"),
    ],
)
def test_what_cannot_be_trained_is_refused(script, task, reason, tmp_path, capsys):
    assert re.match(
        f"error: --env-id tasks:{task}-v0: .*{reason}", one_line(script, tmp_path, capsys, env_id=f"tasks:{task}-v0")
    )


def test_a_film_of_a_task_that_cannot_render_is_refused(script, tmp_path, capsys):
    """Whether its constructor knows render_mode or not; neither the id nor the display alone is blamed."""
    for task in ("Plain", "NoRenderMode"):
        error = one_line(script, tmp_path, capsys, env_id=f"tasks:{task}-v0", capture_video=True)
        assert re.match("error: --capture-video: .*choose a task that renders rgb_array", error)


OTHERS = {  # what the README names, with the packages that it pins
    "shimmy:dm_control/dog-run-v0": ("dm_control", "shimmy"),
    "gymnasium_robotics:FetchReach-v4": ("gymnasium_robotics",),
    "gymnasium_robotics:AntMaze_UMaze-v5": ("gymnasium_robotics",),
}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")
@pytest.mark.parametrize("env_id", OTHERS)
def test_tasks_of_other_packages_train(env_id, tmp_path, capsys):
    """With a dictionary of observations; 1000 steps, of which the last hundred learn."""
    missing = [name for name in OTHERS[env_id] if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"not installed: {missing}")
    flags = {"total_timesteps": 1000, "learning_starts": 900, "eval_frequency": 1000, "eval_episodes": 1}
    run = sac_flow_g.main(sac_flow_g.Args(**small(env_id=env_id, hidden_dim=32, run_dir=str(tmp_path), **flags)))
    printed = capsys.readouterr().out
    space = sac_flow_g.make_env(sac_flow_g.Args(env_id=env_id)).observation_space
    buffer = sac_flow_g.load_checkpoint(run)["counters"][0]
    assert f"{env_id}: observations are flattened in the order " in printed
    assert buffer == 1000 and len(space.shape) == 1
    assert [step for step, _ in scalars(run)["eval/episodic_return"]] == [1000]
    assert scalars(run)["losses/qf_loss"][-1][0] == 1000


def call(words: str, folder, **env):
    """A run of seconds in another process, with the tasks on its path."""
    flags = " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in small().items() if name not in ("compile", "env_id")
    )
    command = [sys.executable, str(ROOT / "sac_flow_g.py"), *f"{flags} --no-compile {words}".split()]
    command += ["--run-dir", str(folder)]
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"} | env
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--env-id tasks:OldReset-v0", "--env-id"),  # with two warnings of Gymnasium's on the way
        ("--env-id tasks:Huge-v0", "--env-id"),
        ("--env-id tasks:Vast-v0", "--env-id"),  # with one of NumPy's
        ("--env-id tasks:Plain-v0 --capture-video", "renders rgb_array"),
        ("--env-id HalfCheetah-v4 --capture-video", "MUJOCO_GL=egl"),  # with two of GLFW's, where there is no display
        ("--env-id Pendulum-v1 --crossq False", "write --crossq or --no-crossq"),
        ("--env-id Pendulum-v1 --no-compile True", "write --compile or --no-compile"),
    ],
)
def test_no_library_adds_lines(words, says, tmp_path):
    process = call(words, tmp_path, DISPLAY="", MUJOCO_GL="")
    output, error = process.communicate(timeout=120)
    if "HalfCheetah" in words and process.returncode == 0:
        pytest.skip("this machine renders without being told how")
    assert process.returncode == 2 and error.startswith("error: ") and error.count("\n") == 1 and says in error, error
    assert not os.listdir(tmp_path)


def numbers(run) -> dict:
    return {tag: events for tag, events in scalars(run).items() if tag != "charts/SPS"}


def test_a_reward_that_is_an_array_of_one_is_a_number(script, tmp_path):
    runs = [
        script.main(script.Args(**small(env_id=f"tasks:{task}-v0", run_dir=str(tmp_path))))
        for task in ("Plain", "RewardArray")
    ]
    assert numbers(runs[0]) == numbers(runs[1])


class Follower:
    """A policy without noise or memory."""

    def __init__(self):
        self.seen = []

    def draw_noise(self, n, generator):
        return None

    def act(self, obs, noise, deterministic=False):
        self.seen.append(obs[0].tolist())
        return -obs[:, :2].clamp(-1, 1)


def test_a_reset_in_whole_numbers_is_evaluated_as_one_in_real_numbers(script, monkeypatch):
    """Later observations are not cut to whole numbers; the return by hand, in NumPy."""
    returns, casts = [], (list, np.int8, np.dtype(">i2").type, np.float16)
    for task, cast in (("IntReset", None), ("FloatReset", None), *(("CastReset", cast) for cast in casts)):
        policy, args = Follower(), script.Args(env_id=f"tasks:{task}-v0")
        monkeypatch.setattr("tasks.CastReset.cast", staticmethod(cast))
        returns += script.evaluate(policy, [script.make_env(args) for _ in range(2)], 1, torch.device("cpu")).tolist()
        assert np.allclose(policy.seen[1], [0.8, -0.8, 1.7])
    x, expected = np.array([1.0, -1.0, 2.0]), 0.0
    for _ in range(20):
        x = 0.9 * x + 0.1 * np.resize(-x[:2].clip(-1, 1), 3)
        expected -= np.square(x).sum()
    assert np.allclose(returns, expected)


def test_dictionaries_are_flattened_in_the_order_of_the_space(script, tmp_path, monkeypatch, capsys):
    rows, plain = [], script.ReplayBuffer.add
    monkeypatch.setattr(script.ReplayBuffer, "add", lambda self, **row: rows.append(row) or plain(self, **row))
    script.main(script.Args(**small(env_id="tasks:Goal-v0", run_dir=str(tmp_path))))
    made = gym.make("tasks:Goal-v0")
    order = ", ".join(made.observation_space)
    assert capsys.readouterr().out.count(f"observations are flattened in the order {order}\n") == 1
    obs, _ = made.reset(seed=script.episode_seed(1, 0))
    assert np.array_equal(rows[0]["obs"], gym.spaces.flatten(made.observation_space, obs).astype(np.float32))
    for row in rows:
        for name in ("obs", "next_obs"):
            assert row[name].dtype == np.float32 and row[name].shape == (5,) and (row[name] == 7).sum() == 1


def test_nothing_sent_exceeds_the_box(script, tmp_path):
    """Bounds in float64 that no float32 number meets: the task itself refuses an action outside."""
    script.main(script.Args(**small(env_id="tasks:OddBounds-v0", run_dir=str(tmp_path))))
    rng = np.random.default_rng(0)
    for dtype in (np.float64, np.float32):
        low = rng.normal(size=2000) * 10.0 ** rng.integers(-4, 5, 2000)
        box = gym.spaces.Box(
            low.astype(dtype), (low + rng.exponential(size=2000) + abs(low)).astype(dtype), dtype=dtype
        )
        for action in (box.low, box.high, box.low - 1, box.high + 1, box.sample()):
            sent = script.into_box(action, box)
            assert sent.dtype == np.float32 and (sent >= box.low).all() and (sent <= box.high).all()
            assert np.allclose(sent, action.clip(box.low, box.high), rtol=3e-7, atol=0)


def test_what_is_not_finite_is_named_in_one_line(script, tmp_path):
    with pytest.raises(SystemExit) as stop:
        script.main(script.Args(**small(env_id="tasks:NotFinite-v0", run_dir=str(tmp_path))))
    assert stop.value.code == "error: step 7: next_obs not finite; any checkpoint stays"


def test_a_task_with_a_memory_across_episodes_begins_alike(script, monkeypatch):
    """As running statistics are: the step that tries it must not depend on chance."""
    make = lambda render_mode=None: gym.wrappers.NormalizeObservation(gym.make("Pendulum-v1"))  # noqa: E731
    monkeypatch.setitem(gym.registry, "Memory-v0", gym.envs.registration.EnvSpec("Memory-v0", make))
    first, second = (script.make_env(script.Args(env_id="Memory-v0")).reset(seed=1)[0] for _ in range(2))
    assert np.array_equal(first, second)


def test_names_are_folders_of_their_own(script, tmp_path, monkeypatch):
    """An experiment's name with odd characters, a home folder, a task of a module and an id without a version."""
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = {"env_id": "tasks:Plain", "exp_name": "a/b lr=3e-4#2", "run_dir": "~/runs", "total_timesteps": 40}
    with pytest.warns(UserWarning, match="latest versioned environment `Plain-v0`"):
        run = script.main(script.Args(**small(**flags)))
    assert re.fullmatch(rf"{tmp_path}/runs/tasks-Plain-v0__a-b-lr=3e-4-2__1__\d{{13}}", run)
    assert os.listdir(tmp_path) == ["runs"] and len(os.listdir(tmp_path / "runs")) == 1
    assert script.load_checkpoint(run)["args"]["env_id"] == "tasks:Plain-v0"
    assert scalars(script.main(script.read_args(["--resume", run, "--total-timesteps", "50"])))


def test_a_task_without_an_end_gets_one(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "LONGEST_EPISODE", 30)
    seen = scalars(script.main(script.Args(**small(env_id="tasks:Endless-v0", run_dir=str(tmp_path)))))
    assert seen["charts/episodic_length"] == [(30, 30), (60, 30)] and len(seen["eval/episodic_return"]) == 2
    assert script.make_env(script.Args(env_id="tasks:Plain-v0")).spec.max_episode_steps == 30
    line = "Endless-v0: no step limit is registered; an episode that reaches 30 steps is truncated\n"
    assert line in capsys.readouterr().out


def test_what_a_task_s_own_wrappers_did_is_not_said(script, capsys):
    """A part of a dictionary that they drop, a step limit that they set, be it the very one that others get."""
    args = [script.Args(env_id=f"tasks:{task}-v0") for task in ("Filtered", "Limited", "Marathon")]
    limits = [script.make_env(one, introduce=True).spec.max_episode_steps for one in args]
    assert limits == [10_000, 7, 10_000] and script.LONGEST_EPISODE == 10_000
    order = "tasks:Filtered-v0: observations are flattened in the order observation\n"
    limit = "tasks:Filtered-v0: no step limit is registered; an episode that reaches 10000 steps is truncated\n"
    assert capsys.readouterr().out == order + limit


def test_a_task_made_of_another_keeps_its_name(script):
    """Or the evaluations, made after the training's environment, would be of the other."""
    args = script.Args(env_id="tasks:Limited-v0")
    assert [script.make_env(args).spec.max_episode_steps for _ in range(2)] == [7, 7]
    assert args.env_id == "tasks:Limited-v0"


def test_ctrl_c_ends_a_long_evaluation_which_the_resumed_run_repeats(tmp_path):
    lasts = tmp_path / "lasts"
    process = call("--env-id tasks:Lasting-v0 --eval-episodes 1", tmp_path / "my runs", LASTS=str(lasts))
    while not lasts.exists():  # no training episode gets there
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 10 and "go on with: " in output, output
    (run,) = (tmp_path / "my runs").iterdir()
    assert "eval/episodic_return" not in scalars(run)
    go_on = shlex.split(output.split("go on with: ")[1])
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    assert subprocess.run(go_on, capture_output=True, env=env, timeout=300).returncode == 0
    assert [step for step, _ in scalars(run)["eval/episodic_return"]] == [40, 80]


def test_a_film_has_each_step_once_at_an_even_size(script, tmp_path):
    """A writer that looks frames up by their time shows a quarter of those of 20 per second twice or not at all."""
    imageio, film = pytest.importorskip("imageio.v3"), tmp_path / "film.mp4"
    pytest.importorskip("imageio_ffmpeg")
    env = script.make_env(script.Args(env_id="tasks:Striped-v0"), film=True)
    script.evaluate(Follower(), [env], 1, torch.device("cpu"), str(film))
    frames = imageio.imread(film)
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    assert steps_shown(frames) == list(range(1, 101)) and imageio.immeta(film)["fps"] == 20


def test_a_film_follows_the_body():
    """Thirty metres on, the humanoid is still in the picture: its skin is the only red in it."""
    if not has_egl():
        pytest.skip("no EGL")
    code = "import sac_flow_g as script; env = script.make_env(script.Args(), film=True); env.reset(seed=0)"
    code += "; core = env.unwrapped; core.set_state(core.init_qpos + (np.arange(24) == 0) * 30, core.init_qvel)"
    code += "; red, _, blue = np.moveaxis(env.render().astype(int), 2, 0); print((red - blue > 40).sum())"
    words = [sys.executable, "-c", f"import numpy as np; {code}"]
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"MUJOCO_GL": "egl"})
    assert result.returncode == 0 and int(result.stdout) > 500, result
