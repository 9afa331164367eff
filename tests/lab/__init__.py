"""Test machinery: real parts made cheap to use (a booted systemd, a real engine, a fake NVML).

Here lives what builds and drives those parts; tests of the product live in the other folders.
"""
