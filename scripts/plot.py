"""Figures and tables from the CSV file of scripts/export.py, and from nothing else.

    python scripts/plot.py curves    # results/runs.csv -> results/figures/curves.svg and .png
    python scripts/plot.py curves --returns both --where "env == 'Hopper-v4' and total_timesteps == 100000"
    python scripts/plot.py curves --by alpha    # one line per script and value of a flag
    python scripts/plot.py aggregate gradients steps speed table --csv results/humanoid.csv --out /tmp/figures
    python scripts/plot.py curves table --csv results/offline_to_online.csv --returns success

    curves      returns over training, a panel per environment
    aggregate   interquartile mean over environments and seeds during and after training, performance profile; the means
                and the differences from --baseline and of the others from each other as Markdown
    gradients   gradient norm of the actor's loss at every rollout step over training (the paper's Figure 6), and as
                Markdown its mean over the second half
    steps       returns over training for every number of sampling steps K (the paper's Figure 7), and as Markdown the
                differences from K = 4 (without it the smallest) at the last step that both have
    speed       environment steps per second
    ablations   returns of each script's variants, whose --exp-name is SCRIPT-VARIANT, beside its own, and the
                differences at the end as Markdown
    table       returns at the end, and their differences from --baseline, as Markdown on standard output

A line pools runs whose flags differ in nothing but the seed (their commits, column versions/git, may differ): where
other flags differ, the script says which, and --where or --by resolves it. Bands are 95 % percentile bootstrap
intervals over seeds; aggregates resample within each environment (stratified bootstrap; Agarwal et al., "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021). The same CSV file gives the same bytes.
"""

import re
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
import tyro
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from scipy import stats

# Okabe and Ito's palette and some of Tol's; lines differ in dashes and markers too, for print without colour.
STYLES = {
    "sac_gaussian": ("Gaussian", "#4d4d4d", "D", (4, 1.5)),
    "sac_flow_naive": ("Naive flow", "#e69f00", "^", (1.5, 1)),
    "sac_flow_g": ("Flow-G", "#0072b2", "o", ()),
    "sac_flow_t": ("Flow-T", "#d55e00", "s", ()),
    "sac": ("SAC", "#000000", "D", (1, 1)),
    "ppo": ("PPO", "#009e73", "v", (3, 1)),
    "qsm": ("QSM", "#cc79a7", "P", (5, 1, 1, 1)),
    "dime": ("DIME", "#56b4e9", "X", ()),
    "flowrl": ("FlowRL", "#882255", "*", (2, 1)),
    "o2o_qc_fql": ("QC-FQL", "#009e73", "D", (4, 1.5)),
    "o2o_reinflow": ("ReinFlow", "#882255", "v", (3, 1)),
}
STYLES |= {f"o2o_{script}": STYLES[script] for script in ("sac_flow_naive", "sac_flow_g", "sac_flow_t")}
SPARE = [("#999933", "v", ()), ("#332288", "P", (5, 1, 1, 1)), ("#44aa99", "X", (3, 1)), ("#aa4499", "*", (1, 1))]
VARIANTS = {
    "drift": "drift correction (14)",
    "no_log_std": "density without \u2212log \u03c3",
    "alpha_0.2": "initial temperature 0.2",
    "entropy_-d": "target entropy \u2212d",
    "no_normalize_obs": "actor sees raw observations",
    "renorm": "observation\u2019s renormalisation from the start",
    "post_norm": "post-norm",
    "bounded_candidate": "candidate through tanh",
    "candidate_1": "one layer in the candidate",
    "log_std_max_0": "\u03c3 at most 1, not e\u00b2",
    "starts_50k": "50k random steps, not 5k",
    "no_crossq": "target networks, not CrossQ",
}
RETURNS = {"eval_return": "undiscounted evaluation return", "train_return": "undiscounted training return"}
RETURNS |= {"eval/success": "success rate of evaluation"}
SYMBOLS = {"sampling_steps": "K"}
DEFAULT_K = 4  # the scripts' and the paper's
KEYS = ("run", "script", "env", "seed", "step", "finished")
NOT_FLAGS = ("train_return", "train_episodes", "eval_return", "eval_return_std", "steps_per_second", "bytes", "line")
# Mean undiscounted return of uniformly random actions over 50 to 1000 episodes: the zero of the normalised score.
RANDOM = {
    "Hopper-v4": 18.63,
    "Hopper-v5": 17.63,
    "Walker2d-v4": 2.76,
    "Walker2d-v5": 1.78,
    "HalfCheetah-v4": -264.7,
    "HalfCheetah-v5": -264.7,
    "Ant-v4": -56.93,
    "Ant-v5": -58.04,
    "Humanoid-v4": 124,
    "Humanoid-v5": 115.5,
    "HumanoidStandup-v4": 32_950,
    "HumanoidStandup-v5": 32_950,
    "Swimmer-v4": 0.8,
    "Swimmer-v5": 0.8,
    "InvertedPendulum-v4": 6.12,
    "InvertedPendulum-v5": 5.12,
    "InvertedDoublePendulum-v4": 57.44,
    "InvertedDoublePendulum-v5": 47.44,
    "Reacher-v4": -42.88,
    "Reacher-v5": -42.82,
}
# Flags that change neither the training nor the mean return: runs that differ in them may be pooled.
HARMLESS = {"size", "device", "compile", "eval_frequency", "eval_episodes", "log_frequency"}

