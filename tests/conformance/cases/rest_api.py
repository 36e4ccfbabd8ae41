"""Section 4: what the REST port answers."""

from __future__ import annotations

import gzip

from tests.conformance.harness import (
    Server,
    case,
    has,
    like,
    replies,
    same,
    starts,
)

V1 = "/v1/models"
HALF, THREE, ARTICLE = f"{V1}/half_plus_two", f"{V1}/half_plus_three", f"{V1}/article"
SEVERAL, STRINGS, PICKY = f"{V1}/several", f"{V1}/strings", f"{V1}/picky"
AVAILABLE_STATUS = {"error_code": "OK", "error_message": ""}


def states(*versions: int) -> dict:
    return {
        "model_version_status": [
            {"version": str(version), "state": "AVAILABLE", "status": AVAILABLE_STATUS}
            for version in versions
        ]
    }


# Everything that is the same for any server with the models.
replies([
    # Predict in rows.
    ("a list of values for one input", "rest.predict.row-single-input", "POST", f"{THREE}:predict",
     {"instances": [2.0, 10.0]}, 200, ('{\n    "predictions": [4.0, 8.0\n    ]\n}',)),
    ("objects for one input", "rest.predict.row-objects", "POST", f"{THREE}:predict",
     {"instances": [{"x": 2.0}, {"x": 10.0}]}, 200, ('{\n    "predictions": [4.0, 8.0\n    ]\n}',)),
    ("nested lists for one input", "rest.predict.row-single-input", "POST", f"{HALF}:predict",
     {"instances": [[2.0], [10.0]]}, 200, ('{\n    "predictions": [[3.0], [7.0]\n    ]\n}',)),
    ("objects for two inputs, two outputs", "rest.predict.row-several-inputs", "POST",
     f"{SEVERAL}:predict", {"instances": [{"a": 5, "b": 1}, {"a": 2, "b": 2}]}, 200,
     {"predictions": [{"sum": 6.0, "difference": 4.0}, {"sum": 4.0, "difference": 0.0}]}),
    ("a named signature", "rest.predict.signature-name", "POST", f"{PICKY}:predict",
     {"signature_name": "pick", "instances": [2, 0]}, 200, {"predictions": [30.0, 10.0]}),
    # Predict in columns.
    ("a column for one input", "rest.predict.columnar", "POST", f"{THREE}:predict",
     {"inputs": [2.0, 10.0]}, 200,
     ('{\n    "outputs": [\n        4.0,\n        8.0\n    ]\n}',)),
    ("an object of columns for one input", "rest.predict.columnar-object-single-input", "POST",
     f"{THREE}:predict", {"inputs": {"x": [2.0, 10.0]}}, 200, {"outputs": [4.0, 8.0]}),
    ("an object of columns for two inputs", "rest.predict.columnar-several", "POST",
     f"{SEVERAL}:predict", {"inputs": {"a": [5, 2], "b": [1, 2]}}, 200,
     {"outputs": {"sum": [6.0, 4.0], "difference": [4.0, 0.0]}}),
    ("a scalar out in columns", "rest.predict.columnar", "POST", f"{SEVERAL}:predict",
     {"signature_name": "total", "inputs": [1, 2]}, 200, ('{\n    "outputs": 3.0\n}',)),
    ("columns of unequal length out", "rest.predict.columnar-several", "POST",
     f"{SEVERAL}:predict", {"signature_name": "uneven", "inputs": [1, 2]}, 200,
     {"outputs": {"x": [1.0, 2.0], "first": [1.0]}}),
    ("a version in the path", "rest.path.version", "POST", f"{THREE}/versions/1:predict",
     {"instances": [2.0]}, 200, {"predictions": [4.0]}),
    ("a label in the path", "rest.path.label", "POST", f"{THREE}/labels/stable:predict",
     {"instances": [2.0]}, 200, {"predictions": [4.0]}),
    # Numbers.
    ("integers for floats", "rest.predict.coerces", "POST", f"{THREE}:predict",
     {"instances": [2]}, 200, {"predictions": [4.0]}),
    ("floats for integers", "rest.predict.coerces", "POST", f"{PICKY}:predict",
     {"signature_name": "pick", "instances": [1.0]}, 400,
     has("JSON Value: 1.0 Type: Number is not of expected type: int32")),
    ("every dtype", "rest.predict.dtypes rest.http-codes", "POST", f"{SEVERAL}:predict",
     {"signature_name": "types", "inputs":
      {"f": [1.5], "d": [1e300], "i": [-3], "l": [2**40], "b": [True], "u": [200], "h": [1.5]}},
     501, has("type: half")),
    ("a shortest float, nine digits, and whole numbers", "rest.json.floats", "POST",
     f"{THREE}:predict", {"instances": [0, 1e10, 0.2, 1e-8, 1e30]}, 200,
     ('{\n    "predictions": [3.0, 5e+09, 3.1, 3.0, 5e+29\n    ]\n}',)),
    ("NaN and infinities", "rest.json.nan", "POST", f"{THREE}:predict",
     '{"instances": [NaN, Infinity, -Infinity]}', 200,
     ('{\n    "predictions": [NaN, Infinity, -Infinity\n    ]\n}',)),
    ("Inf for short", "rest.json.nan", "POST", f"{THREE}:predict",
     '{"instances": [Inf, -Inf]}', 200,
     ('{\n    "predictions": [Infinity, -Infinity\n    ]\n}',)),
    # Strings.
    ("strings", "rest.predict.strings", "POST", f"{STRINGS}:predict",
     {"instances": ["ab"]}, 200,
     {"predictions": [{"upper": "AB", "length": 2, "raw_bytes": {"b64": "YWI="}}]}),
    ("base64 in and out", "rest.binary", "POST", f"{STRINGS}:predict",
     {"signature_name": "echo", "instances": [{"b64": "/wA="}, {"image_bytes": {"b64": "AA=="}}]},
     400, "Expecting value/list but got object at item 1 of input list"),
    ("base64 in a list", "rest.binary", "POST", f"{STRINGS}:predict",
     {"signature_name": "echo", "instances": [{"b64": "/wA="}]}, 200,
     {"predictions": [{"b64": "/wA="}]}),
    ("base64 in objects", "rest.binary", "POST", f"{STRINGS}:predict",
     {"signature_name": "echo", "instances": [{"image_bytes": {"b64": "/wA="}}]}, 200,
     {"predictions": [{"b64": "/wA="}]}),
    ("what is no base64", "rest.binary", "POST", f"{STRINGS}:predict",
     {"signature_name": "echo", "inputs": {"image_bytes": [{"b64": "***"}]}}, 400,
     "Unable to base64 decode"),
    ("trailing garbage", "rest.json.trailing-garbage", "POST", f"{THREE}:predict",
     '{"instances": [2.0]} and more }{', 200, {"predictions": [4.0]}),
    # What is wrong with the body.
    ("an empty body", "rest.error.empty-body", "POST", f"{THREE}:predict", "", 400,
     "JSON Parse error: The document is empty"),
    ("no JSON", "rest.error.invalid-json", "POST", f"{THREE}:predict", "nonsense", 400,
     "JSON Parse error: Invalid value. at offset: 1"),
    ("an unfinished list", "rest.error.invalid-json", "POST", f"{THREE}:predict",
     '{"instances": [1.0', 400,
     "JSON Parse error: Missing a comma or ']' after an array element. at offset: 18"),
    ("a list at the top", "rest.error.not-an-object", "POST", f"{THREE}:predict", "[1.0]", 400,
     "JSON Value: [1.0] Is not object"),
    ("neither key", "rest.error.neither-key", "POST", f"{THREE}:predict", {"x": [1.0]}, 400,
     "Missing 'inputs' or 'instances' key"),
    ("both keys", "rest.error.both-keys", "POST", f"{THREE}:predict",
     {"instances": [1.0], "inputs": [1.0]}, 400,
     like(r"JSON Value: \{.*\} Not formatted correctly expecting only one of 'inputs' or "
          r"'instances' keys to exist ")),
    ("a signature that is no string", "rest.error.signature-not-a-string", "POST",
     f"{THREE}:predict", {"signature_name": 5, "instances": [1.0]}, 400,
     like(r"JSON Value: \{.*\} not formatted correctly\. 'signature_name' key must be a string "
          r"value\.")),
    ("instances that are no list", "rest.error.instances-not-a-list", "POST", f"{THREE}:predict",
     {"instances": 1.0}, 400, has("Expecting 'instances' to be an list/array")),
    ("an empty list", "rest.error.empty-instances", "POST", f"{THREE}:predict", {"instances": []},
     400, has("No values in 'instances' array")),
    ("a column too few", "rest.error.missing-named-input", "POST", f"{SEVERAL}:predict",
     {"inputs": {"a": [1.0]}}, 400, "Missing named input: b in 'inputs' object."),
    ("a plain column for two inputs", "rest.error.plain-list-for-several", "POST",
     f"{SEVERAL}:predict", {"inputs": [1.0]}, 400,
     "inputs is a plain value/list, but expecting an object as multiple input tensors required as "
     "per tensorinfo_map"),
    ("a plain list for two inputs", "rest.error.plain-list-for-several", "POST",
     f"{SEVERAL}:predict", {"instances": [1.0]}, 400,
     "instances is a plain list, but expecting list of objects as multiple input tensors required "
     "as per tensorinfo_map"),
    ("a string for a float", "rest.error.element-type", "POST", f"{THREE}:predict",
     {"instances": ["a"]}, 400,
     "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: "
     '"a" Type: String is not of expected type: float'),
    ("a string for a float in an object", "rest.error.element-type", "POST", f"{SEVERAL}:predict",
     {"instances": [{"a": 1.0, "b": 1.0}, {"a": "a", "b": 1.0}]}, 400,
     "Failed to process element: 1 key: a of 'instances' list. Error: INVALID_ARGUMENT: JSON "
     'Value: "a" Type: String is not of expected type: float'),
    ("a string in a column", "rest.error.element-type", "POST", f"{THREE}:predict",
     {"inputs": ["a"]}, 400, 'JSON Value: "a" Type: String is not of expected type: float'),
    ("null", "rest.error.element-type", "POST", f"{THREE}:predict", {"inputs": [None]}, 400,
     "JSON Value: null Type: Null is not of expected type: float"),
    ("rows of unequal length", "rest.error.ragged", "POST", f"{V1}/padded:predict",
     {"instances": [[1, 2], [3]]}, 400,
     "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor "
     "size: 2 but got: 1"),
    ("a ragged column", "rest.error.ragged", "POST", f"{V1}/padded:predict",
     {"inputs": [[1, 2], [3]]}, 400,
     "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ("keys that are not the inputs", "rest.error.keys-not-the-inputs", "POST",
     f"{SEVERAL}:predict", {"instances": [{"a": 1.0}]}, 400,
     like(r"Failed to process element: 0 of 'instances' list\. JSON object: \{.*\} keys must be "
          r"equal to: (a,b|b,a)")),
    ("an unknown key", "rest.error.keys-not-the-inputs", "POST", f"{SEVERAL}:predict",
     {"instances": [{"a": 1.0, "c": 1.0}]}, 400,
     "Failed to process element: 0 key: c of 'instances' list. Error: INVALID_ARGUMENT: JSON "
     "object: does not have named input: c"),
    ("no batch dimension in rows", "rest.error.no-batch-dimension", "POST", f"{SEVERAL}:predict",
     {"signature_name": "total", "instances": [1.0]}, 400,
     "Tensor name: total has no shape information "),
    ("batches of unequal size out in rows", "rest.error.unequal-batches", "POST",
     f"{SEVERAL}:predict", {"signature_name": "uneven", "instances": [1.0, 2.0]}, 400,
     like(r"Tensor name: \w+ has inconsistent batch size: \d expecting: \d")),
    ("what the model refuses", "rest.error.model-refuses", "POST", f"{PICKY}:predict",
     '{"instances": [NaN]}', 400, has("not a number for me : Tensor had NaN values")),
    # The model.
    ("an unknown signature", "rest.error.unknown-signature", "POST", f"{THREE}:predict",
     {"signature_name": "nope", "instances": [1.0]}, 400,
     'Serving signature name: "nope" not found in signature def'),
    ("an unknown model", "rest.error.unknown-model", "POST", f"{V1}/fork:predict",
     {"instances": [1.0]}, 404, "Servable not found for request: Latest(fork)"),
    ("an unknown version", "rest.error.unknown-version", "POST", f"{THREE}/versions/7:predict",
     {"instances": [1.0]}, 404, "Servable not found for request: Specific(half_plus_three, 7)"),
    ("an unknown label", "rest.error.unknown-label", "POST", f"{THREE}/labels/nope:predict",
     {"instances": [1.0]}, 400, "Unrecognized servable version label: nope"),
    ("an unknown model with a bad body", "rest.error.body-before-model", "POST",
     f"{V1}/fork:predict", "nonsense", 400, "JSON Parse error: Invalid value. at offset: 1"),
    ("a version and a label", "rest.path.malformed", "POST",
     f"{THREE}/versions/1/labels/stable:predict", {"instances": [1.0]}, 400,
     f"Malformed request: POST {THREE}/versions/1/labels/stable:predict"),
    # Classify and regress.
    ("scores", "rest.classify", "POST", f"{HALF}:classify",
     {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}, {"x": [10.0]}]}, 200,
     {"results": [[["", 3.0]], [["", 7.0]]]}),
    ("labels and scores", "rest.classify", "POST", f"{THREE}:classify",
     {"signature_name": "classify", "examples": [{"x": 2.0}]}, 200,
     {"results": [[["small", 2.0], ["large", 4.0]]]}),
    ("values", "rest.regress", "POST", f"{HALF}:regress",
     {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}, {"x": 10.0}]}, 200,
     {"results": [3.0, 7.0]}),
    ("a context", "rest.classify-context", "POST", f"{HALF}:regress",
     {"signature_name": "regress_x_to_y", "context": {"x": 4.0}, "examples": [{}, {"x": 6.0}]},
     200, {"results": [4.0, 5.0]}),
    ("no examples", "rest.error.no-examples", "POST", f"{HALF}:classify", {}, 400,
     has("When method is classify, key 'examples' is expected and was not found")),
    ("examples that are no list", "rest.error.no-examples", "POST", f"{HALF}:classify",
     {"examples": 1}, 400, has("Expecting 'examples' value to be an list/array")),
    ("an empty list of examples", "rest.error.no-examples", "POST", f"{HALF}:regress",
     {"examples": []}, 400, has("'examples' value is an empty array")),
    ("an example that is no object", "rest.error.no-examples", "POST", f"{HALF}:regress",
     {"examples": [1.0]}, 400, "Example must be JSON object but got JSON Number"),
    ("a feature of two types", "rest.error.example-types", "POST", f"{HALF}:regress",
     {"examples": [{"x": [1.0, "a"]}]}, 400,
     has("Unexpected element type in feature: x expecting type: ")),
    ("an integer for a float feature", "rest.error.example-types", "POST", f"{HALF}:regress",
     {"signature_name": "regress_x_to_y", "examples": [{"x": 2}]}, 400,
     has("Data types don't match. Data type: int64 but expected type: float")),
    ("an unknown signature for classify", "rest.error.classify-unknown-signature", "POST",
     f"{HALF}:classify", {"signature_name": "nope", "examples": [{"x": 2.0}]}, 400,
     "No signature was found with the name: nope"),
    # Status and metadata.
    ("status", "rest.status", "GET", THREE, None, 200, states(2, 1)),
    ("status of a version", "rest.status", "GET", f"{THREE}/versions/1", None, 200, states(1)),
    ("status of a label is of all versions", "rest.status-label", "GET",
     f"{THREE}/labels/stable", None, 200, states(2, 1)),
    ("status of an unknown model", "rest.status-unknown", "GET", f"{V1}/fork", None, 404,
     "Could not find any versions of model fork"),
    ("status of an unknown version", "rest.status-unknown", "GET", f"{THREE}/versions/7", None,
     404, "Could not find version 7 of model half_plus_three"),
    ("status as protobuf writes it", "rest.status-format", "GET", ARTICLE, None, 200,
     ('{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n'
      '   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n',)),
    ("metadata of an unknown model", "rest.metadata-unknown", "GET", f"{V1}/fork/metadata", None,
     404, "Servable not found for request: Latest(fork)"),
    ("metadata of an unknown version", "rest.metadata-unknown", "GET",
     f"{THREE}/versions/7/metadata", None, 404,
     "Servable not found for request: Specific(half_plus_three, 7)"),
    ("no model name", "rest.models-without-name", "GET", V1, None, 400,
     "Missing model name in request."),
    # Paths and methods.
    ("upper case", "rest.path.case-insensitive", "GET", "/V1/Models/article", None, 200,
     states(1)),
    ("a percent-encoded name", "rest.path.percent-decoded", "GET", f"{V1}/%61rticle", None, 200,
     states(1)),
    ("a percent-encoded unknown name", "rest.path.percent-decoded", "GET", f"{V1}/f%2Fo%3Ark",
     None, 404, "Could not find any versions of model f/o:rk"),
    ("a percent-encoded label", "rest.path.percent-decoded", "POST",
     f"{THREE}/labels/st%61ble:predict", {"instances": [2.0]}, 200, {"predictions": [4.0]}),
    ("the method in upper case", "rest.path.method-case", "POST", f"{THREE}:PREDICT",
     {"instances": [2.0]}, 400, f"Malformed request: POST {THREE}:PREDICT"),
    ("GET of a prediction", "rest.path.malformed", "GET", f"{THREE}:predict", None, 400,
     f"Malformed request: GET {THREE}:predict"),
    ("POST of a status", "rest.path.malformed", "POST", THREE, {}, 400,
     f"Malformed request: POST {THREE}"),
    ("another method", "rest.path.malformed", "PUT", THREE, {}, 400,
     f"Malformed request: PUT {THREE}"),
    ("DELETE", "rest.path.malformed", "DELETE", THREE, None, 400,
     f"Malformed request: DELETE {THREE}"),
    ("another path", "rest.path.malformed", "GET", "/v1/other", None, 400,
     "Malformed request: GET /v1/other"),
    ("MultiInference", "rest.no-multi-inference", "POST", f"{THREE}:multiInference", {}, 400,
     f"Malformed request: POST {THREE}:multiInference"),
    ("reload", "rest.no-multi-inference", "POST", f"{THREE}:reload", {}, 400,
     f"Malformed request: POST {THREE}:reload"),
    ("a version beyond int64", "rest.path.version-overflow", "GET",
     f"{THREE}/versions/99999999999999999999", None, 400, ("",)),
])  # fmt: skip


