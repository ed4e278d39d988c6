"""The few pages that the service has without the big one: the login, and what is there."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from synchuman.serving.auth import COOKIE, SESSION_SECONDS, Doorkeeper, Unauthorized

router = APIRouter(include_in_schema=False)
without_page = APIRouter(include_in_schema=False)

STYLE = (
    "body{font:16px system-ui,sans-serif;max-width:34rem;margin:10vh auto;padding:0 1rem;"
    "color-scheme:light dark}"
    "label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit}"
    "input,button{padding:.6rem;margin:.3rem 0 1rem;border-radius:.5rem;border:1px solid #888}"
    "button{background:#0f766e;color:#fff;border:0;cursor:pointer}p.error{color:#dc2626}"
)
FORM_POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
}


@router.get("/login", response_class=HTMLResponse)
async def login_page(next: str = "/") -> HTMLResponse:
    """Show the login."""
    return _login_page(_here(next))


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Log in: name and password as a form; also what gradio_client's `auth` sends."""
    form = await request.form(max_files=0, max_fields=4, max_part_size=1024)
    target = _here(str(form.get("next", "/")))
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    request.app.state.guard.count_login(request.scope)
    try:
        cookie = doorkeeper.log_in(str(form.get("username", "")), str(form.get("password", "")))
    except Unauthorized as error:
        if "text/html" not in request.headers.get("accept", ""):
            raise
        return _login_page(target, str(error), 401)
    wants_page = "text/html" in request.headers.get("accept", "")
    response: Response = RedirectResponse(target, 303) if wants_page else JSONResponse({"success": True})
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
async def log_out() -> Response:
    """Log out."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@without_page.get("/", response_class=HTMLResponse)
async def index() -> HTMLResponse:
    """Show what can be done here, with a form to try it."""
    return _page(
        "SyncHuman Studio",
        "<p>One photo of a person in, a textured 3D human out. Its page is not served here; its routes "
        'are described in <a href="/openapi.json">openapi.json</a> and <code>docs/api.md</code>.</p>'
        '<form method="post" action="/generate" enctype="multipart/form-data">'
        '<label for="image">Photo</label>'
        '<input id="image" type="file" name="image" accept="image/*" required>'
        '<input type="hidden" name="download" value="true">'
        "<button>Generate and download (this takes a while)</button></form>",
    )


def _here(target: str) -> str:
    """Return a path on this server, whatever was asked for: a login must not lead elsewhere."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and "\\" not in target
    return target if plain and target.isprintable() else "/"


def _login_page(target: str, error: str = "", status: int = 200) -> HTMLResponse:
    warning = f'<p class="error" role="alert">{escape(error)}</p>' if error else ""
    return _page(
        "Log in",
        f'{warning}<form method="post" action="/login">'
        '<label for="username">Name</label>'
        '<input id="username" name="username" autocomplete="username" required>'
        '<label for="password">Password</label><input id="password" name="password" type="password" '
        'autocomplete="current-password" required>'
        f'<input type="hidden" name="next" value="{escape(target)}"><button>Log in</button></form>',
        status,
    )


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>{body}</html>",
        status,
        headers=FORM_POLICY,
    )
