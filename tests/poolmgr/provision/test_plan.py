"""What to start, or whom to attach to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from attrs import evolve

from orchd.config.pool import Api, Mode, Provisioning
from orchd.wire.engines import PreparedEngine
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Text
from poolmgr.engines.registry import adapter
from poolmgr.provision.models.models import Staged
from poolmgr.provision.starting import bridged
from poolmgr.provision.starting.plan import MOCK_COMMAND, plan
from tests.poolmgr.provision.test_models import pool

SOCKET = Path("/run/poolmgr/p:0.engine.sock")
UUIDS = ("GPU-1", "GPU-2")


def test_mock_is_our_own_program_and_needs_what_it_says() -> None:
    made = plan(pool("mock:x", "mock"), adapter(pool("mock:x", "mock")), Staged("x"), SOCKET, UUIDS)
    assert made.argv is not None
    assert made.argv[:3] == MOCK_COMMAND
    assert made.need is not None
    assert made.need.weights_bytes == 1024 << 20
    assert made.need.unknown == ()


@pytest.mark.req("OC-POOL-3020")
def test_an_engine_gets_its_gpus_by_uuid(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    model = Staged("m.gguf", Path("/m.gguf"), 5 << 30)
    how = Provisioning(command=(str(program), "--first"))
    made = plan(pool("/m.gguf", provisioning=how), adapter(pool("m")), model, SOCKET, UUIDS)
    assert made.env["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert made.argv is not None
    assert made.argv[:2] == (str(program), "--first")
    assert str(SOCKET) in made.argv
    assert made.need is not None
    assert made.need.weights_bytes == 5 << 30
    assert made.need.unknown == ("KV cache",)


@pytest.mark.req("ORCH-3421")
@pytest.mark.parametrize(
    ("command", "what"),
    [
        (None, "install llama.cpp with CUDA"),
        (("/opt/llama/llama-server",), "install llama.cpp with CUDA"),
        (("my-engine",), "install my-engine"),
    ],
)
def test_a_missing_program_says_what_to_install(
    command: tuple[str, ...] | None, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    how = Provisioning(command=command)
    with pytest.raises(OrchError) as caught:
        plan(
            pool("/m.gguf", provisioning=how),
            adapter(pool("m")),
            Staged("m.gguf", Path("/m.gguf"), 1),
            SOCKET,
            UUIDS,
        )
    assert caught.value.kind is Kind.ENGINE_MISSING
    assert what in caught.value.message


@pytest.mark.req("ORCH-3046")
@pytest.mark.parametrize("engine", ["llamacpp", "mock"])
@pytest.mark.parametrize("mode", [Mode.EXTERNAL, Mode.BINARY])
def test_an_unknown_sampler_profile_is_refused_whoever_starts_the_engine(
    engine: str, mode: Mode
) -> None:
    url = "http://127.0.0.1:8080" if mode is Mode.EXTERNAL else None
    how = Provisioning(mode=mode, url=url, command=None if url else ("sh",))
    made = pool("m", engine, provisioning=how)
    made = evolve(made, engine=evolve(made.engine, sampler_profile_version=Text("v9")))
    with pytest.raises(OrchError) as caught:
        plan(made, adapter(made), Staged("m", Path("/m")), SOCKET, UUIDS)
    assert caught.value.kind is Kind.CONFIG_INVALID
    assert "'v9'" in caught.value.message


def test_an_external_engine_is_only_found() -> None:
    how = Provisioning(mode=Mode.EXTERNAL, url="http://127.0.0.1:8080")
    made = plan(pool("m", provisioning=how), adapter(pool("m")), Staged("m"), SOCKET, UUIDS)
    assert (made.argv, made.socket, made.need) == (None, None, None)
    assert str(made.target) == "http://127.0.0.1:8080"


@pytest.mark.req("ORCH-3057", "OC-ADAPT-5002")
def test_an_engine_may_listen_on_more_sockets_than_one() -> None:
    how = Provisioning(command=("sh",))
    mine = pool("/repository", "triton", provisioning=how)
    mine = evolve(mine, engine=evolve(mine.engine, api=Api.GRPC, served_name=Text("m")))
    made = plan(mine, adapter(mine), Staged("r", Path("/repository"), 1), SOCKET, UUIDS)
    metrics, grpc = Path(f"{SOCKET}.metrics"), Path(f"{SOCKET}:2")
    assert set(made.sockets) == {metrics, grpc}
    assert {name: target.path for name, target in made.services.items()} == {
        "metrics": metrics,
        "grpc": grpc,
    }


@pytest.mark.req("ORCH-3056", "OC-ADAPT-5002", "ORCH-3805")
def test_an_engine_that_listens_on_tcp_has_a_bridge_and_no_port_of_this_machine() -> None:
    mine = pool("/m", "tgi", provisioning=Provisioning(command=("sh", "-x")))
    made = plan(mine, adapter(mine), Staged("m", Path("/m"), 1), SOCKET, UUIDS)
    assert made.argv is not None
    at = made.argv.index("--")
    bridge, engine = made.argv[:at], made.argv[at + 1 :]
    assert bridge[:4] == (sys.executable, "-I", "-S", str(bridged.PROGRAM))
    assert bridge[4:] == (
        "--socket", str(SOCKET), "--port", "8080", "--slots", "1", "--own-network",
        "must",
    )  # fmt: skip
    assert engine[1:4] == ("-x", "--model-id", "/m")
    assert made.program == engine[0] != "sh"
    assert str(made.target) == f"unix:{SOCKET}"
    assert made.sockets == (Path(f"{SOCKET}.shard-0"), Path(f"{SOCKET}.shard-1"))


@pytest.mark.req("OC-ADAPT-5002", "ORCH-3055")
def test_an_engine_whose_processes_meet_at_ports_gets_a_network_for_them() -> None:
    mine = pool("/m", "vllm", provisioning=Provisioning(command=("sh", "serve")))
    made = plan(mine, adapter(mine), Staged("m", Path("/m"), 1), SOCKET, UUIDS)
    assert made.argv is not None
    assert made.argv[4:7] == ("--own-network", "may", "--")
    assert made.argv[8:10] == ("serve", "/m")
    image = PreparedEngine(
        name=mine.engine.id, version=Text("1"), build_ref=Text("r"), mode=Text("container"),
        entry=Text("vllm@sha256:1"), runtime=Text("/usr/bin/podman"), workdir=Text("/"),
        engine_catalog_id=Text("x"),
    )  # fmt: skip
    contained = pool("/m", "vllm")
    made = plan(contained, adapter(mine), Staged("m", Path("/m"), 1), SOCKET, UUIDS, image)
    assert made.argv is not None
    assert "--network=none" in made.argv
    assert not [word for word in made.argv if "bridge" in word]


@pytest.mark.req("ORCH-3056", "ORCH-3801")
def test_in_an_image_the_bridge_is_run_by_the_python_that_is_there() -> None:
    mine = pool("/m", "tgi")
    image = PreparedEngine(
        name=mine.engine.id, version=Text("3"), build_ref=Text("r"), mode=Text("container"),
        entry=Text("tgi@sha256:1"), runtime=Text("/usr/bin/podman"), workdir=Text("/"),
        engine_catalog_id=Text("x"),
    )  # fmt: skip
    made = plan(mine, adapter(mine), Staged("m", Path("/m"), 1), SOCKET, UUIDS, image)
    assert made.argv is not None
    assert made.program == "tgi@sha256:1"
    words = " ".join(made.argv)
    assert f"type=bind,source={bridged.PROGRAM},target={bridged.PROGRAM},readonly" in words
    assert "--network=none" in made.argv
    assert "--entrypoint /bin/sh" in words
    at = made.argv.index("--")
    assert made.argv[at - 2 : at] == ("--entry", "/tgi-entrypoint.sh")
    assert "--own-network" not in made.argv
    assert made.argv[at + 1 : at + 4] == ("text-generation-launcher", "--model-id", "/m")
    own = pool("/m", "tgi", provisioning=Provisioning(mode=Mode.CONTAINER, command=("/x", "y")))
    made = plan(own, adapter(own), Staged("m", Path("/m"), 1), SOCKET, UUIDS, image)
    assert made.argv is not None
    assert "--entry" not in made.argv
    at = made.argv.index("--")
    assert made.argv[at + 1 : at + 4] == ("/x", "y", "--model-id")


def test_an_external_engine_may_have_more_addresses_than_one() -> None:
    how = Provisioning(
        mode=Mode.EXTERNAL, url="http://127.0.0.1:8000", grpc_url="unix:/g", metrics_url="unix:/m"
    )
    mine = pool("m", "triton", provisioning=how)
    made = plan(mine, adapter(mine), Staged("m"), SOCKET, UUIDS)
    assert made.sockets == ()
    assert {name: str(target) for name, target in made.services.items()} == {
        "grpc": "unix:/g",
        "metrics": "unix:/m",
    }
