"""What the simulators and the official files do, measured on the real packages, and what the scripts make of it."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, scalars
from test_offline_to_online import CUBE, SCRIPTS, load, needs_extras, small

sys.path.append(str(ROOT / "scripts"))
import success_count  # noqa: E402

pytestmark = needs_extras
STACK = "cube-double-play-singletask-task5-v0"
GOAL = [0.425, -0.1, 0.02]  # of CUBE
SCRIPT = load("sac_flow_g")  # the others have the same environments and readers: check_sync.py


def make(env_id=CUBE, **flags):
    return SCRIPT.make_env(SCRIPT.with_presets(SCRIPT.Args(env_id=env_id, **flags)))


def raw_env(env_id=CUBE, **kwargs):
    """OGBench's own environment."""
    import gymnasium
    import ogbench.manipspace  # noqa: F401

    return gymnasium.make(env_id.replace("-play", ""), disable_env_checker=True, **kwargs)


def put(env, *positions, speed=(0, 0, 0)):
    """The cubes to these positions, moving with this speed."""
    import mujoco

    core = env.unwrapped
    for i, position in enumerate(positions):
        joint = core._data.joint(f"object_joint_{i}")
        joint.qpos[:], joint.qvel[:] = [*position, 1, 0, 0, 0], [*speed, 0, 0, 0]
    mujoco.mj_forward(core._model, core._data)
    core.pre_step()
    core.post_step()


def hand(env):
    core = env.unwrapped
    return core._data.site_xpos[core._pinch_site_id].copy()


# OGBench: success.
FALLING = {"positions": [(0.425, -0.1, 0.0625)]}  # enters its goal's 4 cm in its first step, and stays
PASSING = {"positions": [(0.425, -0.18, 0.05)], "speed": (0, 2.0, 0)}  # is there after one step, and beyond after two


def ends(env, case):
    """Reward, terminated, truncated and success of each step until the episode ends."""
    env.reset(seed=0)
    put(env, *case["positions"], speed=case.get("speed", (0, 0, 0)))
    rows = []
    while not rows or not (rows[-1][1] or rows[-1][2]):
        _, reward, terminated, truncated, info = env.step(np.zeros(5))
        rows.append((reward, terminated, truncated, info["success"]))
    return rows


def test_success_counts_the_state_after_the_last_step():
    """OGBench's own comes a step late, and never for what the last step before the limit solves. A cube that only
    passes its goal is a success too: it ends the episode. Rewards and ends stay OGBench's."""
    for limit, own in ((1, False), (2, True), (9, True)):
        theirs, mine = raw_env(max_episode_steps=limit), make(step_limit=limit)
        for case in (FALLING, PASSING):
            seen, rows = ends(theirs, case), ends(mine, case)
            first = (-1, False, limit == 1, False)
            assert seen == [first, (0, True, limit == 2, True)][:limit]
            assert [row[:3] for row in rows] == [row[:3] for row in seen]
            assert (seen[-1][3], rows[-1][3]) == (own, True)
            assert mine.unwrapped._success == (case is FALLING or limit == 1)
    assert ends(raw_env(success_timing="post"), FALLING) == [(0, True, False, True)]
    assert not any(row[3] for row in ends(mine, {"positions": [(0.425, 0.1, 0.02)]}))


