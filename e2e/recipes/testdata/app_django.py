# An app with a login. Its view of streams comes from the docs.
import json
import sys

import django
from django.conf import settings
from django.core.servers.basehttp import run
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=False,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", "of_this_test.authenticate"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of this test",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)


class User:
    def __init__(self, name):
        self.username = name or ""
        self.is_authenticated = name is not None


# In place of django.contrib.auth, which needs a database.
def authenticate(get_response):
    def middleware(request):
        request.user = User(request.session.get("user"))
        return get_response(request)

    return middleware


sys.modules["of_this_test"] = sys.modules[__name__]


def rooms_of(user):
    return ["room/1", "room/2"] if user.username == "alice" else ["room/2"]


def login(request):
    request.session["user"] = request.GET["user"]
    return HttpResponse("logged in")


# RECIPE


urlpatterns = [path("login", login), path("events", events)]
django.setup()
# One worker: while it is busy with one request, all others wait.
run("127.0.0.1", int(sys.argv[1]), get_wsgi_application(), threading=False)
