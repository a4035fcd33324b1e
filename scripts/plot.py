"""Figures and tables from the CSV file of scripts/export.py, and from nothing else.

    python scripts/plot.py curves    # runs/runs.csv -> runs/figures/curves.svg and .png
    python scripts/plot.py curves --returns both --where "env == 'Hopper-v4' and total_timesteps == 100000"
    python scripts/plot.py curves --by alpha    # one line per script and value of a flag
    python scripts/plot.py aggregate gradients steps speed table --csv runs/humanoid.csv --out /tmp/figures
    python scripts/plot.py aggregate --csv results/small.csv --also results/ant.csv results/humanoid.csv --where ..
    python scripts/plot.py curves table online --csv runs/offline_to_online.csv --returns success

    curves      returns over training, a panel per environment
    aggregate   normalised score, averaged over environments, during and after training; the means and the differences
                from --baseline and of the others from each other as Markdown
    gradients   gradient norm of the actor's loss at every rollout step over training (the paper's Figure 6), and as
                Markdown its mean over the second half
    steps       returns over training for every number of sampling steps K (the paper's Figure 7), and as Markdown
                those at the last step that all K have
    speed       environment steps per second
    forest      every difference with its interval, at the end and over training: each script from --baseline, each K
                from K = 4 (without it the smallest), each variant, whose --exp-name is SCRIPT-VARIANT, from its script;
                as Markdown as well
    table       returns at the end, and their differences from --baseline, as Markdown on standard output
    online      success before and after the online phase of offline_to_online, and, where such runs exist, after as
                many updates on the dataset alone (--exp-name SCRIPT-no_experience), with differences within seeds; as
                Markdown as well

A line pools runs whose flags differ in nothing but the seed (their commits, column versions/git, may differ): where
other flags differ, the script says which, and --where or --by resolves it. Intervals are 95 %: Student's for a mean
over seeds, Welch's for a difference. Where a table has several differences, Holm's correction is over all of them. The
same CSV file gives the same bytes.
"""

import re
import signal
import sys
import textwrap
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy  # its parts load where they are used: scipy.stats takes a second
import tyro
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

# Okabe and Ito's palette and some of Tol's; lines differ in dashes and markers too, for print without colour.
STYLES = {
    "sac_gaussian": ("Gaussian", "#4d4d4d", "D", (4, 1.5)),
    "sac_flow_naive": ("Naive flow", "#e69f00", "^", (1.5, 1)),
    "sac_flow_g": ("Flow-G", "#0072b2", "o", ()),
    "sac_flow_t": ("Flow-T", "#d55e00", "s", ()),
    "sac": ("SAC", "#000000", "h", (1, 1)),
    "ppo": ("PPO", "#009e73", "v", (3, 1)),
    "qsm": ("QSM", "#cc79a7", "P", (5, 1, 1, 1)),
    "dime": ("DIME", "#56b4e9", "X", ()),
    "flowrl": ("FlowRL", "#882255", "*", (2, 1)),
    "o2o_qc_fql": ("QC-FQL", "#009e73", "D", (4, 1.5)),
    "o2o_reinflow": ("ReinFlow", "#882255", "v", (3, 1)),
}
STYLES |= {f"o2o_{script}": STYLES[script] for script in ("sac_flow_naive", "sac_flow_g", "sac_flow_t")}
SPARE = [("#999933", "v", ()), ("#332288", "P", (5, 1, 1, 1)), ("#44aa99", "X", (3, 1)), ("#aa4499", "*", (1, 1))]
CRITIC = "no_crossq"  # the variant that has another critic
VARIANTS = {
    "drift": "drift correction (14)",
    "no_log_std": "density without \u2212log \u03c3",
    "alpha_0.2": "initial temperature 0.2",
    "entropy_-d": "target entropy \u2212d",
    "entropy_-32.6": "target entropy \u221232.6",
    "no_normalize_obs": "actor sees raw observations",
    "renorm": "observation\u2019s renormalisation from the start",
    "post_norm": "post-norm",
    "bounded_candidate": "candidate through tanh",
    "candidate_1": "one layer in the candidate",
    "log_std_max_0": "\u03c3 at most 1, not e\u00b2",
    "starts_50k": "50k random steps, not 5k",
    "entropy_-8.5": "target entropy \u22128.5",
    "no_crossq": "target networks, not CrossQ",
    "corrected": "BatchRenorm corrects",
    "no_experience": "updates on the dataset alone",
}
RETURNS = {"eval_return": "undiscounted evaluation return", "train_return": "undiscounted training return"}
RETURNS |= {"eval/success": "success rate of evaluation"}
SYMBOLS = {"sampling_steps": "K"}
DEFAULT_K = 4  # the scripts' and the paper's
KEYS = ("run", "script", "env", "seed", "step", "finished")
NOT_FLAGS = ("train_return", "train_episodes", "eval_return", "eval_return_std", "steps_per_second", "bytes", "line")
# Flags that change neither the training nor the mean return: runs that differ in them may be pooled.
HARMLESS = {"size", "device", "compile", "eval_episodes", "log_frequency"}

Figure = Literal["curves", "aggregate", "gradients", "steps", "speed", "forest", "table", "online"]


@dataclass
class Args:
    figures: tyro.conf.Positional[list[Figure]]
    """what to draw"""
    csv: Path = Path("runs/runs.csv")
    """table written by scripts/export.py"""
    also: list[Path] = field(default_factory=list)
    """further tables, whose runs are added"""
    out: Path = Path("runs/figures")
    """folder for the SVG and PNG files"""
    prefix: str = ""
    """start of the files' names"""
    where: str | None = None
    """rows to use, a condition over the columns in pandas' query language"""
    by: list[str] = field(default_factory=list)
    """flags whose values get a line each"""
    returns: Literal["eval", "train", "both", "success"] = "eval"
    """noise-free evaluation, training episodes with the policy's noise, a row of panels for each, or success rate"""
    unfinished: bool = False
    """use runs that have not reached their last step as well"""
    baseline: str = "sac_gaussian"
    """script whose mean return at the end is a normalised score of 1; a random policy has 0"""
    references: Path = Path(__file__).parent.parent / "results" / "random_policy.csv"
    """CSV file with columns env, random and perhaps one: the returns with a normalised score of 0 and of 1"""


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2."""
    if not condition:
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def note(message: str):
    print(f"note: {message}", file=sys.stderr)


# Data.
def label(script: str) -> str:
    """A line's name; that of SCRIPT-VARIANT says what differs."""
    name, _, variant = script.partition("-")
    if name in STYLES and variant in VARIANTS:
        return f"{STYLES[name][0]}, {VARIANTS[variant]}"
    return STYLES[script][0] if script in STYLES else script


