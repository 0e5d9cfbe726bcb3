"""What goes over the wire is what AWS's own models of its services say.

The tests of the wire, of the simulation and of the process keep one exchange of every shape (crates/embedded-aws,
`wire/recorder.rs`). Here each request and each answer is held against the service models that botocore ships:
no member that the model does not know, none of another type, none missing that it requires, no value outside an
enumeration, a pattern or a range, no error that the operation does not name.
"""

import datetime
import functools
import json
import re
import unittest
import urllib.parse
import xml.etree.ElementTree as ElementTree

import botocore.session

import support

EXCHANGES = support.ROOT / "target" / "tmp" / "aws-exchanges"

# Has the codes that are in a class, by operation.
CLASSED = support.ROOT / "src" / "aws" / "error_tests.rs"

# In the model of no operation: what any call of a service may come to. "Common errors" of the API references.
COMMON_ERRORS = {
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "InternalFailure",
    "InternalServerError",
    "InvalidClientTokenId",
    # Of SQS, where no error of its own says what is wrong.
    "InvalidParameterValue",
    "RequestExpired",
    "RequestThrottled",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SignatureDoesNotMatch",
    "Throttling",
    "ThrottlingException",
    "UnrecognizedClientException",
    "ValidationException",
}

# What no model, or not yet the model of this botocore, knows.
NEWER = {
    "FutureFeatureConfig": "of the tests' production distribution: an element that no SDK knows must survive a change",
    "ETag": "of a distribution's summary since 2025",
}

SCALARS = {
    "string": str,
    "character": str,
    "boolean": bool,
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
    "blob": str,
}

session = botocore.session.Session()
model_of = functools.lru_cache(session.get_service_model)


class Faults(list):
    """What is wrong, each with its place."""

    def add(self, place, what):
        self.append(f"{place}: {what}")

    def scalar(self, shape, value, place):
        """Checks what the model says of a text or a number."""
        rules = shape.metadata
        pattern = rules.get("pattern")
        if shape.type_name == "string":
            if shape.enum and value not in shape.enum:
                self.add(place, f"{value!r} is none of {', '.join(shape.enum)}")
            if pattern and not re.fullmatch(pattern, value):
                self.add(place, f"{value!r} does not match {pattern}")
            size = len(value)
        elif shape.type_name in ("integer", "long", "float", "double"):
            size = value
        else:
            return
        if "min" in rules and size < rules["min"]:
            self.add(place, f"{value!r} is below the least of {rules['min']}")
        if "max" in rules and size > rules["max"]:
            self.add(place, f"{value!r} is above the most of {rules['max']}")

    def missing(self, shape, present, place):
        for name in shape.required_members:
            if name not in present:
                self.add(place, f"{name} is missing")

    def document(self, shape, value, place):
        """Checks a value of AWS JSON."""
        if shape.type_name == "structure":
            if not isinstance(value, dict):
                return self.add(place, f"{value!r} is no object")
            for name, member in value.items():
                if name not in shape.members:
                    self.add(place, f"no {name} in {shape.name}")
                elif member is not None:
                    self.document(shape.members[name], member, f"{place}.{name}")
            return self.missing(shape, value, place)
        if shape.type_name == "list":
            if not isinstance(value, list):
                return self.add(place, f"{value!r} is no list")
            for number, member in enumerate(value):
                self.document(shape.member, member, f"{place}[{number}]")
        elif shape.type_name == "map":
            if not isinstance(value, dict):
                return self.add(place, f"{value!r} is no map")
            for key, member in value.items():
                self.document(shape.key, key, f"{place}.{key}")
                self.document(shape.value, member, f"{place}.{key}")
        elif shape.type_name == "timestamp":
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                self.add(place, f"{value!r} is no time in seconds")
        elif not isinstance(value, SCALARS[shape.type_name]) or (
            isinstance(value, bool) != (shape.type_name == "boolean")
        ):
            self.add(place, f"{value!r} is no {shape.type_name}")
        else:
            self.scalar(shape, value, place)

    def element(self, shape, element, place):
        """Checks an element of XML."""
        if shape.type_name == "structure":
            by_name = {}
            for name, member in shape.members.items():
                flattened = member.type_name == "list" and member.serialization.get("flattened")
                tag = member.serialization.get("name", name)
                if flattened:
                    tag = member.member.serialization.get("name", tag)
                if not member.serialization.get("location"):
                    by_name[tag] = (name, member.member if flattened else member)
            present = set()
            for child in element:
                name, member = by_name.get(local(child), (None, None))
                if member is not None:
                    present.add(name)
                    self.element(member, child, f"{place}.{name}")
                elif local(child) not in NEWER:
                    self.add(place, f"no {local(child)} in {shape.name}")
            inside = [it for it in shape.required_members if not shape.members[it].serialization.get("location")]
            for name in inside:
                if name not in present:
                    self.add(place, f"{name} is missing")
        elif shape.type_name == "list":
            tag = shape.member.serialization.get("name", "member")
            for child in element:
                if local(child) != tag:
                    self.add(place, f"{local(child)} is no {tag}")
                else:
                    self.element(shape.member, child, f"{place}[]")
        elif len(element):
            self.add(place, f"has elements, but is a {shape.type_name}")
        else:
            self.text(shape, element.text or "", place)

    def text(self, shape, text, place):
        """Checks a value that is written as a text: of an element, a header, a query or a form."""
        if shape.type_name == "string":
            self.scalar(shape, text, place)
        elif shape.type_name == "boolean":
            if text not in ("true", "false"):
                self.add(place, f"{text!r} is no boolean")
        elif shape.type_name in ("integer", "long"):
            if re.fullmatch(r"-?\d+", text):
                self.scalar(shape, int(text), place)
            else:
                self.add(place, f"{text!r} is no number")
        elif shape.type_name == "timestamp":
            try:
                datetime.datetime.fromisoformat(text)
            except ValueError:
                self.add(place, f"{text!r} is no time")