Figure = Literal["curves", "aggregate", "gradients", "steps", "speed", "ablations", "table"]


@dataclass
class Args:
    figures: tyro.conf.Positional[list[Figure]]
    """what to draw"""
    csv: Path = Path("results/runs.csv")
    """table written by scripts/export.py"""
    out: Path = Path("results/figures")
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


def load(args: Args) -> pd.DataFrame:
    """The selected rows of the CSV file."""
    require(args.csv.is_file(), f"--csv {args.csv}: no such file; write it with scripts/export.py")
    data, problem = None, None
    try:
        data = pd.read_csv(
            args.csv, low_memory=False, keep_default_na=False, na_values=["", "nan"]
        )  # a flag may be None
    except (ValueError, OSError) as error:
        problem = str(error).splitlines()[0]
    require(problem is None, f"--csv {args.csv}: not a table ({problem})")
    missing = {*KEYS, "train_return", "eval_return"} - set(data.columns)
    require(not missing, f"--csv {args.csv}: no column {', '.join(sorted(missing))}; write it with scripts/export.py")
    if args.where:
        try:
            data = data[data.eval(args.where).astype(bool)]
        except Exception as error:  # pandas evaluates any expression and passes on whatever that raises
            problem = str(error).splitlines()[0]
        require(problem is None, f"--where {args.where}: {problem}")
    if not args.unfinished:
        left_out = data.loc[data.finished != 1, "run"].unique()
        if len(left_out):
            note(f"unfinished, left out: {', '.join(left_out)}; --unfinished draws them")
        data = data[data.finished == 1]
    require(len(data) > 0, f"--csv {args.csv}: no run is left to draw; look at --where and --unfinished")
    unknown = set(args.by) - set(data.columns)
    require(not unknown, f"--by {' '.join(sorted(unknown))}: no such column in {args.csv}")
    return data.copy()  # else pandas warns of a fragmented frame


