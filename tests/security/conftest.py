"""Fixtures: a lab on each broker, as in the end-to-end tests."""

from __future__ import annotations

from tests.integration.conftest import broker_kind, broker_url, file_lab, lab, served, server_url, standing

__all__ = ["broker_kind", "broker_url", "file_lab", "lab", "served", "server_url", "standing"]
