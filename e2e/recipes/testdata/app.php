<?php
// An app with a login, for PHP's own server, which has one worker. Its route of
// streams comes from the docs.
function rooms_of($user) { return $user == "alice" ? ["room/1", "room/2"] : ["room/2"]; }

session_name("session");
session_start();
switch (parse_url($_SERVER["REQUEST_URI"], PHP_URL_PATH)) {
case "/login":
    $_SESSION["user"] = $_GET["user"];
    echo "logged in";
    break;
case "/events":
# RECIPE
    break;
default:
    http_response_code(404);
}
