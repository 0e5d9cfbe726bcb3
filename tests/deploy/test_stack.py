"""The CloudFormation stack, created in an AWS that others wrote, and the daemon on its queue.

EventBridge, SQS, DynamoDB and CloudFormation are ministack's. CloudFront and Parameter Store are the
ones in the program, since no emulator knows continuous deployment.
"""

import copy
import json
import os
import pathlib
import re
import subprocess
import tempfile
import tomllib
import unittest

import support
import template

EVENTS = support.ROOT / "tests" / "events"
ECS, EC2 = template.load(support.ON_ECS), template.load(support.ON_EC2)
DASHBOARD = template.load(support.DEPLOY / "cloudformation-dashboard.yaml")

# What ministack knows no such resource of. Everything else of the templates is created.
UNKNOWN = ("AWS::Events::EventBusPolicy", "AWS::Logs::QueryDefinition")

ON_ECS = {
    "Mode": "act",
    "Image": "stagesweep",
    "VpcId": "vpc-00000000",
    "SubnetIds": "subnet-00000000",
}


def event(name):
    """An event as AWS sends it, but of the account and region in which the stack is."""
    text = (EVENTS / f"{name}.json").read_text()
    it = json.loads(text)
    text = text.replace(it["account"], support.ACCOUNT).replace(it["region"], support.REGION)
    return json.loads(text)


def changed(original, **detail):
    it = copy.deepcopy(original)
    it["detail"].update(detail)
    return it


