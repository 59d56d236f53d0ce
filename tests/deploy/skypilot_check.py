"""Reads task files with SkyPilot itself, offline, and prints one JSON object for each: what is wrong, or what it read.

Started by test_skypilot.py with the Python that has SkyPilot.
"""

import json
import sys

import sky
import yaml
from sky.utils import common_utils, schemas

# A client lets unknown keys of job_recovery pass, for the server to judge; here nobody else judges them.
schemas._allow_additional_properties = lambda: False


def read(path):
    """Return what SkyPilot understands of a task file; raise what it raises."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        config = yaml.safe_load(file)
    common_utils.validate_schema(config, schemas.get_task_schema(), "task: ")
    common_utils.validate_schema(config.get("resources", {}), schemas.get_resources_schema(), "resources: ")
    task = sky.Task.from_yaml(path)
    [resources] = task.resources
    return {
        "use_spot": resources.use_spot,
        "job_recovery": resources.job_recovery,
        "accelerators": resources.accelerators,
        "envs": task.envs,
        "run": task.run,
    }


for path in sys.argv[1:]:
    try:
        answer = {"read": read(path)}
    except Exception as error:  # noqa: BLE001 - whatever is raised is the answer
        answer = {"wrong": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
