// node-postgres and postgres.js through the pooler: argument 1 is `session` or `transaction`,
// argument 2 the folder of their packages.
import { createRequire } from "node:module";
import assert from "node:assert/strict";

const [mode, folder] = process.argv.slice(2);
const load = createRequire(`${folder}/package.json`);
const pg = load("pg");
const postgres = load("postgres");
const at = {
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  user: process.env.PGUSER,
  password: process.env.PGPASSWORD,
  database: process.env.PGDATABASE,
};
const count = mode === "session" ? 2 : 6;

async function nodePostgres(number) {
  const me = `node-${number}`;
  const client = new pg.Client({ ...at, application_name: me });
  await client.connect();
  for (let turn = 0; turn < 60; turn++) {
    const text = `select $1::text a, ${turn % 9} b, $2::int c`;
    const named = await client.query({ name: `s${turn % 9}`, text, values: [me, turn] });
    assert.deepEqual(named.rows, [{ a: me, b: turn % 9, c: turn }]);
    const unnamed = await client.query("select $1::int n", [turn]);
    assert.deepEqual(unnamed.rows, [{ n: turn }]);
  }
  const all = await Promise.all(Array.from({ length: 30 }, (_, n) => client.query("select $1::int n", [n])));
  all.forEach((answer, n) => assert.equal(answer.rows[0].n, n));
  await client.query("begin");
  await client.query("insert into log_node values ($1, 1)", [me]);
  await assert.rejects(client.query("select 1/0"), { code: "22012" });
  await assert.rejects(client.query("select 1"), { code: "25P02" });
  await client.query("rollback");
  await assert.rejects(client.query("select $1::int", ["no number"]), { code: "22P02" });
  const left = await client.query("select count(*)::int n from log_node where who = $1", [me]);
  assert.equal(left.rows[0].n, 0);
  await client.query("set work_mem = '7MB'");
  for (let turn = 0; turn < 5; turn++) {
    assert.equal((await client.query("show work_mem")).rows[0].work_mem, "7MB");
  }
  const several = await client.query("select 1 a; select 2 b");
  assert.deepEqual(several.map((one) => one.rows), [[{ a: 1 }], [{ b: 2 }]]);
  await client.end();
}

async function postgresJs() {
  const sql = postgres({ ...at, max: count, onnotice: () => {} });
  await Promise.all(
    Array.from({ length: 200 }, async (_, n) => {
      const [row] = await sql`select ${n}::int n, ${`js-${n}`}::text who`;
      assert.deepEqual({ ...row }, { n, who: `js-${n}` });
    }),
  );
  await sql.begin(async (own) => {
    await own`insert into log_node values ('js', 1)`;
    await own.savepoint((inner) => inner`select 1/0`).catch((fault) => assert.equal(fault.code, "22012"));
    await own`insert into log_node values ('js', 2)`;
  });
  const rows = await sql`select n from log_node where who = 'js' order by n`;
  assert.deepEqual(rows.map((row) => row.n), [1, 2]);
  let seen = 0;
  await sql`select g from generate_series(1, 1000) g`.cursor(100, (part) => void (seen += part.length));
  assert.equal(seen, 1000);
  const heard = new Promise((resolve) => void sql.listen("js_news", resolve, () => sql.notify("js_news", "told")));
  assert.equal(await heard, "told");
  const slow = sql`select pg_sleep(20)`.execute();
  // One that comes before the query has begun cancels nothing.
  const canceller = setInterval(() => slow.cancel(), 300);
  await assert.rejects(slow, { code: "57014" });
  clearInterval(canceller);
  const into = await sql`copy log_node from stdin`.writable();
  await new Promise((resolve, reject) => into.on("finish", resolve).on("error", reject).end("js\t7\njs\t8\n"));
  const [{ n }] = await sql`select count(*)::int n from log_node where n > 5`;
  assert.equal(n, 2);
  await sql.end();
}

const first = new pg.Client(at);
await first.connect();
await first.query("drop table if exists log_node; create table log_node (who text, n int)");
await first.end();
await Promise.all(Array.from({ length: count }, (_, n) => nodePostgres(n)));
await postgresJs();
console.log("well");
