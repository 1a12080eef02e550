#!/usr/bin/env python3
"""Faults of the disk, injected by strace into the system calls of the program as it is shipped.

On demand, for it needs strace and the right to trace:

    .ci/faults.py target/release/tickcast [N]

For each call and error, the first to the Nth such call of a thread fails. Alerts are published meanwhile; each is
answered, what was refused is accepted later without a restart, and after a kill everything that was accepted is
known. Prints what was answered, and `lost=0`.
"""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter

FAULTS = [
    ("fdatasync,fsync", "EIO"),
    ("fdatasync,fsync", "ENOSPC"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("ftruncate,fallocate", "ENOSPC"),
]
ALERTS = 12
START_SECONDS = 10
RECOVERY_SECONDS = 15


class Server:
    """One run of the program, with a fault or without."""

    def __init__(self, program, directory, fault=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [program, "serve", "--listen", f"127.0.0.1:{self.port}", "--set", "log.level=error"]
        command += ["--set", f"journal.directory={directory}", "--set", "server.sends=single"]
        if fault:
            calls, rest = fault
            # The quiet forms of strace: nothing of the program is printed, only changed.
            trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
            command = trace + ["-e", f"inject={calls}:{rest}"] + command
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.is_traced = fault is not None

    def is_ready(self):
        """False when the program has ended instead."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                return False
            try:
                self.get("/healthz")
                return True
            except OSError:
                time.sleep(0.02)
        raise AssertionError("neither ready nor ended")

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return answer.status

    def publish(self, number):
        alert = {"risk_type": "loss_limit", "severity": "high", "message": "m", "current_value": "1", "threshold": "1"}
        message = {"type": "risk_alert", "topic": "risk_alert.desk-7", "id": f"a-{number}", "publisher": "risk"}
        body = json.dumps(message | {"data": alert}).encode()
        url = f"http://127.0.0.1:{self.port}/api/v1/publish"
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())["status"]

    def knows(self, number):
        try:
            return self.get(f"/api/v1/alerts/a-{number}?publisher=risk") == 200
        except urllib.error.HTTPError:
            return False

    def kill(self):
        if self.is_traced:
            # The traced one: it would outlive its tracer, which ends behind it.
            subprocess.run(["pkill", "-KILL", "-P", str(self.process.pid)], check=False)
        else:
            self.process.kill()
        self.process.wait()


def run(program, calls, error, when, answers):
    """One fault. Returns what was lost."""
    directory = tempfile.mkdtemp(prefix="tickcast-faults-")
    server = Server(program, directory, (calls, f"error={error}:when={when}"))
    accepted = set()
    try:
        if server.is_ready():
            until = time.monotonic() + RECOVERY_SECONDS
            waiting = list(range(ALERTS))
            while waiting:
                assert time.monotonic() < until, f"{calls} {error} {when}: not taken again: {waiting}"
                for number in list(waiting):
                    status = server.publish(number)
                    answers[calls, error, status] += 1
                    if status in ("accepted", "duplicate"):
                        accepted.add(number)
                        waiting.remove(number)
                    elif status != "not_durable":
                        raise AssertionError(f"{calls} {error} {when}: {status}")
                if waiting:
                    time.sleep(0.1)
        else:
            answers[calls, error, "start refused"] += 1
        server.kill()
        server = Server(program, directory)
        assert server.is_ready(), f"{calls} {error} {when}: does not start behind the fault"
        return [number for number in accepted if not server.knows(number)]
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    program, last = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60
    if not shutil.which("strace"):
        sys.exit("strace is not there: apt-get install strace")
    answers, lost, runs = Counter(), [], 0
    for calls, error in FAULTS:
        for when in range(1, last + 1):
            lost += run(program, calls, error, when, answers)
            runs += 1
    for (calls, error, status), count in sorted(answers.items()):
        print(f"{calls} {error}: {status} {count}")
    print(f"runs={runs}, lost={len(lost)}")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
