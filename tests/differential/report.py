"""docs/compatibility.md: every command and argument of QEMU 11's storage daemon, and how ours does with it."""

HEAD = """# Compatibility with qemu-storage-daemon

Made by `tests/differential/differential_test.py --write`; a test keeps it true.

Every command and argument of the schema of QEMU 11's storage daemon, against what `tidemarkd` takes. *Same*: both daemons (the
other one is Debian's, of QEMU 7.2) were told the same by the scripts in `tests/differential/scripts`, and answers, events,
the graph with its bitmaps, and the files that were left were equal. *Better*: some uses ours answers otherwise, for the reason
given; *worse*: there Debian's is right.
*By the schema*: Debian's does not know it yet; what ours answered is of the schema's shape. *Untried*: it is there, and no
script says it; other tests may. Arguments: tried, of those that are there, of those that QEMU 11 has (places where a value can be
given, enumerations' values each counted, types that several commands share with the first of them).

"""


class Results:
    """Of all scripts together."""

    def __init__(self, outcomes):
        self.same, self.by_schema, self.used, self.better, self.worse = set(), set(), set(), {}, {}
        for outcome in outcomes:
            self.same |= outcome.same
            self.by_schema |= outcome.ours
            self.used |= outcome.used
            for mine, its in ((self.better, outcome.better), (self.worse, outcome.worse)):
                for name, why in its.items():
                    mine.setdefault(name, set()).update(why)

    def status(self, name, ours):
        if name not in ours.commands:
            return "**missing**"
        said = ["**worse**: " + why for why in sorted(self.worse.get(name, ()))]
        said += ["better: " + why for why in sorted(self.better.get(name, ()))]
        if not said or name in self.same:
            said.insert(0, "same" if name in self.same else "by the schema" if name in self.by_schema else "untried")
        return "; ".join(said)


def write(outcomes, ours, reference):
    results = Results(outcomes)
    lacking = ours.lacks(reference)
    rows, missing, untried, sums = [], [], [], [0, 0, 0]
    for name, places in sorted({**dict.fromkeys(reference.commands, ()), **reference.places()}.items()):
        there = [place for place in places if name in ours.commands and place[1:] not in lacking]
        tried = [place for place in there if place[1:] in results.used]
        counts = len(tried), len(there), len(places)
        sums = [a + b for a, b in zip(sums, counts)]
        counted = " / ".join(map(str, counts)) if places else ""
        rows.append(f"| `{name}` | {results.status(name, ours)} | {counted} |")
        if name in ours.commands:
            missing += [f"* `{place[0]}`" for place in places if place[1:] in lacking]
            untried += [f"`{place[0]}`" for place in there if place[1:] not in results.used]
    text = HEAD + f"{len(outcomes)} scripts; {sums[0]} of {sums[2]} arguments and values tried, {sums[1]} are there.\n\n"
    text += "| command | | arguments |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    text += "\n## Arguments and values that are missing\n\nOf commands that are there.\n\n" + "\n".join(missing) + "\n"
    text += "\n## Arguments and values that no script tries\n\n" + ",\n".join(untried) + ".\n"
    return text