def local(element):
    return element.tag.rpartition("}")[2]


def check_request(faults, operation, exchange, place):
    if operation.service_model.protocol == "json":
        return faults.document(operation.input_shape, json.loads(exchange["request"] or "{}"), place)
    if operation.service_model.protocol == "query":
        form = urllib.parse.parse_qs(exchange["request"], keep_blank_values=True)
        members = operation.input_shape.members if operation.input_shape else {}
        for name in form:
            if name.partition(".")[0] not in {*members, "Action", "Version"}:
                faults.add(place, f"no {name} in {operation.input_shape}")
            elif name in members:
                faults.text(members[name], form[name][0], f"{place}.{name}")
        if operation.input_shape:
            faults.missing(operation.input_shape, {it.partition(".")[0] for it in form}, place)
        return None
    return check_rest(faults, operation, exchange, place)


def check_rest(faults, operation, exchange, place):
    """A request of the REST protocol: path, query, headers and body have their own members."""
    shape = operation.input_shape
    uri = urllib.parse.urlsplit(exchange["uri"])
    query = dict(urllib.parse.parse_qsl(uri.query, keep_blank_values=True))
    template = operation.http["requestUri"].partition("?")[0]
    path = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
    found = re.fullmatch(path, uri.path)
    if exchange["method"] != operation.http["method"] or not found:
        return faults.add(place, f"{exchange['method']} {uri.path} is not {operation.http}")
    present = set()
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        where = {"uri": found.groupdict(), "querystring": query, "header": exchange["request_headers"]}
        key = member.serialization.get("name", name)
        key = key.lower() if location == "header" else key
        if key in where.get(location, {}):
            present.add(name)
            faults.text(member, where[location].pop(key), f"{place}.{name}")
    # x-id is the SDKs' own hint of the operation.
    for left in set(query) - {"x-id"}:
        faults.add(place, f"no {left} in the query")
    payload = shape.serialization.get("payload")
    if exchange["request"]:
        body = ElementTree.fromstring(exchange["request"])
        present.update([payload] if payload else [])
        faults.element(shape.members[payload] if payload else shape, body, place)
        if payload is None:
            present.update(local(child) for child in body)
    return faults.missing(shape, present, place)


def check_answer(faults, operation, exchange, place):
    if exchange["status"] >= 300:
        return check_error(faults, operation, exchange, place)
    shape = operation.output_shape
    body = exchange["response"]
    if shape is None or not body:
        if shape is not None and shape.members and operation.service_model.protocol == "rest-xml":
            faults.add(place, f"has no body for {shape.name}")
        return None
    if operation.service_model.protocol == "json":
        return faults.document(shape, json.loads(body), place)
    root = ElementTree.fromstring(body)
    if operation.service_model.protocol == "query":
        wrapper = shape.serialization["resultWrapper"]
        result = next((it for it in root if local(it) == wrapper), None)
        if result is None:
            return faults.add(place, f"no {wrapper}")
        return faults.element(shape, result, place)
    payload = shape.serialization.get("payload")
    for name, member in shape.members.items():
        if member.serialization.get("location") == "header":
            header = member.serialization.get("name", name).lower()
            if header not in exchange["response_headers"]:
                faults.add(place, f"no header {header}")
    return faults.element(shape.members[payload] if payload else shape, root, place)


def check_error(faults, operation, exchange, place):
    body = exchange["response"]
    if body.startswith("{"):
        code = json.loads(body)["__type"].rpartition("#")[2]
    else:
        code = next(it.text for it in ElementTree.fromstring(body).iter() if local(it) == "Code")
    named = {shape.metadata.get("error", {}).get("code", shape.name): shape for shape in operation.error_shapes}
    named |= {shape.name: shape for shape in operation.error_shapes}
    if code in named:
        status = named[code].metadata.get("error", {}).get("httpStatusCode", exchange["status"])
        if status != exchange["status"]:
            faults.add(place, f"{code} is {status}, not {exchange['status']}")
    elif code not in COMMON_ERRORS:
        faults.add(place, f"{code} is no error of this operation")


