"""Make offline data in the official formats: OGBench's .npz with its oracles, robomimic's .hdf5 with scripted policies.

    python make_dataset.py --env-id cube-single-play-singletask-task1-v0 --path data/cube-single-play-v0.npz
    python make_dataset.py --env-id can --episodes 200 --path data/can.hdf5

OGBench (Park et al., arXiv 2410.20092): an episode is 1001 rows, its oracles reach for one random target after another,
`play` along plans with smooth noise, `noisy` as Markov policies with Gaussian noise and random actions. The data belong
to no task; the trainers relabel them. More than --episodes-per-file make a folder of shards. Every file X.npz has its
X-val.npz of a tenth as many episodes. Robomimic (Mandlekar et al., arXiv 2108.03298): lift, can or square, successful
episodes only, up to their success. An interrupted call goes on where it was, to the file of an uninterrupted one.
"""

import json
import logging
import math
import os
import re
import shutil
import sys
import warnings
from dataclasses import asdict, dataclass

import numpy as np
import tyro
from tqdm import tqdm

ROBOSUITE = {"lift": "Lift", "can": "PickPlaceCan", "square": "NutAssemblySquare"}
LENGTH = 1001  # rows of an OGBench episode
STEP_LIMIT = 400  # steps after which a scripted policy has failed