def test_both_counts_on_an_episode_of_the_oracle(tmp_path):
    """The same at the usual limit; with one that falls on the solving step, OGBench's own count misses the episode."""
    success_count.main(success_count.Args(episodes=1, csv=tmp_path / "count.csv"))
    with open(tmp_path / "count.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    solved, episode = int(row["solved"]), success_count.oracle_episode
    assert 20 < solved < 150 and episode(make(), 0) == episode(raw_env(), 0) == (solved + 1, True, True)
    assert episode(raw_env(max_episode_steps=solved), 0) == (solved, False, False)
    assert episode(make(step_limit=solved), 0) == (solved, False, True)
    assert episode(make(step_limit=solved - 1), 0) == (solved - 1, False, False)


def test_both_counts_in_the_decisions_log():
    """At the usual limit and at the median, from the committed table."""
    with open(ROOT / "results" / "success_count.csv", newline="") as file:
        solved = np.array([int(row["solved"]) for row in csv.DictReader(file)])
    median, page = int(np.median(solved)), (ROOT / "results" / "DECISIONS.md").read_text()
    assert len(solved) == 100 and solved.max() < 200
    theirs, ours = (solved < median).sum(), (solved <= median).sum()
    assert f"with {median}, the median, OGBench counts {theirs} and this {ours}" in " ".join(page.split())


def test_cubes_side_by_side_solve_the_stacking_task():
    """The second one .6 mm above the table; resting on it, it misses by .04 mm. It is OGBench's own measure."""
    env, beside = make(STACK), ((0.425, -0.037, 0.02), (0.425, 0.0045, 0.0206))
    assert beside[1][1] - beside[0][1] > 0.04  # the edge of a cube
    env.reset(seed=0)
    put(env, *beside)
    _, reward, terminated, _, info = env.step(np.zeros(5))
    assert (reward, terminated, info["success"]) == (0, True, True)
    env.reset(seed=0)
    put(env, (0.425, 0.3, 0.02), (0.425, 0.0, 0.02))
    for _ in range(30):
        env.step(np.zeros(5))
    missed = np.linalg.norm(env.unwrapped._data.joint("object_joint_1").qpos[:3] - [0.425, 0, 0.06]) - 0.04
    assert 2e-5 < missed < 6e-5 and env.unwrapped._compute_successes() == [False, False]


# OGBench: actions and resets.
def test_ogbench_does_not_clip_actions():
    """What goes beyond the bounds moves farther, so that none may: see the tests below."""
    env, moved = raw_env(), []
    for size in (1, 3):
        env.reset(seed=0)
        before = hand(env)
        env.step(np.array([-size, 0, 0, 0, 0.0]))
        moved.append(abs(hand(env) - before)[0])
    assert 2.5 < moved[1] / moved[0] < 3.1


def test_a_zero_action_does_not_hold_ogbenchs_arm():
    """It is relative to the measured pose, which sinks: and the gripper closes."""
    env = make()
    for seed in range(3):
        env.reset(seed=seed)
        core, before = env.unwrapped, hand(env)
        for _ in range(50):
            env.step(np.zeros(5))
        assert 0.03 < (before - hand(env))[2] < 0.15
        assert core._data.qpos[core._gripper_opening_joint_id] > 0.03


def test_the_goal_of_a_seed_changes_from_call_to_call_but_not_here():
    """OGBench makes it by actions of an unseeded space; the observation of the start does not depend on it."""
    theirs, mine = raw_env(), make()
    starts, goals = zip(*((obs, info["goal"]) for obs, info in (theirs.reset(seed=3) for _ in range(2))), strict=True)
    assert np.abs(goals[0] - goals[1]).max() > 0.01 and np.array_equal(*starts)
    (one, info), (other, again) = mine.reset(seed=3), mine.reset(seed=3)
    assert np.array_equal(info["goal"], again["goal"])
    assert np.array_equal(one, other) and np.array_equal(one, np.float32(starts[0]))


@pytest.mark.parametrize("name", SCRIPTS)
def test_actions_of_a_policy_stay_inside(name):
    """However large the noise."""
    module = load(name)
    actor = module.Actor(3, 10, module.Args(horizon_length=2))
    if hasattr(actor, "fit"):
        actor.fit(torch.randn(20, 3), torch.rand(20, 5) * 2 - 1)
    noise = 1000 * actor.draw_noise(50, torch.Generator().manual_seed(0))
    for deterministic in (False, True):
        action = actor.act(torch.randn(50, 3), noise, deterministic)
        assert 0.9 < action.abs().max() <= 1


@pytest.mark.parametrize("env_id", ["cube-single-noisy-v0", "lift"])
def test_made_data_hold_the_actions_that_were_done(env_id, monkeypatch):
    """With the most noise: clipped before the simulator sees them, many at the bounds."""
    module, done = load("make_dataset"), []
    monkeypatch.setattr(module, "LENGTH", 40)
    monkeypatch.setattr(module, "STEP_LIMIT", 100)
    args = module.Args(env_id=env_id, noise=1.0)
    random = np.random.default_rng(1)
    env = module.make_robosuite("lift", 0) if env_id == "lift" else module.make_manipspace("cube-single")
    step = env.step
    monkeypatch.setattr(env, "step", lambda action: done.append(np.array(action)) or step(action))
    if env_id == "lift":
        rows = None
        while rows is None:
            done.clear()
            rows = module.scripted_episode(env, env_id, random, args)
    else:
        rows = module.play_episode(env, "cube-single", "noisy", random, args)
    assert np.array_equal(rows["actions"], np.array(done, rows["actions"].dtype))
    arm = np.abs(rows["actions"][:, : 4 + 2 * (env_id == "lift")])
    assert arm.max() == 1 and (arm == 1).sum() > 3
    env.close()


# Files in the official layouts.
def ogbench_file(folder, env_id, episodes=3, rows=20, solved=(), largest=1.0):
    """X.npz and X-val.npz as OGBench's generator writes them, by random actions; task 1 is solved at the given rows."""
    name, random = env_id.partition("-play")[0], np.random.default_rng(0)
    env = raw_env(f"{name}-v0", mode="data_collection", terminate_at_goal=False)
    path, columns = str(folder / f"{name}-play-v0.npz"), {}
    for _ in range(episodes):
        obs, _ = env.reset(seed=int(random.integers(1000)))
        for row in range(rows):
            action = random.uniform(-largest, largest, 5)
            before, (obs, _, _, _, info) = obs, env.step(action)
            step = {"observations": before, "actions": action, "terminals": row == rows - 1}
            step |= {key: info[f"prev_{key}"] for key in ("qpos", "qvel")}
            step |= {"button_states": info["prev_button_states"]} if name == "scene" else {}
            for key, value in step.items():
                columns.setdefault(key, []).append(value)
    dtypes = {"terminals": bool, "button_states": np.int64}
    arrays = {key: np.array(values, dtypes.get(key, np.float32)) for key, values in columns.items()}
    if solved:
        arrays["qpos"][:, 14:17] = [0.3, 0.3, 0.02]
        arrays["qpos"][list(solved), 14:17] = GOAL
    np.savez_compressed(path, **arrays)
    np.savez_compressed(path.replace(".npz", "-val.npz"), **{key: values[:rows] for key, values in arrays.items()})
    return path


def test_the_reader_has_the_valid_rows_of_both_official_readers(tmp_path):
    """The last row of a trajectory, the 19th of 20, is in none of them: neither is a success first reached there."""
    import ogbench

    path = ogbench_file(tmp_path, CUBE, solved=(19, 27, 28, 59))
    args = SCRIPT.with_presets(SCRIPT.Args(env_id=CUBE, dataset_path=path))
    mine = SCRIPT.load_dataset(args, path, SCRIPT.make_env(args))
    names = {"obs": "observations", "action": "actions", "reward": "rewards", "mask": "masks", "terminal": "terminals"}
    _, regular, _ = ogbench.make_env_and_datasets(CUBE, dataset_path=path)
    _, compact, _ = ogbench.make_env_and_datasets(CUBE, dataset_path=path, compact_dataset=True)
    valid = np.flatnonzero(compact["valids"])
    assert len(mine["reward"]) == len(valid) == 57 and len(compact["rewards"]) == 60
    for name, official in names.items():
        assert np.array_equal(mine[name], regular[official]) and np.array_equal(mine[name], compact[official][valid])
    assert np.array_equal(mine["next_obs"], regular["next_observations"])
    assert np.array_equal(mine["next_obs"], compact["observations"][valid + 1])
    assert np.flatnonzero(mine["reward"] == 0).tolist() == [26, 27] == np.flatnonzero(mine["mask"] == 0).tolist()
    # Compact, the row is there with its reward, marked, behind another end.
    assert np.flatnonzero(compact["rewards"] == 0).tolist() == [19, 27, 28, 59] and compact["valids"][19] == 0
    assert np.flatnonzero(compact["terminals"]).tolist() == [18, 19, 38, 39, 58, 59]


def test_a_files_actions_are_inside_or_refused(tmp_path, capsys):
    """What rounding made of 1 is 1 again; what the simulator would have done otherwise is no data of ours."""
    path = ogbench_file(tmp_path, CUBE, episodes=1)
    args = SCRIPT.with_presets(SCRIPT.Args(env_id=CUBE, dataset_path=path))
    env = SCRIPT.make_env(args)
    with np.load(path) as arrays:
        changed = dict(arrays)
    for largest in (1 + 1e-6, 1.01, 3.0):
        changed["actions"][4, 2] = -largest
        np.savez(path, **changed)
        if largest < 1.001:
            assert SCRIPT.load_dataset(args, path, env)["action"].min() == -1
            continue
        with pytest.raises(SystemExit) as stop:
            SCRIPT.load_dataset(args, path, env)
        assert stop.value.code == 2 and f"an action of {largest:.3g}, beyond 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sac_flow_g", "reinflow"])
