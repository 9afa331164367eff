"""What others cost on the same machine: one-hop proxies in front of the same mock engine.

Starlette with httpx on uvicorn (uvloop, httptools) in a venv of its own in the test cache, and
nginx where it is installed. Neither frames anew, replays or cancels exactly: they only copy.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from tests.lab.cache import Cache
from tests.lab.needs import Need, has_program
from tools.bench import proc
from tools.bench.house import House
from tools.bench.orders import Api, Target

PACKAGES: Final = (
    "starlette==1.10.0",
    "httpx==0.28.1",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "httptools==0.9.0",
)
NGINX: Final = Need("nginx", has_program("nginx"), debian=("nginx-light",), arch=("nginx",))

APP: Final = """\
import os

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse
from starlette.routing import Route

engine = httpx.AsyncClient(
    base_url="http://engine",
    timeout=None,
    transport=httpx.AsyncHTTPTransport(
        uds=os.environ["BENCH_ENGINE"], limits=httpx.Limits(max_connections=None)
    ),
)


async def completion(request):
    asked = engine.build_request("POST", "/completion", content=await request.body())
    answer = await engine.send(asked, stream=True)
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        media_type="text/event-stream",
        background=BackgroundTask(answer.aclose),
    )


app = Starlette(routes=[Route("/completion", completion, methods=["POST"])])
"""

CONF: Final = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  keepalive_requests 1000000;
  upstream engine {{ server unix:{engine}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@frozen(kw_only=True)
class Baseline:
    """A running proxy."""

    target: Target
    pid: int


@contextmanager
def baselines(house: House) -> Iterator[list[Baseline]]:
    """Run what can be run here in front of the house's engine, on the daemons' core."""
    with ExitStack() as stack:
        found = [stack.enter_context(_starlette(house))]
        if NGINX.present():
            found.append(stack.enter_context(_nginx(house)))
        else:
            print(f"left out: {NGINX.reason()}", file=sys.stderr)
        for baseline in found:
            proc.pin(baseline.pid, proc.cores()[0])
        yield found


@contextmanager
def _starlette(house: House) -> Iterator[Baseline]:
    python = _venv() / "bin/python"
    (house.folder / "bench_app.py").write_text(APP)
    port = proc.free_port()
    argv = [str(python), "-m", "uvicorn", "--app-dir", str(house.folder), "bench_app:app"]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop"]
    argv += ["--http", "httptools", "--no-access-log", "--log-level", "warning"]
    log = house.folder / "starlette.log"
    with proc.running(argv, log=log, env={"BENCH_ENGINE": house.engine_socket}) as pid:
        yield _up("Starlette + httpx", port, pid, log)


@contextmanager
def _nginx(house: House) -> Iterator[Baseline]:
    port = proc.free_port()
    conf = house.folder / "nginx.conf"
    conf.write_text(CONF.format(folder=house.folder, engine=house.engine_socket, port=port))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    log = house.folder / "nginx.log"
    argv = [program, "-c", str(conf), "-e", str(log)]
    with proc.running(argv, log=log) as pid:
        yield _up("nginx", port, pid, log)


def _up(name: str, port: int, pid: int, log: Path) -> Baseline:
    address = f"127.0.0.1:{port}"
    proc.wait_listening(address, pid, log)
    return Baseline(target=Target(name=name, api=Api.COMPLETION, address=address), pid=pid)


def _venv() -> Path:
    """Return the cached venv with PACKAGES, made when it is missing (needs an index then)."""

    def recipe(folder: Path) -> None:
        proc.run_quietly([sys.executable, "-m", "venv", str(folder)])
        proc.run_quietly([str(folder / "bin/python"), "-m", "pip", "install", "-q", *PACKAGES])

    tag = sys.implementation.cache_tag
    return Cache.default().build("bench-venv", {"packages": PACKAGES, "python": tag}, recipe)