@dataclass
class Args:
    env_id: str = "cube-single-play-singletask-task1-v0"  # an OGBench task, or lift, can or square
    path: str | None = None  # file to write, or folder of shards; default data/NAME
    episodes: int = 100  # episodes (OGBench, 1001 rows each, without validation) or successful demonstrations
    episodes_per_file: int = 1000  # OGBench: more episodes than this make a folder of shards
    seed: int = 0  # seed of the environment, the oracle and its noise
    noise: float = 0.1  # OGBench: of plans in action ranges, or largest of actions; robosuite: largest of actions
    random_actions: float = 0.1  # share of uniformly random actions in OGBench's noisy data


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2, before anything was written."""
    if not condition:
        print("error:", " ".join(message.split()), file=sys.stderr)  # a Box prints itself in several lines
        raise SystemExit(2)


# OGBench.
def make_manipspace(name: str):
    import gymnasium
    import ogbench.manipspace  # noqa: F401

    limits = {"mode": "data_collection", "terminate_at_goal": False, "max_episode_steps": LENGTH}
    return gymnasium.make(f"{name}-v0", disable_env_checker=True, **limits)


def play_episode(env, name: str, kind: str, rng: np.random.Generator, args: Args) -> dict[str, np.ndarray] | None:
    """Rows of one episode; None where OGBench would drop it, or a cube left the table (by numerical instability)."""
    from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    np.random.seed(rng.integers(2**32))  # the oracles draw from the global generator
    if kind == "play":
        makers = cube_plan.CubePlanOracle, button_plan.ButtonPlanOracle, drawer_plan.DrawerPlanOracle
        makers, options = (*makers, window_plan.WindowPlanOracle), {"noise": args.noise, "noise_smoothing": 0.5}
    else:
        makers = cube_markov.CubeMarkovOracle, button_markov.ButtonMarkovOracle, drawer_markov.DrawerMarkovOracle
        makers, options = (*makers, window_markov.WindowMarkovOracle), {}
    tasks = ("cube", "button", "drawer", "window") if name == "scene" else ("cube",)
    oracles = {task: make(env=env, **options) for task, make in zip(tasks, makers, strict=False)}
    # How often a cube goes on top of another one: OGBench's own choice for each environment.
    stacking = {"cube-single": (0, 0), "cube-double": (0, 0.25), "cube-triple": (0.05, 0.35), "scene": (0.5, 0.5)}
    p_stack, action_std = rng.uniform(*stacking.get(name, (0.1, 0.5))), rng.uniform(0, args.noise)

    obs, info = env.reset(seed=int(rng.integers(2**31)))
    oracle = oracles[info["privileged/target_task"]]
    oracle.reset(obs, info)
    rows = {key: [] for key in ("observations", "actions", "terminals", "qpos", "qvel")}
    rows |= {"button_states": []} if "button_states" in info else {}
    for i in range(LENGTH):
        if kind == "noisy" and rng.random() < args.random_actions:
            action = rng.uniform(-1, 1, 5)
        else:
            action = np.array(oracle.select_action(obs, info))
            if kind == "noisy":
                action += rng.normal(size=5) * action_std * np.array([1, 1, 1, 3, 10])
        action = action.clip(-1, 1)
        next_obs, _, _, _, info = env.step(action)
        if oracle.done:
            target_obs, target_info = env.unwrapped.set_new_target(p_stack=p_stack)
            oracle = oracles[target_info["privileged/target_task"]]
            oracle.reset(target_obs, target_info)
        row = {"observations": obs, "actions": action, "terminals": i == LENGTH - 1}
        for key, values in rows.items():
            values.append(row[key] if key in row else info[f"prev_{key}"])
        obs = next_obs
    dtypes = {"terminals": bool, "button_states": np.int64}
    arrays = {key: np.array(values, dtypes.get(key, np.float32)) for key, values in rows.items()}
    cubes = arrays["qpos"][:, 14 : 14 + 7 * env.unwrapped._num_cubes].reshape(LENGTH, -1, 7)[..., :3]
    inside = (cubes > [0.15, -0.5, -0.05]).all() and (cubes < [0.75, 0.5, 0.6]).all()
    if name == "scene":  # OGBench's own check: the cube neither far to the right nor, but in the drawer, to the left
        y, z = cubes[..., 1], cubes[..., 2]
        inside = inside and not ((y >= 0.29) | ((y <= -0.3) & ((z < 0.06) | (z > 0.08)))).any()
    return arrays if inside else None


# Robosuite.
def env_args(env_id: str) -> dict:
    """What robomimic writes down about an environment, and builds it from."""
    import robosuite

    controller = robosuite.load_composite_controller_config(controller="BASIC")
    kwargs = {"robots": ["Panda"], "controller_configs": controller, "control_freq": 20, "ignore_done": True}
    kwargs |= {"has_renderer": False, "has_offscreen_renderer": False, "use_camera_obs": False}
    kwargs |= {"use_object_obs": True, "reward_shaping": False, "lite_physics": False}
    name = ROBOSUITE[env_id]
    return {"env_name": name, "env_version": robosuite.__version__, "type": 1, "env_kwargs": kwargs}


def make_robosuite(env_id: str, seed: int):
    logging.disable(logging.WARNING)  # it warns of missing extras whenever it is imported
    import robosuite

    made_from = env_args(env_id)
    return robosuite.make(made_from["env_name"], **made_from["env_kwargs"], hard_reset=False, seed=seed)


def target_path(env, env_id: str, rng: np.random.Generator):
    """The scripted policy's way as a generator of (position (3,), yaw or None, gripper -1 open to 1 closed, tolerance,
    steps to stay). It reads the simulator's state each time it is asked."""
    data, stay = env.sim.data, int(rng.integers(6, 14))

    def body(name):
        matrix = data.body_xmat[env.sim.model.body_name2id(name)].reshape(3, 3)
        return data.body_xpos[env.sim.model.body_name2id(name)].copy(), np.arctan2(matrix[1, 0], matrix[0, 0])

    def grasp():
        """Where to take hold of the object now: it falls at first, and is pushed."""
        if env_id == "lift":
            position, angle = body(env.cube.root_body)
            return position - [0, 0, 0.005], ("hand", angle, np.pi / 2)
        if env_id == "can":
            return body(env.objects[env.object_id].root_body)[0] + [0, 0, 0.01], None
        handle = data.site_xpos[env.sim.model.site_name2id(nut.important_sites["handle"])]
        return handle - [0, 0, 0.005], ("hand", body(nut.root_body)[1], np.pi)

    nut = env.nuts[env.nut_id] if env_id == "square" else None
    aside = np.append(rng.uniform(-0.02, 0.02, 2), rng.uniform(0.06, 0.12))
    for offset, tolerance in ((aside, 0.02), (np.array([0, 0, 0.05]), 0.012), (np.zeros(3), 0.008)):
        position, yaw = grasp()
        yield position + offset, yaw, -1, tolerance, 0
    grasp = position
    yield grasp, yaw, 1, 1.0, stay
    if env_id == "lift":
        yield grasp + [0, 0, 0.12], yaw, 1, 0.01, 10
        return
    lifted = grasp + [0, 0, rng.uniform(0.15, 0.22)]
    yield lifted, yaw, 1, 0.03, 0
    if env_id == "can":  # to the near corner of its quarter of the bin: the far one is out of the arm's reach
        goal = env.target_bin_placements[env.object_id][:2] + rng.uniform([-0.06, -0.09], [-0.01, -0.03])
        for height, gripper, tolerance, steps in ((1.03, 1, 0.03, 0), (0.93, 1, 0.02, 0), (0.93, -1, 1.0, stay)):
            yield np.append(goal, height), None, gripper, tolerance, steps
        yield np.append(goal, 1.05), None, -1, 0.02, 10
        return
    peg, _ = body("peg1")
    turned = ("object", nut.root_body, np.pi / 2)  # until the nut's sides are parallel to the peg's
    height, table = 0.16, env.table_offset[2]  # of the nut above the table; the peg ends at 0.13
    while height > 0.13:
        # Where the hand has to be for the nut to be over the peg, measured anew: the nut slips and turns in the hand.
        position, angle = body(nut.root_body)
        error = np.linalg.norm(position[:2] - peg[:2]) + 0.03 * abs(math.remainder(angle, np.pi / 2))
        height -= 0.006 * (error < 0.002)
        hand = data.site_xpos[env.robots[0].eef_site_id["right"]] - position
        yield np.append(peg[:2], table + height) + hand, turned, 1, 0.02, 0
    yield np.append(peg[:2], table + height) + hand, None, -1, 1.0, stay  # let it fall over the peg
    yield np.append(peg[:2], table + 0.2) + hand, None, -1, 0.02, 10


