"""Generated tasks: each trains on what it returned, or is refused in one line before a run exists.

python tests/test_cases.py 1000 [first]      # as many cases, and a list of those that end otherwise
"""

import contextlib
import copy
import importlib
import io
import json
import re
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, scalars
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

sys.path.insert(0, str(ROOT / "baselines"))
TRAINERS = [*SCRIPTS, "dime", "flowrl", "ppo", "qsm"]
inf = np.inf
PAIR, MATRIX = Box(-inf, inf, (2,)), Box(-inf, inf, (2, 2))
GOAL = Dict({"observation": Box(-inf, inf, (3,), np.float64), "achieved": PAIR, "goal": Box(0, 9, (2,))})
NESTED = Dict({"b": Dict({"z": PAIR, "a": Discrete(3)}), "a": MATRIX, "c": MultiBinary(2)})


def bounds(low, high, dtype=np.float32):
    return Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


# Property -> its values, the usual one first, with what must come of them: "train", "refuse" (exit code 2), "end" (exit
# code 1), or "own", the task's own exception while it trains. Of wrappers "any": some make a task fit, some refuse it.
PROPERTIES = {
    "observations": {
        "float64": (Box(-inf, inf, (3,), np.float64), "train"),
        "float32": (Box(-inf, inf, (3,)), "train"),
        "float16": (Box(-10, 10, (3,), np.float16), "train"),
        "int64": (Box(-9, 9, (3,), np.int64), "train"),
        "uint8": (Box(0, 255, (3,), np.uint8), "train"),
        "bool": (Box(0, 1, (3,), np.bool_), "train"),
        "one": (Box(-inf, inf, (1,)), "train"),
        "many": (Box(-inf, inf, (300,)), "train"),
        "asymmetric": (bounds([0, -3, 5], [10, inf, 6], np.float64), "train"),
        "equal bounds": (bounds([1, -3, 5], [1, 3, 6]), "train"),
        "number": (Box(-inf, inf, ()), "refuse"),
        "matrix": (Box(-inf, inf, (2, 3)), "refuse"),
        "pixels": (Box(0, 255, (4, 4, 3), np.uint8), "refuse"),
        "goal": (GOAL, "train"),
        "nested": (NESTED, "train"),
        "words in a dict": (Dict({"a": PAIR, "t": Text(3)}), "train"),
        "tuple": (Tuple([PAIR, Discrete(2)]), "refuse"),
        "discrete": (Discrete(5), "refuse"),
        "multidiscrete": (MultiDiscrete([3, 4]), "refuse"),
        "multibinary": (MultiBinary(3), "refuse"),
        "text": (Text(3), "refuse"),
    },
    "actions": {
        "unit": (Box(-1, 1, (2,)), "train"),
        "float64": (Box(-1, 1, (2,), np.float64), "train"),
        "float16": (Box(-1, 1, (2,), np.float16), "train"),
        "asymmetric": (bounds([0, -3], [10, 1]), "train"),
        "no float32": (bounds([-0.3, 0.1], [0.1, 0.7], np.float64), "train"),
        "far": (bounds([1000, -0.5], [1001, 0.5], np.float64), "train"),
        "tiny": (Box(-1e-6, 1e-6, (2,)), "train"),
        "large": (Box(-1e6, 1e6, (2,)), "train"),
        "one": (Box(-2, 2, (1,)), "train"),
        "many": (Box(-1, 1, (40,)), "train"),
        "equal bounds": (bounds([-1, 1], [1, 1]), "refuse"),
        "no number between": (bounds([0.1, -1], [0.1 + 1e-12, 1], np.float64), "refuse"),
        "one-sided": (bounds([0, 0], [inf, 1]), "refuse"),
        "unbounded": (Box(-inf, inf, (2,)), "refuse"),
        "huge": (Box(-3.4e38, 3.4e38, (2,)), "refuse"),
        "number": (Box(-1, 1, ()), "refuse"),
        "matrix": (Box(-1, 1, (2, 2)), "refuse"),
        "int64": (Box(0, 5, (2,), np.int64), "refuse"),
        "uint8": (Box(0, 255, (2,), np.uint8), "refuse"),
        "discrete": (Discrete(4), "refuse"),
        "multidiscrete": (MultiDiscrete([3, 4]), "refuse"),
        "multibinary": (MultiBinary(3), "refuse"),
        "dict": (Dict({"a": Box(-1, 1, (2,))}), "refuse"),
        "tuple": (Tuple([Box(-1, 1, (2,)), Discrete(2)]), "refuse"),
        "text": (Text(3), "refuse"),
    },
    # Of the observation, of what the space says; from the step on that "late" says.
    "returned": {
        "as said": (lambda obs: obs, "train"),
        "float64": (lambda obs: np.asarray(obs, np.float64), "train"),
        "list": (lambda obs: obs.tolist(), "train"),
        "tensor": (lambda obs: torch.as_tensor(obs), "train"),
        "row": (lambda obs: obs[None], "train"),
        "column": (lambda obs: obs[:, None], "train"),
        "longer": (lambda obs: np.append(obs, 0), "refuse"),
        "shorter": (lambda obs: obs[:-1], "refuse"),
        "nothing": (lambda obs: None, "refuse"),
        "words": (lambda obs: np.array(["x"] * len(obs)), "refuse"),
        "nan": (lambda obs: obs * np.nan, "end"),
        "inf": (lambda obs: obs + np.inf, "end"),
        "beyond float32": (lambda obs: np.full(obs.shape, 1e300), "end"),
    },
    "reset": {
        "usual": (None, "train"),
        "integers": (None, "train"),
        "in place": (None, "train"),
        "observation alone": (None, "refuse"),
        "without a seed": (None, "refuse"),
    },
    "reward": {
        "float": (float, "train"),
        "int": (lambda r: round(10 * r), "train"),
        "bool": (lambda r: r > 0, "train"),
        "np.bool_": (lambda r: np.bool_(r > 0), "train"),
        "float32": (np.float32, "train"),
        "float16": (np.float16, "train"),
        "int64": (lambda r: np.int64(10 * r), "train"),
        "uint8": (lambda r: np.uint8(9), "train"),
        "0-d": (np.array, "train"),
        "array of one": (lambda r: np.array([r]), "train"),
        "matrix of one": (lambda r: np.array([[r]]), "train"),
        "list of one": (lambda r: [r], "train"),
        "tensor": (torch.tensor, "train"),
        "array of two": (lambda r: np.array([r, r]), "refuse"),
        "none": (lambda r: None, "refuse"),
        "words": (lambda r: "high", "refuse"),
        "complex": (lambda r: r + 1j, "refuse"),
        "nan": (lambda r: np.nan, "end"),
        "inf": (lambda r: -np.inf, "end"),
        "beyond float32": (lambda r: -1e300, "end"),
    },
    "ends": {
        "bool": (bool, "train"),
        "np.bool_": (np.bool_, "train"),
        "int": (int, "train"),
        "array of one": (lambda end: np.array([end]), "train"),
        "tensor": (torch.tensor, "train"),
    },
    "length": {name: (name, "train") for name in ("7", "1", "2", "60", "never", "limit 5", "both", "truncated 6")},
    "info": {
        "empty": (lambda: ({},), "train"),
        "arrays": (lambda: ({"x": np.ones(3), "is_success": True},), "train"),
        "none": (lambda: (None,), "train"),
        "absent": (lambda: (), "refuse"),
    },
    "late": {"0": (0, "train"), "1": (1, "train"), "6": (6, "train")},
    "fails": {
        "never": (None, "train"),
        "made": (None, "refuse"),
        "first reset": (None, "refuse"),
        "first step": (None, "refuse"),
        "reset": (None, "own"),
        "step": (None, "own"),
        "close": (None, "own"),
    },
    "wrapper": {
        "none": (lambda env: env, "train"),
        "TimeAware": (lambda env: wrappers.TimeAwareObservation(env), "any"),
        "TimeAware in a dict": (lambda env: wrappers.TimeAwareObservation(env, flatten=False), "any"),
        "FrameStack": (lambda env: wrappers.FrameStackObservation(env, 3), "refuse"),
        "Flatten": (lambda env: wrappers.FlattenObservation(env), "any"),
        "Filter": (lambda env: wrappers.FilterObservation(env, ["observation"]), "any"),
        "stacked, flattened": (lambda env: wrappers.FlattenObservation(wrappers.FrameStackObservation(env, 3)), "any"),
        "ClipAction": (wrappers.ClipAction, "refuse"),
        "RescaleAction": (lambda env: wrappers.RescaleAction(env, np.float32(-2), np.float32(3)), "any"),
        "NormalizeObservation": (wrappers.NormalizeObservation, "any"),
        "NormalizeReward": (wrappers.NormalizeReward, "any"),
        "RecordEpisodeStatistics": (wrappers.RecordEpisodeStatistics, "any"),
        "TimeLimit": (lambda env: wrappers.TimeLimit(env, 4), "any"),
        "Dtype": (lambda env: wrappers.DtypeObservation(env, np.float16), "any"),
        "gym.make": (lambda env: wrappers.TimeAwareObservation(made_inside(env)), "any"),
        "Autoreset": (wrappers.Autoreset, "any"),
        "Delay": (lambda env: Delay(env), "any"),
        "StickyAction": (lambda env: wrappers.StickyAction(env, 0.5), "any"),
    },
    "film": {
        "none": (None, "train"),
        "frames": (lambda env: np.full((64, 64, 3), env.t, np.uint8), "train"),
        "odd": (lambda env: np.full((33, 47, 3), env.t, np.uint8), "train"),
        "transparent": (lambda env: np.full((64, 64, 4), env.t, np.uint8), "train"),
        "nothing": (lambda env: None, "refuse"),
        "list": (lambda env: [np.zeros((64, 64, 3), np.uint8)], "refuse"),
        "grey": (lambda env: np.zeros((64, 64), np.uint8), "refuse"),
        "fails": (lambda env: np.full((64, 64, 3), env.t, np.uint8), "own"),
    },
    "resumed": {"no": (False, "train"), "yes": (True, "train")},
    "seed": {str(seed): (seed, "train" if seed < 2**32 else "refuse") for seed in (1, 0, 2**31, 2**32 - 1, 2**62)},
    "checker": {"on": (False, "train"), "off": (True, "train")},
}


