"""Stages are started, watched, restarted alone and ended; nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dni.distributed.launch import StageFailed, launch, main
from tests.distributed.processes import listening

TOLD = (  # how a script tells a test what it found
    "import json, os, signal, sys, time\n"
    "def tell(**said):\n"
    "    with open(f'{os.environ[\"DNI_STATUS\"]}.new', 'w') as file:\n"
    "        json.dump({'agent': os.getppid(), **said}, file)\n"
    "    os.replace(file.name, os.environ['DNI_STATUS'])\n"
    "stage, life = int(os.environ['DNI_STAGE']), int(os.environ['DNI_LIFE'])\n"
)


@pytest.fixture
def script(tmp_path):
    def written(text, name="script.py"):
        path = tmp_path / name
        path.write_text(TOLD + textwrap.dedent(text))
        return str(path)

    return written


def alive(pid):
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return Path("/proc").exists() is False
    except ProcessLookupError:
        return False
    return state != "Z"


def gone(pids, within=10.0):
    end = time.monotonic() + within
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def test_stages_know_what_they_are(script, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    path = script("""
        import atexit, helper, threading, torch
        threading.Timer(0.1, lambda: atexit.register(print, "left")).start()
        from torch.distributed import FileStore
        from urllib.parse import urlparse
        store = FileStore(urlparse(os.environ["DNI_STORE"]).path, -1)
        store.set(f"from {stage}", str(stage))
        assert store.get(f"from {1 - stage}") == b"%d" % (1 - stage)
        threads = os.environ["OMP_NUM_THREADS"]
        assert torch.get_num_threads() == int(threads)
        assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)
        print("stage", stage, "of", os.environ["DNI_STAGES"], "life", life, sys.argv[1:], __name__)
        print("no end of a line, and an error", end="", file=sys.stderr)
        if stage:
            sys.stderr.flush()
            os._exit(0)
    """)
    (tmp_path / "helper.py").write_text("")
    logs = tmp_path / "logs"
    assert main(["--stages", "2", "--log-dir", str(logs), path, "--lr", "1", "-m"]) == 0
    said = capsys.readouterr()
    for stage in (0, 1):
        line = f"stage {stage} of 2 life 1 ['--lr', '1', '-m'] __main__\n"
        assert f"[stage {stage}] {line}" in said.out
        assert f"[stage {stage}] no end of a line, and an error\n" in said.err
        assert (logs / f"stage{stage}.out").read_text() == line + ("" if stage else "left\n")


def test_a_module_whose_peer_is_another_one_is_not_tried_again(
    script, tmp_path, capsys, monkeypatch
):
    script("""
        from dni.distributed import WireError
        print(__spec__.name, sys.argv[1:], life)
        raise WireError("another model, " * 2)
    """, name="trainer.py")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageFailed, match="stage 0 raised WireError at .* in life 1") as failed:
        launch(["trainer", "7"], 1, module=True)
    assert str(failed.value).endswith("WireError: another model, another model,")
    assert "worker.py" not in str(failed.value)  # a traceback starts in the script
    assert capsys.readouterr().out == "trainer ['7'] 1\n"


def test_a_killed_and_a_stopped_stage_are_replaced_alone_and_none_listens(
    script, tmp_path, capsys, monkeypatch
):
    end = tmp_path / "end"
    path = script("""
        import subprocess
        child = subprocess.Popen(["sleep", "60"])
        tell(child=child.pid)
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
    """)
    seen, last = {}, {}

    def watch(view):
        lives = {stage: status.get("life") for stage, status in view.items() if "child" in status}
        if lives != last and len(lives) == 2:
            last.update(lives)
            for stage, status in view.items():
                seen.setdefault(stage, []).append(dict(status))
                assert not listening(status["pid"])
                assert not listening(status["agent"])
            how = {1: signal.SIGKILL, 2: signal.SIGSTOP}.get(lives[1])
            if how is None:
                end.touch()
            else:
                time.sleep(0.1)
                os.kill(view[1]["pid"], how)

    launch([path, str(end)], 2, silence=1.0, watch=watch)
    assert [status["life"] for status in seen[1]] == [1, 2, 3]
    assert len({status["pid"] for status in seen[1]}) == 3
    assert {(status["life"], status["pid"]) for status in seen[0]} == {(1, seen[0][0]["pid"])}
    told = capsys.readouterr().err
    assert "stage 1 was killed by SIGKILL at" in told
    assert "restarting (1 of 3)" in told
    assert "stage 1 was silent for 1 s and was killed at" in told
    assert gone(status[who] for stage in seen for status in seen[stage] for who in ("pid", "child"))


def test_a_script_that_leaves_in_the_middle_is_named(script):
    path = script("""
        tell(clock=7, done=False)
    """)
    with pytest.raises(StageFailed, match=r"stage 0 ended before its train\(\) was through"):
        launch([path], 1)


@pytest.mark.parametrize("line", ["prnt(3)", "import no_such_module", "def f(:"])
def test_a_slip_of_the_pen_is_not_tried_again(script, line, capsys):
    with pytest.raises(StageFailed, match=r"stage 0 raised \w+ at .* in life 1"):
        launch([script(line)], 1)
    assert "restarting" not in capsys.readouterr().err


def test_a_listener_would_be_seen():
    before = len(listening(os.getpid()))
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening(os.getpid())) == before + 1


def test_the_first_cause_comes_first_and_the_others_end(script, capsys):
    path = script("""
        def stop(*_):
            raise OSError("no room for a checkpoint")

        def a_loss_that_is_none():
            raise ValueError("expected a loss")

        if stage == 0:
            signal.signal(signal.SIGTERM, stop)
            tell(ready=True)
            time.sleep(60)
        while not os.path.exists(os.environ["DNI_STATUS"].replace("stage1", "stage0")):
            time.sleep(0.01)
        tell(waited=True)
        time.sleep(0.5)
        a_loss_that_is_none()
    """)
    pids = set()
    with pytest.raises(StageFailed) as failed:
        launch([path], 2, max_restarts=1, watch=lambda view: pids.update(
            status["pid"] for status in view.values() if status))  # fmt: skip
    text = str(failed.value)
    assert text.startswith("dni.distributed.launch: stage 1 raised ValueError at")
    assert "in a_loss_that_is_none" in text
    assert "Then stage 0 raised OSError" in text
    assert text.index("expected a loss") < text.index("no room for a checkpoint")
    assert "stage 1 raised ValueError" in capsys.readouterr().err
    assert len(pids) == 3
    assert gone(pids)


def test_who_asks_to_stop_waits_for_the_checkpoint(script, tmp_path, capsys):
    path = script("""
        def stop(*_):
            time.sleep(0.3)
            print("saved")
            sys.exit(0)

        signal.signal(signal.SIGTERM, stop)
        tell(ready=True)
        time.sleep(60)
    """)

    def watch(view):
        if all("ready" in status for status in view.values()):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    launch([path], 2, watch=watch)
    assert capsys.readouterr().out.count("saved") == 2
    assert signal.getsignal(signal.SIGTERM) == before


def test_nothing_outlives_the_launcher_or_an_agent(script, tmp_path):
    path = script("""
        def stop(*_):
            open(sys.argv[1] + str(stage), "w").close()
            sys.exit(0)

        signal.signal(signal.SIGTERM, stop)
        print("ready", stage, os.getpid(), os.getppid())
        time.sleep(60)
    """)
    command = [sys.executable, "-m", "dni.distributed.launch", "--stages", "2", path]
    launcher = subprocess.Popen(
        [*command, str(tmp_path / "saved")],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    lines = [launcher.stdout.readline().split() for _ in range(2)]
    workers = {int(words[-3]): int(words[-2]) for words in lines}
    agents = {int(words[-3]): int(words[-1]) for words in lines}
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    assert gone([*workers.values(), *agents.values()])
    assert (tmp_path / "saved0").exists()  # each could end in order
    assert (tmp_path / "saved1").exists()


def test_a_stage_whose_agent_died_ends(script):
    path = script("tell(ready=True)\ntime.sleep(60)")
    pids = []

    def watch(view):
        with pytest.raises(TypeError):
            view[0]["life"] = 3  # it is to be read
        if "agent" in view[0] and not pids:
            pids.extend([view[0]["pid"], view[0]["agent"]])
            os.kill(view[0]["agent"], signal.SIGKILL)

    with pytest.raises(StageFailed, match=r"stage 0 lost its agent \(exit code -9\)"):
        launch([path], 1, watch=watch)
    assert gone(pids)


def test_an_error_of_who_watches_ends_the_agents(monkeypatch):
    agents = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            agents.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    with pytest.raises(ZeroDivisionError):
        launch([__file__], 2, watch=lambda view: 1 / 0)
    assert [agent.returncode for agent in agents] == [-signal.SIGTERM] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stages": 0}, ValueError, "expected stages to be a positive integer, got 0"),
        ({"stages": 1.0}, ValueError, "expected stages to be a positive integer, got 1.0"),
        ({"max_restarts": -1}, ValueError, "expected max_restarts to be a number from 0 on"),
        ({"silence": 0}, ValueError, "expected silence to be 0.1 seconds or more, got 0"),
        ({"silence": "1"}, TypeError, "expected silence to be a number"),
        ({"command": "train.py"}, TypeError, "expected command to be a list of strings"),
        ({"command": []}, ValueError, "expected a script to start, got an empty command"),
        ({"command": ["no.py"]}, FileNotFoundError, "found no file 'no.py'. A module needs -m"),
        ({"command": ["no.such"], "module": True}, ModuleNotFoundError, "none called 'no'"),
    ],
)
def test_what_cannot_be_launched_is_said_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        launch(**{"command": [__file__], "stages": 1, **arguments})


def test_the_command_line_says_it_too(capsys):
    assert main(["--stages", "0", __file__]) == 1
    assert main(["--stages", "1", "no.py"]) == 1
    said = capsys.readouterr().err
    assert "expected stages to be a positive integer, got 0" in said
    assert "found no file 'no.py'" in said
    with pytest.raises(SystemExit):
        main(["--stages", "2"])
    assert "the following arguments are required: script" in capsys.readouterr().err
