// Does to a database what the official DBOSClient can do: a list of calls, each answered.
// usage: STEPWELL_NPM=<directory with node_modules> node client.mjs <database url> '[["list"], ["cancel", "id"], …]'
import { DBOSClient } from "./packages.mjs";

const [systemDatabaseUrl, calls] = process.argv.slice(2);
const client = await DBOSClient.create({ systemDatabaseUrl });

const summary = (workflow) => ({
  workflowID: workflow.workflowID,
  status: workflow.status,
  workflowName: workflow.workflowName,
  queueName: workflow.queueName ?? null,
  parentWorkflowID: workflow.parentWorkflowID ?? null,
  forkedFrom: workflow.forkedFrom ?? null,
  output: workflow.output ?? null,
});
const verbs = {
  list: async () => (await client.listWorkflows({})).map(summary),
  get: async (id) => summary(await client.getWorkflow(id)),
  steps: async (id) =>
    (await client.listWorkflowSteps(id)).map((step) => ({
      functionID: step.functionID,
      name: step.name,
      childWorkflowID: step.childWorkflowID ?? null,
      error: step.error ? String(step.error) : null,
    })),
  cancel: async (id) => client.cancelWorkflow(id),
  cancelTree: async (id) => client.cancelWorkflow(id, { cancelChildren: true }),
  resume: async (id) => (await client.resumeWorkflow(id)).workflowID,
  fork: async (id, step, newWorkflowID) => client.forkWorkflow(id, step, { newWorkflowID }),
  rewind: async (id, startStep) => (await client.rewindWorkflow(id, { startStep })).workflowID,
  enqueue: async (workflowName, queueName, workflowID, argument) =>
    (await client.enqueuePortable({ workflowName, queueName, workflowID }, [argument])).workflowID,
  // Both in the SDK's own serialization and in the portable one.
  send: async (id, message, topic) => client.send(id, message, topic),
  sendPortable: async (id, message, topic) =>
    client.send(id, message, topic, undefined, { serializationType: "portable" }),
  schedules: async () => client.listSchedules(),
  pauseSchedule: async (name) => client.pauseSchedule(name),
  resumeSchedule: async (name) => client.resumeSchedule(name),
  result: async (id) => client.retrieveWorkflow(id).getResult(),
};

try {
  const answers = [];
  for (const [verb, ...args] of JSON.parse(calls)) {
    answers.push((await verbs[verb](...args)) ?? null);
  }
  process.stdout.write(JSON.stringify(answers));
} finally {
  await client.destroy();
}
