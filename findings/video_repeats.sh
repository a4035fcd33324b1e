#!/usr/bin/env bash
# RecordVideo of a 20 fps task (Ant, HalfCheetah) shows a quarter of an episode's frames twice or not at all.
# Versions: gymnasium 1.4.0, moviepy 2.2.1, imageio 2.38.1, imageio-ffmpeg 0.8.1
# Behaviour: the file is at the task's own rate and one frame short of those rendered, yet moviepy looks up a frame by its time in
#   floating point, and often falls just short of frame i: its predecessor comes again and it is lost. Shown with a task that
#   draws its step number in black and white stripes, so that the video can be read back.
# Seen 2026-11-28:
#   rate 20.0 rendered 1000, in the file 999 repeats 272 lost 273
#   the first repeat: 40 41 42 42 44 45 46 47
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium==1.4.0 moviepy==2.2.1 imageio==2.38.1 imageio-ffmpeg==0.8.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import gymnasium as gym
import imageio
import numpy as np


class Counter(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = action_space = gym.spaces.Box(-1, 1, (1,))
    render_mode = "rgb_array"

    def reset(self, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, False, self.steps == 999, {}

    def render(self):
        bits = self.steps >> np.arange(10) & 1
        return np.repeat(np.tile(np.repeat(bits * 255, 16), (64, 1))[..., None], 3, axis=2).astype(np.uint8)


env = gym.wrappers.RecordVideo(Counter(), "video")
env.reset()
done = False
while not done:
    done = env.step(np.zeros(1, np.float32))[3]
env.close()
reader = imageio.get_reader("video/rl-video-episode-0.mp4")
shown = [int(((frame[32, 8::16, 0] > 127) << np.arange(10)).sum()) for frame in reader]
repeats, lost = sum(a == b for a, b in zip(shown, shown[1:])), 1000 - len(set(shown))
print("rate", reader.get_meta_data()["fps"], "rendered 1000, in the file", len(shown), "repeats", repeats, "lost", lost)
first = next(i for i in range(999) if shown[i] == shown[i + 1])
print("the first repeat:", *shown[first - 2 : first + 6])
assert abs(len(shown) - 1000) <= 1 and 200 < repeats < 350 and 200 < lost < 350
EOF
