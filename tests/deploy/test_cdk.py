"""deploy/cdk: compiled, used by an application, and synthesized; what comes out is the template."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import support
import template

# Where `./tests/run` installed what the lock file names. The package stands beside the template, as it does
# in deploy/.
WORK = support.TOOLS / "cdk" / "package"


def run(*command):
    done = subprocess.run(command, cwd=WORK, capture_output=True, text=True, timeout=300)
    # Nor may CDK's own validation have anything to say.
    if done.returncode != 0 or "WARNING" in done.stdout + done.stderr or "ERROR" in done.stdout + done.stderr:
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}")


class Cdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.copytree(support.DEPLOY / "cdk" / "src", WORK / "src", dirs_exist_ok=True)
        shutil.copy(support.DEPLOY / "cdk" / "tsconfig.json", WORK)
        for it in support.DEPLOY.glob("cloudformation-*.yaml"):
            shutil.copy(it, WORK.parent)
        shutil.copy(pathlib.Path(__file__).parent / "cdk_app.js", WORK)
        run("node", "node_modules/typescript/bin/tsc")
        cls.out = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        run("node", "cdk_app.js", str(cls.out))

    def synthesized(self, name):
        return json.loads((self.out / f"{name}.template.json").read_text())

    def test_every_resource_is_the_templates_own(self):
        for name, path in (("Least", support.ON_EC2), ("Most", support.ON_ECS)):
            ours = template.load(path)["Resources"]
            found = self.synthesized(name)["Resources"]
            for logical_id, resource in ours.items():
                self.assertEqual(found[logical_id]["Type"], resource["Type"])
                self.assertEqual(found[logical_id].get("Condition"), resource.get("Condition"))
            statements = lambda resources: [
                (id, it["Sid"], template.actions(it)) for id, it in template.statements({"Resources": resources})
            ]
            self.assertEqual(statements({id: found[id] for id in ours}), statements(ours))
        self.assertEqual(set(self.synthesized("Least")["Resources"]), set(template.load(support.ON_EC2)["Resources"]))

    def test_nothing_of_the_templates_is_left_to_be_filled_in(self):
        for name in ("Least", "Most"):
            synthesized = self.synthesized(name)
            self.assertEqual(synthesized.get("Parameters", {}), {})
            self.assertEqual(synthesized.get("Rules", {}), {})
            self.assertNotIn("AWS::CloudFormation::Interface", synthesized.get("Metadata", {}))

    def test_no_condition_names_a_resource(self):
        # CloudFormation: conditions know parameters only. What the application makes itself has no value yet.
        for name in ("Least", "Most"):
            synthesized = self.synthesized(name)
            named = re.findall(r'"(?:Ref|Fn::GetAtt)": \[?"(\w+)"', json.dumps(synthesized["Conditions"]))
            self.assertEqual(set(named) & set(synthesized["Resources"]), set())

    def test_grants_and_metrics_are_about_this_stack(self):
        resources = self.synthesized("Most")["Resources"].values()
        mine = [it for it in resources if it["Type"] == "AWS::CloudWatch::Alarm" and "AlarmName" not in it["Properties"]]
        self.assertEqual({it["Properties"]["Namespace"] for it in mine}, {"Stagesweep/Most"})
        listed = re.findall(r"^\| `(\w+)` \|", (support.ROOT / "docs" / "METRICS.md").read_text(), re.M)
        self.assertEqual(len(mine), 4)
        self.assertLessEqual({it["Properties"]["MetricName"] for it in mine}, set(listed))
        (granted,) = [it for it in resources if "Person" in json.dumps(it.get("Properties", {}).get("Roles", ""))]
        actions = {action for it in granted["Properties"]["PolicyDocument"]["Statement"] for action in template.actions(it)}
        self.assertLessEqual({"sts:AssumeRole", "sqs:SendMessage"}, actions)
        dashboards = [it for it in resources if it["Type"] == "AWS::CloudWatch::Dashboard"]
        self.assertIn("AWS::StackName", json.dumps(dashboards))

    def test_a_rejection_of_a_pipeline_of_the_application_reaches_its_queue(self):
        synthesized = self.synthesized("Most")
        # The network and the service are CDK's and ECS's own; ministack counts no tasks from a text.
        kept = template.load(support.ON_ECS)["Resources"]
        for logical_id in list(synthesized["Resources"]):
            kind = synthesized["Resources"][logical_id]["Type"]
            if kind.startswith("AWS::EC2::") or kind == "AWS::ECS::Service":
                del synthesized["Resources"][logical_id]
        self.assertIn("Queue", kept)
        with support.ministack() as aws:
            text = template.without(synthesized, "AWS::Events::EventBusPolicy", "AWS::Logs::QueryDefinition")
            outputs = support.create_stack(aws, "application", text, {})
            event = json.loads((support.ROOT / "tests" / "events" / "approval-rejected.json").read_text())
            event["detail"].update(pipeline="landing-pages", stage="Release", action="Review")
            support.put_event(aws("events"), event)
            message = aws("sqs").receive_message(QueueUrl=outputs["QueueUrl"], WaitTimeSeconds=5)
            (body,) = [json.loads(it["Body"]) for it in message["Messages"]]
            self.assertEqual(body["detail"], event["detail"])
            (arn,) = aws("ecs").list_task_definitions()["taskDefinitionArns"]
            definition = aws("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"]
            environment = {it["name"]: it["value"] for it in definition["containerDefinitions"][0]["environment"]}
        with tempfile.TemporaryDirectory() as directory:
            log = pathlib.Path(directory, "check.log")
            with support.process([support.BINARY, "check"], environment, log) as check:
                self.assertEqual(check.wait(support.PATIENCE), 0, log.read_text())
            self.assertIn("landing-pages / Release / Review", log.read_text())
            self.assertIn("{service}-frontend-pipeline / Approve / Approve", log.read_text())


if __name__ == "__main__":
    unittest.main()
