"""The reference manual, in Markdown: a chapter for each module, with its commands and events, then its types."""

from .model import BUILTINS, TYPE_KINDS, base_type, element

HEAD = '''# QMP reference

<!-- Written by tools/generate-schema from src/schema/*.schema: change those, not this. -->

Commands, events and types that `tidemarkd` speaks. Their names, members and meaning are those of QEMU's
storage daemon, so that its clients work; what QEMU does not have is said to be ours. How a session works
(greeting, `qmp_capabilities`, commands, events) is QEMU's as well: `docs/interop/qmp-spec.rst` there.

A member marked *optional* may be left out; its default, if it is always the same, follows. Numbers are
integers unless the type is `number`; `size` is a number of bytes, which a command line may give as `64k`.
'''
KIND_NAMES = {'int': 'integer', 'str': 'string', 'bool': 'boolean', 'any': 'any value'}


def page(schema):
    lines = [HEAD.rstrip(), '', '## Contents', '']
    for module in schema.modules:
        lines.append(f'* [{module.title}](#{_anchor(module.title)})')
        for definition in module.definitions:
            if definition.kind in ('command', 'event'):
                lines.append(f'  * [{definition.name}](#{_anchor(definition.name)})')
    for module in schema.modules:
        lines += ['', f'## {module.title}'] + (['', *module.doc] if module.doc else [])
        for definition in sorted(module.definitions, key=lambda d: d.kind in TYPE_KINDS):
            lines += [''] + _definition(schema, definition)
    return '\n'.join(lines) + '\n'


def _anchor(title):
    return ''.join(c for c in title.lower().replace(' ', '-') if c.isalnum() or c in '-_')


def _definition(schema, definition):
    what = {'command': 'Command', 'event': 'Event', 'enum': 'Enumeration'}.get(definition.kind, 'Type')
    marks = ''.join(f' *({feature})*' for feature in definition.features)
    lines = [f'### {definition.name}', '', f'{what}.{marks} {" ".join(definition.doc)}'.rstrip()]
    if definition.base:
        lines += ['', f'All members of {_type(schema, definition.base)}, and:']
    if definition.arguments:
        lines += ['', f'Arguments: the members of {_type(schema, definition.arguments)}.']
    rows = [_member(schema, member) for member in definition.members]
    lines += [''] + rows if rows else []
    if definition.kind == 'alternate':
        lines[-len(rows):] = [f'* {_type(schema, member.type)}' for member in definition.members]
    for struct in dict.fromkeys(definition.branches.values()):
        values = ' or '.join(f'`{value}`' for value, branch in definition.branches.items() if branch == struct)
        lines += ['', f'With `{definition.tag}` {values}, also the members of {_type(schema, struct)}.']
    if definition.returns:
        lines += ['', f'Returns {_type(schema, definition.returns)}.']
    return lines


def _member(schema, member):
    text = f'* `{member.name}`'
    if member.type:
        text += f': {_type(schema, member.type)}'
    if member.optional:
        text += ', optional' + (f' (`{member.default}`)' if member.default is not None else '')
    text += ''.join(f' *({feature})*' for feature in member.features)
    return text + (f' — {" ".join(member.doc)}' if member.doc else '')


def _type(schema, name):
    if element(name):
        return f'list of {_type(schema, element(name))}'
    if base_type(name) in BUILTINS:
        return KIND_NAMES.get(name, name)
    return f'[{name}](#{_anchor(name)})'
