"""Every check is a test: style, types, async rules, words that must not be in the product.

So `make test` has one summary, and a fault of style fails like any other.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PRODUCT = ("orchd", "poolmgr")


def run(*argv: str) -> None:
    """Run a checker of this venv; any finding fails the test with all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def tracked(*patterns: str) -> list[Path]:
    """The repository's own text files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.timeout(300)
def test_types():
    run("mypy")


def test_style():
    run("ruff", "check", "--quiet", ".")


def test_format():
    run("ruff", "format", "--quiet", "--check", ".")


def with_async(*patterns: str) -> list[str]:
    """The files that flake8-async has anything to say about; it takes 0.3 s for each."""
    return [str(path) for path in tracked(*patterns) if "async " in path.read_text()]


@pytest.mark.timeout(300)
def test_async_rules_of_the_product():
    # 114 wants a list of every service by name, to no gain here.
    ignored = "--extend-ignore=ASYNC114"
    run("flake8", "--select=ASYNC1,ASYNC2", ignored, *with_async("orchd/*.py", "poolmgr/*.py"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_async_rules_of_tests_and_tools():
    # Tests may poll what they watch from outside, and be async only to run in trio.
    ignored = "--extend-ignore=ASYNC110,ASYNC114,ASYNC124,ASYNC128"
    run("flake8", "--select=ASYNC1,ASYNC2", ignored, *with_async("tests/*.py", "tools/*.py"))


def test_the_product_is_whole():
    """No leftovers: what is not there is not promised either."""
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK|[Ss]tub|NotImplementedError|placeholder)\b")
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in tracked(*PRODUCT, "units", "packaging")
        if path.suffix != ".wasm"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert found == []


def test_no_file_is_too_long():
    """Over 500 lines needs a reason; there is none."""
    long = {
        str(path.relative_to(REPOSITORY)): lines
        for path in tracked("*.py")
        if (lines := path.read_text().count("\n")) > 500
    }
    assert long == {}


def test_every_module_says_what_lives_there():
    mute = [
        str(path.relative_to(REPOSITORY))
        for path in tracked("orchd/*.py", "poolmgr/*.py", "tools/*.py")
        if not re.match(r'(#.*\n)*"""', path.read_text())
    ]
    assert mute == []


def test_shell_scripts_parse():
    for path in tracked("*.sh", ".ci/run"):
        shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
        done = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), path
