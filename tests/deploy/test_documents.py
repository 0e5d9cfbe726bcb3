"""docs/OPERATIONS.md and docs/METRICS.md say what the templates do, all of it and nothing else."""

import re
import unittest

import support
import template

TEMPLATE = template.load(support.DEPLOY / "cloudformation.yaml")
OPERATIONS = (support.ROOT / "docs" / "OPERATIONS.md").read_text()


def section(title):
    """What stands under a heading, down to the next one of its level or above."""
    level, rest = re.search(rf"^(#+) {re.escape(title)}\n(.*)", OPERATIONS, re.M | re.S).groups()
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.M)[0]


class Documents(unittest.TestCase):
    def test_every_alarm_has_its_part_of_the_runbook(self):
        alarms = {
            it["Properties"]["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-"): it["Properties"]
            for it in TEMPLATE["Resources"].values()
            if it["Type"] == "AWS::CloudWatch::Alarm"
        }
        headings = re.findall(r"^### Alarm: (.*)$", OPERATIONS, re.M)
        self.assertEqual({it.replace(" ", "-") for it in headings}, set(alarms))
        for name, alarm in alarms.items():
            self.assertIn(f"`NAME-{name}`", section("Alarm: " + name.replace("-", " ")))
            self.assertIn("docs/OPERATIONS.md", alarm["AlarmDescription"])
            self.assertEqual(alarm["TreatMissingData"], "breaching" if name == "no-poll" else "notBreaching")

    def test_every_permission_is_explained(self):
        table = section("What the role may do")
        explained = set()
        for cell in re.findall(r"^\| (`[^|]+) \|", table, re.M):
            names = re.findall(r"`([\w:]+)`", cell)
            service = names[0].split(":")[0]
            explained |= {name if ":" in name else f"{service}:{name}" for name in names}
        allowed = {action for _, it in template.statements(TEMPLATE) for action in template.actions(it)}
        self.assertEqual(explained, allowed)

    def test_every_link_within_the_documents_leads_somewhere(self):
        def anchors(path):
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            return {re.sub(r"[^\w\- ]", "", it.lower()).replace(" ", "-") for it in headings}

        for page in ("docs/OPERATIONS.md", "docs/METRICS.md", "docs/SECURITY-MODEL.md", "SECURITY.md", "deploy/cdk/README.md"):
            path = support.ROOT / page
            for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
                if target.startswith("https://"):
                    continue
                file, _, anchor = target.partition("#")
                there = (path.parent / file).resolve() if file else path
                self.assertTrue(there.exists(), f"{page}: {target}")
                if anchor:
                    self.assertIn(anchor, anchors(there), f"{page}: {target}")


if __name__ == "__main__":
    unittest.main()
