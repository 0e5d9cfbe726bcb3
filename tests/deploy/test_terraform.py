"""deploy/terraform: parsed by HashiCorp's own parser, and held against the schema of the AWS provider.

Terraform itself is in no package registry that the tests may use. What `terraform validate` would say is
checked here: every kind of resource and argument exists, none that is required is missing, and every
reference leads to something that is declared and has that attribute. What only a plan can tell is not.
"""

import functools
import json
import pathlib
import re
import subprocess
import unittest

import support
import template

MODULES = [support.DEPLOY / "terraform", support.DEPLOY / "terraform" / "target-account"]
EXAMPLES = sorted((support.DEPLOY / "terraform" / "examples").iterdir())
SCHEMA = pathlib.Path(__file__).parent / "terraform-aws.json"

# What every resource takes.
META = {"count", "for_each", "depends_on", "lifecycle", "provider", "provisioner", "dynamic"}

TO_JSON = """
const { convertFiles } = require('@cdktf/hcl2json');
convertFiles(process.argv[1]).then((it) => process.stdout.write(JSON.stringify(it)));
"""


@functools.cache
def parse(module):
    done = subprocess.run(
        ["node", "-e", TO_JSON, str(module)],
        cwd=support.TOOLS / "node",
        capture_output=True,
        text=True,
        timeout=support.PATIENCE,
    )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return json.loads(done.stdout)


def declared(parsed):
    """Every resource and data source: its mode, kind, name and body."""
    for mode in ("resource", "data"):
        for kind, named in parsed.get(mode, {}).items():
            for name, bodies in named.items():
                for body in bodies:
                    yield mode, kind, name, body


def blocks(body, name):
    """The blocks of this name, the dynamic ones included."""
    found = body.get(name, [])
    found = [it for it in (found if isinstance(found, list) else [found]) if isinstance(it, dict)]
    for dynamic in body.get("dynamic", {}).get(name, []):
        found += dynamic["content"]
    return found


def texts(it):
    if isinstance(it, str):
        yield it
    elif isinstance(it, dict):
        for key, value in it.items():
            yield key
            yield from texts(value)
    elif isinstance(it, list):
        for value in it:
            yield from texts(value)


def expressions(parsed):
    """What stands in ${…}, with the nesting that functions and objects bring."""
    for text in texts(parsed):
        for start in re.finditer(r"\$\{", text):
            depth, at = 1, start.end()
            while depth and at < len(text):
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                at += 1
            # Names in quotes are no references.
            yield re.sub(r'"(?:[^"\\$]|\\.|\$(?!\{))*"', '""', text[start.end() : at - 1])


