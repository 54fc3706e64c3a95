"""The launcher with real processes: what a job is told, how it may end, and that nothing of it is ever left."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time

import pytest
from launched import Running, alive, come, gone, run_job
from runner import cli_runner
from typer import Typer

from msposenet.cli import launch
from msposenet.cores import physical_cores
from msposenet.errors import ConfigError
from msposenet.launching.attempt import Stop
from msposenet.launching.output import prefixed

# Children like a data loader's: one in the group of its parent, one in a session of its own.
WITH_CHILDREN = """
subprocess.Popen(["sleep", "60"])
subprocess.Popen(["sleep", "60"], start_new_session=True)
"""

STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WITH_CHILDREN

WAYS_TO_DIE = {
    "kill -9": ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    "exception": ("raise RuntimeError('lost')", "left with code 1"),
    "sys.exit": ("sys.exit(7)", "left with code 7"),
    "SIGTERM": ("signal.signal(15, signal.SIG_DFL); os.kill(os.getpid(), 15)", "was ended by SIGTERM"),
}


def test_every_process_is_told_what_launch_py_tells():
    shown = "print(json.dumps({'argv': sys.argv[1:], 'cwd': os.getcwd(), **os.environ}))"
    ended = run_job(shown + "\nif role != 'worker': stay()", servers=2, env={"SEEN": "a b"})
    assert ended.code == 0
    told = {
        name: json.loads(ended.of(name)[0]) for name in ("scheduler", "server 0", "server 1", "worker 0", "worker 1")
    }
    shared = {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_NUM_WORKER": "2",
        "DMLC_NUM_SERVER": "2",
        "MSPOSENET_ATTEMPT": "0",
        "MSPOSENET_SUPERVISED": "1",
        "PYTHONUNBUFFERED": "1",
        "SEEN": "a b",
        "cwd": os.getcwd(),
        "argv": [],
    }
    for name, env in told.items():
        role, _, number = name.partition(" ")
        assert {**env, **shared, "DMLC_ROLE": role} == env
        assert env.get("DMLC_TASK_ID", "") == number
        assert env.get("DMLC_WORKER_ID") == (number if role == "worker" else None)
        assert env.get("DMLC_SERVER_ID") == (number if role == "server" else None)
    ports = {(env["DMLC_PS_ROOT_PORT"], env["MSPOSENET_CONTROL_PORT"]) for env in told.values()}
    assert len(ports) == 1
    assert len(set(ports.pop())) == 2


def test_threads_share_the_cores_unless_the_user_says(monkeypatch):
    script = "print(os.environ['OMP_NUM_THREADS'])\nif role != 'worker': stay()"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ended = run_job(script)
    assert ended.of("worker 0") == ended.of("worker 1") == [str(max(1, physical_cores() // 2))]
    assert ended.of("scheduler") == ended.of("server 0") == ["1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert run_job(script).of("scheduler") == ["3"]
    assert run_job(script, env={"OMP_NUM_THREADS": "5"}).of("worker 1") == ["5"]


@pytest.mark.parametrize(
    "visible, shown",
    [
        (None, ["", "", "0,1", "2,3"]),
        ("4,5,6,7", ["", "", "4,5", "6,7"]),
        ("GPU-a,GPU-b,1,2", ["", "", "GPU-a,GPU-b", "1,2"]),
    ],
)
def test_gpus_are_dealt_out_by_the_place_on_the_host(monkeypatch, visible, shown):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    script = "print(os.environ['CUDA_VISIBLE_DEVICES'])\nif role != 'worker': stay()"
    ended = run_job(script, gpus_per_worker=2)
    assert [ended.of(name)[0] for name in ("scheduler", "server 0", "worker 0", "worker 1")] == shown


def test_too_few_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(ConfigError, match=r"worker 1 .*GPUs 2 to 3 are wanted, CUDA_VISIBLE_DEVICES here is '0,1,2'"):
        run_job("stay()", gpus_per_worker=2)


@pytest.mark.parametrize(
    ("way", "victim"),
    [
        ("kill -9", "worker 1"),
        ("kill -9", "server 0"),
        ("exception", "worker 1"),
        ("sys.exit", "scheduler 0"),
        ("SIGTERM", "server 0"),
        pytest.param("exception", "server 0", marks=pytest.mark.thorough),
        pytest.param("sys.exit", "worker 1", marks=pytest.mark.thorough),
        pytest.param("sys.exit", "server 0", marks=pytest.mark.thorough),
        pytest.param("SIGTERM", "worker 1", marks=pytest.mark.thorough),
        *(pytest.param(way, "scheduler 0", marks=pytest.mark.thorough) for way in ("kill -9", "exception", "SIGTERM")),
    ],
)
def test_a_lost_process_restarts_the_job(victim, way):
    die, told = WAYS_TO_DIE[way]
    script = f"""
