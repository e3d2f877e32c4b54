"""One table for a Rails and a Pyramid application at once.

Rails is its statements here: activerecord-session_store 2.3.0 ran them on
Rails 6.1 and 7.2, with ``serializer = :json``, on a table that its own
migration had made on each database.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from pyramid_limitedsession import SessionOverflowError
from pyramid_limitedsession.layout import Layout, names_of
from tests.apps import START, add_views, cookie_of, older_than, trim

# What the generator's migration ([6.1]) executes.
TABLE = {
    "sqlite": 'CREATE TABLE "%s" ("id" integer PRIMARY KEY AUTOINCREMENT NOT '
    'NULL, "session_id" varchar NOT NULL, "data" text, "created_at" '
    'datetime(6) NOT NULL, "updated_at" datetime(6) NOT NULL)',
    "postgresql": 'CREATE TABLE "%s" ("id" bigserial primary key, '
    '"session_id" character varying NOT NULL, "data" text, "created_at" '
    'timestamp(6) NOT NULL, "updated_at" timestamp(6) NOT NULL)',
    "mysql": "CREATE TABLE `%s` (`id` bigint NOT NULL AUTO_INCREMENT PRIMARY "
    "KEY, `session_id` varchar(255) NOT NULL, `data` text, `created_at` "
    "datetime(6) NOT NULL, `updated_at` datetime(6) NOT NULL)",
}
INDEXES = (
    "CREATE UNIQUE INDEX index_%s_on_session_id ON %s (session_id)",
    "CREATE INDEX index_%s_on_updated_at ON %s (updated_at)",
)
# What it executes for a session.
FIND = "SELECT * FROM %s WHERE session_id = :key ORDER BY id ASC LIMIT 1"
INSERT = (
    "INSERT INTO %s (session_id, data, created_at, updated_at) "
    "VALUES (:key, :data, :now, :now)"
)
UPDATE = "UPDATE %s SET data = :data, updated_at = :now WHERE id = :id"
TOUCH = "UPDATE %s SET updated_at = :now WHERE id = :id"
DELETE = "DELETE FROM %s WHERE id = :id"
# Of a row with a plain id, by a request that reads it.
SECURE = "UPDATE %s SET session_id = :key, updated_at = :now WHERE id = :id"
# rake db:sessions:trim
TRIM = "DELETE FROM %s WHERE (updated_at < :now)"
# With a column lock_version.
LOCKED = (
    "UPDATE %s SET data = :data, updated_at = :now, lock_version = :next "
    "WHERE id = :id AND lock_version = :version"
)

# SecureRandom.hex(16)
TOKEN = "dd1f9ff1eb5be65d5b1a2e51a7e5e0a2"
# session[:cart] = [{"sku" => "é-1", "n" => 2}]; session[:t] = Time.now;
# session[:f] = 1e20; session[:html] = "<a>&\u2028"; flash[:notice] = "hi";
# and form_authenticity_token
RICH = (
    '{"value":{"user_id":7,"cart":[{"sku":"é-1","n":2}],'
    '"t":"2026-11-25 06:43:12 +0000","f":1.0e+20,"html":"<a>&\u2028",'
    '"flash":{"discard":[],"flashes":{"notice":"hi"}},'
    '"_csrf_token":"dAYtWr17az0X2Q3Z9xfU8JvxgZDkIPe0dIDrQ/b0iv0="}}'
)
# serializer = :marshal; {"user_id" => 3, "s" => :sym}
MARSHAL = "BAh7B0kiDHVzZXJfaWQGOgZFVGkISSIGcwY7AFQ6CHN5bQ==\n"
DAY = 86400

PAGE = Path(__file__).parent.parent / "docs" / "legacy.rst"
# The ini files of the page: for Rails' table, and for one with lock_version.
DOCUMENTED = [
    dict(re.findall(r"    limitedsession\.(\S+) = (.+)", block))
    for block in PAGE.read_text().split(".. code-block:: ini\n")[1:]
]
NAMES, LOCKED_NAMES = (given["columns"].split() for given in DOCUMENTED)
# The table's name and columns come from the layout.
SETTINGS = {
    name: value
    for name, value in DOCUMENTED[0].items()
    if name not in ("table_name", "columns")
}
PLACES = (
    ("sqlite", "separate"),
    ("postgresql", "joined"),
    ("mariadb", "separate"),
)


def private_id(token):
    """Return what Rack::Session::SessionId#private_id does."""
    return "2::" + hashlib.sha256(token.encode()).hexdigest()


