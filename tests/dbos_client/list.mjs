// Prints what the official DBOSClient sees of a database: all workflows, one of them, and its steps.
// usage: STEPWELL_NPM=<directory with node_modules> node list.mjs <database url> <workflow id>
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const packages = createRequire(pathToFileURL(join(process.env.STEPWELL_NPM, "package.json")));
const { DBOSClient } = packages("@dbos-inc/dbos-sdk");

const [systemDatabaseUrl, workflowID] = process.argv.slice(2);
const client = await DBOSClient.create({ systemDatabaseUrl });
try {
  const summary = (workflow) => ({
    workflowID: workflow.workflowID,
    status: workflow.status,
    workflowName: workflow.workflowName,
    queueName: workflow.queueName,
    parentWorkflowID: workflow.parentWorkflowID,
  });
  const workflows = (await client.listWorkflows({})).map(summary);
  const workflow = summary(await client.getWorkflow(workflowID));
  const steps = (await client.listWorkflowSteps(workflowID)).map((step) => ({
    functionID: step.functionID,
    name: step.name,
    childWorkflowID: step.childWorkflowID,
    error: step.error ? String(step.error) : null,
  }));
  process.stdout.write(JSON.stringify({ workflows, workflow, steps }));
} finally {
  await client.destroy();
}
