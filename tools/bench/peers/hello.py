"""The ceiling: Flask on gunicorn that does nothing but read and answer JSON."""

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.get("/hello")
def hello():
    """Answer at once."""
    return jsonify(ok=True, hello="world")


@app.post("/hello")
def hello_post():
    """Read JSON, answer JSON."""
    body = request.get_json()
    return jsonify(ok=True, hello=body["userId"]), 201