class Rails:
    """The other application on the table of a world."""

    def __init__(self, world):
        self.world = world

    def run(self, statement, **values):
        """Execute a statement; return the row that it finds."""
        text = sa.text(statement % self.world.table.name)
        with self.world.engine.begin() as connection:
            result = connection.execute(text, values)
            if result.returns_rows:
                return result.mappings().first()
            return result.rowcount

    def now(self):
        """Return the time as it is written: microseconds, without a zone."""
        moment = datetime.datetime.fromtimestamp(
            self.world.clock() + 0.5, datetime.timezone.utc
        )
        return f"{moment:%Y-%m-%d %H:%M:%S.%f}"

    def new(self, data, key=None):
        """Make a session, as at a login."""
        key = key or private_id(TOKEN)
        text = dumped(data) if isinstance(data, dict) else data
        self.run(INSERT, key=key, data=text, now=self.now())

    def find(self, token=TOKEN):
        """Return the row of a visitor who shows this token."""
        return self.run(FIND, key=private_id(token))

    def read(self, token=TOKEN):
        """Return what is in his session."""
        return json.loads(self.find(token)["data"])["value"]

    def save(self, row, **changes):
        """Store what a request makes of the session that it has found."""
        data = json.loads(row["data"])["value"] | changes
        values = {"id": row["id"], "data": dumped(data), "now": self.now()}
        return self.run(UPDATE, **values)

    def end(self, row):
        """Destroy the session, as ``reset_session`` does."""
        return self.run(DELETE, id=row["id"])


def dumped(data):
    """Return what ``JSON.dump(value: data)`` returns."""
    return json.dumps(
        {"value": data}, ensure_ascii=False, separators=(",", ":")
    )


@pytest.fixture(name="make_rails")
def _make_rails(make_world, run_name):
    """Return a function that makes both applications on one table."""

    def make(database="sqlite", mode="separate", more="", **given):
        name = f"pls_{run_name}_rails_sessions"
        columns = LOCKED_NAMES if more else NAMES
        names = names_of(columns, {"version": more})

        def migrate(engine):
            with engine.begin() as connection:
                run = connection.exec_driver_sql
                run(TABLE[engine.dialect.name] % name)
                for index in INDEXES:
                    run(index % (name, name))
                if more:
                    run(
                        f"ALTER TABLE {name} ADD COLUMN {more} "
                        "integer DEFAULT 0 NOT NULL"
                    )

        settings = {
            f"limitedsession.{k}": v for k, v in (SETTINGS | given).items()
        }
        world = make_world(
            database,
            mode,
            layout=Layout(name, None, names),
            listen=migrate,
            settings=settings,
        )
        world.rails = Rails(world)
        add_rails_views(world)
        return world

    return make


def add_rails_views(world):
    """Add the views of the Pyramid application."""
    add_views(world)

    @world.on("login")
    def _(request):
        request.session["user_id"] = int(request.params["id"])
        return {}

    @world.on("flash")
    def _(request):
        request.session.flash(request.params["text"])
        return request.session.get_csrf_token()


@pytest.fixture(name="site", params=PLACES, ids=lambda place: place[0])
def _site(make_rails, request):
    """Both applications on each database."""
    return make_rails(*request.param)


@pytest.fixture(name="small")
def _small(make_rails):
    """Both applications where the database makes no difference."""
    return make_rails()


def browser_of(world, token=TOKEN):
    """Return a browser that Rails has given this token."""
    browser = world.browser()
    browser.set_cookie("_app_session", token)
    return browser


