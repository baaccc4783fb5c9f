#!/usr/bin/env python3
"""reward_worker.py - a reward in Python, to copy and to change: a worker of a store like any other.

    pip install pyzmq msgpack
    pipelines/reward_worker.py ipc://run.db.sock brief

Change score().  Start as many as you like, on the same name; kill them, or the store, at any time.  Ends when nothing is missing.
The protocol is in schemas/README.md; what a worker has to do to lose nothing is all here.
"""
import json
import os
import sys
import time

import msgpack
import zmq
import zmq.auth


def score(prompt, response):
    return 1 / (1 + len(response.split()))  # within 10 s, or others are offered the item


HOLD = 64  # items at once
if len(sys.argv) != 3:
    print(__doc__, file=sys.stderr)
    sys.exit(64)
endpoint, name = sys.argv[1:]
spec = {"kind": "python", "rule": "brief"}  # what the name means from now on
hello = dict(type="hello", stage="reward", worker=f"{os.uname().nodename}, process {os.getpid()}",
             settings=json.dumps({"reward": name, "spec": spec}))
socket, heard, kept, count, ended = None, float("-inf"), {}, 0, False  # kept: outputs by number, until the store has committed them


def send(frame):
    socket.send(msgpack.packb({"v": 1, **frame}))


def answered(numbers):
    for number in numbers:
        kept.pop(number, None)
    send({"type": "want", "count": len(numbers)})


while not ended:
    if time.monotonic() - heard > 15:  # at first, and when the store has been silent: a new connection is a new conversation
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.linger = 1000
        if "VAS_KEY" in os.environ:  # for a store on a network
            socket.curve_publickey, socket.curve_secretkey = zmq.auth.load_certificate(os.environ["VAS_KEY"])
            socket.curve_serverkey, _ = zmq.auth.load_certificate(os.environ["VAS_STORE_KEY"])
        socket.connect(endpoint)
        heard, talks = time.monotonic(), False
        send(hello)
    if not socket.poll(2000):
        send({"type": "beat"} if talks else hello)
        continue
    frame, heard = msgpack.unpackb(socket.recv()), time.monotonic()
    match frame["type"]:
        case "welcome":
            talks = True
            for output in kept.values():  # what an earlier conversation left without an ack; its leases have ended
                send({**output, "item": 0})
            send({"type": "want", "count": max(1, HOLD - len(kept))})
        case "rollout":
            count += 1
            kept[count] = {**frame, "type": "scored", "reward": name, "output": count,
                           "score": score(frame["prompt"], frame["response"])}
            send(kept[count])
        case "ack":
            answered(memoryview(frame["outputs"].data).cast("i"))
        case "refusal":
            print(f"reward_worker: {frame['reason']}", file=sys.stderr)
            if frame.get("fatal"):
                sys.exit(78)
            if frame.get("output"):
                answered([frame["output"]])
        case "stranger":  # the store was restarted
            if talks:
                talks = False
                send(hello)
        case "idle":
            ended = frame["missing"] == 0 and not kept
send({"type": "bye"})
