"""Metrics of the real daemon against the format's schema, and what carries them on."""

import json
import pathlib
import re
import tempfile
import tomllib
import unittest

import jsonschema
import yaml

import support
import template

SCHEMA = json.loads((pathlib.Path(__file__).parent / "emf.schema.json").read_text())
# `orphans --json` of a test that leaves some (tests/process/verbs.rs).
ORPHANS = support.ROOT / "target" / "tmp" / "orphans.json"
# The log of a daemon that finds production switched off (tests/process/telemetry.rs).
SWITCHED_OFF = support.ROOT / "target" / "tmp" / "switched-off.jsonl"


class Metrics(unittest.TestCase):
    def drained(self, **settings):
        """What a daemon writes that takes one rejection down, is sent what it refuses, and ends."""
        directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        log = directory / "daemon.log"
        environment = {
            "STAGESWEEP_CONFIG_TOML": support.TARGET,
            "STAGESWEEP__LEDGER__PATH": str(directory / "ledger.db"),
            "STAGESWEEP__QUEUE__WAIT_TIME": "1s",
            "STAGESWEEP__CLEANUP__POLL_INTERVAL_MIN": "100ms",
            "STAGESWEEP__RETRY__INITIAL_BACKOFF": "100ms",
            "STAGESWEEP__RETRY__MAX_BACKOFF": "1s",
            "STAGESWEEP__TELEMETRY__METRICS_INTERVAL": "100ms",
            **settings,
        }
        with support.embedded(directory) as embedded:
            environment["AWS_ENDPOINT_URL"] = embedded.endpoint
            environment["STAGESWEEP__QUEUE__URL"] = embedded.queue_url
            embedded("sqs").send_message(QueueUrl=embedded.queue_url, MessageBody="no event at all")
            with support.process([support.BINARY, "run", "--drain"], environment, log) as daemon:
                self.assertEqual(daemon.wait(support.PATIENCE), 0, log.read_text())
        return [json.loads(line) for line in log.read_text().splitlines()]

    def test_every_line_is_valid_emf_with_bounded_dimensions(self):
        validator = jsonschema.Draft202012Validator(SCHEMA)
        drained = self.drained(STAGESWEEP__TELEMETRY__METRICS_DETAIL="full")
        lines = [it for it in drained if "_aws" in it]
        dimensions = set()
        for line in lines:
            validator.validate(line)
            self.assertLess(len(json.dumps(line)), 16 * 1024)
            (directive,) = line["_aws"]["CloudWatchMetrics"]
            # Every member that a directive names is there, and of the type that it must be.
            for metric in directive["Metrics"]:
                value = line[metric["Name"]]
                values = value if isinstance(value, list) else [value]
                self.assertTrue(1 <= len(values) <= 100)
                self.assertTrue(all(isinstance(it, int) and it >= 0 for it in values), metric)
            for name in directive["Dimensions"][0]:
                self.assertRegex(line[name], r"^[A-Za-z_]{1,60}$")
                dimensions.add((name, line[name]))
        self.assertIn(("Reason", "cleaned"), dimensions)
        self.assertIn(("Operation", "DeleteDistribution"), dimensions)
        self.assertEqual(sum(it.get("CleanupsSucceeded", 0) for it in lines), 1)

    def test_flat_lines_are_what_the_example_for_vector_takes_apart(self):
        lines = self.drained(
            STAGESWEEP__TELEMETRY__METRICS_FORMAT="json", STAGESWEEP__TELEMETRY__METRICS_DETAIL="full"
        )
        metrics = [it for it in lines if it["message"] == "metrics"]
        totals = [it for it in metrics if "PollAge" in it]
        self.assertTrue(totals and len(totals) < len(metrics))
        self.assertFalse(any("_aws" in it for it in lines))
        # Vector itself is in no package registry that the tests may use: that the file is TOML and
        # names fields that there are is all that is checked.
        vector = tomllib.loads((support.DEPLOY / "shippers" / "vector.toml").read_text())
        for metric in vector["transforms"]["metrics"]["metrics"]:
            self.assertIn(metric["field"], totals[0])
            counted = isinstance(totals[0][metric["field"]], int)
            self.assertTrue(counted and metric["type"] in ("counter", "gauge"))
        known = set(vector["sources"]) | set(vector["transforms"])
        known |= {f"sorted.{route}" for route in vector["transforms"]["sorted"]["route"]}
        for it in [*vector["transforms"].values(), *vector["sinks"].values()]:
            self.assertLessEqual(set(it["inputs"]), known)

    def test_the_metric_filter_takes_error_lines_and_no_others(self):
        dashboard = template.load(support.DEPLOY / "cloudformation-dashboard.yaml")
        filter = dashboard["Resources"]["ErrorLines"]["Properties"]
        # No emulator evaluates filters on JSON: this one compares one field with one value.
        field, value = re.fullmatch(r'\{ \$\.(\w+) = "(\w+)" \}', filter["FilterPattern"]).groups()
        lines = self.drained()
        taken = [it["message"] for it in lines if it.get(field) == value]
        self.assertEqual(set(taken), {"message refused; it is left to the redrive policy"})
        self.assertLess(len(taken), len(lines))

    def test_the_alarm_on_orphans_counts_each_one_that_the_program_writes_of(self):
        resources = template.load(support.ON_ECS)["Resources"]
        filter, alarm = (resources[name]["Properties"] for name in ("OrphansFound", "OrphansAlarm"))
        # One term in quotes: a log event that has it anywhere counts, to the letter.
        (term,) = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', filter["FilterPattern"]).groups()
        term = re.sub(r"\\(.)", r"\1", term)
        # What the task of the schedule writes; ECS makes a log event of each line.
        command = json.loads(resources["OrphansRule"]["Properties"]["Targets"][0]["Input"])
        self.assertEqual(command["containerOverrides"][0]["command"], ["orphans", "--json"])
        written = ORPHANS.read_text()
        taken = [it for it in written.split("\n") if term in it]
        report = json.loads(written)
        verdicts = [it["orphan"] for it in report["items"]]
        self.assertEqual(len(taken), verdicts.count(True))
        self.assertEqual(set(verdicts), {True, False})
        (metric,) = filter["MetricTransformations"]
        for key, name in (("Namespace", "MetricNamespace"), ("MetricName", "MetricName")):
            self.assertEqual(alarm[key], metric[name])
        self.assertEqual((alarm["Statistic"], alarm["ComparisonOperator"]), ("Sum", "GreaterThanThreshold"))
        self.assertEqual((int(metric["MetricValue"]), alarm["Threshold"]), (1, 0))
        # The daemon's own log has it nowhere.
        self.assertFalse([it for it in self.drained() if term in json.dumps(it, separators=(",", ":"))])
        # Terraform has the same pattern.
        theirs = (support.DEPLOY / "terraform" / "alarms.tf").read_text()
        self.assertIn(f"pattern        = {json.dumps(filter['FilterPattern'])}\n", theirs)

    def test_the_alarm_on_production_counts_the_daemons_own_message_and_nothing_else(self):
        resources = template.load(support.ON_ECS)["Resources"]
        filter, alarm = (
            resources[name]["Properties"] for name in ("ProductionSwitchedOff", "ProductionDisabledAlarm")
        )
        # One field against one text that begins so.
        field, begin = re.fullmatch(r'\{ \$\.(\w+) = "([^"*]+)\*" \}', filter["FilterPattern"]).groups()
        lines = [json.loads(it) for it in SWITCHED_OFF.read_text().splitlines()]
        taken = [it for it in lines if it.get(field, "").startswith(begin)]
        self.assertEqual({it["level"] for it in taken}, {"ERROR"})
        # Its notice and its end, and the reviewer's comment, are other lines.
        self.assertTrue([it for it in lines if begin in json.dumps(it) and it not in taken])
        self.assertFalse([it for it in self.drained() if begin in json.dumps(it)])
        (metric,) = filter["MetricTransformations"]
        for key, name in (("Namespace", "MetricNamespace"), ("MetricName", "MetricName")):
            self.assertEqual(alarm[key], metric[name])
        self.assertEqual((alarm["Statistic"], alarm["ComparisonOperator"]), ("Sum", "GreaterThanThreshold"))
        self.assertEqual((int(metric["MetricValue"]), alarm["Threshold"]), (1, 0))
        # Terraform has the same pattern.
        theirs = (support.DEPLOY / "terraform" / "alarms.tf").read_text()
        self.assertIn(f"pattern        = {json.dumps(filter['FilterPattern'])}\n", theirs)

    def test_agents_read_where_the_unit_writes_and_the_stack_has_the_daemon_write_to_the_agent(self):
        agent = json.loads((support.DEPLOY / "cloudwatch-agent.json").read_text())
        unit = (support.ROOT / "systemd" / "stagesweep-log.service").read_text()
        directory = re.search(r"^LogsDirectory=(.*)$", unit, re.M)[1]
        name = re.search(r'>>"\$LOGS_DIRECTORY/(.*)"', unit)[1]
        path = f"/var/log/{directory}/{name}"
        (file,) = agent["logs"]["logs_collected"]["files"]["collect_list"]
        self.assertEqual(file["file_path"], path)
        self.assertIn(f"\n{path}\n", (support.ROOT / "systemd" / "logrotate").read_text())
        self.assertIn(f"\nGroup={agent['agent']['run_as_user']}\n", unit)
        # Empty: it listens on 127.0.0.1:25888.
        self.assertEqual(agent["logs"]["metrics_collected"], {"emf": {}})
        resources = template.load(support.ON_EC2)
        stack = template.Stack(resources, support.ACCOUNT, support.REGION)
        written = tomllib.loads(stack.resolve(resources["Outputs"]["Configuration"]["Value"]))["telemetry"]
        self.assertEqual(written["metrics_sink"], "tcp://127.0.0.1:25888")
        # The group of a stack of the default name is the one in the files that cannot know it; the role allows
        # that of the stack. For another one, the documentation has them replaced.
        default = tomllib.loads((support.ROOT / "config" / "default.toml").read_text())["telemetry"]
        group = stack.resolve(resources["Resources"]["Logs"]["Properties"]["LogGroupName"])
        # Fluent Bit is in no package registry that the tests may use: the file is YAML, and coherent.
        fluent = yaml.safe_load((support.DEPLOY / "shippers" / "fluent-bit.yaml").read_text())
        (tail,), (output,) = fluent["pipeline"]["inputs"], fluent["pipeline"]["outputs"]
        self.assertEqual(tail["path"], path)
        self.assertEqual(tail["tag"], output["match"])
        self.assertIn(tail["parser"], [it["name"] for it in fluent["parsers"]])
        for it in (file["log_group_name"], output["log_group_name"], default["metrics_log_group"]):
            self.assertEqual(it, group)
        page = (support.ROOT / "docs" / "INSTALL-EC2.md").read_text()
        self.assertIn(f"sed \"s|{group}|$GROUP|\"", page)

    def test_what_watches_the_daemon_looks_where_it_writes(self):
        for path in (support.ON_ECS, support.ON_EC2):
            resources = template.load(path)
            stack = template.Stack(resources, support.ACCOUNT, support.REGION)
            if path == support.ON_ECS:
                (container,) = resources["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]
                environment = {it["Name"]: stack.resolve(it["Value"]) for it in container["Environment"]}
                namespace = environment["STAGESWEEP__TELEMETRY__METRICS_NAMESPACE"]
            else:
                written = tomllib.loads(stack.resolve(resources["Outputs"]["Configuration"]["Value"]))
                namespace = written["telemetry"]["metrics_namespace"]
            self.assertEqual(namespace, "Stagesweep/stagesweep")
            self.assertEqual(self.namespaces(stack, resources), {namespace, "AWS/SQS"})
        resources = template.load(support.DEPLOY / "cloudformation-dashboard.yaml")
        stack = template.Stack(resources, support.ACCOUNT, support.REGION)
        self.assertEqual(self.namespaces(stack, resources), {namespace})
        body = resources["Resources"]["Dashboard"]["Properties"]["DashboardBody"]
        widgets = json.loads(stack.resolve(body))["widgets"]
        named = {it[0] for widget in widgets for it in widget["properties"].get("metrics", []) if isinstance(it[0], str)}
        self.assertEqual(named - {".", "..."}, {namespace, "AWS/SQS"})
        # Those of the daemon's stack, by the names that it gives them.
        ecs = template.load(support.ON_ECS)["Resources"]
        stack = template.Stack(template.load(support.ON_ECS), support.ACCOUNT, support.REGION)
        names = {stack.resolve(ecs[it]["Properties"]["QueueName"]) for it in ("Queue", "DeadLetters", "UndeliveredEvents")}
        shown = {name for widget in widgets for it in widget["properties"].get("metrics", []) for name in it if isinstance(name, str)}
        self.assertLessEqual(names, shown)
        self.assertIn(f"SOURCE '{stack.resolve(ecs['Logs']['Properties']['LogGroupName'])}'", json.dumps(widgets))

    def namespaces(self, stack, resources):
        found = set()
        for it in resources["Resources"].values():
            if it["Type"] == "AWS::CloudWatch::Alarm":
                found.add(stack.resolve(it["Properties"]["Namespace"]))
            for metric in it["Properties"].get("MetricTransformations", []):
                found.add(stack.resolve(metric["MetricNamespace"]))
        return found


if __name__ == "__main__":
    unittest.main()
