"""Small tasks as people write them, for test_tasks.py: `--env-id tasks:NAME-v0` with this folder on PYTHONPATH."""

import os

import gymnasium as gym
import numpy as np


class Plain(gym.Env):
    """x (3,) follows the action; 20 steps. Refuses an action outside its box."""

    low, high, dtype = [-1.0, -1.0], [1.0, 1.0], np.float32

    def __init__(self, render_mode=None):
        bounds = np.array(self.low, self.dtype), np.array(self.high, self.dtype)
        self.action_space = gym.spaces.Box(*bounds, dtype=self.dtype)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.normal(size=3)
        return self.x.copy(), {}

    def step(self, action):
        assert (action >= self.action_space.low).all() and (action <= self.action_space.high).all(), action
        self.t, self.x = self.t + 1, 0.9 * self.x + 0.1 * np.resize(action, 3)
        return self.x.copy(), -float(np.square(self.x).sum()), False, self.t >= 20, {}


class BadReset(Plain):
    def reset(self, seed=None, options=None):
        raise RuntimeError("cannot connect to the simulator")


class OldReset(Plain):
    def reset(self):
        return super().reset()


class BadStep(Plain):
    def step(self, action):
        raise KeyError("no sensor")


class RewardArray(Plain):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, np.array([reward]), *rest


class RewardPair(Plain):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, np.array([reward, reward]), *rest


class IntReset(Plain):
    """A common slip: reset returns whole numbers, step returns real ones."""

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.array([1, -1, 2])
        return self.x.copy(), {}


class FloatReset(IntReset):
    def reset(self, seed=None, options=None):
        obs, info = super().reset(seed, options)
        return obs.astype(float), info


class CastReset(IntReset):
    """A reset of another type than the steps."""

    cast = list

    def reset(self, seed=None, options=None):
        obs, info = super().reset(seed, options)
        return self.cast(obs), info


class Goal(Plain):
    """Keys in another order than the space's."""

    def __init__(self, render_mode=None):
        super().__init__()
        box, goal = self.observation_space, gym.spaces.Box(0, 10, (2,))
        self.observation_space = gym.spaces.Dict({"observation": box, "desired_goal": goal})

    def reset(self, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return {"desired_goal": np.array([7, 8], np.float32), "observation": obs}, info

    def step(self, action):
        obs, *rest = super().step(action)
        return {"desired_goal": np.array([7, 8], np.float32), "observation": obs}, *rest


class OddBounds(Plain):
    """float32 has none of them: the nearest number to .1 is above it, the nearest to -.3 below it."""

    low, high, dtype = [-0.3, 0.1], [0.1, 0.7], np.float64


class WholeActions(Plain):
    low, high, dtype = [0, 0], [5, 5], np.int64


class Huge(Plain):
    low, high = [-3.4e38] * 2, [3.4e38] * 2


class Vast(Plain):
    """Beyond float32."""

    low, high, dtype = [-1e300] * 2, [1e300] * 2, np.float64


class NotFinite(Plain):
    def step(self, action):
        obs, *rest = super().step(action)
        return np.where(self.t == 7, np.inf, obs), *rest


class Endless(Plain):
    """Leaves a file behind when an episode has lasted for 300 steps."""

    def step(self, action):
        obs, reward, *_ = super().step(action)
        assert self.t <= 10_000, "no one ends this episode"
        if self.t == 300 and "LASTS" in os.environ:
            with open(os.environ["LASTS"], "w"):
                pass
        return obs, reward, False, False, {}


class Striped(Plain):
    """A hundred steps; films their number in black and white stripes, in a picture of odd size."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, False, self.t >= 100, {"success": False}

    def render(self):
        stripes = 255 * (self.t >> np.arange(7) & 1).astype(np.uint8)
        return np.broadcast_to(np.repeat(stripes, 9)[None, :, None], (33, 63, 3))


def steps_shown(frames) -> list[int]:
    """The number in each frame of a film of Striped."""
    stripes = frames[:, 10:20, 4:63:9].mean((1, 3)) > 128
    return (stripes << np.arange(7)).sum(1).tolist()


class NoRenderMode(Plain):
    def __init__(self):
        super().__init__()


class Reach(gym.Env):
    """The place (2,), held within 1, moves by the action before this one, so that the reward, minus the distance to 0,
    comes a step after the action that earns it: what a critic without bootstrapping cannot learn. 16 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,))
    action_space = gym.spaces.Box(-1, 1, (2,))
    reach = 0.25  # by how much an action of 1 moves

    def __init__(self, render_mode=None):
        super().__init__()

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.pending = self.np_random.uniform(-1, 1, 2), np.zeros(2)
        return self._obs(), {}

    def step(self, action):
        self.place = np.clip(self.place + self.reach * self.pending, -1, 1)
        self.pending = np.array(action)
        return self._obs(), -float(np.abs(self.place).sum()), False, False, {}

    def _obs(self):
        return np.concatenate([self.place, self.pending]).astype(np.float32)

    @classmethod
    def best(cls, obs):
        """The action that goes where the pending one leaves off, straight to 0: nothing returns more."""
        return np.clip(-(obs[:2] / cls.reach + obs[2:]), -1, 1)


def filtered(render_mode=None):
    return gym.wrappers.FilterObservation(Goal(), ["observation"])


def limited(render_mode=None):
    return gym.wrappers.TimeAwareObservation(gym.make("Plain-v0", max_episode_steps=7))


gym.register("Filtered-v0", filtered)
gym.register("Marathon-v0", Endless, max_episode_steps=10_000)
gym.register("Lasting-v0", Endless, max_episode_steps=2000)
gym.register("Limited-v0", limited)
gym.register("Reach-v0", Reach, max_episode_steps=16)
for task in (Plain, *Plain.__subclasses__(), FloatReset, CastReset):
    gym.register(f"{task.__name__}-v0", task)
