#!/usr/bin/env bash
# One TensorBoard folder of a run that was killed and resumed reads as four different runs, depending on the reader.
# Versions: tensorboard 2.21.0 (tensorboard-data-server 0.7.2), tbparse 0.0.9
# Behaviour: a run logs loss every 10 steps, eval every 40 and debug at 90, and is resumed from step 60 with a START event (what a
#   SummaryWriter's purge_step writes) until 80, without a new eval or debug. EventAccumulator drops what followed step 60 of all tags;
#   the page with the fast loader (the default where it is installed), only of tags that are written again; the page with --load_fast=false
#   nothing, and it goes back in time; tbparse nothing either, but it sorts by step: repeated steps have two values. (' marks the
#   resumed run's points.)
# Seen 2026-11-28:
#   EventAccumulator
#      loss 0 10 20 30 40 50 60' 70' 80'
#      eval 0 40
#      debug
#   load_fast=true
#      loss 0 10 20 30 40 50 60' 70' 80'
#      eval 0 40 80
#      debug 90
#   load_fast=false
#      loss 0 10 20 30 40 50 60 70 80 90 60' 70' 80'
#      eval 0 40 80
#      debug 90
#   tbparse
#      loss 0 10 20 30 40 50 60 60' 70 70' 80 80' 90
#      eval 0 40 80
#      debug 90
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q tensorboard==2.21.0 tensorboard-data-server==0.7.2 tbparse==0.0.9
mkdir "$dir/log"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import json
import time
import urllib.request

from tbparse import SummaryReader
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def write(points, resumed_at=None):
    writer = EventFileWriter("log")
    if resumed_at is not None:
        writer.add_event(Event(wall_time=time.time(), step=resumed_at, session_log=SessionLog(status=SessionLog.START)))
    for tag, step, value in points:
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
    writer.close()


write([("loss", s, 1) for s in range(0, 100, 10)] + [("eval", s, 1) for s in (0, 40, 80)] + [("debug", 90, 1)])
time.sleep(1.1)  # file names have seconds
write([("loss", s, 2) for s in (60, 70, 80)], resumed_at=60)

seen = {}
accumulator = EventAccumulator("log").Reload()
seen["EventAccumulator"] = {t: [(e.step, int(e.value)) for e in accumulator.Scalars(t)] for t in ("loss", "eval", "debug")}
for fast in ("true", "false"):
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", "log", "--load_fast", fast, "--port", "0", "--host", "127.0.0.1"])
    url = board.launch() + "data/plugin/scalars/"
    for _ in range(100):
        if len(json.load(urllib.request.urlopen(url + "tags")).get(".", {})) == 3:
            break
        time.sleep(0.3)
    time.sleep(2)
    seen["load_fast=" + fast] = {
        t: [(s, int(v)) for _, s, v in json.load(urllib.request.urlopen(f"{url}scalars?run=.&tag={t}"))] for t in ("loss", "eval", "debug")
    }
table = SummaryReader("log").scalars
seen["tbparse"] = {t: [(int(s), int(v)) for s, v in table[table.tag == t][["step", "value"]].values] for t in ("loss", "eval", "debug")}
for reader, tags in seen.items():
    print(reader)
    for tag, points in tags.items():
        print("  ", tag, *(f"{s}" if v == 1 else f"{s}'" for s, v in points))

old, new, evals = [(s, 1) for s in range(0, 100, 10)], [(60, 2), (70, 2), (80, 2)], [(0, 1), (40, 1), (80, 1)]
assert seen["EventAccumulator"] == {"loss": old[:6] + new, "eval": evals[:2], "debug": []}
assert seen["load_fast=true"] == {"loss": old[:6] + new, "eval": evals, "debug": [(90, 1)]}
assert seen["load_fast=false"] == {"loss": old + new, "eval": evals, "debug": [(90, 1)]}
assert seen["tbparse"] == {"loss": sorted(old + new), "eval": evals, "debug": [(90, 1)]}
EOF
