"""The schema as a whole: names resolved and checked, types in an order in which C++ can have them."""

import re

from .parser import SchemaError

# Built-in types: their C++ type and the name that introspection gives them.
BUILTINS = {
    'str': ('std::string', 'str'), 'bool': ('bool', 'bool'), 'number': ('double', 'number'),
    'any': ('Json', 'any'), 'null': ('std::nullptr_t', 'null'),
    'size': ('Size', 'int'), 'int': ('std::int64_t', 'int'),
    'int8': ('std::int8_t', 'int'), 'int16': ('std::int16_t', 'int'),
    'int32': ('std::int32_t', 'int'), 'int64': ('std::int64_t', 'int'),
    'uint8': ('std::uint8_t', 'int'), 'uint16': ('std::uint16_t', 'int'),
    'uint32': ('std::uint32_t', 'int'), 'uint64': ('std::uint64_t', 'int'),
}
TYPE_KINDS = ('enum', 'struct', 'union', 'alternate')
FEATURES = ('deprecated', 'unstable')
ABILITIES = ('allow-write-only-overlay', 'dynamic-auto-read-only')       # of definitions: what they have not always been able to do

# Words that C++ or its headers keep for themselves.
RESERVED = set('''alignas and asm auto bool break case catch char class const continue default delete do double else
    enum errno explicit export extern false float for friend goto if inline int long namespace new not operator or
    private protected public register return short signed sizeof static struct switch template this throw true try
    typedef union unix unsigned using virtual void volatile while xor typename'''.split())


def c_name(name):
    """The C++ identifier of a member, value or command."""
    word = re.sub(r'[^A-Za-z0-9_]', '_', name)
    if word in RESERVED or word[0].isdigit():
        word = word + '_' if not word[0].isdigit() else '_' + word
    return word


def camel(name):
    """job-pause -> JobPause, JOB_STATUS_CHANGE -> JobStatusChange."""
    return ''.join(part[:1].upper() + (part[1:].lower() if part.isupper() else part[1:])
                   for part in re.split(r'[-_]', name))


def element(type_name):
    """The type of a list's elements, or None."""
    return type_name[1:-1] if type_name.startswith('[') else None


def base_type(type_name):
    return element(type_name) or type_name


