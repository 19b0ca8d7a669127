"""Decisions about which trial runs next and which trial stops. Nothing here depends on Ray."""
