"""A script told to both daemons, and where they differ: in answers, events, the graph, bitmaps, files."""
import difflib
import json
import pathlib

import daemons
from lab import processes
from schema import Schema

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "qsd-11-schema.json"
PEER = "qemu-storage-daemon"
# What depends on the machine, or on when one asks.
FLEETING = {"actual-size", "pid"}
# The order in which a chain's nodes were opened is nobody's business.
UNORDERED = {"query-named-block-nodes"}


def qemu_11():
    return Schema(json.loads(GOLDEN.read_text(encoding="utf-8")))


def steady(value, without):
    if isinstance(value, dict):
        return {key: steady(one, without) for key, one in value.items() if key not in without}
    if isinstance(value, list):
        return [steady(one, without) for one in value]
    if isinstance(value, str) and value.startswith("json:"):
        return {"json": json.loads(value[5:])}                # in no order of its members
    return value


def shown(value):
    return json.dumps(value, sort_keys=True)


def without_pauses(events):
    """Less the pauses of jobs that have ended: a drain makes them too, unless it comes before the job has begun."""
    kept, waiting = [], {}
    for event in events:
        data = event.get("data", {})
        if event["event"] == "JOB_STATUS_CHANGE":
            if data["status"] in ("paused", "standby"):
                waiting[data["id"]] = event
                continue
            paused = waiting.pop(data["id"], None)
            if paused and data["status"] == {"paused": "running", "standby": "ready"}[paused["data"]["status"]]:
                continue
            if paused:
                kept.append(paused)
        kept.append(event)
    return kept + list(waiting.values())