def test_runs_count_what_the_last_step_solves(name, tmp_path, monkeypatch):
    """In training and in evaluation: every episode of one step, in which the cube falls to its goal."""
    module = load(name)
    reset = module.Manipspace.reset

    def falling(self, **kwargs):
        start = reset(self, **kwargs)
        put(self, *FALLING["positions"])
        return start

    monkeypatch.setattr(module.Manipspace, "reset", falling)
    path = ogbench_file(tmp_path, CUBE)
    flags = small(name, dataset_path=path, run_dir=str(tmp_path / "runs"), offline_steps=4, total_timesteps=20)
    seen = scalars(module.main(module.Args(**flags | {"step_limit": 1})))
    assert {value for _, value in seen["charts/success"]} == {value for _, value in seen["eval/success"]} == {1.0}
    assert {value for _, value in seen["charts/episodic_return"]} == {-1.0}


@pytest.mark.parametrize("env_id", ["cube-double-play-singletask-task1-v0", "scene-play-singletask-task1-v0"])
def test_an_official_npz_is_trained_on_as_it_is(tmp_path, env_id):
    path = ogbench_file(tmp_path, env_id)
    flags = small(env_id=env_id, dataset_path=path, run_dir=str(tmp_path / "runs"), offline_steps=4, total_timesteps=7)
    state = SCRIPT.load_checkpoint(SCRIPT.main(SCRIPT.Args(**flags | {"eval_frequency": 0})))
    assert state["step"] == 11 and state["counters"][0] == 7 and state["data"][0] == 57


