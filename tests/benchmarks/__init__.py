"""Benchmarks; nothing in here is a test."""
