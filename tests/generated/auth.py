"""Views of a user who logs in and out."""

from pyramid.httpexceptions import HTTPFound
from pyramid.view import view_config


@view_config(route_name="login", request_method="POST")
def login(request):
    """Log in: a new token, and a name in the session."""
    request.session["user"] = request.POST["user"]
    request.session.rotate()
    request.session.flash("welcome")
    return HTTPFound(request.route_url("who"))


@view_config(route_name="logout", request_method="POST")
def logout(request):
    """Log out."""
    request.session.invalidate()
    return HTTPFound(request.route_url("who"))


@view_config(route_name="who", renderer="json")
def who(request):
    """Tell who is logged in."""
    return [request.session.get("user"), *request.session.pop_flash()]