OSC = {"type": "OSC_POSE", "input_max": 1, "input_min": -1, "kp": 150, "damping": 1, "impedance_mode": "fixed"}
OSC |= {"output_max": [0.05] * 3 + [0.5] * 3, "output_min": [-0.05] * 3 + [-0.5] * 3, "kp_limits": [0, 300]}
OSC |= {"damping_limits": [0, 10], "position_limits": None, "orientation_limits": None, "uncouple_pos_ori": True}
OSC |= {"control_delta": True, "interpolation": None, "ramp_ratio": 0.2, "input_ref_frame": "world"}
OFFICIAL = {"has_renderer": False, "has_offscreen_renderer": False, "ignore_done": True, "use_object_obs": True}
OFFICIAL |= {"use_camera_obs": False, "control_freq": 20, "robots": ["Panda"], "camera_depths": False}
OFFICIAL |= {"camera_heights": 84, "camera_widths": 84, "lite_physics": False, "reward_shaping": False}
OFFICIAL["controller_configs"] = {"type": "BASIC", "body_parts": {"right": OSC | {"gripper": {"type": "GRIP"}}}}
OTHERS = "robot0_eef_quat_site", "robot0_gripper_qvel", "robot0_joint_pos", "robot0_joint_pos_cos"
OTHERS += "robot0_joint_pos_sin", "robot0_joint_vel"
DEMOS, ROWS = 11, 5  # demo_10 comes before demo_2 in the order of text


def make_robosuite(name="Lift", **kwargs):
    import robosuite

    return robosuite.make(name, **OFFICIAL | {"hard_reset": False, "seed": 0} | kwargs)


def lift_cube(env, height):
    """Put Lift's cube to this height, at rest."""
    position = env.sim.data.get_joint_qpos("cube_joint0").copy()
    position[2] = height
    env.sim.data.set_joint_qpos("cube_joint0", position)
    env.sim.data.set_joint_qvel("cube_joint0", np.zeros(6))
    env.sim.forward()


@pytest.fixture(scope="module")
def low_dim(tmp_path_factory):
    """A file as robomimic's low_dim_v15.hdf5, of random actions: the third row of every demonstration but the last, and
    all rows behind it, are successes and done, as is each last row; masks name some of them."""
    h5py = pytest.importorskip("h5py")
    path, random = str(tmp_path_factory.mktemp("low_dim") / "low_dim_v15.hdf5"), np.random.default_rng(0)
    env, own = make_robosuite(), SCRIPT.OBS_KEYS
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for i in range(DEMOS):
            states, seen, actions = [], [env.reset()], random.uniform(-1, 1, (ROWS, 7))
            for action in actions:
                states.append(env.sim.get_state().flatten())
                seen.append(env.step(action)[0])
            demo, solved = data.create_group(f"demo_{i}"), (np.arange(ROWS) >= 2) & (i < DEMOS - 1)
            demo.attrs["model_file"], demo.attrs["num_samples"] = env.sim.model.get_xml(), ROWS
            demo["actions"], demo["states"], demo["rewards"] = actions, np.array(states), solved.astype(float)
            demo["dones"] = (solved | (np.arange(ROWS) == ROWS - 1)).astype(np.int64)
            for side, rows in (("obs", seen[:-1]), ("next_obs", seen[1:])):
                for key in own + OTHERS:
                    name = "object-state" if key == "object" else key
                    demo[f"{side}/{key}"] = np.array([row[name] for row in rows])
        made_from = {"env_name": "Lift", "env_version": "1.5.1", "type": 1, "env_kwargs": OFFICIAL}
        data.attrs["total"], data.attrs["env_args"] = DEMOS * ROWS, json.dumps(made_from, indent=4)
        for name, members in (("train", range(2, DEMOS)), ("valid", range(2)), ("worse", range(0, DEMOS, 3))):
            file[f"mask/{name}"] = np.array([f"demo_{i}" for i in members], dtype="S")
    env.close()
    return path