@case("rest.status")
def a_status_has_content_type_json(server: Server) -> None:
    same(server.get(ARTICLE).headers["content-type"], "application/json")


@case("rest.prefix")
def outside_of_v1_is_404_without_json(server: Server) -> None:
    for path in ("/", "/v2/models/article", "/v1", "/metrics", "/healthz"):
        reply = server.get(path)
        same(reply.status, 404, path)
        assert not reply.body.startswith("{"), reply.body


@case("rest.content-type")
def replies_are_json_errors_too(server: Server) -> None:
    for reply in (
        server.post(f"{THREE}:predict", {"instances": [2.0]}),
        server.post(f"{THREE}:predict", "nonsense"),
        server.get(f"{V1}/fork"),
    ):
        same(reply.headers["content-type"], "application/json")


@case("rest.error-format")
def an_error_is_pretty_printed(server: Server) -> None:
    reply = server.get(f"{V1}/fork")
    same(reply.body, '{\n    "error": "Could not find any versions of model fork"\n}')


@case("rest.metadata")
def metadata_has_the_spec_and_the_signatures(server: Server) -> None:
    reply = server.get(f"{HALF}/metadata")
    same(reply.status, 200)
    assert reply.body.startswith('{\n"model_spec":{\n'), reply.body[:100]
    same(
        reply.json["model_spec"],
        {"name": "half_plus_two", "signature_name": "", "version": "123"},
    )
    signatures = reply.json["metadata"]["signature_def"]["signature_def"]
    same(
        signatures["serving_default"]["inputs"]["x"],
        {
            "dtype": "DT_FLOAT",
            "tensor_shape": {
                "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
                "unknown_rank": False,
            },
            "name": "x:0",
        },
    )
    same(signatures["classify_x_to_y"]["method_name"], "tensorflow/serving/classify")