def text(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value):
    """A flag's number, which is text in a table where another run's is None."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def read(flag: str, path: Path) -> pd.DataFrame:
    """One CSV file, refused where it is no table of runs."""
    require(path.is_file(), f"{flag} {path}: no such file; write it with scripts/export.py")
    problem = None
    try:
        # A flag may be None, which is not missing.
        data = pd.read_csv(path, low_memory=False, keep_default_na=False, na_values=["", "nan", "NaN"])
    except (ValueError, OSError) as error:
        problem = str(error).splitlines()[0]
    require(problem is None, f"{flag} {path}: not a table ({problem})")
    missing = {*KEYS, "train_return", "eval_return"} - set(data.columns)
    require(not missing, f"{flag} {path}: no column {', '.join(sorted(missing))}; write it with scripts/export.py")
    return data


def load(args: Args) -> pd.DataFrame:
    """The selected rows of the CSV files."""
    tables = [read("--csv", args.csv), *(read("--also", path) for path in args.also)]
    data = pd.concat(tables, ignore_index=True)
    for name in data.select_dtypes(exclude=["number", "bool"]).columns.difference(KEYS):
        if "/" not in name:
            data[name] = data[name].map(number)
    if "updates_per_step" in data:  # which older versions of the scripts did not have
        ours = data.script.str.match("sac_(gaussian|flow_)")
        data["updates_per_step"] = data.updates_per_step.where(data.updates_per_step.notna() | ~ours, 1)
    again = data.duplicated(["run", "step"], keep="last")
    if again.any():
        note(f"{again.sum()} rows are there twice, the last of each is taken; joined from two exports?")
        data = data[~again]
    if args.where:
        problem = None
        try:
            chosen = np.asarray(data.eval(args.where))
        except Exception as error:  # pandas evaluates any expression and passes on whatever that raises
            problem = str(error).splitlines()[0]
        require(problem is None, f"--where {args.where}: {problem}")
        fits = chosen.shape == (len(data),) and chosen.dtype == bool  # x = 1 is an assignment, and no condition
        require(fits, f"--where {args.where}: not a condition; write == to compare")
        data = data[chosen]
    if not args.unfinished:
        left_out = data.loc[data.finished != 1, "run"].unique()
        if len(left_out):
            note(f"unfinished, left out: {', '.join(left_out)}; --unfinished draws them")
        data = data[data.finished == 1]
    require(len(data) > 0, f"--csv {args.csv}: no run is left to draw; look at --where and --unfinished")
    unknown = set(args.by) - set(data.columns)
    require(not unknown, f"--by {' '.join(sorted(unknown))}: no such column in {args.csv}")
    return data.copy()  # else pandas warns of a fragmented frame


def with_lines(data: pd.DataFrame, by: list[str] | None) -> pd.DataFrame:
    """Adds the column `line`, the label in the legend. A line has one run per seed, alike in all flags but the seed.
    by: flags whose values get a line each, None in a figure without --by."""
    line = data.script.map(label)
    for name in by or ():
        if set(data[name].dropna()) <= {True, False}:  # an older version without the feature ran as with it off
            known = data.groupby("script")[name].transform("count") > 0
            data = data.assign(**{name: data[name].astype(object).where(data[name].notna() | ~known, False)})
        value = data[name].map(lambda value, name=name: f", {SYMBOLS.get(name, name)} = {text(value)}")
        line = line + value.where(data[name].notna(), "")  # a script without the flag
    data = data.assign(line=line)
    flags = [name for name in data.columns if "/" not in name and name not in {*KEYS, *NOT_FLAGS, *HARMLESS}]
    for (line, env), rows in data.groupby(["line", "env"]):
        for name in flags:
            # A run of an older script may lack the flag. What prints alike is alike: the entropy of data that were made
            # on two processors differs in its last digits.
            values = rows[name].dropna().map(text).unique()
            remedy = "choose one by --where"
            if by is not None:
                remedy += f", or draw a line for each by --by {name}"
            require(len(values) <= 1, f"{line} on {env}: {name} is {', '.join(values)}; {remedy}")
        done = set(rows.run[rows.finished == 1])
        for seed, runs in rows.groupby("seed").run:
            # The last finished one; the folder's name ends in the time of the start.
            start = lambda name: (name in done, name.rsplit("__", 1)[-1].zfill(15), name)  # noqa: B023, E731
            *older, _ = sorted(runs.astype(str).unique(), key=start)
            if older:
                note(f"{line} on {env}: seed {seed} ran more than once, left out: {', '.join(older)}")
                data = data[~data.run.isin(older)]
    return data


def order(data: pd.DataFrame) -> list[str]:
    """The lines: known scripts first, in the order of STYLES, then by the values of the flags."""
    known = [label(script) for script in STYLES]

    def rank(line: str):
        name, *flags = line.split(",")
        numbers = [float(word) for word in re.findall(r"= (-?[\d.]+(?:e-?\d+)?)", ",".join(flags))]
        return known.index(name) if name in known else len(known), name, numbers, line

    return sorted(data.line.unique(), key=rank)


def by_seed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Steps x seeds that have any value."""
    return rows.pivot(index="step", columns="seed", values=column).dropna(how="all").dropna(axis=1, how="all")


# Statistics. A percentile bootstrap of three seeds is their range, which covers the mean in 75 % of cases, not in 95;
# Student's interval is wider and does what it says.
@dataclass
class Estimate:
    value: float
    low: float  # of the 95 % interval
    high: float
    p: float  # of the hypothesis that the value is 0

    def text(self, digits: str) -> str:
        return f"{self.value:{digits}} [{self.low:{digits}}, {self.high:{digits}}]"


def combination(groups: list[np.ndarray], weights: list[float]) -> Estimate | None:
    """The weighted sum of the means of groups of seeds. None where a group has a single seed, or where in no group any
    two seeds differ: success has few values, and would seem certain by chance.

    One group: Student's interval. Two with weights 1 and -1: Welch's. More: Welch's too, by Satterthwaite's formula.
    """
    if min(map(len, groups)) < 2:
        return None
    value = sum(weight * group.mean() for weight, group in zip(weights, groups, strict=True))
    shares = [weight**2 * group.var(ddof=1) / len(group) for weight, group in zip(weights, groups, strict=True)]
    variance = sum(shares)
    if variance < 1e-18:
        return None
    freedom = variance**2 / sum(share**2 / (len(group) - 1) for share, group in zip(shares, groups, strict=True))
    error = variance**0.5
    margin = scipy.stats.t.ppf(0.975, freedom) * error
    return Estimate(value, value - margin, value + margin, 2 * scipy.stats.t.sf(abs(value) / error, freedom))


def holm(p: list[float]) -> np.ndarray:
    """p-values after Holm's correction for their number."""
    rank = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[rank] = np.maximum.accumulate(np.asarray(p)[rank] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1)


def detectable(seeds: int, level: float = 0.05, power: float = 0.8) -> float:
    """The difference of two groups of that many seeds that a t-test finds in 80 % of cases, in standard deviations."""
    freedom = 2 * seeds - 2
    threshold = scipy.stats.t.isf(level / 2, freedom)
    quantiles = (np.arange(2000) + 0.5) / 2000
    spread = np.sqrt(scipy.stats.chi2.ppf(quantiles, freedom) / freedom)  # of the estimated deviation

    def found(difference: float) -> float:
        return scipy.stats.norm.cdf(difference * np.sqrt(seeds / 2) - threshold * spread).mean()

    return scipy.optimize.brentq(lambda difference: found(difference) - power, 0, 1000)


def print_correction(differences: list[Estimate | None]):
    """What is left of a table's differences after the correction for their number."""
    p = [difference.p for difference in differences if difference]
    if p:
        print(f"Holm's correction over these {len(p)}: {(holm(p) < 0.05).sum()} differ from 0 at 5 %\n")


