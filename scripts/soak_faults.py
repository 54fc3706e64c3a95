"""Let the processes of launched trainings die and hang, and see that every job survives with nothing left behind.

    python scripts/soak_faults.py                        every role, every way to die, 5 times each
    python scripts/soak_faults.py --ways stop            hanging processes
    python scripts/soak_faults.py --clean 20 --roles     20 undisturbed trainings: no alarm, one result
    python scripts/soak_faults.py --cases --roles        divergence, full disks, signals, another number of workers ...

For each role and way one job of 2 workers, a server and the scheduler is started by `msposenet launch`. Each of its
attempts but the last loses a process: while it starts, at a step, in a save, anywhere, in a validation. After each
death everything else of that attempt must be gone within train.step_timeout + 10 s, the others having left with code
75 (after a SIGTERM: 143, servers and scheduler 0, with a checkpoint); the job must start again by itself, end with
code 0, leave no process, and give the weights and optimizer state of an undisturbed run, bit for bit.

The ways: kill is SIGKILL; term SIGTERM; exit is sys.exit(0) or (1), in servers and scheduler before they serve, or
_exit() beside MXNet's loop; exception a RuntimeError, in servers and scheduler before they serve, or SIGABRT, which
is how an exception of MXNet's own that nobody catches ends a process; stop is SIGSTOP.
The last line of the output is JSON; the exit code is 1 when anything fell short.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from job import PATIENCE, STEP_TIMEOUT, TrainingJob, job_config, write_config
from job_cases import CASES

ROLES = ("worker", "server", "scheduler")
WAYS = ("kill", "exception", "exit", "term")
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP, "exception": signal.SIGABRT}
MOMENTS = ("start", "step", "save", "any", "validation")
LIMIT = STEP_TIMEOUT + 10.0
SLACK = 20.0  # seconds waited beyond the limit, to see how late it was
SPARE = 3  # restarts more than deaths: on a busy machine a step may take longer than train.step_timeout
EPOCHS = 3  # of two steps: no death is to find the training done
NAMES = {"worker 0", "worker 1", "server 0", "scheduler"}
LOST, STOPPED, KILLED = 75, 143, -9


def plan_harms(role: str, way: str, repeats: int, rng: random.Random) -> list[dict]:
    """What happens in each attempt but the last. Each loses a step at most, so a later one is always reached."""
    harms = []
    for repeat in range(repeats):
        moment = MOMENTS[repeat % len(MOMENTS)]
        if way == "stop" and moment == "start":
            moment = "step"  # a process that hangs before it has come is found after train.start_timeout
        harm = {
            "victim": f"worker {repeat % 2}" if role == "worker" else f"{role} 0"[: None if role == "server" else -2]
        }
        harm.update(at=moment, nth=rng.randint(1, 2), way=way, act=way, code=repeat % 2, delay=rng.uniform(0.0, 0.5))
        if moment == "any":
            harm["at"], harm["delay"] = "start", rng.uniform(0.0, 20.0)
        elif moment == "start":
            harm["delay"] = rng.uniform(0.0, 4.0)
        if way in ("exception", "exit"):
            inside = role == "worker" and moment != "any"
            if inside:
                harm["moment"] = moment
            elif moment == "start":
                harm["moment"], harm["nth"] = "serve", 1
            elif way == "exit":
                harm["act"] = "exit now"
        if moment == "start":
            harm["nth"] = 1
        harms.append(harm)
    return harms


def strike(job: TrainingJob, attempt: int, harm: dict) -> float | None:
    """Let the victim of an attempt die; returns when (time.time()), None when the job was over before."""
    if "moment" in harm:
        died = job.wait_for("died", attempt=attempt)
        return died and died["time"]
    born = job.wait_for("born", who=harm["victim"], attempt=attempt)
    if born is None:
        return None
    if harm["at"] != "start":
        came = job.wait_for("moment", who="worker 0", attempt=attempt, moment=harm["at"], nth=harm["nth"])
        if came is None:
            return None
    time.sleep(harm["delay"])
    if harm["act"] == "exit now":
        job.act_now(attempt)
        died = job.wait_for("died", seconds=5, attempt=attempt)
        return died and died["time"]
    with contextlib.suppress(ProcessLookupError):
        when = time.time()
        os.kill(born["pid"], SIGNALS[harm["way"]])
        return when
    return None


def where(job: TrainingJob, attempt: int) -> str:
    """The last moment that a worker of an attempt came to."""
    moments = [note for note in job.notes("moment") if note["attempt"] == attempt and note["who"] != "launcher"]
    workers = [note for note in moments if note["who"].startswith("worker")]
    return f"{workers[-1]['moment']} {workers[-1]['nth']}" if workers else "start-up"


def judge(job: TrainingJob, attempt: int, harm: dict, gone: float | None) -> tuple[dict[str, int], list[str]]:
    """The codes of an attempt and what is wrong with them."""
    job.wait_for("born", attempt=attempt + 1, seconds=60)
    codes = job.codes(attempt)
    problems = []
    if gone is None or gone > LIMIT:
        problems.append(f"gone after {gone and round(gone, 1)} s")
    unheard = NAMES - set(codes)
    if unheard:
        problems.append(f"nothing was heard of {', '.join(sorted(unheard))}")
    # Who has not come to the control channel yet when somebody dies hears nothing: the launcher ends it.
    early = where(job, attempt) == "start-up" or not any(
        note["attempt"] == attempt and note["moment"] == "start" for note in job.notes("moment")
    )
    if harm["way"] == "term" and set(codes.values()) == {0}:
        return codes, problems  # asked to stop after the last step: it was done as fast
    for name, code in codes.items():
        if name == harm["victim"] and harm["way"] != "term":
            continue
        if harm["way"] == "term":
            stopped = STOPPED if name.startswith("worker") else 0
            allowed = {stopped, STOPPED, LOST, KILLED, -15} if early else {stopped}
        else:
            allowed = {LOST, KILLED} if early else {LOST}
        if code not in allowed:
            problems.append(f"{name} left with {code}")
    return codes, problems


def run_faults(root: Path, config: Path, role: str, way: str, repeats: int, seed: int, expected: str) -> dict:
    """One job that is hit `repeats` times."""
    harms = plan_harms(role, way, repeats, random.Random(f"{seed} {role} {way}"))
    report: dict = {"role": role, "way": way, "deaths": [], "missed": [], "problems": []}
    options = ("--max-restarts", repeats + SPARE)
    with TrainingJob(root / f"{role}-{way}", config, harms=harms, options=options) as job:
        try:
            for attempt, harm in enumerate(harms):
                died = strike(job, attempt, harm)
                if died is None:
                    # It was done before, or on a busy machine did not get there within train.step_timeout.
                    report["missed"].append(f"attempt {attempt} was over before {harm['at']} {harm['nth']}")
                    continue
                gone = job.seconds_until_gone(died, LIMIT + SLACK, attempt)
                codes, problems = judge(job, attempt, harm, gone)
                death = {"victim": harm["victim"], "at": where(job, attempt), "gone": gone, "codes": codes}
                report["deaths"].append(death)
                report["problems"] += [f"attempt {attempt} ({death['victim']}, {death['at']}): {p}" for p in problems]
            if len(report["deaths"]) < repeats:
                report["problems"].append(f"{len(report['deaths'])} deaths of {repeats}")
            code = job.end()
            if code:
                report["problems"].append(f"the job left with code {code}")
            left = job.left_behind()
            if left:
                report["problems"].append(f"left behind: {left}")
            if job.fingerprint() != expected:
                report["problems"].append("the weights are not those of an undisturbed run")
            report["restarts"] = job.restarts
            report["stalls"] = [line for line in job.lines if "no progress for" in line or "no sign of life" in line]
        except Exception:
            report["problems"].append(traceback.format_exc())
        if report["problems"]:
            report["output"] = job.lines
            report["notes"] = job.notes("moment")[-20:] + job.notes("left")
    return report


def run_clean(root: Path, config: Path, number: int) -> str:
    """An undisturbed training; returns the SHA-256 of what it gives, or what is wrong with it."""
    with TrainingJob(root / f"clean-{number}", config) as job:
        code = job.end()
        codes, left = job.codes(), job.left_behind()
        if code or job.restarts or set(codes.values()) != {0} or left or "error:" in job.told:
            return f"code {code}, {job.restarts} restarts, {codes}, left behind {left}:\n{job.told}"
        return job.fingerprint()


def run_case(root: Path, name: str) -> str | None:
    """A case of job_cases.py; returns what is wrong."""
    try:
        CASES[name](root / name)
    except Exception:
        return traceback.format_exc()
    return None


def table(reports: list[dict]) -> str:
    rows = ["role       way        deaths  restarts  seconds until all were gone  codes of the others"]
    for report in reports:
        times = [death["gone"] for death in report["deaths"] if death["gone"] is not None]
        others = sorted({code for d in report["deaths"] for name, code in d["codes"].items() if name != d["victim"]})
        shown = f"{min(times):.1f} to {max(times):.1f}" if times else "never"
        row = f"{report['role']:<10} {report['way']:<10} {len(report['deaths']):>6}  {report.get('restarts', '-'):>8}"
        rows.append(f"{row}  {shown:<27}  {others}{'  FELL SHORT' if report['problems'] else ''}")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--roles", nargs="*", choices=ROLES, default=ROLES)
    parser.add_argument("--ways", nargs="*", choices=(*WAYS, "stop"), default=WAYS)
    parser.add_argument("--repeats", type=int, default=5, help="deaths for each role and way")
    parser.add_argument("--clean", type=int, default=0, help="undisturbed trainings, which must all give the same")
    parser.add_argument("--cases", nargs="*", choices=tuple(CASES), help="single faults; all when none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--folder", type=Path, help="where to work, and to leave everything (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="file for the whole report")
    options = parser.parse_args()
    started = time.monotonic()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # for SIGABRT
    report: dict = {"seed": options.seed, "step_timeout": STEP_TIMEOUT, "patience": PATIENCE}
    with contextlib.ExitStack() as stack:
        root = (options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        root.mkdir(parents=True, exist_ok=True)
        config = write_config(root / "tiny.yaml", job_config(epochs=EPOCHS))
        pool = stack.enter_context(ThreadPoolExecutor(options.jobs))
        ways = [(role, way) for way in options.ways for role in options.roles]
        count = max(options.clean, 1 if ways else 0)
        clean = []
        for number, found in enumerate(pool.map(lambda n: run_clean(root, config, n), range(count))):
            clean.append(found)
            print(f"clean run {number}: {found}", flush=True)
        faults = []
        work = pool.map(lambda pair: run_faults(root, config, *pair, options.repeats, options.seed, clean[0]), ways)
        for found in work:
            faults.append(found)
            print(table([found]).splitlines()[1], flush=True)
            for problem in found["problems"] + found["missed"]:
                print(f"    {problem}", flush=True)
        names = [] if options.cases is None else options.cases or list(CASES)
        cases = {}
        for name, problem in zip(names, pool.map(lambda name: run_case(root, name), names)):
            cases[name] = problem
            print(f"case {name}: {problem or 'as promised'}", flush=True)
    print(table(faults))
    report.update(clean=clean, faults=faults, cases=cases)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    problems = sum(bool(fault["problems"]) for fault in faults) + sum(problem is not None for problem in cases.values())
    problems += len(set(clean)) > 1 or any("\n" in found for found in clean)
    summary = {"clean": len(clean), "deaths": sum(len(fault["deaths"]) for fault in faults), "cases": len(cases)}
    times = [death["gone"] for fault in faults for death in fault["deaths"] if death["gone"] is not None]
    seconds = round(time.monotonic() - started)
    print(json.dumps({**summary, "slowest_end": max(times, default=None), "problems": problems, "seconds": seconds}))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
