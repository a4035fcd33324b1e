"""Forks of the scripts for ablations that have no flag, because nobody should train with them.

    python scripts/forks.py                          # all forks into runs/forks/
    python runs/forks/sac_flow_t_post_norm.py --env-id HalfCheetah-v4

    sac_flow_{g,t}_no_log_std    path density without its -log(sigma sqrt(dt)), as the authors' Flow-T computes it: no
                                 term asks for more noise, tanh's Jacobian for less
    sac_flow_{g,t,naive}_last_step   entropy of the last step alone, given A_{K-1}: a lower bound of the action's
                                 entropy, as the path's is not; with --target-entropy -d and --alpha 0.2, the Gaussian's
    sac_flow_naive_gaussian      the same from A_0 = 0: with --sampling-steps 1 the tanh-Gaussian of sac_gaussian.py
    sac_{gaussian,flow_g,flow_t,flow_naive}_renorm   BatchRenorm's corrections on the actor's observation from the first
                                 update on, not after 100 000: the actor is trained on about what it acts with
    {sac_flow_g,sac_flow_t,sac_flow_naive,qc_fql}_no_experience   of offline_to_online: updates draw from the dataset
                                 alone, online as well, so that the difference from the script is what experience is
                                 worth; plot.py online shows it of runs with --exp-name o2o_SCRIPT-no_experience
    sac_flow_t_post_norm         LayerNorm behind every residual sum, as the authors' Flow-T has it, not before

Each is its script with the lines below replaced, and runs alone like it.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NO_LOG_STD = [("return gaussian - step_scale - self.log_det(path[-1])", "return gaussian - self.log_det(path[-1])")]
LAST_STEP = [
    (
        "gaussian = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(dim=(0, 2))",
        "gaussian = -0.5 * (noise[-1].square() + math.log(2 * math.pi)).sum(-1)",
    ),
    (
        "step_scale = sum(log_stds).sum(-1) - 0.5 * self.K * self.action_dim * math.log(self.K)",
        "step_scale = log_stds[-1].sum(-1) - 0.5 * self.action_dim * math.log(self.K)",
    ),
]
GAUSSIAN = [*LAST_STEP, ("path, log_stds = [noise[0]], []", "path, log_stds = [noise[0] * 0], []")]
POST_NORM = [
    (
        "z = torch.addmm(z + attended_state, self.norm_self(z), self_weight)",
        "z = self.norm_self(torch.addmm(z + attended_state, z, self_weight))",
    ),
    (
        "return z + self.narrow(F.gelu(self.widen(self.norm_feed_forward(z))))",
        "return self.norm_feed_forward(z + self.narrow(F.gelu(self.widen(z))))",
    ),
    ("self.norm, self.head = nn.LayerNorm(d, eps=1e-6), ", "self.norm, self.head = nn.Identity(), "),
]
RENORM = [("BatchRenorm(obs_dim, args.renorm_warmup) if", "BatchRenorm(obs_dim, 0) if")]
NO_EXPERIENCE = [
    (
        "        self.fingerprint = [",
        "        self.kept = self.rows[-self.offline :].clone()\n        self.fingerprint = [",
    ),
    ("stored = min(self.offline + self.count, len(self.rows))", "stored = self.offline"),
    ("torch.arange(length, device=start.device) + self.count - stored", "torch.arange(length, device=start.device)"),
    ("self.rows.index_select(0, drawn)", "self.kept.index_select(0, drawn)"),
]
FORKS = {
    "sac_flow_g_no_log_std": ("sac_flow_g.py", NO_LOG_STD),
    "sac_flow_t_no_log_std": ("sac_flow_t.py", NO_LOG_STD),
    "sac_flow_g_last_step": ("sac_flow_g.py", LAST_STEP),
    "sac_flow_t_last_step": ("sac_flow_t.py", LAST_STEP),
    "sac_flow_naive_last_step": ("sac_flow_naive.py", LAST_STEP),
    "sac_flow_naive_gaussian": ("sac_flow_naive.py", GAUSSIAN),
    "sac_flow_t_post_norm": ("sac_flow_t.py", POST_NORM),
}
for policy in ("gaussian", "flow_g", "flow_t", "flow_naive"):
    FORKS[f"sac_{policy}_renorm"] = f"sac_{policy}.py", RENORM
for name in ("sac_flow_g", "sac_flow_t", "sac_flow_naive", "qc_fql"):
    FORKS[f"{name}_no_experience"] = f"offline_to_online/{name}.py", NO_EXPERIENCE


def fork(name: str) -> str:
    """The text of a fork; ValueError if its script no longer has a line that it replaces, or has it twice."""
    source, replacements = FORKS[name]
    text = (ROOT / source).read_text()
    for old, new in replacements:
        if text.count(old) != 1:
            raise ValueError(f"{source} has {text.count(old)} times: {old}")
        text = text.replace(old, new)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "forks")
    args = parser.parse_args()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for name in FORKS:
            (args.out / f"{name}.py").write_text(fork(name))
            print(args.out / f"{name}.py")
    except OSError as error:
        parser.error(f"--out {args.out}: {error.strerror}; choose a folder that can be written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
