# An app with a login. Its route of streams comes from the docs.
require "json"
require "sinatra"

set :server, "webrick"
set :bind, "127.0.0.1"
set :port, ARGV[0]
set :environment, :production
set :lock, true # one request at a time
use Rack::Session::Cookie, key: "session", secret: "of this test" * 8

def rooms_of(user) = user == "alice" ? ["room/1", "room/2"] : ["room/2"]

get "/login" do
  session[:user] = params[:user]
  "logged in"
end

# RECIPE
