"""Several hosts: the host file, who runs where, and agents behind a remote shell, here a script on this machine.

The script does what sshd does with the words that ssh joins; a real sshd is used in test_several_hosts.py.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launched import Running, alive, gone, run_job

from msposenet.errors import ConfigError, PeerError
from msposenet.launching.hosts import Host, place_workers, read_hosts
from msposenet.launching.job import SSH, Job, agent_command

SEVERAL = (Host("127.0.0.1", "127.0.0.1"), Host("127.0.0.2", "127.0.0.2", port=2222, user="somebody"))


def _host_file(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "line, host",
    [
        ("10.0.0.1", Host("10.0.0.1", "10.0.0.1")),
        ("10.0.0.1:2222", Host("10.0.0.1", "10.0.0.1", port=2222)),
        ("ann@10.0.0.1", Host("10.0.0.1", "10.0.0.1", user="ann")),
        ("ann.b@10.0.0.1:22   slots=8  # rack 3", Host("10.0.0.1", "10.0.0.1", user="ann.b", port=22, slots=8)),
        ("node-7 address=10.0.0.7 slots=2", Host("node-7", "10.0.0.7", slots=2)),
    ],
)
def test_forms_of_a_host(tmp_path, line, host):
    assert read_hosts(_host_file(tmp_path, f"# a comment\n\n{line}\n  \n")) == (host,)


def test_names_are_resolved(tmp_path):
    assert read_hosts(_host_file(tmp_path, "localhost"))[0].address == "127.0.0.1"


def test_a_host_named_several_times_has_as_many_slots(tmp_path):
    hosts = read_hosts(_host_file(tmp_path, "10.0.0.1\n10.0.0.2\n10.0.0.1\n10.0.0.1\n"))
    assert [(host.name, host.slots) for host in hosts] == [("10.0.0.1", 3), ("10.0.0.2", None)]
    assert place_workers(hosts, 4) == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "names no host"),
        ("# only a comment\n", "names no host"),
        ("10.0.0.1\n-oProxyCommand=x\n", r"line 2: '-oProxyCommand=x' is no host"),
        ("fe80::1\n", r"line 1: 'fe80::1' is no host \(IPv6 is not supported\)"),
        ("10.0.0.1:99999\n", "line 1: port 99999 is not between"),
        ("10.0.0.1:0\n", "line 1: port 0 is not between"),
        ("10.0.0.1 slots=0\n", "line 1: 'slots=0' is not understood"),
        ("10.0.0.1 slots=x\n", "line 1: 'slots=x' is not understood"),
        ("10.0.0.1 cpus=4\n", "line 1: 'cpus=4' is not understood"),
        ("10.0.0.1 address=node\n", "line 1: address=node is no IPv4 address"),
        ("\nno-such-host.invalid\n", "line 2: no IPv4 address is known for 'no-such-host.invalid'"),
        ("10.0.0.1\n127.0.0.1\n", "127.0.0.1 is 127.0.0.1 here, which no other host can reach"),
        ("a b c\n", "line 1: 'b' is not understood"),
    ],
)
def test_host_files_that_cannot_be_used(tmp_path, text, message):
    path = _host_file(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as refused:
        read_hosts(path)
    assert str(path) in str(refused.value)


def test_a_host_file_of_bytes_is_refused(tmp_path):
    path = tmp_path / "hosts"
    path.write_bytes(b"\xff\xfe\x00h")
    with pytest.raises(ConfigError, match="cannot be read as a host file"):
        read_hosts(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=1, max_size=6), st.integers(1, 40))
def test_every_worker_has_a_place(slots, workers):
    hosts = [Host(f"h{index}", "10.0.0.1", slots=count) for index, count in enumerate(slots)]
    if all(count is None for count in slots):
        places = place_workers(hosts, workers)
        counts = [places.count(index) for index in range(len(hosts))]
        assert len(places) == workers
        assert max(counts) - min(counts) <= 1
        assert places[: len(hosts)] == list(range(len(hosts)))[:workers]
    elif workers > sum(count or 1 for count in slots):
        with pytest.raises(ConfigError, match="slots"):
            place_workers(hosts, workers)
    else:
        places = place_workers(hosts, workers)
        assert len(places) == workers
        assert places == sorted(places)
        assert all(places.count(index) <= (count or 1) for index, count in enumerate(slots))


@pytest.mark.parametrize(
    "ssh, host, before",
    [
        (SSH, Host("n1", "10.0.0.1"), [*SSH.split(), "n1"]),
        (SSH, Host("n1", "10.0.0.1", user="ann", port=2222), [*SSH.split(), "-p", "2222", "ann@n1"]),
        ("ssh -i 'my key'", Host("n1", "10.0.0.1"), ["ssh", "-i", "my key", "n1"]),
        ("/usr/bin/ssh -p5 ann@{host}", Host("n1", "10.0.0.1"), ["/usr/bin/ssh", "-p5", "ann@n1"]),
    ],
)
def test_commands_for_a_remote_shell(ssh, host, before):
    job = Job(["x"], 1, 1, hosts=(host,), ssh=ssh, python="/opt/my python/bin/python", cwd="/data/it's here")
    command = agent_command(job, host)
    assert command[:-1] == before
    assert shlex.split(command[-1]) == [
        *("cd", "/data/it's here", "&&", "exec"),
        *("/opt/my python/bin/python", "-m", "msposenet.launching.agent"),
    ]


def test_commands_for_srun():
    job = Job(
        ["x"], 1, 1, hosts=(Host("n1", "10.0.0.1"),), ssh="srun --overlap --nodelist={host}", python="/a b/python"
    )
    words = ["srun", "--overlap", "--nodelist=n1", "/a b/python", "-m", "msposenet.launching.agent"]
    assert agent_command(job, job.hosts[0]) == words


@pytest.mark.parametrize(
    "ssh, host, message",
    [
        (
            "srun -w {host}",
            Host("n1", "10.0.0.1", port=5),
            r"host n1:5: a command with \{host\} in it is given the name",
        ),
        ("ssh {host}", Host("n1", "10.0.0.1", user="ann"), r"host ann@n1: a command with \{host\} in it is given"),
        ("ssh -i 'my key", Host("n1", "10.0.0.1"), "is no command: No closing quotation"),
        ("  ", Host("n1", "10.0.0.1"), "ssh is empty"),
    ],
)
def test_remote_shells_that_cannot_be_used(ssh, host, message):
    with pytest.raises(ConfigError, match=message):
        Job(["x"], 1, 1, hosts=(host,), ssh=ssh)


@pytest.fixture
def remote_shell(tmp_path):
    """`ssh`: greets, forgets the environment and the folder, and hands its joined words to a shell, as ssh does.

    It notes its pid, and refuses while a file says so.
    """
    script = tmp_path / "ssh"
    script.write_text(
        "#!/bin/sh\n"
        f"cd {shlex.quote(str(tmp_path))}\n"
        'echo "Welcome to this host!"\n'
        'while [ "$1" = -p ]; do port=$2; shift 2; done\n'
        "host=$1; shift\n"
        'echo $$ > "pid of $host"\n'
        'echo "$host $port" >> destinations\n'
        '[ -e "down $host" ] && { echo "ssh: connect to host $host: No route to host" >&2; exit 255; }\n'
        "cd /\n"
        'exec env -i PATH="$PATH" HOME=/ sh -c "$*"\n'
    )
    script.chmod(0o755)
    return script


def _options(remote_shell: Path, **options) -> dict:
    project = str(Path(__file__).resolve().parents[1])
    env = {"PYTHONPATH": project, **options.pop("env", {})}
    return {"hosts": SEVERAL, "ssh": shlex.quote(str(remote_shell)), "env": env, **options}


def test_processes_run_on_their_hosts(remote_shell, tmp_path, monkeypatch):
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    monkeypatch.setenv("MXNET_PASSED", "on")
    monkeypatch.setenv("NOT_PASSED", "on")
    script = "print(json.dumps({'cwd': os.getcwd(), **os.environ}))\nif role != 'worker': stay()"
    ended = run_job(script, **_options(remote_shell, servers=2, workers=3, cwd=str(folder), env={"SAID": "a 'b' c"}))
    assert ended.code == 0
    names = ["scheduler", "server 0", "server 1", "worker 0", "worker 1", "worker 2"]
    told = {name: json.loads(ended.of(name)[0]) for name in names}
    nodes = {name: env["DMLC_NODE_HOST"] for name, env in told.items()}
    first, second = (host.address for host in SEVERAL)
    assert nodes == dict(zip(names, (first, first, second, first, second, first)))
    for env in told.values():
        assert env["DMLC_PS_ROOT_URI"] == first
        assert env["cwd"] == str(folder)
        assert env["SAID"] == "a 'b' c"
        assert env["MXNET_PASSED"] == "on"
        assert "NOT_PASSED" not in env
    assert sorted((tmp_path / "destinations").read_text().splitlines()) == ["127.0.0.1 ", "somebody@127.0.0.2 2222"]
    assert "127.0.0.1: scheduler (pid " in ended.told
    assert "127.0.0.2:2222: server 1 (pid " in ended.told


def test_slots_decide_where_workers_run(remote_shell):
    hosts = (Host("127.0.0.1", "127.0.0.1", slots=1), Host("127.0.0.2", "127.0.0.2", slots=2))
    script = "print(os.environ['DMLC_NODE_HOST'], os.environ['CUDA_VISIBLE_DEVICES'])\nif role != 'worker': stay()"
    ended = run_job(script, **_options(remote_shell, hosts=hosts, workers=3, gpus_per_worker=2))
    workers = [ended.of(f"worker {number}")[0] for number in range(3)]
    assert workers == ["127.0.0.1 0,1", "127.0.0.2 0,1", "127.0.0.2 2,3"]


def test_a_starter_that_takes_words(tmp_path):
    """As srun does: no shell, the words as they are, and this environment."""
    python = tmp_path / "my python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    starter = tmp_path / "srun"
    starter.write_text('#!/bin/sh\necho "$1" >> "$0.log"; shift\nexec "$@"\n')
    starter.chmod(0o755)
    template = f"{shlex.quote(str(starter))} --nodelist={{host}}"
    hosts = [Host(host.name, host.address) for host in SEVERAL]
    ended = run_job("if role != 'worker': stay()", hosts=hosts, ssh=template, python=str(python))
    assert ended.code == 0
    log = Path(f"{starter}.log").read_text().splitlines()
    assert sorted(log) == ["--nodelist=127.0.0.1", "--nodelist=127.0.0.2"]


RESUMING = """
print("ready", attempt)
if attempt and role == "worker":
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
stay()
"""


def test_a_lost_connection_ends_the_job_until_the_host_is_back(remote_shell, tmp_path):
    down = tmp_path / "down somebody@127.0.0.2"
    options = _options(remote_shell, grace=0.3)
    options["hosts"] = [list(vars(host).values()) for host in SEVERAL]
    with Running(RESUMING, **options) as job:
        job.until("ready 0", times=4)
        down.touch()
        os.kill(int((tmp_path / "pid of somebody@127.0.0.2").read_text()), signal.SIGKILL)
        job.until("the agent of 127.0.0.2:2222 is gone (signal 9")
        told = job.until("waiting for 127.0.0.2:2222 (")
        assert "No route to host" in told
        assert alive(job.mark) == []
        down.unlink()
        job.until("ready 1")
        assert job.end() == 0


def test_a_host_that_does_not_come_back(remote_shell, tmp_path):
    down = tmp_path / "down somebody@127.0.0.2"
    script = f"if attempt == 0 and me == 'worker 1': open({str(down)!r}, 'w'); sys.exit(9)\nstay()"
    ended = run_job(script, **_options(remote_shell, host_wait=0.5, drain=0.1))
    assert ended.code == 75
    assert "127.0.0.2:2222 did not come back within 0.5 s" in ended.of("launch")[-1]


def test_a_host_that_is_waited_for_can_be_given_up_by_signal(remote_shell, tmp_path):
    down = tmp_path / "down somebody@127.0.0.2"
    options = _options(remote_shell, drain=0.1)
    options["hosts"] = [list(vars(host).values()) for host in SEVERAL]
    script = f"if attempt == 0 and me == 'worker 1': open({str(down)!r}, 'w'); sys.exit(9)\nstay()"
    with Running(script, **options) as job:
        job.until("waiting for 127.0.0.2:2222")
        job.process.send_signal(signal.SIGTERM)
        assert job.end(5) == 143


def test_a_host_that_never_answers_is_an_error_at_the_start(remote_shell, tmp_path):
    (tmp_path / "down somebody@127.0.0.2").touch()
    with pytest.raises(PeerError, match=r"agent of 127.0.0.2:2222 is gone .*No route to host"):
        run_job("stay()", **_options(remote_shell))


def test_a_host_that_hangs_is_an_error_at_the_start(tmp_path):
    hanging = tmp_path / "ssh"
    hanging.write_text("#!/bin/sh\nsleep 60\n")
    hanging.chmod(0o755)
    start = time.monotonic()
    with pytest.raises(PeerError, match=r"127.0.0.1 does not answer"):
        run_job("stay()", hosts=SEVERAL, ssh=str(hanging), connect_wait=0.5)
    assert time.monotonic() - start < 8


def test_a_host_may_take_longer_to_be_reached_than_it_may_be_silent(tmp_path):
    slow = tmp_path / "ssh"
    slow.write_text('#!/bin/sh\nshift\nsleep 4\nexec sh -c "$*"\n')
    slow.chmod(0o755)
    ended = run_job("if role != 'worker': stay()", **_options(slow, hosts=SEVERAL[:1], silence=3))
    assert ended.code == 0
    assert "does not answer" not in ended.told


@pytest.mark.parametrize(
    "options, words",
    [
        ({"cwd": "/no/such/folder"}, "agent of .* is gone .*/no/such/folder.*every host needs"),
        ({"python": "/no/such/python"}, "agent of .* is gone .*/no/such/python.*every host needs"),
    ],
)
def test_a_host_without_the_same_files_is_an_error_at_the_start(remote_shell, options, words):
    with pytest.raises(ConfigError, match=words):
        run_job("stay()", **_options(remote_shell, **options))


def test_a_host_without_msposenet_is_an_error_at_the_start(remote_shell, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=r"No module named .?msposenet.*every host needs the same msposenet"):
        run_job("stay()", **_options(remote_shell, cwd=str(tmp_path), python=str(python), env={"PYTHONPATH": "/"}))


def test_another_version_is_an_error(tmp_path):
    other = tmp_path / "ssh"
    other.write_text('#!/bin/sh\necho \'{"is": "ready", "pid": 1, "host": "x", "version": 0, "cores": 1}\'\ncat\n')
    other.chmod(0o755)
    with pytest.raises(ConfigError, match=r"127.0.0.1 runs another msposenet"):
        run_job("stay()", hosts=SEVERAL[:1], ssh=str(other))


def test_nothing_survives_a_killed_supervisor_of_several_hosts(remote_shell):
    options = _options(remote_shell)
    options["hosts"] = [list(vars(host).values()) for host in SEVERAL]
    with Running(RESUMING, **options) as job:
        job.until("ready 0", times=4)
        job.process.kill()
        assert gone(job.mark, 5.0) == []
