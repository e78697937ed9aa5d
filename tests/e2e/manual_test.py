"""The manual pages: they name every verb and option that --help prints, and are clean troff."""
import re
import unittest

from bed import DAMAGED, DONE, FAILED, INTERRUPTED, USAGE, Bed, processes

PAGES = processes.ROOT / "docs" / "man"


def text_of(page):
    """A page's words, without fonts and escapes."""
    text = (PAGES / page).read_text()
    return re.sub(r"\\f.", "", text).replace(r"\-", "-").replace(r"\~", " ")


def section_of(text, name):
    return text.partition(f".SH {name}\n")[2].partition("\n.SH ")[0]


class Manual(Bed):
    def help(self, *words, program=None):
        return self.lab.run(program or self.tidemark, *words, "--help", timeout=20).stdout

    def assert_options(self, help_text, page_text, where):
        options = {word for line in re.findall(r"^ +(-\S+)", help_text, re.MULTILINE) for word in line.split(",")}
        self.assertTrue(options, where)
        for option in options:
            self.assertRegex(page_text, rf"(?<![\w-]){option}(?![\w-])", where)

    def test_every_verb_and_option(self):
        page, pending = text_of("tidemark.1"), [()]
        common = section_of(page, "COMMON OPTIONS")
        while pending:
            words = pending.pop()
            text = self.help(*words)
            own = page.partition(f".SS {words[0]}\n")[2].partition("\n.S")[0] if words else ""
            self.assert_options(text, common + own, words)
            if len(words) == 2:
                self.assertIn(" ".join(words), own)
            elif words:
                self.assertNotEqual(own, "", words)
            listed = text.partition("Subcommands:\n")[2].partition("\n\n")[0]
            pending += [(*words, verb) for verb in re.findall(r"^  ([a-z-]+)", listed, re.MULTILINE)]

    def test_help_explains_every_word(self):
        pending, seen = [()], 0
        while pending:
            words = pending.pop()
            text = self.help(*words)
            body = "\n".join(part.partition("\n\n")[0] for part in re.split(r"^(?:Positionals|Options):\n", text, flags=re.M)[1:])
            body = re.sub(r"(?<=\S)\n {20,}", "    ", body)           # a long name's explanation is on the next line
            for line in body.splitlines():
                if line.strip():
                    self.assertRegex(line, r"^  \S.*?\s{2,}\S", f"{words}: {line!r} has no explanation")
                    seen += 1
            listed = text.partition("Subcommands:\n")[2].partition("\n\n")[0]
            pending += [(*words, verb) for verb in re.findall(r"^  ([a-z-]+)", listed, re.MULTILINE)]
        self.assertGreater(seen, 60)

    def test_every_option_of_the_daemon(self):
        self.assert_options(self.help(program=self.tidemarkd), section_of(text_of("tidemarkd.8"), "OPTIONS"), "tidemarkd")

    def test_exit_codes_and_environment(self):
        page = text_of("tidemark.1")
        codes = re.findall(r"^\.B (\d+)$", section_of(page, "EXIT STATUS"), re.MULTILINE)
        self.assertEqual([int(code) for code in codes], [DONE, FAILED, USAGE, DAMAGED, INTERRUPTED])
        self.assertIn("TIDEMARK_QMP", section_of(page, "ENVIRONMENT"))

    def test_troff_has_nothing_to_say(self):
        for page in sorted(PAGES.iterdir()):
            done = self.lab.run("groff", "-man", "-ww", "-z", page, timeout=20)
            self.assertEqual(done.stdout + done.stderr, "", page.name)

    def test_versions(self):
        version = self.lab.run(self.tidemark, "--version", timeout=20).stdout.split()[-1]
        for page in sorted(PAGES.iterdir()):
            self.assertIn(f'"Tidemark {version}"', page.read_text().splitlines()[0])


if __name__ == "__main__":
    unittest.main()