if not attempt: exec({STUBBORN!r})
if me == {victim!r} and not attempt:
    time.sleep(0.2)
    {die}
if role == "worker" and attempt:
    print("goes on with", sys.argv[1:], "attempt", attempt)
    sys.exit()
stay()
"""
    ended = run_job(script, drain=0.2)
    assert ended.code == 0
    assert f"{victim.replace('scheduler 0', 'scheduler')} {told} after " in ended.told
    for worker in ("worker 0", "worker 1"):
        assert ended.of(worker)[-1] == "goes on with ['--auto-resume'] attempt 1"
    assert ended.told.count("restart 1 of 3") == 1


@pytest.mark.parametrize("role", ["server", "scheduler"])
def test_a_server_that_leaves_early_is_a_loss(role):
    ended = run_job(f"if role == {role!r}: sys.exit()\nstay()", max_restarts=0, drain=0.1, settle=0.2)
    assert ended.code == 75
    assert "left while workers were running" in ended.told


def test_a_server_may_hear_of_the_end_before_the_last_worker_is_out():
    ended = run_job("if role == 'worker': time.sleep(0.3 + 0.3 * number)")
    assert ended.code == 0
    assert "left" not in ended.told


def test_a_worker_that_is_done_does_not_hurry_the_others():
    ended = run_job("if me != 'worker 0': time.sleep(1.2 if role == 'worker' else 60)", settle=0.2, drain=0.1)
    assert ended.code == 0
    assert "lost" not in ended.told and "restart" not in ended.told


def test_what_servers_do_after_the_workers_is_told_only():
    abort = "time.sleep(0.7); resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()"
    ended = run_job(f"if role != 'worker': stay()\nif role == 'server': {abort}")
    assert ended.code == 0
    assert "server 0 was ended by SIGABRT, after the workers were done" in ended.told


def test_a_job_that_was_told_to_stop_has_time_for_its_checkpoint():
    """By somebody who signalled one of its processes: there is a checkpoint, and the job goes on from it."""
    script = """
if attempt or role != "worker":
    stay() if role != "worker" else sys.exit()
if me == "worker 1":
    sys.exit(143)
time.sleep(0.6)
print("checkpoint")
sys.exit(143)
"""
    ended = run_job(script, drain=0.1)
    assert ended.code == 0
    assert ended.of("worker 0") == ["checkpoint"]
    assert "worker 1 left with code 143 (stopped)" in ended.told


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_no_restart_mends_ends_the_job(code):
    ended = run_job(f"time.sleep(0.1)\nif me == 'worker 1': sys.exit({code})\ntime.sleep(0.2); sys.exit(75)")
    assert ended.code == code
    assert f"worker 1 left with code {code}" in ended.told
    assert "restart 1" not in ended.told


@pytest.mark.parametrize("code, kept", [(3, True), (1, False)])
def test_a_survivors_75_is_never_the_cause(code, kept):
    """The survivor's report comes first here, as it may from another host."""
    script = f"if me == 'worker 0': sys.exit(75)\nif me == 'worker 1': time.sleep(0.3); sys.exit({code})\nstay()"
    ended = run_job(script, max_restarts=0, drain=10)
    assert ended.code == (code if kept else 75)
    assert f"worker 1 left with code {code}" in ended.told.splitlines()[-1]


def test_restarts_are_counted_and_given_up():
    ended = run_job("if me == 'worker 0': sys.exit(9)\nstay()", max_restarts=2, drain=0.0)
    assert ended.code == 75
    assert ended.told.count("worker 0 left with code 9 after") == 3
    assert ended.of("launch")[-1] == "gave up after 2 restarts; the last time worker 0 left with code 9"


