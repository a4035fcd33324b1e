"""Offline-to-online: data in the official formats, chunks of them, flow matching, and short runs of every script."""

import copy
import csv
import functools
import importlib.util
import inspect
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro
from conftest import ROOT, has_egl, scalars
from tasks import steps_shown

sys.path.append(str(ROOT / "scripts"))
import evaluate  # noqa: E402

FLOW_SCRIPTS = ("sac_flow_g", "sac_flow_t", "sac_flow_naive")
SCRIPTS = (*FLOW_SCRIPTS, "qc_fql", "reinflow")
CUBE = "cube-single-play-singletask-task1-v0"
EXTRAS = [name for name in ("ogbench", "robosuite", "h5py") if importlib.util.find_spec(name) is None]
needs_extras = pytest.mark.skipif(bool(EXTRAS), reason=f"not installed: {', '.join(EXTRAS)}")


def load(name):
    """A script of offline_to_online/ as a module of another name: the folder above has scripts called alike."""
    if f"o2o_{name}" not in sys.modules:
        spec = importlib.util.spec_from_file_location(f"o2o_{name}", ROOT / "offline_to_online" / f"{name}.py")
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[f"o2o_{name}"]


@pytest.fixture(params=SCRIPTS)
def script(request):
    return load(request.param)


@pytest.fixture(params=FLOW_SCRIPTS)
def flow(request):
    return load(request.param)


def small(name="sac_flow_g", **flags):
    """Flags of a run of a second."""
    base = {"env_id": CUBE, "offline_steps": 24, "total_timesteps": 33, "step_limit": 13, "eval_frequency": 20}
    base |= {"eval_episodes": 2, "log_frequency": 4, "compile": False, "device": "cpu", "batch_size": 8}
    base |= {"critic_hidden_dim": 16}
    base |= {"policy_hidden_dim": 16} if name == "qc_fql" else {"d_model": 16} if name == "sac_flow_t" else {}
    base |= {"hidden_dim": 16} if name in ("sac_flow_g", "sac_flow_naive", "reinflow") else {}
    if name == "reinflow":
        base |= {"num_envs": 2, "num_steps": 4, "batch_size_online": 4, "critic_warmup": 1, "total_timesteps": 70}
    else:
        base |= {"learning_starts": 5, "buffer_size": 10}
    return base | flags


def make_data(folder, env_id, episodes, **flags):
    module = load("make_dataset")
    end = "hdf5" if env_id in module.ROBOSUITE else "npz"
    path = str(folder / f"{env_id}.{end}")
    module.main(module.Args(env_id=env_id, path=path, episodes=episodes, **flags))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Paths of real data by task: three OGBench episodes of 61 rows instead of 1001, and three demonstrations."""
    if EXTRAS:
        pytest.skip(f"not installed: {', '.join(EXTRAS)}")
    folder, module = tmp_path_factory.mktemp("data"), load("make_dataset")
    usual, module.LENGTH = module.LENGTH, 61
    paths = {CUBE: make_data(folder, CUBE, 3)}
    module.LENGTH = usual
    return paths | {"lift": make_data(folder, "lift", 3)}


@pytest.fixture(scope="module", autouse=True)
def described_tasks():
    """OGBench parses and writes the descriptions of task and arm anew for every environment, most of a second: here
    once, as they stay the same."""
    if EXTRAS:
        yield
        return
    from ogbench.manipspace import mjcf_utils
    from ogbench.manipspace.envs import manipspace_env

    parse, describe = manipspace_env.mjcf.from_path, manipspace_env.ManipSpaceEnv.build_mjcf_model
    arm, tasks = functools.cache(parse), {}

    def build(env):
        task = type(env).__name__, env._env_type, env._ob_type
        if task not in tasks:
            before = set(vars(env))
            with pytest.MonkeyPatch.context() as patch:  # what is parsed here is joined: no two tasks may share it
                patch.setattr(manipspace_env.mjcf, "from_path", parse)
                model = describe(env)
            tasks[task] = model, {k: v for k, v in vars(env).items() if k not in before}
        model, elements = tasks[task]
        vars(env).update(elements)  # which it looks up in the compiled model
        return model

    def once(function):
        made = {}  # by identity, of models that stay: two that are alike are equal

        def cached(model):
            if id(model) not in made:
                made[id(model)] = function(model)
            return made[id(model)]

        return cached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manipspace_env.mjcf, "from_path", arm)
        patch.setattr(manipspace_env.ManipSpaceEnv, "build_mjcf_model", build)
        for name in ("to_string", "get_assets"):
            patch.setattr(mjcf_utils, name, once(getattr(mjcf_utils, name)))
        yield


# Data.
@needs_extras
def test_ogbench_file_is_in_the_official_layout(data):
    for path, episodes in ((data[CUBE], 3), (data[CUBE].replace(".npz", "-val.npz"), 1)):
        with np.load(path) as arrays:
            shapes = {key: (arrays[key].shape, arrays[key].dtype.str) for key in arrays}
            terminals, actions = arrays["terminals"], arrays["actions"]
        rows = 61 * episodes
        expected = {"observations": ((rows, 28), "<f4"), "actions": ((rows, 5), "<f4"), "terminals": ((rows,), "|b1")}
        assert shapes == expected | {"qpos": ((rows, 21), "<f4"), "qvel": ((rows, 20), "<f4")}
        assert np.flatnonzero(terminals).tolist() == [60 + 61 * i for i in range(episodes)]
        assert np.abs(actions).max() <= 1 and actions.std(0).min() > 0.05


@needs_extras
def test_scene_rows_have_their_buttons(tmp_path, monkeypatch):
    """Both oracles of the scene; the observation one-hot encodes the stored state of the buttons."""
    module = load("make_dataset")
    monkeypatch.setattr(module, "LENGTH", 25)
    for kind in ("play", "noisy"):
        with np.load(make_data(tmp_path, f"scene-{kind}-v0", 2)) as arrays:
            assert arrays["button_states"].dtype == np.int64 and arrays["button_states"].shape == (50, 2)
            assert arrays["observations"].shape == (50, 40)
            one_hot = arrays["observations"][:, [28, 29, 32, 33]].reshape(50, 2, 2)
            assert np.array_equal(one_hot.argmax(2), arrays["button_states"])


@needs_extras
def test_robomimic_file_is_in_the_official_layout(data):
    import h5py

    with h5py.File(data["lift"]) as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        assert (env_args["env_name"], env_args["type"], env_args["env_kwargs"]["robots"]) == ("Lift", 1, ["Panda"])
        demos = sorted(file["data"])
        assert demos == ["demo_0", "demo_1", "demo_2"]
        assert file["data"].attrs["total"] == sum(len(file[f"data/{demo}/actions"]) for demo in demos)
        assert set(file["mask/train"][()]) | set(file["mask/valid"][()]) == {demo.encode() for demo in demos}
        for demo in demos:
            group, count = file[f"data/{demo}"], len(file[f"data/{demo}/actions"])
            assert group.attrs["num_samples"] == count and group["actions"].shape == (count, 7)
            assert group["rewards"][()].tolist() == group["dones"][()].tolist() == [0] * (count - 1) + [1]
            widths = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10}
            for key, width in widths.items():
                assert group[f"obs/{key}"].shape == group[f"next_obs/{key}"].shape == (count, width)
                assert np.array_equal(group[f"obs/{key}"][1:], group[f"next_obs/{key}"][:-1])


@needs_extras
def test_robosuite_restores_a_demonstration(data):
    """From its model, which names no folder of this machine, and its states: what robomimic's playback does."""
    import h5py

    env = load("make_dataset").make_robosuite("lift", 1)  # another seed: another cube
    with h5py.File(data["lift"]) as file:
        demo = file["data/demo_1"]
        model, states, observed = demo.attrs["model_file"], demo["states"][()], demo["obs/object"][()]
    assert "robosuite/models/assets" in model and "/robosuite" not in model
    env.reset_from_xml_string(env.edit_model_xml(model))
    for state, row in zip(states[::10], observed[::10], strict=True):
        env.sim.set_state_from_flattened(state)
        env.sim.forward()
        assert env.sim.data.body_xpos[env.cube_body_id] == pytest.approx(row[:3], abs=1e-3)
    env.close()


@needs_extras
def test_scripted_policies_solve_their_tasks():
    """Most attempts at can and square succeed: each a demonstration that ends with its first success."""
    module = load("make_dataset")
    for env_id, attempts in (("can", 3), ("square", 3)):
        env = module.make_robosuite(env_id, 0)
        made = [module.scripted_episode(env, env_id, np.random.default_rng(i), module.Args()) for i in range(attempts)]
        lengths = [len(arrays["rewards"]) for arrays in made if arrays is not None]
        assert len(lengths) >= 2 and all(40 < length < 300 for length in lengths), (env_id, lengths)
        env.close()


@needs_extras
@pytest.mark.parametrize("env_id", [CUBE, "lift"])
def test_interrupted_data_go_on_to_the_same_file(data, tmp_path, monkeypatch, env_id):
    module = load("make_dataset")
    if env_id == CUBE:
        monkeypatch.setattr(module, "LENGTH", 61)
    name = "play_episode" if env_id == CUBE else "scripted_episode"
    plain, calls = getattr(module, name), []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(module, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_data(tmp_path, env_id, 3)
    path = make_data(tmp_path, env_id, 3)
    assert len(calls) == 1 + (4 if env_id == CUBE else 3)  # the first episode was kept, the second made again
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".parts", ".tmp"))]
    reader = load("sac_flow_g")
    args = reader.with_presets(reader.Args(env_id=env_id, dataset_path=data[env_id]))
    env = reader.make_env(args)
    whole, again = (reader.load_dataset(args, file, env) for file in (data[env_id], path))
    assert all(np.array_equal(whole[key], again[key]) for key in whole)