def made_inside(env):
    return gym.make(EnvSpec("Inner-v0", lambda: env), max_episode_steps=9)


class Planned(Exception):
    pass


class Delay(gym.ActionWrapper):
    def reset(self, **kwargs):
        self.waiting = np.zeros(self.action_space.shape, self.action_space.dtype)
        return super().reset(**kwargs)

    def action(self, action):
        now, self.waiting = self.waiting, action
        return now


class Generated(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, case, render_mode=None):
        self.case, self.render_mode, self.steps, self.resets = case, render_mode, 0, 0
        self.observation_space, self.action_space = chosen(case, "observations"), chosen(case, "actions")
        self.fail("made", True)

    def fail(self, place, now):
        if now and place in ("film", self.case["fails"]):
            raise Planned

    def observation(self, shaped=True):
        space = self.observation_space
        space.seed(int(self.np_random.integers(1000)))
        obs = space.sample()
        if isinstance(obs, np.ndarray) and self.case["reset"] == "in place":
            self.state = self.__dict__.get("state", obs)
            self.state[...] = obs
            obs = self.state
        if shaped and isinstance(space, Box) and len(space.shape) == 1:
            obs = chosen(self.case, "returned")(obs)
        return obs

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        self.t = 0
        self.fail("first reset", True)
        self.fail("reset", self.resets == 3)
        obs = self.observation(chosen(self.case, "late") == 0)
        if self.case["reset"] == "integers" and isinstance(obs, np.ndarray) and obs.dtype.kind == "f":
            obs = np.nan_to_num(obs, posinf=1, neginf=1).astype(np.int64) if np.isfinite(obs).all() else obs
        return obs if self.case["reset"] == "observation alone" else (obs, {})

    def step(self, action):
        self.steps, self.t = self.steps + 1, self.t + 1
        self.fail("first step", True)
        self.fail("step", self.steps == 9)
        late = self.steps > chosen(self.case, "late")
        reward = float(self.np_random.normal())
        obs, reward = self.observation(late), chosen(self.case, "reward")(reward) if late else reward
        length, end = self.case["length"], chosen(self.case, "ends")
        terminated = length in ("7", "1", "2", "60") and self.t == int(length) or length == "both" and self.t == 6
        truncated = length in ("both", "truncated 6") and self.t == 6
        action *= 0.5  # its own to change
        return obs, reward, end(terminated), end(truncated), *chosen(self.case, "info")()

    def render(self):
        self.fail("film", self.case["film"] == "fails" and self.steps > 1)
        return chosen(self.case, "film")(self)

    def close(self):
        self.fail("close", self.steps > 1)


