"""An application of DBOS with a queue of its own. An order is reserved, waits to be told to go, and is shipped.

usage: app.py <database url> <application name> <version> <order id>…
"""

import sys
import threading

from dbos import DBOS, SetWorkflowID

url, name, version, *orders = sys.argv[1:]
DBOS(
    config={
        "name": name,
        "system_database_url": url,
        "application_version": version,
        "log_level": "WARNING",
    }
)


@DBOS.step()
def reserve(item):
    return f"reserved {item}"


@DBOS.step()
def out_of_stock():
    raise RuntimeError("out of stock")


@DBOS.step()
def ship(item, word):
    return f"shipped {item}: {word}"


@DBOS.workflow(name="order")
def order(item):
    reserve(item)
    return ship(item, DBOS.recv("go", timeout_seconds=600))


@DBOS.workflow(name="faulty")
def faulty():
    out_of_stock()


DBOS.launch()
DBOS.register_queue("orders")
for workflow_id in orders:
    with SetWorkflowID(workflow_id):
        DBOS.enqueue_workflow("orders", order, "tea")
if orders:
    with SetWorkflowID(f"faulty-{orders[0]}"):
        DBOS.enqueue_workflow("orders", faulty)
print("ready", flush=True)
threading.Event().wait()
