"""psycopg 3 through the pooler: argument 1 is `session` or `transaction`; where to go is in the
environment, as libpq reads it. Several connections at a time, so that servers change hands."""
import sys
import threading

import psycopg
from psycopg import errors

MODE = sys.argv[1]
FAILED = []


def check(is_so, what):
    if not is_so:
        raise AssertionError(what)


def statements(connection, me):
    """Prepared by message after the first use, dropped by SQL when there are too many."""
    connection.prepare_threshold = 0
    connection.prepared_max = 3
    for turn in range(60):
        number = turn % 7
        row = connection.execute(f"select %s::text, {number}, %s::int", [me, turn]).fetchone()
        check(row == (me, number, turn), f"{row} for {me}, {turn}")
    connection.execute("select 1", prepare=True)
    connection.execute("deallocate all")
    check(connection.execute("select 2", prepare=False).fetchone() == (2,), "after deallocate all")


def transactions(connection, me):
    with connection.transaction():
        connection.execute("insert into log values (%s, 1)", [me])
        try:
            with connection.transaction():
                connection.execute("insert into log values (%s, 2)", [me])
                connection.execute("select 1/0")
        except errors.DivisionByZero:
            pass
        connection.execute("insert into log values (%s, 3)", [me])
    rows = connection.execute("select n from log where who = %s order by n", [me]).fetchall()
    check(rows == [(1,), (3,)], f"savepoint: {rows}")
    try:
        with connection.transaction():
            connection.execute("insert into log values (%s, 4)", [me])
            raise KeyError
    except KeyError:
        pass
    rows = connection.execute("select count(*) from log where who = %s", [me]).fetchone()
    check(rows == (2,), f"rolled back: {rows}")


def pipelines(connection, me):
    with connection.pipeline():
        cursors = [connection.execute("select %s::text, %s::int", [me, n]) for n in range(50)]
    for n, cursor in enumerate(cursors):
        check(cursor.fetchone() == (me, n), f"pipeline {n}")
    try:
        with connection.pipeline():
            connection.execute("select 1/0")
            connection.execute("insert into log values (%s, 5)", [me])
        check(False, "the error is lost")
    except errors.DivisionByZero:
        pass
    with connection.cursor() as cursor:
        cursor.executemany("insert into log values (%s, %s)", [(me, n) for n in range(100, 200)])
    rows = connection.execute("select count(*) from log where who = %s and n >= 100", [me])
    check(rows.fetchone() == (100,), "executemany")


def copies(connection, me):
    with connection.cursor() as cursor:
        with cursor.copy("copy log from stdin") as copy:
            for n in range(1000, 3000):
                copy.write_row((me, n))
        with cursor.copy(f"copy (select n from log where who = '{me}' and n >= 1000) to stdout") as copy:
            check(len(list(copy.rows())) == 2000, "copy")
        try:
            with cursor.copy("copy log from stdin") as copy:
                copy.write_row((me, "no number"))
            check(False, "a wrong row is taken")
        except errors.InvalidTextRepresentation:
            pass


def cursors(connection, me):
    with connection.transaction():
        with connection.cursor(name="c") as cursor:
            cursor.itersize = 100
            cursor.execute("select g from generate_series(1, 1000) g")
            check(sum(g for (g,) in cursor) == 500500, "server-side cursor")


def rest(connection, me):
    large = "x" * (1 << 20)
    check(connection.execute("select %s::text", [large]).fetchone() == (large,), "large value")
    noticed = []
    connection.add_notice_handler(lambda notice: noticed.append(notice.message_primary))
    connection.execute(f"do $$ begin raise notice '{me}'; end $$")
    check(noticed == [me], f"notices: {noticed}")
    connection.execute("set statement_timeout = '70s'")
    for _ in range(5):
        value = connection.execute("show statement_timeout").fetchone()
        check(value == ("70s",), f"setting: {value}")
    over = threading.Event()

    def cancel():
        # One that comes before the query has begun cancels nothing.
        while not over.wait(0.2):
            connection.cancel_safe()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    try:
        connection.execute("select pg_sleep(60)")
        check(False, "nothing was cancelled")
    except errors.QueryCanceled as fault:
        check("user request" in str(fault), f"cancelled by a request: {fault}")
    finally:
        over.set()
        canceller.join()
    try:
        connection.execute("select 1")
    except errors.QueryCanceled:
        pass  # the last request came late
    check(connection.execute("select 1").fetchone() == (1,), "after the cancel")


def client(number):
    me = f"psycopg-{number}"
    try:
        with psycopg.connect(autocommit=True, application_name=me) as connection:
            for part in (statements, transactions, pipelines, copies, cursors, rest):
                part(connection, me)
            check(connection.info.parameter_status("application_name") == me, "name")
    except BaseException as fault:
        FAILED.append(f"{me}: {type(fault).__name__}: {fault}")


with psycopg.connect(autocommit=True) as first:
    first.execute("drop table if exists log")
    first.execute("create table log (who text, n int)")
COUNT = 2 if MODE == "session" else 6
threads = [threading.Thread(target=client, args=(n,)) for n in range(COUNT)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("\n".join(FAILED) or "well")
sys.exit(bool(FAILED))
