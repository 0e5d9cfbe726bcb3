"""The documents say what the templates and the program do, all of it and nothing else, and lead somewhere."""

import re
import unittest

import support
import template

TEMPLATE = template.load(support.ON_ECS)
DOCS = support.ROOT / "docs"
PAGES = [
    support.ROOT / "README.md",
    support.ROOT / "CONTRIBUTING.md",
    support.ROOT / "SECURITY.md",
    *sorted(DOCS.glob("*.md")),
    *sorted(support.DEPLOY.rglob("README.md")),
]


def section(page, title):
    """What stands under a heading, down to the next one of its level or above."""
    text = (DOCS / page).read_text()
    level, rest = re.search(rf"^(#+) {re.escape(title)}\n(.*)", text, re.M | re.S).groups()
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.M)[0]


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", it.lower()).replace(" ", "-") for it in headings}


def alarms():
    """The properties of each alarm, by its name without the stack's."""
    return {
        it["Properties"]["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-"): it["Properties"]
        for it in TEMPLATE["Resources"].values()
        if it["Type"] == "AWS::CloudWatch::Alarm"
    }


class Documents(unittest.TestCase):
    def test_every_alarm_has_its_part_of_the_runbook(self):
        runbook = (DOCS / "RUNBOOK.md").read_text()
        parts = re.findall(r"^## (.*)\n\n`NAME-([\w-]+)`: ", runbook, re.M)
        self.assertEqual({name for _, name in parts}, set(alarms()))
        for heading, name in parts:
            # What the alarm's description leads to.
            self.assertEqual(heading.lower().replace(" ", "-"), name)
            self.assertIn("First command", section("RUNBOOK.md", heading))
        listed = re.findall(r"^\| \[([\w-]+)\]\(#([\w-]+)\) \|", runbook, re.M)
        self.assertEqual({name for name, _ in listed}, set(alarms()))

    def test_every_alarm_says_what_is_at_stake_what_to_do_first_and_where_to_read_on(self):
        for name, alarm in alarms().items():
            description = alarm["AlarmDescription"]["Fn::Sub"]
            self.assertTrue(description.endswith(f"${{RunbookUrl}}#{name}"), description)
            self.assertIn("First: ", description)
            self.assertEqual(alarm["TreatMissingData"], "breaching" if name == "no-poll" else "notBreaching")
            self.assertLessEqual(len(description), 900)  # CloudWatch: 1024 characters, the URL included

    def test_every_permission_is_explained(self):
        table = section("PERMISSIONS.md", "The daemon's role")
        explained = set()
        for cell in re.findall(r"^\| (`[^|]+) \|", table, re.M):
            names = re.findall(r"`([\w:]+)`", cell)
            service = names[0].split(":")[0]
            explained |= {name if ":" in name else f"{service}:{name}" for name in names}
        allowed = {
            action
            for path in (support.ON_ECS, support.ON_EC2)
            for _, it in template.statements(template.load(path))
            for action in template.actions(it)
        }
        self.assertEqual(explained, allowed)

    def test_every_message_of_the_troubleshooting_page_is_one_of_the_program(self):
        sources = "\n".join(it.read_text() for it in sorted((support.ROOT / "src").rglob("*.rs")))
        # A literal that goes on in the next line.
        sources = re.sub(r"\\\n\s*", "", sources)
        listed = re.findall(r"^\| (`+)(.+?)\1", (DOCS / "TROUBLESHOOTING.md").read_text(), re.M)
        self.assertGreater(len(listed), 30)
        for _, message in listed:
            for part in filter(None, (it.strip(" ;:,") for it in message.split("…"))):
                self.assertTrue(part in sources, message)

    def test_a_page_opens_with_what_it_is_for(self):
        for page in [*DOCS.glob("*.md"), *support.DEPLOY.rglob("README.md")]:
            title, empty, first = page.read_text().split("\n", 3)[:3]
            self.assertTrue(title.startswith("# ") and not empty, page.name)
            self.assertTrue(first.startswith("This page "), page.name)

    def test_the_readme_is_short_and_names_both_commands_once(self):
        readme = (support.ROOT / "README.md").read_text()
        self.assertLessEqual(len(readme.splitlines()), 180)
        self.assertIn("**Preview.**", readme.splitlines()[2])
        self.assertEqual(readme.count("cargo run --locked -- rehearse"), 1)
        self.assertEqual(readme.count("./tests/run"), 1)

    def test_the_map_is_short(self):
        self.assertLessEqual(len((DOCS / "ARCHITECTURE.md").read_text().splitlines()), 250)

    def test_every_file_that_the_map_and_the_page_for_contributors_name_is_there(self):
        for path in (DOCS / "ARCHITECTURE.md", support.ROOT / "CONTRIBUTING.md"):
            names = re.findall(r"`([\w.-]*/[\w./-]*|[\w-]+\.(?:rs|toml))`", path.read_text())
            self.assertGreater(len(names), 20)
            for name in names:
                if "NAME" not in name:
                    there = [support.ROOT / name, support.ROOT / "src" / name]
                    self.assertTrue(any(it.exists() for it in there), f"{path.name}: {name}")

    def test_every_link_within_the_documents_leads_somewhere(self):
        for path in PAGES:
            text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                if target.startswith("https://"):
                    continue
                file, _, anchor = target.partition("#")
                there = (path.parent / file).resolve() if file else path
                self.assertTrue(there.exists(), f"{path.name}: {target}")
                if anchor:
                    self.assertIn(anchor, anchors(there), f"{path.name}: {target}")


if __name__ == "__main__":
    unittest.main()