class OldReset(Generated):
    def reset(self):
        return super().reset()


class Recorder(gym.Wrapper):
    """Keeps what the task was given and what it returned."""

    made = []

    def __init__(self, env):
        super().__init__(env)
        self.calls = []
        self.made.append(self)

    def reset(self, **kwargs):
        result = self.env.reset(**kwargs)
        self.calls.append((None, copy.deepcopy(result)))
        return result

    def step(self, action):
        given, result = copy.deepcopy(action), self.env.step(action)
        self.calls.append((given, copy.deepcopy(result)))
        return result


def chosen(case, name):
    return PROPERTIES[name][case[name]][0]


USUAL = {name: next(iter(values)) for name, values in PROPERTIES.items()}


def generate(number: int) -> dict:
    """The usual task but for one to four properties."""
    rng, case = np.random.default_rng(number), dict(USUAL)
    for name in rng.choice(list(PROPERTIES), rng.integers(1, 5), replace=False):
        case[str(name)] = str(rng.choice(list(PROPERTIES[name])))
    return case | {"script": TRAINERS[number % len(TRAINERS)]}


def expected(case) -> set[str]:
    """How the case may end. The first step is tried; what a task returns later ends a run."""
    ends = {name: PROPERTIES[name][case[name]][1] for name in PROPERTIES}
    if isinstance(chosen(case, "observations"), Dict):
        ends["returned"] = "train"  # only flat observations are returned in other ways
    for name in ("returned", "reward"):
        if case["late"] != "0" and ends[name] == "refuse":
            ends[name] = "own"
    found = set(ends.values())
    if "any" in found:
        return found - {"any"} | {"train", "refuse"}
    return {"refuse"} if "refuse" in found else found & {"own", "end"} or {"train"}


