"""asyncpg through the pooler: argument 1 is `session` or `transaction`. It prepares every query by
name, asks the catalogue about types that it does not know, and resets sessions itself."""
import asyncio
import os
import sys

import asyncpg

MODE = sys.argv[1]
AT = dict(
    host=os.environ["PGHOST"],
    port=int(os.environ["PGPORT"]),
    user=os.environ["PGUSER"],
    password=os.environ["PGPASSWORD"],
    database=os.environ["PGDATABASE"],
)


def check(is_so, what):
    if not is_so:
        raise AssertionError(what)


async def client(number):
    me = f"asyncpg-{number}"
    connection = await asyncpg.connect(**AT, statement_cache_size=5)
    for turn in range(60):
        row = await connection.fetchrow(f"select $1::text a, {turn % 9} b, $2::int c", me, turn)
        check(tuple(row) == (me, turn % 9, turn), f"{row}")
    prepared = await connection.prepare("select $1::int + 1")
    for turn in range(20):
        check(await prepared.fetchval(turn) == turn + 1, "prepared")
    async with connection.transaction():
        await connection.execute("insert into log_async values ($1, 1)", me)
        try:
            async with connection.transaction():
                await connection.execute("select 1/0")
        except asyncpg.DivisionByZeroError:
            pass
        total = 0
        async for row in connection.cursor("select g from generate_series(1, 500) g", prefetch=50):
            total += row["g"]
        check(total == 125250, "cursor")
    await connection.executemany(
        "insert into log_async values ($1, $2)", [(me, n) for n in range(100, 200)]
    )
    count = await connection.fetchval("select count(*) from log_async where who = $1", me)
    check(count == 101, f"rows: {count}")
    await connection.copy_records_to_table("log_async", records=[(me, n) for n in range(300, 400)])
    check(await connection.fetchval("select $1::mood", "well") == "well", "a type of one's own")
    try:
        await connection.fetch("select pg_sleep(20)", timeout=0.3)
        check(False, "nothing was cancelled")
    except asyncio.TimeoutError:
        pass
    check(await connection.fetchval("select 5") == 5, "after the cancel")
    large = "y" * (1 << 20)
    check(await connection.fetchval("select $1::text", large) == large, "large value")
    await connection.execute("set timezone to 'Asia/Tokyo'")
    zones = [await connection.fetchval("show timezone") for _ in range(5)]
    check(zones == ["Asia/Tokyo"] * 5, f"{zones}")
    heard = asyncio.get_running_loop().create_future()
    channel = f"news{number}"
    await connection.add_listener(channel, lambda *said: heard.done() or heard.set_result(said[3]))
    await connection.execute(f"notify {channel}, '{me}'")
    check(await asyncio.wait_for(heard, 10) == me, "a notification")
    await connection.reset()
    check(await connection.fetchval("show timezone") != "Asia/Tokyo", "after its reset")
    await connection.close()


async def main():
    first = await asyncpg.connect(**AT)
    await first.execute("drop table if exists log_async; drop type if exists mood")
    await first.execute("create table log_async (who text, n int); create type mood as enum ('well')")
    await first.close()
    count = 2 if MODE == "session" else 6
    await asyncio.gather(*(client(n) for n in range(count)))
    async with asyncpg.create_pool(**AT, min_size=1, max_size=2) as pool:
        for _ in range(10):
            async with pool.acquire() as connection:
                check(await connection.fetchval("select 3") == 3, "its own pool")
    print("well")


asyncio.run(asyncio.wait_for(main(), 120))
