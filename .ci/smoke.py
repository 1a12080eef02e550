"""Starts the built program as a newcomer would, and looks at it from outside.

Checks, each with the sentence it fails with: the demo serves; `sub` prints 20 lines of at least 3 symbols
within 3 s of starting; a scrape under load passes promtool; SIGTERM ends with exit code 0 within 10 s.
"""

import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

program = sys.argv[1]


def fail(sentence):
    print(f"smoke: {sentence}")
    server.kill()
    sys.exit(1)


journal = tempfile.TemporaryDirectory()
server = subprocess.Popen(
    [program, "serve", "--demo", "--listen", "127.0.0.1:0", "--set", f"journal.directory={journal.name}"],
    stderr=subprocess.PIPE, text=True
)
address = None
for line in server.stderr:
    sys.stderr.write(line)
    found = re.search(r"ws://(127\.0\.0\.1:\d+)/ws ", line)
    address = found.group(1) if found else address
    if line.startswith("ready in"):
        break
if address is None:
    fail("the server did not say where it listens")

url = f"ws://{address}/ws"
began = time.monotonic()
lines = subprocess.run(
    [program, "sub", "market_data.*", "--url", url, "--count", "20"],
    stdout=subprocess.PIPE, text=True, timeout=30,
).stdout.splitlines()
took = time.monotonic() - began
symbols = {found.group(1) for line in lines if (found := re.search(r"market_data\.(\S+)", line))}
print(f"smoke: sub printed {len(lines)} lines of {len(symbols)} symbols in {took:.2f} s")
if len(lines) < 20 or len(symbols) < 3 or took > 3:
    fail("sub must print 20 lines of at least 3 symbols within 3 s")

# A load that is bounded: eight followers of everything for three seconds.
followers = [
    subprocess.Popen([program, "sub", "**", "--url", url, "--for", "3s", "--json"], stdout=subprocess.DEVNULL)
    for _ in range(8)
]
time.sleep(1.5)
scrape = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read()
checked = subprocess.run(["promtool", "check", "metrics"], input=scrape, capture_output=True)
print(checked.stdout.decode(), checked.stderr.decode())
if checked.returncode != 0:
    fail("promtool does not like the scrape")
status = urllib.request.urlopen(f"http://{address}/websocket/status", timeout=5).read()
if b'"active_connections":8' not in status:
    fail(f"the status should know of eight connections: {status!r}")
for follower in followers:
    follower.wait(timeout=20)

server.send_signal(signal.SIGTERM)
began = time.monotonic()
try:
    code = server.wait(timeout=10)
except subprocess.TimeoutExpired:
    fail("SIGTERM must end the server within 10 s")
print(f"smoke: SIGTERM ended it with {code} after {time.monotonic() - began:.2f} s")
if code != 0:
    fail("SIGTERM must end the server with exit code 0")
