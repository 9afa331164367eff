"""The command that runs an image: what the engine in it sees, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchd.wire.engines import PreparedEngine
from orchd.wire.errors import OrchError
from orchd.wire.ids import EngineId, Text
from poolmgr.provision.machine.store import OWN, RUN
from poolmgr.provision.starting.container import Who, around, container_name, run, socket_in_folder
from tests.poolmgr.provision.making import MODES, pool

SOCKET = socket_in_folder(Path("/run/poolmgr/big:0.engine.sock"))
IMAGE = "docker.io/vllm/vllm-openai@sha256:1"
ME, ROOT = Who(uid=971, gid=972), Who(uid=0, gid=0)


def engine(runtime="/usr/bin/podman", *run_args: str, store: str | None = None) -> PreparedEngine:
    return PreparedEngine(
        name=EngineId("vllm"),
        version=Text("v1"),
        build_ref=Text("r"),
        mode=Text("container"),
        entry=Text(IMAGE),
        runtime=Text(runtime),
        run_args=run_args,
        store=None if store is None else Text(store),
        workdir=Text("/"),
        engine_catalog_id=Text("x"),
    )


def made(tmp_path, who=ME, runtime="/usr/bin/podman", how="", **more):
    one = pool(tmp_path, MODES["container"] + how, more.get("engine", "llamacpp"))
    env = {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return run(
        one, engine(runtime, *more.get("run_args", ()), store=more.get("store")), who, SOCKET,
        (Path("/models"),), ("GPU-a", "GPU-b"), ("--host", str(SOCKET)), env,
        one.provisioning.command,
    )  # fmt: skip


def values(argv, option):
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


@pytest.mark.req("ORCH-3801", "ORCH-3803", "OC-CONFIG-6023")
def test_a_rootless_container_sees_its_gpus_its_model_and_its_socket_alone(tmp_path):
    argv = made(tmp_path, run_args=("--cgroups=disabled",)).argv
    assert argv[:3] == ("/usr/bin/podman", "run", "--rm")
    assert values(argv, "--device") == ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"]
    assert values(argv, "--mount") == [
        "type=bind,source=/run/poolmgr/big:0.engine,target=/run/poolmgr/big:0.engine",
        "type=bind,source=/models,target=/models,readonly",
    ]
    closed = ["--network=none", "--pull=never", "--cap-drop=all", "--cgroups=disabled"]
    for option in (*closed, "--security-opt=no-new-privileges", "--sdnotify=ignore", "--replace"):
        assert argv.count(option) == 1
    assert values(argv, "--label") == ["orchd.replica=/run/poolmgr/big:0"]
    # its root is nobody but us
    assert values(argv, "--user") == ["0:0"]
    assert values(argv, "--env") == [
        "CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=GPU-a,GPU-b",
    ]  # fmt: skip
    assert argv[-3:] == (IMAGE, "--host", str(SOCKET))


@pytest.mark.req("ORCH-3801", "SYSD-28")
def test_in_a_unit_podman_has_a_storage_of_its_own_above_the_images(tmp_path):
    one = made(tmp_path, store="/var/cache/orchd/engines/images")
    call = one.argv[: one.argv.index("run")]
    assert call[:3] == ("/usr/bin/env", f"XDG_RUNTIME_DIR={RUN}", "/usr/bin/podman")
    assert values(call, "--root") == [f"{OWN}/storage"]
    assert values(call, "--storage-opt") == [
        "overlay.ignore_chown_errors=true",
        "overlay.imagestore=/var/cache/orchd/engines/images",
    ]
    # what ends the container has to look where it is
    assert one.sweep[: len(call)] == call
    assert one.sweep[len(call) :] == made(tmp_path).sweep[1:]
    assert one.argv[len(call) :] == made(tmp_path).argv[1:]
    assert one.folders == (OWN, RUN)
    assert made(tmp_path).folders == ()


def test_where_root_would_be_root_the_engine_is_us_by_number(tmp_path):
    assert values(made(tmp_path, ROOT).argv, "--user") == ["0:0"]
    assert values(made(tmp_path, ME, "/usr/bin/docker").argv, "--user") == ["971:972"]


@pytest.mark.req("ORCH-3801")
def test_docker_has_no_replace_so_what_was_left_is_removed_first(tmp_path):
    one = made(tmp_path, ME, "/usr/bin/docker")
    name = container_name(SOCKET)
    assert one.argv[:2] == ("/bin/sh", "-c")
    assert one.argv[3:6] == ("/usr/bin/docker", name, "run")
    assert "--replace" not in one.argv
    assert one.sweep == ("/usr/bin/docker", "rm", "--force", name)
    assert made(tmp_path).sweep == (
        "/usr/bin/podman", "rm", "--force", "--ignore", "--time", "0", name,
    )  # fmt: skip


def test_a_command_of_the_operator_takes_the_image_s_place(tmp_path):
    argv = made(tmp_path, how='\ncommand = ["/app/server", "--first"]').argv
    assert values(argv, "--entrypoint") == ["/app/server"]
    assert argv[-4:] == (IMAGE, "--first", "--host", str(SOCKET))
    triton = made(tmp_path, engine="triton").argv
    assert triton[-4:] == (IMAGE, "tritonserver", "--host", str(SOCKET))
    assert "--entrypoint" not in triton


def test_names_differ_by_socket_and_paths_that_no_mount_can_name_are_refused(tmp_path):
    other = socket_in_folder(Path("/run/user/1000/poolmgr/big:0.engine.sock"))
    assert container_name(SOCKET) != container_name(other)
    assert container_name(SOCKET).startswith("orchd-big-0-engine-")
    one = pool(tmp_path, MODES["container"])
    with pytest.raises(OrchError, match="no comma"):
        run(one, engine(), ME, SOCKET, (Path("/a,readonly=false"),), (), (), {}, None)


def test_a_model_s_folder_is_shown_with_what_its_links_lead_to(tmp_path):
    assert around(Path("/models/m.gguf")) == Path("/models")
    cache = Path("/hf/models--a--b")
    assert around(cache / "snapshots/abc/m.gguf") == cache
    assert around(tmp_path) == tmp_path
