"""The ceiling: a Flask application that only reads and answers JSON."""

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.get("/hello")
def hello():
    """Answers at once."""
    return jsonify(ok=True, hello="world")


@app.post("/hello")
def hello_post():
    """Reads JSON and answers JSON."""
    body = request.get_json()
    return jsonify(ok=True, hello=body["userId"]), 201
