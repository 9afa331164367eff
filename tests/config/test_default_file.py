"""The file that the package installs knows every key. That it loads: test_jsonschema.py."""

from __future__ import annotations

import re

import pytest

from orchd.config import jsonschema
from tests.lab.venv import REPOSITORY

FILE = REPOSITORY / "packaging/orchd.toml"
# For tests, demos, other tools and engines on other machines; or of one value only in this version.
# orchd.toml(5) has them.
LEFT_OUT = {
    "Build": {"cmake_flags", "generator"},
    "Canary": {"expect_sha256", "max_tokens", "vram_margin_mb"},
    "Container": {"tag"},
    "Engine": {
        "api", "api_key", "args", "embedding_dim", "faults", "kv_bytes_per_token",
        "sampler_profile_version", "served_name", "tokens_per_s", "version",
    },
    "Git": {"submodules"},
    "Model": {"cache_dir"},
    "Provisioning": {"ca", "grpc_url", "metrics_url"},
    "Sessions": {"max_idle"},
    "Source": {"build", "cache_dir"},
    "Slo": {"breach_ms", "shed_ms"},
    "Sse": {"channel_cap"},
    "": {"run_dir", "state_dir"},
}  # fmt: skip


@pytest.mark.req("SYSD-14")
def test_every_key_is_in_the_default_file_or_left_out_on_purpose() -> None:
    text = FILE.read_text()
    whole = jsonschema.generate()
    tables = {"": whole, **whole["$defs"]}
    del tables["Faults"]  # of the mock engine
    for name, table in tables.items():
        unknown = {key for key in table["properties"] if not re.search(rf"\b{key}\b", text)}
        assert unknown <= LEFT_OUT.get(name, set()), name