def meanwhile(world, act):
    """Let ``/slow`` change ``mine`` while Rails does something."""

    @world.on("slow")
    def _(request):
        request.session["mine"] = "1"
        act()
        return {}


# -- a visitor of both -------------------------------------------------


def test_signed_in_by_rails(site):
    """Pyramid sees him, and changes the row that Rails has made."""
    site.rails.new({"user_id": 7})
    before = site.rails.find()
    browser = browser_of(site)
    assert {"user_id": 7} == browser.get("/get").json
    site.clock.pass_(10)
    answer = browser.get("/set?color=bl%C3%BC")
    assert [] == cookie_of(answer)
    row = site.rails.find()
    assert {"user_id": 7, "color": "blü"} == site.rails.read()
    kept = ("id", "session_id", "created_at")
    assert [before[name] for name in kept] == [row[name] for name in kept]
    assert str(row["updated_at"]).startswith("2027-01-15 08:00:10")


def test_signed_in_by_pyramid(site):
    """Rails sees him, and Pyramid what Rails makes of it."""
    browser = site.browser()
    browser.get("/login?id=5")
    token = browser.cookies["_app_session"]
    assert {"user_id": 5} == site.rails.read(token)
    row = site.rails.find(token)
    assert None not in row.values()
    assert 1 == site.rails.save(row, r="grün")
    assert {"user_id": 5, "r": "grün"} == browser.get("/get").json
    assert 1 == len(site.rows())


def test_p5_what_is_only_read_stays_as_it_was(site):
    """P5: one SELECT, however Rails has written it; and nothing is lost."""
    site.rails.new(RICH)
    browser = browser_of(site)
    site.count()
    content = browser.get("/get").json
    assert ["SELECT"] == site.count()
    assert RICH == site.rails.find()["data"]
    assert json.loads(RICH)["value"] == content
    browser.get("/set?a=1")
    assert content | {"a": "1"} == site.rails.read()


def test_each_has_its_own_flash_and_csrf_token(small):
    """Those of Rails survive; ours are beside them."""
    small.rails.new(RICH)
    browser = browser_of(small)
    token = browser.get("/flash?text=hey").json
    # The next page of Rails shows its notice, and sweeps it.
    row = small.rails.find()
    content = small.rails.read()
    assert {"notice": "hi"} == content.pop("flash")["flashes"]
    text = dumped(content)
    small.rails.run(UPDATE, id=row["id"], data=text, now=small.rails.now())
    content = browser.get("/get").json
    assert "flash" not in content
    assert ["hey"] == content["_f_"]
    assert token == content["_csrft_"]
    assert content["_csrf_token"].startswith("dAYtWr17az0X")


def test_its_tokens_need_the_setting(make_rails):
    """Tokens of 32 characters open nothing unless ``legacy_ids`` says so."""
    world = make_rails(legacy_ids="false")
    world.rails.new({"user_id": 7})
    assert {} == browser_of(world).get("/get").json


# -- both at the same time ---------------------------------------------


def test_p2_rails_changes_while_we_do(make_rails, database, mode):
    """P2: what Rails saves between our look and our save is kept."""
    world = make_rails(database, mode)
    world.rails.new({"user_id": 7, "gone": 1})
    row = world.rails.find()
    meanwhile(world, lambda: world.rails.save(row, theirs="é"))
    browser_of(world).get("/slow")
    read = world.rails.read()
    assert {"user_id": 7, "gone": 1, "theirs": "é", "mine": "1"} == read


def test_rails_overwrites_what_it_has_not_seen(small):
    """The limit of it: Rails saves all that it had read, and nothing else."""
    small.rails.new({"user_id": 7})
    row = small.rails.find()
    browser_of(small).get("/set?mine=1")
    assert 1 == small.rails.save(row, theirs="2")
    assert {"user_id": 7, "theirs": "2"} == small.rails.read()


