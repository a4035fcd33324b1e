"""The scripts from outside: size, flags, bad input, and what a run writes."""

import ast
import dataclasses
import errno
import fcntl
import importlib
import importlib.machinery
import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import asdict, fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro
from conftest import BOX, FLOWS, ROOT, SCRIPTS, CountingEnv, scalars, small

# Every flag of the interface and its default; the flows' and each variant's own below.
DEFAULTS = {
    "env_id": "Humanoid-v4",
    "seed": 1,
    "total_timesteps": 1_000_000,
    "learning_starts": 50_000,
    "buffer_size": 1_000_000,
    "batch_size": 512,
    "gamma": 0.99,
    "policy_lr": 3e-4,
    "q_lr": 1e-3,
    "alpha_lr": 1e-3,
    "adam_beta1": 0.5,
    "updates_per_step": 1,
    "policy_frequency": 3,
    "crossq": True,
    "renorm_warmup": 100_000,
    "tau": 0.005,
    "critic_hidden_dim": 1024,
    "normalize_obs": True,
    "autotune": True,
    "log_std_min": -5.0,
    "log_std_max": 2.0,
    "device": "auto",
    "compile": True,
    "eval_frequency": 10_000,
    "eval_episodes": 10,
    "log_frequency": 1000,
    "run_dir": "runs",
    "capture_video": False,
    "track": False,
    "size": "full",
    "bf16": False,
    "checkpoint_frequency": 5000,
    "resume": None,
}
FLOW_DEFAULTS = {"alpha": 0.01, "target_entropy": 0.0, "sampling_steps": 4, "drift_correction": False}
OWN_DEFAULTS = {
    "sac_flow_g": FLOW_DEFAULTS | {"hidden_dim": 512, "candidate_layers": 2, "bounded_candidate": False},
    "sac_flow_t": FLOW_DEFAULTS | {"d_model": 96, "n_layers": 2},
    "sac_flow_naive": FLOW_DEFAULTS | {"hidden_dim": 512},
    "sac_gaussian": {"alpha": 0.2, "target_entropy": None, "hidden_dim": 512},
}


def test_defaults_are_the_interface(script):
    name = script.__name__
    expected = DEFAULTS | OWN_DEFAULTS[name] | {"exp_name": name}
    assert asdict(script.Args()) == expected
    for field in fields(script.Args):
        assert (
            field.name == "size"
            or field.default is None
            or field.type in (type(field.default), type(field.default) | None)
        ), field.name


def test_a_script_is_read_from_the_policy_to_the_loop_to_the_housekeeping(script):
    """What a reader of the algorithm scrolls past is bounded."""
    text = Path(script.__file__).read_text()
    parts = {part.name: part for part in ast.parse(text).body if hasattr(part, "name")}
    names = [name for name in parts if name != "DecoderLayer"]
    policy = ["Velocity", "Actor"] if script.__name__ in FLOWS else ["Actor"]
    assert names[: len(policy) + 1] == ["Args", *policy]
    assert parts["DecoderLayer" if "DecoderLayer" in parts else policy[0]].lineno < 100
    assert len(fields(script.Args)) <= (41 if script.__name__ == "sac_flow_g" else 40)  # it has one variant more
    assert parts["main"].end_lineno - parts["main"].lineno < 160
    housekeeping = text[: text.index("\n# Housekeeping")].count("\n") + 1
    assert (
        parts["main"].end_lineno < housekeeping < min(parts[name].lineno for name in names[names.index("main") + 1 :])
    )
    assert text.rstrip().splitlines()[housekeeping:].count('if __name__ == "__main__":') == 1


def test_size_is_one_flag_that_others_override(script):
    assert script.read_args([]) == script.Args() == script.read_args(["--size", "full"])
    small = {"critic_hidden_dim": 256, "batch_size": 256, "learning_starts": 5000, "renorm_warmup": 10**9}
    small["compile"] = False
    assert script.read_args(["--size", "small"]) == script.Args(size="small", **small)
    mine = script.read_args(["--batch-size", "64", "--compile", "--size", "small"])
    assert mine == script.Args(size="small", **small | {"batch_size": 64, "compile": True})


