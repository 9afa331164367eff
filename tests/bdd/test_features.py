"""Every scenario of features/, and what holds for all of them together."""

from __future__ import annotations

from pytest_bdd import scenarios

scenarios("features")