# Drawing.
def styles(lines: list[str]) -> dict[str, tuple]:
    """line -> (colour, marker, dashes): the script's; its further lines get paler and other markers and dashes."""
    known, spare, seen, result = {style[0]: style[1:] for style in STYLES.values()}, iter(SPARE * len(lines)), {}, {}
    for line in lines:
        script = line.split(",")[0]
        if script not in known:
            known[script] = next(spare)
        n = seen[script] = seen.get(script, -1) + 1
        colour, marker, dashes = known[script]
        if n:
            pale = 1 - 0.75**n
            colour = tuple(pale + (1 - pale) * part for part in to_rgb(colour))
            marker, dashes = "osD^vPX*"[(("osD^vPX*".index(marker)) + n) % 8], [(), (4, 1.5), (1.5, 1)][n % 3]
        result[line] = colour, marker, dashes
    return result


def ramp(values: list) -> dict:
    """value -> (colour, marker, dashes): a perceptually uniform ramp for ordered values, dark first."""
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(values)))
    looks = [(colour, "osD^vPX*"[i % 8], ((), (4, 1.5))[i % 2]) for i, colour in enumerate(colours)]
    return dict(zip(values, looks, strict=True))


def grid(rows: int, columns: int, **options) -> tuple[plt.Figure, np.ndarray]:
    size = (max(2.8 * columns, 4.2), 2.1 * rows + 0.8)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)