def with_lines(data: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Adds the column `line`, the label in the legend. A line has one run per seed, alike in all flags but the seed."""
    line = data.script.map(label)
    for name in by:
        if set(data[name].dropna()) <= {True, False}:  # an older version without the feature ran as with it off
            known = data.groupby("script")[name].transform("count") > 0
            data = data.assign(**{name: data[name].astype(object).where(data[name].notna() | ~known, False)})
        value = data[name].map(lambda value, name=name: f", {SYMBOLS.get(name, name)} = {text(value)}")
        line = line + value.where(data[name].notna(), "")  # a script without the flag
    data = data.assign(line=line)
    flags = [name for name in data.columns if "/" not in name and name not in {*KEYS, *NOT_FLAGS, *HARMLESS}]
    for (line, env), rows in data.groupby(["line", "env"]):
        for name in flags:
            values = rows[name].dropna().unique()  # a run of an older script may lack the flag
            remedy = f"choose one by --where, or draw a line for each by --by {name}"
            require(len(values) <= 1, f"{line} on {env}: {name} is {', '.join(map(text, values))}; {remedy}")
        for seed, runs in rows.groupby("seed").run:
            # The folder's name ends in the time of the start.
            *older, _ = sorted(runs.unique(), key=lambda name: (name.rsplit("__", 1)[-1].zfill(12), name))
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
    """Steps x seeds."""
    return rows.pivot(index="step", columns="seed", values=column).dropna(how="all")


# These are rliable's estimators. rliable 1.2 itself needs arch < 8, which does not import beside pandas 3, and wants as
# many seeds for every environment.
def interval(samples: list[np.ndarray], statistic) -> tuple[np.ndarray, np.ndarray] | None:
    """95 % percentile bootstrap interval; axis 0 of every sample is resampled by itself. None for a single seed."""
    if min(map(len, samples)) < 2:
        return None
    rng = np.random.default_rng(0)
    result = stats.bootstrap(
        samples, statistic, method="percentile", n_resamples=2000, axis=0, vectorized=True, rng=rng
    )
    return result.confidence_interval.low, result.confidence_interval.high


def bounds(samples: list[np.ndarray], statistic, digits: str) -> str:
    """The interval of a number, for a table; nothing for a single seed."""
    band = interval(samples, statistic)
    return f" [{band[0]:{digits}}, {band[1]:{digits}}]" if band else ""


def mean(*samples: np.ndarray, axis: int = 0) -> np.ndarray:
    return np.concatenate(samples, axis=axis).mean(axis=axis)


def interquartile_mean(*samples: np.ndarray, axis: int = 0) -> np.ndarray:
    return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def difference(*samples: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean of the first half of the samples minus that of the second."""
    half = len(samples) // 2
    return interquartile_mean(*samples[:half], axis=axis) - interquartile_mean(*samples[half:], axis=axis)


def minus(a: np.ndarray, b: np.ndarray, axis: int = 0) -> np.ndarray:
    """Difference of the means."""
    return a.mean(axis=axis) - b.mean(axis=axis)


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
    return {
        value: (colour, "osD^vPX*"[i % 8], ()) for i, (value, colour) in enumerate(zip(values, colours, strict=True))
    }


def grid(rows: int, columns: int, **options) -> tuple[plt.Figure, np.ndarray]:
    size = (max(2.8 * columns, 4.2), 2.1 * rows + 0.8)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)


