# An app with a login. Its route of streams comes from the docs.
import json
import sys

from flask import Flask, request, session

app = Flask(__name__)
app.secret_key = "of this test"


def rooms_of(user):
    return ["room/1", "room/2"] if user == "alice" else ["room/2"]


@app.get("/login")
def login():
    session["user"] = request.args["user"]
    return "logged in"


# RECIPE

# One worker: while it is busy with one request, all others wait.
app.run(port=int(sys.argv[1]), threaded=False)
