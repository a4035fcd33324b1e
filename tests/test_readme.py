"""The README says what the code does: diff sizes, flags, tags."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest
from conftest import ROOT, SCRIPTS

README = (ROOT / "README.md").read_text()
PAGES = {folder: (ROOT / folder / "README.md").read_text() for folder in ("baselines", "offline_to_online")}
ALL = "\n".join([README, *PAGES.values()])
BASELINES = sorted((ROOT / "baselines").glob("*.py"))
OFFLINE_TO_ONLINE = sorted((ROOT / "offline_to_online").glob("*.py"))
TOOLS = sorted((ROOT / "scripts").glob("*.py"))
SOURCES = [*(ROOT / f"{name}.py" for name in SCRIPTS), *BASELINES, *OFFLINE_TO_ONLINE, *TOOLS]


def test_diff_sizes_are_those_of_check_sync():
    command = [sys.executable, ROOT / "scripts" / "check_sync.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("sac_flow_t", "sac_flow_naive"):
        pattern = rf"^sac_flow_g.py {name}.py +(\d+) \(.*?\) +(\d+)|^{name}.py sac_flow_g.py +(\d+) \(.*?\) +(\d+)"
        whole, rest = (number for number in re.search(pattern, printed, re.MULTILINE).groups() if number)
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}.py`"))
        assert f"| {whole}, of which {rest} outside" in row, row


def test_flags_exist(script):
    """Every flag that the README names in code belongs to a trainer or a tool, and this script's are documented."""
    known = {field.name for field in fields(script.Args)}
    tools = "".join(file.read_text() for file in (ROOT / "scripts").glob("*.sh"))
    for flag in re.findall(r"`--([a-z0-9-]+)", ALL):
        name = flag.removeprefix("no-").replace("-", "_")
        owners = [path for path in SOURCES if re.search(rf"^    {name}: ", path.read_text(), re.MULTILINE)]
        assert owners or f"#   --{flag} " in tools, f"--{flag} is in no script"
    assert all(
        re.search(rf"^    {name}: .*  # .", (ROOT / f"{script.__name__}.py").read_text(), re.M) for name in known
    )


def test_defaults_in_the_table_of_flags(script):
    rows = re.findall(r"^\| `--([a-z-]+)` \| ([\d.]+)(k?)(?:, the Gaussian ([\d.]+|-d))? \|", README, re.MULTILINE)
    assert len(rows) >= 2
    for flag, default, kilo, gaussian in rows:
        if hasattr(script.Args, name := flag.replace("-", "_")):
            told = gaussian if gaussian and script.__name__ == "sac_gaussian" else default
            value = getattr(script.Args(), name)
            assert value == (None if told == "-d" else float(told) * (1000 if kilo else 1)), (flag, value)


@pytest.mark.parametrize("file", [ROOT / f"{name}.py" for name in SCRIPTS] + BASELINES, ids=lambda file: file.stem)
def test_logged_tags_are_documented(file):
    tags = re.findall(r'"((?:charts|eval|losses|policy|gradients)/[^"]+)"', file.read_text())
    tags = {re.sub(r"_\{k\}", "_k", tag) for tag in tags}
    assert len(tags) >= 10
    for tag in tags:
        assert f"`{tag}`" in README or (file.parent.name == "baselines" and f"`{tag}`" in PAGES["baselines"]), tag


def test_scripts_of_commands_exist():
    assert all((ROOT / path).is_file() for path in re.findall(r"python (\S+\.py)", ALL))


def test_offline_to_online_is_documented():
    """Each script, each tag that one logs, and a sentence beside each flag."""
    for path in OFFLINE_TO_ONLINE:
        source = path.read_text()
        assert f"`{path.name}`" in PAGES["offline_to_online"]
        tags = re.findall(r'"((?:charts|eval|losses|policy|gradients)/[^"]+)"', source)
        assert len(tags) >= 5 or path.stem == "make_dataset"
        for tag in tags:
            made = (
                ("success", "episodic_return", "episodic_length") if "{" in tag and tag.startswith("eval/") else ("k",)
            )
            for name in made:
                known = re.sub(r"\{\w+\}", name, tag)
                assert f"`{known}`" in README + PAGES["offline_to_online"], known
        arguments = source[source.index("class Args:") : source.index("\n\n\n", source.index("class Args:"))]
        for line in re.findall(r"^    \w+: .*$", arguments, re.MULTILINE):
            assert re.search(r"  # .{9}", line), line


def test_links_lead_somewhere():
    """Of all pages: the file exists, and the heading in it, by GitHub's rule for anchors."""
    pages = [ROOT / "README.md", *ROOT.glob("*/*.md")]
    assert len(pages) >= 5
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not link.startswith("https://"):
                path, _, anchor = link.partition("#")
                target = (page.parent / path).resolve() if path else page
                assert target.exists(), (page, link)
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else ()
                anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert not anchor or anchor in anchors, (page, link)


def test_pins_of_other_tasks_are_the_tested_ones():
    pins = re.findall(r"(?:dm_control|shimmy|gymnasium-robotics)==[\d.]+", README)
    tested = [(ROOT / folder / "requirements.txt").read_text() for folder in ("tests", "offline_to_online")]
    assert len(pins) == 3 and all(pin in "\n".join(tested).splitlines() for pin in pins)
