"""Makes terraform-aws.json: what the AWS provider takes of each kind of resource that deploy/terraform has.

Terraform itself, its provider and tflint are in no package registry that the tests may use. The npm package
@cdktf/provider-aws is generated from the provider's schema, but has 37 MB; this keeps what is needed of it:

    npm pack @cdktf/provider-aws@21.22.1
    target/tools/deploy/bin/python tests/deploy/terraform_schema.py cdktf-provider-aws-21.22.1.tgz
"""

import json
import pathlib
import re
import sys
import tarfile

import test_terraform

HERE = pathlib.Path(__file__).parent
PROPERTY = re.compile(r"#(\w+) \w+#\1\}.*?\*/\s*readonly (\w+)(\??): ([^;]+);", re.S)


def interfaces(text):
    found = {}
    for name, body in re.findall(r"^export interface (\w+)[^{]*\{$(.*?)^\}$", text, re.S | re.M):
        found[name] = PROPERTY.findall(body)
    return found


def shape(name, known):
    it = {"required": [], "optional": [], "blocks": {}}
    for snake, _, question, kind in known[name]:
        (it["optional"] if question else it["required"]).append(snake)
        nested = re.search(r"\w+", kind).group()
        if nested in known and nested != name:
            it["blocks"][snake] = shape(nested, known)
    return it


def used(it, bodies):
    """Only the blocks that are used; of the others the name is enough."""
    for name in list(it["blocks"]):
        inner = [block for body in bodies for block in test_terraform.blocks(body, name)]
        if inner:
            used(it["blocks"][name], inner)
        else:
            del it["blocks"][name]
    return it


def main(archive):
    kinds = {}
    for module in test_terraform.MODULES + test_terraform.EXAMPLES:
        for mode, kind, _, body in test_terraform.declared(test_terraform.parse(module)):
            kinds.setdefault(f"{mode}.{kind}", []).append(body)
    files = {}
    for key in kinds:
        mode, kind = key.split(".")
        folder = kind.removeprefix("aws_").replace("_", "-")
        files[f"package/lib/{'data-aws-' if mode == 'data' else ''}{folder}/index.d.ts"] = key
    schema = {}
    with tarfile.open(archive) as package:
        for member in package:
            key = files.get(member.name)
            if key is None:
                continue
            text = package.extractfile(member).read().decode()
            known = interfaces(text)
            main_interface = re.search(r"interface (\w+Config) extends cdktf.TerraformMetaArguments", text)[1]
            it = used(shape(main_interface, known), kinds[key])
            body = text[text.rindex("extends cdktf.Terraform") :]
            getters = re.findall(r"^    get (\w+)\(\)", body, re.M)
            snake = lambda name: re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)
            it["attributes"] = sorted({snake(name) for name in getters if not name.endswith("Input")})
            schema[key] = it
    missing = set(kinds) - set(schema)
    if missing:
        raise SystemExit(f"the package knows no {missing}")
    (HERE / "terraform-aws.json").write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
