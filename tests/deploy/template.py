"""CloudFormation templates as Python objects: the short forms of functions are written out."""

import json

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


def statements(template, resource_type="AWS::IAM::Policy"):
    """Every statement of every policy of the type, with the name of its resource."""
    for name, resource in template["Resources"].items():
        if resource["Type"] == resource_type:
            for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
                yield name, statement


def actions(statement):
    found = statement["Action"]
    return [found] if isinstance(found, str) else found