def curve(ax: plt.Axes, table: pd.DataFrame, style: tuple):
    """Mean over seeds and its interval where every seed has a value, and every seed faint behind."""
    colour, marker, dashes = style
    ax.plot(table.index, table, color=colour, alpha=0.3, linewidth=0.6, zorder=1)
    shared = table.dropna()
    band = interval([shared.to_numpy().T], mean) if len(shared) else None
    if band:
        ax.fill_between(shared.index, *band, color=colour, alpha=0.18, linewidth=0, zorder=2)
    every = max(1, len(shared) // 8)
    look = {"color": colour, "marker": marker, "markevery": every, "markersize": 3.2, "dashes": dashes}
    ax.plot(shared.index, shared.mean(axis=1), linewidth=1.4, zorder=3, **look)


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
        fig.savefig(path, metadata={"Date": None} if ending == "svg" else None)
        print(path)
    plt.close(fig)


# Figures.
BANDS = "Lines: mean over seeds; bands: 95 % bootstrap interval of the mean (of 3 seeds, their range); thin: each seed."


def curves(args: Args, data: pd.DataFrame):
    data = with_lines(data, args.by)
    lines, envs, chosen = order(data), sorted(data.env.unique()), metrics(args)
    look, columns = styles(lines), min(len(envs), 3)
    fig, axes = grid(-(-len(envs) // columns) * len(chosen), columns)
    for ax in axes.flat:
        ax.set_visible(False)
    for i, env in enumerate(envs):
        for j, metric in enumerate(chosen):
            ax, here = axes[i // columns * len(chosen) + j, i % columns], data[data.env == env]
            ax.set_visible(True)
            for line in [line for line in lines if (here.line == line).any()]:
                curve(ax, by_seed(here[here.line == line], metric), look[line])
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
    legend(fig, look, names, BANDS)
    save(fig, args, "curves")


def metrics(args: Args) -> list[str]:
    one = {"eval": ["eval_return"], "train": ["train_return"], "success": ["eval/success"]}
    return (one | {"both": ["eval_return", "train_return"]})[args.returns]


def scores(args: Args, data: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Column `score`: 0 is a random policy, 1 the baseline's mean at the end. Environments that every line has."""
    lines = order(data)
    count = data.groupby("env").line.nunique()
    complete = sorted(count.index[count == len(lines)])
    left_out = sorted(set(count.index) - set(complete))
    if left_out:
        note(f"aggregate: not every line has {', '.join(left_out)}, left out")
    require(len(complete) > 0, f"aggregate: no environment has all of {', '.join(lines)}; look at --where")
    data = data[data.env.isin(complete)].dropna(subset=metric)
    # Only seeds that every line has: environments weigh by their number of runs, for all lines alike.
    have = data.groupby(["env", "seed"]).line.transform("nunique") == len(lines)
    if not have.all():
        note(f"aggregate: not every line has the same seeds; {data[~have].run.nunique()} runs without rivals left out")
    data = data[have]
    require(len(data) > 0, "aggregate: no seed that every line has; look at --where")
    # Only steps that every run has, so that no line is compared at another line's step.
    runs = data.groupby("env").run.nunique()
    shared = data.groupby(["env", "step"]).run.nunique().reset_index(name="runs")
    shared = shared[shared.runs == shared.env.map(runs)][["env", "step"]]
    data = data.merge(shared, on=["env", "step"])
    last = data[data.step == data.groupby("env").step.transform("max")]
    one = last[last.script == args.baseline].groupby("env")[metric].mean()
    absent = sorted(set(complete) - set(one.index))
    require(not absent, f"--baseline {args.baseline}: it has no run on {', '.join(absent)}; choose another script")
    for env in complete:
        if env not in RANDOM:
            note(f"aggregate: the return of a random policy on {env} is not known, 0 is taken")
    zero = data.env.map(lambda env: RANDOM.get(env, 0.0))
    return data.assign(score=(data[metric] - zero) / (data.env.map(one) - zero))


def common_steps(data: pd.DataFrame) -> list[int]:
    """Steps at which every environment has rows."""
    return sorted(set.intersection(*(set(of_env.step) for _, of_env in data.groupby("env"))))


def score_tables(args: Args, data: pd.DataFrame, metric: str):
    """Interquartile means of column `score` and their differences as Markdown."""
    lines, envs = order(data), sorted(data.env.unique())
    last = data[data.step == data.groupby("env").step.transform("max")]
    shared = data[data.step.isin(common_steps(data))]

    def runs(rows: pd.DataFrame, line: str) -> list[np.ndarray]:
        """Per environment each run's mean score over the rows."""
        mine = rows[rows.line == line].groupby(["env", "seed"]).score.mean()
        return [mine[env].to_numpy() for env in envs]

    first = label(args.baseline)
    print(f"{RETURNS[metric].capitalize()}, IQM of the normalised score on {', '.join(envs)}, 95 %")
    print(f"bootstrap interval, and difference from {first}\n")
    print(f"| | at the end | minus {first} | over training | minus {first} | plain mean at the end |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        cells = []
        for rows in (last, shared):
            mine, other = runs(rows, line), runs(rows, first)
            cells.append(f"{interquartile_mean(*mine):.2f}{bounds(mine, interquartile_mean, '.2f')}")
            both = (*mine, *other)
            cells.append(f"{difference(*both):+.2f}{bounds(both, difference, '+.2f')}" if line != first else "")
        cells.append(f"{mean(*runs(last, line)):.2f}")
        print(f"| {line} | {' | '.join(cells)} |")
    print()
    pairs = [(b, a) for a, b in combinations([line for line in lines if line != first], 2)]
    if pairs:
        print("| | at the end | over training |\n|---|---|---|")
    for one, other in pairs:
        cells = []
        for rows in (last, shared):
            both = (*runs(rows, one), *runs(rows, other))
            cells.append(f"{difference(*both):+.2f}{bounds(both, difference, '+.2f')}")
        print(f"| {one} minus {other} | {' | '.join(cells)} |")
    print()


def aggregate(args: Args, data: pd.DataFrame):
    scored = {metric: scores(args, with_lines(data, args.by), metric) for metric in metrics(args)}
    for metric, table in scored.items():
        score_tables(args, table, metric)
    metric, data = next(iter(scored.items()))
    lines, envs = order(data), sorted(data.env.unique())
    look = styles(lines)
    last = data[data.step == data.groupby("env").step.transform("max")]
    fig, (training, final, profile) = plt.subplots(
        1, 3, figsize=(8.6, 2.9), layout="constrained", width_ratios=(1, 0.8, 1)
    )
    steps = common_steps(data)
    taus = np.linspace(min(0.0, last.score.min()), 1.02 * last.score.max(), 200)

    for i, line in enumerate(lines):
        colour, marker, dashes = look[line]
        mine = data[(data.line == line) & data.step.isin(steps)]
        samples = [by_seed(mine[mine.env == env], "score").to_numpy().T for env in envs]
        band = interval(samples, interquartile_mean)
        if band:
            training.fill_between(steps, *band, color=colour, alpha=0.18, linewidth=0)
        every = max(1, len(steps) // 8)
        style = {"color": colour, "dashes": dashes}
        training.plot(steps, interquartile_mean(*samples), marker=marker, markersize=3.2, markevery=every, **style)

        ends = [last[(last.line == line) & (last.env == env)].score.to_numpy() for env in envs]
        band = interval(ends, interquartile_mean)
        if band:
            final.barh(i, band[1] - band[0], left=band[0], color=colour, alpha=0.35, height=0.6)
        final.plot(interquartile_mean(*ends), i, color=colour, marker=marker, markersize=5)

        above = [sample[:, None] > taus for sample in ends]
        band = interval([sample.astype(float) for sample in above], mean)
        if band:
            profile.fill_between(taus, *band, color=colour, alpha=0.18, linewidth=0)
        profile.plot(taus, mean(*above), **style)
    training.set(xlabel="environment steps", ylabel="IQM of the normalised score", title="During training")
    steps_axis(training, data)
    final.set(xlabel="IQM of the normalised score", title="At the end", yticks=range(len(lines)), yticklabels=lines)
    final.use_sticky_edges = False  # room beside the bars
    final.autoscale_view(scaley=False)
    final.set_ylim(len(lines) - 0.5, -0.5)
    profile.set(xlabel="normalised score \u03c4", ylabel="fraction of runs above \u03c4", title="Performance profile")
    profile.set_ylim(0, 1.02)
    names = {line: f"{line} ({seeds_text(data[data.line == line])})" for line in lines}
    remark = f"{RETURNS[metric].capitalize()}; 0: random policy, 1: {label(args.baseline)}'s mean at the end. "
    remark += f"Interquartile mean and 95 % stratified bootstrap interval over seeds on {', '.join(envs)}."
    legend(fig, look, names, remark)
    save(fig, args, "aggregate")


def gradients(args: Args, data: pd.DataFrame):
    data = with_lines(flows(data, "gradients"), args.by)
    lines, envs = order(data), sorted(data.env.unique())
    tags = [name for name in data if name.startswith("gradients/step_") and data[name].notna().any()]
    tags.sort(key=lambda name: int(name[15:]))
    look = ramp(list(range(len(tags))))
    fig, axes = grid(len(envs), len(lines) + 1, sharey="row")
    print("Gradient norm at A_k, mean over the second half of training and over seeds; largest - smallest of them\n")
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
            ax.set_title(f"{line}, {env}" + (f" ({seeds_text(mine)})" if len(mine) else ""))
        for line, (colour, marker, dashes) in styles(lines).items():
            mine = data[(data.line == line) & (data.env == env)]
            late = mine[mine.step > mine.step.max() / 2].groupby("seed")[tags].mean().dropna(axis=1, how="all")
            table = late.T.set_axis(range(late.shape[1]))
            profile.plot(table.index, table, color=colour, alpha=0.3, linewidth=0.6)
            middle = table.mean(axis=1)
            profile.plot(middle.index, middle, color=colour, marker=marker, dashes=dashes, markersize=4, label=line)
            cells = [f"{value:.3g}" for value in middle] + [""] * (len(tags) - len(middle))
            for part in (table[:-1], table):
                # SciPy moves the seeds' axis to the end: that of k stays the first.
                band = bounds([part.T.to_numpy()], lambda x, axis=0: np.ptp(x.mean(axis=axis), axis=0), ".3g")
                cells.append(f"{np.ptp(part.mean(axis=1)):.3g}{band}")
            print(f"| {env} | {line} | {' | '.join(cells)} |")
        profile.set_title(f"{env}, second half")
        profile.xaxis.set_major_locator(MaxNLocator(integer=True))
        profile.legend(fontsize=7, frameon=False)
        row[0].set_yscale("log")
        row[0].set_ylabel("gradient norm at $A_k$")
    for ax in axes[-1, :-1]:
        ax.set_xlabel("environment steps")
    axes[-1, -1].set_xlabel("rollout step k")
    remark = "Batch mean of the Euclidean norm of d(\u03b1 log p \u2212 min Q)/d$A_k$, one sample's actor loss by the "
    remark += "intermediate action, without $A_0$'s own density. "
    legend(fig, look, {k: f"k = {k}" for k in look}, remark + BANDS)
    save(fig, args, "gradients")


def flows(data: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Only scripts with a rollout."""
    present = "sampling_steps" in data and data.sampling_steps.notna().any()
    require(present, f"{figure}: no run has --sampling-steps; draw it from runs of the flow scripts")
    data = data[data.sampling_steps.notna()].astype({"sampling_steps": int})
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
    base = DEFAULT_K if DEFAULT_K in values else values[0]
    print(f"{RETURNS[metric].capitalize()}, and its difference from K = {base} with a 95 % bootstrap interval\n")
    print(f"| | | K | step | mean (seeds) | minus K = {base} |\n|---|---|---|---|---|---|")
    for (env, panel), mine in data.groupby(["env", "panel"]):
        tables = {k: by_seed(rows, metric).dropna() for k, rows in mine.groupby("sampling_steps")}
        first = tables.get(base)
        for k, table in tables.items():
            both = table.index if first is None else table.index.intersection(first.index)
            end, cell = table.loc[both[-1]].to_numpy(), ""
            if first is not None and k != base:
                ends = [end, first.loc[both[-1]].to_numpy()]
                cell = f"{minus(*ends):+.0f}{bounds(ends, minus, '+.0f')}"
            print(f"| {env} | {panel} | {k} | {both[-1]} | {end.mean():.0f} ({len(end)}) | {cell} |")
    print()
    names = {k: f"K = {k} ({seeds_text(data[data.sampling_steps == k])})" for k in values}
    legend(fig, look, names, BANDS)
    save(fig, args, "steps")


def speed(args: Args, data: pd.DataFrame):
    data = with_lines(data, args.by).dropna(subset="steps_per_second")
    lines, envs = order(data), sorted(data.env.unique())
    look = styles(lines)
    runs = data.groupby(["line", "env", "seed"]).steps_per_second.agg(stats.hmean)
    width = 0.8 / len(lines)
    fig, axes = grid(1, 1)
    fig.set_size_inches(max(4.2, 0.5 + 0.45 * len(lines) * len(envs)), 2.9)
    ax = axes[0, 0]
    for i, line in enumerate(lines):
        for j, env in enumerate(envs):
            if (line, env) in runs.index:
                x, values = j + (i - (len(lines) - 1) / 2) * width, runs[line, env]
                ax.bar(x, values.mean(), 0.9 * width, color=look[line][0], alpha=0.75)
                ax.plot(np.full(len(values), x), values, "o", color="black", markersize=2)
                ax.annotate(f"{values.mean():.0f}", (x, values.max()), (0, 4), textcoords="offset points", ha="center")
    ax.margins(y=0.1)
    ax.set_xticks(range(len(envs)), envs)
    ax.set_ylabel("environment steps per second")
    ax.set_title("Training speed of one process")
    devices = ", ".join(sorted(data["versions/device"].unique()))
    remark = f"Device: {devices}; evaluation not counted. Bars: mean over runs; dots: each run."
    legend(fig, {line: (look[line][0], "s", ()) for line in lines}, dict(zip(lines, lines, strict=True)), remark, 0)
    save(fig, args, "speed")


def ablations(args: Args, data: pd.DataFrame):
    """A panel per environment and variant: every script that has it, as it is (dashed) and with it (solid)."""
    data = data.assign(variant=data.script.str.extract("-(.+)", expand=False))
    usual = with_lines(data[data.variant.isna()], [])
    changed = data.dropna(subset="variant")
    require(len(changed) > 0, "ablations: no run has an --exp-name of the kind SCRIPT-VARIANT")
    panels = list(changed.groupby(["env", "variant"], sort=False))
    panels.sort(key=lambda panel: (panel[0][0], [*VARIANTS, panel[0][1]].index(panel[0][1])))
    metric, seen, columns, several = metrics(args)[0], set(), min(len(panels), 4), changed.env.nunique() > 1
    fig, axes = grid(-(-len(panels) // columns), columns)
    print(f"{RETURNS[metric].capitalize()}: with the change, without it, their difference, and that of the means over")
    print("training, each with its 95 % bootstrap interval\n")
    print("| | | | with | without | difference | over training |\n|---|---|---|---|---|---|---|")
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, ((env, variant), rows) in zip(axes.flat, panels, strict=False):
        mine = with_lines(rows.assign(script=rows.script.str.partition("-")[0]), [])
        for line in order(mine):
            here = by_seed(mine[mine.line == line], metric)
            both = usual[(usual.line == line) & (usual.env == env) & (usual.step <= mine.step.max())]
            require(len(both) > 0, f"ablations: {line} with {variant} on {env}, but no run without; train it as well")
            colour, marker, _ = styles([line])[line]
            before = by_seed(both, metric)
            curve(ax, before, (colour, "", (3, 1.5)))
            curve(ax, here, (colour, marker, ()))
            seen.add(line)
            whole = [table.dropna() for table in (here, before)]
            ends, means = [table.iloc[-1].to_numpy() for table in whole], [table.mean().to_numpy() for table in whole]
            cells = [f"{end.mean():.0f} ({len(end)})" for end in ends]
            cells += [f"{minus(*pair):+.0f}{bounds(pair, minus, '+.0f')}" for pair in (ends, means)]
            print(f"| {env} | {VARIANTS.get(variant, variant)} | {line} | {' | '.join(cells)} |")
        steps_axis(ax, mine)
        number_axis(ax.yaxis, mine[metric].abs().max())
        ax.set_title(textwrap.fill(f"{env}, " * several + VARIANTS.get(variant, variant), 32))
    for ax in axes[:, 0]:
        ax.set_ylabel("return")
    lines = [label(script) for script in STYLES if label(script) in seen]
    look = {line: (*styles([line])[line][:2], ()) for line in dict.fromkeys(lines)}
    remark = f"{RETURNS[metric].capitalize()} over environment steps on {', '.join(sorted(changed.env.unique()))}. "
    legend(fig, look, {line: line for line in look}, remark + "Solid: with the change; dashed: the default. " + BANDS)
    save(fig, args, "ablations")


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
                digits = 2 if metric == "eval/success" else 0
                spread = f" \u00b1 {values.std():.{digits}f}" if len(values) > 1 else ""
                when = f" at {short(mine.step.max())}" if len(values) and mine.step.max() != common[env] else ""
                cells.append(f"{values.mean():.{digits}f}{spread} ({len(values)}){when}" if len(values) else "\u2013")
            print(f"| {line} | {' | '.join(cells)} |")
        print()
        if label(args.baseline) in lines and len(lines) > 1 and not args.by:
            differences(data, metric, label(args.baseline), lines, envs)


def differences(data: pd.DataFrame, metric: str, baseline: str, lines: list[str], envs: list[str]):
    """Every line minus the baseline, environment by environment, as Markdown."""
    print(f"Minus {baseline}: at the last step that both have, then the means over training up to there, each with its")
    print("95 % bootstrap interval\n")
    print(f"| | {' | '.join(f'{env}, at the end | over training' for env in envs)} |\n|{'---|' * (2 * len(envs) + 1)}")
    for line in lines:
        if line == baseline:
            continue
        cells = []
        for env in envs:
            two = [data[(data.line == which) & (data.env == env)] for which in (line, baseline)]
            two = [by_seed(rows, metric).dropna() for rows in two]
            steps = two[0].index.intersection(two[1].index)
            for part in (steps[-1:], steps):
                pair = [table.loc[part].mean().to_numpy() for table in two]
                cells.append(f"{minus(*pair):+.0f}{bounds(pair, minus, '+.0f')}" if len(steps) else "\u2013")
        print(f"| {line} | {' | '.join(cells)} |")
    print()


FIGURES = {function.__name__: function for function in (curves, aggregate, gradients, steps, speed, ablations, table)}


def main(args: Args):
    require(len(args.figures) > 0, f"name what to draw: {', '.join(FIGURES)}")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        require(False, f"--out {args.out}: {error.strerror}; choose a folder that can be written")
    data = load(args)
    if args.returns == "success":
        fits = set(args.figures) <= {"curves", "table"} and "eval/success" in data.columns
        require(fits, f"--returns success: is for curves and table of runs in {args.csv} that have it; choose eval")
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
    main(tyro.cli(Args, description=__doc__))
