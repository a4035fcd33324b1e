"""Keep the copies in the single-file scripts identical.

A function, class or constant of one name is the same text in every script that has it, but for the tables below; of
Args each flag is, within a folder. Nothing is imported: copies are compared, and repaired on request.

    python scripts/check_sync.py                          # report, exit code 1 if copies differ
    python scripts/check_sync.py --fix                    # copy what differs from the first script that has it
    python scripts/check_sync.py --fix --source FILE      # copy FILE's text to the others
    python scripts/check_sync.py path/to/fork.py          # a script of your own: what it shares with its origin

--fix leaves alone what is not committed: a copy over it could not be undone.
"""

import argparse
import ast
import difflib
import itertools
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("", "offline_to_online", "baselines")
FLOWS = ("sac_flow_g.py", "sac_flow_t.py", "sac_flow_naive.py")
NETWORK = {"Velocity", "DecoderLayer"}
MOST = 60  # changed lines of a pair of flow scripts, besides the velocity network
# What a script has of its own: a name, all of a class, or `Class.member`, which leaves the other members compared.
OWN = {
    "sac_flow_naive.py": {"Args.hidden_dim"},
    "sac_gaussian.py": {
        *("Actor.__init__", "Actor.rollout", "Actor.log_prob", "prepare"),
        *("Args.alpha", "Args.target_entropy", "Args.log_std_min", "Args.log_std_max", "Args.hidden_dim"),
    },
    "offline_to_online/qc_fql.py": {
        *("Actor", "critic_loss", "actor_loss", "main", "PRESETS", "LIMITS"),
    },
    "offline_to_online/reinflow.py": {
        *("Actor", "flow_loss", "descend", "main", "PRESETS", "LIMITS"),
        *("FORMAT", "save_checkpoint", "restore"),
        *("Args.env_id", "Args.dataset_path", "Args.seed", "Args.offline_steps", "Args.horizon_length"),
        *("Args.batch_size", "Args.gamma", "Args.sampling_steps", "Args.hidden_dim", "Args.critic_hidden_dim"),
        *("Args.compile", "Args.log_frequency"),
    },
    "offline_to_online/sac_flow_g.py": {"Actor.__init__"},
    "offline_to_online/sac_flow_naive.py": {
        *("Args.hidden_dim",),
    },
    "baselines/dime.py": {
        *("Actor", "Critic", "critic_loss", "main", "PRESETS", "PUBLISHED", "prepare", "initialised"),
    },
    "baselines/flowrl.py": {
        *("Actor", "initialised", "Critic", "critic_loss", "descend", "main", "PUBLISHED", "PRESETS", "prepare"),
        *("Args.batch_size", "Args.policy_lr", "Args.q_lr", "Args.policy_frequency", "Args.critic_hidden_dim"),
        *("Args.hidden_dim",),
    },
    "baselines/ppo.py": {
        *("Actor", "mlp", "main", "prepare", "save_checkpoint", "restore"),
        *("Args.seed", "Args.policy_lr", "Args.hidden_dim"),
    },
    "baselines/qsm.py": {
        *("Actor", "initialised", "Critic", "critic_loss", "actor_loss", "descend", "main", "PUBLISHED"),
        *("PRESETS", "prepare"),
        *("Args.batch_size", "Args.policy_lr", "Args.tau", "Args.critic_hidden_dim", "Args.hidden_dim"),
        *("Args.sampling_steps", "Args.noise_free_evaluation"),
    },
    "offline_to_online/make_dataset.py": {"Args", "main", "collect", "require", "if __name__ == '__main__'"},
}
# What a folder's scripts have in common, and not with other folders.
COMMON = {
    "offline_to_online": {
        *("Actor", "Critic", "critic_loss", "actor_loss", "path_statistics", "descend", "main", "FORMAT", "prepare"),
        *("frozen_view", "make_env", "ReplayBuffer", "evaluate", "load_checkpoint", "restore", "read_args"),
        "PRESETS",
    },
    "baselines": {"frozen_view", "read_args", "descend", "actor_loss"},
}


