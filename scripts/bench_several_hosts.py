"""Holds the throughput model against jobs on real links: hosts in network namespaces, shaped to given rates.

    python scripts/bench_several_hosts.py --rates 100 400 1000

Two hosts with a worker and a server each, reached by ssh (tests/several_hosts.py; needs root, iproute2 and
openssh-server). For each rate `msposenet bench distributed --hostfile ... --rate ...` measures and predicts its steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from namespaces import why_no_namespaces
from several_hosts import network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 400, 1000], help="Mbit/s of each host's link")
    parser.add_argument("--model", default="mshrnet_w16x2_small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    reason = why_no_namespaces()
    if reason:
        sys.exit(f"bench_several_hosts: {reason}")
    found = {}
    print("| Mbit/s | batch a worker | measured ms | model ms | error |\n|---|---|---|---|---|")
    for rate in options.rates:
        figures = measure(rate, options.model, options.rounds)
        found[rate] = figures
        steps = [one for one in figures["comparisons"] if "step" in one["what"] or "batch" in one["what"]]
        for one in steps:
            ms = one["measured"] * 1e3, one["predicted"] * 1e3
            print(f"| {rate} | {one['what']} | {ms[0]:.0f} | {ms[1]:.0f} | {one['error']:+.0%} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found))


def measure(rate: int, model: str, rounds: int) -> dict:
    """The figures of `bench distributed` with two hosts on links of `rate` Mbit/s."""
    with network(2, rate_mbit=rate) as net:
        command = [sys.executable, "-m", "msposenet", "bench", "distributed", "--hostfile", str(net.hostfile)]
        command += ["--ssh", net.ssh_text, "--rate", str(rate / 1000), "--one-machine", "--workers", "2"]
        command += ["--model", model, "--batch", "4", "--rounds", str(rounds), "--steps", "2", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)


if __name__ == "__main__":
    main()
