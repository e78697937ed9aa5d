"""The language of differential scripts: what is said to both daemons, a statement a line.

    # A comment.  The first one is the script's title.
    image NAME FORMAT SIZE [OPTION ...]   a file, before the daemons start: random bytes, or qemu-img create's options
    image NAME text [LINE ...]            one of such lines
    COMMAND ARGUMENTS                     a QMP command that succeeds
    ! COMMAND ARGUMENTS                   one that fails
    better "WHY" COMMAND ARGUMENTS        one that our daemon answers otherwise, and why (also with !)
    worse "WHY" COMMAND ARGUMENTS         the same, where Debian's is right
    ours COMMAND ARGUMENTS                one that Debian's daemon does not know: held against QEMU 11's schema (also with !)
    without NAME ...                      members of objects, events and files that are not compared in this script
    wait job ID | wait status ID STATUS | wait event NAME [KEY=VALUE ...]
    write EXPORT OFFSET LENGTH BYTE       as a guest, through the NBD server at nbd.sock (with !: it fails, of both with one errno)
    read EXPORT                           its content is compared (also with !)
    flush EXPORT                          (also with !)

ARGUMENTS are words KEY=VALUE, where a key may be a path (file.driver) and a value is JSON or else a string, or one JSON object, which alone
can have a null, or spaces in a string.
Lines that begin with a space continue the line before.
"""
import dataclasses
import json
import pathlib
import shlex


REQUESTS = ("write", "read", "flush")


class ScriptError(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class Statement:
    line: int
    text: str
    verb: str                              # image, without, command, wait, write, read, flush
    words: tuple = ()
    command: str = ""
    arguments: dict = dataclasses.field(default_factory=dict)
    fails: bool = False
    ours_only: bool = False
    why_better: str = ""
    why_worse: str = ""


@dataclasses.dataclass(frozen=True)
class Script:
    name: str
    title: str
    statements: tuple


def _value(text):
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if value is None else value


def arguments_of(text):
    """The arguments of a command."""
    if text.startswith("{"):
        return json.loads(text)
    whole = {}
    for word in text.split():
        path, equals, value = word.partition("=")
        if not equals:
            raise ScriptError(f"'{word}' is not KEY=VALUE")
        *objects, last = path.split(".")
        place = whole
        for key in objects:
            place = place.setdefault(key, {})
        place[last] = _value(value)
    return whole


def _command(line, text):
    kept, ours_only, why, fails = text, False, {}, False
    if text.startswith(("better ", "worse ")):
        verdict, reason, *_ = shlex.split(text)
        why[verdict] = reason
        text = text[text.index(reason) + len(reason) + 1:].strip()
    elif text.startswith("ours "):
        ours_only, text = True, text[5:].strip()
    if text.startswith("!"):
        fails, text = True, text[1:].strip()
    command, _, rest = text.partition(" ")
    return Statement(line, kept, "command", (), command, arguments_of(rest.strip()), fails, ours_only,
                     why.get("better", ""), why.get("worse", ""))


def _statement(line, text):
    verb, _, rest = text.partition(" ")
    try:
        if verb in ("image", "without", "wait", *REQUESTS):
            return Statement(line, text, verb, tuple(shlex.split(rest)))
        request, _, words = rest.partition(" ")
        if verb == "!" and request in REQUESTS:
            return Statement(line, text, request, tuple(shlex.split(words)), fails=True)
        return _command(line, text)
    except (ValueError, ScriptError) as error:
        raise ScriptError(f"line {line}: {error}") from None


def load(path):
    path = pathlib.Path(path)
    title, lines = "", []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text.startswith("#"):
            title = title or text[1:].strip()
        elif text.startswith(" ") and lines:
            lines[-1] = (lines[-1][0], lines[-1][1] + text)
        elif text.strip():
            lines.append((number, text.strip()))
    return Script(path.stem, title, tuple(_statement(number, text) for number, text in lines))
