#!/usr/bin/env bash
# The paper's figures and tables, each from its sweep to the picture. Every command is printed as it runs.
#
#   bash scripts/reproduce.sh from-scratch --small --workers 2      # CPU: 100k steps, small critics, three tasks
#   bash scripts/reproduce.sh from-scratch gradients steps --gpus 4 # full size
#   bash scripts/reproduce.sh gradients --small --dry-run           # the commands alone
#   bash scripts/reproduce.sh from-scratch gradients steps speed --small --figures-only   # from the CSV file
#
#   from-scratch   returns on MuJoCo over training, aggregate, table of the returns at the end
#   gradients      gradient norm at every rollout step over training (Figure 6)
#   steps          sampling steps K in {4, 7, 10} (Figure 7), and 1 and 2
#   speed          environment steps per second of the runs above; not in the paper
#   baselines      returns of PPO, QSM, DIME, FlowRL and the paper's SAC beside those of from-scratch
#   baselines-search   what their presets were chosen by: 30k steps, one seed (FlowRL's tau: 100k; DIME's
#                  scale and QSM's M on Walker2d also 100k, all seeds); with --small alone
#   ablations      one change at a time, on HalfCheetah-v4: drift, density, temperature, normalisation, critic; the
#                  normalisation and Flow-T's bound of sigma on Hopper-v4 too, Flow-G's depth there and on Walker2d-v4;
#                  a forest plot of these and of every other difference between the four scripts
#   humanoid       Humanoid-v4 over 250k steps, and the flows with K = 10 over 60k; with --small alone
#   ant            Ant-v4 over 100k steps, Flow-G, Flow-T and the Gaussian; with --small alone
#   standup        HumanoidStandup-v4 over 50k steps, naive too; with --small alone
#   tasks          Flow-G, Flow-T and the Gaussian on all tasks of from-scratch, humanoid, ant and standup, which run
#                  before; with --small alone
#   offline-to-online   success rates on manipulation tasks, from data made here (--small) or the official files
#
#   --small           critics 256 wide, batches of 256, 100k steps, 5k of them random, 3 seeds; else 1M steps, 5 seeds
#   --env-ids "A B"   other environments than the entry's own
#   --seeds N, --workers N, --gpus N, --python FILE   as in scripts/sweep.sh
#   --figures-only    draw the committed results, without runs
#   --dry-run         print the commands
#
# Runs go to runs/small or runs/full and are shared: K = 4 of `steps` and all of `gradients` are runs of `from-scratch`.
# Their CSV file is runs/small.csv or runs/full.csv and their figures are in runs/figures, apart from the committed ones,
# so that no row of another machine is among them; --figures-only takes results/small.csv or .. and draws to
# results/figures. Those of offline-to-online are named offline_to_online_small or .._full. After an interruption the
# same command goes on.
set -eu

die() {
    echo "error: $1" >&2
    exit 2
}

from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
entries=() size=full seeds="" envs="" figures_only=0 dry_run=0 python="" machine=()
[ -x .venv/bin/python ] && python=.venv/bin/python
while [ $# -gt 0 ]; do
    case $1 in
    from-scratch | gradients | steps | speed | baselines | baselines-search | ablations | humanoid | ant | standup | tasks | offline-to-online) entries+=("$1") ;;
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
for entry in ${envs:+${entries[@]+"${entries[@]}"}}; do # their flags are of their own tasks
    case $entry-$size in
    ablations-* | baselines-search-* | humanoid-* | ant-* | standup-* | tasks-* | offline-to-online-small) die "--env-ids: not for $entry, whose tasks are fixed" ;;
    esac