def apart(ours, theirs, where=""):
    """Where two values differ: [(path, ours, theirs)]; None: not there."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted(ours.keys() | theirs.keys())
        return [found for key in keys for found in apart(ours.get(key), theirs.get(key), f"{where}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [found for i, (a, b) in enumerate(zip(ours, theirs)) for found in apart(a, b, f"{where}[{i}]")]
    return [] if ours == theirs else [(where, ours, theirs)]


class Outcome:
    """Of one script."""

    def __init__(self, script):
        self.script = script
        self.differences = []              # texts
        self.same, self.ours = set(), set()                # commands
        self.better, self.worse = {}, {}                   # {command: {why}}
        self.used = set()                  # as Schema.used() has them


class Comparison:
    def __init__(self, lab, script, tidemarkd, reference):
        self._outcome, self._script, self._reference = Outcome(script), script, reference
        self._ours = daemons.Daemon(lab, tidemarkd, lab.path / "tidemarkd")
        self._theirs = daemons.Daemon(lab, PEER, lab.path / PEER)
        self._their_schema = None
        self._without = FLEETING.union(*(s.words for s in script.statements if s.verb == "without"))
        self._diverged = False             # something only ours was told has happened

    def run(self):
        for statement in self._script.statements:
            if statement.verb == "image":
                for daemon in (self._ours, self._theirs):
                    daemon.make(statement)
        self._ours.start()
        self._their_schema = Schema(self._theirs.start())
        for statement in self._script.statements:
            self._carry_out(statement)
        self._end()
        return self._outcome

    def _comparable(self, value):
        return daemons.nameless(steady(value, self._without))

    def _differ(self, where, ours, theirs):
        lines = [f"  {path or 'all'}\n    tidemarkd: {shown(a)}\n    {PEER}: {shown(b)}" for path, a, b in apart(ours, theirs)]
        self._outcome.differences.append(f"{self._script.name}: {where}\n" + "\n".join(lines))

    def _complain(self, where, why):
        self._outcome.differences.append(f"{self._script.name}: {where}\n  {why}")

    def _carry_out(self, statement):
        where = f"line {statement.line}: {statement.text}"
        try:
            self._say(statement, where)
        except (OSError, processes.Failure) as error:
            raise processes.Failure(f"{self._script.name}: {where}: {error}") from None

    def _say(self, statement, where):
        if statement.verb == "command":
            self._command(statement, where)
        elif statement.verb not in ("image", "without"):
            ours = self._comparable(getattr(self._ours, statement.verb)(statement.words))
            if daemons.failed(ours) != statement.fails:
                self._complain(where, f"it was expected to {'fail' if statement.fails else 'succeed'}: {shown(ours)}")
            if not self._diverged:
                theirs = self._comparable(getattr(self._theirs, statement.verb)(statement.words))
                if ours != theirs:
                    self._differ(where, ours, theirs)

    def _command(self, statement, where):
        name, before = statement.command, len(self._outcome.differences)
        ours = self._ours.command(name, statement.arguments)
        if ("error" in ours) != statement.fails:
            self._complain(where, f"it was expected to {'fail' if statement.fails else 'succeed'}: {shown(ours)}")
        if statement.ours_only:
            self._hold_against_schema(statement, ours, where)
        elif not self._diverged:
            theirs = self._theirs.command(name, statement.arguments)
            if "return" in ours and name in self._their_schema.commands:
                ours["return"] = self._their_schema.prune(ours["return"], self._their_schema.commands[name]["ret-type"])
            ours, theirs = (self._comparable(answer) for answer in (ours, theirs))
            if name in UNORDERED:
                for answer in (ours, theirs):
                    answer["return"] = sorted(answer["return"], key=shown)
            if ours == theirs and (statement.why_better or statement.why_worse):
                self._complain(where, "it is the same, not otherwise")
            elif ours != theirs and not (statement.why_better or statement.why_worse):
                self._differ(where, ours, theirs)
        if len(self._outcome.differences) == before:
            self._count(statement)

    def _hold_against_schema(self, statement, answer, where):
        self._diverged = self._diverged or not statement.fails
        command = self._reference.commands.get(statement.command)
        if command and "return" in answer:
            for problem in self._reference.problems(answer["return"], command["ret-type"]):
                self._complain(where, f"by the schema of QEMU 11 {problem}")

    def _count(self, statement):
        name, outcome = statement.command, self._outcome
        if statement.why_better:
            outcome.better.setdefault(name, set()).add(statement.why_better)
        elif statement.why_worse:
            outcome.worse.setdefault(name, set()).add(statement.why_worse)
        elif statement.ours_only:
            outcome.ours.add(name)
        else:
            outcome.same.add(name)
        if name in self._reference.commands:
            self._reference.used(statement.arguments, self._reference.commands[name]["arg-type"], outcome.used)

    def _end(self):
        if not self._diverged:
            for command in ("query-named-block-nodes", "query-block-exports", "query-jobs", "query-block-jobs"):
                ours, theirs = (self._state(daemon, command) for daemon in (self._ours, self._theirs))
                if ours != theirs:
                    self._differ(f"at the end, {command}", ours, theirs)
                self._outcome.same.add(command)
            self._compare_events()
        left = [daemon.end() for daemon in (self._ours, self._theirs)]
        if not self._diverged:
            for name in sorted(left[0].keys() | left[1].keys()):
                if name not in self._without and left[0].get(name) != left[1].get(name):
                    self._differ(f"what is left, {name}", left[0].get(name), left[1].get(name))

    def _state(self, daemon, command):
        entries = daemon.command(command, {})["return"]
        entries = self._their_schema.prune(entries, self._their_schema.commands[command]["ret-type"])
        return sorted((self._comparable(entry) for entry in entries), key=shown)

    def _compare_events(self):
        known = self._their_schema.events.keys() - self._without
        ours, theirs = ([self._comparable(event) for event in daemon.events() if event["event"] in known]
                        for daemon in (self._ours, self._theirs))
        ours, theirs = without_pauses(ours), without_pauses(theirs)
        if ours != theirs:
            lines = difflib.unified_diff([shown(one) for one in theirs], [shown(one) for one in ours], PEER, "tidemarkd", lineterm="")
            self._complain("events", "\n  ".join(lines))