def make(case):
    """The entry point of a case's task."""
    kind = OldReset if case["reset"] == "without a seed" else Generated
    return lambda render_mode=None: Recorder(chosen(case, "wrapper")(kind(case, render_mode)))


def flags(module, case, folder) -> dict:
    few = {"total_timesteps": 24, "learning_starts": 12, "batch_size": 4, "buffer_size": 100, "eval_frequency": 12}
    few |= {
        "eval_episodes": 1,
        "log_frequency": 8,
        "hidden_dim": 8,
        "critic_hidden_dim": 8,
        "d_model": 8,
        "n_layers": 1,
    }
    few |= {"num_steps": 8, "num_minibatches": 2, "update_epochs": 1, "anneal_lr": False, "sampling_steps": 2}
    few |= {"env_id": "Generated-v0", "run_dir": str(folder), "seed": chosen(case, "seed")}
    few |= {"compile": False, "device": "cpu", "capture_video": case["film"] != "none"}
    return {name: value for name, value in few.items() if hasattr(module.Args, name)}


def numbers(space, obs) -> np.ndarray:
    obs = gym.spaces.flatten(space, obs) if isinstance(space, Dict) else obs
    return np.asarray(obs).ravel().astype(np.float32)


def episodes(recorder) -> tuple[list, list]:
    """Rows of what a task returned, and sums of its rewards, for each reset; without the step that was tried."""
    rows, sums, before = [], [], None
    for action, (obs, *rest) in recorder.calls[2:]:
        after = numbers(recorder.observation_space, obs)
        if action is None:
            rows.append([])
            sums.append(0.0)
        else:
            reward = float(np.asarray(rest[0]).item())
            rows[-1].append(np.concatenate([before, action, [reward], after, [bool(rest[1])]], dtype=np.float32))
            sums[-1] += reward
        before = after
    return rows, sums


def stored(buffer, start: int) -> np.ndarray:
    rows, names = buffer.split(buffer.rows[start : buffer.count]), ("obs", "action", "reward", "next_obs", "terminated")
    return torch.cat([rows[name].reshape(buffer.count - start, -1) for name in names], 1).numpy()


