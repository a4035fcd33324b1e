"""Checkpoints: exact resume after every way to end a run, replayed episodes, faults, damaged files and full disks.

The runs are real processes of the real scripts, forked from a server that has imported PyTorch once, because importing
it takes longer than they do. A hook in the process plays the misfortune at a chosen moment.
"""

import builtins
import contextlib
import errno
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
import pickle
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.parse
import urllib.request
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT, SCRIPTS, CountingEnv, has_egl, scalars

sys.path.insert(0, str(ROOT / "scripts"))
from kill_test import difference, end_of

import sac_flow_g as module  # the functions under test are the same in all scripts, which test_cli.py checks

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
}
INTERRUPTS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])


# Tasks.


class FaultyEnv(CountingEnv):
    """Goes wrong in its 51st step, the first of which is make_env's: that of its first episodes' 5th."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault, self.total, self.evaluations = fault, 0, 0

    def reset(self, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        if self.total >= 51 and self.fault == "reset":
            raise RuntimeError("broken reset")
        self.evaluations += self.total > 51
        return obs * (np.nan if self.total >= 51 and self.fault == "first observation" else 1), info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.total += 1
        if self.total == 51:
            if self.fault == "step":
                raise RuntimeError("broken step")
            obs = obs.astype(np.float64) + {"observation": np.inf, "float32": 1e39}.get(self.fault, 0.0)
            reward += {"reward": np.nan, "loss": 1e30}.get(self.fault, 0.0)
        return obs, reward, terminated, truncated, info


class PointEnv(gym.Env):
    """A point in the plane; state of its own, in Python, is a subclass's."""

    action_space = gym.spaces.Box(-1, 1, (2,))
    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.point, self.extra = self.np_random.normal(size=2), 0.0
        self.begin()
        return self.obs(), {}

    def step(self, action):
        reward = -np.square(self.point).sum()
        self.point = 0.9 * self.point + 0.1 * self.move(action)
        return self.obs(), float(reward + self.extra), bool(self.np_random.random() < 0.02), False, {}

    def obs(self):
        return np.append(self.point, self.extra).astype(np.float32)

    def begin(self):
        pass

    def move(self, action):
        return action


class DelayLine(PointEnv):
    """Actions arrive three steps late, which no observation shows."""

    def begin(self):
        self.waiting = [np.zeros(2)] * 3

    def move(self, action):
        self.waiting.append(action.copy())
        return self.waiting.pop(0)


class DrawnTarget(PointEnv):
    """Its target is drawn at reset, and at times in between."""

    def begin(self):
        self.extra = self.np_random.uniform()

    def move(self, action):
        if self.np_random.random() < 0.2:
            self.begin()
        return action + self.extra


class Timer(PointEnv):
    """Time goes by in the reward alone."""

    def begin(self):
        self.time = 0

    def step(self, action):
        self.time += 1
        obs, reward, *rest = super().step(action)
        return obs, reward + self.time, *rest


class LastAction(PointEnv):
    """Pays for changes of the action."""

    def begin(self):
        self.last = np.zeros(2)

    def move(self, action):
        self.extra, self.last = np.square(action - self.last).sum(), action.copy()
        return action


class InPlace(DelayLine):
    """Changes the array that it is given, too."""

    def move(self, action):
        action *= 0.5
        return super().move(action)


class LateAction(gym.ActionWrapper):
    """Actions arrive one step late, by a wrapper."""

    def reset(self, **kwargs):
        self.waiting = np.zeros(2, np.float32)
        return super().reset(**kwargs)

    def action(self, action):
        now, self.waiting = self.waiting, action
        return now


class NoisyReward(PointEnv):
    """Its observations repeat themselves, its rewards do not."""

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(np.random.default_rng().normal()), *rest


STATEFUL = (DelayLine, DrawnTarget, Timer, LastAction, InPlace)
for fault in ("step", "reset", "observation", "first observation", "float32", "reward", "loss"):
    gym.register(f"Faulty-{fault.replace(' ', '-')}-v0", FaultyEnv, max_episode_steps=11, kwargs={"fault": fault})
for task in (*STATEFUL, NoisyReward):
    gym.register(f"{task.__name__}-v0", task, max_episode_steps=45)
gym.register("LateAction-v0", lambda: LateAction(Timer()), max_episode_steps=45)
gym.register("TimeAware-v0", lambda: gym.wrappers.TimeAwareObservation(gym.make("DrawnTarget-v0")))
WRAPPED = "LateAction-v0", "TimeAware-v0"
gym.register(
    "Endless-v0",
    type("Endless", (PointEnv,), {"step": lambda *_: (np.zeros(3, np.float32), 0, False, False, {})}),
    max_episode_steps=10**9,
)


# Runs.


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
        if isinstance(code, str):  # as Python itself does
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


class Ended:
    """What is left of a run: exit code (negative: killed by that signal), output, folder, and seconds since a signal
    that a hook sent."""

    def __init__(self, code: int, out: Path):
        now = time.monotonic()
        self.code, self.out, self.err = code, *(Path(f"{out}.{name}").read_text() for name in ("out", "err"))
        folder = re.search(r"^run: (.*)$", self.out, re.MULTILINE)
        self.path = Path(folder[1]) if folder else None
        sent = out.parent / "signal"
        self.seconds = now - float(sent.read_text()) if sent.exists() else None

    def __repr__(self):
        return f"exit code {self.code}\n{self.out}\n{self.err}"


SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch", "torch._dynamo", "torch.utils.tensorboard", "gymnasium", "mujoco", "tyro", "tensorboard", "imageio"]
)