@needs_extras
def test_data_of_other_flags_are_not_mixed(tmp_path, monkeypatch, capsys):
    module = load("make_dataset")
    monkeypatch.setattr(module, "LENGTH", 5)
    monkeypatch.setattr(module, "play_episode", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_data(tmp_path, CUBE, 1)
    with pytest.raises(SystemExit) as stop:
        make_data(tmp_path, CUBE, 1, seed=7)
    assert stop.value.code == 2 and "delete" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{CUBE}-val.npz").touch()  # of a call whose data were deleted
    with pytest.raises(SystemExit) as stop:
        make_data(other, CUBE, 1)
    assert stop.value.code == 2 and "-val.npz is there already; choose another or delete it" in capsys.readouterr().err


@needs_extras
def test_ogbench_reader_agrees_with_ogbench(data):
    """Every array of its own loader, relabelled for the task."""
    import ogbench

    module = load("sac_flow_g")
    args = module.with_presets(module.Args(env_id=CUBE, dataset_path=data[CUBE]))
    mine = module.load_dataset(args, data[CUBE], module.make_env(args))
    _, theirs, _ = ogbench.make_env_and_datasets(CUBE, dataset_path=data[CUBE])
    names = {"obs": "observations", "action": "actions", "reward": "rewards", "mask": "masks"}
    names |= {"terminal": "terminals", "next_obs": "next_observations"}
    assert mine.keys() == names.keys() and len(mine["reward"]) == 180
    for name, official in names.items():
        assert np.array_equal(mine[name], theirs[official]), name


@needs_extras
def test_rewards_follow_the_success_of_the_state(data, tmp_path):
    """A cube on its target: reward 0 and no bootstrap there; sparse counts all or nothing."""
    module = load("sac_flow_g")
    with np.load(data[CUBE]) as arrays:
        changed = dict(arrays)
    changed["qpos"][:, 14:17] = 0.3
    changed["qpos"][7, 14:17] = [0.425, -0.1, 0.02]  # of task 1
    path = str(tmp_path / "cube.npz")
    np.savez(path, **changed)
    for sparse in (False, True):
        args = module.with_presets(module.Args(env_id=CUBE, dataset_path=path, sparse=sparse))
        made = module.load_dataset(args, path, module.make_env(args))
        assert made["reward"].tolist() == [-1.0] * 7 + [0.0] + [-1.0] * 172
        assert np.flatnonzero(made["mask"] == 0).tolist() == [7]


@needs_extras
@pytest.mark.parametrize(("timing", "steps"), [("pre", 2), ("post", 1)])
def test_success_timing_reaches_the_environment(data, timing, steps):
    """A cube put on its target ends the episode at the first step, or at the next, which is of that state."""
    import mujoco

    module = load("sac_flow_g")
    args = module.with_presets(module.Args(env_id=CUBE, dataset_path=data[CUBE], success_timing=timing))
    env = module.make_env(args)
    env.reset(seed=0)
    core = env.unwrapped
    core._data.joint("object_joint_0").qpos[:3] = [0.425, -0.1, 0.02]
    mujoco.mj_forward(core._model, core._data)
    ends = [env.step(np.zeros(5))[2] for _ in range(steps)]
    assert ends == [False] * (steps - 1) + [True]


def robomimic_file(path, source, lengths, done=1, failed=(), success=None):
    """A file of demonstrations of these lengths, whose numbers sort otherwise as text, rows of which can be told. The
    last `done` rows of each are done, and the last `success`, by default as many, are rewarded but in those that
    `failed`."""
    import h5py

    with h5py.File(source) as old, h5py.File(path, "w") as new:
        group = new.create_group("data")
        group.attrs["env_args"], group.attrs["total"] = old["data"].attrs["env_args"], sum(lengths)
        for i, length in enumerate(lengths):
            demo, rows = group.create_group(f"demo_{i}"), np.arange(length) + 100.0 * i
            demo["actions"] = np.tile(rows[:, None] / 2000, 7)
            demo["states"] = np.tile(rows[:, None], 30)
            demo["dones"] = (np.arange(length) >= length - done).astype(float)
            rewarded = 0 if i in failed else done if success is None else success
            demo["rewards"] = (np.arange(length) >= length - rewarded).astype(float)
            for key, width in (
                ("robot0_eef_pos", 3),
                ("robot0_eef_quat", 4),
                ("robot0_gripper_qpos", 2),
                ("object", 10),
            ):
                demo[f"obs/{key}"] = np.tile(rows[:, None], width)
                demo[f"next_obs/{key}"] = np.tile(rows[:, None] + 1, width)
    return str(path)


@needs_extras
def test_robomimic_reader_takes_demonstrations_by_number(data, tmp_path):
    module, lengths = load("sac_flow_g"), [4] * 12
    path = robomimic_file(tmp_path / "lift.hdf5", data["lift"], lengths)
    args = module.with_presets(module.Args(env_id="lift", dataset_path=path))
    made = module.load_dataset(args, path, module.make_env(args))
    rows = [100 * i + j for i in range(12) for j in range(4)]
    assert made["obs"][:, 0].tolist() == rows and made["obs"].shape == (48, 19)
    assert made["next_obs"][:, 18].tolist() == [row + 1 for row in rows]
    assert made["reward"].tolist() == [-1.0, -1, -1, 0] * 12 and made["mask"].tolist() == [1.0, 1, 1, 0] * 12
    assert made["terminal"].tolist() == [0.0, 0, 0, 1] * 12
    np.testing.assert_allclose(made["action"][:, 3], np.array(rows) / 2000, rtol=1e-6)
    # Where a demonstration goes on after its success, every such row is done: none follows another in a chunk.
    path = robomimic_file(tmp_path / "longer.hdf5", data["lift"], lengths, done=2)
    made = module.load_dataset(args, path, module.make_env(args))
    assert made["terminal"].tolist() == [0.0, 0, 1, 1] * 12 == (1 - made["mask"]).tolist()
    path = robomimic_file(tmp_path / "failed.hdf5", data["lift"], lengths, done=0)
    assert module.load_dataset(args, path, module.make_env(args))["terminal"].tolist() == [0.0, 0, 0, 1] * 12


@needs_extras
@pytest.mark.parametrize("failed", [(1, 3), (0,), (3,), (0, 1, 2), ()])
def test_failed_demonstrations_bootstrap_at_their_ends(script, data, tmp_path, capsys, failed):
    """robomimic's files set `dones` there too: terminal is only a step that is done and a success."""
    path = robomimic_file(tmp_path / "lift.hdf5", data["lift"], [4, 5, 3, 4], failed=failed)
    args = script.with_presets(script.Args(env_id="lift", dataset_path=path))
    env = script.make_env(args)
    made = script.load_dataset(args, path, env)
    ends = [3, 8, 11, 15]
    succeeded = [end for i, end in enumerate(ends) if i not in failed]
    assert np.flatnonzero(made["mask"] == 0).tolist() == succeeded == np.flatnonzero(made["reward"] == 0).tolist()
    assert np.flatnonzero(made["terminal"]).tolist() == ends
    told = f", of which {len(failed)} failed: their ends bootstrap" if failed else ""
    assert f"{path}: 4 demonstrations{told}\n" in capsys.readouterr().out
    # A file that is done at its last step alone, where the success was reached before: only that step is an end.
    path = robomimic_file(tmp_path / "late.hdf5", data["lift"], [4, 5], success=2)
    made = script.load_dataset(args, path, env)
    assert np.flatnonzero(made["mask"] == 0).tolist() == [3, 8] and (made["reward"] == 0).sum() == 4


# Chunks.
def brute_chunks(steps, start, length, gamma):
    """The specification, read literally: one chunk from a list of steps (dicts)."""
    rows = steps[start : start + length]
    valid = [1.0 - max([row["terminal"] for row in rows[:i]], default=0) for i in range(length)]
    reward = sum(gamma**j * row["reward"] for j, row in enumerate(rows))
    chunk = {"obs": rows[0]["obs"], "action": np.concatenate([row["action"] for row in rows]), "reward": reward}
    chunk |= {"mask": min(row["mask"] for row in rows), "next_obs": rows[-1]["next_obs"], "valid": valid}
    return chunk


def check_sampler(sample, steps, length, gamma, keys=("obs", "action", "reward", "mask", "next_obs", "valid")):
    """Draws of every possible start, each as often as the others, none else, equal to the brute-force chunks."""
    drawn = sample(batch=40 * len(steps), length=length, generator=torch.Generator().manual_seed(0))
    starts = {steps[i]["obs"].tobytes(): i for i in range(len(steps))}
    assert len(starts) == len(steps)  # observations tell the steps
    index = [starts[obs.numpy().tobytes()] for obs in drawn["obs"]]
    counts = np.bincount(index, minlength=len(steps))
    assert (counts[: len(steps) - length + 1] > 10).all() and counts[len(steps) - length + 1 :].sum() == 0
    for key in keys:
        expected = np.array([brute_chunks(steps, i, length, gamma)[key] for i in index], dtype=np.float32)
        np.testing.assert_allclose(drawn[key].numpy(), expected, rtol=1e-5, atol=1e-6, err_msg=key)


def raw_steps(env_id, path, module):
    """The steps of a file, without its reader: straight from the arrays."""
    steps = []
    if env_id == "lift":
        import h5py

        with h5py.File(path) as file:
            for i in range(len(file["data"])):
                group = file[f"data/demo_{i}"]
                for j in range(len(group["actions"])):
                    row = {"action": group["actions"][j], "reward": group["rewards"][j] - 1}
                    row |= {"mask": 1 - group["dones"][j] * group["rewards"][j]}
                    row["terminal"] = j == len(group["actions"]) - 1
                    for side in ("obs", "next_obs"):
                        row[side] = np.concatenate([group[f"{side}/{key}"][j] for key in module.OBS_KEYS])
                    steps.append(row)
    else:
        with np.load(path) as arrays:
            for i in range(len(arrays["actions"]) - 1):
                if not arrays["terminals"][i]:
                    wrong = np.linalg.norm(arrays["qpos"][i, 14:17] - [0.425, -0.1, 0.02]) > 0.04
                    row = {"obs": arrays["observations"][i], "next_obs": arrays["observations"][i + 1]}
                    row |= {"action": arrays["actions"][i], "reward": -float(wrong), "mask": float(wrong)}
                    steps.append(row | {"terminal": arrays["terminals"][i + 1]})
    return [{k: np.asarray(v, np.float32) for k, v in step.items()} for step in steps]


@needs_extras
@pytest.mark.parametrize("env_id", [CUBE, "lift"])
@pytest.mark.parametrize("length", [1, 5])
def test_chunks_of_a_file_are_those_of_the_specification(data, env_id, length):
    module = load("sac_flow_g")
    args = module.with_presets(module.Args(env_id=env_id, dataset_path=data[env_id]))
    env = module.make_env(args)
    steps = raw_steps(env_id, data[env_id], module)
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    buffer = module.ReplayBuffer(len(steps) + 5, *sizes, torch.device("cpu"))
    buffer.load(module.load_dataset(args, data[env_id], env))
    check_sampler(functools.partial(buffer.sample, gamma=0.9), steps, length, 0.9)
    dataset = load("reinflow").Dataset(module.load_dataset(args, data[env_id], env), torch.device("cpu"))
    check_sampler(dataset.sample, steps, length, 0.9, ("obs", "action", "valid"))


@pytest.mark.parametrize("online", [0, 3, 20, 50])
def test_chunks_never_span_the_rings_seam(online, tmp_path):
    """A ring of 30 with a dataset of 20 and this many online steps: the latest 30 in the order they were made."""
    module, generator = load("sac_flow_g"), np.random.default_rng(0)
    steps = []
    for i in range(20 + online):
        row = {"obs": [i, 0], "action": generator.uniform(-1, 1, 3), "reward": -generator.random(), "mask": i % 7 != 6}
        steps.append(row | {"terminal": i % 7 == 6 or i == 19, "next_obs": [i + 1, 0]})
    steps = [{key: np.asarray(value, np.float32) for key, value in step.items()} for step in steps]
    buffer = module.ReplayBuffer(30, 2, 3, torch.device("cpu"))
    buffer.load({key: np.stack([step[key] for step in steps[:20]]) for key in buffer.widths})
    with open(tmp_path / "replay.bin", "ab") as replay:
        for i, step in enumerate(steps[20:]):
            replay.write(buffer.add(**step))
            if i % 7 == 0:
                module.save_checkpoint(str(tmp_path), {}, replay)
        check_sampler(functools.partial(buffer.sample, gamma=0.8), steps[-30:], 4, 0.8)
        # What a checkpoint stores and puts back: online steps alone.
        module.save_checkpoint(str(tmp_path), {}, replay)
    assert os.path.getsize(tmp_path / "replay.bin") == 4 * online * buffer.rows.shape[1]
    other = module.ReplayBuffer(30, 2, 3, torch.device("cpu"))
    other.load({key: np.stack([step[key] for step in steps[:20]]) for key in buffer.widths})
    draws, begun = torch.Generator(), online // 10  # the episode in progress is in the file, also where the ring is not
    state = {"counters": (online, 0, begun), "crc": buffer.crc, "generator": draws.get_state()}
    rows = module.restore(str(tmp_path), state, {}, other, draws)
    kept = torch.arange(online - min(20 + online, 30), online) % 30
    assert (other.count, other.crc) == (online, buffer.crc) and torch.equal(other.rows[kept], buffer.rows[kept])
    assert buffer.split(rows)["obs"][:, 0].tolist() == list(range(20 + begun, 20 + online))


# Flow matching and losses.
def matched_flow(module, squash):
    """A flow policy after flow matching alone on 30 % of .76 and 70 % of -1, and samples of it without noise, by 16
    steps: with 4, Euler's error moves a tenth of the mass from one mode to the other."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    flow_t = module.__name__ == "o2o_sac_flow_t"
    size = {"d_model": 32, "n_layers": 1} if flow_t else {"hidden_dim": 64}
    actor = module.Actor(2, 1, module.Args(squash=squash, sampling_steps=16, horizon_length=1, **size))
    optimizer, steps = torch.optim.Adam(actor.parameters()), 1000
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - i / steps)
        action = torch.where(torch.rand(256, 1, generator=generator) < 0.3, 0.76, -1.0)
        batch = {"obs": torch.ones(256, 2), "action": action, "valid": torch.ones(256, 1)}
        x_0, t = torch.randn(256, 1, generator=generator), torch.rand(256, 1, generator=generator)
        optimizer.zero_grad()
        module.flow_loss(actor, batch, x_0, t).backward()
        optimizer.step()
    with torch.no_grad():
        return actor.act(torch.ones(4000, 2), torch.randn(17, 4000, 1, generator=generator), True).squeeze(1)


@pytest.mark.parametrize(("name", "squash"), [(name, "tanh") for name in FLOW_SCRIPTS] + [("sac_flow_naive", "clip")])
def test_both_modes_come_out_of_the_squashed_policy(name, squash):
    """In the right shares and places, a saturated one among them."""
    actions = matched_flow(load(name), squash)
    high, low = actions[actions > 0], actions[actions <= 0]
    assert len(high) / len(actions) == pytest.approx(0.3, abs=0.06)
    assert high.median().item() == pytest.approx(0.76, abs=0.04) and (high - 0.76).abs().quantile(0.75) < 0.15
    assert low.median().item() < -0.97 and (low + 1).quantile(0.8) < 0.1


def test_raw_targets_in_front_of_tanh_miss_the_modes(monkeypatch):
    """The released code's mismatch, which the test above is there to catch: .76 comes out as tanh(.76) = .64."""
    module = load("sac_flow_naive")
    monkeypatch.setattr(module.Actor, "unsquash", lambda self, action: action)
    actions = matched_flow(module, "tanh")
    assert actions[actions > 0].median().item() == pytest.approx(np.tanh(0.76), abs=0.03)
    assert actions[actions <= 0].median().item() > -0.85


def test_log_det_is_that_of_the_squashing(flow):
    actor = flow.Actor(3, 4, flow.Args(squash="tanh")).double()
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(actor.squash(x).sum(), x)[0]
    assert torch.allclose(actor.log_det(x), slope.log().sum(1))
    inside = actor.squash(x).detach().clamp(-0.99, 0.99)
    assert torch.allclose(actor.squash(actor.unsquash(inside)), inside)
    clipped = flow.Actor(3, 4, flow.Args(squash="clip"))
    assert (clipped.log_det(10 * x) == 0).all() and clipped.squash(10 * x).abs().max() <= 1


def test_sigma_is_the_noise_of_a_step(flow):
    """One step of K = 4 scatters by sigma / 2, whatever the networks."""
    actor = flow.Actor(3, 2, flow.Args(sigma=0.3))
    obs, noise = torch.randn(5, 3).repeat(2, 1), torch.zeros(5, 10, 2)
    noise[1, 5:] = 1.0
    path = actor.rollout(obs, noise)
    assert torch.allclose(path[1][5:] - path[1][:5], torch.full((5, 2), 0.15), atol=1e-5)


def make_batch(size=12, length=3, actions=2):
    generator = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(size, 4, generator=generator) for name in ("obs", "next_obs")}
    batch["action"] = torch.rand(size, length * actions, generator=generator) * 2 - 1
    batch["reward"] = torch.randn(size, generator=generator)
    batch["mask"] = (torch.arange(size) % 3 > 0).float()
    lengths = torch.arange(size)[:, None] % 3 + 1
    return batch | {"valid": (torch.arange(length) < lengths).float()}