class Terraform(unittest.TestCase):
    schema = json.loads(SCHEMA.read_text()) if SCHEMA.exists() else {}

    def check(self, where, body, schema):
        given = {name for name in body if name not in META} | set(body.get("dynamic", {}))
        known = set(schema["required"]) | set(schema["optional"])
        self.assertLessEqual(given, known, f"{where}: no such argument")
        self.assertLessEqual(set(schema["required"]), given, f"{where}: required")
        for name, inner in schema["blocks"].items():
            for number, block in enumerate(blocks(body, name)):
                self.check(f"{where}.{name}[{number}]", block, inner)

    def test_every_argument_is_known_to_the_provider_and_none_is_missing(self):
        for module in MODULES + EXAMPLES:
            for mode, kind, name, body in declared(parse(module)):
                with self.subTest(module=module.name, resource=f"{kind}.{name}"):
                    self.check(f"{kind}.{name}", body, self.schema[f"{mode}.{kind}"])

    def test_every_reference_leads_to_something_declared(self):
        for module in MODULES + EXAMPLES:
            parsed = parse(module)
            names = {(mode, kind, name) for mode, kind, name, _ in declared(parsed)}
            local = {name for it in parsed.get("locals", []) for name in it}
            variable = set(parsed.get("variable", {}))
            used = set()
            for text in expressions(parsed):
                for name in re.findall(r"\bvar\.(\w+)", text):
                    used.add(name)
                    self.assertIn(name, variable, text)
                for name in re.findall(r"\blocal\.(\w+)", text):
                    used.add(f"local.{name}")
                    self.assertIn(name, local, text)
                found = re.findall(r"(?<![\w.])(data\.)?(aws_\w+)\.(\w+)(?:\[[^\]]*\])?(?:\.(\w+))?", text)
                for data, kind, name, attribute in found:
                    mode = "data" if data else "resource"
                    self.assertIn((mode, kind, name), names, text)
                    if attribute:
                        self.assertIn(attribute, self.schema[f"{mode}.{kind}"]["attributes"], text)
            self.assertEqual(variable - used, set(), "declared and never used")
            self.assertEqual({f"local.{name}" for name in local} - used, set(), "declared and never used")

    def test_an_example_gives_a_module_what_it_takes_and_reads_what_it_has(self):
        for example in EXAMPLES:
            parsed = parse(example)
            made = {}
            for name, (body,) in parsed["module"].items():
                made[name] = module = parse((example / body["source"]).resolve())
                given = set(body) - {"source", "providers"}
                self.assertLessEqual(given, set(module["variable"]), example)
                needed = {it for it, (variable,) in module["variable"].items() if "default" not in variable}
                self.assertLessEqual(needed, given, example)
                # The keys of a target and of the place are those of the variable's type.
                for key, value in ((key, body[key]) for key in ("ecs", "targets") if key in body):
                    known = set(re.findall(r"(\w+)\s*=", module["variable"][key][0]["type"]))
                    known = known or set(re.findall(r"(\w+) +=", self.type_of(key)))
                    for it in value if isinstance(value, list) else [value]:
                        self.assertLessEqual(set(it), known, example)
            for text in expressions(parsed):
                for name, output in re.findall(r"\bmodule\.(\w+)\.(\w+)", text):
                    self.assertIn(output, made[name]["output"], example)

    def type_of(self, variable):
        text = (MODULES[0] / "variables.tf").read_text()
        return re.search(rf'variable "{variable}" {{\n(.*?)^}}', text, re.M | re.S)[1]

    def test_every_resource_that_takes_tags_and_every_role_has_what_is_given(self):
        for module in MODULES:
            for mode, kind, name, body in declared(parse(module)):
                if mode == "resource" and "tags" in self.schema[f"{mode}.{kind}"]["optional"]:
                    self.assertEqual(body.get("tags"), "${var.tags}", f"{kind}.{name}")
                if kind == "aws_iam_role":
                    self.assertEqual(body.get("permissions_boundary"), "${var.permissions_boundary}", name)

    def test_the_roles_allow_what_those_of_cloudformation_allow(self):
        pairs = zip(MODULES, ([support.ON_ECS, support.ON_EC2], [support.DEPLOY / "cloudformation-target-account.yaml"]))
        for module, files in pairs:
            wanted = {
                (statement["Sid"], tuple(sorted(template.actions(statement))))
                for file in files
                for role in ("Role", "OperatorRole")
                for _, statement in template.statements(template.load(file), role)
            }
            found = set()
            for _, kind, name, body in declared(parse(module)):
                if kind == "aws_iam_policy_document" and name in ("acting", "cleanup", "doctor", "operator", "queue"):
                    found |= {(it["sid"], tuple(sorted(it["actions"]))) for it in blocks(body, "statement")}
                # Those of the daemon's role that are written out.
                if kind == "aws_iam_role_policy" and "jsonencode" in body["policy"]:
                    if body["role"] in ("${aws_iam_role.daemon.id}", "${aws_iam_role.this.id}"):
                        found |= self.inline(body["policy"])
            self.assertEqual(found, wanted, module)

    def test_the_policy_for_people_is_that_of_cloudformation(self):
        text = (MODULES[0] / "role.tf").read_text()
        text = text[text.index('data "aws_iam_policy_document" "people"') :]
        theirs = template.load(support.ON_ECS)["Resources"]["OperatorPolicy"]["Properties"]["PolicyDocument"]
        for it in theirs["Statement"]:
            written = ", ".join(json.dumps(action) for action in template.actions(it))
            self.assertRegex(text, rf'(?s)\b{it["Sid"]}\b.*?actions\s+= \[{re.escape(written)}\]')

    def inline(self, policy):
        """The statements of a jsonencode({…}), which the parser leaves as text."""
        sid = re.search(r'Sid\s*=\s*"(\w+)"', policy)[1]
        action = re.search(r"Action\s*=\s*(\[[^\]]*\]|\"[^\"]*\")", policy)[1]
        return {(sid, tuple(sorted(re.findall(r'"([^"]+)"', action))))}

    def test_the_alarms_and_the_dashboard_are_those_of_cloudformation(self):
        theirs = template.load(support.ON_ECS)["Resources"]
        wanted = {
            (it["Properties"]["MetricName"], it["Properties"]["Statistic"], it["Properties"]["TreatMissingData"])
            for it in theirs.values()
            if it["Type"] == "AWS::CloudWatch::Alarm"
        }
        text = (MODULES[0] / "alarms.tf").read_text()
        of = lambda key: re.findall(rf'^\s+{key}\s+= "(\w+)"$', text, re.M)
        # The same words, and the same part of the runbook.
        words = lambda text: re.sub(r"\$\{[^}]+\}", "it", text)
        said = {
            words(it["Properties"]["AlarmDescription"]["Fn::Sub"])
            for it in theirs.values()
            if it["Type"] == "AWS::CloudWatch::Alarm"
        }
        named = re.findall(r'^    ([\w-]+) = \{\n      description = "(.*)"$', text, re.M)
        self.assertEqual({f"{words(description)} it#{name}" for name, description in named}, said)
        self.assertEqual(set(zip(of("metric"), of("statistic"), of("missing"))), wanted)
        # One namespace, the daemon's: for the alarms, the filters, the dashboard, and the daemon on ECS and on EC2.
        self.assertNotRegex(text, r'namespace\s+= "(?!AWS/SQS")')
        for file, times in (("alarms.tf", 9), ("ecs.tf", 1), ("outputs.tf", 1)):
            self.assertEqual((MODULES[0] / file).read_text().count("local.namespace"), times, file)
        self.assertIn('namespace = "Stagesweep/${var.name}"\n', (MODULES[0] / "main.tf").read_text())
        dashboard = template.load(support.DEPLOY / "cloudformation-dashboard.yaml")["Resources"]["Dashboard"]
        ours = (MODULES[0] / "dashboard.json.tftpl").read_text()
        names = r"(Stagesweep/|/stagesweep/)?\$\{[^}]+\}(-[a-z]+-[a-z]+)?"
        plain = lambda text: json.loads(re.sub(names, "it", text))
        self.assertEqual(plain(ours), plain(dashboard["Properties"]["DashboardBody"]["Fn::Sub"]))
        # And the saved queries.
        queries = {
            it["Properties"]["Name"]["Fn::Sub"].split("/")[1]: it["Properties"]["QueryString"]
            for it in theirs.values()
            if it["Type"] == "AWS::Logs::QueryDefinition"
        }
        written = re.findall(r'^    "([^"]+)" = <<-EOT\n(.*?)^    EOT$', text, re.M | re.S)
        self.assertEqual({name: re.sub(r"^      ", "", it, flags=re.M) for name, it in written}, queries)

    def test_the_page_of_the_module_has_every_variable_and_output(self):
        for module in MODULES:
            page = (module / "README.md").read_text()
            parsed = parse(module)
            listed = re.findall(r"^\| `(\w+)` \|", page, re.M)
            self.assertEqual(set(listed), set(parsed["variable"]) | set(parsed["output"]))
            for name, (body,) in parsed["variable"].items():
                self.assertIn(f"| `{name}` | {body['description']} |", page)


if __name__ == "__main__":
    unittest.main()
