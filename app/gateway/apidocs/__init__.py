"""The description of the API: the OpenAPI document, its page, and a page for each kind of problem."""
