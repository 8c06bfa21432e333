"""Does to a database what the official DBOSClient of PyPI can do: a list of calls, each answered.

usage: client.py <database url> '[["list"], ["cancel", "id"], …]'
"""

import json
import sys

from dbos import DBOSClient, WorkflowSerializationFormat

url, calls = sys.argv[1:]
client = DBOSClient(system_database_url=url)


def summary(workflow):
    return {
        "workflowID": workflow.workflow_id,
        "status": workflow.status,
        "workflowName": workflow.name,
        "queueName": workflow.queue_name,
        "parentWorkflowID": workflow.parent_workflow_id,
        "forkedFrom": workflow.forked_from,
        "output": workflow.output,
    }


def step(row):
    error = row["error"]
    return {
        "functionID": row["function_id"],
        "name": row["function_name"],
        "childWorkflowID": row["child_workflow_id"],
        "error": None if error is None else str(error),
    }


def fork(workflow_id, start_step, new_id):
    # The id is given in the context, as applications do.
    from dbos import SetWorkflowID

    with SetWorkflowID(new_id):
        return client.fork_workflow(workflow_id, start_step).get_workflow_id()


def enqueue(name, queue, workflow_id, argument):
    options = {
        "workflow_name": name,
        "queue_name": queue,
        "workflow_id": workflow_id,
        "serialization_type": WorkflowSerializationFormat.PORTABLE,
    }
    return client.enqueue(options, argument).get_workflow_id()


def send_portable(workflow_id, message, topic):
    client.send(workflow_id, message, topic, serialization_type=WorkflowSerializationFormat.PORTABLE)


verbs = {
    "list": lambda: [summary(workflow) for workflow in client.list_workflows()],
    "get": lambda id: summary(client.retrieve_workflow(id).get_status()),
    "steps": lambda id: [step(row) for row in client.list_workflow_steps(id)],
    "cancel": lambda id: client.cancel_workflow(id),
    "cancelTree": lambda id: client.cancel_workflow(id, cancel_children=True),
    "resume": lambda id: client.resume_workflow(id).get_workflow_id(),
    "fork": fork,
    "rewind": lambda id, start_step: client.rewind_workflow(id, start_step=start_step).get_workflow_id(),
    "enqueue": enqueue,
    # Both in the SDK's own serialization, a pickle, and in the portable one.
    "send": lambda id, message, topic: client.send(id, message, topic),
    "sendPortable": send_portable,
    "result": lambda id: client.retrieve_workflow(id).get_result(),
}

try:
    answers = [verbs[verb](*arguments) for verb, *arguments in json.loads(calls)]
    print(json.dumps(answers))
finally:
    client.destroy()
