"""What query-qmp-schema says: which values a command takes and gives, and which of them somebody has used.

An argument is counted by its place: `block-job-set-speed: speed`, `blockdev-add[driver=qcow2]: lazy-refcounts`.  A type that
several commands use is counted once, where it is met first.
"""
import collections


class Schema:
    def __init__(self, entries):
        self._types = {entry["name"]: entry for entry in entries if entry["meta-type"] not in ("command", "event")}
        self.commands = {entry["name"]: entry for entry in entries if entry["meta-type"] == "command"}
        self.events = {entry["name"]: entry for entry in entries if entry["meta-type"] == "event"}

    def type(self, name):
        return self._types[name]

    def members(self, kind):
        """Of an object type, without its variants."""
        return {member["name"]: member for member in self.type(kind).get("members", ())}

    def variants(self, kind):
        """{value of the tag: object type}"""
        return {variant["case"]: variant["type"] for variant in self.type(kind).get("variants", ())}

    def parts(self, value, kind):
        """The object types that make up an object: its own, and its variant's."""
        entry = self.type(kind)
        yield kind
        if "tag" in entry:
            variant = self.variants(kind).get(value.get(entry["tag"]))
            if variant:
                yield from self.parts(value, variant)

    def _alternative(self, value, kind):
        def fits(name):
            entry = self.type(name)
            meta, is_a = entry["meta-type"], entry.get("json-type")
            if meta in ("object", "array"):
                return isinstance(value, dict if meta == "object" else list)
            return isinstance(value, {"string": str, "int": int, "boolean": bool, "null": type(None), "number": float}.get(is_a, str))

        return next((m["type"] for m in self.type(kind)["members"] if fits(m["type"])), None)

    def prune(self, value, kind):
        """Only what the schema knows of a value."""
        meta = self.type(kind)["meta-type"]
        if meta == "array":
            return [self.prune(one, self.type(kind)["element-type"]) for one in value]
        if meta == "alternate":
            chosen = self._alternative(value, kind)
            return self.prune(value, chosen) if chosen else value
        if meta != "object" or not isinstance(value, dict):
            return value
        known = {}
        for part in self.parts(value, kind):
            known |= self.members(part)
        return {key: self.prune(one, known[key]["type"]) for key, one in value.items() if key in known}

    def problems(self, value, kind, where="return"):
        """What of a value is not as the schema says."""
        entry = self.type(kind)
        meta = entry["meta-type"]
        if meta == "array":
            if not isinstance(value, list):
                return [f"{where} is no array"]
            return [p for i, one in enumerate(value) for p in self.problems(one, entry["element-type"], f"{where}[{i}]")]
        if meta == "alternate":
            chosen = self._alternative(value, kind)
            return self.problems(value, chosen, where) if chosen else [f"{where} is none of the alternatives"]
        if meta == "enum":
            return [] if value in entry["values"] else [f"{where} is '{value}'"]
        if meta == "builtin":
            python = {"string": str, "int": int, "boolean": bool, "number": (int, float), "null": type(None)}.get(entry["json-type"], object)
            return [] if isinstance(value, python) else [f"{where} is no {entry['json-type']}"]
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        known = {}
        for part in self.parts(value, kind):
            known |= self.members(part)
        found = [f"{where}.{key} is not there" for key, member in known.items() if "default" not in member and key not in value]
        for key, one in value.items():
            if key in known:
                found += self.problems(one, known[key]["type"], f"{where}.{key}")
        return found

    def used(self, value, kind, seen):
        """Adds (object type, member) and (enum type, value) of a value to `seen`."""
        entry = self.type(kind)
        meta = entry["meta-type"]
        if meta == "array" and isinstance(value, list):
            for one in value:
                self.used(one, entry["element-type"], seen)
        elif meta == "alternate":
            chosen = self._alternative(value, kind)
            if chosen:
                self.used(value, chosen, seen)
        elif meta == "enum":
            seen.add((kind, value))
        elif meta == "object" and isinstance(value, dict):
            for part in self.parts(value, kind):
                for key, member in self.members(part).items():
                    if key in value:
                        seen.add((part, key))
                        self.used(value[key], member["type"], seen)

    def places(self):
        """{command: [(label, object or enum type, member or value)]}: all that can be said, each type where it is met first."""
        labels, found = set(), collections.defaultdict(list)
        for name in sorted(self.commands):
            waiting = collections.deque([(name, self.commands[name]["arg-type"])])
            while waiting:
                label, kind = waiting.popleft()
                entry = self.type(kind)
                meta = entry["meta-type"]
                if meta == "array":
                    waiting.append((label, entry["element-type"]))
                elif meta == "alternate":
                    waiting.extend((label, member["type"]) for member in entry["members"])
                elif kind in labels:
                    continue
                elif meta == "enum":
                    labels.add(kind)
                    found[name] += [(f"{label}={value}", kind, value) for value in entry["values"]]
                elif meta == "object":
                    labels.add(kind)
                    for key, member in self.members(kind).items():
                        found[name].append((f"{label}.{key}", kind, key))
                        waiting.append((f"{label}.{key}", member["type"]))
                    waiting.extend((f"{label}[{case}]", variant) for case, variant in self.variants(kind).items())
        return found

    def lacks(self, other):
        """(type of `other`, member or value) that `other` has in its commands' arguments and this one has not."""
        missing, seen = set(), set()

        def all_of(kind):
            entry = other.type(kind)
            meta = entry["meta-type"]
            if kind in seen:
                return
            seen.add(kind)
            if meta == "array":
                all_of(entry["element-type"])
            elif meta == "enum":
                missing.update((kind, value) for value in entry["values"])
            elif meta == "alternate":
                for member in entry["members"]:
                    all_of(member["type"])
            elif meta == "object":
                missing.update((kind, key) for key in other.members(kind))
                for member in entry["members"]:
                    all_of(member["type"])
                for variant in other.variants(kind).values():
                    all_of(variant)

        def both(theirs, ours):
            if (theirs, ours) in seen:
                return
            seen.add((theirs, ours))
            seen.add(theirs)
            entry, mine = other.type(theirs), self.type(ours)
            meta = entry["meta-type"]
            if meta != mine["meta-type"]:
                return                             # an alternate that has grown, a string that was an enum
            if meta == "array":
                both(entry["element-type"], mine["element-type"])
            elif meta == "enum":
                missing.update((theirs, value) for value in entry["values"] if value not in mine["values"])
            elif meta == "alternate":
                by_kind = {self.type(m["type"])["meta-type"]: m["type"] for m in mine["members"]}
                for member in entry["members"]:
                    if (there := other.type(member["type"])["meta-type"]) in by_kind:
                        both(member["type"], by_kind[there])
            elif meta == "object":
                my_members = self.members(ours)
                for key, member in other.members(theirs).items():
                    if key in my_members:
                        both(member["type"], my_members[key]["type"])
                    else:
                        missing.add((theirs, key))
                my_variants = self.variants(ours)
                for case, variant in other.variants(theirs).items():
                    if case in my_variants:
                        both(variant, my_variants[case])
                    elif case in {v for m in my_members.values() if self.type(m["type"])["meta-type"] == "enum"
                                  for v in self.type(m["type"])["values"]}:
                        all_of(variant)

        for name, command in other.commands.items():
            if name in self.commands:
                both(command["arg-type"], self.commands[name]["arg-type"])
        return missing
