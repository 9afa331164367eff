"""Lines of keys in TOML texts."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from orchd.config import positions

TEXT = '''# comment with = and [x]
top = 1 # [[no]]
"quoted key" = """
[not.a.table]
x = 1
"""
'lit' = \'\'\'
y = "\'\'\'
a.b.c = { d = [1, # one
  { e = "}]#," },
  2], f = 'x' }
[table.sub]
date = 1979-05-27 07:32:00
[[list]]
k = [
  [0],
  [1,
   2],
]
[list.inner]
v = true
[[list]]
[[list.deep]]
w = "\\"]"
[[list.deep]]
w = """a""""
last."x.y" = 1
'''


def paths(value: Any, path: str) -> set[str]:
    if isinstance(value, dict):
        return {path}.union(*(paths(item, f"{path}.{key}") for key, item in value.items()))
    if isinstance(value, list):
        return {path}.union(*(paths(item, f"{path}[{i}]") for i, item in enumerate(value)))
    return {path}


def test_every_key_has_its_line():
    found = positions.find(TEXT)
    assert found == {
        "$.top": 2, "$.quoted key": 3, "$.lit": 7,
        "$.a": 9, "$.a.b": 9, "$.a.b.c": 9, "$.a.b.c.d": 9, "$.a.b.c.d[0]": 9,
        "$.a.b.c.d[1]": 10, "$.a.b.c.d[1].e": 10, "$.a.b.c.d[2]": 11, "$.a.b.c.f": 11,
        "$.table": 12, "$.table.sub": 12, "$.table.sub.date": 13,
        "$.list": 14, "$.list[0]": 14, "$.list[0].k": 15, "$.list[0].k[0]": 16,
        "$.list[0].k[0][0]": 16, "$.list[0].k[1]": 17, "$.list[0].k[1][0]": 17,
        "$.list[0].k[1][1]": 18, "$.list[0].inner": 20, "$.list[0].inner.v": 21,
        "$.list[1]": 22, "$.list[1].deep": 23, "$.list[1].deep[0]": 23,
        "$.list[1].deep[0].w": 24, "$.list[1].deep[1]": 25, "$.list[1].deep[1].w": 26,
        "$.list[1].deep[1].last": 27, "$.list[1].deep[1].last.x.y": 27,
    }  # fmt: skip
    assert paths(tomllib.loads(TEXT), "$") - {"$"} == set(found)


@pytest.mark.parametrize(
    ("path", "line"), [("$.list[1].deep[1].missing.more", 25), ("$.list[7]", 14), ("$.zzz", 1)]
)
def test_a_missing_key_is_where_its_table_is(path, line):
    assert positions.nearest(positions.find(TEXT), path) == line


def test_empty_texts_and_odd_keys():
    assert positions.find("") == {}
    assert positions.find("# only\n\n") == {}
    assert positions.find('"\\u0061\\"" . b = 1') == {'$.a"': 1, '$.a".b': 1}
    assert positions.find("a = \"\"\nb = ''") == {"$.a": 1, "$.b": 2}
    assert positions.find('a = """x\\""""\nb = 1') == {"$.a": 1, "$.b": 2}