def next_second(run: Path):
    """Wait until the second is over in which a run was begun: readers sort its event files by second, then by process,
    number 10000 before 9999, and would drop what a run logs that is resumed in the same one."""
    begun = [int(file.name.split(".")[3]) for file in run.glob("events.out.tfevents.*")]
    while begun and time.time() < max(begun) + 1:
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path):
    """start(script, hook=(function, arguments..), flag=..) -> Ended; FLAGS hold unless resuming. meanwhile: a function
    of the process, called while it runs."""
    runs = iter(range(100))

    def start(script="sac_flow_g", hook=None, meanwhile=None, **flags) -> Ended:
        own = {name.replace("_", "-"): value for name, value in flags.items()}
        assert own.get("resume", True), "there is no folder to resume"
        base = {} if "resume" in own else FLAGS | narrow(script) | {"run-dir": tmp_path / "runs"}
        out = tmp_path / f"{next(runs)}" / "run"
        out.parent.mkdir()
        if "resume" in own:
            next_second(Path(own["resume"]))
        process = SERVER.Process(target=child, args=(script, command_line(base | own), str(out), hook))
        process.start()
        if meanwhile:
            meanwhile(process, out)
        process.join(120)
        if process.exitcode is None:
            process.kill()
            pytest.fail(f"the run hangs: {Path(f'{out}.out').read_text()}")
        return Ended(process.exitcode, out)

    return start


REFERENCES = {}


@pytest.fixture
def undisturbed(tmp_path_factory, start):
    """undisturbed(script, flag=..) -> what a run is compared by that nothing disturbs."""

    def undisturbed(script="sac_flow_g", **flags):
        key = script, tuple(sorted(flags.items()))
        if key not in REFERENCES:
            ended = start(script, run_dir=tmp_path_factory.mktemp("reference"), **flags)
            assert ended.code == 0 and not ended.err, ended
            REFERENCES[key] = end_of(ended.path)
        return REFERENCES[key]

    return undisturbed


@pytest.fixture
def finish(start, undisturbed):
    """finish(script, path, flag=..): resume a run, which then must end as an undisturbed one with these flags: the
    same networks, optimizers, generators, counters, transitions and curves, bit by bit."""

    def finish(path, script="sac_flow_g", hook=None, **flags):
        ended = start(script, hook, resume=path)
        assert ended.code == 0 and not ended.err and ended.path == path, ended
        assert not difference(end_of(path), undisturbed(script, **flags))
        return ended

    return finish


def step_of(run) -> int:
    return module.load_checkpoint(str(run))["counters"][0]


def contents(path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}


def one_line_error(ended: Ended) -> str:
    assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended
    return ended.err


# Hooks.

CALLERS = {"stepping": "main", "replaying": "replay_episode", "evaluation": "evaluate"}


def at_call(owner, name: str, call: int, action, counts=lambda *args: True):
    """Run action before the call number `call`, counted from 1, of owner.name; `counts` tells which calls count."""
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def patched(*args, **kwargs):
        if counts(*args) and next(calls) == call:
            action()
        return original(*args, **kwargs)

    setattr(owner, name, patched)


def send(*numbers, pause=0.0):
    """Signals to the process group, and the time of the last one into a file."""
    for i, number in enumerate(numbers):
        time.sleep(pause if i else 0)
        Path("signal").write_text(str(time.monotonic()))
        os.killpg(0, number)


