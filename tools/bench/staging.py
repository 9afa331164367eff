"""Fetching a model beside curl: the same file from the same nginx, over HTTP and over TLS.

curl copies one stream to a file. The fetcher hashes it too, keeps a journal and syncs, so curl is
measured with sha256sum and sync behind it as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from orchd.config.policy import Outbound
from orchd.fetch.orders import Order
from orchd.wire import codec
from orchd.wire.ids import Text
from tests.fakes.certs import make_certificate
from tools.bench import proc
from tools.bench.baselines import NGINX
from tools.bench.figures import Figure

Way = tuple[str, str]
Run = Callable[[], tuple[float, float]]
SECTION: Final = "Fetching a model of 1 GiB from nginx on the same machine"
SIZE: Final = 1 << 30
COMMIT: Final = "0" * 40
REVISION: Final = "api/models/org/repo/revision"
TREE: Final = "api/models/org/repo/tree"
CONF: Final = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  sendfile on;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{secure} ssl;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    root {folder}/www;
  }}
}}
"""


def staging(runs: int) -> list[Figure]:
    """Measure each way `runs` times, in turn."""
    if not NGINX.present() or shutil.which("curl") is None:
        print(f"left out: {NGINX.reason()} and curl", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="orchd-bench-") as name:
        folder = Path(name)
        with _served(folder) as (plain, secure, cert):
            ways = _ways(folder, plain, secure, cert)
            took: dict[Way, list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(runs):
                for way, run in ways.items():
                    took[way].append(run())
    figures = []
    for (scheme, who), found in took.items():
        rates = tuple(SIZE / wall_s / 1e6 for wall_s, _ in found)
        cpu = tuple(cpu_s for _, cpu_s in found)
        figures.append(Figure(section=SECTION, what=f"{scheme}, MB/s", who=who, runs=rates))
        figures.append(Figure(section=SECTION, what=f"{scheme}, CPU s", who=who, runs=cpu))
    return figures


def _ways(folder: Path, plain: str, secure: str, cert: Path) -> dict[Way, Run]:
    """Return how to run each: scheme and program -> a command that is timed."""
    model = f"org/repo/resolve/{COMMIT}/m.gguf"
    curl = ["curl", "-sS", "--fail", "--cacert", str(cert), "-o", str(folder / "got")]
    checked = f'"$@" && sha256sum {folder}/got >{folder}/sum && sync {folder}/got'
    trust = {"SSL_CERT_FILE": str(cert)}
    ways: dict[Way, Run] = {}
    for scheme, origin in (("http", plain), ("https", secure)):
        argv = [*curl, f"{origin}/{model}"]
        ways[scheme, "curl"] = partial(_run, argv)
        whole = ["sh", "-c", checked, "sh", *argv]
        ways[scheme, "curl, sha256sum, sync"] = partial(_run, whole)
    hub = partial(_fetch, folder, "hf:org/repo/m.gguf", {"HF_ENDPOINT": plain})
    ways["http", "orchd.fetch"] = hub
    ways["https", "orchd.fetch"] = partial(_fetch, folder, f"{secure}/{model}", trust)
    return ways


def _run(
    argv: list[str], env: Mapping[str, str] = os.environ, stdin: bytes = b""
) -> tuple[float, float]:
    """Return wall and CPU seconds of a command and its children. Raises RuntimeError."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(stdin)
    process.stdin.flush()  # and not closed: the fetching program would end with it
    said = process.stdout.read()
    code = process.wait()
    wall_s = time.monotonic() - began
    process.stdin.close()
    process.stdout.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise RuntimeError(f"{argv[0]} ended with {code}: {said[-300:]!r}")
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _fetch(folder: Path, ref: str, env: Mapping[str, str]) -> tuple[float, float]:
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    order = Order(
        ref=Text(ref),
        folder=Text(str(cache)),
        named_by=Text("bench"),
        purpose=Text("bench"),
        outbound=Outbound(),
    )
    argv = [sys.executable, "-m", "orchd.fetch", "--log", "json"]
    quiet = ["sh", "-c", f'exec "$@" 2>{folder}/fetch.log', "sh", *argv]
    return _run(quiet, {**os.environ, **env}, codec.dumps(order) + b"\n")


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Serve the file as a URL and as a repository of a Hub, from static files."""
    www = folder / "www"
    model = www / f"org/repo/resolve/{COMMIT}/m.gguf"
    model.parent.mkdir(parents=True)
    digest, block = hashlib.sha256(), os.urandom(1 << 20)
    with model.open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(block)
            digest.update(block)
    row = {"type": "file", "path": "m.gguf", "size": SIZE, "lfs": {"oid": digest.hexdigest()}}
    for place, said in (
        (f"{REVISION}/main", {"sha": COMMIT}),
        (f"{REVISION}/{COMMIT}", {"sha": COMMIT}),
        (f"{TREE}/{COMMIT}", [row]),
    ):
        (www / place).parent.mkdir(parents=True, exist_ok=True)
        (www / place).write_text(json.dumps(said))
    cert, key = make_certificate(folder)
    plain, secure = proc.free_port(), proc.free_port()
    conf = folder / "nginx.conf"
    conf.write_text(CONF.format(folder=folder, plain=plain, secure=secure, cert=cert, key=key))
    log = folder / "nginx.log"
    argv = [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(conf), "-e", str(log)]
    with proc.running(argv, log=log) as pid:
        proc.wait_listening(f"127.0.0.1:{plain}", pid, log)
        yield f"http://localhost:{plain}", f"https://localhost:{secure}", cert
