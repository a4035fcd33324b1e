"""Shared fixtures: the four scripts as modules, and a toy environment whose transitions can be recognised."""

import copy
import functools
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from tensorboard.summary.writer import event_file_writer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Runs resumed within a second: readers sort files by name, in which the tenth of a process comes before the ninth.
event_file_writer._global_uid = event_file_writer.AtomicCounter(1000)
torch.set_num_threads(1)  # two threads on small products only wait for each other
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # tests in the background: what they start would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = ("test_sweep.py", "test_offline_to_online.py", "test_training.py")  # those of Slurm wait for its clocks


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that no worker ends long after the other."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


FLOWS = ("sac_flow_g", "sac_flow_t", "sac_flow_naive")
SCRIPTS = (*FLOWS, "sac_gaussian")
BOX = gym.spaces.Box(np.array([-1.0, 0.5], np.float32), np.array([3.0, 0.7], np.float32))  # asymmetric, two scales


class CountingEnv(gym.Env):
    """Observation (episode, step); even episodes terminate after 7 steps, odd ones run into their limit of 11."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = BOX

    def __init__(self, render_mode=None):
        self.episode, self.steps = -1, 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += self.steps != 1  # make_env tries one step, which is no episode
        self.steps = 0
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, np.float32)), action
        self.steps += 1
        return self._obs(), float(action[0]), self.episode % 2 == 0 and self.steps == 7, False, {}

    def _obs(self):
        return np.array([self.episode, self.steps], np.float32)


gym.register("Counting-v0", CountingEnv, max_episode_steps=11)
gym.register("Pixels-v0", lambda render_mode=None: _with_spaces(gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), BOX))
gym.register("Unbounded-v0", lambda render_mode=None: _with_spaces(BOX, gym.spaces.Box(-np.inf, np.inf, (2,))))


def _with_spaces(observation_space, action_space):
    env = CountingEnv()
    env.observation_space, env.action_space = observation_space, action_space
    return env


@pytest.fixture(scope="session", autouse=True)
def compiled_models():
    """MuJoCo compiles a description once and then copies it: that of a robot's meshes takes a second."""
    plain = mujoco.MjModel.from_xml_string

    @functools.lru_cache(maxsize=16)
    def compiled(xml, assets):
        return plain(xml, dict(assets))

    def from_xml_string(xml, assets=None):
        return copy.copy(compiled(xml, tuple(sorted((assets or {}).items()))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mujoco.MjModel, "from_xml_string", staticmethod(from_xml_string))
        yield


@pytest.fixture(params=SCRIPTS)
def script(request):
    return importlib.import_module(request.param)


@pytest.fixture(params=FLOWS)
def flow(request):
    return importlib.import_module(request.param)


def make_actor(module, obs_dim=3, box=BOX, **flags):
    """A float64 actor in evaluation mode with untrained but non-trivial statistics."""
    torch.manual_seed(0)
    actor = module.Actor(obs_dim, box, module.Args(**flags)).double().eval()
    if isinstance(actor.norm, module.BatchRenorm):
        actor.norm.running_mean.normal_()
        actor.norm.running_var.uniform_(0.5, 2)
    return actor


def small(**flags):
    """Flags of a run of seconds on the toy environment."""
    base = {
        "env_id": "Counting-v0",
        "total_timesteps": 80,
        "learning_starts": 30,
        "batch_size": 16,
        "buffer_size": 1000,
    }
    base |= {"critic_hidden_dim": 16, "eval_frequency": 40, "eval_episodes": 2, "log_frequency": 10, "compile": False}
    return base | {"device": "cpu"} | flags


def scalars(run_dir) -> dict[str, list[tuple[int, float]]]:
    """Tag -> [(step, value)] of a run's TensorBoard events in the order of writing: files of one second are read in
    that of their names, number 10 before number 9."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    written = {tag: sorted(events.Scalars(tag), key=lambda e: e.wall_time) for tag in events.Tags()["scalars"]}
    return {tag: [(e.step, e.value) for e in of_tag] for tag, of_tag in written.items()}


@functools.cache
def has_egl() -> bool:
    """Whether MuJoCo can render here without a display."""
    code = "import gymnasium; env = gymnasium.make('Hopper-v4', render_mode='rgb_array'); env.reset(); env.render()"
    environment = os.environ | {"MUJOCO_GL": "egl"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0