done
[ ${#entries[@]} -gt 0 ] || die "name a figure: from-scratch, gradients, steps, speed, baselines, baselines-search, ablations, humanoid, ant, standup, tasks or offline-to-online"
python=${python:-python3}
case $python in /*) ;; */*) [ -x "$python" ] || python=$from/$python ;; esac

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
    all="HalfCheetah-v4 Hopper-v4 Walker2d-v4" few="HalfCheetah-v4" seeds=${seeds:-3}
    until=" and step <= 60000"
else
    flags=() # full size is the scripts' default
    all="Hopper-v4 Walker2d-v4 HalfCheetah-v4 Ant-v4 Humanoid-v4 HumanoidStandup-v4" few="HalfCheetah-v4 Walker2d-v4"
    seeds=${seeds:-5} until=""
fi

# Trains scripts $1 on environments $2 with the further flags; runs go to runs/$store. A run that fails leaves the
# figures to the others.
failed=0
sweep() {
    local scripts=$1 tasks=${envs:-$2} rest code
    shift 2
    rest=(${flags[@]+"${flags[@]}"} "$@")
    [ ${#rest[@]} -eq 0 ] || rest=(-- "${rest[@]}")
    [ $figures_only -eq 1 ] || run bash scripts/sweep.sh --scripts "$scripts" --env-ids "$tasks" --seeds "$seeds" \
        --run-dir "runs/$store" --python "$python" ${machine[@]+"${machine[@]}"} ${rest[@]+"${rest[@]}"} || {
        code=$?
        [ $code -eq 1 ] || exit $code
        failed=1
    }
}

# Makes $3 episodes of data of task $1 in file $2, unless they are there.
dataset() {
    [ $figures_only -eq 1 ] || [ -e "$2" ] ||
        run "$python" offline_to_online/make_dataset.py --env-id "$1" --path "$2" --episodes "$3"
}

# Draws the named figures from the rows that condition $1 selects, under names that start with $prefix.
draw() {
    local where=$1 folder=results
    shift
    if [ $figures_only -eq 0 ]; then
        folder=runs
        run "$python" scripts/export.py "runs/$store" --csv "runs/$store.csv"
    fi
    run "$python" scripts/plot.py "$@" --csv "$folder/$store.csv" --out "$folder/figures" --prefix "$prefix" \
        ${where:+--where "$where"}
}

four="script in ['sac_gaussian', 'sac_flow_naive', 'sac_flow_g', 'sac_flow_t']"
# The condition that selects tasks $1, or those of --env-ids.
among() {
    local list=${envs:-$1} between="', '"
    echo "env in ['${list// /$between}']"
}
for entry in "${entries[@]}"; do
    store=$size prefix=${size}_
    case $entry in
    from-scratch)
        sweep "sac_gaussian.py $flows" "$all"
        where="$four and $(among "$all") and sampling_steps not in [1, 2, 7, 10]"
        draw "$where" curves aggregate table --returns both
        ;;
    gradients)
        sweep "$flows" "$all"
        draw "$four and $(among "$all") and sampling_steps == 4" gradients
        ;;
    steps)
        sweep "$flows" "$few"
        # At small size the other K run for 60k steps, and are compared there.
        [ $size = full ] || flags=("${small[@]}" --total-timesteps 60000)
        for k in 1 2 7 10; do sweep "$flows" "$few" --sampling-steps $k; done
        [ $size = full ] || flags=("${small[@]}" --total-timesteps 100000)
        draw "$four and $(among "$few")$until" steps
        ;;
    speed)
        sweep "sac_gaussian.py $flows" "$all"
        draw "$four and $(among "$all") and sampling_steps not in [1, 2, 7, 10]" speed
        ;;
    baselines)
        prefix=${size}_baselines_ tasks="HalfCheetah-v4 Hopper-v4 Walker2d-v4" usual=(${flags[@]+"${flags[@]}"})
        sweep "sac_gaussian.py $flows baselines/qsm.py" "$tasks"
        sweep baselines/flowrl.py "$tasks" --bf16 # as its authors' code
        if [ $size = small ]; then sweep baselines/dime.py "$tasks" --bf16; else sweep baselines/dime.py "$tasks"; fi
        sweep sac_gaussian.py "$tasks" --exp-name sac --no-crossq --no-normalize-obs --adam-beta1 0.9 \
            --policy-frequency 1 --critic-hidden-dim 256 --hidden-dim 256
        flags=(--total-timesteps 1000000) # it has no replay buffer, and neither needs nor has the small size's flags
        sweep baselines/ppo.py "$tasks"
        flags=(${usual[@]+"${usual[@]}"})
        # PPO goes on ten times as long at small size, and is in the table at the end of that.
        where="not script.str.contains('-') and $(among "$tasks") and sampling_steps not in [1, 2, 7, 10]"
        draw "$where" table --returns both
        [ $size = full ] || where+=" and step <= 100000"
        draw "$where" curves
        ;;
    baselines-search)
        [ $size = small ] || die "baselines-search: add --small"
        store=baselines_search prefix=baselines_search_ usual=("${flags[@]}") seeds_before=$seeds seeds=1
        flags=("${small[@]}" --total-timesteps 30000 --eval-frequency 2500)
        # Script, task, a flag and the values tried; one run each.
        while read -r script task flag values; do
            more=()
            [ "$script" = qsm ] || more=(--bf16)
            case $flag in
                --bc-coeff) more+=(--tau 0.95) ;; # as when its values were compared, before tau was
                --reward-scale) more+=(--v-max 200) ;;  # DIME's alone, whose preset may have another
                --v-max) more+=(--reward-scale 1) ;;
            esac
            for value in ${values:-""}; do
                sweep "baselines/$script.py" "$task" "$flag" ${value:+"$value"} ${more[@]+"${more[@]}"} </dev/null
            done
        done <<'END'