# Robomimic's files.
def test_demonstrations_are_read_by_number_whatever_the_masks(low_dim, capsys):
    """Names sort as text, masks come back as bytes: the reader goes by number, and takes those of all masks."""
    import h5py

    args = SCRIPT.with_presets(SCRIPT.Args(env_id="lift", dataset_path=low_dim))
    mine = SCRIPT.load_dataset(args, low_dim, SCRIPT.make_env(args))
    assert f"{DEMOS} demonstrations, of which 1 failed" in capsys.readouterr().out
    with h5py.File(low_dim) as file:
        assert list(file["data"])[:3] == ["demo_0", "demo_1", "demo_10"]
        assert file["mask/valid"][()].tolist() == [b"demo_0", b"demo_1"]
        demos = [file[f"data/demo_{i}"] for i in range(DEMOS)]
        actions = np.concatenate([demo["actions"][()] for demo in demos])
        for name, side in (("obs", "obs"), ("next_obs", "next_obs")):
            columns = [np.concatenate([demo[f"{side}/{key}"][()] for demo in demos]) for key in SCRIPT.OBS_KEYS]
            assert np.array_equal(mine[name], np.concatenate(columns, axis=1, dtype=np.float32))
    assert np.array_equal(mine["action"], actions.astype(np.float32))
    assert mine["reward"].tolist() == [-1.0, -1, 0, 0, 0] * (DEMOS - 1) + [-1.0] * 5
    assert mine["mask"].tolist() == [1.0, 1, 0, 0, 0] * (DEMOS - 1) + [1.0] * 5
    assert mine["terminal"].tolist() == [0.0, 0, 1, 1, 1] * (DEMOS - 1) + [0.0, 0, 0, 0, 1]


def test_masks_that_are_written_name_demonstrations_as_robomimic_reads_them(tmp_path):
    """Bytes, each the name of a demonstration in one mask: tried with twelve, whose order as text is another."""
    import h5py

    module, parts = load("make_dataset"), []
    for i in range(12):
        parts.append(str(tmp_path / f"{i}.npz"))
        np.savez(parts[-1], actions=np.full((2, 7), i / 100))
    module.write_hdf5(str(tmp_path / "made.hdf5"), parts, "lift", "<mujoco/>")
    with h5py.File(tmp_path / "made.hdf5") as file:
        train, valid = ([name.decode("utf-8") for name in file[f"mask/{mask}"][()]] for mask in ("train", "valid"))
        assert valid == ["demo_0", "demo_10"] and sorted(train + valid) == sorted(file["data"])
        assert file["data/demo_10/actions"][0, 0] == 0.1


def test_an_official_hdf5_is_trained_on_as_it_is(low_dim, tmp_path):
    """Its controller is named by control_delta and refers to the world: the environment moves as it does there."""
    flags = small(env_id="lift", dataset_path=low_dim, run_dir=str(tmp_path), offline_steps=4, total_timesteps=7)
    state = SCRIPT.load_checkpoint(SCRIPT.main(SCRIPT.Args(**flags | {"eval_frequency": 0})))
    assert state["step"] == 11 and state["counters"][0] == 7 and state["data"][0] == DEMOS * ROWS
    env, theirs = make("lift", dataset_path=low_dim), make_robosuite()
    moved = []
    for robosuite_env in (env.unwrapped.env, theirs):
        robosuite_env.rng.bit_generator.state = np.random.default_rng(3).bit_generator.state
        before = robosuite_env.reset()["robot0_eef_pos"]
        for _ in range(5):
            after = robosuite_env.step(np.array([0, 1, 0, 0, 0, 0, 0.0]))[0]["robot0_eef_pos"]
        moved.append(after - before)
    assert np.array_equal(*moved) and moved[0][1] > 0.03
    env.close(), theirs.close()