def test_lock_version(make_rails, database):
    """With this column as ``version``, Rails does not overwrite: it fails.

    Here our change is kept, and the other way round both are.
    """
    world = make_rails(database, more="lock_version")
    world.rails.new({"user_id": 7})

    def save(row, **changes):
        data = json.loads(row["data"])["value"] | changes
        version = row["lock_version"]
        return world.rails.run(
            LOCKED,
            **{"id": row["id"], "data": dumped(data)},
            **{"now": world.rails.now(), "version": version},
            next=version + 1,
        )

    row = world.rails.find()
    browser = browser_of(world)
    browser.get("/set?mine=1")
    # ActiveRecord::StaleObjectError
    assert 0 == save(row, theirs="2")
    assert {"user_id": 7, "mine": "1"} == world.rails.read()
    row = world.rails.find()
    meanwhile(world, lambda: save(row, theirs="2"))
    browser.get("/slow")
    assert {"user_id": 7, "mine": "1", "theirs": "2"} == world.rails.read()
    browser.get("/out")
    assert 0 == save(row, theirs="3")


def test_a_foreign_version_would_lose(make_rails):
    """Why ``version`` has to stay out: Rails does not bump it."""
    world = make_rails(more="version")
    world.rails.new({"user_id": 7})
    row = world.rails.find()
    meanwhile(world, lambda: world.rails.save(row, theirs="1"))
    browser_of(world).get("/slow")
    assert {"user_id": 7, "mine": "1"} == world.rails.read()


# -- logout, and new tokens --------------------------------------------


def test_p3_logout_by_pyramid(site):
    """P3: Rails finds no session, and a late request of it saves nothing."""
    site.rails.new({"user_id": 7})
    row = site.rails.find()
    answer = browser_of(site).get("/out")
    assert "Max-Age=0" in cookie_of(answer)[0]
    assert site.rails.find() is None
    assert 0 == site.rails.save(row, theirs="1")
    assert [] == site.rows()


def test_p3_logout_by_rails(site):
    """P3: nothing of ours brings it back, and no cookie is sent."""
    site.rails.new({"user_id": 7})
    row = site.rails.find()
    meanwhile(site, lambda: site.rails.end(row))
    browser = browser_of(site)
    assert [] == cookie_of(browser.get("/slow"))
    assert [] == site.rows()
    assert {} == browser.get("/get").json


def test_a_new_token(site):
    """Rails finds the row under it, and saves to it without knowing it."""
    site.rails.new({"user_id": 7})
    row = site.rails.find()
    browser = browser_of(site)
    browser.get("/rotate")
    token = browser.cookies["_app_session"]
    assert token != TOKEN
    assert site.rails.find() is None
    assert row["id"] == site.rails.find(token)["id"]
    # A request of Rails that was under way with the old one.
    assert 1 == site.rails.save(row, theirs="1")
    assert {"user_id": 7, "theirs": "1"} == browser.get("/get").json


def test_a_login_gives_a_new_token(small):
    """Ours does; of one by Rails, which has given one, we make none."""
    small.rails.new({"user_id": 7})
    browser = browser_of(small)
    assert [] == cookie_of(browser.get("/login?id=7"))
    assert [] != cookie_of(browser.get("/login?id=8"))
    token = browser.cookies["_app_session"]
    small.rails.save(small.rails.find(token), user_id=9)
    assert [] == cookie_of(browser.get("/set?a=1"))
    assert {"user_id": 9, "a": "1"} == small.rails.read(token)


# -- times -------------------------------------------------------------


def test_what_rails_writes_is_activity(site):
    """A change by Rails, or its ``touch``, prolongs the session."""
    site.rails.new({"user_id": 7})
    browser = browser_of(site)
    row = site.rails.find()
    site.clock.pass_(29 * DAY)
    site.rails.run(TOUCH, id=row["id"], now=site.rails.now())
    site.clock.pass_(29 * DAY)
    site.rails.save(site.rails.find(), a="1")
    site.clock.pass_(29 * DAY)
    assert {"user_id": 7, "a": "1"} == browser.get("/get").json