qsm HalfCheetah-v4 --q-grad-coeff 1 3 10 30 100
qsm Hopper-v4 --q-grad-coeff 1.5 5 15 50
qsm Walker2d-v4 --q-grad-coeff 2 7 20
qsm HalfCheetah-v4 --published
flowrl HalfCheetah-v4 --bc-coeff 0.02 0.1 0.5
flowrl HalfCheetah-v4 --published
dime HalfCheetah-v4 --reward-scale 0.1
dime HalfCheetah-v4 --published
dime HalfCheetah-v4 --v-max 1500
dime Hopper-v4 --v-max 500
dime Walker2d-v4 --v-max 750
END
        draw "" table --by q_grad_coeff bc_coeff reward_scale v_max
        # FlowRL's target networks: what they do shows later than at 30k.
        flags=("${usual[@]}") store=flowrl_tau
        for tau in 0.95 0.005; do sweep baselines/flowrl.py "HalfCheetah-v4 Hopper-v4" --bf16 --tau $tau; done
        draw "" table --by tau
        # DIME's smaller rewards, to the end: the preset's are among the baselines.
        seeds=$seeds_before store=dime_scale
        sweep baselines/dime.py HalfCheetah-v4 --bf16 --reward-scale 0.1 --v-max 200
        draw "" table --by reward_scale v_max
        # QSM's smaller M.
        store=qsm_m
        sweep baselines/qsm.py Walker2d-v4 --q-grad-coeff 7
        draw "env == 'Walker2d-v4'" table --by q_grad_coeff
        ;;
    humanoid)
        [ $size = small ] || die "humanoid: add --small; at full size it is among from-scratch"
        store=humanoid prefix=humanoid_ usual=("${flags[@]}")
        flags=(--size small --compile --total-timesteps 250000)
        sweep "sac_gaussian.py $flows" Humanoid-v4
        for name in sac_gaussian sac_flow_t; do
            sweep $name.py Humanoid-v4 --renorm-warmup 100000 --exp-name $name-corrected
        done
        sweep sac_gaussian.py Humanoid-v4 --target-entropy -32.6 --exp-name sac_gaussian-entropy_-32.6
        flags=(--size small --compile --total-timesteps 60000)
        sweep "$flows" Humanoid-v4 --sampling-steps 10
        draw "total_timesteps == 250000" curves --returns both --unfinished
        draw "total_timesteps == 250000" table --returns both
        draw "not script.str.contains('-') and sampling_steps == 4 and total_timesteps == 250000" gradients
        prefix=humanoid_steps_
        draw "not script.str.contains('-') and step <= 60000" gradients --by sampling_steps
        flags=("${usual[@]}")
        ;;
    ant)
        [ $size = small ] || die "ant: add --small; at full size it is among from-scratch"
        store=ant prefix=ant_
        sweep "sac_gaussian.py sac_flow_g.py sac_flow_t.py" Ant-v4
        draw "" curves table --returns both
        draw "sampling_steps == 4" gradients
        ;;
    standup)
        [ $size = small ] || die "standup: add --small; at full size it is among from-scratch"
        store=standup prefix=standup_ usual=("${flags[@]}")
        flags=("${small[@]}" --total-timesteps 50000)
        sweep "sac_gaussian.py $flows" HumanoidStandup-v4
        draw "" curves table --returns both
        draw "sampling_steps == 4" gradients
        flags=("${usual[@]}")
        ;;
    tasks)
        [ $size = small ] || die "tasks: add --small; at full size it is the aggregate of from-scratch"
        folder=results
        [ $figures_only -eq 1 ] || folder=runs
        where="script in ['sac_gaussian', 'sac_flow_g', 'sac_flow_t'] and sampling_steps not in [1, 2, 7, 10]"
        run "$python" scripts/plot.py aggregate --csv "$folder/small.csv" --also "$folder/humanoid.csv" \
            "$folder/ant.csv" "$folder/standup.csv" --out "$folder/figures" --prefix tasks_ --returns both \
            --where "$where and (env != 'Humanoid-v4' or total_timesteps == 250000)"
        ;;
    ablations)
        task=HalfCheetah-v4
        sweep "sac_gaussian.py $flows" "$task Hopper-v4"
        [ $figures_only -eq 1 ] || run "$python" scripts/forks.py
        [ $size = full ] || flags=("${small[@]}" --total-timesteps 60000)
        forks=runs/forks
        # Variant, scripts of which one is one run each, tasks, flags: the results' --exp-name is SCRIPT-VARIANT.
        while read -r variant scripts tasks rest; do
            read -r -a words <<<"$rest"
            for script in ${scripts//,/ }; do
                name=sac_$script file=sac_$script.py
                case $variant in no_log_std | post_norm | renorm) file=$forks/${name}_$variant.py ;; esac
                sweep "$file" "${tasks//,/ }" --exp-name "$name-$variant" ${words[@]+"${words[@]}"} </dev/null
            done
        done <<'END'
