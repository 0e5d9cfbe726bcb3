"""CloudFormation templates as Python objects: the short forms of functions are written out."""

import fnmatch
import json
import re

import yaml


class Loader(yaml.SafeLoader):
    pass


def _function(loader, suffix, node):
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {name: value}


Loader.add_multi_constructor("!", _function)
# A date such as the version of a policy is text.
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path):
    return yaml.load(path.read_text(), Loader)


def without(template, *types):
    """The template as text, without resources of these types."""
    kept = {name: it for name, it in template["Resources"].items() if it["Type"] not in types}
    return json.dumps({**template, "Resources": kept})


def policies(template, role):
    """The policies of a role, by the names of their resources."""
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::IAM::Policy" and {"Ref": role} in resource["Properties"]["Roles"]:
            yield name, resource


def statements(template, role="Role"):
    """Every statement that a role may have, with the name of its policy."""
    for name, resource in policies(template, role):
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
            # One that can be chosen.
            yield name, statement["Fn::If"][1] if "Fn::If" in statement else statement


def actions(statement):
    found = statement["Action"]
    return [found] if isinstance(found, str) else found


class Policy:
    """Statements of IAM as this project writes them: what they allow. They deny nothing."""

    def __init__(self, statements):
        self.statements = statements

    def allowed(self):
        """Actions, resources and conditions of each statement."""
        for it in self.statements:
            resources = it["Resource"]
            resources = [resources] if isinstance(resources, str) else resources
            yield set(actions(it)), resources, it.get("Condition") or {}

    def allows(self, action, resource, **context):
        def holds(conditions):
            kinds = set(conditions) - {"StringEquals"}
            assert not kinds, kinds
            return all(context.get(key) == value for key, value in conditions.get("StringEquals", {}).items())

        return any(
            action in names and any(fnmatch.fnmatchcase(resource, it) for it in resources) and holds(conditions)
            for names, resources, conditions in self.allowed()
        )


class Stack(Policy):
    """A template with its parameters filled in: which conditions hold, and what the role is allowed."""

    # What is named by the template itself, as ARNs have it; the rest is named by AWS, here by its logical name.
    NAMES = {
        "Queue": "sqs:{region}:{account}:{stack}",
        "DeadLetters": "sqs:{region}:{account}:{stack}-dead-letters",
        "UndeliveredEvents": "sqs:{region}:{account}:{stack}-undelivered-events",
        "Role": "iam::{account}:role/{stack}",
        "Rule": "events:{region}:{account}:rule/{stack}",
        "Ledger": "dynamodb:{region}:{account}:table/{stack}-ledger",
    }

    def __init__(self, template, account, region, role="Role", **parameters):
        self.template = template
        defaults = {name: it.get("Default", "") for name, it in template["Parameters"].items()}
        self.pseudo = {"account": account, "region": region, "stack": "stagesweep"}
        self.values = {
            **{name: self.value(name, it) for name, it in {**defaults, **parameters}.items()},
            "AWS::AccountId": account,
            "AWS::Partition": "aws",
            "AWS::Region": region,
            "AWS::StackName": self.pseudo["stack"],
            "AWS::NoValue": None,
        }
        kept = []
        for _, resource in policies(template, role):
            if "Condition" not in resource or self.holds(resource["Condition"]):
                kept += self.resolve(resource["Properties"]["PolicyDocument"]["Statement"])
        super().__init__(kept)

    def value(self, name, given):
        kind = self.template["Parameters"][name]["Type"]
        if kind == "CommaDelimitedList" or kind.startswith("List<"):
            return given.split(",")
        return str(given)

    def holds(self, name):
        return self.resolve(self.template["Conditions"][name])

    def resolve(self, it):
        if isinstance(it, list):
            return [found for found in map(self.resolve, it) if found is not None]
        if not isinstance(it, dict):
            return it
        if len(it) != 1 or not (set(it) & {"Ref", "Condition"} or next(iter(it)).startswith("Fn::")):
            return {key: self.resolve(value) for key, value in it.items()}
        ((function, value),) = it.items()
        if function == "Condition":
            return self.holds(value) if isinstance(value, str) else {function: self.resolve(value)}
        if function == "Fn::If":
            return self.resolve(value[1] if self.holds(value[0]) else value[2])
        if function == "Ref":
            return self.values.get(value, value)
        if function == "Fn::GetAtt":
            name = self.NAMES.get(value[0], f"any::{{account}}:{value[0]}")
            return "arn:aws:" + name.format(**self.pseudo)
        value = self.resolve(value)
        if function == "Fn::Sub":
            text, more = (value, {}) if isinstance(value, str) else value
            known = {**self.values, **more}
            return re.sub(r"\$\{([\w:]+)\}", lambda found: known.get(found[1], found[1]), text)
        return {
            "Fn::Join": lambda: value[0].join(value[1]),
            "Fn::Split": lambda: value[1].split(value[0]),
            "Fn::Select": lambda: value[1][int(value[0])],
            "Fn::Equals": lambda: value[0] == value[1],
            "Fn::EachMemberEquals": lambda: all(it == value[1] for it in value[0]),
            "Fn::Not": lambda: not value[0],
            "Fn::And": lambda: all(value),
            "Fn::Or": lambda: any(value),
        }[function]()