def exchanges():
    for file in sorted(EXCHANGES.glob("*.jsonl")):
        # Not splitlines: a body may have a line separator of Unicode's.
        for line in file.read_text().strip("\n").split("\n"):
            yield json.loads(line)


def faults_of(exchange):
    """Everything that is wrong with one exchange."""
    faults = Faults()
    model = model_of(exchange["service"])
    place = f"{exchange['service']} {exchange['operation']} {exchange['status']}"
    if exchange["operation"] not in model.operation_names:
        faults.add(place, "is no operation of this service")
        return faults
    operation = model.operation_model(exchange["operation"])
    if exchange["status"] < 300:
        check_request(faults, operation, exchange, f"{place} request")
    check_answer(faults, operation, exchange, f"{place} answer")
    return faults


def classed():
    """The operations that are called, each with the codes of it that the unit tests find a class for."""
    table = CLASSED.read_text().partition("const MODELS")[2].partition("\n];")[0]
    rows = re.findall(r'\(\s*"(\w+)",\s*&\[([^\]]*)\]', table)
    return {operation: set(re.findall(r'"([^"]+)"', codes)) for operation, codes in rows}


def codes_of(operation):
    """Every error code of an operation's model, as it is on the wire."""
    for shape in operation.error_shapes:
        code = shape.metadata.get("error", {}).get("code")
        # Of SQS, which has two protocols, the other one's too.
        if operation.service_model.protocol == "json" or not code:
            yield shape.name
        if code:
            yield code


def named_in_sources():
    """What the program calls: each of its calls is named where its errors are told. A deployment's, the tests make."""
    sources = (support.ROOT / "src").rglob("*.rs")
    texts = (it.read_text() for it in sources if not it.name.endswith("tests.rs"))
    return {name for text in texts for name in re.findall(r'"([A-Z]\w+)"', text)}


class ServiceModels(unittest.TestCase):
    def test_every_error_of_every_call_is_in_a_class(self):
        """The unit tests walk the table of codes in CLASSED; here the table is held against the models."""
        table = classed()
        called = {(it["service"], it["operation"]) for it in exchanges()}
        named = named_in_sources()
        called = {it for it in called if it[1] in named}
        self.assertEqual(set(table) - named, set())
        self.assertEqual({operation for _, operation in called} - set(table), set())
        for service, name in sorted(called):
            with self.subTest(operation=name):
                codes = set(codes_of(model_of(service).operation_model(name)))
                self.assertEqual(sorted(codes - table[name]), [])

    def test_every_exchange_is_as_the_models_say(self):
        faults, seen = set(), set()
        for exchange in exchanges():
            faults.update(faults_of(exchange))
            if exchange["status"] < 300:
                seen.add(exchange["operation"])
        # A check of nothing must not pass: these are of every service and of every protocol.
        for needed in (
            "AssumeRole",
            "DeleteDistribution",
            "GetParameterHistory",
            "ListActionExecutions",
            "ReceiveMessage",
            "SimulatePrincipalPolicy",
            "UpdateDistribution",
            "UpdateItem",
        ):
            self.assertIn(needed, seen)
        self.assertEqual(sorted(faults), [])

    def test_what_is_wrong_is_found(self):
        """Damages one exchange of each kind in one place: each damage is found."""

        def one(operation, status=200):
            return next(it for it in exchanges() if (it["operation"], it["status"]) == (operation, status))

        for operation, status, part, before, after, said in (
            ("GetParameter", 200, "request", '"Name"', '"Naem"', "no Naem in GetParameterRequest"),
            ("GetParameter", 200, "request", '"Name"', '"Naem"', "Name is missing"),
            ("GetParameter", 200, "response", '"Version":', '"Version":"x","X":', "is no long"),
            ("GetParameter", 200, "response", '"String"', '"Text"', "is none of String"),
            ("ListActionExecutions", 200, "request", '"pipelineName":"', '"pipelineName":"a b', "does not match"),
            ("UpdateDistribution", 200, "request", "<Enabled>", "<Enabled>maybe ", "is no boolean"),
            ("UpdateDistribution", 200, "request", "<Comment>", "<Remark>x</Remark><Comment>", "no Remark in"),
            ("UpdateDistribution", 200, "uri", "/config", "/settings", "is not"),
            ("GetDistribution", 200, "response", "<LastModifiedTime>", "<LastModifiedTime>on ", "is no time"),
            ("GetDistribution", 404, "response", "NoSuchDistribution", "NoSuchThing", "is no error of this"),
        ):
            with self.subTest(operation=operation, after=after):
                damaged = one(operation, status)
                self.assertIn(before, damaged[part])
                damaged[part] = damaged[part].replace(before, after)
                self.assertTrue(any(said in fault for fault in faults_of(damaged)), faults_of(damaged))


if __name__ == "__main__":
    unittest.main()