def test_unknown_size_is_named_with_the_known_ones(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.read_args(["--size", "tiny"])
    said = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and "invalid choice 'tiny' for argument '--size'" in said
        and "'full', 'small'" in re.sub(r"[\s│]+", " ", said)
    )


@pytest.mark.parametrize("name", [*SCRIPTS, "dime", "flowrl", "ppo", "qsm"])
def test_products_are_of_float32_on_every_processor(name, monkeypatch):
    """PyTorch's "medium" is faster where oneDNN computes in float32, and bfloat16 where that has instructions."""
    monkeypatch.syspath_prepend(str(ROOT / "baselines"))
    module, before = importlib.import_module(name), torch.get_float32_matmul_precision()
    for processor, expected in (
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, "medium"),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": True}, "highest"),
        ({"architecture": "aarch64"}, "highest"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda processor=processor: processor)
        module.prepare(module.Args(device="cpu"))
        assert torch.get_float32_matmul_precision() == expected
    torch.set_float32_matmul_precision(before)


def test_a_target_entropy_is_taken(script):
    assert script.prepare(script.Args(target_entropy=-8.5, device="cpu")).type == "cpu"


def test_help_documents_every_flag(script, capsys):
    with pytest.raises(SystemExit) as stop:
        tyro.cli(script.Args, args=["--help"])
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert stop.value.code == 0
    for field in fields(script.Args):
        sentence = re.search(rf"^    {field.name}: .*?  # (.+)$", Path(script.__file__).read_text(), re.MULTILINE)[1]
        assert f" --{field.name.replace('_', '-')}" in text
        assert f"{sentence} (default: {field.default})" in text


def test_an_empty_resume_is_no_new_run(script, capsys):
    """As of `--resume "$RUN"` without that variable."""
    with pytest.raises(SystemExit):
        script.read_args(["--resume", ""])
    assert "--resume : checkpoint.pt is missing" in capsys.readouterr().err


def test_command_line_reaches_the_arguments(script):
    line = "--env-id Hopper-v4 --no-crossq --no-compile --total-timesteps 7 --target-entropy -3.5 --capture-video"
    args = tyro.cli(script.Args, args=line.split())
    assert (args.env_id, args.crossq, args.compile, args.total_timesteps) == ("Hopper-v4", False, False, 7)
    assert args.target_entropy == -3.5 and args.capture_video


