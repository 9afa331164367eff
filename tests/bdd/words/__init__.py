"""The steps of the scenarios, by what they are about. How to write one: tests/README.md."""

from typing import Final

WORDS: Final = (
    "tests.bdd.words.answers",
    "tests.bdd.words.catalog",
    "tests.bdd.words.operators",
    "tests.bdd.words.places",
    "tests.bdd.words.sessions",
    "tests.bdd.words.streams",
    "tests.bdd.words.tasks",
)
"""pytest takes each as a plugin: so every scenario knows every step."""