def curve(ax: plt.Axes, table: pd.DataFrame, style: tuple, thin: float = 0.35):
    """Every seed, thin, and their mean where every seed has a value; with enough seeds its interval."""
    colour, marker, dashes = style
    for seed in table:
        own = table[seed].dropna()  # seeds may be evaluated at other steps
        ax.plot(own.index, own, color=colour, alpha=thin, linewidth=0.6, zorder=1)
    shared = table.dropna()
    if table.shape[1] >= BAND_SEEDS and len(shared):
        bands = [combination([values], [1]) for values in shared.to_numpy()]
        low, high = [band.low for band in bands], [band.high for band in bands]
        ax.fill_between(shared.index, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
    every = max(1, len(shared) // 8)
    look = {"color": colour, "marker": marker, "markevery": every, "markersize": 3.6, "dashes": dashes}
    ax.plot(shared.index, shared.mean(axis=1), linewidth=1.6, zorder=3, **look)


def number_axis(axis, largest: float):
    """1k and 1M instead of long numbers and offsets."""
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if largest >= 10_000:
        axis.set_major_formatter(EngFormatter(sep=""))


def steps_axis(ax: plt.Axes, data: pd.DataFrame):
    ax.set_xlim(0, 1.02 * data.step.max())  # room for the last marker
    number_axis(ax.xaxis, data.step.max())


def legend(fig: plt.Figure, look: dict, names: dict, remark: str, line_width: float = 1.4):
    """One legend above all panels, and below them how to read the figure."""
    handles = [
        Line2D([], [], color=colour, marker=marker, dashes=dashes, markersize=4, linewidth=line_width, label=names[key])
        for key, (colour, marker, dashes) in look.items()
    ]
    width, widest = fig.get_figwidth(), max(map(len, map(str, names.values())))
    fitting = max(1, int(width / (0.35 + 0.054 * widest)))  # inches at this size of type
    rows = -(-len(handles) // fitting)
    columns = -(-len(handles) // rows)  # rows of equal length
    fig.set_figheight(fig.get_figheight() + 0.16 * (rows - 1))  # the panels keep their height
    space = {"handlelength": 1.8, "columnspacing": 1.0, "fontsize": 7.5}
    fig.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, **space)
    fig.supxlabel(textwrap.fill(remark, int(18 * width)), fontsize=7, color="0.35")


def seeds_text(data: pd.DataFrame) -> str:
    """n seeds, or the range where panels differ."""
    counts = data.groupby(["env", "line"]).seed.nunique()
    low, high = int(counts.min()), int(counts.max())
    return f"{low} seed{'s' * (low > 1)}" if low == high else f"{low}\u2013{high} seeds"


def save(fig: plt.Figure, args: Args, name: str):
    for ending in ("svg", "png"):
        path = args.out / f"{args.prefix}{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)  # a prefix may name a folder
        fig.savefig(path, metadata={"Date": None} if ending == "svg" else None)
        fig.set_layout_engine("none")  # what is laid out stays there: laying out is most of the time
        print(path)
    plt.close(fig)


# Figures.
BAND_SEEDS = 5  # below that Student's interval is wider than the panel


def reading(data: pd.DataFrame) -> str:
    """How to read a figure of curves."""
    text = f"Thick: mean over {seeds_text(data)}; thin: each seed"
    if data.groupby(["env", "line"]).seed.nunique().max() >= BAND_SEEDS:
        text += f"; bands, from {BAND_SEEDS} seeds on: Student's 95 % interval of the mean"
    return text + "."


def curves(args: Args, data: pd.DataFrame):
    data = with_lines(data, args.by)
    lines, envs, chosen = order(data), sorted(data.env.unique()), metrics(args)
    look, rows = styles(lines), -(-len(envs) // 3)
    columns = -(-len(envs) // rows)  # rows of equal length
    fig, axes = grid(rows * len(chosen), columns)
    if len(lines) > 5:
        fig.set_figheight(1.6 * fig.get_figheight())  # or they cannot be told apart
    for ax in axes.flat:
        ax.set_visible(False)
    for i, env in enumerate(envs):
        for j, metric in enumerate(chosen):
            ax, here = axes[i // columns * len(chosen) + j, i % columns], data[data.env == env]
            ax.set_visible(True)
            for line in [line for line in lines if (here.line == line).any()]:
                curve(ax, by_seed(here[here.line == line], metric), look[line], 0.2 if len(lines) > 5 else 0.35)
            steps_axis(ax, here)
            number_axis(ax.yaxis, here[metric].abs().max())
            ax.set_title(env if j == 0 else "")
            offline = here["offline_steps"].dropna().unique() if "offline_steps" in here else []
            for step in offline:
                ax.axvline(step, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
            steps_name = "offline updates : environment steps" if len(offline) else "environment steps"
            ax.set_xlabel(steps_name if j == len(chosen) - 1 else "")
            ax.set_ylabel(RETURNS[metric] if i % columns == 0 else "")
            if metric == "eval/success":
                ax.set_ylim(-0.02, 1.02)
    names = {line: f"{line} ({seeds_text(data[data.line == line])})" for line in lines}
    legend(fig, look, names, reading(data))
    save(fig, args, "curves")


def metrics(args: Args) -> list[str]:
    one = {"eval": ["eval_return"], "train": ["train_return"], "success": ["eval/success"]}
    return (one | {"both": ["eval_return", "train_return"]})[args.returns]


def read_references(args: Args) -> pd.DataFrame:
    """Per environment the return with a normalised score of 0 (column random) and, if given, of 1 (column one)."""
    require(args.references.is_file(), f"--references {args.references}: no such file")
    table = pd.read_csv(args.references)
    fits = {"env", "random"} <= set(table.columns)
    require(fits, f"--references {args.references}: no columns env, random; scripts/random_returns.py writes them")
    return table.set_index("env")


def scale(args: Args, data: pd.DataFrame, metric: str) -> dict[str, tuple[float, float]]:
    """env -> the returns with a score of 0 (a random policy's) and of 1 (the baseline's mean at the end).

    An environment whose 1 is not above its 0 is left out: dividing by their difference would reverse the ranking.
    """
    known, result = read_references(args), {}
    own_lines = sorted(data.line[data.script == args.baseline].unique())
    several = f"aggregate: the baseline has the lines {'; '.join(own_lines)}; choose one by --where"
    require(len(own_lines) <= 1, several)
    for env, rows in data.groupby("env"):
        zero, source = 0.0, "0, in place of a random policy's return, which is not known"
        if env in known.index:
            zero, source = float(known.random[env]), f"{known.random[env]:g}, a random policy's return"
        own = rows[(rows.script == args.baseline) & (rows.step == rows.step.max())][metric].mean()
        one = known.one[env] if "one" in known and env in known.index and pd.notna(known.one[env]) else own
        absent = f"--baseline {args.baseline}: it has no run on {env}; choose another script"
        require(pd.notna(one), absent)
        if one > zero:
            result[env] = zero, float(one)
        else:
            note(f"aggregate: {env} left out: the score of 1, {one:g}, is not above {source}; see --references")
        if one > zero and env not in known.index:
            note(f"aggregate: the return of a random policy on {env} is not known, 0 is taken; see --references")
    return result


def scores(args: Args, data: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Column `score`: 0 is a random policy, 1 the baseline's mean at the end. Environments that every line has."""
    lines, data = order(data), data.dropna(subset=metric)
    count = data.groupby("env").line.nunique()
    complete = sorted(count.index[count == len(lines)])
    left_out = sorted(set(count.index) - set(complete))
    if left_out:
        note(f"aggregate: not every line has {', '.join(left_out)}, left out")
    require(len(complete) > 0, f"aggregate: no environment has all of {', '.join(lines)}; look at --where")
    data = data[data.env.isin(complete)]
    # Only steps that every run has, so that no line is compared at another line's step.
    runs = data.groupby("env").run.nunique()
    shared = data.groupby(["env", "step"]).run.nunique().reset_index(name="runs")
    shared = shared[shared.runs == shared.env.map(runs)][["env", "step"]]
    for env, rows in data.groupby("env"):
        end = shared.step[shared.env == env].max()
        if end != rows.step.max():
            note(f"aggregate: on {env} the end is step {end}, the last that every run has")
    data = data.merge(shared, on=["env", "step"])
    scales = scale(args, data, metric)
    data = data[data.env.isin(scales)]
    zero, one = (data.env.map({env: pair[i] for env, pair in scales.items()}) for i in (0, 1))
    return data.assign(score=(data[metric] - zero) / (one - zero))


def common_steps(data: pd.DataFrame) -> list[int]:
    """Steps at which every environment has rows."""
    return sorted(set.intersection(*(set(of_env.step) for _, of_env in data.groupby("env"))))


def pooled(data: pd.DataFrame, one: str, other: str | None = None) -> Estimate | None:
    """Mean score of a line, or its difference from another line's; each environment weighs the same."""
    envs, groups, weights = sorted(data.env.unique()), [], []
    for line, sign in ((one, 1), (other, -1)):
        for env in envs if line else []:
            runs = data[(data.line == line) & (data.env == env)].groupby("seed").score.mean()
            groups.append(runs.to_numpy())
            weights.append(sign / len(envs))
    return combination(groups, weights)


def score_tables(args: Args, data: pd.DataFrame, metric: str):
    """Mean of column `score` and the differences as Markdown."""
    lines, envs, all_of_them = order(data), sorted(data.env.unique()), []
    first = next(iter(data.line[data.script == args.baseline]), label(args.baseline))
    last = data[data.step == data.groupby("env").step.transform("max")]
    shared = data[data.step.isin(common_steps(data))]

    def cell(rows: pd.DataFrame, one: str, other: str) -> str:
        difference = pooled(rows, one, other)
        all_of_them.append(difference)
        return difference.text("+.2f") if difference else ""

    def mean(rows: pd.DataFrame, line: str) -> str:
        return f"{rows[rows.line == line].groupby('env').score.mean().mean():.2f}"

    print(f"{RETURNS[metric].capitalize()}, mean of the normalised score on {', '.join(envs)}, and difference from")
    print(f"{first} with its 95 % interval, the scale taken as known\n")
    print(f"| | at the end | minus {first} | over training | minus {first} |\n|---|---|---|---|---|")
    for line in lines:
        cells = []
        for rows in (last, shared):
            cells += [mean(rows, line), cell(rows, line, first) if line != first else ""]
        print(f"| {line} | {' | '.join(cells)} |")
    print()
    pairs = [(b, a) for a, b in combinations([line for line in lines if line != first], 2)]
    if pairs:
        print("| | at the end | over training |\n|---|---|---|")
    for one, other in pairs:
        print(f"| {one} minus {other} | {cell(last, one, other)} | {cell(shared, one, other)} |")
    print()
    print_correction(all_of_them)


def aggregate(args: Args, data: pd.DataFrame):
    scored = {metric: scores(args, with_lines(data, args.by), metric) for metric in metrics(args)}
    scored = {metric: table for metric, table in scored.items() if len(table)}
    if not scored:
        note("aggregate: no environment is left, nothing is drawn")
        return
    for metric, table in scored.items():
        require(common_steps(table), "aggregate: its tasks share no step; draw it from runs of one --eval-frequency")
        score_tables(args, table, metric)
    metric, data = next(iter(scored.items()))
    lines, envs = order(data), sorted(data.env.unique())
    look = styles(lines)
    last = data[data.step == data.groupby("env").step.transform("max")]
    fig, (training, final) = plt.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
    steps = common_steps(data)
    for i, line in enumerate(lines):
        colour, marker, dashes = look[line]
        mine = data[(data.line == line) & data.step.isin(steps)]
        middle = mine.groupby(["env", "step"]).score.mean().groupby("step").mean()
        style = {"color": colour, "marker": marker, "markersize": 3.6, "markevery": max(1, len(steps) // 8)}
        training.plot(middle.index, middle, dashes=dashes, linewidth=1.6, **style)
        ends = last[last.line == line]
        for j, env in enumerate(envs):  # a row of points per environment
            values = ends[ends.env == env].score
            height = i + 0.4 * (j - (len(envs) - 1) / 2) / len(envs)
            final.plot(values, np.full(len(values), height), ".", color=colour, alpha=0.5, markersize=4)
        whole = pooled(last, line)
        if whole:
            final.plot([whole.low, whole.high], [i, i], color=colour, linewidth=1.4)
        final.plot(ends.groupby("env").score.mean().mean(), i, color=colour, marker=marker, markersize=7)
    training.set(xlabel="environment steps", ylabel="mean normalised score", title="During training")
    steps_axis(training, data[data.step.isin(steps)])
    final.set(xlabel="normalised score", title="At the end", yticks=range(len(lines)), yticklabels=lines)
    final.set_ylim(len(lines) - 0.5, -0.5)
    names = {line: f"{line} ({seeds_text(data[data.line == line])})" for line in lines}
    known, one = read_references(args), f"{label(args.baseline)}'s mean at the end"
    if "one" in known and known.one.reindex(envs).notna().any():
        one = f"the return in {args.references.name}, where it has none {one}"
    remark = f"{RETURNS[metric].capitalize()}; 0: random policy, 1: {one}. "
    remark += f"Mean over {', '.join(envs)}, which weigh the same, with its 95 % interval; dots: each run, "
    remark += "a row per environment."
    legend(fig, look, names, remark)
    save(fig, args, "aggregate")


def gradients(args: Args, data: pd.DataFrame):
    data = with_lines(flows(data, "gradients"), args.by)
    lines, envs = order(data), sorted(data.env.unique())
    tags = [name for name in data if name.startswith("gradients/step_") and data[name].notna().any()]
    tags.sort(key=lambda name: int(name[15:]))
    look = ramp(list(range(len(tags))))
    fig, axes = grid(len(envs), len(lines) + 1, sharey="row")
    print(
        "Gradient norm at A_k, mean over the second half of training and over seeds; largest - smallest of each seed,"
    )
    print("mean \u00b1 standard deviation\n")
    heads = [f"k = {k}" for k in look] + ["range, k < K", "range"]
    print(f"| | | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 2)}")
    for env, row in zip(envs, axes, strict=True):
        *panels, profile = row
        for line, ax in zip(lines, panels, strict=True):
            mine = data[(data.line == line) & (data.env == env)]
            for k, tag in enumerate(tags):
                if mine[tag].notna().any():
                    curve(ax, by_seed(mine, tag), look[k])
            steps_axis(ax, data)
            seeds = f"({seeds_text(mine)})" if len(mine) else ""
            ax.set_title(f"{line}, {env}" + ("\n" if len(line + env) > 23 else " ") + seeds)
        for line, (colour, marker, dashes) in styles(lines).items():
            mine = data[(data.line == line) & (data.env == env)]
            if mine.empty:
                continue
            late = mine[mine.step > mine.step.max() / 2].groupby("seed")[tags].mean().dropna(axis=1, how="all")
            table = late.T.set_axis(range(late.shape[1]))
            profile.plot(table.index, table, color=colour, alpha=0.3, linewidth=0.6)
            middle = table.mean(axis=1)
            profile.plot(middle.index, middle, color=colour, marker=marker, dashes=dashes, markersize=4, label=line)
            cells = [f"{value:.3g}" for value in middle] + [""] * (len(tags) - len(middle))
            for part in (table[:-1], table):
                ranges = part.max() - part.min()
                cells.append(f"{ranges.mean():.3g}" + (f" \u00b1 {ranges.std():.2g}" if len(ranges) > 1 else ""))
            print(f"| {env} | {line} | {' | '.join(cells)} |")
        profile.set_title(f"{env}," + ("\n" if len(env) > 14 else " ") + "second half")
        profile.xaxis.set_major_locator(MaxNLocator(integer=True))
        profile.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))  # within it hides points
        row[0].set_yscale("log")
        row[0].set_ylabel("gradient norm at $A_k$")
    for ax in axes[-1, :-1]:
        ax.set_xlabel("environment steps")
    axes[-1, -1].set_xlabel("rollout step k")
    remark = "Batch mean of the Euclidean norm of d(\u03b1 log p \u2212 min Q)/d$A_k$, one sample's actor loss by the "
    remark += "intermediate action, without $A_0$'s own density. "
    legend(fig, look, {k: f"k = {k}" for k in look}, remark + reading(data))
    save(fig, args, "gradients")


def flows(data: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Only scripts with a rollout, which log its gradients: QSM and DIME, too, have sampling steps."""
    if {"sampling_steps", "gradients/step_0"} <= set(data):
        logged = data["gradients/step_0"].notna().groupby(data.run).transform("any")
        data = data[data.sampling_steps.notna() & logged]
    else:
        data = data[:0]
    require(len(data) > 0, f"{figure}: no run has a rollout; draw it from runs of the flow scripts")
    data = data.astype({"sampling_steps": int})
    return data.copy()  # else pandas warns of a fragmented frame


def steps(args: Args, data: pd.DataFrame):
    data = with_lines(flows(data, "steps"), list(dict.fromkeys(["sampling_steps", *args.by])))
    metric, values = metrics(args)[0], sorted(data.sampling_steps.unique())
    data = data.assign(panel=data.line.str.replace(r", K = \d+", "", regex=True))
    panels, envs, look = order(data.assign(line=data.panel)), sorted(data.env.unique()), ramp(values)
    fig, axes = grid(len(envs), len(panels), sharey="row")
    for env, row in zip(envs, axes, strict=True):
        for panel, ax in zip(panels, row, strict=True):
            mine = data[(data.panel == panel) & (data.env == env)]
            for k in sorted(mine.sampling_steps.unique()):
                curve(ax, by_seed(mine[mine.sampling_steps == k], metric), look[k])
            steps_axis(ax, data)
            ax.set_title(textwrap.fill(f"{panel}, {env}", 32))
        number_axis(row[0].yaxis, data[data.env == env][metric].abs().max())
        row[0].set_ylabel(RETURNS[metric])
    for ax in axes[-1]:
        ax.set_xlabel("environment steps")
    print(f"{RETURNS[metric].capitalize()}, mean \u00b1 standard deviation over seeds (number of seeds)\n")
    print(f"| | | step | {' | '.join(f'K = {k}' for k in values)} |\n|{'---|' * (len(values) + 3)}")
    for (env, panel), mine in data.groupby(["env", "panel"]):
        tables = {k: by_seed(rows, metric).dropna() for k, rows in mine.groupby("sampling_steps")}
        shared = sorted(set.intersection(*(set(table.index) for table in tables.values())))
        cells = [spread(tables[k].loc[shared[-1]], 0) if k in tables and shared else "\u2013" for k in values]
        print(f"| {env} | {panel} | {shared[-1] if shared else ''} | {' | '.join(cells)} |")
    print()
    names = {k: f"K = {k} ({seeds_text(data[data.sampling_steps == k])})" for k in values}
    legend(fig, look, names, reading(data))
    save(fig, args, "steps")


def speed(args: Args, data: pd.DataFrame):
    data = with_lines(data, args.by).dropna(subset="steps_per_second")
    if "offline_steps" in data:  # before the environment's first step they are updates
        data = data[~(data.step <= data.offline_steps)]
    for (line, env), rows in data.groupby(["line", "env"]):
        for name in {"compile", "versions/device"} & set(rows):
            if rows[name].nunique() > 1:
                kinds = ", ".join(map(text, rows[name].dropna().unique()))
                note(f"speed: {line} on {env}: {name} is {kinds} in one bar; --by {name} separates them")
    lines, envs = order(data), sorted(data.env.unique())
    look = styles(lines)
    runs = data.groupby(["line", "env", "seed"]).steps_per_second.agg(scipy.stats.hmean)
    width = 0.8 / len(lines)
    fig, axes = grid(1, 1)
    fig.set_size_inches(max(4.2, 0.5 + 0.45 * len(lines) * len(envs)), 2.9)
    ax = axes[0, 0]
    for i, line in enumerate(lines):
        for j, env in enumerate(envs):
            if (line, env) in runs.index:
                x, values = j + (i - (len(lines) - 1) / 2) * width, runs[line, env]
                ax.bar(x, values.median(), 0.9 * width, color=look[line][0], alpha=0.75)
                ax.plot(np.full(len(values), x), values, "o", color="black", markersize=2)
                inside = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "color": "white"}
                ax.annotate(f"{values.median():.0f}", (x, 0), **inside)
    ax.margins(y=0.1)
    ax.set_xticks(range(len(envs)), envs)
    ax.set_ylabel("environment steps per second")
    ax.set_title("Training speed of one process")
    devices = ", ".join(sorted(data["versions/device"].unique()))
    remark = f"Device: {devices}; evaluation not counted. Bars: median of the runs; dots: each run."
    legend(fig, {line: (look[line][0], "s", ()) for line in lines}, dict(zip(lines, lines, strict=True)), remark, 0)
    save(fig, args, "speed")


FOREST_LIMIT = 120  # %, of the axis
HALVES = [0.5, -0.5, 0.5, -0.5], [-0.5, -0.5, 0.5, 0.5]  # of (baseline, script) x (critic, other critic)


def pair(tables: list[pd.DataFrame], weights: list[float]) -> tuple[Estimate | None, Estimate | None, int]:
    """Combination of tables (steps x seeds) at the last step that all have, and of the means over training up to it."""
    steps = sorted(set.intersection(*(set(table.index) for table in tables)))
    if not steps:
        return None, None, 0
    ends = combination([table.loc[steps[-1]].to_numpy() for table in tables], weights)
    return ends, combination([table.loc[steps].mean().to_numpy() for table in tables], weights), steps[-1]


def seed_range(tables: list[pd.DataFrame]) -> str:
    counts = [table.shape[1] for table in tables]
    return f"{min(counts)}\u2013{max(counts)}" if min(counts) < max(counts) else str(min(counts))


def comparisons(args: Args, data: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, dict[str, list[pd.Series]]]:
    """One row per difference: kind, env, what, script, seeds, step, at the end, over training, unit; and per task the
    last values of each script, by seed.

    The unit is the reference's mean at that step, less a random policy's return: in it environments share an axis.
    """
    known, rows = read_references(args).random, []
    parts = data.script.str.partition("-")
    ours = parts[0].isin(STYLES)  # another name with a hyphen is a script of its own
    data = data.assign(script=parts[0].where(ours, data.script), variant=parts[2].where(ours, ""))
    k = data.get("sampling_steps", pd.Series(np.nan, data.index))
    data = data.assign(k=k.where(data.script.str.contains("flow_"))).dropna(subset=metric)
    default = DEFAULT_K if (data.k == DEFAULT_K).any() or data.k.isna().all() else data.k.min()
    data["k"] = data.k.fillna(default)
    tables, shown = {}, set()
    for key, mine in data.groupby(["env", "script", "variant", "k"]):
        tables[key] = by_seed(with_lines(mine, None), metric).dropna()

    def add(kind: str, env: str, what: str, script: str, keys: list[tuple], weights: list[float]):
        if not all(key in tables for key in keys):
            return
        end, training, step = pair([tables[key] for key in keys], weights)
        if end and training:
            shown.update(keys)
            references = [tables[key].loc[step].mean() for key, weight in zip(keys, weights, strict=True) if weight < 0]
            unit = abs(np.mean(references) - known.get(env, 0.0))
            seeds = seed_range([tables[key] for key in keys])
            rows.append((kind, env, what, script, seeds, step, end, training, unit))

    first, scripts = args.baseline, list(dict.fromkeys([*STYLES, *sorted(data.script.unique())]))
    usual = {(env, script) for env, script, variant, k in tables if not variant and k == default}
    for script in [script for script in scripts if script != first]:
        for env, _ in sorted(one for one in usual if one[1] == script):
            keys = [(env, script, "", default), (env, first, "", default)]
            unusual = "flow_" in script and default != DEFAULT_K
            name = f"{label(script)}, K = {default:.0f}" if unusual else label(script)
            add(f"policy, minus {label(first)}", env, name, script, keys, [1, -1])
    for script in [script for script in scripts if script != first]:
        envs = sorted(env for env, name in usual if name == script and (env, first) in usual)
        groups, units = [], []
        of_task = {env: [tables[env, name, "", default] for name in (script, first)] for env in envs}
        indices = [set(table.index) for two in of_task.values() for table in two]
        common = set.intersection(*indices) if indices else set()
        if len(envs) > 1 and not common:
            note(f"forest: {label(script)}: its tasks share no step, and have no row together")
        for env, (own, reference) in of_task.items() if common else ():
            unit = reference.loc[max(common)].mean() - known.get(env, 0.0)
            groups += [own / unit, reference / unit]
            units.append(unit)
        if len(units) > 1 and min(units) > 0:
            end, training, step = pair(groups, [1 / len(envs), -1 / len(envs)] * len(envs))
            if end and training:
                seeds = seed_range(groups)
                kind = f"policy, minus {label(first)}"
                rows.append((kind, "all tasks", label(script), script, seeds, step, end, training, 1))
    # Two scripts with two critics each: what either choice makes, averaged over the other.
    for env, script in sorted(usual):
        four = [(env, one, variant, default) for one in (first, script) for variant in ("", CRITIC)]
        if script != first:
            names = f"{label(first)} and {label(script)}"
            add("critic or policy", env, f"CrossQ\u2019s critic minus target networks, {names}", first, four, HALVES[0])
            add("critic or policy", env, f"{label(script)} minus {label(first)}, both critics", script, four, HALVES[1])
    for script in scripts:
        for env, name, variant, k in tables:
            if name == script and not variant and k != default:
                keys = [(env, script, "", k), (env, script, "", default)]
                kind, what = f"sampling steps, minus K = {default:.0f}", f"{label(script)}, K = {k:.0f}"
                add(kind, env, what, script, keys, [1, -1])
    for variant in [*VARIANTS, *sorted(set(data.variant) - {"", *VARIANTS})]:
        for env, script, mine, k in tables:
            if mine == variant and k == default:
                keys = [(env, script, variant, default), (env, script, "", default)]
                require(keys[1] in tables, f"forest: {script} with {variant} on {env}, no run without; train it too")
                what = f"{label(script)}, {VARIANTS.get(variant, variant)}"
                add("one change, minus the default", env, what, script, keys, [1, -1])
    require(len(rows) > 0, "forest: nothing to compare with two seeds or more; look at --where and --baseline")
    for env, script, variant, k in sorted(tables.keys() - shown, key=str):
        name = f"{script} {variant}".strip()
        note(f"forest: {name}, K = {k:.0f}, on {env} is in no row: nothing to compare it with")
    compared = {first, *(row[3] for row in rows)}
    ends = {}  # env -> the last values of every script's own table
    for (env, script, variant, k), of_seeds in tables.items():
        if script in compared and not variant and k == default and len(of_seeds) and of_seeds.shape[1] > 1:
            ends.setdefault(env, []).append(of_seeds.iloc[-1])
    names = ["kind", "env", "what", "script", "seeds", "step", "end", "training", "unit"]
    return pd.DataFrame(rows, columns=names), ends


def print_power(ends: dict[str, list[pd.Series]], number: int):
    """Which difference so many seeds would find, task by task, at 5 % and after the correction."""
    print("Difference at the end that is found in 80 % of cases, by the deviation between seeds, and the same of one")
    print(f"among {number}\n")
    heads = [f"{seeds} seeds | one of {number}" for seeds in (3, 5, 10)]
    print(f"| | deviation | {' | '.join(heads)} |\n|{'---|' * 8}")
    for env, values in sorted(ends.items()):
        deviation = np.sqrt(np.mean([of_seeds.var() for of_seeds in values]))
        cells = [f"{deviation * detectable(n, level):.0f}" for n in (3, 5, 10) for level in (0.05, 0.05 / number)]
        print(f"| {env} | {deviation:.0f} | {' | '.join(cells)} |")
    print()


def forest(args: Args, data: pd.DataFrame):
    """Every difference: a row each, at the end and over training."""
    require(not args.by, f"forest: has no line for {' '.join(args.by)}; choose one value by --where instead of --by")
    metric = metrics(args)[0]
    rows, ends = comparisons(args, data, metric)
    adjusted = holm([estimate.p for column in ("end", "training") for estimate in rows[column]])
    rows = rows.assign(end_p=adjusted[: len(rows)], training_p=adjusted[len(rows) :])
    print(f"{RETURNS[metric].capitalize()}: difference at the step, and of the means over training up to it, with 95 %")
    print(f"intervals (all tasks: of the score); p after Holm's correction over these {len(adjusted)}\n")
    heads = ["difference", "task", "seeds", "step", "at the end", "p", "over training", "p"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows.itertuples():
        cells = [row.what, row.env, row.seeds, EngFormatter(sep="")(row.step)]
        for estimate, p in ((row.end, row.end_p), (row.training, row.training_p)):
            digits = "+.2f" if row.env == "all tasks" else "+.0f"
            cells += [estimate.text(digits), f"**{p:.3f}**" if p < 0.05 else f"{p:.2f}"]
        print(f"| {' | '.join(cells)} |")
    print()
    print_power(ends, len(adjusted))

    heights, y, previous = [], 0.0, None
    for kind in rows.kind:
        y += 1 if kind == previous else 2
        heights.append(y)
        previous = kind
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 0.155 * y + 1.1), layout="constrained", sharey=True)
    for ax, column, title in zip(axes, ("end", "training"), ("At the end", "Over training"), strict=True):
        ax.axvline(0, color="0.4", linewidth=0.8)
        for y, row in zip(heights, rows.itertuples(), strict=True):
            estimate, p = getattr(row, column), getattr(row, f"{column}_p")
            value, low, high = (100 * part / row.unit for part in (estimate.value, estimate.low, estimate.high))
            colour, marker = STYLES.get(row.script, (None, *SPARE[0]))[1:3]
            face = colour if estimate.low > 0 or estimate.high < 0 else "white"
            ax.plot([low, high], [y, y], color=colour, linewidth=1.3)
            ax.plot(value, y, marker=marker, color=colour, markerfacecolor=face, markersize=5)
            if p < 0.05:
                ax.annotate("\u2217", (high, y), (3, -1), textcoords="offset points", va="center")
        ax.set(title=title, xlabel="difference, % of the reference", xlim=(-FOREST_LIMIT, FOREST_LIMIT))
        ax.grid(axis="y", visible=False)
        for kind, of_kind in rows.assign(y=heights).groupby("kind").y:
            ax.text(-0.98 * FOREST_LIMIT, of_kind.min() - 1, kind, fontsize=7.5, color="0.35", va="center")
    names = [f"{row.what}, {row.env} ({row.seeds})" for row in rows.itertuples()]
    axes[0].set_yticks(heights, names, fontsize=6.5)
    axes[0].set_ylim(max(heights) + 1, -0.2)
    remark = (
        f"{RETURNS[metric].capitalize()}. In brackets: seeds of each group. Reference: the mean at that step of what "
    )
    remark += (
        "is subtracted, less a random policy's return. Lines: Welch's 95 % interval, cut off at the edge; filled: it "
    )
    remark += "excludes 0, which chance alone gives one in twenty; \u2217: so after Holm's correction over all "
    remark += f"{len(adjusted)}."
    fig.supxlabel(textwrap.fill(remark, 160), fontsize=7, color="0.35")
    save(fig, args, "forest")


def spread(values: pd.Series, digits: int) -> str:
    """Mean, standard deviation and number of seeds."""
    deviation = f" \u00b1 {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation} ({len(values)})"


def table(args: Args, data: pd.DataFrame):
    """Markdown on standard output."""
    data = with_lines(data, args.by)
    lines, envs = order(data), sorted(data.env.unique())
    for metric in metrics(args):
        print(
            f"{RETURNS[metric].capitalize()} at the end, mean \u00b1 standard deviation over seeds (number of seeds)\n"
        )
        # The end of most lines is the column's; another line's own is in its cells.
        ends, short = data.dropna(subset=metric).groupby(["env", "line"]).step.max(), EngFormatter(sep="")
        common = {env: ends[env].mode().min() if env in ends else data[data.env == env].step.max() for env in envs}
        heads = [f"{env} at {short(common[env])}" for env in envs]
        print(f"| | {' | '.join(heads)} |\n|{'---|' * (len(envs) + 1)}")
        for line in lines:
            cells = []
            for env in envs:
                mine = data[(data.line == line) & (data.env == env)].dropna(subset=metric)
                values = mine[mine.step == mine.step.max()][metric]
                if len(values) < mine.seed.nunique():
                    short_of = f"{mine.seed.nunique() - len(values)} of {mine.seed.nunique()} seeds end earlier"
                    note(f"table: {line} on {env}: {short_of} and are not in the mean")
                when = f" at {short(mine.step.max())}" if len(values) and mine.step.max() != common[env] else ""
                cells.append(spread(values, 2 if metric == "eval/success" else 0) + when if len(values) else "\u2013")
            print(f"| {line} | {' | '.join(cells)} |")
        print()
        own = [line for line in lines if (data.script[data.line == line] == args.baseline).any()]
        if len(own) == 1 and len(lines) > 1:
            differences(data, metric, own[0], lines, envs)
        elif len(lines) > 1:
            has = f"has the lines {'; '.join(own)}" if own else "has no run here"
            note(f"table: no differences: --baseline {args.baseline} {has}")


def differences(data: pd.DataFrame, metric: str, baseline: str, lines: list[str], envs: list[str]):
    """Every line minus the baseline, environment by environment, as Markdown."""
    print(f"Minus {baseline}: at the last step that both have, then the means over training up to there, each with its")
    print("95 % interval\n")
    print(f"| | {' | '.join(f'{env}, at the end | over training' for env in envs)} |\n|{'---|' * (2 * len(envs) + 1)}")
    all_of_them, digits = [], "+.2f" if metric == "eval/success" else "+.0f"
    for line in lines:
        if line == baseline:
            continue
        cells = []
        for env in envs:
            two = [data[(data.line == which) & (data.env == env)] for which in (line, baseline)]
            own_end = min(rows.step.max() for rows in two)
            two = [by_seed(rows, metric).dropna() for rows in two]
            *found, step = pair(two, [1, -1]) if all(map(len, two)) else (None, None, 0)
            all_of_them += found
            cells += [estimate.text(digits) if estimate else "\u2013" for estimate in found]
            if found[0] and step < own_end:  # a seed ends earlier
                cells[-2] += f" at {EngFormatter(sep='')(step)}"
        print(f"| {line} | {' | '.join(cells)} |")
    print()
    print_correction(all_of_them)


PHASES = ("before", "after", "alone")


def phases(data: pd.DataFrame) -> dict[tuple[str, str], dict[str, pd.Series]]:
    """(task, script) -> success by seed: before and after the online phase; after as many updates on the data alone."""
    parts, found, spans = data.script.str.partition("-"), {}, {}
    for (env, script, variant), rows in data.groupby([data.env, parts[0], parts[2]]):
        name = f"{label(rows.script.iloc[0])} on {env}"
        if variant not in ("", "no_experience"):
            note(f"online: {name} is in no row")
            continue
        offline = int(rows.offline_steps.iloc[0])
        ends = [offline, offline + int(rows.total_timesteps.iloc[0])]
        table = by_seed(rows, "eval/success").reindex(ends).dropna(axis=1)
        for seed in sorted(set(rows.seed) - set(table)):
            note(f"online: {name}, seed {seed}: no evaluation at step {ends[0]} or {ends[1]}, left out")
        spans.setdefault((env, script), ends)  # the script's own: its variant's name sorts behind
        if spans[env, script] != ends:
            note(f"online: {name} has other steps than {label(script)}, left out")
        elif table.shape[1]:
            new = {"before": table.iloc[0], "after": table.iloc[1]} if variant == "" else {"alone": table.iloc[1]}
            found.setdefault((env, script), {}).update(new)
    for env, script in [key for key, mine in found.items() if "after" not in mine]:
        note(f"online: {label(script)} on {env}: a run without experience and none with it, left out")
        del found[env, script]
    return found


def gain(tasks: list[dict[str, pd.Series]], when: str) -> Estimate | None:
    """By how much success after the online phase is above that of `when`, within seeds, mean over tasks.

    A run and the one without experience are the same until that phase."""
    if not all(when in mine for mine in tasks):
        return None
    groups = [(mine["after"] - mine[when]).dropna().to_numpy() for mine in tasks]
    return combination(groups, [1 / len(groups)] * len(groups))


def online_table(found: dict[tuple[str, str], dict[str, pd.Series]], scripts: list[str], short: dict[str, str]):
    """A row per task and script, and the mean over the tasks that all scripts have."""
    rows = [(short[env], script, [found[env, script]]) for env in short for script in scripts if (env, script) in found]
    shared = [env for env in short if all((env, script) in found for script in scripts)]
    if len(shared) > 1:
        mean = f"mean of {', '.join(short[env] for env in shared)}"
        rows += [(mean, script, [found[env, script] for env in shared]) for script in scripts]
    gains = [[gain(tasks, when) for when in ("before", "alone")] for *_, tasks in rows]
    p = [estimate.p for pair_of_row in gains for estimate in pair_of_row if estimate]
    adjusted = iter(holm(p))
    print(
        "Success by seed, differences within seeds with their 95 % intervals; bold: differs from 0 at 5 % after Holm's"
    )
    print(f"correction over these {len(p)}\n")
    heads = ["task", "method", "before", "after", "on the data alone", "after - before", "after - alone"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for (task, script, tasks), pair_of_row in zip(rows, gains, strict=True):
        cells = [task, label(script)]
        for when in PHASES:
            values = [mine[when].reindex(mine["after"].index) for mine in tasks if when in mine]
            if len(values) < len(tasks):
                cells.append("")
            elif len(tasks) > 1:
                cells.append(f"{np.mean([of_task.mean() for of_task in values]):.2f}")
            else:
                cells.append(" ".join(f"{value:.2f}" if value == value else "\u2013" for value in values[0]))
        for estimate in pair_of_row:
            bold = "**" if estimate and next(adjusted) < 0.05 else ""
            cells.append(f"{bold}{estimate.text('+.2f')}{bold}" if estimate else "\u2013")
        print(f"| {' | '.join(cells)} |")
    print()


def online(args: Args, data: pd.DataFrame):
    """Before and after the online phase, task by task."""
    fits = {"offline_steps", "eval/success"} <= set(data)
    data = data.dropna(subset=["offline_steps", "eval/success"]) if fits else data[:0]
    require(len(data) > 0, f"online: no success rates in {args.csv}; draw it from runs of offline_to_online")
    require(not args.by, f"online: has no line for {' '.join(args.by)}; choose one value by --where instead of --by")
    found = phases(with_lines(data, None))
    require(found, f"online: no run in {args.csv} is evaluated before and after its online phase; look at --where")
    envs, present = sorted({env for env, _ in found}), {script for _, script in found}
    scripts = [script for script in dict.fromkeys([*STYLES, *sorted(present)]) if script in present]
    short = {env: env.replace("-play-singletask", "").removesuffix("-v0") for env in envs}

    online_table(found, scripts, short)
    columns = min(len(envs), 4)
    fig, axes = grid(-(-len(envs) // columns), columns, sharey=True, sharex=True)
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(envs))
        ax.tick_params(labelbottom=i + columns >= len(envs))
    for env, ax in zip(envs, axes.flat, strict=False):
        ax.set_title(short[env])
        for y, script in enumerate(scripts):
            mine, colour = found.get((env, script), {}), STYLES.get(script, (None, *SPARE[0]))[1]
            if mine:
                ends = [mine[when].mean() for when in ("before", "after")]
                ax.plot(ends, [y, y], color=colour, linewidth=1.4, zorder=1)
            for when, values in mine.items():
                marker, size, face, of_mean, of_seeds = ONLINE_MARKS[when]
                look = {"markerfacecolor": face or colour, "markeredgecolor": colour}
                ax.plot(values.mean(), y + of_mean, marker, markersize=size, zorder=2 + PHASES.index(when), **look)
                ax.plot(values, np.full(len(values), y + of_seeds), marker, markersize=0.45 * size, **look)
        ax.set_xlim(-0.06, 1.06)
    axes[0, 0].set_yticks(range(len(scripts)), map(label, scripts))
    axes[0, 0].set_ylim(len(scripts) - 0.5, -0.6)
    counts = [len(mine["after"]) for mine in found.values()]
    few, most = min(counts), max(counts)
    seeds = f"{few}\u2013{most} seeds" if few < most else f"{few} seed{'s' * (few > 1)}"
    remark = f"Success rate, mean over {seeds}; small: each seed. Ring: before the online phase; disc: after it"
    if any("alone" in mine for mine in found.values()):
        remark += "; cross: after as many updates on the dataset alone"
    fig.supxlabel(textwrap.fill(f"{remark}.", int(18 * fig.get_figwidth())), fontsize=7, color="0.35")
    save(fig, args, "online")


# marker, size, face (None: the script's colour), and how far below a script's line its mean and its seeds are
ONLINE_MARKS = {
    "before": ("o", 9, "white", 0, 0.25),
    "after": ("o", 6, None, 0, 0.25),
    "alone": ("X", 6, None, -0.22, -0.38),
}


FUNCTIONS = (curves, aggregate, gradients, steps, speed, forest, table, online)
FIGURES = {function.__name__: function for function in FUNCTIONS}


def main(args: Args):
    require(len(args.figures) > 0, f"name what to draw: {', '.join(FIGURES)}")
    data = load(args)
    if args.returns == "success":
        fits = set(args.figures) <= {"curves", "table", "online"} and "eval/success" in data.columns
        remedy = f"is for curves, table and online of runs in {args.csv} that have it; choose eval"
        require(fits, f"--returns success: {remedy}")
    single = {"steps", "forest"} & set(args.figures)
    one_kind = args.returns != "both" or not single
    require(one_kind, f"--returns both: {' and '.join(sorted(single))} draw one of them; choose eval or train")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        require(False, f"--out {args.out}: {error.strerror}; choose a folder that can be written")
    look = {
        "font.size": 8,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
    }
    look |= {"grid.color": "0.9", "grid.linewidth": 0.6, "axes.axisbelow": True, "savefig.dpi": 200}
    # Without a salt the identifiers in an SVG file are random.
    with plt.rc_context(look | {"svg.hashsalt": "sac-flow"}):
        for figure in dict.fromkeys(args.figures):
            FIGURES[figure](args, data)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal may lack a minus sign
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as behind `| head`
    main(tyro.cli(Args, description=__doc__))