def test_what_rails_only_reads_is_none(small):
    """Reading there writes nothing: here the session is idle, and stays."""
    small.rails.new({"user_id": 7})
    small.clock.pass_(30 * DAY + 60)
    assert small.rails.find() is not None
    browser = browser_of(small)
    answer = browser.get("/ended")
    assert "idle" == answer.json
    # It is the visitor's last request with it, in both applications.
    assert "Max-Age=0" in cookie_of(answer)[0]
    assert small.rails.find() is not None


def test_our_activity_keeps_rails_from_trimming(site):
    """What is only read here is younger for ``rake db:sessions:trim``."""
    site.rails.new({"user_id": 7})
    browser = browser_of(site)
    for _ in range(2):
        site.clock.pass_(3600)
        browser.get("/get")
    threshold = site.rails.now()
    assert 0 == site.rails.run(TRIM, now="2027-01-15 10:00:00.000000")
    site.clock.pass_(1)
    assert 1 == site.rails.run(TRIM, now=threshold)


def test_its_times_are_never_moved_back(site):
    """A fraction of a second is no reason to write, nor to lose one."""
    site.rails.new({"user_id": 7})
    browser_of(site).get("/set?a=1")
    row = site.rails.find()
    assert str(row["updated_at"]).startswith("2027-01-15 08:00:00.5")
    assert str(row["created_at"]).startswith("2027-01-15 08:00:00.5")


def test_cleaning_keeps_what_the_limits_keep(site):
    """It deletes by ``updated_at``, of Rails' sessions as of ours."""
    site.rails.new({"user_id": 7})
    site.rails.new({}, private_id("another"))
    site.clock.pass_(DAY)
    site.rails.save(site.rails.find(), a="1")
    now = int(site.clock())
    assert 1 == site.store.clean(cutoffs=older_than(now - 60, now), most=9)
    assert 0 == trim(site.store, older_than(now - 60, now))
    assert {"user_id": 7, "a": "1"} == site.rails.read()


# -- rows that are no sessions for us ----------------------------------


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (MARSHAL, "cannot be read"),
        (None, "NULL"),
        ('{"user_id":7}', "cannot be read"),
        (dumped({"a": "é" * 33_000}), "max_data_size"),
    ],
    ids=["Marshal", "NULL", "not wrapped", "too large"],
)
def test_p9_unreadable(small, caplog, data, problem):
    """P9: a new session; the row stays as it is; one line in the log."""
    small.rails.new(data)
    browser = browser_of(small)
    caplog.clear()
    assert "unreadable" == browser.get("/ended").json
    (line,) = [r.getMessage() for r in caplog.records if r.levelno > 20]
    assert problem in line
    assert 1 == len(small.rows())
    browser.get("/set?a=1")
    token = browser.cookies["_app_session"]
    assert {"a": "1"} == small.rails.read(token)
    assert data == small.rails.find()["data"]


def test_the_size_of_its_column(make_rails):
    """TEXT ends at 65,535 bytes on MariaDB: so has ``max_data_size`` to."""
    world = make_rails("mariadb")

    @world.on("fill")
    def _(request):
        request.session["a"] = "x" * int(request.params["n"])
        return {}

    frame = len(dumped({"a": ""}))
    browser = world.browser()
    browser.get(f"/fill?n={65535 - frame}")
    with pytest.raises(SessionOverflowError):
        browser.get(f"/fill?n={65536 - frame}")
    (row,) = world.rows()
    assert 65535 == len(row.data)


# -- plain ids ---------------------------------------------------------


@pytest.fixture(name="plain")
def _plain(make_rails, database):
    """Both on a table that a release 1 of the store has filled."""
    world = make_rails(database, legacy_ids="true")
    world.rails.new({"user_id": 3}, TOKEN)
    return world