def scripted_episode(env, env_id: str, rng: np.random.Generator, args: Args) -> dict[str, np.ndarray] | None:
    """One demonstration by a proportional controller along `target_path`, with noise; None where it failed."""
    from scipy.spatial.transform import Rotation

    env.rng.bit_generator.state = np.random.default_rng(rng.integers(2**63)).bit_generator.state
    obs = env.reset()
    speed, action_std, site = rng.uniform(0.5, 1.0), rng.uniform(0, args.noise), env.robots[0].eef_site_id["right"]
    down = Rotation.from_matrix(env.sim.data.site_xmat[site].reshape(3, 3))
    level = np.arctan2(*down.as_matrix()[[1, 0], 0])
    path, rows, waited, still, summed = target_path(env, env_id, rng), [], 0, 0, np.zeros(3)
    target, patience = next(path), 60
    for _ in range(STEP_LIMIT):
        position, yaw, gripper, tolerance, stay = target
        now = Rotation.from_matrix(env.sim.data.site_xmat[site].reshape(3, 3))
        heading = np.arctan2(*now.as_matrix()[[1, 0], 0])
        wanted = level if yaw is None else heading
        if yaw is not None:
            kind, of, symmetry = yaw
            if kind == "object":  # the object's angle is to be a multiple of the symmetry
                matrix = env.sim.data.body_xmat[env.sim.model.body_name2id(of)].reshape(3, 3)
                error = -np.arctan2(matrix[1, 0], matrix[0, 0])
            else:  # the hand's angle is to be the object's
                error = of - heading
            wanted = heading + (error + symmetry / 2) % symmetry - symmetry / 2
        turn = (Rotation.from_euler("z", wanted - level) * down * now.inv()).as_rotvec()
        offset = position - env.sim.data.site_xpos[site]
        # The arm's friction swallows small commands: they add up.
        summed = 0.85 * summed + offset if np.linalg.norm(offset) < 0.02 else np.zeros(3)
        action = np.concatenate([(offset + 0.4 * summed) / 0.016, turn / 0.25]).clip(-speed, speed)
        careful = min(1, np.linalg.norm(offset) / 0.02)  # less noise where it is close
        action += action_std * careful * rng.normal(size=6)
        action = np.append(action, gripper).clip(-1, 1)
        state = env.sim.get_state().flatten()
        next_obs, reward, _, _ = env.step(action)
        rows.append((obs, action, state, reward, next_obs))
        obs = next_obs
        if reward > 0:
            break
        reached = np.linalg.norm(position - env.sim.data.site_xpos[site]) < tolerance and abs(turn[2]) < 0.1
        still, waited = still + 1, waited + reached
        if waited > stay or still > patience:
            target, waited, still = next(path, None), 0, 0
            if target is None:
                break
    if rows[-1][3] <= 0:
        return None
    keys = {"object": "object-state"} | {
        f"robot0_{key}": f"robot0_{key}"
        for key in ("eef_pos", "eef_quat", "gripper_qpos", "gripper_qvel", "joint_pos", "joint_vel")
    }
    arrays = {"actions": np.array([row[1] for row in rows]), "states": np.array([row[2] for row in rows])}
    arrays["rewards"] = np.array([float(row[3]) for row in rows])
    arrays["dones"] = (np.arange(len(rows)) == len(rows) - 1).astype(np.int64)
    for group, column in (("obs", 0), ("next_obs", 4)):
        arrays |= {f"{group}/{key}": np.array([row[column][own] for row in rows]) for key, own in keys.items()}
    return arrays


