"""The description of the API: OpenAPI document, its page, and a page for each problem."""