def spans(text: str) -> dict[str, tuple[int, int]]:
    """Name -> first line and end of the functions, classes, `Class.member`s and constants; of the top level with the
    comment directly above."""
    lines, found = text.splitlines(), {}

    def add(node: ast.AST, outer: str):
        start = min(part.lineno for part in [node, *getattr(node, "decorator_list", [])]) - 1
        while start and not outer and lines[start - 1].startswith("#"):
            start -= 1
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [node.name] if hasattr(node, "name") else [ast.unparse(target) for target in targets if target]
        names += [f"if {ast.unparse(node.test)}"] if isinstance(node, ast.If) else []
        found.update({outer + name: (start, node.end_lineno) for name in names})

    for node in ast.parse(text).body:
        add(node, "")
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            add(member, f"{node.name}.")
    return found


def parts(text: str) -> dict[str, str]:
    """Name -> text."""
    lines = text.splitlines(keepends=True)
    return {name: "".join(lines[start:end]) for name, (start, end) in spans(text).items()}


def replaced(text: str, name: str, new: str) -> str:
    """text with another part of that name."""
    (start, end), lines = spans(text)[name], text.splitlines(keepends=True)
    return "".join([*lines[:start], new, *lines[end:]])


def scope(file: str, name: str) -> tuple[str, str]:
    """Parts of the same scope are copies of each other."""
    folder, outer = file.rpartition("/")[0], name.partition(".")[0]
    if outer == "Velocity":
        return name, file.rpartition("/")[2]
    return name, folder if outer == "Args" or {name, outer} & COMMON.get(folder, set()) else "everywhere"


