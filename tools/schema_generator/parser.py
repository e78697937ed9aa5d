"""Reads one .schema file into a Module of definitions.  Knows the syntax only; names are resolved by
model.py.  The language is described in src/schema/README.md."""

import os
import re
from dataclasses import dataclass, field

NAME = r'[A-Za-z_][A-Za-z0-9_-]*'
TYPE = rf'\[?{NAME}\]?'
FEATURES = r'(?:\s+\[(?P<features>[a-z, -]+)\])?'
COMMENT = r'(?:\s+#\s*(?P<doc>.*))?'

MEMBER = re.compile(rf'(?P<name>{NAME})(?P<optional>\?)?:\s*(?P<type>{TYPE})(?:\s*=\s*(?P<default>\S+))?'
                    rf'{FEATURES}{COMMENT}$')
VALUE = re.compile(rf'(?P<name>[A-Za-z0-9_-]+){FEATURES}{COMMENT}$')
WHEN = re.compile(rf'when\s+(?P<values>[A-Za-z0-9_, -]+):\s*(?P<type>{NAME})$')
HEADS = {
    'enum': re.compile(rf'enum\s+(?P<name>{NAME})$'),
    'struct': re.compile(rf'struct\s+(?P<name>{NAME})(?:\s*:\s*(?P<base>{NAME}))?{FEATURES}$'),
    'union': re.compile(rf'union\s+(?P<name>{NAME})\s+by\s+(?P<tag>{NAME}){FEATURES}$'),
    'alternate': re.compile(rf'alternate\s+(?P<name>{NAME})$'),
    'command': re.compile(rf'command\s+(?P<name>{NAME})(?:\((?P<arguments>{NAME})\))?(?P<session>\s+by session)?'
                          rf'(?:\s+->\s*(?P<raw>raw\s+)?(?P<returns>{TYPE}))?{FEATURES}$'),
    'event': re.compile(rf'event\s+(?P<name>{NAME}){FEATURES}$'),
}


class SchemaError(Exception):
    """A mistake in a .schema file: "path:line: what"."""


@dataclass
class Member:
    name: str
    type: str                    # 'str', '[JobInfo]', ...
    optional: bool = False
    default: str = None
    features: list = field(default_factory=list)
    doc: list = field(default_factory=list)      # lines


@dataclass
class Definition:
    kind: str
    name: str
    place: str                   # "path:line"
    doc: list
    features: list = field(default_factory=list)
    members: list = field(default_factory=list)      # of enums: values
    base: str = None
    tag: str = None
    branches: dict = field(default_factory=dict)     # value of the tag -> struct
    arguments: str = None
    returns: str = None
    raw: bool = False
    session: bool = False


@dataclass
class Module:
    name: str
    title: str
    doc: list
    uses: list = field(default_factory=list)
    definitions: list = field(default_factory=list)

    @property
    def commands(self):
        return [d for d in self.definitions if d.kind == 'command']


def _features(match):
    text = match.group('features')
    return [word.strip() for word in text.split(',')] if text else []


class _Reader:
    def __init__(self, path, lines):
        self.path = path
        self.lines = lines
        self.number = 0
        self.module = None
        self.pending = []            # comment lines at the margin, for the next definition
        self.current = None
        self.last_doc = None         # what an indented comment continues

    def fail(self, what):
        raise SchemaError(f'{self.path}:{self.number}: {what}')

    def run(self):
        for self.number, line in enumerate(self.lines, 1):
            line = line.rstrip()
            if not line:
                self._blank()
            elif line.startswith('#'):
                self.pending.append(line[1:].strip())
            elif line.startswith(' '):
                self._indented(line.strip())
            elif line.startswith('use '):
                self.module.uses += [name.strip() for name in line[4:].split(',')]
            else:
                self._head(line)
        return self.module

    def _blank(self):
        self.current = self.last_doc = None
        if not self.pending:
            return
        if self.module is not None:
            self.fail('a comment that belongs to nothing')
        name = os.path.splitext(os.path.basename(self.path))[0]
        self.module = Module(name, self.pending[0], self.pending[2:])
        self.pending = []

    def _head(self, line):
        if self.module is None:
            self.fail('a file begins with a comment: its title, an empty line, what it is about')
        kind = line.split(' ', 1)[0]
        match = HEADS[kind].match(line) if kind in HEADS else None
        if not match:
            self.fail(f'not a definition: {line}')
        got = match.groupdict()
        self.current = Definition(kind, got['name'], f'{self.path}:{self.number}', self.pending,
                                  features=_features(match) if 'features' in got else [],
                                  base=got.get('base'), tag=got.get('tag'), arguments=got.get('arguments'),
                                  returns=got.get('returns'), raw=bool(got.get('raw')),
                                  session=bool(got.get('session')))
        self.pending = []
        self.module.definitions.append(self.current)

    def _indented(self, line):
        if self.current is None:
            self.fail('a member that belongs to nothing')
        if line.startswith('#'):
            if self.last_doc is None:
                self.fail('a comment that belongs to nothing')
            self.last_doc.append(line[1:].strip())
        elif line.startswith('when ') and self.current.kind == 'union':
            self._when(line)
        else:
            self._member(line)

    def _when(self, line):
        match = WHEN.match(line)
        if not match:
            self.fail(f'not a branch: {line}')
        for value in match.group('values').split(','):
            self.current.branches[value.strip()] = match.group('type')

    def _member(self, line):
        enum = self.current.kind == 'enum'
        match = (VALUE if enum else MEMBER).match(line)
        if not match:
            self.fail(f'not a member: {line}')
        got = match.groupdict()
        member = Member(got['name'], got.get('type'), bool(got.get('optional')), got.get('default'),
                        _features(match), [got['doc']] if got['doc'] else [])
        if any(present.name == member.name for present in self.current.members):
            self.fail(f'{member.name} twice')
        if member.default is not None and not member.optional:
            self.fail(f'{member.name} has a default but is not optional')
        self.current.members.append(member)
        self.last_doc = member.doc


def parse_file(path):
    with open(path, encoding='utf-8') as lines:
        return _Reader(path, lines.readlines()).run()