def test_pauses_grow():
    ended = run_job("sys.exit(9)", workers=1, max_restarts=3, first_pause=0.05)
    assert [line for line in ended.of("launch") if line.startswith("restart")] == [
        "restart 1 of 3 in 0.05 s",
        "restart 2 of 3 in 0.1 s",
        "restart 3 of 3 in 0.2 s",
    ]


def test_nothing_is_added_to_a_command_that_knows_no_resuming():
    script = "print(sys.argv[1:])\nif not attempt: sys.exit(9)\nif role != 'worker': stay()"
    assert run_job(script, resume_flag="").of("worker 0") == ["[]", "[]"]


def test_a_finished_job_leaves_no_daemon_behind():
    ended = run_job(
        WITH_CHILDREN + "if role != 'worker': signal.signal(15, signal.SIG_IGN); time.sleep(60)", settle=0.5, grace=0.2
    )
    assert ended.code == 0


CHECKPOINTING = """
def stop(number, frame):
    time.sleep(0.3)
    print("checkpoint")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("ready")
stay()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on_and_end_the_job(number):
    with Running(WITH_CHILDREN + CHECKPOINTING) as job:
        job.until("ready", times=4)
        job.process.send_signal(number)
        assert job.end() == 143
        assert sum("checkpoint" in line and "launch" not in line for line in job.lines) == 4
        assert "restart" not in "\n".join(job.lines)


def test_a_checkpoint_that_cannot_be_written_is_told_by_the_code():
    script = "signal.signal(15, lambda *_: sys.exit(4 if me == 'worker 0' else 143))\nprint('ready')\nstay()"
    with Running(script) as job:
        job.until("ready", times=4)
        job.process.send_signal(signal.SIGTERM)
        assert job.end() == 4


def test_who_does_not_stop_in_time_is_killed():
    with Running(STUBBORN + "print('ready')\nstay()", grace=0.5) as job:
        job.until("ready", times=4)
        job.process.send_signal(signal.SIGTERM)
        assert job.end() == 143
        assert any("killing scheduler, server 0, worker 0, worker 1" in line for line in job.lines)


def test_a_second_interrupt_kills_at_once():
    with Running(STUBBORN + "print('ready')\nstay()", grace=50) as job:
        job.until("ready", times=4)
        job.process.send_signal(signal.SIGINT)
        job.until("SIGINT: asking")
        time.sleep(0.6)
        assert len(come(job.mark, 12)) == 12
        job.process.send_signal(signal.SIGINT)
        assert job.end(10) == 143


@pytest.mark.parametrize(
    "asked, at_once",
    [
        ([(signal.SIGINT, 0.0)], False),
        ([(signal.SIGINT, 0.0), (signal.SIGINT, 0.4)], False),  # from a wrapper that hands it on: the same one
        ([(signal.SIGINT, 0.0), (signal.SIGINT, 0.4), (signal.SIGINT, 0.6)], True),
        ([(signal.SIGTERM, 0.0), (signal.SIGTERM, 9.0), (signal.SIGINT, 9.9)], False),
    ],
)
def test_only_an_interrupt_after_an_interrupt_kills(asked, at_once):
    stop = Stop()
    for number, when in asked:
        stop.ask(number, when)
    assert (stop.number, stop.at_once) == (asked[0][0], at_once)


def test_a_signal_between_two_attempts_ends_the_job():
    with Running("sys.exit(9)", first_pause=30) as job:
        job.until("restart 1 of 3")
        job.process.send_signal(signal.SIGTERM)
        assert job.end(10) == 143


def test_a_signalled_agent_stops_the_job():
    """Slurm signals the agents of a cancelled job, and nobody else."""
    with Running(CHECKPOINTING) as job:
        job.until("ready", times=4)
        os.kill(job.agents()[0], signal.SIGTERM)
        assert job.end() == 143
        assert sum("checkpoint" in line and "launch" not in line for line in job.lines) == 4


def test_nothing_survives_a_killed_supervisor():
    with Running(STUBBORN + "print('ready')\nstay()") as job:
        job.until("ready", times=4)
        assert len(come(job.mark, 12)) == 12
        agents = job.agents()
        job.process.kill()
        assert gone(job.mark, 10.0) == []
        deadline = time.monotonic() + 2
        while any(os.path.exists(f"/proc/{pid}/exe") for pid in agents) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(os.path.exists(f"/proc/{pid}/exe") for pid in agents)


def test_nothing_survives_a_supervisor_that_says_nothing():
    with Running(STUBBORN + "print('ready')\nstay()", silence=2.5) as job:
        job.until("ready", times=4)
        job.process.send_signal(signal.SIGSTOP)
        assert gone(job.mark, 12.0) == []


@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1)], ids=["warden", "agent", "both"])
def test_a_killed_agent_takes_its_processes_along_and_the_job_restarts(victims):
    script = f"""