class Schema:
    def __init__(self, modules):
        self.modules = self._in_order(modules)
        self.types = {}              # name -> Definition
        self.module_of = {}          # name of a type -> Module
        for module in self.modules:
            for definition in module.definitions:
                if definition.kind in TYPE_KINDS:
                    self._add_type(module, definition)
        for module in self.modules:
            for definition in module.definitions:
                self._check(module, definition)
        self.recursive = {name for name in self.types if self._reaches(name, name)}

    @staticmethod
    def _in_order(modules):
        """Modules after those they use."""
        by_name = {module.name: module for module in modules}
        ordered, under_way = [], []

        def visit(module):
            if module in ordered:
                return
            if module in under_way:
                raise SchemaError(f'{module.name}.schema: uses itself')
            under_way.append(module)
            for name in module.uses:
                if name not in by_name:
                    raise SchemaError(f'{module.name}.schema: uses {name}, which is not there')
                visit(by_name[name])
            ordered.append(module)

        for module in modules:
            visit(module)
        return ordered

    def _add_type(self, module, definition):
        if definition.name in self.types or definition.name in BUILTINS:
            raise SchemaError(f'{definition.place}: {definition.name} is defined twice')
        self.types[definition.name] = definition
        self.module_of[definition.name] = module

    # Checks.

    def _check(self, module, definition):
        def fail(what):
            raise SchemaError(f'{definition.place}: {what}')

        for feature in definition.features:
            if feature not in FEATURES + ABILITIES:
                fail(f'no such feature: {feature}')
        for feature in [f for m in definition.members for f in m.features]:
            if feature not in FEATURES:
                fail(f'no such feature: {feature}')
        for name in self._names_used(definition):
            if name in BUILTINS:
                continue
            if name not in self.types:
                fail(f'no such type: {name}')
            if self.module_of[name].name not in [module.name] + self._all_uses(module):
                fail(f'{name} is in {self.module_of[name].name}, which is not used here')
        if not definition.doc and definition.kind in ('command', 'event'):
            fail('is not described')
        for member in definition.members:
            if definition.kind in ('struct', 'union', 'command', 'event') and not member.doc:
                fail(f'{member.name} is not described')
            if member.default is not None:
                self._check_default(member, fail)
        if definition.kind == 'union':
            self._check_union(definition, fail)
        if definition.kind == 'alternate':
            kinds = [self.json_kind(m.type) for m in definition.members]
            if len(set(kinds)) != len(kinds):
                fail('two alternatives look the same in JSON')

    def _all_uses(self, module):
        names = list(module.uses)
        for used in self.modules:
            if used.name in module.uses:
                names += self._all_uses(used)
        return names

    def _check_default(self, member, fail):
        target = self.types.get(member.type)
        if target is not None and target.kind == 'enum':
            if member.default not in [value.name for value in target.members]:
                fail(f'{member.name}: {member.default} is no {member.type}')
        elif member.type not in BUILTINS or member.type in ('any', 'null', 'str'):
            fail(f'{member.name}: a {member.type} has no default')

    def _check_union(self, definition, fail):
        tags = [member for member in definition.members if member.name == definition.tag]
        enum = self.types.get(tags[0].type) if tags else None
        if enum is None or enum.kind != 'enum' or tags[0].optional:
            fail(f'{definition.tag} is no mandatory member of an enum type')
        for value, branch in definition.branches.items():
            if value not in [member.name for member in enum.members]:
                fail(f'{value} is no {enum.name}')
            if self.types[branch].kind != 'struct':
                fail(f'{branch} is no struct')

    # Questions.

    def json_kind(self, type_name):
        """What a type is in JSON, as Json::Kind has it."""
        if element(type_name):
            return 'array'
        if type_name in BUILTINS:
            return {'str': 'string', 'bool': 'boolean', 'null': 'null', 'number': 'number',
                    'any': 'any'}.get(type_name, 'integer')
        return {'enum': 'string', 'alternate': 'any'}.get(self.types[type_name].kind, 'object')

    @staticmethod
    def _names_used(definition):
        names = [base_type(m.type) for m in definition.members if m.type]
        names += [definition.base] if definition.base else []
        names += list(definition.branches.values())
        names += [definition.arguments] if definition.arguments else []
        names += [base_type(definition.returns)] if definition.returns else []
        return names

    def _reaches(self, start, goal):
        seen, queue = set(), [start]
        while queue:
            for name in self._names_used(self.types[queue.pop()]):
                if name == goal:
                    return True
                if name in self.types and name not in seen:
                    seen.add(name)
                    queue.append(name)
        return False

    def boxed(self, owner, member):
        """Whether a member is held by a Box: where a type holds itself, at an alternate or at an
        optional member."""
        if element(member.type) or member.type not in self.types:
            return False
        both = owner.name in self.recursive and member.type in self.recursive
        return both and self._reaches(member.type, owner.name) and self.types[member.type].kind != 'alternate' \
            and (owner.kind == 'alternate' or member.optional)

    def needed_before(self, definition):
        """The types of the same module that C++ must have seen in full before this one."""
        names = [base_type(m.type) for m in definition.members if m.type and not self.boxed(definition, m)
                 and not (element(m.type) and definition.name in self.recursive)]
        names += [definition.base] if definition.base else []
        names += list(definition.branches.values())
        return [name for name in names if name in self.types]

    def types_in_order(self, module):
        ordered, seen = [], set()

        def visit(definition):
            if definition.name in seen or self.module_of[definition.name] is not module:
                return
            seen.add(definition.name)
            for name in self.needed_before(definition):
                visit(self.types[name])
            ordered.append(definition)

        for definition in module.definitions:
            if definition.kind in TYPE_KINDS:
                visit(definition)
        return ordered

    def cpp_type(self, type_name):
        inner = element(type_name)
        if inner:
            return f'std::vector<{self.cpp_type(inner)}>'
        return BUILTINS[type_name][0] if type_name in BUILTINS else type_name

    @staticmethod
    def arguments_struct(command):
        """The C++ struct of a command's arguments."""
        if command.arguments:
            return command.arguments
        return camel(command.name) + 'Arguments' if command.members else 'Nothing'