# Flags, the flag that the message names, and what its remedy must say.
BAD = [
    ({"env_id": "HalfCheeta-v4"}, "--env-id", "HalfCheetah.*choose"),
    ({"env_id": "Hoper-v4"}, "--env-id", "Hopper.*choose"),
    ({"env_id": "zzzz"}, "--env-id", "choose"),
    ({"env_id": "Hopper-v9"}, "--env-id", "`v9` .* doesn't exist.*choose another task, or the latest version"),
    ({"env_id": "Hopper-v3"}, "--env-id", "moved.*choose another task, or the latest version"),
    ({"env_id": "CartPole-v1"}, "--env-id", "actions are Discrete.*choose"),
    ({"env_id": "Unbounded-v0"}, "--env-id", "actions are Box.*choose"),
    ({"env_id": "Pixels-v0"}, "--env-id", "observations are Box.*Flatten"),
    ({"env_id": "Pusher-v4"}, "--env-id", "mujoco<3.*choose"),
    ({"total_timesteps": -1}, "--total-timesteps", "1 "),
    ({"learning_starts": -1}, "--learning-starts", "1 "),
    ({"learning_starts": 0}, "--learning-starts", "1 "),
    ({"buffer_size": -5}, "--buffer-size", "1 "),
    ({"batch_size": -2}, "--batch-size", "1 "),
    ({"batch_size": 0}, "--batch-size", "1 "),
    ({"critic_hidden_dim": -64}, "--critic-hidden-dim", "1 "),
    ({"policy_frequency": 0}, "--policy-frequency", "1 "),
    ({"log_frequency": 0}, "--log-frequency", "1 "),
    ({"eval_frequency": -1}, "--eval-frequency", "0 "),
    ({"eval_episodes": 0}, "--eval-episodes", "1 "),
    ({"seed": -1}, "--seed", "0 "),
    ({"seed": 2**32 + 1}, "--seed", "from 0 to 4294967295"),  # of which the CPU's generator would make 1
    ({"seed": 2**64}, "--seed", "0 "),
    ({"critic_hidden_dim": 10**12}, "--critic-hidden-dim", "from 1 to"),
    ({"gamma": 1.1}, "--gamma", "0 to 1"),
    ({"tau": -0.1}, "--tau", "0 to 1"),
    ({"adam_beta1": 1.0}, "--adam-beta1", "0 to"),
    ({"q_lr": float("nan")}, "--q-lr", "choose"),
    ({"policy_lr": float("inf")}, "--policy-lr", "choose"),
    ({"alpha": 0.0}, "--alpha", "choose"),  # its logarithm is learned
    ({"log_std_min": 2.0}, "--log-std-min", "below --log-std-max"),
    ({"learning_starts": 80}, "--learning-starts", "below --total-timesteps"),
    ({"batch_size": 32}, "--batch-size", "raise --learning-starts"),
    ({"batch_size": 30, "buffer_size": 20}, "--batch-size", "raise --buffer-size"),
    ({"capture_video": True, "eval_frequency": 0}, "--capture-video", "give --eval-frequency"),
    ({"buffer_size": 10**13}, "--buffer-size", r"\d+ would fit"),
    ({"device": "cuda"}, "--device", "auto, cpu"),
    ({"device": "tpu"}, "--device", "auto, cpu"),
    ({"run_dir": "taken"}, "--run-dir", "choose"),
    ({"run_dir": "taken/below"}, "--run-dir", "choose"),
]
BAD_OWN = {
    "sac_flow_g": [{"sampling_steps": 0}, {"sampling_steps": -4}, {"hidden_dim": -1}],
    "sac_flow_t": [{"sampling_steps": 0}, {"sampling_steps": -4}, {"d_model": -1}, {"n_layers": -1}],
    "sac_flow_naive": [{"sampling_steps": 0}, {"sampling_steps": -4}, {"hidden_dim": -1}],
    "sac_gaussian": [{"hidden_dim": -1}],
}
CASES = [(name, *case) for name in SCRIPTS for case in BAD]
CASES += [("sac_gaussian", {"target_entropy": value}, "--target-entropy", "choose") for value in (math.nan, math.inf)]
CASES += [(name, bad, "--" + next(iter(bad)).replace("_", "-"), "1 ") for name in SCRIPTS for bad in BAD_OWN[name]]