def tear(which: str, call: int):
    """kill -9 in the middle of writing replay.bin or checkpoint.pt for the call-th time."""
    original, opened, rows = builtins.open, iter(range(1, 1_000_000)), iter(range(1, 1_000_000))

    def patched(file, mode="r", *args, **kwargs):
        handle = original(file, mode, *args, **kwargs)

        def write(data):
            if mode == "ab" and next(rows) < CHECKPOINT * call - 5:  # of step 85 for the third checkpoint
                return type(handle).write(handle, data)
            type(handle).write(handle, bytes(data)[: len(bytes(data)) // 2])
            handle.flush()
            send(signal.SIGKILL)

        if str(file).endswith(which) and mode == "ab" or str(file).endswith(f"{which}.tmp") and next(opened) == call:
            handle.write = write
        return handle

    builtins.open = patched


def hook_signal(phase: str, number, call: int = 1, pause=0.0, pipe=False):
    """Send a signal, or several, to the process group at the call-th moment of a phase. pipe: nobody reads standard
    output from there on."""
    numbers = number if isinstance(number, tuple) else (number,)

    def action():
        if pipe:
            reader, writer = os.pipe()
            os.dup2(writer, 1)
            os.close(reader)
        send(*numbers, pause=pause)

    if phase in CALLERS:  # the outermost wrapper's step
        counts = lambda *_: sys._getframe(2).f_code.co_name == CALLERS[phase]  # noqa: E731
        at_call(gym.wrappers.TransformObservation, "step", call, action, counts)
    elif phase == "update":
        at_call(torch.optim.Adam, "step", call, action)
    elif phase == "replay.bin is written":
        at_call(os, "fsync", 2 * call - 1, action)
    elif phase == "checkpoint.pt is written":
        at_call(os, "fsync", 2 * call, action)
    elif phase == "before the swap":
        at_call(os, "replace", call, action)
    elif phase == "after the swap":
        original, calls = os.replace, iter(range(1, 1_000_000))

        def replace(*paths):
            original(*paths)
            if next(calls) == call:
                action()

        os.replace = replace
    else:
        raise ValueError(phase)


# Resume.


@pytest.mark.parametrize(
    ("script", "flags"),
    [(name, {}) for name in SCRIPTS]
    + [
        ("sac_flow_g", {"crossq": False, "buffer_size": 50}),
        ("sac_flow_g", {"env_id": "InPlace-v0", "updates_per_step": 2}),
        ("sac_flow_g", {"env_id": "HalfCheetah-v4", "buffer_size": 50}),
    ],
    ids=[
        *(*SCRIPTS, "target-critic-and-wrapped-buffer", "delay-line-that-changes-the-action-and-two-updates-per-step"),
        "episode-longer-than-the-buffer",
    ],
)
def test_a_run_stopped_mid_episode_resumes_exactly(script, flags, start, finish):
    """SIGTERM twice: while acting at random, then while learning, each in the middle of an episode."""
    stopped = start(script, (hook_signal, "stepping", signal.SIGTERM, 17), **flags)
    assert stopped.code == 143 and not stopped.err, stopped
    command = re.search(r"go on with: (\S+) (\S+) --resume (\S+)$", stopped.out, re.MULTILINE)
    assert command[1] == sys.executable and Path(command[3]) == stopped.path
    again = start(script, (hook_signal, "stepping", signal.SIGTERM, 64), resume=stopped.path)
    assert again.code == 143 and again.path == stopped.path, again
    step, _, episode_start, *_ = module_of(script).load_checkpoint(str(again.path))["counters"]
    assert step == 81 and step - episode_start > 1, "mid-episode"
    finish(stopped.path, script, **flags)


def module_of(script):
    return importlib.import_module(script)


@INTERRUPTS
@pytest.mark.parametrize(
    ("phase", "call", "step"),
    [
        ("stepping", 20, 20),
        ("stepping", 70, 70),
        ("update", 41, 65),
        ("evaluation", 3, 50),
        ("replay.bin is written", 2, 61),
        ("before the swap", 2, 61),
        ("after the swap", 2, 61),
    ],
)
def test_a_signal_ends_the_run_with_its_code_and_the_resume_command(phase, call, step, number, start, finish):
    """Within two seconds, and with a checkpoint of the step that ran, or of the one behind a checkpoint."""
    stopped = start(hook=(hook_signal, phase, number, call))
    assert stopped.code == 128 + number and not stopped.err and stopped.seconds < 10, stopped
    assert f" --resume {stopped.path}\n" in stopped.out and "stopping at the next step; " in stopped.out
    assert step_of(stopped.path) == step
    finish(stopped.path)


@pytest.mark.parametrize("flags", [{}, {"eval_frequency": 1000}], ids=["first", "last"])
def test_an_interrupted_evaluation_is_done_once_by_the_resumed_run(flags, start, finish, undisturbed):
    """Interrupted twice, then killed at the step behind it; that of step 50, and that of the run's end."""
    stopped = start(hook=(hook_signal, "evaluation", signal.SIGINT, 3), **flags)
    for i in range(2):
        assert stopped.code == 130 and not stopped.err and stopped.seconds < 10, stopped
        step, *_, finished = module.load_checkpoint(str(stopped.path))["counters"]
        assert step == (STEPS if flags else 50) and not finished
        phase, number = ("evaluation", signal.SIGINT) if i == 0 else ("stepping", signal.SIGKILL)
        stopped = start(hook=(hook_signal, phase, number, 3), resume=stopped.path)
    if flags:
        assert stopped.code == 0 and "finished" in one_line_error(start(resume=stopped.path)), stopped
        assert not difference(end_of(stopped.path), undisturbed(**flags))
    else:
        assert stopped.code == -signal.SIGKILL
        finish(stopped.path)


def page(runs, fast: str) -> dict[str, list[int]]:
    """Tag -> steps, in the order in which TensorBoard's page has a run's points, by one of its two loaders. In a
    process of its own: in this one its gRPC would break the pipes of later subprocesses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--logdir", str(runs), "--load_fast", fast, "--port", str(port), "--host", "127.0.0.1"]
    board = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *words], stderr=subprocess.DEVNULL)
    url, seen, before, end = f"http://127.0.0.1:{port}/data/plugin/scalars/", {}, None, time.monotonic() + 120
    try:
        while not seen or seen != before:  # it starts, and then loads in the background
            assert time.monotonic() < end and board.poll() is None
            time.sleep(0.5)
            before, seen = seen, {}
            with contextlib.suppress(OSError):
                for run, tags in json.load(urllib.request.urlopen(url + "tags")).items():
                    for tag in set(tags) - {"charts/SPS"}:
                        query = urllib.parse.urlencode({"run": run, "tag": tag})
                        points = json.load(urllib.request.urlopen(f"{url}scalars?{query}"))
                        seen[tag] = [step for _, step, _ in points]
    finally:
        board.terminate()
        board.wait(timeout=60)
    return seen


def test_readers_show_each_step_of_a_resumed_run_once(start):
    """Killed between events and checkpoint of step 90, it goes on from 60 and logs the steps behind that once more."""
    killed = start(hook=(hook_signal, "before the swap", signal.SIGKILL, 3))
    assert killed.code == -signal.SIGKILL and step_of(killed.path) == 60
    assert scalars(killed.path)["losses/qf_loss"][-1][0] == 90
    assert start(resume=killed.path).code == 0
    written = {tag: [step for step, _ in points] for tag, points in scalars(killed.path).items()}
    del written["charts/SPS"]  # of step 60 it has none, and the fast loader keeps the killed run's
    assert written["losses/qf_loss"] == [*range(45, STEPS + 1, 5)]
    for fast in ("auto", "false"):
        assert page(killed.path.parent, fast) == written, fast


def test_an_evaluation_whose_episodes_never_end_is_interrupted_at_once(start):
    stopped = start(hook=(hook_signal, "evaluation", signal.SIGINT, 2000), env_id="Endless-v0")
    assert stopped.code == 130 and not stopped.err and stopped.seconds < 10 and step_of(stopped.path) == 50, stopped


def test_ctrl_c_while_an_episode_is_replayed_changes_nothing(start, finish):
    flags = {"env_id": "HalfCheetah-v4", "eval_frequency": 0}
    stopped = start(hook=(hook_signal, "stepping", signal.SIGTERM, 100), **flags)
    before = (stopped.path / "checkpoint.pt").read_bytes()
    ended = start(hook=(hook_signal, "replaying", signal.SIGINT, 50), resume=stopped.path)
    assert ended.code == -signal.SIGINT and not ended.err and ended.seconds < 10, ended
    assert (stopped.path / "checkpoint.pt").read_bytes() == before
    finish(stopped.path, **flags)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_two_signals_at_once_still_write_the_checkpoint(number, start, finish):
    """`timeout` sends its signal to the process and then to its group."""
    stopped = start(hook=(hook_signal, "stepping", (number, number), 70))
    assert stopped.code == 128 + number and not stopped.err and step_of(stopped.path) == 70, stopped
    finish(stopped.path)


def test_a_signal_a_second_later_ends_the_run_at_once(start, finish):
    stopped = start(hook=(hook_signal, "stepping", (signal.SIGTERM, signal.SIGINT), 70, 1.1))
    assert stopped.code == 130 and not stopped.err and stopped.seconds < 10, stopped
    assert "interrupted" not in stopped.out and step_of(stopped.path) == 60
    finish(stopped.path)


def test_ctrl_c_ends_a_pipe_s_reader_too_and_yet_the_checkpoint_is_written(start, finish, tmp_path):
    stopped = start(hook=(hook_signal, "stepping", signal.SIGINT, 70, 0, True))
    path = next((tmp_path / "runs").iterdir())
    assert stopped.code == 130 and step_of(path) == 70 and "Traceback" not in stopped.err, stopped
    finish(path)


@pytest.mark.parametrize("number", [None, signal.SIGINT], ids=["head", "ctrl-c"])
def test_a_pipe_has_each_line_at_once_and_may_end_before_the_run(number, tmp_path, finish):
    """As `| head` and `| tee` do, with Python's own buffers."""
    flags = FLAGS | {"total-timesteps": 10**6, "hidden-dim": 8, "run-dir": tmp_path / "runs", "buffer-size": 1000}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, ROOT / "sac_flow_g.py", *command_line(flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as run:
        while not (line := run.stdout.readline()).startswith("step "):
            assert line, run.stderr.read()
        run.stdout.close()
        if number:
            run.send_signal(number)
        error = run.stderr.read()
    if number:
        assert run.returncode == 130 and not error
    else:
        assert run.returncode == 1 and error == "error: what read the output ended; --resume the run\n"


def test_a_run_that_was_moved_goes_on_where_its_run_dir_is_gone(start, finish, tmp_path):
    stopped = start(hook=(hook_signal, "stepping", signal.SIGTERM, 70))
    moved = stopped.path.rename(tmp_path / "moved")
    stopped.path.parent.rmdir()
    stopped.path.parent.touch()
    finish(moved)


def test_a_run_that_once_found_no_compiler_compiles_again(start):
    """Its flags stay what they were."""
    ended = start(hook=(hook_no_compiler,), compile=True)
    assert ended.code == 0 and "no compiler" in ended.out
    assert torch.load(ended.path / "checkpoint.pt", weights_only=True)["args"]["compile"] is True


@pytest.mark.skipif(not module.has_compiler(torch.device("cpu")), reason="torch.compile needs a C++ compiler on a CPU")
def test_ctrl_c_while_compiling_ends_the_run_and_its_compilers_at_once(start, tmp_path, monkeypatch):
    """As a terminal sends it, to all; the run's folder does not exist yet."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    children = []

    def interrupt(process, out):
        own = psutil.Process(process.pid)
        while process.exitcode is None and not any("cc1plus" in p.name() for p in own.children(recursive=True)):
            time.sleep(0.02)
        children.extend(own.children(recursive=True))
        (out.parent / "signal").write_text(str(time.monotonic()))
        os.killpg(process.pid, signal.SIGINT)

    ended = start(meanwhile=interrupt, compile=True)
    assert ended.code == -signal.SIGINT and not ended.err and ended.seconds < 10, ended
    assert children and "compiling" in ended.out and not (tmp_path / "runs").exists()
    assert not psutil.wait_procs(children, timeout=5)[1], "a compiler goes on"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.skipif(not module.has_compiler(torch.device("cpu")), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_signal_while_compiling_leaves_no_half_linked_library(number, tmp_path):
    """A linker begins with an empty file: the first one's would cost every later run its vector instructions."""
    flags = ["--size", "small", "--compile", "--device", "cpu", "--env-id", "Pendulum-v1", "--run-dir", str(tmp_path)]
    cache, environment = tmp_path / "cache", os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command, pipes = [sys.executable, ROOT / "sac_gaussian.py", *flags], {"stdout": subprocess.DEVNULL}

    def empty() -> list[Path]:
        return [path for path in cache.glob("*/*.so") if path.exists() and not path.stat().st_size]

    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as run:
        while run.poll() is None and not empty():
            time.sleep(0.02)
        os.killpg(run.pid, number)
    assert run.returncode == -number and not empty() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ((hook_signal, "stepping", signal.SIGKILL, 20), None),
        ((hook_signal, "stepping", signal.SIGKILL, 35), 30),
        ((hook_signal, "update", signal.SIGKILL, 120), 90),
        ((hook_signal, "evaluation", signal.SIGKILL, 3), 30),
        ((tear, "replay.bin", 3), 60),
        ((hook_signal, "replay.bin is written", signal.SIGKILL, 3), 60),
        ((tear, "checkpoint.pt", 3), 60),
        ((hook_signal, "checkpoint.pt is written", signal.SIGKILL, 3), 60),
        ((hook_signal, "before the swap", signal.SIGKILL, 3), 60),
        ((hook_signal, "after the swap", signal.SIGKILL, 3), 90),
        ((tear, "checkpoint.pt", 1), None),
    ],
    ids=lambda value: " ".join(map(str, value[1:3])) if isinstance(value, tuple) else None,
)
def test_a_run_killed_resumes_from_the_checkpoint_that_is_whole(hook, step, start, finish):
    """kill -9 at random acting, learning, evaluating, and at each moment of the third checkpoint, of step 90."""
    killed = start(hook=hook)
    assert killed.code == -signal.SIGKILL, killed
    if step is None:
        assert "checkpoint.pt is missing" in one_line_error(start(resume=killed.path))
        return
    assert step_of(killed.path) == step
    finish(killed.path)
    left = {file.name for file in killed.path.iterdir() if not file.name.startswith("events")}
    assert left == {"checkpoint.pt", "replay.bin", "lock"}, "nothing of the torn checkpoint is left"


def test_a_run_killed_in_its_last_checkpoint_still_gets_it(start, finish):
    killed = start(hook=(hook_signal, "before the swap", signal.SIGKILL, 4))
    assert killed.code == -signal.SIGKILL and step_of(killed.path) == 90, killed
    finish(killed.path)


def test_without_a_frequency_checkpoints_are_the_end_s_and_the_signal_s(start, finish):
    flags = {"checkpoint_frequency": 0}
    killed = start(hook=(hook_signal, "stepping", signal.SIGKILL, 119), **flags)
    assert not (killed.path / "checkpoint.pt").exists()
    stopped = start(hook=(hook_signal, "stepping", signal.SIGTERM, 70), **flags)
    assert stopped.code == 143 and step_of(stopped.path) == 70
    finish(stopped.path)
    assert step_of(stopped.path) == STEPS


@pytest.mark.parametrize("flags", [{"total_timesteps": 80}, {"total_timesteps": 78, "env_id": "Timer-v0"}])
def test_a_finished_run_goes_on_to_a_raised_total_only(start, undisturbed, flags):
    """In the middle of an episode, and at an episode's end, whose return must be written again."""
    first = start(**flags)
    before = contents(first.path)
    again = start(resume=first.path)
    assert one_line_error(again) == "error: --resume: finished; raise --total-timesteps\n"
    assert contents(first.path) == before
    assert start(resume=first.path, total_timesteps=STEPS).code == 0
    whole = undisturbed(**flags | {"total_timesteps": STEPS})
    assert not difference(end_of(first.path), whole), "what only a last step writes is dropped again"


@pytest.fixture
def finished(start):
    """A finished run of sac_flow_g."""
    return start()


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.lockf(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


def test_a_run_that_another_process_trains_is_left_alone(start, finish):
    """Both would write into one replay.bin. Once the other has ended, whatever way, it goes on."""
    stopped = start(hook=(hook_signal, "stepping", signal.SIGTERM, 64))
    before = contents(stopped.path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, stopped.path / "lock"], **pipes) as other:
        other.stdout.readline()
        ended = start(resume=stopped.path)
        other.kill()
    error = one_line_error(ended)
    assert f"--resume {stopped.path}: another process trains it" in error and contents(stopped.path) == before
    finish(stopped.path)


def test_a_run_holds_its_folder_while_it_trains(start):
    def refused(process, out):
        while not (checkpoints := [*out.parent.parent.glob("runs/*/checkpoint.pt")]):
            assert process.is_alive()
            time.sleep(0.01)
        probe = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        call = [sys.executable, "-c", probe, checkpoints[0].with_name("lock")]
        assert b"BlockingIOError" in subprocess.run(call, capture_output=True).stderr
        os.kill(process.pid, signal.SIGTERM)

    assert start(meanwhile=refused, total_timesteps=10**6).code == 143


def test_a_conflicting_flag_names_both_values(finished, start):
    before = contents(finished.path)
    for flag, own, other in (
        ("env_id", "Hopper-v4", "Ant-v4"),
        ("gamma", 0.99, 0.5),
        ("total_timesteps", STEPS, STEPS - 1),
        ("hidden_dim", 8, 16),
        ("crossq", True, False),
    ):
        message = f"error: --{flag.replace('_', '-')} {other}: the checkpoint has {own}; "
        assert one_line_error(start(resume=finished.path, **{flag: other})).startswith(message)
    assert contents(finished.path) == before


def test_a_repeated_flag_is_no_conflict(start, undisturbed):
    stopped = start(hook=(hook_signal, "stepping", signal.SIGTERM, 70))
    ended = start(resume=stopped.path, gamma=0.99, seed=1, checkpoint_frequency=7)
    assert ended.code == 0 and not ended.err, ended
    assert not difference(end_of(stopped.path), undisturbed())


def test_a_checkpoint_of_another_kind_of_device_gets_one_line(finished, start):
    """Its random numbers cannot go on here: a GPU's generator has 16 bytes."""
    rewrite(finished.path, generator=torch.zeros(16, dtype=torch.uint8))
    before = contents(finished.path)
    message = one_line_error(start(resume=finished.path, total_timesteps=2 * STEPS))
    assert "another kind of device" in message and contents(finished.path) == before


def rewrite(run, **changes):
    torch.save(module.load_checkpoint(str(run)) | changes, run / "checkpoint.pt")


def slow_evaluations():
    """A clock by which a step takes .01 s, and 100 s in evaluations."""
    now, original = [0.0], gym.wrappers.TransformObservation.step
    time.perf_counter = lambda: now[0]

    def step(self, action):
        now[0] += 100 if sys._getframe(1).f_code.co_name == "evaluate" else 0.01
        return original(self, action)

    gym.wrappers.TransformObservation.step = step


def test_steps_per_second_leave_out_evaluations(start):
    run = start(hook=(slow_evaluations,))
    windows = dict(scalars(run.path)["charts/SPS"])
    assert [*windows] == [*range(5, STEPS + 1, 5)]
    assert all(value == pytest.approx(100, rel=0.01) for value in windows.values()), windows


def test_two_runs_never_share_a_folder(tmp_path, monkeypatch):
    args = module.Args(run_dir=str(tmp_path), env_id="Hopper-v4")
    for now in (10**18, 10**18 + 10**6):
        monkeypatch.setattr(module.time, "time_ns", lambda now=now: now)
        module.start_run(args, torch.device("cpu"), 0)
    assert len([*tmp_path.iterdir()]) == 2
    with pytest.raises(FileExistsError):
        module.start_run(args, torch.device("cpu"), 0)


def test_every_evaluation_is_filmed(tmp_path):
    """Where something can render; else one line, and nothing is written."""
    pytest.importorskip("imageio_ffmpeg")
    flags = FLAGS | {"total-timesteps": 60, "hidden-dim": 8, "eval-episodes": 1, "run-dir": tmp_path / "runs"}
    command = [sys.executable, str(ROOT / "sac_flow_g.py"), *command_line(flags | {"capture-video": True})]
    others = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL")}
    result = subprocess.run(command, env=others | {"MUJOCO_GL": "glfw"}, capture_output=True, text=True)
    assert result.returncode == 2 and not (tmp_path / "runs").exists()
    assert "error: --capture-video: " in result.stderr and "set MUJOCO_GL=egl" in result.stderr
    assert "Traceback" not in result.stderr
    if has_egl():
        result = subprocess.run(command, env=others | {"MUJOCO_GL": "egl"}, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        films = [file.name for file in (tmp_path / "runs").rglob("*.mp4")]
        assert sorted(films) == ["step-50.mp4", "step-60.mp4"]


# Replayed episodes.


def mujoco_tasks() -> list[str]:
    specs = gym.registry.values()
    ids = [s.id for s in specs if str(s.entry_point).startswith("gymnasium.envs.mujoco") and s.version in (4, 5)]
    return sorted(set(ids) - {"Pusher-v4"})  # which needs mujoco < 3


def test_all_tasks_are_covered():
    assert len(mujoco_tasks()) == 21 and {"Humanoid-v4", "Ant-v5", "Reacher-v4", "Pusher-v5"} <= set(mujoco_tasks())


def others() -> list:
    needed = {"shimmy:dm_control/walker-walk-v0": ("dm_control", "shimmy")}
    needed |= {"ogbench:cube-single-singletask-task1-v0": ("ogbench",)}
    for env_id, packages in needed.items():
        missing = [name for name in packages if not importlib.util.find_spec(name)]
        yield pytest.param(env_id, marks=pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}"))


def short_task(env_id: str):
    """Its time limit is near."""
    env = module.make_env(module.Args(env_id=env_id))
    env.set_wrapper_attr("_max_episode_steps", 40)
    return env


def play(env, steps: int, capacity: int):
    """Random steps, the first five of which are an episode: the buffer, the first step and the seed of the episode that
    runs, its observation and return so far."""
    env.action_space.seed(3)
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    buffer, episode, start = module.ReplayBuffer(capacity, *sizes, torch.device("cpu")), 0, 0
    obs, episode_return = env.reset(seed=module.episode_seed(3, episode))[0], 0.0
    for step in range(1, steps + 1):
        action = module.into_box(env.action_space.sample(), env.action_space)
        next_obs, reward, terminated, truncated, _ = env.step(action.copy())
        buffer.add(obs=obs, action=action, reward=reward, next_obs=next_obs, terminated=terminated)
        obs, episode_return = next_obs, episode_return + float(reward)
        if step == 5 or terminated or truncated:
            episode, start, episode_return = episode + 1, step, 0.0
            obs = env.reset(seed=module.episode_seed(3, episode))[0]
    return buffer, start, module.episode_seed(3, episode), (obs, episode_return)


def same_position(one: tuple, other: tuple) -> bool:
    return np.array_equal(one[0], other[0]) and one[1] == other[1]


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")
@pytest.mark.parametrize(
    "env_id", [*mujoco_tasks(), *(f"{task.__name__}-v0" for task in STATEFUL), *WRAPPED, *others()]
)
def test_a_replayed_episode_goes_on_identically(env_id):
    """From its middle, in an environment that has seen none of it: 50 steps, over a time limit and a reset."""
    env, fresh = short_task(env_id), short_task(env_id)
    buffer, start, seed, position = play(env, 27, 1000)
    assert start < 27, "mid-episode"
    assert same_position(module.replay_episode(fresh, buffer.split(buffer.rows[start:27]), seed), position)
    resets = 0
    for _ in range(50):
        action = module.into_box(env.action_space.sample(), env.action_space)
        one, other = env.step(action.copy()), fresh.step(action.copy())
        assert np.array_equal(one[0], other[0]) and one[1:4] == other[1:4]
        if one[2] or one[3]:
            resets += 1
            assert np.array_equal(*(e.reset(seed=resets)[0] for e in (env, fresh)))
    assert resets


@pytest.mark.parametrize("env_id", ["Counting-v0", "NoisyReward-v0"])
def test_an_episode_that_cannot_be_replayed_begins_anew(env_id, start):
    """Its observations count the episodes of a process; its rewards are noise. It says so, and no stored transition
    reaches from the lost episode into the new one."""
    stopped = start(hook=(hook_signal, "stepping", signal.SIGTERM, 52), env_id=env_id)
    assert stopped.code == 143, stopped
    ended = start(resume=stopped.path)
    assert ended.code == 0 and not ended.err, ended
    assert "the episode could not be repeated: a new one begins\n" in ended.out
    rows = np.fromfile(stopped.path / "replay.bin", np.float32).reshape(STEPS, -1)
    env = module.make_env(module.Args(env_id=env_id))
    n = env.observation_space.shape[0]
    obs, next_obs = rows[:, :n], rows[:, -n - 1 : -1]
    joined = (next_obs[:-1] == obs[1:]).all(1)
    assert not joined[51] and (len(joined) - joined.sum()) < 30
    if env_id == "Counting-v0":
        assert (next_obs - obs == [0, 1]).all(), "the same episode, the next step"
        assert (obs[51:54, 1] == [8, 0, 1]).all()
        lengths = dict(scalars(stopped.path)["charts/episodic_length"])
        assert set(lengths.values()) <= {7, 11} and 53 not in lengths


# Faults.


def spoil_actor():
    """Its parameters are NaN from its 11th update on, of step 73, without any loss that told it."""
    original, calls = torch.optim.Adam.step, iter(range(1, 1_000_000))

    def step(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if next(calls) == 10 * (3 + 1 + 1) + 4:  # the critic's three updates, the actor's, the temperature's
            for parameter in self.param_groups[0]["params"]:
                parameter.data.fill_(np.nan)

    torch.optim.Adam.step = step


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("observation", "next_obs not finite"),
        ("first observation", "obs not finite|.*action.*"),
        ("float32", "next_obs not finite"),
        ("reward", "reward not finite"),
        ("loss", "(losses/qf_loss|critic_optimizer).* not finite"),
    ],
)
def test_a_value_that_is_not_finite_ends_the_run_with_step_and_name(fault, problem, learning, start):
    if fault == "loss" and not learning:
        pytest.skip("there is none before the learning starts")
    env_id = f"Faulty-{fault.replace(' ', '-')}-v0"
    ended = start(env_id=env_id, learning_starts=LEARN if learning else 100, eval_frequency=0)
    assert ended.code == 1, ended
    errors = re.sub(r".*RuntimeWarning: overflow encountered in cast\n.*\n", "", ended.err)
    line = re.fullmatch(r"error: (?:step (\d+): )?(.*); any checkpoint stays\n", errors)
    assert line and re.fullmatch(problem, line[2]), ended
    assert line[1] is None or 50 <= int(line[1]) <= (60 if fault == "loss" else 55)
    assert step_of(ended.path) == 30
    assert np.isfinite(np.fromfile(ended.path / "replay.bin", np.float32)).all()


@pytest.mark.parametrize("frequency", [30, 73])
def test_a_spoiled_actor_ends_the_run_before_it_reaches_a_checkpoint(frequency, start):
    ended = start(
        hook=(spoil_actor,), env_id="Counting-v0", eval_frequency=0, checkpoint_frequency=frequency, log_frequency=1000
    )
    assert ended.code == 1, ended
    problem = r"error: (step 73: actor|the action is) .*not finite.*; any checkpoint stays\n"
    assert re.fullmatch(problem, ended.err), ended
    if frequency == 30:
        assert step_of(ended.path) == 60
    else:
        assert not (ended.path / "checkpoint.pt").exists()


@pytest.mark.parametrize("fault", ["step", "reset"])
def test_an_exception_of_the_environment_is_its_own_traceback(fault, start):
    ended = start(env_id=f"Faulty-{fault}-v0", eval_frequency=0)
    assert ended.code == 1 and ended.err.startswith("Traceback"), ended
    assert ended.err.endswith(f"RuntimeError: broken {fault}\n")
    assert step_of(ended.path) == 30


# Damaged and foreign files.


class Payload:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['PAYLOAD_MARK']}",)


