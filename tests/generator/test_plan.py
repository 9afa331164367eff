"""Settings -> units: names, devices, limits, folders. As pure as it is: no systemd here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchd.config.load import load
from orchd.generator import plan
from orchd.generator.store import Units

POOL = """
[[pools]]
id = "{id}"
engine = {{ id = "{engine}", args = {args} }}
model = {{ ref = "{ref}" }}
replicas = {replicas}
ctx = 8192
{more}
"""


def pool(pool_id="llama", ref="file:/srv/m/a.gguf", replicas="[[0]]", more="", args="[]"):
    return POOL.format(
        id=pool_id, ref=ref, replicas=replicas, more=more, args=args, engine="llamacpp"
    )


@pytest.fixture
def made(tmp_path):
    def make(text: str, minors: tuple[int, ...] = (), *, user: bool = False) -> Units:
        path = tmp_path / "orchd.toml"
        path.write_text(text)
        return plan.units(load(path, environ={"ORCHD_RUN_DIR": "/run"}), minors, user=user)

    return make


def lines(units: Units, replica: str = "llama:0") -> list[str]:
    return units.files[f"poolmgr@{replica}.service.d/50-orchd.conf"].splitlines()


def values(units: Units, key: str, replica: str = "llama:0") -> list[str]:
    found = [line.partition("=") for line in lines(units, replica)]
    return [value for name, _, value in found if name == key]


FAR = """
[[pools]]
id = "far"
engine = { id = "openai", api_key = "credential:far_key" }
model = { ref = "m" }
replicas = [[0]]
ctx = 8192
provisioning = { mode = "external", url = "https://api.example.org", gpu_attested = true }
"""


@pytest.mark.req("SYSD-15", "ORCH-3613", "OC-ADAPT-OAI-6031")
def test_only_a_pool_whose_engine_is_elsewhere_may_leave_this_machine(made):
    units = made(pool("near") + FAR)
    assert values(units, "IPAddressAllow", "far:0") == ["any"]
    assert values(units, "ImportCredential", "far:0") == ["orchd.far_key:far_key"]
    for key in ("IPAddressAllow", "ImportCredential"):
        assert values(units, key, "near:0") == []
    alone = made(FAR, user=True)
    assert values(alone, "ImportCredential", "far:0") == ["orchd.far_key:far_key"]
    assert values(alone, "IPAddressAllow", "far:0") == []


@pytest.mark.req("SYSD-11", "ORCH-3056")
@pytest.mark.parametrize("user", [False, True])
def test_what_engines_of_torch_need_is_open_to_them_alone(made, user):
    """A container has a network by itself, and an engine of others is theirs."""
    how = "provisioning = {{ {} }}".format
    binary = how('mode = "binary", command = ["/opt/engine"]')
    image = how('mode = "container", container = { tag = "1" }')
    theirs = how('mode = "external", url = "http://127.0.0.1:1"')
    own, netlink = ["user net"], ["AF_NETLINK"]
    for engine, more, namespaces, families in (
        ("tgi", binary, own, netlink), ("vllm", binary, own, netlink),
        ("triton", binary, [], netlink),
        ("vllm", theirs, [], []), ("llamacpp", binary, [], []),
    ):  # fmt: skip
        text = pool(more=more).replace('"llamacpp"', f'"{engine}"').replace("file:", "")
        units = made(text, user=user)
        assert values(units, "RestrictNamespaces") == namespaces
        assert values(units, "RestrictAddressFamilies") == families
    boxed = made(pool(more=image).replace('"llamacpp"', '"vllm"').replace("file:", ""), user=user)
    assert values(boxed, "RestrictAddressFamilies") == (["AF_NETLINK", ""] if user else netlink)
    assert "user net" not in values(boxed, "RestrictNamespaces")


@pytest.mark.req("SYSD-15")
def test_each_replica_is_an_instance_that_the_target_wants(made):
    units = made(pool("a") + pool("b-2", replicas="[[1], [0, 2]]"))
    assert units.instances == ("a:0", "b-2:1", "b-2:0_2")
    wanted = {f"orchd.target.wants/poolmgr@{name}.{kind}"
              for name in units.instances for kind in ("service", "socket")}  # fmt: skip
    assert units.links.keys() == wanted
    assert units.links["orchd.target.wants/poolmgr@a:0.socket"] == (
        "/usr/lib/systemd/system/poolmgr@.socket"
    )
    # as systemd has unit names (systemd.unit(5)): nothing in them needs an escape
    assert all(re.fullmatch(r"[A-Za-z0-9:_.@-]+", Path(name).name) for name in units.links)


@pytest.mark.req("SYSD-12", "OC-POOL-3020")
def test_the_devices_are_those_of_the_mask_and_what_all_gpus_share(made):
    units = made(pool(replicas="[[0, 2]]"))
    shared = ["/dev/char/195:255 rwm", "char-nvidia-uvm rwm", "char-nvidia-caps rwm"]
    devices = ["/dev/char/195:0 rwm", "/dev/char/195:2 rwm", *shared]
    assert values(units, "DeviceAllow", "llama:0_2") == devices


@pytest.mark.req("SYSD-12")
def test_the_node_is_the_one_that_the_driver_names(made):
    """NVML counts by PCI address, the driver gives minors in its own order."""
    units = made(pool(replicas="[[0], [2]]"), minors=(1, 0))
    assert values(units, "DeviceAllow", "llama:0")[0] == "/dev/char/195:1 rwm"
    assert values(units, "DeviceAllow", "llama:2")[0] == "/dev/char/195:2 rwm"  # of no known GPU


def test_simulated_devices_open_none(made):
    text = '[devices]\nbackend = "simulated"\nsimulated = [{ name = "x", vram_mb = 9 }]\n'
    units = made(text + pool(ref="mock:x").replace("llamacpp", "mock"))
    assert values(units, "DeviceAllow") == []


@pytest.mark.req("SYSD-17")
def test_limits_are_systemd_s(made):
    units = made(pool(more="limits = { memory_mb = 2048, cpu_percent = 350 }"))
    assert values(units, "MemoryMax") == ["2048M"]
    assert values(units, "CPUQuota") == ["350%"]
    plain = made(pool())
    assert values(plain, "MemoryMax") == values(plain, "CPUQuota") == []


@pytest.mark.req("SYSD-16")
def test_of_a_home_only_the_named_folders_are_shown(made):
    units = made(
        pool(
            ref="file:/home/ada/models/a.gguf",
            args='["--lora=/home/ada/lora/x.gguf", "--grammar-file", "/root/g/y"]',
            more='read_paths = ["/home/ada/more/", "/srv/more"]\n'
            'provisioning = { command = ["/home/ada/llama/bin/llama-server"] }',
        )
    )
    bound = ["/home/ada/models", "/home/ada/llama/bin", "/home/ada/lora", "/root/g",
             "/home/ada/more"]  # fmt: skip
    assert values(units, "BindReadOnlyPaths") == [f'"-{path}"' for path in bound]
    assert values(units, "ProtectHome") == ["tmpfs"]
    assert values(units, "WantsMountsFor") == [f'"{path}"' for path in [*bound, "/srv/more"]]


@pytest.mark.req("SYSD-16")
def test_a_hugging_face_cache_is_shown_with_what_its_links_lead_to(made):
    hub = "/home/ada/.cache/huggingface/hub/models--a--b"
    units = made(pool(ref=f"file:{hub}/snapshots/0f/q4/a.gguf"))
    assert values(units, "BindReadOnlyPaths") == [f'"-{hub}"']


def test_a_model_outside_of_homes_changes_no_mount(made):
    units = made(pool())
    assert values(units, "WantsMountsFor") == ['"/srv/m"']
    assert values(units, "ProtectHome") == values(units, "BindReadOnlyPaths") == []


@pytest.mark.req("SYSD-16")
def test_a_user_s_pools_read_what_the_user_reads(made):
    units = made(pool(ref="file:/home/ada/m/a.gguf", more="limits = { memory_mb = 9 }"), user=True)
    keys = {line.partition("=")[0] for line in lines(units) if "=" in line}
    assert keys == {"SourcePath", "WantsMountsFor", "MemoryMax"}
    assert set(units.links.values()) == {
        f"/usr/lib/systemd/user/poolmgr@.{kind}" for kind in ("service", "socket")
    }


@pytest.mark.parametrize(
    "ref",
    [
        r"file:/home/a/x\nExecStartPre=+/bin/touch /pwned\n/m.gguf",
        r"file:/home/a/\"\nUser=root\n/m.gguf",
        r"file:/home/a:/etc/m.gguf",
        r"file:/home/a\\x2f/m.gguf",
        r"file:/home/a/\u007f/m.gguf",
    ],
)
@pytest.mark.req("SYSD-18")
def test_a_path_cannot_say_anything_else_to_systemd(made, ref):
    units = made(pool(ref=ref))
    assert values(units, "BindReadOnlyPaths") == values(units, "ProtectHome") == []
    known = {"SourcePath", "WantsMountsFor", "DeviceAllow"}
    said = [line for line in lines(units) if not line.startswith(("#", "["))]
    assert {line.partition("=")[0] for line in said} <= known
    assert any(line.startswith("# No unit can name") for line in lines(units))


@pytest.mark.req("SYSD-24", "ORCH-3080")
def test_only_a_pool_that_may_fetch_gets_the_network(made):
    hub = "hf:org/repo/m.gguf"
    assert values(made(pool(ref=hub)), "IPAddressAllow") == ["any"]
    assert values(made(pool()), "IPAddressAllow") == []
    no_fetch = pool().replace('ref = "file:/srv/m/a.gguf"', f'ref = "{hub}", fetch = false')
    assert values(made(no_fetch), "IPAddressAllow") == []
    off = made("[policy.outbound]\nenabled = false\n" + pool(ref=hub))
    assert values(off, "IPAddressAllow") == []
    assert values(made(pool(ref=hub), user=True), "IPAddressAllow") == []  # it has no filter


@pytest.mark.req("SYSD-24", "ORCH-3205")
def test_a_cache_elsewhere_is_written_and_one_in_a_home_is_read(made):
    def cached(folder: str) -> Units:
        text = pool(ref="hf:org/repo/m.gguf")
        units: Units = made(text.replace('m.gguf"', f'm.gguf", cache_dir = "{folder}"'))
        return units

    disk = cached("/srv/models")
    assert values(disk, "ReadWritePaths") == ['"-/srv/models"']
    assert values(disk, "WantsMountsFor") == ['"/srv/models"']
    home = cached("/home/ada/models")
    assert values(home, "ReadWritePaths") == []
    assert values(home, "BindReadOnlyPaths") == ['"-/home/ada/models"']


@pytest.mark.req("SYSD-18")
def test_a_reference_cannot_say_anything_to_systemd(made):
    units = made(pool(ref="https://a.b/x%0aUser=root%0a/m.gguf?q=SECRET"))
    assert not any("SECRET" in line for line in lines(units))
    known = {"SourcePath", "IPAddressAllow", "DeviceAllow"}
    said = [line for line in lines(units) if not line.startswith(("#", "["))]
    assert {line.partition("=")[0] for line in said} <= known


def test_a_percent_sign_is_no_specifier(made):
    units = made(pool(ref="file:/home/a/50%h/m.gguf"))
    assert values(units, "BindReadOnlyPaths") == ['"-/home/a/50%%h"']


FETCH = """
[policy.fetch]
enabled = true
allow = ["docs.example.org"]
"""


@pytest.mark.req("POLICY-4030")
def test_orchd_gets_the_network_where_it_fetches_for_clients_and_not_otherwise(made):
    drop_in = "orchd.service.d/50-orchd.conf"
    assert drop_in not in made(pool()).files
    assert drop_in not in made(FETCH + "[policy.outbound]\nenabled = false\n" + pool()).files
    found = made(FETCH + pool()).files[drop_in].splitlines()
    assert found[-5:] == [
        "[Service]",
        "# It fetches pages for clients (policy.fetch).",
        "PrivateNetwork=no",
        "RestrictAddressFamilies=AF_INET AF_INET6",
        "IPAddressAllow=any",
    ]


@pytest.mark.req("SYSD-28")
def test_a_pool_of_mode_container_has_its_sandbox_opened_for_podman_and_no_other_pool(made):
    box = 'provisioning = { mode = "container", container = { tag = "b1" } }'
    text = pool("box", more=box) + pool("plain")
    units = made(text)
    assert values(units, "RestrictNamespaces", "box:0") == ["cgroup ipc mnt net pid user uts"]
    assert values(units, "NoNewPrivileges", "box:0") == []
    for key in ("ProtectKernelTunables", "ProtectKernelLogs", "ProtectHostname"):
        assert values(units, key, "box:0") == ["no"]
    opened = {"RestrictNamespaces", "SystemCallFilter", "NoNewPrivileges", "TemporaryFileSystem"}
    assert not any(values(units, key, "plain:0") for key in opened)
    own = made(text, user=True)
    assert values(own, "NoNewPrivileges", "box:0") == ["no"]
    assert values(own, "SystemCallFilter", "box:0") == [""]
    assert not any(values(own, key, "plain:0") for key in opened)
    for made_so in (units, own):
        (sweep,) = values(made_so, "ExecStopPost", "box:0")
        assert "label=orchd.replica=%t/poolmgr/%i " in sweep


def test_a_cache_of_engines_in_a_home_is_shown(made):
    how = 'provisioning = { source = { cache_dir = "/home/me/engines" } }'
    assert values(made(pool(more=how)), "BindReadOnlyPaths") == ['"-/home/me/engines"']