def test_critic_target_is_that_of_the_specification(flow):
    batch, module = make_batch(), flow
    actor = module.Actor(4, 6, module.Args())
    critic, target = module.Critic(4, 6, 16), module.Critic(4, 6, 16)
    noise = actor.draw_noise(12, torch.Generator().manual_seed(1))
    loss, q_mean = module.critic_loss(critic, target, module.frozen_view(actor), batch, noise, 0.3, -2.0, 0.9**3)
    loss.backward()
    with torch.no_grad():
        path = actor.rollout(batch["next_obs"], noise)
        action = torch.tanh(path[-1])
        log_prob = -torch.log(1 - action.double() ** 2).sum(1)
        value = target(batch["next_obs"], action).mean(0) - 0.3 * (log_prob - 2.0)
        y = batch["reward"] + 0.9**3 * batch["mask"] * value
        q = critic(batch["obs"], batch["action"])
        expected = sum(batch["valid"][i, 2] * (q[j, i] - y[i]) ** 2 for i in range(12) for j in range(2)) / 24
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4) and q_mean.item() == pytest.approx(q.mean().item())
    assert all(p.grad is None for part in (actor, target) for p in part.parameters())
    assert sum(p.numel() for p in critic.parameters()) == 2 * (10 * 16 + 3 * 16 * 16 + 4 * 3 * 16 + 16 + 1)


def test_proximity_and_flow_matching_leave_out_invalid_steps(flow):
    """Actions behind an episode's end change neither; those before it do."""
    module, batch = flow, make_batch()
    actor, critic = module.Actor(4, 6, module.Args()), module.Critic(4, 6, 16)
    noise, t = actor.draw_noise(12, torch.Generator().manual_seed(1)), torch.full((12, 1), 0.3)
    changed = dict(batch)
    steps = batch["valid"].repeat_interleave(2, dim=1)
    for part, same in ((1 - steps, True), (steps, False)):
        changed["action"] = batch["action"] * (1 - 0.5 * part)
        # At t = 0 the velocity network does not see the data.
        losses = [module.flow_loss(actor, b, noise[0], 0 * t).item() for b in (batch, changed)]
        losses += [module.actor_loss(actor, critic, b, noise, 0.1, 7.0)[2].item() for b in (batch, changed)]
        assert (losses[0] == pytest.approx(losses[1])) == (losses[2] == pytest.approx(losses[3])) == same
    loss, log_prob, distance = module.actor_loss(actor, critic, batch, noise, 0.1, 7.0)
    action, log_probs = actor(batch["obs"], noise)
    expected = (0.1 * log_probs - critic(batch["obs"], action).mean(0)).mean() + 7 * distance
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert distance.item() == pytest.approx(((action - batch["action"]) ** 2 * steps).mean().item(), rel=1e-5)


