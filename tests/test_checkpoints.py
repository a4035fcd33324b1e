"""Checkpoints: exact resume after every way to end a run, faults, damaged files, full disks, and restored environments.

The runs are real processes of the real scripts, forked from a server that has imported PyTorch once, because importing
it takes longer than they do. A hook in the process plays the misfortune at a chosen moment.
"""

import contextlib
import errno
import io
import multiprocessing
import os
import pickle
import re
import runpy
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, CountingEnv, has_egl, scalars

import sac_flow_g as module  # the blocks under test are the same in all scripts, which test_cli.py checks

STEPS, LEARN, CHECKPOINT = 120, 40, 30  # checkpoints at 30, 60, 90 and 120, evaluations at 50, 100 and 120
FLAGS = {
    "env-id": "Hopper-v4",
    "total-timesteps": STEPS,
    "learning-starts": LEARN,
    "batch-size": 8,
    "buffer-size": 1000,
    "critic-hidden-dim": 8,
    "eval-frequency": 50,
    "eval-episodes": 2,
    "log-frequency": 5,
    "checkpoint-frequency": CHECKPOINT,
    "device": "cpu",
    "compile": False,
    "save-model": True,
}


class FaultyEnv(CountingEnv):
    """Goes wrong in its 50th step, which is that of its first episodes' 5th or of their end."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault, self.total, self.evaluations = fault, 0, 0

    def reset(self, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        if self.total >= 50 and self.fault == "reset":
            raise RuntimeError("broken reset")
        self.evaluations += (seed or 0) >= 10_000
        if self.evaluations == 5 and self.fault == "evaluation":
            raise RuntimeError("broken evaluation")
        return obs * (np.nan if self.total >= 50 and self.fault == "first observation" else 1), info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.total += 1
        if self.total == 50:
            if self.fault == "step":
                raise RuntimeError("broken step")
            obs = obs.astype(np.float64) + {"observation": np.inf, "float32": 1e39}.get(self.fault, 0.0)
            reward += {"reward": np.nan, "loss": 1e30}.get(self.fault, 0.0)
        return obs, reward, terminated, truncated, info


for fault in ("step", "reset", "evaluation", "observation", "first observation", "float32", "reward", "loss"):
    gym.register(f"Faulty-{fault.replace(' ', '-')}-v0", FaultyEnv, max_episode_steps=11, kwargs={"fault": fault})


def narrow(script: str) -> dict:
    return {"d-model": 8} if script == "sac_flow_t" else {"hidden-dim": 8}


def command_line(flags: dict) -> list[str]:
    return [
        text
        for name, value in flags.items()
        for text in ([f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)])
    ]


def child(script: str, argv: list[str], out: str, hook):
    """Run a script as `python script.py argv` does, in a process group of its own, output to OUT.out and OUT.err."""
    os.setsid()
    os.chdir(os.path.dirname(out))
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{out}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    sys.argv[1:], code = argv, 0
    try:
        if hook:
            hook[0](*hook[1:])
        runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


class Ended:
    """What is left of a run: exit code (negative: killed by that signal), output and folder."""

    def __init__(self, code: int, out: Path):
        self.code, self.out, self.err = code, *(Path(f"{out}.{name}").read_text() for name in ("out", "err"))
        folder = re.search(r"^run: (.*)$", self.out, re.MULTILINE)
        self.path = Path(folder[1]) if folder else None

    def __repr__(self):
        return f"exit code {self.code}\n{self.out}\n{self.err}"


SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch", "torch._dynamo", "torch.utils.tensorboard", "gymnasium", "mujoco", "tyro", "tensorboard"]
)


@pytest.fixture
def start(tmp_path):
    """start(script, hook=(function, arguments..), flag=..) -> Ended; FLAGS hold unless resuming."""
    runs = iter(range(100))

    def start(script, hook=None, log=tmp_path, **flags) -> Ended:
        own = {name.replace("_", "-"): value for name, value in flags.items()}
        assert own.get("resume", True), "there is no folder to resume"
        base = {} if "resume" in own else FLAGS | narrow(script) | {"run-dir": tmp_path / "runs"}
        out = log / f"run{next(runs)}"
        process = SERVER.Process(target=child, args=(script, command_line(base | own), str(out), hook))
        process.start()
        process.join(120)
        if process.exitcode is None:
            process.kill()
            pytest.fail(f"the run hangs: {Path(f'{out}.out').read_text()}")
        return Ended(process.exitcode, out)

    return start


REFERENCES = {}


@pytest.fixture
def undisturbed(tmp_path_factory, start):
    """undisturbed(script, flag=..) -> (scalars without charts/SPS, model.pt) of a run that nothing disturbs."""

    def undisturbed(script, **flags):
        key = script, tuple(sorted(flags.items()))
        if key not in REFERENCES:
            ended = start(script, run_dir=tmp_path_factory.mktemp("reference"), **flags)
            assert ended.code == 0 and not ended.err, ended
            REFERENCES[key] = results(ended.path)
        return REFERENCES[key]

    return undisturbed


def results(path):
    curves = {tag: values for tag, values in scalars(path).items() if tag != "charts/SPS"}
    model = torch.load(Path(path) / "model.pt", weights_only=True)
    del model["args"]  # names the folder
    return curves, model


def assert_same(actual, expected):
    assert actual[0].keys() == expected[0].keys()
    for tag, values in expected[0].items():
        assert actual[0][tag] == values, tag
    for part in expected[1]:
        torch.testing.assert_close(actual[1][part], expected[1][part], rtol=0, atol=0)


def contents(path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}


# Hooks.

SET_PRECISION = "set_float32_matmul_precision"  # called once at the start, then around acting and evaluating


def at_call(owner, name: str, call: int, action, counts=lambda *args: True):
    """Run action before the call number `call`, counted from 1, of owner.name; `counts` tells which calls count."""
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def patched(*args, **kwargs):
        if counts(*args) and next(calls) == call:
            action()
        return original(*args, **kwargs)

    setattr(owner, name, patched)


def signal_group(number: int):
    os.killpg(0, number)


def hook_signal(phase: str, number: int, call: int = 1):
    """Send a signal to the process group at the call-th moment of a phase."""
    send = lambda: signal_group(number)  # noqa: E731
    if phase in ("stepping", "evaluation"):
        original, environments, calls = gym.wrappers.TimeLimit.step, [], iter(range(1, 1_000_000))

        def step(self, action):
            environments.extend([self] * (not environments))  # the first to step is the one that trains
            if (self is environments[0]) == (phase == "stepping") and next(calls) == call:
                send()
            return original(self, action)

        gym.wrappers.TimeLimit.step = step
    elif phase == "update":
        at_call(torch.optim.Adam, "step", call, send)
    elif phase in ("compiling the backward pass", "compiling the policy"):  # a compiler is a child in the same group
        program = f"import os; os.killpg(0, {int(number)})"  # not a shell's, which would unblock its signals
        compiler = lambda: subprocess.run([sys.executable, "-c", program], check=True)  # noqa: E731
        backward = phase == "compiling the backward pass"
        at_call(torch.autograd if backward else torch, "grad" if backward else SET_PRECISION, call, compiler)
    elif phase == "segment":
        at_call(os, "fsync", 2 * call - 1, send)
    elif phase == "between":
        at_call(os, "fsync", 2 * call, send)
    elif phase == "swap":
        at_call(os, "replace", 2 * call, send)
    elif phase == "cleaning":
        at_call(os, "listdir", call, send, lambda path=".", *_: "__sac_" in str(path))


# Resume.


@pytest.mark.parametrize(
    ("script", "flags"),
    [(name, {}) for name in SCRIPTS] + [("sac_flow_g", {"crossq": False, "buffer_size": 50})],
    ids=[*SCRIPTS, "target-critic-and-wrapped-buffer"],
)
def test_a_run_stopped_mid_episode_resumes_exactly(script, flags, start, undisturbed):
    """SIGTERM twice: while acting at random, then while learning, each in the middle of an episode."""
    stopped = start(script, (hook_signal, "stepping", signal.SIGTERM, 17), **flags)
    assert stopped.code == 143 and not stopped.err, stopped
    command = re.search(r"go on with: python (\S+) --resume (\S+)$", stopped.out, re.MULTILINE)
    assert Path(command[1]).name == f"{script}.py" and Path(command[2]) == stopped.path
    assert torch.load(io.BytesIO(module.read_file(stopped.path, "checkpoint.pt")))["counters"][1] > 1, "mid-episode"
    again = start(script, (hook_signal, "stepping", signal.SIGTERM, 60), resume=stopped.path)
    assert again.code == 143 and again.path == stopped.path, again
    ended = start(script, resume=stopped.path)
    assert ended.code == 0 and not ended.err, ended
    assert_same(results(stopped.path), undisturbed(script, **flags))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize(
    ("phase", "call"), [("stepping", 70), ("update", 41), ("evaluation", 3), ("segment", 2), ("swap", 2)]
)
def test_a_signal_ends_the_run_with_its_code_and_the_resume_command(phase, call, number, start, undisturbed):
    stopped = start("sac_flow_g", (hook_signal, phase, number, call))
    assert stopped.code == 128 + number and not stopped.err, stopped
    assert f"sac_flow_g.py --resume {stopped.path}\n" in stopped.out and "stopping at the next step; " in stopped.out
    assert start("sac_flow_g", resume=stopped.path).code == 0
    assert_same(results(stopped.path), undisturbed("sac_flow_g"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize(("phase", "call"), [("compiling the backward pass", 5), ("compiling the policy", 2)])
@pytest.mark.parametrize("script", ["sac_flow_g", "sac_gaussian"])
def test_a_signal_leaves_the_compiler_alone(phase, call, script, number, start, undisturbed):
    """A terminal sends SIGINT to the compiler as well, and `timeout` SIGTERM; its end would be the run's, with a
    traceback."""
    stopped = start(script, (hook_signal, phase, number, call))
    assert stopped.code == 128 + number and not stopped.err, stopped
    assert f"{script}.py --resume {stopped.path}\n" in stopped.out
    assert start(script, resume=stopped.path).code == 0
    assert_same(results(stopped.path), undisturbed(script))


@pytest.mark.parametrize("phase", ["segment", "between", "swap", "cleaning", "update"])
def test_a_run_killed_in_a_checkpoint_resumes_from_the_one_that_is_whole(phase, start, undisturbed):
    """kill -9 in the third checkpoint, of step 90: in its segment, before checkpoint.pt, before the swap, after it."""
    killed = start("sac_flow_g", (hook_signal, phase, signal.SIGKILL, 120 if phase == "update" else 3))
    assert killed.code == -signal.SIGKILL, killed
    step = module.load_checkpoint(str(killed.path))["step"]
    assert step == (90 if phase in ("cleaning", "update") else 60)
    ended = start("sac_flow_g", resume=killed.path)
    assert ended.code == 0 and not ended.err, ended
    assert_same(results(killed.path), undisturbed("sac_flow_g"))
    names = {name for name, _, _ in module.load_checkpoint(str(killed.path))["segments"]}
    left = {file.name for file in killed.path.iterdir() if not file.name.startswith("events")}
    assert left == names | {"checkpoint.pt", "model.pt"}, "nothing of the torn checkpoint is left"


@pytest.mark.parametrize("call", [4, 5])
def test_a_run_killed_at_its_end_still_gets_its_model(call, start, undisturbed):
    """kill -9 in the last checkpoint, then right behind it: what is finished is whole."""
    killed = start("sac_flow_g", (hook_signal, "cleaning", signal.SIGKILL, call), checkpoint_frequency=24)
    assert killed.code == -signal.SIGKILL, killed
    ended = start("sac_flow_g", resume=killed.path)
    assert (ended.code == 0) or "finished" in ended.err, ended
    assert_same(results(killed.path), undisturbed("sac_flow_g"))


def test_a_finished_run_goes_on_to_a_raised_total_only(start, undisturbed):
    first = start("sac_flow_g", total_timesteps=80)
    before = contents(first.path)
    again = start("sac_flow_g", resume=first.path)
    assert again.code == 2 and again.err == "error: --resume: finished; raise --total-timesteps\n", again
    assert contents(first.path) == before
    assert start("sac_flow_g", resume=first.path, total_timesteps=STEPS).code == 0
    curves, model = results(first.path)
    for tag in ("eval/episodic_return", "eval/episodic_return_std"):
        assert [step for step, _ in curves[tag]] == [50, 80, 100, 120], "of its first end as well"
        del curves[tag][1]
    assert_same((curves, model), undisturbed("sac_flow_g"))


@pytest.fixture
def finished(start, request):
    """A finished run of sac_flow_g."""
    return start(getattr(request, "param", "sac_flow_g"))


def test_a_conflicting_flag_names_both_values(finished, start):
    before = contents(finished.path)
    for flag, own, other in (
        ("env_id", "Hopper-v4", "Ant-v4"),
        ("gamma", 0.99, 0.5),
        ("total_timesteps", STEPS, STEPS - 1),
        ("hidden_dim", 8, 16),
        ("crossq", True, False),
    ):
        ended = start("sac_flow_g", resume=finished.path, **{flag: other})
        assert ended.code == 2, ended
        message = f"error: --{flag.replace('_', '-')} {other}: the checkpoint has {own}; "
        assert ended.err.startswith(message) and ended.err.count("\n") == 1, ended
    assert contents(finished.path) == before


def test_a_checkpoint_of_another_kind_of_device_is_refused(finished, start):
    """Its random numbers cannot go on there."""
    state = torch.load(io.BytesIO(module.read_file(finished.path, "checkpoint.pt")), weights_only=True)
    assert state["device"] == "cpu"
    blob = io.BytesIO()
    torch.save(state | {"device": "cuda"}, blob)
    module.write_file(str(finished.path / "checkpoint.pt"), blob.getvalue())
    before = contents(finished.path)
    ended = start("sac_flow_g", resume=finished.path, total_timesteps=2 * STEPS)
    assert ended.code == 2 and ended.err.count("\n") == 1, ended
    assert ended.err.startswith("error: --device cpu: the checkpoint is of a run on cuda; ")
    assert contents(finished.path) == before


def test_steps_per_second_leave_out_compilation_and_evaluation(start):
    """Windows of random acting and the first with updates are not logged, nor the first behind a resumption."""
    run = start("sac_flow_g", learning_starts=25, log_frequency=10, total_timesteps=75, batch_size=4)
    assert [step for step, _ in scalars(run.path)["charts/SPS"]] == [40, 50, 60, 70, 75]
    run = start("sac_flow_g", resume=run.path, total_timesteps=108)
    assert run.code == 0, run
    assert [step for step, _ in scalars(run.path)["charts/SPS"]] == [40, 50, 60, 70, 75, 90, 100, 108]


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "time", lambda: 1e9)
    args = module.Args(run_dir=str(tmp_path), env_id="Hopper-v4")
    runs = [module.start_run(args, torch.device("cpu"), 0)[0] for _ in range(2)]
    assert sorted(runs) == sorted(map(str, tmp_path.iterdir())) and len(set(runs)) == 2


def test_a_repeated_flag_is_no_conflict(start, undisturbed):
    stopped = start("sac_flow_g", (hook_signal, "stepping", signal.SIGTERM, 70))
    ended = start("sac_flow_g", resume=stopped.path, gamma=0.99, seed=1, checkpoint_frequency=7)
    assert ended.code == 0 and not ended.err, ended
    assert_same(results(stopped.path), undisturbed("sac_flow_g"))


def test_eval_only_prints_and_leaves_the_run_as_it_was(start):
    run = start("sac_flow_g", total_timesteps=100)
    before, curves = contents(run.path), scalars(run.path)
    ended = start("sac_flow_g", resume=run.path, eval_only=True)
    mean, std = (curves[f"eval/episodic_return{end}"][-1] for end in ("", "_std"))
    assert mean[0] == 100 and ended.code == 0 and not ended.err, ended
    assert ended.out == f"step 100  eval return {mean[1]:.1f} +- {std[1]:.1f}\n"
    assert contents(run.path) == before
    other = start("sac_flow_g", resume=run.path, eval_only=True, eval_episodes=5, compile=True)
    assert other.code == 0 and other.out != ended.out and contents(run.path) == before


def test_a_video_of_an_evaluation(finished, tmp_path):
    """By --eval-only where something can render; else one line, and nothing is written."""
    pytest.importorskip("moviepy")
    before, script = contents(finished.path), str(ROOT / "sac_flow_g.py")
    command = [sys.executable, script, "--resume", str(finished.path), "--eval-only", "--capture-video"]
    command += ["--eval-episodes", "1", "--no-compile"]
    if has_egl():
        environment = os.environ | {"MUJOCO_GL": "egl"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        new = contents(finished.path).keys() - before.keys()
        assert len(new) == 1 and new.pop().endswith(".mp4")
    elsewhere = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL")}
    train = [sys.executable, script, "--env-id", "Hopper-v4", "--capture-video", "--run-dir", str(tmp_path / "none")]
    result = subprocess.run(train, env=elsewhere | {"MUJOCO_GL": "glfw"}, capture_output=True, text=True)
    assert result.returncode == 2 and not (tmp_path / "none").exists()
    assert "error: --capture-video: " in result.stderr and "set MUJOCO_GL=egl" in result.stderr
    assert "Traceback" not in result.stderr


def record_transitions(file: str):
    """Append (obs, next_obs, terminated) of every stored transition to a file."""
    original = np.concatenate

    def concatenate(arrays, *args, **kwargs):
        row = original(arrays, *args, **kwargs)
        if kwargs.get("dtype") is np.float32 and len(row) == 8:
            with open(file, "a") as out:
                print(*row, file=out)
        return row

    np.concatenate = concatenate


def hook_both(*hooks):
    for function, *arguments in hooks:
        function(*arguments)


def test_an_environment_that_cannot_be_restored_starts_its_episode_again(start, tmp_path):
    """It says so, and no stored transition reaches from the lost episode into the new one."""
    rows = tmp_path / "rows"
    record = (record_transitions, str(rows))
    stop = (hook_signal, "stepping", signal.SIGTERM, 52)  # the ninth step of the sixth episode
    stopped = start("sac_flow_g", (hook_both, record, stop), env_id="Counting-v0")
    assert stopped.code == 143, stopped
    ended = start("sac_flow_g", record, resume=stopped.path)
    assert ended.code == 0 and not ended.err, ended
    assert "the state of Counting-v0 cannot be restored: its episode starts again\n" in ended.out
    table = np.loadtxt(rows)
    assert len(table) == STEPS
    obs, next_obs = table[:, :2], table[:, 5:7]
    assert (next_obs - obs == [0, 1]).all()  # the same episode, the next step
    assert (obs[51:54, 1] == [8, 0, 1]).all()
    lengths = dict(scalars(stopped.path)["charts/episodic_length"])
    assert set(lengths.values()) <= {7, 11} and 53 not in lengths


# Faults.


def spoil_actor():
    """Its parameters are NaN from its 11th update on, without any loss that told it."""
    original, calls = torch.optim.Adam.step, iter(range(1, 1_000_000))

    def step(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if next(calls) == 10 * (3 + 1 + 1) + 4:  # the critic's three updates, the actor's, the temperature's
            for parameter in self.param_groups[0]["params"]:
                parameter.data.fill_(np.nan)

    torch.optim.Adam.step = step


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("step", r"the environment raised RuntimeError\('broken step'\)"),
        ("reset", r"the environment raised RuntimeError\('broken reset'\)"),
        ("observation", ".*obs.*: not finite"),
        ("first observation", ".*obs.*: not finite"),
        ("float32", ".*obs.*: not finite"),
        ("reward", ".*reward.*: not finite"),
        ("loss", ".*losses/qf_loss.*: not finite"),
    ],
)
@pytest.mark.parametrize("learning", [True, False])
def test_a_fault_ends_the_run_with_step_name_and_the_last_checkpoint(fault, problem, learning, start):
    if fault == "loss" and not learning:
        pytest.skip("there is none before the learning starts")
    env_id = f"Faulty-{fault.replace(' ', '-')}-v0"
    ended = start("sac_flow_g", env_id=env_id, learning_starts=LEARN if learning else 100, eval_frequency=0)
    assert ended.code == 1, ended
    errors = re.sub(r".*RuntimeWarning: overflow encountered in cast\n.*\n", "", ended.err)
    line = re.fullmatch(r"error: step (\d+): (.*); the last checkpoint, of step (\d+), is in (.*)\n", errors)
    assert line and re.fullmatch(problem, line[2]) and line[4] == str(ended.path), ended
    assert 50 <= int(line[1]) <= (60 if fault == "loss" else 55) and line[3] == "30"
    assert module.load_checkpoint(str(ended.path))["step"] == 30
    rows = [np.frombuffer(module.read_file(ended.path, f.name), np.float32) for f in ended.path.glob("replay-*")]
    assert all(np.isfinite(row).all() for row in rows)
    if fault == "step":
        assert start("sac_flow_g", resume=ended.path, eval_only=True, eval_episodes=1).code == 0


def test_a_spoiled_actor_ends_the_run_by_its_action(start):
    ended = start("sac_flow_g", (spoil_actor,), env_id="Counting-v0", eval_frequency=0)
    assert ended.code == 1, ended
    assert re.fullmatch(r"error: step 74: .*action.*: not finite; the last checkpoint, of step .*\n", ended.err), ended


def test_an_environment_that_fails_in_an_evaluation_ends_the_run_alike(start):
    ended = start("sac_flow_g", env_id="Faulty-evaluation-v0", eval_frequency=10)
    problem = r"error: step 50: the evaluation raised RuntimeError\('broken evaluation'\)"
    assert ended.code == 1 and re.fullmatch(problem + "; the last checkpoint, of step 30, is in .*\n", ended.err), ended


# Damaged and foreign files.


class Payload:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['PAYLOAD_MARK']}",)


def one_line_error(ended: Ended) -> str:
    assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended
    return ended.err


@pytest.mark.parametrize("signed", [True, False], ids=["with-checksum", "without"])
def test_a_pickle_with_a_payload_is_not_executed(signed, finished, start, tmp_path, monkeypatch):
    mark = tmp_path / "executed"
    monkeypatch.setenv("PAYLOAD_MARK", str(mark))
    for payload in (
        pickle.dumps(Payload(), protocol=2),
        _torch_file(Payload()),
        _torch_file({"script": "x", "args": Payload()}),
    ):
        if signed:
            module.write_file(str(finished.path / "checkpoint.pt"), payload)
        else:
            (finished.path / "checkpoint.pt").write_bytes(payload)
        before = contents(finished.path)
        message = one_line_error(start("sac_flow_g", resume=finished.path))
        assert "checkpoint.pt is " + ("foreign" if signed else "damaged") in message
        assert not mark.exists() and contents(finished.path) == before
    pickle.loads(pickle.dumps(Payload()))
    assert mark.exists(), "the payload works where pickles are trusted"


def _torch_file(value) -> bytes:
    blob = io.BytesIO()
    torch.save(value, blob)
    return blob.getvalue()


def test_damaged_files_get_one_line_and_lose_nothing(start):
    stopped = start("sac_flow_g", (hook_signal, "stepping", signal.SIGTERM, 100))
    segment = sorted(stopped.path.glob("replay-*"))[1]
    sound = contents(stopped.path)
    for file in (stopped.path / "checkpoint.pt", segment):
        data = sound[file.name]
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        for damaged, problem in (
            (data[: len(data) // 2], "damaged"),
            (data[:-1], "damaged"),
            (b"", "damaged"),
            (bytes(flipped), "damaged"),
            (None, "No such file"),
        ):
            file.write_bytes(damaged) if damaged is not None else file.unlink()
            before = contents(stopped.path)
            message = one_line_error(start("sac_flow_g", resume=stopped.path))
            assert problem in message and file.name in message and str(stopped.path) in message
            assert contents(stopped.path) == before
        file.write_bytes(data)
    other = next(name for name in sound if name.startswith("replay-") and name != segment.name)
    segment.write_bytes(sound[other])  # whole, but another one's
    assert "damaged" in one_line_error(start("sac_flow_g", resume=stopped.path))
    segment.write_bytes(sound[segment.name])
    assert start("sac_flow_g", resume=stopped.path).code == 0


def test_a_foreign_checkpoint_gets_one_line(finished, start, tmp_path):
    before = contents(finished.path)
    message = one_line_error(start("sac_flow_naive", resume=finished.path))
    assert "written by sac_flow_g.py, not by sac_flow_naive.py" in message
    assert "No such file" in one_line_error(start("sac_flow_g", resume=tmp_path / "nowhere"))
    assert contents(finished.path) == before


def test_a_checkpoint_of_another_version_gets_one_line(finished, start):
    """A flag it does not know, or other networks under the same flags."""
    path = str(finished.path / "checkpoint.pt")
    state = module.load_checkpoint(str(finished.path))
    for change in ("flag", "shapes", "parts", "no dictionary"):
        old = state | {"args": asdict(state["args"]), "critic": dict(state["critic"]), "step": 60}
        if change == "flag":
            old["args"]["warmup"] = 3
        elif change == "shapes":
            name = next(iter(old["critic"]))
            old["critic"][name] = torch.zeros(3)
        elif change == "parts":
            del old["critic"][next(iter(old["critic"]))]
        module.write_file(path, _torch_file([1] if change == "no dictionary" else old))
        before = contents(finished.path)
        assert "of another version" in one_line_error(start("sac_flow_g", resume=finished.path))
        assert contents(finished.path) == before, change


# Full disks.


def hook_full_disk(first: int, last: int):
    """Checkpoint writes number first to last find no space."""
    original, calls = os.fsync, iter(range(1, 1_000_000))

    def fsync(number):
        if first <= next(calls) <= last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(number)

    os.fsync = fsync


@pytest.mark.parametrize(("first", "last"), [(3, 3), (4, 4), (3, 4)], ids=["segment", "checkpoint", "twice"])
def test_a_full_disk_keeps_the_last_checkpoint_and_training_goes_on(first, last, start, undisturbed):
    """No space in the checkpoint of step 60 (twice: of 90 too); the run goes on, and the next one is complete."""
    ended = start("sac_flow_g", (hook_full_disk, first, last))
    assert ended.code == 0 and not ended.err, ended
    assert "step 60  no checkpoint: No space left on device; the last one stays, going on\n" in ended.out
    assert re.findall(r"step (\d+)  checkpoint", ended.out) == ["30", *["90"] * ((first, last) != (3, 4)), "120"]
    assert_same(results(ended.path), undisturbed("sac_flow_g"))
    names = {name for name, _, _ in module.load_checkpoint(str(ended.path))["segments"]}
    left = {file.name for file in ended.path.iterdir() if not file.name.startswith("events")}
    assert left == names | {"checkpoint.pt", "model.pt"}, "nothing of the failed checkpoint is left"


def test_a_run_stopped_on_a_full_disk_resumes_from_the_last_checkpoint(start, undisturbed):
    stopped = start("sac_flow_g", (hook_both, (hook_full_disk, 3, 99), (hook_signal, "stepping", signal.SIGTERM, 70)))
    assert stopped.code == 143 and not stopped.err, stopped
    assert module.load_checkpoint(str(stopped.path))["step"] == 30
    assert {f.name for f in stopped.path.glob("replay-*")} == {"replay-0-30.bin"}, "failed attempts take no space"
    assert start("sac_flow_g", resume=stopped.path).code == 0
    assert_same(results(stopped.path), undisturbed("sac_flow_g"))


def hook_fill(folder: str, full: int, free: int, stop: int | None):
    """From step `full` to step `free` the disk of `folder` has not a byte left; at step `stop` comes kill -9."""
    original, calls = gym.wrappers.TimeLimit.step, {}

    def step(self, action):
        environment = calls.setdefault("training", self)
        calls["n"] = calls.get("n", 0) + (self is environment)
        filler = Path(folder) / "filler"
        if full <= calls["n"] < free:
            with contextlib.suppress(OSError), open(filler, "ab", buffering=0) as file:
                for size in (4096, 1):
                    with contextlib.suppress(OSError):
                        while file.write(bytes(size)) == size:
                            pass
        elif filler.exists():
            filler.unlink()
        if calls["n"] == stop and self is environment:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, action)

    gym.wrappers.TimeLimit.step = step


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"mounting a small tmpfs takes root: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("kill", [None, 80])
def test_a_disk_that_is_really_full_costs_neither_checkpoint_nor_curve(kill, small_disk, start, undisturbed):
    """A tmpfs without a byte left from step 50 to 100, checkpoints due at 60 and 90: events wait, training goes on."""
    log = {} if kill else {"log": small_disk}  # the output waits too
    ended = start("sac_flow_g", (hook_fill, str(small_disk), 50, 100, kill), run_dir=small_disk, **log)
    assert "step 60  no checkpoint: No space left on device; the last one stays, going on\n" in ended.out, ended
    assert not ended.err, ended
    if kill:
        assert ended.code == -signal.SIGKILL
        (small_disk / "filler").unlink()
        ended = start("sac_flow_g", resume=ended.path)
    assert ended.code == 0 and not ended.err, ended
    assert_same(results(ended.path), undisturbed("sac_flow_g"))


# Environments.


def mujoco_tasks() -> list[str]:
    specs = gym.registry.values()
    ids = [s.id for s in specs if str(s.entry_point).startswith("gymnasium.envs.mujoco") and s.version in (4, 5)]
    return sorted(set(ids) - {"Pusher-v4"})  # which needs mujoco < 3


def test_all_tasks_are_covered():
    assert len(mujoco_tasks()) == 21 and {"Humanoid-v4", "Ant-v5", "Reacher-v4", "Pusher-v5"} <= set(mujoco_tasks())


@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
@pytest.mark.parametrize("env_id", mujoco_tasks())
def test_a_restored_environment_goes_on_identically(env_id):
    """Captured in mid-episode, through a file, into a fresh environment: 50 steps, over a time limit and a reset."""
    env, fresh = gym.make(env_id), gym.make(env_id)
    env.reset(seed=3), env.action_space.seed(3), fresh.reset(seed=4)
    fresh.step(fresh.action_space.sample())
    for _ in range(23):
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    env.set_wrapper_attr("_elapsed_steps", env.spec.max_episode_steps - 20)  # the limit is near
    blob = _torch_file(module.capture_env(env))
    assert module.restore_env(fresh, torch.load(io.BytesIO(blob), weights_only=True))
    resets = 0
    for _ in range(50):
        action = env.action_space.sample()
        one, other = env.step(action), fresh.step(action)
        assert np.array_equal(one[0], other[0]) and one[1:4] == other[1:4]
        if one[2] or one[3]:
            assert np.array_equal(env.reset()[0], fresh.reset()[0])
            resets += 1
    assert resets