def differences(buffer, run) -> list[str]:
    """Between what the tasks returned and what a run stored and logged."""
    (rows, sums), (evaluated, scores) = (episodes(recorder) for recorder in Recorder.made[:2])
    wanted, seen = np.array([row for episode in rows for row in episode]), scalars(run)
    wrong = [] if np.array_equal(stored(buffer, 0), wanted) else ["other rows are stored"]
    box, sent = Recorder.made[0].action_space, [given for given, _ in Recorder.made[0].calls if given is not None]
    if not all(box.contains(np.asarray(action, box.dtype)) and (action <= box.high).all() for action in sent):
        wrong.append("an action is outside of the box")
    # The last episode is logged where it ended with the run's last step.
    action, (_, *rest) = Recorder.made[0].calls[-1]
    ended = len(rows[-1]) == Recorder.made[0].unwrapped.spec.max_episode_steps
    ended = ended or (action is not None and bool(rest[1] or rest[2]))
    sums = sums if ended else sums[:-1]
    for tag, values in ("charts/episodic_return", sums), ("eval/episodic_return", scores[: len(evaluated)]):
        logged = [value for _, value in seen.get(tag, [])]
        if len(logged) != len(values) or not np.allclose(logged, values, 1e-5, 1e-5):
            wrong.append(f"{tag}: {logged} instead of {values}")
    return wrong


def trial(case, folder: Path) -> tuple[str, list[str]]:
    """How a case ends, and what is wrong with it."""
    module, buffers, wrong, said = importlib.import_module(case["script"]), [], [], io.StringIO()
    limit = {"max_episode_steps": 5} if case["length"] == "limit 5" else {}
    gym.register("Generated-v0", make(case), disable_env_checker=chosen(case, "checker"), **limit)
    Recorder.made.clear()
    kind, out = getattr(module, "ReplayBuffer", None) or module.Rollout, io.StringIO()
    plain, longest, module.LONGEST_EPISODE = kind.add, module.LONGEST_EPISODE, 30
    kind.add = lambda self, **row: (None if self in buffers else buffers.append(self)) or plain(self, **row)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("default")
            run = module.main(module.Args(**flags(module, case, folder)))
            end, wrong = "train", differences(buffers[0], run)
            if chosen(case, "resumed"):
                module.main(module.read_args(["--resume", run, "--total-timesteps", "30"]))
                module.main(module.Args(**flags(module, case, folder) | {"total_timesteps": 30}))
                same = np.array_equal(stored(buffers[1], 24), stored(buffers[2], 24))
                outlives = case["wrapper"].startswith("Normalize") or case["late"] != "0"
                if not same and not outlives and "the episode could not be repeated" not in out.getvalue():
                    wrong.append("resumes otherwise without a word")
    except SystemExit as error:
        end, message = "refuse" if error.code == 2 else "end", str(error.code)
        if end == "end" and not re.fullmatch(r"error: .* not finite; any checkpoint stays", message):
            wrong.append(f"exit code 1: {message}")
        if end == "refuse" and any(folder.iterdir()):
            wrong.append("refused after a run began")
    except Exception as error:
        end = "own"
        if not isinstance(error, Planned) and (case["late"] == "0" or "own" not in expected(case)):
            wrong.append("".join(traceback.format_exception(error)[-3:]))
    finally:
        kind.add, module.LONGEST_EPISODE = plain, longest
        del gym.registry["Generated-v0"]
    lines = said.getvalue().splitlines()
    if end == "refuse" and not (
        len(lines) == 1 and re.match("error: --(env-id Generated-v0|capture-video|seed [0-9]+): ", lines[0])
    ):
        wrong.append(f"not one line: {lines}")
    if any("RuntimeWarning" in line for line in lines):
        wrong.append(f"a warning of NumPy's: {lines}")
    if end not in expected(case):
        wrong.append(f"{end} instead of {expected(case)}: {lines}")
    return end, wrong


@pytest.mark.parametrize("name", TRAINERS)
def test_generated_tasks_train_on_what_they_return_or_are_refused(name, tmp_path):
    for number in range(TRAINERS.index(name), 160, len(TRAINERS)):
        (tmp_path / str(number)).mkdir()
        _, wrong = trial(generate(number), tmp_path / str(number))
        assert not wrong, (number, different(generate(number)), wrong)


def different(case) -> str:
    return json.dumps({name: value for name, value in case.items() if USUAL.get(name) != value})


if __name__ == "__main__":
    first, outcomes, bad = int(sys.argv[2]) if len(sys.argv) > 2 else 0, Counter(), 0
    with tempfile.TemporaryDirectory() as runs:
        for number in range(first, first + int(sys.argv[1])):
            end, wrong = trial(generate(number), Path(tempfile.mkdtemp(dir=runs)))
            outcomes[end] += 1
            bad += bool(wrong)
            if wrong:
                print(number, different(generate(number)), *wrong, sep="\n    ", flush=True)
    print(f"{sys.argv[1]} cases: {dict(outcomes)}, {bad} wrong")
