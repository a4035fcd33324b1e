#!/usr/bin/env bash
# Trains a grid of scripts x environments x seeds on this machine, several runs at a time.
#
#   bash scripts/sweep.sh --scripts "sac_flow_g.py sac_flow_t.py" --env-ids "Hopper-v4 Ant-v4" --seeds 5 --workers 2 \
#       -- --total-timesteps 100000
#
# Call it again with the same words to go on: finished runs are skipped, interrupted ones resume from their checkpoint,
# and those without a checkpoint start over (their folder moves to RUN_DIR/aborted). Ctrl-C stops all runs, each of
# which writes its checkpoint first; a second Ctrl-C kills them.
#
#   --scripts "A B"     training scripts
#   --env-ids "A B"     environments
#   --seeds N           seeds 1 to N
#   --first-seed N      start at another seed than 1
#   --workers N         runs at a time (default: the number of GPUs with --gpus, else of cores)
#   --gpus N            spread the runs over the first N visible GPUs; without it they
#                       run on the CPU, each with one core to itself
#   --run-dir DIR       folder for the runs (default: runs); logs are in DIR/sweep
#   --python FILE       interpreter (default: .venv/bin/python of the repository, else python3)
#   --dry-run           print what would be done
#   --count             print the number of runs in the grid
#   --only N            do the grid's N-th run alone, without pinning it to a core: for a cluster's job array
#   -- FLAGS            passed on to every run
#
# Exit codes: 0, 1 if a run failed, 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM.
set -u