drift flow_g,flow_t HalfCheetah-v4 --drift-correction
no_log_std flow_g,flow_t HalfCheetah-v4
alpha_0.2 flow_g,flow_t HalfCheetah-v4 --alpha 0.2
entropy_-d flow_g,flow_t HalfCheetah-v4 --target-entropy -6
entropy_-8.5 gaussian HalfCheetah-v4 --target-entropy -8.5
no_normalize_obs gaussian,flow_g,flow_t HalfCheetah-v4,Hopper-v4 --no-normalize-obs
renorm gaussian,flow_g,flow_t HalfCheetah-v4,Hopper-v4
post_norm flow_t HalfCheetah-v4
bounded_candidate flow_g HalfCheetah-v4 --bounded-candidate
log_std_max_0 flow_t Hopper-v4 --log-std-max 0
no_crossq gaussian,flow_g,flow_t HalfCheetah-v4 --no-crossq
END
        [ $size = full ] || flags=("${small[@]}" --total-timesteps 100000)
        # On three tasks, over the whole length: what the candidate's depth changes shows on Hopper-v4.
        sweep sac_flow_g.py Walker2d-v4
        sweep sac_flow_g.py "$task Hopper-v4 Walker2d-v4" --exp-name sac_flow_g-candidate_1 --candidate-layers 1
        if [ $size = small ]; then # needs longer runs; at full size it is the default
            for script in flow_g flow_t; do
                sweep "sac_$script.py" "$task" --exp-name "sac_$script-starts_50k" --learning-starts 50000
            done
        fi
        draw "script.str.startswith('sac_')" forest # with the K of `steps`, where they have run
        ;;
    offline-to-online)
        store=offline_to_online_$size prefix=${store}_ usual=(${flags[@]+"${flags[@]}"})
        folder=offline_to_online
        flags=()
        if [ $size = full ]; then # from the official files
            sweep "$folder/sac_flow_g.py $folder/sac_flow_t.py $folder/sac_flow_naive.py $folder/qc_fql.py" \
                "scene-play-singletask-task2-v0 cube-double-play-singletask-task2-v0 can square"
        else
            [ $figures_only -eq 1 ] || run "$python" scripts/forks.py
            common=(--critic-hidden-dim 256 --normalize-obs --learning-starts 2000 --buffer-size 200000)
            imitate=(--pretrain flow-matching)
            while read -r task limit; do
                dataset "$task" "data/$task.hdf5" 200
                flags=("${common[@]}" --dataset-path "data/$task.hdf5" --step-limit "$limit" --offline-steps 5000)
                flags+=(--total-timesteps 10000 --eval-frequency 2500)
                sweep "$folder/sac_flow_g.py $folder/sac_flow_naive.py" "$task" "${imitate[@]}" --hidden-dim 256 </dev/null
                sweep "$folder/sac_flow_t.py" "$task" "${imitate[@]}" </dev/null
                sweep "$folder/qc_fql.py" "$task" --policy-hidden-dim 256 </dev/null
                # What experience is worth: as many updates on the dataset alone.
                sweep "runs/forks/sac_flow_g_no_experience.py" "$task" "${imitate[@]}" --hidden-dim 256 \
                    --exp-name o2o_sac_flow_g-no_experience </dev/null
                sweep "runs/forks/qc_fql_no_experience.py" "$task" --policy-hidden-dim 256 \
                    --exp-name o2o_qc_fql-no_experience </dev/null
            done <<<$'can 300\nlift 300\nsquare 400'
            # On policy, so with ten times the steps; its axis would hide the others' curves.
            flags=(--critic-hidden-dim 256 --hidden-dim 256 --dataset-path data/can.hdf5 --step-limit 300)
            flags+=(--offline-steps 5000 --total-timesteps 100000 --eval-frequency 25000)
            sweep "$folder/reinflow.py" can --num-envs 8 --num-steps 125 --batch-size-online 1000
            dataset "cube-single-play-singletask-task1-v0" data/cube-single-play-v0.npz 100
            flags=("${common[@]}" --dataset-path data/cube-single-play-v0.npz --offline-steps 10000)
            flags+=(--total-timesteps 20000 --eval-frequency 5000)
            cube="cube-single-play-singletask-task1-v0"
            sweep "$folder/sac_flow_g.py $folder/sac_flow_naive.py" "$cube" --hidden-dim 256
            sweep "$folder/sac_flow_t.py" "$cube"
            sweep "$folder/qc_fql.py" "$cube" --policy-hidden-dim 256
        fi
        flags=(${usual[@]+"${usual[@]}"})
        draw "script != 'o2o_reinflow'" curves --returns success
        draw "" online table --returns success
        ;;
    esac
done
[ $failed -eq 0 ] || echo "some runs failed: the figures are of the others; the same command tries them again" >&2
exit $failed
