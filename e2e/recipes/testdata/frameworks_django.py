# An app that ships orders. Its views come from the docs.
import json
import sys
from urllib.request import Request, urlopen

import django
from django.conf import settings
from django.core.servers.basehttp import run
from django.core.wsgi import get_wsgi_application
from django.db import transaction
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEBUG=False,
    MIDDLEWARE=["of_this_test.authenticate"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of this test",
)


class User:
    pk = 7
    is_authenticated = True


class Session:
    session_key = "of this login"


def authenticate(get_response):
    def middleware(request):
        request.user = User()
        request.session = Session()
        return get_response(request)

    return middleware


sys.modules["of_this_test"] = sys.modules[__name__]


# In place of a model. Order 0 cannot be shipped.
class Order:
    class objects:
        def select_for_update():
            return Order.objects

        def get(pk):
            order = Order()
            order.pk, order.user_id = pk, 7
            return order

    def ship(self):
        # What was published by now would be seen although nothing is committed.
        if self.pk == 0:
            transaction.on_commit(lambda: publish({"user": "7", "text": "rolled back"}))
            raise ValueError("it cannot be shipped")


def publish(event):
    if transaction.get_connection().in_atomic_block:
        raise RuntimeError("it is published before the commit")
    urlopen(Request("http://localhost:2019/sse/send", json.dumps(event).encode(), {"Content-Type": "application/json"})).close()


# RECIPE


urlpatterns = [path("events", events), path("ship/<int:pk>", ship)]
django.setup()
run("127.0.0.1", int(sys.argv[1]), get_wsgi_application(), threading=False)
