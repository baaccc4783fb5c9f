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


endpoint, name = sys.argv[1:]
hello = dict(type="hello", stage="reward", worker=f"{os.uname().nodename}, process {os.getpid()}",
             settings=json.dumps({"reward": name, "spec": {"kind": "python", "rule": "brief"}}))  # spec: what the name means from now on
socket, heard, kept, count, ended = None, 0.0, {}, 0, False


def send(frame):
    socket.send(msgpack.packb({"v": 1, **frame}))


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
            send({"type": "want", "count": 64})
        case "rollout":
            count += 1  # an output is kept until the store says that it is committed
            kept[count] = {**frame, "type": "scored", "reward": name, "score": score(frame["prompt"], frame["response"]), "output": count}
            send(kept[count])
        case "ack":
            done = memoryview(frame["outputs"].data).cast("i")
            send({"type": "want", "count": len(done)})
            for number in done:
                kept.pop(number, None)
        case "refusal":
            print(f"reward_worker: {frame['reason']}", file=sys.stderr)
            kept.pop(frame.get("output"), None)
            if frame.get("fatal"):
                sys.exit(78)
        case "stranger":  # the store was restarted
            if talks:
                talks = False
                send(hello)
        case "idle":
            ended = frame["missing"] == 0 and not kept
send({"type": "bye"})