die() {
    echo "error: $1" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scripts=() envs=() flags=() seeds="" first=1 workers="" gpus=0 run_dir=runs python="" only="" mode=run
[ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python
while [ $# -gt 0 ]; do
    case $1 in
    --dry-run | --count) mode=${1#--} && shift && continue ;;
    --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    --) shift && flags=("$@") && break ;;
    --scripts | --env-ids | --seeds | --first-seed | --workers | --gpus | --run-dir | --python | --only) ;;
    *) die "$1: no such flag; flags of the runs go behind --, and --help lists the others" ;;
    esac
    [ $# -gt 1 ] || die "$1: a value is missing"
    case $1 in
    --scripts) read -r -d '' -a scripts <<<"$2" ;; # lines are as good as blanks
    --env-ids) read -r -d '' -a envs <<<"$2" ;;
    --run-dir) run_dir=$2 ;;
    --python) python=$2 ;;
    *)
        [[ $2 =~ ^[0-9]{1,9}$ && ($1 == --first-seed || $((10#$2)) -gt 0) ]] || die "$1 $2: must be a positive number"
        case $1 in
        --seeds) seeds=$((10#$2)) ;;
        --first-seed) first=$((10#$2)) ;;
        --workers) workers=$((10#$2)) ;;
        --gpus) gpus=$((10#$2)) ;;
        --only) only=$((10#$2)) ;;
        esac
        ;;
    esac
    shift 2
done
[ ${#scripts[@]} -gt 0 ] || die '--scripts: name at least one, such as --scripts "sac_flow_g.py sac_flow_t.py"'
[ ${#envs[@]} -gt 0 ] || die '--env-ids: name at least one, such as --env-ids "Hopper-v4 Ant-v4"'
[ -n "$seeds" ] || die "--seeds: say how many, such as --seeds 5"
python=${python:-python3}
command -v "$python" >/dev/null || die "--python $python: no such program"
own_device=0
for flag in ${flags[@]+"${flags[@]}"}; do
    case ${flag//_/-} in
    --device | --device=*) own_device=1 ;;
    --seed | --seed=* | --env-id | --env-id=* | --run-dir | --run-dir=* | --resume | --resume=*)
        die "${flag%%=*} behind --: the sweep sets it"
        ;;
    esac
done

# The grid: seeds outermost, so that a sweep cut short has all scripts on all environments. A run's name holds a
# checksum of its flags: the same grid with other flags is another set of runs.
checksum=$(printf '%s\n' ${flags[@]+"${flags[@]}"} | cksum | cut -d ' ' -f 1)
home=$(cd "$root" && pwd -P)
names=() job_scripts=() job_envs=() job_seeds=()
for ((seed = first; seed < first + seeds; seed++)); do
    for env in "${envs[@]}"; do
        for script in "${scripts[@]}"; do
            [ -f "$script" ] || script=$root/$script
            [ -f "$script" ] || die "--scripts ${script#"$root/"}: no such file"
            name=$(basename "$script" .py)
            # A copy may have the name of a script of ours: its path tells them apart, wherever this is called.
            sum=$checksum place=$(cd "$(dirname "$script")" && pwd -P)/$(basename "$script")
            case ${place#"$home"/} in
            "$name.py" | offline_to_online/"$name.py" | baselines/"$name.py") ;;
            *) sum=$(printf '%s\n' "${place#"$home"/}" "$checksum" | cksum | cut -d ' ' -f 1) ;;
            esac
            name=${env//\//-}__${name}__${seed}__$sum
            [[ " ${names[*]-} " != *" $name "* ]] || die "$env with ${script##*/} is in the grid twice"
            names+=("$name") job_scripts+=("$script") job_envs+=("$env") job_seeds+=("$seed")
        done
    done
done
total=${#names[@]}
[ "$mode" != count ] || { echo "$total" && exit 0; }
jobs=()
for ((i = 0; i < total; i++)); do jobs+=("$i"); done
if [ -n "$only" ]; then
    [ "$only" -le "$total" ] || die "--only $only: the grid has $total runs"
    jobs=($((only - 1))) workers=1
fi

IFS=, read -r -a devices <<<"${CUDA_VISIBLE_DEVICES-}"
visible=${#devices[@]}
[ "$visible" -eq 0 ] || [ "$gpus" -le "$visible" ] || die "--gpus $gpus: CUDA_VISIBLE_DEVICES has only $visible"
[ "$mode" != run ] || mkdir -p "$run_dir/sweep" 2>/dev/null || die "--run-dir $run_dir: it cannot be made"
[ ! -d "$run_dir" ] || run_dir=$(cd "$run_dir" && pwd)
state=$run_dir/sweep

# Places to run in: cores this process may use, or GPUs.
cores=()
if [ "$gpus" -eq 0 ] && [ -z "$only" ] && command -v taskset >/dev/null; then
    for range in $(taskset -pc $$ | sed 's/.*: //; s/,/ /g'); do
        for ((core = ${range%-*}; core <= ${range#*-}; core++)); do cores+=("$core"); done
    done
fi
if [ -z "$workers" ]; then
    workers=$gpus
    [ "$gpus" -gt 0 ] || workers=${#cores[@]}
    [ "$workers" -gt 0 ] || workers=$(getconf _NPROCESSORS_ONLN)
fi

# Sets `action` and `folder`, the folder of the run that was begun, from what job $1 has left behind.
look_up() {
    local log=$state/${names[$1]}.log
    action=start folder=""
    [ ! -e "$state/${names[$1]}.done" ] || { action=skip && return; }
    [ ! -f "$log" ] || folder=$(sed -n 's/^run: //p' "$log" | tail -n 1)
    [ -z "$folder" ] || folder=$run_dir/$(basename "$folder")
    [ -d "$folder" ] || { folder="" && return; }
    action=restart
    [ ! -f "$folder/checkpoint.pt" ] || action=resume
}

# Sets `command` to what trains job $1 in slot $2.
compose() {
    # A thread per core is fastest for products of this size, and reusing memory instead of returning it to the system
    # spares page faults.
    command=(env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}" MALLOC_TRIM_THRESHOLD_=1000000000
        MALLOC_MMAP_THRESHOLD_=1000000000)
    if [ "$gpus" -gt 0 ]; then
        command+=("CUDA_VISIBLE_DEVICES=${devices[$2 % gpus]:-$(($2 % gpus))}")
    elif [ -z "$only" ] && [ $own_device -eq 0 ]; then # or all would share the first GPU
        command+=(CUDA_VISIBLE_DEVICES=)
    fi
    [ ${#cores[@]} -eq 0 ] || command+=(taskset -c "${cores[$2 % ${#cores[@]}]}")
    command+=("$python" "${job_scripts[$1]}")
    if [ "$action" = resume ]; then # the flags are in the checkpoint
        command+=(--resume "$folder")
    else
        command+=(--env-id "${job_envs[$1]}" --seed "${job_seeds[$1]}" --run-dir "$run_dir")
        [ "$gpus" -eq 0 ] || [ $own_device -eq 1 ] || command+=(--device cuda) # or it would train on the CPU without one
        command+=(${flags[@]+"${flags[@]}"})
    fi
}

describe() {
    echo "${job_envs[$1]} $(basename "${job_scripts[$1]}") seed ${job_seeds[$1]}"
}

if [ "$mode" = dry-run ]; then
    slot=0
    for job in "${jobs[@]}"; do
        look_up "$job"
        compose "$job" $((slot % workers))
        printf '%-8s' "$action"
        [ "$action" = skip ] && echo "$(describe "$job"): finished before" && continue
        printf ' %q' "${command[@]}"
        echo
        slot=$((slot + 1))
    done
    exit 0
fi

# Two sweeps in one folder would train the same runs twice. A symbolic link is made atomically and names its owner.
lock=$state/lock owner=$(uname -n):$$
if [ -z "$only" ]; then
    holder=$(readlink "$lock")
    if [ "${holder%:*}" = "${owner%:*}" ] && ! kill -0 "${holder##*:}" 2>/dev/null; then rm -f "$lock"; fi
    ln -s "$owner" "$lock" 2>/dev/null || die "--run-dir $run_dir: process $holder sweeps there; else remove $lock"
    trap 'rm -f "$lock"' EXIT
fi

# A second signal, a second later, ends a run at once, without a checkpoint, so that each must hear of it once: the runs
# have process groups of their own, which the terminal's Ctrl-C does not reach, and are told by SIGINT whatever came, as
# a cluster sends its SIGTERM to every process of a job. Only a second Ctrl-C kills.
stopping=0 pids=() running=() begun=() started_at=()
stop() {
    local slot kind=INT
    if [ $stopping -eq 0 ]; then
        stopping=$1
        [ ! -t 2 ] || printf '\r\033[K' >&2
        echo "stopping: the runs write their checkpoints; a second Ctrl-C kills them" >&2
    elif [ "$1" -eq 130 ]; then
        kind=KILL
    else
        return
    fi
    for slot in ${pids[@]+"${!pids[@]}"}; do kill -$kind "${pids[$slot]}" 2>/dev/null; done
}
trap 'stop 130' INT
trap 'stop 143' TERM HUP

# Thousandths of its steps that job $1 has done, from the last evaluation in its log.
progress_of() {
    awk '/^# .* (start|restart)$/ { at = 0 }
        /^step [0-9]+\/[0-9]+ / { split($2, of, "/"); at = int(1000 * of[1] / of[2]) }
        END { print at + 0 }' "$state/${names[$1]}.log"
}

clock() {
    local unit=60 form='%d min %02d s'
    [ "$1" -lt 3600 ] || { unit=3600 && form='%d h %02d min'; }
    # shellcheck disable=SC2059
    printf "$form" $(($1 / unit)) $(($1 % unit * 60 / unit))
}

# One line that is rewritten in place; the time left assumes that the rest goes at the speed so far.
show() {
    [ -t 2 ] || return 0
    local gained=$((1000 * completed)) remaining=0 slot i at left=unknown
    for slot in ${pids[@]+"${!pids[@]}"}; do
        at=$(progress_of "${running[$slot]}")
        gained=$((gained + at - begun[slot])) remaining=$((remaining + 1000 - at))
    done
    for ((i = next; i < ${#jobs[@]}; i++)); do
        [ -e "$state/${names[${jobs[$i]}]}.done" ] || remaining=$((remaining + 1000))
    done
    [ $gained -le 0 ] || left=$(clock $((SECONDS * remaining / gained)))
    printf '\r\033[K%d of %d done, %d running, %d failed, time left: %s' \
        $((completed + skipped)) ${#jobs[@]} ${#pids[@]} $failed "$left" >&2
}

say() {
    [ ! -t 2 ] || printf '\r\033[K' >&2
    echo "$1"
}

completed=0 skipped=0 failed=0 interrupted=0 next=0 failures=() ticks=0 SECONDS=0
while true; do
    # Start what fits.
    for ((slot = 0; slot < workers; slot++)); do
        while [ $stopping -eq 0 ] && [ -z "${pids[$slot]-}" ] && [ $next -lt ${#jobs[@]} ]; do
            job=${jobs[$next]} next=$((next + 1))
            log=$state/${names[$job]}.log
            # Two tasks of a cluster must not train the same run. The run inherits the lock, which ends with it.
            if command -v flock >/dev/null; then
                exec 9>"$state/${names[$job]}.lock"
                if ! flock -n 9; then
                    failed=$((failed + 1)) failures+=("$log")
                    say "failed $(describe "$job"): another process trains it"
                    continue
                fi
            fi
            look_up "$job"
            [ "$action" = skip ] && skipped=$((skipped + 1)) && exec 9>&- && continue
            if [ "$action" = restart ] && ! { mkdir -p "$run_dir/aborted" && mv "$folder" "$run_dir/aborted/"; }; then
                failed=$((failed + 1)) failures+=("$log")
                continue
            fi
            compose "$job" "$slot"
            begun[slot]=0
            [ "$action" != resume ] || begun[slot]=$(progress_of "$job")
            { date "+# %F %T $action" && printf '#' && printf ' %q' "${command[@]}" && echo; } >>"$log"
            set -m
            "${command[@]}" >>"$log" 2>&1 </dev/null &
            pids[slot]=$! running[slot]=$job started_at[slot]=$SECONDS
            set +m
            exec 9>&-
            [ $stopping -eq 0 ] || kill -INT "${pids[$slot]}" 2>/dev/null # the signal came while it was being started
            say "$action $(describe "$job")"
        done
    done
    [ ${#pids[@]} -gt 0 ] || break

    # Collect what ended.
    [ $((ticks % 10)) -ne 0 ] || show
    ticks=$((ticks + 1))
    sleep 0.5
    for slot in "${!pids[@]}"; do
        kill -0 "${pids[$slot]}" 2>/dev/null && continue
        wait "${pids[$slot]}" 2>/dev/null
        code=$? job=${running[$slot]} took=$(clock $((SECONDS - started_at[slot])))
        log=$state/${names[$job]}.log
        unset "pids[$slot]"
        # A run that was stopped in its last step has nothing left to do when it is resumed, and refuses.
        [ $code -ne 2 ] || ! tail -n 1 "$log" | grep -q '^error: --resume: finished' || code=0
        if [ $code -eq 0 ]; then
            completed=$((completed + 1))
            sed -n 's/^run: //p' "$log" | tail -n 1 >"$state/${names[$job]}.done"
            say "done $(describe "$job") after $took"
        elif [ $stopping -ne 0 ] && [ $code -gt 128 ]; then
            interrupted=$((interrupted + 1))
            say "interrupted $(describe "$job")"
        else
            failed=$((failed + 1)) failures+=("$log")
            say "failed $(describe "$job"), exit code $code: $(tail -n 1 "$log")"
        fi
        ticks=0
    done
done

[ ! -t 2 ] || printf '\r\033[K' >&2
echo "${#jobs[@]} runs in $run_dir: $completed done, $skipped finished before, $failed failed," \
    "$interrupted interrupted, $((${#jobs[@]} - next)) not started"
for log in ${failures[@]+"${failures[@]}"}; do echo "failed: $log"; done
[ $stopping -eq 0 ] || exit $stopping
[ $failed -eq 0 ]