def is_one_line(stderr, flag, value, remedy):
    """A single line, "error: --flag value: ... remedy ..."."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert re.match(rf"error: {flag} {re.escape(str(value))}: .*{remedy}", lines[0] + " "), lines[0]


@pytest.mark.parametrize(("name", "flags", "flag", "remedy"), CASES)
def test_bad_input_is_refused_in_one_line(name, flags, flag, remedy, tmp_path, capsys, monkeypatch):
    if flags.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file where a folder is wanted")
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as stop:
        module.main(module.Args(**small() | flags))
    assert stop.value.code == 2
    is_one_line(capsys.readouterr().err, flag, next(iter(flags.values())), remedy)
    assert os.listdir(tmp_path) == ["taken"]  # nothing half-written


@pytest.mark.filterwarnings("ignore:.*latest versioned")
@pytest.mark.parametrize(
    ("env_id", "proposed"),
    [
        *(("Hoper-v4", "Hopper"), ("hopper-v4", "Hopper"), ("Walker-v4", "Walker2d"), ("HalfCheeta-v4", "HalfCheetah")),
        *(("Hopper-v1", "Hopper-v5"), ("HumanoidStandup-v3", "HumanoidStandup-v5"), ("Pendulum-v0", "Pendulum-v1")),
        *(("Hopper-v3", None), ("Hopper-", "Hopper"), ("zzzz", None), ("json:Foo-v0", None)),
    ],
)
def test_a_proposed_task_works(env_id, proposed, capsys):
    script = importlib.import_module("sac_gaussian")
    with pytest.raises(SystemExit):
        script.make_env(script.Args(env_id=env_id))
    found = re.search(r"(?:Did you mean: |Please use )`(.*?)`", capsys.readouterr().err)
    assert (found and found[1]) == proposed
    if proposed:
        assert script.make_env(script.Args(env_id=proposed)).spec.id.startswith(proposed)


def test_missing_packages_are_refused(script, tmp_path, capsys, monkeypatch):
    """W&B and video are optional: asked for without their package, the message says what to install."""
    monkeypatch.chdir(tmp_path)
    found = script.importlib.util.find_spec
    absent = ("wandb", "imageio_ffmpeg")
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None if name in absent else found(name))
    for flag, remedy in (("track", "pip install wandb"), ("capture_video", "needs imageio-ffmpeg")):
        with pytest.raises(SystemExit) as stop:
            script.main(script.Args(**small(**{flag: True})))
        assert stop.value.code == 2 and not os.listdir(tmp_path)
        is_one_line(capsys.readouterr().err, "--" + flag.replace("_", "-"), True, remedy)


def test_track_sends_the_run_or_names_the_remedy(tmp_path, capsys, monkeypatch):
    """With a stand-in for wandb, which logs in or does not."""
    sac_flow_g, calls, module = importlib.import_module("sac_flow_g"), [], types.ModuleType("wandb", "")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    names = {"env_id": "tasks:Plain-v0", "exp_name": "a/b lr=3e-4#2"}
    args = sac_flow_g.Args(**small(track=True, run_dir=str(tmp_path / "runs"), total_timesteps=40, **names))
    module.init = lambda **flags: calls.append(flags)
    path = sac_flow_g.main(args)
    resumed = dataclasses.replace(args, resume=f"{path}/", total_timesteps=50)  # as a shell completes it
    sac_flow_g.main(resumed)
    assert len(calls) == 2 and calls[0]["sync_tensorboard"]
    assert all(one["id"] == one["name"] == os.path.basename(path) for one in calls)
    assert re.fullmatch(r"tasks-Plain-v0__a-b-lr=3e-4-2__1__\d+", calls[0]["id"]), "W&B refuses / : # and others"
    assert calls[0]["config"]["gamma"] == args.gamma and os.environ["WANDB_PROJECT"] == "sac-flow"
    capsys.readouterr()

    # A run that another process trains is refused before the tracker takes it up once more.
    with monkeypatch.context() as taken, pytest.raises(SystemExit):
        taken.setattr(fcntl, "lockf", lambda *_: (_ for _ in ()).throw(BlockingIOError(errno.EAGAIN, "")))
        sac_flow_g.main(dataclasses.replace(resumed, total_timesteps=60))
    assert len(calls) == 2 and "another process trains it" in capsys.readouterr().err

    # The tracker itself says what to do about a missing key, and only about that.
    for problem in ("No API key configured. Use `wandb login` to log in.", "no such host"):
        module.init = lambda problem=problem, **_: (_ for _ in ()).throw(RuntimeError(problem))
        with pytest.raises(SystemExit) as stop:
            sac_flow_g.main(args)
        expected = f"error: --track: {problem}; WANDB_MODE=offline needs no account and no network\n"
        assert capsys.readouterr().err == expected
        assert stop.value.code == 2 and os.listdir(tmp_path / "runs") == [os.path.basename(path)]


def call(*command, **options):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, **options)


SUBPROCESS_CASES = [
    ("sac_flow_t", "--env-id Hoper-v4", "Hopper"),
    ("sac_gaussian", "--env-id Pusher-v4", "mujoco<3"),
    ("sac_flow_g", "--buffer-size 9000000000000", "would fit"),
]


@pytest.mark.parametrize(("name", "line", "remedy"), SUBPROCESS_CASES)
def test_bad_command_line_ends_with_exit_code_2(name, line, remedy, tmp_path):
    result = call(ROOT / f"{name}.py", *line.split(), cwd=tmp_path)
    assert result.returncode == 2 and not os.listdir(tmp_path)
    is_one_line(result.stderr, *line.split(), remedy)


def test_script_alone_in_a_folder_trains(script, tmp_path):
    """With nothing beside it, from the command line, on a MuJoCo task: it trains, evaluates, and writes its run."""
    file = shutil.copy(script.__file__, tmp_path)
    flags = "--env-id InvertedPendulum-v4 --total-timesteps 240 --learning-starts 200 --batch-size 32 --no-compile"
    flags += " --critic-hidden-dim 32 --eval-frequency 120 --eval-episodes 2 --log-frequency 20"
    result = call(file, *flags.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^step 240/240  eval return \d+\.\d \+- \d", result.stdout, re.MULTILINE), result.stdout
    assert result.stdout.index("replay buffer: ") < result.stdout.index("run: runs/")
    assert sorted(os.listdir(tmp_path)) == sorted([f"{script.__name__}.py", "runs"])
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(rf"InvertedPendulum-v4__{script.__name__}__1__\d{{13}}", folder.name)
    assert sorted(path.name.split(".")[0] for path in folder.iterdir()) == ["checkpoint", "events", "lock", "replay"]


TAGS = {"charts/episodic_return", "charts/episodic_length", "charts/SPS", "eval/episodic_return"}
TAGS |= {"eval/episodic_return_std", "losses/qf_loss", "losses/qf_values", "losses/actor_loss", "losses/alpha"}
TAGS |= {"losses/alpha_loss", "policy/log_prob", "policy/std", "gradients/step_0"}


def test_run_writes_exactly_the_documented_tags(script, tmp_path):
    """And each at its steps; a value that was not computed yet is absent, not 0."""
    flags = {"policy_frequency": 15} | ({"sampling_steps": 3} if script.__name__ in FLOWS else {})
    path = script.main(script.Args(**small(run_dir=str(tmp_path), **flags)))
    seen, per_step = scalars(path), set()
    if script.__name__ in FLOWS:
        per_step = {f"policy/std_step_{k}" for k in range(3)} | {f"gradients/step_{k}" for k in range(4)}
    assert set(seen) == TAGS | per_step
    steps = {tag: [step for step, _ in events] for tag, events in seen.items()}
    assert steps["eval/episodic_return"] == steps["eval/episodic_return_std"] == [40, 80]
    for tag in set(seen) - {tag for tag in seen if tag.startswith(("charts/", "eval/"))}:
        # Learning starts at step 31, the first update of actor and temperature is the 15th.
        late = tag in ("losses/actor_loss", "losses/alpha_loss", "policy/log_prob")
        assert steps[tag] == list(range(50 if late else 40, 81, 10)), tag
    assert all(abs(value) < float("inf") for events in seen.values() for _, value in events)
    assert min(value for _, value in seen["charts/SPS"]) > 0


def test_run_records_flags_and_versions(script, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    args = script.Args(**small(run_dir=str(tmp_path), gamma=0.875))
    events = EventAccumulator(script.main(args))
    events.Reload()
    assert set(events.Tags()["tensors"]) == {"hyperparameters/text_summary", "versions/text_summary"}
    tables = {}
    for title in ("hyperparameters", "versions"):
        (event,) = events.Tensors(f"{title}/text_summary")
        rows = event.tensor_proto.string_val[0].decode().splitlines()
        tables[title] = dict(row.strip("|").split("|") for row in rows[2:])
    assert tables["hyperparameters"] == {key: str(value) for key, value in asdict(args).items()}
    expected = {"torch": torch.__version__, "python": sys.version.split()[0], "device": "cpu"}
    assert expected.items() <= tables["versions"].items()
    assert {"gymnasium", "mujoco", "numpy", "git"} <= tables["versions"].keys()


def test_the_recorded_commit_says_whether_files_differ_from_it(tmp_path, monkeypatch):
    """And a run does without git, or outside a repository."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if shutil.which("git") is None:
        pytest.skip("no git")
    shutil.copy(ROOT / "sac_gaussian.py", tmp_path / "lone_gaussian.py")
    monkeypatch.syspath_prepend(tmp_path)
    script = importlib.import_module("lone_gaussian")

    def recorded():
        events = EventAccumulator(script.main(script.Args(**small(run_dir=str(tmp_path / "runs"))))).Reload()
        (event,) = events.Tensors("versions/text_summary")
        return re.search(r"\|git\|(.*)\|", event.tensor_proto.string_val[0].decode())[1]

    def git(*words):
        flags = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", tmp_path, *flags, *words], check=True, capture_output=True, text=True
        ).stdout

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert recorded() == "unknown"
    git("init", "-q")
    git("add", "lone_gaussian.py")
    git("commit", "-qm", "first")
    git("tag", "-am", "first", "v1")
    assert recorded() == git("rev-parse", "HEAD").strip()
    with open(tmp_path / "lone_gaussian.py", "a") as file:
        file.write("# changed\n")
    assert recorded() == git("rev-parse", "HEAD").strip() + "-dirty"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert recorded() == "unknown"