@case("rest.metadata")
def metadata_of_a_version_is_of_that_one(server: Server) -> None:
    reply = server.get(f"{THREE}/versions/1/metadata")
    same(reply.json["model_spec"]["version"], "1")
    reply = server.get(f"{THREE}/labels/stable/metadata")
    same(reply.json["model_spec"]["version"], "1")


@case("rest.options")
def options_with_an_origin_is_200(server: Server) -> None:
    reply = server.request("OPTIONS", THREE, headers={"Origin": "https://example.org"})
    same((reply.status, reply.body), (200, ""))


@case("rest.options")
def options_without_an_origin_is_400(server: Server) -> None:
    same(server.request("OPTIONS", THREE).status, 400)


@case("rest.cors-off")
def there_are_no_cors_headers_unless_asked_for(server: Server) -> None:
    reply = server.request("OPTIONS", THREE, headers={"Origin": "https://example.org"})
    assert not any(name.startswith("access-control") for name in reply.headers), reply.headers


@case("rest.gzip")
def a_gzipped_body_is_unpacked(server: Server) -> None:
    body = gzip.compress(b'{"instances": [2.0]}')
    reply = server.post(f"{THREE}:predict", body, {"Content-Encoding": "gzip"})
    same(reply.json, {"predictions": [4.0]})