def git(path: Path, *words: str) -> str | None:
    """What git prints in the file's folder; None where it is not there or fails."""
    try:
        result = subprocess.run(["git", "-C", path.parent, *words], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return result.stdout if result.returncode == 0 else None


def difference(a: str, b: str, from_file: str, to_file: str) -> str:
    lines = difflib.unified_diff(a.splitlines(), b.splitlines(), from_file, to_file, lineterm="", n=1)
    return textwrap.indent("\n".join(lines), "    ")


def changed_lines(a: str, b: str) -> tuple[int, int]:
    """Lines that `diff` would print with < or >, and its hunks."""
    opcodes = difflib.SequenceMatcher(None, a.splitlines(), b.splitlines(), autojunk=False).get_opcodes()
    hunks = [code for code in opcodes if code[0] != "equal"]
    return sum(i2 - i1 + j2 - j1 for _, i1, i2, j1, j2 in hunks), len(hunks)


def read(path: Path, name: str) -> str:
    """A script's text; a SyntaxError names it where it is no Python."""
    ast.parse(path.read_bytes(), name)
    return path.read_text(encoding="utf-8")


def scripts(root: Path, source: Path | None) -> dict[str, str]:
    """Name below root -> text of the scripts that git tracks (of all, outside a repository), the source first."""
    tracked = git(root / "any", "ls-files", "*.py")
    paths = [source] if source else []
    for folder in FOLDERS:
        found = sorted((root / folder).glob("*.py"), key=lambda path: (path.name not in FLOWS, path.name))
        paths += [path for path in found if tracked is None or str(path.relative_to(root)) in tracked.splitlines()]
    names = [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths]
    return {name: read(root / name, name) for name in names}


def compare(root: Path, texts: dict[str, str], fix: bool) -> int:
    """Reports what differs, and with fix mends it; returns how many parts still differ."""
    reference, differing, mended = {}, 0, 0
    for file, text in texts.items():
        own = OWN.get(file, set())
        split = {"Args"} | {name.partition(".")[0] for name in own if "." in name}  # classes compared by their members
        for name, part in parts(text).items():
            outer, dot, _ = name.partition(".")
            if {name, outer} & own or (name in split and not dot):
                continue
            source, expected = reference.setdefault(scope(file, name), (file, part))
            if part == expected or (dot and outer not in split):
                continue
            differing, outcome = differing + 1, ""
            if fix:
                committed = git(root / file, "show", f"HEAD:./{Path(file).name}")
                outcome = f", not mended: commit {file} first, or copy from it by --fix --source {file}"
                if committed is not None and parts(committed).get(name) == part:
                    outcome, mended = f", copied from {source}", mended + 1
                    texts[file] = replaced(texts[file], name, expected)
                    (root / file).write_text(texts[file])
            print(f"{file}: {name} differs from {source}{outcome}")
            print(difference(part, expected, file, source))
    print(f"{len(texts)} scripts, {differing} differing copies, {mended} mended")
    return differing - mended


def table(texts: dict[str, str]) -> int:
    """Changed lines and hunks of each pair of flow scripts; returns how many pairs differ by too much."""
    besides = dict(texts)
    for file, text in texts.items():
        for name in NETWORK & spans(text).keys():
            besides[file] = replaced(besides[file], name, "")
    print(f"\n{'changed lines (hunks) of each pair':70} {'whole':>10} {'besides the velocity network':>30}")
    too_many = 0
    flows = [file for file in texts if Path(file).name in FLOWS]
    for a, b in itertools.combinations(flows, 2):
        if Path(a).parent == Path(b).parent:
            whole, rest = changed_lines(texts[a], texts[b]), changed_lines(besides[a], besides[b])
            too_many += rest[0] > MOST
            verdict = f", more than {MOST}" if rest[0] > MOST else ""
            print(f"{f'{a} {b}':70} {whole[0]:5} ({whole[1]:2}) {rest[0]:25} ({rest[1]:2}){verdict}")
    return too_many


def compare_fork(path: Path, texts: dict[str, str], show: bool):
    """A script against the one that it shares most with; of a class that differs, member by member."""
    mine, others = parts(read(path, str(path))), {file: parts(text) for file, text in texts.items()}
    origin = max(others, key=lambda file: sum(mine.get(name) == part for name, part in others[file].items()))
    theirs = others[origin]
    differing = [name for name in mine if name in theirs and mine[name] != theirs[name]]
    names = [name for name in mine | theirs if "." not in name or name.partition(".")[0] in differing]
    print(f"{path}: its origin is {origin}")
    for title, listed in (
        ("the same", [name for name in names if mine.get(name) == theirs.get(name)]),
        ("differs", [name for name in names if name in differing]),
        ("absent", [name for name in names if name not in mine]),
        ("new", [name for name in names if name not in theirs]),
    ):
        print(textwrap.fill(f"{title}: {', '.join(listed) or 'nothing'}", 120, subsequent_indent="    "))
    for name in differing:
        if show and "." not in name:
            print(difference(theirs[name], mine[name], origin, str(path)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fork", type=Path, nargs="?", help="a script to compare with its origin, and nothing else")
    parser.add_argument("--diff", action="store_true", help="with a fork: how it differs too")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the scripts")
    parser.add_argument("--fix", action="store_true", help="copy differing parts from the source")
    parser.add_argument("--source", type=Path, help="script whose text is right (default: the first that has it)")
    args = parser.parse_args()
    if args.fork and (args.fix or args.source):
        parser.error(f"{args.fork}: a fork is only compared; copy by hand")
    if args.diff and not args.fork:
        parser.error("--diff: name a fork; without one all differences are shown")
    root = args.root.resolve()
    try:
        texts = scripts(root, args.source and args.source.resolve())
        others = {file: text for file, text in texts.items() if not args.fork or root / file != args.fork.resolve()}
        if not others:
            parser.error(f"--root {args.root}: no scripts there; name the folder that holds sac_flow_g.py")
        if args.fork:
            compare_fork(args.fork, others, args.diff)
            return 0
        left = compare(root, texts, args.fix)
        return 1 if left + table(texts) else 0
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except SyntaxError as error:
        parser.error(f"{error.filename}: {error.msg}, line {error.lineno}: {(error.text or '').strip()}")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as behind `| head`
    sys.exit(main())
