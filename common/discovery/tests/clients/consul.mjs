// The client `consul` of npm beside ours: argument 1 is the agent, argument 2 the folder of its packages.
// It says each list that its watch reads, and does what lines of JSON tell it to: one line each.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [agent, folder] = process.argv.slice(2);
const Consul = createRequire(`${folder}/package.json`)("consul");
const at = new URL(agent);
const consul = new Consul({ host: at.hostname, port: Number(at.port) });
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

const watch = consul.watch({
  method: consul.health.service,
  options: { service: "user", passing: true, wait: "60s" },
  backoffFactor: 1,
});
watch.on("change", (rows) =>
  say({
    read: rows.map(({ Node, Service }) => ({
      id: Service.ID,
      at: `${Service.Address || Node.Address}:${Service.Port}`,
      tags: Service.Tags,
      zone: Service.Meta.zone ?? Node.Meta.zone,
      weight: Service.Weights.Passing,
    })),
  }),
);
watch.on("error", (fault) => say({ fault: String(fault) }));

const verbs = {
  register: (service) => consul.agent.service.register(service),
  deregister: (id) => consul.agent.service.deregister(id),
  pass: (id) => consul.agent.check.pass(id),
  fail: (id) => consul.agent.check.fail(id),
};
for await (const line of createInterface({ input: process.stdin })) {
  const [verb, what] = JSON.parse(line);
  await verbs[verb](what).then(
    () => say({ done: verb }),
    (fault) => say({ refused: verb, status: fault.response?.statusCode ?? String(fault) }),
  );
}
process.exit(0);
