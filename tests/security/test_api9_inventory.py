"""API9:2023 Improper inventory management: what is documented is there, what is there is documented, and no more."""

import re

from tests.security.surface import ROUTES, ROWS

# For machines and people around the interface, not part of it.
AROUND = {
    ("GET", path)
    for path in (
        *("/metrics", "/api", "/api/", "/api-json", "/api/assets/<name>"),
        *("/", "/console/<name>", "/console/stream", "/console/orders/<name>", "/console/desk"),
        *("/console/webhooks", "/console/webhooks/<name>", "/console/deliveries/<name>"),
    )
}


def documented(fort):
    paths = fort.test_client().get("/api-json").json["paths"]
    for path, operations in paths.items():
        rule = re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", path.replace("{", "<").replace("}", ">"))
        for method, operation in operations.items():
            yield (method.upper(), rule), operation


def test_the_document_and_the_routes_are_one(fort):
    described = dict(documented(fort))
    assert described.keys() == set(ROUTES) - AROUND
    for route, operation in described.items():
        assert operation.get("x-scope") == ROWS[route]
        assert ("security" in operation and operation["security"] == []) == (ROWS[route] is None)


def test_the_document_requires_tokens(fort):
    document = fort.test_client().get("/api-json").json
    assert document["security"] == [{"bearer": []}]
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for route, operation in documented(fort):
        if ROWS[route]:
            assert {"401", "403", "429"} <= operation["responses"].keys(), route


def test_usual_addresses_of_other_programs_do_not_exist(stranger):
    for path in (
        *(
            "/admin",
            "/debug",
            "/console",
            "/console/",
            "/console/nothing.js",
            "/docs",
            "/swagger",
            "/openapi.json",
            "/graphql",
            "/static/x",
            "/.git/HEAD",
        ),
        *(
            "/.env",
            "/v1/orders",
            "/v2/orders",
            "/api/v1/orders",
            "/actuator",
            "/server-status",
            "/backup",
            "/test",
            "/login",
        ),
    ):
        assert stranger.open("GET", path).status_code == 404, path


def test_the_document_names_no_server_but_itself(fort):
    assert all(server["url"].startswith("/") for server in fort.test_client().get("/api-json").json["servers"])
