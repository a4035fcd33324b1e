"""Keep the copies in the single-file scripts identical.

A block reaches from `# sync: NAME` to the next such marker, to `# sync: end` or to the end of the file, and must be the
same text in every script that has it. A block named NAME/PART is a piece of block NAME: its lines must stand together
in there. The scripts stay self-contained: nothing is imported, the copies are only compared, and repaired on request.

    python scripts/check_sync.py                          # report, exit code 1 if copies differ
    python scripts/check_sync.py --fix                    # copy every block from the first script that has it
    python scripts/check_sync.py --fix --source FILE      # copy FILE's blocks to the others
"""

import argparse
import difflib
import itertools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOWS = ("sac_flow_g.py", "sac_flow_t.py", "sac_flow_naive.py")
BLOCK = re.compile(r"^ *# sync: (?!end$)(\S+)$\n(.*?)(?=^ *# sync: |\Z)", re.MULTILINE | re.DOTALL)
NAMES = re.compile(r"^(?:class|def) (\w+)", re.MULTILINE)
VARIANT_BLOCKS = re.compile(r"\nclass (Velocity|DecoderLayer)\b.*?(?=\n\n\n)", re.DOTALL)


def blocks(text: str) -> dict[str, str]:
    """Name -> text of a script's marked blocks; ValueError for a name used twice."""
    found = BLOCK.findall(text)
    names = [name for name, _ in found]
    if len(set(names)) != len(names):
        raise ValueError("the name of a '# sync:' block is used twice")
    return dict(found)


def piece_of(whole: str, text: str) -> str:
    """text if its lines stand together in whole; else the lines there that begin and end as it does, the most alike if
    there are several, or "" if there are none. Blank lines at the ends are text's own."""
    inner = text.strip("\n")
    if f"\n{inner}\n" in f"\n{whole}\n":
        return text
    lines, own = whole.split("\n"), inner.split("\n")
    starts, ends = ([i for i, line in enumerate(lines) if line == edge] for edge in (own[0], own[-1]))
    spans = [lines[i : j + 1] for i in starts for j in ends if i <= j]
    best = max(spans, key=lambda span: difflib.SequenceMatcher(None, span, own, autojunk=False).ratio(), default=[])
    return text.replace(inner, "\n".join(best)) if best else ""


def changed_lines(a: str, b: str) -> tuple[int, int]:
    """Lines that `diff` would print with < or >, and its hunks."""
    opcodes = difflib.SequenceMatcher(None, a.splitlines(), b.splitlines(), autojunk=False).get_opcodes()
    hunks = [code for code in opcodes if code[0] != "equal"]
    return sum(i2 - i1 + j2 - j1 for _, i1, i2, j1, j2 in hunks), len(hunks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the scripts")
    parser.add_argument("--fix", action="store_true", help="copy differing blocks from the source")
    parser.add_argument("--source", type=Path, help="script whose blocks are right (default: the first that has one)")
    args = parser.parse_args()

    first = [args.source.resolve()] if args.source else []
    paths = first + [args.root / name for name in FLOWS if (args.root / name).exists()]
    for folder in (args.root, args.root / "offline_to_online", args.root / "baselines"):
        marked = (path for path in folder.glob("*.py") if "# sync: " in path.read_text())
        paths += sorted(marked, key=lambda path: (path.name not in FLOWS, path.name))
    paths = list(dict.fromkeys(path.resolve() for path in paths))
    texts = {path: path.read_text() for path in paths}
    reference, differing, unmended = {}, 0, 0
    for path in paths:
        name = path.relative_to(args.root.resolve())
        try:
            own = blocks(texts[path])
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        for block, text in own.items():
            whole = block.rpartition("/")[0]
            source, expected = reference[whole] if whole in reference else reference.setdefault(block, (name, text))
            expected = piece_of(expected, text) if whole in reference else expected
            if text != expected:
                differing += 1
                # A block that lost its end marker reaches into the script's own code, which a copy would delete.
                names, known = NAMES.findall(text), NAMES.findall(expected)
                swallowed = len(names) > len(known) and not args.source
                more = ", ".join(name for name in names if name not in known) if swallowed else ""
                fixable = args.fix and expected and not more
                outcome = ", copied" if fixable else ", whose first or last line is gone" if args.fix else ""
                outcome = f", and has {more} too: end it by '# sync: end'" if expected and more else outcome
                unmended += not fixable
                print(f"{name}: block '{block}' differs from {source}{outcome}")
                if fixable:
                    marker = re.compile(rf"(^ *# sync: {re.escape(block)}$\n).*?(^ *# sync: |\Z)", re.M | re.S)
                    texts[path] = marker.sub(lambda m, new=expected: m[1] + new + m[2], texts[path], count=1)
                    path.write_text(texts[path])

    print(f"{len(paths)} scripts, {len(reference)} blocks, {differing} differing copies")
    print(f"\n{'changed lines (hunks) of each pair':44} {'whole':>10} {'besides the velocity network':>30}")
    for a, b in itertools.combinations(paths, 2):
        if a.parent != b.parent or len(blocks(texts[a]).keys() & blocks(texts[b]).keys()) < 10:
            continue
        whole, rest = (
            changed_lines(*(cut(texts[path]) for path in (a, b)))
            for cut in (lambda text: text, lambda text: VARIANT_BLOCKS.sub("", text))
        )
        where = "" if a.parent == args.root.resolve() else f"  {a.parent.name}"
        print(f"{a.name + ' ' + b.name:44} {whole[0]:5} ({whole[1]:2}) {rest[0]:25} ({rest[1]:2}){where}")
    return 1 if unmended else 0


if __name__ == "__main__":
    sys.exit(main())