# Files.
def remember(folder: str, settings: dict, problem: str):
    """Note the settings of what is made in a folder; ends the program where others were noted before."""
    note = os.path.join(folder, "settings.json")
    if os.path.exists(note):
        with open(note) as text:
            require(json.load(text) == settings, problem)
    else:
        with open(note, "w") as text:
            json.dump(settings, text)


def collect(file: str, settings: dict, wanted: int, episode) -> list[str]:
    """Run episode(attempt) -> arrays or None until `wanted` succeeded; returns their files, one for each, in a folder
    beside `file` that an interrupted call left, or begins. Every attempt has a seed of its own."""
    folder, done = file + ".parts", []
    os.makedirs(folder, exist_ok=True)
    remember(folder, settings, f"--path {file}: begun with other flags; delete {folder}")
    attempt, progress = 0, tqdm(total=wanted, desc=os.path.basename(file), unit="episode", disable=None)
    while len(done) < wanted:
        part, failed = (os.path.join(folder, f"{attempt:07}.{end}") for end in ("npz", "failed"))
        if not os.path.exists(part) and not os.path.exists(failed):
            arrays = episode(attempt)
            if arrays is None:
                open(failed, "w").close()
            else:
                with open(part + ".tmp", "wb") as out:
                    np.savez(out, **arrays)
                os.replace(part + ".tmp", part)
        attempt += 1
        if os.path.exists(part):
            done.append(part)
            progress.update()
        progress.set_postfix(succeeded=f"{len(done)}/{attempt}", refresh=False)
        fine = attempt < 20 or len(done) > attempt // 20
        require(fine, f"--noise {settings['noise']}: only {len(done)} of {attempt} attempts succeeded; lower it")
    progress.close()
    print(f"{file}: {len(done)} of {attempt} episodes succeeded")
    return done


def finish(file: str, write):
    """write(temporary path), then swap: the file is there whole or not at all."""
    write(file + ".tmp")
    os.replace(file + ".tmp", file)
    shutil.rmtree(file + ".parts")


def write_npz(path: str, parts: list[str]):
    episodes = [dict(np.load(part)) for part in parts]
    with open(path, "wb") as out:
        np.savez_compressed(out, **{key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]})
    print(f"{sum(len(e['terminals']) for e in episodes)} rows")


def write_hdf5(path: str, parts: list[str], env_id: str, model: str):
    """model: MuJoCo's XML of all episodes, whose resets are soft. It names no folder of this machine: robosuite finds
    meshes by their paths from "robosuite" on."""
    import h5py

    model = re.sub(r'file="[^"]*/(robosuite/[^"]*)"', r'file="\1"', model)
    total = 0
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for i, part in enumerate(parts):
            demo, arrays = data.create_group(f"demo_{i}"), np.load(part)
            for key in arrays:
                demo.create_dataset(key, data=arrays[key])
            demo.attrs["num_samples"], demo.attrs["model_file"] = len(arrays["actions"]), model
            total += len(arrays["actions"])
        data.attrs["total"], data.attrs["env_args"] = total, json.dumps(env_args(env_id))
        held_out = set(range(0, len(parts), 10))
        for name, chosen in (("train", set(range(len(parts))) - held_out), ("valid", held_out)):
            file[f"mask/{name}"] = np.array([f"demo_{i}" for i in sorted(chosen)], dtype="S")
    print(f"{total} rows")