def make_networks(module):
    """Actor, critic and what the actor's `act` takes beside 12 observations."""
    own = {"policy_hidden_dim": 16} if module is load("qc_fql") else {}
    actor, critic = module.Actor(4, 6, module.Args(**own)), module.Critic(4, 6, 16)
    return actor, critic, actor.draw_noise(12, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", (*FLOW_SCRIPTS, "qc_fql"))
def test_networks_see_normalised_observations(name):
    """Fitted to the data, each network maps s as the unfitted one maps the normalised s; so does each loss."""
    module, batch = load(name), make_batch()
    actor, critic, noise = make_networks(module)
    x_0, t = torch.randn(12, 6), torch.rand(12, 1)

    def outputs(batch):
        got = [actor.act(batch["obs"], noise), critic(batch["obs"], batch["action"])]
        if name == "qc_fql":
            losses = module.actor_loss(actor, module.frozen_view(actor), critic, batch, x_0, t, noise, 3.0)
            return [*got, actor.imitate(batch["obs"], noise), *losses]
        return [*got, module.flow_loss(actor, batch, x_0, t), module.actor_loss(actor, critic, batch, noise, 0.1, 7)[0]]

    shown = 5 + 3 * batch["obs"]
    mean, std = shown.mean(0), shown.std(0)
    expected = outputs(batch | {"obs": (shown - mean) / std})
    for part in (actor, critic):
        part.norm.fit(shown)
    for got, wanted in zip(outputs(batch | {"obs": shown}), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_layers_of_the_critic_are_normalised_behind_their_activation(flow):
    critic = flow.Critic(3, 2, 8)
    obs, action = torch.randn(5, 3), torch.randn(5, 2)
    for head, q in zip(critic.heads, critic(obs, action), strict=True):
        x, linear = torch.cat([obs, action], dim=1), [layer for layer in head if isinstance(layer, torch.nn.Linear)]
        for layer in linear[:-1]:  # scale and shift of the normalisation start at 1 and 0
            x = torch.nn.functional.gelu(layer(x), approximate="tanh")
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(linear[-1](x).squeeze(1), q, rtol=1e-4, atol=1e-5)


def test_gradients_along_the_rollout_are_those_of_the_actors_loss(flow):
    """A_0 is noise[0], and A_k moves by sigma sqrt(dt) with noise[k]: the loss without proximity is differentiated."""
    module, batch = flow, make_batch()
    actor, critic, noise = make_networks(module)
    noise.requires_grad_()
    loss = module.actor_loss(actor, critic, batch, noise, 0.3, 0.0)[0]
    slopes = 12 * torch.autograd.grad(loss, noise)[0]
    slopes[1:] /= actor.K**-0.5 * module.Args().sigma
    seen = module.path_statistics(*map(module.frozen_view, (actor, critic)), batch["obs"], noise.detach(), 0.3)
    assert len(seen) == actor.K + 1
    for k in range(actor.K + 1):
        assert seen[f"gradients/step_{k}"].item() == pytest.approx(slopes[k].norm(dim=1).mean().item(), rel=1e-3)


class Seven:
    """Every episode has seven steps, and succeeds at its last."""

    def reset(self, seed=None):
        self.steps, self.taken = 0, []
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.taken.append(float(action[0]))
        return np.full(2, self.steps, np.float32), -1.0, self.steps == 7, False, {"success": self.steps == 7}


def test_evaluation_takes_whole_chunks_without_noise(script):
    """Chunks of three steps: a new one at steps 0, 3 and 6, of the observation there."""
    args, env, asked = script.Args(eval_episodes=2, horizon_length=3), Seven(), []

    class Policy:
        def draw_noise(self, batch, generator):
            return torch.zeros(batch)

        def act(self, obs, noise, deterministic=False):
            asked.append((obs[0, 0].item(), deterministic))
            return torch.tensor([[0.1, 0.2, 0.3]]) + obs[:, :1] / 10

    scores = script.evaluate(Policy(), env, args, torch.device("cpu"))
    assert asked == [(0, True), (3, True), (6, True)] * 2
    assert env.taken == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert scores == {"success": 1, "episodic_return": -7, "episodic_length": 7}


def test_fql_losses():
    """Distillation moves the one-step policy alone, flow matching the flow alone; Q gets no gradient, mu does."""
    module, batch = load("qc_fql"), make_batch()
    actor, critic = module.Actor(4, 6, module.Args(policy_hidden_dim=16)), module.Critic(4, 6, 16)
    views = module.frozen_view(actor), module.frozen_view(critic)
    z, x_0, t = *torch.randn(2, 12, 6), torch.rand(12, 1)
    loss, flow, distance = module.actor_loss(actor, *views, batch, x_0, t, z, 3.0)
    loss.backward()
    assert all(p.grad is None for p in critic.parameters())
    gradients = [p.grad.clone() for p in actor.parameters()]
    actor.zero_grad()
    action = actor.one_step(torch.cat([batch["obs"], z], dim=1))
    x = z.clone()
    with torch.no_grad():
        for k in range(10):
            x += actor.flow(torch.cat([batch["obs"], x, torch.full((12, 1), k / 10)], dim=1)) / 10
    expected = 3 * ((action - x.clamp(-1, 1)) ** 2).mean() - critic(batch["obs"], action.clamp(-1, 1)).mean()
    x_1 = batch["action"]
    v = actor.flow(torch.cat([batch["obs"], (1 - t) * x_0 + t * x_1, t], dim=1))
    matching = ((v - (x_1 - x_0)) ** 2 * batch["valid"].repeat_interleave(2, dim=1)).mean()
    (expected + matching).backward()
    assert flow.item() == pytest.approx(matching.item(), rel=1e-5) and distance.item() > 0
    assert (loss - flow).item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, parameter in zip(gradients, actor.parameters(), strict=True):
        assert torch.allclose(mine, parameter.grad, atol=1e-6)


def test_fql_critic_target():
    """Both heads of the target network, averaged; chunks that pass an episode's end count for nothing."""
    module, batch, z = load("qc_fql"), make_batch(), torch.randn(12, 6)
    actor = module.Actor(4, 6, module.Args(policy_hidden_dim=16))
    critic, target = module.Critic(4, 6, 16), module.Critic(4, 6, 16)
    loss, _ = module.critic_loss(critic, target, module.frozen_view(actor), batch, z, 0.9**3)
    action = actor.one_step(torch.cat([batch["next_obs"], z], dim=1)).clamp(-1, 1)
    wanted = batch["reward"] + 0.9**3 * batch["mask"] * sum(target(batch["next_obs"], action)) / 2
    errors = [(batch["valid"][:, 2] * (q - wanted) ** 2).mean() for q in critic(batch["obs"], batch["action"])]
    assert loss.item() == pytest.approx(sum(errors).item() / 2, rel=1e-5)


def make_reinflow_actor(module):
    actor = module.Actor(4, 6, module.Args(hidden_dim=16, critic_hidden_dim=16))
    actor.fit(torch.tensor([[-2.0] * 4, [3.0] * 4]), torch.tensor([[-1.0] * 2, [0.5] * 2]))
    return actor


@needs_extras
@pytest.mark.parametrize("name", ["sac_flow_g", "qc_fql"])  # the three flows share main
def test_what_the_loop_hands_to_the_losses(name, data, tmp_path, monkeypatch):
    """The chunk's discount, each phase's weight, targets that follow by tau at every update, the data's entropy."""
    module, seen, weights = load(name), [], []
    critic_loss, actor_loss = module.critic_loss, module.actor_loss

    def watch_critic(critic, target, *rest):
        seen.append([[p.detach().clone() for p in network.parameters()] for network in (critic, target)] + [rest[-1]])
        return critic_loss(critic, target, *rest)

    def watch_actor(*inputs):
        weights.append(float(inputs[-1]))
        return actor_loss(*inputs)

    monkeypatch.setattr(module, "critic_loss", watch_critic)
    monkeypatch.setattr(module, "actor_loss", watch_actor)
    own = {"distill": 5.0} if name == "qc_fql" else {"beta_offline": 3.0, "beta_online": 2.0}
    flags = {"dataset_path": data[CUBE], "run_dir": str(tmp_path), "eval_frequency": 0, "tau": 0.3, "gamma": 0.9}
    run = module.main(module.Args(**small(name, **flags, **own)))
    for (_, old, _), (critic, target, discount) in itertools.pairwise(seen):
        assert discount == pytest.approx(0.9**5)
        for before, towards, after in zip(old, critic, target, strict=True):
            torch.testing.assert_close(after, 0.7 * before + 0.3 * towards)
    online = len(weights) - 24
    assert online > 0 and weights == ([5.0] * (24 + online) if name == "qc_fql" else [3.0] * 24 + [2.0] * online)
    if name == "sac_flow_g":
        args = module.Args(**module.load_checkpoint(run)["args"])
        actions = np.float64(module.load_dataset(args, data[CUBE], module.make_env(args))["action"])
        log_slope = np.log(1 - actions.clip(-0.999, 0.999) ** 2).sum(axis=1)  # of the squashing, for each step
        assert args.target_entropy == pytest.approx(5 * log_slope.mean(), rel=1e-4)


@pytest.mark.parametrize("drift", [False, True])
def test_the_rollout_is_that_of_the_scripts_above(flow, drift):
    """With and without the drift (14); without noise the later draws change nothing."""
    above = importlib.import_module(flow.__name__.removeprefix("o2o_"))
    torch.manual_seed(0)
    actor = flow.Actor(3, 2, flow.Args(drift_correction=drift))
    other = above.Actor(3, gym.spaces.Box(-1, 1, (2,)), above.Args(drift_correction=drift, normalize_obs=False))
    other.velocity = actor.velocity
    obs, noise = torch.randn(7, 3), torch.randn(5, 7, 2)
    for deterministic in (False, True):
        paths = actor.rollout(obs, noise, deterministic), other.rollout(obs, noise, deterministic)[0]
        for mine, theirs in zip(*paths, strict=True):
            torch.testing.assert_close(mine, theirs)
    still = torch.cat([noise[:1], noise[1:] + 1])
    assert torch.equal(actor.act(obs, noise, True), actor.act(obs, still, True))
    draws = iter((noise[:, :1], still[:, :1]))
    actor.draw_noise = lambda batch, generator: next(draws)
    args = flow.Args(horizon_length=1)
    chunks = [flow.next_chunk(actor, obs[0].numpy(), args, torch.Generator(), deterministic=True) for _ in range(2)]
    assert np.array_equal(chunks[0][0], chunks[1][0])


def test_reinflow_updates_are_ppos():
    """Written out: the critic's regression, and the actor's clipped gain once warm."""
    module = load("reinflow")
    torch.manual_seed(0)
    flags = {"update_epochs": 3, "batch_size_online": 99, "clip_coef": 0.005, "target_kl": 1e9, "max_grad_norm": 1e9}
    args = module.Args(hidden_dim=16, critic_hidden_dim=16, ent_coef=0.1, gamma=0.9, gae_lambda=0.8, **flags)
    actor, critic = make_reinflow_actor(module), module.mlp([4, 16, 1], torch.nn.Mish)
    obs, next_obs, reward, zero = torch.randn(5, 2, 4), torch.randn(5, 2, 4), torch.randn(5, 2), torch.zeros(5, 2)
    flat = obs.flatten(0, 1)
    chain = actor.sample(flat, torch.randn(5, 10, 6)).detach()
    rollout = {"obs": obs, "next_obs": next_obs, "reward": reward, "terminated": zero, "ended": zero}
    rollout["chain"] = chain.transpose(0, 1).unflatten(0, (5, 2))
    mine, judge = copy.deepcopy(actor), copy.deepcopy(critic)

    def improve(critic, q_rate, warm):
        optimizers = torch.optim.SGD(actor.parameters(), lr=0.05), torch.optim.SGD(critic.parameters(), lr=q_rate)
        module.improve(actor, critic, *optimizers, rollout, args, torch.Generator(), warm)

    improve(copy.deepcopy(critic), 0.1, False)
    assert all(map(torch.equal, actor.parameters(), mine.parameters())), "the critic alone at first"
    improve(critic, 0.1, True)

    value = lambda obs: judge(mine.normalize(obs)).squeeze(-1)  # noqa: E731
    with torch.no_grad():
        advantage = module.advantages(reward, value(obs), value(next_obs), zero, zero, 0.9, 0.8)
        wanted, advantage = (advantage + value(obs)).flatten(), advantage.flatten()
        before, scaled = mine.log_prob(flat, chain)[0], (advantage - advantage.mean()) / advantage.std(correction=0)
    of_actor, of_critic = torch.optim.SGD(mine.parameters(), lr=0.05), torch.optim.SGD(judge.parameters(), lr=0.1)
    for _ in range(3):
        log_prob, entropy = mine.log_prob(flat, chain)
        ratio = (log_prob - before).exp()
        gain = torch.where(scaled > 0, ratio.clamp(max=1.005), ratio.clamp(min=0.995)) * scaled
        for optimizer, loss in (
            (of_critic, args.vf_coef * 0.5 * (value(flat) - wanted).square().mean()),
            (of_actor, -gain.mean() - 0.1 * entropy),
        ):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert ((ratio - 1).abs() > 0.005).any(), "something was clipped"
    for one, other in ((actor, mine), (critic, judge)):
        for got, expected in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_reinflow_clips_the_gradient():
    module = load("reinflow")
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    module.descend(optimizer, weight @ torch.tensor([3.0, 4.0]), 0.5)
    torch.testing.assert_close(weight.data, torch.tensor([-0.3, -0.4]))


class Five:
    """Pays 1, 2, .. for its steps; odd episodes terminate at the fourth, even ones are cut off at the fifth."""

    episode = -1

    def reset(self, seed=None):
        self.episode, self.steps = self.episode + 1, 0
        return np.float32([self.episode, 0]), {}

    def step(self, action):
        self.steps += 1
        ends = self.episode % 2 == 1 and self.steps == 4, self.steps == 5
        return np.float32([self.episode, self.steps]), float(self.steps), *ends, {"success": False}


class Idle:
    """A policy that does nothing."""

    def draw_noise(self, batch, generator):
        return None

    def sample(self, obs, noise):
        return torch.zeros(2, len(obs), 3)

    def to_env(self, x):
        return x


def test_reinflow_rollouts_keep_the_last_observation_and_all_of_a_chunk_s_reward():
    module = load("reinflow")
    args = module.Args(num_steps=4, horizon_length=3, offline_steps=0, total_timesteps=99)
    writer = type("Writer", (), {"add_scalar": lambda *_: None})()
    rows, step, episode = module.collect(Idle(), [Five()], args, writer, torch.Generator(), 0, 0)
    assert rows["obs"][:, 0].tolist() == [[0, 0], [0, 3], [1, 0], [1, 3]]
    assert rows["next_obs"][:, 0].tolist() == [[0, 3], [0, 5], [1, 3], [1, 4]], "not that after the reset"
    assert rows["reward"][:, 0].tolist() == [6, 9, 6, 4]
    assert rows["ended"][:, 0].tolist() == [0, 1, 0, 1] and rows["terminated"][:, 0].tolist() == [0, 0, 0, 1]
    assert (step, episode) == (9, 3)


def test_reinflow_density_is_that_of_its_samples():
    """Recomputed from the stored chain, it is the Gaussian density of the noise that was drawn: a ratio of 1."""
    module = load("reinflow")
    actor = make_reinflow_actor(module)
    obs, noise = torch.randn(50, 4), actor.draw_noise(50, torch.Generator().manual_seed(0)).clamp(-3, 3)
    with torch.no_grad():
        chain = actor.sample(obs, noise)
        log_prob, entropy = actor.log_prob(obs, chain)
        std = actor.std(actor.normalize(obs))
    normal = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    expected = normal.log_prob(noise).sum((0, 2)) - 4 * std.log().sum(1)
    assert torch.allclose(log_prob, (expected / 5 / 6).clamp(-1, 1), atol=1e-4)
    entropies = [normal.entropy()] + [(normal.entropy() + std.log()).mean()] * 4  # of x_0, then of four steps
    assert entropy.item() == pytest.approx(sum(entropies).item() / 5, rel=1e-5)
    assert std.min() >= 0.08 and std.max() <= 0.14 and chain.shape == (5, 50, 6)
    actions = actor.to_env(chain[-1])
    assert actions.min() >= -1 and actions.max() <= 0.5  # in the data's range
    assert torch.allclose(actor.to_env(actor.normalize_action(actions)), actions, atol=1e-5)
    assert torch.equal(
        actor.sample(obs, noise, True)[1:], actor.sample(obs, noise * torch.eye(5)[0][:, None, None], True)[1:]
    )


def test_reinflow_divides_rewards_by_the_deviation_of_their_returns():
    """From the first chunk on: in the first, all returns are equal where all rewards are."""
    module = load("reinflow")
    reward, ended = torch.full((200, 3), -4.0), torch.zeros(200, 3)
    ended[99] = 1
    returns = [-4 * (1 - 0.9 ** (i % 100 + 1)) / 0.1 for i in range(200)]
    scale = module.ReturnScale(0.9)
    assert torch.allclose(scale(reward, ended), reward / np.std(returns), rtol=1e-3)
    scale(2 * reward, ended)
    both = returns + [2 * value for value in returns]
    assert scale.var == pytest.approx(np.var(both), rel=1e-3) and scale.mean == pytest.approx(np.mean(both), rel=1e-3)
    rare = torch.zeros(1000, 1)
    rare[500] = 1.0
    assert module.ReturnScale(0.0)(rare, torch.ones(1000, 1)).max() == 10


def test_advantages_against_the_definition():
    """Sums of discounted errors up to the episode's end; a truncation bootstraps, a termination does not."""
    module, generator = load("reinflow"), np.random.default_rng(0)
    reward, value, next_value = generator.normal(size=(3, 9, 2))
    terminated, ended = np.zeros((2, 9, 2))
    terminated[3, 0] = ended[3, 0] = ended[5, 1] = 1
    tensors = (torch.as_tensor(x) for x in (reward, value, next_value, terminated, ended))
    made = module.advantages(*tensors, 0.9, 0.8)
    for i in range(9):
        for j in range(2):
            expected, factor = 0.0, 1.0
            for k in range(i, 9):
                bootstrap = 0.9 * next_value[k, j] * (1 - terminated[k, j])
                expected += factor * (reward[k, j] + bootstrap - value[k, j])
                factor *= 0.9 * 0.8
                if ended[k, j]:
                    break
            assert made[i, j].item() == pytest.approx(expected)


# Environments.
def robosuite_stub(folder, env_id):
    """A file that has what an environment is built from, and no more."""
    import h5py

    module, path = load("make_dataset"), str(folder / f"{env_id}.hdf5")
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(module.env_args(env_id))
    return path


@needs_extras
@pytest.mark.parametrize("env_id", [CUBE, "scene-play-singletask-task2-v0", "lift", "can", "square"])
def test_episodes_are_functions_of_seed_and_actions(env_id, tmp_path):
    """Whatever came before, and in another environment: exact resuming rests on it."""
    module = load("sac_flow_g")
    path = robosuite_stub(tmp_path, env_id) if env_id in module.ROBOMIMIC else None
    args = module.with_presets(module.Args(env_id=env_id, dataset_path=path))
    env, other = module.make_env(args), module.make_env(args)
    sizes = {CUBE: (28, 5), "lift": (19, 7), "can": (23, 7), "square": (23, 7)}.get(env_id, (40, 5))
    assert (env.observation_space.shape[0], env.action_space.shape[0]) == sizes
    actions = np.random.default_rng(0).uniform(-1, 1, (12, sizes[1]))

    def run(env, seed):
        return np.array([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])

    first, between, again, elsewhere = run(env, 3), run(env, 4), run(env, 3), run(other, 3)
    assert np.array_equal(first, again) and np.array_equal(first, elsewhere)
    assert not np.array_equal(first[0], between[0]) and not np.array_equal(first[0], first[-1])
    env.close(), other.close()


@needs_extras
def test_time_limit_and_rewards(data):
    module = load("sac_flow_g")
    for env_id in (CUBE, "lift"):
        args = module.with_presets(module.Args(env_id=env_id, dataset_path=data[env_id], step_limit=4))
        env = module.make_env(args)
        env.reset(seed=0)
        steps = [env.step(np.zeros(env.action_space.shape))[1:4] for _ in range(4)]
        assert steps == [(-1.0, False, False)] * 3 + [(-1.0, False, True)]


@needs_extras
def test_sparse_rewards_are_all_or_nothing_online_too():
    """Two cubes out of place cost 2, or with --sparse 1; in place 0 either way."""
    module, task = load("sac_flow_g"), "cube-double-play-singletask-task2-v0"
    for sparse, cost in ((True, -1.0), (False, -2.0)):
        env = module.make_env(module.with_presets(module.Args(env_id=task, dataset_path="none", sparse=sparse)))
        env.reset(seed=0)
        assert env.step(np.zeros(5, np.float32))[1] == cost
        arm = env.unwrapped
        for i in range(2):
            arm._data.joint(f"object_joint_{i}").qpos[:3] = arm._data.mocap_pos[arm._cube_target_mocap_ids[i]]
        assert all(arm._compute_successes())
        env.step(np.zeros(5, np.float32))  # OGBench pays for the state before a step
        assert env.step(np.zeros(5, np.float32))[1] == 0


def test_presets_are_the_papers():
    module, baseline = load("sac_flow_t"), load("qc_fql")
    for env_id, beta, sparse, limit in (
        ("cube-double-play-singletask-v0", (300, 300), False, 500),
        ("cube-triple-play-singletask-task4-v0", (100, 100), False, 1000),
        ("scene-play-singletask-task1-v0", (300, 300), True, 750),
        ("can", (10_000, 1000), False, 500),
    ):
        args = module.with_presets(module.Args(env_id=env_id))
        assert ((args.beta_offline, args.beta_online), args.sparse, args.step_limit) == (beta, sparse, limit)
        assert baseline.with_presets(baseline.Args(env_id=env_id)).distill == beta[0]
        fql = baseline.with_presets(baseline.Args(env_id=env_id, horizon_length=1))
        assert fql.distill == (10_000 if env_id == "can" else 300)
    args = module.with_presets(module.Args(env_id="can", beta_online=3.0, step_limit=7, sparse=True))
    assert (args.beta_offline, args.beta_online, args.step_limit, args.sparse) == (10_000, 3.0, 7, True)


# Bad input.
def changed_npz(folder, source, **changes):
    """A copy of an OGBench file, without its validation file, with arrays replaced, or dropped for None."""
    with np.load(source) as arrays:
        made = dict(arrays)
    made |= {key: change(made[key]) if callable(change) else change for key, change in changes.items()}
    np.savez(folder / "changed.npz", **{key: value for key, value in made.items() if value is not None})
    return str(folder / "changed.npz")


def changed_hdf5(folder, source, change):
    import h5py

    path = shutil.copy(source, folder / "changed.hdf5")
    with h5py.File(path, "r+") as file:
        change(file)
    return str(path)


def with_nan(array):
    array = array.copy()
    array[len(array) // 2] = np.nan
    return array


def edit_env(**changes):
    def change(file):
        env_args = json.loads(file["data"].attrs["env_args"])
        env_args["env_kwargs"] = {k: v for k, v in (env_args["env_kwargs"] | changes).items() if v is not None}
        file["data"].attrs["env_args"] = json.dumps(env_args)

    return change


def no_json(file):
    file["data"].attrs["env_args"] = "Lift"


def shaped(file):
    file["data/demo_1/rewards"][2] = 0.3


def nan_obs(file):
    file["data/demo_1/obs/object"][3] = np.nan


def drop_obs(file):
    del file["data/demo_1/next_obs/object"]


def no_demos(file):
    for demo in list(file["data"]):
        del file[f"data/{demo}"]


def narrow(file):
    actions = file["data/demo_1/actions"][:, :6]
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = actions


def shards(data, folder, **changes):
    """A folder of two shards, the second of them changed, and of a validation file, which is none."""
    path = changed_npz(folder, data[CUBE], **changes)
    os.makedirs(folder / "shards")
    for end in (".npz", "-val.npz"):
        shutil.copy(data[CUBE].replace(".npz", end), folder / "shards" / f"0{end}")
    shutil.move(path, folder / "shards" / "1.npz")
    return str(folder / "shards")


def damaged_shard(data, folder):
    path = shards(data, folder)
    with open(f"{path}/1.npz", "r+b") as file:
        file.truncate(3000)
    return path


def flipped_shard(data, folder):
    """A bit of an array that is read at the start: the archive still opens."""
    path = shards(data, folder)
    with zipfile.ZipFile(f"{path}/1.npz") as archive:
        entry = archive.getinfo("terminals.npy")
        offset = entry.header_offset + 30 + len(entry.filename) + 20 + 150
    with open(f"{path}/1.npz", "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    return path


def shifted(file):
    """A step's action moves from one demonstration to the one before: together they are as long as the rest."""
    first, second = (file[f"data/demo_{i}/actions"][()] for i in (0, 1))
    for i, actions in enumerate((np.concatenate([first, second[:1]]), second[1:])):
        del file[f"data/demo_{i}/actions"]
        file[f"data/demo_{i}/actions"] = actions


def lift_of(data, folder):
    return {"env_id": "lift", "dataset_path": data["lift"]}


def damaged(data, folder):
    path = changed_npz(folder, data[CUBE])
    with open(path, "r+b") as file:
        file.truncate(3000)
    return path


ARRAYS = "observations", "actions", "terminals", "qpos", "qvel"
BAD = {
    "another size of observation": (
        lambda d, f: {"env_id": "cube-double-play-singletask-task1-v0", "dataset_path": d[CUBE]},
        r"--dataset-path .*observations and qpos of shapes \(\(28,\), \(21,\)\), not \(\(37,\), \(28,\)\)",
    ),
    "another size of action": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], actions=lambda a: a[:, :4])},
        r"--dataset-path .*actions of shapes \[\(28,\), \(4,\)\], not of cube-single.* \[\(28,\), \(5,\)\]",
    ),
    "missing arrays": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], qpos=None)},
        "--dataset-path .*not readable, or of another task .*qpos",
    ),
    "damaged archive": (
        lambda d, f: {"dataset_path": damaged(d, f)},
        "--dataset-path .*damaged, or not OGBench's",
    ),
    "a film of nothing": (
        lambda d, f: {"dataset_path": d[CUBE], "capture_video": True, "eval_frequency": 0},
        "--capture-video True: .*--eval-frequency",
    ),
    "damaged later shard": (lambda d, f: {"dataset_path": damaged_shard(d, f)}, "--dataset-path .*1.npz: damaged, "),
    "later shard without terminals": (
        lambda d, f: {"dataset_path": shards(d, f, terminals=None)},
        "--dataset-path .*1.npz: damaged, or not OGBench's",
    ),
    "no rows": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], **dict.fromkeys(ARRAYS, lambda a: a[:0]))},
        "--dataset-path .*not readable, or of another task",
    ),
    "one row": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], **dict.fromkeys(ARRAYS, lambda a: a[-1:]))},
        "--dataset-path .*0 steps are fewer than a chunk",
    ),
    "arrays of different lengths": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], actions=lambda a: a[1:])},
        "--dataset-path .*not readable, or of another task",
    ),
    "NaN in the state": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], qpos=with_nan)},
        "--dataset-path .*qpos of shapes .*not finite",
    ),
    "another task's state": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], qpos=lambda q: np.tile(q, 2))},
        r"--dataset-path .*\(\(28,\), \(42,\)\), not \(\(28,\), \(21,\)\)",
    ),
    "a later shard of another task": (
        lambda d, f: {"dataset_path": shards(d, f, observations=lambda o: o[:, 1:])},
        "--dataset-path .*: shards of different tasks",
    ),
    "a flipped byte in a later shard": (
        lambda d, f: {"dataset_path": flipped_shard(d, f)},
        "--dataset-path .*1.npz: damaged, .*Bad CRC-32",
    ),
    "demonstrations whose lengths add up": (
        lambda d, f: lift_of(d, f) | {"dataset_path": changed_hdf5(f, d["lift"], shifted)},
        "--dataset-path .*demo_0 has no steps, or arrays of different lengths",
    ),
    "an empty demonstration": (
        lambda d, f: {"env_id": "lift", "dataset_path": robomimic_file(f / "l.hdf5", d["lift"], [9, 0])},
        "--dataset-path .*demo_1 has no steps",
    ),
    "open end": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], terminals=lambda t: t & False)},
        "--dataset-path .*ends no episode",
    ),
    "NaN": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], observations=with_nan)},
        "--dataset-path .*obs.* not finite",
    ),
    "actions beyond 1": (
        lambda d, f: {"dataset_path": changed_npz(f, d[CUBE], actions=lambda a: 3 * a)},
        "--dataset-path .*beyond 1",
    ),
    "npz for a robosuite task": (lambda d, f: {"env_id": "lift", "dataset_path": d[CUBE]}, "--dataset-path .*hdf5"),
    "hdf5 for an OGBench task": (lambda d, f: {"dataset_path": d["lift"]}, "--dataset-path .*npz"),
    "demonstrations of another task": (
        lambda d, f: {"env_id": "can", "dataset_path": d["lift"]},
        "--dataset-path .*of Lift, not of PickPlaceCan",
    ),
    "env_args that are no JSON": (
        lambda d, f: lift_of(d, f) | {"dataset_path": changed_hdf5(f, d["lift"], no_json)},
        "--dataset-path .*not robomimic's",
    ),
    "an older robosuite's controller": (
        lambda d, f: (
            lift_of(d, f)
            | {
                "dataset_path": changed_hdf5(
                    f, d["lift"], edit_env(controller_configs={"type": "OSC_POSE", "control_delta": True})
                )
            }
        ),
        "--dataset-path .*made for robosuite 1.5",
    ),
    "an unknown setting": (
        lambda d, f: lift_of(d, f) | {"dataset_path": changed_hdf5(f, d["lift"], edit_env(gravity=3))},
        "--dataset-path .*made for robosuite 1.5",
    ),
    "shaped rewards": (
        lambda d, f: lift_of(d, f) | {"dataset_path": changed_hdf5(f, d["lift"], shaped)},
        "--dataset-path .*: rewards besides 0 and 1; choose sparse ones",
    ),
    "NaN in a demonstration": (
        lambda d, f: lift_of(d, f) | {"dataset_path": changed_hdf5(f, d["lift"], nan_obs)},
        "--dataset-path .*obs not finite",
    ),
    "a demonstration of another robot": (
        lambda d, f: lift_of(d, f) | {"dataset_path": changed_hdf5(f, d["lift"], narrow)},
        "--dataset-path .*ValueError.*array dimensions",
    ),
    "missing observations": (
        lambda d, f: lift_of(d, f) | {"dataset_path": changed_hdf5(f, d["lift"], drop_obs)},
        "--dataset-path .*not readable, or of another task .*object",
    ),
    "no such file": (lambda d, f: {"dataset_path": "nowhere.npz"}, "--dataset-path nowhere.npz: .*make_dataset.py"),
    "validation data": (
        lambda d, f: {"dataset_path": d[CUBE].replace(".npz", "-val.npz")},
        r"--dataset-path \S+-val.npz: no .npz data to train on there; .* --path data/cube-single-play-v0.npz$",
    ),
    "no path": (
        lambda d, f: {"env_id": "lift"},
        r"--dataset-path ~/\.robomimic/lift/mh/low_dim_v15.hdf5: .* --env-id lift --path data/lift.hdf5$",
    ),
    "no demonstrations": (
        lambda d, f: lift_of(d, f) | {"dataset_path": changed_hdf5(f, d["lift"], no_demos)},
        "--dataset-path .*need at least one array to concatenate",
    ),
    "a file that is no hdf5": (
        lambda d, f: lift_of(d, f) | {"dataset_path": str(shutil.copy(d[CUBE], f / "l.hdf5"))},
        "--dataset-path .*not robomimic's",
    ),
    "no temperature": (lambda d, f: {"dataset_path": d[CUBE], "alpha": 0.0}, "--alpha 0.0: .*--no-autotune"),
    "chunks of no action": (lambda d, f: {"dataset_path": d[CUBE], "horizon_length": 0}, "--horizon-length 0: .*1 to"),
    "chunks longer than the data": (
        lambda d, f: {"dataset_path": d[CUBE], "horizon_length": 5000},
        "--dataset-path .*--horizon-length",
    ),
    "unknown task": (lambda d, f: {"dataset_path": d[CUBE], "env_id": "cube-nine-v0"}, "--env-id cube-nine-v0: .*can"),
    "negative seed": (lambda d, f: {"dataset_path": d[CUBE], "seed": -1}, "--seed -1"),
    "seed of another run": (lambda d, f: {"dataset_path": d[CUBE], "seed": 2**32 + 1}, "--seed .* 0 to 4294967295"),
    "nothing to do": (
        lambda d, f: {"dataset_path": d[CUBE], "offline_steps": 0, "total_timesteps": 0},
        "--total-timesteps 0",
    ),
}
BAD_CASES = [("sac_flow_g", case) for case in BAD]
REINFLOW_BAD = {
    f"{flag} {value}": (lambda d, f, flag=flag, value=value: {"dataset_path": d[CUBE], flag: value}, message)
    for flag, value, message in (
        ("min_std", 0.0, "--min-std 0.0: choose a number from 0.0001"),
        ("min_std", 0.2, "--min-std 0.2: must be below --max-std"),
        ("min_std", 1e-4, "--max-std 0.14: most densities are cut off at 1"),
        ("num_steps", 3, "--num-steps 3: 12 steps are fewer than an episode's 13"),
        ("actor_lr", -1.0, "--actor-lr -1.0: "),
        ("ema", 7.0, "--ema 7.0: choose a number from 0 to 1"),
        ("gae_lambda", 3.0, "--gae-lambda 3.0: "),
        ("clip_coef", -1.0, "--clip-coef -1.0: "),
    )
}
BAD_CASES += [("reinflow", case) for case in REINFLOW_BAD]
BAD_CASES += [
    (name, case)
    for name in SCRIPTS[1:]
    for case in ("damaged archive", "NaN", "chunks of no action", "seed of another run")
]