def test_plain_ids(plain):
    """Who comes first hashes the row; the other one finds it."""
    browser = browser_of(plain)
    assert {"user_id": 3} == browser.get("/get").json
    assert {"user_id": 3} == plain.rails.read()
    browser.get("/set?a=1")
    assert {"user_id": 3, "a": "1"} == plain.rails.read()
    assert 1 == len(plain.rows())


def test_plain_ids_hashed_by_both(plain):
    """A request of Rails that has found it plain hashes it, too."""
    row = plain.rails.run(FIND, key=TOKEN)

    def secure():
        values = {"key": private_id(TOKEN), "now": plain.rails.now()}
        plain.rails.run(SECURE, id=row["id"], **values)
        plain.rails.save(plain.rails.find(), theirs="2")

    meanwhile(plain, secure)
    browser_of(plain).get("/slow")
    read = plain.rails.read()
    assert {"user_id": 3, "mine": "1", "theirs": "2"} == read
    assert 1 == len(plain.rows())


def test_p3_plain_ids_destroyed_by_rails_meanwhile(plain):
    """P3: it stays destroyed."""
    row = plain.rails.run(FIND, key=TOKEN)
    meanwhile(plain, lambda: plain.rails.end(row))
    browser_of(plain).get("/slow")
    assert [] == plain.rows()


# -- when Rails has gone -----------------------------------------------


def test_growing_out(make_rails, make_ini, make_world, database):
    """With what the page and pls-doctor say the table has all columns.

    Everybody stays signed in.
    """
    rails = make_rails(database)
    rails.rails.new({"user_id": 7})
    name = rails.table.name
    (first,) = re.findall(r"ALTER TABLE sessions (.*);", PAGE.read_text())
    alone = rails.engine.execution_options(isolation_level="AUTOCOMMIT")
    with alone.connect() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {name} {first}")
    layout = Layout(name)
    full = SimpleNamespace(mode="separate", url=rails.url, layout=layout)
    settings = {f"limited__{name}": value for name, value in SETTINGS.items()}
    ini = make_ini(full, **settings)
    cures = re.findall("cure: ([A-Z].*);", ini.call("pls-doctor")[1])
    with alone.connect() as connection:
        for cure in cures:
            connection.exec_driver_sql(cure)
    left = {*re.findall(r"\[([a-z_]+)\]", ini.call("pls-doctor")[1])}
    assert left <= {"clock"}
    settings = {f"limitedsession.{k}": v for k, v in SETTINGS.items()}
    world = make_world(database, layout=layout, settings=settings)
    add_views(world)
    browser = browser_of(world)
    assert {"user_id": 7} == browser.get("/get").json
    browser.get("/set?a=1")
    (row,) = world.rows()
    assert "7" == row.user_id
    assert row.expires_at > START + 29 * DAY
    assert '{"value":{"user_id":7,"a":"1"}}' == row.data


# -- at start ----------------------------------------------------------


@pytest.mark.parametrize(
    ("database", "ills"), [("sqlite", set()), ("mariadb", {"collation"})]
)
def test_pls_doctor(make_rails, make_ini, database, ills):
    """It has nothing to say of Rails' table and these settings, but for the
    collation that MariaDB has given the ids."""
    world = make_rails(database)
    world.rails.new({"user_id": 7})
    settings = {f"limited__{name}": value for name, value in SETTINGS.items()}
    out = make_ini(world, **settings).call("pls-doctor")[1]
    # The test's clock is not the server's.
    assert ills == {*re.findall(r"\[([a-z_]+)\]", out)} - {"clock"}


def test_what_is_off_is_said_once(make_rails, caplog):
    """Five lines at start, none when it is used."""
    caplog.set_level(logging.INFO)
    world = make_rails()
    told = re.findall("there is no column '([a-z_]+)'", caplog.text)
    missing = ["version", "expires_at", "user_id", "profile", "ended"]
    assert missing == told
    caplog.clear()
    browser = world.browser()
    browser.get("/login?id=7")
    browser.get("/get")
    assert "there is no column" not in caplog.text
    assert START == world.rows()[0].created_at
