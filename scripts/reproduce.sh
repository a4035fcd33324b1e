#!/usr/bin/env bash
# The paper's from-scratch figures and tables, each from its sweep to the picture. Every command is printed as it runs.
#
#   bash scripts/reproduce.sh from-scratch --small --workers 2      # CPU: 100k steps, small critics, two tasks
#   bash scripts/reproduce.sh from-scratch gradients steps --gpus 4 # full size
#   bash scripts/reproduce.sh gradients --small --dry-run           # the commands alone
#   bash scripts/reproduce.sh from-scratch gradients steps speed --small --figures-only   # from the CSV file
#
#   from-scratch   returns on MuJoCo over training, aggregate, table of the returns at the end
#   gradients      gradient norm at every rollout step over training (Figure 6)
#   steps          sampling steps K in {4, 7, 10} (Figure 7)
#   speed          environment steps per second of the runs above; not in the paper
#
#   --small           critics 256 wide, batches of 256, 100k steps, 5k of them random, 3 seeds; else 1M steps, 5 seeds
#   --env-ids "A B"   other environments than the entry's own
#   --seeds N, --workers N, --gpus N, --python FILE   as in scripts/sweep.sh
#   --figures-only    draw from the CSV file, without runs
#   --dry-run         print the commands
#
# Runs go to runs/small or runs/full and are shared: K = 4 of `steps` and all of `gradients` are runs of `from-scratch`.
# The CSV file is results/small.csv or results/full.csv, the figures are in results/figures. After an interruption the
# same command goes on.
set -eu

die() {
    echo "error: $1" >&2
    exit 2
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
entries=() size=full seeds="" envs="" figures_only=0 dry_run=0 python="" machine=()
[ -x .venv/bin/python ] && python=.venv/bin/python
while [ $# -gt 0 ]; do
    case $1 in
    from-scratch | gradients | steps | speed) entries+=("$1") ;;
    --small) size=small ;;
    --figures-only) figures_only=1 ;;
    --dry-run) dry_run=1 ;;
    --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    --env-ids | --seeds | --workers | --gpus | --python)
        [ $# -gt 1 ] || die "$1: a value is missing"
        case $1 in
        --env-ids) envs=$2 ;;
        --seeds)
            [[ $2 =~ ^[1-9][0-9]*$ ]] || die "--seeds $2: must be a positive number"
            seeds=$2
            ;;
        --python) python=$2 ;;
        *) machine+=("$1" "$2") ;;
        esac
        shift
        ;;
    *) die "$1: neither a figure nor a flag; --help lists them" ;;
    esac
    shift
done
[ ${#entries[@]} -gt 0 ] || die "name a figure: from-scratch, gradients, steps or speed"
python=${python:-python3}

run() {
    local word
    printf '+'
    for word in "$@"; do
        case $word in *[!a-zA-Z0-9_./-]*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    echo
    [ $dry_run -eq 1 ] || "$@"
}

# Before hours of training.
[ $dry_run -eq 1 ] || "$python" -c 'import matplotlib, pandas, scipy, tensorboard' 2>/dev/null ||
    die "--python $python: the figures need more; install it with: $python -m pip install -r scripts/requirements.txt"

flows="sac_flow_naive.py sac_flow_g.py sac_flow_t.py"
if [ $size = small ]; then
    small=(--critic-hidden-dim 256 --batch-size 256 --learning-starts 5000)
    flags=("${small[@]}" --total-timesteps 100000)
    all="HalfCheetah-v4 Hopper-v4" few="HalfCheetah-v4" seeds=${seeds:-3}
    until=" and step <= 60000"
else
    flags=() # full size is the scripts' default
    all="Hopper-v4 Walker2d-v4 HalfCheetah-v4 Ant-v4 Humanoid-v4 HumanoidStandup-v4" few="HalfCheetah-v4 Walker2d-v4"
    seeds=${seeds:-5} until=""
fi

# Trains scripts $1 on environments $2 with the further flags.
sweep() {
    local scripts=$1 tasks=${envs:-$2} rest
    shift 2
    rest=(${flags[@]+"${flags[@]}"} "$@")
    [ ${#rest[@]} -eq 0 ] || rest=(-- "${rest[@]}")
    [ $figures_only -eq 1 ] || run bash scripts/sweep.sh --scripts "$scripts" --env-ids "$tasks" --seeds "$seeds" \
        --run-dir "runs/$size" --python "$python" ${machine[@]+"${machine[@]}"} ${rest[@]+"${rest[@]}"}
}

# Draws the named figures from the rows that condition $1 selects.
draw() {
    local where=$1
    shift
    [ $figures_only -eq 1 ] || run "$python" scripts/export.py "runs/$size" --csv "results/$size.csv"
    run "$python" scripts/plot.py "$@" --csv "results/$size.csv" --prefix "${size}_" --where "$where"
}

for entry in "${entries[@]}"; do
    case $entry in
    from-scratch)
        sweep "sac_gaussian.py $flows" "$all"
        draw "sampling_steps not in [7, 10]" curves aggregate table --returns both
        ;;
    gradients)
        sweep "$flows" "$all"
        draw "sampling_steps == 4" gradients
        ;;
    steps)
        sweep "$flows" "$few"
        # At small size K = 7 and 10 run for 60k steps, and are compared there.
        [ $size = full ] || flags=("${small[@]}" --total-timesteps 60000)
        for k in 7 10; do sweep "$flows" "$few" --sampling-steps $k; done
        [ $size = full ] || flags=("${small[@]}" --total-timesteps 100000)
        list=${envs:-$few}
        draw "env in ['${list// /\', \'}']$until" steps table --by sampling_steps
        ;;
    speed)
        sweep "sac_gaussian.py $flows" "$all"
        draw "sampling_steps not in [7, 10]" speed
        ;;
    esac
done
