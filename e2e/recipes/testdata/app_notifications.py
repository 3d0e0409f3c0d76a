# An app with a login. Its notifications come from the docs.
import json
import sqlite3
import sys
from urllib.request import Request, urlopen

from flask import Flask, request, session

app = Flask(__name__)
app.secret_key = "of this test"
db = sqlite3.connect(":memory:", check_same_thread=False)
db.execute("create table notifications (id integer primary key, user text, text text, read integer default 0)")


def user():
    return session.get("user", "alice")


def publish(event):
    urlopen(Request("http://localhost:2019/sse/send", json.dumps(event).encode(), {"Content-Type": "application/json"})).close()


@app.get("/login")
def login():
    session["user"] = request.args["user"]
    return "logged in"


@app.get("/events")
def events():
    return "", 204, {"X-SSE-User": user()}


@app.post("/notify")
def somebody_notifies():
    notify(request.args["to"], request.args["text"])
    return "", 204


# RECIPE

app.run(port=int(sys.argv[1]), threaded=False)
