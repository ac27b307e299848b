// The client `eureka-js-client` of npm beside ours: argument 1 is the server, argument 2 the folder of its
// packages. It does what lines of JSON tell it to and says how it went: one line each.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const [server, folder] = process.argv.slice(2);
const { Eureka } = createRequire(`${folder}/package.json`)("eureka-js-client");
const at = new URL(server);
const silent = { debug() {}, info() {}, warn() {}, error() {} };
const client = new Eureka({
  logger: silent,
  shouldUseDelta: true,
  eureka: { host: at.hostname, port: Number(at.port), servicePath: `${at.pathname}/apps/`, maxRetries: 0 },
  instance: {
    instanceId: "judge:user:81",
    app: "user",
    hostName: "judge",
    ipAddr: "10.9.0.1",
    port: { $: 81, "@enabled": "true" },
    vipAddress: "user",
    dataCenterInfo: { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", name: "MyOwn" },
    metadata: { zone: "z" },
  },
});
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

// Says of itself what became of it, and of a 404 that it registers anew.
const beat = () =>
  new Promise((done) => {
    client.once("heartbeat", () => done("alive"));
    client.once("registered", () => done("registered anew"));
    client.renew();
  });
const read = async (how) => {
  await promisify(how).call(client);
  return (client.cache.vip.user ?? []).map((it) => [it.instanceId, `${it.ipAddr}:${it.port.$}`, it.status]).sort();
};
const verbs = {
  register: promisify(client.register),
  deregister: promisify(client.deregister),
  beat,
  whole: () => read(client.fetchFullRegistry),
  delta: () => read(client.fetchDelta),
};
for await (const line of createInterface({ input: process.stdin })) {
  const verb = JSON.parse(line);
  await verbs[verb].call(client).then(
    (what) => say({ done: verb, what: what ?? null }),
    (fault) => say({ refused: verb, fault: String(fault) }),
  );
}
process.exit(0);
