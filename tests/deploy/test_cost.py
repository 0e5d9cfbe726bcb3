"""docs/COST.md: its sums are sums, and its quantities are those of the templates and of the metrics."""

import re
import unittest

import support
import template

COST = (support.ROOT / "docs" / "COST.md").read_text()
METRICS = (support.ROOT / "docs" / "METRICS.md").read_text()
TEMPLATE = template.load(support.ON_ECS)
RESOURCES = TEMPLATE["Resources"]
# What the defaults may cost on ECS without a NAT gateway.
MOST = 14


def of_type(kind):
    return [it["Properties"] for it in RESOURCES.values() if it["Type"] == kind]


def rows(title):
    """The cells of the first table under a heading."""
    text = COST.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    found = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("*") for cell in row] for row in found[2:]]


class Cost(unittest.TestCase):
    def test_a_row_is_its_quantity_by_its_price_and_the_sum_is_theirs(self):
        total = 0.0
        for what, quantity, price, month in rows("On ECS, with the templates' defaults"):
            if what == "sum":
                self.assertAlmostEqual(float(month), total, places=2)
                self.assertLessEqual(total, MOST)
                readme = (support.ROOT / "README.md").read_text()
                self.assertIn(f"about {total:.0f} USD on ECS with the templates' defaults", readme)
                return
            total += float(month)
            if price:
                factor = re.match(r"(?:about )?([\d.]+)(?: metrics for (\d+) of (\d+) hours)?", quantity)
                number, hours, of = factor.groups()
                number = float(number) * (int(hours) / int(of) if hours else 1)
                self.assertAlmostEqual(number * float(price), float(month), delta=0.006, msg=what)
        self.fail("there is no sum")

    def test_the_sum_on_ec2_is_that_of_its_rows(self):
        *parts, (name, total) = rows("On EC2")
        self.assertEqual(name, "sum")
        self.assertAlmostEqual(float(total), sum(float(it) for _, it in parts), places=2)

    def test_the_quantities_are_those_of_the_templates(self):
        quantity = {what: quantity for what, quantity, _, _ in rows("On ECS, with the templates' defaults")}
        (task,) = of_type("AWS::ECS::TaskDefinition")
        vcpus, memory = int(task["Cpu"]) / 1024, int(task["Memory"]) / 1024
        self.assertEqual(quantity["Fargate, 0.25 vCPU, ARM"], f"{vcpus * 730} vCPU hours")
        self.assertEqual(quantity["Fargate, 0.5 GB, ARM"], f"{memory * 730:.0f} GB hours")
        alarms = len(of_type("AWS::CloudWatch::Alarm"))
        self.assertEqual(quantity["alarms (ten are free in an account)"], str(alarms))
        # What the rows leave out.
        self.assertEqual(TEMPLATE["Parameters"]["Architecture"]["Default"], "ARM64")
        self.assertEqual(of_type("AWS::CloudWatch::Dashboard"), [])
        (cluster,) = of_type("AWS::ECS::Cluster")
        self.assertEqual(cluster["ClusterSettings"], [{"Name": "containerInsights", "Value": "disabled"}])
        # The daemon's own series are counted by tests/process/telemetry.rs, against the same row.
        gauges = {"InFlight", "OldestInFlightAge", "PollAge"}
        self.assertTrue(all(f"`{it}`" in METRICS for it in gauges))
        filters = [it["MetricTransformations"][0] for it in of_type("AWS::Logs::MetricFilter")]
        always = [it for it in filters if "DefaultValue" in it]
        self.assertEqual(quantity["metrics while idle"], f"{len(gauges) + len(always)} metrics")


if __name__ == "__main__":
    unittest.main()