def main(args: Args):
    warnings.filterwarnings("ignore", message=".*(precision lowered|GLFW|DISPLAY).*")
    for flag, low, high in (("episodes", 1, 10**9), ("episodes_per_file", 10, 10**9), ("seed", 0, 2**32 - 1)):
        value = getattr(args, flag)
        require(low <= value <= high, f"--{flag.replace('_', '-')} {value}: choose a number from {low} to {high}")
    for flag in ("noise", "random_actions"):
        value = getattr(args, flag)
        require(0 <= value <= 1, f"--{flag.replace('_', '-')} {value}: choose a number from 0 to 1")
    named = re.fullmatch(r"(cube-(?:single|double|triple|quadruple)|scene)-(play|noisy)(-.*)?", args.env_id)
    known = named or args.env_id in ROBOSUITE
    require(known, f"--env-id {args.env_id}: choose lift, can, square, or an OGBench task as cube-single-play-v0")
    settings, seeds = asdict(args), np.random.SeedSequence
    for flag in ("path", "episodes"):
        del settings[flag]
    try:
        if named:
            env = make_manipspace(named[1])
        else:
            import h5py  # noqa: F401

            env = make_robosuite(args.env_id, args.seed)
    except ImportError as error:
        require(False, f"--env-id {args.env_id}: {error}; install requirements.txt of offline_to_online and robosuite")

    if not named:
        path = args.path or f"data/{args.env_id}.hdf5"
        require(path.endswith(".hdf5"), f"--path {path}: choose a name that ends in .hdf5")
        require(not os.path.exists(path), f"--path {path}: is there already; choose another or delete it")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)

        def demonstration(attempt):
            return scripted_episode(env, args.env_id, np.random.default_rng(seeds((args.seed, attempt))), args)

        parts = collect(path, settings, args.episodes, demonstration)
        finish(path, lambda file: write_hdf5(file, parts, args.env_id, env.sim.model.get_xml()))
        env.close()
        return
    shards = -(-args.episodes // args.episodes_per_file)
    path = args.path or f"data/{named[1]}-{named[2]}-v0{'.npz' if shards == 1 else ''}"
    fits = path.endswith(".npz") == (shards == 1) and not path.endswith("-val.npz")
    wanted = "a file X.npz" if shards == 1 else "a folder, for more than --episodes-per-file episodes"
    require(fits, f"--path {path}: choose {wanted}")
    validation = path.replace(".npz", "-val.npz")
    left = shards > 1 or not os.path.exists(validation) or os.path.exists(f"{path}.parts")  # by a call that goes on
    require(left, f"--path {path}: {validation} is there already; choose another or delete it")
    files = [path] if shards == 1 else [f"{path}/{named[1]}-{named[2]}-v0-{i:03}.npz" for i in range(shards)]
    require(not all(map(os.path.exists, files)), f"--path {path}: is there already; choose another or delete it")
    os.makedirs(os.path.dirname(files[0]) or ".", exist_ok=True)
    if shards > 1:  # the finished ones have no note of their own any more
        problem = f"--path {path}: begun with other flags; choose another folder, or delete it"
        remember(path, settings | {"episodes": args.episodes}, problem)
    for i, file in enumerate(files):
        episodes = min(args.episodes_per_file, args.episodes - i * args.episodes_per_file)
        for split, (name, count) in enumerate(
            ((file.replace(".npz", "-val.npz"), -(-episodes // 10)), (file, episodes))
        ):

            def episode(attempt, i=i, split=split):
                rng = np.random.default_rng(seeds((args.seed, i, split, attempt)))
                return play_episode(env, *named.groups()[:2], rng, args)

            if not os.path.exists(name):
                parts = collect(name, settings, count, episode)
                finish(name, lambda temporary, parts=parts: write_npz(temporary, parts))
    env.close()


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
