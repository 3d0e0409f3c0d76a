# An app that keeps its logins in a database. Its routes come from the docs.
import json
import secrets
import sqlite3
import sys

from flask import Flask, request, session

app = Flask(__name__)
app.secret_key = "of this test"
db = sqlite3.connect(":memory:", check_same_thread=False)
db.execute("create table logins (id text primary key, user text)")


def rooms_of(user):
    return ["room/1"]


def user_of(form):
    return form["user"]


@app.post("/api/other")
def other():
    session["other"] = "something"
    return "", 204


# RECIPE

app.run(port=int(sys.argv[1]), threaded=False)