def test_a_pickle_with_a_payload_is_not_executed(finished, start, tmp_path, monkeypatch):
    mark = tmp_path / "executed"
    monkeypatch.setenv("PAYLOAD_MARK", str(mark))
    for payload in (
        pickle.dumps(Payload(), protocol=2),
        _torch_file(Payload()),
        _torch_file(module.load_checkpoint(str(finished.path)) | {"box": Payload()}),
        _torch_file(Payload(), _use_new_zipfile_serialization=False),
    ):
        (finished.path / "checkpoint.pt").write_bytes(payload)
        before = contents(finished.path)
        assert "checkpoint.pt is missing, damaged or foreign" in one_line_error(start(resume=finished.path))
        assert not mark.exists() and contents(finished.path) == before
    pickle.loads(pickle.dumps(Payload()))
    assert mark.exists(), "the payload works where pickles are trusted"


def _torch_file(value, **kwargs) -> bytes:
    blob = io.BytesIO()
    torch.save(value, blob, **kwargs)
    return blob.getvalue()


def test_damaged_files_get_one_line_and_lose_nothing(start, finish):
    stopped = start(hook=(hook_signal, "stepping", signal.SIGTERM, 100))
    sound = contents(stopped.path)
    for name, problem in (
        ("checkpoint.pt", "damaged"),
        ("replay.bin", "replay.bin is missing or damaged; start a new run"),
    ):
        data, file = sound[name], stopped.path / name
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        for damaged in (data[: len(data) // 2], data[:-1], b"", bytes(flipped), os.urandom(len(data)), None):
            file.write_bytes(damaged) if damaged is not None else file.unlink()
            before = contents(stopped.path)
            message = one_line_error(start(resume=stopped.path))
            assert problem in message and name in message and str(stopped.path) in message
            after = {name: value for name, value in contents(stopped.path).items() if name in before}
            assert after == before
        file.write_bytes(data)
    finish(stopped.path)


def test_a_flipped_bit_is_found_or_changes_nothing(finished, capsys):
    """Anywhere in checkpoint.pt: no other state is read, and nothing but the one line is raised."""
    file = finished.path / "checkpoint.pt"
    data, sound, found = file.read_bytes(), module.load_checkpoint(str(finished.path)), 0
    random = np.random.default_rng(0)
    flips = [*random.integers(0, len(data), 150), *range(80), *range(len(data) - 120, len(data))]
    for place in flips:
        flipped = bytearray(data)
        flipped[place] ^= 1 << random.integers(8)
        file.write_bytes(flipped)
        try:
            assert not difference(module.load_checkpoint(str(finished.path)), sound), place
        except SystemExit as error:
            assert error.code == 2 and capsys.readouterr().err.count("\n") == 1
            found += 1
    assert found > 150


def test_a_foreign_checkpoint_gets_one_line(finished, start, tmp_path):
    before = contents(finished.path)
    message = one_line_error(start("sac_flow_naive", resume=finished.path))
    assert "checkpoint.pt is written by sac_flow_g.py; resume it with that script" in message
    assert "No such file" in one_line_error(start(resume=tmp_path / "nowhere"))
    assert contents(finished.path) == before


def old_checkpoint(state: dict) -> bytes:
    """As the scripts wrote it until their format had a number: segments by name and SHA-256, and 32 bytes of one at the
    end of the file."""
    old = {
        name: state[name] for name in ("actor", "critic", "actor_optimizer", "critic_optimizer", "args", "generator")
    }
    old |= {
        "step": 60,
        "counters": (1, 60, 0.0),
        "segments": [("replay-0-60.bin", 60, bytes(32))],
        "env": {"rng": None},
    }
    blob = _torch_file(old | {"script": "sac_flow_g.py"})
    return blob + hashlib.sha256(blob).digest()


def test_a_checkpoint_of_another_version_gets_one_line(finished, start):
    """One of before the format's number, one with a flag more or less, or other networks under the same flags."""
    file = finished.path / "checkpoint.pt"
    state = module.load_checkpoint(str(finished.path))
    args, critic = state["args"], state["critic"]
    shapes = critic | {next(iter(critic)): torch.zeros(3)}
    for change in (
        old_checkpoint(state),
        _torch_file(state | {"format": 99}),
        _torch_file(state | {"args": args | {"warmup": 3}}),
        _torch_file(state | {"args": {name: value for name, value in args.items() if name != "gamma"}}),
        _torch_file(state | {"critic": shapes}),
        _torch_file(state | {"critic": dict([*critic.items()][1:])}),
    ):
        file.write_bytes(change)
        before = contents(finished.path)
        assert "of another version" in one_line_error(start(resume=finished.path, total_timesteps=200))
        assert contents(finished.path) == before
    file.write_bytes(_torch_file([1]))
    assert "foreign" in one_line_error(start(resume=finished.path))


# Full disks.


def hook_no_compiler():
    os.environ["CXX"] = "no-such-compiler"


def hook_full_disk(call: int, number=errno.ENOSPC):
    """The call-th write of a checkpoint's files finds no space."""

    def full():
        raise OSError(number, os.strerror(number))

    at_call(os, "fsync", call, full)


NO_SPACE = "error: no space left on the disk; make room, then --resume the run\n"


@pytest.mark.parametrize(
    ("call", "number"), [(3, errno.ENOSPC), (4, errno.EDQUOT)], ids=["disk at replay.bin", "quota at checkpoint.pt"]
)
def test_a_checkpoint_that_finds_no_space_ends_the_run_and_the_last_one_stays(call, number, start, finish):
    """That of step 60."""
    ended = start(hook=(hook_full_disk, call, number))
    assert ended.code == 1 and ended.err == NO_SPACE and step_of(ended.path) == 30, ended
    finish(ended.path)


def add_path(folder: str):
    sys.path.append(folder)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"mounting a small tmpfs takes root: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


# A task whose 50th step fills the disk of the folder FILL to the last byte, or but for 20 KiB.
FILLING = """
import os
from contextlib import suppress
import gymnasium as gym
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv

class Filling(HopperEnv):
    steps, first = 0, []

    def step(self, action):
        self.first.append(self)
        self.steps += self is self.first[0]
        folder = os.environ.get("FILL")
        if folder and self.steps == 50:
            with suppress(OSError), open(folder + "/filler", "ab", buffering=0) as file:
                for size in (4096, 1):
                    with suppress(OSError):
                        while file.write(bytes(size)) == size:
                            pass
                file.truncate(file.tell() - int(os.environ["FREE"]))
        return super().step(action)

gym.register("Filling-v0", Filling, max_episode_steps=1000)
"""


@pytest.mark.parametrize(
    ("free", "output"), [(0, False), (20480, False), (0, True)], ids=["curve", "checkpoint", "output"]
)
def test_a_disk_that_is_really_full_ends_the_run_with_one_line(free, output, small_disk, tmp_path, finish):
    """A tmpfs without a byte left from step 50 on, where the events, the checkpoint or standard output notice it first:
    no traceback of any thread, and with room the run goes on from its checkpoint."""
    (tmp_path / "filling.py").write_text(FILLING)
    flags = FLAGS | {"env-id": "filling:Filling-v0", "hidden-dim": 8, "run-dir": small_disk}
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "FILL": str(small_disk), "FREE": str(free)}
    command = [sys.executable, ROOT / "sac_flow_g.py", *command_line(flags)]
    with open(small_disk / "out" if output else tmp_path / "out", "w") as out:
        ended = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1 and ended.stderr == NO_SPACE, ended
    (small_disk / "filler").unlink()
    (path,) = small_disk.glob("filling*")
    assert step_of(path) == 30
    finish(path, hook=(add_path, str(tmp_path)))