if not attempt: exec({STUBBORN!r})
print("ready", attempt, os.getpid())
if attempt and role == "worker": sys.exit()
stay()
"""
    with Running(script) as job:
        job.until("ready 0", times=4)
        first = come(job.mark, 12)
        assert len(first) == 12
        agents = job.agents()
        for victim in victims:
            os.kill(agents[victim], signal.SIGKILL)
        job.until("ready 1")
        assert not set(first) & set(alive(job.mark))
        assert job.end() == 0
        assert any("the agent of this machine is gone" in line for line in job.lines)


def test_nothing_survives_killed_agents_of_a_job_that_is_not_restarted():
    """Nobody is left to adopt the daemons: the mark in their environment finds them."""
    with Running(STUBBORN + "print('ready')\nstay()", max_restarts=0) as job:
        job.until("ready", times=4)
        for agent in job.agents():
            os.kill(agent, signal.SIGKILL)
        assert job.end() == 75


def test_no_process_survives_when_supervisor_and_agents_are_killed_together():
    with Running("print('ready')\nstay()") as job:
        job.until("ready", times=4)
        together = (*job.agents(), job.process.pid)
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none of them can act in between
            for pid in together:
                os.kill(pid, number)
        assert gone(job.mark, 5.0) == []


def test_an_agent_that_hangs_is_given_up():
    script = "print('ready', attempt)\nif attempt and role == 'worker': sys.exit()\nstay()"
    with Running(script, silence=3) as job:
        job.until("ready 0", times=4)
        os.kill(job.agents()[1], signal.SIGSTOP)
        job.until("host this machine does not answer (no word for 3 s)")
        assert job.end() == 0


def test_a_flood_of_output_comes_through_whole():
    ended = run_job("if role == 'worker':\n  for i in range(50000): print('line', i)\nelse: stay()", workers=2)
    expected = [f"line {i}" for i in range(50000)]
    assert ended.of("worker 0") == expected
    assert ended.of("worker 1") == expected


def test_a_stopped_terminal_holds_up_the_output_and_nothing_else():
    script = "if role != 'worker': stay(); sys.exit()\nfor i in range(60000): print('x' * 40)"
    with Running(script, silence=3) as job:
        job.until("xxx")
        time.sleep(4.5)  # nobody reads meanwhile
        assert len(alive(job.mark)) == 4
        assert job.end() == 0
        assert sum(line.endswith("] " + "x" * 40) for line in job.lines) == 120000


def test_a_log_nobody_reads_any_more_does_not_end_the_job():
    with Running("if role == 'worker':\n  for i in range(20): print('line'); time.sleep(0.05)\nelse: stay()") as job:
        job.until("line")
        job.process.stdout.close()
        assert job.process.wait(15) == 0


def test_output_without_final_newline_is_printed():
    ended = run_job("sys.stdout.write('half a line'); sys.stdout.flush()\nif role != 'worker': stay()")
    assert ended.of("worker 1") == ["half a line"]


def test_output_and_errors_come_in_their_order():
    ended = run_job("if role != 'worker': stay()\nfor i in range(3): print(i); sys.stderr.write(f'e{i}\\n')")
    assert ended.of("worker 0") == ["0", "e0", "1", "e1", "2", "e2"]


def test_the_start_line_names_the_pids():
    ended = run_job("print(os.getpid())\nif role != 'worker': stay()", workers=1)
    pids = {name: ended.of(name)[0] for name in ("scheduler", "server 0", "worker 0")}
    assert "this machine: " + ", ".join(f"{name} (pid {pid})" for name, pid in pids.items()) in ended.told


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {"cwd": "/no/such/folder"},
            r"scheduler cannot be started on this machine: there is no folder /no/such/folder",
        ),
        ({"python": "/no/such/python"}, r"'/no/such/python' cannot be started"),
        ({"python": "/bin/false"}, r"the agent of this machine is gone \(exit code 1\)"),
        ({"workers": 0}, r"workers = 0: give 1 or more"),
        ({"servers": 0}, r"servers = 0: give 1 or more"),
        ({"env": {"DMLC_ROLE": "worker"}}, r"DMLC_ROLE is set for each process"),
        ({"env": {"A-B": "x"}}, r"'A-B' cannot be the name"),
        ({"env": {"CUDA_VISIBLE_DEVICES": "0"}, "gpus_per_worker": 1}, r"CUDA_VISIBLE_DEVICES is set for each"),
    ],
)
def test_what_cannot_be_started_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        run_job("stay()", **options)


def test_handlers_of_the_caller_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    run_job("if role != 'worker': stay()", workers=1)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


class _Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_prefixes_are_coloured_by_process_on_a_terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = _Terminal()
    out = prefixed(terminal)
    for name in ("worker 0", "worker 1", "worker 0", "launch"):
        out(name, "text")
    assert terminal.text.splitlines() == [
        "\033[36m[worker 0]\033[0m text",
        "\033[33m[worker 1]\033[0m text",
        "\033[36m[worker 0]\033[0m text",
        "\033[1m[launch]\033[0m text",
    ]
    monkeypatch.setenv("NO_COLOR", "1")
    prefixed(terminal)("worker 2", "plain")
    assert terminal.text.endswith("\n[worker 2] plain\n")


def test_a_log_that_is_not_utf8_gets_escapes_and_goes_on():
    written = io.BytesIO()
    out = prefixed(io.TextIOWrapper(written, encoding="latin-1"))
    for line in ("1 → 2 in 5 µs", "\udcff", "end"):
        out("launch", line)
    assert written.getvalue() == b"[launch] 1 \\u2192 2 in 5 \xb5s\n[launch] \\udcff\n[launch] end\n"


def _command_line(*words: str):
    app = Typer()
    app.command(context_settings={"allow_interspersed_args": False})(launch.launch)
    return cli_runner().invoke(app, words)


def test_the_command_line_runs_train_and_nothing_else(tmp_path):
    """The interpreter of the job is a script here, that shows what it would run."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$2" = msposenet.launching.agent ] && exec {sys.executable} "$@"\n'
        'echo "$DMLC_ROLE: $*, $A, $B"\n[ $DMLC_ROLE = worker ] || exec sleep 0.5\n'
    )
    python.chmod(0o755)
    os.environ["B"] = "from here"
    try:
        options = ("-n", "1", "--python", str(python), "--env", "A=1=2", "--env", "B", "--grace", "1")
        ended = _command_line(*options, "--", "train", "c.yaml", "--set", "train.base_lr=1", "-n", "3")
    finally:
        del os.environ["B"]
    assert ended.exit_code == 0, ended.output
    assert "[worker 0] worker: -m msposenet train c.yaml --set train.base_lr=1 -n 3, 1=2, from here\n" in ended.stdout


@pytest.mark.parametrize(
    "words, message",
    [
        (("-n", "1", "--", "eval", "c.yaml"), "launch -- eval: launch runs `train` only"),
        (("-n", "1", "--env", "NOT_SET_HERE", "--", "train", "c.yaml"), "--env NOT_SET_HERE: NOT_SET_HERE is not set"),
        (("-n", "1", "-H", "/no/such/file", "--", "train", "c.yaml"), "/no/such/file: cannot be read as a host file"),
    ],
)
def test_command_lines_that_cannot_be_used(words, message):
    ended = _command_line(*words)
    assert isinstance(ended.exception, ConfigError)
    assert message in str(ended.exception)