class Stack(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.aws = cls.enterClassContext(support.ministack())

    def setUp(self):
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.sqs = self.aws("sqs")
        self.events = self.aws("events")

    def create(self, name, parameters, of=EC2):
        text = template.without(of, *UNKNOWN)
        if of is ECS:
            # ministack cannot count with a parameter of type Number.
            definition = json.loads(text)
            definition["Resources"]["Service"]["Properties"]["DesiredCount"] = 0
            text = json.dumps(definition)
        outputs = support.create_stack(self.aws, name, text, parameters)
        self.addCleanup(self.delete, name)
        return outputs

    def delete(self, name):
        self.aws("cloudformation").delete_stack(StackName=name)
        # Rules of another test's stack would put its events on a queue that is gone.
        support.until("the rules are gone", lambda: not self.events.list_rules()["Rules"])

    def put(self, event):
        support.put_event(self.events, event)

    def depth(self, url):
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def take_all(self, url):
        """Every message that is on the queue, in the order in which they came."""
        bodies = []
        while True:
            answer = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0)
            messages = answer.get("Messages", [])
            if not messages:
                return bodies
            for message in messages:
                bodies.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    def daemon(self, embedded, environment):
        log = self.directory / "daemon.log"
        endpoints = {
            "AWS_ENDPOINT_URL": embedded.endpoint,
            "AWS_ENDPOINT_URL_SQS": self.aws.endpoint,
            "AWS_ENDPOINT_URL_DYNAMODB": self.aws.endpoint,
            "STAGESWEEP__QUEUE__WAIT_TIME": "1s",
            "STAGESWEEP__CLEANUP__POLL_INTERVAL_MIN": "100ms",
            # What is refused comes back with backoff, until the redrive policy ends it.
            "STAGESWEEP__RETRY__INITIAL_BACKOFF": "100ms",
            "STAGESWEEP__RETRY__MAX_BACKOFF": "1s",
            "STAGESWEEP__LEDGER__PATH": str(self.directory / "ledger.db"),
        }
        self.enterContext(support.process([support.BINARY, "run"], {**endpoints, **environment}, log))
        return log

    def examine(self, embedded, config, role):
        """`doctor` finds nothing amiss, neither with the rule nor with what the stack's role may change."""
        environment = {**support.ENVIRONMENT, "AWS_ENDPOINT_URL": embedded.endpoint}
        for service in ("EVENTBRIDGE", "IAM", "SQS", "STS"):
            environment[f"AWS_ENDPOINT_URL_{service}"] = self.aws.endpoint
        command = [support.BINARY, "doctor", "--config", config, "--role", role, "--json"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        found = {it["check"]: it["outcome"] for it in json.loads(ended.stdout)["items"]}
        changes = {
            *("sqs:ReceiveMessage", "sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "ssm:PutParameter"),
            *("cloudfront:UpdateDistribution", "cloudfront:DeleteDistribution"),
            "cloudfront:DeleteContinuousDeploymentPolicy",
        }
        for check in {"rule", "queue policy", "redrive policy", *changes}:
            self.assertEqual(found.get(check), "ok", ended.stdout)

    def test_a_rejection_goes_from_the_bus_by_the_rule_to_the_queue_and_is_taken_down(self):
        outputs = self.create("on-ec2", {"Mode": "act"})
        self.assertEqual(self.depth(outputs["QueueUrl"]), 0)
        # The configuration is the one that the stack wrote, to the letter.
        config = self.directory / "config.toml"
        config.write_text(outputs["Configuration"])
        # The agent writes with the stack's role, into the group that this allows.
        telemetry = tomllib.loads(outputs["Configuration"])["telemetry"]
        self.assertEqual(telemetry["metrics_log_group"], outputs["LogGroup"])
        self.assertEqual(telemetry["metrics_namespace"], "Stagesweep/on-ec2")
        with support.embedded(self.directory) as embedded:
            staging = [id for id, is_staging in embedded.distributions() if is_staging]
            self.assertEqual(len(staging), 1)
            self.examine(embedded, config, outputs["RoleArn"])
            self.put(embedded.rejection())
            log = self.daemon(embedded, {"STAGESWEEP_CONFIG": str(config)})
            parameter = "/demo-1/cloudfront/cfcd-staging"
            support.until(
                lambda: f"the parameter says so: {log.read_text()}",
                lambda: embedded.parameter(parameter) == "deleted",
            )
            support.until("the message is deleted", lambda: self.depth(outputs["QueueUrl"]) == 0)
            self.assertEqual([it for it in embedded.distributions() if it[1]], [])
            support.until("and says why", lambda: '"reason":"cleaned"' in log.read_text())

            # What its target knows, and can never be handled: no such parameters. The stack's redrive
            # policy ends it.
            rejected = event("approval-rejected")
            self.put(rejected)
            url = outputs["DeadLettersUrl"]
            support.until("it is a dead letter", lambda: self.depth(url) == 1)
            (dead,) = self.take_all(url)
            self.assertEqual(dead["detail"], rejected["detail"])
            self.assertEqual(self.depth(outputs["QueueUrl"]), 0)
            self.assertIn('"reason":"production_parameter_invalid"', log.read_text())
            self.assertEqual(self.depth(outputs["UndeliveredEventsUrl"]), 0)

    def test_on_ecs_the_task_definition_alone_configures_a_fleet(self):
        outputs = self.create("on-ecs", {**ON_ECS, "TargetAccounts": "210987654321"}, ECS)
        ecs = self.aws("ecs")
        (arn,) = ecs.list_task_definitions()["taskDefinitionArns"]
        definition = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        (container,) = definition["containerDefinitions"]
        self.assertEqual(container["command"], ["run"])
        environment = {it["name"]: it["value"] for it in container["environment"]}
        with support.embedded(self.directory) as embedded:
            self.put(embedded.rejection())
            log = self.daemon(embedded, environment)
            support.until(
                lambda: f"the parameter says so: {log.read_text()}",
                lambda: embedded.parameter("/demo-1/cloudfront/cfcd-staging") == "deleted",
            )
            support.until("the message is deleted", lambda: self.depth(outputs["QueueUrl"]) == 0)
            # ECS runs the health check with the container's environment, and with nothing else.
            said = self.directory / "health.log"
            with support.process([support.BINARY, "health"], environment, said) as health:
                self.assertEqual(health.wait(support.PATIENCE), 0, said.read_text())
        # The stack's table has the job, and removes it by an attribute that it has.
        dynamodb = self.aws("dynamodb")
        items = dynamodb.scan(TableName=outputs["LedgerTable"])["Items"]
        attribute = ECS["Resources"]["Ledger"]["Properties"]["TimeToLiveSpecification"]["AttributeName"]
        self.assertTrue([it for it in items if attribute in it], items)

    def test_only_rejections_of_the_pipelines_named_reach_the_queue(self):
        further = {
            "MoreTargets": '[[targets]]\npipeline = "landing-pages"\nstage = "Release"\naction = "Review"\n'
            'production_parameter = "/landing/production"\nstaging_parameter = "/landing/staging"\n',
            "MorePipelines": "landing-pages,campaigns",
            "MoreProductionParameterArns": "arn:aws:ssm:ap-northeast-1:123456789012:parameter/landing/production",
            "MoreStagingParameterArns": "arn:aws:ssm:ap-northeast-1:123456789012:parameter/landing/staging",
        }
        outputs = self.create("patterns", {"Fleet": "yes", **further})
        rejected = event("approval-rejected")
        arrive = [
            rejected,
            event("approval-rejected-again-after-retry"),
            event("approval-rejected-older-form"),
            changed(rejected, pipeline="a-b-frontend-pipeline"),
            changed(rejected, pipeline="landing-pages", stage="Release", action="Review"),
            changed(rejected, pipeline="campaigns"),
        ]
        other_source = {**rejected, "source": "mycompany.codepipeline"}
        must_not = [
            event("approval-approved"),
            event("build-failed"),
            event("stage-failed"),
            event("pipeline-failed"),
            other_source,
            changed(rejected, pipeline="frontend-pipeline"),
            changed(rejected, pipeline="shop-frontend-pipeline-2"),
            changed(rejected, pipeline="landing-pages-2"),
            changed(rejected, stage="Deploy"),
            changed(rejected, action="Sign-off"),
            changed(rejected, state="ABANDONED"),
            changed(rejected, type={**rejected["detail"]["type"], "provider": "Other"}),
            changed(rejected, type={**rejected["detail"]["type"], "category": "Invoke"}),
        ]
        for it in must_not + arrive:
            self.put(it)
        found = self.take_all(outputs["QueueUrl"])
        shown = lambda events: [(it["detail"]["pipeline"], it["detail"]["execution-id"]) for it in events]
        self.assertEqual(shown(found), shown(arrive))
        # The whole event comes, in the form that the daemon reads.
        for sent, got in zip(arrive, found):
            for key in ("detail", "detail-type", "source", "resources"):
                self.assertEqual(got[key], sent[key])
            self.assertEqual(got["account"], support.ACCOUNT)
        # The configuration that the stack writes is one that the program takes.
        config = self.directory / "config.toml"
        config.write_text(outputs["Configuration"])
        log = self.directory / "check.log"
        with support.process([support.BINARY, "check", "--config", config], {}, log) as check:
            self.assertEqual(check.wait(support.PATIENCE), 0, log.read_text())
        self.assertIn("landing-pages / Release / Review", log.read_text())
        self.assertIn(outputs["LedgerTable"], log.read_text())

    def test_everything_that_can_be_chosen_is_created_together(self):
        outputs = self.create(
            "everything",
            {
                **ON_ECS,
                "MorePipelines": "a,b",
                "MorePipelineArns": "arn:aws:codepipeline:ap-northeast-1:123456789012:a",
                "DeployStage": "Deploy",
                "CatchUpInterval": "15m",
                "NotifyEventBusArn": "arn:aws:events:ap-northeast-1:123456789012:event-bus/releases",
                "LogBucketArn": "arn:aws:s3:::logs",
                "WebAclArn": "arn:aws:wafv2:us-east-1:123456789012:global/webacl/a/b",
                "DeleteOnlyTagged": "yes",
                "TargetRoleArns": "arn:aws:iam::210987654321:role/stagesweep",
                "TargetAccounts": "210987654321",
                "CustomerKey": "yes",
                "AlarmTopicArn": "arn:aws:sns:ap-northeast-1:123456789012:alarms",
                "PermissionsBoundary": "arn:aws:iam::123456789012:policy/boundary",
            },
            ECS,
        )
        iam = self.aws("iam")
        role = outputs["RoleArn"].rsplit("/", 1)[1]
        policies = iam.list_role_policies(RoleName=role)["PolicyNames"]
        self.assertEqual(set(policies), {"acting", "cleanup", "doctor", "notification", "queue"})
        cleanup = iam.get_role_policy(RoleName=role, PolicyName="cleanup")["PolicyDocument"]
        chosen = {it["Sid"] for it in cleanup["Statement"]}
        self.assertLessEqual({"EventBus", "Key", "Ledger", "ListPipelines", "TargetRoles"}, chosen)
        (pipelines,) = [it["Resource"] for it in cleanup["Statement"] if it["Sid"] == "Pipelines"]
        self.assertEqual(
            [it.rsplit(":", 1)[1] for it in pipelines], ["*-frontend-pipeline", "a"]
        )
        acting = iam.get_role_policy(RoleName=role, PolicyName="acting")["PolicyDocument"]
        (delete,) = [it for it in acting["Statement"] if it["Sid"] == "DeleteStaging"]
        self.assertEqual(delete["Condition"], {"StringEquals": {"aws:ResourceTag/stagesweep": "staging"}})
        self.assertLessEqual({"LegacyLogBucket", "WebAcl"}, {it["Sid"] for it in acting["Statement"]})
        alarms = self.aws("cloudwatch").describe_alarms()["MetricAlarms"]
        declared = [it for it in ECS["Resources"].values() if it["Type"] == "AWS::CloudWatch::Alarm"]
        mine = [it for it in alarms if it["AlarmName"].startswith("everything-")]
        self.assertEqual(len(mine), len(declared))
        # Verbs on a workstation take the configuration that the stack writes.
        config = self.directory / "config.toml"
        config.write_text(outputs["Configuration"])
        environment = {**support.ENVIRONMENT, "AWS_REGION": support.REGION}
        check = [support.BINARY, "check", "--config", config]
        checked = subprocess.run(check, env=environment, capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertIn("run-verb", outputs["DoctorCommand"])
        # ministack does not know the partition in a condition.
        stack = template.Stack(ECS, support.ACCOUNT, support.REGION)
        self.assertTrue(stack.holds("OnPublicAws"))
        self.assertTrue(stack.resolve(ECS["Outputs"]["LogsUrl"]["Value"]).endswith("$252Fstagesweep$252Fstagesweep"))
        support.create_stack(self.aws, "dashboard", json.dumps(DASHBOARD), {"Stack": "everything"})
        self.addCleanup(self.aws("cloudformation").delete_stack, StackName="dashboard")
        # In the other account.
        text = (support.DEPLOY / "cloudformation-target-account.yaml").read_text()
        there = {
            "DaemonRoleArn": outputs["RoleArn"],
            "OperatorRoleArn": outputs["OperatorRoleArn"],
            "ExternalId": "a-secret-word",
        }
        trusted = [outputs["RoleArn"], outputs["OperatorRoleArn"]]
        outputs = support.create_stack(self.aws, "target-account", text, there)
        self.addCleanup(self.aws("cloudformation").delete_stack, StackName="target-account")
        trust = iam.get_role(RoleName="stagesweep")["Role"]["AssumeRolePolicyDocument"]
        (statement,) = trust["Statement"]
        self.assertEqual(statement["Condition"], {"StringEquals": {"sts:ExternalId": "a-secret-word"}})
        self.assertEqual(statement["Principal"], {"AWS": trusted})


class Parts(unittest.TestCase):
    """The two templates are one, apart from where the daemon runs."""

    # What only one of them has, and what says where the daemon runs.
    ONLY = {
        *("AgentLogs", "InstanceProfile", "EcsCluster", "ExecutionRole", "OrphansRule", "OrphansRuleRole"),
        *("SecurityGroup", "Service", "TaskDefinition"),
    }
    PLACES = {
        "Cleanup": "the ledger may be a file",
        "Ledger": "the ledger may be a file",
        "OperatorPolicy": "a verb is run as a task",
        "OperatorRole": "a verb is run as a task",
        "Role": "who assumes it",
    }

    def test_what_both_have_is_the_same(self):
        on_ecs, on_ec2 = ECS["Resources"], EC2["Resources"]
        self.assertEqual(set(on_ecs) ^ set(on_ec2), self.ONLY)
        differ = {name for name in set(on_ecs) & set(on_ec2) if on_ecs[name] != on_ec2[name]}
        self.assertEqual(differ, set(self.PLACES))
        for part in ("Parameters", "Conditions", "Rules"):
            for name in set(ECS[part]) & set(EC2[part]):
                self.assertEqual(ECS[part][name], EC2[part][name], name)

    def test_every_parameter_has_its_label_and_its_group(self):
        for name in support.DEPLOY.glob("cloudformation-*.yaml"):
            it = template.load(name)
            shown = it["Metadata"]["AWS::CloudFormation::Interface"]
            grouped = [parameter for group in shown["ParameterGroups"] for parameter in group["Parameters"]]
            self.assertEqual(sorted(grouped), sorted(it["Parameters"]), name)
            self.assertEqual(set(shown["ParameterLabels"]), set(it["Parameters"]), name)
            for label in shown["ParameterLabels"].values():
                self.assertLessEqual(len(label["default"]), 40)

    def test_further_targets_without_their_names_are_refused(self):
        rule = EC2["Rules"]["FurtherTargetsNeedTheirNames"]
        for given, expected in (
            ({}, [False, True]),
            ({"MorePipelines": "a", "MoreProductionParameterArns": "b"}, [True, False]),
            # Those of another account's parameters are of the role there.
            ({"MorePipelines": "a,b"}, [True, True]),
        ):
            stack = template.Stack(EC2, support.ACCOUNT, support.REGION, MoreTargets="[[targets]]", **given)
            self.assertTrue(stack.resolve(rule["RuleCondition"]))
            self.assertEqual([stack.resolve(it["Assert"]) for it in rule["Assertions"]], expected)
        self.assertFalse(template.Stack(EC2, support.ACCOUNT, support.REGION).resolve(rule["RuleCondition"]))

    def test_every_role_has_the_boundary(self):
        for file in (support.ON_ECS, support.ON_EC2, support.DEPLOY / "cloudformation-target-account.yaml"):
            roles = [it for it in template.load(file)["Resources"].values() if it["Type"] == "AWS::IAM::Role"]
            self.assertGreater(len(roles), 1)
            for it in roles:
                chosen = ["HasBoundary", {"Ref": "PermissionsBoundary"}, {"Ref": "AWS::NoValue"}]
                self.assertEqual(it["Properties"]["PermissionsBoundary"], {"Fn::If": chosen})


class Task(unittest.TestCase):
    """What ministack keeps too little of."""

    def test_the_container_is_checked_and_stopped_as_the_daemon_can_bear(self):
        (container,) = ECS["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]
        # The program as the image has it.
        image = (support.DEPLOY / "Dockerfile").read_text()
        (entry,) = re.findall(r"^ENTRYPOINT (.*)$", image, re.M)
        self.assertEqual(container["HealthCheck"]["Command"], ["CMD", *json.loads(entry), "health"])
        self.assertEqual([container["User"]], re.findall(r"^USER (.*)$", image, re.M))
        environment = {it["Name"]: it["Value"] for it in container["Environment"]}
        grace = int(environment["STAGESWEEP__SHUTDOWN__GRACE_PERIOD"].removesuffix("s"))
        # Fargate kills after 120 s whatever is asked for.
        self.assertLess(grace + 5, container["StopTimeout"])
        self.assertLessEqual(container["StopTimeout"], 120)
        self.assertTrue(container["ReadonlyRootFilesystem"])
        self.assertRegex(container["User"], r"^[1-9]\d*:[1-9]\d*$")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    unittest.main()
