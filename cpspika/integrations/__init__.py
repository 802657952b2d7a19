"""Modules for programs that were written for other libraries, and for OpenTelemetry. Each is imported by its name."""