@pytest.mark.parametrize(("name", "case"), BAD_CASES)
def test_bad_input_is_refused_in_one_line(name, case, data, tmp_path, capsys, monkeypatch):
    module, (flags, message) = load(name), (BAD | REINFLOW_BAD)[case]
    monkeypatch.setenv("HOME", str(tmp_path))  # no official data there
    monkeypatch.chdir(tmp_path)
    flags = flags(data, tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(SystemExit) as stop:
        module.main(module.Args(**small(name) | flags))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert stop.value.code == 2 and len(lines) == 1, lines
    assert re.search(rf"^error: {message}", lines[0]), lines[0]
    assert sorted(os.listdir(tmp_path)) == before  # nothing half-written


def test_the_proposed_command_makes_what_is_missing(script, capsys, monkeypatch):
    """From the root of the repository, as the README's."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        script.main(script.Args(env_id=CUBE, dataset_path="nowhere.npz"))
    command = capsys.readouterr().err.partition("or make some: ")[2].split()
    assert command[0] == "python" and command[-4:] == ["--env-id", CUBE, "--path", "nowhere.npz"]
    if script is load("sac_flow_g"):
        command = [sys.executable, *command[1:], "--episodes", "0"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 2 and result.stderr.startswith("error: --episodes 0"), result.stderr


@pytest.mark.parametrize(("name", "env_id"), [("ogbench", CUBE), ("robosuite", "lift"), ("h5py", "lift")])
def test_missing_packages_are_named(name, env_id, tmp_path, capsys, monkeypatch, request):
    module = load("sac_flow_g")
    paths = {CUBE: str(tmp_path / "x.npz"), "lift": str(tmp_path / "x.hdf5")}
    np.savez(paths[CUBE], observations=np.ones((1, 28)), terminals=np.ones(1))
    open(paths["lift"], "w").close()
    if name == "robosuite":
        paths = request.getfixturevalue("data")
    for package in (name, *(loaded for loaded in sys.modules if loaded.startswith(f"{name}."))):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as stop:
        module.main(module.Args(**small(env_id=env_id, dataset_path=paths[env_id])))
    assert stop.value.code == 2 and "pip install" in capsys.readouterr().err


def no_reward(file):
    for demo in file["data"].values():  # whose ends are marked all the same, as robomimic's own tools may do
        demo["rewards"][:] = 0


@needs_extras
@pytest.mark.parametrize("env_id", [CUBE, "lift"])
def test_a_line_counts_the_successes_of_the_data(env_id, data, tmp_path, capsys):
    module = load("sac_flow_g")
    if env_id == CUBE:
        path = changed_npz(tmp_path, data[CUBE], qpos=lambda qpos: qpos + 1)
    else:
        path = changed_hdf5(tmp_path, data["lift"], no_reward)
    flags = small(env_id=env_id, dataset_path=path, run_dir=str(tmp_path), offline_steps=2, total_timesteps=0)
    flags["eval_frequency"] = 0
    module.main(module.Args(**flags))
    assert re.search(
        rf"^{re.escape(path)}: \d+ steps, of which 0 are at a success of {env_id}$", capsys.readouterr().out, re.M
    )


# Runs.
TAGS = {"charts/SPS", "charts/episodic_return", "charts/episodic_length", "charts/success"}
TAGS |= {"eval/success", "eval/episodic_return", "eval/episodic_length"}
OFF_POLICY = {"losses/qf_loss", "losses/qf_values", "losses/flow_loss", "losses/actor_loss"}
FLOW_TAGS = OFF_POLICY | {"losses/proximity", "losses/alpha", "losses/alpha_loss", "policy/log_prob"}
FLOW_TAGS |= {f"gradients/step_{k}" for k in range(5)}
OWN_TAGS = dict.fromkeys(FLOW_SCRIPTS, FLOW_TAGS) | {"qc_fql": OFF_POLICY | {"losses/distillation", "policy/std"}}
OWN_TAGS["reinflow"] = {"losses/flow_loss", "losses/value_loss", "losses/actor_loss", "losses/approx_kl"}
OWN_TAGS["reinflow"] |= {"losses/clip_fraction", "policy/entropy"}
# The three flows have one loop.
SHORT = [(name, CUBE) for name in SCRIPTS] + [(name, "lift") for name in ("sac_flow_g", "qc_fql", "reinflow")]


@needs_extras
@pytest.mark.parametrize(("name", "env_id"), SHORT)
def test_short_run_of_every_script(name, env_id, data, tmp_path, capsys):
    """Pretraining, evaluation after it, episodes online, evaluation at the end; exactly the documented tags."""
    script = load(name)
    flags = small(name, env_id=env_id, dataset_path=data[env_id], run_dir=str(tmp_path))
    path = script.main(script.Args(**flags | ({"pretrain": "flow-matching"} if name == "sac_flow_naive" else {})))
    seen, last = scalars(path), 24 + flags["total_timesteps"]
    assert set(seen) == TAGS | OWN_TAGS[name]
    evaluated = [step for step, _ in seen["eval/success"]]
    assert evaluated[-1] == last and 24 in evaluated and (20 in evaluated)
    assert all(step > 24 for step, _ in seen["charts/episodic_return"])
    assert {length for _, length in seen["charts/episodic_length"]} <= set(range(1, 14))
    assert all(np.isfinite(value) for events in seen.values() for _, value in events)
    if name in FLOW_SCRIPTS:  # nothing is logged where it was not computed
        assert max(step for step, _ in seen["losses/flow_loss"]) <= 24
        learning = [step for step, _ in seen["losses/qf_loss"]]
        assert not any(24 < step <= 24 + flags["learning_starts"] for step in learning) and max(learning) == last
    assert ("replay.bin" in os.listdir(path)) == (name != "reinflow")  # which forgets what it has learned from
    assert evaluate_checkpoint(script, path)[0] == {tag: seen[f"eval/{tag}"][-1][1] for tag in EVALUATION}
    if name != "reinflow":  # a ring that the dataset fills, as large as it needs to be
        rows = {CUBE: 180, "lift": len(raw_steps("lift", data["lift"], script))}[env_id]
        assert f"replay buffer: {rows + 1} steps" in capsys.readouterr().out


EVALUATION = "success", "episodic_return", "episodic_length"


def evaluate_checkpoint(module, run, **flags):
    """Scores of the policy that a run's checkpoint.pt holds, without its data, in float32; and the checkpoint."""
    checkpoint = module.load_checkpoint(run)
    args = module.replace(module.Args(**checkpoint["args"]), dataset_path="elsewhere", **flags)
    env = module.make_env(args, made_from=checkpoint["made_from"])
    actor = module.Actor(env.observation_space.shape[0], args.horizon_length * env.action_space.shape[0], args)
    actor.load_state_dict(checkpoint["actor"])
    scores = module.evaluate(actor, env, args, torch.device("cpu"))
    return {name: float(np.float32(score)) for name, score in scores.items()}, checkpoint


def same_state(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"args"}:
            same_state(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            same_state(mine, theirs)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other or one != one


@needs_extras
def test_targets_keep_no_graph(script, data, tmp_path, monkeypatch):
    """It would grow with every update, until the memory is full."""
    made, deepcopy = [], script.copy.deepcopy

    def copying(thing, memo=None):
        copied = deepcopy(thing, memo)
        made.extend([copied] * (memo is None))
        return copied

    monkeypatch.setattr(script.copy, "deepcopy", copying)
    name = script.__name__.removeprefix("o2o_")
    script.main(script.Args(**small(name, dataset_path=data[CUBE], run_dir=str(tmp_path), eval_frequency=0)))
    nets = [thing for thing in made if isinstance(thing, torch.nn.Module)]
    assert nets and not any(parameter.grad_fn is not None for net in nets for parameter in net.parameters())


# The three flows have one loop: Flow-G is stopped at every moment, the others at one.
RESUMED = [(name, CUBE, "chunk") for name in SCRIPTS]
RESUMED += [(n, CUBE, at) for n in ("sac_flow_g", "qc_fql", "reinflow") for at in ("pretraining", "evaluation")]
RESUMED += [(name, "lift", "chunk") for name in ("sac_flow_g", "reinflow")] + [("reinflow", CUBE, "update")]


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    """(script, task, flags) -> the folder of its run without interruption."""
    folder = tmp_path_factory.mktemp("whole")

    @functools.cache
    def run(name, env_id, **more):
        script = load(name)
        flags = small(name, env_id=env_id, dataset_path=data[env_id], run_dir=str(folder), **more)
        return script.main(script.Args(**flags))

    return run


@needs_extras
@pytest.mark.parametrize(("name", "env_id", "moment"), RESUMED)
def test_interrupted_run_goes_on_exactly(name, data, whole_run, tmp_path, monkeypatch, capsys, moment, env_id):
    """SIGTERM while pretraining, online in the middle of a chunk and an episode, in ReinFlow's updates, or in an
    evaluation: then --resume, to the same networks, optimizers, generator, counters and logged numbers as a run without
    interruption."""
    script, calls = load(name), []
    flags, whole = small(name, env_id=env_id, dataset_path=data[env_id]), whole_run(name, env_id)

    def stopping(plain, at, when=lambda *args: True):
        """`plain`, which at its at-th call stops the run."""

        def call(*args, **kwargs):
            calls.extend([1] * when(*args, **kwargs))
            if len(calls) == at and not script.STOP:
                script.STOP.extend((signal.SIGTERM, 0.0))
            return plain(*args, **kwargs)

        return call

    if moment == "evaluation":  # the second of those before the last
        deterministic = lambda *args, deterministic=False: deterministic  # noqa: E731
        monkeypatch.setattr(script, "next_chunk", stopping(script.next_chunk, 5, deterministic))
    elif moment == "update":
        monkeypatch.setattr(script, "advantages", stopping(script.advantages, 2))
    elif name == "reinflow" and moment == "chunk":  # of the second iteration, which is dropped
        online = lambda self, obs, noise, deterministic=False: not deterministic  # noqa: E731
        monkeypatch.setattr(script.Actor, "sample", stopping(script.Actor.sample, 6, online))
    else:
        at = 9 if moment == "pretraining" else 42
        holder = script.Dataset if name == "reinflow" else script.ReplayBuffer
        monkeypatch.setattr(holder, "sample", stopping(holder.sample, at))
    with pytest.raises(SystemExit) as ended:
        script.main(script.Args(**flags | {"run_dir": str(tmp_path / "part")}))
    assert ended.value.code == 128 + signal.SIGTERM
    monkeypatch.undo()
    script.STOP.clear()
    (part,) = (tmp_path / "part").iterdir()
    assert f"go on with: {sys.executable} {sys.argv[0]} --resume {part}\n" in capsys.readouterr().out
    state = script.load_checkpoint(str(part))
    if moment == "evaluation":
        assert len(calls) == 5 and state["counters"][-1] is False  # it stopped at once, and is due
        calls.clear()
        monkeypatch.setattr(script, "next_chunk", stopping(script.next_chunk, 1, deterministic))
        with pytest.raises(SystemExit):  # and again where the resumed run makes up for it
            script.main(script.read_args(["--resume", str(part)]))
        monkeypatch.undo()
        script.STOP.clear()
        again = script.load_checkpoint(str(part))
        assert again["step"] == state["step"] and again["counters"][-1] is False
    if name != "reinflow" and moment == "chunk":
        assert len(state["queue"]) in (1, 2, 3, 4) and 0 <= state["counters"][2] < state["counters"][0]
    if name != "reinflow":  # what a crash leaves behind a checkpoint is cut off
        with open(part / "replay.bin", "ab") as file:
            file.write(b"a torn row")
    assert script.main(script.read_args(["--resume", str(part)])) == str(part)
    same_run(script, whole, part)


def same_run(script, *runs):
    """Their checkpoints, their online steps, and all that they logged but the speed."""
    same_state(*(script.load_checkpoint(str(run)) for run in runs))
    one, other = (scalars(run) for run in runs)
    assert one.pop("charts/SPS") and other.pop("charts/SPS")
    assert one == other
    if hasattr(script, "ReplayBuffer"):
        one, other = (np.fromfile(f"{run}/replay.bin", np.uint8) for run in runs)
        assert np.array_equal(one, other)


@needs_extras
@pytest.mark.parametrize(("name", "steps"), [("sac_flow_g", 0), ("sac_flow_g", 26), ("sac_flow_g", 30), ("qc_fql", 30)])
def test_a_finished_run_can_be_made_longer(name, steps, data, whole_run, tmp_path):
    """After pretraining alone, and online at an episode's end, which is logged once more, and amid one."""
    script = load(name)
    flags = small(name, dataset_path=data[CUBE], run_dir=str(tmp_path), eval_frequency=12)
    run = script.main(script.Args(**flags | {"total_timesteps": steps}))
    last = [step for step, _ in scalars(run).get("charts/episodic_return", [])]
    assert last == {0: [], 26: [37, 50], 30: [37, 50]}[steps]
    script.main(script.read_args(["--resume", run, "--total-timesteps", "60"]))
    same_run(script, whole_run(name, CUBE, total_timesteps=60, eval_frequency=12), run)


@needs_extras
def test_reinflow_stopped_before_its_first_step_has_a_checkpoint(data, tmp_path, monkeypatch, capsys):
    script = load("reinflow")
    begin = script.start_run

    def stopped(*args):
        begun = begin(*args)
        script.STOP.extend((signal.SIGTERM, 0.0))
        return begun

    monkeypatch.setattr(script, "start_run", stopped)
    with pytest.raises(SystemExit):
        script.main(script.Args(**small("reinflow", dataset_path=data[CUBE], run_dir=str(tmp_path))))
    script.STOP.clear()
    (run,) = tmp_path.iterdir()
    assert "--resume" in capsys.readouterr().out and (run / "checkpoint.pt").is_file()


@needs_extras
@pytest.mark.parametrize(("name", "env_id"), [("sac_flow_g", CUBE), ("qc_fql", CUBE), ("sac_flow_g", "lift")])
def test_an_episode_that_does_not_repeat_is_begun_anew(name, env_id, data, tmp_path, monkeypatch, capsys):
    """One line says so, and the rest of the chunk is dropped with it."""
    script = load(name)
    flags = small(name, env_id=env_id, dataset_path=data[env_id], run_dir=str(tmp_path), eval_frequency=0)
    plain, add, random = script.make_env, script.ReplayBuffer.add, np.random.default_rng()
    opened, buffers = script.open_buffer, []

    def restless(*args):
        env = plain(*args)
        noisy = lambda obs: obs + random.normal(size=obs.shape).astype(np.float32)  # noqa: E731
        return script.gym.wrappers.TransformObservation(env, noisy, env.observation_space)

    def stop(self, **step):
        if self.count == 7 and not script.STOP:
            script.STOP.extend((signal.SIGTERM, 0.0))
        return add(self, **step)

    monkeypatch.setattr(script, "make_env", restless)
    monkeypatch.setattr(script, "open_buffer", lambda *args: buffers.append(opened(*args)) or buffers[-1])
    monkeypatch.setattr(script.ReplayBuffer, "add", stop)
    with pytest.raises(SystemExit):
        script.main(script.Args(**flags))
    monkeypatch.setattr(script.ReplayBuffer, "add", add)
    (part,) = tmp_path.iterdir()
    script.main(script.read_args(["--resume", str(part)]))
    assert capsys.readouterr().out.count("the episode could not be repeated: a new one begins") == 1
    seen = scalars(part)["charts/episodic_length"]  # 8 steps, then whole episodes of 13
    assert [step for step, _ in seen] == [24 + 8 + 13] and [length for _, length in seen] == [13]
    script.main(script.read_args(["--resume", str(part), "--total-timesteps", "50"]))
    assert len(buffers) == 3
    for buffer in buffers[1:]:  # no chunk goes on from the one episode to the other
        ends = buffer.split(buffer.rows[: buffer.count])["terminal"].squeeze(1)
        assert ends.nonzero().flatten()[:2].tolist() == [8 - 1, 8 + 13 - 1]


def test_a_switch_takes_no_value(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.read_args(["--compile", "False"])
    error = "error: --compile False: write --compile or --no-compile, without a value\n"
    assert stop.value.code == 2 and capsys.readouterr().err == error


def test_a_checkpoint_from_scratch_is_refused(script, tmp_path, capsys):
    """Scripts of the same name in the folder above write checkpoints too."""
    name = script.__name__.removeprefix("o2o_")
    torch.save({"format": 2, "script": f"{name}.py", "args": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(SystemExit) as stop:
        script.read_args(["--resume", str(tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith("error: --resume ")


@needs_extras
def test_resuming_needs_the_same_data(data, tmp_path, capsys):
    module = load("sac_flow_g")
    path = changed_npz(tmp_path, data[CUBE])
    run = module.main(module.Args(**small(dataset_path=path, run_dir=str(tmp_path / "runs"), eval_frequency=0)))
    changed_npz(tmp_path, data[CUBE], actions=lambda a: 0.5 * a)
    with pytest.raises(SystemExit) as stop:
        module.main(module.read_args(["--resume", run, "--total-timesteps", "40"]))
    assert stop.value.code == 2 and "has changed" in capsys.readouterr().err


@needs_extras
@pytest.mark.parametrize(("name", "env_id"), [("sac_flow_g", CUBE), ("reinflow", "lift")])
def test_a_run_goes_on_when_its_data_have_moved(name, env_id, data, tmp_path, capsys):
    """With the new path; evaluating its policy needs no data."""
    module = load(name)
    old, new = (str(tmp_path / f"{place}{os.path.splitext(data[env_id])[1]}") for place in ("old", "new"))
    ends = ("", "-val") if env_id == CUBE else ("",)

    def put(path, source):
        for end in ends:
            root, kind = os.path.splitext(source)
            shutil.move(root + end + kind, os.path.splitext(path)[0] + end + kind)

    for end in ends:
        root, kind = os.path.splitext(data[env_id])
        shutil.copy(root + end + kind, os.path.splitext(old)[0] + end + kind)
    flags = small(name, env_id=env_id, dataset_path=old, run_dir=str(tmp_path / "runs"), eval_frequency=0)
    run = module.main(module.Args(**flags))
    put(new, old)
    longer = ["--resume", run, "--total-timesteps", "150"]
    with pytest.raises(SystemExit):
        module.main(module.read_args(longer))
    assert "--dataset-path" in capsys.readouterr().err
    module.main(module.read_args([*longer, "--dataset-path", new]))
    scores, checkpoint = evaluate_checkpoint(module, run)
    assert scores.keys() == set(EVALUATION) and checkpoint["args"]["dataset_path"] == new


@needs_extras
@pytest.mark.parametrize("name", ["sac_flow_g", "qc_fql", "reinflow"])
def test_a_checkpoint_of_another_kind_of_device_is_refused(name, data, tmp_path, capsys):
    """Its random numbers cannot go on there."""
    module = load(name)
    flags = small(name, dataset_path=data[CUBE], run_dir=str(tmp_path), eval_frequency=0, offline_steps=2)
    run = module.main(module.Args(**flags | {"total_timesteps": 0}))
    torch.save(module.load_checkpoint(run) | {"device": "cuda"}, f"{run}/checkpoint.pt")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        module.main(module.read_args(["--resume", run, "--total-timesteps", "40"]))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.startswith("error: --device cpu: the checkpoint is of a run on cuda; ")


@needs_extras
def test_compilation_comes_before_the_run_and_leaves_no_trace(script, data, tmp_path, monkeypatch):
    """Nothing is compiled in the loop, whose batches have other temperatures and weights, and the run is the same."""
    name, events = script.__name__.removeprefix("o2o_"), []
    flags = small(name, dataset_path=data[CUBE], run_dir=str(tmp_path), log_frequency=10, normalize_obs=True)
    flags |= {"beta_offline": 3.0, "beta_online": 2.0} if name in FLOW_SCRIPTS else {}
    del flags["normalize_obs" if name == "reinflow" else "compile"]
    plain = script.main(script.Args(**flags | {"compile": False}))

    def backend(graph, inputs):
        events.append("compiled")
        return graph.forward

    start_run = script.start_run
    monkeypatch.setattr(script.torch, "compile", functools.partial(torch.compile, backend=backend))
    monkeypatch.setattr(script, "has_compiler", lambda device: True)
    monkeypatch.setattr(script, "start_run", lambda *args: events.append("run") or start_run(*args))
    torch._dynamo.reset()
    compiled = script.main(script.Args(**flags | {"compile": True}))
    losses = {"qc_fql": 2, "reinflow": 1}.get(name, 3)
    assert events == ["compiled"] * losses + ["run"]
    same_state(*(script.load_checkpoint(path) for path in (plain, compiled)))


class Still:
    """A policy that does nothing."""

    def draw_noise(self, n, generator):
        return None

    def act(self, obs, noise, deterministic=False):
        return torch.zeros(1, 2 * 5)


def test_a_film_has_each_step_once_at_an_even_size(script, tmp_path):
    imageio, film = pytest.importorskip("imageio.v3"), tmp_path / "film.mp4"
    pytest.importorskip("imageio_ffmpeg")
    args = script.Args(horizon_length=5, eval_episodes=1)
    env = gym.make("tasks:Striped-v0", render_mode="rgb_array", disable_env_checker=True)
    script.evaluate(Still(), env, args, torch.device("cpu"), str(film))
    frames = imageio.imread(film)
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    assert steps_shown(frames) == list(range(1, 101)) and imageio.immeta(film)["fps"] == 20


@needs_extras
@pytest.mark.parametrize("env_id", [CUBE, "lift"])
def test_a_video_of_an_evaluation(env_id, data, tmp_path):
    """Of its first episode, where something can render; else one line, and nothing is written."""
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("imageio_ffmpeg")
    flags = small(env_id=env_id, dataset_path=data[env_id], offline_steps=1, total_timesteps=0, run_dir=str(tmp_path))
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if name != "compile"]
    command = [sys.executable, str(ROOT / "offline_to_online" / "sac_flow_g.py"), *flags]
    command += ["--no-compile", "--capture-video"]
    if has_egl():
        result = subprocess.run(command, env=os.environ | {"MUJOCO_GL": "egl"}, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        (video,) = tmp_path.glob("*/videos/step-1.mp4")
        frames = imageio.imread(video)
        assert len(frames) == 13  # one a step
        assert any((frame != frames[0]).any() for frame in frames), "nothing moves"
    if env_id == CUBE:  # robosuite chooses its renderer itself
        elsewhere = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL")}
        command[-1:] = ["--capture-video", "--run-dir", str(tmp_path / "none")]
        result = subprocess.run(command, env=elsewhere | {"MUJOCO_GL": "glfw"}, capture_output=True, text=True)
        assert result.returncode == 2 and not (tmp_path / "none").exists(), result.stderr
        assert "error: --capture-video: " in result.stderr and "set MUJOCO_GL=egl" in result.stderr
        assert "Traceback" not in result.stderr


@needs_extras
def test_shards_need_the_memory_of_one(tmp_path):
    """Eight shards of 20 020 rows take hardly more than two: what they held together would be 65 MiB more."""
    peaks = []
    for shards in (2, 8):
        table = tmp_path / f"{shards}.csv"
        command = [sys.executable, ROOT / "scripts" / "shard_memory.py", "--rows", "20020", "--output", table]
        result = subprocess.run([*command, "--shards", str(shards)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        with open(table, newline="") as file:
            (row,) = csv.DictReader(file)
        assert int(row["rows"]) == 20020 * shards
        peaks.append(float(row["peak_gib"]))
    assert peaks[1] - peaks[0] < 0.04, peaks


@needs_extras
def test_shards_take_turns_and_the_last_stays(tmp_path, monkeypatch):
    """A folder of two shards, changed every 5 updates; what is trained on online is the last one loaded."""
    maker, module = load("make_dataset"), load("sac_flow_g")
    monkeypatch.setattr(maker, "LENGTH", 21)
    folder = tmp_path / "shards [1]"  # as a pattern it would match no folder
    maker.main(maker.Args(env_id=CUBE, path=str(folder), episodes=13, episodes_per_file=10))
    assert len(list(folder.glob("*.npz"))) == 4
    with pytest.raises(SystemExit):  # finished shards of other flags are no part of it
        maker.main(maker.Args(env_id=CUBE, path=str(folder), episodes=23, episodes_per_file=10))
    assert len(list(folder.glob("*.npz"))) == 4
    loaded, sizes = [], []
    plain, sample = module.ReplayBuffer.load, module.ReplayBuffer.sample
    monkeypatch.setattr(module.ReplayBuffer, "load", lambda self, data: loaded.append(self) or plain(self, data))

    def spy(self, *args):
        sizes.append(self.offline)
        if len(sizes) == stop:
            module.STOP.append(signal.SIGTERM)
        return sample(self, *args)

    monkeypatch.setattr(module.ReplayBuffer, "sample", spy)
    flags = {"dataset_path": str(folder), "run_dir": str(tmp_path / "runs"), "shard_steps": 5, "log_frequency": 1000}
    for stop in (0, 10, 12):  # not at all, at the end of a shard, and within one
        sizes.clear()
        try:
            module.main(module.Args(**small(offline_steps=18, eval_frequency=0, seed=stop, **flags)))
        except SystemExit:
            module.STOP.clear()
            (run,) = (tmp_path / "runs").glob(f"*__{stop}__*")
            module.main(module.read_args(["--resume", str(run)]))
        assert sizes[:18] == [200] * 5 + [60] * 5 + [200] * 5 + [60] * 3 and set(sizes[18:]) == {60}, stop
        assert len(loaded[-1].rows) == 211 and loaded[-1].count == 33  # room for the largest, whichever comes first


@needs_extras
def test_the_first_episode_behind_shards_begins_at_its_reset(tmp_path, monkeypatch):
    """Relabelling a shard resets the environment: what is stored and done online must not begin before that, and a run
    resumed within that episode must go on in the same simulation."""
    maker, module = load("make_dataset"), load("sac_flow_g")
    monkeypatch.setattr(maker, "LENGTH", 21)
    folder = tmp_path / "shards"
    maker.main(maker.Args(env_id=CUBE, path=str(folder), episodes=11, episodes_per_file=10))
    plain, steps = module.ReplayBuffer.add, []

    def spy(self, **step):
        steps.append(step)
        if len(steps) == stop:
            module.STOP.append(signal.SIGTERM)
        return plain(self, **step)

    monkeypatch.setattr(module.ReplayBuffer, "add", spy)
    flags = small(offline_steps=18, eval_frequency=0, dataset_path=str(folder), shard_steps=5, total_timesteps=12)
    stop = 0
    whole = module.main(module.Args(**flags, run_dir=str(tmp_path / "whole")))
    env = module.make_env(module.with_presets(module.Args(env_id=CUBE)))
    assert np.array_equal(steps[0]["obs"], env.reset(seed=module.episode_seed(module.Args().seed, 0))[0])
    assert np.array_equal(env.step(steps[0]["action"])[0], steps[0]["next_obs"])
    stop = len(steps) + 4
    with pytest.raises(SystemExit):
        module.main(module.Args(**flags, run_dir=str(tmp_path / "part")))
    module.STOP.clear()
    (part,) = (tmp_path / "part").iterdir()
    module.main(module.read_args(["--resume", str(part)]))
    same_state(*(module.load_checkpoint(str(path)) for path in (whole, part)))


@needs_extras
def test_reinflow_counts_environment_steps(data, tmp_path, monkeypatch):
    """Each step once, also where an episode's end cuts a chunk short."""
    module, count = load("reinflow"), []
    plain = module.make_env

    def counting(*args):
        env = plain(*args)
        step = env.step
        env.step = lambda action: count.append(1) or step(action)
        return env

    monkeypatch.setattr(module, "make_env", counting)
    run = module.main(
        module.Args(**small("reinflow", dataset_path=data[CUBE], run_dir=str(tmp_path), eval_frequency=0))
    )
    last = 24 + 70
    assert module.load_checkpoint(run)["step"] == last and 70 <= len(count) < 70 + 2 * 4
    lengths = scalars(run)["charts/episodic_length"]
    assert all(length == 13 for _, length in lengths) and len(lengths) == 4
    assert [step for step, _ in lengths[:2]] == [24 + 25, 24 + 26]  # three rounds of 2 x 4 steps, then one each


@needs_extras
def test_alpha_moves_against_the_entropys_distance(data, tmp_path):
    module = load("sac_flow_g")
    for target, sign in ((50.0, 1), (-500.0, -1)):
        flags = small(dataset_path=data[CUBE], run_dir=str(tmp_path / str(target)), eval_frequency=0, pretrain="joint")
        flags["alpha"] = 0.2
        alphas = [v for _, v in scalars(module.main(module.Args(**flags, target_entropy=target)))["losses/alpha"]]
        assert (np.diff([0.2, *alphas]) * sign >= 0).all() and abs(alphas[-1] - 0.2) > 1e-3


@needs_extras
@pytest.mark.parametrize("name", ["sac_flow_g", "qc_fql"])
def test_observations_are_normalised_by_the_dataset(data, tmp_path, name):
    """All networks alike, kept in the checkpoint; a coordinate that does not vary is only centred."""
    module = load(name)
    flags = small(name, env_id="lift", dataset_path=data["lift"], run_dir=str(tmp_path))
    path = module.main(module.Args(**flags | {"normalize_obs": True, "eval_frequency": 0}))
    state = module.load_checkpoint(path)
    args = module.Args(**state["args"])
    obs = module.load_dataset(args, data["lift"], module.make_env(args))["obs"]
    std = obs.std(0, ddof=1)
    for part in ("actor", "critic", "target_critic"):
        np.testing.assert_allclose(state[part]["norm.mean"], obs.mean(0), atol=1e-5)
        np.testing.assert_allclose(state[part]["norm.std"], np.where(std > 1e-4, std, 1), rtol=1e-3)
    norm = module.Standardize(2)
    norm.fit(torch.tensor([[1.0, 3.0], [1.0, 5.0]]))
    assert torch.allclose(norm(torch.tensor([[1.0, 4.0], [2.0, 4.0 + 2**0.5]])), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    far = torch.tensor([[1.0, 1e3]])
    assert norm(far)[0, 1] == 10 and torch.equal(module.Standardize(2)(far), far)


# A pretrained policy.
@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    """By script: a run that was only pretrained, and its policy alone in a file."""
    made = {}
    for name in FLOW_SCRIPTS:
        folder, module = tmp_path_factory.mktemp("pretrained"), load(name)
        flags = small(name, dataset_path=data[CUBE], run_dir=str(folder), eval_frequency=0, normalize_obs=True)
        run = module.main(module.Args(**flags | {"total_timesteps": 0}))
        words = [run, "--save-policy", str(folder / "policy.pt")]
        evaluate.main(tyro.cli(evaluate.Args, args=words))
        args = torch.load(folder / "policy.pt", weights_only=True)["args"]
        assert args["dataset_path"] == os.path.basename(data[CUBE]), "where the data were is their owner's business"
        made[name] = run, str(folder / "policy.pt")
    return made


def actor_of(module, file):
    """The actor of a run or policy file, without its data."""
    state = torch.load(f"{file}/checkpoint.pt" if os.path.isdir(file) else file, weights_only=True)
    actor = module.Actor(28, 25, module.Args(**state["args"]))
    actor.load_state_dict(state["actor"])
    return actor


def same_policy(one, other, deterministic):
    noise = torch.randn(5, 64, 25, generator=torch.Generator().manual_seed(0))
    obs = 3 * torch.randn(64, 28, generator=torch.Generator().manual_seed(1))
    return torch.equal(one.act(obs, noise, deterministic), other.act(obs, noise, deterministic))


PRETRAINED = [(name, {}) for name in FLOW_SCRIPTS] + [("sac_flow_g", {"adapter": 8})]


@needs_extras
@pytest.mark.parametrize(("name", "flags"), PRETRAINED)
def test_a_run_starts_from_a_pretrained_policy(name, flags, data, pretrained, tmp_path, capsys):
    """From a run or a file, to the bit, with the run's evaluation at step 0. Offline updates leave it alone and train
    the critic; online ones train all of it, or with an adapter all but it."""
    module, (run, file) = load(name), pretrained[name]
    flags = small(name, dataset_path=data[CUBE], run_dir=str(tmp_path), eval_frequency=0) | flags
    before, states = actor_of(module, run), []
    for source, steps in ((run, 0), (file, 24)):
        path = module.main(
            module.Args(**flags | {"pretrained": source, "offline_steps": steps, "total_timesteps": 5 * (not steps)})
        )
        started = actor_of(module, path)
        assert same_policy(before, started, True) and same_policy(before, started, False)
        states.append(module.load_checkpoint(path))
    assert not all(torch.equal(states[0]["critic"][key], value) for key, value in states[1]["critic"].items())
    path = module.main(module.Args(**flags | {"pretrained": file, "offline_steps": 0, "eval_frequency": 20}))
    scores = evaluate_checkpoint(module, run)[0]
    assert {tag: scalars(path)[f"eval/{tag}"][0] for tag in scores} == {tag: (0, scores[tag]) for tag in scores}
    ended, old = actor_of(module, path), before.state_dict()
    assert not same_policy(before, ended, True)
    kept = [torch.equal(value, old[key]) for key, value in ended.state_dict().items() if key in old]
    assert all(kept) == ("adapter" in flags)
    trained = sum(value.numel() for key, value in ended.state_dict().items() if ".adapter." in key)
    total = sum(parameter.numel() for parameter in before.parameters())
    words = f"{trained} parameters of the policy are trained, {total} frozen"
    words = words if trained else f"{total} parameters of the policy are trained, 0 frozen"
    assert capsys.readouterr().out.count(words) == 3
    moments = module.load_checkpoint(path)["actor_optimizer"]["state"].values()
    assert sum(state["exp_avg"].numel() for state in moments) == (trained or total)


@needs_extras
@pytest.mark.parametrize("name", ["sac_flow_g", "sac_flow_t"])
def test_a_run_from_a_pretrained_policy_goes_on_without_it(name, data, pretrained, tmp_path, monkeypatch):
    """Interrupted online: exactly, where the file is gone, with the frozen weights too."""
    module, add = load(name), load(name).ReplayBuffer.add
    file = shutil.copy(pretrained[name][1], tmp_path / "policy.pt")
    flags = small(name, dataset_path=data[CUBE], pretrained=str(file), offline_steps=5, eval_frequency=0)
    flags |= {"adapter": 8} if name == "sac_flow_g" else {}
    whole = module.main(module.Args(**flags, run_dir=str(tmp_path / "whole")))

    def stop(self, **step):
        if self.count == 17:
            module.STOP.extend((signal.SIGTERM, 0.0))
        return add(self, **step)

    monkeypatch.setattr(module.ReplayBuffer, "add", stop)
    with pytest.raises(SystemExit):
        module.main(module.Args(**flags, run_dir=str(tmp_path / "part")))
    module.STOP.clear()
    monkeypatch.undo()
    os.remove(file)
    (part,) = (tmp_path / "part").iterdir()
    module.main(module.read_args(["--resume", str(part)]))
    same_state(*(module.load_checkpoint(str(path)) for path in (whole, part)))


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


def changed_policy(file, folder, **changes):
    torch.save(torch.load(file, weights_only=True) | changes, folder / "policy.pt")
    return str(folder / "policy.pt")


def flipped(file, folder):
    """Another byte in the middle, where the weights are."""
    copy = folder / "policy.pt"
    shutil.copy(file, copy)
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    return str(copy)


def saved(content, folder):
    torch.save(content, folder / "policy.pt")
    return str(folder / "policy.pt")


BAD_PRETRAINED = {  # of the pretrained runs, the data and a folder: flags; and the message
    "no such file": (lambda p, d, f: {"pretrained": "nowhere"}, "nowhere: nowhere is missing, "),
    "a folder without a run": (lambda p, d, f: {"pretrained": str(f)}, ".*: checkpoint.pt is missing, "),
    "a damaged file": (
        lambda p, d, f: {"pretrained": flipped(p["sac_flow_g"][1], f)},
        r".*policy.pt is missing, damaged or foreign \(a checksum differs\)",
    ),
    "a file that executes": (
        lambda p, d, f: {"pretrained": saved({"actor": Payload()}, f)},
        ".*policy.pt is .*foreign ",
    ),
    "no dictionary": (lambda p, d, f: {"pretrained": saved(torch.zeros(3), f)}, ".*policy.pt is .*foreign "),
    "no policy": (lambda p, d, f: {"pretrained": saved({"actor": {}}, f)}, ".*not a policy for .*'args'"),
    "weights that are none": (
        lambda p, d, f: {"pretrained": changed_policy(p["sac_flow_g"][1], f, actor=3)},
        ".*not a policy for ",
    ),
    "another script's": (
        lambda p, d, f: {"pretrained": p["sac_flow_naive"][0]},
        ".*made by sac_flow_naive.py with --candidate-layers None, not 4",
    ),
    "another script's of the same flags": (
        lambda p, d, f: {
            "pretrained": changed_policy(
                p["sac_flow_naive"][1], f, args=torch.load(p["sac_flow_g"][1], weights_only=True)["args"]
            )
        },
        ".*not a policy for .*Missing key",
    ),
    "another observation": (
        lambda p, d, f: {"pretrained": p["sac_flow_g"][0], "env_id": "lift", "dataset_path": d["lift"]},
        r".*not a policy for .*size mismatch for norm.mean: .*\[28\].*\[19\]",
    ),
    "another size of action": (
        lambda p, d, f: {"pretrained": changed_policy(p["sac_flow_g"][1], f, actor=four_actions(p["sac_flow_g"][1]))},
        r".*not a policy for .*size mismatch for velocity.from_x: .*\[20, 32\].*\[25, 32\]",
    ),
    "another chunk": (
        lambda p, d, f: {"pretrained": p["sac_flow_g"][0], "horizon_length": 3},
        ".*with --horizon-length 5, not 3; choose the same, ",
    ),
    "other networks": (
        lambda p, d, f: {"pretrained": p["sac_flow_g"][0], "hidden_dim": 8},
        ".*with --hidden-dim 16, not 8; choose the same, ",
    ),
    "another adapter": (
        lambda p, d, f: {
            "pretrained": changed_policy(
                p["sac_flow_g"][1], f, args=torch.load(p["sac_flow_g"][1], weights_only=True)["args"] | {"adapter": 8}
            )
        },
        ".*made with --adapter 8; give the same",
    ),
    "another squashing": (lambda p, d, f: {"pretrained": p["sac_flow_g"][0], "squash": "clip"}, ".*--squash tanh, not"),
}


def four_actions(file):
    """The weights of the same policy for one action less."""
    module, state = load("sac_flow_g"), torch.load(file, weights_only=True)
    return module.Actor(28, 20, module.Args(**state["args"])).state_dict()


@needs_extras
@pytest.mark.parametrize("case", BAD_PRETRAINED)
def test_a_pretrained_policy_that_does_not_fit_is_refused(case, data, pretrained, tmp_path, capsys, monkeypatch):
    module, (flags, message) = load("sac_flow_g"), BAD_PRETRAINED[case]
    monkeypatch.chdir(tmp_path)
    flags = small(dataset_path=data[CUBE], run_dir=str(tmp_path / "runs")) | flags(pretrained, data, tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        module.main(module.Args(**flags))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and len(error) < 900, error
    assert re.search(rf"^error: --pretrained {message}", error), error
    assert set(os.listdir(tmp_path)) <= {"policy.pt"}  # nothing was written, and nothing ran


@needs_extras
def test_an_adapter_needs_something_to_adapt(data, tmp_path, capsys):
    module = load("sac_flow_g")
    with pytest.raises(SystemExit) as stop:
        module.main(module.Args(**small(dataset_path=data[CUBE], run_dir=str(tmp_path), adapter=8)))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: --adapter 8: ") and error.count("\n") == 1


def test_the_off_policy_scripts_share_their_loop():
    """What follows the networks and the updates is the same text in main of the flows and of QC-FQL."""
    mains = [inspect.getsource(load(name).main) for name in SCRIPTS[:4]]
    loops = {main.partition("    # A checkpoint is these parts")[2] for main in mains}
    assert len(loops) == 1 and "for step in range" in loops.pop()


def test_swing_trains_and_compares(data, tmp_path):
    """Tiny. An average that forgets at once is the actor; ended runs are not trained again, nor taken for others."""
    flags = "--step-limit 13 --eval-episodes 2 --device cpu --no-compile --batch-size 8 --critic-hidden-dim 16"
    words = ["--env-id", CUBE, "--dataset-path", data[CUBE], "--offline-steps", "10", "--total-timesteps", "20"]
    words += ["--seeds", "1", "--rates", "constant", "decays to 0", "--decay", "0", "--run-dir", tmp_path / "runs"]
    words += ["--csv", tmp_path / "swing.csv", "--width", "16", f"--flags=--learning-starts 0 {flags}"]
    command = [sys.executable, ROOT / "scripts" / "swing.py", *words]
    tables = []
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
        with open(tmp_path / "swing.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert tables[0] == tables[1] and len(list(tmp_path.glob("runs/*/*/checkpoint.pt"))) == 2
    for other in (["--decay", "0.5"], ["--rates", "none"], []):
        if not other:  # a run as an earlier version left it, whose flags are not known
            next(tmp_path.glob("runs/*/settings")).unlink()
        refused = subprocess.run([*command, *other], capture_output=True, text=True)
        assert refused.returncode == 1 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    rows = [(row["rate"], row["weights"], int(row["step"])) for row in tables[0]]
    assert sorted(rows) == sorted(itertools.product(("constant", "decays to 0"), ("last", "average"), (18, 19, 20)))
    for path in tmp_path.glob("runs/*/*/checkpoint.pt"):
        parts = torch.load(path, weights_only=True)
        assert all(torch.equal(value, parts["average"][name]) for name, value in parts["actor"].items())
        rate = parts["actor_optimizer"]["param_groups"][0]["lr"]
        assert rate == pytest.approx(3e-4 * (1 if "constant" in str(path) else 1 / 20))


def test_ctrl_c_in_swing_keeps_the_run(data, tmp_path):
    """The run writes its checkpoint before the script ends."""
    flags = "--device cpu --no-compile --batch-size 8 --critic-hidden-dim 16"
    words = ["--env-id", CUBE, "--dataset-path", data[CUBE], "--rates", "constant", f"--flags={flags}"]
    words += ["--width", "16", "--run-dir", tmp_path / "runs", "--csv", tmp_path / "swing.csv"]
    command = [sys.executable, ROOT / "scripts" / "swing.py", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        any(line.startswith("run: ") for line in process.stdout)  # reads up to it
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(list(tmp_path.glob("runs/*/*/checkpoint.pt"))) == 1 and not list(tmp_path.glob("runs/*/done"))
