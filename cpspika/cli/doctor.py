"""The command `doctor`: tries each step of connecting, and says what to do about a failure."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from . import checks, shared, terminal

STEP_SECONDS = 5.0  # for each step, where --timeout does not say otherwise
COLOUR = {checks.OK: "green", checks.WARNING: "yellow", checks.FAILED: "red", checks.SKIPPED: "dim"}


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    parser = shared.add_command(
        commands,
        "doctor",
        "try each step of connecting to a broker, and say what to do about a failure",
        "  cpspika doctor amqps://app:secret@rabbit.example.com/app",
        "The steps: name, TCP, TLS with the certificate, protocol header, mechanisms, login, virtual host,\n"
        "permissions (a queue is declared, used and deleted), heartbeat, frame_max, whether the broker is blocked,\n"
        "and what it deprecates. The status is 1 if a step failed; a warning is no failure.",
    )
    parser.add_argument("--probe", metavar="NAME", help="name of the queue that tries the permissions")
    shared.add_broker_options(parser, positional=True, json="print the findings as a JSON object", timeout=STEP_SECONDS)
    parser.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Returns 1 if a step failed."""
    parameters = shared.parameters_of(arguments)
    examination = checks.Examination(parameters, arguments.timeout, arguments.probe)
    found = []
    if not arguments.json:
        terminal.say(shared.shown(parameters))
    try:
        for finding in examination.findings():
            found.append(finding)
            if not arguments.json and finding.status != checks.SKIPPED:
                _say(finding)
    finally:
        examination.close()
    failed = any(finding.status == checks.FAILED for finding in found)
    skipped = [finding.step for finding in found if finding.status == checks.SKIPPED]
    if skipped and not arguments.json:
        _say_step(checks.SKIPPED, "", ", ".join(skipped))
    if arguments.json:
        steps = [finding._asdict() for finding in found]
        terminal.say_json({"ok": not failed, "url": shared.shown(parameters), "steps": steps})
    return 1 if failed else 0


def _say(finding: checks.Finding) -> None:
    _say_step(finding.status, f"{finding.step:<12} ", shared.one_line(shared.masked(finding.detail)))
    if finding.advice:
        terminal.say_wrapped(f"  {'':8} {'':12} -> ", text=finding.advice)
    sys.stdout.flush()


def _say_step(status: str, step: str, text: str) -> None:
    terminal.say_wrapped("  ", terminal.Coloured(f"{status:<8}", COLOUR[status]), f" {step}", text=text)