def test_observations_changed_in_place_are_stored_as_they_were(script, tmp_path, monkeypatch):
    """Some environments return one array, whose content is the current state."""

    class InPlaceEnv(CountingEnv):
        def _obs(self):
            self.state = self.__dict__.get("state", np.zeros(2, np.float32))
            self.state[:] = super()._obs()
            return self.state

    spec = gym.envs.registration.EnvSpec("InPlace-v0", InPlaceEnv, max_episode_steps=11)
    monkeypatch.setitem(gym.registry, "InPlace-v0", spec)
    rows, plain = [], script.ReplayBuffer.add

    def add(self, **row):
        rows.append({name: np.array(value) for name, value in row.items()})
        return plain(self, **row)

    monkeypatch.setattr(script.ReplayBuffer, "add", add)
    script.main(script.Args(**small(env_id="InPlace-v0", run_dir=str(tmp_path))))
    assert len(rows) == 80 and all((row["next_obs"] - row["obs"] == (0, 1)).all() for row in rows)


@pytest.mark.parametrize("crossq", [True, False])
def test_saved_policy_acts_as_the_trained_one(script, tmp_path, monkeypatch, crossq):
    """checkpoint.pt, read without unpickling code, gives a fresh actor and critic with all running statistics."""
    made = []
    for name in ("Actor", "Critic"):
        plain = getattr(script, name)
        monkeypatch.setattr(script, name, lambda *args, plain=plain: made.append(plain(*args)) or made[-1])
    args = script.Args(**small(run_dir=str(tmp_path), crossq=crossq))
    state = torch.load(f"{script.main(args)}/checkpoint.pt", weights_only=True)
    trained_actor, trained_critic = (part.eval() for part in made)
    assert script.Args(**state["args"]) == args
    actor = script.Actor(2, BOX, script.Args(**state["args"]))
    critic = script.Critic(2, 2, args.critic_hidden_dim, args.crossq)
    assert actor.load_state_dict(state["actor"]) and critic.load_state_dict(state["critic"])
    obs, noise = torch.randn(50, 2), actor.draw_noise(50, torch.Generator().manual_seed(0))
    for deterministic in (True, False):
        actions = [part.eval().act(obs, noise, deterministic) for part in (actor, trained_actor)]
        assert torch.equal(*actions)
    assert torch.equal(critic.eval()(obs, actions[0]), trained_critic(obs, actions[0]))
    assert state["temperature"]["log_alpha"].exp().item() != pytest.approx(
        args.alpha, rel=1e-6
    )  # the learned temperature


def test_compilation_looks_for_the_compiler_that_pytorch_takes(tmp_path, monkeypatch):
    module, cpu, cuda = importlib.import_module("sac_flow_g"), torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)

    def found(*names):
        for file in tmp_path.iterdir():
            file.unlink()
        for name in names:
            (tmp_path / name).touch(0o755)
        return module.has_compiler(cpu), module.has_compiler(cuda)

    assert found() == (False, False) and found("g++") == (True, False) and found("gcc") == (False, True)
    assert found("clang", "clang++") == (False, True)  # Inductor looks for g++ alone
    monkeypatch.setenv("CXX", "clang++")
    assert found("clang++") == (True, False) and found("g++") == (False, False)
    monkeypatch.setenv("CC", "icx")
    assert found("icx") == (False, True)
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: f"{tmp_path}/{name}")  # as without python3.11-dev
    assert found("icx", "clang++") == (False, False)