# Robosuite.
def test_success_ends_an_episode_that_robosuite_goes_on_with(low_dim):
    """Its own is done at the horizon alone, and success, of a cube let fall, does not last."""
    theirs = make_robosuite(ignore_done=False, horizon=6)
    theirs.reset()
    lift_cube(theirs, 0.93)
    rows = [(*theirs.step(np.zeros(7))[1:3],) for _ in range(6)]
    assert rows == [(1, False)] * 2 + [(0, False)] * 3 + [(0, True)]
    env = make("lift", dataset_path=low_dim, step_limit=6)
    for height, expected in ((0.93, [(0, True, False, True)]), (None, [(-1, False, False, False)] * 5)):
        env.reset(seed=0)
        if height:
            lift_cube(env.unwrapped.env, height)
        rows = [(*env.step(np.zeros(7))[1:4],) for _ in expected]
        assert rows == [row[:3] for row in expected]
    _, reward, terminated, truncated, info = env.step(np.zeros(7))
    assert (reward, terminated, truncated, info["success"]) == (-1, False, True, False)
    env.close(), theirs.close()


def test_success_at_the_limit_is_a_success_in_robosuite_too(low_dim):
    env = make("lift", dataset_path=low_dim, step_limit=1)
    env.reset(seed=0)
    lift_cube(env.unwrapped.env, 0.93)
    _, reward, terminated, truncated, info = env.step(np.zeros(7))
    assert (reward, terminated, truncated, info["success"]) == (0, True, True, True)
    env.close()


def test_edges_of_lifts_cube(low_dim):
    """4.0 to 4.4 cm, drawn by the seed; ours keep them over resets, a hard one would draw anew."""

    def edges(env):
        return 2 * env.sim.model.geom_size[env.sim.model.geom_name2id("cube_g0")]

    sizes = []
    for seed in range(4):
        env = make("lift", dataset_path=low_dim, seed=seed)
        sizes.append(edges(env.unwrapped.env).copy())
        env.reset(seed=5)
        assert np.array_equal(edges(env.unwrapped.env), sizes[-1])
        env.close()
    assert len({size.tobytes() for size in sizes}) == 4
    assert 0.04 <= np.min(sizes) < 0.041 and 0.043 < np.max(sizes) <= 0.044
    hard = make_robosuite(hard_reset=True)
    before = edges(hard).copy()
    hard.reset()
    assert not np.array_equal(edges(hard), before)
    hard.close()


def test_robosuite_clips_holds_and_grips_by_sign():
    """A zero action holds the arm; of the gripper's the sign alone counts, and 0 keeps where it was going."""
    env, site = make_robosuite(), None

    def play(*actions):
        env.rng.bit_generator.state = np.random.default_rng(0).bit_generator.state
        env.reset()
        return [env.step(np.array(action, float))[0] for action in actions]

    still = [0] * 7
    one, three = (play(*[[size, 0, 0, 0, 0, 0, 0]] * 5)[-1]["robot0_eef_pos"] for size in (1, 3))
    assert np.array_equal(one, three)
    env.reset()
    site = env.robots[0].eef_site_id["right"]
    before = env.sim.data.site_xpos[site].copy()
    for _ in range(50):
        env.step(np.zeros(7))
    assert np.abs(env.sim.data.site_xpos[site] - before).max() < 1e-6
    widths = [play(*[[*still[:6], grip]] * 15, *[still] * 15) for grip in (-1, -0.01, 0.01, 1)]
    fingers = np.array([[seen[i]["robot0_gripper_qpos"][0] for i in (14, 29)] for seen in widths])
    assert np.abs(fingers[0] - fingers[1]).max() < 1e-3 and np.abs(fingers[2] - fingers[3]).max() < 1e-3
    assert (fingers[:2] > 0.035).all() and (fingers[2:] < 0.005).all()
    env.close()


def test_the_observed_hand_lags_a_substep():
    """Below a millimetre; of a restored state, as in robomimic's files, it does not."""
    env = make_robosuite()
    env.reset()
    for _ in range(5):
        seen = env.step(np.array([1, 1, 0, 0, 0, 0, 0.0]))[0]["robot0_eef_pos"].copy()
    env.sim.set_state_from_flattened(env.sim.get_state().flatten())
    env.sim.forward()
    fresh = env._get_observations(force_update=True)["robot0_eef_pos"]
    assert 1e-4 < np.linalg.norm(fresh - seen) < 1e-3
    env.close()
