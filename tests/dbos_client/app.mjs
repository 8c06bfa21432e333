// An application of DBOS with a queue of its own. An order is reserved, waits to be told to go, and is shipped.
// usage: STEPWELL_NPM=<directory with node_modules> node app.mjs <database url> <application name or ''> <version> <order id>…
import { DBOS, DBOSExecutor, globalParams } from "./packages.mjs";

const [systemDatabaseUrl, name, applicationVersion, ...orders] = process.argv.slice(2);

async function order(item) {
  await DBOS.runStep(async () => `reserved ${item}`, { name: "reserve" });
  const word = await DBOS.recv("go", 600);
  return DBOS.runStep(async () => `shipped ${item}: ${word}`, { name: "ship" });
}
async function faulty() {
  await DBOS.runStep(
    async () => {
      throw new Error("out of stock");
    },
    { name: "reserve" },
  );
}
const workflow = DBOS.registerWorkflow(order, { name: "order" });
const failing = DBOS.registerWorkflow(faulty, { name: "faulty" });

// This SDK insists on a name, and on version names that no other application has; older ones did not. Without both the very same code filters nothing.
const config = name === "" ? { name: "unnamed", applicationVersion: "unnamed-1" } : { name, applicationVersion };
DBOS.setConfig({ ...config, systemDatabaseUrl, logLevel: "warn" });
await DBOS.launch();
if (name === "") {
  DBOSExecutor.globalInstance.systemDatabase.appName = undefined;
  globalParams.appVersion = applicationVersion;
}
await DBOS.registerQueue("orders");
for (const workflowID of orders) {
  await DBOS.startWorkflow(workflow, { workflowID, queueName: "orders" })("tea");
}
if (orders.length > 0) {
  await DBOS.startWorkflow(failing, { workflowID: `faulty-${orders[0]}`, queueName: "orders" })();
}
console.log("ready");
