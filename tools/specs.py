"""Read the requirements out of the specs and the proofs out of the tests [SPEC-EXTRACT].

A statement is a paragraph, list item or table row of `specs/NN-name.md` that carries IDs in
brackets, as `[ORCH-3026]`. A proof is a test marked `@pytest.mark.req("ORCH-3026")`. Written are
`requirements/NN-name.yaml` and `COMPLIANCE.md`, from the files alone: a second run changes nothing.

    python -m tools.specs            write
    python -m tools.specs --check    write nothing; say what is wrong or out of date
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from attrs import field, frozen

REPOSITORY = Path(__file__).resolve().parents[1]
ID = re.compile(r"\[([A-Z]{2,}(?:-[A-Z]+)*-(?:[0-9][0-9x]+|[A-Z]+))\](?!\()")
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
SKIPPED = {".venv", ".git", "node_modules", "dist", "build"}


@frozen
class Statement:
    """What must hold, in our own words, and the IDs that ask for it."""

    ids: tuple[str, ...]
    text: str
    section: str


@frozen
class Page:
    """One numbered page of the specs."""

    name: str
    title: str
    statements: tuple[Statement, ...] = field(default=())


def pages(root: Path) -> list[Page]:
    """Return the numbered pages in order."""
    return [read_page(path) for path in sorted((root / "specs").glob("[0-9][0-9]-*.md"))]


def read_page(path: Path) -> Page:
    """Read one page: every block that carries an ID becomes a statement."""
    title, section, found = "", "", []
    for block in blocks(path.read_text()):
        if heading := re.match(r"#+ +(.*)", block):
            title, section = title or heading[1], heading[1]
        ids = tuple(dict.fromkeys(ID.findall(block)))
        if ids:
            text = re.sub(r"\s+([.,;:])", r"\1", " ".join(ID.sub(" ", block).split()))
            found.append(Statement(ids, re.sub(r"^([-*]|\d+\.|\||#+) ", "", text), section))
    return Page(path.stem, title, tuple(found))


def blocks(markdown: str) -> Iterator[str]:
    """Split into headings, paragraphs, list items and table rows; code blocks are left out."""
    block: list[str] = []
    for line in re.sub(r"(?ms)^```.*?^```$", "", markdown).splitlines():
        starts = re.match(r"\s*([-*] |\d+\. |\||#+ )", line)
        if block and (starts or not line.strip()):
            yield "\n".join(block)
            block = []
        if line.strip():
            block.append(line.strip())
    if block:
        yield "\n".join(block)


def proofs(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return ID -> tests that name it, in order, and what is wrong with the marks."""
    found: dict[str, set[str]] = defaultdict(set)
    faults: list[str] = []
    for path in sorted((root / "tests").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        for test, call in marks(ast.parse(path.read_text())):
            for argument in call.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found[argument.value].add(f"{name}::{test}" if test else name)
                else:
                    faults.append(f"{name}:{call.lineno}: an ID is a string in the mark itself")
    return {key: sorted(value) for key, value in sorted(found.items())}, faults


def marks(module: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield (test, mark) of every `pytest.mark.req(...)`; test is "" for a mark of the module."""
    for node in module.body:
        yield from _marks_of(node, "")


def _marks_of(node: ast.stmt, prefix: str) -> Iterator[tuple[str, ast.Call]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        name = prefix + node.name
        for decorator in node.decorator_list:
            yield from ((name, call) for call in _req_calls(decorator))
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                yield from _marks_of(inner, f"{name}::")
    elif isinstance(node, ast.Assign):
        yield from ((prefix.removesuffix("::"), call) for call in _req_calls(node.value))


def _req_calls(node: ast.expr) -> Iterator[ast.Call]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and ast.unparse(inner.func).endswith("mark.req"):
            yield inner


def requirements_yaml(page: Page) -> str:
    """Return the page's requirements, one entry for each ID and statement."""
    entries = [
        {"id": one, "text": statement.text, "where": f"specs/{page.name}.md, {statement.section}"}
        for statement in page.statements
        for one in statement.ids
    ]
    head = f"# Written by tools/specs.py from specs/{page.name}.md: do not edit.\n"
    body: str = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
    return head + body


def compliance(all_pages: Iterable[Page], tests: dict[str, list[str]]) -> str:
    """Return COMPLIANCE.md: for each ID whether a test names it, and which."""
    where: dict[str, list[str]] = defaultdict(list)
    for page in all_pages:
        for statement in page.statements:
            for one in statement.ids:
                if page.name not in where[one]:
                    where[one].append(page.name)
    done = [one for one in where if one in tests]
    lines = [
        "# Compliance",
        "",
        "Written by `tools/specs.py` (`make specs`): do not edit. An ID is done when a test names",
        "it; what it asks for stands on the named page of the specs.",
        "",
        f"{len(done)} of {len(where)} IDs are done.",
        "",
        "| ID | state | said in | proven by |",
        "|---|---|---|---|",
    ]
    for one in sorted(where):
        said = ", ".join(f"[{name[:2]}](specs/{name}.md)" for name in where[one])
        proven = "<br>".join(f"`{test}`" for test in tests.get(one, []))
        lines.append(f"| {one} | {'done' if one in tests else 'not done'} | {said} | {proven} |")
    return "\n".join(lines) + "\n"


def anchors(markdown: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"(?m)^#+ +(.*)$", markdown)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def dead_links(root: Path, made: dict[Path, str]) -> list[str]:
    """Return the links between our own pages that lead nowhere; `made` are pages to be written."""
    coming = {path.resolve() for path in made}
    faults = []
    for path in sorted({*root.rglob("*.md"), *(p for p in made if p.suffix == ".md")}):
        if SKIPPED & set(path.relative_to(root).parts):
            continue
        text = made.get(path) or path.read_text()
        for target in LINK.findall(re.sub(r"(?ms)^```.*?^```$|`[^`\n]*`", "", text)):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            aim = (path.parent / file) if file else path
            name = path.relative_to(root)
            if not aim.exists() and aim.resolve() not in coming:
                faults.append(f"{name}: the link {target} leads nowhere")
            elif anchor and anchor not in anchors(aim.read_text()):
                faults.append(f"{name}: {target}: there is no such heading")
    return faults


def build(root: Path) -> tuple[dict[Path, str], list[str]]:
    """Return what the generated files should hold, and every fault of specs and tests."""
    all_pages = pages(root)
    tests, faults = proofs(root)
    named = {one for page in all_pages for st in page.statements for one in st.ids}
    faults += [
        f"{test}: names {one}, which no page of specs/ does"
        for one, where in tests.items()
        if one not in named
        for test in where
    ]
    files = {
        root / "requirements" / f"{page.name}.yaml": requirements_yaml(page)
        for page in all_pages
        if page.statements
    }
    files[root / "COMPLIANCE.md"] = compliance(all_pages, tests)
    return files, faults + dead_links(root, files)


def out_of_date(root: Path, files: dict[Path, str]) -> list[str]:
    """Return what differs from the generated files on disk."""
    there = {path: path.read_text() for path in files if path.exists()}
    faults = [
        f"{path.relative_to(root)}: is out of date, run: make specs"
        for path, text in files.items()
        if there.get(path) != text
    ]
    extra = sorted(set((root / "requirements").glob("*.yaml")) - set(files))
    return faults + [f"{path.relative_to(root)}: has no page any more" for path in extra]


def write(root: Path, files: dict[Path, str]) -> None:
    """Write the generated files and remove those whose page is gone."""
    (root / "requirements").mkdir(exist_ok=True)
    for path in set((root / "requirements").glob("*.yaml")) - set(files):
        path.unlink()
    for path, text in files.items():
        path.write_text(text)


def main(root: Path = REPOSITORY, arguments: list[str] | None = None) -> int:
    """Write, or check; exit status 1 when something is wrong."""
    files, faults = build(root)
    if "--check" in (sys.argv[1:] if arguments is None else arguments):
        faults += out_of_date(root, files)
    else:
        write(root, files)
    print("\n".join(faults) or f"{len(files)} generated files are in step")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
