// Lets the official DBOSClient act on a workflow, and prints the id of the workflow that goes on.
// usage: STEPWELL_NPM=<directory with node_modules> node act.mjs <database url> cancel|cancel-tree|resume|fork <workflow id> [step]
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const packages = createRequire(pathToFileURL(join(process.env.STEPWELL_NPM, "package.json")));
const { DBOSClient } = packages("@dbos-inc/dbos-sdk");

const [systemDatabaseUrl, action, workflowID, step] = process.argv.slice(2);
const client = await DBOSClient.create({ systemDatabaseUrl });
try {
  const actions = {
    cancel: () => client.cancelWorkflow(workflowID),
    "cancel-tree": () => client.cancelWorkflow(workflowID, { cancelChildren: true }),
    resume: () => client.resumeWorkflow(workflowID),
    fork: () => client.forkWorkflow(workflowID, Number(step)),
  };
  const result = await actions[action]();
  process.stdout.write(typeof result === "string" ? result : workflowID);
} finally {
  await client.destroy();
}
