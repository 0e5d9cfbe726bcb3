"""deploy/run-verb against a stand-in for ECS and CloudWatch Logs: what it asks for, what comes out."""

import contextlib
import http.server
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import unittest

import support
import template

SERVICE = f"arn:aws:ecs:{support.REGION}:{support.ACCOUNT}:service/shop/stagesweep"
OPERATOR = f"arn:aws:iam::{support.ACCOUNT}:role/operator"
TASK = f"arn:aws:ecs:{support.REGION}:{support.ACCOUNT}:task/shop/0123456789abcdef"
NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-1"], "securityGroups": ["sg-1"], "assignPublicIp": "DISABLED"}}


class Stand(http.server.BaseHTTPRequestHandler):
    """Answers as the service would once the verb has ended, and keeps what it was asked."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        operation = self.headers["x-amz-target"].split(".")[-1]
        self.server.asked.append((operation, asked))
        answer = json.dumps(self.server.answers[operation]).encode()
        self.send_response(200)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def stand(**answers):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stand)
    server.asked, server.answers = [], answers
    threading.Thread(target=server.serve_forever).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def container():
    """The container of the template's task definition, as ECS describes it."""
    stack = template.Stack(template.load(support.ON_ECS), support.ACCOUNT, support.REGION, Image="stagesweep")
    resources = stack.template["Resources"]
    (it,) = stack.resolve(resources["TaskDefinition"]["Properties"]["ContainerDefinitions"])
    return {
        "name": it["Name"],
        "dockerLabels": {**it["DockerLabels"], "operator-role": OPERATOR},
        "logConfiguration": {"logDriver": "awslogs", "options": {**it["LogConfiguration"]["Options"]}},
    }


class RunVerb(unittest.TestCase):
    def run_verb(self, *words, service=SERVICE, **answers):
        usual = {
            "DescribeServices": {
                "services": [{"taskDefinition": "stagesweep:3", "networkConfiguration": NETWORK}]
            },
            "DescribeTaskDefinition": {"taskDefinition": {"containerDefinitions": [container()]}},
            "RunTask": {"tasks": [{"taskArn": TASK}]},
            "DescribeTasks": {
                "tasks": [{"taskArn": TASK, "lastStatus": "STOPPED", "containers": [{"exitCode": 3}]}]
            },
            "FilterLogEvents": {"events": [{"message": "first line"}, {"message": "second\tline"}]},
        }
        directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (directory / "aws").write_text(
            f'#!/bin/sh\nexec {support.TOOLS}/deploy/bin/python {support.ROOT}/tests/deploy/aws "$@"\n'
        )
        (directory / "aws").chmod(0o755)
        with stand(**{**usual, **answers}) as server:
            environment = {
                **support.ENVIRONMENT,
                "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            }
            command = [support.DEPLOY / "run-verb", service, *words]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=support.PATIENCE)
        return done, dict(server.asked)

    def test_a_verb_runs_as_the_operator_in_the_services_network_and_says_how_it_ended(self):
        done, asked = self.run_verb("plan", "shop-frontend-pipeline", "--stage", "two words")
        self.assertEqual((done.returncode, done.stdout), (3, "first line\nsecond\tline\n"), done.stderr)
        self.assertEqual(asked["DescribeServices"], {"cluster": "shop", "services": [SERVICE]})
        run = asked["RunTask"]
        self.assertEqual((run["cluster"], run["taskDefinition"]), ("shop", "stagesweep:3"))
        self.assertEqual(run["networkConfiguration"], NETWORK)
        words = ["plan", "shop-frontend-pipeline", "--stage", "two words"]
        overrides = {"containerOverrides": [{"name": "stagesweep", "command": words}], "taskRoleArn": OPERATOR}
        self.assertEqual(run["overrides"], overrides)
        log = asked["FilterLogEvents"]
        self.assertEqual(log["logStreamNames"], ["stagesweep/stagesweep/0123456789abcdef"])

    def test_doctor_runs_as_the_daemons_own_role(self):
        done, asked = self.run_verb("doctor")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertNotIn("taskRoleArn", asked["RunTask"]["overrides"])

    def test_what_goes_wrong_is_said(self):
        for words, answers, said in (
            (["plan"], {"RunTask": {"tasks": [], "failures": [{"reason": "RESOURCE:ENI"}]}}, "RESOURCE:ENI"),
            (["plan"], {"DescribeServices": {"services": []}}, f"there is no service {SERVICE}"),
            (
                ["plan"],
                {
                    "DescribeTasks": {
                        "tasks": [
                            {"lastStatus": "STOPPED", "stoppedReason": "CannotPullContainerError", "containers": [{}]}
                        ]
                    }
                },
                "CannotPullContainerError",
            ),
        ):
            done, _ = self.run_verb(*words, **answers)
            self.assertEqual(done.returncode, 1)
            self.assertIn(said, done.stderr)
        done, asked = self.run_verb("plan", service="stagesweep")
        self.assertIn("is not the ARN of an ECS service", done.stderr)
        self.assertEqual(asked, {})


if __name__ == "__main__":
    unittest.main()