@case("rest.http-codes")
def codes_of_grpc_become_codes_of_http(server: Server) -> None:
    for path, body, status in (
        (f"{THREE}:predict", "nonsense", 400),  # INVALID_ARGUMENT
        (f"{V1}/fork:predict", {"instances": [1.0]}, 404),  # NOT_FOUND
    ):
        same(server.post(path, body).status, status)
    # FAILED_PRECONDITION
    same(server.request("OPTIONS", THREE).status, 400)


@case("rest.keep-alive")
def a_connection_serves_many_requests(server: Server) -> None:
    import http.client

    if not server.rest:
        server.get("/")
    connection = http.client.HTTPConnection(server.rest, timeout=10)
    for _ in range(3):
        connection.request("POST", f"{THREE}:predict", b'{"instances": [2.0]}')
        response = connection.getresponse()
        same(response.status, 200)
        response.read()
    connection.close()


@case("rest.json.floats")
def a_float_is_written_shortest_or_with_nine_digits(server: Server) -> None:
    reply = server.post(f"{THREE}:predict", {"instances": [-5.8, 0.28318, 1 / 3]})
    # Six digits where they tell it from its neighbours, else nine.
    same(reply.body, '{\n    "predictions": [0.0999999046, 3.14159, 3.16666675\n    ]\n}')


@case("rest.error.unknown-model")
def an_unknown_model_is_the_same_in_every_method(server: Server) -> None:
    for method in ("classify", "regress"):
        reply = server.post(f"{V1}/fork:{method}", {"examples": [{"x": 1.0}]})
        same((reply.status, reply.error), (404, "Servable not found for request: Latest(fork)"))


@case("rest.error.both-keys")
def a_long_value_is_cut_in_the_message(server: Server) -> None:
    reply = server.post(f"{THREE}:predict", {"instances": ["xxxx"] * 1000, "inputs": []})
    same(reply.status, 400)
    assert len(reply.error) < 2000, len(reply.error)
    same(reply.error, starts("JSON Value: {"))
